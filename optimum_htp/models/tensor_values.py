"""The values that tensors inside a graph have on some inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from optimum_htp.errors import HtpError
from optimum_htp.models.external_weights import ExternalWeights
from optimum_htp.models.inputs import graph_inputs
from optimum_htp.models.measures import Array
from optimum_htp.models.runtime import DEFAULT_PROVIDER, run_session, session_options
from optimum_htp.onnxfile import (
    OnnxModel,
    Scope,
    SourceFiles,
    Value,
    graph_pieces,
    initializer_span,
    model_pieces,
    model_spans,
    reads,
    scope_spans,
    scopes_of,
)


def tensor_values(
    model: OnnxModel, names: Sequence[str], inputs: Mapping[str, Array], *, graph: str = ""
) -> dict[str, Array]:
    """Computes tensors of a model's graph, or of a body in it at the path `graph`, and nothing else.

    Weights are neither parsed nor held here. Raises HtpError if a tensor depends on what is not given, or on the turns of
    a loop, or ONNX Runtime can't run what it depends on.
    """
    given = {name: inputs[name] for name in names if name in inputs}
    wanted = [name for name in dict.fromkeys(names) if name not in given]
    if not wanted:
        return given
    scopes = scopes_of(model, graph)
    nodes, needed = _needed(scopes, wanted)
    missing = [name for name in needed if name not in inputs]
    if missing:
        raise HtpError(f"{model.path}: {', '.join(wanted[:4])} can't be computed without {', '.join(missing)}")
    declared = {value.name: value for value in graph_inputs(model)}
    feed = {name: inputs[name] for name in needed}
    with SourceFiles(model.path) as files:
        spans = model_spans(files.data)
        weights = ExternalWeights(model, files.data)
        parts = scope_spans(files.data, spans.graph, graph)
        used = dict.fromkeys(name for depth, index in nodes for name in reads(scopes[depth].graph.nodes[index]))
        stored = [span for name in used if (span := initializer_span(parts, name)) is not None]
        pieces = graph_pieces(
            name="part",
            nodes=(weights.placed("node", parts[depth].nodes[index]) for depth, index in nodes),
            initializers=(weights.placed("tensor", span) for span, is_sparse in stored if not is_sparse),
            sparse_initializers=(weights.placed("sparse", span) for span, is_sparse in stored if is_sparse),
            inputs=[declared[name] for name in feed],
            outputs=map(Value, wanted),
        )
        session = weights.open(
            files, model_pieces(spans, pieces), session_options(), provider=DEFAULT_PROVIDER, name=str(model.path)
        )
        computed = run_session(session, wanted, feed, name=str(model.path))
    return {**given, **dict(zip(wanted, computed, strict=True))}


def _needed(scopes: Sequence[Scope], names: Iterable[str]) -> tuple[list[tuple[int, int]], list[str]]:
    """The nodes that tensors depend on, as the index of their scope and their index there, and the tensors from outside."""
    producers = {
        name: (depth, index)
        for depth, scope in enumerate(scopes)
        for index, node in enumerate(scope.graph.nodes)
        for name in node.outputs
        if name
    }
    stored = {name for scope in scopes for name in scope.initializers}
    chosen: set[tuple[int, int]] = set()
    outside: dict[str, None] = {}
    stack = list(names)
    while stack:
        name = stack.pop()
        place = producers.get(name)
        if place is None:
            if name not in stored:
                outside[name] = None
        elif place not in chosen:
            chosen.add(place)
            stack.extend(reads(scopes[place[0]].graph.nodes[place[1]]))
    ranks = [{index: rank for rank, index in enumerate(scope.order)} for scope in scopes]
    return sorted(chosen, key=lambda place: (place[0], ranks[place[0]][place[1]])), list(outside)
