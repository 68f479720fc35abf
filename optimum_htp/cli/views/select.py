"""How a selection of nodes is shown: as names, in the form that another tool takes, as JSON; and what to say with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, TextIO

from optimum_htp.cli.views.terminal import printable
from optimum_htp.errors import PackageError
from optimum_htp.verbs.select import (
    MAX_SETTING_CHARACTERS,
    NODE_NAME_FORMATS,
    SESSION_OPTION,
    FileSelection,
    Selection,
)


LAYER_FORMAT = "layer-ann"
SELECT_FORMATS = ("names", "json", *(name for name in NODE_NAME_FORMATS if name != "names"), LAYER_FORMAT)
"""The forms that a selection is printed in."""


def print_selection(
    selection: Selection, *, form: str = "names", device: str = "gpu", stream: TextIO | None = None
) -> None:
    """Prints a selection.

    Args:
        selection: The selected nodes.
        form: One of `SELECT_FORMATS`. Names stand one on a line; what other tools take is a JSON list of the names or
            patterns, or the setting of ONNX Runtime's session option.
        device: The device of the session option.
        stream: Where to print; None means standard output.

    Raises:
        PackageError: There are nodes in several files, and the form is for one; or layer annotations can't express
            the selection.
    """
    stream = stream or sys.stdout
    if form == "json":
        print(json.dumps(selection_document(selection), indent=2), file=stream)
    elif form == "names":
        _print_by_file(selection, lambda file: map(printable, file.names), stream)
    elif form == LAYER_FORMAT:
        settings = {file.name: f"{SESSION_OPTION}={file.layer_setting(device)}" for file in selection.files}
        _print_by_file(selection, lambda file: iter([printable(settings[file.name])]), stream)
    else:
        if len(selection.files) > 1:
            names = ", ".join(file.name for file in selection.files)
            raise PackageError(
                f"{selection.package}: there are such nodes in {names}: --format {form} is for one file, choose it with "
                "--file NAME"
            )
        print(json.dumps(selection.files[0].names_for(form), indent=2), file=stream)


def selection_document(selection: Selection) -> dict[str, Any]:
    """A selection as a JSON document."""
    return {
        "package": selection.package,
        "patterns": list(selection.patterns),
        "files": {file.name: _file_document(file) for file in selection.files},
    }


def selection_notes(selection: Selection, *, form: str, device: str = "gpu") -> Iterator[str]:
    """What a person should know before the selection is handed to another tool, a line for each thing.

    Args:
        selection: The selected nodes.
        form: The form that it was printed in.
        device: The device of the session option.
    """
    for file in selection.files:
        where = printable(file.name)
        if file.unresolved:
            yield f"{where}: {_nodes(file.unresolved)} whose module is not known can't be selected"
        if file.unknown_call:
            yield f"{where}: left out {_nodes(file.unknown_call)} whose call is not known"
        if file.fused:
            yield (
                f"{where}: {_nodes(file.fused)} fused from a selected module and others are among them; --no-fused "
                "leaves them out"
            )
        if form == LAYER_FORMAT:
            if len(file.layer_setting(device)) > MAX_SETTING_CHARACTERS:
                yield f"{where}: ONNX Runtime takes no setting of more than {MAX_SETTING_CHARACTERS:,} characters"
        elif form != "json":
            yield from _notes_on_names(file, where)


def _notes_on_names(file: FileSelection, where: str) -> Iterator[str]:
    if file.unnamed:
        yield (
            f"{where}: {_nodes(file.unnamed)} without a name left out: tools that go by names can't be told of them "
            "(--json lists them)"
        )
    repeated = len(file.nodes) - file.unnamed - len(file.names)
    if repeated:
        yield f"{where}: {len(file.names):,} names stand for {len(file.nodes) - file.unnamed:,} nodes, as in branches"
    ambiguous = file.ambiguous_names()
    if ambiguous:
        yield (
            f"{where}: {len(ambiguous):,} of the names are also those of nodes that were not selected, such as "
            f"{printable(repr(ambiguous[0]))}; a tool that goes by names takes these too"
        )


def _nodes(count: int) -> str:
    return f"{count:,} {'node' if count == 1 else 'nodes'}"


def _print_by_file(selection: Selection, lines: Callable[[FileSelection], Iterator[str]], stream: TextIO) -> None:
    for file in selection.files:
        if len(selection.files) > 1:
            print(f"# {printable(file.name)}", file=stream)
        stream.writelines(f"{line}\n" for line in lines(file))


def _file_document(file: FileSelection) -> dict[str, Any]:
    return {
        "modules": list(file.modules),
        "names": file.names,
        "unnamed": file.unnamed,
        "fused": file.fused,
        "unknown_call": file.unknown_call,
        "unresolved": file.unresolved,
        "ambiguous_names": file.ambiguous_names(),
        "nodes": [asdict(node) for node in file.nodes],
    }
