"""What makes a sentence model of a transformer: pooling, normalization and further layers, each in a directory of its own.

sentence-transformers looks for them beside the ONNX file of the transformer, and pools by a guess where they are not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from optimum_htp.errors import PackageError, writing
from optimum_htp.onnxfile import read_model
from optimum_htp.package.configs import copy_file
from optimum_htp.package.json_files import read_small
from optimum_htp.package.limits import MAX_CONFIG_BYTES
from optimum_htp.package.links import is_inside

MODULES = "modules.json"

SENTENCE_GRAPH = "optimum_htp.models.sentence_graph.SentenceGraph"
"""The class of the one module that a graph which does all of it is (`add_sentence_graph`)."""

_SETTINGS = ("config_sentence_transformers.json", "sentence_*_config.json")
_MAX_FILES = 1000


def add_sentence_modules(directory: Path, source: Path) -> list[str]:
    """Copies the modules behind the transformer of a sentence model into the package of that transformer; gives the copies.

    Only for a graph that is just the transformer. What exists stays. Nothing is copied where the source is none, or the
    transformer is not at its top. Raises HtpError if a file can't be written.
    """
    content = _document(source)
    paths = _paths(content)
    if not paths or paths[0] != "" or (directory / MODULES).exists():
        return []
    with writing(directory):
        names = (name for path in paths[1:] if path for name in _files(source, path))
        settings = (file.name for pattern in _SETTINGS for file in sorted(source.glob(pattern)))
        added = [name for name in (*settings, *names) if copy_file(source, directory, name)]
        (directory / MODULES).write_bytes(content)
    return [*added, MODULES]


def add_sentence_graph(directory: Path, source: Path) -> list[str]:
    """Says to sentence-transformers how the package of a whole sentence model is loaded; gives the files that were added.

    What exists stays. Raises HtpError if a file can't be written.
    """
    file = directory / "model.onnx"
    if (directory / MODULES).exists() or not file.is_file():
        return []
    if "sentence_embedding" not in (value.name for value in read_model(file).graph.outputs):
        return []
    with writing(directory):
        settings = [file.name for pattern in _SETTINGS for file in sorted(source.glob(pattern))]
        added = [name for name in settings if copy_file(source, directory, name)]
        module = {"idx": 0, "name": "0", "path": "", "type": SENTENCE_GRAPH}
        (directory / MODULES).write_text(json.dumps([module], indent=2) + "\n")
    return [*added, MODULES]


def is_sentence_graph(directory: Path) -> bool:
    """Whether `modules.json` is what `add_sentence_graph` writes, which says nothing of the modules behind the graph."""
    try:
        listed: Any = json.loads(_document(directory))
    except (ValueError, RecursionError):
        return False
    return [entry.get("type") for entry in listed if isinstance(entry, dict)] == [SENTENCE_GRAPH]


def _document(source: Path) -> bytes:
    try:
        return (
            read_small(source / MODULES, MAX_CONFIG_BYTES) or b"[]" if is_inside(source / MODULES, source) else b"[]"
        )
    except PackageError:
        return b"[]"


def _paths(content: bytes) -> list[str]:
    """The directories of the modules, in their order; empty if there are none, or one of them leads out."""
    try:
        listed: Any = json.loads(content)
    except (ValueError, RecursionError):
        return []
    entries = listed if isinstance(listed, list) else []
    paths = [entry.get("path") if isinstance(entry, dict) else None for entry in entries]
    places = [PurePosixPath(path) if isinstance(path, str) else None for path in paths]
    inside = all(place is not None and not place.is_absolute() and ".." not in place.parts for place in places)
    return [str(path) for path in paths] if inside else []


def _files(source: Path, path: str) -> Iterator[str]:
    """The files of a module, by their paths in the source."""
    for count, file in enumerate(sorted((source / path).rglob("*"))):
        if file.is_file() and count < _MAX_FILES:
            yield file.relative_to(source).as_posix()
