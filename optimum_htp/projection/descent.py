"""Whether a graph was made from another at all: how much of it fits."""

from __future__ import annotations

from dataclasses import dataclass

from optimum_htp.projection.flow import GLUE
from optimum_htp.projection.join import Join


# Over 427 graphs that tools made from 24 models, 85% or more fits; of graphs of other architectures 73% at most.
# Sister architectures (BART and Marian) have the same graph but for a few nodes: those can't be told apart by it.
_ENOUGH = 0.79


@dataclass(frozen=True, slots=True)
class Descent:
    """How much of a graph fits the tagged one.

    Attributes:
        nodes: Nodes that say something: that compute, and claim by a name to be tagged ones or do no known work.
        fitting: Those that read what the tagged nodes read whose results they make.
        known: Nodes of any kind that make a result that the tagged graph makes too.
        all_nodes: All nodes.
    """

    nodes: int
    fitting: int
    known: int
    all_nodes: int

    @property
    def plausible(self) -> bool:
        """Whether the graph was made from the tagged one, as far as can be told."""
        if not self.nodes:
            return self.known > 0 or not self.all_nodes
        return self.fitting >= _ENOUGH * self.nodes


def descent(join: Join) -> Descent:
    """Measures how well a target fits the tagged side that it was joined with."""
    nodes = fitting = known = 0
    for number, match in enumerate(join.matches):
        known += bool(match.anchors)
        if join.new_op(number) in GLUE or join.new_op(number) == "Constant":
            continue
        if not match.anchors:
            nodes += number in join.orphans
            continue
        reads = join.reads(number)
        if reads:
            nodes += 1
            # A node of which nothing but its result is known can't contradict.
            fitting += any(
                not join.op(each) or not reads.isdisjoint(join.old.operations[each].inputs) for each in match.work
            )
    return Descent(nodes, fitting, known, len(join.matches))
