"""The formats of `select`."""

from __future__ import annotations

from optimum_htp.verbs.select.formats.base import SelectionFormat
from optimum_htp.verbs.select.formats.layer_ann import LayerAnnotations
from optimum_htp.verbs.select.formats.modelopt import ModelOpt
from optimum_htp.verbs.select.formats.names import Names
from optimum_htp.verbs.select.formats.olive import Olive
from optimum_htp.verbs.select.formats.ort_fp16 import OrtFp16
from optimum_htp.verbs.select.formats.ort_quantize import OrtQuantize


FORMATS: dict[str, SelectionFormat] = {
    "names": Names(),
    "ort-quantize": OrtQuantize(),
    "ort-fp16": OrtFp16(),
    "olive": Olive(),
    "modelopt": ModelOpt(),
    "layer-ann": LayerAnnotations(),
}
"""By the name that `select --format` knows them by, which also knows `json`: the whole report."""
