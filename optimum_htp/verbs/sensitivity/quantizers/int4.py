"""`MatMulNBitsQuantizer`: the weights of products in 4 bits, in blocks with a scale each; activations stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from optimum_htp.models import Array
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.verbs.sensitivity.protos import Proto, attribute_of, nodes_in, stored_in
from optimum_htp.verbs.sensitivity.quantizers.quantizer import Changes, NodeChange, Quantizer

_MIDDLE = 8  # the zero point where none is stored


class Int4Quantizer(Quantizer):
    """ONNX Runtime's quantization of weights in blocks, symmetric as its command does it."""

    mode = "int4"
    into = "int4"
    needs = "onnxruntime onnx_ir"
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
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            onnx.load(source),
            block_size=self.options.block_size,
            is_symmetric=True,
            nodes_to_exclude=list(left_out),
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(target), external)

    def changes(self, model: OnnxModel, source: Proto, quantized: Proto) -> Changes:
        """What became of each node."""
        stored = stored_in(quantized.graph)
        known = stored_in(source.graph)
        made = {node.name: node for _, node in nodes_in(quantized.graph) if node.op_type == "MatMulNBits"}
        found = {}
        for key, node in nodes_in(source.graph):
            became = made.get(f"{node.name}_Q4")
            if became is not None and node.op_type == "MatMul" and node.input[1] in known:
                shape = tuple(known[node.input[1]].dims)
                found[key] = NodeChange(weights={1: partial(_unpacked, became, stored, shape)})
        return found


def _unpacked(node: Proto, stored: Mapping[str, Proto], shape: tuple[int, ...]) -> Array:
    """The weight of a MatMulNBits: two numbers in each byte, the lower half first, in rows of blocks."""
    import numpy as np
    from onnx import numpy_helper

    inputs = [numpy_helper.to_array(stored[name]) if name in stored else None for name in node.input]
    packed, scales = inputs[1], inputs[2]
    zeros = inputs[3] if len(inputs) > 3 else None
    assert packed is not None and scales is not None
    columns, blocks = packed.shape[:2]
    steps = _halves(packed).reshape(columns, blocks, -1).astype(np.float32)
    middle: Array | float = _MIDDLE
    if zeros is not None:
        middle = _halves(zeros.reshape(columns, -1))[:, :blocks, None].astype(np.float32)
    values = (steps - middle) * scales.reshape(columns, blocks, 1).astype(np.float32)
    kept = values.reshape(columns, -1)[:, : attribute_of(node, "K")]
    return np.ascontiguousarray(kept.T).reshape(shape)


def _halves(packed: Array) -> Array:
    import numpy as np

    pairs: Array = np.stack([packed & 15, packed >> 4], axis=-1)
    return pairs.reshape(*packed.shape[:-1], -1)
