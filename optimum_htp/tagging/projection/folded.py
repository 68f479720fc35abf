"""What nodes took on into their weights, though their results kept the names that they had before it.

Example: the weights of `Conv` are others now, and what read the normalized value reads its result: it normalizes, too.

    before:  c = Conv(x, w);   n = BatchNormalization(c, s, b, m, v);   y = Relu(n)
    after:   c = Conv(x, w2);  y = Relu(c)

What was computed beside it from the same input goes with it: an adapter of low rank, merged into the weight.
"""

from __future__ import annotations

from optimum_htp.tagging.projection.flow import BREADTH, GLUE, REACH
from optimum_htp.tagging.projection.join import Join
from optimum_htp.tagging.projection.packed import Packing

FOLDED = frozenset(("Add", "BatchNormalization", "Div", "Mul", "Sub"))
"""What scales and shifts: it can be folded into the weights of a neighbour."""


def match_folded(join: Join, packing: Packing) -> None:
    """Gives what was folded into the weights of the node in front of it to that node."""
    for new, match in enumerate(join.matches):
        outputs = join.new.operations[new].outputs
        known = len(outputs) == 1 and outputs[0] in join.same and join.new.op_type(new) not in GLUE
        if not known or not join.is_itself(new) or not packing.has_other_weights(new, [*match.anchors]):
            continue
        for old in _folded(join, new, outputs[0]):
            join.owner[old] = new


def _folded(join: Join, new: int, output: int) -> list[int]:
    """The nodes in a row that are gone between what a node produces and what its consumers read."""
    begun = {old for consumer in join.new.values[output].consumers for old in join.matches[consumer].anchors}
    value = join.same[output]
    folded: list[int] = []
    for _ in range(REACH):
        consumers = join.old.values[value].consumers
        if folded and not begun.isdisjoint(consumers):
            return folded
        gone = len(consumers) == 1 and join.owner[consumers[0]] is None and not join.survives(consumers[0])
        if not gone or join.old.op_type(consumers[0]) not in FOLDED:
            return []
        operation = join.old.operations[consumers[0]]
        beside = _beside(join, [other for other in operation.consumed if other != value], join.reads(new))
        if beside is None or not operation.produced:
            return []
        folded += [*beside, consumers[0]]
        value = operation.produced[0]
    return []


def _beside(join: Join, values: list[int], reads: set[int]) -> list[int] | None:
    """The nodes that made values of what is stored and of what a node reads; None if one is still there, or reads more."""
    gone: dict[int, None] = {}
    front = [value for value in values if join.flows(value) and value not in reads]
    while front:
        producer = join.old.values[front.pop()].producer
        if producer is None or join.owner[producer] is not None or join.survives(producer) or len(gone) >= BREADTH:
            return None
        if producer not in gone:
            gone[producer] = None
            consumed = join.old.operations[producer].consumed
            front += [value for value in consumed if join.flows(value) and value not in reads]
    return list(gone)
