"""`strip`: removing what we wrote, so that a package has Optimum's own bytes again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optimum_htp.collecting import no_collecting
from optimum_htp.errors import PackageError
from optimum_htp.onnxfile import undo_renames
from optimum_htp.package import (
    CONFIG,
    MODULES,
    SIDECAR,
    FileRecord,
    HtpFile,
    HtpPackage,
    add_config_metadata,
    changing,
    has_config_metadata,
    is_sentence_graph,
    read_packed,
    remove_config_metadata,
    renamed_tensors,
    strip_tags,
)
from optimum_htp.reports import Report


@dataclass(frozen=True, slots=True, repr=False)
class StripReport(Report):
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


@no_collecting()
def strip(package: str | Path | HtpPackage) -> StripReport:
    """Removes all that we wrote from a package, or from one ONNX file: Optimum's own bytes are left.

    Args:
        package: The package's directory, or an ONNX file of it: then the sidecar stays, without that file, if it knows
            others.

    Raises:
        PackageError: There is no such package.
        HtpError: A file is not an ONNX model, or something could not be written; the package is as it was.

    Example:
        >>> strip("bert_onnx").changed    # doctest: +SKIP
        ('model.onnx', 'export_metadata.json')
    """
    with changing(package, strict=False) as (opened, staging):  # a broken sidecar or config does not matter
        for file in opened.files.values():
            if read_packed(file.model) is not None:
                advice = f"unpack it first: optimum-cli htp unpack {file.path} DIR"
                raise PackageError(f"{file.path}: a packed file; {advice}")
        files = {name: _restored(file, staging.path / name) for name, file in opened.files.items()}
        left = {} if opened.path.is_dir() else _records_of_others(opened)
        removed: tuple[str, ...] = ()
        if opened.path.is_dir() or left == {}:
            ours = (SIDECAR, MODULES) if is_sentence_graph(opened.directory) else (SIDECAR,)
            removed = tuple(name for name in ours if os.path.lexists(opened.directory / name))
            if remove_config_metadata(opened.directory, destination=staging.path):
                files[CONFIG] = True
        elif left and opened.sidecar is not None:
            replace(opened.sidecar, files=left).write(staging.path)
            if has_config_metadata(opened.directory):
                files[CONFIG] = add_config_metadata(opened.directory, left, destination=staging.path)
        staging.commit(remove=removed)
    return StripReport(str(opened.path), files | dict.fromkeys(removed, True))


def _records_of_others(package: HtpPackage) -> dict[str, FileRecord] | None:
    """What the sidecar knows besides one file of a package; None if it does not know that either."""
    if package.sidecar is None or not package.files.keys() & package.sidecar.files.keys():
        return None
    return {name: record for name, record in package.sidecar.files.items() if name not in package.files}


def _restored(file: HtpFile, target: Path) -> bool:
    """Writes a file as it was without us, if there is anything of ours in it; says whether there was.

    Initializers get their old names back, as the file and the sidecar have them.
    """
    renamed = {**renamed_tensors(file.model), **(file.record.renamed if file.record is not None else {})}
    target.parent.mkdir(parents=True, exist_ok=True)
    if undo_renames(file.path, renamed, destination=target):
        strip_tags(target)
        return True
    return strip_tags(file.path, model=file.model, destination=target)
