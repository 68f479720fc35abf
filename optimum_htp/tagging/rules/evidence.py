"""What the rules look at: a graph's nodes and edges, the trace, and what has been decided so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from optimum_htp.hierarchy import ModulePath, NodeKey, NodeTag
from optimum_htp.onnxfile import Graph, Node, OnnxModel
from optimum_htp.tagging.tracing.trace import ModuleTrace


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose work a node does: a module, and the number of its call in the trace where that is known."""

    path: ModulePath
    call: int | None = None


class Evidence:
    """A graph and its trace, indexed for the rules, and the owners decided so far.

    Attributes:
        order: Every node, producers before consumers; the nodes of a body come before the node that holds it, those
            of a function after all nodes that may call it.
        nodes: The nodes by key.
        owners: What has been decided.
        sources: The kind of evidence that decided it.
        named: The owners that the names of nodes spell; empty where the trace recorded the scopes themselves.
        doubtful: Nodes that no data flow may decide: what they say of their module can't be read, or, where nothing
            else decides, a node around them is one.
    """

    def __init__(self, model: OnnxModel, trace: ModuleTrace) -> None:
        self.trace = trace
        self.order: list[NodeKey] = []
        self.nodes: dict[NodeKey, Node] = {}
        self.owners: dict[NodeKey, Owner] = {}
        self.sources: dict[NodeKey, str] = {}
        self.named: dict[NodeKey, Owner] = {}
        self.doubtful: set[NodeKey] = set()
        self._consumers: dict[NodeKey, list[NodeKey]] = {}
        self._producers: dict[NodeKey, list[NodeKey]] = {}
        self._enclosing: dict[str, NodeKey] = {}
        self._callers: dict[tuple[str, str], list[NodeKey]] = {}
        self._functions: dict[str, tuple[str, str]] = {}
        for function in reversed(model.functions):
            path = "::".join((function.domain, function.name)) + (f":{function.overload}" if function.overload else "")
            self._functions[path] = (function.domain, function.name)
            self._index(path, function.graph, ())
        self._index("", model.graph, ())
        self._returned = {value.name for value in model.graph.outputs}

    def is_returned(self, key: NodeKey) -> bool:
        """Whether a node writes an output of the main graph."""
        return not key[0] and not self._returned.isdisjoint(self.nodes[key].outputs)

    def readers_in_doubt(self, key: NodeKey) -> bool:
        """Whether a node that reads what a node writes is undecided and will stay so."""
        return any(each in self.doubtful and each not in self.owners for each in self._consumers.get(key, ()))

    def writers_in_doubt(self, key: NodeKey) -> bool:
        """Whether a node that writes what a node reads is undecided and will stay so."""
        return any(each in self.doubtful and each not in self.owners for each in self._producers.get(key, ()))

    def consumer_owners(self, key: NodeKey) -> list[Owner]:
        """The owners of the nodes that read what a node writes; in a function without any, those of its callers."""
        consumers: Iterable[NodeKey] = self._consumers.get(key, ())
        owners = [self.owners[consumer] for consumer in consumers if consumer in self.owners]
        function = self._functions.get(key[0])
        if function is not None and not owners:
            owners = [self.owners[caller] for caller in self._callers.get(function, ()) if caller in self.owners]
        return owners

    def producer_owners(self, key: NodeKey) -> list[Owner]:
        """The owners of the nodes, parameters and buffers that a node reads."""
        owners = [self.owners[producer] for producer in self._producers.get(key, ()) if producer in self.owners]
        tensors = self.trace.tensors
        return owners + [Owner(tensors[name]) for name in self.nodes[key].inputs if name in tensors]

    def enclosing(self, key: NodeKey) -> NodeKey | None:
        """The node whose body holds a node, None in the main graph and at the top of a function."""
        return self._enclosing.get(key[0])

    def common(self, owners: Iterable[Owner]) -> Owner | None:
        """The lowest module that contains all the owners, with its call where one call does; None without owners."""
        distinct = list(dict.fromkeys(owners))
        if len(distinct) < 2:
            return distinct[0] if distinct else None
        path = self.trace.tree.lowest_common([owner.path for owner in distinct])
        return Owner(path, self._common_call(path, distinct))

    def node_tag(self, key: NodeKey) -> NodeTag:
        """What is written for a node."""
        tree = self.trace.tree
        owner = self.owners.get(key)
        if owner is None:
            return NodeTag(tree.tag(()), "unresolved")
        index = None
        if owner.call is not None and tree.module(owner.path).calls > 1:
            index = self.trace.calls[owner.call].index
        return NodeTag(tree.tag(owner.path), self.sources[key], index)

    def _common_call(self, path: ModulePath, owners: list[Owner]) -> int | None:
        """The number of the call of a module that all the owners' calls were made in."""
        calls = [owner.call for owner in owners if owner.call is not None]
        return self.trace.calls.common(calls, path) if len(calls) == len(owners) else None

    def _index(self, path: str, graph: Graph, outer: tuple[dict[str, NodeKey], ...]) -> None:
        """Adds a graph's nodes and edges; names mean the innermost graph around that defines them, as in ONNX."""
        defined: dict[str, NodeKey] = {}
        scopes = (defined, *outer)
        for position, node in enumerate(graph.nodes):
            key = (path, position)
            self.nodes[key] = node
            for name in node.inputs:
                self._link(name, key, scopes)
            for attribute, body in node.bodies:
                inner = f"{path}/{position}.{attribute}" if path else f"{position}.{attribute}"
                self._enclosing[inner] = key
                self._index(inner, body, scopes)
            self.order.append(key)
            for name in node.outputs:
                if name:
                    defined[name] = key
            self._callers.setdefault((node.domain, node.op_type), []).append(key)
        holder = self._enclosing.get(path)
        if holder is not None:
            for value in graph.outputs:
                self._link(value.name, holder, scopes)

    def _link(self, name: str, reader: NodeKey, scopes: tuple[dict[str, NodeKey], ...]) -> None:
        producer = next((scope[name] for scope in scopes if name in scope), None) if name else None
        if producer is not None:
            self._consumers.setdefault(producer, []).append(reader)
            self._producers.setdefault(reader, []).append(producer)


def call_owner(trace: ModuleTrace, call: int) -> Owner:
    """The owner that a call is."""
    return Owner(trace.calls[call].path, call)
