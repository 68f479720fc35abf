"""Evidence rules: from a graph as the exporter wrote it and the trace of that export to a tag for every node.

One file for each kind of evidence, tried in the order of `RULES`; the first that can decide does, and the node
records which. What none decides is *unresolved*, and counted so.
"""

from __future__ import annotations

from collections.abc import Callable

from optimum_htp.hierarchy import NodeKey, NodeTag, Roots
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.tagging.rules import dataflow, metadata, node_names as names, parameter, scope
from optimum_htp.tagging.rules.evidence import Evidence, Owner
from optimum_htp.tagging.tracing.trace import ExportTrace, ModuleTrace


Rule = Callable[[NodeKey, Evidence], "Owner | None"]

RULES: tuple[tuple[str, Rule], ...] = (
    ("metadata", metadata.decide),
    ("scope", scope.decide),
    ("scope", names.decide),
    ("parameter", parameter.decide),
    ("dataflow", dataflow.decide_by_consumers),
)
"""What is tried on every node, consumers before producers."""

LAST_RULES: tuple[tuple[str, Rule], ...] = (("dataflow", dataflow.decide_by_producers),)
"""What is tried, producers before consumers, on the nodes that are left."""


def tag_model(model: OnnxModel, trace: ModuleTrace) -> dict[NodeKey, NodeTag]:
    """Tags every node of a graph, bodies and functions included.

    Args:
        model: The graph as the exporter left it.
        trace: What was recorded while the exporter ran.

    Returns:
        A tag for each node; unresolved nodes carry the root's.
    """
    evidence = Evidence(model, trace)
    tree = trace.tree
    evidence.doubtful.update(key for key, node in evidence.nodes.items() if metadata.in_doubt(node, tree))
    if not trace.scopes:
        read = names.read_names(model, trace)
        evidence.named.update(read.owners)
        evidence.doubtful.update(read.doubtful)
    elif not trace.scripted:
        unscoped = {key: node for key, node in evidence.nodes.items() if trace.scopes.keys().isdisjoint(node.outputs)}
        evidence.doubtful.update(names.scripted_nodes(unscoped))
    for key in reversed(evidence.order):
        _try(RULES, key, evidence)
    for key in evidence.order:
        if key not in evidence.owners:
            _try(LAST_RULES, key, evidence)
    return {key: evidence.node_tag(key) for key in evidence.order}


def tag_export(export: ExportTrace) -> TaggedGraph:
    """Tags the graph of an export, as the exporter left it."""
    return TaggedGraph(export.model, tag_model(export.model, export.trace), Roots((export.root,)))


def _try(rules: tuple[tuple[str, Rule], ...], key: NodeKey, evidence: Evidence) -> None:
    for source, decide in rules:
        owner = decide(key, evidence)
        if owner is not None:
            evidence.owners[key] = owner
            evidence.sources[key] = source
            return


__all__ = ["LAST_RULES", "RULES", "tag_export", "tag_model"]
