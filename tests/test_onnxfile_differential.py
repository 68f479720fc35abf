"""Valid but odd protobuf: what we read is what onnx reads, and tagging and stripping give back every byte.

Models are taken apart by protobuf's own description of them, changed in ways that no serializer has, and put together
again (`odd_protobuf.py`): fields twice, in another order, split into pieces, unknown, packed, of another type, with
lengths wider than they need be.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError
from odd_protobuf import CHANGES, is_ours_to_refuse, messages, put_together, read, taken_apart, theirs
from test_onnxfile import entries_for, make_odd_model, ours

from optimum_htp.errors import OnnxFileError
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.onnxfile.rewriting import rewrite_metadata

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
