"""ONNX Runtime's and Optimum's quantizers: `nodes_to_exclude`.

Dynamic quantization first replaces every Gemm by a MatMul of another name and an Add; static quantization does not. So
a Gemm has both names.
https://github.com/microsoft/onnxruntime/blob/v1.23.0/onnxruntime/python/tools/quantization/onnx_model.py
"""

from __future__ import annotations

from optimum_htp.selections.formats.base import NameFormat

FORMAT = NameFormat(
    use="a JSON list for nodes_to_exclude of ONNX Runtime's and Optimum's quantizers",
    checked="onnxruntime 1.32.0",
    names_of=lambda node: (node.name, f"{node.name}_MatMul") if node.operator == "Gemm" else (node.name,),
)
