"""The sizes of dynamic axes, by ONNX Runtime's symbolic shape inference.

It carries the symbols of dynamic axes through Reshape and arithmetic (`past + sequence_length`). About an operator that
it doesn't know it would stop; here ONNX Runtime itself is asked what becomes of the sizes that it has got to.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from optimum_htp.onnxfile.edges import reads
from optimum_htp.onnxfile.model import Value
from optimum_htp.onnxfile.runtime_types import loaded_types
from optimum_htp.onnxfile.submodels import Submodels

Size: TypeAlias = int | str | None

_LOGGER = "symbolic_shape_infer"
_FUNCTIONS = ("floor", "ceiling", "Max", "Min", "Mod", "[0-9]+")
_STRANGE = "unk__"  # what ONNX's inference calls a size that it has no symbol for
_MAX_RUNS = 64


def with_sizes(graph: Submodels, known: Mapping[str, Value]) -> dict[str, Value]:
    """What is known of the tensors of a graph, with the sizes that the symbolic inference finds, as far as it gets."""
    import onnx

    chosen, inputs = _reached(graph, known)
    outputs = [Value(name) for index in chosen[-1:] for name in graph.nodes[index].outputs if name]
    model = onnx.ModelProto.FromString(graph.model(chosen, inputs, outputs, declared=False))
    # Its `infer_shapes` does the same, but where it does not get to the end it writes a file to the current directory and
    # throws away what it knows. `onnxruntime.transformers.shape_infer_helper` calls these methods, too.
    inference = _inference_class()(int_max=2**31 - 1, auto_merge=True, guess_output_rank=False, verbose=0)
    rules = _Rules(graph, known, inference)
    inference.dispatcher_["Expand"] = rules.expand
    for operator in {graph.nodes[index].op_type for index in chosen if graph.nodes[index].domain}:
        inference.dispatcher_.setdefault(operator, rules.ask)
    sizes = {size for value in inputs.values() for size in value.shape or () if isinstance(size, str)}
    symbols = sorted(size for size in sizes if _certainty(size) == _SYMBOL)
    inference._add_suggested_merge = _merging(inference, symbols)
    with _quiet(_LOGGER), suppress(Exception):  # it asserts what it does not expect
        inference._preprocess(model)
        for _ in range(_MAX_RUNS):
            merges = len(inference.suggested_merge_)
            inference._infer_impl()
            # It begins again when an Add shows two symbols to be the same, but stops when a QLinearAdd does.
            if not inference.run_ and len(inference.suggested_merge_) == merges:
                break
    is_ours = re.compile("|".join([*map(re.escape, sorted(symbols, key=len, reverse=True)), *_FUNCTIONS]))

    def marked(size: Size) -> Size:
        return f"{_STRANGE}{size}" if isinstance(size, str) and re.search(r"\w", is_ours.sub("", size)) else size

    found = {value.name: value for value in map(read_proto, inference.out_mp_.graph.value_info)}
    return {name: merged(value, _each(found.get(name), marked)) for name, value in known.items()}


def read_proto(proto: Any) -> Value:
    """The name and the type of an `onnx.ValueInfoProto`."""
    tensor = proto.type.tensor_type
    shape = tuple(map(_size, tensor.shape.dim)) if tensor.HasField("shape") else None
    return Value(proto.name, tensor.elem_type, shape)


def _size(dimension: Any) -> Size:
    if dimension.HasField("dim_value"):
        return int(dimension.dim_value)
    return _number(str(dimension.dim_param)) or None


def _number(size: Size) -> Size:
    """A size; as a number if it is one that is spelled, as the symbolic inference does some."""
    return int(size) if isinstance(size, str) and size.isdecimal() else size


def _reached(graph: Submodels, known: Mapping[str, Value]) -> tuple[list[int], dict[str, Value]]:
    """The nodes whose tensors all have a known number of axes, and those of them that are made elsewhere.

    Nodes with bodies are left out: the branches of an `If` may give different sizes, and this inference takes one for both.
    """
    ranked = {name for name, value in known.items() if value.shape is not None} | graph.initializers
    inputs = {name: value for name, value in graph.given.items() if name in ranked}
    chosen = []
    for index, node in enumerate(graph.nodes):
        outputs = [name for name in node.outputs if name]
        if not node.bodies and outputs and ranked.issuperset((*reads(node), *outputs)):
            chosen.append(index)
        else:
            inputs |= {name: known[name] for name in outputs if name in ranked}
    return chosen, inputs


class _Rules:
    """Rules for nodes in addition to those that the symbolic inference has; a rule sets the types of a node's outputs."""

    def __init__(self, graph: Submodels, known: Mapping[str, Value], inference: Any) -> None:
        self._graph = graph
        self._known = known
        self._inference = inference
        self._indices = {name: index for index, node in enumerate(graph.nodes) for name in node.outputs if name}
        self._expand = inference.dispatcher_["Expand"]

    def ask(self, node: Any) -> None:
        """For an operator that has no rule: what ONNX Runtime makes of the sizes of the inputs."""
        graph = self._graph
        inputs = {name: read_proto(self._inference.known_vi_[name]) for name in node.input if name}
        inputs = {name: value for name, value in inputs.items() if name not in graph.initializers}
        names = [name for name in node.output if name]
        model = graph.model([self._indices[names[0]]], inputs, map(Value, names), declared=False)
        self._set(names, loaded_types(model) or {})

    def expand(self, node: Any) -> None:
        """For `Expand`, behind whose own rule the inference fails where it does not know what to expand to."""
        self._expand(node)
        self._set(node.output, {name: read_proto(self._inference.known_vi_[name]) for name in node.output})

    def _set(self, names: Iterable[str], sizes: Mapping[str, Value]) -> None:
        import onnx

        for name in names:
            value = merged(self._known[name], sizes.get(name))
            shape = [
                size if _certainty(size) >= _SYMBOL else str(self._inference._new_symbolic_dim(name, axis))
                for axis, size in enumerate(value.shape or ())
            ]
            proto = onnx.helper.make_tensor_value_info(name, value.elem_type, shape)
            self._inference.known_vi_[name].CopyFrom(proto)


def _merging(inference: Any, symbols: Sequence[str]) -> Callable[..., None]:
    """Makes the file's own symbol stand for those that turn out to be equal: else it would be the first of a set."""
    merge = inference._add_suggested_merge

    def prefer(equal: Sequence[Size], apply: bool = False) -> None:
        inference.input_symbols_ = set([symbol for symbol in symbols if symbol in equal][:1])
        merge([_number(size) for size in equal], apply)

    return prefer


def _each(value: Value | None, change: Callable[[Size], Size]) -> Value | None:
    return value if value is None or value.shape is None else replace(value, shape=tuple(map(change, value.shape)))


_NOTHING, _EQUAL, _SYMBOL, _NUMBER = range(4)


def _certainty(size: Size) -> int:
    """How much a size says: nothing, what else is of that size, a symbol of the file's, or a number."""
    if isinstance(size, int):
        return _NUMBER
    return _NOTHING if size is None else _EQUAL if size.startswith(_STRANGE) else _SYMBOL


def is_open(value: Value) -> bool:
    """Whether an axis of a tensor has neither a number nor a symbol of the file's."""
    return any(_certainty(size) < _SYMBOL for size in value.shape or ())


def merged(value: Value, other: Value | None) -> Value:
    """A type with the sizes that another one knows, where it does not know them itself."""
    if value.shape is None or other is None or other.shape is None or len(value.shape) != len(other.shape):
        return value
    pairs = zip(value.shape, other.shape, strict=True)
    sizes = (one if _certainty(one) >= _SYMBOL else max(one, two, key=_certainty) for one, two in pairs)
    return replace(value, shape=tuple(sizes))


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


@cache
def _inference_class() -> Any:
    """ONNX Runtime's `SymbolicShapeInference`, by its file: importing the package around it imports torch."""
    import onnxruntime

    file = Path(onnxruntime.__file__).parent / "tools" / f"{_LOGGER}.py"
    loader = SourceFileLoader(_LOGGER, str(file))  # which keeps it compiled
    module = ModuleType(_LOGGER)
    module.__file__ = str(file)
    loader.exec_module(module)
    return module.SymbolicShapeInference
