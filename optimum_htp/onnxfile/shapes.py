"""The element types and shapes of the tensors in a graph, without its weights.

ONNX's own shape inference answers, on a copy of the graph in which the weights are left out. It knows nothing of ONNX
Runtime's own operators: for those the type is that of their input.

It loses the symbol of a dynamic axis at the first Reshape with a `-1`, but not a size. So it is asked twice more, with
two sizes for each symbol: an axis that has a symbol's size both times is that symbol, one that has the sum of two is
their sum, and axes that have the same sizes both times are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.assembly import encode_entry, encode_value
from optimum_htp.onnxfile.edges import reads
from optimum_htp.onnxfile.model import Node, Value
from optimum_htp.onnxfile.scopes import Scope
from optimum_htp.onnxfile.spans import GraphSpans, ModelSpans, Span
from optimum_htp.onnxfile.wire import encode_message, encode_varint, fields, release_pages


if TYPE_CHECKING:
    from optimum_htp.onnxfile.wire import Data

_SMALL_TENSOR_BYTES = 4096
_FLOATS = frozenset((1, 10, 11, 16))
# Operators of ONNX Runtime whose output has the shape of the first input.
_SAME_SHAPE = frozenset(
    (
        "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "SkipLayerNormalization", "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization", "LayerNormalization", "BiasSoftmax", "RotaryEmbedding",
    )
)  # fmt: skip
# Operators of ONNX whose output has as many axes as the input that has most.
_RANK_KEPT = frozenset(
    "Add Sub Mul Div Pow Sqrt Erf Tanh Sigmoid Relu Softmax Cast Identity Where MatMul Transpose Neg Slice Concat Clip "
    "ReduceMean".split()
)
_MAX_ROUNDS = 64
# Sizes for symbols: no two are equal, and no sum of two is one of them or the sum of two others.
_SIZES = (1009, 1301, 1801, 2609, 3907, 5903, 9049, 14009)


def tensor_types(
    data: Data, model: ModelSpans, scopes: Sequence[Scope], spans: Sequence[GraphSpans]
) -> dict[str, Value]:
    """What is known of the tensors of a graph and of those around it, by name.

    Args:
        data: The file.
        model: Where its parts are.
        scopes: The graphs from the main graph to the one in question.
        spans: Where the parts of each of them are.

    Returns:
        Types by name. A dynamic axis has its symbol, which tensors of equal size share, or None; symbols that begin
        with `unk__` are not the file's own.
    """
    head = b"".join(data[slice(*span)] for span in model.head)
    head += b"".join(encode_message(schema.MODEL_FUNCTION, data[slice(*span)]) for span in model.functions)
    types = _types(data, head, scopes, spans, {})
    inputs = (value for scope in scopes for value in scope.graph.inputs)
    symbols = dict.fromkeys(size for value in inputs for size in value.shape or () if isinstance(size, str) and size)
    assigned = [_assigned(list(symbols), sizes) for sizes in (_SIZES, _SIZES[::-1])]
    if not all(assigned):
        return types
    sized = [_types(data, head, scopes, spans, sizes) for sizes in assigned]
    names = _axis_names(*assigned)
    return {name: _with_symbols(value, [each.get(name) for each in sized], names) for name, value in types.items()}


def _types(
    data: Data, head: bytes, scopes: Sequence[Scope], spans: Sequence[GraphSpans], sizes: Mapping[str, int]
) -> dict[str, Value]:
    """What is known of the tensors, where the symbols of the inputs have sizes."""
    known: dict[str, Value] = {}
    outer: dict[str, Span] = {}
    for scope, parts in zip(scopes, spans, strict=True):
        known.update({value.name: _of_sizes(value, sizes) for value in scope.graph.inputs if value.elem_type})
        made = {name for node in scope.graph.nodes for name in node.outputs}
        outside = dict.fromkeys(name for node in scope.graph.nodes for name in reads(node) if name not in made)
        given = [known[name] for name in outside if name in known]
        stored = {name: outer[name] for name in outside if name in outer} | dict(parts.tensors)
        known |= _infer(data, head, parts, scope, given, stored)
        for value in scope.graph.outputs:  # what the file says of them, where inference says less
            inferred = known.get(value.name)
            if value.elem_type and (inferred is None or inferred.shape is None):
                known[value.name] = value
        outer |= parts.tensors
    return known


def _of_sizes(value: Value, sizes: Mapping[str, int]) -> Value:
    if value.shape is None:
        return value
    return replace(value, shape=tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in value.shape))


def _assigned(symbols: Sequence[str], sizes: Sequence[int]) -> dict[str, int]:
    """A size for each symbol, for `a + b`, as Optimum names such an axis, the sum of theirs; none if they don't suffice."""
    sums = {symbol: parts for symbol in symbols if len(parts := symbol.split(" + ")) == 2 and {*parts} <= {*symbols}}
    single = [symbol for symbol in symbols if symbol not in sums]
    if len(single) > len(sizes):
        return {}
    assigned = dict(zip(single, sizes, strict=False))
    return assigned | {symbol: sum(assigned.get(part, 0) for part in parts) for symbol, parts in sums.items()}


def _axis_names(first: Mapping[str, int], second: Mapping[str, int]) -> dict[tuple[int, int], str]:
    """What an axis is called that has these two sizes: a symbol of the file, or the sum of two."""
    sizes = {symbol: (first[symbol], second[symbol]) for symbol in first}
    names = {
        (one[0] + other[0], one[1] + other[1]): f"{left} + {right}"
        for (left, one), (right, other) in combinations(sizes.items(), 2)
    }
    return names | {pair: symbol for symbol, pair in sizes.items()}


def _with_symbols(value: Value, sized: Sequence[Value | None], names: Mapping[tuple[int, int], str]) -> Value:
    """A type whose dynamic axes have the symbols that two sets of sizes tell, where they tell."""
    first, second = (each.shape if each is not None else None for each in sized)
    if first is None or second is None or len(first) != len(second):
        return value
    known = value.shape if value.shape is not None and len(value.shape) == len(first) else (None,) * len(first)
    shape: list[int | str | None] = []
    for at, (one, other) in enumerate(zip(first, second, strict=True)):
        if isinstance(known[at], int) or not isinstance(one, int) or not isinstance(other, int):
            shape.append(known[at])
        else:
            shape.append(one if one == other else names.get((one, other), f"unk__{one}_{other}"))
    return replace(value, shape=tuple(shape))


def _infer(
    data: Data,
    head: bytes,
    parts: GraphSpans,
    scope: Scope,
    given: Iterable[Value],
    stored: Mapping[str, Span],
) -> dict[str, Value]:
    nodes = [scope.graph.nodes[at] for at in scope.order]
    body = [encode_message(schema.GRAPH_NODE, data[slice(*parts.nodes[at])]) for at in scope.order]
    body += [encode_message(schema.GRAPH_NAME, b"g")]
    released = 0
    for span in stored.values():
        body.append(encode_message(schema.GRAPH_INITIALIZER, _light_tensor(data, span)))
        released = release_pages(data, span[1], released)
    body += [encode_message(schema.GRAPH_INPUT, encode_value(value)) for value in given]
    body += [encode_message(schema.GRAPH_VALUE_INFO, data[slice(*span)]) for span in parts.value_infos]
    known = {value.name: value for value in given}
    found = known | _run_inference(head, b"".join(body))
    for _ in range(_MAX_ROUNDS):  # each tells ONNX's inference more, which then gets further
        guessed = [value for value in _guesses(nodes, found) if value.shape is not None]
        if not guessed:
            break
        body += [encode_message(schema.GRAPH_VALUE_INFO, encode_value(value)) for value in guessed]
        found = {value.name: value for value in guessed} | known | _run_inference(head, b"".join(body))
    return {value.name: value for value in _guesses(nodes, found)} | found


def _run_inference(head: bytes, graph: bytes) -> dict[str, Value]:
    import onnx

    model = onnx.ModelProto.FromString(head + encode_message(schema.MODEL_GRAPH, graph))
    inferred = onnx.shape_inference.infer_shapes(model, check_type=False, strict_mode=False, data_prop=True)
    values = (_value(each) for each in inferred.graph.value_info)
    return {value.name: value for value in values if value.elem_type}


def _value(proto: Any) -> Value:
    tensor = proto.type.tensor_type
    shape: tuple[int | str | None, ...] | None = None
    if tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor.shape.dim
        )
    return Value(proto.name, tensor.elem_type, shape)


def _guesses(nodes: Sequence[Node], found: Mapping[str, Value]) -> Iterator[Value]:
    """Types for what ONNX Runtime's operators make, from their inputs; ONNX's own are only looked through."""
    known = dict(found)
    for node in nodes:
        unknown = [name for name in node.outputs if name and name not in known]
        inputs = [known[name] for name in node.inputs if name in known]
        if not unknown or not inputs:
            continue
        quantized = node.op_type.startswith(("QLinear", "QGemm"))
        source = next((value for value in inputs if value.elem_type in _FLOATS and not quantized), inputs[0])
        ours = bool(node.domain) or node.op_type in _SAME_SHAPE
        for name in unknown:
            known[name] = Value(name, source.elem_type, _guessed_shape(node, known, guess_rank=bool(node.domain)))
            if ours:
                yield known[name]


def _guessed_shape(node: Node, known: Mapping[str, Value], *, guess_rank: bool) -> tuple[int | str | None, ...] | None:
    shapes = [known[name].shape if name in known else None for name in node.inputs if name]
    first = shapes[0]
    if node.op_type in _SAME_SHAPE:
        return first
    if node.op_type == "EmbedLayerNormalization":
        return (None, None, None)
    if "MatMul" in node.op_type:
        shapes = shapes[:2]
    elif guess_rank:
        shapes = shapes[:1]
    elif node.op_type not in _RANK_KEPT:
        return None
    ranks = [len(shape) for shape in shapes if shape is not None]
    return (None,) * max(ranks) if len(ranks) == len(shapes) else None


def _light_tensor(data: Data, span: Span) -> bytes:
    """A stored tensor: as it is where it is small, else its type and shape without its content."""
    kept = (schema.TENSOR_DIM, schema.TENSOR_PACKED_DIMS, schema.TENSOR_DATA_TYPE, schema.TENSOR_NAME)
    parts = list(fields(data, *span))
    external = any(tag == schema.TENSOR_DATA_LOCATION and first == schema.EXTERNAL for tag, _, first, _ in parts)
    if span[1] - span[0] <= _SMALL_TENSOR_BYTES and not external:
        return data[slice(*span)]
    content = b"".join(data[at:stop] for tag, at, _, stop in parts if tag in kept)
    entry = encode_entry("location", "left-out")
    return (
        content
        + encode_message(schema.TENSOR_EXTERNAL_DATA, entry)
        + encode_varint(schema.TENSOR_DATA_LOCATION)
        + b"\x01"
    )
