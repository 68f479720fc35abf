"""Evidence in the names of nodes alone, for graphs whose scopes nobody read while they were exported.

The TorchScript exporter names a node `<scope>/<operator>[_<n>]`, and its scope after the module calls that it ran in:
one part for each call below the root, the last attribute that the module is registered by, with the numbers after it
(`layer.0`). The second scope that spells the same gets `_1` at its end, the third `_2`, in the order in which nodes are
named; scopes without nodes use up no number. A part says neither who called nor which of several names was used, and
two different calls may spell the same, so a scope is read in every way that the tree of modules allows. Where the ways
lead to different modules, weights that only this scope reads decide, or that the other ways leave out a module which
is called in this very graph; else nothing is decided, because a wrong tag is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from optimum_htp.hierarchy import ModuleInfo, ModulePath, NodeKey, name_for_caller
from optimum_htp.onnxfile import Graph, Node, OnnxModel
from optimum_htp.tagging.evidence import Evidence, Owner, call_owner
from optimum_htp.tracing import ModuleTrace


# Optimum's own name for the node that holds the two branches of a merged decoder.
_MERGING_NODE = "optimum::if"
_REPEATED = re.compile(r"(?P<scope>.+)_(?P<number>[1-9]\d{0,8})", re.DOTALL)
# What graph passes, and Optimum, add without a scope. Others without one were inlined from a scripted function.
_ADDED_BY_PASSES = frozenset(("Cast", "Constant", "Gather", "Identity", "Range", "Reshape", "Shape", "Transpose"))
# More ways to read one scope than this are no evidence.
_MAX_READINGS = 64
# Calls are not nested deeper than this: a name with more parts is none of the exporter's.
_MAX_PARTS = 200


def decide(key: NodeKey, evidence: Evidence) -> Owner | None:
    """The module, and where the names prove it the call, that the scope in the node's name spells."""
    return evidence.named.get(key)


@dataclass(frozen=True, slots=True)
class NameEvidence:
    """What the names in a graph say.

    Attributes:
        owners: The owner of each node whose scope can be read in just one way.
        doubtful: Nodes of which nothing can be said, not even by the data flow: their scope is ambiguous or unknown;
            they may be a scripted function's, whose nodes have no scope though they are the caller's; or the graph
            has nodes that the exporter did not name, so that an edge may skip what was optimized away.
    """

    owners: dict[NodeKey, Owner]
    doubtful: frozenset[NodeKey]


def read_names(model: OnnxModel, trace: ModuleTrace) -> NameEvidence:
    """Reads the scopes in the names of a graph's nodes.

    Args:
        model: The graph.
        trace: The tree of modules; with the calls, where they are known, for the index of each call.
    """
    scopes, unscoped, foreign = _scopes_of(model)
    spelled = list(dict.fromkeys(scopes[key] for key in _naming_order("", model.graph) if key in scopes))
    reader = _TracedScopes(trace, spelled) if trace.calls else _StaticScopes(trace, spelled, _weights(model, scopes))
    read = {scope: reader.owner(scope) for scope in spelled}
    owners = {key: owner for key, scope in scopes.items() if (owner := read.get(scope)) is not None}
    doubtful = unscoped.keys() if foreign else _scripted(unscoped)
    return NameEvidence(owners, frozenset((scopes.keys() - owners.keys()) | doubtful))


def _scopes_of(model: OnnxModel) -> tuple[dict[NodeKey, str], dict[NodeKey, Node], bool]:
    """The scope in the name of each node that has one, the nodes without, and whether a name is not the exporter's."""
    scopes: dict[NodeKey, str] = {}
    unscoped: dict[NodeKey, Node] = {}
    foreign = False
    for path, graph in model.graphs():
        made_here = {value.name for value in graph.outputs}
        for position, node in enumerate(graph.nodes):
            scope = _scope(node, made_here)
            if scope:
                scopes[path, position] = scope[1:]
            else:
                unscoped[path, position] = node
                foreign = foreign or scope is None
    return scopes, unscoped, foreign


def _scripted(unscoped: Mapping[NodeKey, Node]) -> Set[NodeKey]:
    """The nodes without a scope that may come from a scripted function, if any does."""
    others = {key: node for key, node in unscoped.items() if node.name != _MERGING_NODE}
    if all(node.op_type in _ADDED_BY_PASSES for node in others.values()):
        return frozenset()
    return {key for key, node in others.items() if node.op_type != "Constant"}


def _scope(node: Node, graph_outputs: set[str]) -> str | None:
    """`/` and the scope in a node's name; `""` where the exporter gave it none; None where the name is not its own.

    The name that a tool left on another operator, or on one that now writes another tensor, says nothing.
    """
    if node.name == _MERGING_NODE:
        return ""
    if node.name.count("/") > _MAX_PARTS:
        return None
    scope, slash, last = node.name.rpartition("/")
    operator, _, number = last.rpartition("_")
    if last != node.op_type and not (operator == node.op_type and number.isdecimal()):
        return None
    if not slash:
        return ""
    if not any(name in graph_outputs or name.startswith(f"{node.name}_output_") for name in node.outputs):
        return None
    # The root's own name is empty: its scope is "", and the first part of any other comes after a slash.
    return None if scope and not scope.startswith("/") else f"/{scope}"


def _naming_order(path: str, graph: Graph) -> Iterator[NodeKey]:
    """The nodes in the order in which the exporter names them: those of a body before the one that holds it."""
    for position, node in enumerate(graph.nodes):
        for attribute, body in node.bodies:
            yield from _naming_order(f"{path}/{position}.{attribute}" if path else f"{position}.{attribute}", body)
        yield path, position


def _weights(model: OnnxModel, scopes: Mapping[NodeKey, str]) -> dict[str, set[str]]:
    """The scopes whose nodes read a tensor, by the tensor's name."""
    readers: dict[str, set[str]] = {}
    for path, graph in model.graphs():
        for position, node in enumerate(graph.nodes):
            for name in node.inputs:
                readers.setdefault(name, set()).add(scopes.get((path, position), ""))
    return readers


def _shown(path: ModulePath) -> str:
    """What the exporter shows of the name that a module is registered by: its last attribute and numbers after it."""
    start = len(path) - 1
    while start > 0 and path[start].isnumeric():
        start -= 1
    return ".".join(path if start < 0 or path[start].isnumeric() else path[start:])


class _TracedScopes:
    """Scopes read against the calls that were recorded."""

    def __init__(self, trace: ModuleTrace, spelled: Iterable[str]) -> None:
        self._trace = trace
        self._calls: dict[str, list[int]] = {}
        names: list[str] = []
        for number, call in enumerate(trace.calls):
            own = _shown(trace.tree.module(call.path).path)
            names.append(own if call.parent is None else f"{names[call.parent]}/{own}")
            self._calls.setdefault(names[-1], []).append(number)
        present = set(spelled)
        self._readings = {scope: list(self._read(scope, present)) for scope in present}
        self._seen: dict[str, set[int]] = {}
        self._ambiguous: set[str] = set()
        for readings in self._readings.values():
            for scope, number in readings:
                self._seen.setdefault(scope, set()).add(number)
                if len(readings) > 1:
                    self._ambiguous.add(scope)

    def owner(self, spelled: str) -> Owner | None:
        """The call that a scope spells; its module alone where some of the calls that spell it left no node."""
        readings = self._readings[spelled]
        calls = [number for scope, _ in readings for number in self._calls[scope]]
        if len(readings) == 1:
            scope, number = readings[0]
            if scope not in self._ambiguous and len(self._seen[scope]) == len(calls):
                return call_owner(self._trace, calls[number])
        paths = {self._trace.calls[call].path for call in calls}
        return Owner(paths.pop()) if len(paths) == 1 else None

    def _read(self, spelled: str, present: set[str]) -> Iterator[tuple[str, int]]:
        if spelled in self._calls:
            yield spelled, 0
        for scope, number in _repetitions(spelled, present):
            if number < len(self._calls.get(scope, ())):
                yield scope, number


def _repetitions(spelled: str, present: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The scope that a spelling may repeat, and which of those that spell the same it then is."""
    match = _REPEATED.fullmatch(spelled)
    if match is not None and match["scope"] in present:
        yield match["scope"], int(match["number"])


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to read a scope.

    Attributes:
        path: The module, by the name below its caller.
        passed_over: The modules between a caller and what it called that were not called on the way.
        borrowed: Whether a module called one that it does not contain.
    """

    path: ModulePath
    passed_over: tuple[ModulePath, ...] = ()
    borrowed: bool = False


class _StaticScopes:
    """Scopes read against the tree of modules alone."""

    def __init__(self, trace: ModuleTrace, spelled: Iterable[str], weights: Mapping[str, set[str]]) -> None:
        self._tree = trace.tree
        self._by_name: dict[str, list[ModuleInfo]] = {}
        for module in trace.tree:
            self._by_name.setdefault(_shown(module.path), []).append(module)
        self._slashes = max(name.count("/") for name in self._by_name)
        self._known: dict[str, list[_Reading]] = {"": [_Reading(())]}
        self._decided: dict[str, Owner | None] = {}
        self._present = set(spelled)
        self._holders, self._read_holders = self._weight_holders(trace, weights)
        self._inside = self._holders_inside()
        self._callers = self._certain_callers()

    def owner(self, spelled: str) -> Owner | None:
        """The module that a scope spells, None where it may be one or another."""
        if spelled not in self._decided:
            self._decided[spelled] = self._decide(spelled)
        return self._decided[spelled]

    def _decide(self, spelled: str) -> Owner | None:
        """The module that the evidence is for, unless the nodes read a weight of another that the scope may be."""
        readings = self._all_readings(spelled)
        owner = self._favoured(spelled, readings)
        read: Set[ModulePath] = self._read_holders.get(spelled, frozenset())
        if owner is None or owner.path in read or all(reading.path not in read for reading in readings):
            return owner
        return None

    def _favoured(self, spelled: str, readings: list[_Reading]) -> Owner | None:
        best = self._best(readings)
        if len({id(self._tree.module(reading.path)) for reading in readings}) == 1:
            return Owner((best or readings[0]).path)
        holders = self._holders.get(spelled, ())
        proven = [reading for reading in readings if reading.path in holders]
        if proven:
            return Owner(proven[0].path) if len(proven) == 1 else None
        if self._is_repeated(spelled):
            return None
        inside = self._inside.get(spelled, ())
        around = [reading for reading in readings if all(_contains(reading.path, holder) for holder in inside)]
        if inside and len(around) == 1:
            return Owner(around[0].path)
        if best is None or best not in around:
            return None
        others = [each for each in readings if each is not best]
        certain = all(any(self._is_called(path, spelled) for path in each.passed_over) for each in others)
        return Owner(best.path) if certain else None

    def _is_called(self, path: ModulePath, disputed: str) -> bool:
        """Whether a scope other than a disputed one, and not inside it, is certain to show a call of a module."""
        scopes = self._callers.get(id(self._tree.module(path)), ())
        return any(scope != disputed and not scope.startswith(f"{disputed}/") for scope in scopes)

    def _certain_callers(self) -> dict[int, list[str]]:
        """For each module, the scopes that show a call of it: those with one reading, or one that weights prove."""
        callers: dict[int, list[str]] = {}
        for scope in self._present:
            readings = self._unnarrowed(scope)
            holders = self._holders.get(scope, ())
            readings = [reading for reading in readings if reading.path in holders] or readings
            if any(r.borrowed for r in readings) or len({id(self._tree.module(r.path)) for r in readings}) != 1:
                continue
            for module in set.intersection(*(self._called_on_the_way(reading) for reading in readings)):
                callers.setdefault(module, []).append(scope)
        return callers

    def _called_on_the_way(self, reading: _Reading) -> set[int]:
        steps = (reading.path[:length] for length in range(len(reading.path) + 1))
        return {id(self._tree.module(path)) for path in steps if path not in reading.passed_over}

    def _all_readings(self, spelled: str) -> list[_Reading]:
        """The readings of a scope as it stands, and as a repetition; within the caller, where that is decided."""
        readings = self._unnarrowed(spelled)
        caller = spelled.rpartition("/")[0]
        if len(readings) > 1 and caller and not self._is_repeated(spelled):
            owner = self.owner(caller)
            within = [each for each in readings if owner is not None and _contains(owner.path, each.path)]
            readings = within or readings
        return readings

    def _unnarrowed(self, spelled: str) -> list[_Reading]:
        """The readings of a scope as it stands, and as a repetition."""
        readings = self._literal(spelled)
        again = [each for scope, _ in _repetitions(spelled, self._present) for each in self._literal(scope)]
        if again and all(reading.borrowed for reading in readings):
            readings = []
        return readings + again

    @property
    def unread(self) -> int:
        """How many scopes can't be read in any way, or only by a module calling one that it does not contain."""
        return sum(all(reading.borrowed for reading in self._literal(scope)) for scope in self._present)

    def _is_repeated(self, spelled: str) -> bool:
        return f"{spelled}_1" in self._present or any(_repetitions(spelled, self._present))

    def _holders_inside(self) -> dict[str, set[ModulePath]]:
        """For each scope, the modules that scopes inside it are proven to be."""
        inside: dict[str, set[ModulePath]] = {}
        for scope, holders in self._holders.items():
            proven = {reading.path for reading in self._literal(scope)} & holders
            above = scope.rpartition("/")[0]
            while above and proven:
                inside.setdefault(above, set()).update(proven)
                above = above.rpartition("/")[0]
        return inside

    def _weight_holders(
        self, trace: ModuleTrace, weights: Mapping[str, set[str]]
    ) -> tuple[dict[str, set[ModulePath]], dict[str, set[ModulePath]]]:
        """The modules whose named weights only this scope, or a repetition of it, reads; and those it reads at all."""
        alone: dict[str, set[ModulePath]] = {}
        read: dict[str, set[ModulePath]] = {}
        for name in weights.keys() & trace.tensors.keys():
            module = self._tree.module(trace.tensors[name])
            only_here = len({_unrepeated(scope) for scope in weights[name]}) == 1
            for scope in weights[name]:
                for holders in (alone, read) if only_here else (read,):
                    holders.setdefault(scope, set()).update((module.path, *module.aliases))
        return alone, read

    @staticmethod
    def _best(readings: list[_Reading]) -> _Reading | None:
        """The reading that passes over fewer modules than any other."""
        ranked = sorted(readings, key=lambda reading: (reading.borrowed, len(reading.passed_over)))
        if len(ranked) > 1 and len(ranked[0].passed_over) == len(ranked[1].passed_over):
            return None
        return ranked[0] if ranked else None

    def _literal(self, scope: str) -> list[_Reading]:
        """Every reading of a scope whose end is no number of a repetition."""
        known = self._known.get(scope)
        if known is None:
            known = []
            head, tail = scope, ""
            for _ in range(self._slashes + 1):
                head, slash, part = head.rpartition("/")
                if not slash:
                    break
                tail = f"{part}/{tail}" if tail else part
                if tail in self._by_name:
                    known += [step for reading in self._literal(head) for step in self._called_from(reading, tail)]
            known = [reading for reading in known if not reading.borrowed] or known
            known = known if len(known) <= _MAX_READINGS else []
            self._known[scope] = known
        return known

    def _called_from(self, caller: _Reading, name: str) -> Iterator[_Reading]:
        """The modules of a name that a module may have called: those that it contains, else any."""
        above = len(caller.path)
        found = False
        for module in self._by_name[name]:
            below = [path for path in (module.path, *module.aliases) if path[:above] == caller.path != path]
            if below:
                found = True
                path = name_for_caller(below, caller.path, lambda path: self._tree.module(path).container)
                between = [path[:length] for length in range(above + 1, len(path))]
                passed = tuple(step for step in between if not self._tree.module(step).container)
                yield _Reading(path, caller.passed_over + passed, caller.borrowed)
        if not found:
            for module in self._by_name[name]:
                yield _Reading(module.path, caller.passed_over, True)


def _contains(path: ModulePath, other: ModulePath) -> bool:
    return other[: len(path)] == path


def _unrepeated(scope: str) -> str:
    match = _REPEATED.fullmatch(scope)
    return match["scope"] if match is not None else scope


@dataclass(frozen=True, slots=True)
class ScopeFit:
    """How well a tree of modules explains the scopes in the names of a graph's nodes.

    Attributes:
        scopes: How many different scopes there are.
        unread: How many of them can't be read, or only by a module calling one that it does not contain.
        calls: By a module's path, how many different scopes are its own or lie inside such a one: it ran at least that
            often.
    """

    scopes: int
    unread: int
    calls: dict[ModulePath, int]


def fit_scopes(model: OnnxModel, trace: ModuleTrace) -> ScopeFit:
    """Says how well a tree of modules explains the scopes in the names of a graph's nodes."""
    scopes, _, _ = _scopes_of(model)
    spelled = set(scopes.values())
    reader = _StaticScopes(trace, spelled, _weights(model, scopes))
    above = {scope[:end] for scope in spelled for end in range(len(scope)) if scope[end] == "/"}
    calls: dict[ModulePath, int] = {}
    for scope in spelled | above:
        owner = reader.owner(scope)
        if owner is not None:
            path = trace.tree.module(owner.path).path
            calls[path] = calls.get(path, 0) + 1
    return ScopeFit(len(spelled), reader.unread, calls)
