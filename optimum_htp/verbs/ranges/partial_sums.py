"""The sums inside an operator: how large any of them can become, in whatever order its products are added.

A number that a MatMul gives is `y = p1 + p2 + ... + pk`. Whichever of the products a kernel has added up at some moment,
in blocks, in a tree or one after the other, their sum is between minus the sum of all negative ones and the sum of all
positive ones; and both are reached, if a kernel adds those first. With `s = |p1| + ... + |pk|` these are `(s + y) / 2` and
`(s - y) / 2`. And `s` is what the same operator gives for the magnitudes of its inputs, so ONNX Runtime computes it.

What is not in the bound is what a kernel rounds while it adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from optimum_htp.models import Array, Prober
from optimum_htp.onnxfile import Node, encode_node

_PREFIX = "/optimum_htp_sums/"
_ONNX_SUMS = frozenset(("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "ReduceSum", "ReduceMean"))
_FUSED = frozenset(("FusedMatMul", "TransposeMatMul", "FusedConv", "FusedGemm"))
_FACTORS = ("alpha", "beta")
_ACTIVATIONS = ("activation", "activation_params", "activation_alpha", "activation_beta", "activation_gamma")

CLOSED = frozenset(
    (
        "Attention MultiHeadAttention GroupQueryAttention PackedAttention PackedMultiHeadAttention "
        "DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention SparseAttention QAttention LSTM GRU RNN "
        "DynamicQuantizeLSTM MatMulNBits MatMulBnb4 MatMulIntegerToFloat DynamicQuantizeMatMul MoE QMoE "
        "ScaledDotProductAttention FlexAttention LinearAttention"
    ).split()
)
"""Operators that multiply and add inside, where nothing can be seen of it."""

_ONNX = ("", "ai.onnx")
_SKIPS = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")


@dataclass(frozen=True, slots=True)
class PartialSums:
    """The sums of one node.

    Attributes:
        result: What the node gives.
        magnitudes: The tensor that has the sums of the magnitudes.
        is_mean: Whether both were divided by how many there are.
        is_open: Whether the result is the sum itself, with nothing done to it after that. Of others the sum of the
            magnitudes is the bound.
        read: What is added up.
    """

    result: str
    magnitudes: str
    is_mean: bool
    is_open: bool
    read: str

    def largest(self, results: Sequence[Array], magnitudes: Sequence[Array], *, numbers: int) -> float:
        """The largest magnitude of a sum, of all samples; `numbers` is how many the node read."""
        import numpy as np

        most = 0.0
        for result, sizes in zip(results, magnitudes, strict=True):
            if not sizes.size:
                continue
            if self.is_open:
                signed = np.abs(result.astype(sizes.dtype, copy=False))
                bound = float(((sizes + signed) / 2).max())
            else:
                bound = float(sizes.max())
            most = max(most, bound * (numbers / sizes.size if self.is_mean else 1.0))
        return most


class SumNodes:
    """Makes the nodes that compute the sums of others; each tensor is taken the magnitude of once."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self.nodes: list[bytes] = []
        self._magnitudes: dict[str, str] = {}

    def sums(self, index: int, node: Node) -> PartialSums | None:
        """The sums of a node, by its index; None where it adds nothing up, or nothing can be seen of it."""
        import onnx

        known = _ONNX_SUMS if node.domain in _ONNX else _FUSED if node.domain == "com.microsoft" else ()
        if node.op_type not in known or not node.outputs[0]:
            return None
        reduces = node.op_type.startswith("Reduce")
        added = node.inputs[:1] if reduces else node.inputs
        if any(name and not self._prober.may_be_float(name) for name in added):
            return None
        proto = onnx.NodeProto.FromString(self._prober.encoded(index))
        kept = [attribute for attribute in proto.attribute if attribute.name not in _ACTIVATIONS]
        is_open = len(kept) == len(proto.attribute)
        for attribute in kept:
            if attribute.name in _FACTORS and attribute.f != 1.0:  # before or after the sum
                attribute.f = max(abs(attribute.f), 1.0)
                is_open = False
        del proto.attribute[:]
        proto.attribute.extend(kept)
        magnitudes = f"{_PREFIX}{index}"
        inputs = [self._magnitude(name) if name else "" for name in added]
        proto.input[:] = [*inputs, *node.inputs[len(added) :]]
        proto.output[:] = [magnitudes]
        proto.name = ""
        self.nodes.append(proto.SerializeToString())
        return PartialSums(node.outputs[0], magnitudes, node.op_type == "ReduceMean", is_open, node.inputs[0])

    def inside(self, index: int, node: Node) -> str | None:
        """The tensor that a fused operator adds up before it goes on, which its result does not show."""
        if node.domain != "com.microsoft" or not node.outputs:
            return None
        inputs = [*node.inputs, *[""] * (5 - len(node.inputs))]
        if node.op_type in _SKIPS:
            bias = inputs[4] if node.op_type == "SkipLayerNormalization" else inputs[3]
            added = [inputs[0], inputs[1], *([bias] if bias else [])]
        elif node.op_type in ("BiasGelu", "FastGelu", "BiasDropout") and inputs[1]:
            added = inputs[:2]
        else:
            return None
        last = self._single(added[0])
        for name in added[1:]:
            total = f"{_PREFIX}inside/{index}/{name}"
            self.nodes.append(encode_node("Add", [last, self._single(name)], [total]))
            last = total
        return last

    def _magnitude(self, name: str) -> str:
        if name not in self._magnitudes:
            self._magnitudes[name] = f"{_PREFIX}magnitude/{name}"
            self.nodes.append(encode_node("Abs", [self._single(name)], [self._magnitudes[name]]))
        return self._magnitudes[name]

    def _single(self, name: str) -> str:
        """A tensor in float32, where it is not known to be in that or more."""
        if self._prober.type_of(name) in ("float32", "float64"):
            return name
        single = f"{_PREFIX}single/{name}"
        if single not in self._magnitudes:
            self._magnitudes[single] = single
            self.nodes.append(as_single(name, single))
        return single


def as_single(name: str, single: str) -> bytes:
    """The node that makes a tensor float32."""
    from onnx import TensorProto, helper

    encoded: bytes = helper.make_node("Cast", [name], [single], to=TensorProto.FLOAT).SerializeToString()
    return encoded


def products(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """How many products a node adds up for each number, if it is one that is quantized; None if not, or not known."""
    if node.op_type not in ("MatMul", "Gemm", "Conv") or node.domain not in _ONNX:
        return None
    given = shapes.get(node.inputs[1 if node.op_type == "Conv" else 0])
    if given is None or not given:
        return None
    if node.op_type == "MatMul":
        return given[-1]
    if node.op_type == "Conv":
        return prod(given[1:])
    rows = shapes.get(node.outputs[0], (0,))[0]
    return prod(given) // rows if rows else None
