"""Which graph of the sources each graph of a target was made from, and which values are the same.

Example: a merged decoder has the graphs "", "0.then_branch" and "0.else_branch". The sources are the two decoders. The
names in each branch are those of one decoder, so the branches are paired with the decoders' main graphs. The target's
main graph has only an `If`, and is paired with nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from optimum_htp.onnxfile import Graph, Node, OnnxModel, body_path, split_body_path
from optimum_htp.tagging.projection.flow import Flow
from optimum_htp.tagging.projection.join import Join

_COMMON = 64  # graphs; a name that is in more of them does not tell them apart

_Place = tuple[int, str]
"""A source and the path of a graph in it."""


def pair(sources: Sequence[OnnxModel], new: Flow) -> tuple[Join, list[int]]:
    """Pairs every graph of a target with the source graph that shares most names with it.

    Gives the join, in which values are known by name only, and the source's index of each scope of its tagged side.
    """
    graphs = {(index, path): graph for index, model in enumerate(sources) for path, graph in model.graphs()}
    candidates = _Candidates(graphs, new)
    old = Flow()
    origin: list[int] = []
    added: list[dict[str, int]] = []  # for each scope of `old` the scopes that were added together with it, by path
    scopes: list[int | None] = []
    for index, scope in enumerate(new.scopes):
        around = scopes[scope.parent] if scope.parent is not None else None
        place = candidates.best(index, (origin[around], old.scopes[around].path) if around is not None else None)
        if place is None:
            scopes.append(None)
        elif around is not None and origin[around] == place[0] and place[1] in added[around]:
            scopes.append(added[around][place[1]])
        else:
            fresh = old.add(place[1], graphs[place])
            origin += [place[0]] * len(fresh)
            added += [{old.scopes[one].path: one for one in fresh}] * len(fresh)
            scopes.append(fresh[0])
    return Join(old, new, scopes, _same_values(old, new, scopes)), origin


class _Candidates:
    """The source graphs that a scope of the target may have been made from."""

    def __init__(self, graphs: Mapping[_Place, Graph], new: Flow) -> None:
        self._graphs = graphs
        self._new = new
        # By source graph, the index of each node with bodies, by its name and its results.
        self._holders: dict[_Place, dict[str, int]] = {
            place: {name: index for index, node in enumerate(graph.nodes) if node.bodies for name in _names(node)}
            for place, graph in graphs.items()
        }
        self._votes = _votes(graphs, new)
        self._body_votes: list[Counter[_Place]] = [Counter() for _ in new.scopes]
        for scope, votes in zip(new.scopes, self._votes, strict=True):
            if scope.parent is not None:
                self._body_votes[scope.parent] |= votes

    def best(self, scope: int, around: _Place | None) -> _Place | None:
        """The source graph that shares most names with a scope; of equals, the one in its place, then the first.

        `around` is the counterpart of the scope around it. A graph that shares more names with a body of the scope is
        not the scope's own: merging wraps graphs.
        """
        bodies = self._body_votes[scope]
        own = {place: count for place, count in self._votes[scope].items() if bodies[place] <= count}
        most = max(own.values(), default=0)
        equals = sorted(place for place, count in own.items() if count == most)
        best = max(equals, key=lambda place: self._likeness(scope, place, around), default=None)
        return self._body(scope, around) if best is None and around is not None else best

    def _likeness(self, scope: int, place: _Place, around: _Place | None) -> tuple[bool, bool, bool, bool]:
        """How much a source graph is in a scope's place, to choose between those that share as many names."""
        source, path = place
        own, holder = self._new.scopes[scope].path, self._holder(scope)
        inside = around is not None and source == around[0] and _is_inside(path, around[1])
        above = split_body_path(path)
        same_holder = False
        if holder is not None and above is not None:
            node = self._graphs[source, above[0]].nodes[above[1]]
            same_holder = node.name == holder.name or not set(node.outputs).isdisjoint(holder.outputs)
        return inside, same_holder, path.rpartition(".")[2] == own.rpartition(".")[2], path == own

    def _body(self, scope: int, around: _Place) -> _Place | None:
        """The body of the holder's counterpart in a source graph, for a scope whose names are in too many graphs."""
        holder = self._holder(scope)
        known = self._holders[around]
        index = next((known[name] for name in _names(holder) if name in known), None) if holder is not None else None
        if index is None:
            return None
        place = around[0], body_path(around[1], index, self._new.scopes[scope].path.rpartition(".")[2])
        return place if place in self._graphs else None

    def _holder(self, scope: int) -> Node | None:
        holder = self._new.scopes[scope].holder
        return self._new.operations[holder].node if holder is not None else None


def _votes(graphs: Mapping[_Place, Graph], new: Flow) -> list[Counter[_Place]]:
    """For each scope of the target how many names of tensors and nodes each source graph shares with it."""
    places: dict[str, list[_Place]] = {}
    for place, graph in graphs.items():
        for name in {name for node in graph.nodes for name in _names(node)}:
            places.setdefault(name, []).append(place)
    names: list[set[str]] = [set() for _ in new.scopes]
    for operation in new.operations:
        names[operation.scope].update(_names(operation.node))
    shared = ([places[name] for name in own if name in places] for own in names)
    return [Counter(chain.from_iterable(some for some in lists if len(some) <= _COMMON)) for lists in shared]


def _names(node: Node) -> Iterator[str]:
    """The names of a node's results, and its own; they are kept apart by a slash."""
    yield from filter(None, node.outputs)
    if node.name:
        yield f"/{node.name}"


def _is_inside(path: str, outer: str) -> bool:
    return path != outer and (path.startswith(f"{outer}/") if outer else "::" not in path)


def _same_values(old: Flow, new: Flow, scopes: list[int | None]) -> dict[int, int]:
    """The values that both sides know by the same name, in paired graphs."""
    below = _names_below(old)
    same: dict[int, int] = {}
    for scope, counterpart in zip(new.scopes, scopes, strict=True):
        if counterpart is None:
            continue
        for name, value in scope.values.items():
            known = old.find(counterpart, name)
            if known is None:  # a body that was put in the place of its holder
                known = below.get(counterpart, {}).get(name)
            if known is not None:
                same[value] = known
    return same


def _names_below(old: Flow) -> dict[int, dict[str, int]]:
    """For each scope the names that only one of the bodies inside it defines."""
    below: dict[int, dict[str, int]] = {}
    for index in reversed(range(len(old.scopes))):
        scope = old.scopes[index]
        if scope.parent is None:
            continue
        outer = below.setdefault(scope.parent, {})
        for name, value in (*scope.values.items(), *below.get(index, {}).items()):
            outer[name] = value if outer.get(name, value) == value else -1
    return {index: {name: value for name, value in names.items() if value >= 0} for index, names in below.items()}
