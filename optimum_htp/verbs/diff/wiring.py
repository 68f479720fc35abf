"""Whether two graphs are connected in the same way, however their tensors are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optimum_htp.onnxfile import Graph, OnnxModel


def same_wiring(left: OnnxModel, right: OnnxModel) -> bool:
    """Whether two models have the same nodes in the same order, which read the same of what others make.

    The names of nodes and tensors don't count, nor do values and the order in which tensors are stored.
    """
    if [function.path for function in left.functions] != [function.path for function in right.functions]:
        return False
    graphs = [(left.graph, right.graph)]
    graphs += [(one.graph, other.graph) for one, other in zip(left.functions, right.functions, strict=True)]
    return all(
        one == other for pair in graphs for one, other in _both(_wires(pair[0], {}, (0,)), _wires(pair[1], {}, (0,)))
    )


def _both(left: Iterator[object], right: Iterator[object]) -> Iterator[tuple[object, object]]:
    end = object()
    while True:
        one, other = next(left, end), next(right, end)
        yield one, other
        if one is end or other is end:
            return


def _wires(graph: Graph, outer: Mapping[str, object], place: tuple[object, ...]) -> Iterator[object]:
    """For each node its operator and where each of its inputs is from, which is no name."""
    known: dict[str, object] = dict(outer)
    known.update((tensor.name, ("stored", tensor.data_type, tensor.dims)) for tensor in graph.initializers)
    known.update(
        ((value.name, ("input", place, index)) for index, value in enumerate(graph.inputs) if value.name not in known)
    )
    for position, node in enumerate(graph.nodes):
        yield node.domain, node.op_type, tuple(known.get(name, name and "unknown") for name in node.inputs)
        yield tuple(bool(name) for name in node.outputs)
        for element, body in node.bodies:
            yield element
            yield from _wires(body, known, (*place, position, element))
        known.update((name, (place, position, index)) for index, name in enumerate(node.outputs) if name)
    yield tuple(known.get(value.name) for value in graph.outputs)
