"""What a tensor holds, in whichever of ONNX's ways it is stored: whether two hold the same, and a short text of it.

Content is read in pieces, and at most a few numbers of it are kept.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.assembly import read_entry
from optimum_htp.onnxfile.types import NUMBERS, element_type
from optimum_htp.onnxfile.wire import Data, WireError, fields, read_varint, release_pages, signed, signed32

SHOWN = 8
"""How many values a text spells out."""

PIECE_BYTES = 1 << 20

Outside: TypeAlias = Callable[[str, int, "int | None"], Iterable[bytes]]
"""Gives a range of the external file at a location, in pieces, by its offset and length; None is up to its end."""

# How struct calls the element types whose numbers are written out.
_FORMATS = {
    NUMBERS[name]: letter
    for name, letter in zip(
        "float32 float64 float16 int8 uint8 int16 uint16 int32 uint32 int64 uint64 bool".split(),
        "f d e b B h H i I q Q ?".split(),
        strict=True,
    )
}


def _with_single(packed: int, wire_type: int) -> tuple[int, int]:
    """The tags of a field with all numbers, and of one with a single number."""
    return packed, packed - 2 + wire_type


# The fields that have the content: as it is, and as varints; the numbers of either may also stand in a field each.
_PLAIN = {
    schema.TENSOR_RAW_DATA,
    schema.TENSOR_STRINGS,
    *_with_single(schema.TENSOR_FLOATS, 5),
    *_with_single(schema.TENSOR_DOUBLES, 1),
}
_VARINTS = {
    tag
    for packed in (schema.TENSOR_INT32S, schema.TENSOR_INT64S, schema.TENSOR_UINT64S)
    for tag in _with_single(packed, 0)
}
_FLOATS = "efd"
_PLAIN_BELOW = 1e6
_MAX_DIMS = 64  # numpy's


@dataclass(frozen=True, slots=True)
class Content:
    """The value of an attribute or a tensor.

    Attributes:
        identity: Two are the same value if theirs is equal.
        type: What kind of value it is: `int`, `float32[2, 3]`.
        text: The value in short: all of it, or its beginning and a digest.
    """

    identity: object
    type: str = field(compare=False)
    text: str = field(compare=False)


def tensor_content(data: Data, span: tuple[int, int], outside: Outside) -> Content:
    """What the tensor in a span of a file holds. Raises WireError, and what `outside` raises."""
    dims: list[int] = []
    data_type = 0
    is_external = False
    entries: dict[bytes, bytes] = {}
    for tag, _, first, stop in fields(data, *span):
        if tag == schema.TENSOR_DIM:
            dims.append(signed(first))
        elif tag == schema.TENSOR_PACKED_DIMS:
            dims += map(signed, packed_numbers(data, first, stop))
        elif tag == schema.TENSOR_DATA_TYPE:
            data_type = signed32(first)
        elif tag == schema.TENSOR_DATA_LOCATION:
            is_external = signed32(first) == schema.EXTERNAL
        elif tag == schema.TENSOR_EXTERNAL_DATA:
            key, value = read_entry(data, first, stop)
            entries[key] = value
    elements = element_count(dims)
    bits = element_type(data_type).bits
    size_bytes = None if elements is None or bits is None else -(-elements * bits // 8)
    if is_external:
        offset, length = (_external_size(entries.get(key), span[0]) for key in (b"offset", b"length"))
        location = entries.get(b"location", b"").decode(errors="replace")
        pieces = outside(location, offset or 0, size_bytes if length is None else length)
    else:
        pieces = _stored(data, span, data_type, elements or 0)
    return _content(pieces, data_type, tuple(dims), size_bytes)


def element_count(dims: Sequence[int]) -> int | None:
    """How many elements a tensor of a shape has; None for a shape that no tensor has."""
    return prod(dims) if len(dims) <= _MAX_DIMS and min(dims, default=0) >= 0 else None


def _external_size(text: bytes | None, at: int) -> int | None:
    if text is not None and not (text.isdigit() and len(text) < 20):
        raise WireError("the place of external data is not a number", at)
    return None if text is None else int(text)


def tensor_type_text(data_type: int, dims: Sequence[int]) -> str:
    """A tensor's element type and shape: `float32[2, 3]`, `int64` for a scalar.

    >>> tensor_type_text(1, (2, 3)), tensor_type_text(7, ())
    ('float32[2, 3]', 'int64')
    """
    shape = ", ".join(map(str, dims) if len(dims) <= _MAX_DIMS else (f"{len(dims):,} dimensions",))
    return element_type(data_type).name + (f"[{shape}]" if shape else "")


def _content(pieces: Iterable[bytes], data_type: int, dims: tuple[int, ...], size_bytes: int | None) -> Content:
    digest = hashlib.sha256()
    head = b""
    length = 0
    for piece in pieces:
        digest.update(piece)
        length += len(piece)
        if len(head) <= SHOWN * 8:
            head += piece[: SHOWN * 8 + 1]
    text = f"sha256 {digest.hexdigest()[:12]}"
    letter = _FORMATS.get(data_type)
    count = element_count(dims)
    if letter and length == size_bytes and count is not None and count <= SHOWN:
        values = [number_text(value, letter) for value in struct.unpack(f"<{count}{letter}", head)]
        text = values[0] if len(values) == 1 else list_text(values)
    return Content((data_type, dims, digest.digest()), tensor_type_text(data_type, dims), text)


def _stored(data: Data, span: tuple[int, int], data_type: int, elements: int) -> Iterator[bytes]:
    for tag, _, first, stop in fields(data, *span):
        if tag in _PLAIN or tag in _VARINTS:
            yield from _pieces(data, (tag, first, stop), data_type, elements)


def _pieces(data: Data, stored: tuple[int, int, int], data_type: int, elements: int) -> Iterator[bytes]:
    """The content of one field as `raw_data` would have it."""
    tag, first, stop = stored
    is_packed = tag & 7 == 2
    if tag in _VARINTS and (not is_packed or stop - first <= 10 * elements):  # more are none of the tensor's
        width = _width(tag >> 3, data_type)
        batch = bytearray()
        for number in packed_numbers(data, first, stop) if is_packed else (first,):
            batch += (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
            if len(batch) >= PIECE_BYTES:
                yield bytes(batch)
                batch.clear()
        yield bytes(batch)
        return
    if tag == schema.TENSOR_STRINGS:
        yield (stop - first).to_bytes(8, "little")
    released = first
    for at in range(first, stop, PIECE_BYTES):
        yield data[at : min(at + PIECE_BYTES, stop)]
        released = release_pages(data, at, released)


def _width(field_number: int, data_type: int) -> int:
    """How many bytes `raw_data` has for each number in a field of another name; where several share one, for those."""
    if field_number == schema.TENSOR_INT64S >> 3:
        return 8
    bits = element_type(data_type).bits or (32 if field_number == schema.TENSOR_INT32S >> 3 else 64)
    return max(bits // 8, 1)


def packed_numbers(data: Data, first: int, stop: int) -> Iterator[int]:
    """The numbers of a field that has all of them, unsigned as protobuf writes them. Raises WireError."""
    while first < stop:
        number, after = read_varint(data, first)
        if after > stop:
            raise WireError("a number runs past the end of the list that it is in", first)
        first = after
        yield number


def number_text(value: float, letter: str = "q") -> str:
    """A number, by struct's letter of its type: of a float the fewest digits that are that number in its precision.

    >>> number_text(struct.unpack("<f", struct.pack("<f", 1e-12))[0], "f"), number_text(8.0, "f"), number_text(-3)
    ('1e-12', '8.0', '-3')
    """
    if letter not in _FLOATS or not math.isfinite(value) or (value == int(value) and abs(value) < _PLAIN_BELOW):
        return str(value)
    text = next(text for text in (f"{value:.{digits}g}" for digits in range(3, 18)) if _is_number(text, value, letter))
    return re.sub(r"e([+-])0*", r"e\1", text) if "e" in text else text if "." in text else f"{text}.0"


def _is_number(text: str, value: float, letter: str) -> bool:
    try:
        return struct.pack(f"<{letter}", float(text)) == struct.pack(f"<{letter}", value)
    except OverflowError:  # rounded up, it is more than the type holds
        return False


def list_text(texts: Iterable[str]) -> str:
    """Values in brackets."""
    return f"[{', '.join(texts)}]"
