"""The numbers that flow through modules, and what a narrower type would lose of them, held against its real converters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from layered_toy import layered_package
from onnx import numpy_helper
from small_graphs import save

from optimum_htp import HtpError, PackageError, RangesReport, TensorRange, ranges, select
from optimum_htp.cli.main import main
from optimum_htp.models.half_rounding import open_rounded
from optimum_htp.onnxfile.reading import read_model

LOWEST = "-3.4028234663852886e38"


def write(directory: Path, **arrays: Any) -> Path:
    path = directory / f"inputs{len(list(directory.glob('*.npz')))}.npz"
    np.savez(path, **{name: np.asarray(array, np.float32) for name, array in arrays.items()})
    return path


def measured(
    directory: Path, text: str, *samples: dict[str, Any], weights: Any = None, **options: Any
) -> RangesReport:
    path = save(directory / "model.onnx", text, weights=weights or {})
    return ranges(path, inputs=[write(directory, **sample) for sample in samples], **options)


def tensors(report: RangesReport) -> dict[str, TensorRange]:
    return {tensor.name: tensor for phase in report.phases for call in phase.calls for tensor in call.tensors}


def problems(report: RangesReport) -> dict[str, str]:
    return {call.path: str(call.problem) for phase in report.phases for call in phase.problems}


# --- Numbers ----------------------------------------------------------------------------------------------------------

CHAIN = """
g (float[N] x) => (float[N] y) {
    [a] s = Sub(x, x)    # a
    [b] d = Div(x, s)    # b
    [c] y = Neg(d)       # c
}
"""


def test_numbers_are_those_of_all_samples(tmp_path: Path) -> None:
    report = measured(tmp_path, CHAIN, {"x": [3, 0, -1, 2]}, {"x": [5, 0]})
    found = tensors(report)
    assert found["d"] == TensorRange(
        name="d", operator="Div", kind="result", type="float32", count=6, minimum=None, maximum=None, mean=None, zeros=0,
        nans=2, infinite=4, problem="makes NaN",
    )  # fmt: skip
    x = found["x"]
    assert (x.kind, x.minimum, x.maximum, x.largest, x.mean, x.zeros, x.count) == ("input", -1, 5, 5, 1.5, 2, 6)
    assert problems(report) == {"b": "makes NaN"}  # what reads it is as it has to be
    assert report.phases[0].samples == 2 and not report.ok


def test_parts_give_the_same(tmp_path: Path) -> None:
    """However few tensors may be held; and each node runs in one part."""
    package = layered_package(tmp_path / "net", layers=4)

    def document(**options: Any) -> dict[str, Any]:
        return json.loads(json.dumps(ranges(package, dtype="fp16", batch_size=50, **options).to_dict()))  # type: ignore[no-any-return]

    whole, cut = document(), document(max_memory_bytes=2000)
    assert whole["phases"][0].pop("parts") == 1
    assert cut["phases"][0].pop("parts") == 12
    assert cut == whole


def test_a_merged_decoder_runs_in_both_branches(exported: Callable[..., Path]) -> None:
    report = ranges(exported("t5"), dtype="fp16", file="decoder_model_merged.onnx", batch_size=1)
    assert [phase.phase for phase in report.phases] == ["prefill", "decode"]
    assert all(len(phase.calls) > 30 and not phase.unseen for phase in report.phases)
    assert report.ok  # its masks are of the lowest number, and harmless


def test_what_is_in_loops_is_counted(tmp_path: Path) -> None:
    report = measured(
        tmp_path,
        """
        g (float[N] x) => (float[N] y) {
            n = Constant<value_int = 2>()                                       # a
            t = Constant<value_int = 1>()                                       # a
            p = Cast<to = 9>(t)                                                 # a
            y = Loop(n, p, x) <body = b (int64 i, bool q, float[N] v) => (bool r, float[N] w) {
                r = Identity(q)                                                 # b
                w = Add(v, v)                                                   # b
            }>                                                                  # a
        }
        """,
        {"x": [1]},
    )
    assert report.phases[0].unseen == 2
    assert tensors(report)["y"].maximum == 4


# --- float16 ----------------------------------------------------------------------------------------------------------

BLOCK = """
    [l{n}_t] t{n} = Transpose(h{n})                      # layers.{n}.attn
    [l{n}_scores] s{n} = MatMul(h{n}, t{n})              # layers.{n}.attn
    [l{n}_mask] m{n} = Add(s{n}, mask)                   # layers.{n}.attn
    [l{n}_softmax] p{n} = Softmax(m{n})                  # layers.{n}.attn
    [l{n}_values] v{n} = MatMul(p{n}, h{n})              # layers.{n}.attn
    [l{n}_fc1] f{n} = MatMul(v{n}, w{n}1)                # layers.{n}.fc1
    [l{n}_relu] r{n} = Relu(f{n})                        # layers.{n}.act
    [l{n}_fc2] g{n} = MatMul(r{n}, w{n}2)                # layers.{n}.fc2
    [l{n}_add] h{m} = Add(h{n}, g{n})                    # layers.{n}
"""


def transformer(directory: Path, *, scale: float = 1.0) -> tuple[Path, Path]:
    """Two layers and a norm, without a norm between, as Whisper's stream is; the second one's numbers are `scale` larger."""
    random = np.random.default_rng(6)
    weights = {
        name: numpy_helper.from_array(
            (random.standard_normal((8, 8)) * (scale if name in ("w11", "w12") else 1.0)).astype(np.float32), name
        )
        for name in ("w01", "w02", "w11", "w12")
    }
    weights["wn"] = numpy_helper.from_array(np.ones(8, np.float32), "wn")
    text = f"""
    g (float[S, 8] h0, float[S] keep) => (float[S, 8] y) <float one = {{1.0}}, float lowest = {{{LOWEST}}}> {{
        [invert] masked = Sub(one, keep)                   # mask
        [mask] mask = Mul(masked, lowest)               # mask
        {BLOCK.format(n=0, m=1)}
        {BLOCK.format(n=1, m=2)}
        [norm] y = LayerNormalization(h2, wn)           # norm
    }}
    """
    path = save(directory / "model.onnx", text, weights=weights)
    return path, write(directory, h0=random.standard_normal((4, 8)) / 4, keep=[1, 1, 1, 0])


def converted(path: Path, form: str, names: list[str]) -> Path:
    model, target = onnx.load(path), path.with_name("half.onnx")
    if form == "ort-fp16":
        from onnxruntime.transformers.onnx_model import OnnxModel

        wrapped = OnnxModel(model)
        wrapped.convert_float_to_float16(node_block_list=names, keep_io_types=True)
        model = wrapped.model
    else:
        float16 = pytest.importorskip("onnxconverter_common.float16")
        model = float16.convert_float_to_float16(model, keep_io_types=True, node_block_list=names)
    onnx.save(model, target)
    return target


def outputs(path: Path, inputs: Path) -> np.ndarray[Any, Any]:
    session, _ = open_rounded(read_model(path), name="model")
    with np.load(inputs) as given:
        return session.run(None, dict(given))[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["ort-fp16", "onnxconverter-fp16"])
def test_an_overflow_is_named_before_anything_is_converted(form: str, tmp_path: Path) -> None:
    """Without the modules that are named, what the real converter makes has no NaN, and the right numbers."""
    path, inputs = transformer(tmp_path, scale=1000.0)
    report = ranges(path, dtype="fp16", inputs=inputs)
    assert list(problems(report)) == ["layers.1.fc2", "layers.1", "norm"]
    assert {call.path for call in report.phases[0].problems if call.made} == {"layers.1.fc2", "layers.1"}
    names = report.names_for(form)
    assert set(names) == {"l1_fc2", "l1_add", "norm"}
    assert np.isnan(outputs(converted(path, form, []), inputs)).any()
    right = outputs(path, inputs)
    np.testing.assert_allclose(outputs(converted(path, form, names), inputs), right, atol=2e-2)


@pytest.mark.parametrize("form", ["ort-fp16", "onnxconverter-fp16"])
def test_what_fits_is_not_named(form: str, tmp_path: Path) -> None:
    """The lowest float32 in a mask does not: converters cut it, and Softmax makes 0 of it."""
    path, inputs = transformer(tmp_path)
    report = ranges(path, dtype="fp16", inputs=inputs)
    assert report.ok and report.names_for(form) == []
    assert {name for name, tensor in tensors(report).items() if tensor.harmless} == {"lowest", "mask", "m0", "m1"}
    np.testing.assert_allclose(outputs(converted(path, form, []), inputs), outputs(path, inputs), atol=1e-2)


HEAD = f"g (float[2, 2] x, float[2, 2] k) => (float[2, 2] y) <float lowest = {{{LOWEST}}}, float one = {{1.0}}>"
SCORES = "[s] m = Add(x, big) # a\n [p] y = Softmax(m) # a"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (f"[b] big = Mul(k, lowest) # a\n {SCORES}", False),
        ("[b] big = Mul(k, lowest) # a\n [n] big2 = Neg(big) # a\n [s] m = Sub(x, big2) # a\n [p] y = Softmax(m) # a", False),
        (f"[b] big = Mul(k, lowest) # a\n {SCORES}", "a whole row"),
        ("[b] big = Mul(k, lowest) # a\n [n] m = Neg(big) # a\n [p] y = Softmax(m) # a", True),
        ("[b] y = Mul(k, lowest) # a", True),  # the model returns it
        ("[b] big = Mul(k, lowest) # a\n [s] m = Mul(x, big) # a\n [p] y = Softmax(m) # a", True),
        ("[b] big = Mul(k, lowest) # a\n [s] y = Exp(big) # a", False),
        ("[b] big = Mul(k, lowest) # a\n [s] y = Clip(big, one) # a", True),
        ("[c] high = Neg(lowest) # a\n [s] y = Clip(x, one, high) # a", False),
        ("[b] big = Mul(k, lowest) # a\n [s] y = Tanh(big) # a", False),
        (
            "[h] h = Shape(x) # a\n [f] f = ConstantOfShape<value = float[1] {-3.4e38}>(h) # a\n [t] t = Trilu(f) # a\n"
            f" [b] big = Mul(t, k) # a\n {SCORES}",
            False,
        ),
    ],
)  # fmt: skip
def test_what_does_no_harm(body: str, named: bool | str, tmp_path: Path) -> None:
    """What only a Softmax sees, or the like; unless there is a row of nothing else, which gives NaN."""
    keep = [[1, 1], [0, 0]] if named == "a whole row" else [[0, 1], [0, 0]]
    report = measured(tmp_path, f"{HEAD} {{ {body} \n}}", {"x": [[1, -2], [3, 4]], "k": keep}, dtype="fp16")
    assert bool(problems(report)) == bool(named), tensors(report)


def test_clipping_from_below_brings_it_back(tmp_path: Path) -> None:
    """A tensor is judged by all that reads it: one that computes with what is too large is enough."""
    body = "[b] big = Mul(k, lowest) # a\n [s] m = Add(x, big) # a\n [p] z = Softmax(m) # a\n [q] y = Add(z, m) # b"
    report = measured(tmp_path, f"{HEAD} {{ {body} \n}}", {"x": [[1, 2], [3, 4]], "k": [[0, 1], [0, 0]]}, dtype="fp16")
    assert set(problems(report)) == {"a", "b"}
    assert report.names_for("names") == ["b", "s", "p", "q"]


def test_a_stream_through_very_many_layers(tmp_path: Path) -> None:
    """Each addition hands on the question of the one before."""
    nodes = "\n".join(f"[n{at}] h{at + 1} = Add(h{at}, x) # a" for at in range(400))
    text = f"g (float[1] x, float[1] h0) => (float[1] y) {{ {nodes}\n [end] y = Tanh(h400) # b\n}}"
    report = measured(tmp_path, text, {"x": [0], "h0": [-1e5]}, dtype="fp16")
    assert report.ok and tensors(report)["h400"].harmless


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("[r] r = Sqrt(e) # a\n [d] y = Div(x, r) # a", True),
        ("[r] r = Sqrt(e) # a\n [d] y = Add(x, r) # a", False),
        ("[d] y = Log(e) # a", True),
        ("[d] y = Div(e, x) # a", False),
    ],
)
def test_what_is_divided_by_must_not_become_zero(body: str, named: bool, tmp_path: Path) -> None:
    text = (
        f"g (float[2] x, float[2] v) => (float[2] y) <float eps = {{1e-12}}> {{ [e] e = Add(v, eps) # a\n {body} \n}}"
    )
    report = measured(tmp_path, text, {"x": [1, 2], "v": [0, 3]}, dtype="fp16")
    assert list(problems(report).values()) == (["what is divided by becomes 0"] if named else [])
    assert tensors(report)["e"].lost == 1


@pytest.mark.parametrize(
    "text",
    [
        "g (float[3, 40] x) => (float[3, 5] y) { [p] y = MatMul(x, w) # a \n}",
        "g (float[3, 40] x) => (float[3, 5] y) { [p] y = Gemm(x, w, b) # a \n}",
        "g (float[1, 3, 40] x) => (float[1, 5, 13] y) { [p] y = Conv<strides = [3]>(x, c, b) # a \n}",
        "g (float[3, 40] x) => (float[3, 1] y) { [p] y = ReduceMean<axes = [1]>(x) # a \n}",
        'g (float[3, 40] x) => (float[3, 5] y) { [p] y = com.microsoft.FusedMatMul(x, w) # a \n}',
    ],
)  # fmt: skip
def test_the_largest_sum_is_that_of_the_worst_order(text: str, tmp_path: Path) -> None:
    """First all positive products, or first all negative ones: no other order passes these, and both are reached."""
    random = np.random.default_rng(1)
    w, b, c = (random.standard_normal(shape).astype(np.float32) for shape in ((40, 5), 5, (5, 3, 4)))
    weights = {"w": w, "b": b, "c": c}
    weights = {
        name: numpy_helper.from_array(value, name)
        for name, value in weights.items()
        if f"{name})" in text or f"{name}," in text.partition("{")[2]
    }
    x = random.standard_normal((1, 3, 40) if "Conv" in text else (3, 40)).astype(np.float32)
    if "ReduceMean" in text:
        products = x[:, None]
    elif "Conv" in text:
        windows = np.stack([x[0, :, at : at + 4] for at in range(0, 37, 3)])  # position, channel, tap
        products = (windows[:, None] * c).reshape(13, 5, 12)
        products = np.concatenate([products, np.broadcast_to(b[:, None], (13, 5, 1))], axis=2)
    else:
        products = x[:, None] * w.T
        if "Gemm" in text:
            products = np.concatenate([products, np.broadcast_to(b[:, None], (3, 5, 1))], axis=2)
    report = measured(tmp_path, text, {"x": x}, weights=weights, dtype="fp16")
    positive, negative = np.maximum(products, 0).sum(-1), -np.minimum(products, 0).sum(-1)
    assert tensors(report)["y"].largest_sum == pytest.approx(float(max(positive.max(), negative.max())), rel=1e-5)


def test_a_sum_may_pass_the_range_where_its_result_does_not(tmp_path: Path) -> None:
    text = "g (float[1, 4] x) => (float[1, 1] y) { [p] m = MatMul(x, w) # a\n [q] y = Relu(m) # b\n}"
    weights = {"w": numpy_helper.from_array(np.array([[1], [1], [-1], [-1]], np.float32), "w")}
    given = {"x": [[60000, 60000, 60000, 59000]]}
    for accumulate, named in (("float32", []), ("float16", ["a"])):
        report = measured(tmp_path / accumulate, text, given, weights=weights, dtype="fp16", accumulate=accumulate)
        assert tensors(report)["m"].largest_sum == 120000 and tensors(report)["m"].maximum == 1000
        assert list(problems(report)) == named  # only the product: what goes in and comes out fits
        assert report.names_for("names") == ["p"] * len(named)


def test_headroom(tmp_path: Path) -> None:
    text = "g (float[2] x) => (float[2] y) { [p] y = Neg(x) # a\n}"
    found = [measured(tmp_path / str(x), text, {"x": [40000, 1]}, dtype="fp16", headroom=x).ok for x in (1, 1.5, 2)]
    assert found == [True, True, False]


def test_a_sum_within_a_fused_operator(tmp_path: Path) -> None:
    """An optimizer put the residual addition into the norm: what is too large there is in no tensor."""
    text = """
    g (float[1, 4] x, float[1, 4] s) => (float[1, 4] y) {
        [n] y = com.microsoft.SkipLayerNormalization(x, s, w, b)    # norm
    }
    """
    weights = {name: numpy_helper.from_array(np.ones(4, np.float32), name) for name in "wb"}
    report = measured(tmp_path, text, {"x": [[4e4, 1, 2, 3]], "s": [[4e4, 1, 2, 3]]}, weights=weights, dtype="fp16")
    assert problems(report) == {"norm": "reaches 8e+04"}
    assert [tensor.kind for tensor in report.phases[0].calls[0].tensors if tensor.problem] == ["inside"]


def test_a_file_that_is_in_float16_already(tmp_path: Path) -> None:
    """It is asked of its float16 alone, and what became infinite there is named."""
    text = """
    g (float[2] x) => (float[2] y) {
        [c] h = Cast<to = 10>(x)      # a
        [m] m = Mul(h, h)             # b
        [d] f = Cast<to = 1>(m)       # c
        [s] s = Mul(x, x)             # d
        [y] y = Add(s, f)             # d
    }
    """
    report = measured(tmp_path, text, {"x": [1000, 1]}, dtype="fp16")
    assert problems(report) == {"b": "1 of 2 numbers are infinite", "c": "reads m"}
    assert tensors(report)["s"].over == 0 and tensors(report)["s"].maximum == 1e6


# --- int8 -------------------------------------------------------------------------------------------------------------


def test_int8_loses_what_is_small_beside_an_outlier(tmp_path: Path) -> None:
    text = "g (float[1, 64] x) => (float[1, 64] y) { [n] z = Neg(x) # a\n [p] y = Relu(z) # b\n}"
    plain = np.random.default_rng(0).standard_normal((1, 64))
    assert measured(tmp_path / "plain", text, {"x": plain}, dtype="int8").ok
    plain[0, 5] = -1e5
    report = measured(tmp_path / "outlier", text, {"x": plain}, dtype="int8")
    assert list(problems(report)) == ["a", "b"]
    assert "become 0 beside one of 1e+05" in problems(report)["a"]
    assert tensors(report)["z"].lost == 63


@pytest.mark.parametrize(("width", "named"), [(65_793, []), (65_794, ["a"])])
def test_int32_holds_the_sum_of_so_many_products(width: int, named: list[str], tmp_path: Path) -> None:
    text = f"g (float[1, {width}] x) => (float[1, 1] y) {{ [p] y = MatMul(x, w) # a\n}}"
    weights = {"w": numpy_helper.from_array(np.ones((width, 1), np.float32), "w")}
    report = measured(tmp_path, text, {"x": np.ones((1, width))}, weights=weights, dtype="int8")
    assert list(problems(report)) == named


# --- The command ------------------------------------------------------------------------------------------------------


def test_exit_codes_and_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A verdict is 1; a list that was asked for is what was asked for."""
    path, inputs = transformer(tmp_path, scale=1000.0)
    line = ["ranges", "--inputs", str(inputs), str(path), "--dtype", "fp16"]
    assert main(line) == 1
    assert "layers.1.fc2" in capsys.readouterr().out.splitlines()[1]
    assert main([*line, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["modules"] == ["layers.1.fc2", "layers.1", "norm"] and document["ok"] is False
    assert main([*line, "--format", "ort-fp16"]) == 0
    names = json.loads(capsys.readouterr().out)
    assert names == ranges(path, dtype="fp16", inputs=inputs).names_for("ort-fp16")
    assert set(names) <= set(select(path, ["layers.1", "norm"]).names_for("ort-fp16"))
    assert main(["ranges", "--inputs", str(inputs), str(path)]) == 0
    capsys.readouterr()
    other, sound = transformer(tmp_path / "sound")
    assert main(["ranges", "--inputs", str(sound), str(other), "--dtype", "fp16", "--format", "ort-fp16"]) == 0
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["PKG", "--format", "ort-fp16"], "--format: says what has to be left out of a type: give --dtype too"),
        (["PKG", "--headroom", "2"], "--headroom: for --dtype fp16"),
        (["PKG", "--dtype", "fp16", "--headroom", "0.5"], "'0.5' is not a number, 1 or more"),
        (["PKG", "--dtype", "fp16", "--format", "nothing"], "'nothing' is not a format"),
        (["PKG", "--inputs", "NONE"], "no such file"),
        (["PKG", "--dim", "rows=3"], "no axis of the inputs is called rows"),
        (["PKG", "--file", "other.onnx"], "other.onnx"),
        (["PKG", "--json", "--format", "names"], "--json prints everything"),
        ([], "required: PKG"),
    ],
)
def test_bad_input(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = layered_package(tmp_path / "net")
    names = {"PKG": str(package), "NONE": str(tmp_path / "none.npz")}
    with pytest.raises(SystemExit) as exit_of:
        raise SystemExit(main(["ranges", *(names.get(word, word) for word in arguments)]))
    assert exit_of.value.code == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_bad_arguments_in_python(tmp_path: Path) -> None:
    package = layered_package(tmp_path / "net")
    for options in ({"dtype": "fp8"}, {"dtype": "fp16", "accumulate": "int4"}, {"dtype": "fp16", "headroom": 0.0}):
        with pytest.raises(HtpError, match=r"give|kernels"):
            ranges(package, **options)  # type: ignore[arg-type]
    with pytest.raises(PackageError, match="no type was asked about"):
        ranges(package).names_for("names")
