"""How `profile --compare` prints: two profiles side by side, a table for each phase."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

from optimum_htp.cli.views.profile import FIRST_COLUMN, milliseconds
from optimum_htp.cli.views.profile_rows import TimeRow, attribute, profile_rows
from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_table, printable
from optimum_htp.verbs.profile import Microseconds, ModuleTime, PhaseDelta, ProfileDelta


@dataclass(frozen=True, slots=True)
class DeltaRow:
    """One line: a module, class, layer, call or operator in two profiles.

    Attributes:
        label: What it is; of a module in the tree, as its parent knows it.
        whole: Its whole name.
        class_name: The class of the module, where it is one.
        depth: How far to indent it in the tree.
        left: In the first profile; None where it did not run there.
        right: In the second.
    """

    label: str
    whole: str
    class_name: str
    depth: int
    left: ModuleTime | TimeRow | None
    right: ModuleTime | TimeRow | None

    @property
    def difference(self) -> float:
        """By how many microseconds it takes longer in the second profile."""
        return (self.right.total_time.median if self.right else 0.0) - (
            self.left.total_time.median if self.left else 0.0
        )

    def most(self, order: str) -> float:
        """The larger of both sides, of what is sorted by."""
        return max(_measure(side, order) for side in (self.left, self.right) if side is not None)


def delta_rows(
    phase: PhaseDelta, *, by: str = "module", depth: int | None = None, top: int | None = None, sort: str | None = None
) -> tuple[DeltaRow, ...]:
    """The rows of one phase.

    Args:
        phase: The phase.
        by: One of `profile_rows.VIEWS`.
        depth: How many levels of modules below the root; None means all.
        top: How many rows; None means all.
        sort: One of `profile_rows.ORDERS`, by the larger of both sides; None means the tree, and with `top` what
            differs most first.
    """
    rows = list(_modules(phase) if by == "module" else _groups(phase, by))
    if depth is not None:
        rows = [row for row in rows if row.depth <= depth]
    if sort in (None, "tree"):
        if sort is None and top is not None:
            rows.sort(key=lambda row: -abs(row.difference))
    else:
        rows.sort(key=lambda row: -row.most(str(sort)))
    return tuple(rows[:top])


def print_delta(
    delta: ProfileDelta,
    *,
    by: str = "module",
    depth: int | None = None,
    top: int | None = None,
    sort: str | None = None,
    stream: TextIO | None = None,
) -> None:
    """Prints two profiles side by side, a table for each phase; the arguments are those of `delta_rows`."""
    stream = stream or sys.stdout
    columns = (
        Column(FIRST_COLUMN[by], is_path=True), Column("class", spare=1), Column("A ms", True), Column("B ms", True),
        Column("B/A", True), Column("B-A ms", True),
    )  # fmt: skip
    shown = [at for at in range(len(columns)) if at != 1 or by not in ("class", "op")]
    in_tree = by == "module" and top is None and sort in (None, "tree")
    for position, phase in enumerate(delta.phases):
        if position:
            print(file=stream)
        title, *details = _heading(delta, phase)
        print_heading(title, details, stream)
        print(file=stream)
        lines = _lines(delta_rows(phase, by=by, depth=depth, top=top, sort=sort), in_tree=in_tree)
        cut = [Line(tuple(line.cells[at] for at in shown), line.faint) for line in lines]
        print_table([columns[at] for at in shown], cut, stream)
    for name in delta.unpaired:
        print(f"only in one: {printable(name)}", file=stream)


def _measure(side: ModuleTime | TimeRow, order: str) -> float:
    if order == "kernels":
        return side.kernels
    time: Microseconds = side.self_time if order == "self" else side.total_time
    return time.median


def _modules(phase: PhaseDelta) -> Iterator[DeltaRow]:
    for module in phase.modules:
        name = attribute(module.tag)
        yield DeltaRow(name, module.path or name, module.class_name, module.depth, module.left, module.right)
    for row in _groups(phase, "module"):
        if any(isinstance(side, TimeRow) and side.kind == "unattributed" for side in (row.left, row.right)):
            yield row


def _groups(phase: PhaseDelta, by: str) -> Iterator[DeltaRow]:
    sides = [
        {
            (row.kind, row.label, row.calls if by == "call" else ""): row
            for row in profile_rows(side, by=by, sort="tree")
        }
        for side in (phase.left, phase.right)
    ]
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        left, right = (side.get(key) for side in sides)
        known = left or right
        assert known is not None  # every key is from one of them
        label = f"{known.label} call {known.calls}" if by == "call" else known.label
        yield DeltaRow(label, label, known.class_name, known.depth if by == "module" else 0, left, right)


def _heading(delta: ProfileDelta, phase: PhaseDelta) -> Iterator[str]:
    left, right = phase.left.kernel_time.median, phase.right.kernel_time.median
    name = "" if phase.left.phase == "forward" else f"{phase.left.phase}: "
    ratio = f", {right / left:.2f} times as long" if left else ""
    yield f"{name}{milliseconds(left)} ms against {milliseconds(right)} ms in kernels{ratio}"
    for side, report, profiled in (("A", delta.left, phase.left), ("B", delta.right, phase.right)):
        yield f"{side}: {printable(report.package)}, {printable(profiled.file)}, {profiled.attributed:.2%} has a module"


def _lines(rows: Iterable[DeltaRow], *, in_tree: bool) -> Iterator[Line]:
    for row in rows:
        name = "  " * row.depth + printable(row.label) if in_tree else printable(row.whole)
        times = [side.total_time.median if side is not None else None for side in (row.left, row.right)]
        sides = ("-" if time is None else milliseconds(time) for time in times)
        ratio = f"{times[1] / times[0]:.2f}" if times[0] and times[1] is not None else ""
        yield Line((name, printable(row.class_name), *sides, ratio, f"{row.difference / 1000:+.3f}"))
