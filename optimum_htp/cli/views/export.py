"""What an export says when it is done."""

from __future__ import annotations

import sys

from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_table, printable
from optimum_htp.cli.views.tree import evidence_text
from optimum_htp.export import ExportReport

_COLUMNS = (Column("file"), Column("nodes", True), Column("tagged", True), Column("unresolved", True), Column("by"))


def print_export(report: ExportReport, *, failed: bool = False) -> None:
    """Prints where the package is, how long it took, how the nodes of each file were tagged, and what speaks against it.

    `failed` is whether that made Optimum raise an error.
    """
    seconds = f"{report.optimum_seconds:.1f} s in Optimum, {report.htp_seconds:.1f} s for the tags"
    print_heading(f"Exported to {report.output}: {seconds}")
    lines = []
    for name, counts in report.files.items():
        figures = (counts.nodes, counts.tagged, counts.unresolved)
        lines.append(Line((name, *(f"{figure:,}" for figure in figures), evidence_text(counts.by_source))))
    print_table(_COLUMNS, lines)
    if report.doubt:
        what = "error: Optimum's validation failed" if failed else "warning: Optimum's validation"
        said = " ".join(report.doubt.split())
        print(f"{what}: {printable(said)}; the package is there all the same", file=sys.stderr)
