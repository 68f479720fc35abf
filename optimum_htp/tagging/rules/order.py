"""Evidence rules: from a graph as the exporter wrote it and the trace of that export to a tag for every node.

A rule is a small function for one kind of evidence. The rules are tried in the order of `RULES`; the first that can
decide does, and the node records which. A node that none decides is *unresolved*, and counted so.

Example: the trace says that 3 was made in a call of `fc`, and 4 in one of `act`; the others have no scope.

    0: s = Shape(x)                   dataflow    root  the lowest module that contains its consumers', 2 and 4
    1: fc.bias = Identity(act.bias)   parameter   fc    it produces a parameter that fc holds
    2: r = Reshape(x, s)              dataflow    fc    its consumer is 3, which was decided before
    3: g = Gemm(r, fc.weight, fc.bias)  scope     fc
    4: y = Expand(g, s)               scope       act
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from optimum_htp.hierarchy import NodeKey, NodeTag, Roots
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.tagging.rules.evidence import Evidence, Owner
from optimum_htp.tagging.rules.fusions import fused_origins
from optimum_htp.tagging.rules.metadata import statements
from optimum_htp.tagging.rules.node_names import has_scopes, read_names, scripted_nodes
from optimum_htp.tagging.rules.statements import believed
from optimum_htp.tagging.rules.weights import read_weights
from optimum_htp.tagging.tracing.trace import ExportTrace, ModuleTrace


def by_call(key: NodeKey, evidence: Evidence) -> Owner | None:
    """The call that the node was made in, in the program that it was exported from; of several what is around them."""
    calls = evidence.trace.calls
    return evidence.common(Owner(calls[number].path, number) for number in evidence.trace.made.get(key, ()))


def by_metadata(key: NodeKey, evidence: Evidence) -> Owner | None:
    """The module that torch's metadata names; which call of it is not written there."""
    if key in evidence.trace.made:
        return None
    path = evidence.stated.get(key)
    return Owner(path) if path is not None else None


def by_scope(key: NodeKey, evidence: Evidence) -> Owner | None:
    """The call in which the node's output was made, in a body its holder's; else the one that the node's name says."""
    trace = evidence.trace
    for name in evidence.nodes[key].outputs:
        if name in trace.scopes:
            call = trace.scopes[name]
            return Owner(trace.calls[call].path, call)
    holder = evidence.holder(key)
    if holder is not None and evidence.sources.get(holder) == "scope":
        return evidence.owners[holder]
    return evidence.named.get(key)


def by_parameter(key: NodeKey, evidence: Evidence) -> Owner | None:
    """The module that holds the parameter or buffer that the node produces: a copy of a de-duplicated initializer.

    Where the names of nodes say nothing, the module that computes with a parameter that the node reads.
    """
    if key in evidence.weighed:
        return evidence.weighed[key]
    tree, tensors = evidence.trace.tree, evidence.trace.tensors
    holder = next((tensors[name] for name in evidence.nodes[key].outputs if name in tensors), None)
    if holder is None:
        return None
    if tree.module(holder).aliases and evidence.consumers_in_doubt(key):
        evidence.doubtful.add(key)  # by which of its names it was called is not known
        return None
    # If all consumers ran in one call of that module, the owner is that call, by the name that it was called by.
    consumer = evidence.common(evidence.consumer_owners(key))
    same = consumer is not None and tree.module(consumer.path) is tree.module(holder)
    return consumer if same else Owner(holder)


def by_consumers(key: NodeKey, evidence: Evidence) -> Owner | None:
    """The lowest module that contains all consumers of the node's outputs."""
    if key in evidence.doubtful or evidence.consumers_in_doubt(key):
        evidence.doubtful.add(key)
        return None
    owner = evidence.common(evidence.consumer_owners(key))
    if owner is not None and evidence.stated and evidence.weighs(key) and not evidence.contains_others(owner.path):
        # A tool's product, whose weights are another module's than an activation's that reads it.
        return Owner(evidence.trace.tree.lowest_common([owner.path, owner.path[:-1]]))
    return owner


def by_producers(key: NodeKey, evidence: Evidence) -> Owner | None:
    """For a node without consumers, the lowest module that contains its producers; else its holder's."""
    if key in evidence.doubtful or evidence.producers_in_doubt(key):
        evidence.doubtful.add(key)
        return None
    owner = evidence.common(evidence.producer_owners(key))
    holder = evidence.holder(key)
    if owner is None and holder is not None:
        owner = evidence.owners.get(holder)
    # What forwards a graph input to a graph output is the root's: the exporter put it there.
    return Owner(()) if owner is None and evidence.is_returned(key) else owner


_Rules = tuple[tuple[str, Callable[[NodeKey, Evidence], Owner | None]], ...]

RULES: _Rules = (
    ("scope", by_call),
    ("metadata", by_metadata),
    ("scope", by_scope),
    ("parameter", by_parameter),
    ("dataflow", by_consumers),
)
"""What is tried on every node, consumers before producers."""

LAST_RULES: _Rules = (("dataflow", by_producers),)
"""What is tried on the nodes that are left, producers before consumers."""


def tag_model(
    model: OnnxModel, trace: ModuleTrace, *, distinct: Mapping[tuple[str, str], str] | None = None
) -> dict[NodeKey, NodeTag]:
    """Tags every node of a graph as the exporter left it, bodies and functions too; unresolved ones as the root's.

    `distinct` is what the values of stored tensors say, for nodes with names that say nothing: see `read_weights`.
    """
    evidence = Evidence(model, trace)
    said = statements(model)
    heard = believed(model, trace, said)
    evidence.stated = heard.paths
    if trace.made:  # what is not there was made in no call
        evidence.doubtful.update(key for key, numbers in trace.made.items() if not numbers)
    else:
        evidence.doubtful.update(heard.doubtful)
    if not trace.scopes and not trace.made and (has_scopes(model) or not said):
        evidence.named, doubtful = read_names(model, trace)
        evidence.doubtful.update(doubtful)
        if not has_scopes(model) and not said:
            evidence.weighed = read_weights(model, trace, distinct)
            # What a proven node reads may have been made anywhere: a constant may be the argument of a call.
            evidence.doubtful.update(evidence.nodes)
    elif trace.scopes and not trace.scripted:
        unscoped = {key: node for key, node in evidence.nodes.items() if trace.scopes.keys().isdisjoint(node.outputs)}
        evidence.doubtful.update(scripted_nodes(unscoped))
    for key in reversed(evidence.nodes):
        _decide(key, RULES, evidence)
    for key in evidence.nodes:
        if key not in evidence.owners:
            _decide(key, LAST_RULES, evidence)
    tags = {key: evidence.node_tag(key) for key in evidence.nodes}
    if heard.paths and not trace.calls:
        for key, paths in fused_origins(model, evidence).items():
            origins = tuple(map(trace.tree.tag, paths))
            tags[key] = NodeTag(trace.tree.tag(trace.tree.lowest_common(paths)), "fused", None, origins)
    return tags


def tag_export(export: ExportTrace) -> TaggedGraph:
    """Tags the graph of an export, as the exporter left it."""
    return TaggedGraph(export.model, tag_model(export.model, export.trace), Roots((export.root,)))


def _decide(key: NodeKey, rules: _Rules, evidence: Evidence) -> None:
    for source, rule in rules:
        owner = rule(key, evidence)
        if owner is not None:
            evidence.owners[key] = owner
            evidence.sources[key] = source
            return
