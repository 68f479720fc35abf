"""What an export says when it is done."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from optimum_htp.cli.views.blocks import Block, Column, Heading, Row, Table
from optimum_htp.cli.views.terminal import printable
from optimum_htp.cli.views.tree import evidence_text
from optimum_htp.export import ExportReport

_COLUMNS = (
    Column("file"),
    Column("nodes", number=True),
    Column("tagged", number=True),
    Column("unresolved", number=True),
    Column("by evidence"),
)


def export_page(report: ExportReport) -> Iterator[Block]:
    """Where the package is, how long it took, and how the nodes of each file were tagged."""
    yield Heading(
        f"Exported to {report.output}: {report.optimum_seconds:.1f} s in Optimum, {report.htp_seconds:.1f} s for the tags"
    )
    yield Table(_COLUMNS, tuple(_rows(report)))


def print_doubt(report: ExportReport, *, failed: bool) -> None:
    """Prints what Optimum's validation has against the package, if anything; `failed` is whether it raised an error."""
    if report.doubt:
        what = "error: Optimum's validation failed" if failed else "warning: Optimum's validation"
        said = " ".join(report.doubt.split())
        print(f"{what}: {printable(said)}; the package is there all the same", file=sys.stderr)


def _rows(report: ExportReport) -> Iterator[Row]:
    for name, counts in report.files.items():
        figures = (counts.nodes, counts.tagged, counts.unresolved)
        yield Row((name, *(f"{figure:,}" for figure in figures), evidence_text(counts.by_source)))
