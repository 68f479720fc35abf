"""How the comparison of two packages is shown: a table of the modules that differ."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_table, printable, short_count
from optimum_htp.verbs.diff import Change, DiffReport, FileDiff, ModuleDiff, ModuleSide


_COLUMNS = (
    Column("module", is_path=True),
    Column("class"),
    Column("before", True),
    Column("after", True),
    Column("change", True),
    Column("what", wraps=True),
)


@dataclass(frozen=True, slots=True)
class _Row:
    """Modules that differ in the same way, such as those of all layers.

    Attributes:
        parts: The names in their path; for those of several, the numbers as ranges.
        like: One of them.
        count: How many they are.
    """

    parts: tuple[str, ...] | None
    like: ModuleDiff
    count: int = 1


def print_diff(report: DiffReport, *, stream: TextIO | None = None) -> None:
    """Prints what differs: for each file the figures of the whole, and a table of the modules that differ.

    Args:
        report: The comparison.
        stream: Where to print; None means standard output.
    """
    stream = stream or sys.stdout
    print_heading(f"{printable(report.before)} -> {printable(report.after)}", (), stream)
    for side, names in (("first", report.only_before), ("second", report.only_after)):
        for name in names:
            print(f"{printable(name)}: only in the {side}", file=stream)
    for file in report.files:
        print(file=stream)
        title, *details = _heading(file)
        print_heading(title, details, stream)
        if file.changed_modules:
            print(file=stream)
            print_table(_COLUMNS, [*map(_line, _rows(file.changed_modules)), _total(file)], stream)


def _heading(file: FileDiff) -> Iterator[str]:
    names = (
        printable(file.before) if file.before == file.after else f"{printable(file.before)} -> {printable(file.after)}"
    )
    if not file.changed:
        yield f"{names}: the same {file.nodes[0]:,} nodes, module by module"
        return
    yield f"{names}: {file.nodes[0]:,} -> {file.nodes[1]:,} nodes"
    yield from _versions(file)
    for change in file.values:
        yield _change(change, "")
    for change in file.stored_elements:
        yield _change(change, "stored elements of ")
    changed = len(file.changed_modules)
    same = len(file.modules) - changed
    if changed:
        yield f"{changed:,} {'module differs' if changed == 1 else 'modules differ'}, {same:,} with nodes do not"
    else:
        yield f"all {same:,} modules with nodes have the same nodes"
    if not changed and not file.same_wiring:
        yield "the nodes are connected differently, or stand in another order"


def _versions(file: FileDiff) -> Iterator[str]:
    """The opsets that both have, one on a line, and all that one side has only on another."""
    for change in file.versions:
        if change.before is not None and change.after is not None:
            yield _change(change, "" if change.name == "ir_version" else "opset ")
    before = [f"{printable(change.name)} {change.before}" for change in file.versions if change.after is None]
    after = [f"{printable(change.name)} {change.after}" for change in file.versions if change.before is None]
    for side, names in (("first", before), ("second", after)):
        if names:
            yield f"opsets only in the {side}: {', '.join(names)}"


def _change(change: Change, prefix: str) -> str:
    return f"{prefix}{printable(change.name)}: {_value(change.before)} -> {_value(change.after)}"


def _value(value: int | str | None) -> str:
    return "none" if value is None else printable(value) if isinstance(value, str) else f"{value:,}"


def _rows(modules: Sequence[ModuleDiff]) -> list[_Row]:
    """The modules that differ, those together whose paths differ in one number and that changed alike."""
    rows = [_Row(None if module.path is None else tuple(module.path.split(".")), module) for module in modules]
    deepest = max((sum(map(_is_number, row.parts or ())) for row in rows), default=0)
    for which in range(deepest):
        groups: dict[Any, list[_Row]] = {}
        for position, row in enumerate(rows):
            numbers = [at for at, name in enumerate(row.parts or ()) if name[:1].isdigit()]
            at = numbers[which] if which < len(numbers) else None
            alike: Any = (position,)
            if row.parts is not None and at is not None and _is_number(row.parts[at]):
                alike = row.parts[:at], row.parts[at + 1 :], row.count, _changes_of(row.like)
            groups.setdefault(alike, []).append(row)
        rows = [_joined(group, which) for group in groups.values()]
    return rows


def _joined(rows: Sequence[_Row], which: int) -> _Row:
    first = rows[0]
    if len(rows) == 1 or first.parts is None:
        return first
    at = [at for at, name in enumerate(first.parts) if name[:1].isdigit()][which]
    numbers = sorted(int(row.parts[at]) for row in rows if row.parts is not None)
    parts = (*first.parts[:at], _ranges(numbers), *first.parts[at + 1 :])
    return _Row(parts, first.like, first.count * len(rows))


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in ascending order as people write them.

    >>> _ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _changes_of(module: ModuleDiff) -> object:
    """All that a line says of a module but its name."""
    sides = (
        None if side is None else (side.class_name, side.nodes, side.parameters, side.calls)
        for side in (module.before, module.after)
    )
    return (*sides, module.operators)


def _line(row: _Row) -> Line:
    left, right = row.like.before, row.like.after
    name = "(unresolved)" if row.parts is None else printable(".".join(row.parts)) or "(root)"
    before, after = (side.nodes * row.count if side is not None else 0 for side in (left, right))
    classes = dict.fromkeys(printable(side.class_name) for side in (left, right) if side is not None)
    return Line(
        (
            name if row.count == 1 else f"{name} ({row.count})",
            " -> ".join(classes),
            "-" if left is None else f"{before:,}",
            "-" if right is None else f"{after:,}",
            f"{after - before:+,}" if after != before else "",
            "; ".join(_what(row)),
        )
    )


def _what(row: _Row) -> Iterator[str]:
    left, right = row.like.before, row.like.after
    if row.like.path is not None and (left is None or right is None):
        yield "only in the second" if left is None else "only in the first"
    if left is not None and right is not None:
        yield from (f"{fact}{' each' if row.count > 1 else ''}" for fact in _facts(left, right))
    if row.like.operators:
        yield ", ".join(_operator(change, row.count) for change in row.like.operators)


def _facts(left: ModuleSide, right: ModuleSide) -> Iterator[str]:
    if left.parameters is not None and right.parameters is not None and left.parameters != right.parameters:
        yield f"parameters {short_count(left.parameters)} -> {short_count(right.parameters)}"
    if left.calls is not None and right.calls is not None and left.calls != right.calls:
        yield f"calls {left.calls:,} -> {right.calls:,}"


def _operator(change: Change, count: int) -> str:
    before, after = (value if isinstance(value, int) else 0 for value in (change.before, change.after))
    return f"{(after - before) * count:+,} {printable(change.name)}"


def _total(file: FileDiff) -> Line:
    """The sums of the figures above: what the modules that are not listed have is the same on both sides."""
    before, after = (
        sum(side.nodes for side in sides if side is not None)
        for sides in zip(*((module.before, module.after) for module in file.changed_modules), strict=True)
    )
    return Line(
        ("total", "", f"{before:,}", f"{after:,}", f"{after - before:+,}" if after != before else "", ""), True
    )
