"""The modules of one ONNX file, and the nodes that each of them owns."""

from __future__ import annotations

from collections.abc import Iterable

from optimum_htp.errors import unknown_name
from optimum_htp.hierarchy.patterns import ModulePattern
from optimum_htp.hierarchy.tags import ModulePath, NodeKey, NodeTags
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree


class Hierarchy:
    """The modules of one ONNX file and the nodes that each of them owns.

    A module is named by its dotted path (`"encoder.layer.0"`, `""` is the root) or by its tag. In a file that was
    merged from exports of different modules, only the tag says which root is meant. Where there is no module of that
    name, the methods raise UnknownNameError, which is a KeyError.

    Args:
        trees: The module tree of each root.
        tags: A tag for each node.

    Example:
        >>> from optimum_htp.hierarchy import NodeTag
        >>> tree = ModuleTree([ModuleInfo((), "Net", "pkg.Net"), ModuleInfo(("fc",), "Linear", "torch.Linear")])
        >>> hierarchy = Hierarchy([tree], {("", 0): NodeTag("/Net/Linear.fc", "scope")})
        >>> hierarchy.nodes("fc"), [module.class_name for module in hierarchy.select("Linear")]
        ([('', 0)], ['Linear'])
    """

    def __init__(self, trees: Iterable[ModuleTree], tags: NodeTags) -> None:
        self.trees: tuple[ModuleTree, ...] = tuple(trees)
        self.tags = tags

    def __repr__(self) -> str:
        roots = ", ".join(self.roots)
        return f"<{type(self).__name__} of {roots}: {sum(map(len, self.trees)):,} modules, {len(self.tags):,} nodes>"

    @property
    def roots(self) -> list[str]:
        """The tags of the root modules."""
        return [tree.tag(()) for tree in self.trees]

    def tag(self, module: str) -> str:
        """The tag of a module that is named by its dotted path or its tag."""
        tree, path = self._find(module)
        return tree.tag(path)

    def module(self, module: str) -> ModuleInfo:
        """What is known of a module."""
        tree, path = self._find(module)
        return tree.module(path)

    def children(self, module: str = "") -> list[ModuleInfo]:
        """The modules right below one; containers are skipped in favour of what they contain."""
        above = self.tag(module)
        return [
            info
            for tree in self.trees
            for info in tree
            if info.path and not info.container and tree.tag(info.path).rpartition("/")[0] == above
        ]

    def nodes(self, module: str = "", *, below: bool = True) -> list[NodeKey]:
        """The nodes that a module owns, in the graph's order; by default with those of the modules below it.

        A module that is called by several names has several tags, and owns the nodes of each. A node of a function belongs
        to all modules that it is called for.
        """
        tree, path = self._find(module)
        own = {tree.tag(name) for name in tree.module(path).paths}
        inside = tuple(f"{tag}/" for tag in own) if below else ()
        return [
            key
            for key, tag in self.tags.items()
            if any(
                name in own or name.startswith(inside)
                for name in ((tag.origins if "::" in key[0] else ()) or (tag.tag,))
            )
        ]

    def select(self, pattern: str) -> list[ModuleInfo]:
        """The modules that a pattern selects, in the tree's order.

        A pattern is a glob over dotted paths, the name of a class, or another of the forms that `patterns` lists. Of
        one for calls (`PATTERN@2`), the modules that ran as often, as far as that is known.

        Raises:
            HtpError: The pattern is invalid, such as a regular expression that does not compile.
        """
        wanted = ModulePattern.parse(pattern)
        return [info for tree in self.trees for info in tree.select(wanted)]

    def _find(self, module: str) -> tuple[ModuleTree, ModulePath]:
        """The tree of the module with a tag or a dotted path, and its path there."""
        for tree in self.trees:
            path = tree.path_of_tag(module) if module.startswith("/") else tree.find(module)
            if path is not None:
                return tree, path
        known = (".".join(path) for tree in self.trees for info in tree for path in info.paths)
        raise unknown_name(module, self.roots if module.startswith("/") else known, what="module")
