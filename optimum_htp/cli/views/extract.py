"""What an extraction says when it is done."""

from __future__ import annotations

import sys
from typing import TextIO

from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_table, printable
from optimum_htp.onnxfile import Value, element_type
from optimum_htp.verbs.extract import ExtractReport


def print_extract(report: ExtractReport, *, stream: TextIO | None = None) -> None:
    """Prints what was cut out, and its inputs and outputs."""
    stream = stream or sys.stdout
    print_heading(
        f"Wrote {printable(report.output)}: {printable(_modules(report))}", map(printable, _details(report)), stream
    )
    columns = (Column(""), Column("tensor", is_path=True), Column("type"), Column("shape", wraps=True))
    sides = (("input", report.inputs), ("output", report.outputs))
    print_table(columns, [Line((side, *_cells(value))) for side, values in sides for value in values], stream)


def _modules(report: ExtractReport) -> str:
    names = [name or "the whole model" for name in report.modules]
    text = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    return text + (f", call {report.call}" if report.call is not None else "")


def _details(report: ExtractReport) -> list[str]:
    where = f"{report.file}, {report.graph}" if report.graph else report.file
    outside = ", in a file of external data" if report.external_data else ""
    details = [
        f"from {report.package}: {where}",
        f"{report.nodes:,} nodes of its own, {report.constants:,} constants, {report.initializers:,} initializers "
        f"({report.weight_bytes:,} bytes{outside})",
    ]
    if report.shared:
        details.append(f"copied along, because it shares them with other modules: {', '.join(report.shared)}")
    if report.folded:
        details.append(f"its convolutions have what follows them folded in: {', '.join(report.folded)}")
    return details


def _cells(value: Value) -> tuple[str, str, str]:
    axes = "?" if value.shape is None else ", ".join("?" if size is None else str(size) for size in value.shape)
    return printable(value.name), element_type(value.elem_type).name, printable(f"[{axes}]")
