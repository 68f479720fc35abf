"""`quantize_dynamic`: weights in int8, and activations in uint8 over the range that they have in each run.

Gemm becomes MatMul and Add first. A weight is quantized for all that read it, once one node is quantized that does. A node that was quantized goes by its old name and `_quant`, and reads weights that go by
their old names and `_quantized`, beside `_scale` and `_zero_point`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from optimum_htp.models import Array
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.verbs.sensitivity.protos import Proto, attribute_of, nodes_in, stored_in
from optimum_htp.verbs.sensitivity.quantizers.quantizer import Changes, NodeChange, Quantizer, Rounding, scaled

_NAMES = ("{}_quant", "{}_MatMul_quant", "{}")
_QUANTIZED, _TRANSPOSED = "_quantized", "_Transposed"
_RANGE = Rounding("range")


class DynamicQuantizer(Quantizer):
    """ONNX Runtime's dynamic quantization, with its own defaults."""

    mode = "dynamic"
    into = "int8"
    in_bodies = True

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
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(self.options.operators) if self.options.operators else None,
            per_channel=self.options.per_channel,
            reduce_range=self.options.reduce_range,
            nodes_to_exclude=list(left_out),
            use_external_data_format=external,
            extra_options={"EnableSubgraph": True} if bodies else None,
        )

    def changes(self, model: OnnxModel, source: Proto, quantized: Proto) -> Changes:
        """What became of each node."""
        made = {node.name: node for _, node in nodes_in(quantized.graph)}
        stored = stored_in(quantized.graph)
        ranges = {
            node.output[0]: node.input[0]
            for _, node in nodes_in(quantized.graph)
            if node.op_type == "DynamicQuantizeLinear"
        }
        known = stored_in(source.graph)
        found = {}
        for key, node in nodes_in(source.graph):
            became = next((made[name.format(node.name)] for name in _NAMES if name.format(node.name) in made), None)
            if became is None or node.op_type == "Transpose":  # that only hands on what is quantized
                continue
            change = NodeChange()
            inputs = list(node.input)
            for name in became.input:
                base = name.removesuffix(_QUANTIZED)
                plain = base if base in known else base.rpartition(_TRANSPOSED)[0]
                if name in stored and base != name and plain in inputs:
                    change.shared[plain] = _weight(node, became, base, stored)
                elif name in ranges and ranges[name] in inputs:
                    change.reads[inputs.index(ranges[name])] = _RANGE
            if became.op_type == "DynamicQuantizeLSTM":
                change.reads[0] = _RANGE
            if change:
                found[key] = change
        return found


def _weight(node: Proto, became: Proto, base: str, stored: Mapping[str, Proto]) -> Callable[[], Array]:
    transposed = node.op_type == "LSTM" or (
        node.op_type == "Gemm" and bool(attribute_of(node, "transB", 0)) and became.op_type == "MatMulInteger"
    )
    axis = 0 if node.op_type == "Conv" else -1
    return partial(_read, base, stored, transposed=transposed, axis=axis, each=node.op_type == "LSTM")


def _read(base: str, stored: Mapping[str, Proto], *, transposed: bool, axis: int, each: bool) -> Array:
    from onnx import numpy_helper

    steps, scale = (numpy_helper.to_array(stored[base + suffix]) for suffix in (_QUANTIZED, "_scale"))
    zero = numpy_helper.to_array(stored[f"{base}_zero_point"]) if f"{base}_zero_point" in stored else None
    if each and scale.size > 1:  # a scale for each direction of an LSTM, or each channel of each
        shape = (steps.shape[0], 1, -1)
        values: Array = (steps - (0 if zero is None else zero.reshape(shape))) * scale.reshape(shape)
    else:
        values = scaled(steps, scale, zero, axis=axis)
    return values.swapaxes(-1, -2) if transposed else values
