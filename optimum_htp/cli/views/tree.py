"""How module trees are shown: as a table on a terminal, as plain text in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_table, short_count
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


def print_trees(report: TreeReport) -> None:
    """Prints module trees, each with a heading."""
    unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    columns = (*_COLUMNS, _EVIDENCE) if report.nodes else _COLUMNS
    for index, tree in enumerate(report.files):
        if index:
            print()
        print_heading(*_heading(tree))
        print()
        print_table(columns, _lines(tree, nodes=report.nodes, unicode=unicode))


def evidence_text(by_source: dict[str, int]) -> str:
    """How many nodes each kind of evidence decided, the strongest kind first.

    >>> evidence_text({"dataflow": 3, "scope": 20})
    'scope 20, dataflow 3'
    """
    ordered = sorted(by_source, key=lambda source: SOURCES.index(source) if source in SOURCES else len(SOURCES))
    return ", ".join(f"{source} {by_source[source]:,}" for source in ordered)


def _heading(tree: FileTree) -> Iterator[str]:
    counts = tree.counts
    yield f"{tree.name}: {counts.nodes:,} nodes, {counts.tagged:,} tagged, {counts.unresolved:,} unresolved"
    yield f"by evidence: {evidence_text(counts.by_source) or 'none'}"
    if counts.root_by_dataflow:
        yield f"left at the root by data flow: {counts.root_by_dataflow:,}"
    if tree.evidence != "sidecar":
        yield f"read from the nodes, without {SIDECAR}: calls and parameters may be unknown"


def _lines(tree: FileTree, *, nodes: bool, unicode: bool) -> Iterator[Line]:
    extra = ("",) if nodes else ()
    guides = _guides(tree.rows, unicode=unicode)
    depths = [*(row.depth for row in tree.rows[1:]), 0]
    for row, (guide, inner), next_depth in zip(tree.rows, guides, depths, strict=False):
        cut = row.modules_below if next_depth <= row.depth else 0
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
        return row.attribute or "''"
    return f"(root: {row.in_model})" if row.in_model else "(root)"


def _class(row: ModuleRow, *, cut: int) -> str:
    text = row.class_name
    if row.alias_of is not None:
        text += f" (= {row.alias_of or 'root'})"
    elif row.aliases:
        more = f" and {len(row.aliases) - 2} more" if len(row.aliases) > 2 else ""
        text += f" (also {', '.join(row.aliases[:2])}{more})"
    return text + (f" [+{cut:,} below]" if cut else "")


def _figures(row: ModuleRow) -> tuple[str, str, str, str]:
    """Calls, nodes, own nodes and parameters; the row of a further name has only the nodes."""
    calls = parameters = ""
    if row.alias_of is None:
        calls = "?" if row.calls is None else f"{row.calls:,}"
        parameters = "?" if row.parameters is None else short_count(row.parameters)
    return calls, f"{row.all_nodes:,}", f"{row.own_nodes:,}", parameters


def _node_line(node: NodeRow, guide: str) -> Line:
    graph = f"{node.graph}: " if node.graph else ""
    call = "" if node.call is None else f", call {node.call}"
    name = f"{guide}- {graph}{node.name or node.id}"
    return Line((name, node.operator, "", "", "", "", node.source + call), True)


def _guides(rows: Sequence[ModuleRow], *, unicode: bool) -> list[tuple[str, str]]:
    """For each row what stands in front of it, and in front of its nodes."""
    bar, tee, corner = ("│  ", "├─ ", "└─ ") if unicode else ("|  ", "|- ", "`- ")
    guides: list[tuple[str, str]] = []
    follows: list[bool] = []  # for each depth, from the bottom up: whether another row follows below the same parent
    for row in reversed(rows):
        follows += [False] * (row.depth + 2 - len(follows))
        bars = [bar if more else "   " for more in follows]
        above = "".join(bars[1 : row.depth])
        own = (tee if follows[row.depth] else corner) if row.depth else ""
        guides.append((above + own, "".join(bars[1 : row.depth + 2])))
        follows[row.depth :] = [True]
    return guides[::-1]
