"""`validate`: whether a package is whole, consistent and as good as its source."""

from optimum_htp.verbs.validate.report import Check, ValidationReport
from optimum_htp.verbs.validate.verb import validate, validate_optimum_compatibility
