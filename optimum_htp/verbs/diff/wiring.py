"""Whether two graphs are connected in the same way, whatever the names of their tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest

from optimum_htp.onnxfile import Graph, OnnxModel


def same_wiring(left: OnnxModel, right: OnnxModel) -> bool:
    """Whether two models have the same nodes in the same order, with inputs from the same producers.

    The names of nodes and tensors don't count, nor do values and the order of initializers and functions.
    """
    return all(one == other for one, other in zip_longest(_model_wires(left), _model_wires(right)))


def graphs_in_order(model: OnnxModel) -> list[tuple[str, Graph]]:
    """The graphs of a model as `OnnxModel.graphs` gives them, functions by their names: their order means nothing."""
    functions = {function.path for function in model.functions}
    owner = ""
    found: list[tuple[str, str, Graph]] = []
    for path, graph in model.graphs():
        owner = path if path in functions else owner
        found.append((owner, path, graph))
    return [(path, graph) for _, path, graph in sorted(found, key=lambda entry: entry[0])]


def _model_wires(model: OnnxModel) -> Iterator[object]:
    yield from _wires(model.graph, {}, (0,))
    for function in sorted(model.functions, key=lambda function: function.path):
        yield function.path
        yield from _wires(function.graph, {}, (0,))


def _wires(graph: Graph, outer: Mapping[str, object], place: tuple[object, ...]) -> Iterator[object]:
    """For each node its operator, and of each of its inputs where it comes from: a place, not a name."""
    known: dict[str, object] = dict(outer)
    known.update((tensor.name, "initializer") for tensor in graph.initializers)
    known.update(
        ((value.name, ("input", place, index)) for index, value in enumerate(graph.inputs) if value.name not in known)
    )
    for index, node in enumerate(graph.nodes):
        yield node.domain, node.op_type, tuple(known.get(name, name and "unknown") for name in node.inputs)
        yield tuple(bool(name) for name in node.outputs)
        for attribute, body in node.bodies:
            yield attribute
            yield from _wires(body, known, (*place, index, attribute))
        known.update((name, (place, index, output)) for output, name in enumerate(node.outputs) if name)
    yield tuple(known.get(value.name) for value in graph.outputs)
