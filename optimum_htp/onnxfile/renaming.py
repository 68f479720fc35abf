"""Give stored tensors of an ONNX file other names, and leave every other byte as it is.

Graph inputs, graph outputs and nodes keep their names. Field numbers are those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_htp.errors import HtpError, OnnxFileError
from optimum_htp.onnxfile.atomic import replacing
from optimum_htp.onnxfile.attributes import scan_attribute
from optimum_htp.onnxfile.model import OnnxModel
from optimum_htp.onnxfile.opening import mapped
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.onnxfile.schema import (
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    TENSOR_NAME,
)
from optimum_htp.onnxfile.splice import Paste, Splice, write_pieces
from optimum_htp.onnxfile.wire import encode_message, fields, release_pages


if TYPE_CHECKING:
    from optimum_htp.onnxfile.wire import Data

_VALUE_INFO, _QUANTIZATION, _NAME = 106, 114, 10


def tensor_names(model: OnnxModel) -> set[str]:
    """Every name of a tensor in a file, in all graphs."""
    names: set[str] = set()
    for _, graph in model.graphs():
        names.update(value.name for value in (*graph.inputs, *graph.outputs))
        names.update(tensor.name for tensor in graph.initializers)
        names.update(name for node in graph.nodes for name in (*node.inputs, *node.outputs))
    return names


def rename_initializers(path: Path, names: Mapping[str, str], *, destination: Path | None = None) -> None:
    """Renames stored tensors wherever they are read, atomically.

    Args:
        path: The ONNX file.
        names: New names by old ones. An old one means one tensor in the whole file, a new one is used nowhere in it.
        destination: Where to write; None replaces the file.

    Raises:
        HtpError: A name is used otherwise, or the file could not be written; it stays as it is.
    """
    if not names:
        return
    _check(read_model(path), names)
    encoded = {old.encode(): new.encode() for old, new in names.items()}
    target = Path(os.path.realpath(path if destination is None else destination))
    try:
        with mapped(path) as (source, data):
            splice = _Renamer(data, encoded).model()
            if splice is None:
                return
            with replacing(target, mode=stat.S_IMODE(os.fstat(source).st_mode)) as descriptor:
                write_pieces(splice.pieces, source=source, data=data, target=descriptor)
    except OSError as error:
        raise HtpError(f"cannot write {target}: {error.strerror or error}; what was there stands") from error


def undo_renames(path: Path, renamed: Mapping[str, str]) -> bool:
    """Gives stored tensors their old names back, in place and atomically; says whether there was anything to do.

    Args:
        path: The ONNX file.
        renamed: Old names by new ones, as the sidecar has them. New names that are not in the file any more are let be.

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
    stored = [tensor.name for _, graph in model.graphs() for tensor in graph.initializers]
    fixed = {value.name for _, graph in model.graphs() for value in (*graph.inputs, *graph.outputs)}
    fixed |= {name for _, graph in model.graphs() for node in graph.nodes for name in node.outputs}
    taken = tensor_names(model) - set(names)
    for old, new in names.items():
        if old in fixed or stored.count(old) != 1:
            raise OnnxFileError(
                f"{old!r} is not just the name of one stored tensor, so it can't be renamed", path=model.path
            )
        if new in taken:
            raise OnnxFileError(f"{old!r} can't be renamed to {new!r}, which is in use", path=model.path)
    if len(set(names.values())) != len(names):
        raise OnnxFileError("two tensors can't be renamed to the same name", path=model.path)


class _Renamer:
    """Describes the file that a mapped one becomes with other names of stored tensors."""

    def __init__(self, data: Data, names: Mapping[bytes, bytes]) -> None:
        self.data = data
        self.names = names

    def model(self) -> Splice | None:
        splice = Splice(0)
        for tag, at, first, stop in fields(self.data, 0, len(self.data), {}):
            if tag == MODEL_GRAPH:
                splice.replace(tag, (at, first, stop), self.graph(first, stop))
        return splice.finish(len(self.data))

    def graph(self, start: int, end: int) -> Splice | None:
        splice = Paste(start)
        released = start
        for tag, at, first, stop in fields(self.data, start, end, {}):
            released = release_pages(self.data, stop, released)
            if tag == GRAPH_INITIALIZER:
                splice.replace(tag, (at, first, stop), self.named(first, stop, TENSOR_NAME))
            elif tag in (_VALUE_INFO, _QUANTIZATION):
                splice.replace(tag, (at, first, stop), self.named(first, stop, _NAME))
            elif tag == GRAPH_NODE:
                splice.replace(tag, (at, first, stop), self.node(first, stop))
        return splice.finish(end)

    def node(self, start: int, end: int) -> Splice | None:
        splice = Paste(start)
        for tag, at, first, stop in fields(self.data, start, end, {}):
            if tag == NODE_INPUT:
                self.name(splice, tag, (at, first, stop))
            elif tag == NODE_ATTRIBUTE:
                found = scan_attribute(self.data, first, stop, set())
                if found is not None and found[0]:
                    inner = Splice(first)
                    for _, (body_tag, body_at, body_first, body_stop) in found[0]:
                        inner.replace(body_tag, (body_at, body_first, body_stop), self.graph(body_first, body_stop))
                    splice.replace(tag, (at, first, stop), inner.finish(stop))
        return splice.finish(end)

    def named(self, start: int, end: int, name_tag: int) -> Splice | None:
        splice = Paste(start)
        for tag, at, first, stop in fields(self.data, start, end, {}):
            if tag == name_tag:
                self.name(splice, tag, (at, first, stop))
        return splice.finish(end)

    def name(self, splice: Paste, tag: int, span: tuple[int, int, int]) -> None:
        at, first, stop = span
        new = self.names.get(self.data[first:stop])
        if new is not None:
            splice.cut(at, stop)
            splice.paste([encode_message(tag, new)])
