"""Turn matches into tags, as specific as the evidence allows.

Example: a node does the work of a `Conv` of `b.conv`, the `Relu` of `b.act` after it, and a `Shape` of `c`. The
`Shape` might have been anybody's and is left out; the tag is the lowest module around the rest, `b`, with the origins
`b.conv` and `b.act`, and the source `fused`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from optimum_htp.hierarchy import NodeTag, Roots, common_ancestor, tag_ancestors
from optimum_htp.tagging.projection.flow import BREADTH, GLUE, PLAIN, Flow, Value
from optimum_htp.tagging.projection.folded import FOLDED
from optimum_htp.tagging.projection.join import SHARED, Join, Match


class Decider:
    """Turns matches into tags. `returned` has the tag of the node that produces each result of a tagged model."""

    def __init__(
        self, join: Join, tags: Mapping[int, NodeTag], *, roots: Roots, returned: Mapping[str, NodeTag]
    ) -> None:
        self._join = join
        self._old, self._new = join.old, join.new
        self._tags = tags
        self._roots = roots
        self._returned = returned
        self._held: dict[int, list[int]] = defaultdict(list)
        for new, operation in enumerate(self._new.operations):
            holder = self._new.scopes[operation.scope].holder
            if holder is not None:
                self._held[holder].append(new)
        self._decided: list[NodeTag | None] = []

    def run(self) -> list[NodeTag | None]:
        """Decides every node that there is any evidence for."""
        self._decided = [self._by_work(new, match) for new, match in enumerate(self._join.matches)]
        matches = self._join.matches
        added = {new for new in self._join.orphans if self._tags.keys().isdisjoint(matches[new].work)}
        for new in (*reversed(self._new.order), *self._new.order):
            if self._decided[new] is None:
                self._decided[new] = self._stand_in(new) or self._by_neighbours(new)
                added.add(new)
        for new in self._foreign(added - self._held.keys()):
            self._decided[new] = None
        return self._decided

    # --- Nodes that do what tagged nodes did ---

    def _by_work(self, new: int, match: Match) -> NodeTag | None:
        op_type = self._new.op_type(new)
        if match.packed:
            return self._by_packed(new, match)
        tagged = [old for old in match.work if old in self._tags]
        if not tagged:
            related = self._tags.get(match.related) if match.related is not None else None
            source = "inserted" if op_type in GLUE or op_type == "Mul" else "fused"
            return NodeTag(related.tag, source, related.call) if related is not None else None
        itself = self._itself(new, [old for old in match.anchors if old in self._tags])
        if itself is not None:
            others = [old for old in tagged if old != itself and not (self._old.constant[old] or self._moves(old))]
            if not others or not self._can_absorb(new, itself, others):
                return self._tags[itself]
        counted = self._counted(tagged)
        if op_type not in PLAIN and all(self._old.op_type(old) in PLAIN for old in counted):
            counted = self._passed_on(counted, op_type) or counted
        if len(counted) == 1 and self._itself(new, counted) is not None:
            return self._tags[counted[0]]
        return self._combined([self._tags[old] for old in counted], "fused")

    def _by_packed(self, new: int, match: Match) -> NodeTag | None:
        """The tag of a node that does the work of several at once, and may do more behind it."""
        more = match.work if new not in self._join.parted else ()
        tagged = [old for old in dict.fromkeys((*match.packed, *more)) if old in self._tags]
        return self._combined([self._tags[old] for old in self._counted(tagged)], "fused") if tagged else None

    def _itself(self, new: int, candidates: Iterable[int]) -> int | None:
        """The tagged node that a node still is."""
        node = self._new.operations[new].node
        for old in candidates:
            known = self._old.operations[old].node
            if not known.op_type or (known.op_type, known.domain) == (node.op_type, node.domain):
                return old
        return None

    def _can_absorb(self, new: int, itself: int, others: Iterable[int]) -> bool:
        """Whether a node of the same operator may do more than before, which only its weights can add."""
        # A convolution takes in a normalization; what vanished before a sum of computed values had no effect, nor what
        # vanished before the same weights, such as a layer that is gone: but numbers may be others under the same name.
        operation = self._new.operations[new]
        weights = [value for value in operation.consumed if self._is_stored(self._new, value)]
        before = [value for value in self._old.operations[itself].consumed if self._is_stored(self._old, value)]
        is_same = [self._join.same.get(value) for value in weights] == before
        folds = all(self._old.op_type(old) in FOLDED for old in others)
        return operation.node.op_type not in GLUE and bool(weights) and (folds or not is_same)

    @staticmethod
    def _is_stored(flow: Flow, value: int) -> bool:
        producer = flow.values[value].producer
        return flow.values[value].is_initializer or (producer is not None and flow.constant[producer])

    def _counted(self, work: list[int]) -> list[int]:
        """The work without what any module might have needed: constants, choices between bodies, what moves values."""
        unimportant: tuple[Callable[[int], bool], ...] = (
            self._old.constant.__getitem__,
            self._has_bodies,
            self._moves,
        )
        for is_unimportant in unimportant:
            work = [old for old in work if not is_unimportant(old)] or work
        return work

    def _has_bodies(self, old: int) -> bool:
        return bool(self._old.operations[old].node.bodies)

    def _moves(self, old: int) -> bool:
        return self._old.op_type(old) in GLUE

    def _passed_on(self, plain: list[int], op_type: str) -> list[int]:
        """The work whose result nodes only pass on: a no-op was removed, and its result's name moved."""
        seen: dict[int, None] = {}
        front = plain
        while front and len(seen) < BREADTH:
            producers = (producer for old in front for producer in self._old.producers(old))
            fresh = [old for old in producers if self._join.owner[old] == SHARED and old in self._tags]
            seen.update(dict.fromkeys(fresh))
            front = [old for old in fresh if self._old.op_type(old) in PLAIN]
        workers = [old for old in seen if self._old.op_type(old) not in PLAIN]
        exact = [old for old in workers if self._old.op_type(old) == op_type]
        return exact[:1] or workers

    # --- Several modules ---

    def _combined(self, tags: Sequence[NodeTag], source: str) -> NodeTag | None:
        names = list(dict.fromkeys(name for tag in tags for name in (tag.origins or (tag.tag,))))
        common = self._common(names)
        if common is None:
            return None
        calls = {self._roots.call_above(tag, common) for tag in tags} if self._roots.calls(common) != 1 else set()
        call = calls.pop() if len(calls) == 1 else None
        return NodeTag(common, source, call, tuple(names) if len(names) > 1 else ())

    def _common(self, names: Sequence[str]) -> str | None:
        """The tag of the lowest module that contains those of all tags; None if they share no root."""
        if len(names) == 1:
            return names[0]
        known = [place for name in names if (place := self._roots.find(name)) is not None]
        if len(known) == len(names) and all(root is known[0][0] for root, _ in known):
            tree = known[0][0].tree
            return tree.tag(tree.lowest_common([path for _, path in known]))
        try:
            return common_ancestor(names)
        except ValueError:
            return None

    # --- Nodes that tools put in ---

    def _stand_in(self, new: int) -> NodeTag | None:
        """The tag of a constant in place of a result that one branch of a merged decoder doesn't compute."""
        node = self._new.operations[new].node
        tag = next((self._returned[name] for name in node.outputs if name in self._returned), None)
        return NodeTag(tag.tag, "inserted", tag.call) if tag is not None and not node.inputs else None

    def _by_neighbours(self, new: int) -> NodeTag | None:
        """The module that a new node was put into: that of its bodies, or else of its consumers or producers."""
        sides = [self._held[new]] if new in self._held else [self._new.consumers(new), self._new.producers(new)]
        around = [[tag for index in side if (tag := self._decided[index]) is not None] for side in sides]
        # What consumed a weight when it was whole says more than the larger part that it belongs to now.
        weight = self._join.matches[new].weight
        if weight is not None:
            around.append([self._tags[old] for old in self._join.consumers_of_weight(weight) if old in self._tags])
        lowest: NodeTag | None = None
        for tags in around:
            choice = self._combined(tags, "inserted") if tags else None
            # Of consumers and producers the first counts, unless the next is inside it.
            if choice is not None and (lowest is None or choice.tag.startswith(f"{lowest.tag}/")):
                lowest = choice
        return NodeTag(lowest.tag, "inserted", lowest.call) if lowest is not None else None

    def _foreign(self, added: set[int]) -> Iterator[int]:
        """Of the nodes that do nobody's work, those of another model, in front of the tagged one, behind or between two.

        It brings weights, and at an end inputs or outputs. What a tool puts into a model does not, or stands between
        nodes of the model.
        """
        if not any(operation.node.op_type for operation in self._old.operations):
            return  # only results are known, so every weight is new
        while added:
            region, front = set[int](), [added.pop()]
            around: list[set[str]] = [set(), set()]  # the roots of what the region reads, and of what reads it
            while front:
                new = front.pop()
                region.add(new)
                for side, others in zip(around, (self._new.producers(new), self._new.consumers(new)), strict=True):
                    for other in others:
                        if other in added:
                            added.discard(other)
                            front.append(other)
                        elif other not in region and (tag := self._decided[other]) is not None:
                            side.add(next(tag_ancestors(tag.tag)))
            outside = around[0].isdisjoint(around[1]) and (all(around) or any(map(self._is_at_an_end, region)))
            if outside and any(map(self._has_own_weights, region)):
                yield from region

    def _has_own_weights(self, new: int) -> bool:
        """Whether a node computes with a weight that the tagged graph does not have."""
        weights = (
            value.is_initializer if value.producer is None else self._new.op_type(value.producer) == "Constant"
            for value in self._unknown(self._new.operations[new].consumed)
        )
        return self._new.op_type(new) not in GLUE and not self._new.constant[new] and any(weights)

    def _is_at_an_end(self, new: int) -> bool:
        """Whether a node consumes an input of the model, or produces an output, that the tagged graph does not have."""
        operation = self._new.operations[new]
        inputs = (value.producer is None and not value.is_initializer for value in self._unknown(operation.consumed))
        return any(inputs) or any(value.is_output for value in self._unknown(operation.produced))

    @cached_property
    def _tagged_values(self) -> set[int]:
        """The values that tagged nodes consume and produce."""
        operations = map(self._old.operations.__getitem__, self._tags)
        return {value for operation in operations for value in (*operation.consumed, *operation.produced)}

    def _unknown(self, values: Iterable[int]) -> Iterator[Value]:
        for value in values:
            old = self._join.same.get(value)
            if old is None or old not in self._tagged_values:
                yield self._new.values[value]
