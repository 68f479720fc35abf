"""What others do with ONNX files works on tagged ones as on Optimum's own, and what is read afterwards is true."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx.compose
import onnx.inliner
import onnx.parser
import onnx.printer
import onnx.shape_inference
import onnx.utils
import onnx.version_converter
import pytest
import torch
from torch import nn

from optimum_htp import HtpOptions, export_module, project, select, strip, validate, write_layer_annotations
from optimum_htp.methods import load_package
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.marks import entries_of, is_mark, is_of_whole_file, marks_of
from optimum_htp.package.node_metadata import Ownership, read_tags, strip_tags, write_tags
from optimum_htp.package.package import HtpFile, HtpPackage
from optimum_htp.package.resolver import tagged_file
from optimum_htp.verbs.tree import tree

pytestmark = pytest.mark.xdist_group("ecosystem")


class Body(nn.Module):
    """Two layers with the same weight, which the exporter stores once, a branch and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.act = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU()
        self.b.weight = nn.Parameter(self.a.weight.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.a(x)).view(2, 2, 4).transpose(1, 2).reshape(2, 8)) + self.b(x)


def body() -> nn.Module:
    return nn.Sequential(Body(), nn.ReLU())


def head() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 4), nn.Tanh())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tagged files, and the same ones as Optimum writes them; treat them as read-only."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("files")
    for name, module in (("body", body()), ("head", head())):
        export_module(module.eval(), (torch.randn(2, 8),), directory / name)
        shutil.copytree(directory / name, directory / f"{name}-plain")
        strip(directory / f"{name}-plain")
    return {path.name: path / "model.onnx" for path in directory.iterdir()}


def merge(
    first: onnx.ModelProto, second: onnx.ModelProto, prefixes: tuple[str, str] = ("a/", "b/")
) -> onnx.ModelProto:
    io_map = [(first.graph.output[0].name, second.graph.input[0].name)]
    return onnx.compose.merge_models(first, second, io_map=io_map, prefix1=prefixes[0], prefix2=prefixes[1])


def saved(model: onnx.ModelProto, directory: Path) -> HtpFile:
    """A file with a model, without the sidecar of what it was made from."""
    directory.mkdir(parents=True)
    onnx.save(model, directory / "model.onnx")
    return HtpPackage(directory).files["model.onnx"]


def owners(directory: Path) -> dict[str, str]:
    """The tag that each node of a file has for the verbs, by its name; empty where its module is not known."""
    package = HtpPackage(directory)
    found = tagged_file(package.files["model.onnx"], package=package)
    unknown = {key for key, tag in found.tags.items() if tag.source == "unresolved"}
    return {node.name: "" if key in unknown else found.tags[key].tag for key, node in found.model.nodes()}


def roots(directory: Path) -> list[tuple[str, int]]:
    """The roots that `tree` shows, with their nodes."""
    return [(row.tag, row.all_nodes) for file in tree(directory).files for row in file.rows if not row.depth]


def own(file: Path) -> dict[str, str]:
    """The tags of the nodes of a tagged file, by their names."""
    model = read_model(file)
    return {node.name: read_tags(model)[key].tag for key, node in model.nodes()}


def without_nodes_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in model.graph.node:
        del node.metadata_props[:]
    return model


# --- Every tool ----------------------------------------------------------------------------------------------------

TOOLS: dict[str, Callable[[Path, Path], Any]] = {}


def tool(function: Callable[[Path, Path], Any]) -> Callable[[Path, Path], Any]:
    TOOLS[function.__name__] = function
    return function


def on_protos(name: str, change: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
    TOOLS[name] = lambda source, target: onnx.save(change(onnx.load(source)), target)


on_protos("add_prefix", lambda model: onnx.compose.add_prefix(model, "x/"))
on_protos("expand_out_dim", lambda model: onnx.compose.expand_out_dim(model, 0))
on_protos("convert_version", lambda model: onnx.version_converter.convert_version(model, 22))
on_protos("text", lambda model: onnx.parser.parse_model(onnx.printer.to_text(model)))
on_protos("infer_shapes", onnx.shape_inference.infer_shapes)
on_protos("inline_local_functions", onnx.inliner.inline_local_functions)


@tool
def extract_model(source: Path, target: Path) -> None:
    onnx.utils.extract_model(source, target, [onnx.load(source).graph.input[0].name], ["/0/Add_output_0"])


@tool
def external_data(source: Path, target: Path) -> None:
    onnx.save(onnx.load(source), target, save_as_external_data=True, size_threshold=0, location="weights.bin")


@tool
def ir(source: Path, target: Path) -> None:
    import onnx_ir

    onnx_ir.save(onnx_ir.load(source), target)


@tool
def onnxscript_optimizer(source: Path, target: Path) -> None:
    import onnxscript.optimizer

    onnx.save(onnxscript.optimizer.optimize(onnx.load(source)), target)


@tool
def onnxslim(source: Path, target: Path) -> None:
    import onnxslim

    onnx.save(onnxslim.slim(str(source)), target)


@tool
def onnxruntime_session(source: Path, target: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


@tool
def transformers_optimizer(source: Path, target: Path) -> None:
    from onnxruntime.transformers.optimizer import optimize_model

    optimize_model(str(source)).save_model_to_file(str(target))


@tool
def float16(source: Path, target: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


@tool
def quant_pre_process(source: Path, target: Path) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process as process

    process(str(source), str(target))


@tool
def quantize_dynamic(source: Path, target: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic as quantize

    quantize(source, target)


def shape(graph: onnx.GraphProto) -> Any:
    nodes = [(node.op_type, node.name, list(node.input), list(node.output)) for node in graph.node]
    return nodes, [[value.name for value in values] for values in (graph.input, graph.output, graph.initializer)]


@pytest.mark.parametrize("name", TOOLS)
def test_tools(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    """They make of a tagged file what they make of Optimum's, and no node has another module's tag afterwards."""
    for kind in ("tagged", "plain"):
        (tmp_path / kind).mkdir()
        TOOLS[name](files["body" if kind == "tagged" else "body-plain"], tmp_path / kind / "model.onnx")
    made, plain = (onnx.load(tmp_path / kind / "model.onnx") for kind in ("tagged", "plain"))
    assert shape(made.graph) == shape(plain.graph)
    before = own(files["body"])
    found = owners(tmp_path / "tagged")
    kept = {node: tag for node, tag in found.items() if node.removeprefix("x/") in before}
    assert len(kept) >= 5
    assert all(tag in (before[node.removeprefix("x/")], "/Sequential/Body.0") for node, tag in kept.items())
    assert "" not in found.values()
    strip_tags(tmp_path / "tagged" / "model.onnx")
    left = read_model(tmp_path / "tagged" / "model.onnx")
    assert left.metadata == read_model(tmp_path / "plain" / "model.onnx").metadata
    assert not any(node.metadata for _, node in left.nodes())


def test_onnxruntime_takes_it_into_its_own_format(files: dict[str, Path], tmp_path: Path) -> None:
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    shutil.copy(files["body"], tmp_path)
    convert_onnx_models_to_ort(tmp_path, optimization_styles=[OptimizationStyle.Fixed])
    assert (tmp_path / "model.ort").exists()


# --- Merged files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "known"),
    [
        ("body", "head", [("/a%2FSequential", "body"), ("/b%2FSequential", "head")]),
        ("head", "body", [("/a%2FSequential", "head"), ("/b%2FSequential", "body")]),
        ("body", "body", [("/a%2FSequential", "body"), ("/b%2FSequential", "body")]),
        ("body", "head-plain", [("/Sequential", "body"), ("", "")]),
        ("body-plain", "head", [("", ""), ("/Sequential", "head")]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "dropped"])
def test_merged(
    first: str, second: str, known: list[tuple[str, str]], kept: bool, files: dict[str, Path], tmp_path: Path
) -> None:
    """Each node is known by its half, which has a root of its own, also if a tool dropped the metadata of nodes."""
    merged = merge(onnx.load(files[first]), onnx.load(files[second]))
    plain = merge(*(onnx.load(files[f"{name.removesuffix('-plain')}-plain"]) for name in (first, second)))
    file = saved(merged if kept else without_nodes_metadata(merged), tmp_path / "merged")
    halves = [{tag: root + tag.removeprefix("/Sequential") for tag in own(files[half]).values()} if half else {}
              for root, half in known]  # fmt: skip
    truth: dict[str, str] = {}
    for prefix, half, name in zip(("a/", "b/"), halves, (first, second), strict=True):
        tags = (
            own(files[name]) if half else dict.fromkeys((node.name for node in onnx.load(files[name]).graph.node), "")
        )
        truth |= {prefix + node: half.get(tag, "") for node, tag in tags.items()}
    if kept or (first, second) != ("body-plain", "head"):  # too little of it is the head's to be sure, by names alone
        assert owners(tmp_path / "merged") == truth
    if kept:
        assert roots(tmp_path / "merged") == [(root, len(own(files[half]))) for root, half in known if half]
        checks = {check.name: check.status for check in validate(tmp_path / "merged").checks}
        assert checks["tags"] == ("ok" if "" not in truth.values() else "failed")
        assert checks["keys"] == "ok"
    strip_tags(file.path)
    onnx.save(plain, tmp_path / "plain.onnx")
    assert file.path.read_bytes() == (tmp_path / "plain.onnx").read_bytes()


def test_merged_and_optimized(files: dict[str, Path], tmp_path: Path) -> None:
    """The skeletons of both halves came through, and the tags that are written from them are read back."""
    saved(merge(onnx.load(files["body"]), onnx.load(files["head"])), tmp_path / "merged")
    (tmp_path / "optimized").mkdir()
    TOOLS["onnxruntime_session"](tmp_path / "merged" / "model.onnx", tmp_path / "optimized" / "model.onnx")
    assert not read_tags(read_model(tmp_path / "optimized" / "model.onnx"))
    before = owners(tmp_path / "optimized")
    assert before["a//0/a/Gemm"] == "/a%2FSequential/Body.0/Linear.a"
    assert before["fused b//0/Gemm"] == "/b%2FSequential"  # the product and the activation behind it
    report = project(tmp_path / "optimized").files["model.onnx"]
    assert (report.evidence, report.unresolved) == ("the skeleton in its own metadata", 0)
    (mark,) = marks_of(read_model(tmp_path / "optimized" / "model.onnx"))
    assert mark.roots == ("/a%2FSequential", "/b%2FSequential")
    (tmp_path / "optimized" / "export_metadata.json").unlink()
    assert owners(tmp_path / "optimized") == before


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("prefixes", [("a/", "b/"), ("", "b/")])
def test_one_part_without_metadata_on_nodes(
    files: dict[str, Path], tmp_path: Path, prefixes: tuple[str, str], lost: int
) -> None:
    """As after a conversion of it to the other's opset: its skeleton is looked for among what has no tags."""
    saved(merge(*(onnx.load(files[name]) for name in ("body", "head")), prefixes), tmp_path / "both")
    models = [onnx.load(files[name]) for name in ("body", "head")]
    without_nodes_metadata(models[lost])
    saved(merge(*models, prefixes), tmp_path / "one")
    assert owners(tmp_path / "one") == owners(tmp_path / "both")
    assert project(tmp_path / "one").unresolved == 0
    assert roots(tmp_path / "one") == roots(tmp_path / "both")


def test_merged_without_prefixes(tmp_path: Path) -> None:
    """Two exports of one class, whose names differ by themselves."""
    for name in ("one", "two"):
        module = nn.Sequential(OrderedDict([(name, nn.Linear(8, 8)), (f"{name}_act", nn.ReLU())]))
        export_module(module, (torch.randn(2, 8),), tmp_path / name, input_names=[name])
    first, second = (onnx.load(tmp_path / name / "model.onnx") for name in ("one", "two"))
    second.graph.node[-1].output[0] = second.graph.output[0].name = "last"
    io_map = [(first.graph.output[0].name, "two")]
    saved(onnx.compose.merge_models(first, second, io_map=io_map), tmp_path / "merged")
    assert roots(tmp_path / "merged") == [("/Sequential#1", 2), ("/Sequential#2", 2)]
    assert owners(tmp_path / "merged")["/two/Gemm"] == "/Sequential#2/Linear.two"
    assert [node.name for node in select(tmp_path / "merged", "two").files[0].nodes] == ["/two/Gemm"]


def without_skeleton(file: Path, directory: Path) -> onnx.ModelProto:
    model = onnx.load(file)
    directory.mkdir()
    onnx.save(model, directory / "model.onnx")
    write_tags(load_package(directory).files["model.onnx"].tagged, options=HtpOptions(skeleton=False))
    return onnx.load(directory / "model.onnx")


def test_halves_that_nothing_tells_apart_are_unknown(files: dict[str, Path], tmp_path: Path) -> None:
    """Without skeletons, and with roots of one tag, both; if one has a skeleton, the other."""
    bare = [without_skeleton(files[name], tmp_path / name) for name in ("body", "head")]
    saved(merge(*bare), tmp_path / "both")
    assert set(owners(tmp_path / "both").values()) == {""}
    saved(merge(onnx.load(files["body"]), bare[1]), tmp_path / "one")
    found = owners(tmp_path / "one")
    assert found["a//0/a/Gemm"] == "/a%2FSequential/Body.0/Linear.a"
    assert [name for name, tag in found.items() if not tag] == ["b//0/Gemm", "b//1/Tanh"]


def test_roots_of_other_names_need_no_skeleton(files: dict[str, Path], tmp_path: Path) -> None:
    export_module(Body(), (torch.randn(2, 8),), tmp_path / "body", htp_options=HtpOptions(skeleton=False))
    saved(merge(onnx.load(tmp_path / "body" / "model.onnx"), onnx.load(files["head"])), tmp_path / "merged")
    assert [root for root, _ in roots(tmp_path / "merged")] == ["/Body", "/Sequential"]
    assert owners(tmp_path / "merged")["b//0/Gemm"] == "/Sequential/Linear.0"


@pytest.mark.parametrize("options", [HtpOptions(namespace=False), HtpOptions(torch_metadata=True)], ids=str)
def test_strip_of_files_that_were_tagged_with_other_options(
    options: HtpOptions, files: dict[str, Path], tmp_path: Path
) -> None:
    """All of ours goes, by what it says of the node."""
    shutil.copytree(files["head"].parent, tmp_path / "head")
    write_tags(load_package(tmp_path / "head").files["model.onnx"].tagged, options=options)
    write_layer_annotations(tmp_path / "head", select(tmp_path / "head", "*"))
    file = saved(merge(onnx.load(files["body"]), onnx.load(tmp_path / "head" / "model.onnx")), tmp_path / "merged")
    assert len({mark.keys for mark in marks_of(file.model)}) == 2
    strip_tags(file.path)
    onnx.save(merge(onnx.load(files["body-plain"]), onnx.load(files["head-plain"])), tmp_path / "plain.onnx")
    assert file.path.read_bytes() == (tmp_path / "plain.onnx").read_bytes()


def test_what_the_other_half_had_stays(files: dict[str, Path], tmp_path: Path) -> None:
    """`strip` leaves the keys on nodes that we did not tag: a dynamo export has a `namespace` of its own."""
    plain = onnx.load(files["head-plain"])
    for node in plain.graph.node:
        node.metadata_props.add(key="namespace", value=f": torch.nn.Sequential/{node.name}")
    file = saved(merge(onnx.load(files["body"]), plain), tmp_path / "merged")
    assert [owner for name, owner in owners(tmp_path / "merged").items() if name.startswith("b/")] == ["", ""]
    strip_tags(file.path)
    onnx.save(merge(onnx.load(files["body-plain"]), plain), tmp_path / "plain.onnx")
    assert file.path.read_bytes() == (tmp_path / "plain.onnx").read_bytes()


# --- The marks -----------------------------------------------------------------------------------------------------


def test_equal_keys_have_equal_values(files: dict[str, Path]) -> None:
    """Of another graph, or with other options, the keys are others; writing again gives the same ones."""
    model = read_model(files["body"])
    (mark,) = marks_of(model)
    assert mark.entries() == {key: value for key, value in model.metadata.items() if is_mark(key)}
    others = [replace(mark, **change) for change in (
        {"graph": "0"}, {"keys": ()}, {"nodes": 0}, {"roots": ()}, {"skeleton": None}, {"renamed": {"a": "b"}}
    )]  # fmt: skip
    keys = [key for other in (mark, *others) for key in other.entries()]
    assert len(keys) == len(set(keys))
    assert all(marks_of(replace(model, metadata=each.entries())) == [each] for each in others)
    assert not entries_of([])


@pytest.mark.parametrize("value", ["", "[]", "{", "null", '{"keys":1,"nodes":"x","roots":[1]}', "[" * 9999])
def test_damaged_marks(value: str, files: dict[str, Path], tmp_path: Path) -> None:
    """What can't be read says nothing, and is removed all the same."""
    model = onnx.load(files["body"])
    for entry in model.metadata_props:
        if not is_of_whole_file(entry.key):
            entry.value = value
    file = saved(model, tmp_path / "damaged")
    assert owners(tmp_path / "damaged") == own(files["body"])
    assert Ownership.of(file.model).borrowed == ["namespace"]
    strip_tags(file.path)
    assert file.path.read_bytes() == files["body-plain"].read_bytes()
