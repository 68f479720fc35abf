"""What names tell: results and nodes that kept theirs, and those whose new name was made from an old one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

from optimum_htp.tagging.projection.flow import GLUE, PLAIN, QUANTIZING
from optimum_htp.tagging.projection.join import BREADTH, REACH, Join


_BOUNDARIES = frozenset("_:/.-")
_LONGEST_NAME = 2_000
_MOST_SUFFIXES = 64


def match_names(join: Join) -> None:
    """Applies the rules that go by names, the surest first."""
    _anchor_by_outputs(join)
    index = _index(join)
    _anchor_by_names(join, index)
    _pass_back(join)
    _relate_by_prefix(join, index)


_Index = dict[tuple[int, str], list[int]]


def _index(join: Join) -> _Index:
    """Tagged nodes by scope and name, those of inner graphs too; a few of them where a name stands often."""
    index: _Index = {}
    for number, operation in enumerate(join.old.operations):
        scope: int | None = operation.scope
        while operation.node.name and scope is not None:
            found = index.setdefault((scope, operation.node.name), [])
            if len(found) < REACH:
                found.append(number)
            scope = join.old.scopes[scope].parent
    return index


def _anchor_by_outputs(join: Join) -> None:
    for number, operation in enumerate(join.new.operations):
        for value in operation.outputs:
            known = join.same.get(value)
            maker = join.old.values[known].maker if known is not None else None
            if maker is not None:
                join.anchor(number, maker)


def _anchor_by_names(join: Join, index: _Index) -> None:
    """The same name and operator, where the tagged node's results have no name in the target any more.

    This also finds a node that does its own work but took over the name of a later result, and one that handed its
    result's name to an adapter behind it.
    """
    for number, operation in enumerate(join.new.operations):
        scope = join.scopes[operation.scope]
        anchors = join.matches[number].anchors
        node = operation.node
        candidates = []
        for each in index.get((scope, node.name), ()) if scope is not None else ():
            known = join.old.operations[each].node
            if (known.op_type, known.domain) == (node.op_type, node.domain) and _may_be(join, each, anchors):
                candidates.append(each)
        if len(candidates) != 1:
            continue
        owner = join.owner[candidates[0]]
        if owner is not None:
            join.make_kin(owner, candidates[0])
        elif not anchors:
            join.rename(number, candidates[0])
        join.anchor(number, candidates[0])


def _may_be(join: Join, found: int, anchors: Collection[int]) -> bool:
    """Whether a tagged node may be that of its name in the target, which makes the results of `anchors`."""
    owner = join.owner[found]
    if owner is not None:
        return not anchors and join.adapts(owner, found)
    return not join.survives(found) and (not anchors or _leads(join, found, anchors))


def _leads(join: Join, start: int, ends: Collection[int]) -> bool:
    """Whether what a tagged node makes reaches others through nodes that are gone."""
    outputs = [value for value in join.old.operations[start].outputs if value >= 0]
    seen: set[int] = set()
    for _ in range(REACH):
        fresh = [each for each in dict.fromkeys(join.readers(outputs)) if each not in seen][:BREADTH]
        if any(each in ends for each in fresh):
            return True
        seen.update(fresh)
        gone = [each for each in fresh if not join.survives(each)]
        outputs = [value for each in gone for value in join.old.operations[each].outputs if value >= 0]
    return False


def _pass_back(join: Join) -> None:
    """What an adapter seems to make was made by the node in front of it, if that has no other name."""
    for number in join.new.order:
        for found in [each for each in join.matches[number].anchors if join.adapts(number, each)]:
            worker = _in_front(join, number)
            if worker is not None and join.op(found) not in PLAIN:
                join.make_kin(number, found)
                join.anchor(worker, found)


def _in_front(join: Join, number: int) -> int | None:
    """The node whose result an adapter passes on, if no result of it is known by name."""
    for _ in range(REACH):
        inputs = join.new.operations[number].inputs
        maker = join.new.values[inputs[0]].maker if inputs and inputs[0] >= 0 else None
        if maker is None or any(value in join.same for value in join.new.operations[maker].outputs):
            return None
        number = maker
        if join.new_op(number) not in PLAIN | QUANTIZING:
            return number
    return None


def _relate_by_prefix(join: Join, index: _Index) -> None:
    """Names that tools make from old ones: `X_quantized`, `X_output_cast_0`, `X_nchwc`."""
    for number in range(len(join.new.operations)):
        match = join.matches[number]
        if match.anchors:
            continue
        found, match.weight = _by_prefix(join, number, index)
        if found is None:
            continue
        op_type = join.new_op(number)
        works = op_type not in PLAIN and (op_type not in GLUE or op_type == join.op(found))
        if works and join.owner[found] is None and not join.survives(found):
            join.anchor(number, found)
            join.rename(number, found)
        else:
            match.kin = found


def _by_prefix(join: Join, number: int, index: _Index) -> tuple[int | None, int | None]:
    """The tagged node, or the weight, that the longest old name names which a new one begins with.

    What is made from a weight or an input belongs to who reads it: so a weight is no node's name.
    """
    operation = join.new.operations[number]
    scope = join.scopes[operation.scope]
    best, found = 0, None
    weight = next((join.same[each] for each in operation.outputs if each in join.same), None)
    for text in (*operation.node.outputs[:1], operation.node.name) if scope is not None else ():
        if scope is None:
            continue
        for name in shorter_names(text):
            if len(name) <= best:
                break
            value = join.old.find(scope, name)
            named = index.get((scope, name), []) if value is None else []
            if value is not None or len(named) == 1:
                best, found = len(name), join.old.values[value].maker if value is not None else named[0]
                weight = weight if value is None else value
                break
    return found, weight


def shorter_names(text: str) -> Iterator[str]:
    """The names that one may have been made from by putting something behind them, the longest first."""
    if len(text) <= _LONGEST_NAME:
        ends = (stop for stop in range(len(text) - 1, 0, -1) if text[stop] in _BOUNDARIES)
        yield from (text[:stop] for stop in islice(ends, _MOST_SUFFIXES))
