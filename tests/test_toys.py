"""Toy nets that carry their truth, each nasty in one way: every node of the operators they name has its owner."""

from __future__ import annotations

import functools
import inspect
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import collect_oracle
from toynets import TOYS, Owner, ToyNet, nested

from optimum_htp.hierarchy.tags import tag_module_path
from optimum_htp.onnxfile.model import Graph
from optimum_htp.tagging.rules.order import tag_model
from optimum_htp.tagging.tracing import torchscript
from optimum_htp.tagging.tracing.tap import ModuleTap


def _depth_first(path: str, graph: Graph):
    for position, node in enumerate(graph.nodes):
        yield (path, position), node
        for attribute, body in node.bodies:
            yield from _depth_first(f"{path}/{position}.{attribute}" if path else f"{position}.{attribute}", body)


def _tagged(toy: ToyNet, tmp_path: Path):
    with ModuleTap() as tap:
        net = toy.export(tmp_path / "net.onnx")
    export = tap.exports[0]
    return net, export, tag_model(export.model, export.trace)


@functools.cache
def _tagged_once(name: str):
    """The same, for tests that change nothing."""
    with tempfile.TemporaryDirectory() as directory:
        return _tagged(TOYS[name], Path(directory))


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_every_node_has_its_owner(toy: ToyNet) -> None:
    """The module and the call of each node of the toy's operators, in the file's order.

    Those that no scope tells of are all stated; no node is unresolved.
    """
    _, export, tags = _tagged_once(toy.name)
    scoped: dict[str, list[Owner]] = {}
    others: dict[str, list[Owner]] = {}
    for key, node in _depth_first("", export.model.graph):
        tag = tags[key]
        path = tag_module_path(tag.tag)
        several = export.trace.tree.module(export.trace.tree.path_of_tag(tag.tag)).calls > 1
        assert tag.source in ("scope", "parameter", "dataflow")
        known = scoped if tag.source == "scope" else others
        known.setdefault(node.op_type, []).append(Owner(path, tag.call if several else 0))
    assert {operator: tuple(scoped.get(operator, ())) for operator in toy.expected} == dict(toy.expected)
    assert {operator: tuple(owners) for operator, owners in others.items()} == dict(toy.data_flow)


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_toys_agree_with_the_oracle(toy: ToyNet) -> None:
    """The oracle says the same of every node with a scope, also of operators that the toy's own truth leaves out."""
    truth = collect_oracle(lambda directory: toy.export(directory / "net.onnx"))["net.onnx"]
    _, _, tags = _tagged_once(toy.name)
    found = [tags[node.graph, node.position] for node in truth if node.call is not None]
    assert [(tag_module_path(tag.tag), tag.call) for tag in found] == [
        (node.alias, node.index if node.calls > 1 else None) for node in truth if node.call is not None
    ]


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_paths_lead_to_the_modules(toy: ToyNet) -> None:
    """Every tag is taken by `get_submodule` where names are such as it takes, and leads to a module of its class."""
    net, _, tags = _tagged_once(toy.name)
    for tag in tags.values():
        path = tag_module_path(tag.tag)
        if "%2E" not in tag.tag:
            assert type(net.get_submodule(path)).__name__ == tag.tag.rpartition("/")[2].split(".")[0]


@pytest.mark.parametrize("toy", [toy for toy in TOYS.values() if toy.parameters], ids=lambda toy: toy.name)
def test_parameters_have_their_holders(toy: ToyNet) -> None:
    """The trace knows which module holds each parameter."""
    _, export, _ = _tagged_once(toy.name)
    assert {name: ".".join(export.trace.tensors[name]) for name in toy.parameters} == dict(toy.parameters)


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_watching_changes_nothing(toy: ToyNet, tmp_path: Path) -> None:
    """The exported bytes are those of an unwatched export, and the model has no hook left."""
    toy.export(tmp_path / "plain.onnx")
    net = toy.build()
    with ModuleTap():
        toy.export(tmp_path / "watched.onnx", net)
    assert (tmp_path / "plain.onnx").read_bytes() == (tmp_path / "watched.onnx").read_bytes()
    for module, fresh in zip(net.modules(), toy.build().modules(), strict=True):
        assert len(module._forward_pre_hooks) == len(fresh._forward_pre_hooks)
        assert len(module._forward_hooks) == len(fresh._forward_hooks)


def test_modules_nest_as_deep_as_without_us(tmp_path: Path) -> None:
    """A module with hooks takes one function call more, for which there is room."""
    depth = 150
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 5 * depth + 130)
    try:
        toy = ToyNet("deep", lambda: nested(depth), lambda: (torch.ones(2),), {})
        toy.export(tmp_path / "plain.onnx")
        _, export, tags = _tagged(toy, tmp_path)
        assert sys.getrecursionlimit() == len(inspect.stack()) + 5 * depth + 130
    finally:
        sys.setrecursionlimit(limit)
    assert [tag_module_path(tag.tag) for tag in tags.values()] == [".".join("x" * depth)]
    assert len(export.trace.calls) == depth + 1


def _gone(*_: object) -> None:
    raise AttributeError("it is private, and gone")


# The nodes of a toy that are decided by the names of nodes alone, and by scopes that tell nothing of scripted functions.
LEFT = {"python_loop": (9, 9), "hooks_that_call": (14, 14), "scripted_if": (6, 6), "scripted_first_and_last": (2, 2)}


@pytest.mark.parametrize(
    ("owner", "attribute", "replacement", "scopes_are_left"),
    [
        (torchscript, "_NAMING_PASS", "_jit_pass_that_is_gone", False),
        (torchscript, "_INLINING_PASS", "_jit_pass_that_is_gone", True),
        (torchscript, "_mark_scripted_calls", _gone, True),
        (torchscript, "_graph_nodes", _gone, False),
        (torchscript.NumberedScopes, "begin", lambda *_: None, False),
    ],
    ids=["naming pass", "inlining pass", "marks", "nodes", "scopes"],
)
@pytest.mark.parametrize("name", LEFT)
def test_torch_without_what_is_private(
    name: str,
    owner: Any,
    attribute: str,
    replacement: Any,
    scopes_are_left: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file is the same, and no tag is wrong: what nothing proves any more stays open, its call or its module.

    How much is left is counted: names prove nothing of what scripted functions do, nor of its neighbours.
    """
    toy = TOYS[name]
    toy.export(tmp_path / "plain.onnx")
    _, _, exact = _tagged(toy, tmp_path)
    monkeypatch.setattr(owner, attribute, replacement)
    _, _, tags = _tagged(toy, tmp_path)
    assert (tmp_path / "net.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()
    wrong = [
        (exact[key], tag)
        for key, tag in tags.items()
        if tag.source != "unresolved" and (tag.tag != exact[key].tag or tag.call not in (None, exact[key].call))
    ]
    assert wrong == []
    sources = Counter(tag.source for tag in tags.values())
    left = LEFT[name][scopes_are_left]
    assert sources == Counter(scope=left, unresolved=len(tags) - left)
