"""Module paths, tags and the module tree: how a module of a PyTorch model is named in an ONNX file.

A *tag* spells the path from the root module to one module, a segment for each module on the way:
`/Net/Encoder.encoder/Block.layer.0/Linear.query`. The root's segment is its class; every other segment is
`Class.attribute`. Containers without a forward of their own (`nn.ModuleList`, `nn.ModuleDict`) make no segment above
others: their name goes in front of their child's (`Block.layer.0`). Joining the attributes with dots gives the path
that `torch.nn.Module.get_submodule` takes.

Nothing but the standard library is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from urllib.parse import unquote

from optimum_htp.errors import HtpError
from optimum_htp.patterns import ModulePattern


ModulePath = tuple[str, ...]
"""The registered names from the root down to a module; `()` is the root itself."""

# What would be read as structure if it stood unescaped in a name: the separators of segments and of names, the
# escape itself, and control characters (a tag is one line).
_RESERVED = re.compile(r"[%/.\x00-\x1f\x7f]")


def escape_name(name: str) -> str:
    """Percent-encodes what a tag would take for structure in one registered name or class name.

    >>> escape_name("a/b.c"), escape_name("layer")
    ('a%2Fb%2Ec', 'layer')
    """
    return _RESERVED.sub(lambda match: f"%{ord(match.group()):02X}", name)


def split_tag(tag: str) -> list[str]:
    """The segments of a tag, root first.

    >>> split_tag("/Net/Block.layer.0")
    ['Net', 'Block.layer.0']
    """
    return tag[1:].split("/")


def tag_module_path(tag: str) -> str:
    """The dotted module path that a tag names, as `torch.nn.Module.get_submodule` takes it; `""` is the root.

    >>> tag_module_path("/Net/Encoder.encoder/Block.layer.0")
    'encoder.layer.0'
    """
    attributes = (segment.split(".", 1)[1] for segment in split_tag(tag)[1:])
    return unquote(".".join(attributes))


def tag_class(tag: str) -> str:
    """The class name of the module that a tag names.

    >>> tag_class("/Net/Block.layer.0")
    'Block'
    """
    return unquote(tag.rsplit("/", 1)[1].split(".", 1)[0])


def tag_ancestors(tag: str) -> Iterator[str]:
    """The tags of every module on the way from the root down to the tag itself.

    >>> list(tag_ancestors("/Net/Block.layer.0"))
    ['/Net', '/Net/Block.layer.0']
    """
    position = tag.find("/", 1)
    while position > 0:
        yield tag[:position]
        position = tag.find("/", position + 1)
    yield tag


def common_ancestor(tags: Iterable[str]) -> str:
    """The tag of the lowest module that contains all the given ones.

    Raises:
        ValueError: There are no tags, or they do not share a root.

    >>> common_ancestor(["/Net/A.a/B.x", "/Net/A.a/B.y"])
    '/Net/A.a'
    """
    shared: list[str] | None = None
    for tag in tags:
        segments = split_tag(tag)
        if shared is None:
            shared = segments
        else:
            pairs = zip(shared, segments, strict=False)
            shared = [left for left, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    if not shared:
        raise ValueError("no tags, or tags of different models, have no common ancestor")
    return "/" + "/".join(shared)


def name_for_caller(
    names: Sequence[ModulePath], caller: ModulePath, is_container: Callable[[ModulePath], bool]
) -> ModulePath:
    """Of the names that a module goes by, the one nearest below a module that calls it; the first, if none is below it.

    Args:
        names: The paths that the module is registered under.
        caller: The path that the caller goes by.
        is_container: Whether the module at a path is a container, which makes no distance.

    >>> name_for_caller([("a", "act"), ("acts", "0")], (), {("acts",)}.__contains__)
    ('acts', '0')
    """
    if len(names) == 1:
        return names[0]

    def modules_between(path: ModulePath) -> int:
        return sum(not is_container(path[:length]) for length in range(len(caller) + 1, len(path)))

    below = [path for path in names if path[: len(caller)] == caller]
    return min(below, key=modules_between) if below else names[0]


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """One module of the traced model.

    Attributes:
        path: Its registered names from the root; of several, the first that `named_modules` visits.
        class_name: `type(module).__name__`.
        qualified_class: The class with its Python module, as torch writes it (`torch.nn.modules.linear.Linear`).
        container: Whether the class has no forward of its own, so that it makes no segment above others.
        calls: How often it ran in the trace.
        parameters: Elements of the parameters at and below it, each tensor counted once.
        aliases: The other paths that it is registered under.
    """

    path: ModulePath
    class_name: str
    qualified_class: str
    container: bool = False
    calls: int = 0
    parameters: int = 0
    aliases: tuple[ModulePath, ...] = ()


class ModuleTree:
    """The static tree of modules of one exported root: what every path means and how it is spelled as a tag."""

    def __init__(self, modules: Iterable[ModuleInfo]) -> None:
        self.modules: tuple[ModuleInfo, ...] = tuple(modules)
        self._by_path: dict[ModulePath, ModuleInfo] = {}
        for module in self.modules:
            for path in (module.path, *module.aliases):
                self._by_path[path] = module
        self._by_dotted = {".".join(path): path for path in reversed(self._by_path)}
        self._tags: dict[ModulePath, str] = {}
        self._by_tag: dict[str, ModulePath] | None = None

    def __contains__(self, path: ModulePath) -> bool:
        return path in self._by_path

    def __iter__(self) -> Iterator[ModuleInfo]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)

    @property
    def root(self) -> ModuleInfo:
        """The module that was exported."""
        return self._by_path[()]

    def module(self, path: ModulePath) -> ModuleInfo:
        """The module at a path, by any of its names.

        Raises:
            KeyError: There is none.
        """
        return self._by_path[path]

    def find(self, dotted: str) -> ModulePath | None:
        """The path that a dotted name means, or None: `"encoder.layer.0"` is `("encoder", "layer", "0")`."""
        return self._by_dotted.get(dotted)

    def tag(self, path: ModulePath) -> str:
        """The tag of the module at a path: every ancestor a segment, containers in front of their child's name.

        Raises:
            KeyError: There is no module at the path or above it.
        """
        tag = self._tags.get(path)
        if tag is None:
            root, *below = self._segments(path)
            tag = "/" + "/".join((root[0], *map(".".join, below)))
            self._tags[path] = tag
        return tag

    def path_of_tag(self, tag: str) -> ModulePath | None:
        """The path that a tag spells, by any alias, or None where no module has that tag."""
        if self._by_tag is None:
            self._by_tag = {self.tag(path): path for path in self._by_path}
        return self._by_tag.get(tag)

    def chain(self, path: ModulePath) -> list[tuple[ModulePath, ModuleInfo]]:
        """The modules that make the segments of a tag, root first, each with its path."""
        chain = []
        for length in range(len(path) + 1):
            module = self._by_path[path[:length]]
            if not module.container or length in (0, len(path)):
                chain.append((path[:length], module))
        return chain

    def namespace(self, path: ModulePath) -> str:
        """The module's chain in torch's `namespace` format: `: pkg.Net/layers.0: pkg.Blk`.

        Model Explorer's ONNX adapter reads it: parts joined by `/`, each `cumulative dotted path: qualified class`,
        where the root's path is empty.
        """
        return "/".join(
            f"{'.'.join(map(escape_name, part))}: {module.qualified_class.replace('/', '%2F')}"
            for part, module in self.chain(path)
        )

    def lowest_common(self, paths: Sequence[ModulePath]) -> ModulePath:
        """The path of the lowest module, not a container, that contains the modules at all the paths.

        Paths of one and the same module are no distance apart, however it was reached.
        """
        first = paths[0]
        if all(path == first or self._by_path[path] is self._by_path[first] for path in paths):
            return first
        length = min(map(len, paths))
        while length and any(path[:length] != first[:length] for path in paths):
            length -= 1
        while length and self._by_path[first[:length]].container:
            length -= 1
        return first[:length]

    def select(self, pattern: ModulePattern, *, above: str = "") -> list[ModuleInfo]:
        """The modules that a pattern selects, in the tree's order.

        Args:
            pattern: The pattern.
            above: Where the root sits in a larger model: dotted paths from that model's root will do as well.
        """
        named = [(info, [".".join(path) for path in (info.path, *info.aliases)]) for info in self.modules]
        if above:
            named = [(info, [*paths, *(f"{above}.{path}".rstrip(".") for path in paths)]) for info, paths in named]
        matches = pattern.matcher(path for _, paths in named for path in paths)
        return [
            info
            for info, paths in named
            if matches(paths, (info.class_name, info.qualified_class), partial(self.tag, info.path))
            and pattern.may_call(info.calls, container=info.container)
        ]

    def _segments(self, path: ModulePath) -> Iterator[tuple[str, str]]:
        above = 0
        for part, module in self.chain(path):
            yield escape_name(module.class_name), ".".join(map(escape_name, part[above:]))
            above = len(part)


@dataclass(frozen=True, slots=True)
class NodeTag:
    """What is known of one node of an ONNX graph.

    Attributes:
        tag: The module that the node came from.
        source: The evidence that decided it, one of `SOURCES`.
        call: The 0-based index of the owning module's call, where the module ran more than once and one call owns
            the node; else None.
        origins: The tags of every module that the node came from, where there are several.
    """

    tag: str
    source: str
    call: int | None = None
    origins: tuple[str, ...] = ()


def root_tags(tags: Iterable[NodeTag]) -> set[str]:
    """The tags of the root modules that tags, and the origins that they list, lie below."""
    return {next(tag_ancestors(name)) for tag in tags for name in (tag.tag, *tag.origins)}


SOURCES = ("metadata", "scope", "parameter", "dataflow", "fused", "inserted", "unresolved")
"""The kinds of evidence, in the order in which they are tried; `unresolved` is the absence of any."""

NodeKey = tuple[str, int]
"""A node of an ONNX model: the path of its graph (`""` is the main graph) and its position in it."""

NodeTags = Mapping[NodeKey, NodeTag]


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
        for tree in self.trees:
            path = tree.path_of_tag(module) if module.startswith("/") else tree.find(module)
            if path is not None:
                return tree.tag(path)
        raise KeyError(module)

    def module(self, module: str) -> ModuleInfo:
        """What is known of a module.

        Raises:
            KeyError: There is no such module.
        """
        tag = self.tag(module)
        return next(tree.module(path) for tree in self.trees if (path := tree.path_of_tag(tag)) is not None)

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
        tag = self.tag(module)
        for tree in self.trees:
            path = tree.path_of_tag(tag)
            if path is not None:
                info = tree.module(path)
                return [tree.tag(each) for each in (info.path, *info.aliases)]
        return [tag]


_MAX_NAMES = 20_000_000


def tree_of_tags(tags: NodeTags) -> list[ModuleTree]:
    """Module trees as far as tags alone tell: the modules on the way to a tagged node, and their classes.

    Calls and parameters are not known then, and stand as 0; containers have no class.

    Raises:
        HtpError: They name more modules, and deeper ones, than any model has.
    """
    names = 0  # in all the paths that are made, each of which holds those of the modules above it
    roots: dict[str, dict[ModulePath, ModuleInfo]] = {}
    for tag in dict.fromkeys(name for each in tags.values() for name in (each.tag, *each.origins)):
        root, *segments = split_tag(tag)
        known = roots.setdefault(root, {(): ModuleInfo((), unquote(root), unquote(root))})
        path: ModulePath = ()
        for segment in segments:
            class_name, _, attributes = segment.partition(".")
            for name in attributes.split("."):
                path = (*path, unquote(name))
                names += len(path)
                known.setdefault(path, ModuleInfo(path, "", "", container=True))
            known[path] = ModuleInfo(path, unquote(class_name), unquote(class_name))
        if names > _MAX_NAMES:
            raise HtpError("the tags name more modules than any model has; remove them: optimum-cli htp strip")
    return [ModuleTree(known.values()) for known in roots.values()]
