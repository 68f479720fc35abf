"""Projection against evidence of its own: kept metadata, weights, values. Its rules: `test_projection_rules.py`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import rewriters
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
from optimum_htp.package.package import HtpPackage
from optimum_htp.tagging.projection.steps import project

Export = Callable[[str], HtpPackage]


@pytest.fixture(scope="session")
def export(exported: Callable[[str], Path]) -> Export:
    """A function from a zoo name to that model's tagged package; treat it as read-only."""
    return functools.cache(lambda name: HtpPackage(exported(name)))


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


# Nodes that a quantizer gave the work of the next one, so that their own metadata knows only half of what they do now.
TOOK_ON = {("resnet", "static-qdq"): 4}


def check(package: HtpPackage, owners: Owners, name: str, tool: str, directory: Path) -> None:
    """Projects what a tool makes of a package, and holds the tags against everything that is known otherwise."""
    took_on = 0
    for file in package.files.values():
        target = rewriters.attempt(tool, name, file.path, directory / file.name)
        if target is None:
            continue
        model, tags = projected(file, target)
        nodes = {(path, i) for path, graph in model.graphs() for i in range(len(graph.nodes))}
        assert tags.keys() == nodes
        assert [key for key, tag in tags.items() if tag.source == "unresolved"] == []
        trees = [root.tree for root in file.tagged.roots]
        known = {tree.tag(path) for tree in trees for info in tree for path in (info.path, *info.aliases)}
        assert {each for tag in tags.values() for each in (tag.tag, *tag.origins)} <= known
        others = disagreements(model, tags)
        if tool.startswith("static"):
            took_on += len(others)
            others = [other for other in others if other.kept.tag not in other.projected.origins]
        assert others == []
        wrong = weight_mismatches(file, model, tags, owners)[1]
        assert [line for line in wrong if not any(part in line for part in FOREIGN)] == []
        if tool in rewriters.LOSSLESS and "merged" not in file.name:
            assert different_values(file.path, target)[1] == []
    if (name, tool) in FAST:
        assert took_on == TOOK_ON.get((name, tool), 0)


FOREIGN = ("rel_embeddings", "parametrizations")
"""Weights that a model gives to another module than the one that holds them: DeBERTa normalizes its encoder's, and a
parametrization works on what the list of all of them holds."""


@pytest.mark.parametrize(("name", "tool"), FAST)
def test_every_tool(export: Export, owners: Callable[[str], Owners], name: str, tool: str, tmp_path: Path) -> None:
    """Nothing is unresolved, kept metadata agrees, weights are read by their modules, equal names hold equal values."""
    check(export(name), owners(name), name, tool, tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", SWEEP)
def test_every_architecture(
    export: Export, owners: Callable[[str], Owners], name: str, tool: str, tmp_path: Path
) -> None:
    """The same for more of them."""
    check(export(name), owners(name), name, tool, tmp_path)


def test_static_quantization_exceptions(export: Export, tmp_path: Path) -> None:
    """A node that took on the activation behind it: its own metadata knows only half of what it does now."""
    file = export("resnet").files["model.onnx"]
    model, tags = projected(file, rewriters.rewrite("static-qdq", file.path, tmp_path / "model.onnx"))
    others = disagreements(model, tags)
    assert len(others) == TOOK_ON["resnet", "static-qdq"]
    for other in others:
        assert other.node.op_type == "Conv"
        assert other.kept.tag == other.projected.origins[0]
        assert [each.rpartition("/")[2] for each in other.projected.origins] == [
            "Conv2d.convolution",
            "ReLU.activation",
        ]
    assert sum(bool(tag.origins) for tag in tags.values()) == len(others)


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


def test_empty_graph_names_the_tool(export: Export, tmp_path: Path) -> None:
    """ORTOptimizer at O2 writes a merged decoder without nodes."""
    file = export("t5").files["decoder_model_merged.onnx"]
    target = rewriters.rewrite("optimum-O2", file.path, tmp_path / file.name)
    with pytest.raises(HtpError, match="ORTOptimizer"):
        projected(file, target)
