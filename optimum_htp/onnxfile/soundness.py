"""Whether protobuf parses a file: all of its messages are looked into, those too that nothing here reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from optimum_htp.onnxfile.limits import CACHED
from optimum_htp.onnxfile.opening import mapped
from optimum_htp.onnxfile.wire import Data, WireError, fields, release_pages

_MAX_DEPTH = 100  # messages in messages: protobuf's own limit
_MAX_HEADER_BYTES = 5  # of a tag and of a length, each
_SHORT_BYTES = 128
_LONG_VARINT = re.compile(rb"[\x80-\xff]{10}")

# By message, the fields that are messages, and which. What is not here has none, and no packed numbers.
_VALUE, _ENTRY, _TENSOR, _TYPE = "value", "entry", "tensor", "type"
MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {58: "graph", 66: "opset", 114: _ENTRY, 162: "training", 202: "function", 210: "device"},
    "graph": {
        **{10: "node", 42: _TENSOR, 122: "sparse", 114: "annotation", 130: _ENTRY},
        **dict.fromkeys((90, 98, 106), _VALUE),
    },
    "node": {42: "attribute", 74: _ENTRY, 82: "configuration"},
    "function": {58: "node", 74: "opset", 90: "attribute", 98: _VALUE, 114: _ENTRY},
    "training": {10: "graph", 18: "graph", 26: _ENTRY, 34: _ENTRY},
    "attribute": {
        **{42: _TENSOR, 82: _TENSOR, 50: "graph", 90: "graph", 178: "sparse", 186: "sparse"},
        **{114: _TYPE, 122: _TYPE},
    },
    "tensor": {26: "segment", 106: _ENTRY, 130: _ENTRY},
    "sparse": {10: _TENSOR, 18: _TENSOR},
    "annotation": {18: _ENTRY},
    "value": {18: _TYPE, 34: _ENTRY},
    "type": {10: "tensor type", 34: "inner", 42: "map", 58: "opaque", 66: "tensor type", 74: "inner"},
    "tensor type": {18: "shape"},
    "shape": {10: "dimension"},
    "inner": {10: _TYPE},
    "map": {18: _TYPE},
    "configuration": {18: "sharding"},
    "sharding": {26: "integers", 34: "sharded"},
    "sharded": {18: "leaf"},
    **{kind: {} for kind in ("opset", "device", _ENTRY, "segment", "opaque", "dimension", "integers", "leaf")},
}

# By message, the fields that are packed numbers, and how many bytes each number has; 0 for varints.
PACKED: Mapping[str, Mapping[int, int]] = {
    "attribute": {58: 4, 66: 0},
    "tensor": {10: 0, 34: 4, 42: 0, 58: 0, 82: 8, 90: 0},
    "sparse": {26: 0},
    "sharding": {18: 0},
    "integers": {18: 0},
}

_NOTHING: Mapping[int, int] = {}
_REPEATED = frozenset((_ENTRY, "attribute", "shape"))  # many are the same: each is looked into once


def check_parsable(path: Path) -> None:
    """Raises OnnxFileError for what protobuf does not parse, which no tool loads."""
    with mapped(path) as (_, data):
        _Check(data).message("model", 0, len(data), 0)


class _Check:
    def __init__(self, data: Data) -> None:
        self._data = data
        self._seen: set[tuple[str, bytes]] = set()
        self._released = 0

    def message(self, kind: str, start: int, end: int, depth: int) -> None:
        data = self._data
        if depth > _MAX_DEPTH:
            raise WireError(f"messages nested deeper than {_MAX_DEPTH}, which protobuf does not read", start)
        inner, packed = MESSAGES[kind], PACKED.get(kind, _NOTHING)
        for tag, at, first, stop in fields(data, start, end):
            length = first if tag & 7 == 2 else stop
            if length - at > _MAX_HEADER_BYTES:
                self._header(tag, at, first)
            if tag in inner:
                if inner[tag] not in _REPEATED or self._is_new(inner[tag], first, stop):
                    self.message(inner[tag], first, stop, depth + 1)
            elif tag in packed:
                self._numbers(packed[tag], first, stop)
            if kind == "graph":
                self._released = release_pages(data, stop, self._released)

    def _is_new(self, kind: str, first: int, stop: int) -> bool:
        if stop - first > _SHORT_BYTES:
            return True
        key = (kind, self._data[first:stop])
        if key in self._seen:
            return False
        if len(self._seen) < CACHED:
            self._seen.add(key)
        return True

    def _header(self, tag: int, at: int, first: int) -> None:
        """A tag and a length take five bytes at most, and are numbers of 32 and 31 bits."""
        data = self._data
        length = at
        while data[length] > 0x7F:
            length += 1
        width = length + 1 - at
        if width > _MAX_HEADER_BYTES or tag > 0xFFFF_FFFF:
            raise WireError("the number of a field is longer than protobuf reads", at)
        if tag & 7 == 2 and first - length - 1 > _MAX_HEADER_BYTES:
            raise WireError("the length of a field is longer than protobuf reads", at)

    def _numbers(self, size_bytes: int, first: int, stop: int) -> None:
        if size_bytes:
            if (stop - first) % size_bytes:
                raise WireError(f"packed numbers of {size_bytes} bytes have {stop - first} bytes", first)
        elif first < stop and (self._data[stop - 1] > 0x7F or _LONG_VARINT.search(self._data, first, stop)):
            raise WireError("packed numbers end in the middle of one, or one is longer than ten bytes", first)
