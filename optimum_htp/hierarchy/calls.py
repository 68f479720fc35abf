"""Which call of a module a node belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optimum_htp.hierarchy.tags import NodeKey, NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree


class CallsOf:
    """Which call of a module each node at and below it belongs to.

    The nodes of the module itself say it. Of a module below, the calls are dealt out evenly over those of the module,
    as they are when every call does the same; where that does not come out even, the neighbours decide, because an
    export writes nodes in the order in which they ran.

    Attributes:
        count: How often the module ran.
        owners: The call of each node; None where no one call owns it.
    """

    def __init__(
        self, info: ModuleInfo, tags: Sequence[str], nodes: Mapping[NodeKey, NodeTag], tree: ModuleTree
    ) -> None:
        own = {tag.call for tag in nodes.values() if tag.tag in tags and tag.call is not None}
        below = {tag.call for tag in nodes.values() if tag.call is not None}
        self.count = info.calls or 1 + max(own or below or {0})
        self.owners: dict[NodeKey, int | None] = {}
        if self.count == 1:
            return
        seen: dict[tuple[str, str], set[int]] = {}
        for key, tag in nodes.items():
            if tag.call is not None:
                seen.setdefault((key[0], tag.tag), set()).add(tag.call)
        certain = {
            key: self._dealt(tag, tags, sorted(seen[key[0], tag.tag]), tree)
            for key, tag in nodes.items()
            if tag.call is not None
        }
        for key, tag in nodes.items():
            owner = certain.get(key)
            self.owners[key] = owner if owner is not None or tag.tag in tags else _neighbours(key, certain)

    def _dealt(self, tag: NodeTag, own: Sequence[str], seen: Sequence[int], tree: ModuleTree) -> int | None:
        assert tag.call is not None
        if tag.tag in own:
            return tag.call
        path = tree.path_of_tag(tag.tag)
        info = tree.module(path) if path is not None else None
        if info is not None and info.calls and not info.aliases and info.calls % self.count == 0:
            return tag.call // (info.calls // self.count)
        if len(seen) % self.count == 0:  # some of its calls are those of other parents
            return seen.index(tag.call) // (len(seen) // self.count)
        return None


def _neighbours(key: NodeKey, certain: Mapping[NodeKey, int | None]) -> int | None:
    """The call on both sides of a node, if it is the same."""
    before = [position for graph, position in certain if graph == key[0] and position < key[1]]
    after = [position for graph, position in certain if graph == key[0] and position > key[1]]
    sides = {certain[key[0], position] for position in (max(before, default=None), min(after, default=None))
             if position is not None}  # fmt: skip
    return sides.pop() if len(sides) == 1 else None
