"""Protobuf's wire format, as far as ONNX files use it: walk fields, encode them.

Nothing here knows ONNX. Payloads are only ever skipped by their length, so a walk costs nothing for weights.
The format is protobuf's: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

Data: TypeAlias = mmap.mmap | bytes
Piece: TypeAlias = bytes | tuple[int, int]

MAX_GROUP_DEPTH = 100
"""How deep groups may be nested, as protobuf has it."""

_RELEASE_BYTES = 1 << 24


class WireError(Exception):
    """Bytes that are not the protobuf message they should be, and their offset in the file."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


def read_varint(data: Data, position: int) -> tuple[int, int]:
    """The unsigned 64-bit number at `position`, and the position after it. Raises WireError, at the end IndexError."""
    value = 0
    for index in range(10):
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + index + 1
    raise WireError("a number is longer than ten bytes", position)


def fields(data: Data, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Walks the fields of the message in `data[start:end]`, without looking into any: `(tag, at, first, stop)`.

    `tag` is `number << 3 | type`, `at` where the field starts, `first` where its payload starts (of a varint: the
    value itself), `stop` where it ends. A field whose tag a caller doesn't know is one to skip, as protobuf does, also if
    just its type is another. Raises WireError.
    """
    at = start
    try:
        while at < end:
            tag = data[at]
            first = at + 1
            if tag > 0x7F:
                tag, first = read_varint(data, at)
            wire_type = tag & 7
            if wire_type == 2:
                stop = data[first]
                first += 1
                if stop > 0x7F:
                    stop, first = read_varint(data, first - 1)
                stop += first
            elif wire_type == 0:
                stop = first + 1
                first = data[first]
                if first > 0x7F:
                    first, stop = read_varint(data, stop - 1)
            elif wire_type in (1, 5):
                stop = first + (8 if wire_type == 1 else 4)
            else:
                stop = _group_end(data, at, first, end, tag)
            if stop > end or tag < 8:
                raise WireError(_complaint(tag, stop - end), at)
            yield tag, at, first, stop
            at = stop
    except IndexError:
        raise WireError("the file ends in the middle of a field", at) from None


def _group_end(data: Data, at: int, first: int, end: int, tag: int) -> int:
    """Where a group ends that starts at `first`, with the groups in it. ONNX has none, so they are unknown fields."""
    if tag & 7 != 3:
        what = (
            "the end of a group that has not begun" if tag & 7 == 4 else f"wire type {tag & 7}, which protobuf lacks"
        )
        raise WireError(what, at)
    open_groups = [tag >> 3]
    while open_groups:
        if first >= end or len(open_groups) > MAX_GROUP_DEPTH:
            excess = f"groups nested deeper than {MAX_GROUP_DEPTH}" if first < end else "a group without an end"
            raise WireError(excess, at)
        tag, first = read_varint(data, first)
        if tag & 7 == 3:
            open_groups.append(tag >> 3)
        elif tag & 7 == 4:
            if open_groups.pop() != tag >> 3:
                raise WireError("the end of another group than the one that has begun", at)
        elif tag & 7 == 0:
            _, first = read_varint(data, first)
        elif tag & 7 == 2:
            length, first = read_varint(data, first)
            first += length
        elif tag & 7 in (1, 5):
            first += 8 if tag & 7 == 1 else 4
        else:
            raise WireError(f"wire type {tag & 7}, which protobuf lacks", at)
        if tag < 8:
            raise WireError(_complaint(tag, 0), at)
    return first


def _complaint(tag: int, excess_bytes: int) -> str:
    if tag < 8:
        return "field number 0, which protobuf does not have"
    return f"field {tag >> 3} runs {excess_bytes} bytes past the end of the message that it is in"


def last_fields(data: Data, start: int, end: int, schema: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    """`(first, stop)` as `fields` yields it of each field that is there, by number; the last counts.

    `schema` has the wire types of the numbers that are asked for.
    """
    return {
        tag >> 3: (first, stop) for tag, _, first, stop in fields(data, start, end) if schema.get(tag >> 3) == tag & 7
    }


def release_pages(data: Data, position: int, released: int) -> int:
    """Takes what a walk has looked at out of this process's memory, now and then; gives the next call's `released`.

    Looking at one byte can map 2 MiB of a file (where the page cache holds large folios), so a walk that only skips
    the weights would seem to hold them all. The pages come back when they are needed.
    """
    if position - released < _RELEASE_BYTES:
        return released
    if hasattr(mmap, "MADV_DONTNEED") and isinstance(data, mmap.mmap):
        data.madvise(mmap.MADV_DONTNEED)
    return position


def signed(value: int) -> int:
    """Returns the int64 that protobuf writes as the unsigned `value`."""
    return value - (1 << 64) if value >> 63 else value


def signed32(value: int) -> int:
    """Returns the int32 that protobuf reads from the unsigned `value`, of which it drops what is too much."""
    return ((value & 0xFFFF_FFFF) ^ 0x8000_0000) - 0x8000_0000


def encode_varint(value: int, width: int = 1) -> bytes:
    """Returns the varint for a non-negative number: the shortest, as protobuf writes it, or one of `width` bytes."""
    encoded = bytearray()
    while value > 0x7F or len(encoded) + 1 < width:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_message(tag: int, payload: bytes) -> bytes:
    """Returns a length-delimited field."""
    return encode_varint(tag) + encode_varint(len(payload)) + payload


def decode_text(encoded: bytes) -> str:
    """A string of a file. ONNX asks for UTF-8 and protobuf does not check it: other bytes come as half surrogates."""
    return encoded.decode("utf-8", "surrogateescape")


def encode_text(text: str) -> bytes:
    """The bytes that `decode_text` gave this string for."""
    return text.encode("utf-8", "surrogateescape")


def pieces_length(pieces: Iterable[Piece]) -> int:
    """Returns the bytes that pieces have together."""
    return sum(len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces)


def message_pieces(tag: int, pieces: Sequence[Piece]) -> list[Piece]:
    """Returns a length-delimited field whose payload is made of pieces."""
    return [encode_varint(tag) + encode_varint(pieces_length(pieces)), *pieces]
