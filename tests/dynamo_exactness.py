"""Holds the tags of dynamo exports against the oracle: module, call and the call that it was made from, of every node."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from dynamo_oracle import TrueNode, Truth, collect, counted_calls
from oracle import ModuleCall, all_paths, seed_everything
from torch import nn
from torch.fx import graph_module

from optimum_htp import load_package, strip, tag_exports
from optimum_htp.hierarchy.tags import NodeTag, tag_module_path


@dataclass(slots=True)
class Verdict:
    """What the comparison of exports found.

    Attributes:
        files: How many.
        nodes: Nodes in them.
        right: Nodes of one module call whose tag, call and parent's call are those of the oracle.
        fused: Nodes of several modules whose origins are those of the oracle.
        rest: Nodes of which the oracle names no module call, by the evidence of their tags.
        unlike: Nodes that come from a module call and have another tag.
        same_bytes: Files that are, once the tags are gone, what torch writes.
        wrong: A line for each of the nodes that are unlike, and for whatever else is wrong.
    """

    files: int = 0
    nodes: int = 0
    right: int = 0
    fused: int = 0
    rest: Counter[str] = field(default_factory=Counter)
    unlike: int = 0
    same_bytes: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Verdict) -> None:
        """Adds what was found of other exports."""
        for name in ("files", "nodes", "right", "fused", "rest", "unlike", "same_bytes", "wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def check_module(model: nn.Module, args: tuple[Any, ...], directory: Path, verdict: Verdict, **options: Any) -> Path:
    """Exports a module with its tags, without any, and for the oracle; gives the file with tags."""

    def export(exported: nn.Module, file: Path) -> None:
        seed_everything()
        graph_module._loader.next_id = 1_000_000  # torch writes how many graphs it has made code of in this process
        torch.onnx.export(exported, copy.deepcopy(args), str(file), dynamo=True, verbose=False, **options)

    plain, tagged, second = (directory / name / "model.onnx" for name in ("plain", "tagged", "second"))
    for file in (plain, tagged, second):
        file.parent.mkdir(parents=True)
    export(model, plain)
    with counted_calls(model) as counts, tag_exports():
        export(model, tagged)
    truth = collect(model, export, counts, tagged, second)
    _compare(model, tagged, truth, verdict)
    stripped = directory / "stripped"
    shutil.copytree(tagged.parent, stripped)
    strip(stripped)
    differ = [file.name for file in plain.parent.iterdir() if file.read_bytes() != (stripped / file.name).read_bytes()]
    verdict.same_bytes += not differ
    verdict.wrong += [f"{name} is not what torch writes" for name in differ]
    return tagged


def _compare(model: nn.Module, tagged: Path, truth: Truth, verdict: Verdict) -> None:
    file = load_package(tagged.parent).files[tagged.name]
    (root,) = file.tagged.roots
    (calls,) = root.traces
    ran = Counter(call.module for call in truth.calls.values())
    containers = {
        ".".join(path)
        for module, paths in all_paths(model).values()
        if type(module).forward is nn.Module.forward
        for path in paths
    }
    verdict.files += 1
    if len(calls) != len(truth.calls):
        verdict.wrong.append(f"{len(calls)} calls, truly {len(truth.calls)}")
        return
    spelled = {number: _spell(call, truth, ran) for number, call in truth.calls.items()}
    recorded = {}
    for number, call in enumerate(calls):
        several = calls.tree.module(call.path).calls > 1
        parent = recorded[call.parent] if call.parent is not None else None
        recorded[number] = (".".join(call.path), call.index if several else None, parent)
    if Counter(recorded.values()) != Counter(spelled.values()):
        verdict.wrong.append("the trees of calls differ")
    known = set(recorded.values())
    for node in truth.nodes:
        verdict.nodes += 1
        tag = file.tags[node.graph, node.position]
        _judge(node, tag, spelled, known, containers, verdict)


def _spell(call: ModuleCall, truth: Truth, ran: Counter[int]) -> tuple[Any, ...]:
    """Module, call and parent's call, as far up as the root."""
    parent = _spell(truth.calls[call.parent], truth, ran) if call.parent is not None else None
    return call.alias, call.index if ran[call.module] > 1 else None, parent


def _judge(
    node: TrueNode,
    tag: NodeTag,
    spelled: dict[int, tuple[Any, ...]],
    known: set[tuple[Any, ...]],
    containers: set[str],
    verdict: Verdict,
) -> None:
    path = tag_module_path(tag.tag)
    true = [spelled[call.number] for call in node.calls]
    modules = {alias for alias, _, _ in true}
    if not true:
        verdict.rest[tag.source] += 1
    elif len(true) == 1 and true[0] in known and (path, tag.call, tag.source) == (*true[0][:2], "scope"):
        verdict.right += 1
    elif (
        len(true) > 1
        and {*map(tag_module_path, tag.origins)} | {path} >= modules
        and path in _around(modules, containers)
    ):
        verdict.fused += 1
    else:
        verdict.unlike += 1
        verdict.wrong.append(f"{node.graph}#{node.position} {node.op_type}: {tag}, truly {true}")


def _around(modules: set[str], containers: set[str]) -> set[str]:
    """The lowest module, not a container, that contains some."""
    if len(modules) == 1:
        return modules
    columns = zip(*(path.split(".") if path else [] for path in modules), strict=False)
    common: list[str] = []
    for names in columns:
        if len(set(names)) > 1:
            break
        common.append(names[0])
    while common and ".".join(common) in containers:
        common.pop()
    return {".".join(common)}


@contextlib.contextmanager
def one_registry() -> Iterator[None]:
    """Torch makes its table of operators once, and not for each export: that takes longer than a small model."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    original = ONNXRegistry.from_torchlib
    made: dict[Any, Any] = {}

    def from_torchlib(opset_version: Any = None) -> Any:
        if opset_version not in made:
            made[opset_version] = original(opset_version) if opset_version is not None else original()
        registry = copy.copy(made[opset_version])
        registry.functions = {target: list(functions) for target, functions in registry.functions.items()}
        return registry

    ONNXRegistry.from_torchlib = staticmethod(from_torchlib)
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = original


@contextlib.contextmanager
def captured(check: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]) -> Iterator[None]:
    """Hands each export that Optimum asks of torch to `check`, with the options that the dynamo exporter takes."""
    original = torch.onnx.export

    def export(model: nn.Module, args: Any, f: str, **options: Any) -> None:
        with _restored():
            check(model, args, {key: options[key] for key in ("input_names", "output_names") if key in options})
        # What Optimum does next needs a file there.
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "none", [], [])), f)

    @contextlib.contextmanager
    def _restored() -> Iterator[None]:
        torch.onnx.export = original
        try:
            yield
        finally:
            torch.onnx.export = export

    torch.onnx.export = export
    try:
        yield
    finally:
        torch.onnx.export = original
