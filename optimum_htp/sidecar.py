"""`export_metadata.json`, the sidecar of a package: what is written to it, and how it is read back.

The sidecar is the authority on what is known of a package: tools that drop the metadata of nodes leave it alone. It is
written last, so that its presence says that the export is complete.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata as importlib_metadata
from pathlib import Path
from typing import Any

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import (
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
        scale: The stored tensor with the scale of a quantized one.
        zero_point: The stored tensor with its zero point.
    """

    graph: str
    name: str
    kind: str
    parameters: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    scale: str | None = None
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
        write_text_atomically(path, json.dumps(document, separators=(",", ":"), ensure_ascii=False) + "\n")
        return path

    @classmethod
    def read(cls, directory: Path) -> Sidecar | None:
        """Reads `export_metadata.json`; None where there is none.

        Raises:
            PackageError: It is not what an export writes.
        """
        path = directory / SIDECAR
        try:
            if path.stat().st_size > _MAX_SIDECAR_BYTES:
                raise PackageError(f"{path}: too large to be an export's metadata; delete it and export again")
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise PackageError(f"{path}: cannot be read: {error.strerror}") from error
        return cls.parse(content, where=str(path))

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
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            message = f"{where}: not written by optimum_htp ({type(error).__name__}: {error}); delete it, export again"
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
    return {key: value for key, value in asdict(parameter).items() if value or key == "graph"}


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


def _parse_path(value: Any) -> ModulePath:
    names = value if isinstance(value, list) else value.split(".") if value else []
    return tuple(map(str, names))


def _parse(document: Any) -> Sidecar:
    version = document["schema_version"]
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema version {version!r}; this optimum_htp reads version {SCHEMA_VERSION}")
    return Sidecar(
        files={str(name): _parse_file(entry) for name, entry in document["files"].items()},
        source=dict(document["source"]),
        timings=dict(document["timings"]),
        versions=dict(document["versions"]),
    )


def _parse_file(entry: Any) -> FileRecord:
    names = [str(tag) for tag in entry["tags"]]
    tags: dict[NodeKey, NodeTag] = {}
    ids: dict[NodeKey, str] = {}
    for graph, rows in entry["graphs"].items():
        for position, row in enumerate(rows):
            origins = tuple(names[index] for index in row[4]) if len(row) > 4 else ()
            call = None if row[2] is None else int(row[2])
            tags[graph, position] = NodeTag(names[row[1]], str(row[3]), call, origins)
            ids[graph, position] = str(row[0])
    roots = entry["roots"]
    trees = tuple(ModuleTree(map(_parse_module, root["modules"])) for root in roots)
    for tree in trees:
        for module in tree:
            for path in (module.path, *module.aliases):
                tree.tag(path)  # a KeyError where a module above is missing
    return FileRecord(
        digest=str(entry["digest"]),
        roots_in_model=tuple(None if root["in_model"] is None else str(root["in_model"]) for root in roots),
        trees=trees,
        tags=tags,
        node_ids=ids,
        parameters=tuple(map(_parse_parameter, entry.get("parameters", ()))),
        renamed={str(new): str(old) for new, old in entry.get("renamed", {}).items()},
    )


def _parse_parameter(entry: Any) -> StoredParameter:
    parts, changes, duplicates = (
        tuple(map(str, entry.get(key, ()))) for key in ("parameters", "changes", "duplicates")
    )
    scale, zero_point = (None if entry.get(key) is None else str(entry[key]) for key in ("scale", "zero_point"))
    graph, name, kind = (str(entry[key]) for key in ("graph", "name", "kind"))
    return StoredParameter(graph, name, kind, parts, changes, duplicates, scale, zero_point)


def _parse_module(entry: Any) -> ModuleInfo:
    return ModuleInfo(
        path=_parse_path(entry["path"]),
        class_name=str(entry["class"]),
        qualified_class=str(entry["qualified_class"]),
        container=bool(entry.get("container", False)),
        calls=int(entry["calls"]),
        parameters=int(entry["parameters"]),
        aliases=tuple(map(_parse_path, entry.get("aliases", ()))),
    )
