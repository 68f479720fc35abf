"""The tags and lengths in front of messages whose content changes: as wide as they were, and wide again as they were.

Protobuf writes a length in as few bytes as it takes, and reads any number up to five. A length that some other writer made
wider keeps its width, and so is known for one that was wide: taking the content back gives the old bytes. Only where the
new length needs all of that width, nothing would tell. Then the model's metadata has, under `LENGTHS` and a digest, the
number of bytes of the graph and `<place>=<width>` for each such length. A place is the indices of the fields on the way to
it, from the model down; what we add to messages comes last in them, so it does not move the others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import TypeAlias

from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.assembly import encode_entry, read_entry
from optimum_htp.onnxfile.splice import Splice
from optimum_htp.onnxfile.wire import Data, encode_message, encode_varint, fields

Place: TypeAlias = tuple[int, ...]

LENGTHS = "pkg.optimum_htp.lengths."

_WIDEST = 10  # bytes of a varint
_RECORD = re.compile(r"(\d{1,12})((?: \d{1,9}(?:\.\d{1,9})*=\d{1,2})+)", re.ASCII)


class Headers:
    """Makes the headers of changed messages in a file, and the record of those that don't show their old width.

    Where not the whole file is changed but `part` of it, to be put elsewhere, there is no record.
    """

    def __init__(self, data: Data, *, part: bool = False) -> None:
        self._data = data
        self._part = part
        self._graph_bytes = 0
        self._known: dict[Place, int] = {}
        self._records: dict[int, int] = {}  # where they are in the file
        for at, stop, known in () if part else _records(data):
            self._records[at] = stop
            self._known.update(known)
        self._lost: dict[Place, int] = dict(self._known)

    def replace(self, splice: Splice, span: tuple[int, int, int], content: Splice | None, place: Place) -> None:
        """Gives the field of a message other content; None keeps it. `span` is where it, its content and the rest start."""
        at, first, stop = span
        if len(place) == 1 and self._data[at] & 0x7F == schema.MODEL_GRAPH:  # its tag may be wide, too
            self._graph_bytes = stop - first if content is None else content.length_bytes
        if content is not None:
            splice.replace(span, content, self._header(span, content.length_bytes, place))

    def _header(self, span: tuple[int, int, int], length_bytes: int, place: Place) -> bytes:
        at, first, stop = span
        header = self._data[at:first]
        key_bytes = next(index for index, byte in enumerate(header, 1) if byte < 0x80)
        width = first - at - key_bytes
        shortest = len(encode_varint(length_bytes))
        wide = self._known.get(place)
        if wide is None and width > len(encode_varint(stop - first)):
            wide = width
        self._lost.pop(place, None)
        if wide is not None and wide <= shortest and not self._part:
            self._lost[place] = wide
        return header[:key_bytes] + encode_varint(length_bytes, wide or 1)

    def is_record(self, at: int) -> bool:
        """Whether the field of the model that begins here is an old record, to be cut for the new one to come last."""
        return at in self._records

    def record(self) -> bytes:
        """The field of the model that records widths; nothing where there are none, or where nothing was changed."""
        if not self._lost:
            return b""
        places = " ".join(f"{'.'.join(map(str, place))}={width}" for place, width in sorted(self._lost.items()))
        value = f"{self._graph_bytes} {places}"
        mark = hashlib.sha256(value.encode()).hexdigest()[:12]
        return encode_message(schema.MODEL_METADATA, encode_entry(LENGTHS + mark, value))


def _records(data: Data) -> Iterator[tuple[int, int, dict[Place, int]]]:
    """The records in a file; without widths where the graph is not the one any more that a record is of."""
    graph_bytes = -1
    found = []
    prefix = LENGTHS.encode()
    for tag, at, first, stop in fields(data, 0, len(data)):
        if tag == schema.MODEL_GRAPH:
            graph_bytes = stop - first
        elif tag == schema.MODEL_METADATA and data.find(prefix, first, stop) >= 0:
            key, value = read_entry(data, first, stop)
            if key.startswith(prefix):
                found.append((at, stop, value))
    for at, stop, value in found:
        match = _RECORD.fullmatch(value.decode("ascii", "replace"))
        known = {}
        if match is not None and int(match[1]) == graph_bytes:
            for entry in match[2].split():
                place, _, width = entry.partition("=")
                if 1 <= int(width) <= _WIDEST:
                    known[tuple(map(int, place.split(".")))] = int(width)
        yield at, stop, known
