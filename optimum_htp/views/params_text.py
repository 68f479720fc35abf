"""The parameters of a package, as text and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, TextIO

from optimum_htp.views.terminal import Column, Line, print_heading, print_table, printable


if TYPE_CHECKING:
    from optimum_htp.parameter_map import ParameterReport, ParameterRow


_SHOWN_NAMES = 3


def print_params(report: ParameterReport, *, stream: TextIO | None = None) -> None:
    """Prints a line for each stored tensor: its name, shape, parameters, and what was done to them.

    Args:
        report: What was found.
        stream: Where to print; None means standard output.
    """
    stream = stream or sys.stdout
    columns = (Column("initializer"), Column("shape"), Column("parameter"), Column("change"))
    for file, listed in groupby(report.rows, key=lambda row: row.file):
        rows = list(listed)
        print_heading(f"{printable(file)}: {_counts(rows)}", (), stream)
        print_table(columns, map(_line, rows), stream)
    renamed = sum(row.new_name is not None for row in report.rows)
    if renamed:
        print(
            f"renamed: {renamed:,}; the old names are in the sidecar (optimum-cli htp strip gives them back)",
            file=stream,
        )
    elif report.saved:
        print("the map is in the sidecar", file=stream)


def print_params_json(report: ParameterReport, *, stream: TextIO | None = None) -> None:
    """Prints the report as JSON."""
    json.dump({**asdict(report), "counts": report.counts}, stream or sys.stdout, indent=2)
    print(file=stream or sys.stdout)


def _counts(rows: list[ParameterRow]) -> str:
    anonymous = [row for row in rows if row.anonymous]
    named = sum(row.kind == "parameter" for row in anonymous)
    kinds = (f"{sum(row.kind == kind for row in rows):,} {word}" for kind, word in _KINDS)
    return (
        f"{len(rows):,} initializers: {', '.join(kinds)}; {named:,} of {len(anonymous):,} without a parameter's name"
    )


_KINDS = (("parameter", "of parameters"), ("constant", "constant"), ("unknown", "unknown"))


def _line(row: ParameterRow) -> Line:
    name = printable(row.name) if row.new_name is None else f"{printable(row.name)} -> {printable(row.new_name)}"
    shape = "×".join(map(str, row.shape)) or "scalar"
    return Line((name, shape, printable(_parameters(row)), ", ".join(_changes(row))), row.kind != "parameter")


def _parameters(row: ParameterRow) -> str:
    if not row.parameters:
        return f"({row.kind})"
    joined = " + ".join(row.parameters)
    if row.duplicates:
        more = len(row.duplicates) - _SHOWN_NAMES
        joined += f" (also {', '.join(row.duplicates[:_SHOWN_NAMES])}{f' and {more} more' if more > 0 else ''})"
    return joined


def _changes(row: ParameterRow) -> Iterator[str]:
    for change in row.changes:
        if change == "folded":
            yield "folded with a batch norm"
        elif change == "quantized":
            zero = f", zero point {printable(row.zero_point)}" if row.zero_point is not None else ""
            yield f"quantized (scale {printable(' * '.join(row.scale))}{zero})"
        elif change in ("scale", "zero_point"):
            yield f"its {change.replace('_', ' ')}"
        else:
            yield change
