"""The sidecar's record of a file as a JSON document."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from optimum_htp.hierarchy import ModuleInfo, ModulePath, ModuleTree, Root
from optimum_htp.package.sidecar.record import FileRecord, StoredParameter


def file_document(record: FileRecord) -> dict[str, Any]:
    """What `reading` makes the record of again."""
    tags: dict[str, int] = {}
    graphs: dict[str, list[list[Any]]] = {}
    for key in record.node_ids:
        tag = record.tags[key]
        row: list[Any] = [record.node_ids[key], tags.setdefault(tag.tag, len(tags)), tag.call, tag.source]
        if tag.origins:
            row.append([tags.setdefault(origin, len(tags)) for origin in tag.origins])
        graphs.setdefault(key[0], []).append(row)
    counts = record.counts
    document: dict[str, Any] = {
        "digest": record.digest,
        "root_in_model": record.roots[0].in_model if record.roots else None,
        "counts": {
            "nodes": counts.nodes,
            "tagged": counts.tagged,
            "unresolved": counts.unresolved,
            "root_by_dataflow": counts.root_by_dataflow,
            "by_source": counts.by_source,
        },
        "roots": [_root_document(root) for root in record.roots],
        "tags": list(tags),
        "graphs": graphs,
    }
    if record.parameters:
        document["parameters"] = [_parameter_document(each) for each in record.parameters]
    if record.renamed:
        document["renamed"] = dict(record.renamed)
    return document


def _root_document(root: Root) -> dict[str, Any]:
    document: dict[str, Any] = {
        "in_model": root.in_model,
        "modules": [_module_document(module, root.tree) for module in root.tree],
    }
    if root.traces:
        document["traces"] = [trace.rows() for trace in root.traces]
    return document


def _parameter_document(parameter: StoredParameter) -> dict[str, Any]:
    """What is known of an initializer, without what is empty."""
    named = {"graph": parameter.graph, "name": parameter.name, "kind": parameter.kind}
    return named | {key: value for key, value in asdict(parameter).items() if value}


def _module_document(module: ModuleInfo, tree: ModuleTree) -> dict[str, Any]:
    document: dict[str, Any] = {
        "path": _path_document(module.path),
        "tag": tree.tag(module.path),
        "class": module.class_name,
        "qualified_class": module.qualified_class,
        "calls": module.calls,
        "parameters": module.parameters,
    }
    if module.container:
        document["container"] = True
    if module.aliases:
        document["aliases"] = [_path_document(alias) for alias in module.aliases]
    return document


def _path_document(path: ModulePath) -> str | list[str]:
    """The dotted path; the list of names where a name has a dot of its own, or is empty."""
    return ".".join(path) if all(name and "." not in name for name in path) else list(path)
