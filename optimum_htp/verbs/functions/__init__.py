"""`functions`: modules that repeat as functions of the model."""

from optimum_htp.verbs.functions.report import FunctionCall, FunctionsReport, ModuleFunction, NoFunction
from optimum_htp.verbs.functions.verb import functions
