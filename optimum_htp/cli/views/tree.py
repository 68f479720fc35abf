"""How module trees are shown: as a table on a terminal, as plain text in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_table, printable, short_count
from optimum_htp.hierarchy import SOURCES
from optimum_htp.package import SIDECAR
from optimum_htp.verbs.tree import FileTree, ModuleRow, NodeRow, TreeReport


_COLUMNS = (
    Column("module"),
    Column("class"),
    Column("calls", True),
    Column("nodes", True),
    Column("own", True),
    Column("parameters", True),
)
_EVIDENCE = Column("evidence")


def print_trees(report: TreeReport, *, stream: TextIO | None = None) -> None:
    """Prints module trees: coloured and cut to the width of a terminal, else plain and at full width.

    Args:
        report: The trees.
        stream: Where to print; None means standard output.
    """
    stream, nodes = stream or sys.stdout, report.nodes
    for position, tree in enumerate(report.files):
        if position:
            print(file=stream)
        title, *details = _heading(tree)
        print_heading(title, details, stream)
        print(file=stream)
        columns = (*_COLUMNS, _EVIDENCE) if nodes else _COLUMNS
        print_table(columns, _lines(tree, nodes=nodes, unicode=_unicode(stream)), stream)


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


def _lines(tree: FileTree, *, nodes: bool, unicode: bool) -> Iterator[Line]:
    extra = ("",) if nodes else ()
    guides = _guides(tree.rows, unicode=unicode)
    for position, (row, (guide, inner)) in enumerate(zip(tree.rows, guides, strict=True)):
        following = tree.rows[position + 1 : position + 2]
        cut = row.modules_below if not following or following[0].depth <= row.depth else 0
        yield Line((guide + _label(row), _class(row, cut=cut), *_figures(row), *extra), not row.all_nodes)
        if nodes:
            yield from (_node_line(node, inner) for node in row.nodes)
    if tree.unresolved:
        count = f"{len(tree.unresolved):,}"
        yield Line(("(unresolved)", "", "", count, count, "", *extra))
        if nodes:
            yield from (_node_line(node, "   ") for node in tree.unresolved)


def _label(row: ModuleRow) -> str:
    if row.tag.count("/") > 1:
        return printable(row.attribute) or "''"
    return f"(root: {printable(row.in_model)})" if row.in_model else "(root)"


def _class(row: ModuleRow, *, cut: int) -> str:
    text = printable(row.class_name)
    if row.alias_of is not None:
        text += f" (= {printable(row.alias_of) or 'root'})"
    elif row.aliases:
        more = f" and {len(row.aliases) - 2} more" if len(row.aliases) > 2 else ""
        text += f" (also {printable(', '.join(row.aliases[:2]))}{more})"
    return text + (f" [+{cut:,} below]" if cut else "")


def _figures(row: ModuleRow) -> tuple[str, str, str, str]:
    """Calls, nodes, own nodes and parameters; what belongs to the module stands in the row of its first name only."""
    calls = parameters = ""
    if row.alias_of is None:
        calls = "?" if row.calls is None else f"{row.calls:,}"
        parameters = "?" if row.parameters is None else short_count(row.parameters)
    return calls, f"{row.all_nodes:,}", f"{row.own_nodes:,}", parameters


def _node_line(node: NodeRow, guide: str) -> Line:
    where = f"{node.graph}: " if node.graph else ""
    call = "" if node.call is None else f", call {node.call}"
    evidence = printable(node.source) + call
    name = printable(where + (node.name or node.id))
    return Line((f"{guide}- {name}", printable(node.operator), "", "", "", "", evidence), True)


def _guides(rows: Sequence[ModuleRow], *, unicode: bool) -> list[tuple[str, str]]:
    """For each row what stands in front of it, and in front of its nodes."""
    bar, tee, corner = ("│  ", "├─ ", "└─ ") if unicode else ("|  ", "|- ", "`- ")
    guides: list[tuple[str, str]] = []
    # For each depth, from the bottom up: whether another row follows below the same parent.
    follows: list[bool] = []
    for row in reversed(rows):
        follows += [False] * (row.depth + 2 - len(follows))
        above = "".join(bar if each else "   " for each in follows[1 : row.depth])
        own = (tee if follows[row.depth] else corner) if row.depth else ""
        inner = (bar if follows[row.depth] else "   ") if row.depth else ""
        guides.append((above + own, above + inner + (bar if follows[row.depth + 1] else "   ")))
        follows[row.depth :] = [True]
    return guides[::-1]


def _unicode(stream: TextIO) -> bool:
    return (stream.encoding or "utf-8").lower().startswith("utf")
