"""Which modules become functions: those that are asked for, or the blocks that a model is made of.

Without patterns these are the outermost modules that repeat: members of a list, or modules that run more than once, which
have modules of their own and of which two calls are alike. Where members of a list are all different, as the stages of a
Swin, what is in them is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optimum_htp.hierarchy import ModulePatterns, Root, Roots, tag_ancestors
from optimum_htp.verbs.functions.members import Wanted
from optimum_htp.verbs.functions.plan import FilePlan


def chosen(roots: Roots, patterns: ModulePatterns, *, depth: int | None) -> list[list[Wanted]]:
    """The modules that patterns select, at a depth if one is given; in each list none is inside of another of it.

    Modules that contain others which are selected come after those.
    """
    wanted = [
        Wanted(root, info, by)
        for root, info, by in patterns.modules(roots)
        if not info.container and depth in (None, _depth(root, info.path))
    ]
    heights: dict[str, int] = {}  # of modules that are selected inside of a module, one inside of the other
    for each in sorted(wanted, key=lambda each: -len(each.info.path)):
        height = heights.get(each.tag, 0)
        for above in tag_ancestors(each.tag):
            if above != each.tag:
                heights[above] = max(heights.get(above, 0), height + 1)
    by_height: dict[int, list[Wanted]] = {}
    for each in wanted:
        by_height.setdefault(heights.get(each.tag, 0), []).append(each)
    return [by_height[height] for height in sorted(by_height)]


def blocks(plan: FilePlan) -> list[Wanted]:
    """The blocks that the model in a file is made of."""
    found: list[Wanted] = []
    front = [child for root in plan.file.roots for child in _children(Wanted(root, root.tree.root))]
    while front:
        taken = plan.alike([each for each in front if _is_block(plan, each)])
        found += [each for each in front if each.tag in taken]
        front = [child for each in front if each.tag not in taken for child in _children(each)]
    return found


def _is_block(plan: FilePlan, wanted: Wanted) -> bool:
    repeats = (plan.file.calls(wanted.tag) or 1) > 1 or wanted.info.path[-1].isdecimal()
    return repeats and any(True for _ in _children(wanted))


def _children(wanted: Wanted) -> Iterator[Wanted]:
    """The modules right below one; a container stands for what it contains."""
    own = wanted.tag
    for info in wanted.root.tree:
        if info.path and not info.container and wanted.root.tree.tag(info.path).rpartition("/")[0] == own:
            yield Wanted(wanted.root, info)


def _depth(root: Root, path: Sequence[str]) -> int:
    """How many modules are above one; containers don't count."""
    return len(root.tree.chain(tuple(path))) - 1
