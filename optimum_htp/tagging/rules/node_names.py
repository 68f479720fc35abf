"""Evidence in the names of nodes alone, for graphs that were exported without a recording of the scopes.

The TorchScript exporter names a node `<scope>/<operator>[_<n>]`, and its scope after the module calls that it ran in:
one part for each call below the root, the last attribute that the module is registered by, with the numbers after it
(`layer.0`). The second scope that spells the same gets `_1` at its end, the third `_2`, in the order in which nodes are
named; scopes without nodes use up no number. A part says neither who called nor which of several names was used, and
two different calls may spell the same, so a scope is read in every way that the tree of modules allows. Two kinds of
evidence narrow that down: what the nodes of a scope read is held by its module, or inside it; and a module that is
certain to call another, or to read a weight, in one scope does so in each. Where more than one module is left, or more
than one of its names, nothing is decided, because a wrong tag is worse than none.

That a module calls what it contains, and not what is elsewhere under the same name, is taken for granted.

Example: a net with the modules `x`, `a` and `a.x`.

    /a/x/MatMul     scope "a/x"    a.x: nothing else is called so below `a`
    /x/MatMul       scope "x"      x, or a.x called by the root: open, unless the node reads `x.weight`
    /a/x_1/MatMul   scope "a/x_1"  a.x again: no module is called `x_1`, so it repeats "a/x"
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from optimum_htp.hierarchy import ModuleInfo, ModulePath, NodeKey, name_for_caller
from optimum_htp.onnxfile import Node, OnnxModel
from optimum_htp.tagging.rules.evidence import Owner
from optimum_htp.tagging.tracing.trace import ModuleTrace

# Optimum's own name for the node that holds the two branches of a merged decoder.
_MERGING_NODE = "optimum::if"
_REPEATED = re.compile(r"(?P<scope>.+)_[1-9]\d{0,8}", re.DOTALL)
# What graph passes, and Optimum, add without a scope. Others without one were inlined from a scripted function.
_ADDED_BY_PASSES = frozenset(("Cast", "Constant", "Gather", "Identity", "Range", "Reshape", "Shape", "Transpose"))
_MAX_READINGS = 64  # of one scope; more are not evidence
_MAX_PARTS = 200  # calls are not nested deeper, so a name with more parts is not the exporter's


def read_names(model: OnnxModel, trace: ModuleTrace) -> tuple[dict[NodeKey, Owner], Set[NodeKey]]:
    """The owners of nodes whose scope can be read in just one way, and the nodes that not even data flow may decide.

    The scope of those is ambiguous or unknown; or they have none, but a scripted function's nodes have none either; or
    the exporter did not name every node, so that an edge may skip what was optimized away.
    """
    scopes, unscoped, foreign = _scopes_of(model)
    reader = _ScopeReader(model, trace, scopes)
    owners = {key: Owner(path) for key, scope in scopes.items() if (path := reader.module(scope)) is not None}
    doubtful = unscoped.keys() if foreign else scripted_nodes(unscoped)
    return owners, (scopes.keys() - owners.keys()) | doubtful


@dataclass(frozen=True, slots=True)
class ScopeFit:
    """How well a tree of modules explains the scopes in the names of a graph's nodes."""

    scopes: int  # different ones
    unread: int  # of them, that can't be read, or only by a module calling one that it does not contain
    calls: dict[ModulePath, int]  # by module, the scopes that are its own or in such a one: it ran at least as often


def fit_scopes(model: OnnxModel, trace: ModuleTrace) -> ScopeFit:
    """Measures how well a tree of modules explains the scopes in the names of a graph's nodes."""
    scopes, _, _ = _scopes_of(model)
    spelled = set(scopes.values())
    reader = _ScopeReader(model, trace, scopes)
    calls: dict[ModulePath, int] = defaultdict(int)
    every = {caller for scope in spelled for caller in ("", *_with_callers(scope))}
    for scope in every:
        path = reader.module(scope)
        if path is not None:
            calls[trace.tree.module(path).path] += 1
    return ScopeFit(len(spelled), reader.unread, dict(calls))


def has_scopes(model: OnnxModel) -> bool:
    """Whether the name of any node holds a scope."""
    return bool(_scopes_of(model)[0])


def scripted_nodes(unscoped: Mapping[NodeKey, Node]) -> Set[NodeKey]:
    """The nodes without a scope that may come from a scripted function, if any does."""
    others = {key: node for key, node in unscoped.items() if node.name != _MERGING_NODE}
    if all(node.op_type in _ADDED_BY_PASSES for node in others.values()):
        return frozenset()
    return {key for key, node in others.items() if node.op_type != "Constant"}


def _scopes_of(model: OnnxModel) -> tuple[dict[NodeKey, str], dict[NodeKey, Node], bool]:
    """The scope in the name of each node that has one, the nodes without, and whether a name is not the exporter's."""
    scopes: dict[NodeKey, str] = {}
    unscoped: dict[NodeKey, Node] = {}
    foreign = False
    results = {path: {value.name for value in graph.outputs} for path, graph in model.graphs()}
    for key, node in model.nodes():
        scope = _scope(node, results[key[0]])
        if scope:
            scopes[key] = scope[1:]
        else:
            unscoped[key] = node
            foreign = foreign or scope is None
    return scopes, unscoped, foreign


def _scope(node: Node, graph_outputs: set[str]) -> str | None:
    """`/` and the scope in a node's name; `""` where the exporter gave it none; None where the name is not its own."""
    if node.name == _MERGING_NODE:
        return ""
    if node.name.count("/") > _MAX_PARTS:
        return None
    scope, slash, last = node.name.rpartition("/")
    operator, _, number = last.rpartition("_")
    # A name that a tool left on another operator, or on one that now produces another tensor, says nothing.
    if last != node.op_type and not (operator == node.op_type and number.isdecimal()):
        return None
    if not slash:
        return ""
    if not any(name in graph_outputs or name.startswith(f"{node.name}_output_") for name in node.outputs):
        return None
    # The root's own name is empty: its scope is "", and the first part of any other comes after a slash.
    return None if scope and not scope.startswith("/") else f"/{scope}"


def _shown(path: ModulePath) -> str:
    """What the exporter shows of the name that a module is registered by: its last attribute and numbers after it."""
    start = len(path) - 1
    while start > 0 and path[start].isnumeric():
        start -= 1
    return ".".join(path if start < 0 or path[start].isnumeric() else path[start:])


def _with_callers(scope: str) -> Iterator[str]:
    """A scope and those that it is in, the root's left out."""
    yield scope
    yield from (scope[:end] for end in range(1, len(scope)) if scope[end] == "/")


_Effect = int | str
"""What a call does: a module that it calls, by identity, or a weight that it reads, by name."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to read a scope."""

    path: ModulePath  # of the module, by its name below its caller
    borrowed: bool = False  # whether a module called one that it does not contain


class _ScopeReader:
    """Reads the scopes of a graph against the tree of modules."""

    def __init__(self, model: OnnxModel, trace: ModuleTrace, scopes: Mapping[NodeKey, str]) -> None:
        self._tree = trace.tree
        self._tensors = trace.tensors
        self._by_name: dict[str, list[ModuleInfo]] = defaultdict(list)
        for module in trace.tree:
            self._by_name[_shown(module.path)].append(module)
        self._slashes = max(name.count("/") for name in self._by_name)
        self._present = set(scopes.values())
        self._weights: dict[str, set[str]] = defaultdict(set)  # by scope, those that its nodes read
        for key, node in model.nodes():
            self._weights[scopes.get(key, "")].update(name for name in node.inputs if name in trace.tensors)
        self._holders = {
            scope: [tuple(self._paths(trace.holders.get(name, (trace.tensors[name],)))) for name in names]
            for scope, names in self._weights.items()
        }
        self._inside: dict[str, set[str]] = defaultdict(set)  # by scope, those of the calls that were made in it
        for scope in self._present:
            for called in _with_callers(scope):
                self._inside[called.rpartition("/")[0]].add(called)
        self._known: dict[str, list[_Reading]] = {"": [_Reading(())]}
        self._decided: dict[str, set[ModulePath]] = {}
        self._certain = self._certain_effects()

    @property
    def unread(self) -> int:
        """How many scopes can't be read in any way, or only by a module calling one that it does not contain."""
        return sum(all(reading.borrowed for reading in self._literal(scope)) for scope in self._present)

    def module(self, spelled: str) -> ModulePath | None:
        """The module that a scope spells, None where it may be one or another."""
        paths = self._narrowed(spelled)
        return next(iter(paths)) if len(paths) == 1 else None

    def _narrowed(self, spelled: str) -> set[ModulePath]:
        """The modules that a scope may be, without those that do elsewhere what is not done here."""
        if spelled not in self._decided:
            paths = {reading.path for reading in self._readings(spelled)}
            self._decided[spelled] = paths
            if len(paths) > 1:
                done = self._done(spelled)
                self._decided[spelled] = {path for path in paths if not self._does_more(path, spelled, done)}
        return self._decided[spelled]

    def _done(self, spelled: str) -> set[_Effect]:
        """The weights that the nodes of a scope read, and the modules that may be called inside it."""
        # A call inside of a repeated call is in the scope that is repeated.
        inside = [called for scope in (spelled, *self._repeated(spelled)) for called in self._inside.get(scope, ())]
        modules = {id(self._tree.module(path)) for called in inside for path in self._narrowed(called)}
        return modules | self._weights.get(spelled, set())

    def _does_more(self, path: ModulePath, spelled: str, done: set[_Effect]) -> bool:
        """Whether a module, where it is certain to be called, calls or reads what this scope does not."""
        elsewhere = self._certain.get(id(self._tree.module(path)), {})
        return any(effects - done for scope, effects in elsewhere.items() if scope != spelled)

    def _certain_effects(self) -> dict[int, dict[str, set[_Effect]]]:
        """By module, the scopes that can't be another's, with what it calls and reads of its own in each."""
        owners: dict[str, ModulePath] = {}
        for scope in {*self._inside, *(called for inside in self._inside.values() for called in inside)}:
            paths = {reading.path for reading in self._readings(scope)}
            if len(paths) == 1:
                owners[scope] = paths.pop()
        certain: dict[int, dict[str, set[_Effect]]] = defaultdict(dict)
        for scope, path in owners.items():
            called = {owners[inner] for inner in self._inside.get(scope, ()) if inner in owners}
            effects: set[_Effect] = {id(self._tree.module(inner)) for inner in called if _contains(path, inner)}
            own = self._tree.module(path).paths
            effects |= {name for name in self._weights.get(scope, ()) if self._tensors[name] in own}
            certain[id(self._tree.module(path))][scope] = effects
        return certain

    def _readings(self, spelled: str) -> list[_Reading]:
        """The readings of a scope as it is, and as a repetition, that the weights allow which its nodes read."""
        groups = [self._literal(scope) for scope in (spelled, *self._repeated(spelled))]
        return [reading for group in groups for reading in self._allowed(group, spelled)]

    def _repeated(self, spelled: str) -> Collection[str]:
        """The scope that one spells again with a number after it, if there is such a scope."""
        match = _REPEATED.fullmatch(spelled)
        return (match["scope"],) if match is not None and match["scope"] in self._present else ()

    def _allowed(self, readings: list[_Reading], spelled: str) -> list[_Reading]:
        return [reading for reading in readings if self._may_read(reading.path, spelled)] or readings

    def _may_read(self, path: ModulePath, spelled: str) -> bool:
        """Whether a module, or one that it contains, holds each of the weights that the nodes of a scope read."""
        own = self._tree.module(path).paths
        return all(
            any(_contains(name, holder) for name in own for holder in holders)
            for holders in self._holders.get(spelled, ())
        )

    def _paths(self, modules: Iterable[ModulePath]) -> Iterator[ModulePath]:
        for path in modules:
            yield from self._tree.module(path).paths

    def _literal(self, scope: str) -> list[_Reading]:
        """Every reading of a scope that does not take its end for the number of a repetition."""
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
        modules = [module for module in self._by_name[name] if not module.container]
        below = [
            [path for path in module.paths if _contains(caller.path, path) and path != caller.path]
            for module in modules
        ]
        for paths in filter(None, below):
            path = name_for_caller(paths, caller.path, lambda path: self._tree.module(path).container)
            yield _Reading(path, caller.borrowed)
        if not any(below):
            yield from (_Reading(module.path, True) for module in modules)


def _contains(path: ModulePath, other: ModulePath) -> bool:
    return other[: len(path)] == path
