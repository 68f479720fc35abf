"""A tagged graph: what a trace and a projection give, and what a package writes and reads back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from optimum_htp.hierarchy import ModuleTree, NodeKey, NodeTag, NodeTags, Roots
from optimum_htp.onnxfile import OnnxModel


@dataclass(frozen=True, slots=True)
class TaggedGraph:
    """A graph with a tag for each node.

    Attributes:
        model: The graph.
        tags: The tags. Nodes without one are not evidence for others.
        roots: The root modules of the tags.
        origin: Where the tags are from, in words.
        sources: The tagged graphs that the tags were projected from; empty if they are the graph's own.
        skeleton: The packed skeleton of the graph that they were projected from, if there is one.
        name: The path of the file in its package; empty for a graph that is not in one.
    """

    model: OnnxModel
    tags: NodeTags
    roots: Roots = field(default_factory=Roots)
    origin: str = ""
    sources: tuple[TaggedGraph, ...] = ()
    skeleton: str | None = None
    name: str = ""

    @property
    def trees(self) -> tuple[ModuleTree, ...]:
        """The module tree of each root."""
        return self.roots.trees

    @property
    def complete(self) -> bool:
        """Whether each node has a tag."""
        return all(key in self.tags for key, _ in self.model.nodes())

    def calls(self, tag: str) -> int | None:
        """How often the module with a tag ran in the export; None where that is not known.

        If the module tree does not say, because only the metadata of nodes is left, the most that their calls prove.
        """
        known = self.roots.calls(tag)
        if known is not None:
            return known
        seen = [
            node.call for node in self.tags.values() if node.tag == tag and node.call is not None and not node.origins
        ]
        return 1 + max(seen) if seen else None

    def callers(self) -> dict[str, tuple[NodeTag, ...]]:
        """By the path of a function, the tags of the nodes that call it; of those in other functions, in each of their calls."""
        found: dict[str, list[NodeKey]] = {function.path: [] for function in self.model.functions}
        paths: dict[str, list[str]] = {}  # several, where functions differ in their overload
        for function in self.model.functions:
            paths.setdefault(function.operator, []).append(function.path)
        for key, node in self.model.nodes() if paths else ():
            for path in paths.get(node.operator, ()):
                found[path].append(key)
        known: dict[str, tuple[NodeTag, ...]] = {}

        def tags(path: str) -> tuple[NodeTag, ...]:
            if path not in known:
                known[path] = ()  # one that calls itself is not ONNX
                known[path] = tuple(dict.fromkeys(tag for key in found[path] for tag in self._in_calls(key, tags)))
            return known[path]

        return {path: tags(path) for path in found}

    def tags_in_calls(self) -> dict[NodeKey, tuple[NodeTag, ...]]:
        """The tags of each node: of those in functions one for each call that comes from another module, else just one."""
        callers = self.callers()
        return {key: self._in_calls(key, callers.__getitem__) for key in self.tags}

    def _in_calls(self, key: NodeKey, callers: Callable[[str], tuple[NodeTag, ...]]) -> tuple[NodeTag, ...]:
        tag = self.tags.get(key)
        if tag is None:
            return ()
        function = self.model.function_of(key[0]) if "::" in key[0] else None
        if function is None or tag.source == "unresolved":
            return (tag,)
        return tuple(dict.fromkeys(self.roots.inside(tag, caller) for caller in callers(function.path))) or (tag,)
