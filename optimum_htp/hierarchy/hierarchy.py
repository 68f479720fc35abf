"""The modules of one ONNX file, and the nodes that each of them owns."""

from __future__ import annotations

from collections.abc import Iterable

from optimum_htp.hierarchy.patterns import ModulePattern
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeKey, NodeTags
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree


class Hierarchy:
    """The modules of one ONNX file and the nodes that each of them owns.

    Modules are named by their dotted path (`"encoder.layer.0"`, `""` is the root) or by their tag; only the tag tells
    the roots of a file apart that was merged from exports of different modules.

    Args:
        trees: The module tree of each root.
        tags: A tag for each node.

    Example:
        >>> tree = ModuleTree([ModuleInfo((), "Net", "pkg.Net"), ModuleInfo(("fc",), "Linear", "torch.Linear")])
        >>> hierarchy = Hierarchy([tree], {("", 0): NodeTag("/Net/Linear.fc", "scope")})
        >>> hierarchy.nodes("fc"), [module.class_name for module in hierarchy.select("Linear")]
        ([('', 0)], ['Linear'])
    """

    def __init__(self, trees: Iterable[ModuleTree], tags: NodeTags) -> None:
        self.trees: tuple[ModuleTree, ...] = tuple(trees)
        self.tags = tags
        self._roots = Roots(map(Root, self.trees))
        self._own: dict[str, list[NodeKey]] = {}
        for key, tag in tags.items():
            self._own.setdefault(tag.tag, []).append(key)

    @property
    def roots(self) -> list[str]:
        """The tags of the root modules."""
        return [tree.tag(()) for tree in self.trees]

    def tag(self, module: str) -> str:
        """The tag of a module that is named by its dotted path or its tag.

        Raises:
            KeyError: There is no such module.
        """
        if module.startswith("/"):
            found = self._roots.find(module)
        else:
            named = ((root, path) for root in self._roots if (path := root.tree.find(module)) is not None)
            found = next(named, None)
        if found is None:
            raise KeyError(module)
        root, path = found
        return root.tree.tag(path)

    def module(self, module: str) -> ModuleInfo:
        """What is known of a module.

        Raises:
            KeyError: There is no such module.
        """
        info = self._roots.module(self.tag(module))
        assert info is not None  # it has that tag
        return info

    def children(self, module: str = "") -> list[ModuleInfo]:
        """The modules right below one, containers left out in favour of what they contain.

        Raises:
            KeyError: There is no such module.
        """
        above = self.tag(module)
        return [
            info
            for tree in self.trees
            for info in tree
            if info.path and not info.container and tree.tag(info.path).rpartition("/")[0] == above
        ]

    def nodes(self, module: str = "", *, below: bool = True) -> list[NodeKey]:
        """The nodes that a module owns, in the graph's order, with those of the modules below it unless told not to.

        A module that goes by several tags, being called under several names, owns the nodes of each.

        Raises:
            KeyError: There is no such module.
        """
        owners = set(self._tags_of(module))
        if below:
            inside = tuple(tag + "/" for tag in owners)
            owners |= {tag for tag in self._own if tag.startswith(inside)}
        found = (key for owner in owners for key in self._own.get(owner, ()))
        order = {key: position for position, key in enumerate(self.tags)}
        return sorted(found, key=order.__getitem__)

    def select(self, pattern: str) -> list[ModuleInfo]:
        """The modules that a pattern selects, in the tree's order.

        A pattern is a glob over dotted paths, in which `*` stands for any characters, dots included, as in `fnmatch`,
        and `2-5` for the numbers from 2 to 5; or the name of a class; or one of the other forms that `patterns` lists.
        Of one for calls (`PATTERN@2`), the modules that ran as often, as far as that is known.

        Raises:
            HtpError: The pattern is none, such as a regular expression that does not compile.
        """
        wanted = ModulePattern.parse(pattern)
        return [info for tree in self.trees for info in tree.select(wanted)]

    def _tags_of(self, module: str) -> list[str]:
        found = self._roots.find(self.tag(module))
        assert found is not None  # it has that tag
        root, path = found
        info = root.tree.module(path)
        return [root.tree.tag(name) for name in (info.path, *info.aliases)]
