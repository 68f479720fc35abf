"""Which nodes of one file belong to the modules that patterns select."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from optimum_htp.hierarchy import ModulePath, ModulePattern, ModuleTree, NodeTag
from optimum_htp.onnxfile import node_id
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.select.file_selection import FileSelection, SelectedNode


_Module = tuple[int, ModulePath]


class Chooser:
    """The modules and nodes that patterns select in one file.

    Attributes:
        file: The file.
        modules: For each pattern the modules: the position of the tree, and the first of the module's paths.
    """

    def __init__(self, file: TaggedGraph, patterns: Sequence[str]) -> None:
        self.file = file
        self._patterns = [(text.startswith("!"), ModulePattern.parse(text.removeprefix("!"))) for text in patterns]
        self.modules: list[dict[_Module, None]] = []
        for _, pattern in self._patterns:
            found: dict[_Module, None] = {}
            for index, root in enumerate(file.roots):
                found |= {(index, info.path): None for info in root.tree.select(pattern, above=root.in_model or "")}
            self.modules.append(found)
        self._chains: dict[str, tuple[_Module, ...]] = {}

    def choose(self, *, own: bool, fused: bool) -> FileSelection:
        """Selects the nodes."""
        nodes: list[SelectedNode] = []
        others: set[str] = set()
        unknown = unresolved = 0
        for (path, position), node in self.file.model.nodes():
            tag = self.file.tags.get((path, position)) or NodeTag("/", "unresolved")
            unresolved += tag.source == "unresolved"
            how = self._how(tag, own=own, fused=fused)
            unknown += how == "unknown"
            if how not in ("owned", "fused"):
                others.add(node.name)
                continue
            nodes.append(
                SelectedNode(
                    graph=path,
                    position=position,
                    id=node_id(node, position),
                    name=node.name,
                    operator=node.operator,
                    tag=tag.tag,
                    call=tag.call,
                    fused=how == "fused",
                )
            )
        return FileSelection(
            name=self.file.name,
            modules=self._tags(),
            nodes=tuple(nodes),
            unknown_call=unknown,
            unresolved=unresolved,
            other_names=frozenset(others),
            tags=self.file.tags,
        )

    def _tags(self) -> tuple[str, ...]:
        added = [found for (negated, _), found in zip(self._patterns, self.modules, strict=True) if not negated]
        wanted = {module for found in added for module in found}
        ordered = ((index, info.path) for index, tree in enumerate(self.file.trees) for info in tree)
        return tuple(self.file.trees[index].tag(path) for index, path in ordered if (index, path) in wanted)

    def _how(self, tag: NodeTag, *, own: bool, fused: bool) -> str:
        """Whether a node is selected: `"owned"`, `"fused"`, `"unknown"` or `""`."""
        if tag.source == "unresolved":
            return ""
        how = "" if any(not negated for negated, _ in self._patterns) else "owned"
        for (negated, pattern), modules in zip(self._patterns, self.modules, strict=True):
            found = self._match(tag, pattern, modules, own=own, fused=fused)
            if negated:
                if found in ("owned", "fused"):
                    return ""
            elif found and how != "owned":
                how = max(how, found, key=("", "unknown", "fused", "owned").index)
        return how

    def _match(
        self,
        tag: NodeTag,
        pattern: ModulePattern,
        modules: Mapping[_Module, None],
        *,
        own: bool,
        fused: bool,
    ) -> str:
        chain = self._chain(tag.tag)
        holders = [module for module in (chain[-1:] if own else chain) if module in modules]
        if pattern.calls is not None:
            found = [self._calls_of(tag, module) for module in holders]
            wanted = range(pattern.calls[0], pattern.calls[1] + 1)
            if any(calls and all(call in wanted for call in calls) for calls in found):
                return "owned"
            return "unknown" if any(calls is None or any(call in wanted for call in calls) for calls in found) else ""
        if holders:
            return "owned"
        origins = tag.origins if fused else ()
        chains = (self._chain(origin) for origin in origins)
        return "fused" if any(module in modules for each in chains for module in (each[-1:] if own else each)) else ""

    def _calls_of(self, tag: NodeTag, module: _Module) -> frozenset[int] | None:
        """The calls of a module that a node at or below it may be of; None where they are unknown."""
        index, path = module
        above = self.file.trees[index].tag(path)
        calls = self.file.roots.calls_above(tag, above)
        return frozenset((0,)) if calls is None and self.file.calls(above) is None else calls

    def _chain(self, tag: str) -> tuple[_Module, ...]:
        """The modules from the root down to the one with a tag, containers too."""
        chain = self._chains.get(tag)
        if chain is None:
            chain = self._chains[tag] = tuple(_chain(self.file.trees, tag))
        return chain


def _chain(trees: Iterable[ModuleTree], tag: str) -> Iterator[_Module]:
    for index, tree in enumerate(trees):
        path = tree.path_of_tag(tag)
        if path is not None:
            yield from ((index, tree.module(path[:length]).path) for length in range(len(path) + 1))
            return
