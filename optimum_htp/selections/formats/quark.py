"""AMD's Quark: the `exclude` of its `QConfig` for ONNX models.

Names are compared as they are. Its dynamic quantization is ONNX Runtime's, which first gives a Gemm another name.
"""

from __future__ import annotations

from optimum_htp.selections.formats.main_graph import MainGraphFormat

FORMAT = MainGraphFormat(
    use="a JSON list for exclude= of AMD Quark's QConfig",
    checked="amd-quark 0.13",
    names_of=lambda node: (node.name, f"{node.name}_MatMul") if node.operator == "Gemm" else (node.name,),
)
