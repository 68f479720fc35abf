"""Tags from the names and values of weights: what reads a parameter is tagged where code says whose work that is, else open."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import safetensors.torch
import torch
import torch.utils.checkpoint
import zoo
from numbering import numbered
from torch import Tensor, nn
from torch.nn import functional

from optimum_htp import strip
from optimum_htp.cli.main import main
from optimum_htp.errors import PackageError
from optimum_htp.hierarchy.tags import NodeTags, tag_module_path
from optimum_htp.models.exported_root import choose_root
from optimum_htp.models.parameters.distinct import distinct_parameters
from optimum_htp.models.torch_source import instantiate_on_meta
from optimum_htp.package.package import HtpPackage
from optimum_htp.package.sidecar.sidecar import SIDECAR
from optimum_htp.tagging.rules.code import ANY, UNKNOWN, code_of
from optimum_htp.tagging.rules.order import tag_model
from optimum_htp.tagging.tracing.modules import static_trace
from optimum_htp.tagging.tracing.tap import ModuleTap
from optimum_htp.verbs.tag import tag as tag_package

WIDTH = 4


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    """Reads the weights of a module that it is given."""
    return functional.linear(x, module.weight, module.bias)


class Plain(nn.Module):
    """Everything is called where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.scale = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc(x)) * self.scale


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)


class ReadsChild(Base):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.fc.weight, self.fc.bias)


class ReadsByVariable(Base):
    def forward(self, x: Tensor) -> Tensor:
        layer = self.fc
        return functional.linear(x, layer.weight, layer.bias)


class ReadsInFunction(Base):
    def forward(self, x: Tensor) -> Tensor:
        return linear(self.fc, x)


class ReadsByName(Base):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, *[self.fc.get_parameter(name) for name in ("weight", "bias")])


class ReadsInClosure(Base):
    def __init__(self) -> None:
        super().__init__()
        self.run = lambda x: functional.linear(x, self.fc.weight, self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class ReadsByNameOnly(Base):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, *[getattr(self.fc, name) for name in ("weight", "bias")])


class ReadsAll(Base):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, *self.fc.parameters())


class ReadsAState(Base):
    def forward(self, x: Tensor) -> Tensor:
        held = self.fc._parameters
        return functional.linear(x, held["weight"], held["bias"])


class ReadsInList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = functional.linear(x, layer.weight, layer.bias)
        return x


class ReadsBelow(nn.Module):
    """What it reads is two levels down."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Plain()

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.inner.fc.weight) + self.inner.fc.bias


class Hidden(Base):
    """A module that it is not registered with reads its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.other = Reader([self.fc])

    def forward(self, x: Tensor) -> Tensor:
        return self.other(x)


class Reader(nn.Module):
    def __init__(self, modules: list[nn.Linear]) -> None:
        super().__init__()
        self.kept = modules

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.kept[0].weight, self.kept[0].bias)


class Multiplies(nn.Module):
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return x * scale


class HandsOn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.child = nn.Parameter(torch.randn(WIDTH)), Multiplies()

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x, self.scale)


class HandsOnLater(HandsOn):
    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale
        return self.child(x, scale)


def call(module: nn.Module, x: Tensor, scale: Tensor) -> Tensor:
    return module(x, scale)


class HandsOnInFunction(HandsOn):
    def forward(self, x: Tensor) -> Tensor:
        return call(self.child, x, self.scale)


class HandsOnToCheckpoint(HandsOn):
    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.child, x, self.scale, use_reentrant=False)


class Returns(nn.Module):
    """Its parameter is its parent's to compute with."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(WIDTH))

    def forward(self) -> Tensor:
        return self.table


class ReadsWhatIsReturned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.held = Returns()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.held()


class Replaced(nn.Module):
    """The forward of its child is not that of the class."""

    def __init__(self) -> None:
        super().__init__()
        self.child = HandsOn()
        self.child.forward = lambda x: x * self.child.scale  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return self.child.forward(x)


class Twice(Base):
    """Both calls read the same weights."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.fc(x)))


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x, x, x)
        return torch.as_tensor(attended)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x.abs().long().clamp(max=WIDTH - 1)))


class ByValue(nn.Module):
    """The exporter stores all of these weights without their names: transposed, or with a batch norm folded in."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.twice, self.equal, self.same, self.seen = (
            nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(5)
        )
        self.same.weight.data.copy_(self.equal.weight.data)
        self.conv, self.norm = nn.Conv1d(2, 2, 1, bias=False), nn.BatchNorm1d(2)
        self.norm.running_var.copy_(torch.tensor([0.5, 2.0]))
        self.norm.running_mean.copy_(torch.tensor([0.5, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(torch.relu(self.twice(self.one(x))))
        x = self.same(torch.relu(self.equal(x)))
        return self.norm(self.conv(x)) + functional.linear(x, self.seen.weight)


def compared(
    net: nn.Module, file: Path, *, opset: int = 17, by_value: bool = False
) -> tuple[list[str], NodeTags, Any]:
    """What numbered nodes got wrong, their tags, and the graph; the truth is that of an export.

    Tags with the values of the weights at hand are looked at too, and are those that are given back with `by_value`.
    """
    with ModuleTap() as tap:
        torch.onnx.export(net.eval(), (torch.randn(3, 2, WIDTH),), str(file), dynamo=False, opset_version=opset)
    traced = tap.exports[0]
    exact = tag_model(traced.model, traced.trace)
    distinct = distinct_parameters(HtpPackage(file).files[file.name], net)
    graph, trace = numbered(traced.model), static_trace(net)
    by_names, by_values = tag_model(graph, trace), tag_model(graph, trace, distinct=distinct)
    wrong = [
        f"{key}: {tag.tag}, truly {exact[key].tag}"
        for key, tag in (*by_names.items(), *by_values.items())
        if tag.source != "unresolved" and tag.tag != exact[key].tag
    ]
    return wrong, by_values if by_value else by_names, traced.model


def owners(net: nn.Module, file: Path, **options: Any) -> dict[str, list[str | None]]:
    """The dotted paths of the modules of the nodes, by operator; None where that is open. None of them is wrong."""
    wrong, found, model = compared(net, file, **options)
    assert not wrong
    by_operator: dict[str, list[str | None]] = {}
    for key, node in model.nodes():
        path = tag_module_path(found[key].tag) if found[key].source != "unresolved" else None
        by_operator.setdefault(node.op_type, []).append(path)
    return by_operator


def test_what_a_weight_proves(tmp_path: Path) -> None:
    """The nodes that read one, and the product in front of a bias."""
    assert owners(Plain(), tmp_path / "net.onnx") == {
        "MatMul": ["fc"], "Add": ["fc"], "LayerNormalization": ["norm"], "Mul": [""],
    }  # fmt: skip


def test_a_normalization_in_steps(tmp_path: Path) -> None:
    """Before opset 17 it is seven nodes and the scale; what is stored for them alone is the module's too."""
    found = owners(Plain(), tmp_path / "net.onnx", opset=16)
    assert found["ReduceMean"] == ["norm", "norm"]
    assert found["Sub"] == found["Pow"] == found["Sqrt"] == found["Div"] == ["norm"]
    assert found["Add"] == ["fc", "norm", "norm"]
    assert set(found["Constant"]) == {"norm"}


def test_what_a_value_proves(tmp_path: Path) -> None:
    """Both calls of one module, and a folded batch norm's convolution; not which of two equal weights a node reads."""
    found = owners(ByValue(), tmp_path / "net.onnx", by_value=True)
    assert found["MatMul"] == ["one", "twice", "twice", None, None, None]
    assert found["Conv"] == ["conv"]
    assert set(owners(ByValue(), tmp_path / "net.onnx")["MatMul"]) == {None}


@pytest.mark.parametrize(
    "net",
    [
        ReadsChild, ReadsByVariable, ReadsInFunction, ReadsByName, ReadsByNameOnly, ReadsInClosure, ReadsAll,
        ReadsAState, ReadsInList, ReadsBelow, Hidden, HandsOn, HandsOnLater, HandsOnInFunction, HandsOnToCheckpoint,
        ReadsWhatIsReturned, Replaced,
    ],
)  # fmt: skip
def test_what_may_be_another_modules_work_stays_open(net: Callable[[], nn.Module], tmp_path: Path) -> None:
    """Another one's code reads the weight, or more than one node."""
    found = owners(net(), tmp_path / "net.onnx", by_value=True)
    assert {owner for paths in found.values() for owner in paths} == {None}


def test_two_readers_of_one_name(tmp_path: Path) -> None:
    """They may have read equal parameters, which are stored once: the values know that there are none."""
    assert set(owners(Twice(), tmp_path / "net.onnx")["Add"]) == {None}
    assert owners(Twice(), tmp_path / "net.onnx", by_value=True)["Add"] == ["fc", "fc"]


def test_attention_reads_what_its_projection_holds(tmp_path: Path) -> None:
    """`out_proj` is never called."""
    assert "attention.out_proj" not in {
        owner for paths in owners(Attends(), tmp_path / "net.onnx").values() for owner in paths
    }


def test_tied_weights(tmp_path: Path) -> None:
    """An embedding looks rows up, a Linear does not."""
    assert owners(Tied(), tmp_path / "net.onnx")["Gather"] == ["embed"]
    assert owners(Tied(), tmp_path / "net.onnx", by_value=True)["MatMul"] == ["head"]


def test_classes_without_source(tmp_path: Path) -> None:
    """Nothing is known of what such code does, to its own parameters and to those below it."""
    space: dict[str, Any] = {"nn": nn, "Base": Base, "functional": functional, "__name__": __name__}
    exec(
        "class Made(Base):\n    def forward(self, x):\n        return functional.linear(x, self.fc.weight, self.fc.bias)",
        space,
    )
    assert code_of(f"{__name__}.Made") is UNKNOWN
    found = owners(space["Made"](), tmp_path / "net.onnx")
    assert {owner for paths in found.values() for owner in paths} == {None}


def named(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def test_what_the_code_of_torch_does() -> None:
    for kind in (nn.Linear, nn.LayerNorm, nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm):
        assert {"weight", "bias"} <= code_of(named(kind)).computes
        assert not {(ANY, "weight"), (ANY, "bias"), (ANY, ANY)} & code_of(named(kind)).reads
    assert {"weight"} <= code_of(named(nn.Embedding)).computes & code_of(named(nn.PReLU)).computes
    assert {("out_proj", "weight"), ("out_proj", "bias")} <= code_of(named(nn.MultiheadAttention)).reads
    assert code_of(named(nn.ModuleList)).reads == frozenset()
    assert code_of("no.such.Class") is UNKNOWN


class Facts(Base):
    """What it asks of its child's weight is not its value."""

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.fc.weight, Tensor) and self.fc.bias is not None:
            x = x.to(self.fc.weight.dtype)
        return self.fc(x.to(next(self.parameters()).device))


def test_what_says_nothing_of_values(tmp_path: Path) -> None:
    assert (ANY, ANY) not in code_of(named(Facts)).reads
    assert owners(Facts(), tmp_path / "net.onnx")["MatMul"] == ["fc"]


# --- Real models -----------------------------------------------------------------------------------------------------


def check_zoo(name: str, exported: Callable[[str], Path], source: Path) -> Counter[str]:
    """No node of a model is tagged wrong by its weights; how many are tagged."""
    counts: Counter[str] = Counter()
    trust = "remote-code" in zoo.ZOO[name].tags
    for file in HtpPackage(exported(name)).files.values():
        model = numbered(file.model)
        match, _ = choose_root(model, instantiate_on_meta(source, trust_remote_code=trust, tasks=True))
        if match is None:
            continue
        found = tag_model(model, match.trace)
        wrong = [(key, tag.tag, file.tags[key].tag) for key, tag in found.items()
                 if tag.source != "unresolved" and tag.tag != file.tags[key].tag]  # fmt: skip
        assert not wrong, f"{file.name}: {len(wrong)} wrong, the first: {wrong[:3]}"
        counts.update(tag.source for tag in found.values())
    return counts


ZOO = ("bert", "detr", "gpt2", "wavlm")


@pytest.mark.parametrize("name", ZOO)
def test_models(name: str, exported: Callable[[str], Path], zoo_model: Callable[[str], Path]) -> None:
    assert check_zoo(name, exported, zoo_model(name))["parameter"] >= 8


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(set(zoo.names()) - set(ZOO)))
def test_every_model(name: str, exported: Callable[[str], Path], zoo_model: Callable[[str], Path]) -> None:
    check_zoo(name, exported, zoo_model(name))


# --- The verb --------------------------------------------------------------------------------------------------------


def numbered_package(package: Path, copy: Path) -> Path:
    """A copy of a package without anything of ours, in whose file only weights, inputs and outputs have real names."""
    shutil.copytree(package, copy)
    strip(copy)
    model = onnx.load(copy / "model.onnx")
    del model.graph.value_info[:]
    kept = {value.name for value in model.graph.output}
    names: dict[str, str] = {}
    for at, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{at}"
        node.output[:] = [
            name if name in kept else names.setdefault(name, str(100 + len(names))) for name in node.output
        ]
        node.input[:] = [names.get(name, name) for name in node.input]
    onnx.save(model, copy / "model.onnx")
    return copy


def test_the_verb_says_why(
    exported: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = numbered_package(exported("bert"), tmp_path / "numbered")
    before = (package / "model.onnx").read_bytes()
    assert main(["tag", str(package)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "nodes tagged (parameter" in shown[0]
    assert shown[1].startswith("  why: the names of the nodes hold no module scopes")
    assert f"optimum-cli htp project {package} --reference TAGGED" in shown[1]
    report = tag_package(package, force=True)
    assert report.unknown == () and report.notes.keys() == {"model.onnx"}
    assert set(report.files["model.onnx"].by_source) == {"parameter", "unresolved"}
    assert json.loads(json.dumps(report.to_dict()))["notes"] == report.notes
    strip(package)
    assert (package / "model.onnx").read_bytes() == before


def without_names_of_weights(package: Path) -> None:
    """Renames all weights."""
    model = onnx.load(package / "model.onnx")
    names = {tensor.name: f"onnx::{at}" for at, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    onnx.save(model, package / "model.onnx")


def test_a_file_that_says_nothing_is_refused(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """In one line that says why and what to do; nothing is written."""
    package = numbered_package(exported("bert"), tmp_path / "numbered")
    without_names_of_weights(package)
    before = (package / "model.onnx").read_bytes()
    with pytest.raises(PackageError, match=r"do not say which modules .* --model MODEL; export the model again"):
        tag_package(package)
    assert (package / "model.onnx").read_bytes() == before
    assert not (package / SIDECAR).exists()


def test_the_part_that_names_tell(tmp_path: Path) -> None:
    """Its other weights are found in the whole model, and are its own there; without any name it is the whole."""
    net = nn.Sequential(nn.Linear(WIDTH, WIDTH), ByValue())
    file = tmp_path / "net.onnx"
    torch.onnx.export(net[1].eval(), (torch.randn(3, 2, WIDTH),), str(file), dynamo=False)
    model = onnx.load(file)
    kept = next(tensor for tensor in model.graph.initializer if tensor.name.startswith("onnx::MatMul"))
    distinct = distinct_parameters(HtpPackage(file).files[file.name], net)
    assert distinct["", kept.name] == "1.one.weight"
    for name, place in (("one.weight", "1"), ("w", "")):
        kept.name = name
        onnx.save(model, file)
        distinct = distinct_parameters(HtpPackage(file).files[file.name], net)
        root, _ = choose_root(HtpPackage(file).files[file.name].model, [net], distinct=distinct)
        assert root is not None and root.in_model == place


@pytest.mark.parametrize("beside", [False, True])
def test_the_values_say_it(
    exported: Callable[[str], Path], zoo_model: Callable[[str], Path], tmp_path: Path, beside: bool
) -> None:
    """With the model, or its weights beside its config; each tag is that of the export."""
    package = numbered_package(exported("bert"), tmp_path / "numbered")
    without_names_of_weights(package)
    if beside:
        shutil.copy(zoo_model("bert") / "model.safetensors", package)
    report = tag_package(package, model=None if beside else zoo_model("bert"))
    assert report.files["model.onnx"].by_source["parameter"] >= 16
    assert "the code of one module alone" in report.notes["model.onnx"]
    exact = HtpPackage(exported("bert")).files["model.onnx"].tags
    found = HtpPackage(package).files["model.onnx"].tags
    assert [key for key, tag in found.items() if tag.source != "unresolved" and tag.tag != exact[key].tag] == []


def test_weights_that_are_no_help(
    exported: Callable[[str], Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Those of another model, and a model without any: names count as before, and the note says it."""
    package = numbered_package(exported("bert"), tmp_path / "numbered")
    other = tmp_path / "other"
    shutil.copytree(zoo_model("bert"), other)
    tensors = safetensors.torch.load_file(other / "model.safetensors")
    safetensors.torch.save_file(
        {name: tensor + 1 for name, tensor in tensors.items()}, other / "model.safetensors", metadata={"format": "pt"}
    )
    before = tag_package(package).files
    report = tag_package(package, model=other, force=True)
    assert (
        report.files == before and f"its weights have not the values of those in {other}" in report.notes["model.onnx"]
    )
    (other / "model.safetensors").unlink()
    report = tag_package(package, model=other, force=True)
    assert report.files == before and "can't be told by value either" in report.notes["model.onnx"]
