"""onnxconverter-common's converter to float16: `node_block_list` of `float16.convert_float_to_float16`.

As of 1.16, it takes the Casts between two listed nodes out where what is between them is read once, and leaves them in
where it is read more often. Constants go through float16 in any case, those that are listed without limits. Where other nodes read a
weight of a listed node, or the model returns what a listed node reads, the file that it makes does not load.
https://github.com/microsoft/onnxconverter-common/blob/v1.16.0/onnxconverter_common/float16.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from optimum_htp.selections.file_selection import FileSelection
from optimum_htp.selections.formats.float16 import Float16Format, Surroundings


@dataclass(frozen=True, slots=True)
class _OnnxconverterFloat16(Float16Format):
    def positions(self, around: Surroundings) -> set[int]:
        """Those of the nodes, without constants."""
        return around.selected - around.of("Constant")

    def notes(self, file: FileSelection, *, device: str) -> Iterator[str]:
        """What the converter rounds all the same, and why its file may not load."""
        yield from Float16Format.notes(self, file, device=device)
        around = Surroundings(file)
        passed_on, weights = around.passed_on(), around.shared_weights()
        several = [name for name, count in passed_on.items() if count > 1]
        returned = [value.name for value in around.graph.outputs if value.name in passed_on]
        rounds, fails = "the converter rounds to float16", "the file that the converter makes does not load:"
        if several:
            yield f"{rounds} what these nodes pass on to several, such as {several[0]!r}; {_INSTEAD}"
        if around.of("Constant"):
            yield f"{rounds} what these nodes read in constants, within 1e-7 and 1e4; {_INSTEAD}"
        if weights:
            yield f"{fails} other nodes read {weights[0]!r} too; {_INSTEAD}"
        if returned:
            yield f"{fails} the model returns {returned[0]!r}, which these nodes read; {_INSTEAD}"


_INSTEAD = "use ONNX Runtime's (--format ort-fp16)"
FORMAT = _OnnxconverterFloat16(
    use="a JSON list for node_block_list of onnxconverter_common.float16.convert_float_to_float16",
    checked="onnxconverter-common 1.16.0",
)
