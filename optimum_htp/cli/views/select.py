"""How `select` prints a selection, and what it says with it.

The formats for other tools are in `selections/formats`; `--json` prints `Selection.to_dict`.
"""

from __future__ import annotations

from collections.abc import Iterator

from optimum_htp.cli.views.blocks import Block, Column, Row, Table, heading, printable
from optimum_htp.hierarchy import tag_module_path
from optimum_htp.selections import FORMATS, FileSelection, SelectedNode, Selection

_COLUMNS = (
    Column("node"),
    Column("operator", spare=2),
    Column("module", exact=True),
    Column("call", number=True, spare=1),
)


def selection_lines(selection: Selection, *, form: str, device: str) -> Iterator[str]:
    """The lines of a selection in one of `FORMATS`, those of several files under their names.

    Raises PackageError if there are nodes in several files and the format is for one, or it can't express the selection.
    """
    files = (selection.only_file(form),) if FORMATS[form].one_file else selection.files
    for file in files:
        if len(files) > 1:
            yield f"# {file.name}"
        yield from FORMATS[form].lines(file, device=device)


def selection_notes(selection: Selection, *, form: str, device: str) -> Iterator[str]:
    """What to know before the selection, in one of `FORMATS` or as JSON, is handed to another tool: a line for each."""
    for file in selection.files:
        more = () if form == "json" else FORMATS[form].notes(file, device=device)
        yield from (f"{printable(file.name)}: {printable(note)}" for note in (*file.notes(), *more))


def formats_page() -> Iterator[Block]:
    """The formats, what each is for, and what it was checked against."""
    rows = [Row((name, form.use, form.checked)) for name, form in FORMATS.items()]
    rows.insert(1, Row(("json", "everything, as with --json", "")))
    yield Table(
        (Column("format"), Column("what it is for", exact=True), Column("checked against", exact=True)), tuple(rows)
    )


def selection_page(selection: Selection) -> Iterator[Block]:
    """The nodes of each file, and whose they are: what Python shows of a selection."""
    for file in selection.files:
        yield heading(_heading(selection, file))
        yield Table(_COLUMNS, tuple(map(_row, file.nodes)))


def _heading(selection: Selection, file: FileSelection) -> Iterator[str]:
    yield f"{file.name}: {len(file.nodes):,} nodes of {', '.join(selection.patterns)}"
    yield from file.notes()


def _row(node: SelectedNode) -> Row:
    call = "" if node.call is None else str(node.call)
    return Row((node.name or node.id, node.operator, tag_module_path(node.tag) or "(root)", call))
