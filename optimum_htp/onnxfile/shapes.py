"""The element types and shapes of the tensors in a graph, without its weights.

ONNX Runtime itself says them. The graph is given to it with large weights as inputs, and loaded but not initialized: that
is when it infers types, those of its own operators too. So a type is the one that the model runs with, and none is
guessed. Where ONNX Runtime has no such operator, what the file declares is known, and what follows from that.

ONNX Runtime's symbolic shape inference then adds the sizes of dynamic axes: it carries their symbols through Reshape and
arithmetic (`past + sequence_length`), up to the first operator that it doesn't know.

Measured against the values of all tensors of MEASURED.
"""

from __future__ import annotations

import logging
import re
import runpy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.assembly import encode_entry, encode_node, graph_pieces
from optimum_htp.onnxfile.edges import reads
from optimum_htp.onnxfile.model import Function, Node, Value, operator_name
from optimum_htp.onnxfile.reading import read_function, read_value
from optimum_htp.onnxfile.scopes import Scope
from optimum_htp.onnxfile.spans import GraphSpans, ModelSpans, Span
from optimum_htp.onnxfile.types import NUMBERS
from optimum_htp.onnxfile.wire import Data, encode_message, encode_varint, fields, release_pages

Size: TypeAlias = int | str | None

_SMALL_TENSOR_BYTES = 4096
_LOGGER = "symbolic_shape_infer"
_FUNCTIONS = ("floor", "ceiling", "Max", "Min", "Mod", "[0-9]+")
_STRANGE = "unk__"  # what ONNX's inference calls a size that it has no symbol for
_MAX_ROUNDS = 64
_RANK = "/optimum_htp_rank"
_RUNTIME_TYPE = re.compile(r"tensor\((\w+)\)")
_RUNTIME_NAMES = {"float": "float32", "double": "float64"}  # the types that ONNX Runtime has another name for


def tensor_types(
    data: Data, model: ModelSpans, scopes: Sequence[Scope], spans: Sequence[GraphSpans], *, symbols: bool = True
) -> dict[str, Value]:
    """What is known of the tensors of a graph and of those around it, the last of `scopes` and `spans`, by name.

    A dynamic axis has its symbol or what is computed from symbols (`past + sequence_length`), which tensors of equal
    size share, or None; symbols that begin with `unk__` are not the file's own. Without `symbols`, which take most of
    the time, axes have those only that operators hand on. What is not known to be a tensor is left out.
    """
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
        given = {**sparse, **{name: known[name] for name in outside if name in known}}
        tensors = {name: outer[name] for name in outside if name in outer} | dict(parts.tensors)
        known |= _Inference(data, model, parts, scope, given, tensors, weights).types(symbols=symbols)
        for value in scope.graph.outputs:  # what the file says of them, where inference says less
            inferred = known.get(value.name)
            if value.elem_type and (inferred is None or inferred.shape is None):
                known[value.name] = value
        outer |= parts.tensors
    return known


class _Inference:
    """The types of one graph's tensors: those around it are `given`, and initializers are `tensors`, of types `weights`."""

    def __init__(
        self,
        data: Data,
        model: ModelSpans,
        parts: GraphSpans,
        scope: Scope,
        given: Mapping[str, Value],
        tensors: Mapping[str, Span],
        weights: Mapping[str, Value],
    ) -> None:
        self._data = data
        self._functions = model.functions
        self._head = b"".join(data[slice(*span)] for span in model.head)
        self._head += b"".join(encode_message(schema.MODEL_FUNCTION, data[slice(*span)]) for span in model.functions)
        self._outputs = scope.graph.outputs
        self._nodes = [scope.graph.nodes[index] for index in scope.order]
        self._encoded = [data[slice(*parts.nodes[index])] for index in scope.order]
        self._value_infos = parts.value_infos
        self._given = given
        self._tensors = tensors.keys()
        self._light: dict[str, bytes] = {}
        self._heavy: dict[str, Value] = {}
        self._stubs: list[bytes] = []  # of those, as initializers without their content
        released = 0
        for name, span in tensors.items():
            stub = _without_content(data, span)
            if stub is None:
                self._light[name] = data[slice(*span)]
            else:
                self._heavy[name] = weights[name]
                self._stubs.append(stub)
            released = release_pages(data, span[1], released)

    def types(self, *, symbols: bool) -> dict[str, Value]:
        known = self._asked(range(len(self._nodes)), self._given)
        if known is None:
            known = self._asked(*self._what_runtime_knows())
        if known is None:
            known = self._onnx_inference()
        shapes = self._symbolic_inference(known) if symbols else {}
        return {name: _merged(value, shapes.get(name)) for name, value in known.items()}

    def _model(
        self,
        nodes: Iterable[bytes],
        initializers: Iterable[bytes],
        inputs: Iterable[Value],
        outputs: Iterable[Value],
        *,
        declared: bool = True,
    ) -> bytes:
        """A model of some nodes, with the types that the file declares; it has the opsets and the functions of the file."""
        value_infos = [[self._data[slice(*span)]] for span in self._value_infos] if declared else ()
        pieces = graph_pieces(
            name="g",
            nodes=([node] for node in nodes),
            initializers=([tensor] for tensor in initializers),
            inputs=inputs,
            outputs=outputs,
            value_infos=value_infos,
        )
        return self._head + encode_message(schema.MODEL_GRAPH, b"".join(map(bytes, pieces)))

    def _asked(self, chosen: Iterable[int], inputs: Mapping[str, Value]) -> dict[str, Value] | None:
        """What ONNX Runtime says of the outputs of some nodes; None if it can't load them."""
        chosen = list(chosen)
        names = [name for index in chosen for name in self._nodes[index].outputs if name]
        known = self._load(chosen, inputs, map(Value, names))
        if known is None:
            return None
        # Scalars, or of any number of axes; for younger types, not all versions of Shape can tell.
        flat = [name for name, value in known.items() if value.shape == () and value.elem_type < NUMBERS["bfloat16"]]
        ranks = self._load(chosen, inputs, [Value(name + _RANK) for name in flat], ranked=flat) or {}
        scalars = {name.removesuffix(_RANK) for name, value in ranks.items() if value.shape == (0,)}
        return {
            name: replace(value, shape=None) if value.shape == () and name not in scalars else value
            for name, value in {**known, **inputs}.items()
        }

    def _load(
        self,
        chosen: Iterable[int],
        inputs: Mapping[str, Value],
        outputs: Iterable[Value],
        *,
        ranked: Iterable[str] = (),
    ) -> dict[str, Value] | None:
        """The types that ONNX Runtime gives to the outputs of a model of some of the nodes; None if it can't load it."""
        ranks = (encode_node("Shape", [name], [name + _RANK]) for name in ranked)
        nodes = (*(self._encoded[index] for index in chosen), *ranks)
        return _loaded(self._model(nodes, self._light.values(), {**inputs, **self._heavy}.values(), outputs))

    def _what_runtime_knows(self) -> tuple[list[int], dict[str, Value]]:
        """The nodes that ONNX Runtime has operators for, as far as the types of their inputs are known, and the inputs."""
        value_infos = (read_value(self._data, span) for span in self._value_infos)
        declared = {value.name: value for value in (*value_infos, *self._outputs) if value.elem_type}
        functions = _loadable_functions(read_function(self._data, span) for span in self._functions)
        inputs = dict(self._given)
        available = {*inputs, *self._tensors}
        chosen = []
        for index, node in enumerate(self._nodes):
            if available.issuperset(reads(node)) and _are_loadable([node], functions):
                chosen.append(index)
                available.update(node.outputs)
            else:
                inputs |= {name: declared[name] for name in node.outputs if name in declared}
                available.update(inputs)
        return chosen, inputs

    def _onnx_inference(self) -> dict[str, Value]:
        """What ONNX's own inference says, which knows no operators but ONNX's and goes on behind those that it doesn't."""
        import onnx

        proto = onnx.ModelProto.FromString(self._proto())
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
        values = map(_value, (*inferred.graph.value_info, *inferred.graph.output))
        return {**self._given, **{value.name: value for value in values if value.elem_type}}

    def _symbolic_inference(self, known: Mapping[str, Value]) -> dict[str, Value]:
        """What ONNX Runtime's symbolic inference says of the tensors, as far as it gets, given what is known of them."""
        import onnx

        # Its `infer_shapes` does the same, but where it does not get to the end it writes a file to the current directory
        # and throws away what it knows. `onnxruntime.transformers.shape_infer_helper` calls these methods, too.
        inference = _inference_class()(int_max=2**31 - 1, auto_merge=True, guess_output_rank=False, verbose=0)
        for operator in {node.op_type for node in self._nodes if node.domain} - inference.dispatcher_.keys():
            inference.dispatcher_[operator] = partial(self._infer_one, inference, known)
        with _quiet(_LOGGER), suppress(Exception):  # it asserts what it does not expect
            inference._preprocess(onnx.ModelProto.FromString(self._proto()))
            for _ in range(_MAX_ROUNDS):
                merges = len(inference.suggested_merge_)
                inference._infer_impl()
                # It begins again at an Add that shows two symbols to be the same, and stops at a QLinearAdd that does.
                if not inference.run_ and len(inference.suggested_merge_) == merges:
                    break
        symbols = {size for value in self._given.values() for size in value.shape or () if isinstance(size, str)}
        is_ours = re.compile("|".join([*map(re.escape, sorted(symbols, key=len, reverse=True)), *_FUNCTIONS]))

        def marked(size: Size) -> Size:
            return f"{_STRANGE}{size}" if isinstance(size, str) and re.search(r"\w", is_ours.sub("", size)) else size

        types = map(_value, inference.out_mp_.graph.value_info)
        return {value.name: _with_sizes(value, marked) for value in types if value.elem_type}

    def _infer_one(self, inference: Any, known: Mapping[str, Value], node: Any) -> None:
        """Tells the symbolic inference of a node that it doesn't know what ONNX Runtime makes of the shapes that it has."""
        import onnx

        names = [name for name in dict.fromkeys(node.input) if name]
        inputs = [_value(inference.known_vi_[name]) for name in names]
        constants = [self._light[name] for name in names if name in self._light]
        outputs = [Value(name) for name in node.output if name]
        sizes = _loaded(self._model([node.SerializeToString()], constants, inputs, outputs, declared=False)) or {}
        for name in node.output:
            value = known.get(name, Value(name))
            if value.shape is None:
                continue  # it stops here
            shape = list(_merged(value, sizes.get(name)).shape or ())
            for axis, size in enumerate(shape):
                if size is None:
                    shape[axis] = str(inference._new_symbolic_dim(name, axis))
            inference.known_vi_[name].CopyFrom(onnx.helper.make_tensor_value_info(name, value.elem_type, shape))

    def _proto(self) -> bytes:
        """The graph with the outputs that it has, and weights without content: for tools that read no weights."""
        return self._model(self._encoded, (*self._light.values(), *self._stubs), self._given.values(), self._outputs)


def _loaded(model: bytes) -> dict[str, Value] | None:
    """The types of a model's outputs that are tensors, by name; None if ONNX Runtime can't load it.

    A shape of `()` is that of a scalar, or not known.
    """
    from onnxruntime.capi import _pybind_state as runtime  # its InferenceSession also initializes: weights and kernels

    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        outputs = runtime.InferenceSession(options, model, False, False).outputs_meta
    except Exception:  # of ONNX Runtime's C++ module
        return None
    known = {}
    for output in outputs:
        match = _RUNTIME_TYPE.fullmatch(output.type)
        number = NUMBERS.get(_RUNTIME_NAMES.get(match[1], match[1])) if match is not None else None
        if number is not None:
            known[output.name] = Value(output.name, number, tuple(output.shape))
    return known


@cache
def _runtime_operators() -> frozenset[str]:
    """The operators that ONNX Runtime has, as `Node.operator` spells them."""
    from onnxruntime.capi import _pybind_state as runtime

    operators = runtime.get_all_operator_schema()
    return frozenset(operator_name(each.domain, each.name) for each in operators)


def _loadable_functions(functions: Iterable[Function]) -> set[str]:
    """The operators that a model's functions are, of those that call none that ONNX Runtime doesn't have."""
    known = {function.operator: function for function in functions}
    while lacking := {name for name in known if not _are_loadable(known[name].graph.nodes, known.keys())}:
        known = {name: function for name, function in known.items() if name not in lacking}
    return set(known)


def _are_loadable(nodes: Iterable[Node], functions: Collection[str]) -> bool:
    """Whether ONNX Runtime, or the model in its functions, has the operators of nodes and of those in their bodies."""
    return all(
        (node.operator in _runtime_operators() or node.operator in functions)
        and all(_are_loadable(body.nodes, functions) for _, body in node.bodies)
        for node in nodes
    )


def _with_sizes(value: Value, change: Callable[[Size], Size]) -> Value:
    return value if value.shape is None else replace(value, shape=tuple(map(change, value.shape)))


def _certainty(size: Size) -> int:
    """How much a size says: that of a number, of a symbol of the file's, of one that only shows what is equal, of None."""
    if isinstance(size, int):
        return 3
    return 0 if size is None else 1 if size.startswith(_STRANGE) else 2


def _without_strange_symbols(value: Value) -> Value:
    return _with_sizes(value, lambda size: size if _certainty(size) > 1 else None)


def _merged(value: Value, other: Value | None) -> Value:
    """A type with the sizes that another one knows, where it does not know them itself."""
    if value.shape is None or other is None or other.shape is None or len(value.shape) != len(other.shape):
        return value
    pairs = zip(value.shape, other.shape, strict=True)
    return replace(value, shape=tuple(max(pair, key=_certainty) for pair in pairs))


@cache
def _inference_class() -> Any:
    """ONNX Runtime's `SymbolicShapeInference`, by its file: importing the package around it imports torch."""
    import onnxruntime

    file = Path(onnxruntime.__file__).parent / "tools" / "symbolic_shape_infer.py"
    return runpy.run_path(str(file), run_name=_LOGGER)["SymbolicShapeInference"]


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


def _value(proto: Any) -> Value:
    tensor = proto.type.tensor_type
    shape: tuple[Size, ...] | None = None
    if tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor.shape.dim
        )
    return Value(proto.name, tensor.elem_type, shape)


def _without_content(data: Data, span: Span) -> bytes | None:
    """An initializer's name, type and shape, as one whose content is elsewhere; None for a small one, to keep."""
    kept = (schema.TENSOR_DIM, schema.TENSOR_PACKED_DIMS, schema.TENSOR_DATA_TYPE, schema.TENSOR_NAME)
    parts = list(fields(data, *span))
    external = any(tag == schema.TENSOR_DATA_LOCATION and first == schema.EXTERNAL for tag, _, first, _ in parts)
    if span[1] - span[0] <= _SMALL_TENSOR_BYTES and not external:
        return None
    left_out = encode_message(schema.TENSOR_EXTERNAL_DATA, encode_entry("location", "left-out"))
    left_out += encode_varint(schema.TENSOR_DATA_LOCATION) + encode_varint(schema.EXTERNAL)
    return b"".join(data[start:stop] for tag, start, _, stop in parts if tag in kept) + left_out
