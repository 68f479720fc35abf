"""`pack`: a package as one ONNX file.

Weights are copied from file to file by the system, and never held in memory. `package/archive.py` has the format.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from optimum_htp.errors import ModelTooLargeError, OnnxFileError, PackageError, writing
from optimum_htp.onnxfile import (
    MAX_MODEL_BYTES,
    SourceFiles,
    Splice,
    TensorField,
    creating,
    external_data_files,
    read_model,
    rewrite_tensors,
)
from optimum_htp.package import (
    CONFIG,
    FILE_PREFIX,
    MANIFEST,
    MAX_EXTERNAL_BYTES,
    MODEL_INDEX,
    ExternalTensor,
    HtpPackage,
    StagedDirectory,
    advice_without_config,
    check_external_sizes,
    check_sizes,
    is_pack_key,
    manifest_text,
    names_problem,
    onnx_files,
    package_files,
    path_of,
)
from optimum_htp.reports import Report

_MAX_ODD_BYTES = 1 << 16  # of one tensor


@dataclass(frozen=True, slots=True, repr=False)
class PackReport(Report):
    """What was packed.

    Attributes:
        file: The ONNX file that was written.
        size_bytes: How long it is.
        files: The files of the package that are in it, by their paths in the package.
    """

    file: Path
    size_bytes: int
    files: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {"file": str(self.file), "bytes": self.size_bytes, "files": list(self.files)}


def pack(package: str | Path | HtpPackage, output: str | Path, *, overwrite: bool = False) -> PackReport:
    """Packs a package that has one ONNX file into that file: config, tokenizer, processors, tags and all.

    What is written is an ordinary ONNX model: any tool reads it, and `AutoModelForONNX` loads it with no other file.
    External weights move into it.

    Args:
        package: The package's directory. It is only read.
        output: The ONNX file to write, outside the package.
        overwrite: Replace `output` if it exists.

    Raises:
        PackageError: The package has several ONNX files or no config.json, something in it can't be packed, or
            `output` exists.
        ModelTooLargeError: With its weights the file would be longer than protobuf allows.
        HtpError: The file could not be written; what was there is unchanged.

    Example:
        >>> pack("bert_onnx", "bert.onnx").size_bytes    # doctest: +SKIP
    """
    plan = _plan(path_of(package))
    target = _target(plan, Path(output), overwrite=overwrite)
    with ExitStack() as stack:
        files = stack.enter_context(SourceFiles(plan.onnx))
        tensors, splice = _with_weights_inside(plan, files)
        sizes = {name: path.stat().st_size for name, path in plan.external.items()}
        inside = len(files.data) + sum(tensor.length for tensor in tensors)
        check_external_sizes(sizes, len(tensors), packed_bytes=inside, source=str(plan.directory))
        entries = {FILE_PREFIX + name: _encoded(path) for name, path in sorted(plan.small.items())}
        entries[MANIFEST] = manifest_text(plan.name, tensors, sizes)
        content = files.with_metadata(splice, entries, drop=is_pack_key)
        if content.length_bytes > MAX_MODEL_BYTES:
            message = f"packed it would have {content.length_bytes:,} bytes, more than protobuf's {MAX_MODEL_BYTES:,}"
            raise ModelTooLargeError(f"{message}: a model of this size stays a directory", path=plan.onnx)
        with writing(target, needed_bytes=content.length_bytes), StagedDirectory(target.parent) as staging:
            _target(plan, target, overwrite=overwrite)  # again, now that nobody else writes there
            mode = stat.S_IMODE(plan.onnx.stat().st_mode) & 0o666 | 0o600
            with creating(staging.path / target.name, mode=mode) as descriptor:
                files.write(content.pieces, descriptor)
            staging.commit()
    return PackReport(target, content.length_bytes, tuple(sorted((plan.name, *plan.external, *plan.small))))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to pack: every file of a package, by its path in it."""

    directory: Path
    name: str
    onnx: Path
    external: Mapping[str, Path]
    small: Mapping[str, Path]


def _plan(directory: Path) -> _Plan:
    """Lists the files of a package, and checks that it can be packed."""
    if not directory.is_dir():
        advice = "give the directory that holds the ONNX file and its config.json"
        raise PackageError(f"{directory}: {'a file' if directory.exists() else 'no such package'}; {advice}")
    _, models = onnx_files(directory)
    if len(models) > 1:
        listed = f"{len(models)} ONNX files ({', '.join(sorted(models)[:6])})"
        raise PackageError(f"{directory}: {listed}, and only one can be packed into one file")
    ((name, onnx),) = models.items()
    model = read_model(onnx)
    if any(map(is_pack_key, model.metadata)):
        raise PackageError(f"{onnx}: packed already; unpack it first: optimum-cli htp unpack {onnx} DIR")
    files = dict(package_files(directory))
    external = {}
    for location in sorted(external_data_files(model)):
        path = (PurePosixPath(name).parent / location).as_posix()
        if names_problem([path]) is None and path in files:
            external[path] = files[path]
        else:
            advice = "get the whole package and pack it again"
            raise PackageError(f"{onnx}: its weights are in {location!r}, not a file of the package; {advice}")
    small = {path: file for path, file in files.items() if path != name and path not in external}
    if not any(config in small for config in (CONFIG, MODEL_INDEX)):
        advice = advice_without_config(directory)
        raise PackageError(f"{directory}: no config.json in it, so one file would not be a whole model; {advice}")
    problem = names_problem([name, *external, *small])
    if problem is not None:
        raise PackageError(f"{directory}: {problem}, so it can't be packed; rename the file")
    check_sizes({path: file.stat().st_size for path, file in small.items()}, source=str(directory))
    return _Plan(directory, name, onnx, external, small)


def _target(plan: _Plan, destination: Path, *, overwrite: bool) -> Path:
    """Where to write: the destination, if that harms nothing."""
    if destination.suffix != ".onnx":
        raise PackageError(f"{destination}: the packed file is an ONNX file; give a name that ends in .onnx")
    if destination.parent.resolve().is_relative_to(plan.directory.resolve()):
        raise PackageError(f"{destination}: inside the package that is to be packed; write the file somewhere else")
    if destination.is_dir() or not destination.parent.is_dir():
        problem = "a directory" if destination.is_dir() else "its directory does not exist"
        raise PackageError(f"{destination}: {problem}; give the path of the ONNX file to write")
    if os.path.lexists(destination) and not overwrite:
        raise PackageError(f"{destination}: it exists already; give --overwrite to replace it, or another path")
    return destination


def _encoded(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise PackageError(f"{path}: cannot be read: {error.strerror}; fix its permissions") from error


def _with_weights_inside(plan: _Plan, files: SourceFiles) -> tuple[list[ExternalTensor], Splice | None]:
    """The change that puts the content of external tensors into the ONNX file, and where that content was."""
    tensors: list[ExternalTensor] = []
    parent = PurePosixPath(plan.name).parent
    starts = {path: files.add(file) for path, file in plan.external.items()}
    sizes = {path: file.stat().st_size for path, file in plan.external.items()}
    if any(size > MAX_EXTERNAL_BYTES for size in sizes.values()):
        message = f"its weights have {max(sizes.values()):,} bytes, more than protobuf's {MAX_MODEL_BYTES:,}"
        raise ModelTooLargeError(f"{message}: a model of this size stays a directory", path=plan.onnx)

    def inline(field: TensorField) -> Splice | None:
        if not field.is_external:
            return None
        data = dict(field.entries)
        path = (parent / data["location"]).as_posix()
        offset = int(data.get("offset", "0"))
        length = int(data.get("length", str(sizes[path] - offset)))
        if length < 0 or offset + length > sizes[path]:
            message = f"the tensor {field.name!r} ends after {path!r} does"
            raise OnnxFileError(f"{message}: get the whole package and pack it again", path=plan.onnx)
        odd = field.odd_fields(files.data)
        if sum(len(encoded) for _, encoded in odd) > _MAX_ODD_BYTES:
            message = f"the tensor {field.name!r} says in more than {_MAX_ODD_BYTES:,} bytes where its content is"
            raise OnnxFileError(f"{message}: get the package from where it was made", path=plan.onnx)
        tensors.append(
            ExternalTensor(field.position, field.name, field.entries, data["location"], offset, length, odd)
        )
        return field.with_content((starts[path] + offset, starts[path] + offset + length))

    return tensors, rewrite_tensors(files.data, inline)
