"""Replace the metadata in an ONNX file, take nodes and outputs out of its graphs or put some in, and leave the rest as it is."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from optimum_htp.errors import ModelTooLargeError, OnnxFileError, writing
from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.assembly import encode_entry, encode_node, encode_opset, encode_value, read_entry
from optimum_htp.onnxfile.atomic import replacing
from optimum_htp.onnxfile.attributes import Body, path_name, scan_attribute
from optimum_htp.onnxfile.headers import Headers, Place
from optimum_htp.onnxfile.limits import CACHED, MAX_BODY_DEPTH, MAX_FUNCTION_NAME_BYTES, MAX_MODEL_BYTES
from optimum_htp.onnxfile.model import Value, body_path, function_path
from optimum_htp.onnxfile.opening import mapped, wire_errors
from optimum_htp.onnxfile.splice import Splice, write_pieces
from optimum_htp.onnxfile.wire import (
    Data,
    Piece,
    WireError,
    decode_text,
    encode_message,
    encode_text,
    encode_varint,
    fields,
    last_fields,
    release_pages,
)

_GRAFTED = frozenset(("Identity", "Max"))  # of one input the maximum is that


@dataclass(frozen=True, slots=True)
class Graft:
    """Outputs that a graph gets in addition. All of it comes last, so that it can be taken off again.

    Attributes:
        outputs: What it returns in addition.
        sources: For those that are another tensor of it under a new name, that tensor.
        handed_on: Outputs that nodes get in addition, by the node's index: those that the graphs in it return.
        operator: What gives tensors new names: `Identity`, or `Max`, which no optimizer takes away.
        cut: Nodes that are taken out, by their index.
        before: Nodes that come in, encoded as fields of the graph, by the index of the old node that they stand before; by
            the number of those, at the end.
        untyped: Tensors whose types it is not to state any more.
    """

    outputs: tuple[Value, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    handed_on: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    operator: str = "Identity"
    cut: Container[int] = ()
    before: Mapping[int, bytes] = field(default_factory=dict)
    untyped: Collection[str] = ()

    def encoded(self) -> bytes:
        """The fields that the graph gets at its end."""
        values = (encode_message(schema.GRAPH_OUTPUT, encode_value(value)) for value in self.outputs)
        nodes = (encode_node(self.operator, [source], [name]) for name, source in self.sources.items())
        return b"".join((*values, *(encode_message(schema.GRAPH_NODE, node) for node in nodes)))


@dataclass(frozen=True, slots=True)
class Functions:
    """Functions that a model gets in addition, or loses.

    Attributes:
        ir_version: The version of the format that it is in then.
        functions: Each that it gets, encoded.
        opset_imports: Versions of domains that the model gets in addition.
        dropped: The paths of those that it loses.
    """

    ir_version: int
    functions: tuple[bytes, ...] = ()
    opset_imports: Mapping[str, int] = field(default_factory=dict)
    dropped: Collection[str] = ()

    def encoded(self) -> bytes:
        """The fields that the model gets at its end."""
        imports = (
            encode_message(schema.MODEL_OPSET_IMPORT, encode_opset(*pair)) for pair in self.opset_imports.items()
        )
        functions = (encode_message(schema.MODEL_FUNCTION, each) for each in self.functions)
        version = encode_varint(schema.MODEL_IR_VERSION) + encode_varint(self.ir_version)
        return b"".join((version, *imports, *functions))


def rewrite_metadata(
    path: str | Path,
    *,
    nodes: Mapping[tuple[str, int], Mapping[str, str]],
    owned: Callable[[str], bool],
    model: Mapping[str, str],
    foreign: Container[tuple[str, int]] = (),
    grafts: Mapping[str, Graft] | None = None,
    dropped: Mapping[str, bool] | None = None,
    functions: Functions | None = None,
    destination: str | Path | None = None,
) -> None:
    """Replaces our metadata in a file, in place or at a destination, atomically; every other byte stays.

    Each node, in every graph, loses the entries whose key is `owned` and gets those of `nodes` (by graph path and
    index); the model likewise. Nodes that are `foreign` lose nothing. Graphs get what `grafts` has for their paths, and
    lose the outputs with `dropped` names; where the value is true, the grafted node that makes it, too. The model gets
    `functions`. With nothing to add this restores the file. A link is replaced by a file. Raises HtpError, with nothing written.
    """
    path = Path(path)
    target = Path(path if destination is None else destination)
    with mapped(path) as (source, data):
        rewriter = _Rewriter(
            data, nodes=nodes, owned=owned, foreign=foreign, grafts=grafts, dropped=dropped, functions=functions
        )
        content = rewriter.model(model)
        if content is None and destination is None:
            return
        pieces: list[Piece] = [(0, len(data))] if content is None else content.pieces
        length = len(data) if content is None else content.length_bytes
        _check_length(length, path)
        with writing(target, needed_bytes=length):
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            before = os.fstat(source)
            mode = target.stat().st_mode if target.exists() else before.st_mode
            with replacing(target, mode=stat.S_IMODE(mode)) as descriptor:
                write_pieces(pieces, source=source, data=data, target=descriptor)
                after = os.fstat(source)
                if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                    raise OnnxFileError("it was changed while it was read: run it again", path=path)


def rewritten_content(
    content: bytes,
    *,
    path: Path,
    nodes: Mapping[tuple[str, int], Mapping[str, str]],
    owned: Callable[[str], bool],
    model: Mapping[str, str],
    foreign: Container[tuple[str, int]] = (),
) -> Iterator[bytes | memoryview]:
    """What `rewrite_metadata` makes of a file that is still in memory and goes to `path`: pieces, none a copy."""
    with wire_errors(path, content):
        splice = _Rewriter(content, nodes=nodes, owned=owned, foreign=foreign).model(model)
    if splice is None:
        return iter((content,))
    _check_length(splice.length_bytes, path)
    view = memoryview(content)
    return (piece if isinstance(piece, bytes) else view[piece[0] : piece[1]] for piece in splice.pieces)


def _check_length(length_bytes: int, path: Path) -> None:
    if length_bytes > MAX_MODEL_BYTES:
        advice = "save its weights as external data, or keep the tags in the sidecar only"
        message = f"the result would have {length_bytes} bytes, more than protobuf's {MAX_MODEL_BYTES}: {advice}"
        raise ModelTooLargeError(message, path=path)


class _Rewriter:
    """Describes the file that a mapped one becomes with other metadata."""

    def __init__(
        self,
        data: Data,
        *,
        nodes: Mapping[tuple[str, int], Mapping[str, str]],
        owned: Callable[[str], bool],
        foreign: Container[tuple[str, int]] = (),
        grafts: Mapping[str, Graft] | None = None,
        dropped: Mapping[str, bool] | None = None,
        functions: Functions | None = None,
    ) -> None:
        self.data = data
        self.remaining = dict(nodes)
        self.foreign = foreign
        self.grafts = grafts or {}
        self.dropped = dropped or {}
        self.functions = functions
        # Entries repeat from node to node.
        self.is_owned = lru_cache(CACHED)(lambda entry: owned(decode_text(read_entry(entry, 0, len(entry))[0])))
        self.field = lru_cache(CACHED)(lambda tag, key, value: encode_message(tag, encode_entry(key, value)))
        self.released = 0
        self.headers = Headers(data)
        self.plain: set[bytes] = set()

    def model(self, entries: Mapping[str, str]) -> Splice | None:
        """Returns the new file, None where it is the same as the old one."""
        data, end = self.data, len(self.data)
        splice = Splice(0)
        has_graph = False
        for index, (tag, at, first, stop) in enumerate(fields(data, 0, end)):
            if tag == schema.MODEL_METADATA:
                if self.headers.is_record(at) or self.is_ours(first, stop):
                    splice.cut(at, stop)
            elif tag == schema.MODEL_IR_VERSION and self.functions is not None:
                splice.cut(at, stop)
            elif tag in (schema.MODEL_GRAPH, schema.MODEL_FUNCTION):
                if tag == schema.MODEL_GRAPH:
                    if has_graph:
                        raise WireError("a second main graph", at)
                    has_graph, path, node_tag = True, "", schema.GRAPH_NODE
                else:
                    path, node_tag = self.function_path(first, stop), schema.FUNCTION_NODE
                    if self.functions is not None and path in self.functions.dropped:
                        splice.cut(at, stop)
                        continue
                content = self.graph(first, stop, path, node_tag, (index,), 0)
                self.headers.replace(splice, (at, first, stop), content, (index,))
        if not has_graph:
            raise WireError("it has no graph", 0)
        if self.remaining:
            path, missing = next(iter(self.remaining))
            where = f"the graph {path!r}" if path else "the main graph"
            raise WireError(f"there is no node {missing} in {where}: was the file changed since it was read?", 0)
        added = self.functions.encoded() if self.functions is not None else b""
        return splice.finish(end, added + self.encode(schema.MODEL_METADATA, entries) + self.headers.record())

    def function_path(self, start: int, end: int) -> str:
        identity = last_fields(self.data, start, end, schema.FUNCTION_IDENTITY)
        domain, name, overload = (
            path_name(self.data, *identity.get(tag >> 3, (start, start)), MAX_FUNCTION_NAME_BYTES)
            for tag in (schema.FUNCTION_DOMAIN, schema.FUNCTION_NAME, schema.FUNCTION_OVERLOAD)
        )
        return function_path(domain, name, overload)

    def graph(self, start: int, end: int, path: str, node_tag: int, place: Place, depth: int) -> Splice | None:
        """Returns the new content of a graph or function, None where it stays the same."""
        if depth > MAX_BODY_DEPTH:
            raise WireError(f"graphs nested deeper than {MAX_BODY_DEPTH}", start)
        splice = Splice(start)
        graft = self.grafts.get(path, Graft())
        index = 0
        for number, (tag, at, first, stop) in enumerate(fields(self.data, start, end)):
            self.released = release_pages(self.data, stop, self.released)
            if tag == node_tag:
                if index in graft.before:
                    splice.cut(at, at)
                    splice.paste([graft.before[index]])
                if index in graft.cut or self.is_grafted(first, stop):
                    splice.cut(at, stop)
                else:
                    inner = (*place, number)
                    more = graft.handed_on.get(index, ())
                    content = self.node(first, stop, path, index, inner, depth, more=more)
                    self.headers.replace(splice, (at, first, stop), content, inner)
                index += 1
            elif (tag == schema.GRAPH_OUTPUT and node_tag == schema.GRAPH_NODE and self.is_dropped(first, stop)) or (
                tag == schema.GRAPH_VALUE_INFO
                and node_tag == schema.GRAPH_NODE
                and self.is_untyped(first, stop, graft)
            ):
                splice.cut(at, stop)
        return splice.finish(end, graft.before.get(index, b"") + graft.encoded())

    def is_untyped(self, start: int, end: int, graft: Graft) -> bool:
        """Whether a type that a graph states is that of a tensor which is not in it any more."""
        return bool(graft.untyped) and self.text(start, end, schema.VALUE_NAME) in graft.untyped

    def is_dropped(self, start: int, end: int) -> bool:
        """Whether a graph's output is one that is dropped."""
        return bool(self.dropped) and self.text(start, end, schema.VALUE_NAME) in self.dropped

    def is_grafted(self, start: int, end: int) -> bool:
        """Whether a node is one that a graft added, to make an output that is dropped."""
        if not self.dropped:
            return False
        output, operator = (self.text(start, end, tag) for tag in (schema.NODE_OUTPUT, schema.NODE_OP_TYPE))
        return operator in _GRAFTED and self.dropped.get(output, False)

    def text(self, start: int, end: int, wanted: int) -> str:
        """The last text field of a message with a tag; empty if there is none."""
        span = last_fields(self.data, start, end, {wanted >> 3: wanted & 7}).get(wanted >> 3)
        return decode_text(self.data[slice(*span)]) if span is not None else ""

    def node(
        self, start: int, end: int, path: str, index: int, place: Place, depth: int, *, more: tuple[str, ...]
    ) -> Splice | None:
        """Returns the new content of a node with `more` outputs, None where it stays the same."""
        data = self.data
        splice = Splice(start)
        has_bodies = False
        for number, (tag, at, first, stop) in enumerate(fields(data, start, end)):
            if tag == schema.NODE_METADATA:
                if (path, index) not in self.foreign and self.is_ours(first, stop):
                    splice.cut(at, stop)
            elif tag == schema.NODE_ATTRIBUTE:
                attribute = scan_attribute(data, first, stop, self.plain)
                if attribute is not None and attribute[0]:
                    has_bodies = True
                    inner = (*place, number)
                    content = self.bodies(attribute[0], (first, stop), body_path(path, index, ""), inner, depth)
                    self.headers.replace(splice, (at, first, stop), content, inner)
            elif tag == schema.NODE_OUTPUT and has_bodies and decode_text(data[first:stop]) in self.dropped:
                splice.cut(at, stop)  # as it was handed on, it comes after the bodies
        entries = self.encode(schema.NODE_METADATA, self.remaining.pop((path, index), {}))
        outputs = b"".join(encode_message(schema.NODE_OUTPUT, encode_text(name)) for name in more)
        return splice.finish(end, entries + outputs)

    def bodies(self, bodies: list[Body], span: tuple[int, int], path: str, place: Place, depth: int) -> Splice | None:
        """Returns the new content of an attribute, whose bodies have paths that start with `path`."""
        splice = Splice(span[0])
        numbers = {at: number for number, (_, at, _, _) in enumerate(fields(self.data, *span))}
        for element, (_, at, first, stop) in bodies:
            inner = (*place, numbers[at])
            content = self.graph(first, stop, path + element, schema.GRAPH_NODE, inner, depth + 1)
            self.headers.replace(splice, (at, first, stop), content, inner)
        return splice.finish(span[1])

    def is_ours(self, start: int, end: int) -> bool:
        """Whether the metadata entry in this span has a key that the caller owns."""
        return self.is_owned(self.data[start:end])

    def encode(self, tag: int, entries: Mapping[str, str]) -> bytes:
        """Returns metadata entries as fields; many nodes share a tag, so each entry is encoded once."""
        return b"".join(self.field(tag, key, value) for key, value in entries.items())
