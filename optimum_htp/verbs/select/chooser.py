"""Which nodes of one file belong to the modules that patterns select."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from optimum_htp.hierarchy import ModulePattern, ModulePatterns, NodeKey, NodeTag
from optimum_htp.selections import FileSelection, selection_of
from optimum_htp.tagging import TaggedGraph


class _Belongs(IntEnum):
    """Whether a node belongs to selected modules; of several answers the largest counts."""

    NO = 0
    UNKNOWN_CALL = 1
    FUSED = 2
    YES = 3


class Chooser:
    """Selects in one file; `modules` has for each pattern the tags of the modules that it matches."""

    def __init__(self, file: TaggedGraph, patterns: ModulePatterns, *, own: bool, fused: bool) -> None:
        self.file = file
        self._patterns = patterns.parsed
        self.modules = patterns.tags(file.roots)
        self._own = own
        self._fused = fused
        self._chains: dict[str, list[str]] = {}

    def choose(self) -> FileSelection:
        """Selects the nodes."""
        nodes: dict[NodeKey, bool] = {}
        unknown = 0
        in_calls = self.file.tags_in_calls() if self.file.model.functions else {}
        for key, _ in self.file.model.nodes():
            tag = self.file.tags.get(key) or NodeTag("/", "unresolved")
            belongs = self._in_calls(in_calls.get(key, ()) if "::" in key[0] else (), tag)
            unknown += belongs is _Belongs.UNKNOWN_CALL
            if belongs >= _Belongs.FUSED:
                nodes[key] = belongs is _Belongs.FUSED
        pairs = zip(self._patterns, self.modules, strict=True)
        wanted = set[str]().union(*(tags for (negated, _), tags in pairs if not negated))
        return selection_of(self.file, nodes, wanted, unknown_call=unknown)

    def _in_calls(self, tags: Sequence[NodeTag], tag: NodeTag) -> _Belongs:
        """Whether a node belongs to selected modules; of a function, in all of its calls or in some."""
        answers = [self._belongs(each) for each in tags] or [self._belongs(tag)]
        if max(answers) < _Belongs.FUSED or min(answers) is _Belongs.YES:
            return max(answers)
        return _Belongs.FUSED if self._fused else _Belongs.NO

    def _belongs(self, tag: NodeTag) -> _Belongs:
        if tag.source == "unresolved":
            return _Belongs.NO
        answers: list[_Belongs] = []
        for (negated, pattern), modules in zip(self._patterns, self.modules, strict=True):
            belongs = self._belongs_to(tag, pattern, modules)
            if not negated:
                answers.append(belongs)
            elif belongs >= _Belongs.FUSED:
                return _Belongs.NO
        return max(answers, default=_Belongs.YES)  # patterns that only take away start from all nodes

    def _belongs_to(self, tag: NodeTag, pattern: ModulePattern, modules: set[str]) -> _Belongs:
        holders = [module for module in self._chain(tag.tag) if module in modules]
        if pattern.calls is None:
            if holders:
                return _Belongs.YES
            origins = tag.origins if self._fused else ()
            fused = any(module in modules for origin in origins for module in self._chain(origin))
            return _Belongs.FUSED if fused else _Belongs.NO
        wanted = range(pattern.calls[0], pattern.calls[1] + 1)
        possible = [self._calls(tag, module) for module in holders]
        if any(calls and all(call in wanted for call in calls) for calls in possible):
            return _Belongs.YES
        unknown = any(calls is None or any(call in wanted for call in calls) for calls in possible)
        return _Belongs.UNKNOWN_CALL if unknown else _Belongs.NO

    def _calls(self, tag: NodeTag, module: str) -> frozenset[int] | None:
        """The calls of a module that a node at or below it may be of; None where they are unknown."""
        calls = self.file.roots.calls_above(tag, module)
        return frozenset((0,)) if calls is None and self.file.calls(module) is None else calls

    def _chain(self, tag: str) -> list[str]:
        """The tags of the modules that a module's nodes belong to: of those above it, containers too, and its own."""
        if tag not in self._chains:
            self._chains[tag] = []
            match = self.file.roots.find(tag)
            if match is not None:
                root, path = match
                lengths = range(len(path) if self._own else 0, len(path) + 1)
                self._chains[tag] = [root.tree.tag(root.tree.module(path[:length]).path) for length in lengths]
        return self._chains[tag]
