"""Which files of two packages go together: one rule for `diff`, `compare`, `profile --compare` and the source model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from optimum_htp.models.torch_parts import _files_of
from optimum_htp.package.pairing import pair_files, partner, plain_name
from optimum_htp.verbs.profile import ProfileReport

# What Optimum, ONNX Runtime, transformers.js, sentence-transformers, onnxslim and Olive call what they make.
VARIANTS = (
    "_O1 _O4 _optimized -opt .opt _quantized .quant _int8 -int8 _uint8 _q4 _q4f16 _bnb4 _fp16 _float16 -fp16 _bf16 _slim "
    "_simplified -infer _qint8_avx512_vnni _quint8_avx2 _qint8_arm64 _optimized_quantized _quantized_optimized _fp16_O3 "
    "_O2-int8 _slim_q4 _QUANTIZED"
).split()


@pytest.mark.parametrize("variant", ["", *VARIANTS])
def test_everybody_pairs_alike(variant: str) -> None:
    """Whatever tools append to the names, in both directions, next to files that are others."""
    plain = ["decoder_model.onnx", "decoder_model_merged.onnx", "encoder_model.onnx"]
    made = [name.replace(".onnx", f"{variant}.onnx") for name in plain]
    expected = dict(zip(plain, made, strict=True))

    assert {name: plain_name(name) for name in made} == {made: name for name, made in expected.items()}
    # diff
    assert pair_files(plain, made) == expected
    assert pair_files(made, plain) == {made: name for name, made in expected.items()}
    # compare
    assert {name: partner(name, plain, made) for name in plain} == expected
    # profile --compare
    delta = _profile(plain).compared_with(_profile(made))
    assert {phase.left.file: phase.right.file for phase in delta.phases} == expected and not delta.unpaired
    # compare --model, validate --model, params --model
    parts = _files_of([name.removesuffix(".onnx") for name in plain], made)
    assert {f"{name}.onnx": file for name, (file,) in parts.items()} == expected


def _profile(files: list[str]) -> ProfileReport:
    root = SimpleNamespace(tag="/Net", path="", class_name="Net", depth=0)
    phases: Any = tuple(SimpleNamespace(file=name, phase="forward", modules=(root,)) for name in files)
    return ProfileReport("", "", None, 0, 1, "", phases)


@pytest.mark.parametrize("name", ["model.onnx", "text_encoder_2.onnx", "decoder_with_past_model.onnx", "opt.onnx"])
def test_names_that_no_tool_appended_to(name: str) -> None:
    assert plain_name(name) == name


@pytest.mark.parametrize(
    ("files", "others", "expected"),
    [
        ("a.onnx", "b.onnx", "b.onnx"),  # whatever the only files are called
        ("a.onnx b.onnx", "c.onnx", None),
        ("model.onnx", "model.onnx model_O2.onnx", "model.onnx"),
        ("model_q4.onnx", "model.onnx model_O2.onnx", "model.onnx"),
        ("model_q4.onnx", "model_O1.onnx model_O2.onnx", None),  # ambiguous
        ("unet/model.onnx", "vae/model.onnx unet/model_fp16.onnx", "unet/model_fp16.onnx"),
        ("decoder_model.onnx", "decoder_model_merged.onnx encoder_model.onnx", None),  # made from two files
    ],
)
def test_partner(files: str, others: str, expected: str | None) -> None:
    first, *rest = files.split()
    assert partner(first, [first, *rest], others.split()) == expected


def test_a_reference_may_stand_for_several_files() -> None:
    """`compare` holds a quantized file that lies next to its original against that original too; `diff` pairs once."""
    files = ["model.onnx", "model_quantized.onnx"]
    assert [partner(file, files, ["model.onnx"]) for file in files] == ["model.onnx", "model.onnx"]
    assert pair_files(files, ["model.onnx"]) == {"model.onnx": "model.onnx"}
    assert _files_of(["model"], files) == {"model": files}
