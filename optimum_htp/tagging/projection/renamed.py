"""Nodes that can be recognized: by names that they kept, by new names made from old ones, by what they consume.

Example: `c` is still there; `y_quantized` was made from `y`; the `Exp` has only new names, but consumes what it did.

    before:  c = Conv(x, w);  y = Relu(c);  e = Exp(y)
    after:   c = Conv(x, w);  y_quantized = QLinearRelu(c);  t = Exp(y_quantized)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

from optimum_htp.tagging.projection.flow import ADAPTERS, BREADTH, GLUE, MOVEMENT, PLAIN, REACH
from optimum_htp.tagging.projection.join import Join
from optimum_htp.tagging.projection.packed import Packing

_BOUNDARIES = frozenset("_:/.-")
_LONGEST_NAME = 2_000
_MOST_SUFFIXES = 64

_Index = dict[tuple[int, str], list[int]]


def match_names(join: Join) -> None:
    """Applies the rules that go by names, the surest first."""
    _anchor_by_outputs(join)
    index = _index(join)
    _anchor_by_names(join, index)
    _pass_back(join)
    _relate_by_prefix(join, index)


def match_renamed(join: Join, packing: Packing) -> None:
    """Finds nodes without a known name by what they consume, producers first, since each makes the next findable."""
    for new in join.new.order:
        match, operation = join.matches[new], join.new.operations[new]
        if packing.match(new):
            continue
        if operation.node.op_type in ADAPTERS:
            if operation.inputs and operation.outputs and operation.inputs[0] in join.same:
                join.same.setdefault(operation.outputs[0], join.same[operation.inputs[0]])
            continue
        if match.anchors or match.related is not None:
            continue
        old = _twin(join, new)
        if old is None and operation.node.op_type not in GLUE:
            old = _by_weights(join, new)
        if old is None:
            continue
        if join.owner[old] is None:
            join.anchor(new, old)
        else:
            match.related = old
        join.rename(new, old)


# --- Names that were kept ---


def _index(join: Join) -> _Index:
    """Tagged nodes by scope and name, those of inner graphs too; only some of them if a name occurs often."""
    index: _Index = {}
    for old, operation in enumerate(join.old.operations):
        scope: int | None = operation.scope
        while operation.node.name and scope is not None:
            known = index.setdefault((scope, operation.node.name), [])
            if len(known) < REACH:
                known.append(old)
            scope = join.old.scopes[scope].parent
    return index


def _anchor_by_outputs(join: Join) -> None:
    for new, operation in enumerate(join.new.operations):
        for value in operation.outputs:
            producer = join.old.values[join.same[value]].producer if value in join.same else None
            if producer is not None:
                join.anchor(new, producer)


def _anchor_by_names(join: Join, index: _Index) -> None:
    """The same name and operator, where no result of the tagged node kept its name or an adapter after it has that."""
    for new, operation in enumerate(join.new.operations):
        anchors, node, scope = join.matches[new].anchors, operation.node, join.scopes[operation.scope]
        candidates = [
            old
            for old in (index.get((scope, node.name), ()) if scope is not None else ())
            if join.old.operations[old].node.op_type == node.op_type
            and join.old.operations[old].node.domain == node.domain
            and _may_be(join, old, anchors)
        ]
        if len(candidates) != 1:
            continue
        old = candidates[0]
        owner = join.owner[old]
        if owner is not None:
            join.relate(owner, old)
        elif not anchors:
            join.rename(new, old)
        join.anchor(new, old)


def _may_be(join: Join, old: int, anchors: Collection[int]) -> bool:
    """Whether a tagged node may be that of its name in the target, which produces the results of `anchors`."""
    owner = join.owner[old]
    if owner is not None:
        return not anchors and join.adapts(owner, old)
    return not join.survives(old) and (not anchors or _leads(join, old, anchors))


def _leads(join: Join, start: int, ends: Collection[int]) -> bool:
    """Whether the results of a tagged node reach others through nodes that are gone."""
    values = join.old.operations[start].produced
    seen: set[int] = set()
    for _ in range(REACH):
        fresh = [old for old in dict.fromkeys(join.consumers(values)) if old not in seen][:BREADTH]
        if any(old in ends for old in fresh):
            return True
        seen.update(fresh)
        values = [value for old in fresh if not join.survives(old) for value in join.old.operations[old].produced]
    return False


def _pass_back(join: Join) -> None:
    """What an adapter seems to produce is the work of the node before it, if that has no other name."""
    for new in join.new.order:
        for old in [old for old in join.matches[new].anchors if join.adapts(new, old)]:
            worker = _adapted(join, new)
            if worker is not None and join.old.op_type(old) not in PLAIN:
                join.relate(new, old)
                join.anchor(worker, old)


def _adapted(join: Join, new: int) -> int | None:
    """The node whose result an adapter passes on, if no result of it is known by name."""
    for _ in range(REACH):
        inputs = join.new.operations[new].inputs
        producer = join.new.values[inputs[0]].producer if inputs and inputs[0] >= 0 else None
        if producer is None or any(value in join.same for value in join.new.operations[producer].outputs):
            return None
        new = producer
        if join.new.op_type(new) not in ADAPTERS:
            return new
    return None


# --- New names made from old ones ---


def _relate_by_prefix(join: Join, index: _Index) -> None:
    """Names that tools make from old ones: `X_quantized`, `X_output_cast_0`, `X_nchwc`."""
    for new, match in enumerate(join.matches):
        if match.anchors:
            continue
        old, match.weight = _by_prefix(join, new, index)
        if old is None:
            continue
        op_type = join.new.op_type(new)
        works = op_type not in PLAIN and (op_type not in GLUE or op_type == join.old.op_type(old))
        if works and join.owner[old] is None and not join.survives(old):
            join.anchor(new, old)
            join.rename(new, old)
        else:
            match.related = old


def _by_prefix(join: Join, new: int, index: _Index) -> tuple[int | None, int | None]:
    """The tagged node with the longest old name that a new one begins with, and the weight that it was made from."""
    operation = join.new.operations[new]
    scope = join.scopes[operation.scope]
    longest, old = 0, None
    weight = next((join.same[value] for value in operation.outputs if value in join.same), None)
    if scope is None:
        return None, weight
    for text in (*operation.node.outputs[:1], operation.node.name):
        for name in shorter_names(text):
            if len(name) <= longest:
                break
            value = join.old.find(scope, name)
            named = index.get((scope, name), []) if value is None else []
            if value is not None or len(named) == 1:  # a weight is not the name of a node: its consumers decide
                longest, old = len(name), join.old.values[value].producer if value is not None else named[0]
                weight = weight if value is None else value
                break
    return old, weight


def shorter_names(text: str) -> Iterator[str]:
    """The names that one may have been made from by appending something, the longest first."""
    if len(text) <= _LONGEST_NAME:
        ends = (stop for stop in range(len(text) - 1, 0, -1) if text[stop] in _BOUNDARIES)
        yield from (text[:stop] for stop in islice(ends, _MOST_SUFFIXES))


# --- Nodes whose names are all new ---


def _twin(join: Join, new: int) -> int | None:
    """The tagged node of the same operator that consumes the same, right there or after nodes that are gone."""
    op_type = join.new.op_type(new)
    known = [join.same[value] for value in join.new.operations[new].inputs if value in join.same]
    computed = [value for value in known if not join.old.values[value].is_initializer]
    # One that consumes all that is known: if there is one, the first is right here, and nothing comes before it.
    for old in islice(join.lost_consumers(computed[:1]), BREADTH):
        is_free = join.owner[old] is None and join.old.op_type(old) == op_type
        if is_free and set(known).issubset(join.old.operations[old].inputs):
            return old
    candidates = _vanished_from(join, computed, 1 if op_type in MOVEMENT else REACH)
    return max(
        (old for old in candidates if join.old.op_type(old) == op_type and join.owner[old] is None),
        key=lambda old: (len(set(known).intersection(join.old.operations[old].inputs)), -old),
        default=None,
    )


def _vanished_from(join: Join, values: list[int], reach: int) -> list[int]:
    """The tagged nodes downstream of some values that the target doesn't show, nearest first."""
    gone: dict[int, None] = {}
    for _ in range(reach):
        ahead: list[int] = []
        for old in islice(join.lost_consumers(values), REACH * BREADTH):
            if len(gone) >= BREADTH:
                break
            if old in gone:
                continue
            gone[old] = None
            if join.owner[old] is None:
                ahead += join.old.operations[old].produced
        values = ahead
    return list(gone)


def _by_weights(join: Join, new: int) -> int | None:
    """The only tagged node of those that are gone that consumes a weight which the node consumes too."""
    candidates = {
        old
        for value in join.reads(new)
        for old in join.consumers_of_weight(value)
        if not join.survives(old) or join.owner[old] is not None
    }
    only = candidates.pop() if len(candidates) == 1 else None
    return only if only is not None and join.old.op_type(only) not in GLUE else None
