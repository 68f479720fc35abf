"""`strip`: taking back what we wrote, so that a package has Optimum's own bytes again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optimum_htp.errors import PackageError, cannot_write
from optimum_htp.onnxfile import read_model, undo_renames
from optimum_htp.package import (
    CONFIG,
    SIDECAR,
    HtpPackage,
    Sidecar,
    onnx_files,
    path_of,
    read_packed,
    remove_config_metadata,
    renamed_tensors,
    strip_tags,
)


@dataclass(frozen=True, slots=True)
class StripReport:
    """What was taken out of a package.

    Attributes:
        package: Its path.
        files: Whether each file that may hold something of ours did, by its path in the package. The sidecar was
            deleted, and the others were rewritten.
    """

    package: str
    files: Mapping[str, bool]

    @property
    def changed(self) -> tuple[str, ...]:
        """The files that were rewritten or deleted."""
        return tuple(name for name, changed in self.files.items() if changed)

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {"package": self.package, "files": dict(self.files)}


def strip(package: str | Path | HtpPackage) -> StripReport:
    """Removes all that we wrote from a package, or from one ONNX file: Optimum's own bytes are left.

    Args:
        package: The package's directory, or an ONNX file of it: then the sidecar stays, and forgets that file.

    Raises:
        PackageError: There is no such package.
        HtpError: A file is not an ONNX model, or could not be written; it stays as it is.

    Example:
        >>> strip("bert_onnx").changed    # doctest: +SKIP
        ('model.onnx', 'export_metadata.json')
    """
    path = path_of(package)
    directory, files = onnx_files(path)
    for file in files.values():  # what can't be stripped is refused before anything is changed
        if read_packed(read_model(file)) is not None:
            raise PackageError(f"{file}: a packed file; unpack it first: optimum-cli htp unpack {file} DIR")
    restored = _undo_renames(directory, files)  # before the sidecar goes, which has the old names
    whole = path.is_dir()
    # First, for as long as it is there it says that the package is complete.
    has_sidecar = whole and _remove(directory / SIDECAR)
    has_block = whole and remove_config_metadata(directory)
    changed = {name: strip_tags(file) or name in restored for name, file in files.items()}
    if has_sidecar:
        changed[SIDECAR] = True
    if has_block:
        changed[CONFIG] = True
    if not whole:
        _forget(directory, files)
    return StripReport(str(path), changed)


def _remove(file: Path) -> bool:
    """Removes a file; says whether it was there."""
    if not file.is_file():
        return False
    try:
        file.unlink()
    except OSError as error:
        raise cannot_write(file, error) from error
    return True


def _forget(directory: Path, files: Mapping[str, Path]) -> None:
    """Takes the files out of the sidecar of the package that they are in: they have no tags any more."""
    sidecar = _sidecar(directory)
    if sidecar is not None and files.keys() & sidecar.files.keys():
        left = {name: record for name, record in sidecar.files.items() if name not in files}
        replace(sidecar, files=left).write(directory)


def _sidecar(directory: Path) -> Sidecar | None:
    try:
        return Sidecar.read(directory)
    except PackageError:  # broken: it can be stripped all the same
        return None


def _undo_renames(directory: Path, files: Mapping[str, Path]) -> set[str]:
    """Gives initializers their old names back, as the file and the sidecar have them; returns what this changed."""
    sidecar = _sidecar(directory)
    records = sidecar.files if sidecar is not None else {}
    changed: set[str] = set()
    for name, file in files.items():
        recorded = records[name].renamed if name in records else {}
        if undo_renames(file, {**renamed_tensors(read_model(file)), **recorded}):
            changed.add(name)
    return changed
