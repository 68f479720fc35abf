"""What the nodes of a dynamo file say of themselves, held against its graph, and the calls that the graph proves.

A statement is not believed

- if the node reads a parameter by name that another module holds, and its own module is not known to have one that may be
  stored there too (tensors of equal values are stored once);
- if the data contradict it. A call ends before what is outside of it begins: where values leave a module and come back,
  it was called again, and then does again most of what it did. Otherwise a node lies: of those between, or of those of the
  module that are by themselves, the fewest.

Example: the nodes say `a`, `b`, `a`, and each reads the one before.

    0: Sin   a   sin        a call of `a`: one operation
    1: Cos   b   cos        the call is over
    2: Sin   a   sin_1      another call of `a`, which does the same. Had it been a part of the one call, 1 would lie

The calls are counted so too. They are known only if some kind of operation is there once in each of them, and none of that
kind is missing in the file (torch numbers them): a call of which nothing is left would be missing there.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass, replace

from optimum_htp.hierarchy import ModulePath, ModuleTree, NodeKey, NodeTag, NodeTags
from optimum_htp.onnxfile import OnnxModel, reads, topological_order
from optimum_htp.tagging.rules.metadata import Statement, Statements, statements
from optimum_htp.tagging.tracing.trace import ModuleTrace

_ALIKE = 0.5  # the share of its operations that a call has in common with the largest call of its module, at least
_MOST_STEPS = 20_000_000  # from node to node; what takes more is left unchecked
_MOST_LIES = 100
_NUMBERED = re.compile(r"(?P<kind>.+?)(?:_(?P<number>\d{1,9}))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Believed:
    """What is left of the statements."""

    paths: Mapping[NodeKey, ModulePath]  # the module of each node whose statement is believed
    doubtful: AbstractSet[NodeKey]  # the nodes whose statement is not, and that no weaker evidence may decide


def believed(model: OnnxModel, trace: ModuleTrace, said: Statements | None = None) -> Believed:
    """Holds the statements of a graph against the tree of modules and, where the trace has no calls, against the graph."""
    said = statements(model) if said is None else said
    paths = {key: path for key, one in said.made.items() if (path := one.path(trace.tree)) is not None}
    doubtful = set(said.garbled) | (said.made.keys() - paths.keys())
    if not trace.calls and paths:
        doubtful |= _readers_of_others(model, trace, said.made, paths)
        known = {key: said.made[key] for key in paths if key not in doubtful}
        doubtful |= _Regions(model, known).liars()
    return Believed({key: path for key, path in paths.items() if key not in doubtful}, doubtful)


def with_calls(
    model: OnnxModel, tree: ModuleTree, tags: NodeTags
) -> tuple[dict[NodeKey, NodeTag], dict[ModulePath, int]]:
    """The tags with the calls that a graph proves, and how often the modules ran for which it does, if more than once."""
    said = statements(model)
    known = {key: one for key, one in said.made.items() if key in tags and tags[key].source == "metadata"}
    calls: dict[NodeKey, int] = {}
    counts: dict[ModulePath, int] = {}
    for scope, count, owners in _Regions(model, known).proven():
        path = tree.find(scope)
        if path is not None:
            counts[tree.module(path).path] = count
            calls |= owners
    found = {key: replace(tag, call=calls[key]) if key in calls else tag for key, tag in tags.items()}
    return found, counts


def _readers_of_others(
    model: OnnxModel, trace: ModuleTrace, made: Mapping[NodeKey, Statement], paths: Mapping[NodeKey, ModulePath]
) -> set[NodeKey]:
    """The nodes that read what neither their module nor one on the way to it, or inside it, can hold."""
    tree = trace.tree
    stored = {tensor.name: tensor.dims for _, graph in model.graphs() for tensor in graph.initializers}
    inner = {path[:length] for module in tree for path in module.paths for length in range(len(path))}

    def holds(reader: ModulePath, holder: ModulePath) -> bool:
        return any(path[: len(reader)] == reader for path in tree.module(holder).paths)

    def may_share(reader: ModulePath, name: str) -> bool:
        if trace.shapes:
            return any(
                shape == stored[name] and other not in stored and holds(reader, trace.tensors[other])
                for other, shape in trace.shapes.items()
            )
        own = ".".join((*reader, name.rpartition(".")[2]))
        return own not in stored and reader not in inner

    found: set[NodeKey] = set()
    decided: dict[tuple[tuple[str, ...], str], bool] = {}
    for key, node in model.nodes():
        if key not in paths or node.domain == "com.microsoft":  # a fusion, which does the work of others too
            continue
        for name in node.inputs:
            if name not in stored or name not in trace.tensors:
                continue
            case = (made[key].scopes, name)
            if case not in decided:
                holders = trace.holders.get(name, (trace.tensors[name],))
                around = {id(tree.module(path)) for scope in case[0] if (path := tree.find(scope)) is not None}
                decided[case] = (
                    any(id(tree.module(holder)) in around or holds(paths[key], holder) for holder in holders)
                    or may_share(paths[key], name)
                )  # fmt: skip
            if not decided[case]:
                found.add(key)
    return found


class _Regions:
    """The nodes of the main graph that each module made, as the nodes say, in an order in which they can run."""

    def __init__(self, model: OnnxModel, made: Mapping[NodeKey, Statement]) -> None:
        nodes = model.graph.nodes
        order = topological_order(nodes)
        self._keys: list[NodeKey] = [("", index) for index in order]
        places = {index: place for place, index in enumerate(order)}
        makers = {name: places[index] for index, node in enumerate(nodes) for name in node.outputs if name}
        self._sources = [
            sorted({makers[name] for name in reads(nodes[index]) if name in makers and makers[name] < place})
            for place, index in enumerate(order)
        ]
        self._users: list[list[int]] = [[] for _ in order]
        for place, sources in enumerate(self._sources):
            for source in sources:
                self._users[source].append(place)
        self._made = {place: made[key] for place, key in enumerate(self._keys) if key in made}
        self._steps = 0

    def liars(self) -> set[NodeKey]:
        """The fewest nodes without whose statements the data contradict none."""
        lying: set[int] = set()
        while len(lying) < _MOST_LIES:
            blamed = min((self._blamed(members) for members in self._broken()), key=len, default=None)
            if not blamed or self._steps > _MOST_STEPS:
                break
            lying |= blamed
            for place in blamed:
                del self._made[place]
        return {self._keys[place] for place in lying}

    def proven(self) -> Iterator[tuple[str, int, dict[NodeKey, int]]]:
        """Each module that certainly ran several times: its scope, how often, and the calls of its own nodes."""
        numbers: dict[str, set[int]] = defaultdict(set)
        for said in self._made.values():
            kind, number = _numbered(said.operation)
            numbers[kind].add(number)
        whole = {kind for kind, found in numbers.items() if found == set(range(len(found)))}
        for scope, members in self._members().items():
            levels = self._levels(members)
            if levels is None or not (last := max(levels.values())) or not self._counts(members, levels, whole):
                continue
            after = self._levels(members, backwards=True) or {}
            owners = {
                self._keys[place]: level
                for place, level in levels.items()
                if level + after.get(place, 0) == last and self._made[place].scopes[-1] == scope
            }
            yield scope, last + 1, owners

    def _counts(self, members: Sequence[int], levels: Mapping[int, int], whole: AbstractSet[str]) -> bool:
        """Whether some kind of operation, none of which is missing, is there once in each of the calls, and in order."""
        found: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for place in members:
            kind, number = _numbered(self._made[place].operation)
            if kind in whole:
                found[kind][levels[place]].add(number)
        calls = range(1 + max(levels.values()))
        for by_level in found.values():
            if all(len(by_level.get(call, ())) == 1 for call in calls):
                in_order = [next(iter(by_level[call])) for call in calls]
                if in_order == sorted(in_order):
                    return True
        return False

    def _members(self) -> dict[str, list[int]]:
        """The places of the nodes of each module, those of modules that it called included, by its scope."""
        members: dict[str, list[int]] = defaultdict(list)
        for place in sorted(self._made):
            for scope in dict.fromkeys(self._made[place].scopes[1:]):  # the root's call ends last
                members[scope].append(place)
        return members

    def _broken(self) -> Iterator[tuple[list[int], dict[int, int]]]:
        """The regions that values leave and come back to, and that don't do the same again then."""
        for scope, members in self._members().items():
            levels = self._levels(members)
            if levels is not None and any(levels.values()) and not self._is_alike(scope, levels):
                yield members, levels

    def _is_alike(self, scope: str, levels: Mapping[int, int]) -> bool:
        """Whether the calls that the levels are have most of their operations in common."""
        done: dict[int, dict[str, tuple[tuple[str, ...], str]]] = defaultdict(dict)
        for place, level in levels.items():
            said = self._made[place]
            inside = said.scopes[said.scopes.index(scope) + 1 :]
            done[level][said.operation] = inside, _numbered(said.operation)[0]
        calls = [Counter(operations.values()) for operations in done.values()]
        largest = max(calls, key=Counter.total)
        return all((call & largest).total() >= _ALIKE * largest.total() for call in calls)

    def _blamed(self, broken: tuple[list[int], dict[int, int]]) -> set[int]:
        """The nodes that lie: those between, or those of the region that are by themselves, whichever are fewer."""
        members, levels = broken
        inside = set(members)
        by_level = Counter(levels.values())
        level = min(by_level, key=lambda each: (by_level[each], each))
        alone = {place for place in members if levels[place] == level}
        reached = self._reached(members)
        leading: set[int] = set()
        for place in range(members[-1], members[0] - 1, -1):
            if place in inside or place in leading:
                leading.update(source for source in self._sources[place] if source not in inside)
        between = {place for place in leading if place in self._made and place in reached}
        return between if between and len(between) <= len(alone) else alone

    def _reached(self, members: Sequence[int]) -> set[int]:
        reached = set(members)
        for place in range(members[0], members[-1] + 1):
            if not reached.isdisjoint(self._sources[place]):
                reached.add(place)
        return reached

    def _levels(self, members: Sequence[int], *, backwards: bool = False) -> dict[int, int] | None:
        """How often values have left the region before they come to each of its nodes; None where none can have.

        Backwards, how often they leave it after that. A node that says nothing may be inside or outside.
        """
        first, last = members[0], members[-1]
        inside = set(members)
        self._steps += last - first
        if self._steps > _MOST_STEPS or all(
            place in inside or place not in self._made for place in range(first, last)
        ):
            return None
        levels: dict[int, int] = {}
        near: dict[int, int] = {}  # of nodes that say nothing, by way of such alone
        far: dict[int, int] = {}  # of nodes that values come to after they have left
        for place in range(last, first - 1, -1) if backwards else range(first, last + 1):
            neighbours = self._users[place] if backwards else self._sources[place]
            kept = [each[other] for other in neighbours for each in (levels, near) if other in each]
            left = [far[other] for other in neighbours if other in far]
            if place in inside:
                levels[place] = max([0, *kept, *(level + 1 for level in left)])
                continue
            if place in self._made:
                kept, left = [], kept + left
            if kept:
                near[place] = max(kept)
            if left:
                far[place] = max(left)
        return levels


def _numbered(operation: str) -> tuple[str, int]:
    """The kind and number of an operation: torch calls them `linear`, `linear_1`, `linear_2`.

    >>> _numbered("linear"), _numbered("conv2d_12")
    (('linear', 0), ('conv2d', 12))
    """
    match = _NUMBERED.fullmatch(operation)
    return (match["kind"], int(match["number"] or 0)) if match is not None else (operation, 0)
