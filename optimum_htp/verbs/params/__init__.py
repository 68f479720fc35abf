"""`params`: which parameters of the PyTorch model each initializer holds."""

from __future__ import annotations

from optimum_htp.verbs.params.report import ParameterRow, ParamsReport, shared_segments
from optimum_htp.verbs.params.verb import params


__all__ = [
    "ParameterRow",
    "ParamsReport",
    "params",
    "shared_segments",
]
