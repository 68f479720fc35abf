"""The modules of a tagged graph, each with what it owns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache, partial

from optimum_htp.hierarchy import ModulePath, NodeKey
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.diff.report import ModuleSide

Place = tuple[int, ModulePath] | None
"""A tree and a path in it; None stands for the nodes whose module is unknown."""


def places(file: TaggedGraph, depth: int | None = None) -> Callable[[NodeKey], Place]:
    """Gives a function that says which module owns a node; below a depth, the one above it."""
    place_of = cache(partial(_place, file, depth=depth))

    def place(key: NodeKey) -> Place:
        tag = file.tags.get(key)
        return place_of(tag.tag) if tag is not None and tag.source != "unresolved" else None

    return place


def module_sides(file: TaggedGraph, depth: int | None) -> dict[Place, ModuleSide]:
    """What is known of each module, in the tree's order: those of at most a depth, and containers that own nodes."""
    place_of = places(file, depth)
    operators: defaultdict[Place, dict[str, int]] = defaultdict(dict)
    for key, node in file.model.nodes():
        of_place, operator = operators[place_of(key)], node.operator
        of_place[operator] = of_place.get(operator, 0) + 1
    modules: dict[Place, ModuleSide] = {}
    for index, tree in enumerate(file.trees):
        # Trees that are made from tags alone know of no calls and no parameters.
        traced = tree.root.calls > 0 or tree.root.parameters > 0
        for info in tree:
            place = index, info.path
            too_deep = depth is not None and tree.depth(info.path) > depth
            if too_deep or (info.container and place not in operators):
                continue
            owned = operators.get(place, {})
            modules[place] = ModuleSide(
                class_name=info.class_name,
                tag=tree.tag(info.path),
                calls=info.calls if traced else None,
                parameters=info.parameters if traced else None,
                nodes=sum(owned.values()),
                operators=owned,
            )
    if None in operators:
        modules[None] = ModuleSide("", "", None, None, sum(operators[None].values()), operators[None])
    return modules


def _place(file: TaggedGraph, tag: str, *, depth: int | None) -> Place:
    for index, tree in enumerate(file.trees):
        path = tree.path_of_tag(tag)
        if path is not None:
            own = tree.module(path).path
            chain = tree.chain(own) if depth is not None else ()
            return index, chain[depth][0] if depth is not None and depth < len(chain) else own
    return None


def merged(left: Iterable[Place], right: Iterable[Place]) -> list[Place]:
    """Both in one list; what only the second has comes after what it comes after there.

    >>> merged([(0, ("a",)), (0, ("c",))], [(0, ("a",)), (0, ("b",)), (0, ("c",))])
    [(0, ('a',)), (0, ('b',)), (0, ('c',))]
    """
    first: list[Place] = []
    following: dict[Place, list[Place]] = {place: [] for place in left}
    last = first
    for place in right:
        if place in following:
            last = following[place]
        else:
            last.append(place)
    return [*first, *(merged for place, others in following.items() for merged in (place, *others))]
