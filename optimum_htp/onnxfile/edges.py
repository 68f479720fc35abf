"""The edges of a model: which tensor a name means, and which node produces it.

A name in a graph is the tensor that the graph defines by it (an input, an initializer or an output of a node), else that
of the innermost graph around it; the inside of a function sees nothing around it.

Example:
    In both branches `a` is what node 0 of the main graph produces.

        main graph:     0: a = Relu(x)
                        1: y = If(c) with then_branch, else_branch
        1.then_branch:  0: b = Neg(a), which it returns
        1.else_branch:  returns a
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import TypeAlias

from optimum_htp.onnxfile.model import Graph, Node, OnnxModel, split_body_path

NodeKey: TypeAlias = tuple[str, int]
TensorKey: TypeAlias = tuple[str, str]


class Edges:
    """What the names in a model mean.

    A tensor is identified by the path of the graph that defines it, and its name there; a node by its graph and index.
    """

    def __init__(self, model: OnnxModel) -> None:
        self._around = {path: split_body_path(path) for path, _ in model.graphs()}
        self._defined: dict[str, dict[str, NodeKey | None]] = {}  # by its producer; None where it has none
        for path, graph in model.graphs():
            self._defined[path] = dict.fromkeys(_given(graph))
        for key, node in model.nodes():
            for name in node.outputs:
                self._defined[key[0]][name] = key

    def find(self, graph: str, name: str) -> TensorKey | None:
        """The tensor that a name means in the graph with this path; None where nothing is called so."""
        while name and name not in self._defined[graph]:
            around = self._around[graph]
            if around is None:
                return None
            graph = around[0]
        return (graph, name) if name else None

    def producer(self, graph: str, name: str) -> NodeKey | None:
        """The node that produces the tensor that a name means; None for an input, an initializer and an unknown name."""
        tensor = self.find(graph, name)
        return self._defined[tensor[0]][name] if tensor is not None else None


def reads(node: Node) -> Iterator[str]:
    """The names of the tensors that a node consumes, those that its bodies take from around it included."""
    yield from filter(None, node.inputs)
    for _, body in node.bodies:
        defined = _given(body).union(*(inner.outputs for inner in body.nodes))
        for inner in body.nodes:
            yield from (name for name in reads(inner) if name not in defined)
        yield from (value.name for value in body.outputs if value.name not in defined)


def _given(graph: Graph) -> set[str]:
    """The names of a graph's inputs and initializers."""
    return {value.name for value in graph.inputs} | {tensor.name for tensor in graph.initializers}


def topological_order(nodes: Sequence[Node]) -> tuple[int, ...]:
    """The indices of a graph's nodes, producers before consumers, and otherwise as they are in the file.

    ONNX asks for that order in the file too, but some tools append nodes at the end, and ONNX Runtime accepts it.
    """
    producers = {name: index for index, node in enumerate(nodes) for name in node.outputs if name}
    needed = [{producers[name] for name in reads(node) if name in producers} for node in nodes]
    if all(before < index for index, wanted in enumerate(needed) for before in wanted):
        return tuple(range(len(nodes)))
    consumers: dict[int, list[int]] = {}
    for index, wanted in enumerate(needed):
        for before in wanted:
            consumers.setdefault(before, []).append(index)
    missing = [len(wanted) for wanted in needed]
    ready = [index for index, count in enumerate(missing) if not count]
    order: list[int] = []
    while ready:
        order.append(heappop(ready))
        for index in consumers.get(order[-1], ()):
            missing[index] -= 1
            if not missing[index]:
                heappush(ready, index)
    return (*order, *(index for index, count in enumerate(missing) if count))  # the last are a cycle: not ONNX
