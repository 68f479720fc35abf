"""How `profile --reference` prints: two profiles side by side, a table for each phase."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from optimum_htp.cli.views.blocks import Block, Column, Note, Row, Table, heading, notes
from optimum_htp.cli.views.profile import FIRST_COLUMN, amount, nothing_by, ran_in
from optimum_htp.cli.views.profile_columns import FIGURES, NOTHING, Figure, expanded, milliseconds, providers
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
from optimum_htp.verbs.profile import PhaseDelta, PhaseProfile, ProfileDelta


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
    columns: Sequence[str] | None = None,
) -> Iterator[Block]:
    """Two profiles side by side, a table for each phase; the arguments are those of `profile_page`.

    But rows are sorted by the larger of both sides, and with `top` alone by how much the sides differ.
    """
    with_class = by not in ("class", "op")
    names = ("total", "class") if columns is None else expanded(columns, by=by)
    figures = [FIGURES[name] for name in names if name in FIGURES]
    titles = (
        Column(FIRST_COLUMN[by]),
        *(column for figure in figures for column in _columns(figure)),
        *((Column("class", spare=1),) if with_class and (columns is None or "class" in names) else ()),
        *((Column("A on"), Column("B on")) if "provider" in names else ()),
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
        lines = [_row(row, figures, names, with_class=with_class) for row in _sorted(rows, top=top, sort=sort)]
        yield Table(titles, tuple(lines[:top])) if lines else Note(nothing_by(by))
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
    differ = ran_in(delta.left) != ran_in(delta.right)
    for side, report, profiled in (("A", delta.left, phase.left), ("B", delta.right, phase.right)):
        what = f"{report.package}, {profiled.file}"
        if differ:
            runs = f"{report.average} of {report.runs:,} runs"
            what += f", {ran_in(report)} ({runs})"
        yield f"{side}: {what}, {profiled.attributed:.2%} has a module{_work(profiled)}"
    if differ:
        yield from dict.fromkeys((*delta.left.notes, *delta.right.notes))


def _work(phase: PhaseProfile) -> str:
    """The memory and the operations of one side, as far as they are known."""
    peak, flops = phase.work.peak_bytes, phase.work.flops
    memory = "" if peak is None else f"; at most {amount(peak, 'B')} in the arena"
    return memory + ("" if flops is None else f"; {amount(flops, 'FLOP')}")


def _columns(figure: Figure) -> Iterator[Column]:
    unit = figure.title.removeprefix("total ")
    yield from (Column(f"{side} {unit}", number=True) for side in ("A", "B", "B-A"))
    yield Column("B/A", number=True)


def _row(row: _Both, figures: Sequence[Figure], names: Sequence[str], *, with_class: bool) -> Row:
    cells = [cell for figure in figures for cell in _cells(row, figure)]
    if with_class and "class" in names:
        cells.append(row.class_name)
    if "provider" in names:
        cells += [NOTHING if side is None else providers(side) for side in row.sides]
    return Row((row.label, *cells), row.depth, count=row.count)


def _cells(row: _Both, figure: Figure) -> Iterator[str]:
    """A figure on both sides, how much more it is on the second, and how many times as much."""
    left, right = (None if side is None else figure.value(side) for side in row.sides)
    yield from (NOTHING if value is None else figure.text(value) for value in (left, right))
    # What did not run takes no time; nobody knows its memory.
    known = [
        0.0 if side is None and figure.is_time else value for side, value in zip(row.sides, (left, right), strict=True)
    ]
    before, after = known
    if before is None or after is None:
        yield NOTHING
    else:
        text = figure.text(abs(after - before))
        yield f"{'-' if after < before else '+'}{text.lstrip('+')}"
    yield f"{right / left:.2f}" if left and right is not None else ""
