"""The formats by the names that `select --format` has for them; it also has `json`, the whole report."""

from __future__ import annotations

from optimum_htp.selections.formats import (
    layer_ann,
    modelopt,
    names,
    olive,
    onnxconverter_fp16,
    ort_fp16,
    ort_quantize,
)
from optimum_htp.selections.formats.base import SelectionFormat

FORMATS: dict[str, SelectionFormat] = {
    "names": names.FORMAT,
    "ort-quantize": ort_quantize.FORMAT,
    "ort-fp16": ort_fp16.FORMAT,
    "onnxconverter-fp16": onnxconverter_fp16.FORMAT,
    "olive": olive.FORMAT,
    "modelopt": modelopt.FORMAT,
    "layer-ann": layer_ann.FORMAT,
}
