"""Graphs that are being changed: nodes that are still where they are in the file, and new ones; and how they are encoded.

A draft of a node says which tensors it reads and makes in the graph that it is in. Moved into a function it has other
names, and so have the outer tensors that its bodies read; what a body defines keeps its name, and hides an outer one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.assembly import encode_entry, encode_node, encode_opset, read_entry
from optimum_htp.onnxfile.attributes import scan_attribute
from optimum_htp.onnxfile.limits import CACHED
from optimum_htp.onnxfile.model import Function, Graph, Node, Value, body_path
from optimum_htp.onnxfile.rewriting import Graft
from optimum_htp.onnxfile.spans import Span
from optimum_htp.onnxfile.wire import Data, decode_text, encode_message, encode_text, fields, last_fields


@dataclass(slots=True, eq=False)
class DraftNode:
    """A node.

    Attributes:
        node: What it is called, reads and makes; what its bodies are now is in `bodies`.
        span: Where it is in the file; None if it is new, and then it has no attributes.
        bodies: The graphs in its attributes, by the attribute's name.
        dropped: Keys of its metadata that it loses.
        renamed: The names of tensors that the file has others for, by those; in its bodies too.
    """

    node: Node
    span: Span | None = None
    bodies: tuple[tuple[str, DraftGraph], ...] = ()
    dropped: frozenset[str] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)

    def names(self, names: Mapping[str, str]) -> Mapping[str, str]:
        """New names for tensors by those that the file has in this node, given new names for those that they have here."""
        if not self.renamed:
            return names
        return {**names, **{old: names.get(new, new) for old, new in self.renamed.items()}}


@dataclass(slots=True, eq=False)
class DraftGraph:
    """The main graph, or a body: what the file says of it, and its nodes as they are to be."""

    path: str
    graph: Graph
    nodes: list[DraftNode] = field(default_factory=list)

    @property
    def defined(self) -> set[str]:
        """The names that it defines itself."""
        given = {value.name for value in self.graph.inputs} | {tensor.name for tensor in self.graph.initializers}
        return given.union(*(draft.node.outputs for draft in self.nodes))

    def walk(self, path: str | None = None) -> Iterator[tuple[tuple[str, int], DraftNode]]:
        """Its nodes and those in their bodies, with the keys that they have if it is at a path, its own by default."""
        path = self.path if path is None else path
        for index, draft in enumerate(self.nodes):
            yield (path, index), draft
            for element, body in draft.bodies:
                yield from body.walk(body_path(path, index, element))


def draft_graphs(path: str, graph: Graph, span_of: Callable[[tuple[str, int]], Span]) -> DraftGraph:
    """A graph of the file with all that is inside of it, as drafts; `span_of` says where each node is."""
    drafts = DraftGraph(path, graph)
    for index, node in enumerate(graph.nodes):
        bodies = tuple(
            (element, draft_graphs(body_path(path, index, element), body, span_of)) for element, body in node.bodies
        )
        drafts.nodes.append(DraftNode(node, span_of((path, index)), bodies))
    return drafts


def drafted(draft: DraftNode, names: Mapping[str, str], *, name: str | None = None) -> Node:
    """The node that a draft becomes, with new names for tensors, and for itself."""
    node = draft.node
    return Node(
        node.name if name is None else name,
        node.op_type,
        node.domain,
        tuple(names.get(each, each) for each in node.inputs),
        tuple(names.get(each, each) for each in node.outputs),
        {key: value for key, value in node.metadata.items() if key not in draft.dropped},
        tuple((element, drafted_graph(body, draft.names(names))) for element, body in draft.bodies),
        node.repeated_keys,
    )


def drafted_graph(draft: DraftGraph, names: Mapping[str, str]) -> Graph:
    """The graph that a draft becomes, with new names for tensors of the graphs around it."""
    names = _visible(draft, names)
    outputs = tuple(replace(value, name=names.get(value.name, value.name)) for value in draft.graph.outputs)
    nodes = [drafted(each, names) for each in draft.nodes]
    return replace(draft.graph, nodes=nodes, outputs=outputs)


def _visible(draft: DraftGraph, names: Mapping[str, str]) -> Mapping[str, str]:
    """The new names of outer tensors that a body does not define anew."""
    defined = draft.defined if names else ()
    return {old: new for old, new in names.items() if old not in defined}


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftFunction:
    """A function whose nodes are drafts.

    Attributes:
        domain: The domain of its identity.
        name: The name of its identity.
        inputs: What it is given.
        outputs: What it returns.
        nodes: Its nodes.
        names: The names that tensors have in it, by those that the drafts have for them.
        node_names: The names that the drafts have in it, in their order.
        opset_imports: The versions of the domains of its nodes.
        description: What it is, in words.
    """

    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[DraftNode, ...]
    names: Mapping[str, str]
    node_names: tuple[str, ...]
    opset_imports: Mapping[str, int]
    description: str

    def function(self) -> Function:
        """What a file says that has it."""
        pairs = zip(self.nodes, self.node_names, strict=True)
        nodes = [drafted(draft, self.names, name=name) for draft, name in pairs]
        inputs, outputs = (tuple(map(Value, names)) for names in (self.inputs, self.outputs))
        return Function(self.domain, self.name, "", Graph(self.name, nodes, inputs, outputs))


Entries = Callable[[DraftNode], Mapping[str, str]]
"""The metadata that a node gets."""


class DraftEncoder:
    """Encodes drafts of the nodes of a file; `entries` are the metadata that they get."""

    def __init__(self, data: Data, *, entries: Entries) -> None:
        self._data = data
        self._entries = entries
        self._plain: set[bytes] = set()
        self._keys: dict[bytes, str] = {}

    def graft(self, draft: DraftGraph, places: Mapping[DraftNode, int]) -> tuple[Graft, list[DraftNode]]:
        """How a graph of the file becomes its draft, and the nodes that stay where they are; `places` are the old ones."""
        cut, before, stay = set(range(len(draft.graph.nodes))), dict[int, bytes](), list[DraftNode]()
        last, waiting = -1, b""
        for each in draft.nodes:
            place = places.get(each, -1)
            if place > last:
                cut.discard(place)
                before[place] = waiting
                last, waiting = place, b""
                stay.append(each)
            else:
                waiting += encode_message(schema.GRAPH_NODE, self.node(each, {}))
        before[len(draft.graph.nodes)] = waiting
        made = {name for node in draft.graph.nodes for name in node.outputs}
        untyped = made.difference(*(each.node.outputs for each in draft.nodes))
        added = {place: nodes for place, nodes in before.items() if nodes}
        return Graft(cut=cut, before=added, untyped=untyped), stay

    def function(self, function: DraftFunction) -> bytes:
        """A `FunctionProto`."""
        texts = [(schema.FUNCTION_NAME, function.name)]
        texts += [(schema.FUNCTION_INPUT, name) for name in function.inputs]
        texts += [(schema.FUNCTION_OUTPUT, name) for name in function.outputs]
        parts = [encode_message(tag, encode_text(text)) for tag, text in texts]
        for draft, name in zip(function.nodes, function.node_names, strict=True):
            parts.append(encode_message(schema.FUNCTION_NODE, self.node(draft, function.names, name=name)))
        parts.append(encode_message(schema.FUNCTION_DESCRIPTION, encode_text(function.description)))
        imports = (encode_opset(*pair) for pair in function.opset_imports.items())
        parts += [encode_message(schema.FUNCTION_OPSET_IMPORT, each) for each in imports]
        parts.append(encode_message(schema.FUNCTION_DOMAIN, encode_text(function.domain)))
        return b"".join(parts)

    def node(self, draft: DraftNode, names: Mapping[str, str], *, name: str | None = None) -> bytes:
        """A `NodeProto`, with new names for tensors, and for the node itself."""
        entries = self._entries(draft)
        added = b"".join(encode_message(schema.NODE_METADATA, encode_entry(*pair)) for pair in entries.items())
        if draft.span is None:
            node = drafted(draft, names, name=name)
            return encode_node(node.op_type, node.inputs, node.outputs, name=node.name, domain=node.domain) + added
        if name is None and draft.renamed:
            name = draft.node.name
        return b"".join(self._moved(draft, draft.span, draft.names(names), name)) + added

    def _moved(self, draft: DraftNode, span: Span, names: Mapping[str, str], name: str | None) -> Iterator[bytes]:
        data, bodies = self._data, dict(draft.bodies)
        for tag, at, first, stop in fields(data, *span):
            if tag in (schema.NODE_INPUT, schema.NODE_OUTPUT):
                text = decode_text(data[first:stop])
                yield encode_message(tag, encode_text(names.get(text, text)))
            elif tag == schema.NODE_NAME and name is not None:
                yield encode_message(tag, encode_text(name))
            elif tag == schema.NODE_METADATA and self._is_dropped(draft, first, stop):
                continue
            elif tag == schema.NODE_ATTRIBUTE and bodies:
                yield encode_message(tag, self._attribute((first, stop), bodies, names))
            else:
                yield data[at:stop]

    def _is_dropped(self, draft: DraftNode, first: int, stop: int) -> bool:
        entry = self._data[first:stop]
        key = self._keys.get(entry)
        if key is None:
            key = decode_text(read_entry(entry, 0, len(entry))[0])
            if len(self._keys) < CACHED:
                self._keys[entry] = key
        return key in draft.dropped

    def _attribute(self, span: Span, bodies: Mapping[str, DraftGraph], names: Mapping[str, str]) -> bytes:
        data = self._data
        scanned = scan_attribute(data, *span, self._plain)
        inside = {at: element for element, (_, at, _, _) in scanned[0]} if scanned is not None else {}
        parts = []
        for tag, at, first, stop in fields(data, *span):
            if at in inside:
                parts.append(encode_message(tag, self._graph((first, stop), bodies[inside[at]], names)))
            else:
                parts.append(data[at:stop])
        return b"".join(parts)

    def _graph(self, span: Span, draft: DraftGraph, names: Mapping[str, str]) -> bytes:
        data, names, defined = self._data, _visible(draft, names), draft.defined
        nodes = [encode_message(schema.GRAPH_NODE, self.node(each, names)) for each in draft.nodes]
        parts = []
        for tag, at, first, stop in fields(data, *span):
            if tag == schema.GRAPH_NODE:
                parts += nodes
                nodes = []
            elif tag == schema.GRAPH_OUTPUT and names:
                parts.append(encode_message(tag, self._value((first, stop), names)))
            elif tag != schema.GRAPH_VALUE_INFO or self._value_name((first, stop)) in defined:
                parts.append(data[at:stop])
        return b"".join(parts)

    def _value_name(self, span: Span) -> str:
        found = last_fields(self._data, *span, {schema.VALUE_NAME >> 3: 2}).values()
        return next((decode_text(self._data[slice(*each)]) for each in found), "")

    def _value(self, span: Span, names: Mapping[str, str]) -> bytes:
        name = self._value_name(span)
        if name not in names:
            return self._data[slice(*span)]
        rest = (self._data[at:stop] for tag, at, _, stop in fields(self._data, *span) if tag != schema.VALUE_NAME)
        return encode_message(schema.VALUE_NAME, encode_text(names[name])) + b"".join(rest)
