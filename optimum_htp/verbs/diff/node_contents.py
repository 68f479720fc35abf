"""What the nodes of a file say besides their connections: attributes, and the constants and weights that they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import (
    NUMBERS,
    Content,
    Edges,
    GraphPlaces,
    Initializer,
    Node,
    SourceFiles,
    element_count,
    element_type,
    function_declaration,
    named_attribute,
    node_attributes,
    sparse_content,
    tensor_content,
    tensor_type_text,
    wire_errors,
)
from optimum_htp.package import external_file
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.diff.defaults import default_value
from optimum_htp.verbs.diff.report import ContentChange

SMALL_ELEMENTS = 64
"""A stored tensor of at most so many elements is a constant, if it is not called like a parameter."""

_MAX_CONSTANT_BYTES = 1 << 20
_COUNTS = frozenset(NUMBERS[name] for name in ("int32", "int64", "bool"))  # shapes, indices, masks: never weights
_PIECE_BYTES = 1 << 20
_MAX_ENCODED_BYTES = 1 << 12

_T = TypeVar("_T")
TensorKey = tuple[str, str]


class Stored(NamedTuple):
    """An initializer that a node reads."""

    key: TensorKey
    tensor: Initializer
    is_weight: bool


class NodeContents(ExitStack):
    """Reads what the nodes of a tagged file say, when it is asked for; a context manager.

    Args:
        file: The file.
        package: The directory that it is in.
        weights: Whether the values of weights are read.
    """

    def __init__(self, file: TaggedGraph, *, package: Path, weights: bool) -> None:
        super().__init__()
        self.model = file.model
        self.weights = weights
        self.seen: dict[object, str] = {}  # what was asked for: a `constant`, a `weight`, or its `type` alone
        self._file = file
        self._package = package
        self._data = self.enter_context(SourceFiles(file.model.path)).data
        self._places = GraphPlaces(self._data, file.model)
        self._edges = Edges(file.model)
        self._graphs = dict(file.model.graphs())
        self._initializers = {
            (path, tensor.name): tensor for path, graph in self._graphs.items() for tensor in graph.initializers
        }
        self._attributes: dict[bytes, tuple[str, Content | None]] = {}  # they repeat from node to node
        self._values: dict[TensorKey, Content] = {}

    def node(self, key: NodeKey) -> Node:
        """The node with a key."""
        return self._graphs[key[0]].nodes[key[1]]

    def encoded(self, key: NodeKey) -> tuple[bytes, ...] | None:
        """The attributes of a node as they are in the file; None where they are long."""
        spans = node_attributes(self._data, self._places.node(key))
        if sum(stop - first for first, stop in spans) > _MAX_ENCODED_BYTES:
            return None
        return tuple(self._data[slice(*span)] for span in spans)

    def attributes(self, key: NodeKey) -> dict[str, Content]:
        """The attributes that a node gives, by their names; graphs are left out."""
        found = (self._attribute(span) for span in node_attributes(self._data, self._places.node(key)))
        return {name: value for name, value in found if value is not None}

    def stored(self, graph: str, name: str) -> Stored | None:
        """The initializer that a name means in a graph; None where it is none."""
        key = self._edges.find(graph, name)
        tensor = self._initializers.get(key) if key is not None else None
        return Stored(key, tensor, self._is_weight(tensor)) if key is not None and tensor is not None else None

    def value(self, stored: Stored, *, as_weight: bool) -> Content:
        """What an initializer holds; of weights that are not read, and of a constant that is not there, the type alone."""
        key, tensor = stored.key, stored.tensor
        if as_weight and not self.weights:
            self.seen[key] = "type"
            return _type_alone(tensor)
        if key not in self._values:
            span, is_sparse = self._places.initializer(key)
            read = sparse_content if is_sparse else tensor_content
            with wire_errors(self.model.path):
                self._values[key], is_read = self._unless_missing(
                    lambda: read(self._data, span, self._outside), _type_alone(tensor, is_read=False)
                )
            self.seen[key] = "type" if not is_read else "weight" if as_weight else "constant"
        return self._values[key]

    def says(self, key: NodeKey) -> frozenset[tuple[str, Content]]:
        """All that a node says."""
        node = self.node(key)
        inputs = ((str(slot), self.stored(key[0], name)) for slot, name in enumerate(node.inputs) if name)
        read = (
            (slot, self.value(stored, as_weight=stored.is_weight)) for slot, stored in inputs if stored is not None
        )
        return frozenset(chain(self.attributes(key).items(), read))

    def default(self, key: NodeKey, attribute: str) -> Content | None:
        """What an attribute of a node is where it is not given; None if that is not known."""
        node = self.node(key)
        opset = self.model.opset_imports.get(node.domain, 0)
        return default_value(node.domain, node.op_type, opset, attribute) if opset and "::" not in key[0] else None

    def functions(self) -> dict[str, str]:
        """What each function says besides its nodes, as `NAME fact`, without those that say nothing."""
        found: dict[str, str] = {}
        for path, span in self._places.functions.items():
            with wire_errors(self.model.path):
                declared = function_declaration(self._data, span, self._outside)
            found[f"function {path}"] = "there"
            found.update((f"function {path}: {fact}", value) for fact, value in declared.items())
        return found

    def is_parameter(self, name: str) -> bool:
        """Whether a tensor is called like a parameter or a buffer of one of the modules."""
        owner, _, attribute = name.rpartition(".")
        return bool(owner and attribute) and any(tree.find(owner) is not None for tree in self._file.trees)

    @cached_property
    def names(self) -> frozenset[str]:
        """What the initializers of all graphs are called."""
        return frozenset(name for _, name in self._initializers)

    def _attribute(self, span: tuple[int, int]) -> tuple[str, Content | None]:
        encoded = self._data[slice(*span)] if span[1] - span[0] <= _MAX_ENCODED_BYTES else None
        if encoded is None or encoded not in self._attributes:
            with wire_errors(self.model.path):
                found, is_read = self._unless_missing(
                    lambda: named_attribute(self._data, span, self._outside),
                    named_attribute(self._data, span, lambda *_: ()),
                )
            if not is_read:
                self.seen[span] = "type"
                found = found[0], found[1] and replace(found[1], identity=None)
            if encoded is None:
                return found
            self._attributes[encoded] = found
        return self._attributes[encoded]

    def _unless_missing(self, read: Callable[[], _T], otherwise: _T) -> tuple[_T, bool]:
        """What is read, or the other thing where it lies in a file that is not there; if weights are wanted, that raises."""
        try:
            return read(), True
        except PackageError:
            if self.weights:
                raise
            return otherwise, False

    def _is_weight(self, tensor: Initializer) -> bool:
        elements, bits = element_count(tensor.dims), element_type(tensor.data_type).bits
        if elements is None:
            return True
        if tensor.data_type in _COUNTS and elements * (bits or 8) <= 8 * _MAX_CONSTANT_BYTES:
            return False
        return elements > SMALL_ELEMENTS or self.is_parameter(tensor.name)

    def _outside(self, location: str, offset: int, length: int | None) -> Iterator[bytes]:
        path = external_file(self.model.path, location, package=self._package)
        with path.open("rb") as stream:
            stream.seek(offset)
            while length is None or length > 0:
                piece = stream.read(_PIECE_BYTES if length is None else min(length, _PIECE_BYTES))
                if not piece:
                    return
                yield piece
                length = None if length is None else length - len(piece)


def content_changes(
    before: NodeContents, after: NodeContents, pair: tuple[NodeKey, NodeKey]
) -> Iterator[ContentChange]:
    """What a node and its counterpart say differently."""
    ours, theirs = pair
    node, other = before.node(ours), after.node(theirs)
    yield from _attribute_changes(before, after, pair)
    for slot, names in enumerate(zip(node.inputs, other.inputs, strict=False)):
        change = _stored_change(before, after, (ours[0], theirs[0]), names)
        if change is not None:
            yield replace(change, operator=other.operator, name=f"input {slot}")


def output_changes(before: NodeContents, after: NodeContents, paths: tuple[str, str]) -> Iterator[ContentChange]:
    """What the stored tensors that two graphs return hold differently."""
    graphs = dict(before.model.graphs())[paths[0]], dict(after.model.graphs())[paths[1]]
    for index, values in enumerate(zip(*(graph.outputs for graph in graphs), strict=False)):
        change = _stored_change(before, after, paths, (values[0].name, values[1].name))
        if change is not None:
            yield replace(change, name=f"output {index}")


def _attribute_changes(
    before: NodeContents, after: NodeContents, pair: tuple[NodeKey, NodeKey]
) -> Iterator[ContentChange]:
    encoded = before.encoded(pair[0])
    if encoded is not None and encoded == after.encoded(pair[1]):
        return
    left, right = before.attributes(pair[0]), after.attributes(pair[1])
    for name in dict.fromkeys((*left, *right)):
        ours, theirs = left.get(name), right.get(name)
        if not _differ(ours, theirs):
            continue
        if ours is None and before.default(pair[0], name) == theirs:
            continue
        if theirs is None and after.default(pair[1], name) == ours:
            continue
        texts = _texts(ours, theirs)
        yield ContentChange("attribute", after.node(pair[1]).operator, name, *texts)


def _stored_change(
    before: NodeContents, after: NodeContents, graphs: tuple[str, str], names: tuple[str, str]
) -> ContentChange | None:
    """How two stored tensors differ that stand in the same place; None if they don't, or one of them is computed."""
    ours, theirs = before.stored(graphs[0], names[0]), after.stored(graphs[1], names[1])
    if ours is None or theirs is None:
        return None
    is_weight = ours.is_weight or theirs.is_weight
    left, right = (side.value(stored, as_weight=is_weight) for side, stored in ((before, ours), (after, theirs)))
    name, other = ours.tensor.name, theirs.tensor.name
    if _differ(left, right):
        kind = "constant" if not is_weight else "weight_values" if left.type == right.type else "weight_type"
        return ContentChange(kind, "", "", *_texts(left, right), tensors=(name,))
    if is_weight and not before.weights and _is_another(before, after, name, other):
        return ContentChange("weight", "", "", name, other, tensors=(name,))
    return None


def _is_another(before: NodeContents, after: NodeContents, name: str, other: str) -> bool:
    """Whether a weight is read in another's place, by their names: those of parameters, or both files have just the same."""
    if name == other:
        return False
    sides = (before, after)
    named = all(side.is_parameter(each) and each in side.names for side in sides for each in (name, other))
    return named or before.names == after.names


def _type_alone(tensor: Initializer, *, is_read: bool = True) -> Content:
    identity = (tensor.data_type, tensor.dims) if is_read else None
    return Content(identity, tensor_type_text(tensor.data_type, tensor.dims), "")


def _differ(before: Content | None, after: Content | None) -> bool:
    """Whether two values differ; of one that lies in a file that is not there only the type is known."""
    if before is None or after is None:
        return before is not after
    if before.identity is None or after.identity is None:
        return before.type != after.type
    return before != after


def _texts(before: Content | None, after: Content | None) -> tuple[str | None, str | None]:
    """Two values as words, with their types where these differ."""
    with_types = before is not None and after is not None and before.type != after.type
    return _text(before, with_type=with_types), _text(after, with_type=with_types)


def _text(content: Content | None, *, with_type: bool) -> str | None:
    if content is None:
        return None
    return f"{content.type} {content.text}".rstrip() if with_type else content.text or content.type
