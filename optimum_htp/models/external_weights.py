"""Weights that lie beside an ONNX file, for sessions of parts of it: read from where they are, behind links too."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from optimum_htp.models.runtime import open_session
from optimum_htp.onnxfile import (
    OnnxModel,
    Piece,
    SourceFiles,
    Span,
    Splice,
    TensorField,
    external_data_files,
    pieces_length,
    rewrite_tensors,
)
from optimum_htp.package import is_inside

_IN_MEMORY_BYTES = 64_000_000
_FOLDER = "session.model_external_initializers_file_folder_path"


class ExternalWeights:
    """Where the external data of a file is; false if it has none.

    ONNX Runtime reads nothing from outside one folder, and follows no link out of it, as those of the Hub's cache are. So
    the folder is one that has all of it, and the locations are changed to what they are from there. Links out of the
    model's directory stay as they are: ONNX Runtime says what is wrong with them.
    """

    def __init__(self, model: OnnxModel, data: Any) -> None:
        self._data = data
        self._locations = external_data_files(model)
        self._folder, self._places = _places(model.path.parent.resolve(), self._locations)

    def __bool__(self) -> bool:
        return bool(self._locations)

    def open(self, files: SourceFiles, pieces: list[Piece], options: Any, *, provider: str, name: str) -> Any:
        """A session of a model made of pieces of the file. Raises HtpError with `name`."""
        if self:
            options.add_session_config_entry(_FOLDER, str(self._folder))
        if self or pieces_length(pieces) <= _IN_MEMORY_BYTES:
            return open_session(files.joined(pieces), options, provider=provider, name=name)
        with tempfile.TemporaryDirectory(prefix="optimum-htp-") as directory:
            file = Path(directory, "part.onnx")
            with file.open("wb") as stream:
                files.write(pieces, stream.fileno())
            return open_session(file, options, provider=provider, name=name)

    def placed(self, kind: str, span: Span) -> list[Piece]:
        """A message of the file (`rewrite_tensors` says of which kinds), with locations as the session finds them."""
        if not self._places:
            return [span]

        def move(field: TensorField) -> Splice | None:
            if not field.is_external:
                return None
            entries = (
                (key, self._places.get(value, value) if key == "location" else value) for key, value in field.entries
            )
            return field.with_entries(tuple(entries))

        splice = rewrite_tensors(self._data, move, kind=kind, span=span)
        return [span] if splice is None else splice.pieces


def _places(directory: Path, locations: set[str]) -> tuple[Path, dict[str, str]]:
    """The folder, and the locations in it if any of them is behind a link."""
    files = {location: directory / location for location in locations}
    links = {name: file.resolve() for name, file in files.items() if file.is_symlink() and is_inside(file, directory)}
    if not links:
        return directory, {}
    real = {name: links.get(name, file) for name, file in files.items()}
    folder = Path(os.path.commonpath([file.parent for file in real.values()]))
    return folder, {name: file.relative_to(folder).as_posix() for name, file in real.items()}
