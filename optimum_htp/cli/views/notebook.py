"""Reports in Python: as text, where they are printed, and as HTML, where a notebook shows them."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib import import_module

from optimum_htp.cli.views.blocks import Cell, Column, Heading, Note, Page, Row, Table, printable
from optimum_htp.cli.views.fitting import Look
from optimum_htp.cli.views.terminal import page_lines
from optimum_htp.reports import Report

_PAGES = {
    "CompareReport": "compare.comparison_page",
    "DiffReport": "diff.diff_page",
    "ExportReport": "export.export_page",
    "ExplainReport": "explain.explain_page",
    "ExposeReport": "expose.expose_page",
    "ExtractReport": "extract.extract_page",
    "FunctionsReport": "functions.functions_page",
    "PackReport": "written.pack_page",
    "ParamsReport": "params.params_page",
    "ProfileDelta": "profile_delta.delta_page",
    "ProfileReport": "profile.profile_page",
    "ProjectReport": "written.project_page",
    "RangesReport": "ranges.ranges_page",
    "Selection": "select.selection_page",
    "StripReport": "written.strip_page",
    "TagReport": "written.tag_page",
    "TreeReport": "tree.tree_page",
    "ExplorerReport": "view.explorer_page",
    "UnpackReport": "written.unpack_page",
    "ValidationReport": "validate.validation_page",
    "ViewReport": "view.view_page",
}
"""The view of each report, and the function of it that makes its page."""

_WIDTH, _MOST_LINES, _MOST_ROWS = 100, 40, 200
_ALL = "to_dict() has all"

_CELL = "text-align:{};padding-left:{}em"
_BAR = ";background:linear-gradient(90deg,rgba(0,140,200,.25) {0:.1f}%,transparent {0:.1f}%)"


def page_of(report: Report) -> Page:
    """What the command prints of a report, without options."""
    module, _, function = _PAGES[type(report).__name__].partition(".")
    page: Page = getattr(import_module(f"optimum_htp.cli.views.{module}"), function)(report)
    return page


def text_of(report: Report) -> str:
    """A report as text of limited width and length, which says what it leaves out."""
    lines = ["".join(text for text, _ in line).rstrip() for line in page_lines(page_of(report), Look(_WIDTH), _ALL)]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES - 1 :] = [f"and {len(lines) - _MOST_LINES + 1:,} lines more: {_ALL}"]
    return "\n".join(lines)


def html_of(report: Report) -> str:
    """A report as HTML; whatever a model is called is text in it."""
    return "\n".join(_blocks(page_of(report)))


def _blocks(page: Page) -> Iterator[str]:
    for block in page:
        if isinstance(block, Heading):
            details = "".join(f"<br><small>{_text(detail)}</small>" for detail in block.details)
            yield f"<p><b>{_text(block.title)}</b>{details}</p>"
        elif isinstance(block, Note):
            yield f"<p>{_text(block.text)}</p>"
        else:
            yield from _table(block)


def _table(table: Table) -> Iterator[str]:
    titles = [f'<th style="text-align:{_side(column)}">{_text(column.title)}</th>' for column in table.columns]
    yield f"<table><thead><tr>{''.join(titles)}</tr></thead><tbody>"
    for row in table.rows[:_MOST_ROWS]:
        faint = ' style="opacity:.6"' if row.style == "faint" else ""
        cells = zip(table.columns, row.cells, strict=True)
        yield f"<tr{faint}>{''.join(_cell(row, column, cell) for column, cell in cells)}</tr>"
    yield "</tbody></table>"
    if len(table.rows) > _MOST_ROWS:
        yield f"<p>and {len(table.rows) - _MOST_ROWS:,} rows more: {_ALL}</p>"


def _cell(row: Row, column: Column, cell: Cell) -> str:
    first = cell is row.cells[0]
    indent = 0.5 + 1.2 * (row.depth + row.leaf) if first else 0.5
    style = _CELL.format(_side(column), indent)
    if not isinstance(cell, str):
        return f'<td style="{style}{_BAR.format(100 * min(max(cell, 0.0), 1.0))}">{cell:.1%}</td>'
    count = f" ×{row.count}" if first and row.count > 1 else ""
    return f'<td style="{style}">{_text(cell)}{count}</td>'


def _side(column: Column) -> str:
    return "right" if column.number or column.bar else "left"


def _text(text: str) -> str:
    return escape(printable(text))
