"""Whose work the nodes of a target do: the join between a tagged graph and one that tools made from it.

Values that kept their names are the anchors. What a tagged graph computes between them, and the target doesn't have
any more, is the work of the node that makes the next value downstream which both have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from optimum_htp.onnxfile import Node
from optimum_htp.projection.flow import GLUE, MOVEMENT, PLAIN, QUANTIZING, Flow
from optimum_htp.projection.pairing import Pairing


SHARED = -1
"""The work of several nodes of the target, or of no one alone."""

NOBODY = -2
"""Work that nothing in the target depends on, or whose result the target stores."""

_REACH = 8  # how many vanished nodes in a row a renamed one may have absorbed
_BREADTH = 64  # how many of them there may be on the way
_STEPS = 2_000  # how many nodes are looked at for one question, so that no graph takes longer than its size
_LONGEST_NAME = 2_000
_BOUNDARIES = frozenset("_:/.-")


@dataclass(slots=True)
class Match:
    """What a node of the target is known to do.

    Attributes:
        anchors: Tagged nodes whose results it makes, or that it is by name and operator.
        work: All tagged nodes whose work it does, anchors included.
        kin: A tagged node that it belongs to without doing all its work: a part of a decomposition, an adapter.
    """

    anchors: list[int] = field(default_factory=list)
    work: list[int] = field(default_factory=list)
    kin: int | None = None


class Matcher:
    """Finds, for each node of a target, its tagged nodes.

    Args:
        pairing: The tagged side, and the values that are the same.
        new: The target.

    Attributes:
        matches: For each operation of the target what is known of it.
        owner: For each tagged operation the operation of the target that does its work, `SHARED` or `NOBODY`.
    """

    def __init__(self, pairing: Pairing, new: Flow) -> None:
        self.old, self.new, self.same = pairing.old, new, pairing.same
        self.pairing = pairing
        self.alive = {value for value in self.same.values()}
        self.matches = [Match() for _ in new.operations]
        self.owner: list[int | None] = [None] * len(self.old.operations)
        self.constant = self.old.constants()
        self._by_name = self._index_names()
        self.orphans: set[int] = set()
        self._read_by: dict[int, set[int]] = {}  # filled when all names are known
        self._renamed: set[int] = set()  # nodes of the target whose results we had to give a name

    def run(self) -> None:
        """Applies the rules, the surest first."""
        self._anchor_by_outputs()
        self._anchor_by_names()
        self._pass_back()
        self._relate_by_prefix()
        self._follow_renamed()
        self._assign_vanished()
        self._split_regions()
        self._hand_to_readers_of_inputs()
        self._hand_to_makers()
        for number, owner in enumerate(self.owner):
            if owner is not None and owner >= 0:
                self.matches[owner].work.append(number)
        for number, match in enumerate(self.matches):
            match.work = list(dict.fromkeys((*match.work, *match.anchors, *self._halves(number))))

    # --- Anchors ---

    def _anchor_by_outputs(self) -> None:
        for number, operation in enumerate(self.new.operations):
            for value in operation.outputs:
                known = self.same.get(value)
                maker = self.old.values[known].maker if known is not None else None
                if maker is not None:
                    self._anchor(number, maker)

    def _anchor_by_names(self) -> None:
        """The same name and operator, where the tagged node's results have no name in the target any more.

        This also finds a node that does its own work but took over the name of a later result, and one that handed
        its result's name to an adapter behind it.
        """
        for number, operation in enumerate(self.new.operations):
            anchors = self.matches[number].anchors
            candidates = [
                each
                for each in self._named(number)
                if self._same_operator(operation.node, self.old.operations[each].node)
                and self._may_own_itself(each, anchors)
            ]
            if len(candidates) != 1:
                continue
            found = candidates[0]
            owner = self.owner[found]
            if owner is not None:
                self.matches[owner].anchors.remove(found)
                self.matches[owner].kin = found
                self.owner[found] = None
            elif not anchors:
                self._rename(number, found)
            self._anchor(number, found)

    def _may_own_itself(self, found: int, anchors: list[int]) -> bool:
        owner = self.owner[found]
        if owner is not None:
            return not anchors and self._adapts(owner, found)
        return not self._survives(found) and (not anchors or self._leads(found, anchors))

    def _adapts(self, number: int, found: int) -> bool:
        """Whether a node of the target only passes on what a tagged node makes, being of another kind."""
        op_type = self.new.operations[number].node.op_type
        return op_type in PLAIN | QUANTIZING and op_type != self.old.operations[found].node.op_type

    @staticmethod
    def _same_operator(node: Node, known: Node) -> bool:
        return (node.op_type, node.domain) == (known.op_type, known.domain)

    def _leads(self, start: int, ends: list[int]) -> bool:
        """Whether what a tagged node makes reaches others through nodes that are gone."""
        return any(end in ends for end in self._downstream(start))

    def _pass_back(self) -> None:
        """What an adapter seems to make was made by the node in front of it, if that has no other name."""
        for number in self.new.order:
            match = self.matches[number]
            for found in [each for each in match.anchors if self._adapts(number, each)]:
                worker = self._in_front(number)
                if worker is None or self._op(found) in PLAIN:
                    continue
                match.anchors.remove(found)
                match.kin = found
                self.owner[found] = None
                self._anchor(worker, found)

    def _in_front(self, number: int) -> int | None:
        """The node whose result an adapter passes on, if no result of it is known by name."""
        for _ in range(_REACH):
            inputs = self.new.operations[number].inputs
            maker = self.new.values[inputs[0]].maker if inputs and inputs[0] >= 0 else None
            if maker is None or any(value in self.same for value in self.new.operations[maker].outputs):
                return None
            number = maker
            if self.new.operations[number].node.op_type not in PLAIN | QUANTIZING:
                return number
        return None

    def _relate_by_prefix(self) -> None:
        """Names that tools make from old ones: `X_quantized`, `X_output_cast_0`, `X_nchwc`."""
        for number, operation in enumerate(self.new.operations):
            match = self.matches[number]
            if match.anchors:
                continue
            found = self._by_prefix(number)
            if found is None:
                continue
            known = self.old.operations[found].node
            worker = operation.node.op_type not in GLUE or operation.node.op_type == known.op_type
            alone = self.owner[found] is None and not self._survives(found)
            if worker and alone and operation.node.op_type not in PLAIN:
                self._anchor(number, found)
                self._rename(number, found)
            else:
                match.kin = found

    def _by_prefix(self, number: int) -> int | None:
        operation = self.new.operations[number]
        scope = self.pairing.scopes[operation.scope]
        if scope is None:
            return None
        best, found = 0, None
        for text in (*operation.node.outputs[:1], operation.node.name):
            if len(text) > _LONGEST_NAME:
                continue
            for stop in range(len(text) - 1, best, -1):
                if text[stop] not in _BOUNDARIES:
                    continue
                prefix = text[:stop]
                value = self.old.find(scope, prefix)
                maker = self.old.values[value].maker if value is not None else None
                named = self._by_name.get((scope, prefix), []) if value is None else []
                if len(named) == 1:
                    maker = named[0]
                if maker is not None:
                    best, found = stop, maker
                    break
                if value is not None:  # made from a weight or an input: belongs to who reads it
                    best, found = stop, None
                    break
        return found

    # --- Nodes whose names are all new ---

    def _follow_renamed(self) -> None:
        """Nodes without any known name, by what they read: the tagged node of the same operator that reads the same.

        Makers come first, so that each node that is found makes the next ones' inputs known.
        """
        for number in self.new.order:
            operation = self.new.operations[number]
            match = self.matches[number]
            if operation.node.op_type in QUANTIZING or operation.node.op_type in PLAIN:
                self._look_through(number)
            if match.anchors or match.kin is not None or operation.node.op_type in QUANTIZING | PLAIN:
                continue
            found = self._twin(number)
            if found is None and operation.node.op_type not in GLUE:
                found = self._by_weights(number)
            if found is None:
                continue
            if self.owner[found] is None:
                self._anchor(number, found)
            else:
                match.kin = found
            self._rename(number, found)

    def _by_weights(self, number: int) -> int | None:
        """The only tagged node of those that are gone that reads a weight which the node reads too."""
        known = {self.same[value] for value in self.new.operations[number].inputs if value in self.same}
        found = {
            reader
            for value in known
            if self.old.values[value].stored and len(self.old.values[value].readers) <= _REACH
            for reader in self.old.values[value].readers
            if not self._survives(reader) or self.owner[reader] is not None
        }
        return found.pop() if len(found) == 1 and self._op(next(iter(found))) not in GLUE else None

    def _look_through(self, number: int) -> None:
        operation = self.new.operations[number]
        if operation.inputs and operation.outputs and operation.inputs[0] in self.same:
            self.same.setdefault(operation.outputs[0], self.same[operation.inputs[0]])

    def _twin(self, number: int) -> int | None:
        operation = self.new.operations[number]
        known = [self.same[value] for value in operation.inputs if value in self.same]
        flowing = [value for value in known if not self.old.values[value].stored]
        reach = 1 if operation.node.op_type in MOVEMENT else _REACH
        best, found = (0, 0), None
        for candidate in self._vanished_from(flowing, reach):
            node = self.old.operations[candidate]
            if node.node.op_type != operation.node.op_type or self.owner[candidate] is not None:
                continue
            shared = len(set(known) & set(node.inputs))
            score = (1 + shared, -candidate)
            if found is None or score > best:
                best, found = score, candidate
        return found

    def _vanished_from(self, values: list[int], reach: int) -> list[int]:
        """The tagged nodes downstream of some values that the target doesn't show, nearest first."""
        found: dict[int, None] = {}
        for _ in range(reach):
            ahead: list[int] = []
            for reader in self._some_readers(values):
                if reader in found or self._survives(reader) or len(found) >= _BREADTH:
                    continue
                found[reader] = None
                if self.owner[reader] is None:
                    ahead += [each for each in self.old.operations[reader].outputs if each >= 0]
            values = ahead
        return list(found)

    def _some_readers(self, values: Iterable[int]) -> Iterator[int]:
        return islice((reader for value in values for reader in self.old.values[value].readers), _STEPS)

    # --- Nodes that are gone ---

    def _assign_vanished(self) -> None:
        """Gives every tagged node that the target doesn't show to the node that needs its result, if it is just one."""
        for number in reversed(self.old.order):
            if self.owner[number] is not None:
                continue
            if self._survives(number):
                self.owner[number] = NOBODY
                continue
            owners = {self.owner[reader] for reader in self.old.readers(number)} - {NOBODY, None}
            if len(owners) == 1:
                self.owner[number] = owners.pop()
            else:
                self.owner[number] = SHARED if owners else NOBODY

    def _split_regions(self) -> None:
        """Gives a node that nothing is known of the vanished work that starts from what it reads.

        What it does so visibly is not the work of the nodes downstream that it was given to at first. A fused node
        of which one result is known gets the work that leads from there to its others.
        """
        ends = self._single_ends()
        for number in self.new.order:
            match = self.matches[number]
            operation = self.new.operations[number]
            if operation.node.op_type in GLUE or (match.anchors and self._is_itself(number)):
                continue
            fresh = [value for value in operation.outputs if value not in self.same and self._readers(value)]
            if match.kin is not None or not fresh:
                continue
            known = [self.same[value] for value in (*operation.inputs, *operation.outputs) if value in self.same]
            flowing = [value for value in known if not self.old.values[value].stored]
            claims = {SHARED, ends.get(number, SHARED), *(self._next_worker(value) for value in fresh)}
            work = self._region(flowing, claims)
            exact = [each for each in work if self._op(each) == operation.node.op_type]
            for each in exact or work:
                self.owner[each] = number
            if not work:
                self.orphans.add(number)
            end = ends.get(number)
            if not work and end is not None and self.matches[end].anchors:
                match.kin = self.matches[end].anchors[-1]

    def _readers(self, value: int) -> list[int]:
        return self.new.values[value].readers if value >= 0 else []

    def _region(self, values: list[int], claims: set[int]) -> list[int]:
        """The vanished nodes downstream of some values, as far as they are nobody's but those named."""
        found: dict[int, None] = {}
        while values and len(found) < _BREADTH:
            ahead: list[int] = []
            for reader in self._some_readers(values):
                if reader in found or self.owner[reader] not in claims or self._is_anchor(reader):
                    continue
                if self.constant[reader]:  # shapes lead around the work that they are the shapes of
                    continue
                found[reader] = None
                ahead += [each for each in self.old.operations[reader].outputs if each >= 0]
            values = ahead
        return list(found)

    def _next_worker(self, value: int) -> int:
        """The only node of the target that a value goes to, adapters and movements looked through, else `SHARED`."""
        front = self._readers(value)
        for _ in range(_REACH):
            if len(front) != 1:
                return SHARED
            if self.new.operations[front[0]].node.op_type not in GLUE:
                return front[0]
            front = list(dict.fromkeys(self.new.readers(front[0])))
        return SHARED

    def _hand_to_makers(self) -> None:
        """Work in front of a node that is what it was is the work of the node before, if that has a new name.

        A convolution takes on the addition and the activation behind it and keeps the name of its own result.
        """
        for found in self.old.order:
            owner = self.owner[found]
            if owner is None or owner < 0 or self._is_anchor(found):
                continue
            if self.constant[found] or self._op(found) in GLUE or not self._is_itself(owner):
                continue
            makers = [self.owner[maker] for maker in self.old.makers(found)]
            renamed = [each for each in makers if each is not None and each != owner and each in self._renamed]
            if renamed:
                self.owner[found] = renamed[0]

    def _hand_to_readers_of_inputs(self) -> None:
        """Work on a value that its owner doesn't read, but a node in front of the owner does, is that node's work.

        Attention that also returns its keys and values has nodes behind it that only pick them out.
        """
        moved: set[int] = set()
        for found in self.old.order:
            owner = self.owner[found]
            if owner is None or owner < 0 or self._is_anchor(found) or self.constant[found]:
                continue
            flowing = [value for value in self.old.operations[found].inputs if value >= 0 and self._flows(value)]
            read = {value for value in flowing if value in self.alive}
            if read and not read & self._reads(owner):
                for maker in self._unnamed_makers(owner):
                    if read <= self._reads(maker):
                        self.owner[found] = maker
                        moved.add(found)
                        break
            elif flowing and not read:
                makers = {self.old.values[value].maker for value in flowing}
                if makers <= moved:
                    self.owner[found] = self.owner[next(iter(makers)) or 0]
                    moved.add(found)

    def _flows(self, value: int) -> bool:
        maker = self.old.values[value].maker
        return not self.old.values[value].stored and (maker is None or not self.constant[maker])

    def _reads(self, number: int) -> set[int]:
        found = self._read_by.get(number)
        if found is None:
            inputs = self.new.operations[number].inputs
            found = self._read_by[number] = {self.same[value] for value in inputs if value in self.same}
        return found

    def _unnamed_makers(self, number: int) -> list[int]:
        """The nodes in front of one whose results have no known name, nearest first."""
        found: dict[int, None] = {}
        front = [number]
        for _ in range(_REACH):
            values = [value for each in front for value in self.new.operations[each].inputs if value >= 0]
            makers = [self.new.values[value].maker for value in values if value not in self.same]
            front = [maker for maker in dict.fromkeys(makers) if maker is not None and maker not in found][:_BREADTH]
            found.update(dict.fromkeys(front))
        return list(found)

    def _halves(self, number: int) -> list[int]:
        """Tagged nodes that the node in front does, except for what is done here with one of their weights.

        A matrix product that gave its bias to the activation behind it.
        """
        if self._is_itself(number) or self.new.operations[number].node.op_type in GLUE:
            return []
        makers = set(self.new.makers(number))
        return [
            reader
            for value in self._reads(number)
            if self.old.values[value].stored and len(self.old.values[value].readers) <= _REACH
            for reader in self.old.values[value].readers
            if self.owner[reader] in makers and self._op(reader) not in GLUE
        ]

    def _is_itself(self, number: int) -> bool:
        op_type = self.new.operations[number].node.op_type
        return any(self._op(each) == op_type for each in self.matches[number].anchors)

    def _single_ends(self) -> dict[int, int]:
        """For each node of the target that is not anchored the only anchored one that its results lead to."""
        ends: dict[int, int] = {}
        for number in reversed(self.new.order):
            if self.matches[number].anchors:
                ends[number] = number
                continue
            readers = self.new.readers(number)
            found = {ends.get(reader) for reader in readers}
            if len(found) == 1 and None not in found:
                ends[number] = next(iter(found)) or 0
        return {number: end for number, end in ends.items() if number != end}

    # --- Small facts ---

    def _op(self, found: int) -> str:
        return self.old.operations[found].node.op_type

    def _anchor(self, number: int, found: int) -> None:
        anchors = self.matches[number].anchors
        if found not in anchors:
            anchors.append(found)
        if self.owner[found] is None:
            self.owner[found] = number

    def _is_anchor(self, found: int) -> bool:
        owner = self.owner[found]
        return owner is not None and owner >= 0 and found in self.matches[owner].anchors

    def _rename(self, number: int, found: int) -> None:
        """Makes the results of a recognized node known by their new names."""
        self._renamed.add(number)
        ours, known = self.new.operations[number].outputs, self.old.operations[found].outputs
        for value, old_value in zip(ours, known, strict=False):
            if value >= 0 and old_value >= 0:
                self.same.setdefault(value, old_value)
                self.alive.add(old_value)

    def _survives(self, found: int) -> bool:
        return any(value in self.alive for value in self.old.operations[found].outputs)

    def _downstream(self, start: int) -> list[int]:
        outputs = [value for value in self.old.operations[start].outputs if value >= 0]
        found: dict[int, None] = {}
        for _ in range(_REACH):
            fresh = [reader for reader in dict.fromkeys(self._some_readers(outputs)) if reader not in found]
            found.update(dict.fromkeys(fresh[:_BREADTH]))
            gone = [reader for reader in fresh[:_BREADTH] if not self._survives(reader)]
            outputs = [value for reader in gone for value in self.old.operations[reader].outputs if value >= 0]
        return list(found)

    def _index_names(self) -> dict[tuple[int, str], list[int]]:
        """Tagged nodes by scope and name, those of inner graphs too; a few of them where a name stands often."""
        index: dict[tuple[int, str], list[int]] = {}
        for number, operation in enumerate(self.old.operations):
            scope: int | None = operation.scope
            while operation.node.name and scope is not None:
                found = index.setdefault((scope, operation.node.name), [])
                if len(found) < _REACH:
                    found.append(number)
                scope = self.old.scopes[scope].parent
        return index

    def _named(self, number: int) -> list[int]:
        operation = self.new.operations[number]
        scope = self.pairing.scopes[operation.scope]
        return self._by_name.get((scope, operation.node.name), []) if scope is not None else []
