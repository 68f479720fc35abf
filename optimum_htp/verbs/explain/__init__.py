"""`explain`: which module a message or a name is about."""

from optimum_htp.verbs.explain.report import Advice, Explained, ExplainReport
from optimum_htp.verbs.explain.verb import explain
