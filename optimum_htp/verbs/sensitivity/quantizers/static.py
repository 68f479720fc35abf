"""`quantize_static`: weights and activations in int8 steps, those of activations by the ranges that samples have.

It is the format of QuantizeLinear and DequantizeLinear (QDQ), which wraps each tensor that a quantized node reads or gives,
for all that read it. Nodes and tensors keep their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from optimum_htp.models import Array
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.verbs.sensitivity.protos import Proto, attribute_of, constants_in, stored_in
from optimum_htp.verbs.sensitivity.quantizers.quantizer import Changes, NodeChange, Quantizer, Rounding, scaled


class StaticQuantizer(Quantizer):
    """ONNX Runtime's static quantization, with its own defaults."""

    mode = "static"
    into = "int8"

    def run(
        self,
        source: Path,
        target: Path,
        *,
        left_out: Sequence[str],
        samples: Sequence[Mapping[str, Array]],
        external: bool,
        bodies: bool,
    ) -> None:
        """Quantizes a file all but some nodes."""
        from onnxruntime.quantization import quantize_static

        quantize_static(
            source,
            target,
            _reader(samples),
            op_types_to_quantize=list(self.options.operators) if self.options.operators else None,
            per_channel=self.options.per_channel,
            reduce_range=self.options.reduce_range,
            nodes_to_exclude=list(left_out),
            use_external_data_format=external,
        )

    def changes(self, model: OnnxModel, source: Proto, quantized: Proto) -> Changes:
        """What became of each node."""
        from onnxruntime.quantization.operators.direct_q8 import QDQDirect8BitOp
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        # Those that only move numbers hand on what is quantized, and quantize nothing.
        operators = {
            each
            for each in self.options.operators or (*QDQRegistry, *QLinearOpsRegistry)
            if QDQRegistry.get(each) is not QDQDirect8BitOp
        }
        wraps = _Wraps(quantized)
        made = {node.name: node for node in quantized.graph.node}
        found = {}
        for index, node in enumerate(source.graph.node):
            became = made.get(node.name)
            if became is None or node.op_type not in operators or node.domain not in ("", "ai.onnx"):
                continue
            change = NodeChange()
            for name, now in zip(node.input, became.input, strict=False):
                if now in wraps.weights:
                    change.shared[name] = partial(wraps.weight, now)
                elif now in wraps.roundings:
                    change.tensors[name] = wraps.roundings[now]
            for name, now in zip(node.output, became.output, strict=False):
                if now in wraps.of_results:
                    change.tensors[name] = wraps.of_results[now]
            if change:
                found["", index] = change
        return found


class _Wraps:
    """The steps that a quantized graph has: of weights, and of what DequantizeLinear gives and QuantizeLinear takes."""

    def __init__(self, quantized: Proto) -> None:
        self._stored = stored_in(quantized.graph) | constants_in(quantized.graph)
        makers = {name: node for node in quantized.graph.node for name in node.output}
        self.weights: dict[str, Proto] = {}
        self.roundings: dict[str, Rounding] = {}
        self.of_results: dict[str, Rounding] = {}
        for node in quantized.graph.node:
            if node.op_type == "QuantizeLinear":
                self.of_results[node.input[0]] = self._rounding(node)
            elif node.op_type == "DequantizeLinear":
                maker = makers.get(node.input[0])
                if node.input[0] in self._stored:
                    self.weights[node.output[0]] = node
                elif maker is not None and maker.op_type == "QuantizeLinear":
                    self.roundings[node.output[0]] = self._rounding(maker)

    def weight(self, name: str) -> Array:
        node = self.weights[name]
        values = [self._array(each) for each in node.input]
        zero = values[2] if len(values) > 2 else None
        return scaled(values[0], values[1], zero, axis=attribute_of(node, "axis", 1))

    def _rounding(self, node: Proto) -> Rounding:
        scale, zero = (self._array(name) for name in node.input[1:3])
        return Rounding("steps", scale, zero, attribute_of(node, "axis", 1))

    def _array(self, name: str) -> Array:
        from onnx import numpy_helper

        array: Array = numpy_helper.to_array(self._stored[name])
        return array


def _reader(samples: Sequence[Mapping[str, Array]]) -> Any:
    """The samples as the quantizer asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """One after the other."""

        def __init__(self) -> None:
            self._left: Iterator[Mapping[str, Array]] = iter(samples)

        def get_next(self) -> dict[str, Array] | None:
            following = next(self._left, None)
            return None if following is None else dict(following)

    return Reader()
