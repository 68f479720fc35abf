"""Exports by torch's dynamo exporter: module and call of each node, in the bodies of its control flow too."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from dynamo_exactness import Verdict, check_module, one_registry
from torch import Tensor, nn
from toynets import TOYS

from optimum_htp import HtpError, HtpOptions, TaggingError, load_package, main_export, strip, tag_exports
from optimum_htp.export import torch_exports
from optimum_htp.hierarchy.tags import tag_module_path
from optimum_htp.package.package import HtpFile
from optimum_htp.package.sidecar.sidecar import SIDECAR
from optimum_htp.tagging.tracing import dynamo

pytestmark = pytest.mark.xdist_group("dynamo")  # the first export of a process takes seconds

Row = tuple[str, str, int | None]  # operator, module, call


@pytest.fixture(autouse=True, scope="module")
def _fast() -> Iterator[None]:
    with one_registry():
        yield


def export(net: nn.Module, args: tuple[Any, ...], directory: Path, **options: Any) -> HtpFile:
    """The file that `torch.onnx.export` leaves, tagged."""
    with tag_exports() as files:
        torch.onnx.export(net.eval(), args, directory / "model.onnx", dynamo=True, verbose=False, **options)
    assert list(files) == [directory / "model.onnx"]
    return load_package(directory).files["model.onnx"]


def rows(file: HtpFile, graph: str = "") -> list[Row]:
    """Each node of a graph with its module and call."""
    nodes = [(node.op_type, file.tags[key]) for key, node in file.model.nodes() if key[0] == graph]
    assert all(tag.source in ("scope", "fused") for _, tag in nodes)
    return [(op_type, tag_module_path(tag.tag), tag.call) for op_type, tag in nodes]


def calls(file: HtpFile) -> list[tuple[str, int, int | None]]:
    """The tree of calls: module, index, and the number of the caller's call."""
    (root,) = file.tagged.roots
    (trace,) = root.traces
    return [(".".join(call.path), call.index, call.parent) for call in trace]


# --- Against the oracle -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shared_activation", "numeric_paths"])
def test_the_oracle_agrees(name: str, tmp_path: Path) -> None:
    """On every node, and on the tree of calls; without the tags it is torch's file. `make dynamo` has the zoo."""
    verdict = Verdict()
    check_module(TOYS[name].build(), TOYS[name].inputs(), tmp_path, verdict)
    assert not verdict.wrong
    assert verdict.right == verdict.nodes > 0
    assert verdict.same_bytes == 1


# --- Control flow -------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A layer of its own, and work of its own after it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Tanh of the layer."""
        return torch.tanh(self.fc(x))


class Choices(nn.Module):
    """Calls one block in both branches of a condition, in a loop, and after that."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.other = Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        """Blocks wherever a program can call one."""
        x = torch.cond(x.sum() > 0, lambda x: self.block(self.other(x)).cos(), lambda x: self.block(x), (x,))
        _, x = torch.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, self.block(x)), (torch.tensor(0), x))
        return self.block(x)


def test_bodies_of_control_flow(tmp_path: Path) -> None:
    """`torch.cond` and `torch.while_loop`: a body's nodes are of the calls in it, each traced once and in order."""
    file = export(Choices(), (torch.ones(2, 4),), tmp_path)
    graphs = dict(file.model.graphs())
    (condition,) = (name for name in graphs if re.fullmatch(r"\d+\.then_branch", name))
    (loop,) = (name for name in graphs if name.endswith("body"))
    assert rows(file)[-2:] == [("Gemm", "block.fc", 3), ("Tanh", "block", 3)]
    assert rows(file, condition) == [
        ("Gemm", "other.fc", None), ("Tanh", "other", None), ("Gemm", "block.fc", 0), ("Tanh", "block", 0),
        ("Cos", "", None),
    ]  # fmt: skip
    assert rows(file, condition.replace("then", "else")) == [("Gemm", "block.fc", 1), ("Tanh", "block", 1)]
    assert rows(file, loop) == [
        ("Add", "", None), ("Gemm", "block.fc", 2), ("Tanh", "block", 2), ("Less", "", None),
    ]  # fmt: skip
    of_the_block = [("block", index, 0) for index in range(4)]
    assert [call for call in calls(file) if call[0] == "block"] == of_the_block


def test_what_only_dynamo_can_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch can't run the model and compiles it instead, its hooks are traced: nothing is lost."""
    from torch.onnx._internal.exporter import _capture_strategies as strategies

    monkeypatch.setattr(strategies, "CAPTURE_STRATEGIES", (strategies.TorchExportStrictStrategy,))
    net = Choices()
    file = export(net, (torch.ones(2, 4),), tmp_path)
    found = [row for graph, _ in file.model.graphs() for row in rows(file, graph) if row[0] == "Tanh"]
    assert sorted(found, key=str) == [*(("Tanh", "block", index) for index in range(4)), ("Tanh", "other", None)]
    assert not net.block._forward_hooks
    assert not net.block._forward_pre_hooks


# --- Torch's optimizer --------------------------------------------------------------------------------------------


class Normalized(nn.Module):
    """A convolution that the padding before it and the normalization behind it are folded into."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d(1)
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """One after the other."""
        return self.act(self.norm(self.conv(self.pad(x))))


@pytest.mark.parametrize("opset", [17, None], ids=["converted", "default"])
def test_what_was_fused(opset: int | None, tmp_path: Path) -> None:
    """A node in place of several has all their modules for origins, also behind torch's converter of opsets."""
    file = export(Normalized(), (torch.ones(1, 3, 8, 8),), tmp_path, opset_version=opset)
    assert rows(file) == [("Conv", "", None), ("Relu", "act", None)]
    assert list(map(tag_module_path, file.tags["", 0].origins)) == ["pad", "conv", "norm"]
    assert file.counts.by_source == {"fused": 1, "scope": 1}


# --- tag_exports --------------------------------------------------------------------------------------------------


def test_programs_that_are_saved_later(tmp_path: Path) -> None:
    """Optimized and saved by the user, twice, and once without external data; the weights stay where torch put them."""
    net = Normalized().eval()
    with tag_exports(HtpOptions(namespace=False)) as files:
        program = torch.onnx.export(net, (torch.ones(1, 3, 8, 8),), dynamo=True, verbose=False, optimize=False)
        assert not files
        program.optimize()
        for name, external in (("a.onnx", True), ("b.onnx", False)):
            program.save(tmp_path / name, external_data=external)
            assert files[tmp_path / name].by_source == {"fused": 1, "scope": 1}
        torch.onnx.export(net, (torch.ones(1, 3, 8, 8),), io.BytesIO(), dynamo=True, verbose=False)
    (tmp_path / "plain").mkdir()
    for name, external in (("a.onnx", True), ("b.onnx", False)):
        program.save(tmp_path / "plain" / name, external_data=external)
    strip(tmp_path / "a.onnx")
    strip(tmp_path / "b.onnx")
    for file in (tmp_path / "plain").iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


def test_the_torchscript_exporter(tmp_path: Path) -> None:
    """Is tagged as well, while it writes the file; and what was there before is found again afterwards."""
    before = torch.onnx.export, torch.onnx.ONNXProgram.save
    with tag_exports() as files:
        torch.onnx.export(Block(), (torch.ones(2, 4),), tmp_path / "model.onnx", dynamo=False)
    assert files[tmp_path / "model.onnx"].by_source == {"scope": 2}
    assert before == (torch.onnx.export, torch.onnx.ONNXProgram.save)
    file = load_package(tmp_path).files["model.onnx"]
    assert calls(file) == [("", 0, None), ("fc", 0, 0)]
    assert not (tmp_path / SIDECAR).exists()


def test_what_can_not_be_tagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is there as torch wrote it, and the end of the block says why; an error in the block is not covered up."""

    def failing(*_: Any, **__: Any) -> None:
        raise HtpError("no space")

    monkeypatch.setattr(torch_exports, "write_tags", failing)
    with pytest.raises(TaggingError, match=r"n\.onnx was exported, but could not be tagged: no space"), tag_exports():
        torch.onnx.export(Block(), (torch.ones(2, 4),), tmp_path / "n.onnx", dynamo=True, verbose=False)
    assert len(onnx.load(tmp_path / "n.onnx").graph.node) == 2
    with pytest.raises(ZeroDivisionError), tag_exports():
        torch.onnx.export(Block(), (torch.ones(2, 4),), tmp_path / "n.onnx", dynamo=True, verbose=False)
        raise ZeroDivisionError


def test_a_torch_without_the_private_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports all the same; what torch's metadata says is left, and is recorded as such."""
    monkeypatch.setattr(dynamo.NumberedStacks, "made", lambda *_: {})
    with tag_exports() as files:
        torch.onnx.export(Block(), (torch.ones(2, 4),), tmp_path / "n.onnx", dynamo=True, verbose=False)
    assert files[tmp_path / "n.onnx"].by_source == {"metadata": 2}


# --- Optimum ------------------------------------------------------------------------------------------------------


def test_an_optimum_with_dynamo(zoo_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`main_export(dynamo=True)` of an Optimum that has it: every call, though it writes the file again."""
    from optimum.exporters.onnx import __main__ as optimum_main

    def newer(model_name_or_path: str, output: Path, task: str = "auto", dynamo: bool = False, **_: Any) -> None:
        file = Path(output, "model.onnx")
        file.parent.mkdir(exist_ok=True, parents=True)
        torch.onnx.export(
            TOYS["python_loop"].build(), TOYS["python_loop"].inputs(), file, dynamo=dynamo, verbose=False
        )
        content = onnx.load(file)
        Path(output, "model.onnx.data").unlink(missing_ok=True)
        onnx.save(content, file, save_as_external_data=True, location="model.onnx_data", size_threshold=0)
        Path(output, "config.json").write_text("{}")

    monkeypatch.setattr(optimum_main, "main_export", newer)
    report = main_export(str(zoo_model("bert")), tmp_path / "out", task="feature-extraction", dynamo=True)
    assert report.files["model.onnx"].by_source == {"scope": 9}
    file = load_package(tmp_path / "out").files["model.onnx"]
    assert file.evidence == "sidecar"
    tanh = [file.tags[key] for key, node in file.model.nodes() if node.op_type == "Tanh"]
    assert [(tag_module_path(tag.tag), tag.call) for tag in tanh] == [("block.act", index) for index in range(3)]
    assert calls(file)[0:3] == [("", 0, None), ("block", 0, 0), ("block.act", 0, 1)]
