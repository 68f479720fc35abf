"""The edges of a model: which node produces each tensor, and which nodes consume it.

A name in a graph is the tensor that the graph defines by it (an input, an initializer or an output of a node), else that
of the innermost graph around it; the inside of a function sees nothing around it. What a body takes from around it is
consumed by the node in the body, and what it returns by the node that has the body.

Example:
    Here `a` is produced by node 0 of the main graph and consumed by node 0 of the body; `b` is consumed by the `If`.

        main graph:     0: a = Relu(x)
                        1: y = If(c) with then_branch, else_branch
        1.then_branch:  0: b = Neg(a), which it returns
        1.else_branch:  returns a
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TypeAlias

from optimum_htp.onnxfile.model import Graph, Node, OnnxModel, split_body_path

NodeKey: TypeAlias = tuple[str, int]
TensorKey: TypeAlias = tuple[str, str]


@dataclass(slots=True)  # not frozen: there is one for each input of a model
class Use:
    """A node that consumes a tensor: the path of its graph, its index there, and which of its inputs the tensor is.

    `slot` is None where one of the node's bodies returns the tensor.
    """

    graph: str
    index: int
    slot: int | None


class Edges:
    """The node that produces each tensor of a model, and the uses of each that has any, in the order of the graphs.

    A tensor is identified by the path of the graph that defines it, and its name there; a node by its graph and index.
    """

    def __init__(self, model: OnnxModel) -> None:
        self.producers: dict[TensorKey, NodeKey] = {}
        self.consumers: dict[TensorKey, list[Use]] = {}
        self._defined: dict[str, set[str]] = {}
        self._around = {path: split_body_path(path) for path, _ in model.graphs()}
        for path, graph in model.graphs():
            self._defined[path] = _given(graph).union(*(node.outputs for node in graph.nodes))
        for key, node in model.nodes():
            path, index = key
            for name in filter(None, node.outputs):
                self.producers[path, name] = key
            for slot, name in enumerate(node.inputs):
                self._add(path, name, Use(path, index, slot))
        for path, graph in model.graphs():
            around = self._around[path]
            if around is not None:
                for value in graph.outputs:
                    self._add(path, value.name, Use(around[0], around[1], None))

    def find(self, graph: str, name: str) -> TensorKey | None:
        """The tensor that a name means in the graph with this path; None where nothing is called so."""
        while name and name not in self._defined[graph]:
            around = self._around[graph]
            if around is None:
                return None
            graph = around[0]
        return (graph, name) if name else None

    def _add(self, graph: str, name: str, use: Use) -> None:
        tensor = self.find(graph, name)
        if tensor is not None:
            self.consumers.setdefault(tensor, []).append(use)


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
