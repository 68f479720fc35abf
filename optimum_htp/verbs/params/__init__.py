"""`params`: which parameters of the PyTorch model each initializer holds."""

from __future__ import annotations

from optimum_htp.verbs.params.verb import ParameterReport, ParameterRow, parameters


__all__ = [
    "ParameterReport",
    "ParameterRow",
    "parameters",
]
