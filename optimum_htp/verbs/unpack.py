"""`unpack`: the package that was packed into an ONNX file.

Weights are copied from file to file by the system, and never held in memory. `package/archive.py` has the format.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from optimum_htp.errors import PackageError, writing
from optimum_htp.onnxfile import SourceFiles, Splice, TensorField, creating, rewrite_tensors, write_all
from optimum_htp.package import (
    ExternalTensor,
    HtpPackage,
    PackedFiles,
    StagedDirectory,
    as_package,
    check_external_sizes,
    is_pack_key,
    refuse_ways,
    settle,
)
from optimum_htp.reports import Report

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class UnpackReport(Report):
    """What was unpacked.

    Attributes:
        directory: Where.
        files: The files that were written.
    """

    directory: Path
    files: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {"directory": str(self.directory), "files": list(map(str, self.files))}


def unpack(package: str | Path | HtpPackage, output: str | Path, *, overwrite: bool = False) -> UnpackReport:
    """Gives back the package that was packed into an ONNX file, byte for byte.

    Weights that were external before are external again, in the same files at the same places; bytes between tensors
    come back as zeros.

    Args:
        package: The packed ONNX file. It is only read.
        output: The directory to write the package into; created if it does not exist.
        overwrite: Replace files of the same names.

    Raises:
        PackageError: The file is not packed, what is packed in it is not safe to write, or a file of the same name
            exists. Nothing was written.
        HtpError: The package could not be written; what was there is unchanged.

    Example:
        >>> unpack("bert.onnx", "bert_onnx").files    # doctest: +SKIP
    """
    opened, directory = as_package(package), Path(output)
    packed, file = opened.packed, opened.path
    if packed is None:
        raise PackageError(f"{file}: not a packed file; make one with: optimum-cli htp pack PKG {file.name}")
    with SourceFiles(file) as source:
        splice, weights = _with_weights_outside(packed, source)
        if weights:
            check_external_sizes(
                packed.external_sizes, len(weights), packed_bytes=len(source.data), source=packed.source
            )
        needed = len(source.data) + sum(packed.external_sizes.values() if weights else ())
        names = [packed.onnx_name, *(packed.external_sizes if weights else ()), *packed.encoded]
        _check_free(directory, names, overwrite=overwrite)
        with StagedDirectory(directory) as staging, writing(directory, needed_bytes=needed):
            _check_room(staging.path, needed)
            _check_free(directory, names, overwrite=overwrite)  # again, now that nobody else writes there
            content = source.with_metadata(splice, {}, drop=is_pack_key)
            with creating(staging.path / packed.onnx_name) as descriptor:
                source.write(content.pieces, descriptor)
            if weights:
                _write_weights(staging.path, packed, source, weights)
            for name in packed.encoded:
                with creating(staging.path / name) as descriptor:
                    write_all(descriptor, packed.read(name) or b"")
            staging.commit()
    return UnpackReport(directory, tuple(directory / name for name in names))


_Weights = list[tuple[ExternalTensor, tuple[int, int]]]


def _with_weights_outside(packed: PackedFiles, source: SourceFiles) -> tuple[Splice | None, _Weights]:
    """The change that takes the content that was external out of the ONNX file, and where in the file that content is."""
    wanted = {tensor.position: tensor for tensor in packed.tensors}
    weights: _Weights = []

    def take_out(field: TensorField) -> Splice | None:
        tensor = wanted.get(field.position)
        if tensor is None or tensor.name != field.name or field.content is None:
            return None
        start, end = field.content
        if end - start != tensor.length:
            return None
        odd = field.with_odd_fields(tensor.odd, tensor.entries, source.data) if tensor.odd else None
        if tensor.odd and odd is None:
            return None
        weights.append((tensor, field.content))
        return odd or field.with_entries(tensor.entries)

    splice = rewrite_tensors(source.data, take_out)
    if len(weights) != len(packed.tensors):
        logger.warning("%s was changed since it was packed: its weights stay in the ONNX file.", packed.source)
        return None, []
    return splice, weights


def _write_weights(directory: Path, packed: PackedFiles, source: SourceFiles, weights: _Weights) -> None:
    parent = PurePosixPath(packed.onnx_name).parent
    own: dict[str, list[tuple[int, tuple[int, int]]]] = {name: [] for name in packed.external_sizes}
    for tensor, span in weights:
        own[(parent / tensor.location).as_posix()].append((tensor.offset, span))
    for name, size in packed.external_sizes.items():
        with creating(directory / name) as descriptor:
            source.write_at(own[name], descriptor, size_bytes=size)


def _check_room(directory: Path, needed_bytes: int) -> None:
    """Raises PackageError if the disk has less room than that: files with gaps take little of it at first, and more later."""
    free = shutil.disk_usage(directory).free
    if needed_bytes > free:
        raise PackageError(f"{directory.parent}: {needed_bytes:,} bytes are needed there, and {free:,} are free")


def _check_free(directory: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Refuses to write over what exists, or through a link."""
    settle(directory)
    refuse_ways(directory, names)
    for name in names:
        path = directory / name
        if os.path.lexists(path) and not overwrite:
            advice = "give --overwrite to replace it, or another directory"
            raise PackageError(f"{path}: it exists already, nothing was written; {advice}")
