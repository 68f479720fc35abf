"""`compare` of several files, and what comes of it: each file's answer, the exit code, the keys of `--json`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from optimum_htp import HtpError, HtpOptions, compare
from optimum_htp.cli.main import main
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.models.inputs import phase_of
from optimum_htp.models.measures import EXACT
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.node_metadata import write_tags
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.verbs.compare import CompareReport, PartComparison

TREE = ModuleTree([ModuleInfo((), "Net", "toy.Net"), *(ModuleInfo((name,), "M", "toy.M") for name in ("a", "b"))])
NODES = "[a] t = Mul(x, w) [b] y = Neg(t)"
WEIGHTS = ", ".join(map(str, (0.5, 1.5, -1.0, 2.0)))


def write(path: Path, nodes: str = NODES, weights: str = WEIGHTS) -> None:
    """A graph whose nodes are called what their modules are."""
    text = f"g (float[n,4] x) => (float[n,4] y) <float[4] w = {{{weights}}}> {{{nodes}}}"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'), path)
    model = read_model(path)
    tags = {key: NodeTag(f"/Net/M.{node.name[0]}", "scope") for key, node in model.nodes()}
    write_tags(TaggedGraph(model, tags, Roots([Root(TREE)])), options=HtpOptions(skeleton=False))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    directory = tmp_path / "package"
    directory.mkdir()
    write(directory / "model.onnx")
    return directory


SIZES = ["--dim", "n=3", "--threads", "1"]


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["compare", *arguments, *SIZES, "--json"])
    shown = capsys.readouterr()
    assert shown.out, shown.err
    return code, json.loads(shown.out)


def test_one_that_cannot_be_loaded_does_not_stop_the_others(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is a file with its reason, and the exit code says that it could not be compared."""
    (package / "model_q4.onnx").write_bytes(b"\x00nonsense")
    write(package / "model_int8.onnx", NODES.replace("Neg(t)", "Negative(t)"))
    write(package / "model_slim.onnx")
    code, document = run([str(package)], capsys)
    files = {file["name"]: file for file in document["files"]}
    assert {name: file["verdict"] for name, file in files.items()} == {
        "model_q4.onnx": "unknown", "model_int8.onnx": "unknown", "model_slim.onnx": "agrees"
    }  # fmt: skip
    assert "not a valid ONNX file" in files["model_q4.onnx"]["reason"]
    assert "ONNX Runtime can't load it" in files["model_int8.onnx"]["reason"]
    assert files["model_int8.onnx"]["output_error"] is None and not files["model_int8.onnx"]["ok"]
    assert (code, document["ok"]) == (2, False)
    assert main(["compare", str(package), *SIZES]) == 2
    assert "model_int8.onnx: not compared: ONNX Runtime can't load it" in capsys.readouterr().out
    assert main(["compare", str(package), "--file", "model_slim.onnx", *SIZES]) == 0
    with pytest.raises(HtpError, match="ONNX Runtime can't load it"):  # there is no other to go on with
        compare(package, file="model_int8.onnx", dims={"n": 3})
    shutil.copy(package / "model_int8.onnx", package / "model_slim.onnx")
    with pytest.raises(HtpError, match="not a valid ONNX file"):  # nor here
        compare(package, dims={"n": 3})


@pytest.mark.parametrize("decodes", [True, False])
def test_inputs_are_for_the_phase_that_they_fit(
    decodes: bool, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of a merged decoder the branch that they choose, once; the samples may have different sizes."""
    model = read_model(exported("t5") / "decoder_model_merged.onnx")
    files = []
    for size in (3, 4):
        given = {}
        for value in model.graph.inputs:
            known = {"use_cache_branch": (1,), "input_ids": (2, 1), "encoder_attention_mask": (2, size)}
            shape = known.get(value.name) or (2, size, value.shape[-1])[: len(value.shape)]
            if value.name.startswith("past"):
                shape = (2, value.shape[1], size, value.shape[3])
            dtype = {"use_cache_branch": bool, "input_ids": np.int64, "encoder_attention_mask": np.int64}.get(
                value.name
            )
            given[value.name] = np.ones(shape, dtype or np.float32)
        files.append(tmp_path / f"{size}.npz")
        np.savez(files[-1], **given)
    (part,) = compare(
        exported("t5"), reference=exported("t5"), file="decoder_model_merged.onnx", inputs=files, threads=1
    ).parts
    assert (part.branch, part.samples, part.verdict) == ("decode", 2, "agrees")


@pytest.mark.parametrize(
    ("file", "reference", "phase"),
    [
        ("decoder_model_merged.onnx", "decoder_with_past_model.onnx", "decode"),
        ("decoder_model.onnx", "decoder_model_merged.onnx", "prefill"),
    ],
)
def test_merged_decoder_and_its_halves(file: str, reference: str, phase: str, exported: Callable[[str], Path]) -> None:
    """What both do is compared; what only the merged one is told is known from that."""
    package = exported("t5")
    (part,) = compare(package / file, reference=package / reference, threads=1).parts
    assert (part.branch, part.verdict, part.outputs_sqnr_db) == (phase, "agrees", float("inf"))


def test_halves_have_nothing_to_compare(exported: Callable[[str], Path]) -> None:
    package = exported("t5")
    with pytest.raises(
        HtpError, match=r"runs the later steps of a generation, and .*_model\.onnx runs the first step"
    ):
        compare(package / "decoder_with_past_model.onnx", reference=package / "decoder_model.onnx")


@pytest.mark.parametrize(
    ("past", "branch", "possible", "phase"),
    [
        (3, None, ("prefill", "decode"), "decode"),
        (0, None, ("prefill", "decode"), "prefill"),
        (3, False, ("prefill", "decode"), "prefill"),
        (0, True, ("prefill", "decode"), "decode"),
        (3, None, ("decode",), "decode"),
        (None, None, ("forward",), "forward"),
    ],
)
def test_phase_of_inputs(past: int | None, branch: bool | None, possible: tuple[str, ...], phase: str) -> None:
    given = {"input_ids": np.ones((1, 1), np.int64)}
    given |= {} if past is None else {"past_key_values.0.key": np.ones((1, 2, past, 4))}
    given |= {} if branch is None else {"use_cache_branch": np.array([branch])}
    assert phase_of(given, possible) == phase


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([("agrees", 0.0)], 0),
        ([("one", 0.0)], 1),
        ([("several", 0.5)], 1),
        ([("spread", 1e-5)], 0),
        ([("spread", 1e-3)], 1),
        ([("unknown", 1e-5)], 0),
        ([("unknown", 0.5)], 2),  # nothing is proved, and nothing is all right
        ([("unknown", 0.5), ("one", 0.5)], 1),
        ([("unknown", 0.5), ("agrees", 0.0)], 2),
    ],
)
def test_exit_code(answers: list[tuple[str, float]], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        PartComparison(
            file="model.onnx", reference="other", inputs={}, tolerance=1e-4, verdict=verdict, calls=(),
            outputs={"y": replace(EXACT, relative=error)},
        )
        for verdict, error in answers
    ]  # fmt: skip
    report = CompareReport(package="p", reference="other", provider="CPUExecutionProvider", parts=tuple(parts))
    monkeypatch.setattr("optimum_htp.verbs.compare.compare", lambda *_, **__: report)
    assert main(["compare", "p", "--json"]) == code
    assert report.wrong == (code == 1) and report.ok == (code == 0)


def test_document(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The keys that the scripts of others read, and what stands there if one module is wrong."""
    faulty = tmp_path / "faulty"
    faulty.mkdir()
    write(faulty / "model.onnx", weights=WEIGHTS.replace("1.5", "3.0"))
    code, document = run([str(faulty), "--reference", str(package)], capsys)
    assert code == 1
    (file,) = document["files"]
    assert (file["name"], file["verdict"], file["compared"], file["not_compared"]) == ("model.onnx", "one", 3, {})
    (culprit,) = file["culprits"]
    assert (culprit["path"], culprit["call"], culprit["operations"]) == ("a", None, False)
    assert 0 < culprit["own_sqnr_db"] < 40 and 0 < culprit["own_relative"] < 1
    assert culprit["output_error_without"] == 0 < file["output_error"]
    calls = {call["path"]: call for call in file["calls"]}
    assert calls["b"]["own"]["max_abs"] == 0 < calls["b"]["errors"]["max_abs"]  # it inherits, and adds nothing
    code, document = run([str(package), "--reference", str(package)], capsys)
    assert code == 0 and document["files"][0]["culprits"] == [] and document["files"][0]["output_error"] == 0


@pytest.mark.parametrize(
    ("metric", "heading", "adds"),
    [
        ("sqnr", "dB", "{sqnr_db:.1f}"),
        ("relative", "relative", "{relative:.1e}"),
        ("absolute", "max abs", "{max_abs:.1e}"),
        ("mean", "mean abs", "{mean_abs:.1e}"),
        ("cosine", "cosine", "{cosine:.6f}"),
    ],
)
def test_metric(
    metric: str, heading: str, adds: str, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both columns are of the figure that is chosen."""
    faulty = tmp_path / "faulty"
    faulty.mkdir()
    write(faulty / "model.onnx", weights=WEIGHTS.replace("1.5", "3.0"))
    own = compare(faulty, reference=package, dims={"n": 3}, threads=1).parts[0].culprits[0].own
    assert main(["compare", str(faulty), "--reference", str(package), *SIZES, "--metric", metric]) == 1
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    rows = {line[0].strip(): [cell.strip() for cell in line[1:] if cell.strip()] for line in lines}
    assert rows["module"][:2] == [f"adds, {heading}", f"output, {heading}"]
    figure = adds.format(**asdict(own))
    assert rows["a"] == [figure, figure, "M", "wrong"]
    assert rows["b"][0] == ("exact" if metric == "sqnr" else adds.format(**asdict(EXACT)))
    assert rows["b"][1] not in (rows["b"][0], "M", "")
