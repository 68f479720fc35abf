"""The work of tagged nodes that the target doesn't show: who does it now.

What a tagged graph computes between two values that both graphs have is the work of the node that makes the later one,
unless another node of the target visibly does it.
"""

from __future__ import annotations

from optimum_htp.tagging.projection.flow import GLUE, MOVEMENT, PLAIN, QUANTIZING
from optimum_htp.tagging.projection.join import BREADTH, NOBODY, REACH, SHARED, Join


def match_renamed(join: Join) -> None:
    """Finds nodes without any known name by what they read, makers first, so that each makes the next findable."""
    for number in join.new.order:
        match, operation = join.matches[number], join.new.operations[number]
        op_type = operation.node.op_type
        if op_type in QUANTIZING | PLAIN:
            if operation.inputs and operation.outputs and operation.inputs[0] in join.same:
                join.same.setdefault(operation.outputs[0], join.same[operation.inputs[0]])
            continue
        if match.anchors or match.kin is not None:
            continue
        found = _twin(join, number)
        if found is None and op_type not in GLUE:
            found = _by_weights(join, number)
        if found is None:
            continue
        if join.owner[found] is None:
            join.anchor(number, found)
        else:
            match.kin = found
        join.rename(number, found)


def match_vanished(join: Join) -> None:
    """Gives every tagged node that the target doesn't show to the node that does its work, and completes `work`."""
    _assign(join)
    _split_regions(join)
    _hand_to_readers_of_inputs(join)
    _hand_to_makers(join)
    for number, owner in enumerate(join.owner):
        if owner is not None and owner >= 0:
            join.matches[owner].work.append(number)
    for number, match in enumerate(join.matches):
        match.work = list(dict.fromkeys((*match.work, *match.anchors, *_halves(join, number))))


# --- Nodes whose names are all new ---


def _twin(join: Join, number: int) -> int | None:
    """The tagged node of the same operator that reads the same, right there or behind nodes that are gone."""
    operation = join.new.operations[number]
    known = [join.same[value] for value in operation.inputs if value in join.same]
    flowing = [value for value in known if not join.old.values[value].stored]
    reach = 1 if operation.node.op_type in MOVEMENT else REACH
    best, found = (0, 0), None
    for candidate in _vanished_from(join, flowing, reach):
        if join.op(candidate) != operation.node.op_type or join.owner[candidate] is not None:
            continue
        score = (1 + len(set(known) & set(join.old.operations[candidate].inputs)), -candidate)
        if found is None or score > best:
            best, found = score, candidate
    return found


def _vanished_from(join: Join, values: list[int], reach: int) -> list[int]:
    """The tagged nodes downstream of some values that the target doesn't show, nearest first."""
    found: dict[int, None] = {}
    for _ in range(reach):
        ahead: list[int] = []
        for reader in join.readers(values):
            if reader in found or join.survives(reader) or len(found) >= BREADTH:
                continue
            found[reader] = None
            if join.owner[reader] is None:
                ahead += [each for each in join.old.operations[reader].outputs if each >= 0]
        values = ahead
    return list(found)


def _by_weights(join: Join, number: int) -> int | None:
    """The only tagged node of those that are gone that reads a weight which the node reads too."""
    found = {
        reader
        for value in join.reads(number)
        for reader in join.readers_of_weight(value)
        if not join.survives(reader) or join.owner[reader] is not None
    }
    only = found.pop() if len(found) == 1 else None
    return only if only is not None and join.op(only) not in GLUE else None


# --- Nodes that are gone ---


def _assign(join: Join) -> None:
    """Gives each vanished node to the node that needs its result, if it is just one."""
    for number in reversed(join.old.order):
        if join.owner[number] is not None:
            continue
        owners = {join.owner[reader] for reader in join.old.readers(number)} - {NOBODY, None}
        if join.survives(number) or not owners:
            join.owner[number] = NOBODY
        else:
            join.owner[number] = owners.pop() if len(owners) == 1 else SHARED


def _split_regions(join: Join) -> None:
    """Gives a node that nothing is known of the vanished work that starts from what it reads.

    What it does so visibly is not the work of the nodes downstream that it was given to at first. A fused node of which
    one result is known gets the work that leads from there to its others.
    """
    ends = _single_ends(join)
    for number in join.new.order:
        match, operation = join.matches[number], join.new.operations[number]
        # A part of one node's work that it was cut from, a bias, may have gone to the next.
        part = match.kin is not None and number in join.renamed
        if operation.node.op_type in GLUE or (match.anchors and join.is_itself(number)):
            continue
        if match.kin is not None and not part:
            continue
        fresh = [
            value
            for value in operation.outputs
            if value >= 0 and (part or value not in join.same) and join.new.values[value].readers
        ]
        if not fresh:
            continue
        known = [join.same[value] for value in (*operation.inputs, *operation.outputs) if value in join.same]
        flowing = [value for value in known if not join.old.values[value].stored]
        end = ends.get(number)
        claims = {SHARED, *(_next_worker(join, value) for value in fresh)} | ({end} if end is not None else set())
        work = _region(join, flowing, claims)
        exact = [each for each in work if join.op(each) == operation.node.op_type]
        for each in exact or work:
            join.owner[each] = number
        if not work and not part:
            join.orphans.add(number)
            if end is not None and join.matches[end].anchors:
                match.kin = next(reversed(join.matches[end].anchors))


def _region(join: Join, values: list[int], claims: set[int]) -> list[int]:
    """The vanished nodes downstream of some values, as far as they are nobody's but those named."""
    found: dict[int, None] = {}
    while values and len(found) < BREADTH:
        ahead: list[int] = []
        for reader in join.readers(values):
            if reader in found or join.owner[reader] not in claims or join.is_anchor(reader):
                continue
            if join.constant[reader]:  # shapes lead around the work that they are the shapes of
                continue
            found[reader] = None
            ahead += [each for each in join.old.operations[reader].outputs if each >= 0]
        values = ahead
    return list(found)


def _next_worker(join: Join, value: int) -> int:
    """The only node of the target that a value goes to, adapters and movements looked through, else `SHARED`."""
    front = join.new.values[value].readers
    for _ in range(REACH):
        if len(front) != 1:
            return SHARED
        if join.new_op(front[0]) not in GLUE:
            return front[0]
        front = list(dict.fromkeys(join.new.readers(front[0])))
    return SHARED


def _single_ends(join: Join) -> dict[int, int]:
    """For each node of the target that is not anchored the only anchored one that its results lead to."""
    ends: dict[int, int] = {}
    several = -1
    for number in reversed(join.new.order):
        if join.matches[number].anchors:
            ends[number] = number
            continue
        found = {ends.get(reader, several) for reader in join.new.readers(number)}
        ends[number] = found.pop() if len(found) == 1 else several
    return {number: end for number, end in ends.items() if end not in (number, several)}


# --- Work that is done further up ---


def _hand_to_readers_of_inputs(join: Join) -> None:
    """Work on a value that its owner doesn't read, but a node in front of the owner does, is that node's work.

    Attention that also returns its keys and values has nodes behind it that only pick them out.
    """
    moved: set[int | None] = set()
    reads: dict[int, set[int]] = {}
    for found in join.old.order:
        owner = join.owner[found]
        if owner is None or owner < 0 or join.is_anchor(found) or join.constant[found]:
            continue
        flowing = [value for value in join.old.operations[found].inputs if value >= 0 and join.flows(value)]
        read = {value for value in flowing if value in join.alive}
        makers = [join.old.values[value].maker for value in flowing]
        if read:
            if owner not in reads:
                reads[owner] = join.reads(owner)
            worker = _reader_in_front(join, owner, read) if not read & reads[owner] else None
        else:
            first = makers[0] if makers and moved.issuperset(makers) else None
            worker = join.owner[first] if first is not None else None
        if worker is not None:
            join.owner[found] = worker
            moved.add(found)


def _reader_in_front(join: Join, number: int, values: set[int]) -> int | None:
    """The nearest node in front of one that reads all the values and makes no value with a known name."""
    seen: set[int] = set()
    front = [number]
    for _ in range(REACH):
        values_read = [value for each in front for value in join.new.operations[each].inputs[:BREADTH] if value >= 0]
        makers = [join.new.values[value].maker for value in values_read if value not in join.same]
        front = [maker for maker in dict.fromkeys(makers) if maker is not None and maker not in seen][:BREADTH]
        for maker in front:
            if values <= join.reads(maker):
                return maker
        seen.update(front)
    return None


def _hand_to_makers(join: Join) -> None:
    """Work in front of a node that is what it was is the work of the node before, if that has a new name.

    A convolution takes on the addition and the activation behind it and keeps the name of its own result.
    """
    itself: dict[int, bool] = {}
    for found in join.old.order:
        owner = join.owner[found]
        if owner is None or owner < 0 or join.is_anchor(found) or join.constant[found] or join.op(found) in GLUE:
            continue
        if owner not in itself:
            itself[owner] = join.is_itself(owner)
        if not itself[owner]:
            continue
        makers = [join.owner[maker] for maker in join.old.makers(found)]
        renamed = [each for each in makers if each is not None and each != owner and each in join.renamed]
        if renamed:
            join.owner[found] = renamed[0]


def _halves(join: Join, number: int) -> list[int]:
    """Tagged nodes that the node in front does, except for what is done here with one of their weights.

    A matrix product that gave its bias to the activation behind it.
    """
    if join.new_op(number) in GLUE or join.is_itself(number):
        return []
    makers = {maker: join.reads(maker) for maker in set(join.new.makers(number))}
    found = []
    for value in join.reads(number):
        for reader in join.readers_of_weight(value):
            owner = join.owner[reader]
            if owner in makers and value not in makers[owner] and join.op(reader) not in GLUE:
                found.append(reader)
    return found
