"""A tagged graph: the value that a trace and a projection give, and that a package writes and reads back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from optimum_htp.hierarchy import ModuleInfo, ModuleTree, NodeTag, NodeTags, Roots
from optimum_htp.onnxfile import OnnxModel


@dataclass(frozen=True, slots=True)
class TaggedGraph:
    """A graph with a tag for each node.

    Attributes:
        model: The graph.
        tags: The tags. Nodes without one are no evidence for others.
        roots: The root modules that the tags lie below.
        origin: Where the tags are from, in words.
        sources: The tagged graphs that the tags were projected from; none where they are the graph's own.
        skeleton: The packed skeleton of the graph that they were projected from, where there is one.
        name: The path of the file in its package; empty for a graph that is in none.
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

    def module(self, tag: str) -> ModuleInfo | None:
        """What is known of the module with a tag."""
        return self.roots.module(tag)

    def calls(self, tag: str) -> int | None:
        """How often the module with a tag ran in the export; None where that is not known.

        Where the module tree does not say, because nothing but the nodes' own metadata is left, at least as often as
        the calls of its nodes say.
        """
        known = self.roots.calls(tag)
        if known is not None:
            return known
        seen = [node.call for node in self.tags.values() if node.tag == tag and node.call is not None]
        return 1 + max(seen) if seen else None

    def calls_above(self, tag: NodeTag, above: str) -> frozenset[int] | None:
        """The calls of a module that a node may have been made in; see `Roots.calls_above`."""
        return self.roots.calls_above(tag, above)

    def call_above(self, tag: NodeTag, above: str) -> int | None:
        """The index of the call of a module that a node was made in; see `Roots.call_above`."""
        return self.roots.call_above(tag, above)

    def without_call(self, above: str, tags: Iterable[NodeTag] | None = None) -> int:
        """How many nodes are a module's, or those of modules below it, while it is unknown which of its calls is theirs.

        Args:
            above: The module's tag.
            tags: The nodes to count among; None means all.
        """
        below = [
            tag for tag in (self.tags.values() if tags is None else tags) if f"{tag.tag}/".startswith(f"{above}/")
        ]
        calls = (self.calls_above(tag, above) for tag in below if tag.source != "unresolved")
        return sum(each is None or len(each) > 1 for each in calls)
