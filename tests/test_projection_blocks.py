"""Projection of what ONNX Runtime lays out in blocks of channels, on graphs of every kind of processor.

`tests/fixtures/channel_blocks.py` recorded them, and says how to record them again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy import NodeTag
from optimum_htp.onnxfile import Node, OnnxModel, read_model
from optimum_htp.package.marks import marks_of
from optimum_htp.package.node_metadata import read_tags
from optimum_htp.package.skeleton import unpack_skeleton
from optimum_htp.tagging import TaggedGraph, project

FIXTURES = Path(__file__).parent / "fixtures"
WIDTHS = (8, 16)


@pytest.fixture(scope="module", params=["nodes", "skeleton"])
def source(request: pytest.FixtureRequest) -> TaggedGraph:
    """The exported graph and its tags, from the nodes or from the skeleton, which knows of no weights."""
    model = read_model(FIXTURES / "channel_blocks.onnx")
    if request.param == "skeleton":
        return skeleton(model)
    return TaggedGraph(model, read_tags(model))


def skeleton(model: OnnxModel) -> TaggedGraph:
    (mark,) = marks_of(model)
    return unpack_skeleton(mark.skeleton or "")


def laid_out(width: int) -> OnnxModel:
    return read_model(FIXTURES / f"channel_blocks_{width}.onnx")


def answers(source: TaggedGraph, target: OnnxModel) -> list[tuple[Node, NodeTag]]:
    tags = project([source], target, require_descent=True).tags
    return [(target.graph.nodes[position], tag) for (_, position), tag in tags.items()]


def paths(tag: NodeTag) -> list[str]:
    """The modules whose work a node does, as `layer.conv`."""
    return [".".join(part.partition(".")[2] for part in each.split("/")[2:]) for each in tag.origins or (tag.tag,)]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_node_is_attributed(source: TaggedGraph, width: int) -> None:
    """Nothing is unresolved, and every module that did something still does."""
    found = answers(source, laid_out(width))
    assert [node.name for node, tag in found if tag.source == "unresolved"] == []
    assert {path for tag in source.tags.values() for path in paths(tag)} == {
        path for _, tag in found for path in paths(tag)
    }


def test_both_kinds_are_there() -> None:
    """The graphs differ: what fits blocks of 8 and not of 16 is put back in order around what stayed as it was."""
    few, many = (laid_out(width).graph for width in WIDTHS)
    counts = [sum(node.op_type == "ReorderOutput" for node in graph.nodes) for graph in (few, many)]
    assert counts == [1, 4]
    assert "/narrow/Add" in {node.name for node in many.nodes} - {node.name for node in few.nodes}


@pytest.mark.parametrize("width", WIDTHS)
def test_convolutions_that_took_on_more(source: TaggedGraph, width: int) -> None:
    """A convolution that also adds has a fourth input and the name of its own result; it does the activation too."""
    found = [paths(tag) for node, tag in answers(source, laid_out(width)) if len(node.inputs) == 4]
    expected = [
        ["narrow.second.0", "narrow", "narrow.activation"],
        ["wider.shortcut", "wider", "wider.activation"],
        ["wide.second.0", "wide", "wide.activation"],
        ["widest.0.second.0", "widest.0", "widest.0.activation"],
        ["widest.1.second.0", "widest.1", "widest.1.activation"],
        ["linear.second.0", "linear"],
    ]
    assert found == (expected if width == 8 else expected[1:])


@pytest.mark.parametrize("width", WIDTHS)
def test_the_rest_does_what_it_did(source: TaggedGraph, width: int) -> None:
    """A convolution with the activation that it is named after, pools, a normalization that became a convolution."""
    found = {node.name: paths(tag) for node, tag in answers(source, laid_out(width))}
    assert found["/stem_activation/Relu_output_0_nchwc"] == ["stem.0", "stem_activation"]
    assert found["/wider/second/second.0/Conv_output_0_nchwc"] == ["wider.second.0"]
    assert found["/pool/MaxPool_output_0_nchwc" if width == 8 else "/pool/MaxPool"] == ["pool"]
    assert found["/norm/BatchNormalization_output_0_bn_nchwc"] == ["norm"]
    assert found["/uneven/Conv_output_0_nchwc"] == ["uneven"]
    made = {name: found[node.name] for node, _ in answers(source, laid_out(width)) for name in node.outputs}
    for node, tag in answers(source, laid_out(width)):
        if node.op_type == "ReorderOutput":
            assert set(paths(tag)) <= set(made[node.inputs[0]]), node.name


@pytest.mark.parametrize("width", WIDTHS)
def test_a_shallower_model_is_refused(width: int) -> None:
    """All its names are known, but what comes after a block that it hasn't reads something else, at any width."""
    source = skeleton(read_model(FIXTURES / "channel_blocks.onnx"))
    target = laid_out(width)
    made = {node.name: node.outputs[0] for node in target.graph.nodes}
    before, behind = (made[f"/{name}/Conv_output_0_nchwc"] for name in ("wider/shortcut", "wide/second/second.0"))
    left = [node for node in target.graph.nodes if not node.name.startswith("/wide/")]
    target.graph.nodes[:] = [
        replace(node, inputs=tuple(before if name == behind else name for name in node.inputs)) for node in left
    ]
    with pytest.raises(HtpError, match=r"not made from the tagged graph: .* that are laid out in blocks"):
        project([source], target, require_descent=True)
