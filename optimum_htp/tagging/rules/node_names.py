"""Evidence in the names of nodes alone, for graphs whose scopes nobody read while they were exported.

The TorchScript exporter names a node `<scope>/<operator>[_<n>]`, and its scope after the module calls that it ran in:
one part for each call below the root, the last attribute that the module is registered by, with the numbers after it
(`layer.0`). The second scope that spells the same gets `_1` at its end, the third `_2`, in the order in which nodes are
named; scopes without nodes use up no number. A part says neither who called nor which of several names was used, and
two different calls may spell the same, so a scope is read in every way that the tree of modules allows. Two kinds of
evidence narrow that down: what the nodes of a scope read is held by its module, or inside it; and a module that is
certain to call another, or to read a weight, in one scope does so in each. Where more than one module is left, or more
than one of its names, nothing is decided, because a wrong tag is worse than none.

That a module calls what it contains, and not what is elsewhere under the same name, is taken for granted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from optimum_htp.hierarchy import ModuleInfo, ModulePath, NodeKey, name_for_caller
from optimum_htp.onnxfile import Graph, Node, OnnxModel
from optimum_htp.tagging.rules.evidence import Evidence, Owner, call_owner
from optimum_htp.tagging.tracing.trace import ModuleTrace


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
    doubtful = unscoped.keys() if foreign else scripted_nodes(unscoped)
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


def scripted_nodes(unscoped: Mapping[NodeKey, Node]) -> Set[NodeKey]:
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


_Deed = int | str
"""What a call does: a module that it calls, by identity, or a weight that it reads, by name."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to read a scope.

    Attributes:
        path: The module, by the name below its caller.
        borrowed: Whether a module called one that it does not contain.
    """

    path: ModulePath
    borrowed: bool = False


class _StaticScopes:
    """Scopes read against the tree of modules alone."""

    def __init__(self, trace: ModuleTrace, spelled: Iterable[str], weights: Mapping[str, set[str]]) -> None:
        self._tree = trace.tree
        self._by_name: dict[str, list[ModuleInfo]] = {}
        for module in trace.tree:
            self._by_name.setdefault(_shown(module.path), []).append(module)
        self._slashes = max(name.count("/") for name in self._by_name)
        self._present = set(spelled)
        self._tensors = trace.tensors
        self._read = _by_scope(weights, trace.tensors)
        self._holders = self._weight_holders(trace)
        self._known: dict[str, list[_Reading]] = {"": [_Reading(())]}
        self._inside: dict[str, set[str]] = {}
        for scope in self._present:
            for each in _with_callers(scope):
                self._inside.setdefault(each.rpartition("/")[0], set()).add(each)
        self._decided: dict[str, set[ModulePath]] = {}
        self._certain = self._certain_deeds()

    def owner(self, spelled: str) -> Owner | None:
        """The module that a scope spells, None where it may be one or another."""
        paths = self._narrowed(spelled)
        return Owner(next(iter(paths))) if len(paths) == 1 else None

    def _narrowed(self, spelled: str) -> set[ModulePath]:
        """The modules that a scope may be, without those that do elsewhere what is not done here."""
        if spelled not in self._decided:
            paths = {reading.path for reading in self._readings(spelled)}
            self._decided[spelled] = paths
            if len(paths) > 1:
                done = self._done(spelled)
                self._decided[spelled] = {path for path in paths if not self._does_more(path, spelled, done)}
        return self._decided[spelled]

    def _done(self, spelled: str) -> set[_Deed]:
        """The weights that the nodes of a scope read, and the modules that may be called inside it."""
        # What a repeated call calls stands inside the scope that it repeats.
        scopes = [spelled, *(scope for scope, _ in _repetitions(spelled, self._present))]
        inside = [each for scope in scopes for each in self._inside.get(scope, ())]
        called = {id(self._tree.module(path)) for each in inside for path in self._narrowed(each)}
        return called | self._read.get(spelled, set())

    def _does_more(self, path: ModulePath, spelled: str, done: set[_Deed]) -> bool:
        """Whether a module, where it is certain to be called, calls or reads what this scope does not."""
        elsewhere = self._certain.get(id(self._tree.module(path)), {})
        return any(deeds - done for scope, deeds in elsewhere.items() if scope != spelled)

    def _certain_deeds(self) -> dict[int, dict[str, set[_Deed]]]:
        """By a module, the scopes that can be of no other, with what it calls and reads of its own in each."""
        owners: dict[str, ModulePath] = {}
        for scope in {*self._inside, *(each for inside in self._inside.values() for each in inside)}:
            paths = {reading.path for reading in self._readings(scope)}
            if len(paths) == 1:
                owners[scope] = paths.pop()
        certain: dict[int, dict[str, set[_Deed]]] = {}
        for scope, path in owners.items():
            called = {owners[each] for each in self._inside.get(scope, ()) if each in owners}
            deeds: set[_Deed] = {id(self._tree.module(each)) for each in called if _contains(path, each)}
            deeds |= {name for name in self._read.get(scope, ()) if self._tensors[name] in self._names(path)}
            certain.setdefault(id(self._tree.module(path)), {})[scope] = deeds
        return certain

    @property
    def unread(self) -> int:
        """How many scopes can't be read in any way, or only by a module calling one that it does not contain."""
        return sum(all(reading.borrowed for reading in self._literal(scope)) for scope in self._present)

    def _readings(self, spelled: str) -> list[_Reading]:
        """The readings of a scope as it stands, and as a repetition, that the weights allow which its nodes read."""
        repeated = [scope for scope, _ in _repetitions(spelled, self._present)]
        groups = [self._literal(scope) for scope in (spelled, *repeated)]
        return [reading for group in groups for reading in self._allowed(group, spelled)]

    def _allowed(self, readings: list[_Reading], spelled: str) -> list[_Reading]:
        return [reading for reading in readings if self._may_read(reading.path, spelled)] or readings

    def _may_read(self, path: ModulePath, spelled: str) -> bool:
        """Whether a module, or one that it contains, holds each of the weights that the nodes of a scope read."""
        held = self._holders.get(spelled, ())
        return all(
            any(_contains(each, holder) for each in self._names(path) for holder in holders) for holders in held
        )

    def _names(self, path: ModulePath) -> tuple[ModulePath, ...]:
        module = self._tree.module(path)
        return (module.path, *module.aliases)

    def _weight_holders(self, trace: ModuleTrace) -> dict[str, list[tuple[ModulePath, ...]]]:
        """For each scope, the modules that hold the named weights which its nodes read."""
        holders: dict[str, list[tuple[ModulePath, ...]]] = {}
        for scope, names in self._read.items():
            for name in names:
                own = trace.holders.get(name, (trace.tensors[name],))
                every = tuple(path for holder in own for path in self._names(holder))
                holders.setdefault(scope, []).append(every)
        return holders

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

    def _below(self, path: ModulePath, name: str) -> Iterator[ModulePath]:
        """The modules of a name that a module contains, each by its name there."""
        above = len(path)
        for module in self._by_name.get(name, ()):
            below = [each for each in (module.path, *module.aliases) if each[:above] == path != each]
            if below and not module.container:
                yield name_for_caller(below, path, lambda path: self._tree.module(path).container)

    def _called_from(self, caller: _Reading, name: str) -> Iterator[_Reading]:
        """The modules of a name that a module may have called: those that it contains, else any."""
        below = list(self._below(caller.path, name))
        yield from (_Reading(path, caller.borrowed) for path in below)
        if not below:
            yield from (_Reading(module.path, True) for module in self._by_name[name] if not module.container)


def _by_scope(readers: Mapping[str, set[str]], tensors: Mapping[str, ModulePath]) -> dict[str, set[str]]:
    """The named weights that the nodes of each scope read."""
    read: dict[str, set[str]] = {}
    for name in readers.keys() & tensors.keys():
        for scope in readers[name]:
            read.setdefault(scope, set()).add(name)
    return read


def _with_callers(scope: str) -> Iterator[str]:
    """A scope and those that it lies in."""
    yield scope
    yield from (scope[:end] for end in range(1, len(scope)) if scope[end] == "/")


def _contains(path: ModulePath, other: ModulePath) -> bool:
    return other[: len(path)] == path


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
