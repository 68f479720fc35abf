"""The join of a tagged graph and one that tools made from it: what is known so far of whose work each node does.

In the rules, `old` is an operation or a value of the tagged side, and `new` one of the target.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from optimum_htp.tagging.projection.flow import ADAPTERS, REACH, Flow

SHARED = -1
"""The work of several nodes of the target, or of none alone."""

NOBODY = -2
"""Work that nothing in the target depends on, or whose result the target stores."""

_STEPS = 2_000  # how many nodes are looked at for one question, so that no graph takes longer than its size


@dataclass(slots=True)
class Match:
    """What a node of the target is known to do."""

    # Tagged nodes whose results it produces, or that it is by name and operator, in the order of discovery.
    anchors: dict[int, None] = field(default_factory=dict)
    work: list[int] = field(default_factory=list)  # all tagged nodes whose work it does, anchors included
    related: int | None = None  # a tagged node that this one is a part or an adapter of
    packed: tuple[
        int, ...
    ] = ()  # tagged nodes whose weights were packed into one that it reads, or whose results it parts
    weight: int | None = None  # the value of the tagged side that its result was made from, as the names say


class Join:
    """A tagged flow and a target's, and what the rules have matched."""

    def __init__(self, old: Flow, new: Flow, scopes: list[int | None], same: dict[int, int]) -> None:
        self.old, self.new = old, new  # `old` has a source graph twice if the target does
        self.scopes = scopes  # the scope of `old` for each of `new`
        self.same = same  # the value of `old` for each value of `new` that is known
        self.alive = set(self.same.values())  # the values of `old` that the target has
        self.matches = [Match() for _ in new.operations]
        # For each tagged operation the one of the target that does its work, `SHARED`, `NOBODY`, or None: undecided.
        self.owner: list[int | None] = [None] * len(self.old.operations)
        self.renamed: set[int] = set()  # operations of the target that were recognized, with results of new names
        # For each value, by the place of a consumer, the place of the next one that may be lost, itself if it may be.
        self._ahead: dict[int, list[int]] = {}
        self.parted: set[int] = set()  # operations of the target that make, or take apart, packed results and no more
        self.orphans: set[int] = set()  # operations of the target that do no work that the tagged side lost

    def anchor(self, new: int, old: int) -> None:
        """Records that a node of the target produces the results of a tagged one."""
        self.matches[new].anchors[old] = None
        if self.owner[old] is None:
            self.owner[old] = new

    def relate(self, new: int, old: int) -> None:
        """Records that a node of the target only passes on the results of a tagged one, its anchor so far."""
        del self.matches[new].anchors[old]
        self.matches[new].related = old
        self.owner[old] = None

    def rename(self, new: int, old: int) -> None:
        """Makes the results of a recognized node known by their new names."""
        self.renamed.add(new)
        outputs = zip(self.new.operations[new].outputs, self.old.operations[old].outputs, strict=False)
        for value, old_value in outputs:
            if value >= 0 and old_value >= 0:
                self.same.setdefault(value, old_value)
                self.alive.add(old_value)

    def is_anchor(self, old: int) -> bool:
        """Whether the node that does a tagged node's work is known by name, or by its weights."""
        owner = self.owner[old]
        if owner is None or owner < 0:
            return False
        return old in self.matches[owner].anchors or old in self.matches[owner].packed

    def is_itself(self, new: int) -> bool:
        """Whether a node of the target has the operator of a tagged node whose results it produces."""
        return any(self.old.op_type(old) in ("", self.new.op_type(new)) for old in self.matches[new].anchors)

    def adapts(self, new: int, old: int) -> bool:
        """Whether a node of the target only passes on what a tagged node produces, being of another kind."""
        op_type = self.new.op_type(new)
        return op_type in ADAPTERS and self.old.op_type(old) not in ("", op_type)

    def survives(self, old: int) -> bool:
        """Whether the target has a result of a tagged node."""
        return not self.alive.isdisjoint(self.old.operations[old].outputs)

    def flows(self, value: int) -> bool:
        """Whether a tagged value depends on the model's inputs, beyond their shapes."""
        producer = self.old.values[value].producer
        return not self.old.values[value].is_initializer and (producer is None or not self.old.constant[producer])

    def reads(self, new: int) -> set[int]:
        """The tagged values that a node of the target consumes."""
        return {self.same[value] for value in self.new.operations[new].inputs if value in self.same}

    def consumers(self, values: Iterable[int], *, steps: int = _STEPS) -> Iterator[int]:
        """The tagged nodes that consume some values, as many as one question may look at."""
        return islice((consumer for value in values for consumer in self.old.values[value].consumers), steps)

    def lost_consumers(self, values: Iterable[int]) -> Iterator[int]:
        """The tagged nodes that consume some values and that the target shows no result of.

        What it shows once it shows for good, so each such consumer is passed over once, and not by each question: of
        thousands of nodes that consume the same, all are found in the time that it takes to look at them.
        """
        for value in values:
            consumers = self.old.values[value].consumers
            if value not in self._ahead:
                self._ahead[value] = list(range(len(consumers) + 1))
            ahead = self._ahead[value]
            index = _first(ahead, 0)
            while index < len(consumers):
                if self.survives(consumers[index]):
                    ahead[index] = index + 1
                else:
                    yield consumers[index]
                index = _first(ahead, index + 1)

    def consumers_of_weight(self, value: int) -> list[int]:
        """The tagged nodes that consume an initializer; none if there are so many that it says nothing."""
        weight = self.old.values[value]
        return weight.consumers if weight.is_initializer and len(weight.consumers) <= REACH else []


def _first(ahead: list[int], index: int) -> int:
    """The first place from `index` on that points to itself; the way there is made shorter for those who ask next."""
    end = index
    while ahead[end] != end:
        end = ahead[end]
    while ahead[index] != end:
        ahead[index], index = end, ahead[index]
    return end
