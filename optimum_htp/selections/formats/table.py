"""The formats by the names that `select --format` has for them; it also has `json`, the whole report."""

from __future__ import annotations

from optimum_htp.selections.formats import (
    aimet,
    genai_int4,
    layer_ann,
    layer_name,
    modelopt,
    names,
    nncf,
    olive,
    onnxconverter_fp16,
    ort_fp16,
    ort_quantize,
    polygraphy,
    quark,
    trtexec,
)
from optimum_htp.selections.formats.base import SelectionFormat

FORMATS: dict[str, SelectionFormat] = {
    "names": names.FORMAT,
    "ort-quantize": ort_quantize.FORMAT,
    "ort-fp16": ort_fp16.FORMAT,
    "onnxconverter-fp16": onnxconverter_fp16.FORMAT,
    "olive": olive.FORMAT,
    "modelopt": modelopt.FORMAT,
    "trtexec": trtexec.FORMAT,
    "polygraphy": polygraphy.FORMAT,
    "nncf": nncf.FORMAT,
    "genai-int4": genai_int4.FORMAT,
    "quark": quark.FORMAT,
    "aimet": aimet.FORMAT,
    "layer-ann": layer_ann.FORMAT,
    "layer-name": layer_name.FORMAT,
}
