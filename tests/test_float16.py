"""What converters to float16 make of a selection: the precision that the module really runs in.

The modules of the graphs here are `m`, whose nodes have names that begin with `l`, and `other`. In most of them a value
is a million on its way inside `m`, which float16 does not have, so that an error of 1e-3 says that it never was.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from optimum_htp import HtpOptions, PackageError, select
from optimum_htp.cli.main import main
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.node_metadata import write_tags
from optimum_htp.tagging.graph import TaggedGraph

TREE = ModuleTree([ModuleInfo((), "Net", "toy.Net"), *(ModuleInfo((name,), "M", "toy.M") for name in ("m", "other"))])
Convert = Callable[[onnx.ModelProto, list[str]], onnx.ModelProto]


def toy(body: str, directory: Path, *, outputs: str = "float[2,16] y") -> Path:
    """A package with a graph from `x`, a million in the middle if `x` is a thousand, and `w`, ones."""
    ones = ", ".join(["1.0"] * 16)
    text = f"g (float[2,16] x, bool p) => ({outputs}) <float[16] w = {{{ones}}}, float tiny = {{1e-10}}> {{{body}}}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>\n{text}')
    directory.mkdir()
    onnx.save(model, directory / "model.onnx")
    read = read_model(directory / "model.onnx")
    tags = {
        key: NodeTag(f"/Net/M.{'m' if node.name.startswith('l') else 'other'}", "scope") for key, node in read.nodes()
    }
    write_tags(TaggedGraph(read, tags, Roots([Root(TREE)])), options=HtpOptions(skeleton=False))
    return directory


RMS = """
    [pre] a = Mul(x, w)
    [l1] b = Mul(a, a)
    [l2] c = Sqrt(b)
    [l3] d = Neg(c)
    [post] y = Mul(d, w)
"""


def ort(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    from onnxruntime.transformers.onnx_model import OnnxModel

    wrapped = OnnxModel(model)
    wrapped.convert_float_to_float16(node_block_list=names)
    return wrapped.model


def ort_function(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True, node_block_list=names)


def onnxconverter(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    float16 = pytest.importorskip("onnxconverter_common.float16")
    converted: onnx.ModelProto = float16.convert_float_to_float16(model, keep_io_types=True, node_block_list=names)
    return converted


CONVERTERS = {"ort-fp16": ort, "onnxconverter-fp16": onnxconverter}


def run(model: onnx.ModelProto, scale: float) -> list[np.ndarray[Any, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = scale * np.random.default_rng(0).uniform(0.5, 1.5, (2, 16)).astype(np.float32)
    given = {"x": x, "p": np.array(True)}
    return session.run(None, {value.name: given[value.name] for value in session.get_inputs()})  # type: ignore[no-any-return]


def error(package: Path, converted: onnx.ModelProto, scale: float = 1000.0) -> float:
    """The largest relative error of any output."""
    pairs = zip(run(converted, scale), run(onnx.load(package / "model.onnx"), scale), strict=True)
    return max(float(np.max(np.abs(found - true) / np.abs(true))) for found, true in pairs)


def rounded(model: onnx.ModelProto, names: list[str]) -> list[str]:
    """What the listed nodes consume or produce that is not in float32, or was in float16 since another of them."""
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in (node for node in model.graph.node if node.name in names):
        found += [name for name in (*node.input, *node.output) if types[name] == onnx.TensorProto.FLOAT16]
        for name in node.input:
            passed = [name]
            while (
                (maker := producers.get(passed[-1])) is not None
                and maker.op_type == "Cast"
                and maker.name not in names
            ):
                passed.append(maker.input[0])
            if (
                maker is not None
                and maker.name in names
                and any(types[each] == onnx.TensorProto.FLOAT16 for each in passed)
            ):
                found.append(name)
    return found


def notes(package: Path, form: str, capsys: pytest.CaptureFixture[str], pattern: str = "m") -> list[str]:
    assert main(["select", str(package), pattern, "--format", form]) == 0
    return capsys.readouterr().err.replace("note: model.onnx: ", "").splitlines()


def converted(package: Path, form: str, pattern: str = "m") -> tuple[onnx.ModelProto, list[str]]:
    names = select(package, pattern).names_for(form)
    return CONVERTERS[form](onnx.load(package / "model.onnx"), names), names


@pytest.mark.parametrize("form", CONVERTERS)
def test_a_module_stays_in_float32(form: str, tmp_path: Path) -> None:
    """And the rest does not."""
    package = toy(RMS, tmp_path / "toy")
    model, names = converted(package, form)
    assert not rounded(model, names)
    assert rounded(model, ["pre", "post"])
    assert error(package, model) < 2e-3


def test_the_function_is_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which is said wherever it makes a difference."""
    package = toy(RMS, tmp_path / "toy")
    names = select(package, "m").names_for("ort-fp16")
    model = ort_function(onnx.load(package / "model.onnx"), names)
    assert rounded(model, names)
    assert not error(package, model) < 1
    (note,) = notes(package, "ort-fp16", capsys)
    assert note.startswith("for OnnxModel(model).convert_float_to_float16 of onnxruntime.transformers: the function")
    alone = toy("[pre] a = Mul(x, w) [l1] b = Neg(a) [post] y = Mul(b, w)", tmp_path / "alone")
    assert notes(alone, "ort-fp16", capsys) == []
    names = select(alone, "m").names_for("ort-fp16")
    assert not rounded(ort_function(onnx.load(alone / "model.onnx"), names), names)


SMALL = """
    [pre] a = Mul(x, w)
    [{name}] e = Constant<value = float {{1e-10}}>()
    [l1] b = Mul(a, a)
    [l2] c = Add(b, e)
    [l3] d = Sqrt(c)
    [post] y = Mul(d, w)
"""


@pytest.mark.parametrize("name", ["lk", "k"], ids=["its own", "another's"])
def test_constants(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An epsilon that float16 does not have: ONNX Runtime's converter keeps it if it is listed, whosoever it is."""
    package = toy(SMALL.format(name=name), tmp_path / "toy")
    model, names = converted(package, "ort-fp16")
    assert name in names
    assert not rounded(model, names)
    assert error(package, model, scale=1e-5) < 2e-3
    assert name not in select(package, "m").names_for("onnxconverter-fp16")
    (note,) = notes(package, "onnxconverter-fp16", capsys)
    assert note.startswith("the converter rounds to float16 what these nodes read in constants, within 1e-7 and 1e4")
    model, names = converted(package, "onnxconverter-fp16")
    assert error(package, model, scale=1e-5) > 1


@pytest.mark.parametrize(
    ("body", "outputs", "note", "loads"),
    [
        (
            RMS.replace("Neg(c)", "Div(b, c)"),
            "float[2,16] y",
            "rounds to float16 what these nodes pass on to several, such as 'b'",
            True,
        ),
        (
            RMS.replace("Sqrt(b)", "Add(b, tiny)").replace("Neg(c)", "Sqrt(c)").replace("Mul(d, w)", "Add(d, tiny)"),
            "float[2,16] y",
            "the converter makes does not load: other nodes read 'tiny' too",
            False,
        ),
        (
            RMS,
            "float[2,16] y, float[2,16] b",
            "the converter makes does not load: the model returns 'b'",
            False,
        ),
    ],
    ids=["read by several", "shared weight", "returned"],
)
def test_what_onnxconverter_common_cannot_do(
    body: str, outputs: str, note: str, loads: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said; and ONNX Runtime's converter does all of it, but for the weight, which it rounds."""
    package = toy(body, tmp_path / "toy", outputs=outputs)
    assert any(note in line for line in notes(package, "onnxconverter-fp16", capsys))
    model, names = converted(package, "ort-fp16")
    rounds = any(
        "rounds to float16 what other nodes read too, such as 'tiny'" in line
        for line in notes(package, "ort-fp16", capsys)
    )
    assert rounds == ("tiny" in note)
    assert not rounded(model, names)
    assert error(package, model) < 2e-3
    model, names = converted(package, "onnxconverter-fp16")
    if loads:
        assert rounded(model, names)
        assert not error(package, model) < 1
    else:
        with pytest.raises(Exception, match=r"INVALID_GRAPH|FAIL"):
            run(model, 1.0)


@pytest.mark.parametrize(
    "body",
    [
        "[l1] b = Mul(a, a) [lc] f = Cast<to = 1>(b) [l2] c = Sqrt(f)",
        "[lc] f = Cast<to = 1>(a) [l1] b = Mul(f, f) [l2] c = Sqrt(b)",
        "[l1] b = Mul(a, a) [l2] f = Sqrt(b) [lc] c = Cast<to = 1>(f)",
        "[l0] p1 = Greater(a, a) [lc] f = Cast<to = 1>(p1) [l1] b = Mul(a, a) [l2] e = Add(b, f) [l3] c = Sqrt(e)",
        "[l1] b = Mul(a, a) [li] i = Cast<to = 7>(b) [lc] f = Cast<to = 1>(i) [l2] c = Sqrt(f)",
    ],
    ids=["inside", "in front", "behind", "of truths", "to integers"],
)
def test_casts_of_the_module(body: str, tmp_path: Path) -> None:
    """The RMSNorm of Llama has them; ONNX Runtime's converter rounds what a listed one casts, and not the others."""
    package = toy(f"[pre] a = Mul(x, w) {body} [post] y = Mul(c, w)", tmp_path / "toy")
    model, names = converted(package, "ort-fp16")
    assert not {"lc", "li"} & set(names)
    assert not rounded(model, names)
    assert error(package, model) < 2e-3


BRANCHES = """
    [pre] a = Mul(x, w)
    [l1] b = Mul(a, a)
    [l2] c = Sqrt(b)
    [if] d = If(p) <
        then_branch = t () => (float[2,16] d1) {{ [{inner}] d1 = Neg(c) }},
        else_branch = e () => (float[2,16] d2) {{ [{inner}] d2 = Abs(c) }}>
    [post] y = Mul(d, w)
"""


@pytest.mark.parametrize("form", CONVERTERS)
def test_branches(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nodes in them are left out: with them the converters make files that do not load."""
    package = toy(BRANCHES.format(inner="l3"), tmp_path / "toy")
    model, names = converted(package, form)
    assert names == ["l1", "l2"]
    assert not rounded(model, names)
    assert error(package, model) < 2e-3
    assert "left out 2 nodes in branches, loops or functions" in "\n".join(notes(package, form, capsys))
    with pytest.raises(Exception, match=r"INVALID_GRAPH|FAIL"):
        run(CONVERTERS[form](onnx.load(package / "model.onnx"), ["l1", "l2", "l3"]), 1.0)
    only = toy(BRANCHES.format(inner="l3").replace("[l1]", "[k1]").replace("[l2]", "[k2]"), tmp_path / "only")
    with pytest.raises(PackageError, match="in branches, loops or functions, which no converter to float16 can keep"):
        select(only, "m").names_for(form)


@pytest.mark.parametrize(
    ("name", "file", "pattern"),
    [
        ("bert", "model.onnx", "LayerNorm"),
        ("bert", "model.onnx", "*.layer.0"),
        ("bert", "model.onnx", "*.attention"),
        ("t5", "encoder_model.onnx", "T5LayerNorm"),
        ("t5", "decoder_model.onnx", "*.block.1"),
    ],
)
def test_models(name: str, file: str, pattern: str, exported: Callable[[str], Path]) -> None:
    """Every module that is selected stays in float32, in ONNX Runtime's converter, but for weights that others read."""
    names = select(exported(name), pattern, file=file).names_for("ort-fp16")
    before = onnx.load(exported(name) / file)
    model = ort(onnx.load(exported(name) / file), names)
    read: list[set[str]] = [set(), set()]
    for node in before.graph.node:
        read[node.name in names].update(node.input)
    shared = read[0] & read[1] & {tensor.name for tensor in before.graph.initializer}
    assert not [tensor for tensor in rounded(model, names) if tensor.removesuffix("_cast_to_fp32") not in shared]
    assert rounded(model, [node.name for node in before.graph.node if node.name not in names])
