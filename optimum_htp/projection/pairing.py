"""Which graph of the tagged models each graph of a target was made from, and which values are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optimum_htp.onnxfile import Graph, OnnxModel
from optimum_htp.projection.flow import Flow


# A name that stands in so many graphs tells none of them from the others.
_COMMON = 64


@dataclass(frozen=True, slots=True)
class Pairing:
    """The tagged side of a projection.

    Attributes:
        old: The tagged graphs that the target was made from, in one flow; a graph that the target has twice is there
            twice.
        origin: For each scope of `old` the source that it is from, by its position in the list of sources.
        scopes: The scope of `old` for each scope of the target, None where there is none.
        same: The value of `old` for each value of the target that is still known by its name.
    """

    old: Flow
    origin: list[int]
    scopes: list[int | None]
    same: dict[int, int]


_Place = tuple[int, str]  # a source and the path of a graph in it


def pair(sources: Sequence[OnnxModel], new: Flow) -> Pairing:
    """Pairs every graph of a target with the graph that shares most names with it."""
    graphs = {(number, path): graph for number, model in enumerate(sources) for path, graph in model.graphs()}
    votes = _votes(graphs, new)
    children: dict[int, list[int]] = {}
    for number, scope in enumerate(new.scopes):
        if scope.parent is not None:
            children.setdefault(scope.parent, []).append(number)
    old = Flow()
    origin: list[int] = []
    copies: list[dict[str, int]] = []  # for each scope of `old` the scopes that were added together with it, by path
    scopes: list[int | None] = [None] * len(new.scopes)
    for number, scope in enumerate(new.scopes):
        around = scopes[scope.parent] if scope.parent is not None else None
        bodies: Counter[_Place] = Counter()
        for child in children.get(number, ()):
            bodies |= votes[child]  # the larger of both counts
        place = _best(votes[number], scope.path, bodies, _inside(old, origin, around))
        if place is None:
            continue
        if around is not None and origin[around] == place[0] and place[1] in copies[around]:
            scopes[number] = copies[around][place[1]]
            continue
        added = old.add(place[1], graphs[place])
        origin += [place[0]] * len(added)
        copies += [{old.scopes[each].path: each for each in added}] * len(added)
        scopes[number] = added[0]
    return Pairing(old, origin, scopes, _same_values(old, new, scopes))


def _inside(old: Flow, origin: list[int], around: int | None) -> tuple[int, str] | None:
    return (origin[around], old.scopes[around].path) if around is not None else None


def _votes(graphs: Mapping[_Place, Graph], new: Flow) -> list[Counter[_Place]]:
    """For each scope of the target how many names of tensors and nodes each tagged graph shares with it."""
    index: dict[str, list[_Place]] = {}
    for place, graph in graphs.items():
        for name in {*_names((node.name, node.outputs) for node in graph.nodes)}:
            index.setdefault(name, []).append(place)
    votes: list[Counter[_Place]] = [Counter() for _ in new.scopes]
    names: list[set[str]] = [set() for _ in new.scopes]
    for operation in new.operations:
        names[operation.scope].update(_names([(operation.node.name, operation.node.outputs)]))
    for number, held in enumerate(names):
        for name in held:
            places = index.get(name, ())
            if len(places) <= _COMMON:
                votes[number].update(places)
    return votes


def _names(nodes: Iterable[tuple[str, tuple[str, ...]]]) -> Iterable[str]:
    for name, outputs in nodes:
        if name:
            yield "/" + name  # apart from tensors of the same name
        yield from filter(None, outputs)


def _best(votes: Counter[_Place], path: str, bodies: Counter[_Place], around: _Place | None) -> _Place | None:
    """The likeliest tagged graph for a scope; of equals one that lies in the counterpart of what is around it.

    A graph that shares more with one of the scope's bodies is not the scope's own: merging wraps graphs.
    """
    found: _Place | None = None
    best = (0, False, False)
    for place, count in votes.items():
        if bodies[place] > count:
            continue
        inside = around is not None and place[0] == around[0] and _is_inside(place[1], around[1])
        score = (count, inside, place[1] == path)
        if score > best or (score == best and found is not None and place < found):
            found, best = place, score
    return found


def _is_inside(path: str, outer: str) -> bool:
    return path != outer and (path.startswith(f"{outer}/") if outer else "::" not in path)


def _same_values(old: Flow, new: Flow, scopes: list[int | None]) -> dict[int, int]:
    """The values that both sides know by the same name, in paired graphs."""
    below = _names_below(old)
    same: dict[int, int] = {}
    for number, scope in enumerate(new.scopes):
        counterpart = scopes[number]
        if counterpart is None:
            continue
        for name, value in scope.values.items():
            found = old.find(counterpart, name)
            if found is None:  # a body that was put in the place of its holder
                found = below.get(counterpart, {}).get(name)
            if found is not None:
                same[value] = found
    return same


def _names_below(old: Flow) -> dict[int, dict[str, int]]:
    """For each scope the names that only one of the bodies inside it defines."""
    below: dict[int, dict[str, int]] = {}
    for number in reversed(range(len(old.scopes))):
        scope = old.scopes[number]
        if scope.parent is None:
            continue
        outer = below.setdefault(scope.parent, {})
        for name, value in (*scope.values.items(), *below.get(number, {}).items()):
            outer[name] = value if outer.get(name, value) == value else -1
    return {number: {name: value for name, value in names.items() if value >= 0} for number, names in below.items()}
