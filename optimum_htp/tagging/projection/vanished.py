"""The work of tagged nodes that the target doesn't show: who does it now.

Computation between two surviving tensors is attributed to the producer of the later one, unless another node of the
target visibly does it.

Example: `a` and `d` survive; the three nodes after `a` are what `FusedNorm` does now.

    before:  a = Conv(x, w);  b = Sub(a, mean);  c = Div(b, std);  d = Relu(c);  y = Exp(d)
    after:   a = Conv(x, w);  d = FusedNorm(a);  y = Exp(d)
"""

from __future__ import annotations

from optimum_htp.tagging.projection.flow import BREADTH, GLUE, REACH
from optimum_htp.tagging.projection.join import NOBODY, SHARED, Join

_STEPS = 4 * BREADTH  # how many consumers are looked at from one node on


def match_vanished(join: Join) -> None:
    """Gives every tagged node that the target doesn't show to the node that does its work, and completes `work`."""
    _assign(join)
    _split_regions(join)
    _hand_to_consumers_of_inputs(join)
    _hand_to_producers(join)
    for old, owner in enumerate(join.owner):
        if owner is not None and owner >= 0:
            join.matches[owner].work.append(old)
    for new, match in enumerate(join.matches):
        match.work = list(dict.fromkeys((*match.work, *match.anchors, *match.packed, *_halves(join, new))))


def _assign(join: Join) -> None:
    """Gives each vanished node to the node that needs its result, if there is just one."""
    for old in reversed(join.old.order):
        if join.owner[old] is not None:
            continue
        owners = {join.owner[consumer] for consumer in join.old.consumers(old)} - {NOBODY, None}
        if join.survives(old) or not owners:
            join.owner[old] = NOBODY
        else:
            join.owner[old] = owners.pop() if len(owners) == 1 else SHARED


# --- Work that a node without known results does ---


def _split_regions(join: Join) -> None:
    """Gives an unknown node the vanished work that starts from its inputs, which nodes downstream had at first."""
    ends = _single_ends(join)
    for new in join.new.order:
        match, operation = join.matches[new], join.new.operations[new]
        # A part of one node's work that it was cut from, a bias, may have gone to the next.
        part = match.related is not None and new in join.renamed
        if operation.node.op_type in GLUE or new in join.parted or (match.anchors and join.is_itself(new)):
            continue
        if match.related is not None and not part:
            continue
        fresh = [
            value
            for value in operation.produced
            if (part or value not in join.same) and join.new.values[value].consumers
        ]
        if not fresh:
            continue
        # From outputs too: a fused node with one known result does what leads from there to the others.
        known = [join.same[value] for value in (*operation.inputs, *operation.outputs) if value in join.same]
        computed = [value for value in known if not join.old.values[value].is_initializer]
        computed += [value for old in match.packed for value in join.old.operations[old].produced]
        end = ends.get(new)
        claims = {SHARED, *(_next_worker(join, value) for value in fresh)} | ({end} if end is not None else set())
        work = _region(join, computed, claims)
        exact = [old for old in work if join.old.op_type(old) == operation.node.op_type]
        for old in exact or work:
            join.owner[old] = new
        if not work and not part:
            join.orphans.add(new)
            if end is not None and join.matches[end].anchors:
                match.related = next(reversed(join.matches[end].anchors))


def _region(join: Join, values: list[int], claims: set[int]) -> list[int]:
    """The vanished nodes downstream of some values, as far as they are owned by one of `claims`."""
    region: dict[int, None] = {}
    while values and len(region) < BREADTH:
        ahead: list[int] = []
        for old in join.consumers(values, steps=_STEPS):
            if old in region or join.owner[old] not in claims or join.is_anchor(old):
                continue
            if join.old.constant[old]:  # shapes lead around the work that they are the shapes of
                continue
            region[old] = None
            ahead += join.old.operations[old].produced
        values = ahead
    return list(region)


def _next_worker(join: Join, value: int) -> int:
    """The only node of the target that a value goes to, adapters and movements looked through, else `SHARED`."""
    front = join.new.values[value].consumers
    for _ in range(REACH):
        if len(front) != 1:
            return SHARED
        if join.new.op_type(front[0]) not in GLUE:
            return front[0]
        front = list(dict.fromkeys(join.new.consumers(front[0])))
    return SHARED


def _single_ends(join: Join) -> dict[int, int]:
    """For each node of the target that is not anchored the only anchored one that its results lead to."""
    ends: dict[int, int] = {}
    for new in reversed(join.new.order):
        reached = {ends.get(consumer, SHARED) for consumer in join.new.consumers(new)}
        ends[new] = new if join.matches[new].anchors else reached.pop() if len(reached) == 1 else SHARED
    return {new: end for new, end in ends.items() if end not in (new, SHARED)}


# --- Work that is done further up ---


def _hand_to_consumers_of_inputs(join: Join) -> None:
    """Work on a value that its owner doesn't consume, but a node before the owner does, is that node's work."""
    # Attention that also returns its keys and values is followed by nodes that only pick them out.
    moved: set[int | None] = set()
    reads: dict[int, set[int]] = {}
    for old in join.old.order:
        owner = join.owner[old]
        if owner is not None and owner >= 0 and old in join.matches[owner].packed:
            moved.add(old)
        if owner is None or owner < 0 or join.is_anchor(old) or join.old.constant[old]:
            continue
        flowing = [value for value in join.old.operations[old].consumed if join.flows(value)]
        surviving = join.alive.intersection(flowing)
        producers = [join.old.values[value].producer for value in flowing]
        if surviving:
            if owner not in reads:
                reads[owner] = join.reads(owner)
            worker = _consumer_before(join, owner, surviving) if surviving.isdisjoint(reads[owner]) else None
        else:
            first = producers[0] if producers and moved.issuperset(producers) else None
            worker = join.owner[first] if first is not None else None
        if worker is not None:
            join.owner[old] = worker
            moved.add(old)


def _consumer_before(join: Join, new: int, values: set[int]) -> int | None:
    """The nearest node before one that consumes all the values and produces no value with a known name."""
    seen: set[int] = set()
    front = [new]
    for _ in range(REACH):
        inputs = [value for index in front for value in join.new.operations[index].inputs[:BREADTH] if value >= 0]
        producers = [join.new.values[value].producer for value in inputs if value not in join.same]
        front = [index for index in dict.fromkeys(producers) if index is not None and index not in seen][:BREADTH]
        for index in front:
            if values <= join.reads(index):
                return index
        seen.update(front)
    return None


def _hand_to_producers(join: Join) -> None:
    """Work before a node that is what it was is the work of the producer, if that has a new name."""
    # A convolution takes on the addition and the activation after it and keeps the name of its own result.
    itself: dict[int, bool] = {}
    for old in join.old.order:
        owner = join.owner[old]
        if owner is None or owner < 0 or join.is_anchor(old):
            continue
        if join.old.constant[old] or join.old.op_type(old) in GLUE:
            continue
        if owner not in itself:
            itself[owner] = join.is_itself(owner)
        if not itself[owner]:
            continue
        producers = (join.owner[producer] for producer in join.old.producers(old))
        join.owner[old] = next((new for new in producers if new in join.renamed and new != owner), owner)


def _halves(join: Join, new: int) -> list[int]:
    """What the node before does but for one weight that is consumed here, as an activation takes a product's bias."""
    if join.new.op_type(new) in GLUE or join.is_itself(new):
        return []
    reads = {producer: join.reads(producer) for producer in set(join.new.producers(new))}
    return [
        old
        for value in join.reads(new)
        for old in join.consumers_of_weight(value)
        if (owner := join.owner[old]) in reads and value not in reads[owner] and join.old.op_type(old) not in GLUE
    ]
