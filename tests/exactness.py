"""Holds the tags of a package against the oracle, which exported the same model a second time to learn the truth.

The oracle knows the module call of every node that torch gave a scope. Of the others it knows who reads what they
make, and so the lowest module that contains all of those, which has to be their tag; and whose value a weight has that
they read. Nothing here asks the rules that decide tags.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import oracle
import torch
from onnx import numpy_helper

from optimum_htp.hierarchy.tags import NodeKey, tag_module_path
from optimum_htp.onnxfile.model import OnnxModel
from optimum_htp.package.package import HtpFile, HtpPackage


@dataclass(slots=True)
class Verdict:
    """What the comparison of one package found.

    Attributes:
        scoped: Nodes whose true module call the oracle knows.
        unscoped: Nodes without a scope whose readers the oracle knows.
        wrong: A line for each of them whose tag differs, and for each that reads a weight of another module.
        unresolved: Nodes that were left without an owner, over all files of the package.
        at_root_by_dataflow: Nodes that data flow alone left at the root.
        nodes: Nodes over all files of the package.
    """

    scoped: int = 0
    unscoped: int = 0
    wrong: list[str] = field(default_factory=list)
    unresolved: int = 0
    at_root_by_dataflow: int = 0
    nodes: int = 0


@dataclass(slots=True)
class Exported:
    """What is known of a model that torch exported.

    Attributes:
        weights: The modules that hold a parameter of a value, by that value. One that is all one number says nothing of
            its owner and is left out.
        containers: The modules without a forward of their own.
        holders: The module that holds each parameter.
    """

    weights: dict[bytes, set[str]] = field(default_factory=dict)
    containers: set[str] = field(default_factory=set)
    holders: dict[str, str] = field(default_factory=dict)


def check_package(package: Path, export_plain: Callable[[Path], Any]) -> Verdict:
    """Compares a package, exported under the oracle's seed, with the oracle's reading of Optimum's own export.

    Only the files that Optimum kept as it exported them are compared; merged files are checked by their parts.
    """
    models: dict[str, Exported] = {}

    def export(directory: Path) -> None:
        with _watched(directory, models):
            export_plain(directory)

    truth = oracle.collect_oracle(export)
    verdict = Verdict()
    for name, file in HtpPackage(package).files.items():
        verdict.unresolved += file.counts.unresolved
        verdict.at_root_by_dataflow += file.counts.root_by_dataflow
        verdict.nodes += file.counts.nodes
        if name in truth:
            _check_scoped(verdict, file, truth[name])
            _check_unscoped(verdict, file, truth[name], models[name])
            _check_weights(verdict, file, models[name].weights)
    return verdict


@contextlib.contextmanager
def _watched(output: Path, models: dict[str, Exported]) -> Iterator[None]:
    """Records what is known of each model that torch exports, by the file that it writes."""
    original = torch.onnx.export

    def export(model: torch.nn.Module, args: Any, f: str, **kwargs: Any) -> Any:
        known = models.setdefault(Path(f).relative_to(output).as_posix(), Exported())
        for name, parameter in model.named_parameters(remove_duplicate=False):
            known.holders[name] = name.rpartition(".")[0]
            value = parameter.detach().numpy()
            if value.size > 1 and value.min() != value.max():
                for content in (_content(value), _content(value.T)):
                    known.weights.setdefault(content, set()).add(name.rpartition(".")[0])
        for name, module in model.named_modules(remove_duplicate=False):
            if type(module).forward is torch.nn.Module.forward:
                known.containers.add(name)
        return original(model, args, f=f, **kwargs)

    torch.onnx.export = export
    try:
        yield
    finally:
        torch.onnx.export = original


def _check_scoped(verdict: Verdict, file: HtpFile, nodes: Iterable[oracle.OracleNode]) -> None:
    """Module and call of the nodes that torch gave a scope."""
    assert file.record is not None
    ids = {(key[0], node_id): tag for key, tag in file.tags.items() for node_id in (file.record.node_ids[key],)}
    for node in nodes:
        if node.call is None:
            continue
        verdict.scoped += 1
        tag = ids.get((node.graph, node.output))
        if tag is None:
            verdict.wrong.append(f"{file.name}: {node.name} is not in the package")
            continue
        expected_call = node.index if node.calls > 1 else None
        if (tag_module_path(tag.tag), tag.call, tag.source) != (node.alias, expected_call, "scope"):
            verdict.wrong.append(f"{file.name}: {node.name}: {tag}, truly {node.alias!r} call {expected_call}")


# --- Nodes without a scope ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reader:
    """A call that reads a value: the path of its module, all paths of that, and the call where there are several."""

    path: str
    paths: tuple[str, ...]
    call: int | None


def _check_unscoped(verdict: Verdict, file: HtpFile, nodes: Iterable[oracle.OracleNode], exported: Exported) -> None:
    """The tag is the lowest module that contains all who read what the node makes; of one call, also the call.

    A copy of a parameter is its holder's, though another module may read it (`nn.MultiheadAttention` does not call its
    `out_proj`). What a scripted function did has no scope in its name, so that the oracle knows nothing of it: the trace's own
    answer is taken for what it reads. Toy nets hold that one against the truth.
    """
    positions = {(node.graph, node.output): node for node in nodes}
    known: dict[NodeKey, _Reader] = {}
    unscoped: list[NodeKey] = []
    for key, node in file.model.nodes():
        true = positions.get((key[0], next(filter(None, node.outputs), f"#{key[1]}")))
        tag = file.tags[key]
        path = tag_module_path(tag.tag)
        if true is not None and true.call is not None and true.alias is not None:
            known[key] = _Reader(true.alias, true.call.modules, true.index if true.calls > 1 else None)
        elif tag.source == "scope":
            known[key] = _Reader(path, (path,), tag.call)
        else:
            unscoped.append(key)
    readers = _readers(file.model)
    graphs = dict(file.model.graphs())
    for key in unscoped:
        verdict.unscoped += 1
        tag = file.tags[key]
        around = _known_readers(key, readers, known)
        expected = _lowest_common(around, exported.containers)
        calls = {reader.call for reader in around} if len(around) == 1 else {tag.call}
        node = graphs[key[0]].nodes[key[1]]
        holder = next((exported.holders[name] for name in node.outputs if name in exported.holders), None)
        if holder is not None and not all(holder in reader.paths for reader in around):
            expected, calls = {holder}, {None}
        if tag_module_path(tag.tag) not in expected or tag.call not in calls:
            verdict.wrong.append(f"{file.name}: {node.op_type} {node.outputs}: {tag}, truly {expected} call {calls}")


def _readers(model: OnnxModel) -> dict[NodeKey, list[NodeKey]]:
    """The nodes that read what each node makes; a body's results are read by the node that holds it."""
    made = {path: {name: (path, i) for i, node in enumerate(graph.nodes) for name in node.outputs}
            for path, graph in model.graphs()}  # fmt: skip
    readers: dict[NodeKey, list[NodeKey]] = defaultdict(list)

    def read(path: str, name: str, reader: NodeKey) -> None:
        while name and name not in made[path] and path and "::" not in path:
            path = path.rpartition("/")[0]
        if name in made[path]:
            readers[made[path][name]].append(reader)

    for path, graph in model.graphs():
        for position, node in enumerate(graph.nodes):
            for name in node.inputs:
                read(path, name, (path, position))
        around, _, holder = path.rpartition("/")
        position = holder.partition(".")[0]
        if position.isdecimal():
            for value in graph.outputs:
                read(path, value.name, (around, int(position)))
    return readers


def _known_readers(key: NodeKey, readers: dict[NodeKey, list[NodeKey]], known: dict[NodeKey, _Reader]) -> set[_Reader]:
    """Who reads what a node makes, through nodes of which nothing is known."""
    found: set[_Reader] = set()
    seen: set[NodeKey] = set()
    front = list(readers[key])
    while front:
        reader = front.pop()
        if reader in known:
            found.add(known[reader])
        elif reader not in seen:
            seen.add(reader)
            front += readers[reader]
    return found


def _lowest_common(readers: set[_Reader], containers: set[str]) -> set[str]:
    """The path of the lowest module, not a container, that contains some; several for one module of several names."""
    paths = {reader.path for reader in readers}
    if len({reader.paths for reader in readers}) <= 1:
        return paths
    columns = zip(*(path.split(".") for path in paths), strict=False)
    common = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, columns)]
    while common and ".".join(common) in containers:
        common.pop()
    return {".".join(common)}


# --- Weights ------------------------------------------------------------------------------------------------------


def _check_weights(verdict: Verdict, file: HtpFile, owners: dict[bytes, set[str]]) -> None:
    """An unscoped node that reads a weight of the model is its owner's.

    The weight is known by its value: the exporter transposes, renames and de-duplicates. The names of initializers,
    which the rules go by, play no part.
    """
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(file.path).graph.initializer}
    for position, node in enumerate(file.model.graph.nodes):
        tag = file.tags["", position]
        for name in node.inputs if tag.source != "scope" else ():
            known = owners.get(_content(values[name]), set()) if name in values else set()
            if known and tag_module_path(tag.tag) not in known:
                line = f"{node.op_type} {node.outputs[0]}: {tag}, but {name} belongs to {sorted(known)}"
                verdict.wrong.append(f"{file.name}: {line}")


def _content(value: np.ndarray) -> bytes:
    return repr(value.shape).encode() + np.ascontiguousarray(value).tobytes()
