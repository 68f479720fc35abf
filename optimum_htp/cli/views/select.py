"""How `select` prints a selection, and what it says with it.

The formats for other tools are in `verbs/select/formats`; `--json` prints `Selection.to_dict`.
"""

from __future__ import annotations

from collections.abc import Iterator

from optimum_htp.cli.views.terminal import printable
from optimum_htp.verbs.select import FORMATS, Selection


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
