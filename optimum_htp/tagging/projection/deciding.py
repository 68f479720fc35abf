"""From the work that a node does to its tag: what counts, and what is left out so that no answer is vaguer than needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optimum_htp.hierarchy import NodeTag, Roots, common_ancestor
from optimum_htp.tagging.projection.flow import GLUE, PLAIN
from optimum_htp.tagging.projection.join import SHARED, Join, Match


_SEARCH = 64


class Decider:
    """Turns matches into tags.

    Args:
        join: What each node of the target does.
        tags: The tag of each tagged operation, by its number.
        roots: The roots that are known: they say which tags mean the same module, and which call was made in which.
        returned: The tag of the node that makes a result of a tagged model, by the result's name.
    """

    def __init__(
        self,
        join: Join,
        tags: Mapping[int, NodeTag],
        *,
        roots: Roots,
        returned: Mapping[str, NodeTag],
    ) -> None:
        self._join = join
        self._old, self._new = join.old, join.new
        self._tags = tags
        self._returned = returned
        self._roots = roots
        self._stored = self._new.constants()
        self._held: dict[int, list[int]] = {}
        for inner, operation in enumerate(self._new.operations):
            holder = self._new.scopes[operation.scope].holder
            if holder is not None:
                self._held.setdefault(holder, []).append(inner)
        self.decided: list[NodeTag | None] = [None] * len(self._new.operations)

    def run(self) -> list[NodeTag | None]:
        """Decides every node that there is any evidence for."""
        for number, match in enumerate(self._join.matches):
            self.decided[number] = self._by_work(number, match)
        for number in (*reversed(self._new.order), *self._new.order):
            if self.decided[number] is None:
                self.decided[number] = self._by_neighbours(number)
        return self.decided

    # --- Nodes that do what tagged nodes did ---

    def _by_work(self, number: int, match: Match) -> NodeTag | None:
        node = self._new.operations[number].node
        tagged = [each for each in match.work if each in self._tags]
        if not tagged:
            kin = self._tags.get(match.kin) if match.kin is not None else None
            return self._by_kin(number, match, kin)
        itself = self._itself(number, [each for each in match.anchors if each in self._tags])
        if itself is not None:
            others = [each for each in tagged if each != itself and not self._is_aside(each)]
            if not others or not self._can_absorb(number):
                return self._tags[itself]
        counted = self._counted(tagged)
        if all(self._op(each) in PLAIN for each in counted) and node.op_type not in PLAIN:
            counted = self._behind(counted, node.op_type) or counted
        again = self._itself(number, counted)
        if len(counted) == 1 and again is not None:
            return self._tags[again]
        return self._combined([self._tags[each] for each in counted], "fused")

    def _can_absorb(self, number: int) -> bool:
        """Whether a node of the same operator as before may do more than before: only through what is stored with it.

        A convolution takes on the normalization behind it in its weights; what vanished in front of an addition of
        two computed values had no effect.
        """
        operation = self._new.operations[number]
        if operation.node.op_type in GLUE:
            return False
        values = [self._new.values[value] for value in operation.inputs if value >= 0]
        return any(value.stored or (value.maker is not None and self._stored[value.maker]) for value in values)

    def _by_kin(self, number: int, match: Match, kin: NodeTag | None) -> NodeTag | None:
        if kin is None or match.kin is None:
            return None
        op_type = self._new.operations[number].node.op_type
        glue = op_type in GLUE or op_type == "Mul"
        return NodeTag(kin.tag, "inserted" if glue else "fused", kin.call)

    def _itself(self, number: int, anchors: Sequence[int]) -> int | None:
        """The tagged node that a node still is."""
        node = self._new.operations[number].node
        for each in anchors:
            known = self._old.operations[each].node
            if known.op_type in ("", node.op_type) and (known.domain == node.domain or not known.op_type):
                return each
        return None

    def _counted(self, work: Sequence[int]) -> list[int]:
        """The work without what any module might have needed: constants, choices between bodies, what moves values."""
        left = list(work)
        for unimportant in (self._join.constant.__getitem__, self._holds, self._moves):
            fewer = [each for each in left if not unimportant(each)]
            left = fewer or left
        return left

    def _holds(self, operation: int) -> bool:
        return bool(self._old.operations[operation].node.bodies)

    def _is_aside(self, operation: int) -> bool:
        return self._join.constant[operation] or self._moves(operation)

    def _moves(self, operation: int) -> bool:
        return self._op(operation) in GLUE

    def _op(self, operation: int) -> str:
        return self._old.operations[operation].node.op_type

    def _behind(self, plain: Sequence[int], op_type: str) -> list[int]:
        """The work behind nodes that only pass values on: a no-op was removed, and its result's name moved."""
        found: dict[int, None] = {}
        front = list(plain)
        while front and len(found) < _SEARCH:
            makers = [maker for each in front for maker in self._old.makers(each)]
            fresh = [each for each in makers if self._join.owner[each] == SHARED and each in self._tags]
            for each in fresh:
                found[each] = None
            front = [each for each in fresh if self._op(each) in PLAIN]
        workers = [each for each in found if self._op(each) not in PLAIN]
        exact = [each for each in workers if self._op(each) == op_type]
        return exact[:1] or workers

    # --- Several modules ---

    def _combined(self, tags: Sequence[NodeTag], source: str) -> NodeTag | None:
        names = list(dict.fromkeys(name for tag in tags for name in (tag.origins or (tag.tag,))))
        tag = self.common(names)
        if tag is None:
            return None
        return NodeTag(tag, source, self._common_call(tag, tags), tuple(names) if len(names) > 1 else ())

    def common(self, names: Sequence[str]) -> str | None:
        """The tag of the lowest module that contains those of all tags; None where they share no root."""
        if len(set(names)) == 1:
            return names[0]
        found = [self._roots.find(name) for name in names]
        known = [each for each in found if each is not None]
        if len(known) == len(found) and all(root is known[0][0] for root, _ in known):
            tree = known[0][0].tree
            return tree.tag(tree.lowest_common([path for _, path in known]))
        try:
            return common_ancestor(names)
        except ValueError:
            return None

    def _common_call(self, tag: str, tags: Sequence[NodeTag]) -> int | None:
        """The call of the common module that all the nodes were made in, where it ran more than once."""
        if self._roots.calls(tag) == 1:
            return None
        calls = {self._roots.call_above(each, tag) for each in tags}
        return calls.pop() if len(calls) == 1 else None

    # --- Nodes that tools put in ---

    def _by_neighbours(self, number: int) -> NodeTag | None:
        """The module that a new node was put into: that of its readers, else of its makers, else of what it holds.

        Where the makers' module lies inside the readers', it says more; so do the modules that read a weight when it
        was whole, before what read it became a part of something larger.
        """
        held = self._held.get(number, ())
        stand_in = self._stand_in(number)
        if stand_in is not None:
            return stand_in
        sides = (self._new.readers(number), self._new.makers(number)) if not held else (held,)
        found: NodeTag | None = None
        around = [[tag for each in side if (tag := self.decided[each]) is not None] for side in sides]
        weight = self._join.matches[number].weight
        readers = self._join.readers_of_weight(weight) if weight is not None else []
        for tags in (*around, [self._tags[each] for each in readers if each in self._tags]):
            choice = self._combined(tags, "inserted") if tags else None
            if choice is not None and (found is None or choice.tag.startswith(found.tag + "/")):
                found = choice
        return NodeTag(found.tag, "inserted", found.call) if found is not None else None

    def _stand_in(self, number: int) -> NodeTag | None:
        """A constant that stands in for a result that one branch of a merged decoder doesn't compute."""
        node = self._new.operations[number].node
        tags = [self._returned[name] for name in node.outputs if name in self._returned]
        return NodeTag(tags[0].tag, "inserted", tags[0].call) if tags and not node.inputs else None
