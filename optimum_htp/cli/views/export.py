"""What an export says when it is done."""

from __future__ import annotations

from collections.abc import Iterator

from optimum_htp.cli.views.blocks import Block, Column, Heading, Row, Table
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


def _rows(report: ExportReport) -> Iterator[Row]:
    for name, counts in report.files.items():
        figures = (counts.nodes, counts.tagged, counts.unresolved)
        yield Row((name, *(f"{figure:,}" for figure in figures), evidence_text(counts.by_source)))
