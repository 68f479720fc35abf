"""Projection: tags of a graph, carried onto the graphs that tools make from it.

Runtimes, optimizers, quantizers and converters drop the metadata of nodes, rename, fuse and insert. What survives best
are the names of tensors: `pairing` finds which graph was made from which, `matching` whose work each node does, and
`deciding` what that means for its tag. `files` does it for files and packages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optimum_htp.hierarchy import ModuleTree, NodeKey, NodeTag, tag_ancestors
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.projection.deciding import Decider
from optimum_htp.projection.flow import Flow
from optimum_htp.projection.matching import Matcher
from optimum_htp.projection.pairing import pair


@dataclass(frozen=True, slots=True)
class TaggedModel:
    """A graph with tags for its nodes.

    Attributes:
        model: The graph.
        tags: A tag for each node; nodes without one are no evidence for others.
    """

    model: OnnxModel
    tags: Mapping[NodeKey, NodeTag]


def project(
    sources: Sequence[TaggedModel], target: OnnxModel, *, trees: Iterable[ModuleTree] = ()
) -> dict[NodeKey, NodeTag]:
    """Tags a graph that was made from tagged ones.

    Args:
        sources: The tagged graphs that the target may descend from, the likeliest first.
        target: The graph to tag.
        trees: The module trees of the sources, as far as they are known.

    Returns:
        A tag for each node: that of the tagged node that it still is; `fused` where it does the work of others, with
        the lowest module that contains them, and the list of them; `inserted` where a tool put it in; `unresolved`,
        with the root's tag, where nothing is known.
    """
    new = Flow.of(target)
    pairing = pair([source.model for source in sources], new)
    matcher = Matcher(pairing, new)
    matcher.run()
    known: dict[int, NodeTag] = {}
    for number, operation in enumerate(pairing.old.operations):
        tag = sources[pairing.origin[operation.scope]].tags.get(operation.key)
        if tag is not None and tag.source != "unresolved":
            known[number] = tag
    decided = Decider(matcher, known, trees=trees, returned=_returned(sources)).run()
    roots = {next(tag_ancestors(tag.tag)) for source in sources for tag in source.tags.values()}
    unresolved = NodeTag(min(roots, default="/"), "unresolved")
    found = {operation.key: tag or unresolved for operation, tag in zip(new.operations, decided, strict=True)}
    return {(path, i): found[path, i] for path, graph in target.graphs() for i in range(len(graph.nodes))}


def _returned(sources: Sequence[TaggedModel]) -> dict[str, NodeTag]:
    found: dict[str, NodeTag] = {}
    for source in sources:
        results = {value.name for value in source.model.graph.outputs}
        for position, node in enumerate(source.model.graph.nodes):
            tag = source.tags.get(("", position))
            for name in results.intersection(node.outputs) if tag is not None else ():
                found.setdefault(name, tag) if tag is not None else None
    return found


__all__ = ["TaggedModel", "project"]
