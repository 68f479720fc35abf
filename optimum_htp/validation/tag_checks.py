"""Checks of what the HTP pass wrote: tags, distinct keys, and a sidecar that is in step with the graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_htp.annotations import owned_keys, read_tags
from optimum_htp.errors import OnnxFileError, PackageError
from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import OnnxModel, node_id
from optimum_htp.onnxfile.opening import mapped
from optimum_htp.onnxfile.wire import fields, last_fields
from optimum_htp.sidecar import SIDECAR
from optimum_htp.validation.contents import Contents
from optimum_htp.validation.report import Finding, failed, good, skipped, warning


if TYPE_CHECKING:
    from optimum_htp.onnxfile.wire import Data


# Field number << 3 | wire type, as in onnx.proto.
_MODEL_GRAPH, _MODEL_FUNCTION, _GRAPH_NODE, _FUNCTION_NODE = 58, 202, 10, 58
_NODE_ATTRIBUTE, _NODE_METADATA, _ATTRIBUTE_G, _ATTRIBUTE_GRAPHS, _ENTRY_KEY = 42, 74, 50, 90, 10


_Span = tuple[int, int, int, int]
"""A graph: where it starts and ends, the field of its nodes, and after how many of them to leave it (-1: never)."""


def check_tags(package: Contents) -> Iterator[Finding]:
    """Every node is tagged."""
    tagged = total = 0
    for name, file in package.tagged_files.items():
        nodes = sum(len(graph.nodes) for _, graph in file.model.graphs())
        tags = file.tags
        unresolved = [key for key, tag in tags.items() if tag.source == "unresolved"]
        missing = nodes - len(tags)
        tagged, total = tagged + len(tags) - len(unresolved), total + nodes
        again = f"tag it: optimum-cli htp tag {package.path}"
        if nodes and not tags:
            yield failed(f"{name}: no node is tagged", again)
        elif missing:
            example = next(_name(file.model, key) for key in _keys(file.model) if key not in tags)
            advice = f"if a tool changed it: optimum-cli htp project {package.path} --from TAGGED; else {again}"
            yield failed(f"{name}: {missing:,} of {nodes:,} nodes are not tagged, such as {example}", advice)
        if unresolved:
            example = _name(file.model, unresolved[0])
            yield warning(f"{name}: of {len(unresolved):,} nodes nothing is known, such as {example}")
    if not package.tagged_files:
        yield skipped("no file could be read")
    else:
        yield good(f"{tagged:,} of {total:,} nodes")


def _keys(model: OnnxModel) -> Iterator[NodeKey]:
    for path, graph in model.graphs():
        for position in range(len(graph.nodes)):
            yield path, position


def _name(model: OnnxModel, key: NodeKey) -> str:
    path, position = key
    node = next(graph for each, graph in model.graphs() if each == path).nodes[position]
    return f"{node.op_type} {node.name or node_id(node, position)!r}"


def check_keys(package: Contents) -> Iterator[Finding]:
    """No node has a metadata key twice: readers differ in which one they take."""
    for name, model in package.readable.items():
        try:
            for where, key in _repeated_keys(package.files[name], len(model.graph.nodes)):
                reason = f"{name}: the node {where} has the metadata key {key!r} twice"
                ours = owned_keys(model)(key)
                again = f"write the tags again: optimum-cli htp project {package.path}"
                yield failed(reason, again if ours else "take one out: readers differ in which they take")
        except OnnxFileError as error:
            yield failed(str(error))
    yield good("each key once per node") if package.readable else skipped("no file could be read")


def _repeated_keys(path: Path, main_nodes: int) -> list[tuple[str, str]]:
    """The nodes, by name or position, that have a metadata key more than once, and the key.

    The main graph is left after its last node, so that the walk does not touch the weights behind it.
    """
    with mapped(path) as (_, data):
        found: list[tuple[str, str]] = []
        graphs: list[_Span] = []
        for tag, _, first, stop in fields(data, 0, len(data), {}):
            if tag == _MODEL_GRAPH:
                graphs.append((first, stop, _GRAPH_NODE, main_nodes))
            elif tag == _MODEL_FUNCTION:
                graphs.append((first, stop, _FUNCTION_NODE, -1))
        while graphs:
            start, end, node_tag, last = graphs.pop()
            position = 0
            for tag, _, first, stop in fields(data, start, end, {}):
                if tag == node_tag:
                    _scan_node(data, first, stop, position, found, graphs)
                    position += 1
                    if position == last:
                        break
        return found


def _scan_node(
    data: Data, start: int, end: int, position: int, found: list[tuple[str, str]], graphs: list[_Span]
) -> None:
    keys: set[bytes] = set()
    for tag, _, first, stop in fields(data, start, end, {}):
        if tag == _NODE_METADATA:
            key = _key(data, first, stop)
            if key in keys:
                name = last_fields(data, start, end, {3: 2}).get(3)
                label = data[slice(*name)].decode(errors="replace") if name else f"#{position}"
                found.append((repr(label or f"#{position}"), key.decode(errors="replace")))
            keys.add(key)
        elif tag == _NODE_ATTRIBUTE:
            for inner, _, at, until in fields(data, first, stop, {}):
                if inner in (_ATTRIBUTE_G, _ATTRIBUTE_GRAPHS):
                    graphs.append((at, until, _GRAPH_NODE, -1))


def _key(data: Data, start: int, end: int) -> bytes:
    """The key of a metadata entry; every writer puts it first, in a few bytes."""
    if end - start > 2 and data[start] == _ENTRY_KEY and data[start + 1] < 0x80:
        stop = start + 2 + data[start + 1]
        if stop <= end and (stop == end or data[stop] != _ENTRY_KEY):
            return data[start + 2 : stop]
    found = last_fields(data, start, end, {1: 2})
    return data[slice(*found[1])] if 1 in found else b""


def check_sidecar(package: Contents) -> Iterator[Finding]:
    """export_metadata.json describes just these graphs."""
    sidecar = package.sidecar
    again = f"tag the package again: optimum-cli htp tag {package.path}"
    if isinstance(sidecar, PackageError):
        yield failed(str(sidecar), f"delete it, then {again}")
        return
    if sidecar is None:
        reason = f"there is no {SIDECAR}: the export did not end, or another tool wrote the package"
        yield warning(reason, again)
        return
    names = set(package.files) if package.packed is None else {package.packed.onnx_name}
    for name in sorted(names - sidecar.files.keys()):
        yield failed(f"{SIDECAR} does not know {name}", again)
    missing = sorted(sidecar.files.keys() - names)
    if missing and package.path.is_dir():
        yield failed(f"{SIDECAR} describes {missing[0]}, which is not there", again)
    for name, file in package.tagged_files.items():
        if file.record is None:
            continue
        if file.evidence != "sidecar":
            advice = f"carry the tags over: optimum-cli htp project {package.path}"
            yield failed(f"{name} was changed after it was described in {SIDECAR}", advice)
            continue
        # A file that is too large for tags has none at all.
        written = read_tags(file.model)
        differing = [key for key, tag in file.record.tags.items() if written and written.get(key) != tag]
        if differing:
            what = f"{len(differing):,} nodes have other tags than in {SIDECAR}, or none"
            advice = f"write them again: optimum-cli htp project {package.path}"
            yield failed(f"{name}: {what}, such as {_name(file.model, differing[0])}", advice)
    if not package.tagged_files:
        yield skipped("there is no graph that could be read")
        return
    yield good("describes just these graphs")
