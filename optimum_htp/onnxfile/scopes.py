"""The names that are visible in each graph of a model, and what a node reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from optimum_htp.errors import PackageError
from optimum_htp.onnxfile.model import Graph, Node, OnnxModel


RANDOM_OPERATORS = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)
"""The operators that draw random numbers whenever they run."""

_NEVER_CONSTANT = RANDOM_OPERATORS | {"Dropout"}  # which draws in training mode


@dataclass(frozen=True, slots=True)
class Scope:
    """A graph on the way from the main graph to the one that is cut.

    Attributes:
        path: Its path.
        graph: The graph.
        order: The positions of its nodes, each behind those whose tensors it reads; ONNX asks for that order in the file
            too, but some tools append nodes at the end, and ONNX Runtime doesn't mind.
        constants: Names of its tensors that depend on nothing but stored ones.
        stored: Names of its initializers.
    """

    path: str
    graph: Graph
    order: tuple[int, ...]
    constants: frozenset[str]
    stored: frozenset[str]


def scopes_of(model: OnnxModel, path: str) -> tuple[Scope, ...]:
    """The graphs around a graph and itself, the main graph first.

    Raises:
        PackageError: The graph is the inside of a function.
    """
    graphs = dict(model.graphs())
    names = [""]
    if "::" in path.split("/", 1)[0]:
        raise PackageError(f"{model.path}: the module's nodes are in the function {path!r}; inline functions first")
    if path:
        parts = path.split("/")
        names += ["/".join(parts[: index + 1]) for index in range(len(parts))]
    scopes: list[Scope] = []
    known: set[str] = set()
    for name in names:
        graph = graphs[name]
        stored = frozenset(tensor.name for tensor in graph.initializers)
        known |= stored
        constants: set[str] = set()
        order = _order(graph.nodes)
        for node in (graph.nodes[at] for at in order):
            if node.op_type not in _NEVER_CONSTANT and all(read in known for read in reads(node)):
                constants.update(node.outputs)
                known.update(node.outputs)
        scopes.append(Scope(name, graph, order, frozenset(constants) - {""}, stored))
    return tuple(scopes)


def _order(nodes: Sequence[Node]) -> tuple[int, ...]:
    """The positions of nodes, each behind those whose tensors it reads, and otherwise as they stand."""
    makers = {name: at for at, node in enumerate(nodes) for name in node.outputs if name}
    needed = [{makers[name] for name in reads(node) if name in makers} for node in nodes]
    if all(before < at for at, wanted in enumerate(needed) for before in wanted):
        return tuple(range(len(nodes)))
    readers: dict[int, list[int]] = {}
    for at, wanted in enumerate(needed):
        for before in wanted:
            readers.setdefault(before, []).append(at)
    missing = [len(wanted) for wanted in needed]
    ready = [at for at, count in enumerate(missing) if not count]
    order: list[int] = []
    while ready:
        order.append(heappop(ready))
        for at in readers.get(order[-1], ()):
            missing[at] -= 1
            if not missing[at]:
                heappush(ready, at)
    return (*order, *(at for at, count in enumerate(missing) if count))


def reads(node: Node) -> Iterator[str]:
    """The tensors that a node reads, those that its bodies take from around it included."""
    for name in node.inputs:
        if name:
            yield name
    for _, body in node.bodies:
        yield from _captured(body)


def _captured(body: Graph) -> Iterator[str]:
    inside = {value.name for value in body.inputs} | {tensor.name for tensor in body.initializers}
    inside |= {name for node in body.nodes for name in node.outputs}
    for node in body.nodes:
        yield from (name for name in reads(node) if name not in inside)
    yield from (value.name for value in body.outputs if value.name not in inside)
