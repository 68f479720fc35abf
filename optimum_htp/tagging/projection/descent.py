"""Whether a graph was made from another at all: how much of it fits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from optimum_htp.onnxfile import Graph, OnnxModel
from optimum_htp.tagging.projection.flow import BLOCKED, GLUE
from optimum_htp.tagging.projection.join import Join
from optimum_htp.tagging.projection.renamed import shorter_names


# Over 427 graphs that tools made from 24 models, 85% or more fits; of graphs of other architectures 73% at most, but
# for sisters, in which most of it fits (DistilBERT and BERT).
_ENOUGH = 0.79

# What ONNX Runtime lays out in blocks of channels keeps what it read, at any width: all of it fits in 34 graphs of 17
# models; of sisters that differ in depth 89% at most.
_ENOUGH_BLOCKED = 0.93

# Tools keep an exporter's names, make new ones from them, or make some of their own that look different. Of those that
# look like an exporter's, graphs that tools made have 1.3% at most that are new, graphs of sister architectures 5.7% or
# more: numbers in them shift with every node.
_STRANGE = 0.03
_FEW = 3
_EXPORTED = re.compile(r"/.*_output_\d+|onnx::[A-Za-z]+_\d+")
_LAID_OUT = re.compile(r"/.*_output_\d+(_bn)?_nchwc")  # the name of a node, whose result has none any more


@dataclass(frozen=True, slots=True)
class Descent:
    """How much of a graph fits the tagged one.

    Attributes:
        nodes: Nodes that say something: that compute, and claim by a name to be tagged ones or do no known work.
        fitting: Those that read what the tagged nodes read whose results they make.
        blocked: Those of `nodes` that claim to be tagged ones and are laid out in blocks of channels.
        blocked_fitting: Those of `fitting` that are.
        known: Nodes of any kind that make a result that the tagged graph makes too.
        linked: Those of them that read what the tagged graph has, or nothing.
        all_nodes: All nodes.
        strange: Names of tensors, such as an exporter gives, that the tagged graph does not have.
        names: Names of tensors such as an exporter gives, also those that only the name of a node still tells.
    """

    nodes: int
    fitting: int
    blocked: int
    blocked_fitting: int
    known: int
    linked: int
    all_nodes: int
    strange: int
    names: int

    @property
    def plausible(self) -> bool:
        """Whether the graph was made from the tagged one, as far as can be told."""
        if self.strange >= _FEW and self.strange > _STRANGE * self.names:
            return False
        if not self.nodes:
            return self.linked > 0 or not self.all_nodes
        if self.blocked_fitting < _ENOUGH_BLOCKED * self.blocked:
            return False
        return self.fitting >= _ENOUGH * self.nodes

    def __str__(self) -> str:
        parts = [f"{self.fitting} of {self.nodes} nodes that can be compared fit"]
        if self.blocked:
            parts.append(f"{self.blocked_fitting} of {self.blocked} that are laid out in blocks")
        parts.append(f"{self.known} of {self.all_nodes} make a tensor that the tagged graph makes")
        if self.strange:
            parts.append(f"{self.strange} of {self.names} names are another export's")
        return ", ".join(parts)


def descent(join: Join, sources: Iterable[OnnxModel]) -> Descent:
    """Measures how well a target fits the tagged side that it was joined with, and the names in its sources."""
    known = linked = 0
    fits: dict[int, bool] = {}
    blocked = {
        number
        for number, match in enumerate(join.matches)
        if match.anchors and join.new.operations[number].node.domain == BLOCKED
    }
    for number, match in enumerate(join.matches):
        reads = join.reads(number)
        if number in blocked:  # of its weights only the bias may have kept its name, which tells little
            reads = {value for value in reads if join.flows(value)} or reads
        known += bool(match.anchors)
        linked += bool(match.anchors) and bool(reads or not join.new.operations[number].inputs)
        if join.new_op(number) in GLUE or join.new_op(number) == "Constant":
            continue
        if not match.anchors:
            if number in join.orphans:
                fits[number] = False
        elif reads:
            # A node of which nothing but its result is known can't contradict.
            fits[number] = any(
                not join.op(each) or not reads.isdisjoint(join.old.operations[each].inputs) for each in match.work
            )
    return Descent(
        len(fits),
        sum(fits.values()),
        len(blocked & fits.keys()),
        sum(fits.get(number, False) for number in blocked),
        known,
        linked,
        len(join.matches),
        *_strange_names(join, sources),
    )


def _strange_names(join: Join, sources: Iterable[OnnxModel]) -> tuple[int, int]:
    """How many names, of how many that look like an exporter's, were not made from one in the sources."""
    if not any(operation.node.op_type for operation in join.old.operations):  # only results are known, and not all
        return 0, 0
    known = {name for model in sources for _, graph in model.graphs() for name in _names(graph)}
    names = {value.name for value in join.new.values if value.readers or value.maker is not None}
    exported = [name for name in names if _EXPORTED.fullmatch(name)]
    laid_out = {each.node.name for each in join.new.operations if each.node.domain == BLOCKED}
    exported += [name for name in laid_out if _LAID_OUT.fullmatch(name)]
    strange = sum(name not in known and known.isdisjoint(shorter_names(name)) for name in exported)
    return strange, len(exported)


def _names(graph: Graph) -> Iterator[str]:
    """The names in a graph, bodies apart: of its tensors and of its nodes."""
    yield from (value.name for value in graph.inputs)
    yield from (tensor.name for tensor in graph.initializers)
    for node in graph.nodes:
        yield node.name
        yield from node.outputs
