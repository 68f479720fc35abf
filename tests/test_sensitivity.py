"""Which modules quantization hurts: what is predicted is what the file gives, and the file is whole or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from layered_toy import layered_package
from onnx import numpy_helper

from optimum_htp import Budget, HtpError, load_package, sensitivity
from optimum_htp.cli.main import main
from optimum_htp.onnxfile import read_model
from optimum_htp.verbs.sensitivity.judging import Judge
from optimum_htp.verbs.sensitivity.ranking import Ranking

Exported = Callable[..., Path]
EXACT_DB = 0.3
"""How near what is predicted is to the file: kernels add in another order, and round what is halfway to the other side."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers; in the third, a channel that nothing uses has large weights, and the others share its scale."""
    package = layered_package(tmp_path_factory.mktemp("toy") / "package", layers=6)
    path = package / "model.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name == "layers.1.linear.bias":
            array[2] = -1000  # the activation behind it is 0
        elif tensor.name == "onnx::MatMul_2":
            array[2] *= 60
        elif tensor.name.endswith("bias"):
            array += 2
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)
    return package


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_a_channel_of_large_weights_ranks_first(mode: str, toy: Path) -> None:
    """By its weights, not by its activations; with the layer left in float32 the model is much better."""
    (file,) = sensitivity(toy, mode=mode, batch_size=8, reduce_range=True, operators=["MatMul"], leave=1).files
    worst = file.modules[0]
    assert worst.path == "layers.2.linear" and len(file.modules) == 6
    assert worst.weights is not None and worst.activations is not None
    assert worst.weights.sqnr_db < worst.activations.sqnr_db - 6
    assert worst.weight_bytes == 4 * 4 * 4
    assert worst.left.sqnr_db > file.quantized.sqnr_db + 6
    assert file.modules[-1].left.sqnr_db > 100  # nothing is quantized any more


@pytest.mark.parametrize("mode", ["dynamic", "static", "int4", "fp16"])
def test_what_is_predicted_is_what_the_file_gives(mode: str, exported: Exported, tmp_path: Path) -> None:
    """With each quantizer, on a file whose Linears are Gemm and MatMul; and the package that is written loads, with tags."""
    from optimum.onnxruntime import ORTModelForSequenceClassification

    package, output = exported("bert"), tmp_path / "out"
    options: dict[str, Any] = {"reduce_range": True} if mode in ("dynamic", "static") else {}
    report = sensitivity(package, mode=mode, leave=2, output=output, sequence_length=16, threads=1, **options)
    (file,) = report.files
    assert file.figures is not None and report.output == str(output)
    assert file.figures.sqnr_db == pytest.approx(file.modules[1].left.sqnr_db, abs=EXACT_DB)
    assert {path.name for path in output.iterdir()} == {path.name for path in package.iterdir()}
    written = load_package(output).files["model.onnx"]
    assert written.tagged.complete and "unresolved" not in {tag.source for tag in written.tags.values()}
    model = ORTModelForSequenceClassification.from_pretrained(output)
    assert model(input_ids=np.ones((1, 5), np.int64), attention_mask=np.ones((1, 5), np.int64)).logits.shape[0] == 1
    left = {each.module for each in file.modules[:2]}
    kinds = {node.op_type for key, node in written.model.nodes() if written.tags[key].tag in left}
    assert kinds.isdisjoint({"MatMulInteger", "MatMulNBits", "DynamicQuantizeLinear"})


def test_branches_of_a_merged_decoder(exported: Exported, tmp_path: Path) -> None:
    """Nodes in both branches, whose weights are stored around them, in both phases."""
    arguments: dict[str, Any] = {"file": "decoder_model_merged.onnx", "sequence_length": 8, "threads": 1}
    report = sensitivity(exported("t5"), reduce_range=True, leave=3, output=tmp_path / "out", **arguments)
    (file,) = report.files
    assert len(file.samples) == 4 and file.figures is not None
    assert file.figures.sqnr_db == pytest.approx(file.modules[2].left.sqnr_db, abs=EXACT_DB)
    others = {name: path.tags for name, path in load_package(exported("t5")).files.items() if name != file.file}
    assert {name: path.tags for name, path in load_package(tmp_path / "out").files.items() if name in others} == others
    with pytest.raises(HtpError, match="branches or loops, whose nodes --mode fp16 can't tell apart"):
        sensitivity(exported("t5"), mode="fp16", **arguments)


def test_the_list_gives_the_same_model(toy: Path, tmp_path: Path) -> None:
    """ONNX Runtime's own quantizer, told to leave out what the report names, makes the file that was measured."""
    from onnxruntime.quantization import quantize_dynamic

    report = sensitivity(toy, leave=2, output=tmp_path / "out", batch_size=2)
    source = Path(shutil.copytree(toy, tmp_path / "source")) / "model.onnx"
    quantize_dynamic(source, tmp_path / "q.onnx", nodes_to_exclude=report.names_for("ort-quantize"))
    ours, theirs = (read_model(path).graph for path in (tmp_path / "out" / "model.onnx", tmp_path / "q.onnx"))
    assert [node.outputs for node in ours.nodes] == [node.outputs for node in theirs.nodes]


def test_modules_are_added_until_the_file_meets_the_budget(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prediction that promises too much, as where a processor's sums saturate, is not what is written or printed."""
    known = sensitivity(toy, batch_size=8, reduce_range=True).files[0]
    limit = known.modules[2].left.sqnr_db - 1
    needed = 1 + next(place for place, each in enumerate(known.modules) if each.left.sqnr_db >= limit)
    exact = known.modules[-1].left
    monkeypatch.setattr(Ranking, "left", lambda self, count: exact)
    report = sensitivity(toy, batch_size=8, reduce_range=True, budget=f"{limit}dB", output=tmp_path / "out")
    (file,) = report.files
    assert report.ok and file.left_out == needed > 1
    assert file.figures is not None and file.figures != exact
    assert file.figures.sqnr_db == pytest.approx(known.modules[needed - 1].left.sqnr_db, abs=EXACT_DB)


def test_a_budget_that_cant_be_met(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A verdict, which says why; nothing is written, no directory either."""
    line = ["sensitivity", str(toy), "--budget", "119dB", "--batch-size", "8", "-o", str(tmp_path / "out")]
    assert main(line) == 1
    out = capsys.readouterr().out
    assert "119 dB can't be met, not even with all but layers." in out.splitlines()[0]
    assert list(tmp_path.iterdir()) == []
    assert main([*line[:-2], "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["files"]["model.onnx"]["left_out"] is None


def test_a_list_in_the_formats_of_select(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The modules that a budget needs; none where it needs none."""
    assert main(["sensitivity", str(toy), "--leave", "1", "--batch-size", "8", "--format", "ort-quantize"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == ["/layers.2/linear/MatMul"]
    assert "random numbers" in printed.err
    assert main(["sensitivity", str(toy), "--budget", "0.1dB", "--format", "ort-quantize"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_single_file_with_weights_beside_it(toy: Path, tmp_path: Path) -> None:
    """The new weights are called after the new file; what is there already stays."""
    model = onnx.load(toy / "model.onnx")
    source, output = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(model, source, save_as_external_data=True, location="a.onnx.data", size_threshold=0)
    before = (tmp_path / "a.onnx.data").read_bytes()
    report = sensitivity(source, leave=1, output=output)
    assert report.output == str(output) and (tmp_path / "a.onnx.data").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} <= {"a.onnx", "a.onnx.data", "b.onnx", "b.onnx.data"}
    assert load_package(output).files["b.onnx"].tagged.complete


def test_padding_and_caches_do_not_count(exported: Exported) -> None:
    """What an attention mask leaves out is not compared; top-1 is of rows of logits."""
    model = read_model(exported("bert") / "model.onnx")
    mask = np.array([[1, 1, 0]])
    judge = Judge(model, [{"attention_mask": mask}], metric="top1")
    assert judge.outputs == ["logits"]
    right = np.array([[[1.0, 0.0], [0.0, 1.0], [5.0, 9.0]]], np.float32)
    judge.expect([[right]])
    wrong = right.copy()
    wrong[0, 2] = 100
    assert judge.figures([[wrong]]).sqnr_db == np.inf
    wrong[0, 1] = [2, 1]
    assert judge.figures([[wrong]]).top1 == 0.5


@pytest.mark.parametrize(
    ("text", "metric", "limit"),
    [
        ("30dB", None, 30.0),
        ("30", "sqnr", 30.0),
        ("0.999", "cosine", 0.999),
        ("1%", "relative", 0.01),
        (".5", "top1", 0.5),
    ],
)
def test_budgets(text: str, metric: str | None, limit: float) -> None:
    assert Budget.parse(text, metric).limit == limit


BAD = {
    "--budget much": "'much' is not a budget",
    "--budget 30dB --metric cosine": "'30dB' is not a budget for cosine",
    "--budget 99%": "'99%' is not a budget for sqnr",
    "--budget 2 --metric cosine": "cosine is 1 at most",
    "--budget 30dB --leave 2": "give it or --leave N",
    "-o OUT": "give --budget 30dB",
    "--format ort-quantize": "which modules are left in float32 is not said",
    "--leave 6": "6 modules can be quantized: leave fewer",
    "--budget 30dB -o PKG": "the package is only read",
    "--budget 30dB -o THERE": "it exists already",
    "--overwrite": "--overwrite is for --output",
    "--metric top1": "top1 is for logits",
    "--mode int4 --per-channel": "--per-channel is for --mode dynamic and static",
    "--block-size 32": "--block-size is for --mode int4",
    "--mode int4 --block-size 24": "give a power of two",
    "--mode fp16 --operators MatMul": "--operators is for --mode dynamic and static",
    "--inputs INPUTS": "it lacks x",
    "--inputs NONE.npz": "no such file",
    "--dim other=3": "no axis of the inputs is called other",
    "--operators Conv": "--mode dynamic quantizes nothing in it",
    "--file other.onnx": "other.onnx",
}


@pytest.mark.parametrize("options", BAD)
def test_bad_input(options: str, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and nothing is written."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("")
    np.savez(tmp_path / "inputs.npz", z=np.zeros(1))
    places = {"PKG": toy, "OUT": tmp_path / "out", "THERE": tmp_path / "there", "INPUTS": tmp_path / "inputs.npz"}
    words = [str(places.get(word, word)) for word in options.split()]
    assert main(["sensitivity", str(toy), *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and BAD[options] in printed.err
    assert not (tmp_path / "out").exists()


def test_what_is_quantized_already(toy: Path, tmp_path: Path) -> None:
    sensitivity(toy, leave=1, output=tmp_path / "int8")
    with pytest.raises(HtpError, match=r"quantized already \(.*; give what it was made from"):
        sensitivity(tmp_path / "int8", budget="30dB")
    sensitivity(toy, mode="fp16", leave=1, output=tmp_path / "half")
    with pytest.raises(HtpError, match="in float16 already"):
        sensitivity(tmp_path / "half")


def test_a_quantizer_that_is_not_there(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without onnx_ir, which the quantizer to int4 imports."""
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime.quantization.matmul_nbits_quantizer", None)
    with pytest.raises(HtpError, match="--mode int4 runs ONNX Runtime's quantizer, which can't be imported here"):
        sensitivity(toy, mode="int4")
