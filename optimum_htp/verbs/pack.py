"""Packing: a package as one ONNX file, and back.

Weights are copied from file to file by the system and never held in memory. The format is that of `packed`.
"""

from __future__ import annotations

import base64
import errno
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from optimum_htp.errors import HtpError, ModelTooLargeError, OnnxFileError, PackageError
from optimum_htp.onnxfile import (
    MAX_MODEL_BYTES,
    SourceFiles,
    Splice,
    TensorField,
    external_data_files,
    read_model,
    replacing,
    rewrite_tensors,
    wire_errors,
)
from optimum_htp.package import (
    FILE_PREFIX,
    MANIFEST,
    MAX_EXTERNAL_BYTES,
    ExternalTensor,
    PackedFiles,
    StagedDirectory,
    check_sizes,
    is_pack_key,
    manifest_text,
    names_problem,
    onnx_files,
    read_packed,
)


logger = logging.getLogger(__name__)

_CONFIGS = ("config.json", "model_index.json")


def pack(package: str | Path, destination: str | Path, *, overwrite: bool = False) -> Path:
    """Packs a package that has one ONNX file into that file: config, tokenizer, processors, tags and all.

    What is written is an ordinary ONNX model: any tool reads it, and `AutoModelForONNX` loads it with nothing beside
    it. External weights move into the file.

    Args:
        package: The package's directory. It is only read.
        destination: The ONNX file to write, outside the package.
        overwrite: Replace `destination` if it is there.

    Returns:
        The file that was written.

    Raises:
        PackageError: The package has several ONNX files or no config.json, something in it can't be packed, or the
            destination is there already.
        ModelTooLargeError: With its weights the file would be longer than protobuf allows.
        HtpError: The file could not be written; what was there stands.

    Example:
        >>> pack("bert_onnx", "bert.onnx")    # doctest: +SKIP
    """
    plan = _plan(Path(package))
    target = _target(plan, Path(destination), overwrite=overwrite)
    with ExitStack() as stack:
        files = stack.enter_context(SourceFiles(plan.onnx))
        tensors, splice = _with_weights_inside(plan, files)
        sizes = {name: path.stat().st_size for name, path in plan.external.items()}
        entries = {FILE_PREFIX + name: _encoded(path) for name, path in sorted(plan.small.items())}
        entries[MANIFEST] = manifest_text(plan.name, tensors, sizes)
        content = files.with_metadata(splice, entries, drop=is_pack_key)
        if content.length_bytes > MAX_MODEL_BYTES:
            message = f"packed it would have {content.length_bytes:,} bytes, more than protobuf's {MAX_MODEL_BYTES:,}"
            raise ModelTooLargeError(f"{message}: a model of this size stays a directory", path=plan.onnx)
        with _written(target, content.length_bytes):
            mode = stat.S_IMODE(plan.onnx.stat().st_mode) & 0o666 | 0o600
            with replacing(target, mode=mode) as descriptor:
                files.write(content.pieces, descriptor)
    return target


def unpack(file: str | Path, directory: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Gives back the package that was packed into an ONNX file, byte for byte.

    Weights that were external before are external again, in the same files at the same places; bytes between tensors
    come back as zeros.

    Args:
        file: The packed ONNX file. It is only read.
        directory: Where to write the package; made if it is not there.
        overwrite: Replace files of the same names.

    Returns:
        The files that were written.

    Raises:
        PackageError: The file is not packed, what is packed in it is not safe to write, or a file of the same name is
            there already. Nothing was written.
        HtpError: The package could not be written; what was there stands.

    Example:
        >>> unpack("bert.onnx", "bert_onnx")    # doctest: +SKIP
    """
    file, directory = Path(file), Path(directory)
    packed = read_packed(read_model(file))
    if packed is None:
        raise PackageError(f"{file}: not a packed file; make one with: optimum-cli htp pack PKG {file.name}")
    with SourceFiles(file) as source:
        splice, weights = _with_weights_outside(packed, source)
        names = [packed.onnx_name, *(packed.external_sizes if weights else ()), *packed.encoded]
        _check_free(directory, names, overwrite=overwrite)
        with StagedDirectory(directory) as staging, _written(directory, len(source.data)):
            content = source.with_metadata(splice, {}, drop=is_pack_key)
            _write_new(staging.path / packed.onnx_name, lambda target: source.write(content.pieces, target))
            if weights:
                _write_weights(staging.path, packed, source, weights)
            for name in packed.encoded:
                content_of_file = packed.read(name) or b""
                _write_new(staging.path / name, partial(_write_all, content=content_of_file))
            staging.commit()
    return [directory / name for name in names]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to pack: every file of a package, by its path in it."""

    directory: Path
    name: str
    onnx: Path
    external: Mapping[str, Path]
    small: Mapping[str, Path]


def _plan(directory: Path) -> _Plan:
    """Finds out what a package consists of, and whether it can be packed."""
    if not directory.is_dir():
        advice = "give the directory that holds the ONNX file and its config.json"
        raise PackageError(f"{directory}: {'a file' if directory.exists() else 'no such package'}; {advice}")
    found = onnx_files(directory)
    if len(found) > 1:
        listed = ", ".join(sorted(found)[:6])
        raise PackageError(
            f"{directory}: {len(found)} ONNX files ({listed}), and only one can be packed into one file"
        )
    ((name, onnx),) = found.items()
    model = read_model(onnx)
    if any(map(is_pack_key, model.metadata)):
        raise PackageError(f"{onnx}: packed already; unpack it first: optimum-cli htp unpack {onnx} DIR")
    files = dict(_walk(directory))
    external = {}
    for location in sorted(external_data_files(model)):
        path = (PurePosixPath(name).parent / location).as_posix()
        if names_problem([path]) is None and path in files:
            external[path] = files[path]
        else:
            advice = "get the whole package and pack it again"
            raise PackageError(f"{onnx}: its weights are in {location!r}, no file of the package; {advice}")
    small = {path: file for path, file in files.items() if path != name and path not in external}
    if not any(config in small for config in _CONFIGS):
        advice = f"write it with: optimum-cli htp tag {directory} --model MODEL"
        raise PackageError(f"{directory}: no config.json in it, so one file would not be a whole model; {advice}")
    problem = names_problem([name, *external, *small])
    if problem is not None:
        raise PackageError(f"{directory}: {problem}, so it can't be packed; rename the file")
    check_sizes({path: file.stat().st_size for path, file in small.items()}, source=str(directory))
    return _Plan(directory, name, onnx, external, small)


def _walk(directory: Path) -> Iterator[tuple[str, Path]]:
    """Every file of a package by its path in it; hidden directories and Python's caches don't count."""
    real = directory.resolve()
    # A snapshot in the Hub's cache consists of links into `blobs/` of the same repository.
    blobs = [parent.parent / "blobs" for parent in (real, *real.parents) if parent.name == "snapshots"]

    def failed(error: OSError) -> None:
        raise PackageError(f"{error.filename}: cannot be read: {error.strerror}; mend its permissions") from error

    for root, directories, names in os.walk(directory, onerror=failed):
        directories[:] = [name for name in directories if not name.startswith(".") and name != "__pycache__"]
        for path in (Path(root, name) for name in (*directories, *names)):
            if path.is_symlink() and not any(path.resolve().is_relative_to(blob) for blob in blobs):
                raise PackageError(f"{path}: a symbolic link; put the file itself there and pack again")
            if path.is_dir():
                continue
            if not path.is_file():
                kind = "a broken link" if path.is_symlink() else "not a regular file"
                raise PackageError(f"{path}: {kind}; remove it from the package")
            yield path.relative_to(directory).as_posix(), path


def _target(plan: _Plan, destination: Path, *, overwrite: bool) -> Path:
    """Where to write: the destination, if that harms nothing."""
    target = Path(os.path.realpath(destination))
    if destination.suffix != ".onnx":
        raise PackageError(f"{destination}: the packed file is an ONNX file; give a name that ends in .onnx")
    if target.is_relative_to(plan.directory.resolve()):
        raise PackageError(f"{destination}: inside the package that is to be packed; write the file somewhere else")
    if target.is_dir() or not target.parent.is_dir():
        reason = "a directory" if target.is_dir() else "its directory does not exist"
        raise PackageError(f"{destination}: {reason}; give the path of the ONNX file to write")
    if os.path.lexists(destination) and not overwrite:
        raise PackageError(f"{destination}: there already; give --overwrite to replace it, or another path")
    return target


def _encoded(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise PackageError(f"{path}: cannot be read: {error.strerror}; mend its permissions") from error


def _with_weights_inside(plan: _Plan, files: SourceFiles) -> tuple[list[ExternalTensor], Splice | None]:
    """Describes the ONNX file with the content of external tensors in it, and where that content was."""
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
        tensors.append(ExternalTensor(field.position, field.name, field.entries, data["location"], offset, length))
        return field.with_content((starts[path] + offset, starts[path] + offset + length))

    with wire_errors(plan.onnx):
        return tensors, rewrite_tensors(files.data, inline if plan.external else None)


_Weights = list[tuple[ExternalTensor, tuple[int, int]]]


def _with_weights_outside(packed: PackedFiles, source: SourceFiles) -> tuple[Splice | None, _Weights]:
    """Describes the ONNX file without the content that was external, and where in the packed file that is."""
    wanted = {tensor.position: tensor for tensor in packed.tensors}
    weights: _Weights = []

    def take_out(field: TensorField) -> Splice | None:
        tensor = wanted.get(field.position)
        if tensor is None or tensor.name != field.name or field.content is None:
            return None
        if field.content[1] - field.content[0] != tensor.length:
            return None
        weights.append((tensor, field.content))
        return field.with_entries(tensor.entries)

    with wire_errors(Path(packed.source)):
        splice = rewrite_tensors(source.data, take_out if wanted else None)
    if len(weights) != len(packed.tensors):
        logger.warning("%s was changed since it was packed: its weights stay in the ONNX file.", packed.source)
        return None, []
    return splice, weights


def _write_weights(directory: Path, packed: PackedFiles, source: SourceFiles, weights: _Weights) -> None:
    parent = PurePosixPath(packed.onnx_name).parent
    for name, size in packed.external_sizes.items():
        own = [(tensor, span) for tensor, span in weights if (parent / tensor.location).as_posix() == name]

        def write(target: int, size: int = size, own: _Weights = own) -> None:
            os.ftruncate(target, size)
            for tensor, span in own:
                os.lseek(target, tensor.offset, os.SEEK_SET)
                source.write([span], target)

        _write_new(directory / name, write)


def _check_free(directory: Path, names: Iterable[str], *, overwrite: bool) -> None:
    """Checks that nothing of the user's is in the way."""
    for name in names:
        path = directory / name
        for parent in list(path.parents)[: len(PurePosixPath(name).parts) - 1]:
            if parent.is_symlink():
                raise PackageError(f"{parent}: a symbolic link, and the package is not written through it; remove it")
        if os.path.lexists(path) and not overwrite:
            advice = "give --overwrite to replace it, or another directory"
            raise PackageError(f"{path}: there already, nothing was written; {advice}")


def _write_new(path: Path, write: Callable[[int], None]) -> None:
    """Writes a new file, to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        write(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(target: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(target, view) :]


@contextmanager
def _written(target: Path, length_bytes: int) -> Iterator[None]:
    """Turns what the system says about writing into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = f"make {length_bytes:,} bytes of room on that disk and run it again"
        else:
            advice = "nothing was changed; write elsewhere or mend the permissions"
        raise HtpError(f"cannot write {target}: {error.strerror or error}; {advice}") from error
