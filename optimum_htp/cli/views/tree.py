"""How module trees are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from optimum_htp.cli.views.blocks import Block, Column, Row, Table, heading
from optimum_htp.cli.views.folding import Folded, fold_tree, unfolded
from optimum_htp.hierarchy import SOURCES
from optimum_htp.package import SIDECAR
from optimum_htp.verbs.tree import FileTree, ModuleRow, NodeRow, TreeReport

_COLUMNS = (
    Column("module"),
    Column("class"),
    Column("nodes", number=True),
    Column("own", number=True),
    Column("parameters", number=True, spare=1),
    Column("calls", number=True, spare=2),
)
_WITH_NODES = (
    Column("module, node"),
    Column("class, operator"),
    Column("evidence"),
    Column("nodes", number=True, spare=1),
    Column("own", number=True, spare=2),
    Column("parameters", number=True, spare=3),
    Column("calls", number=True, spare=4),
)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A module, and how many of those below it are not shown."""

    row: ModuleRow
    cut: int


def tree_page(report: TreeReport, *, expand: bool = False, source: bool = False) -> Iterator[Block]:
    """A table for each file, under a heading; `source` shows the lines that nodes come from."""
    for tree in report.files:
        yield heading(_heading(tree))
        rows = tuple(_rows(tree, nodes=report.nodes, expand=expand or report.nodes))
        if report.nodes:
            rows, lines = _with_python(tree, rows, source=source)
            yield Table((*_WITH_NODES, *lines), rows)
        else:
            yield Table(_COLUMNS, rows)


def _with_python(tree: FileTree, rows: tuple[Row, ...], *, source: bool) -> tuple[tuple[Row, ...], tuple[Column, ...]]:
    """The rows with the lines of Python that nodes come from, and the columns for these, if the file says any."""
    nodes = iter([node for row in tree.rows for node in row.nodes] + list(tree.unresolved))
    of_rows = [next(nodes) if row.leaf else None for row in rows]
    lines = [node.python if node is not None else None for node in of_rows]
    if not any(lines):
        return rows, ()
    texts = [[line.place if line is not None else ""] for line in lines]
    if source:
        for cells, line in zip(texts, lines, strict=True):
            cells.append((line.source() or "") if line is not None else "")
    widened = tuple(replace(row, cells=(*row.cells, *cells)) for row, cells in zip(rows, texts, strict=True))
    return widened, (Column("python"), *((Column("line"),) if source else ()))


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
    if any(row.all_nodes > counts.nodes for row in tree.rows if not row.depth):
        yield "the nodes of functions count in each module that they are called for"
    if counts.root_by_dataflow:
        yield f"left at the root by data flow: {counts.root_by_dataflow:,}"
    if tree.evidence != "sidecar":
        unknown = any(row.calls is None or row.parameters is None for row in tree.rows)
        lacking = ": calls and parameters may be unknown" if unknown else ""
        yield f"read from the nodes, without {SIDECAR}{lacking}"


def _rows(tree: FileTree, *, nodes: bool, expand: bool) -> Iterator[Row]:
    rows = _shown(tree.rows if expand else _with_nodes(tree.rows))
    for group in _unfolded(rows) if expand else _folded(rows):
        row = group.first.row
        name = _label(row) if group.count == 1 else group.name
        cells, style = (name, _class(group.first)), "" if row.all_nodes else "faint"
        evidence = ("",) if nodes else ()
        yield Row((*cells, *evidence, *_figures(group)), group.depth, count=group.count, style=style)
        if nodes:
            yield from (_node(node, group.depth) for node in row.nodes)
    if tree.unresolved:
        count = f"{len(tree.unresolved):,}"
        yield Row(("(unresolved)", *([""] * (2 if nodes else 1)), count, count, "", ""))
        if nodes:
            yield from (_node(node, 0) for node in tree.unresolved)


def _with_nodes(rows: Iterable[ModuleRow]) -> Iterator[ModuleRow]:
    """The modules without those below a module that has no node, such as an encoder in the file of a decoder."""
    above: ModuleRow | None = None
    for row in rows:
        if above is None or row.depth <= above.depth:
            above = None if row.all_nodes else row
            yield row


def _shown(rows: Iterable[ModuleRow]) -> list[_Shown]:
    listed = list(rows)
    depths = [*(row.depth for row in listed[1:]), 0]
    return [
        _Shown(row, row.modules_below if next_depth <= row.depth else 0)
        for row, next_depth in zip(listed, depths, strict=False)
    ]


def _unfolded(rows: Iterable[_Shown]) -> list[Folded[_Shown]]:
    return unfolded(rows, lambda shown: shown.row.attribute, lambda shown: shown.row.depth)


def _folded(rows: list[_Shown]) -> list[Folded[_Shown]]:
    return fold_tree(rows, depth=lambda shown: shown.row.depth, name=lambda shown: shown.row.attribute, like=_likeness)


def _likeness(shown: _Shown) -> tuple[object, ...]:
    """What modules have in common that are shown as one; those with other names are like no other."""
    row = shown.row
    other_names = row.path if row.aliases or row.alias_of is not None or row.in_model else None
    return row.class_name, row.calls, row.parameters, row.own_nodes, row.all_nodes, shown.cut, other_names


def _label(row: ModuleRow) -> str:
    if row.tag.count("/") > 1:
        return row.attribute or "''"
    return f"(root: {row.in_model})" if row.in_model else "(root)"


def _class(shown: _Shown) -> str:
    row, text = shown.row, shown.row.class_name
    if row.alias_of is not None:
        text += f" (= {row.alias_of or 'root'})"
    elif row.aliases:
        more = f" and {len(row.aliases) - 2} more" if len(row.aliases) > 2 else ""
        text += f" (also {', '.join(row.aliases[:2])}{more})"
    return text + (f" [+{shown.cut:,} below]" if shown.cut else "")


def _figures(group: Folded[_Shown]) -> tuple[str, str, str, str]:
    """Nodes, own nodes, parameters and calls, of all together; the row of a further name has only the nodes."""
    rows = [shown.row for shown in group.members]
    calls = parameters = ""
    if rows[0].alias_of is None:
        parameters, calls = _sum(row.parameters for row in rows), _sum(row.calls for row in rows)
    return _sum(row.all_nodes for row in rows), _sum(row.own_nodes for row in rows), parameters, calls


def _sum(numbers: Iterable[int | None]) -> str:
    total = 0
    for number in numbers:
        if number is None:
            return "?"
        total += number
    return f"{total:,}"


def _node(node: NodeRow, depth: int) -> Row:
    graph = f"{node.graph}: " if node.graph else ""
    call = "" if node.call is None else f", call {node.call}"
    cells = (f"{graph}{node.name or node.id}", node.operator, node.source + call, "", "", "", "")
    return Row(cells, depth, leaf=True, style="faint")
