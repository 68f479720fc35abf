"""The tensors of an ONNX file as they stand in it: where their content is, and the file with it moved in or out.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_htp.errors import PackageError
from optimum_htp.onnxfile.splice import Paste, Splice, write_pieces
from optimum_htp.onnxfile.wire import WireError, encode_message, encode_varint, fields, last_fields, release_pages


if TYPE_CHECKING:
    from optimum_htp.onnxfile.wire import Data, Piece


# Field number << 3 | wire type.
_NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 66, 74, 106, 112
_MODEL_METADATA, _ENTRY_KEY, _ENTRY_VALUE = 114, 10, 18
_EXTERNAL = 1
_TENSOR = {tag >> 3: tag & 7 for tag in (_NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION)}
_KEY_AND_VALUE = {tag >> 3: tag & 7 for tag in (_ENTRY_KEY, _ENTRY_VALUE)}

# By message, the fields that lead to tensors, as number << 3 | 2, and the message in them.
_LEADS: dict[str, dict[int, str]] = {
    "model": {58: "graph", 162: "training", 202: "function"},
    "training": {10: "graph", 18: "graph"},
    "graph": {10: "node", 42: "tensor", 122: "sparse"},
    "function": {58: "node"},
    "node": {42: "attribute"},
    "attribute": {42: "tensor", 50: "graph", 82: "tensor", 90: "graph", 178: "sparse", 186: "sparse"},
    "sparse": {10: "tensor", 18: "tensor"},
}
_MAX_DEPTH = 1000


@dataclass(frozen=True, slots=True)
class TensorField:
    """A stored tensor.

    Attributes:
        position: Its number among all tensors, in the order of the file.
        name: Its name.
        is_external: Whether its content is in another file.
        entries: Its `external_data`, in order.
        content: Where in this file its `raw_data` is; None where it has none.
        span: Where in this file its message is.
        cut: What stands for the content: `raw_data`, or `external_data` and `data_location`.
    """

    position: int
    name: str
    is_external: bool
    entries: tuple[tuple[str, str], ...]
    content: tuple[int, int] | None
    span: tuple[int, int]
    cut: tuple[tuple[int, int], ...]

    def with_content(self, content: tuple[int, int]) -> Splice | None:
        """The tensor with this range of bytes as its `raw_data`."""
        return self._spliced([encode_varint(_RAW_DATA) + encode_varint(content[1] - content[0]), content])

    def with_entries(self, entries: tuple[tuple[str, str], ...]) -> Splice | None:
        """The tensor with these entries as its `external_data`."""
        encoded = [encode_message(_EXTERNAL_DATA, _entry(key, value)) for key, value in entries]
        return self._spliced([b"".join(encoded) + encode_varint(_DATA_LOCATION) + encode_varint(_EXTERNAL)])

    def _spliced(self, pieces: list[Piece]) -> Splice | None:
        splice = Paste(self.span[0])
        for index, span in enumerate(self.cut):
            splice.cut(*span)
            if not index:
                splice.paste(pieces)
        return splice.finish(self.span[1])


def rewrite_tensors(data: Data, change: Callable[[TensorField], Splice | None] | None) -> Splice | None:
    """Describes the ONNX model in `data` with other tensors.

    Args:
        data: The file, which `onnxfile.read_model` has read without complaint.
        change: Gives the new content of a tensor, None to keep it; None keeps them all.

    Returns:
        The splice, None where nothing changes.

    Raises:
        WireError: The file is no ONNX model.
    """
    if change is None:
        return None
    return _TensorWalk(data, change).message("model", 0, len(data), 0)


def rewrite_part(
    data: Data, kind: str, span: tuple[int, int], change: Callable[[TensorField], Splice | None]
) -> Splice | None:
    """Describes one message of a model with other tensors, as `rewrite_tensors` does for all of it.

    Args:
        data: The file.
        kind: What the message is: `"node"`, `"tensor"`, `"sparse"` or `"graph"`.
        span: Where its content is.
        change: Gives the new content of a tensor, None to keep it.

    Returns:
        The splice, None where nothing changes.

    Raises:
        WireError: The file is no ONNX model.
    """
    return _TensorWalk(data, change).message(kind, *span, 0)


class _TensorWalk:
    def __init__(self, data: Data, change: Callable[[TensorField], Splice | None]) -> None:
        self.data = data
        self.change = change
        self.count = 0
        self.released = 0

    def message(self, kind: str, start: int, end: int, depth: int) -> Splice | None:
        if depth > _MAX_DEPTH:
            raise WireError(f"messages nested deeper than {_MAX_DEPTH}", start)
        if kind == "tensor":
            return self.change(self.tensor(start, end))
        leads = _LEADS[kind]
        splice = Splice(start)
        for tag, at, first, stop in fields(self.data, start, end, {}):
            if tag in leads:
                splice.replace(tag, (at, first, stop), self.message(leads[tag], first, stop, depth + 1))
            if kind == "graph" and isinstance(self.data, mmap.mmap):
                self.released = release_pages(self.data, stop, self.released)
        return splice.finish(end)

    def tensor(self, start: int, end: int) -> TensorField:
        name, content, is_external = "", None, False
        entries: list[tuple[str, str]] = []
        outside: list[tuple[int, int]] = []
        inside: list[tuple[int, int]] = []
        for tag, at, first, stop in fields(self.data, start, end, _TENSOR):
            if tag == _NAME:
                name = self.text(first, stop)
            elif tag == _RAW_DATA:
                content = (first, stop)
                inside.append((at, stop))
            elif tag == _EXTERNAL_DATA:
                found = last_fields(self.data, first, stop, _KEY_AND_VALUE)
                key, value = (self.text(*found[number]) if number in found else "" for number in (1, 2))
                entries.append((key, value))
                outside.append((at, stop))
            elif tag == _DATA_LOCATION:
                is_external = first == _EXTERNAL
                outside.append((at, stop))
        position, self.count = self.count, self.count + 1
        cut = sorted(inside + outside) if is_external else inside
        return TensorField(position, name, is_external, tuple(entries), content, (start, end), tuple(cut))

    def text(self, start: int, stop: int) -> str:
        return self.data[start:stop].decode(errors="replace")


def _entry(key: str, value: str) -> bytes:
    return encode_message(_ENTRY_KEY, key.encode()) + encode_message(_ENTRY_VALUE, value.encode())


class SourceFiles:
    """An ONNX file and the files of its weights as one long range of bytes: what a splice is made from.

    A context manager. Files are mapped, and copied by the system.

    Attributes:
        data: The ONNX file.

    Raises:
        PackageError: A file can't be read.
    """

    def __init__(self, onnx: Path) -> None:
        self._stack = ExitStack()
        self._files: list[tuple[int, Data]] = []
        self._starts = [0]
        try:
            self.add(onnx)
        except BaseException:
            self._stack.close()
            raise
        self.data = self._files[0][1]

    def __enter__(self) -> SourceFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, path: Path) -> int:
        """Appends a file to the range, and returns where in the range it starts."""
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            self._stack.callback(os.close, descriptor)
            data: Data = b""
            if os.fstat(descriptor).st_size:
                data = self._stack.enter_context(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise PackageError(f"{path}: cannot be read: {error}; mend its permissions") from error
        self._files.append((descriptor, data))
        self._starts.append(self._starts[-1] + len(data))
        return self._starts[-2]

    def with_metadata(
        self, splice: Splice | None, entries: Mapping[str, str], *, drop: Callable[[str], bool]
    ) -> Splice:
        """The whole ONNX file with other entries in the metadata of the model.

        Args:
            splice: What becomes of the rest of the file; None keeps it.
            entries: Entries to add.
            drop: Which keys to leave out.
        """
        content = Paste(0)
        end = len(self.data)
        changed: list[Piece] = [(0, end)] if splice is None else splice.pieces
        dropped = [
            (at, stop)
            for tag, at, first, stop in fields(self.data, 0, end, {})
            if tag == _MODEL_METADATA and drop(self.metadata_key(first, stop))
        ]
        content.paste([part for piece in changed for part in _without(piece, dropped, end)])
        content.paste([encode_message(_MODEL_METADATA, _entry(key, value)) for key, value in entries.items()])
        return content

    def write(self, pieces: list[Piece], target: int) -> None:
        """Writes pieces to a file descriptor, at its position.

        Raises:
            OSError: As the system says it.
        """
        batch: list[Piece] = []
        current = 0
        for piece in pieces:
            for index, part in self._parts(piece):
                if index is not None and index != current:
                    self._write(batch, current, target)
                    batch, current = [], index
                batch.append(part)
        self._write(batch, current, target)

    def _write(self, batch: list[Piece], index: int, target: int) -> None:
        descriptor, data = self._files[index]
        write_pieces(batch, source=descriptor, data=data, target=target)

    def _parts(self, piece: Piece) -> list[tuple[int | None, Piece]]:
        """A piece as ranges of single files: the file's number, and the range within it."""
        if isinstance(piece, bytes):
            return [(None, piece)]
        start, stop = piece
        parts: list[tuple[int | None, Piece]] = []
        for index, (first, last) in enumerate(pairwise(self._starts)):
            if max(start, first) < min(stop, last):
                parts.append((index, (max(start, first) - first, min(stop, last) - first)))
        return parts

    def metadata_key(self, start: int, end: int) -> str:
        """The key of the metadata entry in this range of the ONNX file."""
        found = last_fields(self.data, start, end, _KEY_AND_VALUE)
        return self.data[slice(*found[1])].decode(errors="replace") if 1 in found else ""


def _without(piece: Piece, dropped: list[tuple[int, int]], end: int) -> list[Piece]:
    """What is left of a piece when ranges of the ONNX file, which ends at `end`, are taken away."""
    if isinstance(piece, bytes) or piece[0] >= end:
        return [piece]
    parts: list[Piece] = []
    start, stop = piece
    for first, last in dropped:
        if first >= stop or last <= start:
            continue
        parts.append((start, first))
        start = last
    return [*parts, (start, stop)]
