"""Tags from names alone: never one that the exact export contradicts, and rarely none."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import pytest
import torch
import zoo
from numbering import numbered
from oracle import seed_everything
from random_nets import export as export_net, random_net
from toynets import TOYS, ToyNet

import optimum_htp
from optimum_htp.cli.main import main
from optimum_htp.errors import PackageError
from optimum_htp.export.exporter import main_export
from optimum_htp.hierarchy.calls import CallTree
from optimum_htp.hierarchy.tags import NodeTag, NodeTags
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.models.exported_root import choose_root
from optimum_htp.models.torch_source import instantiate_on_meta, tensor_shapes
from optimum_htp.onnxfile.model import OnnxModel
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.node_metadata import CLASS_HIERARCHY, NAME_SCOPES, SOURCE, TAG, HtpOptions, write_tags
from optimum_htp.package.package import HtpFile, HtpPackage
from optimum_htp.package.sidecar.sidecar import SIDECAR
from optimum_htp.tagging.rules.node_names import read_names
from optimum_htp.tagging.rules.order import tag_model
from optimum_htp.tagging.tracing import torchscript
from optimum_htp.tagging.tracing.modules import static_trace
from optimum_htp.tagging.tracing.tap import ModuleTap
from optimum_htp.tagging.tracing.trace import ModuleTrace
from optimum_htp.verbs.strip import strip
from optimum_htp.verbs.tag import tag as tag_package
from optimum_htp.verbs.tree import tree as tree_of_package

ZooModel = Callable[[str], Path]
SCHEMA = Path(optimum_htp.__file__).parent / "schemas" / "export_metadata.schema.json"

# The share of nodes that names decide, where it is below 95%, in percent: scripted functions leave no names (DeBERTa,
# VITS), modules that may have been called past their parents spell what others do (SqueezeBERT, the activations of
# ResNet and RegNet, ...), and a package does not say which modules a sentence-transformers model ends with.
DECIDED_PERCENT = {
    "deberta": 45,
    "deberta-v2": 70,
    "poolformer": 93,
    "regnet": 92,
    "resnet": 85,
    "sentence-transformers": 90,
    "speecht5": 85,
    "squeezebert": 30,
    "stablelm": 93,
    "vits": 90,
}


def export(model: Path, output: Path, **kwargs: Any) -> HtpPackage:
    """The exact tags: those of an export."""
    seed_everything()
    main_export(str(model), output, do_validation=False, **kwargs)
    return HtpPackage(output)


def as_optimum_wrote(package: Path, copy: Path) -> Path:
    """A copy of a package without anything of ours, which is what plain Optimum writes, byte for byte."""
    shutil.copytree(package, copy)
    strip(copy)
    return copy


def compare(exact: NodeTags, named: NodeTags) -> tuple[list[str], Counter[str]]:
    """What names got wrong, and how many nodes they left open."""
    wrong, counts = [], Counter()
    for key, tag in exact.items():
        other = named[key]
        decided = other.source != "unresolved"
        counts[other.source if decided else "unresolved"] += 1
        if decided and (other.tag != tag.tag or other.call not in (None, tag.call)):
            wrong.append(f"{key}: {other}, truly {tag}")
    return wrong, counts


def places(file: HtpFile) -> list[str | None]:
    assert file.record is not None
    return [root.in_model for root in file.record.roots]


def check_zoo(name: str, zoo_model: ZooModel, exported: ZooModel, tmp_path: Path) -> None:
    model = zoo_model(name)
    exact = HtpPackage(exported(name))
    plain = as_optimum_wrote(exported(name), tmp_path / "plain")
    source = model if "remote-code" in zoo.ZOO[name].tags else None
    result = tag_package(plain, model=source, trust_remote_code=source is not None)
    named = HtpPackage(plain)
    counts: Counter[str] = Counter()
    for file_name, file in exact.files.items():
        wrong, found = compare(file.tags, named.files[file_name].tags)
        assert not wrong, f"{file_name}: {len(wrong)} wrong, the first: {wrong[:3]}"
        counts += found
        if file_name not in result.unknown and "diffusers" not in zoo.ZOO[name].tags:
            assert places(named.files[file_name]) == places(file)
    share = 100 - 100 * counts["unresolved"] / counts.total()
    assert share >= DECIDED_PERCENT.get(name, 95), counts


@pytest.mark.parametrize("name", zoo.names(quick=True))
def test_a_plain_package_gets_the_tags_of_an_export(
    name: str, zoo_model: ZooModel, exported: ZooModel, tmp_path: Path
) -> None:
    check_zoo(name, zoo_model, exported, tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(set(zoo.names()) - set(zoo.names(quick=True))))
def test_a_plain_package_gets_the_tags_of_an_export_everywhere(
    name: str, zoo_model: ZooModel, exported: ZooModel, tmp_path: Path
) -> None:
    check_zoo(name, zoo_model, exported, tmp_path)


# torch keeps scopes by module, so modules that are equal share one: the names that it writes are wrong.
MISNAMED = {"modules_that_are_equal"}


@pytest.mark.parametrize("toy", [toy for toy in TOYS.values() if toy.name not in MISNAMED], ids=lambda toy: toy.name)
def test_toys(toy: ToyNet, tmp_path: Path) -> None:
    """With the calls known, with the tree of modules alone, and with numbers for names."""
    with ModuleTap() as tap:
        net = toy.export(tmp_path / "net.onnx")
    traced = tap.exports[0]
    exact = tag_model(traced.model, traced.trace)
    for trace in (dataclasses.replace(traced.trace, scopes={}), static_trace(net)):
        wrong, _ = compare(exact, tag_model(traced.model, trace))
        assert not wrong
    wrong, _ = compare(exact, tag_model(numbered(traced.model), static_trace(net)))
    assert not wrong


def check_random_nets(seeds: range, tmp_path: Path) -> None:
    """Of nets that nobody would write, names say nothing wrong, and most of what there is to say."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        net = random_net(seed)
        with ModuleTap() as tap:
            try:
                export_net(net, tmp_path / "net.onnx")
            except RuntimeError:  # it reads a weight of a module that is none of its own, which torch can't export
                continue
        traced = tap.exports[0]
        exact = tag_model(traced.model, traced.trace)
        root, _ = choose_root(traced.model, [net])
        assert root is None or not root.in_model, f"seed {seed}"
        for trace in (dataclasses.replace(traced.trace, scopes={}), static_trace(net)):
            wrong, found = compare(exact, tag_model(traced.model, trace))
            assert not wrong, f"seed {seed}: {len(wrong)} wrong, the first: {wrong[:3]}"
        counts += found
        wrong, _ = compare(exact, tag_model(numbered(traced.model), static_trace(net)))
        assert not wrong, f"seed {seed}, numbered: {len(wrong)} wrong, the first: {wrong[:3]}"
    assert counts["unresolved"] < 0.15 * counts.total(), counts


def test_random_nets(tmp_path: Path) -> None:
    check_random_nets(range(120), tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize("start", range(0, 3000, 500))
def test_many_random_nets(start: int, tmp_path: Path) -> None:
    check_random_nets(range(start, start + 500), tmp_path)


@pytest.mark.parametrize(
    "name", ["albert", "bert", "opt", *(pytest.param(name, marks=pytest.mark.sweep) for name in ("t5", "sew-d"))]
)
def test_names_stand_in_for_a_naming_pass_that_is_gone(
    name: str, zoo_model: ZooModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where torch has no such pass, the modules are read from the names; which of its calls a node is in stays open."""
    model, kwargs = zoo_model(name), zoo.ZOO[name].main_export_kwargs(zoo_model(name))
    exact = export(model, tmp_path / "exact", **kwargs)
    monkeypatch.setattr(torchscript, "_NAMING_PASS", "_jit_pass_that_is_gone")
    fallback = export(model, tmp_path / "fallback", **kwargs)
    assert "_jit_pass_that_is_gone" in caplog.text
    for file_name, file in exact.files.items():
        wrong, counts = compare(file.tags, fallback.files[file_name].tags)
        assert not wrong
        assert counts["unresolved"] <= 0.01 * counts.total()


def scopes(tree: ModuleTree, directory: Path, *spelled: str, **weights: str) -> list[str | None]:
    """The module that each scope is read as; `weights` says which weight the nodes of a scope read."""
    nodes = [
        onnx.helper.make_node("Sin", [weights.get(scope, "x")], [f"/{scope}/Sin_output_0"], name=f"/{scope}/Sin")
        for scope in spelled
    ]
    holders = {name: tuple(name.split(".")[:-1]) for name in weights.values()}
    owners, _ = read_names(model_of(nodes, directory), ModuleTrace(CallTree(tree), tensors=holders))
    return [".".join(owners["", i].path) if ("", i) in owners else None for i in range(len(spelled))]


def model_of(nodes: list[onnx.NodeProto], directory: Path) -> OnnxModel:
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [])), directory / "model.onnx")
    return read_model(directory / "model.onnx")


def tree(*paths: str) -> ModuleTree:
    infos = [ModuleInfo((), "Net", "pkg.Net")]
    infos += [ModuleInfo(tuple(path.split(".")), "Part", "pkg.Part") for path in paths]
    return ModuleTree(infos)


def test_a_module_passed_over_is_not_guessed(tmp_path: Path) -> None:
    """`x` may be `x` or `a.x` called past `a`, whether `a` is called too or not; a weight decides."""
    both = tree("x", "a", "a.x")
    assert scopes(both, tmp_path, "x") == [None]
    assert scopes(both, tmp_path, "x", "a") == [None, "a"]
    assert scopes(both, tmp_path, "x", x="a.x.weight") == ["a.x"]
    assert scopes(both, tmp_path, "x", "x_1", x="x.weight", x_1="a.x.weight") == ["x", "a.x"]


def test_a_weight_that_a_scope_reads_is_in_its_module(tmp_path: Path) -> None:
    """Which need not be the one that holds it: a parent may read it by itself, as MultiheadAttention does."""
    nested = tree("x", "x.x", "y")
    assert scopes(nested, tmp_path, "x", x="x.x.weight") == [None]
    assert scopes(nested, tmp_path, "x", x="x.weight") == ["x"]
    assert scopes(nested, tmp_path, "y", y="x.weight") == ["y"], "nothing else can be meant: it was an argument"


def test_a_module_does_everywhere_what_it_is_seen_to_do(tmp_path: Path) -> None:
    """`x` can't be `a.x`, which elsewhere calls `y`, or reads its weight, where nothing here does so."""
    calls = tree("x", "a", "a.x", "a.x.y")
    assert scopes(calls, tmp_path, "x", "a/x") == [None, "a.x"]
    assert scopes(calls, tmp_path, "x", "a/x", "a/x/y") == ["x", "a.x", "a.x.y"]
    assert scopes(calls, tmp_path, "x", "x/y", "a/x", "a/x/y") == [None, "a.x.y", "a.x", "a.x.y"]
    reads = tree("x", "a", "a.x")
    assert scopes(reads, tmp_path, "x", "a/x", **{"a/x": "a.x.weight"}) == ["x", "a.x"]


def test_what_a_repeated_call_calls_stands_in_the_scope_it_repeats(tmp_path: Path) -> None:
    """`x_1` may be the second `x`, though `y` is called in `x` alone."""
    modules = tree("x", "x.y", "x.y.x_1")
    assert scopes(modules, tmp_path, "x", "x/y", "x/y_1", "x_1") == ["x", "x.y", "x.y", None]


def test_a_container_is_never_called(tmp_path: Path) -> None:
    infos = [*tree("a", "a.x"), ModuleInfo(("x",), "ModuleList", "torch.nn.ModuleList", container=True)]
    assert scopes(ModuleTree(infos), tmp_path, "x") == ["a.x"]


def test_by_which_of_its_names_a_module_was_called(tmp_path: Path) -> None:
    """The one below its caller; where two callers spell the same, nothing is decided."""
    infos = [*tree("a", "b", "b.a"), ModuleInfo(("a", "x"), "Part", "pkg.Part", aliases=(("b", "a", "x"),))]
    assert scopes(ModuleTree(infos), tmp_path, "b/a/x") == ["b.a.x"]
    assert scopes(ModuleTree(infos), tmp_path, "a/x") == [None]


def test_two_that_spell_the_same_stay_open(tmp_path: Path) -> None:
    """A module may be called `x_1`, or be the second that spells `x`; nodes of both may stand under the one name."""
    assert scopes(tree("x", "a", "a.x"), tmp_path, "a", "x", "x_1") == ["a", None, None]
    assert scopes(tree("x", "x_1"), tmp_path, "x", "x_1", x_1="x_1.weight") == ["x", None]


def test_a_suffix_is_a_name_or_a_number(tmp_path: Path) -> None:
    """`x_1` may be the second call of `x` or a module of that name; with one of them missing it is the other."""
    assert scopes(tree("x", "x_1"), tmp_path, "x", "x_1") == ["x", None]
    assert scopes(tree("x", "x_1"), tmp_path, "x_1") == ["x_1"]
    assert scopes(tree("x"), tmp_path, "x", "x_1") == ["x", "x"]
    assert scopes(tree("x"), tmp_path, "x_1") == [None]


def test_names_of_other_tools_are_no_evidence(tmp_path: Path) -> None:
    """A node that got another operator, or writes another tensor, has lost the right to its name."""
    nodes = [
        onnx.helper.make_node("FusedConv", ["x"], ["/a/Conv_output_0"], name="/a/Conv"),
        onnx.helper.make_node("Conv", ["x"], ["/b/Relu_output_0"], name="/a/Conv"),
        onnx.helper.make_node("Conv", ["x"], ["/a/Conv_1_output_0"], name="/a/Conv_1"),
        onnx.helper.make_node("Constant", [], ["c"], name="Constant_4"),
    ]
    owners, doubtful = read_names(model_of(nodes, tmp_path), ModuleTrace(CallTree(tree("a", "b"))))
    assert {key: owner.path for key, owner in owners.items()} == {("", 2): ("a",)}
    assert doubtful == {("", 0), ("", 1), ("", 3)}


# --- Packages -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact_bert(zoo_model: ZooModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tagged package; read-only."""
    output = tmp_path_factory.mktemp("bert") / "package"
    export(zoo_model("bert"), output, task="text-classification")
    return output


@pytest.fixture
def plain_bert(exact_bert: Path, tmp_path: Path) -> Path:
    return as_optimum_wrote(exact_bert, tmp_path / "plain")


def entries(file: Path, key: str) -> list[str]:
    nodes = onnx.load(file).graph.node
    return [entry.value for node in nodes for entry in node.metadata_props if entry.key == key]


def test_what_is_written(plain_bert: Path) -> None:
    """The file's tags, a sidecar that keeps the schema and describes the file, and nothing that strip leaves behind."""
    before = (plain_bert / "model.onnx").read_bytes()
    result = tag_package(plain_bert)
    assert result.files["model.onnx"].unresolved == 0
    assert (result.kept, result.unknown, result.written) == ((), (), ())
    document = json.loads((plain_bert / SIDECAR).read_text())
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    file = HtpPackage(plain_bert).files["model.onnx"]
    assert file.evidence == "sidecar"
    assert entries(file.path, TAG) == [file.tags["", i].tag for i in range(len(file.model.graph.nodes))]
    assert set(entries(file.path, SOURCE)) <= {"scope", "parameter", "dataflow"}
    assert file.hierarchy.module("bert.encoder.layer.0").calls == 1
    strip(plain_bert)
    assert (plain_bert / "model.onnx").read_bytes() == before


def test_the_tags_of_an_export_are_kept(exact_bert: Path, tmp_path: Path) -> None:
    """Until they are no longer those of the graph, or `force` says otherwise; then names decide, not old metadata."""
    package = tmp_path / "package"
    shutil.copytree(exact_bert, package)
    before = (package / "model.onnx").read_bytes()
    assert tag_package(package).kept == ("model.onnx",)
    assert (package / "model.onnx").read_bytes() == before
    assert tag_package(package, force=True).kept == ()
    assert tag_package(package).kept == (), "names are no reason to keep"


def test_tags_that_a_tool_dropped_are_written_again(exact_bert: Path, tmp_path: Path) -> None:
    """The sidecar knows them, calls included; who reads the file has to find them. Options act on kept files, too."""
    package = Path(shutil.copytree(exact_bert, tmp_path / "package"))
    before = (package / "model.onnx").read_bytes()
    model = onnx.load(package / "model.onnx")
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.save(model, package / "model.onnx")
    result = tag_package(package)
    assert result.kept == result.restored == ("model.onnx",)
    assert onnx.load_from_string((package / "model.onnx").read_bytes()) == onnx.load_from_string(before)
    assert tag_package(package).restored == ()
    assert tag_package(package, htp_options=HtpOptions(namespace=False)).kept == ("model.onnx",)
    assert entries(package / "model.onnx", "namespace") == []
    assert len(entries(package / "model.onnx", "pkg.optimum_htp.tag")) == len(model.graph.node)


def test_options(plain_bert: Path) -> None:
    tag_package(plain_bert, htp_options=HtpOptions(namespace=False, torch_metadata=True))
    assert not entries(plain_bert / "model.onnx", "namespace")
    assert entries(plain_bert / "model.onnx", NAME_SCOPES)
    again = tag_package(plain_bert)
    assert set(again.files["model.onnx"].by_source) <= {"scope", "parameter", "dataflow"}, (
        "our own keys are no evidence"
    )


def test_one_file_of_a_package(zoo_model: ZooModel, tmp_path: Path) -> None:
    kwargs = zoo.ZOO["t5-unmerged"].main_export_kwargs(zoo_model("t5-unmerged"))
    export(zoo_model("t5-unmerged"), tmp_path / "exact", **kwargs)
    plain = as_optimum_wrote(tmp_path / "exact", tmp_path / "plain")
    assert list(tag_package(plain / "encoder_model.onnx").files) == ["encoder_model.onnx"]
    tag_package(plain / "decoder_model.onnx")
    package = HtpPackage(plain)
    assert {name: file.evidence for name, file in package.files.items()} == dict.fromkeys(package.files, "sidecar")
    assert tag_package(plain).kept == (), "both are known to be from names"


def test_a_package_without_config_is_completed(plain_bert: Path, zoo_model: ZooModel) -> None:
    """With the model at hand; without, the error says how."""
    for file in plain_bert.glob("*.json"):
        file.unlink()
    with pytest.raises(PackageError, match="--model MODEL"):
        tag_package(plain_bert)
    assert not (plain_bert / SIDECAR).exists()
    result = tag_package(plain_bert, model=zoo_model("bert"))
    assert {"config.json", "tokenizer.json"} <= set(result.written)
    assert json.loads((plain_bert / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    assert result.files["model.onnx"].unresolved == 0


def test_another_model_is_refused(plain_bert: Path, zoo_model: ZooModel) -> None:
    """One that has not the weights that the graph names, by name and shape; nothing is written."""
    before = (plain_bert / "model.onnx").read_bytes()
    config = json.loads((plain_bert / "config.json").read_text())
    for other in (zoo_model("vit"), zoo_model("distilbert")):
        with pytest.raises(PackageError, match="is not an export of"):
            tag_package(plain_bert, model=other)
    (plain_bert / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    with pytest.raises(PackageError, match="is not an export of"):
        tag_package(plain_bert)
    assert (plain_bert / "model.onnx").read_bytes() == before
    assert not (plain_bert / SIDECAR).exists()


def test_another_task_than_the_architecture_says(zoo_model: ZooModel, tmp_path: Path) -> None:
    """Optimum picks the class by the task, and saves the config of the checkpoint: the graph says which class it was."""
    exact = export(zoo_model("bert"), tmp_path / "exact", task="fill-mask")
    plain = as_optimum_wrote(tmp_path / "exact", tmp_path / "plain")
    tag_package(plain)
    wrong, counts = compare(exact.files["model.onnx"].tags, HtpPackage(plain).files["model.onnx"].tags)
    assert not wrong
    assert not counts["unresolved"]


def test_remote_code_is_not_run_without_leave(zoo_model: ZooModel, tmp_path: Path) -> None:
    model = zoo_model("remote-code")
    export(model, tmp_path / "exact", **zoo.ZOO["remote-code"].main_export_kwargs(model))
    plain = as_optimum_wrote(tmp_path / "exact", tmp_path / "plain")
    with pytest.raises(PackageError, match="trust-remote-code"):
        tag_package(plain, model=model)


def test_a_quantized_package(plain_bert: Path, exact_bert: Path, tmp_path: Path) -> None:
    """What kept its name keeps its module; what is new, or lies beside it without a name, is not guessed."""
    from onnxruntime.quantization import quantize_dynamic

    exact = {node.outputs: tag for (_, tag), node in zip(*_nodes(exact_bert), strict=True)}
    quantized = tmp_path / "quantized"
    shutil.copytree(plain_bert, quantized)
    quantize_dynamic(plain_bert / "model.onnx", quantized / "model.onnx")
    tag_package(quantized)
    found = Counter()
    for (_, tag), node in zip(*_nodes(quantized), strict=True):
        truth: NodeTag | None = exact.get(node.outputs)
        if tag.source != "unresolved" and truth is not None:
            assert tag.tag == truth.tag
            found["same"] += 1
        found[tag.source] += 1
    assert found["same"] > 100
    assert not found["dataflow"]


def _nodes(package: Path) -> tuple[list[Any], list[Any]]:
    file = HtpPackage(package).files["model.onnx"]
    nodes = file.model.graph.nodes
    return [(i, file.tags["", i]) for i in range(len(nodes))], nodes


def test_a_dynamo_export_speaks_for_itself(tmp_path: Path) -> None:
    """torch's own metadata decides; what names no module, or one of another class, leaves the node open."""
    toy = TOYS["python_loop"]
    net = toy.build()
    torch.onnx.export(net, toy.inputs(), str(tmp_path / "net.onnx"), dynamo=True, verbose=False)
    model = read_model(tmp_path / "net.onnx")
    tags = tag_model(model, static_trace(net))
    assert {tag.source for tag in tags.values()} == {"metadata"}
    assert [tags["", i].tag for i in range(3)] == ["/Loop/Nest.block", "/Loop/Nest.block/Op.act", "/Loop/Nest.block"]
    node = model.graph.nodes[1]
    for key, value in (
        (NAME_SCOPES, "['', 'gone', 'tanh']"),
        (CLASS_HIERARCHY, "['a.Loop', 'a.Nest', 'b.Gone', 't']"),
    ):
        model.graph.nodes[1] = dataclasses.replace(node, metadata={**node.metadata, key: value})
        assert tag_model(model, static_trace(net))["", 1].source == "unresolved"


def speaking(package: Path, copy: Path) -> Path:
    """A package whose nodes speak for themselves as those of torch's dynamo exporter, and have no other names."""
    shutil.copytree(package, copy)
    model = onnx.load(copy / "model.onnx")
    scopes = {node.output[0]: own_scopes(node) for node in model.graph.node}
    strip(copy)
    model = onnx.load(copy / "model.onnx")
    for at, node in enumerate(model.graph.node):
        node.name = f"node_{at}"
        for key, value in scopes[node.output[0]].items():
            node.metadata_props.add(key=key, value=value)
    onnx.save(model, copy / "model.onnx")
    return copy


def own_scopes(node: onnx.NodeProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in node.metadata_props if entry.key in (NAME_SCOPES, CLASS_HIERARCHY)}


@pytest.fixture(scope="module")
def speaking_bert(exact_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = tmp_path_factory.mktemp("speaking") / "package"
    shutil.copytree(exact_bert, package)
    write_tags(HtpPackage(package).files["model.onnx"].tagged, options=HtpOptions(torch_metadata=True))
    return speaking(package, package.with_name("speaking"))


def test_a_file_whose_nodes_speak_is_tagged(speaking_bert: Path, exact_bert: Path, tmp_path: Path) -> None:
    """Whatever its weights are called; and `strip` leaves what torch wrote."""
    package = tmp_path / "package"
    shutil.copytree(speaking_bert, package)
    before = (package / "model.onnx").read_bytes()
    result = tag_package(package)
    assert (result.unknown, result.notes) == ((), {})
    assert result.files["model.onnx"].by_source.keys() == {"metadata"}
    exact, found = (HtpPackage(path).files["model.onnx"].tags for path in (exact_bert, package))
    assert {key: tag.tag for key, tag in found.items()} == {key: tag.tag for key, tag in exact.items()}
    calls = {row.calls for file in tree_of_package(package).files for row in file.rows if row.all_nodes}
    assert calls == {None}, "how often a module ran is not written there"
    strip(package)
    assert (package / "model.onnx").read_bytes() == before


@pytest.mark.parametrize("model_type", ["roberta", "electra"])
def test_a_file_whose_nodes_speak_of_another_model(
    speaking_bert: Path, exact_bert: Path, model_type: str, tmp_path: Path
) -> None:
    """Of the same weights, by name and shape, but of other classes: the nodes say what the file is, and not the config."""
    package = tmp_path / "package"
    shutil.copytree(speaking_bert, package)
    config = json.loads((package / "config.json").read_text())
    name = {"roberta": "RobertaForSequenceClassification", "electra": "ElectraForSequenceClassification"}[model_type]
    (package / "config.json").write_text(json.dumps({**config, "model_type": model_type, "architectures": [name]}))
    assert tag_package(package).files["model.onnx"].unresolved == 0
    ours, known = (HtpPackage(path).files["model.onnx"].tags for path in (package, exact_bert))
    assert {key: tag.tag for key, tag in ours.items()} == {key: tag.tag for key, tag in known.items()}


# --- Models without weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "t5", "swin", "vision-encoder-decoder"])
def test_a_model_without_weights_has_the_modules_of_the_real_one(name: str, zoo_model: ZooModel) -> None:
    import transformers

    model = next(instantiate_on_meta(zoo_model(name)))
    real = getattr(transformers, type(model).__name__).from_pretrained(zoo_model(name))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert tensor_shapes(model) == tensor_shapes(real)
    assert list(static_trace(model).tree) == list(static_trace(real).tree)


def test_a_config_that_says_nothing(tmp_path: Path) -> None:
    for content in ("{}", '{"model_type": "bert", "architectures": ["NoSuchModel"]}', '{"model_type": "no_such"}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(PackageError, match=r"config\.json"):
            list(instantiate_on_meta(tmp_path))


# --- The verb ------------------------------------------------------------------------------------------------------


def test_the_verb(plain_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tag", str(plain_bert)]) == 0
    assert "nodes tagged" in capsys.readouterr().out
    assert main(["tag", str(plain_bert), "--json", "--no-namespace", "--torch-metadata", "--force"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["files"]["model.onnx"]["unresolved"] == 0
    assert entries(plain_bert / "model.onnx", NAME_SCOPES)
    assert main(["tag", str(plain_bert / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_skeleton_is_stronger_than_names(exact_bert: Path, tmp_path: Path) -> None:
    """A tool changed the graph of an export that left its skeleton in it: its tags are carried over."""
    import onnxslim

    package = tmp_path / "package"
    shutil.copytree(exact_bert, package)
    onnx.save(onnxslim.slim(str(exact_bert / "model.onnx")), package / "model.onnx")
    result = tag_package(package)
    assert result.kept == ()
    assert result.files["model.onnx"].unresolved == 0
    assert tag_package(package).kept == ("model.onnx",)
    assert tag_package(package, force=True).files["model.onnx"].unresolved > 0, "force: names alone"


def test_two_at_once(exported: Callable[..., Path], tmp_path: Path) -> None:
    """The result is that of one after the other: no key is twice on a node, and the sidecar fits."""
    package = tmp_path / "package"
    shutil.copytree(exported("bert"), package)
    threads = [threading.Thread(target=tag_package, args=(package,), kwargs={"force": True}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(node.repeated_keys for _, node in read_model(package / "model.onnx").nodes())
    assert HtpPackage(package).files["model.onnx"].evidence == "sidecar"
    assert not list(package.glob(".*"))
