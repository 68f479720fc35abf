"""Replace the content of tensors: find every tensor of a file, wherever it is, and move its content in or out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.assembly import encode_entry, read_entry
from optimum_htp.onnxfile.splice import Splice
from optimum_htp.onnxfile.walk import rewrite_message
from optimum_htp.onnxfile.wire import Data, Piece, WireError, decode_text, encode_message, encode_varint, fields

OddFields: TypeAlias = tuple[tuple[int, bytes], ...]
"""Fields as they are in a file, each with the bytes of other fields that are between the first of them and it."""


@dataclass(frozen=True, slots=True)
class TensorField:
    """A tensor of a file: an initializer, or one in an attribute of a node."""

    position: int  # among all tensors, in the order of the file
    name: str
    is_external: bool
    entries: tuple[tuple[str, str], ...]  # its `external_data`, in order
    content: tuple[int, int] | None  # where in this file its `raw_data` is
    span: tuple[int, int]  # where in this file its message is
    cut: tuple[tuple[int, int], ...]  # what holds the content: `raw_data`, or `external_data` and `data_location`

    def with_content(self, content: tuple[int, int]) -> Splice | None:
        """The tensor with this range of bytes as its `raw_data`."""
        return self._spliced([encode_varint(schema.TENSOR_RAW_DATA) + encode_varint(content[1] - content[0]), content])

    def with_entries(self, entries: tuple[tuple[str, str], ...]) -> Splice | None:
        """The tensor with these entries as its `external_data`."""
        return self._spliced([_external(entries)])

    def odd_fields(self, data: Data) -> OddFields:
        """What says where the content is, if `with_entries` would write it in other bytes; else nothing."""
        found: list[tuple[int, bytes]] = []
        apart = 0
        for (start, stop), (_, before) in zip(self.cut, (self.cut[0][:1] * 2, *self.cut), strict=False):
            apart += start - before
            found.append((apart, data[start:stop]))
        as_written = _external(tuple(dict(self.entries).items()))
        return tuple(found) if apart or b"".join(encoded for _, encoded in found) != as_written else ()

    def with_odd_fields(self, odd: OddFields, entries: tuple[tuple[str, str], ...], data: Data) -> Splice | None:
        """The tensor with the `odd_fields` that it had before `with_content`; None if they don't say these `entries`."""
        start, stop = self.cut[0]
        rest = data[stop : self.span[1]]
        pieces, at = [data[self.span[0] : start]], 0
        for apart, encoded in odd:
            pieces += [rest[at:apart], encoded]
            at = max(at, apart)
        whole = b"".join([*pieces, rest[at:]])
        try:
            tensor = _tensor(whole, 0, len(whole), 0)
        except WireError:
            return None
        if not tensor.is_external or dict(tensor.entries) != dict(entries):
            return None
        splice = Splice(self.span[0])
        splice.cut(*self.span)
        splice.paste([whole])
        return splice.finish(self.span[1])

    def _spliced(self, pieces: list[Piece]) -> Splice | None:
        splice = Splice(self.span[0])
        for index, span in enumerate(self.cut):
            splice.cut(*span)
            if not index:
                splice.paste(pieces)
        return splice.finish(self.span[1])


def rewrite_tensors(
    data: Data,
    change: Callable[[TensorField], Splice | None],
    *,
    kind: str = "model",
    span: tuple[int, int] | None = None,
) -> Splice | None:
    """Describes a model, or one message of it, with the tensors that `change` gives; None keeps one, or all.

    `kind` is a key of `schema.LEADS` or `"tensor"`, and `span` where the message's content is. Raises WireError.
    """
    positions = count()
    changes = {"tensor": lambda start, end: change(_tensor(data, start, end, next(positions)))}
    return rewrite_message(data, schema.LEADS, changes, kind=kind, span=span)


def _tensor(data: Data, start: int, end: int, position: int) -> TensorField:
    name, content, is_external = "", None, False
    entries: list[tuple[str, str]] = []
    outside: list[tuple[int, int]] = []
    inside: list[tuple[int, int]] = []
    for tag, at, first, stop in fields(data, start, end):
        if tag == schema.TENSOR_NAME:
            name = decode_text(data[first:stop])
        elif tag == schema.TENSOR_RAW_DATA:
            content = (first, stop)
            inside.append((at, stop))
        elif tag == schema.TENSOR_EXTERNAL_DATA:
            key, value = read_entry(data, first, stop)
            entries.append((decode_text(key), decode_text(value)))
            outside.append((at, stop))
        elif tag == schema.TENSOR_DATA_LOCATION:
            is_external = schema.location(first, is_external)
            outside.append((at, stop))
    cut = sorted(inside + outside) if is_external else inside
    return TensorField(position, name, is_external, tuple(entries), content, (start, end), tuple(cut))


def _external(entries: tuple[tuple[str, str], ...]) -> bytes:
    encoded = [encode_message(schema.TENSOR_EXTERNAL_DATA, encode_entry(key, value)) for key, value in entries]
    return b"".join([*encoded, encode_varint(schema.TENSOR_DATA_LOCATION), encode_varint(schema.EXTERNAL)])
