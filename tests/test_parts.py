"""Extracted parts in other verbs: they know what they were cut from, and are run on what that gives them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import compose
from onnxruntime.quantization import quantize_dynamic
from small_graphs import save

from optimum_htp import HtpError, PackageError, compare, extract, profile, project, strip
from optimum_htp.cli.main import main
from optimum_htp.hierarchy.root import Roots
from optimum_htp.models.inputs import InputSizes, axis_names, check_axes, check_inputs, make_inputs
from optimum_htp.models.part_values import part_inputs
from optimum_htp.models.tensor_values import tensor_values
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.extracted import CUT_FROM, cut_from
from optimum_htp.package.package import HtpPackage
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.verbs.profile.chosen_inputs import ChosenInputs, choose_inputs

NET = """
    net (int64[batch_size, sequence_length] input_ids, float[batch_size, heads] scale) => (float[batch_size, o, p] y)
    <float[3, 2] w = {1, 2, 3, 4, 5, 6}, int64[1] axis = {2}> {
      rows = Gather(w, input_ids)        # net.table
      shape = Shape(scale)               # net
      last = Cast <to = 1> (shape)       # net
      wide = Unsqueeze(rows, axis)       # net
      kept = NonZero(scale)              # net
      count = Transpose(kept)            # net
      some = Cast <to = 1> (count)       # net
      four = Mul(wide, last)             # net.a
      y = ReduceSum(four, axis)          # net.b
      z = Neg(some)                      # net.c
    }
"""
IDS = np.array([[0, 1, 2]])
SCALE = np.array([[0, 1, 0, 2]], np.float32)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package whose module `c` takes as many rows as an input has values that are not 0."""
    text = NET.replace("=> (float[batch_size, o, p] y)", "=> (float[batch_size, o, p] y, float[q, 2] z)")
    return save(tmp_path / "package" / "model.onnx", text).parent


def chosen(part: Path, *, origin: Path | None = None, inputs: Path | None = None, **dims: int) -> ChosenInputs:
    """What `profile` runs a file on."""
    file = TaggedGraph(read_model(part), {}, Roots(), name=part.name)
    given = HtpPackage(origin) if origin is not None else None
    return choose_inputs([file], HtpPackage(part), origin=given, sizes=InputSizes(dims=dims), inputs=inputs)


# --- What a part says ---------------------------------------------------------------------------------------------


def test_part_says_what_it_was_cut_from(package: Path, tmp_path: Path) -> None:
    """Where from, as seen from where it is, and what its inputs and outputs are there."""
    extract(package, "net.a", output=tmp_path / "parts" / "a")
    record = cut_from(read_model(tmp_path / "parts" / "a" / "model.onnx"))
    assert record is not None
    assert (record.package, record.file, record.graph, record.modules) == (
        "../../package",
        "model.onnx",
        "",
        ("net.a",),
    )
    assert (record.inputs, record.outputs, record.call) == (("wide", "last"), ("four",), None)
    assert cut_from(read_model(package / "model.onnx")) is None
    found = record.source(tmp_path / "parts" / "a" / "model.onnx")
    assert [each.path.resolve() for each in found] == [package, package / "model.onnx"]


def test_part_of_a_part(package: Path, tmp_path: Path) -> None:
    """It is from the part, which is there."""
    extract(package, "net", output=tmp_path / "net.onnx")
    extract(tmp_path / "net.onnx", "net.a", output=tmp_path / "a.onnx")
    record = cut_from(read_model(tmp_path / "a.onnx"))
    assert record is not None
    assert (record.package, record.file) == ("net.onnx", "net.onnx")
    assert record.source(tmp_path / "a.onnx")[1].path.resolve() == tmp_path / "net.onnx"


def test_tools_and_tags_leave_it(package: Path, tmp_path: Path) -> None:
    """Whatever is done to the part, it is still known; `strip` removes it, and of parts put together none is it."""
    part = tmp_path / "a.onnx"
    extract(package, "net.a", output=part)
    record = cut_from(read_model(part))
    quantize_dynamic(part, tmp_path / "quantized.onnx")
    project(tmp_path / "quantized.onnx", reference=part)
    assert cut_from(read_model(tmp_path / "quantized.onnx")) == record
    extract(package, "net.b", output=tmp_path / "b.onnx")
    both = [onnx.load(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    kept = [
        {entry.key: entry.value for entry in each.metadata_props if entry.key.startswith(CUT_FROM)} for each in both
    ]
    for each in both:
        del each.metadata_props[:]
    merged = compose.merge_models(both[0], both[1], [("four", "four")])
    onnx.helper.set_model_props(merged, kept[0] | kept[1])
    onnx.save(merged, tmp_path / "merged.onnx")
    assert len(kept[0] | kept[1]) == 2
    assert cut_from(read_model(tmp_path / "merged.onnx")) is None
    strip(part)
    assert cut_from(read_model(part)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("inputs"),
        lambda document: document.update(inputs="wide"),
        lambda document: document.update(modules=[1]),
        lambda document: document.update(call=-1),
        lambda document: document.update(package=None),
        lambda document: document.clear(),
    ],
)
def test_what_is_no_record_is_none(change: Callable[[dict[str, Any]], Any], package: Path, tmp_path: Path) -> None:
    """Files are not trusted."""
    extract(package, "net.a", output=tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    entry = next(entry for entry in model.metadata_props if entry.key.startswith(CUT_FROM))
    document = json.loads(entry.value)
    change(document)
    entry.value = json.dumps(document)
    onnx.save(model, tmp_path / "changed.onnx")
    assert cut_from(read_model(tmp_path / "changed.onnx")) is None
    entry.value = "{" * 2000
    onnx.save(model, tmp_path / "changed.onnx")
    assert cut_from(read_model(tmp_path / "changed.onnx")) is None


# --- What it is run on --------------------------------------------------------------------------------------------


def test_part_is_run_on_what_its_package_gives_it(package: Path, tmp_path: Path) -> None:
    """Sizes are those of the package's inputs; what a part takes may depend on their values."""
    for module, name in (("net.a", "wide"), ("net.c", "some")):
        extract(package, module, output=tmp_path / "part.onnx", overwrite=True)
        made = chosen(tmp_path / "part.onnx", batch_size=2, sequence_length=5, heads=2)
        (inputs,) = (each["forward"] for each in made.by_phase)
        source = read_model(package / "model.onnx")
        sizes = InputSizes(dims={"batch_size": 2, "sequence_length": 5, "heads": 2})
        expected = tensor_values(source, [name], make_inputs(source, None, sizes=sizes))
        np.testing.assert_array_equal(inputs[name], expected[name])
        assert made.notes == (f"run on what {package / 'model.onnx'} gives it",)


@pytest.mark.parametrize("moved", ["part", "both", "given"])
def test_part_that_was_moved(moved: str, package: Path, tmp_path: Path) -> None:
    """With its package it is found; alone it isn't, and is run on made-up inputs, or says what it lacks and why."""
    for name in ("a", "c"):
        extract(package, f"net.{name}", output=tmp_path / "old" / f"{name}.onnx")
    new = Path(shutil.move(tmp_path / "old", tmp_path / "deep" / "new"))
    if moved == "both":
        shutil.move(package, tmp_path / "deep")
    if moved == "part":
        (note,) = chosen(new / "a.onnx").notes
        assert "made-up inputs: " in note
        with pytest.raises(HtpError, match=r"the size of '\w+', an axis of 'some' is unknown; .*--inputs") as error:
            chosen(new / "c.onnx")
        assert "was cut from (model.onnx) is not in" in str(error.value)
        assert "--reference PKG says where it is" in str(error.value)
    else:
        made = chosen(new / "c.onnx", origin=package if moved == "given" else None, heads=2)
        assert made.by_phase[0]["forward"]["some"].shape == (2, 2)


def test_package_that_was_changed(package: Path, tmp_path: Path) -> None:
    """Another graph is not what the part was cut from; other metadata and weights are."""
    extract(package, "net.a", output=tmp_path / "part.onnx")
    strip(package)
    assert chosen(tmp_path / "part.onnx", heads=3).by_phase[0]["forward"]["last"].shape == (2,)
    model = onnx.load(package / "model.onnx")
    model.graph.node[-1].op_type = "Abs"
    onnx.save(model, package / "model.onnx")
    record = cut_from(read_model(tmp_path / "part.onnx"))
    assert record is not None
    with pytest.raises(PackageError, match="or was changed since"):
        record.source(tmp_path / "part.onnx")


def test_part_that_was_changed(package: Path, tmp_path: Path) -> None:
    """In another precision, with other names: it gets the same values."""
    extract(package, "net.a", output=tmp_path / "part.onnx")
    model = onnx.load(tmp_path / "part.onnx")
    before = chosen(tmp_path / "part.onnx", heads=3).by_phase[0]["forward"]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(compose.add_prefix(model, "new/"), tmp_path / "half.onnx")
    after = chosen(tmp_path / "half.onnx", heads=3).by_phase[0]["forward"]
    assert {name: array.dtype for name, array in after.items()} == {"new/wide": np.float16, "new/last": np.float16}
    np.testing.assert_array_equal(after["new/wide"], before["wide"])
    model.graph.input.append(onnx.helper.make_tensor_value_info("more", 1, [1]))
    onnx.save(model, tmp_path / "more.onnx")
    with pytest.raises(HtpError, match=r"more are no tensors of .*give --inputs"):
        chosen(tmp_path / "more.onnx", heads=3)


def test_inputs_from_a_file_are_the_parts_or_the_packages(package: Path, tmp_path: Path) -> None:
    """By their names."""
    extract(package, "net.a", output=tmp_path / "part.onnx")
    np.savez(tmp_path / "package.npz", input_ids=IDS, scale=SCALE)
    made = chosen(tmp_path / "part.onnx", inputs=tmp_path / "package.npz").by_phase[0]["forward"]
    np.testing.assert_array_equal(made["wide"][0, :, 0], [[1, 2], [3, 4], [5, 6]])
    np.savez(tmp_path / "part.npz", **made)
    again = chosen(tmp_path / "part.onnx", inputs=tmp_path / "part.npz").by_phase[0]["forward"]
    np.testing.assert_array_equal(again["wide"], made["wide"])
    np.savez(tmp_path / "neither.npz", wide=made["wide"].astype(np.float64), x=IDS)
    with pytest.raises(
        HtpError, match=r"lacks last; it has x in addition, .*; the input 'wide' is float64, .*float32"
    ):
        chosen(tmp_path / "part.onnx", inputs=tmp_path / "neither.npz")


def test_sizes_of_the_parts_own_axes(package: Path, tmp_path: Path) -> None:
    """Where they are asked for, it is run on made-up inputs."""
    extract(package, "net.c", output=tmp_path / "part.onnx")
    (own,) = axis_names(read_model(tmp_path / "part.onnx"))
    assert chosen(tmp_path / "part.onnx", **{own: 7}).by_phase[0]["forward"]["some"].shape == (7, 2)


def test_part_of_a_branch_is_run_in_its_phase(exported: Callable[..., Path], tmp_path: Path) -> None:
    """The branch with past key values decodes, and the other one doesn't."""
    for branch, phase, length in (("then_branch", "decode", 1), ("else_branch", "prefill", 1)):
        part = tmp_path / f"{branch}.onnx"
        extract(exported("t5"), "decoder.block.1", output=part, file="decoder_model_merged.onnx", graph=branch)
        (by_phase,) = chosen(part).by_phase
        assert list(by_phase) == [phase]
        hidden = next(
            array for name, array in by_phase[phase].items() if name.endswith("block.0/layer.2/Add_output_0")
        )
        assert hidden.shape[1] == length
        assert any(name.startswith("past_key_values") for name in by_phase[phase]) == (phase == "decode")


def test_the_command(exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It works as it is."""
    part = tmp_path / "layer.onnx"
    extract(exported("bert"), "bert.encoder.layer.1", output=part)
    assert main(["profile", str(part), "--runs", "1", "--warmup", "0", "--threads", "1"]) == 0
    assert f"run on what {exported('bert') / 'model.onnx'} gives it" in capsys.readouterr().out
    report = profile(part, runs=1, warmup=0, threads=1, batch_size=3, sequence_length=7)
    assert {shape[:1] + shape[-2:-1] for shape in report.phases[0].inputs.values()} == {(3, 7)}
    assert report.phases[0].attributed == 1.0


def test_tensors_of_loops_have_no_value(tmp_path: Path) -> None:
    """Of what is inside one, there are as many as it has turns."""
    path = save(
        tmp_path / "model.onnx",
        """
        g (int64 m, bool c, float[2] x) => (float[2] y) {
          y = Loop(m, c, x) <body = b (int64 i, bool d, float[2] u) => (bool e, float[2] v) {  # root
            e = Identity(d)  # root
            w = Neg(u)  # net
            v = Abs(w)  # net
          }>
        }
        """,
    )
    given = {"m": np.array(3), "c": np.array(True), "x": np.ones(2, np.float32)}
    with pytest.raises(HtpError, match="w can't be computed without u"):
        tensor_values(read_model(path), ["w"], given, graph="0.body")
    np.testing.assert_array_equal(tensor_values(read_model(path), ["y", "x"], given)["y"], [1, 1])


# --- All that is missing, at once ---------------------------------------------------------------------------------


def test_all_sizes_that_are_unknown_are_named(tmp_path: Path) -> None:
    """Each once, with the inputs that have it, and the options that give them; those with no name have no option."""
    path = save(
        tmp_path / "model.onnx",
        "g (float[red, blue] x, float[blue, green + 1] z) => (float[n] y) {\n y = Neg(x)  # a\n}".replace(" + 1", ""),
    )
    with pytest.raises(HtpError) as error:
        make_inputs(read_model(path), None, sizes=InputSizes(dims={"green": 2}))
    assert "'red', an axis of 'x'; the size of 'blue', an axis of 'x', 'z' are unknown" in str(error.value)
    assert "give --dim red=N --dim blue=N, or --inputs FILE.npz" in str(error.value)
    model = onnx.load(path)
    model.graph.input[1].type.tensor_type.shape.dim[0].ClearField("dim_param")
    model.graph.input.append(onnx.helper.make_tensor_value_info("u", onnx.TensorProto.BFLOAT16, [1]))
    onnx.save(model, path)
    with pytest.raises(HtpError, match=r"'red'.*'blue'.*'green'.*axis 0 of 'z'; the type of 'u' are .* give --inputs"):
        make_inputs(read_model(path), None)


def test_unknown_axes_are_named_with_those_that_there_are(package: Path, tmp_path: Path) -> None:
    """In one message with sizes that are missing, of every file."""
    model = read_model(package / "model.onnx")
    with pytest.raises(
        HtpError, match=r"here: no axis .* called head, x; their axes are batch_size, sequence_length, heads"
    ):
        check_axes([model], InputSizes(dims={"head": 1, "heads": 1, "x": 2}), where="here")
    shutil.copy(package / "model.onnx", package / "other.onnx")
    for dims in ({"head": 3}, {}):
        for run in (partial(profile, package, runs=1), partial(compare, package, reference=package)):
            with pytest.raises(HtpError) as error:
                run(dims=dims)
            said = str(error.value)
            assert ("called head;" in said) == bool(dims)
            assert all(f"{name}: the size of 'heads'" in said for name in ("model.onnx", "other.onnx"))


def test_all_that_is_wrong_with_inputs_is_named(package: Path) -> None:
    """Missing, too much, types, shapes."""
    given = {"scale": SCALE.astype(np.float64)[0], "x": IDS, "z": IDS}
    with pytest.raises(HtpError) as error:
        check_inputs(given, read_model(package / "model.onnx"), where="it")
    said = str(error.value)
    for problem in ("lacks input_ids", "has x, z in addition", "'scale' is float64", "'scale' is [4], and"):
        assert problem in said


def test_what_a_part_is_given_is_nothing_else(exported: Callable[..., Path], tmp_path: Path) -> None:
    """A layer adds little, so what the modules around it are given looks much like what it is given: names tell."""
    (tmp_path / "quantized").mkdir()
    quantize_dynamic(exported("bert") / "model.onnx", tmp_path / "quantized" / "model.onnx")
    extract(tmp_path / "quantized", "bert.encoder.layer.1", output=tmp_path / "part.onnx")
    (part,) = compare(tmp_path / "part.onnx", sequence_length=8, threads=1).parts
    assert part.verdict == "agrees"
    assert {call.own.sqnr_db for call in part.calls if call.own is not None} == {float("inf")}


@pytest.mark.parametrize("made_by", ["optimizer", "quantizer"])
def test_parts_give_what_their_package_gives(made_by: str, exported: Callable[..., Path], tmp_path: Path) -> None:
    """Modules of graphs with ONNX Runtime's own operators, on what the package gives them."""
    source = exported("bert", optimize="O2") if made_by == "optimizer" else tmp_path / "quantized"
    if made_by == "quantizer":
        source.mkdir()
        quantize_dynamic(exported("bert") / "model.onnx", source / "model.onnx")
    model = read_model(source / "model.onnx")
    inputs = make_inputs(model, None, sizes=InputSizes(2, 5))
    for module in (
        "encoder",
        "encoder.layer.1",
        "encoder.layer.0.attention",
        "encoder.layer.1.intermediate",
        "pooler",
    ):
        report = extract(source, f"bert.{module}", output=tmp_path / "part.onnx", overwrite=True)
        part = read_model(report.output)
        record = cut_from(part)
        assert record is not None
        feed = part_inputs(part, record, model, None, phase="forward", given=inputs)
        made = onnxruntime.InferenceSession(report.output, providers=["CPUExecutionProvider"]).run(None, feed)
        expected = tensor_values(model, record.outputs, inputs)
        for name, array in zip(record.outputs, made, strict=True):
            np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-5, err_msg=module)
