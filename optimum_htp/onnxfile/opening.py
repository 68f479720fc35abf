"""Map a file, and say what it is where it is not an ONNX model."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from optimum_htp.errors import OnnxFileError
from optimum_htp.onnxfile.wire import Data, WireError

_TEXT_BYTES = frozenset(b"\t\n\r") | frozenset(range(0x20, 0x7F))


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[tuple[int, mmap.mmap]]:
    """Gives a file's descriptor and content; a `WireError` in the block becomes an `OnnxFileError` as in `wire_errors`."""
    with contextlib.ExitStack() as stack:
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its other end
                kind = "a directory: name the .onnx file in it" if path.is_dir() else "not a regular file"
                raise OnnxFileError(f"this is {kind}", path=path)
            file = stack.enter_context(path.open("rb"))
            if not os.fstat(file.fileno()).st_size:
                raise OnnxFileError("the file is empty: export or download it again", path=path, offset=0)
            data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError as error:
            raise OnnxFileError("there is no such file", path=path) from error
        except (OSError, ValueError) as error:
            raise OnnxFileError(f"cannot be read: {error}", path=path) from error
        with wire_errors(path, data):
            yield file.fileno(), data


@contextlib.contextmanager
def wire_errors(path: Path, data: Data = b"") -> Iterator[None]:
    """Makes a `WireError` in the block an `OnnxFileError`, which says what the file is if it is known not to be ONNX."""
    try:
        yield
    except WireError as error:
        other = _other_format(data[:64])
        message = f"this is {other}" if other else f"not a valid ONNX file: {error.message}"
        raise OnnxFileError(message, path=path, offset=error.offset) from error


def _other_format(head: bytes) -> str | None:
    """Returns what a file is that is not an ONNX model, as far as its first bytes say."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the model itself: run `git lfs pull`"
    for prefix, kind in (
        (b"PK\x03\x04", "a ZIP archive (perhaps a PyTorch checkpoint)"),
        (b"\x1f\x8b", "a gzip file: unpack it first"),
        *((b"\x80%c" % protocol, "a Python pickle (perhaps a PyTorch checkpoint)") for protocol in (2, 3, 4, 5)),
        (b"GGUF", "a GGUF model"),
    ):
        if head.startswith(prefix):
            return f"not an ONNX model but {kind}"
    if head[4:8] == b"ORTM":
        return "not an ONNX model but ONNX Runtime's own format (.ort)"
    if head[8:9] == b"{":
        return "not an ONNX model but a safetensors file"
    if len(head) >= 8 and all(byte in _TEXT_BYTES for byte in head):
        kind = {b"<": "HTML or XML", b"{": "JSON", b"[": "JSON"}.get(head.strip()[:1], "text")
        return f"not an ONNX model but {kind}"
    return None
