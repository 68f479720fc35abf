"""ONNX Runtime's and Optimum's quantizers: `nodes_to_exclude`."""

from __future__ import annotations

from optimum_htp.verbs.select.file_selection import FileSelection
from optimum_htp.verbs.select.formats.base import NameFormat


class OrtQuantize(NameFormat):
    """The names that the nodes have inside ONNX Runtime's quantizer.

    For dynamic quantization it first makes every Gemm a MatMul of another name and an Add, for static it doesn't.
    https://github.com/microsoft/onnxruntime/blob/v1.23.0/onnxruntime/python/tools/quantization/onnx_model.py
    """

    def names(self, file: FileSelection) -> list[str]:
        """Of a Gemm both."""
        names: dict[str, None] = {}
        for node in file.nodes:
            if node.name:
                names[node.name] = None
                if node.operator == "Gemm":
                    names[f"{node.name}_MatMul"] = None
        return list(names)

    def known_as(self, file: FileSelection) -> list[str]:
        """The same."""
        return self.names(file)
