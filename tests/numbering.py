"""Graphs whose nodes are numbered, as torch before 1.13 wrote them: only parameters, inputs and outputs keep their names."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from optimum_htp.onnxfile.model import Graph, OnnxModel


def numbered(model: OnnxModel) -> OnnxModel:
    """The same graph without names of nodes and of what they produce; the nodes have the same keys."""
    kept = {
        each.name for _, graph in model.graphs() for each in (*graph.inputs, *graph.outputs, *graph.initializers)
    } | {""}
    names: dict[str, str] = {}
    numbers = count()

    def renamed(tensors: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name if name in kept else names.setdefault(name, str(len(names))) for name in tensors)

    def without_names(graph: Graph) -> Graph:
        nodes = [
            replace(
                node,
                name=f"{node.op_type}_{next(numbers)}",
                inputs=renamed(node.inputs),
                outputs=renamed(node.outputs),
                bodies=tuple((name, without_names(body)) for name, body in node.bodies),
            )
            for node in graph.nodes
        ]
        return replace(graph, nodes=nodes)

    return replace(model, graph=without_names(model.graph))
