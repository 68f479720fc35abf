"""What modules return, as outputs of the graph: the values of PyTorch's hooks, and nothing else changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from layered_toy import layered_package
from small_graphs import save

from optimum_htp import HtpError, PackageError, expose, load_package, project, strip, tree
from optimum_htp.cli.main import main

Exported = Callable[..., Path]


def run(file: Path, names: list[str], **inputs: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, inputs), strict=True))


def stripped(package: Path, to: Path) -> Path:
    shutil.copytree(package, to)
    strip(to)
    return to


IDS = np.array([[5, 6, 7, 8], [9, 10, 11, 12]])
TEXT = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_an_output_is_what_the_module_returns(
    name: str, exported: Exported, zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of each call of each module, the tensor that PyTorch's hook gets; of a tuple, one of it."""
    from transformers import AutoModelForSequenceClassification

    inputs = TEXT | {"token_type_ids": np.zeros_like(IDS)}
    report = expose(exported(name), "*", output=tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(zoo_model(name)).eval()
    seen: dict[tuple[str, int], list[Any]] = {}
    calls: dict[str, int] = {}

    def hook(path: str, result: Any) -> None:
        results = (
            [result]
            if isinstance(result, torch.Tensor)
            else list(result.values() if hasattr(result, "values") else result)
        )
        seen[path, calls.setdefault(path, 0)] = [each.numpy() for each in results if isinstance(each, torch.Tensor)]
        calls[path] += 1

    for path, module in model.named_modules():
        module.register_forward_hook(lambda _, __, result, path=path: hook(path, result))
    with torch.no_grad():
        logits = model(**{key: torch.tensor(value) for key, value in inputs.items()}).logits
    names = [tensor.output.name for tensor in report.tensors]
    values = run(tmp_path / "out" / "model.onnx", ["logits", *names], **inputs)
    assert len(names) > 30 and len(set(names)) == len(names)
    np.testing.assert_allclose(values["logits"], logits, atol=1e-5)
    for tensor in report.tensors:
        results = seen[tensor.path, tensor.call or 0]
        assert any(
            result.shape == values[tensor.output.name].shape
            and np.allclose(result, values[tensor.output.name], atol=1e-5)
            for result in results
        ), tensor


def test_outputs_are_named_typed_and_tagged(exported: Exported, tmp_path: Path) -> None:
    report = expose(exported("bert"), "BertLayer", output=tmp_path / "out")
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    names = [value.name for value in graph.output]
    assert names == ["logits", "bert.encoder.layer.0", "bert.encoder.layer.1"]
    axes = graph.output[1].type.tensor_type.shape.dim
    assert [axis.dim_param for axis in axes[:2]] == ["batch_size", "sequence_length"] and axes[2].dim_value
    onnx.checker.check_model(str(tmp_path / "out" / "model.onnx"), full_check=True)
    row = next(row for row in tree(tmp_path / "out", nodes=True).files[0].rows if row.path == "bert.encoder.layer.1")
    assert row.calls == 1
    assert [tensor.call for tensor in report.tensors] == [None, None]
    file = load_package(tmp_path / "out").files["model.onnx"]
    added = [file.tags[key] for key, node in file.model.nodes() if node.outputs[0] in names[1:]]
    assert [(tag.source, tag.tag.rpartition(".")[2]) for tag in added] == [("inserted", "0"), ("inserted", "1")]


def test_strip_gives_the_old_bytes_back(exported: Exported, tmp_path: Path) -> None:
    """Also after exposing twice, and after tagging anew in between."""
    expose(exported("bert"), "BertLayer", output=tmp_path / "once")
    expose(tmp_path / "once", "*.layer.1.*", output=tmp_path / "twice")
    project(tmp_path / "twice")
    plain = stripped(exported("bert"), tmp_path / "plain")
    for name in ("once", "twice"):
        strip(tmp_path / name)
        assert (tmp_path / name / "model.onnx").read_bytes() == (plain / "model.onnx").read_bytes()


def test_a_merged_decoder_gives_it_in_both_branches(exported: Exported, tmp_path: Path) -> None:
    from optimum.onnxruntime import ORTModelForSeq2SeqLM

    report = expose(exported("t5"), "T5Block", output=tmp_path / "out", file="decoder_model_merged.onnx")
    first = report.tensors[0]
    assert first.output.name == "decoder.block.0" and len(first.tensors) == 2 and "" not in first.tensors
    before, after = (ORTModelForSeq2SeqLM.from_pretrained(each) for each in (exported("t5"), tmp_path / "out"))
    inputs = {key: torch.tensor(value) for key, value in TEXT.items()}
    tokens = [model.generate(**inputs, max_new_tokens=4, do_sample=False).tolist() for model in (before, after)]
    assert tokens[0] == tokens[1]
    onnx.checker.check_model(str(tmp_path / "out" / "decoder_model_merged.onnx"))
    plain = stripped(exported("t5"), tmp_path / "plain")
    strip(tmp_path / "out")
    for file in plain.glob("*.onnx"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_named_module_without_nodes_is_told(exported: Exported, tmp_path: Path) -> None:
    report = expose(exported("bert"), ["BertLayer", "bert.embeddings.dropout"], output=tmp_path / "out")
    assert [each.reason for each in report.left_out] == [
        "no node comes from bert.embeddings.dropout, as from a Dropout"
    ]
    with pytest.raises(PackageError, match=r"no node comes from bert\.embeddings\.dropout"):
        expose(exported("bert"), "bert.embeddings.dropout", output=tmp_path / "other")


def test_an_operator_is_exposed_of_the_innermost_module(exported: Exported, tmp_path: Path) -> None:
    report = expose(exported("bert"), ["*attention*"], operator="Softmax", output=tmp_path / "out")
    names = [tensor.output.name for tensor in report.tensors]
    assert names == [f"bert.encoder.layer.{layer}.attention.self.Softmax" for layer in (0, 1)]
    values = run(tmp_path / "out" / "model.onnx", names, **TEXT, token_type_ids=np.zeros_like(IDS))
    for each in values.values():
        np.testing.assert_allclose(each.sum(-1), 1, atol=1e-5)


def test_what_an_optimizer_fused_is_not_guessed(exported: Exported, tmp_path: Path) -> None:
    report = expose(exported("bert", optimize="O2"), "*.layer.0.output*", output=tmp_path / "out")
    assert [tensor.path for tensor in report.tensors] == ["bert.encoder.layer.0.output"]
    reasons = {each.path.rpartition(".")[2]: each.reason for each in report.left_out}
    assert "inside com.microsoft::SkipLayerNormalization" in reasons["dense"]


def test_what_a_norm_is_folded_into_is_not_the_convolutions(exported: Exported, tmp_path: Path) -> None:
    """A stage of a ResNet: a Sequential that is looped over returns nothing, and a folded convolution what its norm does."""
    report = expose(exported("resnet"), ["resnet.encoder.stages.0*"], output=tmp_path / "out")
    paths = [tensor.path for tensor in report.tensors]
    assert "resnet.encoder.stages.0" in paths and "resnet.encoder.stages.0.layers" not in paths
    assert not any(path.endswith("convolution") for path in paths)
    assert any("normalization is folded into" in each.reason for each in report.left_out)


BRANCHES = """
    net (float[N] x, bool c) => (float[N] z) {
      y = If (c) <       # net
        then_branch = then () => (float[N] a) {
          b = Neg(x)     # net.a
          a = Relu(b)    # net.b
        },
        else_branch = other () => (float[N] d) {
          d = Relu(x)    # net.b
        }
      >
      z = Neg(y)         # net
    }
"""


def test_one_branch_of_an_if_is_not_enough(tmp_path: Path) -> None:
    file = save(tmp_path / "net" / "model.onnx", BRANCHES)
    with pytest.raises(
        PackageError, match=r"net.a is in one branch of an If only: 0\.else_branch has nothing to give"
    ):
        expose(file, "net.a", output=tmp_path / "out.onnx")
    expose(file, ["net.a", "net.b"], output=tmp_path / "out.onnx")
    for condition, result in ((True, [0, 1]), (False, [1, 0])):
        values = run(tmp_path / "out.onnx", ["z", "net.b"], x=np.array([1, -1], np.float32), c=np.array(condition))
        assert values["net.b"].tolist() == result and values["z"].tolist() == [-each for each in result]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return layered_package(tmp_path / "toy")


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["layers.0.linaer"], "did you mean 'layers.0.linear'"),
        (["Net"], "selects modules that no node comes from"),
        (["layers.2.act"], None),
    ],
)
def test_what_can_not_be_exposed_is_said(patterns: list[str], said: str | None, toy: Path, tmp_path: Path) -> None:
    if said is None:  # it is an output already
        (tensor,) = expose(toy, patterns, output=tmp_path / "out").tensors
        assert (tensor.output.name, tensor.added) == ("y", False)
        return
    with pytest.raises(PackageError, match=said):
        expose(toy, patterns, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_outputs_are_refused(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    for output, said in (("there", "exists already"), ("toy", "only read"), ("toy/in", "inside the package")):
        assert main(["expose", str(toy), "Linear", "-o", str(tmp_path / output)]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(HtpError, match="no pattern"):
        expose(toy, [], output=tmp_path / "out")


def test_a_file_gives_a_file(toy: Path, tmp_path: Path) -> None:
    expose(toy / "model.onnx", "Linear", output=tmp_path / "one.onnx")
    values = run(tmp_path / "one.onnx", ["y", "layers.2.linear"], x=np.ones((2, 4), np.float32))
    np.testing.assert_array_equal(values["y"], np.maximum(values["layers.2.linear"], 0))
    assert len(load_package(tmp_path / "one.onnx").files["one.onnx"].tags) == 12
