"""Comparisons of exported models: every call found and measured, the culprit named, and sound ones left alone."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import optimum_htp
from optimum_htp import main_export
from optimum_htp.cli.main import main
from optimum_htp.cli.views.compare import comparison_page
from optimum_htp.cli.views.terminal import print_page
from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy.tags import tag_module_path
from optimum_htp.models.flat_graph import FlatGraph
from optimum_htp.models.inputs import InputSizes, make_inputs
from optimum_htp.models.measures import TOLERANCES, compare_arrays, measure_errors
from optimum_htp.models.prober import Prober
from optimum_htp.models.torch_parts import run_for_file
from optimum_htp.models.torch_source import load_source_model
from optimum_htp.models.whole_model import find_parts
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.package import HtpPackage
from optimum_htp.package.value_pairing import paired_values
from optimum_htp.verbs.compare.inputs_of_both import shared_inputs
from optimum_htp.verbs.compare.report import CallComparison, CompareReport, PartComparison
from optimum_htp.verbs.compare.verb import compare
from optimum_htp.verbs.strip import strip
from optimum_htp.verbs.tag import tag

pytestmark = pytest.mark.xdist_group("comparison")

LAYER = "bert.encoder.layer.0"
MODELS = ("bert", "albert", "gpt2", "llama", "vit", "resnet", "t5", pytest.param("bart", marks=pytest.mark.sweep))


@pytest.fixture(scope="module")
def compared(exported: Callable[..., Path], zoo_model: Callable[[str], Path]) -> Callable[[str], CompareReport]:
    made: dict[str, CompareReport] = {}

    def of(name: str) -> CompareReport:
        if name not in made:
            made[name] = compare(exported(name), model=zoo_model(name), threads=1)
        return made[name]

    return of


# --- Sound exports ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_sound_export_agrees(name: str, compared: Callable[[str], CompareReport]) -> None:
    """Every call that has nodes is compared, and is as close as float32 allows: by itself, and in the running model."""
    report = compared(name)
    assert report.ok and {part.verdict for part in report.parts} == {"agrees"}
    assert report.not_compared == {}
    assert report.coverage >= 0.97, [part.skipped for part in report.parts]
    for part in report.parts:
        worst = max(part.calls, key=lambda call: call.errors.relative if call.errors else 0.0)
        assert worst.errors is not None and worst.errors.relative < 2e-5, worst
        own = [call.own.sqnr_db for call in part.calls if call.own is not None]
        assert min(own) > 100 and len(own) >= part.compared
        assert part.outputs and part.samples == 2 and part.precision == "float32"


def test_merged_decoder_is_compared_in_both_branches(compared: Callable[[str], CompareReport]) -> None:
    labels = [part.label for part in compared("t5").parts]
    assert "decoder_model_merged.onnx (with past)" in labels
    assert "decoder_model_merged.onnx (without past)" in labels


def test_calls_of_a_module_that_runs_again(compared: Callable[[str], CompareReport]) -> None:
    """ALBERT's one layer: each call has a tensor of its own."""
    (part,) = compared("albert").parts
    layer = [call for call in part.modules if call.class_name == "AlbertLayer"]
    assert [call.call for call in layer] == list(range(len(layer))) and len(layer) > 1
    assert len({call.tensors for call in layer}) == len(layer)


def test_batch_norm_is_compared_in_the_convolution(zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """As trained ones are, whose statistics are not 0 and 1: the convolution's own output is nowhere in the graph."""
    import torch
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(zoo_model("resnet"))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    shutil.copytree(zoo_model("resnet"), tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    main_export(str(tmp_path / "model"), str(tmp_path / "onnx"), task="image-classification")
    report = compare(tmp_path / "onnx", model=tmp_path / "model", threads=1)
    (part,) = report.parts
    folded = [call for call in part.calls if call.compared_as is not None]
    assert report.ok and report.coverage >= 0.97, part.skipped
    assert len(folded) > 3
    assert all(call.class_name == "Conv2d" and str(call.compared_as).endswith("normalization") for call in folded)


def test_outputs_that_are_added_to_what_was_given(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path]
) -> None:
    """The modules of sentence-transformers return the dictionary that they were given, with a tensor more."""
    report = compare(exported("sentence-transformers"), model=zoo_model("sentence-transformers"), threads=1)
    assert report.ok and report.coverage == 1.0, report.parts[0].skipped


def test_order_is_that_in_which_calls_ended(compared: Callable[[str], CompareReport]) -> None:
    (part,) = compared("bert").parts
    orders = [call.order for call in part.calls]
    assert orders == sorted(orders)
    paths = [call.path for call in part.calls]
    layer = "bert.encoder.layer.0"
    assert paths.index(f"{layer}.attention.self.query") < paths.index(f"{layer}.attention.self") < paths.index(layer)


def test_chunks_bound_the_memory_and_change_nothing(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], compared: Callable[[str], CompareReport]
) -> None:
    """Where there is no room for all, PyTorch runs again for each chunk."""
    (part,) = compare(exported("vit"), model=zoo_model("vit"), threads=1, max_memory_bytes=200_000).parts
    (whole,) = compared("vit").parts
    assert part.chunks > 2 * whole.chunks
    assert [call.tensors for call in part.calls] == [call.tensors for call in whole.calls]
    assert [call.own for call in part.calls] == [call.own for call in whole.calls]
    assert part.ok


def test_every_run_of_the_source_has_the_same_inputs(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path]
) -> None:
    """Where there is no room, PyTorch runs again: with the mask that it had before. The caller's dice stay as they are."""
    import torch

    output, model = exported("bert"), zoo_model("bert")
    state = random.getstate(), torch.get_rng_state()
    (part,) = compare(output, model=model, threads=1, max_memory_bytes=300_000).parts
    assert part.ok and part.compared == len(part.modules)
    assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])


# --- Planted faults -----------------------------------------------------------------------------------------------


def is_below(name: str, path: str) -> bool:
    return name == path or name.startswith(path + ".")


Change = Callable[[onnx.ModelProto, list[onnx.NodeProto]], "onnx.NodeProto | None"]


def plant(package: Path, output: Path, file: str, path: str, change: Change) -> str:
    """Writes a copy of a package with a fault among the nodes of a module, and tells whose the node is that has it."""
    shutil.copytree(package, output)
    opened = HtpPackage(package).files[file]
    model = onnx.load(output / file)
    nodes, owners = [], []
    for graph_path, position in opened.hierarchy.nodes(path):
        graph = model.graph
        for part in graph_path.split("/") if graph_path else ():
            place, _, name = part.partition(".")
            graph = next(attribute.g for attribute in graph.node[int(place)].attribute if attribute.name == name)
        nodes.append(graph.node[position])
        owners.append(tag_module_path(opened.tags[graph_path, position].tag))
    changed = change(model, nodes)
    assert changed is not None, f"nothing to change in {path}"
    onnx.save(model, output / file)
    return next(owner for owner, node in zip(owners, nodes, strict=True) if node is changed)


def planted(package: Path, output: Path, file: str, path: str, change: Change) -> Path:
    """A copy of a package with a fault among the nodes of a module."""
    plant(package, output, file, path, change)
    return output


def change_one_weight(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.NodeProto | None:
    """One value of a matrix that a module reads."""
    readers = {name: node for node in nodes if node.op_type in ("MatMul", "Gemm", "Conv") for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in readers and len(tensor.dims) > 1:
            array = numpy_helper.to_array(tensor).copy()
            array[(0,) * array.ndim] += 3.0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            return readers[tensor.name]
    return None


def replace_one_op(_: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.NodeProto | None:
    """An operator by another of the same shape."""
    others = {"Softmax": "LogSoftmax", "Relu": "Neg", "Erf": "Tanh", "Tanh": "Erf"}
    for node in nodes:
        if node.op_type in others:
            node.op_type = others[node.op_type]
            return node
    return None


FAULTS = [
    ("bert", "model.onnx", "bert.encoder.layer.0"),
    ("bert", "model.onnx", "bert.encoder.layer.1"),
    ("gpt2", "model.onnx", "transformer.h.0"),
    ("gpt2", "model.onnx", "transformer.h.1"),
    ("llama", "model.onnx", "model.layers.1.self_attn"),
    ("vit", "model.onnx", "vit.encoder.layer.1"),
    ("resnet", "model.onnx", "resnet.encoder.stages.1"),
    ("t5", "encoder_model.onnx", "block.1"),
    ("t5", "decoder_model_merged.onnx", "decoder.block.1"),
    ("bart", "decoder_model.onnx", "model.decoder.layers.1"),
]


def is_named(part: PartComparison, path: str, *, operations: bool = False) -> bool:
    """Whether just this module is named, and putting its work right puts the outputs right."""
    assert part.verdict == "one" and not part.looks_foreign, (part.verdict, part.reason, part.culprits)
    (culprit,) = part.culprits
    assert culprit.output_error_without is not None and culprit.output_error_without < 1e-5 < part.output_error
    assert culprit.own.sqnr_db < culprit.expected_sqnr_db
    return (culprit.path, culprit.row.operations) == (path, operations)


def sound_calls(part: PartComparison) -> list[CallComparison]:
    """The leaves that add no more than float32 costs."""
    inner = {call.path.rpartition(".")[0] for call in part.modules}
    leaves = [call for call in part.modules if call.path not in inner]
    return [call for call in leaves if call.own is not None and call.own.sqnr_db > 100]


@pytest.mark.parametrize("change", [change_one_weight, replace_one_op])
@pytest.mark.parametrize(("name", "file", "path"), FAULTS)
def test_planted_fault_is_named(
    name: str, file: str, path: str, change: Change, exported: Callable[..., Path],
    zoo_model: Callable[[str], Path], tmp_path: Path,
) -> None:  # fmt: skip
    """Just the module whose node has the fault, and the error is its own."""
    owner = plant(exported(name), tmp_path / "faulty", file, path, change)
    report = compare(tmp_path / "faulty", model=zoo_model(name), file=file, threads=1)
    faulty = [part for part in report.parts if part.culprit is not None]
    assert faulty and not report.ok
    for part in faulty:
        assert part.culprit is not None
        assert is_named(part, owner, operations=part.culprit.operations), part.culprit


def test_inherited_error_is_told_from_added(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """After the fault modules are off, and on the reference's tensors they are not."""
    path = "bert.encoder.layer.0.attention.self.query"
    faulty = planted(exported("bert"), tmp_path / "faulty", "model.onnx", path, change_one_weight)
    (part,) = compare(faulty, model=zoo_model("bert"), threads=1).parts
    assert is_named(part, path)
    inherited = [call for call in sound_calls(part) if call.over]
    assert len(inherited) > 10 and any(".layer.1." in call.path for call in inherited)


def op_to(op_type: str, ending: str) -> Change:
    """Replaces the operator of the node whose name ends so."""

    def change(_: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.NodeProto:
        node = next(node for node in nodes if node.name.endswith(ending))
        node.op_type = op_type
        return node

    return change


ALBERT_LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0"


@pytest.mark.parametrize(
    ("name", "path", "change", "shows"),
    [
        ("bert", f"{LAYER}.attention.output", op_to("Sub", "output/Add"), f"{LAYER}.attention.output.LayerNorm"),
        ("bert", "bert.embeddings", op_to("Sub", "embeddings/Add"), "bert.embeddings.LayerNorm"),
        ("bert", "bert", op_to("Add", "bert/Sub"), f"{LAYER}.attention.self"),
        ("albert", "albert", op_to("Add", "albert/Sub"), f"{ALBERT_LAYER}.attention.dense"),
        ("gpt2", "transformer.h.1", op_to("Sub", "h.1/Add"), "transformer.h.1.ln_2"),
        ("gpt2", "transformer.h.1.attn", op_to("LogSoftmax", "attn/Softmax"), "transformer.h.1.attn.c_proj"),
        ("resnet", "resnet.encoder.stages.0.layers.0", op_to("Sub", "/Add"),
         "resnet.encoder.stages.0.layers.0.activation"),
    ],
)  # fmt: skip
def test_fault_of_a_module_before_one_inside_it(
    name: str, path: str, change: Change, shows: str, exported: Callable[..., Path],
    zoo_model: Callable[[str], Path], tmp_path: Path,
) -> None:  # fmt: skip
    """A residual connection or a mask: the module inside shows it first, and is sound on what it should be given."""
    faulty = planted(exported(name), tmp_path / "faulty", "model.onnx", path, change)
    (part,) = compare(faulty, model=zoo_model(name), threads=1).parts
    assert is_named(part, path, operations=True), part.culprits
    first = next(call for call in part.calls if call.over)
    assert (first.path == shows and first in sound_calls(part)) or shows.endswith("self")


@pytest.mark.parametrize("name", ["intermediate.dense", "attention.self.value"])
def test_fault_in_the_last_operation_of_a_module(
    name: str, exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its biases are 0, so that what came before the fault is just what the module should return."""
    path = f"{LAYER}.{name}"
    faulty = planted(exported("bert"), tmp_path / "faulty", "model.onnx", path, op_to("Sub", "Add"))
    (part,) = compare(faulty, model=zoo_model("bert"), threads=1).parts
    assert is_named(part, path)


def test_fault_beside_a_tuple(exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Llama's rotary embedding returns two tensors, of which the graph uses others: it is not accused for that."""
    path = "model.layers.0.self_attn.q_proj"
    faulty = planted(exported("llama"), tmp_path / "faulty", "model.onnx", path, change_one_weight)
    (part,) = compare(faulty, model=zoo_model("llama"), threads=1).parts
    assert is_named(part, path)


# --- Two packages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["albert", "gpt2", pytest.param("t5", marks=pytest.mark.sweep)])
def test_package_agrees_with_itself(name: str, exported: Callable[..., Path]) -> None:
    """In every call, and in both phases of what generates."""
    report = compare(exported(name), reference=exported(name), threads=1)
    assert report.ok and report.coverage > 0.97
    assert all(call.errors.relative < 1e-5 for part in report.parts for call in part.calls if call.errors)
    labels = {"albert": ["model.onnx"], "gpt2": ["model.onnx (prefill)", "model.onnx (decode)"]}
    assert name not in labels or [part.label for part in report.parts] == labels[name]


def test_calls_that_only_an_export_knows(
    exported: Callable[..., Path], zoo_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Tags from names don't say which call of ALBERT's one layer a node is of: counted, and nobody is accused."""
    plain = shutil.copytree(exported("albert"), tmp_path / "plain")
    strip(plain)
    tag(plain, model=zoo_model("albert"))
    (part,) = compare(plain, reference=exported("albert"), threads=1).parts
    assert part.ok and part.without_nodes > 0
    named = HtpPackage(plain).files["model.onnx"]
    layer = "/AlbertLayer.albert_layers.0"
    assert part.unknown_calls == sum(layer in tag.tag for tag in named.tags.values()) > 0
    (part,) = compare(exported("albert"), reference=exported("albert"), threads=1).parts
    assert part.ok and part.unknown_calls == part.without_nodes == 0


@pytest.fixture(scope="module")
def int8_bert(exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Not the default, signed weights: where a processor has AVX2 and no VNNI, kernels for those saturate.
    made = tmp_path_factory.mktemp("int8") / "model_quantized.onnx"
    quantize_dynamic(exported("bert") / "model.onnx", made, weight_type=QuantType.QUInt8)
    return made.parent


def test_quantized_package_against_its_origin(exported: Callable[..., Path], int8_bert: Path) -> None:
    """Untagged by its own: the origin tells; off, but within what int8 may be."""
    report = compare(int8_bert, reference=exported("bert"), threads=1)
    (part,) = report.parts
    assert part.tolerance == TOLERANCES["int8"] and part.verdict == "spread" and part.ok and part.precision == "int8"
    turned = compare(exported("bert"), reference=int8_bert, threads=1)
    assert turned.ok and turned.coverage == 1.0 and turned.parts[0].tolerance == part.tolerance
    assert part.compared >= 0.9 * len(part.modules)
    errors = [call.errors for call in part.calls if call.errors]
    assert any(each.max_abs > 1e-4 for each in errors)
    assert all(each.sqnr_db > 10 for each in errors)


@pytest.fixture(scope="module")
def optimized(exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT at O2: what is left of its layers are nodes that are fused across modules."""
    from optimum.onnxruntime import OptimizationConfig, ORTOptimizer

    directory = tmp_path_factory.mktemp("optimized")
    optimizer = ORTOptimizer.from_pretrained(str(exported("bert")), file_names=["model.onnx"])
    optimizer.optimize(OptimizationConfig(optimization_level=2), save_dir=str(directory))
    return directory


def test_optimized_package_and_its_origin(exported: Callable[..., Path], optimized: Path) -> None:
    """Either against the other: what is fused in part is compared in a tensor that both graphs name."""
    for left, right in ((optimized, exported("bert")), (exported("bert"), optimized)):
        report = compare(left, reference=right, threads=1)
        (part,) = report.parts
        assert report.ok and part.compared == len(part.modules) >= 30, (part.culprits, part.skipped)
        dense = next(call for call in part.calls if call.path == f"{LAYER}.intermediate.dense")
        assert "/bert/encoder/layer.0/intermediate/dense/MatMul_output_0" in dense.tensors


@pytest.mark.parametrize("path", [f"{LAYER}.intermediate.dense", f"{LAYER}.attention.output.dense"])
def test_fault_in_an_optimized_package(
    path: str, exported: Callable[..., Path], optimized: Path, tmp_path: Path
) -> None:
    """Of a module whose bias another node adds."""
    optimum_htp.project(shutil.copytree(optimized, tmp_path / "tagged"), reference=exported("bert"))
    faulty = planted(tmp_path / "tagged", tmp_path / "faulty", "model_optimized.onnx", path, change_one_weight)
    (part,) = compare(faulty, reference=exported("bert"), threads=1).parts
    assert is_named(part, path)


def test_fault_in_a_package(exported: Callable[..., Path], tmp_path: Path) -> None:
    path = "bert.encoder.layer.1.intermediate"
    faulty = planted(exported("bert"), tmp_path / "faulty", "model.onnx", path, change_one_weight)
    (part,) = compare(faulty, reference=exported("bert"), threads=1).parts
    assert is_named(part, f"{path}.dense")


def test_packages_in_pieces_that_fit(exported: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """How much each call returns is known before the first run that shows it: the reference's part is half of all."""
    held: list[tuple[int, int]] = []
    original = Prober.run

    def run(self: Prober, names: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        found = original(self, names, *args, **kwargs)
        held.append((len(found), sum(array.nbytes for array in found.values())))
        return found

    monkeypatch.setattr(Prober, "run", run)
    (part,) = compare(exported("vit"), reference=exported("vit"), threads=1, max_memory_bytes=60_000).parts
    assert part.ok and part.chunks > 1 and part.compared == len(part.modules)
    assert all(size <= 30_000 for tensors, size in held if tensors > 1)
    assert max(tensors for tensors, _ in held) > 3


def test_inputs_that_show_more(exported: Callable[..., Path]) -> None:
    """Between packages some tokens are left out by the mask, and have several types: faults there would hide."""
    (part,) = compare(exported("bert"), reference=exported("bert"), threads=1).parts
    made = make_inputs(read_model(exported("bert") / "model.onnx"), None, sizes=InputSizes(2, 16), varied=True)
    assert part.ok
    assert made["attention_mask"].sum(1).tolist() == [12, 12]
    assert set(made["token_type_ids"].ravel()) == {0, 1}


def test_outputs_that_are_whole_numbers(tmp_path: Path) -> None:
    """Nothing else tells that another index was chosen: no module returns one."""
    import torch

    class Chooser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = torch.nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scores(x).argmax(-1)

    optimum_htp.export_module(Chooser(), (torch.ones(2, 4),), tmp_path / "good")

    def other(_: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.NodeProto:
        node = next(node for node in nodes if node.op_type == "ArgMax")
        node.op_type = "ArgMin"
        return node

    faulty = planted(tmp_path / "good", tmp_path / "faulty", "model.onnx", "", other)
    assert compare(tmp_path / "good", reference=tmp_path / "good", threads=1).ok
    report = compare(faulty, reference=tmp_path / "good", threads=1)
    assert not report.ok and report.parts[0].verdict == "unknown"
    assert "can't be told: the error comes from what could not be compared" in text(report)
    (document,) = json.loads(json.dumps(report.to_dict(), allow_nan=False))["files"]
    assert next(iter(document["outputs"].values()))["max_abs"] > 0


def test_packages_with_nothing_in_common(exported: Callable[..., Path]) -> None:
    with pytest.raises(PackageError, match=r"nothing in common: .*a BertForSequence.* and that a AlbertForSequence"):
        compare(exported("bert"), reference=exported("albert"), threads=1)


# --- Answers that misled ------------------------------------------------------------------------------------------


def exported_net(net: Any, inputs: tuple[Any, ...], path: Path) -> Path:
    optimum_htp.export_module(net.eval(), inputs, path)
    return path


def changed(package: Path, path: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    """A copy of a package whose model is changed."""
    shutil.copytree(package, path)
    model = onnx.load(path / "model.onnx")
    change(model)
    onnx.save(model, path / "model.onnx")
    return path


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three blocks with a residual connection; activations are few and large, as trained ones are, weights too."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.act, self.down, self.norm = nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32), nn.LayerNorm(32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.norm(x + self.down(self.act(self.up(x))))
            return out

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(*(Block() for _ in range(3)))
        with torch.no_grad():
            for block in net:
                block.up.weight *= 2
                block.up.bias[3] = 20.0
                block.down.weight[:, 3] = 0.02
                block.down.weight[:, 4:] *= 4
                block.up.weight[0, 0] = block.down.weight[0, 0] = 4.0
        return exported_net(net, (torch.randn(2, 16, 32),), tmp_path_factory.mktemp("blocks") / "float")


def test_subtle_fault_is_that_of_the_activation(blocks: Path, tmp_path: Path) -> None:
    """An approximate gelu adds 80 dB; by the largest value alone the norm behind it would be the first that is off."""

    def approximate(model: onnx.ModelProto) -> None:
        gelu = [node for node in model.graph.node if node.op_type == "Gelu"][1]
        del gelu.attribute[:]
        gelu.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))

    faulty = changed(blocks, tmp_path / "faulty", approximate)
    (part,) = compare(faulty, reference=blocks, threads=1).parts
    assert is_named(part, "1.act")


def test_missing_residual_is_that_of_the_block(blocks: Path, tmp_path: Path) -> None:
    def skip(model: onnx.ModelProto) -> None:
        norm = [node for node in model.graph.node if node.op_type == "LayerNormalization"][1]
        add = next(node for node in model.graph.node if node.output[0] == norm.input[0])
        makers = {name: node for node in model.graph.node for name in node.output}
        norm.input[0] = next(name for name in add.input if "down" in makers[name].name)
        model.graph.node.remove(add)

    faulty = changed(blocks, tmp_path / "faulty", skip)
    (part,) = compare(faulty, reference=blocks, threads=1).parts
    assert is_named(part, "1", operations=True)


@pytest.fixture(scope="module")
def int8_blocks(blocks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    output = tmp_path_factory.mktemp("int8")
    quantize_dynamic(blocks / "model.onnx", output / "model.onnx", weight_type=QuantType.QUInt8)
    optimum_htp.project(output, reference=blocks)
    return output


def test_sound_quantization_accuses_nobody(blocks: Path, int8_blocks: Path) -> None:
    (part,) = compare(int8_blocks, reference=blocks, threads=1).parts
    assert part.verdict == "spread" and not part.culprits
    assert all(each.row.class_name == "Linear" for each in part.carriers)


@pytest.mark.parametrize("layer", ["0.up", "1.down", "2.up"])
def test_one_badly_quantized_layer_among_sound_ones(
    layer: str, blocks: Path, int8_blocks: Path, tmp_path: Path
) -> None:
    """Twice its scale, so twice its output. All layers are off, it alone by more than its rounding."""

    def double(model: onnx.ModelProto) -> None:
        place = f"/{layer.replace('.', '/')}/"
        node = next(node for node in model.graph.node if node.op_type == "MatMulInteger" and place in node.name)
        name = node.input[1].replace("_quantized", "_scale")
        scale = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 2, name))

    faulty = changed(int8_blocks, tmp_path / "faulty", double)
    (part,) = compare(faulty, reference=blocks, threads=1).parts
    assert (part.verdict, [culprit.path for culprit in part.culprits]) == ("one", [layer])
    sound = [call.own.sqnr_db for call in part.calls if call.own and call.path.endswith(("up", "down"))]
    assert sorted(sound)[0] == part.culprits[0].own.sqnr_db < sorted(sound)[1] - 6


def test_norms_of_a_quantized_llama_are_sound(exported: Callable[..., Path], tmp_path: Path) -> None:
    """Nobody quantized them: what quantizes their output is the next layers' work, and their tensors are the right ones."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    made = tmp_path / "model.onnx"
    options: dict[str, Any] = {"weight_type": QuantType.QUInt8, "op_types_to_quantize": ["MatMul"]}
    quantize_dynamic(exported("llama") / "model.onnx", made, **options)
    report = compare(tmp_path, reference=exported("llama"), threads=1)
    assert report.ok and [part.branch for part in report.parts] == ["prefill", "decode"]
    for part in report.parts:
        assert part.verdict == "spread" and part.compared == len(part.modules)
        norms = [call for call in part.modules if call.class_name == "LlamaRMSNorm"]
        assert len(norms) > 3 and all(call.own is not None and call.own.sqnr_db > 100 for call in norms)


def test_file_with_fewer_inputs_has_the_model_s_defaults(zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """A BERT exported without token types: PyTorch is not given any either."""
    pytest.importorskip("optimum.exporters")  # which loads the source
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(zoo_model("bert")).eval()
    ids, mask = torch.ones(2, 16, dtype=torch.int64), torch.ones(2, 16, dtype=torch.int64)
    model.config.save_pretrained(tmp_path / "onnx")
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        model, (ids, mask), str(tmp_path / "onnx" / "model.onnx"), dynamo=False, input_names=names,
        output_names=["logits"], dynamic_axes={name: {0: "batch_size", 1: "sequence_length"} for name in names},
        opset_version=17,
    )  # fmt: skip
    tag(tmp_path / "onnx")
    (part,) = compare(tmp_path / "onnx", model=zoo_model("bert"), threads=1).parts
    assert part.verdict == "agrees" and part.output_error < 1e-5 and list(part.inputs) == names


def test_overflow_in_float16_is_told(tmp_path: Path) -> None:
    """The CPU alone would compute in float32 and see nothing: so it is computed in float16, and said."""
    import torch
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from torch import nn

    class Norm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    class Net(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.dense, self.norm, self.factor = nn.Linear(16, 16), Norm(), factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.norm(self.factor * self.dense(x))
            return out

    for factor, verdict in ((1.0, "agrees"), (1000.0, "one")):
        torch.manual_seed(0)
        exact = exported_net(Net(factor), (torch.randn(2, 8, 16),), tmp_path / f"{factor}")
        half = tmp_path / f"half{factor}"
        half.mkdir()
        onnx.save(convert_float_to_float16(onnx.load(exact / "model.onnx"), keep_io_types=True), half / "model.onnx")
        (part,) = compare(half, reference=exact, threads=1).parts
        assert part.verdict == verdict and part.precision == "float16"
        assert any("rounded to float16" in note for note in part.notes)
    assert is_named(part, "norm") and part.output_error == pytest.approx(1.0)


# --- Samples ------------------------------------------------------------------------------------------------------


def test_several_samples_are_measured_together(
    exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of other sizes too. A fault that only one of them reaches is found."""
    model = read_model(exported("bert") / "model.onnx")
    files = []
    for index, token in enumerate((5, 7)):
        made = make_inputs(model, None, sizes=InputSizes(2, 4 + index))
        np.savez(tmp_path / f"{index}.npz", **{**made, "input_ids": np.full_like(made["input_ids"], token)})
        files.append(tmp_path / f"{index}.npz")

    def forget_token(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.NodeProto:
        node = next(node for node in nodes if node.op_type == "Gather")
        table = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[0])
        array = numpy_helper.to_array(table).copy()
        array[7] *= -1
        table.CopyFrom(numpy_helper.from_array(array, table.name))
        return node

    path = "bert.embeddings.word_embeddings"
    faulty = planted(exported("bert"), tmp_path / "faulty", "model.onnx", path, forget_token)
    (one,) = compare(faulty, reference=exported("bert"), threads=1, inputs=files[0]).parts
    assert one.verdict == "agrees" and one.samples == 1
    command = ["compare", str(faulty), "--reference", str(exported("bert")), "--threads", "1", "--json"]
    assert main([*command, "--inputs", *map(str, files)]) == 1
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert file["samples"] == 2 and [culprit["path"] for culprit in file["culprits"]] == [path]


def with_other_types(package: Path, copy: Path) -> Path:
    """A copy of a package whose file takes float16 for float32 and int32 for int64, as converters leave it."""
    shutil.copytree(package, copy)
    model = onnx.load(copy / "model.onnx")
    others = {TensorProto.FLOAT: TensorProto.FLOAT16, TensorProto.INT64: TensorProto.INT32}
    names = {value.name: f"{value.name}_cast" for value in model.graph.input}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    for value in model.graph.input:
        kind = value.type.tensor_type
        cast = onnx.helper.make_node("Cast", [value.name], [names[value.name]], to=kind.elem_type)
        model.graph.node.insert(0, cast)
        kind.elem_type = others[kind.elem_type]
    onnx.save(model, copy / "model.onnx")
    return copy


def test_past_key_values_that_are_given_are_pytorch_s_too(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """So that what generates is compared on a file as well: a fault in how it uses them shows."""
    model = read_model(exported("gpt2") / "model.onnx")
    files = []
    for seed in range(2):
        made = make_inputs(model, None, sizes=InputSizes(2, 3 + seed), phase="decode", seed=seed)
        assert any(name.startswith("past_key_values") and array.size for name, array in made.items())
        np.savez(tmp_path / f"{seed}.npz", **made)
        files.append(tmp_path / f"{seed}.npz")
    (part,) = compare(exported("gpt2"), model=zoo_model("gpt2"), inputs=files, threads=1).parts
    assert part.verdict == "agrees" and part.output_error < 1e-5 and part.samples == 2
    assert part.inputs["past_key_values.0.key"][2] == 3

    def other_half(_: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.NodeProto:
        node = next(node for node in nodes if node.op_type == "Concat" and "past_key_values.1.key" in node.input)
        node.input[:] = [name.replace("past_key_values.1", "past_key_values.0") for name in node.input]
        return node

    owner = plant(exported("gpt2"), tmp_path / "faulty", "model.onnx", "transformer", other_half)
    (part,) = compare(tmp_path / "faulty", model=zoo_model("gpt2"), inputs=files, threads=1).parts
    assert part.verdict == "one" and part.culprits[0].path == owner


def test_each_side_takes_inputs_in_its_own_types(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Past key values in float16 and tokens in int32, for PyTorch and a reference that take others: the same numbers."""
    copy = HtpPackage(with_other_types(exported("gpt2"), tmp_path / "copy")).files["model.onnx"]
    other = read_model(exported("gpt2") / "model.onnx")
    (part,) = find_parts(load_source_model(zoo_model("gpt2"), task="text-generation-with-past"), [copy])
    made = run_for_file(part, copy.model, None, shapes={})
    assert {str(array.dtype) for array in made.inputs.values()} == {"float16", "int32"}
    pairs = paired_values(other.graph.inputs, copy.model.graph.inputs)
    for given in (made.inputs, make_inputs(copy.model, None, sizes=InputSizes(2, 3), phase="decode")):
        theirs, ours = shared_inputs(copy.model, other, pairs, None, InputSizes(), "decode", given=given)
        assert {str(array.dtype) for array in ours.values()} == {"float32", "int64"}
        assert theirs.keys() == ours.keys() and all(np.array_equal(theirs[name], ours[name]) for name in ours)
        known, expected = (
            run_for_file(part, model, None, shapes={}, given=inputs).outputs
            for model, inputs in ((copy.model, theirs), (other, ours))
        )
        assert all(np.array_equal(known[name], expected[name]) for name in expected)
    again = run_for_file(part, copy.model, None, shapes={}, given=made.inputs).outputs
    assert all(np.array_equal(made.outputs[name], again[name]) for name in again)
    finer, coarser = shared_inputs(other, copy.model, pairs, None, InputSizes(2, 3), "decode")
    assert all(np.array_equal(array, coarser[name]) for name, array in finer.items())


# --- Parts --------------------------------------------------------------------------------------------------------


def test_errors_by_hand() -> None:
    errors = measure_errors(np.array([1.0, 2.0, -4.5], np.float32), np.array([1.0, 2.0, -4.0], np.float32))
    assert (errors.max_abs, errors.relative) == (0.5, 0.125)
    assert errors.mean_abs == pytest.approx(0.5 / 3)
    assert errors.sqnr_db == pytest.approx(10 * np.log10(21 / 0.25))
    assert errors.cosine == pytest.approx((1 + 4 + 18) / np.sqrt((1 + 4 + 20.25) * 21))


def test_masks_count_by_their_places() -> None:
    """The smallest number of a type and minus infinity mean the same, and drown nothing else."""
    lowest = np.finfo(np.float32).min
    mask = np.array([lowest, 0.0, -np.inf, 1.0], np.float32)
    assert measure_errors(np.array([-np.inf, 0.0, lowest, 1.0], np.float32), mask).relative == 0
    assert measure_errors(np.array([0.0, 0.0, lowest, 1.0], np.float32), mask).relative == np.inf
    assert measure_errors(np.array([np.nan, 0.0, 0, 1.0], np.float32), np.zeros(4, np.float32)).relative == np.inf


def test_signs_of_what_is_huge_count() -> None:
    """Infinity for minus infinity, or for no number, is an error."""
    huge = np.array([np.inf, 1.0], np.float32)
    assert measure_errors(huge, huge).relative == 0
    assert measure_errors(np.array([-np.inf, 1.0], np.float32), huge).relative == np.inf
    assert measure_errors(np.array([np.nan, 1.0], np.float32), huge).relative == np.inf


def test_whole_numbers_are_equal_or_not() -> None:
    indexes = np.array([5, 1_000_000])
    assert compare_arrays(indexes, indexes).relative == 0
    off = compare_arrays(np.array([6, 1_000_000]), indexes)
    assert (off.max_abs, off.relative) == (1, np.inf)
    assert compare_arrays(np.array([True, False]), np.array([True, True])).relative == np.inf
    assert compare_arrays(indexes.astype(np.float32), indexes).relative == np.inf


def test_long_tensors_are_measured_in_pieces() -> None:
    random = np.random.default_rng(0)
    expected = random.standard_normal(700_001)
    actual = expected + random.standard_normal(700_001) / 100
    errors, difference = measure_errors(actual, expected), actual - expected
    assert errors.max_abs == np.abs(difference).max()
    assert errors.mean_abs == pytest.approx(np.abs(difference).mean())
    assert errors.cosine == pytest.approx(np.corrcoef(actual, expected)[0, 1], abs=1e-6)
    assert errors.sqnr_db == pytest.approx(10 * np.log10((expected**2).sum() / (difference**2).sum()))


def test_prober_cuts_anywhere(exported: Callable[..., Path]) -> None:
    """A tensor that is given is not computed: what it depends on is not needed."""
    file = HtpPackage(exported("bert")).files["model.onnx"]
    flat = FlatGraph(file.model, file.tags)
    name = next(node.node.outputs[0] for node in flat.nodes if node.node.op_type == "LayerNormalization")
    with Prober(file.model, flat, provider="CPUExecutionProvider", threads=1) as prober:
        inputs = make_inputs(file.model, None, sizes=InputSizes(sequence_length=5))
        whole = prober.run([name, "logits"], inputs)
        again = prober.run(["logits"], inputs, given={name: whole[name]})
        assert np.allclose(again["logits"], whole["logits"], atol=1e-6)
        changed = prober.run(["logits"], inputs, given={name: -whole[name]})
        assert not np.allclose(changed["logits"], whole["logits"], rtol=1e-3, atol=0)


def test_external_weights_stay_where_they_are(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(exported("bert"), tmp_path / "external")
    path = tmp_path / "external" / "model.onnx"
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    assert any(tensor.location for tensor in read_model(path).graph.initializers)
    assert compare(path.parent, model=zoo_model("bert"), threads=1).ok


# --- Inputs -------------------------------------------------------------------------------------------------------


def test_sizes_and_inputs(exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Of the dummy inputs, and of what a file holds."""
    sizes = InputSizes(batch_size=3, sequence_length=5)
    (part,) = compare(exported("bert"), model=zoo_model("bert"), batch_size=3, sequence_length=5, threads=1).parts
    assert part.inputs["input_ids"] == (3, 5) and part.ok
    np.savez(tmp_path / "inputs.npz", **make_inputs(read_model(exported("bert") / "model.onnx"), None, sizes=sizes))
    (part,) = compare(exported("bert"), model=zoo_model("bert"), inputs=tmp_path / "inputs.npz", threads=1).parts
    assert part.inputs["input_ids"] == (3, 5) and part.ok and part.compared == len(part.modules)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made.update(input_ids=made["input_ids"].astype(np.float32)), "is float32.*takes int64"),
        (lambda made: made.update(attention_mask=made["attention_mask"][:, 1:]), "the input 'attention_mask' is"),
    ],
)
def test_wrong_inputs_are_told(
    change: Callable[[dict[str, Any]], Any], message: str, exported: Callable[..., Path], tmp_path: Path
) -> None:
    made = make_inputs(read_model(exported("bert") / "model.onnx"), None, sizes=InputSizes(sequence_length=4))
    change(made)
    np.savez(tmp_path / "inputs.npz", **made)
    with pytest.raises(HtpError, match=message):
        compare(exported("bert"), reference=exported("bert"), inputs=tmp_path / "inputs.npz")


# --- Bad input ----------------------------------------------------------------------------------------------------


def test_model_that_is_not_the_source(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """What shows it is said."""
    with pytest.raises(PackageError, match=r"root is a BertForSequenceClassification, and the model is a Albert"):
        compare(exported("bert"), model=zoo_model("albert"))
    shutil.copytree(zoo_model("bert"), tmp_path / "deeper")
    config = tmp_path / "deeper" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(PackageError, match=r"not what model.onnx was exported from.*parameters"):
        compare(exported("bert"), model=tmp_path / "deeper")


def test_model_that_is_nowhere(exported: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"none: no such model directory"):
        compare(exported("bert"), model=tmp_path / "none")


def test_other_weights_look_foreign(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """The same architecture, trained otherwise: every module is off by itself."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(zoo_model("bert"))
    for parameter in model.parameters():
        parameter.data += 0.3
    shutil.copytree(zoo_model("bert"), tmp_path / "other")
    model.save_pretrained(tmp_path / "other")
    report = compare(exported("bert"), model=tmp_path / "other", threads=1)
    (part,) = report.parts
    assert not report.ok and part.looks_foreign and (part.verdict, part.culprits) == ("unknown", ())


def test_graph_that_is_not_tagged(
    exported: Callable[..., Path],
    zoo_model: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(exported("bert"), plain)
    optimum_htp.strip(plain)
    assert main(["compare", str(plain), "--model", str(zoo_model("bert"))]) == 2
    assert f"optimum-cli htp tag {plain}" in capsys.readouterr().err


def test_provider_that_is_not_installed(exported: Callable[..., Path]) -> None:
    with pytest.raises(HtpError, match="'cuda' is not installed"):
        compare(exported("bert"), reference=exported("bert"), provider="cuda")


def test_one_reference_is_needed(exported: Callable[..., Path]) -> None:
    with pytest.raises(HtpError, match="give one of the two"):
        compare(exported("bert"), model="bert", reference=exported("bert"))
    with pytest.raises(HtpError, match="made from no other file of it; give what to compare with: --model MODEL or"):
        compare(exported("bert"))


# --- What is shown ------------------------------------------------------------------------------------------------


def text(report: CompareReport, **options: Any) -> str:
    with redirect_stdout(io.StringIO()) as stream:
        print_page(comparison_page(report, **options))
    return stream.getvalue()


def test_culprit_and_the_proof_stand_at_the_top(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    path = "bert.encoder.layer.1.output.dense"
    faulty = planted(exported("bert"), tmp_path / "faulty", "model.onnx", path, change_one_weight)
    report = compare(faulty, model=zoo_model("bert"), threads=1)
    shown = text(report)
    assert shown.startswith(f"model.onnx: {path} (Linear) is wrong\n{path} (Linear) adds an error of ")
    assert "with its work put right, and all else as it is, the outputs are off by " in shown
    first = next(line for line in shown.partition("module ")[2].splitlines() if line.startswith("bert."))
    assert first.split()[0] == path and first.endswith("wrong")


METRICS = {
    "sqnr": "dB", "relative": "relative", "absolute": "max abs", "mean": "mean abs", "cosine": "cosine",
}  # fmt: skip


def test_metric_is_the_figure_of_both_columns(compared: Callable[[str], CompareReport]) -> None:
    (part,) = compared("bert").parts
    call = next(call for call in part.calls if call.own is not None and call.own.max_abs and call.errors)
    assert call.own is not None
    for metric, title in METRICS.items():
        shown = text(compared("bert"), every=True, metric=metric)
        assert f"adds, {title}" in shown and f"output, {title}" in shown
    assert f"{call.own.sqnr_db:.1f}" in text(compared("bert"), every=True, expand=True)
    assert f"{call.own.max_abs:.1e}" in text(compared("bert"), every=True, metric="absolute", expand=True)


def test_all_calls_are_listed(compared: Callable[[str], CompareReport]) -> None:
    (part,) = compared("bert").parts
    shown = text(compared("bert"), every=True, expand=True)
    assert all(call.path in shown for call in part.calls)
    assert shown.count("its own operations") == sum(call.operations for call in part.calls) > 3
    assert "agrees with" in shown


FILE_KEYS = {
    "name", "verdict", "compared", "not_compared", "output_error", "culprits", "branch", "reason", "samples", "calls",
}  # fmt: skip
CULPRIT_KEYS = {"path", "call", "operations", "own_sqnr_db", "own_relative", "output_error_without"}


def test_command_line(
    exported: Callable[..., Path],
    zoo_model: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What other people's scripts read: the document, and the exit code."""
    arguments = ["compare", str(exported("bert")), "--threads", "1"]
    assert main([*arguments, "--model", str(zoo_model("bert")), "--max-memory", "10M"]) == 0
    assert "agrees with" in capsys.readouterr().out
    assert main([*arguments, "--reference", str(exported("bert")), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["coverage"] == 1.0 and document["ok"] is True
    (file,) = document["files"]
    assert file.keys() >= FILE_KEYS
    assert (file["name"], file["verdict"], file["output_error"], file["culprits"]) == ("model.onnx", "agrees", 0.0, [])
    assert file["compared"] == file["calls_with_nodes"] and file["not_compared"] == {}

    path = f"{LAYER}.intermediate.dense"
    faulty = planted(exported("bert"), tmp_path / "faulty", "model.onnx", path, change_one_weight)
    assert main(["compare", str(faulty), "--reference", str(exported("bert")), "--threads", "1", "--json"]) == 1
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert file["verdict"] == "one" and file["output_error"] > 1e-4
    (culprit,) = file["culprits"]
    assert culprit.keys() >= CULPRIT_KEYS
    assert (culprit["path"], culprit["call"], culprit["operations"]) == (path, None, False)
    assert culprit["own_sqnr_db"] < 60 and culprit["own_relative"] > 1e-3 and culprit["output_error_without"] < 1e-5


def test_spread_is_wrong_beyond_the_tolerance_only(
    int8_bert: Path, exported: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", str(int8_bert), "--reference", str(exported("bert")), "--threads", "1"]
    assert main([*arguments, "--json"]) == 0
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert (file["verdict"], file["culprits"], file["ok"]) == ("spread", [], True)
    assert len(file["carriers"]) > 2
    assert main([*arguments, "--tolerance", "1e-4", "--top", "2"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("model_quantized.onnx: every module adds a little, as int8 does; none stands out")
    assert "most is added by " in shown and "more that add less (--top N, --all)" in shown
