"""How the comparison of two packages is shown: a table of the modules that differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_lines, print_table, short_count
from optimum_htp.onnxfile import element_type
from optimum_htp.verbs.diff import Change, ContentChange, DiffReport, FileDiff, ModuleDiff, ModuleSide

_COLUMNS = (
    Column("module", is_path=True),
    Column("class"),
    Column("before", True),
    Column("after", True),
    Column("change", True),
    Column("what", wraps=True),
)
_MOST_CONTENTS = 4
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
_NUMBER = re.compile("0|[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class _Row:
    """Modules that differ in the same way, such as those of all layers: how many, and one of them (`like`)."""

    parts: tuple[str, ...] | None  # the names in their path, ranges for the numbers of several; None: unresolved nodes
    like: ModuleDiff
    count: int = 1


def print_diff(report: DiffReport) -> None:
    """Prints for each file the figures of the whole, and a table of the modules that differ."""
    print_heading(f"{report.before} -> {report.after}")
    for side, names in (("first", report.only_before), ("second", report.only_after)):
        print_lines(*(f"{name}: only in the {side}" for name in names))
    print_lines(*(f"{name}: not compared: {reason}" for name, reason in report.not_compared.items()))
    for file in report.files:
        print()
        print_heading(*_heading(file))
        if file.changed_modules:
            print()
            print_table(_COLUMNS, [*map(_line, _rows(file.changed_modules)), _total(file)])
    if report.files:
        print()
        print_heading(_compared(report))


def _heading(file: FileDiff) -> Iterator[str]:
    names = file.before if file.before == file.after else f"{file.before} -> {file.after}"
    if not file.changed:
        values = ", constants and weights" if file.compared.weights else " and constants"
        yield f"{names}: the same {file.nodes[0]:,} nodes, module by module, with the same attributes{values}"
        return
    yield f"{names}: {file.nodes[0]:,} -> {file.nodes[1]:,} nodes"
    yield from _versions(file)
    yield from (_change(change) for change in file.values)
    yield from (_change(change, "stored elements of ") for change in file.stored_elements)
    yield from (_change(change) for change in file.functions)
    changed = len(file.changed_modules)
    same = len(file.modules) - changed
    if changed:
        yield f"{changed:,} {'module differs' if changed == 1 else 'modules differ'}, {same:,} with nodes do not"
    else:
        yield f"all {same:,} modules with nodes have the same nodes"
        if not file.same_wiring:
            yield "the nodes are connected differently, or stand in another order"


def _compared(report: DiffReport) -> str:
    """What was held against each other, and what was not: a package is the same only as far as somebody looked."""
    sums = [file.compared for file in report.files]
    read, left = sum(each.weights for each in sums), sum(each.types_only for each in sums)
    alone = [sum(each.alone[side] for each in sums) for side in (0, 1)]
    values = [f"the values of {_counted(read, 'weight')}"] if read else []
    parts = [
        "nodes and connections",
        "inputs and outputs",
        "opsets",
        "attributes",
        "constants",
        "types of weights",
        *values,
    ]
    apart = ["names", "descriptions", "metadata"]
    if any(alone):
        apart.insert(0, f"what {alone[0]:,} nodes before and {alone[1]:,} after say, which have no counterpart")
    if left and not report.weights:
        apart.insert(0, f"the values of {_counted(left, 'weight')} (--weights compares them)")
    return f"compared: {', '.join(parts)}; not compared: {', '.join(apart)}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _versions(file: FileDiff) -> Iterator[str]:
    """The opsets that both have, one on a line, and all that one side has only on another."""
    for change in file.versions:
        if None not in (change.before, change.after):
            yield _change(change, "" if change.name == "ir_version" else "opset ")
    before = [f"{change.name} {change.before}" for change in file.versions if change.after is None]
    after = [f"{change.name} {change.after}" for change in file.versions if change.before is None]
    for side, names in (("first", before), ("second", after)):
        if names:
            yield f"opsets only in the {side}: {', '.join(names)}"


def _change(change: Change, prefix: str = "") -> str:
    before, after = (
        "none" if value is None else value if isinstance(value, str) else f"{value:,}"
        for value in (change.before, change.after)
    )
    return f"{prefix}{change.name}: {before} -> {after}"


def _rows(modules: Iterable[ModuleDiff]) -> list[_Row]:
    """The modules that differ, those together whose paths differ in numbers only and that changed alike.

    Numbers are taken from left to right: `layer.0.act`, `layer.1.act` and `layer.2.act` become `layer.0-2.act`.
    """
    rows = [_Row(None if module.path is None else tuple(module.path.split(".")), module) for module in modules]
    for index in range(max((len(row.parts or ()) for row in rows), default=0)):
        groups: dict[object, list[_Row]] = {}
        for row in rows:
            groups.setdefault(_likeness(row, index), []).append(row)
        rows = [_joined(group, index) for group in groups.values()]
    return rows


def _likeness(row: _Row, index: int) -> object:
    """What rows have in common that differ in the number at an index of their paths only."""
    if row.parts is None or index >= len(row.parts) or not _NUMBER.fullmatch(row.parts[index]):
        return object()  # like no other
    module = row.like
    sides = (
        side and (side.class_name, side.nodes, side.parameters, side.calls) for side in (module.before, module.after)
    )
    contents = tuple(_without_values(change) for change in module.contents)
    return row.parts[:index], row.parts[index + 1 :], row.count, *sides, module.operators, contents


def _without_values(change: ContentChange) -> ContentChange:
    """A change as it is in other layers too, where other weights have other values, under other names."""
    if change.kind not in ("weight_values", "weight_type"):
        return replace(change, tensors=())
    before, after = (text and text.partition(" sha256")[0] for text in (change.before, change.after))
    if change.kind == "weight_values":
        before = after = None
    return replace(change, before=before, after=after, tensors=tuple("" for _ in change.tensors))


def _joined(rows: Sequence[_Row], index: int) -> _Row:
    first = rows[0]
    if len(rows) == 1 or first.parts is None:
        return first
    numbers = sorted(int(row.parts[index]) for row in rows if row.parts is not None)
    parts = (*first.parts[:index], _ranges(numbers), *first.parts[index + 1 :])
    return _Row(parts, first.like, first.count * len(rows))


def _ranges(numbers: Iterable[int]) -> str:
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


def _line(row: _Row) -> Line:
    sides = (row.like.before, row.like.after)
    name = "(unresolved)" if row.parts is None else ".".join(row.parts) or "(root)"
    if row.count > 1:
        name += f" ({row.count})"
    classes = " -> ".join(dict.fromkeys(side.class_name for side in sides if side is not None))
    before, after = (None if side is None else side.nodes * row.count for side in sides)
    return Line((name, classes, *_figures(before, after), "; ".join(_what(row))))


def _figures(before: int | None, after: int | None) -> tuple[str, str, str]:
    """Nodes before and after, and the change."""
    change = (after or 0) - (before or 0)
    left, right = ("-" if nodes is None else f"{nodes:,}" for nodes in (before, after))
    return left, right, f"{change:+,}" if change else ""


def _what(row: _Row) -> Iterator[str]:
    module = row.like
    left, right = module.before, module.after
    if left is not None and right is not None:
        yield from (f"{fact}{' each' if row.count > 1 else ''}" for fact in _facts(left, right))
    elif module.path is not None:
        yield "only in the second" if left is None else "only in the first"
    if module.operators:
        yield ", ".join(_operator(change, row.count) for change in module.operators)
    said = list(dict.fromkeys(_contents(module.contents, row.count)))
    yield from said[:_MOST_CONTENTS]
    if len(said) > _MOST_CONTENTS:
        yield f"{len(said) - _MOST_CONTENTS} more (--json lists them)"


def _contents(changed: Sequence[ContentChange], count: int) -> Iterator[str]:
    """What nodes say differently; weights that have other values in one."""
    for change in changed:
        if change.kind != "weight_values":
            times = f" ({change.nodes * count:,} nodes)" if change.nodes * count > 1 else ""
            yield f"{_content(change)}{times}"
    weights = dict.fromkeys(name for change in changed if change.kind == "weight_values" for name in change.tensors)
    if weights:
        only = next(iter(weights)) if len(weights) * count == 1 else f"{len(weights) * count:,} weights"
        yield f"other values in {only}"


def _content(change: ContentChange) -> str:
    if change.kind == "weight":
        return f"{change.operator} reads {change.after} for {change.before}"
    if change.kind == "weight_type":
        change = _without_values(change)
    before, after = (_spelled(change, text) for text in (change.before, change.after))
    return f"{f'{change.operator} {change.name}'.lstrip()}: {before} -> {after}"


def _facts(left: ModuleSide, right: ModuleSide) -> Iterator[str]:
    if left.parameters is not None and right.parameters is not None and left.parameters != right.parameters:
        yield f"parameters {short_count(left.parameters)} -> {short_count(right.parameters)}"
    if left.calls is not None and right.calls is not None and left.calls != right.calls:
        yield f"calls {left.calls:,} -> {right.calls:,}"


def _operator(change: Change, count: int) -> str:
    before, after = (value if isinstance(value, int) else 0 for value in (change.before, change.after))
    return f"{(after - before) * count:+,} {change.name}"


def _spelled(change: ContentChange, text: str | None) -> str:
    if text is None:
        return "not given"
    names_type = change.kind == "attribute" and change.name in _TYPE_ATTRIBUTES and _NUMBER.fullmatch(text)
    return element_type(int(text)).name if names_type else text


def _total(file: FileDiff) -> Line:
    """The sums of the figures above: what the modules that are not listed have is the same on both sides."""
    before = sum(module.before.nodes for module in file.changed_modules if module.before is not None)
    after = sum(module.after.nodes for module in file.changed_modules if module.after is not None)
    return Line(("total", "", *_figures(before, after), ""), faint=True)
