"""What an export says when it is done."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_table, printable
from optimum_htp.cli.views.tree import evidence_text


if TYPE_CHECKING:
    from optimum_htp.export import ExportReport


def print_export(result: ExportReport, *, stream: TextIO | None = None) -> None:
    """Prints where the package is, how long it took, and how the nodes of each file were tagged.

    Args:
        result: What the export returned.
        stream: Where to print; None means standard output.
    """
    stream = stream or sys.stdout
    seconds = f"{result.optimum_seconds:.1f} s in Optimum, {result.htp_seconds:.1f} s for the tags"
    print_heading(f"Exported to {printable(str(result.output))}: {seconds}", (), stream)
    columns = (Column("file"), Column("nodes", True), Column("tagged", True), Column("unresolved", True), Column("by"))
    lines = [
        Line(
            (
                printable(name),
                f"{counts.nodes:,}",
                f"{counts.tagged:,}",
                f"{counts.unresolved:,}",
                printable(evidence_text(counts.by_source)),
            )
        )
        for name, counts in result.files.items()
    ]
    print_table(columns, lines, stream)
