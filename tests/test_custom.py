"""`export_module`: any module, the same tags and the same package; and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import onnxruntime
import pytest
import torch
from dynamo_exactness import one_registry
from torch import Tensor, nn
from toynets import TOYS, Owner, ToyNet

import optimum_htp
from optimum_htp import AutoModelForONNX, HtpError, HtpOptions, HtpPackage, TaggingError, export_module
from optimum_htp.export.exporter import HtpExporter
from optimum_htp.hierarchy.tags import tag_module_path
from optimum_htp.onnxfile.model import Graph
from optimum_htp.package.node_metadata import TAG
from optimum_htp.package.sidecar.sidecar import SIDECAR
from optimum_htp.verbs.strip import strip

ZooModel = Callable[[str], Path]
SCHEMA = Path(optimum_htp.__file__).parent / "schemas" / "export_metadata.schema.json"
# Toys that torch's dynamo exporter takes and that have more than one way to be wrong.
DYNAMO = (
    "python_loop",
    "shared_activation",
    "shared_embedding",
    "borrowed_module",
    "forward_directly",
    "numeric_paths",
)


class Classifier(nn.Module):
    """A plain network: an attention block, its dropout, and a head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, classes)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Classify sequences of features; counts its calls in a buffer."""
        self.seen += 1
        if mask is not None:
            features = features * mask.unsqueeze(-1)
        return self.head(self.dropout(self.attention(features, features, features)[0].mean(1)))


def features() -> Tensor:
    return torch.linspace(-1, 1, 2 * 5 * 8).reshape(2, 5, 8)


def config_of(package: Path) -> dict[str, Any]:
    return json.loads((package / "config.json").read_text())


def _depth_first(path: str, graph: Graph) -> Any:
    for position, node in enumerate(graph.nodes):
        yield (path, position), node
        for attribute, body in node.bodies:
            yield from _depth_first(f"{path}/{position}.{attribute}" if path else f"{position}.{attribute}", body)


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_every_node_has_its_owner(toy: ToyNet, tmp_path: Path) -> None:
    """The tags in the package are the toy's truth, and without them it is the file that torch writes."""
    options = {"opset_version": 17, **toy.export_kwargs}
    opset = options.pop("opset_version")
    export_module(toy.build(), toy.inputs(), tmp_path / "package", opset=opset, **options)
    file = HtpPackage(tmp_path / "package").files["model.onnx"]
    assert file.evidence == "sidecar"
    assert file.record is not None
    assert [root.in_model for root in file.record.roots] == [""]
    found: dict[str, list[Owner]] = {}
    for key, node in _depth_first("", file.model.graph):
        tag = file.tags[key]
        found.setdefault(node.op_type, []).append(Owner(tag_module_path(tag.tag), tag.call or 0))
    assert {op: tuple(found.get(op, ())) for op in toy.expected} == dict(toy.expected)
    assert not file.counts.unresolved
    onnx.checker.check_model(str(file.path))


@pytest.mark.xdist_group("dynamo")
@pytest.mark.parametrize("name", DYNAMO)
def test_dynamo_knows_the_calls(name: str, tmp_path: Path) -> None:
    """Every node has its module and call, as those of the TorchScript exporter do."""
    toy = TOYS[name]
    with one_registry():
        export_module(toy.build(), toy.inputs(), tmp_path / "package", dynamo=True)
    file = HtpPackage(tmp_path / "package").files["model.onnx"]
    found: dict[str, list[Owner]] = {}
    for key, node in _depth_first("", file.model.graph):
        tag = file.tags[key]
        assert tag.source == "scope", (node, tag)
        found.setdefault(node.op_type, []).append(Owner(tag_module_path(tag.tag), tag.call or 0))
    known = {op: list(owners) for op, owners in toy.expected.items() if op in found}
    assert known
    assert {op: found[op] for op in known} == known


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (features(), ["features"]),
        ((features(),), ["features"]),
        ([features(), torch.ones(2, 5)], ["features", "mask"]),
        ({"mask": torch.ones(2, 5), "features": features()}, ["features", "mask"]),
        (((features(),), {"mask": torch.ones(2, 5)}), ["features", "mask"]),
    ],
    ids=["tensor", "tuple", "list", "dict", "both"],
)
def test_example_inputs(inputs: Any, names: list[str], tmp_path: Path) -> None:
    """In every form; the graph's inputs have the names of the forward's parameters, and it computes the same."""
    model = Classifier()
    export_module(model, inputs, tmp_path / "package", task="text-classification")
    session = onnxruntime.InferenceSession(tmp_path / "package" / "model.onnx")
    assert [value.name for value in session.get_inputs()] == names
    assert [value.name for value in session.get_outputs()] == ["logits"]
    values = {"features": features().numpy(), "mask": torch.ones(2, 5).numpy()}
    (logits,) = session.run(None, {name: values[name] for name in names})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model.eval()(features()), rtol=1e-4, atol=1e-5)


def test_names_and_axes(tmp_path: Path) -> None:
    """Names that are given come first; axes have no fixed size."""
    axes = {"x": {0: "batch"}, "y": {0: "batch"}}
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    export_module(
        model,
        torch.ones(1, 4),
        tmp_path,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes=axes,
        file_name="net.onnx",
    )
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    assert session.run(["y"], {"x": torch.ones(3, 4).numpy()})[0].shape == (3, 4)


class ReturnsDict(nn.Module):
    """Returns a dict with a tuple in it."""

    def forward(self, x: Tensor, scale: float = 2.0, *rest: Tensor, **named: Tensor) -> dict[str, Any]:
        """Two values and a pair."""
        return {"scaled": x * scale, "pair": (torch.sin(x), torch.cos(x + sum(rest)))}


class CopiesInside(nn.Module):
    """Calls a copy of a module of its own, which is no module of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """The copy, then the original."""
        return torch.sin(self.part(copy.deepcopy(self.part)(x)))


def test_a_copy_made_on_the_way_is_its_callers_work(tmp_path: Path) -> None:
    export_module(CopiesInside(), torch.ones(2), tmp_path)
    file = HtpPackage(tmp_path).files["model.onnx"]
    found = [(node.op_type, tag_module_path(file.tags["", i].tag)) for i, node in enumerate(file.model.graph.nodes)]
    assert found == [("Tanh", ""), ("Tanh", "part.0"), ("Sin", "")]


def test_tensors_with_a_history_are_inputs_too(tmp_path: Path) -> None:
    export_module(nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True) * 2, tmp_path)
    assert (tmp_path / SIDECAR).is_file()


def test_what_a_module_returns_names_the_outputs(tmp_path: Path) -> None:
    x = torch.ones(2)
    export_module(ReturnsDict(), (x, 3.0, x + 1, x + 2), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [value.name for value in session.get_outputs()] == ["scaled", "pair.0", "pair.1"]
    assert [value.name for value in session.get_inputs()] == ["x", "rest_0", "rest_1"]


class TakesDict(nn.Module):
    """Takes a dict, and changes what is in it."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Uses up some of torch's random numbers on the way."""
        torch.rand(3)
        return batch["x"].add_(batch["y"])


def test_a_dict_is_an_argument_too(tmp_path: Path) -> None:
    """Which the exporter alone would take for keyword arguments; neither it nor the random state is changed."""
    batch = {"x": torch.ones(2), "y": torch.ones(2)}
    state = torch.get_rng_state()
    export_module(TakesDict(), (batch,), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [value.name for value in session.get_inputs()] == ["batch_0", "batch_1"]
    assert torch.equal(batch["x"], torch.ones(2))
    assert torch.equal(torch.get_rng_state(), state)


@dataclasses.dataclass
class Answer:
    """What a module may return."""

    logits: Tensor
    states: tuple[Tensor, Tensor]


class ReturnsDataClass(nn.Module):
    """Returns an object of a data class."""

    def forward(self, x: Tensor) -> Answer:
        """A value and a pair."""
        return Answer(torch.sin(x), (torch.cos(x), torch.tan(x)))


def test_the_fields_of_a_data_class_name_the_outputs(tmp_path: Path) -> None:
    export_module(ReturnsDataClass(), torch.ones(2), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [value.name for value in session.get_outputs()] == ["logits", "states.0", "states.1"]


def test_the_model_is_not_changed(tmp_path: Path) -> None:
    """Modes, buffers, parameters, hooks and torch's random state are as they were, also after a failure."""
    model = Classifier().train()
    model.head.eval()
    model.attention.in_proj_weight.requires_grad_(False)
    before = copy.deepcopy(model)
    state = torch.get_rng_state()
    export_module(model, features(), tmp_path / "good")
    with pytest.raises(Exception, match="embed_dim"):
        export_module(model, torch.ones(2, 5, 9), tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    for module, old in zip(model.modules(), before.modules(), strict=True):
        assert module.training == old.training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    for (name, value), (_, old_value) in zip(model.state_dict().items(), before.state_dict().items(), strict=True):
        assert torch.equal(value, old_value), name
    assert [each.requires_grad for each in model.parameters()] == [each.requires_grad for each in before.parameters()]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_sidecar(tmp_path: Path) -> None:
    """It keeps the schema, and says what is known of the source."""
    result = export_module(Classifier(), features(), tmp_path, task="text-classification", opset=17)
    document = json.loads((tmp_path / SIDECAR).read_text())
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    assert document["source"] == {
        "model": "test_custom.Classifier",
        "library": "torch",
        "task": "text-classification",
        "dtype": "fp32",
        "opset": 17,
    }
    assert document["files"]["model.onnx"]["root_in_model"] == ""
    assert result.files["model.onnx"].unresolved == 0
    assert HtpPackage(tmp_path).task == "text-classification"


def test_options_and_strip(tmp_path: Path) -> None:
    """Without what we add, the file is the one that `torch.onnx.export` writes."""
    model = Classifier().eval()
    export_module(model, features(), tmp_path / "package", opset=17, htp_options=HtpOptions(namespace=False))
    node = onnx.load(tmp_path / "package" / "model.onnx").graph.node[0]
    assert TAG in {entry.key for entry in node.metadata_props}
    assert "namespace" not in {entry.key for entry in node.metadata_props}
    strip(tmp_path / "package")
    names = {"input_names": ["features"], "output_names": ["output"]}
    torch.onnx.export(model, (features(),), tmp_path / "plain.onnx", dynamo=False, opset_version=17, **names)
    assert (tmp_path / "package" / "model.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


# --- config.json --------------------------------------------------------------------------------------------------


def test_a_config_is_built_of_what_is_known(tmp_path: Path) -> None:
    """Class, sizes that all modules agree on, and labels of a classifier: no model type, nothing invented."""
    export_module(Classifier(4), features(), tmp_path / "classifier", task="text-classification")
    config = config_of(tmp_path / "classifier")
    assert config.pop("id2label") == {str(index): f"LABEL_{index}" for index in range(4)}
    assert config.pop("label2id") == {f"LABEL_{index}": index for index in range(4)}
    known = {"architectures": ["Classifier"], "num_labels": 4, "hidden_size": 8, "num_attention_heads": 2}
    assert config == known
    two = nn.Sequential(nn.LSTM(4, 3, batch_first=True))
    two.append(nn.Identity())
    export_module(nn.Linear(4, 2), torch.ones(1, 4), tmp_path / "linear")
    assert config_of(tmp_path / "linear") == {"architectures": ["Linear"]}


def test_sizes_that_modules_disagree_on_are_left_out(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.GRU(4, 3, batch_first=True), nn.GRU(3, 5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)[0])[0]

    export_module(Two(), torch.ones(1, 2, 4), tmp_path)
    assert config_of(tmp_path) == {"architectures": ["Two"]}


@dataclass
class Settings:
    """A config as many write it themselves."""

    width: int = 4
    deep: bool = True


def test_the_config_of_the_model_and_of_the_caller(tmp_path: Path) -> None:
    """A data class or mapping that the model carries is saved; what the caller gives goes first."""
    from transformers import BertConfig

    model = nn.Linear(4, 2)
    model.config = Settings()
    export_module(model, torch.ones(1, 4), tmp_path / "own")
    assert config_of(tmp_path / "own") == {"architectures": ["Linear"], "width": 4, "deep": True}
    given = {"architectures": ["Mine"], "model_type": "mine"}
    export_module(model, torch.ones(1, 4), tmp_path / "dict", config=given)
    assert config_of(tmp_path / "dict") == given
    bert = BertConfig(hidden_size=12, num_attention_heads=2)
    export_module(model, torch.ones(1, 4), tmp_path / "class", config=bert)
    assert config_of(tmp_path / "class")["hidden_size"] == 12
    assert config_of(tmp_path / "class")["architectures"] == ["Linear"]
    assert bert.architectures is None


def test_a_transformers_model(zoo_model: ZooModel, tmp_path: Path) -> None:
    """Its own config is saved, Optimum's class for custom tasks loads it, and so does ours."""
    from optimum.onnxruntime import ORTModelForCustomTasks
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(zoo_model("bert")).eval()
    inputs = {name: torch.ones(2, 6, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    axes = {name: {0: "batch", 1: "sequence"} for name in inputs}
    export_module(model, inputs, tmp_path, task="text-classification", dynamic_axes=axes)
    assert config_of(tmp_path)["architectures"] == ["BertForSequenceClassification"]
    assert json.loads((tmp_path / SIDECAR).read_text())["source"]["library"] == "transformers"
    loaded = ORTModelForCustomTasks.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(**inputs).logits
    torch.testing.assert_close(loaded(**inputs)["logits"], expected, rtol=1e-3, atol=1e-4)
    ours = AutoModelForONNX.from_pretrained(tmp_path)
    assert type(ours).__name__ == "ORTModelForSequenceClassification"
    torch.testing.assert_close(ours(**inputs).logits, expected, rtol=1e-3, atol=1e-4)


def test_a_plain_module_loads_with_our_class(tmp_path: Path) -> None:
    model = Classifier().eval()
    export_module(model, features(), tmp_path)
    loaded = AutoModelForONNX.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(features())
    torch.testing.assert_close(loaded(features=features())["output"], expected, rtol=1e-3, atol=1e-4)


class Scripted(nn.Module):
    """Has a part that can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.scripted = torch.jit.script(nn.Linear(2, 2))


def quantized() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch gives it away to another library
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2)), {nn.Linear})


# --- Errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "inputs", "options", "message"),
    [
        (torch.ones(1), features(), {}, "can't export a Tensor"),
        (torch.jit.script(nn.Linear(2, 2)), torch.ones(1, 2), {}, "can't export a RecursiveScriptModule"),
        (torch.compile(nn.Linear(2, 2)), torch.ones(1, 2), {}, "model._orig_mod"),
        (Scripted(), features(), {}, "can't export scripted, which torch.jit compiled"),
        (quantized(), features(), {}, "can't export 0, a quantized Linear: export the model in floating point"),
        (Classifier(), None, {}, "hold no tensor"),
        (Classifier(), (1, 2), {}, "hold no tensor"),
        (Classifier(), {"nothing": features()}, {}, r"don't fit Classifier.forward\(features"),
        (Classifier(), (features(), None, features()), {}, "don't fit"),
        (Classifier(), features(), {"input_names": ["a", "b"]}, "2 names for 1 inputs"),
        (Classifier(), features(), {"output_names": ["a", "a"]}, "2 names for 1 outputs"),
        (Classifier(), features(), {"file_name": "../model.onnx"}, "not a name for an ONNX file"),
        (Classifier(), features(), {"file_name": "model.pt"}, "not a name for an ONNX file"),
        (Classifier(), features(), {"config": 3}, "config is a int"),
        (Classifier(), features(), {"config": {"a": object()}}, "can't be written as JSON"),
    ],
)
def test_what_is_refused(model: Any, inputs: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """In one line, and nothing is left on the disk."""
    with pytest.raises(HtpError, match=message) as caught:
        export_module(model, inputs, tmp_path / "package", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "package").exists()


def test_a_module_that_returns_nothing(tmp_path: Path) -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> None:
            """Nothing."""

    with pytest.raises(HtpError, match="returns no tensor"):
        export_module(Silent(), torch.ones(1), tmp_path / "package")


def test_dynamo_without_onnxscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HtpError, match="pip install onnxscript"):
        export_module(nn.Linear(2, 2), torch.ones(1, 2), tmp_path / "package", dynamo=True)


def test_a_failure_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing export leaves an older package alone, and so does a failing HTP pass, which alone leaves no tags."""
    export_module(nn.Linear(2, 2), torch.ones(1, 2), tmp_path / "package")
    shutil.copytree(tmp_path / "package", tmp_path / "before")
    with pytest.raises(RuntimeError):
        export_module(nn.Linear(2, 2), torch.ones(1, 3), tmp_path / "package")
    for file in (tmp_path / "before").iterdir():
        assert (tmp_path / "package" / file.name).read_bytes() == file.read_bytes()
    assert len(list((tmp_path / "package").iterdir())) == 3

    def fail(*_: object) -> None:
        raise HtpError("no")

    monkeypatch.setattr(HtpExporter, "tag_content", lambda *_: None)
    monkeypatch.setattr(HtpExporter, "tag_file", fail)
    with pytest.raises(TaggingError, match=r"no; .*package is as it was$"):
        export_module(nn.Linear(2, 3), torch.ones(1, 2), tmp_path / "package")
    for file in (tmp_path / "before").iterdir():
        assert (tmp_path / "package" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(TaggingError, match=r"no; .*new has the package without tags"):
        export_module(nn.Linear(2, 3), torch.ones(1, 2), tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["config.json", "model.onnx"]
