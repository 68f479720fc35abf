"""`diff`: what two packages of one model differ in, module by module."""

from optimum_htp.verbs.diff.report import Change, Compared, ContentChange, DiffReport, FileDiff, ModuleDiff, ModuleSide
from optimum_htp.verbs.diff.verb import diff
