"""How `profile --reference` prints: two profiles side by side, a table for each phase."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace

from optimum_htp.cli.views.blocks import Block, Column, Note, Row, Table, heading, notes
from optimum_htp.cli.views.profile import FIRST_COLUMN, milliseconds, nothing_by
from optimum_htp.cli.views.profile_rows import (
    TimeRow,
    attribute,
    fold_rows,
    joined_row,
    likeness,
    measure,
    module_row,
    nearness,
    profile_rows,
)
from optimum_htp.verbs.profile import PhaseDelta, ProfileDelta


@dataclass(frozen=True, slots=True)
class _Both:
    """A module, class, layer, call or operator in two profiles; None on the side where it did not run."""

    label: str  # its name below its parent in the tree; out of the tree, all of it
    whole: str  # its name out of the tree
    class_name: str
    depth: int
    left: TimeRow | None
    right: TimeRow | None
    count: int = 1

    @property
    def sides(self) -> tuple[TimeRow | None, TimeRow | None]:
        """In the first profile and in the second."""
        return self.left, self.right

    @property
    def difference(self) -> float:
        """How many microseconds longer it takes in the second profile."""
        left, right = (side.total_time.median if side is not None else 0.0 for side in self.sides)
        return right - left

    def most(self, order: str) -> float:
        """The larger of both sides, of what is sorted by."""
        return max(measure(side, order) for side in self.sides if side is not None)


def delta_page(
    delta: ProfileDelta,
    *,
    by: str = "module",
    depth: int | None = None,
    top: int | None = None,
    sort: str | None = None,
    expand: bool = False,
) -> Iterator[Block]:
    """Two profiles side by side, a table for each phase; the arguments are those of `folded_rows`.

    But rows are sorted by the larger of both sides, and with `top` alone by how much the sides differ.
    """
    with_class = by not in ("class", "op")
    columns = (
        Column(FIRST_COLUMN[by]),
        Column("A ms", number=True),
        Column("B ms", number=True),
        Column("B-A ms", number=True),
        Column("B/A", number=True),
        *((Column("class", spare=1),) if with_class else ()),
    )
    in_tree = by == "module" and top is None and sort in (None, "tree")
    for phase in delta.phases:
        yield heading(_heading(delta, phase))
        rows = [*(_modules(phase) if by == "module" else ()), *_groups(phase, by)]
        rows = [
            row if in_tree else replace(row, label=row.whole, depth=0)
            for row in rows
            if depth is None or row.depth <= depth
        ]
        if by == "module" and not expand:
            rows = _folded(phase, rows, in_tree=in_tree)
        lines = [_row(row, with_class=with_class) for row in _sorted(rows, top=top, sort=sort)]
        yield Table(columns, tuple(lines[:top])) if lines else Note(nothing_by(by))
    yield from notes(f"not compared: {name}" for name in delta.unpaired)


def _folded(phase: PhaseDelta, rows: list[_Both], *, in_tree: bool) -> list[_Both]:
    nears = [nearness(side, in_tree=in_tree) for side in (phase.left, phase.right)]

    def like(row: _Both) -> Hashable:
        kinds = [side and likeness(side) for side in row.sides]
        return None if all(kind is None for kind in kinds) else tuple(kinds)

    def near(one: _Both, other: _Both) -> bool:
        pairs = zip(one.sides, other.sides, nears, strict=True)
        return all(a is b or (a is not None and b is not None and about(a, b)) for a, b, about in pairs)

    found = []
    for group in fold_rows(rows, like=like, near=near, in_tree=in_tree):
        left, right = (_joined(side) for side in zip(*(row.sides for row in group.members), strict=True))
        folded = replace(group.first, label=group.name, depth=group.depth, count=group.count, left=left, right=right)
        found.append(folded)
    return found


def _joined(rows: Iterable[TimeRow | None]) -> TimeRow | None:
    known = [row for row in rows if row is not None]
    return joined_row(known) if known else None


def _sorted(rows: list[_Both], *, top: int | None, sort: str | None) -> list[_Both]:
    if sort not in (None, "tree"):
        return sorted(rows, key=lambda row: -row.most(sort))
    return sorted(rows, key=lambda row: -abs(row.difference)) if sort is None and top is not None else rows


def _modules(phase: PhaseDelta) -> Iterator[_Both]:
    for module in phase.modules:
        name = attribute(module.tag)
        left, right = (None if side is None else module_row(side) for side in (module.left, module.right))
        yield _Both(name, module.path or name, module.class_name, module.depth, left, right)


def _groups(phase: PhaseDelta, by: str) -> Iterator[_Both]:
    """The rows of both profiles, paired by what they are; modules are paired by their tags instead (`_modules`)."""
    left, right = (
        {
            (row.kind, row.label, row.calls if by == "call" else ""): row
            for row in profile_rows(side, by=by, sort="tree")
            if by != "module" or row.kind == "unattributed"
        }
        for side in (phase.left, phase.right)
    )
    for key, row in {**left, **right}.items():
        label = f"{row.label} call {row.calls}" if by == "call" else row.label
        yield _Both(label, label, row.class_name, 0, left.get(key), right.get(key))


def _heading(delta: ProfileDelta, phase: PhaseDelta) -> Iterator[str]:
    left, right = phase.left.kernel_time.median, phase.right.kernel_time.median
    name = "" if phase.left.phase == "forward" else f"{phase.left.phase}: "
    ratio = f", {right / left:.2f} times as long" if left else ""
    yield f"{name}{milliseconds(left)} ms against {milliseconds(right)} ms in kernels{ratio}"
    for side, report, profiled in (("A", delta.left, phase.left), ("B", delta.right, phase.right)):
        yield f"{side}: {report.package}, {profiled.file}, {profiled.attributed:.2%} has a module"


def _row(row: _Both, *, with_class: bool) -> Row:
    left, right = (side.total_time.median if side is not None else None for side in row.sides)
    sides = ("-" if time is None else milliseconds(time) for time in (left, right))
    ratio = f"{right / left:.2f}" if left and right is not None else ""
    class_name = (row.class_name,) if with_class else ()
    return Row((row.label, *sides, f"{row.difference / 1000:+,.3f}", ratio, *class_name), row.depth, count=row.count)
