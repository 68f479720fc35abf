"""Projection against evidence of its own: kept metadata, weights, values; and its rules, one by one, on small graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import rewriters
import zoo
from projection_evidence import (
    Owners,
    different_values,
    disagreements,
    projected,
    weight_mismatches,
    weight_owners,
)

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy.tags import tag_ancestors
from optimum_htp.onnxfile.model import OnnxModel
from optimum_htp.package.package import HtpPackage
from optimum_htp.tagging.projection.steps import project


Export = Callable[[str], HtpPackage]


@pytest.fixture(scope="session")
def export(zoo_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A function from a zoo name to that model's tagged package; treat it as read-only."""
    from optimum_htp import main_export

    root = tmp_path_factory.mktemp("tagged")
    done: dict[str, HtpPackage] = {}

    def tagged(name: str) -> HtpPackage:
        if name not in done:
            model = zoo_model(name)
            kwargs = zoo.ZOO[name].main_export_kwargs(model)
            main_export(str(model), str(root / name), do_validation=False, **kwargs)
            done[name] = HtpPackage(root / name)
        return done[name]

    return tagged


@pytest.fixture(scope="session")
def owners(zoo_model: Callable[[str], Path]) -> Callable[[str], Owners]:
    """A function from a zoo name to the modules that hold each of that model's weights."""
    return functools.cache(lambda name: weight_owners(zoo_model(name)))


# --- Every tool, a few models; the rest is in the sweep ---

TOOLS = (*rewriters.REWRITERS, *rewriters.CHAINS)
# Neither ORTOptimizer nor the quantizer of operators can do ResNet. T5 has four files, one of them merged.
FAST = [
    *(("bert", tool) for tool in TOOLS),
    *(("resnet", tool) for tool in TOOLS if "O" not in tool and tool != "static-qoperator"),
    *(("t5", tool) for tool in ("ort-all", "dynamic", "fp16", "onnxslim", "version-converter")),
]
SWEEP = (
    "albert bart t5 clip deberta-v2 gpt2 llama mobilenet_v2 qwen3_moe segformer vit whisper "
    # not looked at while the rules were written
    "distilbert dinov2 swin convnext opt phi mpnet wav2vec2 donut bloom"
).split()


def check(package: HtpPackage, owners: Owners, tool: str, directory: Path) -> None:
    """Projects what a tool makes of a package, and holds the tags against everything that is known otherwise."""
    failures = []
    for file in package.files.values():
        try:
            target = rewriters.rewrite(tool, file.path, directory / file.name)
        except Exception as error:  # whatever a tool raises: that it can't is its own affair
            failures.append(f"{file.name}: {type(error).__name__}: {error}")
            continue
        if rewriters.is_empty(target):  # see test_empty_graph_names_the_tool
            continue
        model, tags = projected(file, target)
        nodes = {(path, i) for path, graph in model.graphs() for i in range(len(graph.nodes))}
        assert tags.keys() == nodes
        assert [key for key, tag in tags.items() if tag.source == "unresolved"] == []
        trees = file.hierarchy.trees
        known = {tree.tag(path) for tree in trees for info in tree for path in (info.path, *info.aliases)}
        assert {each for tag in tags.values() for each in (tag.tag, *tag.origins)} <= known
        if not tool.startswith("static"):  # see test_static_quantization_exceptions
            assert disagreements(model, tags) == []
        wrong = weight_mismatches(file, model, tags, owners)[1]
        assert [line for line in wrong if not any(part in line for part in FOREIGN)] == []
        if tool in rewriters.LOSSLESS and "merged" not in file.name:
            assert different_values(file.path, target)[1] == []
    if len(failures) == len(package.files):
        pytest.skip(f"{tool} fails: {'; '.join(failures)}")


FOREIGN = ("rel_embeddings", "parametrizations")
"""Weights that a model gives to another module than the one that holds them: DeBERTa normalizes its encoder's, and a
parametrization works on what the list of all of them holds."""


@pytest.mark.parametrize(("name", "tool"), FAST)
def test_every_tool(export: Export, owners: Callable[[str], Owners], name: str, tool: str, tmp_path: Path) -> None:
    """Nothing is unresolved, kept metadata agrees, weights are read by their modules, equal names hold equal values."""
    check(export(name), owners(name), tool, tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", SWEEP)
def test_every_architecture(
    export: Export, owners: Callable[[str], Owners], name: str, tool: str, tmp_path: Path
) -> None:
    """The same for more of them."""
    check(export(name), owners(name), tool, tmp_path)


def test_static_quantization_exceptions(export: Export, tmp_path: Path) -> None:
    """A node that took on the activation behind it: its own metadata knows only half of what it does now."""
    file = export("resnet").files["model.onnx"]
    model, tags = projected(file, rewriters.rewrite("static-qdq", file.path, tmp_path / "model.onnx"))
    found = disagreements(model, tags)
    assert len(found) == 4
    assert all(line.startswith("Conv ") for line in found)
    both = [[each.rpartition("/")[2] for each in tag.origins] for tag in tags.values() if tag.origins]
    assert both == [["Conv2d.convolution", "ReLU.activation"]] * 4


def test_fused_nodes_list_their_origins(export: Export, tmp_path: Path) -> None:
    """The tag is the lowest module around all origins, and that is far below the root."""
    file = export("bert").files["model.onnx"]
    _, tags = projected(file, rewriters.rewrite("optimum-O2", file.path, tmp_path / "model.onnx"))
    fused = [tag for tag in tags.values() if tag.origins]
    assert len(fused) == 8
    for tag in fused:
        assert all(tag.tag in tag_ancestors(origin) for origin in tag.origins)
    attention = next(tag for tag in fused if tag.tag.endswith("SelfAttention.self"))
    below = [origin.removeprefix(attention.tag) for origin in attention.origins]
    assert below == ["/Linear.query", "/Linear.key", "/Linear.value", ""]


def test_calls_survive_fusion(export: Export, tmp_path: Path) -> None:
    """ALBERT runs one layer three times: each fused node knows which time."""
    file = export("albert").files["model.onnx"]
    _, tags = projected(file, rewriters.rewrite("optimum-O2", file.path, tmp_path / "model.onnx"))
    calls = [tag.call for tag in tags.values() if tag.origins and tag.tag.endswith("AlbertLayer.albert_layers.0")]
    assert calls == [0, 0, 1, 1, 2, 2]


def test_other_models_are_refused(export: Export) -> None:
    """A graph that isn't made from the tagged one is told from one that is, and how much matched is said."""
    files = {name: export(name).files for name in ("bert", "resnet", "t5", "distilbert")}
    for name, other in (("bert", "resnet"), ("resnet", "t5"), ("t5", "bert"), ("bert", "distilbert")):
        source = next(iter(files[name].values()))
        for target in files[other].values():
            with pytest.raises(HtpError, match=r"not made from the tagged graph: \d+ of \d+ nodes"):
                project([source.tagged], target.model, require_descent=True)


def test_sister_architectures_are_refused() -> None:
    """Where all that has a known name fits, names that an exporter gave to other nodes tell; a tool's own don't."""
    layers = [node("Relu", f"/{i}/Relu_output_0", f"/{i + 1}/Relu_output_0", f"/{i + 1}/Relu") for i in range(50)]
    source = tagged(model(layers, "/0/Relu_output_0", "/50/Relu_output_0"), *["a"] * 50)

    def longer(*names: str) -> OnnxModel:
        more = [node("Relu", "/50/Relu_output_0", name) for name in names]
        return model([*layers, *more], "/0/Relu_output_0", " ".join(names))

    assert len(project([source], longer("cast0", "cast1", "cast2"), require_descent=True)) == 53
    message = r"50 of 50 nodes that can be compared fit, .*, 3 of 54 names are another export's"
    with pytest.raises(HtpError, match=message):
        project([source], longer("/51/Relu_output_0", "/51/Relu_1_output_0", "onnx::MatMul_7"), require_descent=True)


def test_one_equal_name_is_no_descent() -> None:
    """A node that makes a tensor of that name from something else was not made from ours."""
    source = tagged(CONV, "a", "b")
    with pytest.raises(HtpError, match="0 of 0 nodes that can be compared fit, 1 of 1 make a tensor"):
        project([source], model([node("Relu", "z", "y")], "z"), require_descent=True)


def test_empty_graph_names_the_tool(export: Export, tmp_path: Path) -> None:
    """ORTOptimizer at O2 writes a merged decoder without nodes."""
    file = export("t5").files["decoder_model_merged.onnx"]
    target = rewriters.rewrite("optimum-O2", file.path, tmp_path / file.name)
    with pytest.raises(HtpError, match="ORTOptimizer"):
        projected(file, target)
