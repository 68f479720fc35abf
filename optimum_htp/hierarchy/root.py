"""The root modules of an ONNX file: what is known of each exported module, and of the calls that its export made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from optimum_htp.hierarchy.calls import CallTree
from optimum_htp.hierarchy.tags import ModulePath, NodeTag, common_ancestor, module_tags, root_tags
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree


@dataclass(frozen=True, slots=True)
class Root:
    """A module that was exported.

    Attributes:
        tree: The modules below it.
        in_model: Where it sits in the whole model: a dotted path, `""` for the model itself, and where that is not
            known, None where it is not a submodule of it.
        traces: The calls of its export; of several exports, where a file was merged from them (a decoder with and
            without past key values); empty where the calls are not known.
    """

    tree: ModuleTree
    in_model: str | None = ""
    traces: tuple[CallTree, ...] = ()

    @property
    def tag(self) -> str:
        """Its tag."""
        return self.tree.tag(())

    @classmethod
    def of_rows(cls, tree: ModuleTree, in_model: str | None, traces: Iterable[Iterable[Sequence[object]]]) -> Root:
        """A root with calls as `CallTree.rows` gives them. They may come from a file, and are checked.

        Raises:
            ValueError: They are not calls of these modules, or not as many as the tree says.
        """
        root = cls(tree, in_model, tuple(CallTree.of_rows(tree, rows) for rows in traces))
        if root.traces:
            for module in tree:
                if module.calls != max(len(trace.numbers(module.path)) for trace in root.traces):
                    raise ValueError(f"{tree.tag(module.path)!r:.80} ran in another number of calls than are listed")
        return root


class Roots(tuple[Root, ...]):
    """The roots of a file: one, unless it was merged from exports of several modules.

    Says which module a tag names, and to which call of a module around it a node belongs.
    """

    __slots__ = ()

    @property
    def trees(self) -> tuple[ModuleTree, ...]:
        """The module tree of each root."""
        return tuple(root.tree for root in self)

    def find(self, tag: str) -> tuple[Root, ModulePath] | None:
        """The first root that knows a tag, and the path that it spells there."""
        for root in self:
            path = root.tree.path_of_tag(tag)
            if path is not None:
                return root, path
        return None

    def module(self, tag: str) -> ModuleInfo | None:
        """What is known of the module with a tag."""
        place = self.find(tag)
        return place[0].tree.module(place[1]) if place is not None else None

    def knows(self, tags: Iterable[NodeTag]) -> bool:
        """Whether all tags, and the origins that they list, are those of modules here."""
        return all(self.find(name) is not None for name in module_tags(tags))

    def used_by(self, tags: Iterable[NodeTag]) -> Roots:
        """The roots that nodes with these tags came from."""
        used = root_tags(tags)
        return Roots(root for root in self if root.tag in used)

    def calls(self, tag: str) -> int | None:
        """How often the module with a tag ran; None where that is not known."""
        module = self.module(tag)
        return (module.calls or None) if module is not None else None

    def calls_above(self, tag: NodeTag, above: str) -> frozenset[int] | None:
        """The indices of the calls of a module that a node may have been made in, by its tag and call.

        Args:
            tag: The node's tag.
            above: The tag of the module, by any of its names: the node's own or one around it.

        Returns:
            Several where calls share the node, as they share a constant; none where the node's module was called from
            outside of them; None where nothing is known.
        """
        owner, outer = self.find(tag.tag), self.find(above)
        if owner is None or outer is None or owner[0] is not outer[0]:
            return None
        (root, path), (_, outer_path) = owner, outer
        module = root.tree.module(outer_path)
        if root.tree.module(path) is module and tag.call is not None:
            return frozenset((tag.call,))
        chosen = slice(None) if tag.call is None else slice(tag.call, tag.call + 1)
        made = [(trace, number) for trace in root.traces for number in trace.numbers(path)[chosen]]
        if not made:
            return frozenset((0,)) if module.calls == 1 else None
        around = ((trace, trace.around(number, outer_path)) for trace, number in made)
        return frozenset(trace[number].index for trace, number in around if number is not None)

    def inside(self, tag: NodeTag, caller: NodeTag) -> NodeTag:
        """The tag of a node of a function in one of its calls, by what the node says and the tag of what calls it.

        A function that stands for several modules has nodes with one origin for each: here it is the one in the caller's.
        Of a function of another kind, what its nodes say, or the caller where that is not in the caller's module.
        """
        above = f"{caller.tag}/"
        names = [name for name in tag.origins or (tag.tag,) if name == caller.tag or name.startswith(above)]
        if not names:
            return NodeTag(caller.tag, tag.source, caller.call)
        if len(names) > 1:
            return NodeTag(common_ancestor(names), tag.source, None, tuple(names))
        if names[0] == caller.tag:
            return NodeTag(caller.tag, tag.source, caller.call)
        return NodeTag(names[0], tag.source, self._call_inside(names[0], caller) if tag.call is None else tag.call)

    def together(self, tags: Sequence[NodeTag]) -> NodeTag:
        """The tag of one node of a function, which stands for several: the lowest module around theirs, its origins.

        A call is that of each of the origins. `inside` takes it apart again.
        """
        names = list(dict.fromkeys(name for tag in tags for name in (tag.origins or (tag.tag,))))
        sources, calls = {tag.source for tag in tags}, {tag.call for tag in tags}
        source = tags[0].source if len(sources) == 1 else "fused"
        call = tags[0].call if len(calls) == 1 else None
        if len(names) == 1:
            return NodeTag(names[0], source, call)
        found = [place for name in names if (place := self.find(name)) is not None]
        if len(found) == len(names) and all(root is found[0][0] for root, _ in found):
            tree = found[0][0].tree
            common = tree.tag(tree.lowest_common([path for _, path in found]))
        else:
            common = common_ancestor(names)
        return NodeTag(common, source, call, tuple(names))

    def _call_inside(self, tag: str, caller: NodeTag) -> int | None:
        """The only call of a module that was made in a call of one around it; None if there are several, or it ran once."""
        inner, outer = self.find(tag), self.find(caller.tag)
        if inner is None or outer is None or inner[0].tree.module(inner[1]).calls < 2:
            return None
        calls = set()
        for trace in inner[0].traces:
            for number in trace.numbers(inner[1]):
                around = trace.around(number, outer[1])
                if around is not None and caller.call in (None, trace[around].index):
                    calls.add(trace[number].index)
        return calls.pop() if len(calls) == 1 else None

    def call_above(self, tag: NodeTag, above: str) -> int | None:
        """The only call in `calls_above`; None if there are several, or nothing is known."""
        calls = self.calls_above(tag, above)
        return next(iter(calls)) if calls is not None and len(calls) == 1 else None


def merged_roots(groups: Iterable[Iterable[Root]]) -> Roots:
    """The roots of a file that was merged from others; exports of the same module become one root with all calls."""
    merged: dict[tuple[object, ...], Root] = {}
    for root in (root for group in groups for root in group):
        key = (root.in_model, tuple(replace(module, calls=0) for module in root.tree))
        known = merged.get(key)
        merged[key] = root if known is None or known is root else _merged(known, root)
    return Roots(merged.values())


def _merged(one: Root, other: Root) -> Root:
    traces = tuple(dict.fromkeys((*one.traces, *other.traces))) if one.traces and other.traces else ()
    pairs = zip(one.tree, other.tree, strict=True)
    tree = ModuleTree(replace(left, calls=max(left.calls, right.calls)) for left, right in pairs)
    return Root(tree, one.in_model, traces)
