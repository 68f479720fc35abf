"""`params`: which parameters of the PyTorch model each initializer holds."""

from optimum_htp.verbs.params.report import ParameterRow, ParamsReport
from optimum_htp.verbs.params.verb import params
