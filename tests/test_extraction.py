"""Modules cut out of packages: each runs in ONNX Runtime and gives what PyTorch's module gives."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import zoo
from onnxruntime.quantization import QuantType, quantize_dynamic

from optimum_htp import ExtractReport, HtpError, HtpPackage, PackageError, extract, load_package
from optimum_htp.cli.main import main
from optimum_htp.cli.views.extract import extract_page
from optimum_htp.cli.views.terminal import print_page
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeKey, NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.models.torch_parts import run_reference
from optimum_htp.models.torch_source import load_source_model
from optimum_htp.models.whole_model import find_parts
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.onnxfile.shapes import TensorTypes
from optimum_htp.package.node_metadata import read_tags
from optimum_htp.package.package import HtpFile
from optimum_htp.package.sidecar.record import FileRecord
from optimum_htp.package.sidecar.sidecar import Sidecar
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.verbs.extract import verb

Arrays = dict[str, np.ndarray[Any, Any]]

BERT_LAYER = "bert.encoder.layer.0"
ALBERT_LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0"


# --- What PyTorch says --------------------------------------------------------------------------------------------


def tensors(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    """The float tensors in what a module takes or gives."""
    if hasattr(value, "detach"):
        if value.is_floating_point():
            yield value.detach().numpy().copy()
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


@contextmanager
def watched(module: Any) -> Iterator[list[tuple[Any, Any]]]:
    """What a module takes and gives in each of its calls."""
    calls: list[tuple[Any, Any]] = []

    def hook(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        calls.append((list(tensors((args, kwargs))), list(tensors(output))))

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def run_graph(model: Path, feed: Arrays, names: list[str]) -> Arrays:
    """The named tensors of a whole graph."""
    proto = onnx.load(model)
    there = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there | set(feed))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options())
    wanted = [name for name in names if name not in feed]
    return {**feed, **dict(zip(wanted, session.run(wanted, feed), strict=True))}


def options() -> onnxruntime.SessionOptions:
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = 1
    made.log_severity_level = 3
    made.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return made


def check_against_torch(
    package: Path, model: Path, name: str, report: ExtractReport, *, file: str, path: str | None = None
) -> None:
    """The extracted model gives what PyTorch's module gives, when it is given what PyTorch's module is given."""
    onnx.checker.check_model(report.output)
    entry = zoo.ZOO[name]
    source = load_source_model(model, task=entry.task)
    part = next(each for each in find_parts(source, [HtpFile(file, package / file, None)]) if each.file == file)
    input_names = [value.name for value in read_model(package / file).graph.inputs]
    module = part.module.get_submodule(report.modules[-1] if path is None else path)
    with watched(module) as calls:
        example = run_reference(part, input_names, shapes=dict(entry.shapes))
    taken, given = calls[report.call or 0]
    session = onnxruntime.InferenceSession(report.output, options())
    assert [value.name for value in session.get_inputs()] == [value.name for value in report.inputs]
    values = run_graph(package / file, example.inputs, [value.name for value in report.inputs])
    feed = {value.name: values[value.name] for value in report.inputs}
    if len(report.modules) == 1 and taken:  # the first thing that the module is given is an input, as PyTorch has it
        equal = [key for key, value in feed.items() if same(value, taken[0])]
        assert equal, f"none of {list(feed)} is what PyTorch gives to {report.modules[0]}"
        feed[equal[0]] = taken[0]
    made = session.run(None, feed)
    assert any(same(given[0], actual) for actual in made), (report.modules, [value.shape for value in made])
    for expected in given[1:]:  # what a module only hands on, as T5's blocks do with their position bias, is no output
        assert any(same(expected, actual) for actual in (*made, *taken, *feed.values())), report.modules


def same(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return bool(np.allclose(left, right, rtol=1e-3, atol=1e-5 * max(1.0, float(np.abs(right).max(initial=0.0)))))


# --- Every architecture -------------------------------------------------------------------------------------------


MODULES = [
    ("bert", "model.onnx", BERT_LAYER),
    ("bert", "model.onnx", "bert.encoder.layer.1.attention.self"),
    ("bert", "model.onnx", "bert.embeddings"),
    ("bert", "model.onnx", "classifier"),
    ("albert", "model.onnx", f"{ALBERT_LAYER}@1"),
    ("albert", "model.onnx", f"{ALBERT_LAYER}.attention@2"),
    ("albert-groups", "model.onnx", "encoder.albert_layer_groups.1.albert_layers.1@1"),
    ("gpt2", "model.onnx", "transformer.h.1"),
    ("gpt2", "model.onnx", "transformer.h.0.mlp"),
    ("llama", "model.onnx", "model.layers.0"),
    ("llama", "model.onnx", "model.layers.1.mlp"),
    ("vit", "model.onnx", "vit.encoder.layer.1"),
    ("resnet", "model.onnx", "resnet.encoder.stages.0"),
    ("deberta-v2", "model.onnx", "deberta.encoder.layer.1"),
    ("deberta-v2", "model.onnx", "deberta.encoder.layer.0.attention.self"),
    ("t5", "encoder_model.onnx", "block.1"),
    ("t5", "decoder_with_past_model.onnx", "decoder.block.1.layer.2"),
    ("bart", "encoder_model.onnx", "layers.1"),
]


@pytest.mark.parametrize(("name", "file", "module"), MODULES)
def test_a_module_gives_what_pytorch_gives(
    name: str, file: str, module: str, exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    package = exported(name)
    report = extract(package, module, output=tmp_path / "part.onnx", file=file)
    assert report.nodes
    check_against_torch(package, zoo_model(name), name, report, file=file)


@pytest.mark.parametrize(
    ("branch", "file"), [("else_branch", "decoder_model.onnx"), ("then_branch", "decoder_with_past_model.onnx")]
)
@pytest.mark.parametrize("module", ["decoder.block.1", "decoder.block.0.layer.1", "lm_head"])
def test_out_of_a_branch_of_a_merged_decoder(
    branch: str,
    file: str,
    module: str,
    exported: Callable[..., Path],
    zoo_model: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """What is in the branch is named as in the decoder that it was merged from, so that can give the inputs."""
    package = exported("t5")
    report = extract(package, module, output=tmp_path / "part.onnx", file="decoder_model_merged.onnx", graph=branch)
    assert report.graph == f"0.{branch}"
    check_against_torch(package, zoo_model("t5"), "t5", report, file=file)


def test_a_range_of_layers(exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Both ends are in it, its input is the first layer's and its output the last one's; a container is all in it."""
    package = exported("bert")
    report = extract(package, "bert.encoder.layer.0-1", output=tmp_path / "part.onnx")
    assert report.modules == ("bert.encoder.layer.0", "bert.encoder.layer.1")
    check_against_torch(package, zoo_model("bert"), "bert", report, file="model.onnx")
    whole = extract(package, "bert.encoder.layer", output=tmp_path / "whole.onnx")
    assert (tmp_path / "whole.onnx").read_bytes() == (tmp_path / "part.onnx").read_bytes()
    assert whole.modules == report.modules


def test_the_root_is_the_whole_model(exported: Callable[..., Path], tmp_path: Path) -> None:
    """Its inputs and outputs are the model's."""
    package = exported("bert")
    report = extract(package, "", output=tmp_path / "part.onnx")
    graph = load_package(package).files["model.onnx"].model.graph
    assert {value.name for value in report.inputs} == {value.name for value in graph.inputs}
    assert report.outputs[0].name == graph.outputs[0].name


# What becomes of the calls of all modules of a package: how many are cut out, and how many are refused, by the reason.
SWEEP: dict[str, dict[str, int]] = {
    "bert": {"cut out": 43, "not run": 2, "no operation": 6},
    "roberta": {"cut out": 43, "not run": 2, "no operation": 5},
    "xlm-roberta": {"cut out": 43, "not run": 2, "no operation": 6},
    "deberta": {"cut out": 40, "not run": 1, "no operation": 11},
    "deberta-v2": {"cut out": 47, "not run": 1, "no operation": 12, "interleaved": 1},
    "mobilebert": {"cut out": 79, "no operation": 6},
    "squeezebert": {"cut out": 47, "no operation": 8},
    "nystromformer": {"cut out": 44, "not run": 2, "no operation": 7},
    "splinter": {"cut out": 58, "not run": 2, "no operation": 5},
    "perceiver": {"cut out": 69, "no operation": 8},
    "gpt2": {"cut out": 27, "not run": 2, "no operation": 5},
    "gpt2-no-past": {"cut out": 27, "not run": 2, "no operation": 5},
    "llama": {"cut out": 33},
    "qwen3_moe": {"cut out": 73},
    "gemma2": {"cut out": 37},
    "opt": {"cut out": 31},
    "bloom": {"cut out": 27, "no operation": 2},
    "mpt": {"cut out": 26, "no operation": 2},
    "t5": {"cut out": 138, "not run": 127, "no operation": 38, "several graphs": 46},
    "t5-unmerged": {"cut out": 86, "not run": 41, "no operation": 18},
    "bart": {"cut out": 112, "not run": 88, "several graphs": 37},
    "marian": {"cut out": 109, "not run": 79, "several graphs": 36},
    "vit": {"cut out": 39, "no operation": 5},
    "resnet": {"cut out": 43, "no operation": 13},
    "swin": {"cut out": 63, "no operation": 13},
    "mobilevit": {"cut out": 258, "no operation": 60},
    "levit": {"cut out": 121, "no operation": 4},
    "segformer": {"cut out": 56, "no operation": 14, "interleaved": 3},
    "dpt": {"cut out": 152, "not run": 5, "no operation": 11},
    "detr": {"cut out": 128, "not run": 1, "no operation": 5},
    "yolos": {"cut out": 50, "no operation": 5},
    "swin2sr": {"cut out": 44, "no operation": 6},
    "wav2vec2": {"cut out": 49, "no operation": 9},
    "wavlm": {"cut out": 46, "not run": 6, "no operation": 9},
    "sew-d": {"cut out": 63, "not run": 1, "no operation": 10},
    "audio-spectrogram-transformer": {"cut out": 41, "no operation": 5},
    "whisper": {"cut out": 112, "not run": 88, "no operation": 1, "several graphs": 37},
    "speecht5": {"cut out": 152, "not run": 332, "no operation": 30, "interleaved": 10},
    "vits": {"cut out": 101, "not run": 68, "no operation": 10, "interleaved": 6},
    "clip": {"cut out": 66},
    "siglip": {"cut out": 72},
    "owlvit": {"cut out": 79, "no operation": 1, "no nodes of that call": 1},
    "vision-encoder-decoder": {"cut out": 115, "not run": 147, "no operation": 29, "several graphs": 36},
    "patchtst": {"cut out": 41, "no operation": 9},
    "decision_transformer": {"cut out": 35, "not run": 1, "no operation": 7},
    "remote-code": {"cut out": 17},
    "submodels": {"cut out": 32},
    "bert-attentions": {"cut out": 43, "no operation": 8},
    "sentence-transformers": {"cut out": 42, "not run": 2, "no operation": 8},
    "albert": {"cut out": 48, "not run": 2, "no operation": 5, "several calls": 2},
    "albert-groups": {"cut out": 100, "not run": 8, "no operation": 11, "several calls": 3},
    "convnext": {"cut out": 28, "not run": 1, "no operation": 2},
    "sam": {"cut out": 129, "not run": 156},
}
REASONS = {
    "no nodes: it did not run": "not run",
    "no nodes: what it does leaves no operation": "no operation",
    "no nodes of a call": "no nodes of that call",
    "no clean cut around .*: what leaves it comes back": "interleaved",
    "has nodes in several graphs": "several graphs",
    "times in the export; name one call": "several calls",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("bert", "albert") else pytest.mark.sweep) for name in SWEEP],
)
def test_every_module_of_every_model(
    name: str, exported: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of each module is cut out as a model that ONNX Runtime loads, or refused for a reason that is expected."""
    assert dict(sweep(load_package(exported(name)), tmp_path, monkeypatch)) == SWEEP[name]


def sweep(package: HtpPackage, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What becomes of the calls of all modules. The types of a graph's tensors are inferred once for all of them."""
    inferred: dict[tuple[str, str], SimpleNamespace] = {}
    file = ""

    def types_once(data: Any, model: Any, scopes: Any, spans: Any) -> SimpleNamespace:
        key = file, scopes[-1].path
        if key not in inferred:
            types = TensorTypes(data, model, scopes, spans)
            sized = types.sized()
            inferred[key] = SimpleNamespace(known=types.known, sized=lambda _: sized)
        return inferred[key]

    monkeypatch.setattr(verb, "TensorTypes", types_once)
    counts: Counter[str] = Counter()
    for file, loaded in package.files.items():
        for info in (info for tree in loaded.hierarchy.trees for info in tree):
            for call in range(info.calls) if info.calls > 1 else (None,):
                module = ".".join(info.path)
                try:
                    report = extract(
                        package, module, output=directory / "part.onnx", file=file, call=call, overwrite=True
                    )
                except PackageError as error:
                    reasons = [word for pattern, word in REASONS.items() if re.search(pattern, str(error))]
                    assert len(reasons) == 1, (module, call, str(error))
                    counts[reasons[0]] += 1
                    continue
                onnxruntime.InferenceSession(report.output, options())
                counts["cut out"] += 1
    return counts


# --- What is written ----------------------------------------------------------------------------------------------


def test_axes_have_types_sizes_and_symbols(exported: Callable[..., Path], tmp_path: Path) -> None:
    """The element type is known, a fixed size is a number, and an axis that is not fixed has the package's name for it."""
    report = extract(exported("bert"), BERT_LAYER, output=tmp_path / "part.onnx")
    hidden, *_ = report.inputs
    assert hidden.name.endswith("LayerNormalization_output_0")
    assert hidden.elem_type == onnx.TensorProto.FLOAT
    assert hidden.shape == ("batch_size", "sequence_length", 16)
    (made,) = onnx.load(report.output).graph.output
    batch, sequence, width = made.type.tensor_type.shape.dim
    assert (batch.dim_param, sequence.dim_param, width.dim_value) == hidden.shape


def test_axes_that_are_sums_have_the_name_of_the_sum(exported: Callable[..., Path], tmp_path: Path) -> None:
    """What a decoder with a cache puts out is as long as both together, which Optimum names so."""
    report = extract(exported("llama"), "model.layers.1", output=tmp_path / "part.onnx")
    present = next(value for value in report.outputs if value.name == "present.1.key")
    assert present.shape == ("batch_size", 1, "past_sequence_length + sequence_length", 8)


def test_tags_stay_on_the_nodes(exported: Callable[..., Path], tmp_path: Path) -> None:
    """The file is tagged like the package it is from; a directory gets a sidecar for just these modules."""
    package = exported("albert")
    report = extract(package, f"{ALBERT_LAYER}@1", output=tmp_path / "out")
    assert [Path(name).name for name in report.files] == ["export_metadata.json", "model.onnx"]
    part = load_package(tmp_path / "out")
    file = part.files["model.onnx"]
    assert file.evidence == "sidecar"
    assert dict(file.tags) == read_tags(file.model)
    calls = {tag.call for tag in file.tags.values() if ALBERT_LAYER in ".".join(tag.tag.split("/"))}
    assert calls <= {1, None}
    (tree,) = file.hierarchy.trees
    assert tree.find(ALBERT_LAYER) is not None
    assert tree.find("albert.pooler") is None
    again = extract(tmp_path / "out", f"{ALBERT_LAYER}.ffn", output=tmp_path / "again.onnx")
    assert again.call == 1


def test_tags_that_only_the_sidecar_knows(exported: Callable[..., Path], tmp_path: Path) -> None:
    """Where a tool dropped the metadata of the nodes, the new file gets it back."""
    package = shutil.copytree(exported("bert"), tmp_path / "package")
    proto = onnx.load(package / "model.onnx")
    for node in proto.graph.node:
        del node.metadata_props[:]
    onnx.save(proto, package / "model.onnx")
    extract(package, BERT_LAYER, output=tmp_path / "part.onnx")
    extract(exported("bert"), BERT_LAYER, output=tmp_path / "expected.onnx")
    assert read_tags(read_model(tmp_path / "part.onnx")) == read_tags(read_model(tmp_path / "expected.onnx"))


def test_external_data_stays_external(exported: Callable[..., Path], tmp_path: Path) -> None:
    """Only the module's part of it is copied, and the model runs the same."""
    source = exported("bert")
    package = tmp_path / "package"
    package.mkdir()
    shutil.copy(source / "export_metadata.json", package)
    external = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 64}
    onnx.save(onnx.load(source / "model.onnx"), package / "model.onnx", **external)
    report = extract(package, BERT_LAYER, output=tmp_path / "out")
    inline = extract(source, BERT_LAYER, output=tmp_path / "inline.onnx")
    assert report.external_data
    assert not inline.external_data
    assert [Path(name).name for name in report.files][1:] == ["model.onnx", "model.onnx_data"]
    tensors_of = [{each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(report_.output).graph.initializer}
                  for report_ in (report, inline)]  # fmt: skip
    assert tensors_of[0].keys() == tensors_of[1].keys()
    assert all(np.array_equal(tensors_of[0][key], tensors_of[1][key]) for key in tensors_of[0])
    feed = {value.name: np.ones([1 if isinstance(size, str) else size or 1 for size in value.shape or ()],
                                onnx.helper.tensor_dtype_to_np_dtype(value.elem_type))
            for value in report.inputs}  # fmt: skip
    answers = [onnxruntime.InferenceSession(each.output, options()).run(None, feed)[0] for each in (report, inline)]
    assert np.array_equal(*answers)


def test_an_optimized_package(exported: Callable[..., Path], tmp_path: Path) -> None:
    """A layer whose fused nodes are its own can be cut out, one that shares a fused node can't."""
    package = exported("bert", optimize="O2")
    report = extract(package, BERT_LAYER, output=tmp_path / "part.onnx")
    onnxruntime.InferenceSession(report.output, options())
    onnx.checker.check_model(report.output)
    with pytest.raises(
        PackageError, match=r"fused a part of it with .*act_fn into .*extract bert\.encoder\.layer\.0\.int"
    ):
        extract(package, f"{BERT_LAYER}.intermediate.dense", output=tmp_path / "no.onnx")
    with pytest.raises(PackageError, match=r"no nodes of its own: an optimizer fused .*extract "):
        extract(package, f"{BERT_LAYER}.attention.self.query", output=tmp_path / "no.onnx")


def test_a_quantized_package_that_was_not_projected(exported: Callable[..., Path], tmp_path: Path) -> None:
    """The quantizer's nodes have no tags; the skeleton in the file says whose they are. A module takes and gives floats."""
    package = tmp_path / "package"
    package.mkdir()
    # Not the default, signed weights: where a processor has AVX2 and no VNNI, kernels for those saturate.
    quantize_dynamic(exported("bert") / "model.onnx", package / "model.onnx", weight_type=QuantType.QUInt8)
    module = f"{BERT_LAYER}.intermediate"
    plain = extract(exported("bert"), module, output=tmp_path / "plain.onnx")
    report = extract(package, module, output=tmp_path / "part.onnx")
    assert (report.inputs, report.outputs) == (plain.inputs, plain.outputs)
    feed = {plain.inputs[0].name: np.random.default_rng(0).standard_normal((2, 3, 16)).astype(np.float32)}
    expected, actual = (
        onnxruntime.InferenceSession(each.output, options()).run(None, feed)[0] for each in (plain, report)
    )
    assert 0 < np.abs(actual - expected).max() < 0.05 * np.abs(expected).max()


# --- Toys: cuts that are known ------------------------------------------------------------------------------------


def write_toy(directory: Path, nodes: list[tuple[str, str, list[str], str]], *, modules: list[str]) -> Path:
    """A package of float vectors: each node is its module, its operator, its inputs and its output, the last one `y`."""
    tree = ModuleTree(
        ModuleInfo(tuple(path.split(".")) if path else (), f"M{path.count('.')}", "toy.M", calls=1)
        for path in ["", *modules]
    )
    protos = [onnx.helper.make_node(op, inputs, [output]) for _, op, inputs, output in nodes]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        protos,
        "toy",
        [value("x", 1, ["n", 4])],
        [value("y", 1, ["n", 4])],
        [onnx.numpy_helper.from_array(np.ones(4, "f"), "w")],
    )
    directory.mkdir()
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), directory / "model.onnx"
    )
    tags: dict[NodeKey, NodeTag] = {
        ("", position): NodeTag(tree.tag(tuple(path.split(".")) if path else ()), "scope")
        for position, (path, *_) in enumerate(nodes)
    }
    model = read_model(directory / "model.onnx")
    record = FileRecord.of(TaggedGraph(model, tags, Roots([Root(tree)])))
    Sidecar({"model.onnx": record}, versions={"optimum_htp": "0"}).write(directory)
    return directory


def test_interleaved_modules_are_refused(tmp_path: Path) -> None:
    """What leaves `a` comes back through `b`: `b` is named, and the module around both."""
    nodes = [
        ("net.a", "Relu", ["x"], "one"),
        ("net.b", "Mul", ["one", "w"], "two"),
        ("net.a", "Add", ["one", "two"], "three"),
        ("", "Neg", ["three"], "y"),
    ]
    package = write_toy(tmp_path / "package", nodes, modules=["net", "net.a", "net.b"])
    with pytest.raises(
        PackageError, match=r"no clean cut around 'net\.a': .* 1 nodes of net\.b \(.*'two'\); extract net,"
    ):
        extract(package, "net.a", output=tmp_path / "part.onnx")
    assert [value.name for value in extract(package, "net", output=tmp_path / "part.onnx").outputs] == ["three"]
    assert [value.name for value in extract(package, "net.b", output=tmp_path / "b.onnx").inputs] == ["one"]


def test_shape_computations_of_others_come_along(tmp_path: Path) -> None:
    """An exporter gave a shape to the parent that the module reads back: it is copied, and the cut stays clean."""
    nodes = [
        ("a", "Relu", ["x"], "one"),
        ("", "Shape", ["one"], "shape"),
        ("a", "Reshape", ["one", "shape"], "two"),
        ("", "Neg", ["two"], "y"),
    ]
    package = write_toy(tmp_path / "package", nodes, modules=["a"])
    report = extract(package, "a", output=tmp_path / "part.onnx")
    assert report.shared == ("shape",)
    assert ([value.name for value in report.inputs], [value.name for value in report.outputs]) == (["x"], ["two"])


def test_a_constant_of_another_module_is_copied(tmp_path: Path) -> None:
    """It becomes no input, and the module that owns it has it as no output."""
    nodes = [
        ("a", "Identity", ["w"], "shared"),
        ("a", "Add", ["x", "shared"], "one"),
        ("b", "Mul", ["one", "shared"], "y"),
    ]
    package = write_toy(tmp_path / "package", nodes, modules=["a", "b"])
    report = extract(package, "b", output=tmp_path / "part.onnx")
    assert (report.nodes, report.constants, report.initializers) == (1, 1, 1)
    assert [value.name for value in report.inputs] == ["one"]
    assert [value.name for value in extract(package, "a", output=tmp_path / "a.onnx").outputs] == ["one"]


def test_a_folded_batch_norm_is_told_of(
    exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A convolution that gives what the norm behind it gives is not just the convolution."""
    layer = "resnet.embedder.embedder"
    report = extract(exported("resnet"), f"{layer}.convolution", output=tmp_path / "part.onnx")
    assert report.folded == (f"{layer}.normalization",)
    assert extract(exported("resnet"), layer, output=tmp_path / "layer.onnx").folded == ()
    print_page(extract_page(report))
    assert f"folded in: {layer}.normalization" in capsys.readouterr().out


def test_a_name_with_an_at_sign(tmp_path: Path) -> None:
    """It is a name before it is a call."""
    package = write_toy(tmp_path / "package", [("a@1", "Relu", ["x"], "y")], modules=["a@1"])
    assert extract(package, "a@1", output=tmp_path / "part.onnx").modules == ("a@1",)


def test_nodes_in_any_order(tmp_path: Path) -> None:
    """Some tools append nodes to the end; ONNX Runtime takes such a file, and the part that is cut out is in order."""
    nodes = [
        ("", "Neg", ["four"], "y"),
        ("a", "Add", ["two", "three"], "four"),
        ("a", "Relu", ["one"], "three"),
        ("a", "Mul", ["one", "w"], "two"),
        ("", "Abs", ["x"], "one"),
    ]
    package = write_toy(tmp_path / "package", nodes, modules=["a"])
    report = extract(package, "a", output=tmp_path / "part.onnx")
    onnx.checker.check_model(report.output, full_check=True)
    assert ([value.name for value in report.inputs], [value.name for value in report.outputs]) == (["one"], ["four"])
    assert report.outputs[0].shape == ("n", 4)


def test_an_output_has_the_shape_that_the_file_declares(tmp_path: Path) -> None:
    """Where inference does not find one, as behind a Reshape by computed numbers."""
    nodes = [("a", "Foo", ["x"], "one"), ("a", "Relu", ["one"], "y")]
    package = write_toy(tmp_path / "package", nodes, modules=["a"])
    report = extract(package, "a", output=tmp_path / "part.onnx")
    assert report.outputs[0].shape == ("n", 4)


# --- What can go wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "module", "arguments", "complaint"),
    [
        ("bert", "bert.encoder.layer.7", {}, r"no module is called 'bert\.encoder\.layer\.7'; near it are: bert\.enc"),
        ("bert", "layer.0", {}, r"near it are: bert\.encoder\.layer\.0"),
        ("bert", "bert.encoder.layer.0-7", {}, r"no module is called"),
        ("bert", "dropout", {}, r"'dropout' has no nodes: .*; the module around it that has some is the root"),
        ("bert", f"{BERT_LAYER}@1", {}, r"ran once .* leave it out"),
        ("bert", BERT_LAYER, {"file": "decoder*"}, r"no file of it is called 'decoder\*'; it has model\.onnx"),
        ("bert", BERT_LAYER, {"graph": "then_branch"}, r"--graph then_branch is not among them; leave --graph out"),
        ("albert", ALBERT_LAYER, {}, r"ran 3 times in the export; name one call: \S+@0, \S+@1, \S+@2"),
        ("albert", f"{ALBERT_LAYER}@3", {}, r"no nodes of a call 3; there are those of the calls \[0, 1, 2\]"),
        ("albert", f"{ALBERT_LAYER}@1", {"call": 2}, r"two different calls"),
        ("t5", "decoder.block.0", {}, r"several files; name one with --file: decoder_model\.onnx, decoder_model_merged"),
        ("t5", "decoder.block.0", {"file": "*merged*"}, r"several graphs, .*'0\.else_branch'.*'0\.then_branch'.*--graph"),
    ],
)  # fmt: skip
def test_what_is_not_there(
    name: str, module: str, arguments: dict[str, Any], complaint: str, exported: Callable[..., Path], tmp_path: Path
) -> None:
    """The message says what there is instead, and nothing is written."""
    with pytest.raises(PackageError, match=complaint):
        extract(exported(name), module, output=tmp_path / "part.onnx", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_graph_without_tags(
    exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that tags it is named; the exit code is 2."""
    package = tmp_path / "package"
    package.mkdir()
    write_toy(tmp_path / "toy", [("", "Neg", ["x"], "y")], modules=[])
    shutil.copy(tmp_path / "toy" / "model.onnx", package)
    assert main(["extract", str(package), "a", str(tmp_path / "part.onnx")]) == 2
    assert f"tag them first: optimum-cli htp tag {package}" in capsys.readouterr().err


def test_nothing_of_the_users_is_replaced(exported: Callable[..., Path], tmp_path: Path) -> None:
    """An output that is in use is refused, with `overwrite` only what an extraction wrote is replaced."""
    package = shutil.copytree(exported("bert"), tmp_path / "package")
    mine = tmp_path / "mine.onnx"
    mine.write_text("mine")
    for output in (mine, package, package / "part.onnx", package / "model.onnx"):
        with pytest.raises(PackageError, match=r"exists already; give --overwrite|inside the package"):
            extract(package, BERT_LAYER, output=output)
    directory = tmp_path / "directory"
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")
    with pytest.raises(PackageError, match=r"has other files in it \(notes\.txt\)"):
        extract(package, BERT_LAYER, output=directory, overwrite=True)
    assert mine.read_text() == "mine"
    extract(package, BERT_LAYER, output=mine, overwrite=True)
    onnx.checker.check_model(mine)
    extract(package, BERT_LAYER, output=tmp_path / "out")
    extract(package, "bert.pooler", output=tmp_path / "out", overwrite=True)
    assert load_package(tmp_path / "out").files["model.onnx"].hierarchy.nodes("bert.pooler")


def test_a_failure_leaves_nothing(
    exported: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up while the file is written leaves no part of it."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HtpError, match="No space left on device; free some space"):
        extract(exported("bert"), BERT_LAYER, output=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_missing_external_data(exported: Callable[..., Path], tmp_path: Path) -> None:
    """The file that is not there is named."""
    package = tmp_path / "package"
    package.mkdir()
    external = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 64}
    onnx.save(onnx.load(exported("bert") / "model.onnx"), package / "model.onnx", **external)
    (package / "weights.bin").unlink()
    with pytest.raises(PackageError, match=r"its weights are in 'weights\.bin': there is no such file"):
        extract(package, BERT_LAYER, output=tmp_path / "part.onnx")


# --- The command --------------------------------------------------------------------------------------------------


def test_the_command(exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what was written, what the model takes and what it gives; with `--json` the same for a program."""
    arguments = ["extract", str(exported("albert")), ALBERT_LAYER, str(tmp_path / "part.onnx"), "--call", "1"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert f"Wrote {tmp_path / 'part.onnx'}: {ALBERT_LAYER}, call 1" in text
    assert main([*arguments, "--overwrite", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["call"] == 1
    for value in (*document["inputs"], *document["outputs"]):
        assert value["name"] in text
        assert value["type"] == "float32"


def test_the_text_is_safe_to_print(
    exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names come from files."""
    report = extract(exported("bert"), BERT_LAYER, output=tmp_path / "part.onnx")
    hostile = tuple(value.__class__(f"{value.name}\x1b[2J", 1, None) for value in report.inputs)
    from dataclasses import replace

    print_page(extract_page(replace(report, inputs=hostile, shared=("\x1b[2J",))))
    assert "\x1b" not in capsys.readouterr().out


def test_no_torch(exported: Callable[..., Path], tmp_path: Path) -> None:
    """A part is cut out without it: importing it takes longer than the cut."""
    code = (
        "import sys; from optimum_htp import extract; extract(sys.argv[1], 'bert.encoder', output=sys.argv[2]); "
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(exported("bert")), str(tmp_path / "part.onnx")]
    subprocess.run(command, check=True)
