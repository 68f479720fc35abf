"""Validation that loads a package, and that compares it with PyTorch."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import zoo

import optimum_htp
from optimum_htp import PackageError, main_export, pack, validate
from optimum_htp.cli.main import main
from optimum_htp.models.measures import TOLERANCES, compare_arrays, off_by
from optimum_htp.models.torch_parts import fixed_sizes
from optimum_htp.models.torch_source import load_source_model, weights_dtype
from optimum_htp.models.whole_model import find_parts
from optimum_htp.onnxfile.model import Value
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.verbs.validate import loading
from optimum_htp.verbs.validate.contents import Contents
from optimum_htp.verbs.validate.loading import check_loading
from optimum_htp.verbs.validate.outputs import _Comparison, check_outputs, describe
from optimum_htp.verbs.validate.report import Check

QUICK = ("bert", "gpt2", "t5", "vit")

# What Optimum exports wrongly, as its own validation finds too: axes that were traced as constants, and a choice among
# random boxes that no two runtimes make alike.
UPSTREAM = {"longformer": "dynamic-axes", "longt5": "dynamic-axes", "decision_transformer": "outputs",
            "rt_detr": "outputs"}  # fmt: skip

# Tasks that only an export config of one's own can export, and a vocoder that is no part of the model's directory.
NOT_COMPARED = frozenset(("remote-code", "submodels", "speecht5"))


def check_loaded(package: Contents) -> list[Check]:
    return check_loading(package, task=None, trust_remote_code=False, timeout=600, max_memory_bytes=8 << 30)


def compare(package: Path, model: Path, name: str, **options: Any) -> dict[str, tuple[str, str]]:
    checks = check_outputs(Contents(package), str(model), shapes=zoo.ZOO[name].shapes, **options)
    return {check.name: (check.status, check.reason) for check in checks}


# --- Loading ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "class_name", "output"),
    [
        ("bert", "ORTModelForSequenceClassification", "logits [2, 3]"),
        pytest.param("gpt2", "ORTModelForCausalLM", "logits [2, 16, 96]", marks=pytest.mark.sweep),
        ("t5", "ORTModelForSeq2SeqLM", "logits [2, 16, 96]"),
        pytest.param("whisper", "ORTModelForWhisper", "logits", marks=pytest.mark.sweep),
        pytest.param("yolos", "ORTSessionModel", "pred_boxes", marks=pytest.mark.sweep),
        ("remote-code", "ORTModelForSequenceClassification", "logits [2, 2]"),
    ],
)
def test_load(exported: Callable[[str], Path], name: str, class_name: str, output: str) -> None:
    """The checker, the class of the task, and a run on dummy inputs."""
    checker, load, run = check_loaded(Contents(exported(name)))
    assert [check.status for check in (checker, load, run)] == ["ok"] * 3, (checker, load, run)
    assert load.reason == f"loaded as {class_name}"
    assert output in run.reason


@pytest.mark.slow
def test_files_that_optimum_has_no_class_for(exported: Callable[[str], Path]) -> None:
    """Each of them is loaded by ONNX Runtime, and that there is no class is a warning."""
    _, load, run = check_loaded(Contents(exported("sam")))
    assert (load.status, run.status) == ("warning", "skipped")
    assert load.reason.startswith("ONNX Runtime loads each of 2 files, but no class of Optimum all of them")


@pytest.mark.slow
def test_package_that_does_not_load(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """A graph that the checker refuses, and so does ONNX Runtime."""
    bert = Path(shutil.copytree(exported("bert"), tmp_path / "bert"))
    model = onnx.load(str(bert / "model.onnx"))
    model.graph.node[5].op_type = "NoSuchOperator"
    onnx.save(model, str(bert / "model.onnx"))
    report = validate(bert, load=True)
    assert [check.name for check in report.failed] == ["sidecar", "checker", "load"]
    assert report["run"].status == "skipped"


def test_unreadable_package_is_not_loaded(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """What can't be read need not be tried."""
    bert = Path(shutil.copytree(exported("bert"), tmp_path / "bert"))
    (bert / "model.onnx").write_bytes(b"")
    assert [check.status for check in check_loaded(Contents(bert))] == ["skipped"] * 3


CRASHES = (
    "import json, sys, os, signal; r = json.load(sys.stdin); open(r['result'], 'w').write(json.dumps({FOUND})); {END}"
)


@pytest.mark.parametrize(
    ("found", "end", "expected"),
    [
        ({}, "os.kill(os.getpid(), signal.SIGSEGV)", ["failed", "skipped", "skipped"]),
        ({"checker": ["ok", "", ""]}, "sys.exit(7)", ["ok", "failed", "skipped"]),
    ],
)
def test_process_that_crashes(
    exported: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    found: dict[str, Any],
    end: str,
    expected: list[str],
) -> None:
    """The check that it was at has failed, and says how it ended."""
    monkeypatch.setattr(loading, "_CODE", CRASHES.replace("{FOUND}", repr(found)).replace("{END}", end))
    checks = check_loaded(Contents(exported("bert")))
    assert [check.status for check in checks] == expected
    failed = next(check for check in checks if check.status == "failed")
    assert ("by signal SIGSEGV" if "kill" in end else "with exit code 7") in failed.reason


def test_process_has_no_network(exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sockets refuse, and the libraries are told that they are offline."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        code = (
            "import sys, os, json, socket; from optimum_htp.verbs.validate import worker; sys.addaudithook(worker._no_network)\n"
            "r = json.load(sys.stdin); answer = os.environ['HF_HUB_OFFLINE']\n"
            f"try: socket.create_connection(('127.0.0.1', {server.getsockname()[1]})); answer = 'connected'\n"
            "except OSError as error: answer += str(error)\n"
            "open(r['result'], 'w').write(json.dumps({'checker': ['ok', answer, '']}))"
        )
        monkeypatch.setattr(loading, "_CODE", code)
        checker = check_loaded(Contents(exported("bert")))[0]
    assert checker.reason == "1optimum_htp validates without network"


# --- Comparing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
def test_outputs_are_those_of_pytorch(
    exported: Callable[[str], Path], zoo_model: Callable[[str], Path], name: str
) -> None:
    """At the default sizes, and at others."""
    found = compare(exported(name), zoo_model(name), name)
    assert {check: status for check, (status, _) in found.items()} == {"outputs": "ok", "dynamic-axes": "ok"}, found
    assert "at batch_size 3" in found["dynamic-axes"][1]


def test_both_branches_of_a_merged_decoder(exported: Callable[[str], Path], zoo_model: Callable[[str], Path]) -> None:
    """A merged decoder is compared without and with past key values."""
    reason = compare(exported("t5"), zoo_model("t5"), "t5")["outputs"][1]
    for label in (
        "encoder_model.onnx",
        "decoder_with_past_model.onnx",
        "merged.onnx without past",
        "merged.onnx with past",
    ):
        assert label in reason


def test_packed_file(exported: Callable[[str], Path], zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """A model in one file is compared whatever the file is called."""
    found = compare(pack(exported("bert"), tmp_path / "film.onnx").file, zoo_model("bert"), "bert")
    assert {check: status for check, (status, _) in found.items()} == {"outputs": "ok", "dynamic-axes": "ok"}, found


def test_file_of_something_else(
    exported: Callable[[str], Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """What the source model has no part for is not compared, and that is said of both checks."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> g (float[n] x) => (float[n] y) {y = Relu(x)}'
    )
    for name in ("a.onnx", "b.onnx"):
        onnx.save(model, tmp_path / name)
    found = compare(tmp_path, zoo_model("bert"), "bert")
    assert {check: status for check, (status, _) in found.items()} == {"outputs": "warning", "dynamic-axes": "warning"}
    for name in ("c.onnx", "d.onnx"):  # whatever they are called
        shutil.copyfile(exported("bert") / "model.onnx", tmp_path / name)
    found = compare(tmp_path, zoo_model("bert"), "bert")
    assert found["outputs"][0] == "warning" and "not compared: a.onnx, b.onnx: " in found["outputs"][1]
    assert found["dynamic-axes"][0] == "ok" and "c.onnx: 1 output" in found["dynamic-axes"][1]


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_every_export_is_as_pytorch(
    exported: Callable[[str], Path], zoo_model: Callable[[str], Path], name: str
) -> None:
    """Over the whole zoo, but for what Optimum exports wrongly."""
    if not zoo.ZOO[name].available:
        pytest.skip(f"{name} needs {', '.join(zoo.ZOO[name].needs)}")
    found = compare(exported(name), zoo_model(name), name, trust_remote_code=True)
    failed = [check for check, (status, _) in found.items() if status == "failed"]
    assert failed == ([UPSTREAM[name]] if name in UPSTREAM else []), found
    compared = {status for status, _ in found.values()} & {"ok", "failed"}
    assert compared or name in NOT_COMPARED or "is random" in found["outputs"][1], found


def test_other_weights(exported: Callable[[str], Path], zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """A package of another checkpoint is found out, and the command says so."""
    import torch
    from transformers import BertForSequenceClassification

    other = Path(shutil.copytree(zoo_model("bert"), tmp_path / "other"))
    model = BertForSequenceClassification.from_pretrained(other)
    with torch.no_grad():
        model.classifier.weight += 0.01
    model.save_pretrained(other)
    found = compare(exported("bert"), other, "bert")
    assert found["outputs"][0] == "failed"
    assert "logits is off by" in found["outputs"][1]
    assert found["dynamic-axes"][0] == "skipped"
    assert main(["validate", str(exported("bert")), "--model", str(other)]) == 1
    assert main(["validate", str(exported("bert")), "--model", str(other), "--tolerance", "10"]) == 0


def test_axis_traced_as_a_constant(
    exported: Callable[[str], Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """It works at the sizes of the export, and at no other."""
    bert = Path(shutil.copytree(exported("bert"), tmp_path / "bert"))
    model = onnx.load(str(bert / "model.onnx"))
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["inner" if name == output else name for name in node.output]
    shape = onnx.numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "frozen")
    model.graph.initializer.append(shape)
    model.graph.node.append(onnx.helper.make_node("Reshape", ["inner", "frozen"], [output]))
    onnx.save(model, str(bert / "model.onnx"))
    found = compare(bert, zoo_model("bert"), "bert")
    assert found["outputs"][0] == "ok"
    assert found["dynamic-axes"][0] == "failed"
    assert "can't be run at batch_size 3" in found["dynamic-axes"][1]


def test_fixed_sizes(zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """A package without dynamic axes is compared at the sizes that it was exported with, and at no other."""
    main_export(str(zoo_model("bert")), tmp_path, do_validation=False, task="text-classification", no_dynamic_axes=True,
                sequence_length=12, batch_size=1)  # fmt: skip
    found = compare(tmp_path, zoo_model("bert"), "bert")
    assert found["outputs"][0] == "ok", found
    assert found["dynamic-axes"][0] == "skipped"
    assert "has the fixed shape" in found["dynamic-axes"][1]


def test_half_precision(zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """The reference runs in the type of the weights, the tolerance is that of the type, and what overflows does."""
    main_export(str(zoo_model("bert")), tmp_path, do_validation=False, task="text-classification", dtype="fp16")
    assert weights_dtype([read_model(tmp_path / "model.onnx")]) == "fp16"
    status, reason = compare(tmp_path, zoo_model("bert"), "bert")["outputs"]
    assert (status, reason.rpartition(", ")[2]) == ("ok", "computed in float16")
    model = onnx.load(tmp_path / "model.onnx")
    value = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [f"{name}_0" if name == value else name for name in node.output]
    for index, factor in enumerate((2**15, 2**15, 2**-15, 2**-15)):  # which float32 takes
        factors = onnx.numpy_helper.from_array(np.array(factor, np.float16), f"factor_{index}")
        model.graph.initializer.append(factors)
        after = f"{value}_{index + 1}" if index < 3 else value
        model.graph.node.append(onnx.helper.make_node("Mul", [f"{value}_{index}", f"factor_{index}"], [after]))
    onnx.save(model, tmp_path / "model.onnx")
    status, reason = compare(tmp_path, zoo_model("bert"), "bert")["outputs"]
    assert status == "failed" and "NaNs or infinities" in reason


def test_quantized_weights(exported: Callable[[str], Path], zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """They have a tolerance of their own, and where they are off, an advice that does not blame an axis."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    bert = Path(shutil.copytree(exported("bert"), tmp_path / "bert"))
    (bert / "model.onnx").unlink()
    # Not the default, signed weights: where a processor has AVX2 and no VNNI, kernels for those saturate.
    quantize_dynamic(exported("bert") / "model.onnx", bert / "model.onnx", weight_type=QuantType.QUInt8)
    assert compare(bert, zoo_model("bert"), "bert")["dynamic-axes"][0] == "ok"
    outputs, _ = check_outputs(Contents(bert), str(zoo_model("bert")), tolerance=1e-9)
    assert outputs.status == "failed"
    command = f"optimum-cli htp compare {bert} --model {zoo_model('bert')} --tolerance 1e-09"
    assert outputs.advice == f"{command} names the module that is wrong"


def test_the_command_that_is_advised(
    exported: Callable[[str], Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """It compares what was found to differ: at those sizes, of that file."""
    package = Path(shutil.copytree(exported("bert"), tmp_path / "bert"))
    shutil.copy(package / "model.onnx", package / "model_O2.onnx")
    contents = Contents(package)
    part, _ = find_parts(
        load_source_model(zoo_model("bert"), task="text-classification"), contents.readable_files.values()
    )
    found = _Comparison(contents, part, "MODEL", 1e-9, {"mask": "attention_mask"}).at_other_sizes({})
    command = f"optimum-cli htp compare {package} --model MODEL --batch-size 3 --sequence-length 21"
    assert f"{command} --map mask=attention_mask --tolerance 1e-09 --file {part.file} names" in found.advice


def quantize_weights(path: Path) -> None:
    """Gives a file int8 weights with a `DequantizeLinear` each, as weight-only quantization does."""
    model = onnx.load(path)
    read = {name for node in model.graph.node if node.op_type in ("MatMul", "Gemm") for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in read and len(tensor.dims) == 2]:
        weights = onnx.numpy_helper.to_array(tensor)
        scale = np.float32(np.abs(weights).max() / 127)
        names = [f"{tensor.name}_quantized", f"{tensor.name}_scale"]
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(array, name)
            for name, array in zip(names, (np.round(weights / scale).astype(np.int8), np.asarray(scale)), strict=True)
        )
        model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", names, [tensor.name]))
    onnx.save(model, path)


def test_weights_alone_quantized(
    exported: Callable[[str], Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """`validate` and `compare` hold them to one tolerance, that of quantized models, and not to float32's."""
    bert = Path(shutil.copytree(exported("bert"), tmp_path / "bert"))
    quantize_weights(bert / "model.onnx")
    found = compare(bert, zoo_model("bert"), "bert")
    assert found["outputs"][0] == found["dynamic-axes"][0] == "ok", found
    strict = compare(bert, zoo_model("bert"), "bert", tolerance=TOLERANCES["float32"])
    assert strict["outputs"][0] == "failed"
    (part,) = optimum_htp.compare(bert, reference=exported("bert"), threads=1).parts
    assert part.ok and part.tolerance == TOLERANCES["int8"]


def test_random_model(exported: Callable[[str], Path], zoo_model: Callable[[str], Path]) -> None:
    """What gives something else each time can't be compared."""
    status, reason = compare(exported("vits"), zoo_model("vits"), "vits")["outputs"]
    assert (status, reason) == ("skipped", "model.onnx is random (RandomNormalLike)")


def test_no_such_model(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """That is the user's fault: exit code 2."""
    with pytest.raises(PackageError, match="can't be loaded in PyTorch"):
        validate(exported("bert"), model=tmp_path)
    assert main(["validate", str(exported("bert")), "--model", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("precision", "actual", "expected", "words"),
    [
        ("float32", [1.5, -4.0], [1.0, -4.0], "is off by 1.2e-01 of its largest value (tolerance 1e-04)"),
        ("int8", [1.0, -4.0], [1.0, -3.0], "is off by 3.2e-01 of its size (tolerance 1e-04)"),
        ("float32", [1.0], [1.0, -4.0], "has the shape [1], not [2]"),
        ("int8", [1.0, np.inf], [1.0, 2.0], "has NaNs or infinities where PyTorch's has none, or the other way round"),
        ("float32", [1, 2], [1, 3], "differs in 1 of 2 values"),
        ("int8", [1, 2], [1.0, 2.0], "is int64, not float64"),
    ],
)
def test_how_an_output_is_off(precision: str, actual: list[float], expected: list[float], words: str) -> None:
    """By the measures of `compare`: relative to the largest value, or as noise; shapes, infinities and integers are exact."""
    ours, theirs = np.array(actual), np.array(expected)
    errors = compare_arrays(ours, theirs)
    assert off_by(errors, precision) > 1e-4
    assert describe(errors, ours, theirs, precision=precision, tolerance=1e-4) == words


def test_sizes_that_an_export_fixed() -> None:
    """Not those of a decoder with past key values, which takes one token whatever the batch."""
    inputs = [Value("input_ids", 7, (1, 12)), Value("pixel_values", 1, None)]
    assert fixed_sizes(inputs) == {"batch_size": 1, "sequence_length": 12}
    assert fixed_sizes([Value("input_ids", 7, ("batch_size", 1))]) == {}


def test_command_loads(exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The options reach the checks."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(loading, "check_loading", lambda _, **options: seen.update(options) or [])
    assert main(["validate", str(exported("bert")), "--load", "--task", "sequence-classification", "--json"]) == 0
    assert (seen["task"], seen["trust_remote_code"]) == ("sequence-classification", False)
    assert json.loads(capsys.readouterr().out)["ok"] is True
