"""ONNX Runtime's converter to float16: `node_block_list` of `OnnxModel(model).convert_float_to_float16`.

That is what `onnxruntime.transformers` has as the method of a model, which `optimize_model` gives; Olive's pass
`OnnxFloatToFloat16` is the same. It takes the Casts between two listed nodes out again, so that a module stays in
float32, also where it has Casts of its own, if those are not listed; and it keeps constants that are listed. The function
`onnxruntime.transformers.float16.convert_float_to_float16`, which it calls, leaves the Casts in: all that goes from one
node to the next is rounded to float16, and overflows there.
https://github.com/microsoft/onnxruntime/blob/v1.23.0/onnxruntime/python/tools/transformers/onnx_model.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from optimum_htp.selections.file_selection import FileSelection
from optimum_htp.selections.formats.float16 import Float16Format, Surroundings


@dataclass(frozen=True, slots=True)
class _OrtFloat16(Float16Format):
    def positions(self, around: Surroundings) -> set[int]:
        """Those of the nodes, and of the constants that they read, without Casts."""
        return (around.selected | around.of("Constant")) - around.of("Cast")

    def notes(self, file: FileSelection, *, device: str) -> Iterator[str]:
        """What the converter rounds all the same, and which of its functions is meant."""
        yield from Float16Format.notes(self, file, device=device)
        around = Surroundings(file)
        shared = around.shared_weights()
        if shared:
            yield f"the converter rounds to float16 what other nodes read too, such as {shared[0]!r}"
        if around.passed_on():
            yield (
                "for OnnxModel(model).convert_float_to_float16 of onnxruntime.transformers: the function "
                "float16.convert_float_to_float16 rounds what goes from one of these nodes to another to float16"
            )


FORMAT = _OrtFloat16(
    use="a JSON list for node_block_list of OnnxModel(model).convert_float_to_float16 in onnxruntime.transformers",
    checked="onnxruntime 1.32.0",
)
