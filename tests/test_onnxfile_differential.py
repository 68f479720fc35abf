"""Valid but odd protobuf: what we read is what onnx reads, and tagging and stripping give back every byte.

Models are taken apart by protobuf's own description of them, changed in ways that no serializer has, and put together
again (`odd_protobuf.py`): fields twice, in another order, split into pieces, unknown, packed, of another type, with
lengths wider than they need be.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError
from odd_protobuf import CHANGES, is_ours_to_refuse, messages, put_together, read, taken_apart, theirs
from test_onnxfile import entries_for, make_odd_model, ours

from optimum_htp.errors import OnnxFileError
from optimum_htp.onnxfile import attributes
from optimum_htp.onnxfile.digest import graph_digest
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.onnxfile.renaming import renamable_initializers, rename_initializers, tensor_names, undo_renames
from optimum_htp.onnxfile.rewriting import rewrite_metadata
from optimum_htp.onnxfile.soundness import check_sound
from optimum_htp.onnxfile.wire import WireError, fields

WIDTHS = {"shortest": (1,), "five bytes": (5,), "two bytes": (2,), "any": (1, 1, 1, 2, 3, 4, 5)}


@pytest.mark.parametrize("kind", WIDTHS)
def test_read_as_onnx_reads_and_stripped_to_the_byte(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    content = make_odd_model().SerializeToString()
    path = tmp_path / "model.onnx"
    rng = random.Random(kind)
    same = refused = 0
    for number in range(150):
        whole = taken_apart(content, onnx.ModelProto.DESCRIPTOR)
        for _ in range(rng.choice((1, 1, 2, 4))):
            rng.choice(CHANGES)(rng.choice([each for each in messages(whole) if each]), rng)
        changed = put_together(whole, lambda: rng.choice(WIDTHS[kind]))
        path.write_bytes(changed)
        try:
            model = read_model(path)
        except OnnxFileError as error:
            assert is_ours_to_refuse(changed, error), f"change {number}: {error}"
            refused += 1
            continue
        try:
            expected = theirs(onnx.ModelProto.FromString(changed))
        except DecodeError:  # in what we never look into
            continue
        assert read(model) == expected, f"change {number}"
        rewrite_metadata(path, nodes=entries_for(model), owned=ours, model={"pkg.optimum_htp.tagged.0": "{}"})
        onnx.ModelProto.FromString(path.read_bytes())
        rewrite_metadata(path, nodes={}, owned=ours, model={})
        assert path.read_bytes() == changed, f"change {number}"
        same += 1
    assert same > 75
    assert refused > 2


@pytest.mark.parametrize("width", range(1, 11))
def test_lengths_of_any_width_come_back(width: int, tmp_path: Path) -> None:
    """Tags that are written and taken away, names that are changed and changed back: no byte is another."""
    content = put_together(
        taken_apart(make_odd_model().SerializeToString(), onnx.ModelProto.DESCRIPTOR), lambda: width
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    model = read_model(path)
    new = {name: f"{name}_{'x' * 300}" for name in renamable_initializers(model)}
    rewrite_metadata(path, nodes=entries_for(model), owned=ours, model={"pkg.optimum_htp.tagged.0": "{}"})
    rename_initializers(path, new)
    assert tensor_names(read_model(path)).issuperset(new.values())
    if width <= 5:  # as far as protobuf reads
        onnx.ModelProto.FromString(path.read_bytes())
    else:
        with pytest.raises(OnnxFileError, match="longer than protobuf reads"):
            check_sound(model)
    rewrite_metadata(path, nodes={}, owned=ours, model={})
    undo_renames(path, {after: before for before, after in new.items()})
    assert path.read_bytes() == content


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """They are read, as Python reads names of files, can be renamed, and come back as they were."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) <float[2] wA = {1, 2}> { y = Add(x, wA) }'
    )
    content = model.SerializeToString().replace(b"wA", b"w\xff")
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    read_before = read_model(path)
    (node,) = read_before.graph.nodes
    assert node.inputs == ("x", "w\udcff")
    assert len(graph_digest(read_before)) == 64
    rename_initializers(path, {"w\udcff": "weight"})
    assert onnx.ModelProto.FromString(path.read_bytes()).graph.node[0].input[1] == "weight"
    undo_renames(path, {"weight": "w\udcff"})
    assert path.read_bytes() == content


def test_lists_that_stand_singly_are_passed_over() -> None:
    """Of an attribute with very many numbers and texts the other fields are found, and what ends too early too."""
    rng = random.Random(5)
    elements = (
        b"\x3dABCD",
        b"\x40\x07",
        b"\x40\x80\x80\x01",
        b"\x40" + bytes([255] * 9) + b"\1",
        b"\x4a\2ab",
        b"\x4a\x0cabcdefghijkl",
    )
    others = (b"\x0a\4name", b"\x32\3abc", b"\x9a\6\1x", b"\xa0\1\7")

    def found(walk: Callable[[bytes, int, int], Iterator[attributes.Field]], content: bytes) -> list[object]:
        seen: list[object] = []
        try:
            seen += [field for field in walk(content, 0, len(content)) if field[0] not in (0x3D, 0x40, 0x4A)]
        except WireError as error:
            return [str(error)]
        return seen

    for _ in range(300):
        content = b"".join(rng.choice(rng.choice((elements, elements, others))) for _ in range(rng.randrange(30)))
        content = content[: rng.choice((None, rng.randrange(len(content) + 1)))]
        assert found(attributes._besides_elements, content) == found(fields, content)
