"""Writing what was cut out: an ONNX file whose parts are copied from the old one, and the weights that it consumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from optimum_htp.errors import PackageError
from optimum_htp.onnxfile import (
    GraphSpans,
    ModelSpans,
    Piece,
    SourceFiles,
    Span,
    Splice,
    TensorField,
    Value,
    creating,
    encode_entry,
    graph_pieces,
    initializer_span,
    model_pieces,
    pieces_length,
    release_pages,
    rewrite_tensors,
)
from optimum_htp.package import HtpFile, external_file, is_of_whole_file, is_pack_key
from optimum_htp.verbs.extract.cut import Cut

_ALIGNMENT_BYTES = 4096


class PartWriter:
    """Writes a part of an ONNX file as a file of its own; `scopes` are the graphs from the main one to the one cut."""

    def __init__(self, files: SourceFiles, file: HtpFile, model: ModelSpans, scopes: Sequence[GraphSpans]) -> None:
        self.files = files
        self.path = file.path
        self._package = file.directory
        self.model = model
        self.scopes = scopes
        self._external: dict[tuple[str, int, int], int] = {}
        self._external_bytes = 0
        self._opened: dict[str, tuple[int, int]] = {}
        self._ranges: list[tuple[int, Span]] = []

    def write(
        self, cut: Cut, target: Path, *, name: str, types: Mapping[str, Value], metadata: Mapping[str, str]
    ) -> int:
        """Writes the file, and one with the suffix `_data` where weights are external; gives the weights' bytes.

        It has the model's metadata, without what is of the whole file, and `metadata` in addition.

        Raises PackageError if a file of external data is missing, too short, or outside the package.
        """
        location = target.name + "_data"
        dense: list[list[Piece]] = []
        sparse: list[list[Piece]] = []
        released = 0
        for initializer in cut.initializers:
            place = initializer_span(self.scopes, initializer)
            assert place is not None  # the cut lists what the graphs have
            span, is_sparse = place
            copied = self._rewritten("sparse" if is_sparse else "tensor", span, location)
            (sparse if is_sparse else dense).append(copied)
            released = release_pages(self.files.data, span[1], released)
        nodes = (self.scopes[scope].nodes[index] for scope, index in cut.nodes)
        graph = graph_pieces(
            name=name,
            nodes=[self._rewritten("node", span, location) for span in nodes],
            initializers=dense,
            sparse_initializers=sparse,
            inputs=[types[tensor] for tensor in cut.inputs],
            outputs=[types[tensor] for tensor in cut.outputs],
        )
        functions = [self._rewritten("function", self.model.functions[index], location) for index in cut.functions]
        keys = {span: self.files.metadata_key(*span) for span in self.model.metadata}
        kept = [[span] for span, key in keys.items() if not (is_of_whole_file(key) or is_pack_key(key))]
        added = [[encode_entry(key, value)] for key, value in metadata.items()]
        pieces = model_pieces(self.model, graph, functions=functions, metadata=[*kept, *added])
        with creating(target) as descriptor:
            self.files.write(pieces, descriptor)
        if self._ranges:
            with creating(target.with_name(location)) as descriptor:
                self.files.write_at(self._ranges, descriptor, size_bytes=self._external_bytes)
        external_bytes = sum(stop - start for _, (start, stop) in self._ranges)
        return sum(map(pieces_length, (*dense, *sparse))) + external_bytes

    def _rewritten(self, kind: str, span: Span, location: str) -> list[Piece]:
        """A message with its external data pointing into the new file."""

        def move(field: TensorField) -> Splice | None:
            if not field.is_external:
                return None
            offset, length = self._place(field, dict(field.entries))
            return field.with_entries((("location", location), ("offset", str(offset)), ("length", str(length))))

        splice = rewrite_tensors(self.files.data, move, kind=kind, span=span)
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
            raise PackageError(f"{self.path}: {message}; get the whole package again")
        key = (location, offset, length)
        if key not in self._external:
            target = -(-self._external_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
            self._external[key] = target
            self._external_bytes = target + length
            self._ranges.append((target, (start + offset, start + offset + length)))
        return self._external[key], length

    def _open(self, location: str) -> tuple[int, int]:
        """Where a file of external data starts in the range of all files, and its size."""
        if location not in self._opened:
            path = external_file(self.path, location, package=self._package)
            self._opened[location] = self.files.add(path), path.stat().st_size
        return self._opened[location]
