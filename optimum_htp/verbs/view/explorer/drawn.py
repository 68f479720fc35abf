"""What Model Explorer calls the nodes and the graphs of an ONNX file: the ids that its ONNX adapter makes.

The adapter (`model-explorer-onnx`, 0.4) draws

- the main graph, with the bodies of `If` nodes in it;
- a graph for each body of another operator in that, but none for bodies inside those;
- a graph for each function, without the bodies in it.

A node's id is its name. Before, nodes without a name are given one, and of nodes with the same name in one graph all but
the first get a number (`onnx_ir`'s `NameFixPass`, whose counters a graph shares with the bodies in it). A node in the body
of an `If` has the name of that and of its attribute in front. An initializer is `[value] name`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import Function, Graph, Node, OnnxModel, body_path

Place = tuple[str, str]
"""A graph's id and a node's in it."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The ids of a file, as far as it is drawn.

    Attributes:
        nodes: Of each node.
        initializers: Of each initializer, by the path of its graph and its name.
        graphs: Of each graph that is drawn as one, by its path.
    """

    nodes: dict[NodeKey, Place] = field(default_factory=dict)
    initializers: dict[tuple[str, str], Place] = field(default_factory=dict)
    graphs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: OnnxModel) -> Drawn:
        """The ids of a model."""
        drawn = cls()
        names = _unique_names("", model.graph)
        main = model.graph.name or "<main>"
        others: list[tuple[str, str, Graph]] = []
        drawn._add(main, "", model.graph)
        for key, node, name in _embedded("", model.graph, names, ""):
            drawn.nodes[key] = main, name
            if not _is_if(node):
                others += [
                    (f"{name}/{element}", body_path(*key, element), body)
                    for element, body in node.bodies
                    if not element.endswith("]")  # those of a list are not drawn
                ]
        for graph_id, path, body in others:
            drawn._add(graph_id, path, body)
            for key, _, name in _embedded(path, body, names, ""):
                drawn.nodes[key] = graph_id, name
        for function in model.functions:
            names = _unique_names(function.path, function.graph)
            graph_id = _function_id(function)
            drawn._add(graph_id, function.path, function.graph)
            for index in range(len(function.graph.nodes)):
                key = function.path, index
                drawn.nodes[key] = graph_id, names[key]
        return drawn

    def _add(self, graph_id: str, path: str, graph: Graph) -> None:
        self.graphs[path] = graph_id
        for tensor in graph.initializers:
            self.initializers[path, tensor.name] = graph_id, f"[value] {tensor.name}"


def _function_id(function: Function) -> str:
    domain = "" if function.domain == "ai.onnx" else function.domain
    overload = f"::{function.overload}" if function.overload else ""
    return f"[function]{domain}::{function.name}{overload}"


def _is_if(node: Node) -> bool:
    return node.operator == "If"


def _embedded(path: str, graph: Graph, names: dict[NodeKey, str], prefix: str) -> Iterator[tuple[NodeKey, Node, str]]:
    """The nodes that are drawn in a graph, those of the bodies of an `If` included, and their names there."""
    for index, node in enumerate(graph.nodes):
        key = path, index
        name = prefix + names[key]
        yield key, node, name
        if _is_if(node):
            for element, body in node.bodies:
                yield from _embedded(body_path(path, index, element), body, names, f"{name}/{element}/")


def _unique_names(path: str, graph: Graph) -> dict[NodeKey, str]:
    """The names of the nodes of a graph and of all bodies in it, each unique in its graph."""
    names: dict[NodeKey, str] = {}
    counters: Counter[str] = Counter()

    def fix(path: str, graph: Graph) -> None:
        used: set[str] = set()
        for index, node in enumerate(graph.nodes):
            wanted = name = node.name or "node"
            while name in used:
                counters[wanted] += 1
                name = f"{wanted}_{counters[wanted]}"
            used.add(name)
            names[path, index] = name
            for element, body in node.bodies:
                fix(body_path(path, index, element), body)

    fix(path, graph)
    return names
