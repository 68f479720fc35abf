"""Packed files: a whole package in the metadata of its one ONNX file. The format, and reading it.

| key of the model's `metadata_props` | value |
|---|---|
| `pkg.optimum_htp.file.<path>` | a file of the package, base64; its path with forward slashes |
| `pkg.optimum_htp.packed` | JSON: the ONNX file's own path in the package, and where external weights lay |

Weights that were external are in the ONNX file itself. Nothing in a file is trusted: every name and every size is
checked before it is used.
"""

from __future__ import annotations

import base64
import binascii
import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from optimum_htp.errors import PackageError, reason
from optimum_htp.onnxfile import OddFields, OnnxModel
from optimum_htp.package.json_files import as_count, as_text, parse_json
from optimum_htp.package.limits import (
    MAX_EXTERNAL_BYTES,
    MAX_EXTERNAL_RATIO,
    MAX_GAP_BYTES,
    MAX_MANIFEST_CHARACTERS,
    MAX_PACKED_FILE_BYTES,
    MAX_PACKED_FILES,
    MAX_PATH_BYTES,
    MAX_PATH_DEPTH,
    MAX_PATH_PART_BYTES,
    MAX_SMALL_BYTES,
)

FILE_PREFIX = "pkg.optimum_htp.file."
MANIFEST = "pkg.optimum_htp.packed"
MANIFEST_VERSION = 1

_DEFAULT_NAME = "model.onnx"
_HIDDEN_FILES = (".gitattributes", ".gitignore")  # which repositories on the Hub have, and nothing reads
_WINDOWS_DEVICES = frozenset("con prn aux nul conin$ conout$".split()) | {
    f"{name}{digit}" for name in ("com", "lpt") for digit in "123456789"
}


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """Where the content of a tensor was before it was packed.

    Attributes:
        position: The tensor's index among all tensors of the ONNX file, in the order of the file.
        name: Its name.
        entries: Its `external_data` as written: `location`, `offset`, `length` and whatever else.
        location: The file, relative to the ONNX file's directory.
        offset: Bytes from the start of that file.
        length: Bytes of content.
        odd: `TensorField.odd_fields`: how the file has `entries` where it is not as protobuf writes them.
    """

    position: int
    name: str
    entries: tuple[tuple[str, str], ...]
    location: str
    offset: int
    length: int
    odd: OddFields = ()


@dataclass(frozen=True, slots=True)
class PackedFiles:
    """What a packed ONNX file carries.

    Attributes:
        source: The packed file, for messages.
        onnx_name: The path of the ONNX file itself in the package.
        encoded: The other files, base64, by their path in the package.
        tensors: The tensors whose content was outside the ONNX file.
        external_sizes: Bytes of each file of external weights, by its path in the package.
    """

    source: str
    onnx_name: str
    encoded: Mapping[str, str]
    tensors: tuple[ExternalTensor, ...] = ()
    external_sizes: Mapping[str, int] = field(default_factory=dict)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if the package has none of that name.

        Raises:
            PackageError: It is not base64.
        """
        encoded = self.encoded.get(name)
        if encoded is None:
            return None
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _damaged(self.source, f"the packed file {name!r} is not base64 ({error})") from error


def is_pack_key(key: str) -> bool:
    """Whether a key of a model's metadata is one that packing writes."""
    return key == MANIFEST or key.startswith(FILE_PREFIX)


def read_packed(model: OnnxModel) -> PackedFiles | None:
    """What a packed file carries; None if it isn't packed. Raises PackageError for what packing does not write."""
    source = str(model.path)
    encoded = {key[len(FILE_PREFIX) :]: value for key, value in model.metadata.items() if key.startswith(FILE_PREFIX)}
    if not encoded and MANIFEST not in model.metadata:
        return None
    try:
        onnx_name, tensors, sizes = _parse_manifest(model.metadata.get(MANIFEST))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _damaged(source, f"{MANIFEST} is not what packing writes ({reason(error)})") from error
    check_sizes({name: len(value) // 4 * 3 for name, value in encoded.items()}, source=source)
    problem = names_problem([onnx_name, *sizes, *encoded])
    if problem is not None:
        raise PackageError(f"{source}: {problem}; nothing was written. Get the file from a source that you trust")
    return PackedFiles(source, onnx_name, encoded, tensors, sizes)


def check_sizes(sizes: Mapping[str, int], *, source: str) -> None:
    """Raises PackageError if there are too many files to pack, or too long ones (in bytes); `source` holds them."""
    if len(sizes) > MAX_PACKED_FILES:
        raise PackageError(f"{source}: {len(sizes):,} files next to the model, more than {MAX_PACKED_FILES:,}")
    for name, size in sizes.items():
        if size > MAX_PACKED_FILE_BYTES:
            message = f"{name!r} has {size:,} bytes, and a file to pack may have {MAX_PACKED_FILE_BYTES:,}"
            raise PackageError(f"{source}: {message}; leave it out of the package if ONNX Runtime does not need it")
    total = sum(sizes.values())
    if total > MAX_SMALL_BYTES:
        raise PackageError(f"{source}: {total:,} bytes next to the model, and {MAX_SMALL_BYTES:,} can be packed")


def check_external_sizes(sizes: Mapping[str, int], tensors: int, *, packed_bytes: int, source: str) -> None:
    """Raises PackageError if files of external weights have far more bytes than the tensors that are to fill them.

    What is between tensors is not packed: alignment, and what other files use. In a hostile file it may be terabytes.
    """
    total = sum(sizes.values())
    limit = MAX_EXTERNAL_RATIO * packed_bytes + MAX_GAP_BYTES * (tensors + len(sizes))
    if total > limit:
        message = f"its external weights would have {total:,} bytes, most of them empty, and {limit:,} may be unpacked"
        raise PackageError(f"{source}: {message} of a packed file of {packed_bytes:,}")


def names_problem(names: Iterable[str]) -> str | None:
    """What is wrong with the names of a package's files, each by itself and any two together; None if nothing is.

    >>> names_problem(["model.onnx", "config.json"])
    >>> names_problem(["model.onnx", "../config.json"])
    "the name '../config.json' leads out of the package"
    >>> names_problem(["model.onnx", "MODEL.onnx"])
    "the names 'model.onnx' and 'MODEL.onnx' are the same on some file systems"
    """
    seen: dict[str, str] = {}
    directories: dict[str, str] = {}
    for name in names:
        problem = _name_problem(name)
        if problem is not None:
            return f"the name {name!r} {problem}"
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            return f"the names {seen[folded]!r} and {name!r} are the same on some file systems"
        seen[folded] = name
        directories.update({str(parent): name for parent in PurePosixPath(folded).parents})
    for folded, name in seen.items():
        if folded in directories:
            return f"the name {name!r} is that of a file and, for {directories[folded]!r}, that of a directory"
    return None


def _name_problem(name: str) -> str | None:
    if not name or len(name.encode(errors="replace")) > MAX_PATH_BYTES:
        return "is empty or too long"
    if any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in name):
        return "has control characters"
    if any(0xD800 <= ord(character) < 0xE000 for character in name):
        return "is not valid Unicode"
    windows = PureWindowsPath(name)
    if name.startswith("/") or windows.drive or windows.root or ":" in name:
        return "is an absolute path or has a drive"
    if "\\" in name:
        return "has a backslash"
    parts = name.split("/")
    if ".." in parts:
        return "leads out of the package"
    if "" in parts or "." in parts or len(parts) > MAX_PATH_DEPTH:
        return "is not a plain relative path"
    if any(part.startswith(".") for part in parts) and name not in _HIDDEN_FILES:
        return "is hidden, or lies in a hidden directory"
    for part in parts:
        if len(part.encode()) > MAX_PATH_PART_BYTES or part[-1] in " .":
            return "is not possible on every file system"
        if part.split(".")[0].rstrip(" ").casefold() in _WINDOWS_DEVICES:
            return "is that of a device on Windows"
    return None


def manifest_text(onnx_name: str, tensors: Iterable[ExternalTensor], sizes: Mapping[str, int]) -> str:
    """The value of `pkg.optimum_htp.packed`.

    >>> manifest_text("model.onnx", [], {})
    '{"version":1,"onnx":"model.onnx"}'
    """
    document: dict[str, Any] = {"version": MANIFEST_VERSION, "onnx": onnx_name}
    if sizes:
        document["external_files"] = dict(sizes)
        document["external_tensors"] = [
            {"position": tensor.position, "name": tensor.name, "bytes": tensor.length, "data": dict(tensor.entries)}
            | (
                {"odd": [[apart, base64.b64encode(field).decode()] for apart, field in tensor.odd]}
                if tensor.odd
                else {}
            )
            for tensor in tensors
        ]
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def _parse_manifest(text: str | None) -> tuple[str, tuple[ExternalTensor, ...], dict[str, int]]:
    if text is None:
        return _DEFAULT_NAME, (), {}
    if len(text) > MAX_MANIFEST_CHARACTERS:
        raise ValueError(f"{len(text):,} characters")
    document = parse_json(text)
    if document["version"] != MANIFEST_VERSION:
        raise ValueError(f"version {document['version']!r}; this is version {MANIFEST_VERSION}'s reader, upgrade it")
    onnx_name = as_text(document["onnx"])
    if not onnx_name.endswith(".onnx"):
        raise ValueError(f"{onnx_name!r} is not the name of an ONNX file")
    sizes = {
        as_text(name): as_count(size, MAX_EXTERNAL_BYTES + 1)
        for name, size in document.get("external_files", {}).items()
    }
    if len(sizes) > MAX_PACKED_FILES:
        raise ValueError(f"{len(sizes)} files of external weights")
    tensors = tuple(_parse_tensor(item) for item in document.get("external_tensors", ()))
    parent = PurePosixPath(onnx_name).parent
    for tensor in tensors:
        if tensor.offset + tensor.length > sizes[(parent / tensor.location).as_posix()]:
            raise ValueError(f"the tensor {tensor.name!r} ends after its file {tensor.location!r}")
    return onnx_name, tensors, sizes


def _parse_tensor(item: Any) -> ExternalTensor:
    entries = tuple((as_text(key), as_text(value)) for key, value in item["data"].items())
    data, limit = dict(entries), MAX_EXTERNAL_BYTES + 1
    offset = as_count(int(data.get("offset", "0")), limit)
    position, length = as_count(item["position"], limit), as_count(item["bytes"], limit)
    odd = tuple(
        (as_count(apart, limit), base64.b64decode(field, validate=True)) for apart, field in item.get("odd", ())
    )
    return ExternalTensor(position, as_text(item["name"]), entries, data["location"], offset, length, odd)


def _damaged(source: str, problem: str) -> PackageError:
    return PackageError(f"{source}: {problem}; the file was damaged or not packed by optimum_htp: pack it again")
