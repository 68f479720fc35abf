"""Rows that say the same of each of several layers become one: `encoder.layer.0-5`, which `select` takes as a pattern.

What differs among them stays apart. The figures of a folded row are those of all its members together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

_T = TypeVar("_T")
_Named: TypeAlias = tuple[tuple[str, ...], tuple[_T, ...]]  # the parts of a name, and the rows that have it
_DEEPEST = 64  # parts of a name in which numbers are looked for: no model has as many
_GROUPS = 16  # groups of rows that differ in their figures only, to which a row may yet belong
_NUMBER = re.compile("0|[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Folded(Generic[_T]):
    """Some rows that became one.

    Attributes:
        name: Their name, with ranges for the numbers in which theirs differ.
        members: The rows.
        count: How many were folded here; below a row that was folded, what is folded with it does not count again.
        depth: In a tree, how many rows it is below.
    """

    name: str
    members: tuple[_T, ...]
    count: int = 1
    depth: int = 0

    @property
    def first(self) -> _T:
        """The first of them."""
        return self.members[0]


def unfolded(
    rows: Iterable[_T], name: Callable[[_T], str], depth: Callable[[_T], int] = lambda _: 0
) -> list[Folded[_T]]:
    """Each row by itself."""
    return [Folded(name(row), (row,), depth=depth(row)) for row in rows]


def fold(
    rows: Iterable[_T],
    *,
    name: Callable[[_T], str],
    like: Callable[[_T], Hashable],
    near: Callable[[_T, _T], bool] = lambda _, __: True,
) -> list[Folded[_T]]:
    """Folds rows whose dotted names differ in numbers only, and that are alike.

    Numbers are taken from left to right: `layer.0.act`, `layer.1.act` and `layer.2.act` become `layer.0-2.act`. A folded
    row stands where the first of its members stood.

    Args:
        rows: The rows.
        name: The dotted name of a row.
        like: What rows that are folded have in common; None for a row that is never folded.
        near: Whether a row, the second, may be folded with another, the first of them: for figures that are measured.
    """
    folded: list[_Named[_T]] = [(tuple(name(row).split(".")), (row,)) for row in rows]
    for index in range(min(max((len(parts) for parts, _ in folded), default=0), _DEEPEST)):
        if sum(index < len(parts) and parts[index][:1].isdecimal() for parts, _ in folded) < 2:
            continue  # fewer than two numbers here: nothing to fold
        groups: dict[object, list[list[_Named[_T]]]] = {}
        order: list[list[_Named[_T]]] = []
        for parts, members in folded:
            alike = like(members[0])
            key: object = object()  # like no other
            if index < len(parts) and _NUMBER.fullmatch(parts[index]) and alike is not None:
                key = parts[:index], parts[index + 1 :], len(members), alike
            same = groups.setdefault(key, [])
            near_groups = (group for group in same[-_GROUPS:] if all(near(group[0][1][0], row) for row in members))
            group = next(near_groups, None)
            if group is None:
                group = []
                same.append(group)
                order.append(group)
            group.append((parts, members))
        folded = [_joined(group, index) for group in order]
    return [Folded(".".join(parts), members, len(members)) for parts, members in folded]


def fold_tree(
    rows: Sequence[_T],
    *,
    depth: Callable[[_T], int],
    name: Callable[[_T], str],
    like: Callable[[_T], Hashable],
    near: Callable[[_T, _T], bool] = lambda _, __: True,
) -> list[Folded[_T]]:
    """Folds rows of a tree, each before those below it, together with all that is below them: whole layers.

    The arguments are as for `fold`; a row's name is that below its parent.
    """
    sizes, kinds = [1] * len(rows), [0] * len(rows)  # of each row with all below it; kinds have numbers
    numbers: dict[Hashable, int] = {}
    below: list[list[int]] = [[] for _ in rows]
    path: list[int] = []
    for index, row in enumerate(rows):
        del path[depth(row) :]
        if path:
            below[path[-1]].append(index)
        path.append(index)
    for index in reversed(range(len(rows))):
        sizes[index] += sum(sizes[child] for child in below[index])
        parts = tuple((name(rows[child]), kinds[child]) for child in below[index])
        kinds[index] = numbers.setdefault((like(rows[index]), parts), len(numbers))

    def all_near(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        size = sizes[one[0]]
        return all(near(rows[one[0] + step], rows[start + step]) for start in other for step in range(size))

    # Branches that were folded are known by where each of them starts: what is below them is at the same distances.
    def folded(branches: Sequence[tuple[int, ...]]) -> Iterator[Folded[tuple[int, ...]]]:
        def kind(branch: tuple[int, ...]) -> Hashable:
            return None if like(rows[branch[0]]) is None else kinds[branch[0]]

        return iter(fold(branches, name=lambda branch: name(rows[branch[0]]), like=kind, near=all_near))

    found: list[Folded[_T]] = []
    tops = [index for index, row in enumerate(rows) if not depth(row)]
    stack = [folded([(index,) for index in tops])]
    while stack:
        group = next(stack[-1], None)
        if group is None:
            stack.pop()
            continue
        starts = [start for branch in group.members for start in branch]
        found.append(Folded(group.name, tuple(rows[start] for start in starts), group.count, len(stack) - 1))
        steps = [child - starts[0] for child in below[starts[0]]]
        stack.append(folded([tuple(start + step for start in starts) for step in steps]))
    return found


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as people write them.

    >>> ranges([0, 1, 2, 8, 7, 5])
    '0-2,5,7-8'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _joined(group: Sequence[_Named[_T]], index: int) -> _Named[_T]:
    parts, members = group[0]
    if len(group) == 1:
        return parts, members
    numbers = ranges(int(parts[index]) for parts, _ in group)
    return (*parts[:index], numbers, *parts[index + 1 :]), tuple(row for _, members in group for row in members)
