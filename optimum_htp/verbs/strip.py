"""Taking back what we wrote: a stripped package has Optimum's own bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from optimum_htp.errors import PackageError
from optimum_htp.onnxfile import read_model, undo_renames
from optimum_htp.package import (
    CONFIG,
    SIDECAR,
    Sidecar,
    onnx_files,
    package_directory,
    read_packed,
    remove_config_metadata,
    renamed_tensors,
    strip_tags,
)


def strip(path: str | Path) -> list[str]:
    """Removes all that we wrote from a package, or from one ONNX file: Optimum's own bytes are left.

    Args:
        path: The package's directory, or an ONNX file of it: then the sidecar stays, and forgets that file.

    Returns:
        The files that were changed or deleted, by their path in the package.

    Raises:
        PackageError: There is no such package.
        HtpError: A file is no ONNX model, or could not be written; it stays as it is.
    """
    path = Path(path)
    directory = path if path.is_dir() else package_directory(path)
    files = {file.absolute().relative_to(directory.absolute()).as_posix(): file for file in onnx_files(path).values()}
    for file in files.values():
        # One that is broken, or holds more than tags, is told of before anything is changed.
        if read_packed(read_model(file)) is not None:
            raise PackageError(f"{file}: a packed file; unpack it first: optimum-cli htp unpack {file} DIR")
    changed: list[str] = []
    # Before the sidecar goes, which has the old names.
    restored = _undo_renames(directory, files)
    sidecar = path / SIDECAR
    if sidecar.is_file():
        # First, for as long as it is there it says that the package is complete.
        try:
            sidecar.unlink()
        except OSError as error:
            raise PackageError(f"{sidecar}: cannot be removed: {error.strerror}") from error
        changed.append(SIDECAR)
    if path.is_dir() and remove_config_metadata(path):
        changed.append(CONFIG)
    changed += [name for name, file in files.items() if strip_tags(file) or name in restored]
    if not path.is_dir():
        _forget(directory, files)
    return changed


def _forget(directory: Path, files: Mapping[str, Path]) -> None:
    """Takes the files out of the sidecar of the package that they are in: they have no tags any more."""
    try:
        sidecar = Sidecar.read(directory)
    except PackageError:
        return
    if sidecar is not None and files.keys() & sidecar.files.keys():
        left = {name: record for name, record in sidecar.files.items() if name not in files}
        replace(sidecar, files=left).write(directory)


def _undo_renames(directory: Path, files: Mapping[str, Path]) -> set[str]:
    """Gives stored tensors their old names back, as the file and the sidecar have them; returns what this changed."""
    try:
        sidecar = Sidecar.read(directory)
    except PackageError:  # it is broken, and deleted next; the files tell too
        sidecar = None
    records = sidecar.files if sidecar is not None else {}
    changed: set[str] = set()
    for name, file in files.items():
        recorded = records[name].renamed if name in records else {}
        if undo_renames(file, {**renamed_tensors(read_model(file)), **recorded}):
            changed.add(name)
    return changed
