"""The numbers of weights, read from where they are in pieces: none is held as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from optimum_htp.errors import HtpError
from optimum_htp.models import Array, Prober
from optimum_htp.onnxfile import Initializer, OnnxModel, element_type
from optimum_htp.package import external_file

_PIECE_NUMBERS = 1 << 18
_TYPES = {"float32": "<f4", "float64": "<f8", "float16": "<f2", "bfloat16": "<u2"}


def weight_blocks(model: OnnxModel, tensor: Initializer, prober: Prober) -> Iterator[Array]:
    """The floating-point numbers of a weight, in blocks; nothing where they can't be read."""
    import numpy as np

    kind = element_type(tensor.data_type).name
    if kind not in _TYPES:
        return
    for content in _pieces(model, tensor, np.dtype(_TYPES[kind]).itemsize):
        block: Array = np.frombuffer(content, _TYPES[kind])
        if kind == "bfloat16":
            block = (block.astype("<u4") << 16).view("<f4")
        yield block.astype(np.float32) if kind == "float16" else block
    if tensor.location is None and tensor.span is None:  # stored as fields, as small ones are
        array = prober.constant(tensor.name)
        if array is not None:
            yield array.reshape(-1).astype(np.float64 if kind == "float64" else np.float32, copy=False)


def _pieces(model: OnnxModel, tensor: Initializer, width: int) -> Iterator[bytes]:
    size = _PIECE_NUMBERS * width
    if tensor.location is not None:
        with suppress(OSError, HtpError):
            path = external_file(model.path, tensor.location, package=model.path.parent)
            with path.open("rb") as stream:
                yield from _read(stream, tensor.offset, tensor.length, size)
    elif tensor.span is not None:
        start, stop = tensor.span
        with model.path.open("rb") as stream:
            yield from _read(stream, start, stop - start, size)


def _read(stream: BinaryIO, start: int, length: int | None, size: int) -> Iterator[bytes]:
    stream.seek(start)
    left = length
    while left is None or left > 0:
        content = stream.read(size if left is None else min(size, left))
        if not content:
            return
        left = None if left is None else left - len(content)
        yield content
