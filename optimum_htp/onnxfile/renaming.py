"""Give initializers of an ONNX file other names, and leave every other byte as it is.

Graph inputs, graph outputs and nodes keep their names.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from optimum_htp.errors import OnnxFileError, writing
from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.atomic import replacing
from optimum_htp.onnxfile.model import OnnxModel
from optimum_htp.onnxfile.opening import mapped
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.onnxfile.splice import Splice, write_pieces
from optimum_htp.onnxfile.walk import rewrite_message
from optimum_htp.onnxfile.wire import encode_text


def tensor_names(model: OnnxModel) -> set[str]:
    """Every name of a tensor in a file, in all graphs."""
    names: set[str] = set()
    for _, graph in model.graphs():
        names.update(value.name for value in (*graph.inputs, *graph.outputs))
        names.update(tensor.name for tensor in graph.initializers)
        names.update(name for node in graph.nodes for name in (*node.inputs, *node.outputs))
    return names


def renamable_initializers(model: OnnxModel) -> set[str]:
    """The initializers that are the only tensor of their name in the whole file, and no graph's input or output."""
    counts = Counter(tensor.name for _, graph in model.graphs() for tensor in graph.initializers)
    names = {name for name, count in counts.items() if name and count == 1}
    for _, graph in model.graphs():
        names.difference_update(value.name for value in (*graph.inputs, *graph.outputs))
        names.difference_update(*(node.outputs for node in graph.nodes))
    return names


def rename_initializers(path: Path, names: Mapping[str, str], *, destination: Path | None = None) -> None:
    """Renames initializers (new names by old) wherever they are consumed, in place or at a destination, atomically.

    Raises HtpError, with nothing written, if an old name is not just one tensor's or a new one is in use.
    """
    if not names:
        return
    _check(read_model(path), names)
    encoded = {encode_text(old): encode_text(new) for old, new in names.items()}
    target = path if destination is None else destination
    with mapped(path) as (source, data), writing(target, needed_bytes=len(data)):

        def rename(start: int, end: int) -> Splice | None:
            new = encoded.get(data[start:end])
            if new is None:
                return None
            splice = Splice(start)
            splice.cut(start, end)
            return splice.finish(end, new)

        splice = rewrite_message(data, schema.INITIALIZER_NAMES, {"name": rename})
        if splice is None:
            return
        with replacing(target, mode=stat.S_IMODE(os.fstat(source).st_mode)) as descriptor:
            write_pieces(splice.pieces, source=source, data=data, target=descriptor)


def undo_renames(path: Path, renamed: Mapping[str, str], *, destination: Path | None = None) -> bool:
    """Gives initializers their old names (by new ones) back; says whether there was anything to do, else writes nothing.

    New names that are no longer in the file are ignored. Raises HtpError as `rename_initializers` does.
    """
    if not renamed:
        return False
    initializers = {tensor.name for _, graph in read_model(path).graphs() for tensor in graph.initializers}
    names = {new: old for new, old in renamed.items() if new in initializers}
    rename_initializers(path, names, destination=destination)
    return bool(names)


def _check(model: OnnxModel, names: Mapping[str, str]) -> None:
    renamable = renamable_initializers(model)
    taken = tensor_names(model) - set(names)
    for old, new in names.items():
        if old not in renamable:
            raise OnnxFileError(
                f"{old!r} is not just the name of one initializer, so it can't be renamed", path=model.path
            )
        if new in taken:
            raise OnnxFileError(f"{old!r} can't be renamed to {new!r}, which is in use", path=model.path)
    if len(set(names.values())) != len(names):
        raise OnnxFileError("two tensors can't be renamed to the same name", path=model.path)
