"""Which graph of the tagged models each graph of a target was made from, and which values are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optimum_htp.onnxfile import Graph, Node, OnnxModel
from optimum_htp.tagging.projection.flow import Flow


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
    holders = _Holders(graphs)
    for number, scope in enumerate(new.scopes):
        around = scopes[scope.parent] if scope.parent is not None else None
        bodies: Counter[_Place] = Counter()
        for child in children.get(number, ()):
            bodies.update(
                {place: count - bodies[place] for place, count in votes[child].items() if count > bodies[place]}
            )
        holder = new.operations[scope.holder].node if scope.holder is not None else None
        outer = _inside(old, origin, around)
        place = _best(votes[number], bodies, _Seen(scope.path, holder, outer), graphs)
        if place is None and outer is not None and holder is not None:  # the names inside stand everywhere
            place = holders.body(outer, holder, scope.path.rpartition(".")[2])
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


class _Holders:
    """Finds bodies by the nodes that hold them."""

    def __init__(self, graphs: Mapping[_Place, Graph]) -> None:
        self._graphs = graphs
        self._positions: dict[_Place, dict[str, int]] = {}

    def body(self, around: _Place, holder: Node, element: str) -> _Place | None:
        """The body of the node in a tagged graph that has the results of a node of the target, or its name."""
        known = self._positions.get(around)
        if known is None:
            nodes = [(i, node) for i, node in enumerate(self._graphs[around].nodes) if node.bodies]
            known = {name: i for i, node in nodes for name in _names([(node.name, node.outputs)])}
            self._positions[around] = known
        source, path = around
        for name in (*holder.outputs, f"/{holder.name}"):
            if name in known:
                place = source, f"{path}/{known[name]}.{element}" if path else f"{known[name]}.{element}"
                return place if place in self._graphs else None
        return None


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


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of a scope of the target before its names are compared.

    Attributes:
        path: Its path.
        holder: The node whose body it is.
        around: The counterpart of the scope around it.
    """

    path: str
    holder: Node | None
    around: _Place | None

    def kinship(self, place: _Place, graphs: Mapping[_Place, Graph]) -> tuple[bool, bool, bool, bool]:
        """How much a tagged graph is in the scope's place, to choose between those that share as many names."""
        source, path = place
        inside = self.around is not None and source == self.around[0] and _is_inside(path, self.around[1])
        parent, _, last = path.rpartition("/")
        position, _, element = last.partition(".")
        same_holder = False
        if self.holder is not None and position.isdecimal() and (source, parent) in graphs:
            holder = graphs[source, parent].nodes[int(position)]
            same_holder = holder.name == self.holder.name or not set(holder.outputs).isdisjoint(self.holder.outputs)
        return inside, same_holder, element == self.path.rpartition(".")[2], path == self.path


def _best(
    votes: Counter[_Place], bodies: Counter[_Place], seen: _Seen, graphs: Mapping[_Place, Graph]
) -> _Place | None:
    """The tagged graph that shares most names with a scope; of equals, the nearest kin, then the first.

    A graph that shares more with one of the scope's bodies is not the scope's own: merging wraps graphs.
    """
    own = {place: count for place, count in votes.items() if bodies[place] <= count}
    most = max(own.values(), default=0)
    candidates = sorted(place for place, count in own.items() if count == most)
    return max(candidates, key=lambda place: seen.kinship(place, graphs), default=None)


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
