"""The modules of a model as a tree: what a path means, and how it is spelled as a tag."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy.patterns import ModulePattern
from optimum_htp.hierarchy.tags import ModulePath, NodeTags, escape_name, module_tags, split_tag


def name_for_caller(
    names: Sequence[ModulePath], caller: ModulePath, is_container: Callable[[ModulePath], bool]
) -> ModulePath:
    """Of a module's paths, the one nearest below its caller, not counting containers; the first, if none is below it.

    >>> name_for_caller([("a", "act"), ("acts", "0")], (), {("acts",)}.__contains__)
    ('acts', '0')
    """

    def modules_between(path: ModulePath) -> int:
        return sum(not is_container(path[:length]) for length in range(len(caller) + 1, len(path)))

    below = (path for path in names if path[: len(caller)] == caller)
    return min(below, key=modules_between, default=names[0])


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """One module of the traced model.

    Attributes:
        path: Its registered names from the root; of several, the first that `named_modules` visits.
        class_name: `type(module).__name__`.
        qualified_class: The class with its Python module, as torch writes it (`torch.nn.modules.linear.Linear`).
        container: Whether the class has no forward of its own; it has no segment above others then.
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

    @property
    def paths(self) -> tuple[ModulePath, ...]:
        """All paths that it is registered under."""
        return self.path, *self.aliases


class ModuleTree:
    """The static tree of the modules of an exported root."""

    def __init__(self, modules: Iterable[ModuleInfo]) -> None:
        self.modules: tuple[ModuleInfo, ...] = tuple(modules)
        self._by_path = {path: module for module in self.modules for path in module.paths}
        self._by_dotted: dict[str, ModulePath] | None = None
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
        """The path that is spelled with dots, or None: `"encoder.layer.0"` is `("encoder", "layer", "0")`."""
        if self._by_dotted is None:
            self._by_dotted = {".".join(path): path for path in reversed(self._by_path)}
        return self._by_dotted.get(dotted)

    def tag(self, path: ModulePath) -> str:
        """The tag of the module at a path.

        Raises:
            KeyError: There is no module at the path or above it.
        """
        tag = self._tags.get(path)
        if tag is None:
            above = path[:-1]
            while above and (above not in self._tags or self._by_path[above].container):
                above = above[:-1]
            tag = self._tags.get(above, "")
            for part, module in self.chain(path, first=len(above) + 1 if tag else 0):
                tag += "/" + ".".join(map(escape_name, (module.class_name, *part[len(above) :])))
                above = part
            self._tags[path] = tag
        return tag

    def path_of_tag(self, tag: str) -> ModulePath | None:
        """The path that a tag spells, which may be an alias; None where no module has that tag."""
        if self._by_tag is None:
            self._by_tag = {self.tag(path): path for path in self._by_path}
        return self._by_tag.get(tag)

    def chain(self, path: ModulePath, *, first: int = 0) -> list[tuple[ModulePath, ModuleInfo]]:
        """The modules of the segments of a tag, root first, each with its path; those of at least `first` names."""
        chain = [(path[:length], self._by_path[path[:length]]) for length in range(first, len(path) + 1)]
        return [(part, module) for part, module in chain if not module.container or part in ((), path)]

    def above(self, path: ModulePath) -> ModulePath | None:
        """The path of the module whose segment is in front of that of a path in its tag; None for the root.

        Raises:
            KeyError: There is none, as only untrusted trees lack it.
        """
        while path:
            path = path[:-1]
            if not path or not self._by_path[path].container:
                return path
        return None

    def depth(self, path: ModulePath) -> int:
        """How many segments there are in front of that of a path in its tag."""
        return len(self.chain(path)) - 1

    def lowest_common(self, paths: Sequence[ModulePath]) -> ModulePath:
        """The path of the lowest module, no container, that contains all; the first path if all are of one module."""
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
            above: Where the root sits in a larger model: dotted paths from that model's root are accepted too.
        """
        named = [(info, list(map(".".join, info.paths))) for info in self.modules]
        if above:
            named = [(info, [*paths, *(f"{above}.{path}".rstrip(".") for path in paths)]) for info, paths in named]
        matches = pattern.matcher(path for _, paths in named for path in paths)
        return [
            info
            for info, paths in named
            if matches(paths, (info.class_name, info.qualified_class), partial(self.tag, info.path))
            and pattern.may_call(info.calls, container=info.container)
        ]


_MAX_NAMES = 5_000_000


def tree_of_tags(tags: NodeTags) -> list[ModuleTree]:
    """The module trees that tags spell, without calls and parameters (0). Raises HtpError for too large ones."""
    names = 0  # in all paths together, each of which repeats those of the modules above it
    roots: dict[str, dict[ModulePath, ModuleInfo]] = {}
    for tag in module_tags(tags.values()):
        root, *segments = split_tag(tag)
        known = roots.setdefault(root, {(): ModuleInfo((), unquote(root), unquote(root))})
        path: ModulePath = ()
        for segment in segments:
            class_name, _, attributes = segment.partition(".")
            for name in attributes.split("."):
                path = (*path, unquote(name))
                names += len(path)
                if path not in known:
                    known[path] = ModuleInfo(path, "", "", container=True)
            known[path] = ModuleInfo(path, unquote(class_name), unquote(class_name))
        if names > _MAX_NAMES:
            raise HtpError("the tags name more modules than any model has; remove them: optimum-cli htp strip")
    return [ModuleTree(known.values()) for known in roots.values()]
