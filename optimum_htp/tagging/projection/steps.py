"""Projection: tags of a graph, carried onto the graphs that tools make from it.

Runtimes, optimizers, quantizers and converters drop the metadata of nodes, rename, fuse and insert. What survives
best are the names of tensors. The face of this directory says which file does what.

Example: five nodes before a tool, three after it, and their tags.

    before  a = Conv(x, w)      b.conv
            c = Sub(a, mean)    b.norm
            d = Div(c, std)     b.norm
            y = Relu(d)         b.act
            z = Exp(y)          out
    after   a = Conv(x, w)      b.conv  the node that it still is
            y = FusedNorm(a)    b       fused, with the origins b.norm and b.act: it does what led from `a` to `y`
            z = Exp(y)          out
"""

from __future__ import annotations

from collections.abc import Sequence

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy import NodeKey, NodeTag, merged_roots, root_tags
from optimum_htp.onnxfile import OnnxModel, StoredNumbers, with_probes
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.tagging.projection.absorbed import match_absorbed
from optimum_htp.tagging.projection.deciding import Decider
from optimum_htp.tagging.projection.descent import descent
from optimum_htp.tagging.projection.flow import Flow
from optimum_htp.tagging.projection.folded import match_folded
from optimum_htp.tagging.projection.graph_pairs import pair
from optimum_htp.tagging.projection.join import Join
from optimum_htp.tagging.projection.packed import Packing
from optimum_htp.tagging.projection.renamed import match_names, match_renamed
from optimum_htp.tagging.projection.vanished import match_vanished


def project(sources: Sequence[TaggedGraph], target: OnnxModel, *, require_descent: bool = False) -> TaggedGraph:
    """Tags a graph that was made from tagged ones, which are given the likeliest first.

    Each node gets the tag of the tagged node that it still is; or one that is `fused`, with the lowest module of all
    whose work it does; `inserted`, if a tool put it in; or `unresolved`, with the root's tag. Raises HtpError if the
    target is broken, or if too little of it fits although `require_descent` asks for it.
    """
    refuse_empty(target)
    models = [source.model for source in sources]
    join, origin = _joined(models, target)
    new = join.new
    if require_descent:
        fit = descent(join, models)
        if not fit.plausible:
            advice = "give the tagged file that it was made from"
            raise HtpError(f"{target.path}: not made from the tagged graph: {fit}; {advice}")
    known: dict[int, NodeTag] = {}
    for old, operation in enumerate(join.old.operations):
        tag = sources[origin[operation.scope]].tags.get(operation.key)
        if tag is not None and tag.source != "unresolved":
            known[old] = tag
    roots = merged_roots(source.roots for source in sources)
    decided = Decider(join, known, roots=roots, returned=_returned(sources)).run()
    names = root_tags(tag for source in sources for tag in source.tags.values())
    unresolved = NodeTag(min(names, default="/"), "unresolved")
    tags = {operation.key: tag or unresolved for operation, tag in zip(new.operations, decided, strict=True)}
    return TaggedGraph(
        target,
        {key: tags[key] for key, _ in target.nodes()},
        roots.used_by(tags.values()),
        origin=sources[0].origin if sources else "",
        sources=tuple(sources),
        skeleton=sources[0].skeleton if sources else None,
    )


def work_of(source: OnnxModel, target: OnnxModel) -> dict[NodeKey, tuple[NodeKey, ...]]:
    """The nodes of a graph whose work each node of another does that was made from it, in the order of the source.

    A node that is still itself does its own work, and several can do that of one. What was put in for the work of a node
    goes with it too; what goes with none is left out.
    """
    join, _ = _joined([source], target)
    work: dict[NodeKey, tuple[NodeKey, ...]] = {}
    for operation, match in zip(join.new.operations, join.matches, strict=True):
        olds = sorted(match.work) or ([match.related] if match.related is not None else [])
        if olds:
            work[operation.key] = tuple(join.old.operations[old].key for old in olds)
    return work


def _joined(models: Sequence[OnnxModel], target: OnnxModel) -> tuple[Join, Sequence[int]]:
    """What all rules find, and of each scope of the tagged side the model that it is of."""
    if _has_other_weights(models, target):
        models = [with_probes(model) for model in models]
    join, origin = pair(models, Flow.of(target))
    match_names(join)
    match_absorbed(join)
    with StoredNumbers(target) as stored:
        packing = Packing(join, stored)
        match_renamed(join, packing)
        packing.match_weights()
        match_folded(join, packing)
    match_vanished(join)
    return join, origin


def _has_other_weights(models: Sequence[OnnxModel], target: OnnxModel) -> bool:
    """Whether a target stores what its sources do not."""
    known = {
        (tensor.name, tensor.dims) for model in models for _, graph in model.graphs() for tensor in graph.initializers
    }
    return any(
        (tensor.name, tensor.dims) not in known for _, graph in target.graphs() for tensor in graph.initializers
    )


def refuse_empty(target: OnnxModel) -> None:
    """Raises HtpError for a graph with outputs and no nodes, which no runtime loads, and says what writes such."""
    graph = target.graph
    given = {value.name for value in graph.inputs} | {tensor.name for tensor in graph.initializers}
    if not graph.nodes and any(value.name not in given for value in graph.outputs):
        raise HtpError(
            f"{target.path}: the graph has outputs and no nodes. Optimum's ORTOptimizer writes such files of merged "
            "decoders at O2 and above; optimize with O1, or optimize the decoders before they are merged"
        )


def _returned(sources: Sequence[TaggedGraph]) -> dict[str, NodeTag]:
    """The tag of the node that produces each result of the tagged models; of equal names, the first."""
    returned: dict[str, NodeTag] = {}
    for source in sources:
        results = {value.name for value in source.model.graph.outputs}
        for index, node in enumerate(source.model.graph.nodes):
            tag = source.tags.get(("", index))
            if tag is not None:
                for name in results.intersection(node.outputs):
                    returned.setdefault(name, tag)
    return returned
