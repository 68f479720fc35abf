"""How `profile --reference` prints: two profiles side by side, a table for each phase."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from optimum_htp.cli.views.profile import FIRST_COLUMN, milliseconds, print_phase
from optimum_htp.cli.views.profile_rows import TimeRow, attribute, measure, profile_rows
from optimum_htp.cli.views.terminal import Column, Line, print_lines
from optimum_htp.verbs.profile import ModuleTime, PhaseDelta, ProfileDelta


@dataclass(frozen=True, slots=True)
class _Row:
    """A module, class, layer, call or operator in two profiles; None on the side where it did not run."""

    label: str  # its name below its parent in the tree
    whole: str  # its name out of the tree
    class_name: str
    depth: int
    left: ModuleTime | TimeRow | None
    right: ModuleTime | TimeRow | None

    @property
    def difference(self) -> float:
        """How many microseconds longer it takes in the second profile."""
        left, right = (side.total_time.median if side is not None else 0.0 for side in (self.left, self.right))
        return right - left

    def most(self, order: str) -> float:
        """The larger of both sides, of what is sorted by."""
        return max(measure(side, order) for side in (self.left, self.right) if side is not None)


def print_delta(
    delta: ProfileDelta,
    *,
    by: str = "module",
    depth: int | None = None,
    top: int | None = None,
    sort: str | None = None,
) -> None:
    """Prints two profiles side by side, a table for each phase; the arguments are those of `profile_rows`.

    But rows are sorted by the larger of both sides, and with `top` alone by how much the sides differ.
    """
    with_class = by not in ("class", "op")
    columns = (
        Column(FIRST_COLUMN[by], is_path=True),
        *((Column("class", spare=1),) if with_class else ()),
        Column("A ms", True),
        Column("B ms", True),
        Column("B/A", True),
        Column("B-A ms", True),
    )
    in_tree = by == "module" and top is None and sort in (None, "tree")
    for index, phase in enumerate(delta.phases):
        rows = _sorted([*(_modules(phase) if by == "module" else ()), *_groups(phase, by)], top=top, sort=sort)
        lines = [
            _line(row, in_tree=in_tree, with_class=with_class) for row in rows if depth is None or row.depth <= depth
        ]
        print_phase(index, _heading(delta, phase), columns, lines[:top])
    print_lines(*(f"not compared: {name}" for name in delta.unpaired))


def _sorted(rows: list[_Row], *, top: int | None, sort: str | None) -> list[_Row]:
    if sort not in (None, "tree"):
        return sorted(rows, key=lambda row: -row.most(sort))
    return sorted(rows, key=lambda row: -abs(row.difference)) if sort is None and top is not None else rows


def _modules(phase: PhaseDelta) -> Iterator[_Row]:
    for module in phase.modules:
        name = attribute(module.tag)
        yield _Row(name, module.path or name, module.class_name, module.depth, module.left, module.right)


def _groups(phase: PhaseDelta, by: str) -> Iterator[_Row]:
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
        yield _Row(label, label, row.class_name, 0, left.get(key), right.get(key))


def _heading(delta: ProfileDelta, phase: PhaseDelta) -> Iterator[str]:
    left, right = phase.left.kernel_time.median, phase.right.kernel_time.median
    name = "" if phase.left.phase == "forward" else f"{phase.left.phase}: "
    ratio = f", {right / left:.2f} times as long" if left else ""
    yield f"{name}{milliseconds(left)} ms against {milliseconds(right)} ms in kernels{ratio}"
    for side, report, profiled in (("A", delta.left, phase.left), ("B", delta.right, phase.right)):
        yield f"{side}: {report.package}, {profiled.file}, {profiled.attributed:.2%} has a module"


def _line(row: _Row, *, in_tree: bool, with_class: bool) -> Line:
    name = "  " * row.depth + row.label if in_tree else row.whole
    left, right = (side.total_time.median if side is not None else None for side in (row.left, row.right))
    sides = ("-" if time is None else milliseconds(time) for time in (left, right))
    ratio = f"{right / left:.2f}" if left and right is not None else ""
    class_name = (row.class_name,) if with_class else ()
    return Line((name, *class_name, *sides, ratio, f"{row.difference / 1000:+.3f}"))
