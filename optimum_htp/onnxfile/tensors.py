"""Replace the content of tensors: walk to every tensor of a file, wherever it is, and move its content in or out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.assembly import encode_entry
from optimum_htp.onnxfile.limits import MAX_MESSAGE_DEPTH
from optimum_htp.onnxfile.splice import Splice
from optimum_htp.onnxfile.wire import (
    WireError,
    encode_message,
    encode_varint,
    fields,
    last_fields,
    release_pages,
)


if TYPE_CHECKING:
    from optimum_htp.onnxfile.wire import Data, Piece


@dataclass(frozen=True, slots=True)
class TensorField:
    """A tensor of a file: an initializer, or one in an attribute of a node.

    Attributes:
        position: Its index among all tensors, in the order of the file.
        name: Its name.
        is_external: Whether its content is in another file.
        entries: Its `external_data`, in order.
        content: Where in this file its `raw_data` is; None where it has none.
        span: Where in this file its message is.
        cut: What holds the content: `raw_data`, or `external_data` and `data_location`.
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
        return self._spliced([encode_varint(schema.TENSOR_RAW_DATA) + encode_varint(content[1] - content[0]), content])

    def with_entries(self, entries: tuple[tuple[str, str], ...]) -> Splice | None:
        """The tensor with these entries as its `external_data`."""
        encoded = [encode_message(schema.TENSOR_EXTERNAL_DATA, encode_entry(key, value)) for key, value in entries]
        is_external = encode_varint(schema.TENSOR_DATA_LOCATION) + encode_varint(schema.EXTERNAL)
        return self._spliced([b"".join(encoded) + is_external])

    def _spliced(self, pieces: list[Piece]) -> Splice | None:
        splice = Splice(self.span[0])
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
        WireError: The file is not an ONNX model.
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
        WireError: The file is not an ONNX model.
    """
    return _TensorWalk(data, change).message(kind, *span, 0)


class _TensorWalk:
    def __init__(self, data: Data, change: Callable[[TensorField], Splice | None]) -> None:
        self.data = data
        self.change = change
        self.count = 0
        self.released = 0

    def message(self, kind: str, start: int, end: int, depth: int) -> Splice | None:
        if depth > MAX_MESSAGE_DEPTH:
            raise WireError(f"messages nested deeper than {MAX_MESSAGE_DEPTH}", start)
        if kind == "tensor":
            return self.change(self.tensor(start, end))
        leads = schema.LEADS[kind]
        splice = Splice(start)
        for tag, at, first, stop in fields(self.data, start, end):
            if tag in leads:
                splice.replace(tag, (at, first, stop), self.message(leads[tag], first, stop, depth + 1))
            if kind == "graph":
                self.released = release_pages(self.data, stop, self.released)
        return splice.finish(end)

    def tensor(self, start: int, end: int) -> TensorField:
        name, content, is_external = "", None, False
        entries: list[tuple[str, str]] = []
        outside: list[tuple[int, int]] = []
        inside: list[tuple[int, int]] = []
        for tag, at, first, stop in fields(self.data, start, end, schema.CONTENT_FIELDS):
            if tag == schema.TENSOR_NAME:
                name = self.text(first, stop)
            elif tag == schema.TENSOR_RAW_DATA:
                content = (first, stop)
                inside.append((at, stop))
            elif tag == schema.TENSOR_EXTERNAL_DATA:
                found = last_fields(self.data, first, stop, schema.KEY_AND_VALUE)
                key, value = (self.text(*found[number]) if number in found else "" for number in (1, 2))
                entries.append((key, value))
                outside.append((at, stop))
            elif tag == schema.TENSOR_DATA_LOCATION:
                is_external = first == schema.EXTERNAL
                outside.append((at, stop))
        position, self.count = self.count, self.count + 1
        cut = sorted(inside + outside) if is_external else inside
        return TensorField(position, name, is_external, tuple(entries), content, (start, end), tuple(cut))

    def text(self, start: int, stop: int) -> str:
        return self.data[start:stop].decode(errors="replace")
