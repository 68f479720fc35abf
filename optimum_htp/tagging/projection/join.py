"""The join of a tagged graph and one that tools made from it: what is known so far of whose work each node does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from optimum_htp.tagging.projection.flow import PLAIN, QUANTIZING, Flow
from optimum_htp.tagging.projection.graph_pairs import Pairing


SHARED = -1
"""The work of several nodes of the target, or of no one alone."""

NOBODY = -2
"""Work that nothing in the target depends on, or whose result the target stores."""

REACH = 8
"""How many vanished nodes in a row a rule looks through."""

BREADTH = 64
"""How many nodes a rule collects."""

_STEPS = 2_000  # how many nodes are looked at for one question, so that no graph takes longer than its size


@dataclass(slots=True)
class Match:
    """What a node of the target is known to do.

    Attributes:
        anchors: Tagged nodes whose results it makes, or that it is by name and operator, in the order of their finding.
        work: All tagged nodes whose work it does, anchors included.
        kin: A tagged node that it belongs to without doing all its work: a part of a decomposition, an adapter.
        weight: The value of the tagged side that its result was made from, as the names say.
    """

    anchors: dict[int, None] = field(default_factory=dict)
    work: list[int] = field(default_factory=list)
    kin: int | None = None
    weight: int | None = None


class Join:
    """A tagged flow and a target's, and what the rules have found.

    Args:
        pairing: The tagged side, and the values that are the same.
        new: The target.

    Attributes:
        old: The tagged side.
        new: The target.
        scopes: The scope of `old` for each scope of the target.
        same: The value of `old` for each value of the target that is known.
        alive: The values of `old` that the target has.
        matches: For each operation of the target what is known of it.
        owner: For each tagged operation the operation of the target that does its work, `SHARED`, `NOBODY`, or None
            where that isn't decided yet.
        constant: For each tagged operation whether its values are known before the model runs.
        renamed: The operations of the target whose results no name of theirs told, but a rule.
        orphans: The operations of the target that do no work that the tagged side lost.
    """

    def __init__(self, pairing: Pairing, new: Flow) -> None:
        self.old, self.new = pairing.old, new
        self.scopes = pairing.scopes
        self.same = dict(pairing.same)
        self.alive = set(self.same.values())
        self.matches = [Match() for _ in new.operations]
        self.owner: list[int | None] = [None] * len(self.old.operations)
        self.constant = self.old.constants()
        self.renamed: set[int] = set()
        self.orphans: set[int] = set()

    def anchor(self, number: int, found: int) -> None:
        """Records that a node of the target makes the results of a tagged one."""
        self.matches[number].anchors[found] = None
        if self.owner[found] is None:
            self.owner[found] = number

    def make_kin(self, number: int, found: int) -> None:
        """Records that a node of the target only passes on what a tagged one makes."""
        del self.matches[number].anchors[found]
        self.matches[number].kin = found
        self.owner[found] = None

    def rename(self, number: int, found: int) -> None:
        """Makes the results of a recognized node known by their new names."""
        self.renamed.add(number)
        ours, known = self.new.operations[number].outputs, self.old.operations[found].outputs
        for value, old_value in zip(ours, known, strict=False):
            if value >= 0 and old_value >= 0:
                self.same.setdefault(value, old_value)
                self.alive.add(old_value)

    def op(self, found: int) -> str:
        """The operator of a tagged node; empty where only its result is known."""
        return self.old.operations[found].node.op_type

    def new_op(self, number: int) -> str:
        """The operator of a node of the target."""
        return self.new.operations[number].node.op_type

    def is_anchor(self, found: int) -> bool:
        """Whether the node that does a tagged node's work is known by name."""
        owner = self.owner[found]
        return owner is not None and owner >= 0 and found in self.matches[owner].anchors

    def is_itself(self, number: int) -> bool:
        """Whether a node of the target has the operator of a tagged node whose results it makes."""
        return any(self.op(each) in ("", self.new_op(number)) for each in self.matches[number].anchors)

    def adapts(self, number: int, found: int) -> bool:
        """Whether a node of the target only passes on what a tagged node makes, being of another kind."""
        op_type = self.new_op(number)
        return op_type in PLAIN | QUANTIZING and self.op(found) not in ("", op_type)

    def survives(self, found: int) -> bool:
        """Whether the target has a result of a tagged node."""
        return any(value in self.alive for value in self.old.operations[found].outputs)

    def flows(self, value: int) -> bool:
        """Whether a tagged value depends on the model's inputs, beyond their shapes."""
        maker = self.old.values[value].maker
        return not self.old.values[value].stored and (maker is None or not self.constant[maker])

    def reads(self, number: int) -> set[int]:
        """The tagged values that a node of the target reads."""
        return {self.same[value] for value in self.new.operations[number].inputs if value in self.same}

    def readers(self, values: Iterable[int]) -> Iterator[int]:
        """The tagged nodes that read some values, as many as one question may look at."""
        return islice((reader for value in values for reader in self.old.values[value].readers), _STEPS)

    def readers_of_weight(self, value: int) -> list[int]:
        """The tagged nodes that read a stored tensor; none where so many do that it tells nothing."""
        stored = self.old.values[value]
        return stored.readers if stored.stored and len(stored.readers) <= REACH else []
