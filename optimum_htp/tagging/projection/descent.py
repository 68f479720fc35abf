"""Whether a graph was made from the tagged one at all: how much of it fits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from optimum_htp.onnxfile import Node, OnnxModel
from optimum_htp.tagging.projection.flow import BLOCKED, GLUE
from optimum_htp.tagging.projection.join import Join
from optimum_htp.tagging.projection.renamed import shorter_names
from optimum_htp.tagging.rules.metadata import NAME_SCOPES

# Of 427 graphs that tools made from 24 models, 85% or more fits; of graphs of other architectures 73% at most, except
# for sisters, of which most fits (DistilBERT and BERT).
_ENOUGH = 0.79

# What ONNX Runtime lays out in blocks of channels keeps what it read, at any width: all of it fits in 34 graphs of 17
# models; of sisters that differ in depth 89% at most.
_ENOUGH_BLOCKED = 0.93

# Tools keep an exporter's names, make new ones from them, or make their own, which look different. Of the names that
# look like an exporter's, 1.3% at most are new in graphs that tools made, and 5.7% or more in graphs of sister
# architectures: the numbers in them shift with every node.
_STRANGE = 0.03

# What tools leave of what the nodes of a dynamo file say of themselves is as it was, also where most nodes are new: of
# four models that transformers' fusions changed, all that both graphs say is the same, and is 73% to 92% of what the new
# one says. Sister architectures share no more than the first steps.
_SAID, _SAID_BY_BOTH = 0.97, 0.6
_FEW = 3
_EXPORTED = re.compile(r"/.*_output_\d+|onnx::[A-Za-z]+_\d+")
_LAID_OUT = re.compile(r"/.*_output_\d+(_bn)?_nchwc")  # the name of a node whose result has lost its own


@dataclass(frozen=True, slots=True)
class Descent:
    """How much of a graph fits the tagged one, in numbers of nodes and names."""

    nodes: int  # that compute, and claim by a name to be tagged ones or do unknown work
    fitting: int  # of those, that consume what the tagged nodes do whose results they produce
    blocked: int  # of `nodes`, that claim to be tagged ones and are laid out in blocks of channels
    blocked_fitting: int
    known: int  # of any kind, that produce a result that the tagged graph has too
    linked: int  # of those, that consume what the tagged graph has, or nothing
    all_nodes: int
    strange: int  # of `names`, that the tagged graph does not have
    names: int  # that look like an exporter's, also where only the name of a node still shows them
    said: int  # nodes that say which operation of torch's they are
    said_by_both: int  # of those, whose result a node of the tagged graph makes that says it too
    agreeing: int  # of those, that say the same

    @property
    def plausible(self) -> bool:
        """Whether the graph may have been made from the tagged one."""
        if self.strange >= _FEW and self.strange > _STRANGE * self.names:
            return False
        if self.said >= _FEW and self.said_by_both >= _SAID_BY_BOTH * self.said:
            return self.agreeing >= _SAID * self.said_by_both
        if not self.nodes:
            return self.linked > 0 or not self.all_nodes
        return self.blocked_fitting >= _ENOUGH_BLOCKED * self.blocked and self.fitting >= _ENOUGH * self.nodes

    def __str__(self) -> str:
        parts = [f"{self.fitting} of {self.nodes} nodes that can be compared fit"]
        if self.blocked:
            parts.append(f"{self.blocked_fitting} of {self.blocked} that are laid out in blocks")
        parts.append(f"{self.known} of {self.all_nodes} produce a tensor that the tagged graph produces")
        if self.said_by_both:
            parts.append(f"{self.agreeing} of {self.said_by_both} say that they are the same operation of torch's")
        if self.strange:
            parts.append(f"{self.strange} of {self.names} names are another export's")
        return ", ".join(parts)


def descent(join: Join, sources: Iterable[OnnxModel]) -> Descent:
    """Measures how well a target fits the tagged side that it was joined with, and the names in its sources."""
    sources = list(sources)
    known = linked = 0
    blocked: set[int] = set()
    fits: dict[int, bool] = {}
    for new, match in enumerate(join.matches):
        reads, node = join.reads(new), join.new.operations[new].node
        if match.anchors and node.domain == BLOCKED:
            blocked.add(new)
            # Of its weights only the bias may have kept its name, which says little.
            reads = {value for value in reads if join.flows(value)} or reads
        known += bool(match.anchors)
        linked += bool(match.anchors) and bool(reads or not join.new.operations[new].inputs)
        if node.op_type in GLUE or node.op_type == "Constant":
            continue
        if not match.anchors:
            if new in join.orphans:
                fits[new] = False
        elif reads:  # a node of which nothing but its result is known can't contradict
            fits[new] = any(
                not join.old.op_type(old) or not reads.isdisjoint(join.old.operations[old].inputs)
                for old in match.work
            )
    strange, names = _strange_names(join, sources)
    said = [operation.node for operation in join.new.operations if NAME_SCOPES in operation.node.metadata]
    both = max((_said_by_both(said, model) for model in sources), key=sum, default=[])
    return Descent(
        nodes=len(fits),
        fitting=sum(fits.values()),
        blocked=len(blocked & fits.keys()),
        blocked_fitting=sum(fits.get(new, False) for new in blocked),
        known=known,
        linked=linked,
        all_nodes=len(join.matches),
        strange=strange,
        names=names,
        said=len(said),
        said_by_both=len(both),
        agreeing=sum(both),
    )


def _said_by_both(nodes: Iterable[Node], model: OnnxModel) -> list[bool]:
    """Of nodes whose result a node of a model makes that says what it is too, whether they say the same."""
    before = {node.outputs[0]: node.metadata.get(NAME_SCOPES) for _, node in model.nodes() if node.outputs}
    known = ((node.metadata[NAME_SCOPES], before.get(node.outputs[0])) for node in nodes if node.outputs)
    return [one == other for one, other in known if other is not None]


def _strange_names(join: Join, sources: Iterable[OnnxModel]) -> tuple[int, int]:
    """How many names, of how many that look like an exporter's, were not made from one in the sources."""
    if not any(operation.node.op_type for operation in join.old.operations):  # only results are known, and not all
        return 0, 0
    known: set[str] = set()
    for model in sources:
        for _, graph in model.graphs():
            known.update(value.name for value in graph.inputs)
            known.update(tensor.name for tensor in graph.initializers)
            known.update(name for node in graph.nodes for name in (node.name, *node.outputs))
    names = {value.name for value in join.new.values if value.consumers or value.producer is not None}
    exported = [name for name in names if _EXPORTED.fullmatch(name)]
    laid_out = {operation.node.name for operation in join.new.operations if operation.node.domain == BLOCKED}
    exported += [name for name in laid_out if _LAID_OUT.fullmatch(name)]
    strange = sum(name not in known and known.isdisjoint(shorter_names(name)) for name in exported)
    return strange, len(exported)
