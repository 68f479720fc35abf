"""Weights that tools packed from several, and the nodes that read them: they do the work of all.

A weight of the target that has no name of the tagged side, or is larger than the one of its name, is looked for in what
the tool removed. Which weights stand in it is seen by a few of their numbers (`onnxfile/probes.py`). Where numbers
can't be compared, as those of quantized weights, it is as long as the weights together that were read from the same
value, and whose results lead to the same nodes.

Example: `w` holds the three weights side by side, so MatMul and Split are the work of `q`, `k` and `v`.

    before:  a = MatMul(x, wq);  b = MatMul(x, wk);  c = MatMul(x, wv);  y = Attend(a, b, c)
    after:   t = MatMul(x, w);  a2, b2, c2 = Split(t);  y = Attend(a2, b2, c2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations

from optimum_htp.onnxfile import Initializer, StoredNumbers, bounded_product, element_type
from optimum_htp.tagging.projection.flow import ADAPTERS, BREADTH, GLUE, MOVEMENT, REACH, Flow
from optimum_htp.tagging.projection.join import Join

_APART = (MOVEMENT | {"Gather", "GatherElements", "GatherND", "SequenceAt", "SplitToSequence"}) - {"Shape", "Size"}
"""Operators that take a packed result apart."""

_SCALING = ADAPTERS | {"Mul", "Div"}
"""What stands behind the product of quantized weights, and makes numbers of it."""

_NO_WEIGHTS = ("bool", "int64", "string")  # what shapes, indices and masks are stored as, and weights never
_FEWEST = 2  # elements of a weight that is looked for
_MOST_OPTIONS = 12  # weights of which a few are looked for that are as long as another together
_MOST_CANDIDATES = 256
_MOST_TRIES = 1 << 14  # of weights that were read elsewhere, for one target


class Packing:
    """Finds the packed weights of a target, and what they were packed from. `stored` looks at the target's weights."""

    def __init__(self, join: Join, stored: StoredNumbers) -> None:
        self._join = join
        self._stored = stored
        self._behind: dict[int, tuple[int, ...]] = {}  # the tagged nodes whose results together a value has,
        self._in_order: set[int] = set()  # and whether it has them in that order, one behind the other
        read = {value for operation in join.new.operations for value in operation.consumed}
        self._kept = {old for value, old in join.same.items() if value in read and not self._grew(value, old)}
        self._tries = _MOST_TRIES
        self._removed = [
            index for index, value in enumerate(join.old.values) if value.is_initializer and index not in self._kept
        ]

    def match(self, new: int) -> bool:
        """Records what a node reads that was packed, or takes apart; whether there is anything. Producers come first."""
        operation = self._join.new.operations[new]
        if self._join.new.constant[new]:
            return False
        packed, in_order = self._packed_from(new)
        if len(packed) > 1:
            self._record(new, packed, in_order=in_order)
            return True
        behind = self._results(operation.consumed)
        if not behind or self._anchored(new):
            return False
        op_type = operation.node.op_type
        flowing = [value for value in operation.consumed if not self._is_stored(self._join.new, value)]
        if op_type in _APART and all(value in self._behind for value in flowing):
            self._join.matches[new].packed = behind
            self._join.parted.add(new)
            results = [value for old in behind for value in self._join.old.operations[old].produced[:1]]
            if op_type == "Split" and flowing[0] in self._in_order and len(operation.produced) == len(results):
                for value, old in zip(operation.produced, results, strict=True):
                    self._know(value, old)
            else:
                self._hand_on(new, behind)
            return True
        if op_type in _SCALING:
            self._hand_on(new, behind, in_order=not self._in_order.isdisjoint(flowing))
        return False

    def match_weights(self) -> None:
        """Records the nodes that put weights together before the model runs; after all the others."""
        flow, matches = self._join.new, self._join.matches
        for new in reversed(flow.order):
            if not flow.constant[new] or matches[new].anchors or flow.op_type(new) not in MOVEMENT:
                continue
            readers = [matches[each].packed for each in flow.consumers(new) if matches[each].packed]
            if readers and len(list(self._leaves(flow, flow.operations[new].consumed))) > 1:
                matches[new].packed = readers[0]
                self._join.parted.add(new)

    def has_other_weights(self, new: int, olds: Sequence[int]) -> bool:
        """Whether a node reads weights that are none of those that some tagged nodes read, whatever they are called."""
        flow = self._join.new
        stored = [value for value in flow.operations[new].consumed if self._is_stored(flow, value)]
        tensors = [flow.values[leaf].tensor for leaf in self._leaves(flow, stored) if not self._is_known(leaf)]
        unknown = [tensor for tensor in tensors if tensor is not None and _may_be_weight(tensor)]
        before = [self._tensor(leaf) for old in olds for leaf in self._leaves(self._join.old, self._weights(old))]
        return any(not self._stored.parts(tensor, before) for tensor in unknown)

    # --- What a node does ---

    def _packed_from(self, new: int) -> tuple[tuple[int, ...], bool]:
        """The tagged nodes that read the weights of which those were packed that a node reads; whether in their order."""
        join = self._join
        weights = [value for value in join.new.operations[new].consumed if self._is_stored(join.new, value)]
        unknown = [leaf for leaf in self._leaves(join.new, weights) if not self._is_known(leaf)]
        joined = [leaves for value in weights if len(leaves := self._concatenated(value)) > 1]
        if not unknown and not joined:
            return (), False
        siblings = self._siblings(new)
        nodes: dict[int, None] = {}
        orders = set()
        for leaf in unknown:
            parts, in_order = self._parts(new, leaf, siblings)
            if len(parts) > 1:
                readers = tuple(self._readers(new, parts, siblings))
                orders.add(readers if in_order and len(readers) == len(parts) else ())
                nodes.update(dict.fromkeys(readers))
        for leaves in joined:
            parts = [join.same[leaf] for leaf in leaves if self._is_known(leaf)]
            parts = [part for part in parts if self._is_weight(part)]
            if len(parts) > 1:
                nodes.update(dict.fromkeys(self._readers(new, parts, siblings)))
        return tuple(nodes), orders == {tuple(nodes)}

    def _record(self, new: int, packed: tuple[int, ...], *, in_order: bool) -> None:
        join = self._join
        match = join.matches[new]
        match.packed = packed
        for old in packed:
            if join.owner[old] is None:
                join.owner[old] = new
        kinds = {_kind(join.old.op_type(old)) for old in packed}
        if _kind(join.new.op_type(new)) in kinds and match.anchors.keys() <= set(packed):
            for value in join.new.operations[new].produced:  # is none of theirs, whatever its name
                old_value = join.same.pop(value, None)
                if old_value is not None:
                    join.alive.discard(old_value)
            join.renamed.discard(new)
            join.parted.add(new)
            self._hand_on(new, packed, in_order=in_order)

    def _hand_on(self, new: int, behind: tuple[int, ...], *, in_order: bool = False) -> None:
        for value in self._join.new.operations[new].produced:
            if value not in self._join.same:
                self._behind[value] = behind
                if in_order:
                    self._in_order.add(value)

    def _know(self, value: int, old: int) -> None:
        self._join.same.setdefault(value, old)
        self._join.alive.add(old)

    def _results(self, values: Iterable[int]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(old for value in values for old in self._behind.get(value, ())))

    def _anchored(self, new: int) -> bool:
        return bool(self._join.matches[new].anchors)

    # --- What a weight was packed from ---

    def _parts(self, new: int, value: int, siblings: Sequence[int]) -> tuple[list[int], bool]:
        """The tagged weights that one of the target was packed from, if that is known; whether that is their order."""
        whole = self._join.new.values[value].tensor
        if whole is None or bounded_product(whole.dims) < 2 * _FEWEST or not _may_be_weight(whole):
            return [], False
        readers = {leaf: old for old in siblings for leaf in self._leaves(self._join.old, self._weights(old))}
        near = [leaf for leaf in readers if leaf not in self._kept and self._is_weight(leaf)]
        parts = self._equal(whole, near) or self._equal(whole, self._pool(whole))
        if parts:
            return parts, True
        sizes = [
            bounded_product(self._tensor(old).dims) for old in near if readers[old] in self._join.matches[new].anchors
        ]
        if sizes == [bounded_product(whole.dims)]:
            return [], False  # it is the one that its name says
        parts = self._as_long(new, whole, [(old, [readers[old]]) for old in near])
        if not parts and not near:
            parts = self._as_long(new, whole, [(old, self._removed_readers(old)) for old in self._pool(whole)])
        return parts, False

    def _equal(self, whole: Initializer, candidates: list[int]) -> list[int]:
        """The weights whose numbers stand in another, with one that was scaled if that fills it; one alone has to."""
        tensors = [self._tensor(old) for old in candidates]
        places = self._stored.parts(whole, tensors) if candidates else None
        if not places:
            return []
        found = [candidates[index] for index in places]
        left = bounded_product(whole.dims) - sum(bounded_product(tensors[index].dims) for index in places)
        others = [old for index, old in enumerate(candidates) if index not in places]
        if left > 0:
            more = list(_subsets([(old, bounded_product(self._tensor(old).dims)) for old in others], left))
            found += more[0] if len(more) == 1 else []
            left = 0 if len(more) == 1 else left
        return found if not left or (left > 0 and len(found) > 1) else []

    def _as_long(self, new: int, whole: Initializer, candidates: Sequence[tuple[int, Sequence[int]]]) -> list[int]:
        """The weights that are as long as another together, of those whose results lead where the node's do."""
        ends = self._ends(new)
        options = []
        for old, readers in candidates:
            led = {end for reader in readers for end in self._old_ends(reader)}
            if (not ends or not led or not ends.isdisjoint(led)) and self._tensor(old).data_type:
                options.append((old, bounded_product(self._tensor(old).dims)))
        totals = [bounded_product(whole.dims) * share for share in _shares(whole)]
        if sum(size for _, size in options) in totals:
            return [old for old, _ in options]
        found = next(filter(None, (list(_subsets(options, total)) for total in totals)), [])
        return found[0] if len(found) == 1 else []

    def _pool(self, whole: Initializer) -> list[int]:
        """All weights that were removed and may be a part of another."""
        sizes = {size for size in whole.dims if size > 1}
        found = []
        for old in self._removed:
            tensor = self._tensor(old)
            # All of its sizes are the other's but the one along which it was packed.
            fits = sum(size > 1 and size not in sizes for size in tensor.dims) <= 1
            if (
                fits
                and self._is_weight(old)
                and tensor.data_type
                and bounded_product(tensor.dims) < bounded_product(whole.dims)
            ):
                found.append(old)
        found = found[: min(_MOST_CANDIDATES, self._tries)]
        self._tries -= len(found)
        return found

    # --- Around a node ---

    def _siblings(self, new: int) -> list[int]:
        """The tagged nodes with weights that read what a node reads, and that the target does not show."""
        join = self._join
        consumed = join.new.operations[new].consumed
        values = [join.same[value] for value in consumed if value in join.same and join.flows(join.same[value])]
        values += [value for old in self._results(consumed) for value in join.old.operations[old].produced]
        near: dict[int, None] = {}
        for value in values[:BREADTH]:
            near.update(dict.fromkeys(join.old.consumers_through(value, self._only_moves)))
        return [old for old in near if self._is_free(new, old) and self._weights(old)][:BREADTH]

    def _only_moves(self, old: int) -> bool:
        return self._join.old.op_type(old) in GLUE and self._join.owner[old] is None

    def _is_free(self, new: int, old: int) -> bool:
        owner = self._join.owner[old]
        return owner == new or (owner is None and not self._join.survives(old))

    def _readers(self, new: int, parts: Iterable[int], siblings: Sequence[int]) -> Iterator[int]:
        """The tagged nodes that read some weights and whose work a node may do: its siblings, else all that are gone."""
        for part in parts:
            near = [old for old in siblings if part in self._leaves(self._join.old, self._weights(old))]
            yield from near or [old for old in self._removed_readers(part) if self._is_free(new, old)]

    def _removed_readers(self, weight: int) -> list[int]:
        """The tagged nodes that read a weight, looking through what is known before the model runs."""
        flow = self._join.old
        readers = flow.consumers_through(weight, flow.constant.__getitem__)
        return [old for old in dict.fromkeys(readers) if not flow.constant[old]][:REACH]

    def _ends(self, new: int) -> set[int]:
        """The tagged nodes that the first nodes with known results behind one do the work of."""
        join = self._join
        return {
            old
            for end in _first_ends(join.new, new, lambda each: bool(join.matches[each].anchors))
            for old in join.matches[end].anchors
        }

    def _old_ends(self, old: int) -> set[int]:
        join = self._join
        return set(_first_ends(join.old, old, lambda each: join.owner[each] is not None))

    # --- Weights ---

    def _weights(self, old: int) -> list[int]:
        flow = self._join.old
        return [value for value in flow.operations[old].consumed if self._is_stored(flow, value)]

    @staticmethod
    def _is_stored(flow: Flow, value: int) -> bool:
        producer = flow.values[value].producer
        return flow.values[value].is_initializer or (producer is not None and flow.constant[producer])

    @staticmethod
    def _leaves(flow: Flow, values: Iterable[int]) -> Iterator[int]:
        """The stored tensors that values are made of before the model runs."""
        front, seen = list(values), set[int]()
        while front and len(seen) < BREADTH * REACH:
            value = front.pop(0)
            if value in seen:
                continue
            seen.add(value)
            producer = flow.values[value].producer
            if flow.values[value].is_initializer:
                yield value
            elif producer is not None:
                front += flow.operations[producer].consumed

    def _concatenated(self, value: int) -> list[int]:
        """The stored tensors that nodes of the target put together before the model runs; none if they don't."""
        flow = self._join.new
        front, leaves, joins = [value], dict[int, None](), False
        for _ in range(REACH):
            producers = [producer for each in front if (producer := flow.values[each].producer) is not None]
            leaves.update((each, None) for each in front if flow.values[each].is_initializer)
            joins = joins or any(flow.op_type(each) == "Concat" for each in producers)
            front = [
                each
                for producer in producers
                if flow.op_type(producer) in GLUE
                for each in flow.operations[producer].consumed
            ]
        return list(leaves) if joins else []

    def _is_known(self, value: int) -> bool:
        """Whether a weight of the target is one of the tagged side, by its name."""
        old = self._join.same.get(value)
        return old is not None and not self._grew(value, old)

    def _grew(self, value: int, old: int) -> bool:
        """Whether a weight that has the name of a tagged one holds more than that did."""
        ours, theirs = self._join.new.values[value].tensor, self._join.old.values[old].tensor
        if ours is None or theirs is None or not theirs.data_type:
            return False
        return bounded_product(ours.dims) > bounded_product(theirs.dims)

    def _tensor(self, old: int) -> Initializer:
        return self._join.old.values[old].tensor or Initializer()

    def _is_weight(self, old: int) -> bool:
        """Whether a tagged tensor holds numbers that a model learns; of what an old skeleton has that is not known."""
        tensor = self._join.old.values[old].tensor
        if tensor is None or not tensor.data_type:
            return tensor is not None
        return element_type(tensor.data_type).is_float and bounded_product(tensor.dims) >= _FEWEST


def _kind(op_type: str) -> str:
    """What an operator does, however its numbers are stored: `QLinearMatMul` and `MatMulInteger` multiply like `Gemm`."""
    for kind, words in (("product", ("MatMul", "Gemm")), ("Conv", ("Conv",)), ("Gather", ("Gather", "Embedding"))):
        if any(word in op_type for word in words):
            return kind
    return "Add" if op_type in ("Add", "BiasAdd", "QLinearAdd") else op_type


def _may_be_weight(tensor: Initializer) -> bool:
    """Whether a tensor of the target may hold a weight, quantized or not."""
    return element_type(tensor.data_type).name not in _NO_WEIGHTS


def _shares(whole: Initializer) -> tuple[int, ...]:
    """How many numbers each element may hold: those of four bits and two are stored several to a byte."""
    return (1, 2, 4) if element_type(whole.data_type).name == "uint8" else (1,)


def _subsets(options: Sequence[tuple[int, int]], total: int) -> Iterator[list[int]]:
    """The options whose sizes add up to a total: all of them if they do, else each choice of two or more of a few."""
    if sum(size for _, size in options) == total:
        yield [option for option, _ in options]
    elif len(options) <= _MOST_OPTIONS:
        for count in range(1, len(options)):
            for chosen in combinations(options, count):
                if sum(size for _, size in chosen) == total:
                    yield [option for option, _ in chosen]


def _first_ends(flow: Flow, start: int, is_end: Callable[[int], bool]) -> Iterator[int]:
    """The first nodes of a kind downstream of one."""
    seen = {start}
    front = flow.consumers(start)
    while front and len(seen) < BREADTH:
        ahead: list[int] = []
        for each in dict.fromkeys(front):
            if each in seen or flow.constant[each]:
                continue
            seen.add(each)
            if is_end(each):
                yield each
            else:
                ahead += flow.consumers(each)
        front = ahead
