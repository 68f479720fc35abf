"""The element types and shapes of the tensors in a graph, without its weights.

ONNX Runtime's symbolic shape inference answers first, on a copy of the graph in which large weights are left out: it
carries the symbols of dynamic axes through Reshape and arithmetic, and knows most of ONNX Runtime's own operators. It
stops at the first operator that it doesn't know (`FusedGemm`, `QLinearConcat`, the `nchwc` ones). ONNX's own inference
goes on from there, with a guess for the outputs of operators that are not ONNX's: the type of their input.

Measured against the values of all 32,700 tensors in 80 graphs (nine architectures as exported, saved by ONNX Runtime,
optimized, quantized): every element type is right, no size or symbol is wrong, 4,400 of 62,600 axes have neither, and
30 numbers of axes are wrong, those of an `If` whose branches give different ones.
"""

from __future__ import annotations

import logging
import re
import runpy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.assembly import encode_entry, encode_value, graph_pieces
from optimum_htp.onnxfile.edges import reads
from optimum_htp.onnxfile.model import Node, Value
from optimum_htp.onnxfile.scopes import Scope
from optimum_htp.onnxfile.spans import GraphSpans, ModelSpans, Span
from optimum_htp.onnxfile.types import element_type
from optimum_htp.onnxfile.wire import Data, encode_message, encode_varint, fields, release_pages

Size: TypeAlias = int | str | None

_SMALL_TENSOR_BYTES = 4096
_LOGGER = "symbolic_shape_infer"
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
_FUNCTIONS = ("floor", "ceiling", "Max", "Min", "Mod", "[0-9]+")
_STRANGE = "unk__"  # what ONNX's inference calls a size that it has no symbol for


def tensor_types(
    data: Data, model: ModelSpans, scopes: Sequence[Scope], spans: Sequence[GraphSpans]
) -> dict[str, Value]:
    """What is known of the tensors of a graph and of those around it, the last of `scopes` and `spans`, by name.

    A dynamic axis has its symbol or what is computed from symbols (`past + sequence_length`), which tensors of equal
    size share, or None; symbols that begin with `unk__` are not the file's own.
    """
    head = b"".join(data[slice(*span)] for span in model.head)
    head += b"".join(encode_message(schema.MODEL_FUNCTION, data[slice(*span)]) for span in model.functions)
    known: dict[str, Value] = {}
    weights: dict[str, Value] = {}
    outer: dict[str, Span] = {}
    for scope, parts in zip(scopes, spans, strict=True):
        produced = {name for node in scope.graph.nodes for name in node.outputs}
        known = {name: value for name, value in known.items() if name not in produced}
        known.update({value.name: value for value in scope.graph.inputs if value.elem_type})
        outside = dict.fromkeys(name for node in scope.graph.nodes for name in reads(node) if name not in produced)
        own = {tensor.name: Value(tensor.name, tensor.data_type, tensor.dims) for tensor in scope.graph.initializers}
        weights |= own
        # ONNX's own inference takes a sparse initializer for a value of another kind; for its consumers it is a tensor.
        sparse = {name: own[name] for name in parts.sparse}
        known |= sparse
        given = [*sparse.values(), *(known[name] for name in outside if name in known)]
        tensors = {name: outer[name] for name in outside if name in outer} | dict(parts.tensors)
        known |= _infer(data, head, parts, scope, given, tensors, weights)
        for value in scope.graph.outputs:  # what the file says of them, where inference says less
            inferred = known.get(value.name)
            if value.elem_type and (inferred is None or inferred.shape is None):
                known[value.name] = value
        outer |= parts.tensors
    return known


def _infer(
    data: Data,
    head: bytes,
    parts: GraphSpans,
    scope: Scope,
    given: Sequence[Value],
    tensors: Mapping[str, Span],
    weights: Mapping[str, Value],
) -> dict[str, Value]:
    """What is known of the tensors of one graph, given those around it."""
    nodes = [scope.graph.nodes[index] for index in scope.order]
    encoded_nodes = [[data[slice(*parts.nodes[index])]] for index in scope.order]
    initializers = [[tensor] for tensor in _light_tensors(data, tensors.values())]
    declared = [[data[slice(*span)]] for span in parts.value_infos]

    def model(known: Iterable[Value]) -> Any:
        import onnx

        graph = graph_pieces(
            name="g",
            nodes=encoded_nodes,
            initializers=initializers,
            inputs=given,
            outputs=scope.graph.outputs,
            value_infos=[*declared, *([encode_value(value)] for value in known)],
        )
        return onnx.ModelProto.FromString(head + encode_message(schema.MODEL_GRAPH, b"".join(map(bytes, graph))))

    known = _symbolic_inference(model(()), given) | {value.name: value for value in given}
    for _ in range(_MAX_ROUNDS):  # each guess tells ONNX's inference more, which then gets further
        inferred = _onnx_inference(model(map(_without_strange_symbols, known.values())))
        types = inferred | {name: _merged(value, inferred.get(name)) for name, value in known.items()}
        guesses = list(_guesses(nodes, {**weights, **types}))
        shaped = [value for value in guesses if value.shape is not None]
        missing = [value for value in guesses if value.name not in types]
        guesses = [value for value in shaped if value.name not in types] or shaped or missing  # the surest first
        if not guesses:
            break
        known |= {value.name: value for value in guesses}
    return types


@cache
def _inference_class() -> Any:
    """ONNX Runtime's `SymbolicShapeInference`, by its file: importing the package around it imports torch."""
    import onnxruntime

    file = Path(onnxruntime.__file__).parent / "tools" / "symbolic_shape_infer.py"
    return runpy.run_path(str(file), run_name=_LOGGER)["SymbolicShapeInference"]


def _symbolic_inference(model: Any, given: Iterable[Value]) -> dict[str, Value]:
    """What ONNX Runtime's symbolic inference says of the tensors up to the first operator that it doesn't know."""
    # Its `infer_shapes` does the same, but where it does not get to the end it writes a file to the current directory
    # and throws away what it knows. `onnxruntime.transformers.shape_infer_helper` calls these methods, too.
    inference = _inference_class()(int_max=2**31 - 1, auto_merge=True, guess_output_rank=False, verbose=0)
    with _quiet(_LOGGER), suppress(Exception):  # it asserts what it does not expect
        inference._preprocess(model)
        while inference.run_:
            inference._infer_impl()
    symbols = {size for value in given for size in value.shape or () if isinstance(size, str)}
    is_ours = re.compile("|".join([*map(re.escape, sorted(symbols, key=len, reverse=True)), *_FUNCTIONS]))

    def marked(size: Size) -> Size:
        return f"{_STRANGE}{size}" if isinstance(size, str) and re.search(r"\w", is_ours.sub("", size)) else size

    types = (_value(proto) for proto in inference.out_mp_.graph.value_info)
    return {value.name: _with_sizes(value, marked) for value in types if value.elem_type}


def _with_sizes(value: Value, change: Callable[[Size], Size]) -> Value:
    return value if value.shape is None else replace(value, shape=tuple(map(change, value.shape)))


def _is_known(size: Size) -> bool:
    return size is not None and not (isinstance(size, str) and size.startswith(_STRANGE))


def _without_strange_symbols(value: Value) -> Value:
    return _with_sizes(value, lambda size: size if _is_known(size) else None)


def _merged(value: Value, other: Value | None) -> Value:
    """A type with the sizes that another one knows, where it does not know them itself."""
    if value.shape is None or other is None or other.shape is None or len(value.shape) != len(other.shape):
        return value
    pairs = zip(value.shape, other.shape, strict=True)
    return replace(value, shape=tuple(one if _is_known(one) or not _is_known(two) else two for one, two in pairs))


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Lets a library's logger say errors only."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _onnx_inference(model: Any) -> dict[str, Value]:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, check_type=False, strict_mode=False, data_prop=True)
    values = (_value(proto) for proto in (*inferred.graph.value_info, *inferred.graph.output))
    return {value.name: value for value in values if value.elem_type}


def _value(proto: Any) -> Value:
    tensor = proto.type.tensor_type
    shape: tuple[Size, ...] | None = None
    if tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor.shape.dim
        )
    return Value(proto.name, tensor.elem_type, shape)


def _guesses(nodes: Sequence[Node], types: Mapping[str, Value]) -> Iterator[Value]:
    """Types for the outputs of operators that are not ONNX's, from their inputs; ONNX's own are only looked through."""
    known = dict(types)
    for node in nodes:
        unknown = [name for name in node.outputs if name and (name not in known or known[name].shape is None)]
        inputs = [known[name] for name in node.inputs if name in known]
        if not unknown or not inputs:
            continue
        quantized = node.op_type.startswith(("QLinear", "QGemm"))  # of integers, with scales that are floats
        alike = (value for value in inputs if element_type(value.elem_type).is_float != quantized)
        source = next(alike, inputs[0])
        is_known_to_us = bool(node.domain) or node.op_type in _SAME_SHAPE
        for name in unknown:
            shape = _guessed_shape(node, known) if name == node.outputs[0] else None
            known[name] = Value(name, known.get(name, source).elem_type, shape)
            if is_known_to_us:
                yield known[name]


def _guessed_shape(node: Node, known: Mapping[str, Value]) -> tuple[Size, ...] | None:
    """The shape of a node's first output, at least how many axes it has; None where that is not known."""
    shapes = [known[name].shape if name in known else None for name in node.inputs if name]
    first = shapes[0]
    if node.op_type in _SAME_SHAPE:
        return first
    if node.op_type == "EmbedLayerNormalization":
        return (None, None, None)
    if "MatMul" in node.op_type:
        shapes = shapes[:2]
    elif node.domain.startswith("com.microsoft") and not node.op_type.startswith("QLinear"):
        shapes = shapes[:1]  # of the others some have scales first, or a bias, and all take the most axes
    elif node.op_type not in _RANK_KEPT and not node.op_type.startswith("QLinear"):
        return None
    ranks = [len(shape) for shape in shapes if shape is not None]
    return (None,) * max(ranks) if len(ranks) == len(shapes) else None


def _light_tensors(data: Data, spans: Iterable[Span]) -> Iterator[bytes]:
    """Initializers: small ones as they are, of others type and shape without the content."""
    kept = (schema.TENSOR_DIM, schema.TENSOR_PACKED_DIMS, schema.TENSOR_DATA_TYPE, schema.TENSOR_NAME)
    left_out = encode_message(schema.TENSOR_EXTERNAL_DATA, encode_entry("location", "left-out"))
    left_out += encode_varint(schema.TENSOR_DATA_LOCATION) + encode_varint(schema.EXTERNAL)
    released = 0
    for span in spans:
        parts = list(fields(data, *span))
        external = any(tag == schema.TENSOR_DATA_LOCATION and first == schema.EXTERNAL for tag, _, first, _ in parts)
        if span[1] - span[0] <= _SMALL_TENSOR_BYTES and not external:
            yield data[slice(*span)]
        else:
            yield b"".join(data[start:stop] for tag, start, _, stop in parts if tag in kept) + left_out
        released = release_pages(data, span[1], released)
