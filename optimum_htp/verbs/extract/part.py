"""Writing what was cut out: an ONNX file whose parts are copied from the old one, and the weights that it reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from optimum_htp.errors import PackageError
from optimum_htp.onnxfile import (
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NAME,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    GRAPH_SPARSE_INITIALIZER,
    MODEL_FUNCTION,
    MODEL_GRAPH,
    MODEL_METADATA,
    GraphSpans,
    ModelSpans,
    SourceFiles,
    Span,
    Splice,
    TensorField,
    Value,
    encode_message,
    message_pieces,
    pieces_length,
    release_pages,
    rewrite_part,
    value_info,
)
from optimum_htp.package import SKELETON, is_pack_key, names_problem
from optimum_htp.verbs.extract.cut import Cut


if TYPE_CHECKING:
    from optimum_htp.onnxfile import Piece

_ALIGNMENT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        initializers: Stored tensors in the file.
        weight_bytes: Bytes of them, those of external data included.
        external: Whether there is a file of external data.
    """

    initializers: int
    weight_bytes: int
    external: bool


class PartWriter:
    """Writes a part of an ONNX file as a file of its own.

    Args:
        files: The file.
        directory: Where its external data is.
        model: Where the parts of the file are.
        scopes: Where the parts of the graphs from the main graph to the one that is cut are.
    """

    def __init__(self, files: SourceFiles, directory: Path, model: ModelSpans, scopes: Sequence[GraphSpans]) -> None:
        self.files = files
        self.directory = directory
        self.model = model
        self.scopes = scopes
        self._external: dict[tuple[str, int, int], int] = {}
        self._external_bytes = 0
        self._opened: dict[str, tuple[int, int]] = {}
        self._ranges: list[tuple[int, Span]] = []

    def write(self, cut: Cut, target: Path, *, name: str, types: Mapping[str, Value]) -> Written:
        """Writes the file, and beside it one with `_data` behind the name where weights are external.

        Raises:
            PackageError: A file of external data is missing, too short, or outside the package.
            OSError: As the system says it.
        """
        location = target.name + "_data"
        weights = list(self._weights(cut.initializers, location))
        graph: list[Piece] = []
        for scope, at in cut.nodes:
            graph += message_pieces(GRAPH_NODE, self._rewritten("node", self.scopes[scope].nodes[at], location))
        graph.append(encode_message(GRAPH_NAME, name.encode()))
        for tag, pieces in weights:
            graph += message_pieces(tag, pieces)
        for tag, names in ((GRAPH_INPUT, cut.inputs), (GRAPH_OUTPUT, cut.outputs)):
            graph += [encode_message(tag, value_info(types[each])) for each in names]
        content: list[Piece] = [*self.model.head, *message_pieces(MODEL_GRAPH, graph)]
        for span in self.model.functions:
            content += message_pieces(MODEL_FUNCTION, [span])
        for span in self.model.metadata:
            key = self.files.metadata_key(*span)
            if key != SKELETON and not is_pack_key(key):
                content += message_pieces(MODEL_METADATA, [span])
        self._write_file(target, content)
        if self._ranges:
            self._write_external(target.with_name(location))
        inside = sum(pieces_length(pieces) for _, pieces in weights)
        return Written(
            len(weights), inside + sum(stop - start for _, (start, stop) in self._ranges), bool(self._ranges)
        )

    def _weights(self, names: Iterable[str], location: str) -> Iterator[tuple[int, list[Piece]]]:
        released = 0
        for name in names:
            spans = next(each for each in reversed(self.scopes) if name in each.tensors or name in each.sparse)
            is_sparse = name not in spans.tensors
            span = spans.sparse[name] if is_sparse else spans.tensors[name]
            tag = GRAPH_SPARSE_INITIALIZER if is_sparse else GRAPH_INITIALIZER
            yield tag, self._rewritten("sparse" if is_sparse else "tensor", span, location)
            released = release_pages(self.files.data, span[1], released)

    def _rewritten(self, kind: str, span: Span, location: str) -> list[Piece]:
        """A message with its external data pointing into the new file."""

        def move(field: TensorField) -> Splice | None:
            if not field.is_external:
                return None
            entries = dict(field.entries)
            offset, length = self._place(field, entries)
            return field.with_entries((("location", location), ("offset", str(offset)), ("length", str(length))))

        splice = rewrite_part(self.files.data, kind, span, move)
        return [span] if splice is None else splice.pieces

    def _place(self, field: TensorField, entries: Mapping[str, str]) -> tuple[int, int]:
        """Where a tensor's content goes in the new file of external data."""
        location = entries.get("location", "")
        start, size = self._open(location)
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", str(size - offset)))
        except ValueError:
            offset = length = -1
        if offset < 0 or length < 0 or offset + length > size:
            message = f"{location!r} does not have the content of {field.name!r}"
            raise PackageError(f"{self.directory}: {message}; get the whole package again")
        key = (location, offset, length)
        if key not in self._external:
            at = -(-self._external_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
            self._external[key] = at
            self._external_bytes = at + length
            self._ranges.append((at, (start + offset, start + offset + length)))
        return self._external[key], length

    def _open(self, location: str) -> tuple[int, int]:
        if location not in self._opened:
            problem = names_problem([PurePosixPath(location).as_posix()])
            path = self.directory / location
            if problem is not None or not path.is_file():
                reason = problem or "there is no such file"
                raise PackageError(
                    f"{self.directory}: its weights are in {location!r}: {reason}; get the whole package"
                )
            self._opened[location] = self.files.add(path), path.stat().st_size
        return self._opened[location]

    def _write_file(self, target: Path, pieces: list[Piece]) -> None:
        with ExitStack() as stack:
            descriptor = _create(target, stack)
            self.files.write(pieces, descriptor)
            os.fsync(descriptor)

    def _write_external(self, target: Path) -> None:
        with ExitStack() as stack:
            descriptor = _create(target, stack)
            os.ftruncate(descriptor, self._external_bytes)
            for at, span in self._ranges:
                os.lseek(descriptor, at, os.SEEK_SET)
                self.files.write([span], descriptor)
            os.fsync(descriptor)


def _create(target: Path, stack: ExitStack) -> int:
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    stack.callback(os.close, descriptor)
    return descriptor
