"""`export_metadata.json`, the sidecar of a package: what is written to it, and how it is read back.

The sidecar is the authority on what is known of a package: tools that drop the metadata of nodes leave it alone. It is
written last, so that its presence says that the export is complete. What is read is not believed: every tag has to be
that of a module, every number and every string one that an export can have written.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata as importlib_metadata
from pathlib import Path
from typing import Any

from optimum_htp.documents import read_small
from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import (
    SOURCES,
    ModuleInfo,
    ModulePath,
    ModuleTree,
    NodeKey,
    NodeTag,
    split_tag,
)
from optimum_htp.onnxfile import OnnxModel, graph_digest, node_id


SIDECAR = "export_metadata.json"
SCHEMA_VERSION = 1
_LIBRARIES = ("optimum_htp", "optimum", "optimum-onnx", "transformers", "torch", "onnx", "onnxruntime")
_MAX_SIDECAR_BYTES = 1_000_000_000
_MAX_CALL = 1 << 31
_MAX_NUMBER = 1 << 62
_MAX_NAME = 1_000  # characters in the name of a module or its class
_MAX_DEPTH = 500
_MAX_TAG_CHARACTERS = 1 << 25  # in all the tags of a file: a deep tree with long names would fill the memory with them
_MAX_GRAPH_PATH = 4_000
_KINDS = ("parameter", "constant", "unknown")


@dataclass(frozen=True, slots=True)
class TagCounts:
    """How the nodes of a graph were tagged.

    Attributes:
        nodes: Nodes in all, those of bodies and functions included.
        tagged: Nodes whose owner is known.
        unresolved: Nodes of which nothing is known; they carry the root's tag.
        root_by_dataflow: Of the tagged ones, those that data flow alone leaves at the root.
        by_source: Nodes by the kind of evidence that decided them, unresolved ones included.
    """

    nodes: int
    tagged: int
    unresolved: int
    root_by_dataflow: int
    by_source: dict[str, int]

    @classmethod
    def of(cls, tags: Iterable[NodeTag]) -> TagCounts:
        """Counts tags."""
        listed = list(tags)
        by_source = Counter(tag.source for tag in listed)
        at_root = sum(tag.source == "dataflow" and len(split_tag(tag.tag)) == 1 for tag in listed)
        unresolved = by_source["unresolved"]
        return cls(len(listed), len(listed) - unresolved, unresolved, at_root, dict(sorted(by_source.items())))


@dataclass(frozen=True, slots=True)
class StoredParameter:
    """Which parameters a stored tensor was made of; `parameter_map.ParameterRow` says what each word means.

    Attributes:
        graph: The path of the graph that stores it.
        name: Its name.
        kind: `"parameter"`, `"constant"` or `"unknown"`.
        parameters: The parameters that it was made of.
        changes: What was done to them.
        duplicates: Other parameters that it stands for.
        scale: The stored tensors whose product is the scale of a quantized one.
        zero_point: The stored tensor with its zero point.
    """

    graph: str
    name: str
    kind: str
    parameters: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    scale: tuple[str, ...] = ()
    zero_point: str | None = None


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What the sidecar says of one ONNX file.

    Attributes:
        digest: `onnxfile.graph_digest` of the graph that was tagged.
        roots_in_model: For each root module, where it sits in the whole model: a dotted path, `""` for the model
            itself, None where it is no submodule of it.
        trees: The module tree of each root; one, unless a file was merged from exports of different modules.
        tags: A tag for each node.
        node_ids: What identifies each node within its graph (`onnxfile.node_id`).
        parameters: The parameters that its stored tensors were made of, where that was asked for.
        renamed: The old names of stored tensors that were renamed, by their new ones.
    """

    digest: str
    roots_in_model: tuple[str | None, ...]
    trees: tuple[ModuleTree, ...]
    tags: Mapping[NodeKey, NodeTag]
    node_ids: Mapping[NodeKey, str]
    parameters: tuple[StoredParameter, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: OnnxModel, tags: Mapping[NodeKey, NodeTag], *, trees: Mapping[str, tuple[ModuleTree, str | None]]
    ) -> FileRecord:
        """Records a tagged graph; `trees` gives each root's tree and place in the model by its tag."""
        ids = {(path, i): node_id(node, i) for path, graph in model.graphs() for i, node in enumerate(graph.nodes)}
        found = tuple(trees.values())
        return cls(graph_digest(model), tuple(at for _, at in found), tuple(tree for tree, _ in found), tags, ids)

    def keeping(self, earlier: FileRecord | None) -> FileRecord:
        """The record, with what an earlier one says of the file's stored tensors, which tags have no part in."""
        if earlier is None:
            return self
        return replace(self, parameters=earlier.parameters, renamed=earlier.renamed)

    @property
    def counts(self) -> TagCounts:
        """How the nodes were tagged."""
        return TagCounts.of(self.tags.values())


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The content of `export_metadata.json`.

    Attributes:
        files: What is known of each ONNX file, by its path in the package.
        source: Model, revision, task, library, opset and dtype of the export, as far as they are known.
        timings: Seconds spent in Optimum and in the HTP pass.
        versions: The version of each library that took part.
    """

    files: dict[str, FileRecord]
    source: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, directory: Path) -> Path:
        """Writes `export_metadata.json`, atomically.

        Raises:
            PackageError: It could not be written; what was there stands.
        """
        document = {
            "schema_version": SCHEMA_VERSION,
            "versions": self.versions,
            "source": self.source,
            "timings": self.timings,
            "files": {name: _file_document(record) for name, record in self.files.items()},
        }
        path = directory / SIDECAR
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
        # Half of a surrogate pair, as a path that is not UTF-8 has, can't be written.
        write_text_atomically(path, text.encode("utf-8", "replace").decode("utf-8") + "\n")
        return path

    @classmethod
    def read(cls, directory: Path) -> Sidecar | None:
        """Reads `export_metadata.json`; None where there is none.

        Raises:
            PackageError: It is not what an export writes.
        """
        path = directory / SIDECAR
        content = read_small(path, _MAX_SIDECAR_BYTES)
        return None if content is None else cls.parse(content, where=str(path))

    @classmethod
    def parse(cls, content: bytes, *, where: str) -> Sidecar:
        """Reads what `export_metadata.json` holds; `where` names it in errors.

        Raises:
            PackageError: It is not what an export writes.
        """
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise PackageError(f"{where}: not JSON ({error}); delete it and export again") from error
        try:
            return _parse(document)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"[:300]
            message = f"{where}: not written by optimum_htp ({reason}); delete it, export again"
            raise PackageError(" ".join(message.split())) from error


def library_versions() -> dict[str, str]:
    """The installed version of each library that takes part in an export."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib_metadata.version(name)
        except importlib_metadata.PackageNotFoundError:
            continue
    return versions


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a text file so that the path holds the old content or the new, whatever happens.

    Raises:
        PackageError: It could not be written; what was there stands.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            mask = os.umask(0)
            os.umask(mask)
            Path(temporary).chmod(0o666 & ~mask)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PackageError(f"{path}: cannot be written: {error.strerror}; free space or mend permissions") from error


def _file_document(record: FileRecord) -> dict[str, Any]:
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
        "root_in_model": record.roots_in_model[0] if record.roots_in_model else None,
        "counts": {
            "nodes": counts.nodes,
            "tagged": counts.tagged,
            "unresolved": counts.unresolved,
            "root_by_dataflow": counts.root_by_dataflow,
            "by_source": counts.by_source,
        },
        "roots": [
            {"in_model": at, "modules": [_module_document(module, tree) for module in tree]}
            for at, tree in zip(record.roots_in_model, record.trees, strict=True)
        ],
        "tags": list(tags),
        "graphs": graphs,
    }
    if record.parameters:
        document["parameters"] = [_parameter_document(each) for each in record.parameters]
    if record.renamed:
        document["renamed"] = dict(record.renamed)
    return document


def _parameter_document(parameter: StoredParameter) -> dict[str, Any]:
    """What is known of a stored tensor, without what is empty."""
    return {key: value for key, value in asdict(parameter).items() if value or key in ("graph", "name", "kind")}


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


# --- What was read, checked; anything that does not fit raises one of the errors that `Sidecar.parse` catches ---


def _parse(document: Any) -> Sidecar:
    version = document["schema_version"]
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema version {version!r:.80}; this optimum_htp reads version {SCHEMA_VERSION}")
    return Sidecar(
        files={_text(name): _parse_file(entry) for name, entry in _object(document["files"]).items()},
        source={_text(key): _scalar(value) for key, value in _object(document["source"]).items()},
        timings={_text(key): _seconds(value) for key, value in _object(document["timings"]).items()},
        versions={_text(key): _text(value) for key, value in _object(document["versions"]).items()},
    )


def _parse_file(entry: Any) -> FileRecord:
    roots = _list(entry["roots"])
    trees = tuple(ModuleTree(map(_parse_module, _list(root["modules"]))) for root in roots)
    known = _known_tags(trees)
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
        roots_in_model=tuple(_text_or_none(root["in_model"]) for root in roots),
        trees=trees,
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
