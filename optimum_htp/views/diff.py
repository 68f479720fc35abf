"""How the comparison of two packages is shown: a table of the modules that differ, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, TextIO

from optimum_htp.diffing import Change, DiffReport, FileDiff, ModuleDiff, ModuleSide
from optimum_htp.views.terminal import Column, Line, print_heading, print_table, printable, short_count


_COLUMNS = (
    Column("module"),
    Column("class"),
    Column("before", True),
    Column("after", True),
    Column("change", True),
    Column("what"),
)


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
            print_table(_COLUMNS, [*map(_line, file.changed_modules), _total(file)], stream)


def diff_document(report: DiffReport) -> dict[str, Any]:
    """The comparison as a JSON document; of the modules, those that differ."""
    return {
        "before": report.before,
        "after": report.after,
        "changed": report.changed,
        "only_before": list(report.only_before),
        "only_after": list(report.only_after),
        "files": [_file_document(file) for file in report.files],
    }


def print_diff_json(report: DiffReport, *, stream: TextIO | None = None) -> None:
    """Prints the comparison as JSON.

    Args:
        report: The comparison.
        stream: Where to print; None means standard output.
    """
    print(json.dumps(diff_document(report), indent=2), file=stream or sys.stdout)


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
    for change in file.stored:
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


def _line(module: ModuleDiff) -> Line:
    left, right = module.before, module.after
    name = "(unresolved)" if module.path is None else printable(module.path) or "(root)"
    before, after = (side.nodes if side is not None else 0 for side in (left, right))
    classes = dict.fromkeys(printable(side.class_name) for side in (left, right) if side is not None)
    return Line(
        (
            name,
            " -> ".join(classes),
            "-" if left is None else f"{before:,}",
            "-" if right is None else f"{after:,}",
            f"{after - before:+,}" if after != before else "",
            "; ".join(_what(module)),
        )
    )


def _what(module: ModuleDiff) -> Iterator[str]:
    left, right = module.before, module.after
    if module.path is not None and (left is None or right is None):
        yield "only in the second" if left is None else "only in the first"
    if left is not None and right is not None:
        yield from _facts(left, right)
    if module.operators:
        yield ", ".join(_operator(change) for change in module.operators)


def _facts(left: ModuleSide, right: ModuleSide) -> Iterator[str]:
    if left.parameters is not None and right.parameters is not None and left.parameters != right.parameters:
        yield f"parameters {short_count(left.parameters)} -> {short_count(right.parameters)}"
    if left.calls is not None and right.calls is not None and left.calls != right.calls:
        yield f"calls {left.calls:,} -> {right.calls:,}"


def _operator(change: Change) -> str:
    before, after = (value if isinstance(value, int) else 0 for value in (change.before, change.after))
    return f"{after - before:+,} {printable(change.name)}"


def _total(file: FileDiff) -> Line:
    """The sums of the figures above: what the modules that are not listed have is the same on both sides."""
    before, after = (
        sum(side.nodes for side in sides if side is not None)
        for sides in zip(*((module.before, module.after) for module in file.changed_modules), strict=True)
    )
    return Line(
        ("total", "", f"{before:,}", f"{after:,}", f"{after - before:+,}" if after != before else "", ""), True
    )


def _file_document(file: FileDiff) -> dict[str, Any]:
    return {
        "before": file.before,
        "after": file.after,
        "changed": file.changed,
        "nodes": {"before": file.nodes[0], "after": file.nodes[1]},
        "versions": [asdict(change) for change in file.versions],
        "values": [asdict(change) for change in file.values],
        "stored_elements": [asdict(change) for change in file.stored],
        "operators": [asdict(change) for change in file.operators],
        "same_wiring": file.same_wiring,
        "modules_compared": len(file.modules),
        "modules": [_module_document(module) for module in file.changed_modules],
    }


def _module_document(module: ModuleDiff) -> dict[str, Any]:
    return {
        "path": module.path,
        "before": _side_document(module.before),
        "after": _side_document(module.after),
        "operators": [asdict(change) for change in module.operators],
    }


def _side_document(side: ModuleSide | None) -> dict[str, Any] | None:
    if side is None:
        return None
    return {
        "class": side.class_name,
        "tag": side.tag,
        "calls": side.calls,
        "parameters": side.parameters,
        "nodes": side.nodes,
        "operators": dict(side.operators),
    }
