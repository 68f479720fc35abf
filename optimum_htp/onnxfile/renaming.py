"""Give initializers of an ONNX file other names, and leave every other byte as it is.

Graph inputs, graph outputs and nodes keep their names.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_htp.errors import OnnxFileError, writing
from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.atomic import replacing
from optimum_htp.onnxfile.attributes import scan_attribute
from optimum_htp.onnxfile.model import OnnxModel
from optimum_htp.onnxfile.opening import mapped
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.onnxfile.splice import Splice, write_pieces
from optimum_htp.onnxfile.wire import encode_message, fields, release_pages


if TYPE_CHECKING:
    from optimum_htp.onnxfile.wire import Data


_NAME_TAGS = {
    schema.GRAPH_INITIALIZER: schema.TENSOR_NAME,
    schema.GRAPH_VALUE_INFO: schema.VALUE_NAME,
    schema.GRAPH_QUANTIZATION: schema.QUANTIZATION_TENSOR_NAME,
}


def tensor_names(model: OnnxModel) -> set[str]:
    """Every name of a tensor in a file, in all graphs."""
    names: set[str] = set()
    for _, graph in model.graphs():
        names.update(value.name for value in (*graph.inputs, *graph.outputs))
        names.update(tensor.name for tensor in graph.initializers)
        names.update(name for node in graph.nodes for name in (*node.inputs, *node.outputs))
    return names


def rename_initializers(path: Path, names: Mapping[str, str], *, destination: Path | None = None) -> None:
    """Renames initializers wherever they are consumed, atomically.

    Args:
        path: The ONNX file.
        names: New names by old ones. An old one is that of one tensor in the whole file, a new one is not in use.
        destination: Where to write; None replaces the file.

    Raises:
        HtpError: A name is used otherwise, or the file could not be written; it stays as it is.
    """
    if not names:
        return
    _check(read_model(path), names)
    encoded = {old.encode(): new.encode() for old, new in names.items()}
    target = Path(os.path.realpath(path if destination is None else destination))
    with mapped(path) as (source, data), writing(target, needed_bytes=len(data)):
        splice = _Renamer(data, encoded).model()
        if splice is None:
            return
        with replacing(target, mode=stat.S_IMODE(os.fstat(source).st_mode)) as descriptor:
            write_pieces(splice.pieces, source=source, data=data, target=descriptor)


def undo_renames(path: Path, renamed: Mapping[str, str]) -> bool:
    """Gives initializers their old names back, in place and atomically; says whether there was anything to do.

    Args:
        path: The ONNX file.
        renamed: Old names by new ones, as the sidecar has them. New names that are no longer in the file are ignored.

    Raises:
        HtpError: An old name is in use by now, or the file could not be written; it stays as it is.
    """
    if not renamed:
        return False
    stored = {tensor.name for _, graph in read_model(path).graphs() for tensor in graph.initializers}
    names = {new: old for new, old in renamed.items() if new in stored}
    rename_initializers(path, names)
    return bool(names)


def _check(model: OnnxModel, names: Mapping[str, str]) -> None:
    stored = Counter(tensor.name for _, graph in model.graphs() for tensor in graph.initializers)
    fixed = {value.name for _, graph in model.graphs() for value in (*graph.inputs, *graph.outputs)}
    fixed |= {name for _, graph in model.graphs() for node in graph.nodes for name in node.outputs}
    taken = tensor_names(model) - set(names)
    for old, new in names.items():
        if old in fixed or stored[old] != 1:
            raise OnnxFileError(
                f"{old!r} is not just the name of one initializer, so it can't be renamed", path=model.path
            )
        if new in taken:
            raise OnnxFileError(f"{old!r} can't be renamed to {new!r}, which is in use", path=model.path)
    if len(set(names.values())) != len(names):
        raise OnnxFileError("two tensors can't be renamed to the same name", path=model.path)


class _Renamer:
    """Describes the file that a mapped one becomes with other names of initializers."""

    def __init__(self, data: Data, names: Mapping[bytes, bytes]) -> None:
        self.data = data
        self.names = names

    def model(self) -> Splice | None:
        splice = Splice(0)
        for tag, at, first, stop in fields(self.data, 0, len(self.data)):
            if tag == schema.MODEL_GRAPH:
                splice.replace(tag, (at, first, stop), self.graph(first, stop))
        return splice.finish(len(self.data))

    def graph(self, start: int, end: int) -> Splice | None:
        splice = Splice(start)
        released = start
        for tag, at, first, stop in fields(self.data, start, end):
            released = release_pages(self.data, stop, released)
            if tag in _NAME_TAGS:
                splice.replace(tag, (at, first, stop), self.named(first, stop, _NAME_TAGS[tag]))
            elif tag == schema.GRAPH_NODE:
                splice.replace(tag, (at, first, stop), self.node(first, stop))
        return splice.finish(end)

    def node(self, start: int, end: int) -> Splice | None:
        splice = Splice(start)
        for tag, at, first, stop in fields(self.data, start, end):
            if tag == schema.NODE_INPUT:
                self.name(splice, tag, (at, first, stop))
            elif tag == schema.NODE_ATTRIBUTE:
                bodies, _ = scan_attribute(self.data, first, stop, set()) or ((), ())
                inner = Splice(first)
                for _, (body_tag, body_at, body_first, body_stop) in bodies:
                    inner.replace(body_tag, (body_at, body_first, body_stop), self.graph(body_first, body_stop))
                splice.replace(tag, (at, first, stop), inner.finish(stop))
        return splice.finish(end)

    def named(self, start: int, end: int, name_tag: int) -> Splice | None:
        splice = Splice(start)
        for tag, at, first, stop in fields(self.data, start, end):
            if tag == name_tag:
                self.name(splice, tag, (at, first, stop))
        return splice.finish(end)

    def name(self, splice: Splice, tag: int, span: tuple[int, int, int]) -> None:
        at, first, stop = span
        new = self.names.get(self.data[first:stop])
        if new is not None:
            splice.cut(at, stop)
            splice.paste([encode_message(tag, new)])
