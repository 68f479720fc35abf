"""What the rules look at: a graph's nodes and edges, the trace, and what has been decided so far."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from optimum_htp.hierarchy import ModulePath, NodeKey, NodeTag
from optimum_htp.onnxfile import Edges, Graph, Node, OnnxModel, body_path, split_body_path
from optimum_htp.tagging.tracing.trace import ModuleTrace


@dataclass(frozen=True, slots=True)
class Owner:
    """The module that a node came from, and the number of its call in the trace where that is known."""

    path: ModulePath
    call: int | None = None


class Evidence:
    """A graph and its trace, indexed for the rules, and the owners decided so far."""

    def __init__(self, model: OnnxModel, trace: ModuleTrace) -> None:
        self.trace = trace
        self.nodes: dict[NodeKey, Node] = {}  # producers before consumers; those of a body before the node that has it
        for function in reversed(model.functions):
            self.nodes.update(_bodies_first(function.path, function.graph))
        self.nodes.update(_bodies_first("", model.graph))
        self.owners: dict[NodeKey, Owner] = {}
        self.sources: dict[NodeKey, str] = {}
        self.stated: Mapping[NodeKey, ModulePath] = {}  # by the metadata of nodes, as far as it is believed
        self.named: dict[NodeKey, Owner] = {}  # by the names of nodes; empty where the trace recorded the scopes
        self.weighed: dict[NodeKey, Owner] = {}  # by the names of weights; empty where nodes have scopes
        # Data flow must not decide these: what they say can't be read, or a node that would decide them is doubtful.
        self.doubtful: set[NodeKey] = set()
        self._edges = Edges(model)
        self._functions = {function.path: (function.domain, function.name) for function in model.functions}
        self._callers: dict[tuple[str, str], list[NodeKey]] = {name: [] for name in self._functions.values()}
        self._consumers: dict[NodeKey, list[NodeKey]] = {}
        for key, node in self.nodes.items():
            for producer in self._producers(key):
                self._consumers.setdefault(producer, []).append(key)
            if (node.domain, node.op_type) in self._callers:
                self._callers[node.domain, node.op_type].append(key)
        self._matrices = {
            (path, tensor.name)
            for path, graph in model.graphs()
            for tensor in graph.initializers
            if len(tensor.dims) > 1
        }
        self._inner = {path[:length] for module in trace.tree for path in module.paths for length in range(len(path))}
        self._returned = {value.name for value in model.graph.outputs}

    def is_returned(self, key: NodeKey) -> bool:
        """Whether a node produces an output of the main graph."""
        return not key[0] and not self._returned.isdisjoint(self.nodes[key].outputs)

    def weighs(self, key: NodeKey) -> bool:
        """Whether a node reads a stored matrix of its graph."""
        return any((key[0], name) in self._matrices for name in self.nodes[key].inputs)

    def contains_others(self, path: ModulePath) -> bool:
        """Whether a module contains others."""
        return any(name in self._inner for name in self.trace.tree.module(path).paths)

    def consumers_in_doubt(self, key: NodeKey) -> bool:
        """Whether a consumer of the node's outputs is undecided and will stay so."""
        return self._in_doubt(self._consumers.get(key, ()))

    def producers_in_doubt(self, key: NodeKey) -> bool:
        """Whether a producer of the node's inputs is undecided and will stay so."""
        return self._in_doubt(self._producers(key))

    def consumer_owners(self, key: NodeKey) -> list[Owner]:
        """The owners of the consumers of a node's outputs; in a function, if there are none, those of its callers."""
        owners = self._decided(self._consumers.get(key, ()))
        if not owners and key[0] in self._functions:
            owners = self._decided(self._callers[self._functions[key[0]]])
        return owners

    def producer_owners(self, key: NodeKey) -> list[Owner]:
        """The owners of the nodes, parameters and buffers whose values a node consumes."""
        tensors = self.trace.tensors
        weights = [Owner(tensors[name]) for name in self.nodes[key].inputs if name in tensors]
        return self._decided(self._producers(key)) + weights

    def holder(self, key: NodeKey) -> NodeKey | None:
        """The node whose body a node is in; None in the main graph and at the top of a function."""
        around = split_body_path(key[0])
        return around[:2] if around is not None else None

    def common(self, owners: Iterable[Owner]) -> Owner | None:
        """The lowest module that contains all the owners, with its call if one call does; None without owners."""
        distinct = list(dict.fromkeys(owners))
        if len(distinct) < 2:
            return distinct[0] if distinct else None
        path = self.trace.tree.lowest_common([owner.path for owner in distinct])
        calls = [owner.call for owner in distinct if owner.call is not None]
        return Owner(path, self.trace.calls.common(calls, path) if len(calls) == len(distinct) else None)

    def node_tag(self, key: NodeKey) -> NodeTag:
        """The tag of a node."""
        tree = self.trace.tree
        owner = self.owners.get(key)
        if owner is None:
            return NodeTag(tree.tag(()), "unresolved")
        index = None
        if owner.call is not None and tree.module(owner.path).calls > 1:
            index = self.trace.calls[owner.call].index
        origins = self._origins(key) if self.sources[key] == "scope" else ()
        return NodeTag(tree.tag(owner.path), "fused" if origins else self.sources[key], index, origins)

    def _origins(self, key: NodeKey) -> tuple[str, ...]:
        """The tags of the modules whose work the exporter put into one node; empty if it is that of one."""
        calls = self.trace.calls
        tags = dict.fromkeys(self.trace.tree.tag(calls[number].path) for number in self.trace.made.get(key, ()))
        return tuple(tags) if len(tags) > 1 else ()

    def _producers(self, key: NodeKey) -> Iterator[NodeKey]:
        """The producers of what a node consumes, and of what its bodies return."""
        node = self.nodes[key]
        consumed = [(key[0], name) for name in node.inputs]
        for element, body in node.bodies:
            consumed += [(body_path(*key, element), value.name) for value in body.outputs]
        for graph, name in consumed:
            producer = self._edges.producer(graph, name)
            if producer is not None:
                yield producer

    def _in_doubt(self, nodes: Iterable[NodeKey]) -> bool:
        return any(key in self.doubtful and key not in self.owners for key in nodes)

    def _decided(self, nodes: Iterable[NodeKey]) -> list[Owner]:
        return [self.owners[key] for key in nodes if key in self.owners]


def _bodies_first(path: str, graph: Graph) -> Iterator[tuple[NodeKey, Node]]:
    """The nodes of a graph and its bodies, those of a body before the node that has it."""
    for index, node in enumerate(graph.nodes):
        for element, body in node.bodies:
            yield from _bodies_first(body_path(path, index, element), body)
        yield (path, index), node
