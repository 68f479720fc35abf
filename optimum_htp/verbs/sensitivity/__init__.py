"""`sensitivity`: which modules quantization hurts, and a package in which these are left in float32."""

from optimum_htp.verbs.sensitivity.budget import Budget
from optimum_htp.verbs.sensitivity.judging import Figures
from optimum_htp.verbs.sensitivity.report import FileSensitivity, ModuleSensitivity, SensitivityReport
from optimum_htp.verbs.sensitivity.verb import sensitivity
