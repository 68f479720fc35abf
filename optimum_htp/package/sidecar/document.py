"""The sidecar's record of a file as a JSON document: written, and read back.

What is read is not trusted: every tag has to be that of a module, every number and every string one that an export can
have written. What does not fit raises a KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError or
RecursionError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import starmap
from typing import Any

from optimum_htp.hierarchy import SOURCES, ModuleInfo, ModulePath, ModuleTree, NodeKey, NodeTag, Root, Roots
from optimum_htp.package.json_files import as_count, as_list, as_name, as_object, as_text, as_text_or_none, as_texts
from optimum_htp.package.limits import (
    MAX_CALLS,
    MAX_GRAPH_PATH_CHARACTERS,
    MAX_MODULE_DEPTH,
    MAX_NUMBER,
    MAX_TAG_CHARACTERS,
)
from optimum_htp.package.sidecar.record import FileRecord, StoredParameter

_SOURCES = {source: source for source in SOURCES}  # the one string that stands for each
_KINDS = ("parameter", "constant", "unknown")


def file_document(record: FileRecord) -> dict[str, Any]:
    """What a record is in the sidecar."""
    tags: dict[str, int] = {}
    graphs: dict[str, list[list[Any]]] = {}
    for key, name in record.node_ids.items():
        tag = record.tags[key]
        row: list[Any] = [name, tags.setdefault(tag.tag, len(tags)), tag.call, tag.source]
        if tag.origins:
            row.append([tags.setdefault(origin, len(tags)) for origin in tag.origins])
        graphs.setdefault(key[0], []).append(row)
    document: dict[str, Any] = {
        "digest": record.digest,
        "root_in_model": record.roots[0].in_model if record.roots else None,
        "counts": asdict(record.counts),
        "roots": [_root_document(root) for root in record.roots],
        "tags": list(tags),
        "graphs": graphs,
    }
    if record.parameters:
        document["parameters"] = list(map(_parameter_document, record.parameters))
    if record.renamed:
        document["renamed"] = dict(record.renamed)
    return document


def _root_document(root: Root) -> dict[str, Any]:
    modules = [_module_document(module, root.tree) for module in root.tree]
    traces = {"traces": [trace.rows() for trace in root.traces]} if root.traces else {}
    return {"in_model": root.in_model, "modules": modules, **traces}


def _parameter_document(parameter: StoredParameter) -> dict[str, Any]:
    """What is known of an initializer; what is empty is left out."""
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
    """The dotted path; the list of names if a name has a dot of its own, or is empty."""
    return ".".join(path) if all(name and "." not in name for name in path) else list(path)


def parse_members(document: Any) -> dict[str, Any]:
    """The attributes of a `Sidecar`, from the document that holds one."""
    return {
        "files": {as_text(name): _parse_file(entry) for name, entry in as_object(document["files"]).items()},
        "source": {as_text(key): _scalar(value) for key, value in as_object(document["source"]).items()},
        "timings": {as_text(key): _seconds(value) for key, value in as_object(document["timings"]).items()},
        "versions": {as_text(key): as_text(value) for key, value in as_object(document["versions"]).items()},
    }


def making_modules() -> Callable[[dict[str, Any]], ModuleInfo | dict[str, Any]]:
    """Gives a function that says what stands for an object of the document: of a module, what is known of it.

    It is made as soon as it is read: the objects of all modules at once would be most of what the document takes.
    """
    texts: dict[str, str] = {}  # names and classes repeat, and are stored once
    return lambda entry: _parse_module(entry, texts) if "qualified_class" in entry else entry


def _parse_file(entry: Any) -> FileRecord:
    entries = as_list(entry["roots"])
    trees = [ModuleTree(map(_as_module, as_list(root["modules"]))) for root in entries]
    known = _known_tags(trees)
    roots = Roots(starmap(_parse_root, zip(trees, entries, strict=True)))
    names = as_texts(entry["tags"])
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise ValueError(f"{unknown!r:.80} is the tag of no module")
    names = [known[name] for name in names]
    tags: dict[NodeKey, NodeTag] = {}
    ids: dict[NodeKey, str] = {}
    for graph, rows in as_object(entry["graphs"]).items():
        if len(as_text(graph)) > MAX_GRAPH_PATH_CHARACTERS:
            raise ValueError(f"a graph's path of {len(graph)} characters")
        for index, row in enumerate(as_list(rows)):
            key = graph, index
            ids[key], tags[key] = _parse_row(names, *as_list(row))
            rows[index] = None  # what was read needs no room any more
    if as_object(entry["counts"])["nodes"] != len(tags):
        raise ValueError(f"{len(tags)} nodes, where the counts say another number")
    return FileRecord(
        digest=as_text(entry["digest"]),
        roots=roots,
        tags=tags,
        node_ids=ids,
        parameters=tuple(map(_parse_parameter, as_list(entry.get("parameters", [])))),
        renamed={as_text(new): as_text(old) for new, old in as_object(entry.get("renamed", {})).items()},
    )


def _parse_row(
    names: list[str], node: Any, tag: Any, call: Any, source: Any, origins: Any = ()
) -> tuple[str, NodeTag]:
    """What identifies a node, and its tag."""
    if source not in _SOURCES:
        raise ValueError(f"{source!r:.80} is not a source")
    tag, *listed = (names[as_count(index, len(names))] for index in (tag, *origins))
    return as_text(node), NodeTag(
        tag, _SOURCES[source], None if call is None else as_count(call, MAX_CALLS), tuple(listed)
    )


def _parse_root(tree: ModuleTree, entry: Any) -> Root:
    traces = [list(map(_parse_call, as_list(rows))) for rows in as_list(entry.get("traces", []))]
    return Root.of_rows(tree, as_text_or_none(entry["in_model"]), traces)


def _parse_call(row: Any) -> list[Any]:
    if len(as_list(row)) not in (2, 3):
        raise ValueError(f"{row!r:.80} is not a call")
    return as_list(row)


def _known_tags(trees: Iterable[ModuleTree]) -> dict[str, str]:
    """The tags of all modules, by all their names; by each the one string that stands for it."""
    known: dict[str, str] = {}
    characters = 0
    for tree in trees:
        if () not in tree:
            raise ValueError("a module tree without its root")
        for path in (path for module in tree for path in (module.path, *module.aliases)):
            tag = tree.tag(path)  # a KeyError where a module above is missing
            characters += len(tag)
            if characters > MAX_TAG_CHARACTERS:
                raise ValueError("longer tags than any model has")
            if path and "." not in tag.rpartition("/")[2]:
                raise ValueError(f"{tag!r:.80} has a module without a name")
            known[tag] = tag
    return known


def _parse_parameter(entry: Any) -> StoredParameter:
    kind = as_text(entry["kind"])
    if kind not in _KINDS:
        raise ValueError(f"{kind!r:.80} is not a kind of initializer")
    lists = {key: tuple(as_texts(entry.get(key, []))) for key in ("parameters", "changes", "duplicates", "scale")}
    return StoredParameter(
        **lists,
        zero_point=as_text_or_none(entry.get("zero_point")),
        graph=as_text(entry["graph"]),
        name=as_text(entry["name"]),
        kind=kind,
    )


def _as_module(value: Any) -> ModuleInfo:
    if not isinstance(value, ModuleInfo):
        raise TypeError(f"{value!r:.80} is not a module")
    return value


def _parse_module(entry: dict[str, Any], texts: dict[str, str]) -> ModuleInfo:
    container = entry.get("container", False)
    if not isinstance(container, bool):
        raise TypeError(f"{container!r:.80} is neither true nor false")
    class_name, qualified_class = as_name(entry["class"]), as_text(entry["qualified_class"])
    return ModuleInfo(
        path=_parse_path(entry["path"], texts),
        class_name=texts.setdefault(class_name, class_name),
        qualified_class=texts.setdefault(qualified_class, qualified_class),
        container=container,
        calls=as_count(entry["calls"], MAX_NUMBER),
        parameters=as_count(entry["parameters"], MAX_NUMBER),
        aliases=tuple(_parse_path(alias, texts) for alias in as_list(entry.get("aliases", []))),
    )


def _parse_path(value: Any, texts: dict[str, str]) -> ModulePath:
    names = value if isinstance(value, list) else as_text(value).split(".") if value != "" else []
    if len(names) > MAX_MODULE_DEPTH:
        raise ValueError("the module tree is deeper than any")
    return tuple(texts.setdefault(name, name) for name in map(as_name, names))


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.80} is not a number of seconds")
    return value


def _scalar(value: Any) -> Any:
    if isinstance(value, str):
        return as_text(value)
    if value is None or isinstance(value, bool):
        return value
    return _seconds(value) if isinstance(value, float) else as_count(value, MAX_NUMBER)
