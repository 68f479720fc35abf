"""What an export says when it is done."""

from __future__ import annotations

from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_table
from optimum_htp.cli.views.tree import evidence_text
from optimum_htp.export import ExportReport

_COLUMNS = (Column("file"), Column("nodes", True), Column("tagged", True), Column("unresolved", True), Column("by"))


def print_export(report: ExportReport) -> None:
    """Prints where the package is, how long it took, and how the nodes of each file were tagged."""
    seconds = f"{report.optimum_seconds:.1f} s in Optimum, {report.htp_seconds:.1f} s for the tags"
    print_heading(f"Exported to {report.output}: {seconds}")
    lines = []
    for name, counts in report.files.items():
        figures = (counts.nodes, counts.tagged, counts.unresolved)
        lines.append(Line((name, *(f"{figure:,}" for figure in figures), evidence_text(counts.by_source))))
    print_table(_COLUMNS, lines)
