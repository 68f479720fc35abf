"""How many operations a kernel takes, from the shapes of what it reads and returns.

A multiplication whose result is added up is two operations, as for `torch.utils.flop_counter`. What is counted is the work
that the operator's definition asks for: all of an attention's scores, also where a mask hides some. Additions of biases, activations, normalizations and all other operators are not
counted. Operators and their inputs: https://onnx.ai/onnx/operators and ONNX Runtime's `docs/ContribOperators.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import TypeAlias

Shape: TypeAlias = tuple[int, ...]
Attributes: TypeAlias = Mapping[str, object]
"""Whole numbers and texts (as bytes), by name."""

_DOMAINS = frozenset(("", "ai.onnx", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"))


class UnknownShapeError(Exception):
    """The shapes that are known don't tell how many operations there are."""


class Tensors:
    """The shapes of a kernel's inputs or of its outputs."""

    def __init__(self, shapes: tuple[Shape | None, ...]) -> None:
        self._shapes = shapes

    def has(self, index: int) -> bool:
        """Whether there is such a tensor, of a known shape."""
        return index < len(self._shapes) and self._shapes[index] is not None

    def __getitem__(self, index: int) -> Shape:
        """A shape. Raises UnknownShapeError."""
        shape = self._shapes[index] if index < len(self._shapes) else None
        if shape is None:
            raise UnknownShapeError
        return shape

    def size(self, index: int, axis: int) -> int:
        """The size of an axis. Raises UnknownShapeError."""
        shape = self[index]
        if not -len(shape) <= axis < len(shape):
            raise UnknownShapeError
        return shape[axis]


_Rule: TypeAlias = Callable[[Tensors, Tensors, Attributes], "int | None"]


def is_counted(domain: str, op_type: str) -> bool:
    """Whether the operations of an operator are counted."""
    return domain in _DOMAINS and op_type in _RULES


def flops(op_type: str, inputs: Tensors, outputs: Tensors, attributes: Attributes) -> int | None:
    """The operations of a kernel whose operator `is_counted`; None if they are not counted after all.

    Raises UnknownShapeError.

    >>> flops("MatMul", Tensors(((8, 128, 384), (384, 1536))), Tensors(((8, 128, 1536),)), {}) == 2 * 8 * 128 * 384 * 1536
    True
    """
    return _RULES[op_type](inputs, outputs, attributes)


def _matmul(inputs: Tensors, outputs: Tensors, attributes: Attributes) -> int:
    left = inputs[0]
    axis = -1
    if attributes.get("transA") and len(left) > 1:
        axis = 0 if attributes.get("transBatchA") else -2
    return 2 * prod(outputs[0]) * inputs.size(0, axis)


def _product(inputs: Tensors, outputs: Tensors, attributes: Attributes) -> int:
    """A plain product, whose second input says as much as the first."""
    if inputs.has(0) or not inputs.has(1) or len(inputs[1]) < 2:
        return _matmul(inputs, outputs, attributes)
    return 2 * prod(outputs[0]) * inputs.size(1, -2)


def _gemm(inputs: Tensors, outputs: Tensors, _: Attributes) -> int:
    return 2 * prod(inputs[0]) * outputs.size(0, -1)  # whether the first is transposed or not


def _conv(weight: int) -> _Rule:
    """A convolution, whose weight is the input with that index: channels that it makes, those it reads, kernel."""
    return lambda inputs, outputs, _: 2 * prod(outputs[0]) * prod(inputs[weight][1:])


def _conv_transpose(inputs: Tensors, _: Tensors, __: Attributes) -> int:
    return 2 * prod(inputs[0]) * prod(inputs[1][1:])


def _recurrent(inputs: Tensors, _: Tensors, __: Attributes) -> int:
    steps = inputs.size(0, 0) * inputs.size(0, 1)
    return 2 * steps * (prod(inputs[1]) + prod(inputs[2]))


def _projecting_attention(past: int) -> _Rule:
    """`Attention` of ONNX Runtime, which also makes query, key and value; the past is the input with that index."""

    def count(inputs: Tensors, outputs: Tensors, _: Attributes) -> int:
        tokens, length, projected = prod(inputs[0][:-1]), inputs.size(0, 1), inputs.size(1, -1)
        value = outputs.size(0, -1)
        keys = length + (inputs.size(past, -2) if inputs.has(past) else 0)
        query = (projected - value) // 2
        return 2 * prod(inputs[0]) * projected + 2 * tokens * keys * (query + value)

    return count


def _multi_head_attention(inputs: Tensors, outputs: Tensors, _: Attributes) -> int:
    query = prod(inputs[0])
    if len(inputs[0]) == 5:  # batch, tokens, heads, query and key and value, size
        query, keys = query // 3, inputs.size(0, 1)
    else:
        keys = inputs.size(1, 2 if len(inputs[1]) == 4 else 1)
    keys += inputs.size(6, 2) if inputs.has(6) else 0
    return 2 * keys * (query + prod(outputs[0]))


def _group_query_attention(inputs: Tensors, outputs: Tensors, _: Attributes) -> int:
    keys = inputs.size(0, 1) + (inputs.size(3, 2) if inputs.has(3) else 0)
    if outputs.has(1):  # the keys of this run and those before it
        keys = outputs.size(1, 2)
    return 4 * keys * prod(outputs[0])


def _attention(inputs: Tensors, outputs: Tensors, _: Attributes) -> int:
    """`Attention` of ONNX, of tensors with an axis for heads or without."""
    keys = inputs.size(1, 2 if len(inputs[1]) == 4 else 1)
    keys += inputs.size(4, 2) if inputs.has(4) else 0
    return 2 * keys * (prod(inputs[0]) + prod(outputs[0]))


def _either_attention(inputs: Tensors, outputs: Tensors, attributes: Attributes) -> int:
    """Both operators are called so: the weight of ONNX Runtime's has two axes, a key has three or four."""
    rule = _PROJECTING if len(inputs[1]) == 2 else _attention
    count = rule(inputs, outputs, attributes)
    assert count is not None
    return count


def _einsum(inputs: Tensors, outputs: Tensors, attributes: Attributes) -> int | None:
    """A product of two tensors: one multiplication for each combination of all indexes. Of one tensor, none."""
    equation = attributes.get("equation")
    if not isinstance(equation, bytes):
        raise UnknownShapeError
    terms = equation.decode("ascii", "replace").replace(" ", "").partition("->")[0].split(",")
    if len(terms) == 1:
        return None
    sizes: dict[object, int] = {}
    for index, term in enumerate(terms):
        shape = inputs[index]
        before, dots, after = term.partition("...")
        hidden = len(shape) - len(before) - len(after)
        if len(terms) > 2 or hidden < 0 or (hidden and not dots):
            raise UnknownShapeError
        names = [*before, *range(-hidden, 0), *after]  # those of an ellipsis are counted from its end
        for name, size in zip(names, shape, strict=True):
            sizes[name] = sizes.get(name, 1) if size == 1 else size
    return 2 * prod(sizes.values())


def _not_known(_: Tensors, __: Tensors, ___: Attributes) -> int:
    """Operators that take many operations, which nobody counts here: better no sum than one without them."""
    raise UnknownShapeError


_PROJECTING = _projecting_attention(past=4)

_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        (
            "FusedMatMul",
            "FusedMatMulActivation",
            "TransposeMatMul",
            "GemmFastGelu",
            "MatMulInteger",
            "MatMulInteger16",
            "MatMulIntegerToFloat",
            "DynamicQuantizeMatMul",
            "QLinearMatMul",
            "MatMulNBits",
            "MatMulBnb4",
            "MatMulFpQ4",
        ),
        _matmul,
    ),
    "MatMul": _product,
    **dict.fromkeys(("Gemm", "FusedGemm", "QGemm", "GemmFloat8"), _gemm),
    **dict.fromkeys(("Conv", "FusedConv", "NhwcConv", "NhwcFusedConv", "ConvInteger", "DeformConv"), _conv(1)),
    "QLinearConv": _conv(3),
    **dict.fromkeys(("ConvTranspose", "ConvTransposeWithDynamicPads"), _conv_transpose),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _recurrent),
    "Attention": _either_attention,
    "QAttention": _projecting_attention(past=8),
    "MultiHeadAttention": _multi_head_attention,
    "GroupQueryAttention": _group_query_attention,
    "Einsum": _einsum,
    **dict.fromkeys(
        (
            "DecoderMaskedMultiHeadAttention",
            "DecoderMaskedSelfAttention",
            "LinearAttention",
            "LongformerAttention",
            "MoE",
            "PackedAttention",
            "PackedMultiHeadAttention",
            "PagedAttention",
            "QMoE",
            "QOrderedAttention",
            "QOrderedLongformerAttention",
            "QOrderedMatMul",
            "SparseAttention",
            "SparseToDenseMatMul",
        ),
        _not_known,
    ),
}
"""How many operations the kernels of an operator take."""

NEED_ATTRIBUTES = frozenset(("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", "Einsum"))
"""The operators whose attributes count."""
