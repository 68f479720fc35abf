"""How `select` prints a selection, and what it says with it.

The forms for other tools are in `verbs/select/formats`; `--json` prints `Selection.to_dict`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TextIO

from optimum_htp.cli.views.terminal import print_json, printable
from optimum_htp.verbs.select import FORMATS, Selection


def print_selection(
    selection: Selection, *, form: str = "names", device: str = "gpu", stream: TextIO | None = None
) -> None:
    """Prints a selection.

    Args:
        selection: The selected nodes.
        form: `"json"`, or one of `FORMATS`.
        device: The device of the formats that put nodes on one.
        stream: Where to print; None means standard output.

    Raises:
        PackageError: There are nodes in several files, and the form is for one; or the form can't express the
            selection.
    """
    if form == "json":
        print_json(selection.to_dict(), stream)
        return
    files = (selection.only_file(form),) if FORMATS[form].one_file else selection.files
    lines = {file.name: FORMATS[form].lines(file, device=device) for file in files}
    for name, printed in lines.items():
        headed = [f"# {name}", *printed] if len(lines) > 1 else printed
        (stream or sys.stdout).writelines(f"{printable(line)}\n" for line in headed)


def selection_notes(selection: Selection, *, form: str, device: str = "gpu") -> Iterator[str]:
    """What a person should know before the selection is handed to another tool, a line for each thing.

    Args:
        selection: The selected nodes.
        form: The form that it was printed in.
        device: The device of the formats that put nodes on one.
    """
    for file in selection.files:
        notes = [*file.notes()] if form == "json" else [*file.notes(), *FORMATS[form].notes(file, device=device)]
        yield from (f"{printable(file.name)}: {printable(note)}" for note in notes)
