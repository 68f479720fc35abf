"""Projection: tags of the graphs that the exporter wrote, carried onto the graph that the user gets.

Optimum may merge, de-duplicate, optimize or slim what the exporter wrote. A node that is still there is recognized by
its operator, name and outputs, in the graph or body that descends from the traced one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optimum_htp.hierarchy import NodeKey, NodeTag, common_ancestor, tag_ancestors
from optimum_htp.onnxfile import Graph, Node, OnnxModel


@dataclass(frozen=True, slots=True)
class TaggedModel:
    """A graph with a tag for each of its nodes."""

    model: OnnxModel
    tags: dict[NodeKey, NodeTag]


_Identity = tuple[str, str, str, tuple[str, ...]]


def project(sources: Sequence[TaggedModel], target: OnnxModel) -> dict[NodeKey, NodeTag]:
    """Tags a graph that was made from tagged ones.

    Args:
        sources: The tagged graphs that the target may descend from, the likeliest first.
        target: The graph to tag.

    Returns:
        A tag for each node. A node with the operator, name and outputs of a tagged node keeps its tag; in a graph
        that lost none of its nodes, a node that is new was inserted between them and goes by those around it; every
        other node is unresolved.
    """
    pool = [_indexed(source, path, graph) for source in sources for path, graph in source.model.graphs()]
    root = _common_root(sources)
    tags: dict[NodeKey, NodeTag] = {}
    lossless: set[str] = set()
    for path, graph in target.graphs():
        best = _best_match(path, graph, pool)
        found = 0
        for position, node in enumerate(graph.nodes):
            tag = best.get(_identity(node)) if best is not None else None
            if tag is not None:
                tags[path, position] = tag
                found += 1
        if best is None or found == len(best):
            lossless.add(path)
    _tag_inserted(target, tags, lossless)
    _tag_stand_ins(target, tags, sources)
    for path, graph in target.graphs():
        for position in range(len(graph.nodes)):
            tags.setdefault((path, position), NodeTag(root, "unresolved"))
    return tags


def _identity(node: Node) -> _Identity:
    return node.domain, node.op_type, node.name, node.outputs


@dataclass(frozen=True, slots=True)
class _IndexedGraph:
    path: str
    nodes: dict[_Identity, NodeTag]


def _indexed(source: TaggedModel, path: str, graph: Graph) -> _IndexedGraph:
    return _IndexedGraph(
        path, {_identity(node): source.tags[path, position] for position, node in enumerate(graph.nodes)}
    )


def _best_match(path: str, graph: Graph, pool: Sequence[_IndexedGraph]) -> dict[_Identity, NodeTag] | None:
    """The tagged graph that shares most nodes with a graph; of equals, the first with its path, else the first."""
    identities = {_identity(node) for node in graph.nodes}
    best: dict[_Identity, NodeTag] | None = None
    best_score = (0, False)
    for candidate in pool:
        score = (len(identities & candidate.nodes.keys()), candidate.path == path)
        if score[0] and score > best_score:
            best, best_score = candidate.nodes, score
    return best


def _common_root(sources: Iterable[TaggedModel]) -> str:
    roots = {next(tag_ancestors(tag.tag)) for source in sources for tag in source.tags.values()}
    return min(roots) if roots else "/"


def _tag_inserted(target: OnnxModel, tags: dict[NodeKey, NodeTag], lossless: set[str]) -> None:
    """Tags the nodes that are new in graphs that lost none, by what reads them, else by what they read or hold."""
    graphs = dict(target.graphs())
    for path in sorted(lossless, key=len, reverse=True):
        graph = graphs[path]
        fresh = [position for position in range(len(graph.nodes)) if (path, position) not in tags]
        if not fresh:
            continue
        readers: dict[str, list[int]] = {}
        writers = {name: position for position, node in enumerate(graph.nodes) for name in node.outputs if name}
        for position, node in enumerate(graph.nodes):
            for name in node.inputs:
                readers.setdefault(name, []).append(position)
        for position in (*reversed(fresh), *fresh):
            if (path, position) in tags:
                continue
            node = graph.nodes[position]
            around = [tags[path, i].tag for name in node.outputs for i in readers.get(name, ()) if (path, i) in tags]
            around = around or [
                tags[path, writers[name]].tag
                for name in node.inputs
                if name in writers and (path, writers[name]) in tags
            ]
            around = around or _held(node, path, position, tags)
            if around:
                tags[path, position] = NodeTag(common_ancestor(around), "inserted")


def _tag_stand_ins(target: OnnxModel, tags: dict[NodeKey, NodeTag], sources: Sequence[TaggedModel]) -> None:
    """Tags the constants that stand in for the outputs that one branch of a merged decoder doesn't compute.

    The output's name says which module computes it in the other branch.
    """
    made: dict[str, NodeTag] = {}
    for source in sources:
        for position, node in enumerate(source.model.graph.nodes):
            for name in node.outputs:
                made.setdefault(name, source.tags["", position])
    for path, graph in target.graphs():
        for position, node in enumerate(graph.nodes):
            if (path, position) not in tags and not node.inputs and not node.bodies:
                stood_for = [made[name] for name in node.outputs if name in made]
                if stood_for:
                    tags[path, position] = NodeTag(stood_for[0].tag, "inserted", stood_for[0].call)


def _held(node: Node, path: str, position: int, tags: dict[NodeKey, NodeTag]) -> list[str]:
    inside = []
    for attribute, body in node.bodies:
        inner = f"{path}/{position}.{attribute}" if path else f"{position}.{attribute}"
        inside += [tags[inner, i].tag for i in range(len(body.nodes)) if (inner, i) in tags]
    return inside
