"""The graphs around a graph, and what is known in each before the model runs."""

from __future__ import annotations

from dataclasses import dataclass

from optimum_htp.errors import PackageError
from optimum_htp.onnxfile.edges import reads, topological_order
from optimum_htp.onnxfile.model import Graph, OnnxModel

RANDOM_OPERATORS = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)
"""The operators that draw random numbers whenever they run."""

_NEVER_CONSTANT = RANDOM_OPERATORS | {"Dropout"}  # which draws in training mode


@dataclass(frozen=True, slots=True)
class Scope:
    """A graph on the way from the main graph to one inside it.

    `order` has its nodes' indices, producers before consumers; `constants` what depends on nothing but initializers.
    """

    path: str
    graph: Graph
    order: tuple[int, ...]
    constants: frozenset[str]
    initializers: frozenset[str]


def scopes_of(model: OnnxModel, path: str) -> tuple[Scope, ...]:
    """The graphs around a graph and itself, the main graph first. Raises PackageError for a function's graph."""
    if "::" in path.split("/", 1)[0]:
        raise PackageError(f"{model.path}: the module's nodes are in the function {path!r}; inline functions first")
    graphs = dict(model.graphs())
    parts = path.split("/") if path else []
    scopes: list[Scope] = []
    known: set[str] = set()
    for depth in range(len(parts) + 1):
        name = "/".join(parts[:depth])
        graph = graphs[name]
        initializers = frozenset(tensor.name for tensor in graph.initializers)
        known |= initializers
        constants: set[str] = set()
        order = topological_order(graph.nodes)
        for node in (graph.nodes[index] for index in order):
            if node.op_type not in _NEVER_CONSTANT and known.issuperset(reads(node)):
                constants.update(node.outputs)
                known.update(node.outputs)
        scopes.append(Scope(name, graph, order, frozenset(constants) - {""}, initializers))
    return tuple(scopes)
