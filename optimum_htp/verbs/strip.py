"""`strip`: removing what we wrote, so that a package has Optimum's own bytes again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optimum_htp.errors import PackageError, writing
from optimum_htp.onnxfile import undo_renames
from optimum_htp.package import (
    CONFIG,
    SIDECAR,
    HtpFile,
    HtpPackage,
    path_of,
    read_packed,
    remove_config_metadata,
    renamed_tensors,
    strip_tags,
)


@dataclass(frozen=True, slots=True)
class StripReport:
    """What was removed from a package.

    Attributes:
        package: Its path.
        files: Whether something of ours was in each file that may have it, by its path in the package. If so, it was
            rewritten, and the sidecar deleted.
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
        package: The package's directory, or an ONNX file of it: then the sidecar stays, without that file.

    Raises:
        PackageError: There is no such package.
        HtpError: A file is not an ONNX model, or could not be written; it stays as it is.

    Example:
        >>> strip("bert_onnx").changed    # doctest: +SKIP
        ('model.onnx', 'export_metadata.json')
    """
    path = path_of(package)
    opened = HtpPackage(path, strict=False)  # a broken sidecar or config does not matter
    directory, files, sidecar = opened.directory, opened.files, opened.sidecar
    for file in files.values():  # what can't be stripped is refused before anything is changed
        if read_packed(file.model) is not None:
            raise PackageError(f"{file.path}: a packed file; unpack it first: optimum-cli htp unpack {file.path} DIR")
    restored = {name for name, file in files.items() if _undo_renames(file)}
    removed: dict[str, bool] = {}
    if path.is_dir():
        # First, for as long as it is there it says that the package is complete.
        has_sidecar = (directory / SIDECAR).is_file()
        with writing(directory / SIDECAR):
            (directory / SIDECAR).unlink(missing_ok=True)
        removed = {SIDECAR: has_sidecar, CONFIG: remove_config_metadata(directory)}
    changed = {name: strip_tags(file.path) or name in restored for name, file in files.items()}
    if path.is_file() and sidecar is not None and files.keys() & sidecar.files.keys():
        left = {name: record for name, record in sidecar.files.items() if name not in files}
        replace(sidecar, files=left).write(directory)
    return StripReport(str(path), changed | {name: True for name, was_there in removed.items() if was_there})


def _undo_renames(file: HtpFile) -> bool:
    """Gives initializers their old names back, as the file and the sidecar have them; says whether there were any."""
    recorded = file.record.renamed if file.record is not None else {}
    return bool(undo_renames(file.path, {**renamed_tensors(file.model), **recorded}))
