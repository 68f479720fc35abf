"""Checks of the files: ONNX that can be read and run here, external data, links and paths, the set of files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata as importlib_metadata
from pathlib import Path

from optimum_htp.errors import OnnxFileError, PackageError
from optimum_htp.onnxfile import (
    Initializer,
    OnnxModel,
    bounded_product,
    check_sound,
    element_type,
    external_data_files,
)
from optimum_htp.package import EXPORT_MANIFEST, HtpFile, is_inside
from optimum_htp.verbs.validate.contents import MAX_ENTRIES, Contents
from optimum_htp.verbs.validate.report import Finding, failed, good, skipped, warning

# From which version of ONNX Runtime on it takes which highest IR version and highest opset of ai.onnx. Measured with the
# CPU wheels 1.19.2 to 1.32.0 of PyPI, a one-node model for each version; 1.18 is from
# https://onnxruntime.ai/docs/reference/compatibility.html. A version after the last takes at least as much.
_RUNTIME_LIMITS: dict[tuple[int, int], tuple[int, int]] = {
    (1, 18): (10, 21),
    (1, 21): (10, 22),
    (1, 23): (11, 23),
    (1, 24): (13, 25),
    (1, 25): (13, 26),
    (1, 32): (14, 28),
}
_LOWEST_OPSET = 7
_RUNTIMES = (
    "onnxruntime onnxruntime-gpu onnxruntime-directml onnxruntime-openvino onnxruntime-qnn onnxruntime-rocm "
    "onnxruntime-migraphx onnxruntime-training"
).split()

_EXPORT_AGAIN = "export or download the package again"


def check_onnx(package: Contents) -> Iterator[Finding]:
    """Every ONNX file can be read, and its graph has outputs."""
    for name, file in package.files.items():
        if name in package.problems:
            yield failed(str(package.problems[name]).replace(str(file.path), name, 1), _EXPORT_AGAIN)
        elif not file.model.graph.outputs:
            # ORTOptimizer writes such a file for a merged decoder at O2 and O3.
            yield failed(f"{name}: the graph is empty", "optimize the package again, at another level")
        else:
            yield from _unsound(name, file)
    if package.readable:
        nodes = sum(1 for model in package.readable.values() for _ in model.nodes())
        yield good(f"{len(package.readable)} files, {nodes:,} nodes" if len(package.files) > 1 else f"{nodes:,} nodes")


def _unsound(name: str, file: HtpFile) -> Iterator[Finding]:
    """What protobuf, or every tool behind it, refuses in a file that can be read here."""
    try:
        check_sound(file.model)
    except OnnxFileError as error:
        yield failed(str(error).replace(str(file.path), name, 1)[:400], _EXPORT_AGAIN)


def check_versions(package: Contents) -> Iterator[Finding]:
    """The installed ONNX Runtime takes the IR version and the opset; it is not imported."""
    runtime = installed_runtime()
    if runtime is None:
        yield skipped("ONNX Runtime is not installed here")
        return
    opsets = {
        name: max(model.opset_imports.get(domain, 0) for domain in ("", "ai.onnx"))
        for name, model in package.readable.items()
    }
    for name, model in package.readable.items():
        yield from _too_new(name, {"IR version": model.ir_version, "opset": opsets[name]}, runtime)
        if not model.ir_version:
            yield failed(f"{name}: it has no IR version", _EXPORT_AGAIN)
        elif not opsets[name] and any(not node.domain for node in model.graph.nodes):
            yield failed(f"{name}: it does not say which opset its nodes are from", _EXPORT_AGAIN)
        elif 0 < opsets[name] < _LOWEST_OPSET:
            advice = f"convert it to opset {_LOWEST_OPSET} or above with onnx.version_converter"
            yield warning(f"{name}: opset {opsets[name]}; ONNX Runtime promises nothing below {_LOWEST_OPSET}", advice)
    if not package.readable:
        yield skipped("no file could be read")
        return
    versions, numbers = (
        ", ".join(map(str, sorted(set(values))))
        for values in ((model.ir_version for model in package.readable.values()), opsets.values())
    )
    yield good(f"ONNX Runtime {runtime[0]}.{runtime[1]} takes IR version {versions} and opset {numbers}")


def _too_new(name: str, versions: dict[str, int], runtime: tuple[int, int]) -> Iterator[Finding]:
    known = max((version for version in _RUNTIME_LIMITS if version <= runtime), default=min(_RUNTIME_LIMITS))
    highest = dict(zip(("IR version", "opset"), _RUNTIME_LIMITS[known], strict=True))
    this = f"ONNX Runtime {runtime[0]}.{runtime[1]}"
    for what, value in versions.items():
        if value <= highest[what]:
            continue
        if runtime > max(_RUNTIME_LIMITS):
            yield warning(f"{name}: {what} {value}; whether {this} takes it is unknown", "try it with --load")
        else:
            advice = "upgrade onnxruntime, or export again with a lower --opset"
            yield failed(f"{name}: {what} {value}, and {this} takes {highest[what]} at most", advice)


def installed_runtime() -> tuple[int, int] | None:
    """The major and minor version of the installed ONNX Runtime, None if there is none; it is not imported."""
    for name in _RUNTIMES:
        try:
            version = re.match(r"(\d+)\.(\d+)", importlib_metadata.version(name))
        except importlib_metadata.PackageNotFoundError:
            continue
        if version is not None:
            return int(version[1]), int(version[2])
    return None


def check_external_data(package: Contents) -> Iterator[Finding]:
    """Every file of external weights is there, and as long as the tensors in it need."""
    needed: dict[Path, tuple[str, int]] = {}
    for name, model in package.readable.items():
        for tensor in _external_tensors(model):
            file = Path(package.files[name].path.parent, tensor.location or "")
            if _leads_out(package, name, tensor.location or ""):
                continue  # `paths` says so; what is there is not examined
            label, longest = needed.get(file, ("", 0))
            needed[file] = (label or _label(name, tensor), max(longest, tensor.offset + _bytes_of(tensor)))
    for file, (label, size) in needed.items():
        actual = None
        with suppress(OSError, ValueError):
            actual = file.stat().st_size if file.is_file() else None
        if actual is None:
            yield failed(f"{label} is not there", "copy it next to the ONNX file, under that name")
        elif actual < size:
            yield failed(f"{label} has {actual:,} bytes, and the tensors in it need {size:,}", _EXPORT_AGAIN)
    if not needed:
        yield skipped("no weights outside the ONNX files") if package.readable else skipped("no file could be read")
    else:
        total = sum(size for _, size in needed.values())
        yield good(f"{total:,} bytes in {len(needed)} {'file' if len(needed) == 1 else 'files'}")


def _external_tensors(model: OnnxModel) -> Iterator[Initializer]:
    for _, graph in model.graphs():
        for tensor in (*graph.initializers, *graph.external_attributes):
            if tensor.location is not None:
                yield tensor


def _bytes_of(tensor: Initializer) -> int:
    """How many bytes of content a tensor has: as it says, else by its shape; 0 if neither is known."""
    if tensor.length is not None:
        return tensor.length
    if any(size < 0 for size in tensor.dims):
        return 0
    elements = bounded_product(tensor.dims)
    return -(-elements * (element_type(tensor.data_type).bits or 0) // 8)


def _label(name: str, tensor: Initializer) -> str:
    folder = name.rpartition("/")[0]
    return f"{folder}/{tensor.location}" if folder else str(tensor.location)


def check_paths(package: Contents) -> Iterator[Finding]:
    """Nothing leads out of the package: no external data, no link."""
    advice = "do not use this package, unless you know who made it and why"
    for name, model in package.readable.items():
        for location in sorted(external_data_files(model)):
            if _leads_out(package, name, location):
                yield failed(f"{name} reads its weights from {location!r}, outside the package", advice)
    entries = package.entries()
    for entry in filter(Path.is_symlink, entries):
        link = f"{entry.relative_to(package.directory).as_posix()} is a link to {str(entry.readlink())!r}"
        if not is_inside(entry, package.directory):
            yield failed(f"{link}, outside the package", advice)
        elif not entry.exists():
            yield failed(f"{link}, which is not there", _EXPORT_AGAIN)
    if len(entries) > MAX_ENTRIES:
        yield warning(f"more than {MAX_ENTRIES:,} files; the rest was not checked", "is this the right directory?")
    else:
        yield good("nothing leads out of the package")


def _leads_out(package: Contents, name: str, location: str) -> bool:
    """Whether a file's external weights would be read from outside the package, on any system."""
    absolute = location.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", location) is not None
    if absolute or "\0" in location or ".." in re.split(r"[/\\]", location):
        return True
    return not is_inside(package.files[name].path.parent / location, package.directory)


def _check_components(package: Contents) -> Iterator[Finding]:
    """The files of a package that transformers exported by itself."""
    for name in package.files:
        if package.components.of_file(name) is None and name not in package.origins and package.path.is_dir():
            advice = "remove it if an earlier export left it; transformers loads what is named there"
            yield warning(f"{EXPORT_MANIFEST} does not name {name}", advice)
    listed = ", ".join(component.file for component in package.components if component.file in package.files)
    yield good(f"{listed}: as {EXPORT_MANIFEST} names them")


def check_files(package: Contents) -> Iterator[Finding]:
    """The ONNX files that Optimum's classes need together are there, and what is packed in a file can be unpacked."""
    for name in package.packed.encoded if package.packed is not None else ():
        try:
            package.read(name)
        except PackageError as error:
            yield failed(str(error))
    if EXPORT_MANIFEST in package.problems:
        yield failed(str(package.problems[EXPORT_MANIFEST]).removeprefix(f"{package.path}: "))
        return
    if package.components:
        yield from _check_components(package)
        return
    names = [name.rpartition("/")[2] for name in package.files]  # `onnx/model.onnx` is found as `model.onnx` is
    encoders = [name for name in names if "encoder" in name]
    decoders = [name for name in names if "decoder" in name and name not in encoders]
    plain = package.main_config.get("is_encoder_decoder") is True or package.plain_task == "text2text-generation"
    if package.path.is_file():
        yield good("one file")
    elif package.is_pipeline:
        yield good(f"{len(package.files)} components")
    elif encoders and not decoders and plain and not any(name.startswith("model") for name in names):
        yield failed(f"there is {encoders[0]}, but no decoder", _EXPORT_AGAIN)
    elif decoders and not encoders and plain:
        yield failed(f"there is {decoders[0]}, but no encoder", _EXPORT_AGAIN)
    elif encoders and decoders and not any("with_past" in name or "merged" in name for name in decoders):
        task = package.sidecar.source.get("task") if package.sidecar is not None else None
        if isinstance(task, str) and task.endswith("-with-past"):
            yield failed("exported with past key values, but no decoder here takes any", _EXPORT_AGAIN)
        yield good(", ".join(sorted((*encoders, *decoders))))
    elif len(names) > 1 and not (encoders or decoders) and "model.onnx" not in names:
        yield warning(f"several ONNX files, none of them model.onnx: {', '.join(names)}", "load with file_name=NAME")
    else:
        yield good(", ".join(package.files))
