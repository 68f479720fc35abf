"""How module trees are shown: as a table on a terminal, as plain text in a pipe, as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from optimum_htp.hierarchy import SOURCES
from optimum_htp.package import SIDECAR
from optimum_htp.views.terminal import is_terminal, printable, short_count
from optimum_htp.views.tree import FileTree, ModuleRow, NodeRow, TreeReport


_COLUMNS = ("module", "class", "calls", "nodes", "own", "parameters")
_NUMBERS = slice(2, 6)


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the table; `faint` for modules that own no nodes, also below, and for nodes."""

    cells: tuple[str, ...]
    faint: bool


def print_trees(report: TreeReport, *, nodes: bool = False, stream: TextIO | None = None) -> None:
    """Prints module trees: coloured and cut to the width of a terminal, else plain and at full width.

    Args:
        report: The trees.
        nodes: List the nodes under each module.
        stream: Where to print; None means standard output.
    """
    stream = stream or sys.stdout
    for position, tree in enumerate(report.files):
        if position:
            print(file=stream)
        if is_terminal(stream):
            _print_table(tree, stream, nodes=nodes)
        else:
            stream.write("\n".join((*_heading(tree), "", *_plain(tree, nodes=nodes, unicode=_unicode(stream)))) + "\n")


def trees_document(report: TreeReport, *, nodes: bool = False) -> dict[str, Any]:
    """The trees as a JSON document.

    Args:
        report: The trees.
        nodes: List the nodes under each module.
    """
    return {
        "package": report.package,
        "files": {tree.name: _file_document(tree, nodes=nodes) for tree in report.files},
    }


def print_trees_json(report: TreeReport, *, nodes: bool = False, stream: TextIO | None = None) -> None:
    """Prints the trees as JSON.

    Args:
        report: The trees.
        nodes: List the nodes under each module.
        stream: Where to print; None means standard output.
    """
    print(json.dumps(trees_document(report, nodes=nodes), indent=2), file=stream or sys.stdout)


def evidence_text(by_source: dict[str, int]) -> str:
    """How many nodes each kind of evidence decided, the strongest kind first.

    >>> evidence_text({"dataflow": 3, "scope": 20})
    'scope 20, dataflow 3'
    """
    rank = {source: position for position, source in enumerate(SOURCES)}
    ordered = sorted(by_source, key=lambda source: rank.get(source, len(rank)))
    return ", ".join(f"{source} {by_source[source]:,}" for source in ordered)


def _heading(tree: FileTree) -> Iterator[str]:
    counts = tree.counts
    yield f"{printable(tree.name)}: {counts.nodes:,} nodes, {counts.tagged:,} tagged, {counts.unresolved:,} unresolved"
    yield f"by evidence: {printable(evidence_text(counts.by_source)) or 'none'}"
    if counts.root_by_dataflow:
        yield f"left at the root by data flow: {counts.root_by_dataflow:,}"
    if tree.evidence != "sidecar":
        yield f"read from the nodes, without {SIDECAR}: calls and parameters may not be known"


def _plain(tree: FileTree, *, nodes: bool, unicode: bool) -> Iterator[str]:
    lines = [_Line(_columns(nodes), False), *_lines(tree, nodes=nodes, unicode=unicode)]
    widths = [max(len(line.cells[column]) for line in lines) for column in range(len(lines[0].cells))]
    for line in lines:
        padded = [
            cell.rjust(width) if _NUMBERS.start <= column < _NUMBERS.stop else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line.cells, widths, strict=True))
        ]
        yield "  ".join(padded).rstrip()


def _print_table(tree: FileTree, stream: TextIO, *, nodes: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    name, *rest = _heading(tree)
    console.print(Text(name, style="bold"))
    for line in rest:
        console.print(Text(line, style="dim"))
    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column, title in enumerate(_columns(nodes)):
        number = _NUMBERS.start <= column < _NUMBERS.stop
        table.add_column(title, justify="right" if number else "left", no_wrap=True, style="cyan" if column == 1 else "")
    for row in _lines(tree, nodes=nodes, unicode=_unicode(stream)):
        table.add_row(*map(Text, row.cells), style="dim" if row.faint else "")
    console.print(table)


def _columns(nodes: bool) -> tuple[str, ...]:
    return (*_COLUMNS, "evidence") if nodes else _COLUMNS


def _lines(tree: FileTree, *, nodes: bool, unicode: bool) -> Iterator[_Line]:
    extra = ("",) if nodes else ()
    guides = _guides(tree.rows, unicode=unicode)
    for row, (guide, inner) in zip(tree.rows, guides, strict=True):
        hidden = row.modules_below and row is _last_of(tree.rows, row)
        yield _Line((guide + _label(row), _class(row, hidden=bool(hidden)), *_figures(row), *extra), not row.all_nodes)
        if nodes:
            yield from (_node_line(node, inner) for node in row.nodes)
    if tree.unresolved:
        figures = ("", f"{len(tree.unresolved):,}", "", "")
        yield _Line(("(unresolved)", "", *figures, *extra), False)
        if nodes:
            yield from (_node_line(node, "") for node in tree.unresolved)
