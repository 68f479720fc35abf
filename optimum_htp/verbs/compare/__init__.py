"""`compare`: where a package's results depart from those of PyTorch or of another package."""

from optimum_htp.verbs.compare.report import CallComparison, CompareReport, Culprit, PartComparison
from optimum_htp.verbs.compare.verb import compare
