"""Which files go together: one rule for `compare`, `diff`, `profile --compare`, `validate` and the source model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from optimum_htp import AutoModelForONNX, HtpPackage, PackageError, compare, diff, validate
from optimum_htp.cli.main import main
from optimum_htp.models.torch_parts import _matches
from optimum_htp.onnxfile import Initializer, Value
from optimum_htp.package.file_traits import FileTraits, traits_of
from optimum_htp.package.node_metadata import strip_tags
from optimum_htp.package.pairing import partners, plain_name
from optimum_htp.verbs.profile import ProfileReport

# What Optimum, ONNX Runtime, transformers.js, sentence-transformers, onnxslim and Olive call what they make.
VARIANTS = (
    "_O1 _O4 _optimized -opt .opt _quantized .quant _int8 -int8 _uint8 _int4 _q4 _q4f16 _bnb4 _fp16 _float16 -fp16 _bf16 "
    "_awq _gptq _qdq _slim _simplified -infer _qint8_avx512_vnni _quint8_avx2 _qint8_arm64 _optimized_quantized "
    "_w8a8 _int4_rtn _nf4 _quantized_optimized _fp16_O3 _O2-int8 _slim_q4 _QUANTIZED"
).split()


def named(names: str) -> list[FileTraits]:
    """Files of which only the names are known."""
    return [FileTraits(name=name) for name in names.split()]


def found(files: list[FileTraits], others: list[FileTraits]) -> dict[str, str | None]:
    return {each.file: each.other for each in partners(files, others).values()}


# --- By name ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["", *VARIANTS])
def test_names_that_tools_give(variant: str) -> None:
    """In both directions, next to files that are others."""
    plain = ["decoder_model.onnx", "decoder_model_merged.onnx", "encoder_model.onnx"]
    made = [name.replace(".onnx", f"{variant}.onnx") for name in plain]
    expected = dict(zip(plain, made, strict=True))
    assert {name: plain_name(name) for name in made} == {made: name for name, made in expected.items()}
    assert found(named(" ".join(plain)), named(" ".join(made))) == expected
    assert found(named(" ".join(made)), named(" ".join(plain))) == {made: name for name, made in expected.items()}


@pytest.mark.parametrize("name", ["model.onnx", "text_encoder_2.onnx", "decoder_with_past_model.onnx", "opt.onnx"])
def test_names_that_no_tool_appended_to(name: str) -> None:
    assert plain_name(name) == name


@pytest.mark.parametrize(
    ("files", "others", "pairs"),
    [
        ("a.onnx", "b.onnx", "a.onnx=b.onnx"),  # whatever the only files are called
        ("a.onnx b.onnx", "c.onnx", ""),
        ("a.onnx b.onnx", "b.onnx c.onnx", "b.onnx=b.onnx"),
        ("model.onnx x.onnx", "model.onnx model_O2.onnx", "model.onnx=model.onnx"),
        ("model_q4.onnx x.onnx", "model.onnx model_O2.onnx", "model_q4.onnx=model.onnx"),
        ("model_q4.onnx x.onnx", "model_O1.onnx model_O2.onnx", ""),  # open
        ("model_q4.onnx x.onnx", "model_q4.onnx model.onnx", "model_q4.onnx=model_q4.onnx"),
        ("unet/model.onnx x.onnx", "vae/model.onnx unet/model_fp16.onnx", "unet/model.onnx=unet/model_fp16.onnx"),
        ("decoder_model.onnx x.onnx", "decoder_model_merged.onnx encoder_model.onnx", ""),  # made from two files
        ("model.onnx model_q4.onnx", "model.onnx", "model.onnx=model.onnx model_q4.onnx=model.onnx"),  # of both
    ],
)
def test_names(files: str, others: str, pairs: str) -> None:
    known = {file: other for file, other in found(named(files), named(others)).items() if other}
    assert " ".join(f"{file}={other}" for file, other in known.items()) == pairs


# --- By content ---------------------------------------------------------------------------------------------------


def traits(name: str, ends: str, **known: Any) -> FileTraits:
    """A file with inputs and outputs such as `x y -> z`."""
    inputs, _, outputs = ends.partition("->")
    roots = frozenset((f"/{known.pop('root', 'Net')}",))
    weights = {
        weight: Initializer(weight, 1, tuple(dims))
        for weight, dims in known.pop("weights", {"w.weight": (2, 3)}).items()
    }
    sides = (tuple(map(Value, side.split())) for side in (inputs, outputs))
    return FileTraits(
        **{
            "name": name,
            "roots": roots,
            "weights": weights,
            **dict(zip(("inputs", "outputs"), sides, strict=True)),
            **known,
        }
    )


ENCODER = "input_ids attention_mask -> last_hidden_state"
DECODER = "input_ids encoder_hidden_states -> logits present.0.key"
WITH_PAST = "input_ids encoder_hidden_states past_key_values.0.key -> logits present.0.key"
MERGED = f"use_cache_branch {WITH_PAST}"
SEQ2SEQ = [
    traits("decoder_model.onnx", DECODER, root="T5"),
    traits("decoder_model_merged.onnx", MERGED, root="T5"),
    traits("decoder_with_past_model.onnx", WITH_PAST, root="T5"),
    traits("encoder_model.onnx", ENCODER, root="Stack"),
]


@pytest.mark.parametrize("other", range(len(SEQ2SEQ)))
def test_names_that_tell_nothing_or_lie(other: int) -> None:
    """Each file of a generating model is known by what it takes and gives, and by its module."""
    wanted = SEQ2SEQ[other]
    for name in ("a.onnx", *(each.name for each in SEQ2SEQ)):
        file = replace(wanted, name=name)
        assert found([file, traits("x.onnx", "q -> r", root="X")], SEQ2SEQ) == {name: wanted.name, "x.onnx": None}


def test_a_step_is_not_a_start() -> None:
    """A decoder is not paired with one for another phase, nor a file with that of another module or of other sizes."""
    others = SEQ2SEQ[1:]
    assert found([replace(SEQ2SEQ[0], name="a.onnx"), SEQ2SEQ[3]], others)["a.onnx"] is None
    text = traits("text_encoder_q4.onnx", ENCODER, root="Text", weights={"w.weight": (2, 3), "w.bias": (3,)})
    larger = replace(text, name="text_encoder_2.onnx", weights=traits("", "", weights={"w.weight": (4, 8)}).weights)
    assert found([text, SEQ2SEQ[0]], [larger, SEQ2SEQ[1]])["text_encoder_q4.onnx"] is None
    renamed = traits("a.onnx", "enc_input_ids enc_attention_mask -> enc_last_hidden_state", root="Stack")
    assert found([renamed, SEQ2SEQ[0]], SEQ2SEQ)["a.onnx"] == "encoder_model.onnx"
    fewer = traits("a.onnx", "input_ids -> last_hidden_state", root="Stack")
    assert found([fewer, SEQ2SEQ[0]], SEQ2SEQ)["a.onnx"] == "encoder_model.onnx"
    part = traits("a.onnx", "/embeddings/Add_output_0 -> /layer.0/Add_output_0", root="Stack")
    whole = replace(SEQ2SEQ[3], tensors=frozenset(("/embeddings/Add_output_0", "/layer.0/Add_output_0", "x")))
    assert found([part, SEQ2SEQ[0]], [*SEQ2SEQ[:3], whole])["a.onnx"] == "encoder_model.onnx"


def test_variants_of_one_export() -> None:
    """By name, else the one that they were made from, else what they have in common; else it is open."""
    export = traits("anything.onnx", ENCODER, skeleton="s", is_export=True, is_full=True, tensors=frozenset("abc"))
    half = replace(export, name="half.onnx", is_full=False)
    fused = replace(export, name="fused.onnx", is_export=False, tensors=frozenset("ad"))
    made = replace(fused, name="model_q4.onnx", is_full=False, tensors=frozenset("ade"))
    other = SEQ2SEQ[0]
    assert found([made, other], [half, export, fused]) == {made.name: export.name, other.name: None}
    assert found([made, other], [half, fused, replace(fused, name="model.onnx")])[made.name] == "model.onnx"
    further = replace(fused, name="further.onnx", tensors=frozenset("axyz"))
    assert found([made, other], [further, fused])[made.name] == "fused.onnx"
    twins = [replace(fused, name=name) for name in ("query.onnx", "passage.onnx")]
    open_one = partners([made, other], twins)[made.name]
    assert open_one.other is None and open_one.candidates == ("query.onnx", "passage.onnx")
    assert open_one.problem("ref") == (
        "it may go with query.onnx or passage.onnx of ref: give that file as the reference, ref/query.onnx"
    )
    assert found([replace(made, name="passage_q4.onnx"), other], twins)["passage_q4.onnx"] == "passage.onnx"


def test_in_its_own_package_a_file_goes_with_its_origin() -> None:
    """And with itself if it was made from no other."""
    export = traits("onnx/model.onnx", ENCODER, skeleton="s", is_export=True, is_full=True, place=Path("/model"))
    made = [
        replace(
            export, name=f"onnx/model_{name}.onnx", place=Path(f"/{name}"), is_export=name == "half", is_full=False
        )
        for name in ("half", "q4", "O2")
    ]
    files = [export, *made, *(replace(each, place=Path(f"/{each.name}")) for each in SEQ2SEQ)]
    expected = {each.name: each.name for each in files} | {each.name: export.name for each in made}
    assert found(files, files) == expected
    assert found(made[1:], made[1:]) == {each.name: each.name for each in made[1:]}  # their origin is elsewhere
    assert found(made[1:2], files) == {made[1].name: export.name}  # a file of it, opened by itself


def toy(directory: Path, name: str, seed: float, *, half: bool = False) -> None:
    """`y = x W + b`, with the names that any export of it has."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    dtype = np.float16 if half else np.float32
    made = {"dense.weight": np.full((3, 3), seed), "dense.bias": np.array([1.0, seed, 2.0])}
    stored = [numpy_helper.from_array(array.astype(dtype), key) for key, array in made.items()]
    kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(key, kind, ["n", 3]) for key in ("x", "y")]
    nodes = [
        helper.make_node("MatMul", ["x", "dense.weight"], ["t"]),
        helper.make_node("Add", ["t", "dense.bias"], ["y"]),
    ]
    directory.mkdir(exist_ok=True)
    onnx.save(helper.make_model(helper.make_graph(nodes, "main", ends[:1], ends[1:], stored)), directory / name)


def test_values_tell_what_nothing_else_does(tmp_path: Path) -> None:
    """Two towers of one architecture, whose names tell nothing, or lie: small weights are what they were."""
    for name, seed in (("query.onnx", 0.3), ("passage.onnx", 0.7)):
        toy(tmp_path / "towers", name, seed)
    toy(tmp_path / "made", "a.onnx", 0.7, half=True)
    toy(tmp_path / "made", "passage_fp16.onnx", 0.3, half=True)
    toy(tmp_path / "made", "c.onnx", 0.1)
    made, towers = (list(traits_of(HtpPackage(tmp_path / name).files.values())) for name in ("made", "towers"))
    result = partners(made, towers)
    assert {name: each.other for name, each in result.items()} == {
        "a.onnx": "passage.onnx", "c.onnx": None, "passage_fp16.onnx": "query.onnx",
    }  # fmt: skip
    assert set(result["c.onnx"].candidates) == {"query.onnx", "passage.onnx"}


def test_files_that_carry_nothing_of_ours(exported: Callable[..., Path], tmp_path: Path) -> None:
    """Neither tags nor skeleton, and names that tell nothing: what they take and give is left."""
    plain, made = HtpPackage(exported("t5")), tmp_path / "made"
    made.mkdir()
    names = dict(zip(plain.files, "abcd", strict=True))
    for name, letter in names.items():
        shutil.copy(plain.files[name].path, made / f"{letter}.onnx")
        strip_tags(made / f"{letter}.onnx")
    files = traits_of(HtpPackage(made).files.values())
    assert not any(file.skeleton or file.roots for file in files)
    result = partners(files, traits_of(plain.files.values()))
    assert {name: each.other for name, each in result.items()} == {f"{new}.onnx": old for old, new in names.items()}


# --- The verbs ----------------------------------------------------------------------------------------------------


def profiled(files: str) -> ProfileReport:
    root = SimpleNamespace(tag="/Net", path="", class_name="Net", depth=0)
    phases: Any = tuple(SimpleNamespace(file=name, phase="forward", modules=(root,)) for name in files.split())
    return ProfileReport("PKG", "", None, 0, 1, "", phases)


def test_profiles_side_by_side() -> None:
    delta = profiled("model.onnx model_q4.onnx x.onnx").compared_with(profiled("model.onnx y.onnx"))
    assert [(each.left.file, each.right.file) for each in delta.phases] == [
        ("model.onnx", "model.onnx"),
        ("model_q4.onnx", "model.onnx"),
    ]
    assert delta.unpaired == ("PKG: x.onnx (forward)", "PKG: y.onnx (forward)")
    own = profiled("model.onnx model_q4.onnx")
    own = replace(own, _traits=tuple(FileTraits(name=phase.file, place=Path(phase.file)) for phase in own.phases))
    (phase,) = own.compared_with(own).phases
    assert (phase.left.file, phase.right.file) == ("model_q4.onnx", "model.onnx")
    with pytest.raises(
        Exception, match=r"model_q4.onnx \(forward\): it may go with model_O1.onnx or model_O2.onnx of PKG"
    ):
        profiled("model_q4.onnx x.onnx").compared_with(profiled("model_O1.onnx model_O2.onnx"))


@pytest.fixture(scope="module")
def variants(exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of transformers.js and sentence-transformers: the variants in `onnx/`, the configs above."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    package = tmp_path_factory.mktemp("variants") / "bert"
    shutil.copytree(exported("bert"), package, ignore=shutil.ignore_patterns("*.onnx", "export_metadata.json"))
    (package / "onnx").mkdir()
    shutil.copy(exported("bert") / "model.onnx", package / "onnx")
    made = package / "onnx/model_quantized.onnx"
    quantize_dynamic(exported("bert") / "model.onnx", made, weight_type=QuantType.QUInt8)
    return package


def test_variants_are_compared_with_their_source(
    variants: Path, exported: Callable[..., Path], zoo_model: Callable[[str], Path]
) -> None:
    """In the package itself, in another one, in PyTorch; the directory, a file of it, or one that is named."""
    made = "onnx/model_quantized.onnx"
    for package, options in (
        (variants, {}), (variants, {"file": made}), (variants / made, {"reference": variants}), (variants / made, {}),
    ):  # fmt: skip
        report = compare(package, **options, threads=1)
        assert [part.file for part in report.parts] == [made] and report.ok and not report.not_compared
        assert report.parts[0].reference == str(variants / "onnx/model.onnx")
    report = compare(variants, model=zoo_model("bert"), file="model_quantized.onnx", threads=1)
    assert [part.file for part in report.parts] == [made]
    report = compare(variants, reference=exported("bert"), threads=1)
    assert [part.file for part in report.parts] == ["onnx/model.onnx", made]
    with pytest.raises(PackageError, match=r"bert: onnx/model\.onnx: made from no other file of it; give what"):
        compare(variants, file="onnx/model.onnx")


def test_variants_in_diff_and_validate(
    variants: Path, zoo_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = diff(variants).files
    assert (file.before, file.after) == ("onnx/model.onnx", "onnx/model_quantized.onnx")
    assert main(["diff", str(variants), "--json"]) == 0
    assert [file["after"] for file in json.loads(capsys.readouterr().out)["files"]] == ["onnx/model_quantized.onnx"]
    with pytest.raises(PackageError, match="none of its files was made from another"):
        diff(variants / "onnx/model.onnx")

    report = validate(variants, model=zoo_model("bert"))
    checks = {check.name: check for check in report.checks}
    assert checks["outputs"].status == "ok" and "onnx/model_quantized.onnx: 1 output" in checks["outputs"].reason
    assert "carry the tags of onnx/model.onnx over: optimum-cli htp project" in checks["tags"].advice
    package = shutil.copytree(variants, tmp_path / "tagged")
    (package / "onnx/model_quantized.onnx").rename(tmp_path / "made.onnx")
    assert main(["project", str(package)]) == 0
    (tmp_path / "made.onnx").rename(package / "onnx/model_quantized.onnx")
    check = {check.name: check for check in validate(package).checks}["sidecar"]
    assert check.status == "warning" and "does not know onnx/model_quantized.onnx, which was made from" in check.reason


def test_variants_are_loaded(variants: Path) -> None:
    """By a name with or without its directory; `onnx/` itself stands for the repository, whose config is above."""
    for name in ("onnx/model_quantized.onnx", "model_quantized.onnx"):
        loaded = AutoModelForONNX.from_pretrained(variants, file_name=name)
        assert str(loaded.session._model_path) == str(variants / "onnx/model_quantized.onnx")
    loaded = AutoModelForONNX.from_pretrained(variants / "onnx")
    assert str(loaded.session._model_path) == str(variants / "onnx/model.onnx")


def test_files_by_their_names(variants: Path) -> None:
    """A name without a directory is that of a file in any; a path or a glob that fits goes first."""
    package = HtpPackage(variants)
    both = ["onnx/model.onnx", "onnx/model_quantized.onnx"]
    for pattern, names in (
        ("model.onnx", both[:1]), ("./onnx/model.onnx", both[:1]), ("model_q*", both[1:]), ("*quantized*", both[1:]),
        ("onnx/*", both), (None, both),
    ):  # fmt: skip
        assert list(package.matching(pattern)) == names
    for pattern in ("model", "other/model.onnx", ""):
        with pytest.raises(PackageError, match=r"it has onnx/model\.onnx, onnx/model_quantized\.onnx"):
            package.matching(pattern)


def test_parts_of_the_source_model() -> None:
    """By what Optimum's export config says that they take and give, in whatever directory; names only tell variants."""

    class T5: ...

    class Stack: ...

    def config(ends: str) -> SimpleNamespace:
        inputs, _, outputs = ends.partition("->")
        renamed = {"decoder_input_ids": "input_ids"}
        names = [
            name.replace("input_ids", "decoder_input_ids") if "present" in outputs else name for name in inputs.split()
        ]
        return SimpleNamespace(
            inputs=names, outputs=outputs.split(), torch_to_onnx_input_map=renamed, torch_to_onnx_output_map={}
        )

    submodels = {
        "encoder_model": (Stack(), config(ENCODER)),
        "decoder_model": (T5(), config(DECODER)),
        "decoder_with_past_model": (T5(), config(WITH_PAST)),
    }
    source: Any = SimpleNamespace(library="transformers")
    files = [
        replace(file, name=f"onnx/{name}")
        for file, name in zip(SEQ2SEQ, ("a.onnx", "b.onnx", "c.onnx", "d.onnx"), strict=True)
    ]
    files += [replace(SEQ2SEQ[1], name="onnx/decoder_model_merged_q4f16.onnx"), traits("x.onnx", "q -> r", root="X")]
    assert _matches(source, submodels, files) == {
        "decoder_model": ["onnx/a.onnx"],
        "decoder_model_merged": ["onnx/b.onnx", "onnx/decoder_model_merged_q4f16.onnx"],
        "decoder_with_past_model": ["onnx/c.onnx"],
        "encoder_model": ["onnx/d.onnx"],
    }
    unet = {"unet": (T5(), config("sample -> out")), "vae": (Stack(), config("sample -> out"))}
    source = SimpleNamespace(library="diffusers")
    files = [
        traits("unet/model.onnx", "sample -> out", root="T5"),
        traits("vae/model_fp16.onnx", "sample -> out", root="Stack"),
    ]
    assert _matches(source, unet, files) == {"unet": ["unet/model.onnx"], "vae": ["vae/model_fp16.onnx"]}
