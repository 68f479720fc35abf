"""An ONNX file and the files of its weights, mapped, to write other files from."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from optimum_htp.errors import PackageError
from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.assembly import encode_entry, read_entry
from optimum_htp.onnxfile.opening import mapped
from optimum_htp.onnxfile.splice import Splice, write_pieces
from optimum_htp.onnxfile.wire import Data, Piece, decode_text, encode_message, fields


class SourceFiles(ExitStack):
    """An ONNX file (`data`) and the files of its weights, mapped, as one range of bytes: what a splice is made from.

    A context manager: a `WireError` in its block becomes an `OnnxFileError` that names the file. Raises OnnxFileError.
    """

    def __init__(self, onnx: Path) -> None:
        super().__init__()
        descriptor, self.data = self.enter_context(mapped(onnx))
        self._files: list[tuple[int, Data]] = [(descriptor, self.data)]
        self._starts = [0, len(self.data)]

    def add(self, path: Path) -> int:
        """Appends a file to the range, and returns where it starts there. Raises PackageError if it can't be read."""
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            self.callback(os.close, descriptor)
            data: Data = b""
            if os.fstat(descriptor).st_size:
                data = self.enter_context(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise PackageError(f"{path}: cannot be read: {error}; fix its permissions") from error
        self._files.append((descriptor, data))
        self._starts.append(self._starts[-1] + len(data))
        return self._starts[-2]

    def with_metadata(
        self, splice: Splice | None, entries: Mapping[str, str], *, drop: Callable[[str], bool]
    ) -> Splice:
        """The ONNX file, changed by `splice` (None: not), with more metadata and without the keys to `drop`."""
        content = Splice(0)
        end = len(self.data)
        changed: list[Piece] = [(0, end)] if splice is None else splice.pieces
        dropped = [
            (at, stop)
            for tag, at, first, stop in fields(self.data, 0, end)
            if tag == schema.MODEL_METADATA and drop(self.metadata_key(first, stop))
        ]
        content.paste([part for piece in changed for part in _without(piece, dropped, end)])
        content.paste(
            [encode_message(schema.MODEL_METADATA, encode_entry(key, value)) for key, value in entries.items()]
        )
        return content

    def write(self, pieces: list[Piece], target: int) -> None:
        """Writes pieces to a file descriptor, at its position."""
        batch: list[Piece] = []
        current = 0
        for piece in pieces:
            for index, part in self._parts(piece, current):
                if index != current:
                    self._write(batch, current, target)
                    batch, current = [], index
                batch.append(part)
        self._write(batch, current, target)

    def joined(self, pieces: Iterable[Piece]) -> bytes:
        """The content of pieces of the ONNX file."""
        return b"".join(piece if isinstance(piece, bytes) else self.data[slice(*piece)] for piece in pieces)

    def write_at(self, ranges: Iterable[tuple[int, tuple[int, int]]], target: int, *, size_bytes: int) -> None:
        """Writes ranges to a file descriptor, each at an offset; what is between them is zeros."""
        os.ftruncate(target, size_bytes)
        for offset, span in ranges:
            os.lseek(target, offset, os.SEEK_SET)
            self.write([span], target)

    def _write(self, batch: list[Piece], index: int, target: int) -> None:
        descriptor, data = self._files[index]
        write_pieces(batch, source=descriptor, data=data, target=target)

    def _parts(self, piece: Piece, current: int) -> Iterator[tuple[int, Piece]]:
        """A piece as ranges of single files: the index of the file, for bytes the current one, and the range within it."""
        if isinstance(piece, bytes):
            yield current, piece
            return
        for index, (first, last) in enumerate(pairwise(self._starts)):
            start, stop = max(piece[0], first), min(piece[1], last)
            if start < stop:
                yield index, (start - first, stop - first)

    def metadata_key(self, start: int, end: int) -> str:
        """The key of the metadata entry in this range of the ONNX file."""
        return decode_text(read_entry(self.data, start, end)[0])


def _without(piece: Piece, dropped: list[tuple[int, int]], end: int) -> Iterator[Piece]:
    """What is left of a piece when ranges of the ONNX file, which ends at `end`, are taken away."""
    if isinstance(piece, bytes) or piece[0] >= end:
        yield piece
        return
    start, stop = piece
    for first, last in dropped:
        if first < stop and last > start:
            yield start, first
            start = last
    yield start, stop
