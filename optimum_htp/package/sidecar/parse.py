"""The sidecar's record of a file, read from JSON that is not believed.

Every tag has to be that of a module, every number and every string one that an export can have written. Whatever does not
fit raises a KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError or RecursionError.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import starmap
from typing import Any

from optimum_htp.hierarchy import SOURCES, ModuleInfo, ModulePath, ModuleTree, NodeKey, NodeTag, Root, Roots, split_tag
from optimum_htp.package.sidecar.record import FileRecord, StoredParameter


_MAX_CALL = 1 << 31
_MAX_NUMBER = 1 << 62
_MAX_NAME = 1_000  # characters in the name of a module or its class
_MAX_DEPTH = 500
_MAX_TAG_CHARACTERS = 1 << 25  # in all the tags of a file: a deep tree with long names would fill the memory with them
_MAX_GRAPH_PATH = 4_000
_KINDS = ("parameter", "constant", "unknown")


def parse_members(document: Any) -> dict[str, Any]:
    """The attributes of a `Sidecar`, from the document that holds one."""
    return {
        "files": {_text(name): _parse_file(entry) for name, entry in _object(document["files"]).items()},
        "source": {_text(key): _scalar(value) for key, value in _object(document["source"]).items()},
        "timings": {_text(key): _seconds(value) for key, value in _object(document["timings"]).items()},
        "versions": {_text(key): _text(value) for key, value in _object(document["versions"]).items()},
    }


def _parse_file(entry: Any) -> FileRecord:
    entries = _list(entry["roots"])
    trees = [ModuleTree(map(_parse_module, _list(root["modules"]))) for root in entries]
    known = _known_tags(trees)
    roots = Roots(starmap(_parse_root, zip(trees, entries, strict=True)))
    names = _texts(entry["tags"])
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise ValueError(f"{unknown!r:.80} is the tag of no module")
    tags: dict[NodeKey, NodeTag] = {}
    ids: dict[NodeKey, str] = {}
    for graph, rows in _object(entry["graphs"]).items():
        if len(_text(graph)) > _MAX_GRAPH_PATH:
            raise ValueError(f"a graph's path of {len(graph)} characters")
        for position, row in enumerate(_list(rows)):
            ids[graph, position], tags[graph, position] = _parse_row(names, *_list(row))
    if _object(entry["counts"])["nodes"] != len(tags):
        raise ValueError(f"{len(tags)} nodes, where the counts say another number")
    return FileRecord(
        digest=_text(entry["digest"]),
        roots=roots,
        tags=tags,
        node_ids=ids,
        parameters=tuple(map(_parse_parameter, _list(entry.get("parameters", [])))),
        renamed={_text(new): _text(old) for new, old in _object(entry.get("renamed", {})).items()},
    )


def _parse_row(
    names: list[str], node: Any, tag: Any, call: Any, source: Any, origins: Any = ()
) -> tuple[str, NodeTag]:
    """What identifies a node, and its tag."""
    if source not in SOURCES:
        raise ValueError(f"{source!r:.80} is no source")
    if call is not None:
        _count(call, _MAX_CALL)
    listed = tuple(names[_count(index, len(names))] for index in (_list(origins) if origins != () else ()))
    return _text(node), NodeTag(names[_count(tag, len(names))], source, call, listed)


def _parse_root(tree: ModuleTree, entry: Any) -> Root:
    traces = [list(map(_parse_call, _list(rows))) for rows in _list(entry.get("traces", []))]
    return Root.of_rows(tree, _text_or_none(entry["in_model"]), traces)


def _parse_call(row: Any) -> list[Any]:
    if len(_list(row)) not in (2, 3):
        raise ValueError(f"{row!r:.80} is not a call")
    return _list(row)


def _known_tags(trees: Iterable[ModuleTree]) -> set[str]:
    """The tags of all modules, by all their names."""
    known: set[str] = set()
    characters = 0
    for tree in trees:
        if () not in tree:
            raise ValueError("a module tree without its root")
        for path in (path for module in tree for path in (module.path, *module.aliases)):
            tag = tree.tag(path)  # a KeyError where a module above is missing
            characters += len(tag)
            if characters > _MAX_TAG_CHARACTERS:
                raise ValueError("longer tags than any model has")
            if not all("." in segment for segment in split_tag(tag)[1:]):
                raise ValueError(f"{tag!r:.80} has a module without a name")
            known.add(tag)
    return known


def _parse_parameter(entry: Any) -> StoredParameter:
    kind = _text(entry["kind"])
    if kind not in _KINDS:
        raise ValueError(f"{kind!r:.80} is no kind of stored tensor")
    listed = (tuple(_texts(entry.get(key, []))) for key in ("parameters", "changes", "duplicates", "scale"))
    parts, changes, duplicates, scale = listed
    graph, name, zero_point = _text(entry["graph"]), _text(entry["name"]), _text_or_none(entry.get("zero_point"))
    return StoredParameter(graph, name, kind, parts, changes, duplicates, scale, zero_point)


def _parse_module(entry: Any) -> ModuleInfo:
    container = entry.get("container", False)
    if not isinstance(container, bool):
        raise TypeError(f"{container!r:.80} is neither true nor false")
    return ModuleInfo(
        path=_parse_path(entry["path"]),
        class_name=_name(entry["class"]),
        qualified_class=_text(entry["qualified_class"]),
        container=container,
        calls=_count(entry["calls"], _MAX_NUMBER),
        parameters=_count(entry["parameters"], _MAX_NUMBER),
        aliases=tuple(map(_parse_path, _list(entry.get("aliases", [])))),
    )


def _parse_path(value: Any) -> ModulePath:
    names = value if isinstance(value, list) else _text(value).split(".") if value != "" else []
    if len(names) > _MAX_DEPTH:
        raise ValueError("the module tree is deeper than any")
    return tuple(map(_name, names))


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.80} is no object")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.80} is no list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no string")
    if not value.isascii():
        value.encode("utf-8")  # a ValueError for half of a surrogate pair
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _texts(value: Any) -> list[str]:
    return [_text(each) for each in _list(value)]


def _name(value: Any) -> str:
    if len(_text(value)) > _MAX_NAME:
        raise ValueError(f"a name of {len(value)} characters")
    return _text(value)


def _count(value: Any, limit: int) -> int:
    """A number from 0 on and below the limit."""
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError(f"{value!r:.80} is no number from 0 to {limit - 1}")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.80} is no number of seconds")
    return value


def _scalar(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return value
    return _seconds(value) if isinstance(value, float) else _count(value, _MAX_NUMBER)
