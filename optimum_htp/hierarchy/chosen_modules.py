"""The modules that several patterns select together, and what to say of a pattern that selects none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from optimum_htp.hierarchy.patterns import ModulePattern, near_names
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree


class ModulePatterns:
    """Patterns of which those that begin with `!` take away what they select.

    Attributes:
        texts: As they were written.
        parsed: Each, and whether it takes away.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(texts)
        self.parsed = [(text.startswith("!"), ModulePattern.parse(text.removeprefix("!"))) for text in self.texts]

    def tags(self, roots: Roots) -> list[set[str]]:
        """For each pattern the tags of the modules that it matches."""
        return [
            {root.tree.tag(info.path) for root in roots for info in _matched(root, pattern)}
            for _, pattern in self.parsed
        ]

    def modules(self, roots: Roots) -> Iterator[tuple[Root, ModuleInfo, tuple[ModulePattern, ...]]]:
        """The modules that are selected, in the order of the trees, each with the patterns that select it."""
        for root in roots:
            matched = [(*pair, {info.path for info in _matched(root, pair[1])}) for pair in self.parsed]
            for info in root.tree:
                if not any(negated and info.path in paths for negated, _, paths in matched):
                    by = tuple(pattern for negated, pattern, paths in matched if not negated and info.path in paths)
                    if by or all(negated for negated, _ in self.parsed):
                        yield root, info, by

    def unmatched(self, files: Sequence[Roots]) -> str:
        """Which patterns match no module of any of some files, and what may have been meant; empty if all match one."""
        matched = [self.tags(roots) for roots in files]
        trees = [tree for roots in files for tree in roots.trees]
        problems = [
            f"no module matches {text!r}; {_advice(text, trees)}"
            for index, text in enumerate(self.texts)
            if not any(tags[index] for tags in matched)
        ]
        return "; ".join(problems)


def _matched(root: Root, pattern: ModulePattern) -> list[ModuleInfo]:
    return root.tree.select(pattern, above=root.in_model or "")


def _advice(text: str, trees: Sequence[ModuleTree]) -> str:
    pattern = replace(ModulePattern.parse(text.removeprefix("!")), text=text)
    if pattern.calls is not None:
        most = max((info.calls for tree in trees for info in tree.select(replace(pattern, calls=None))), default=0)
        if most:
            ran = "once, which is call 0" if most == 1 else f"{most} times, which are the calls 0 to {most - 1}"
            return f"without the call it does; such a module ran {ran}"
    near = near_names(
        pattern,
        paths=dict.fromkeys(".".join(path) for tree in trees for info in tree for path in info.paths),
        classes=dict.fromkeys(info.class_name for tree in trees for info in tree if info.class_name),
        tags=dict.fromkeys(tree.tag(info.path) for tree in trees for info in tree),
    )
    listing = "`optimum-cli htp tree` lists the modules"
    return f"did you mean {' or '.join(map(repr, near))}? {listing}" if near else listing
