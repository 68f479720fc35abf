"""Packages: the directory that an export leaves, and `export_metadata.json`, its sidecar.

The sidecar is the authority on what is known of a package: tools that drop the metadata of nodes leave it alone. It is
written last, so that its presence says that the export is complete.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata as importlib_metadata
from pathlib import Path
from typing import Any

from optimum_htp.annotations import read_tags, strip_tags
from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import (
    Hierarchy,
    ModuleInfo,
    ModulePath,
    ModuleTree,
    NodeKey,
    NodeTag,
    split_tag,
    tree_of_tags,
)
from optimum_htp.onnxfile import OnnxModel, graph_digest, node_id, read_model
from optimum_htp.packed import read_packed


SIDECAR = "export_metadata.json"
SCHEMA_VERSION = 1
_LIBRARIES = ("optimum_htp", "optimum", "optimum-onnx", "transformers", "torch", "onnx", "onnxruntime")
_MAX_SIDECAR_BYTES = 1_000_000_000
MAX_CONFIG_BYTES = 50_000_000
"""A config of a few megabytes is already unheard of; a larger file is not read."""


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
class FileRecord:
    """What the sidecar says of one ONNX file.

    Attributes:
        digest: `onnxfile.graph_digest` of the graph that was tagged.
        roots_in_model: For each root module, where it sits in the whole model: a dotted path, `""` for the model
            itself, None where it is no submodule of it.
        trees: The module tree of each root; one, unless a file was merged from exports of different modules.
        tags: A tag for each node.
        node_ids: What identifies each node within its graph (`onnxfile.node_id`).
    """

    digest: str
    roots_in_model: tuple[str | None, ...]
    trees: tuple[ModuleTree, ...]
    tags: Mapping[NodeKey, NodeTag]
    node_ids: Mapping[NodeKey, str]

    @classmethod
    def of(
        cls, model: OnnxModel, tags: Mapping[NodeKey, NodeTag], *, trees: Mapping[str, tuple[ModuleTree, str | None]]
    ) -> FileRecord:
        """Records a tagged graph; `trees` gives each root's tree and place in the model by its tag."""
        ids = {(path, i): node_id(node, i) for path, graph in model.graphs() for i, node in enumerate(graph.nodes)}
        found = tuple(trees.values())
        return cls(graph_digest(model), tuple(at for _, at in found), tuple(tree for tree, _ in found), tags, ids)

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


class HtpFile:
    """One ONNX file of a package; its graph is read when first asked for, its weights never.

    Attributes:
        name: Its path in the package.
        path: Where it is.
    """

    def __init__(self, name: str, path: Path, record: FileRecord | None) -> None:
        self.name = name
        self.path = path
        self.record = record

    @cached_property
    def model(self) -> OnnxModel:
        """The graph.

        Raises:
            OnnxFileError: The file is no ONNX model.
        """
        return read_model(self.path)

    @cached_property
    def evidence(self) -> str:
        """Where the tags are from.

        `"sidecar"`: it describes just this graph. `"metadata"`: that of the nodes; the graph was changed since, or has
        no sidecar. `"none"`: the graph is not tagged.
        """
        if self.record is not None and self.record.digest == graph_digest(self.model):
            return "sidecar"
        return "metadata" if read_tags(self.model) else "none"

    @cached_property
    def tags(self) -> Mapping[NodeKey, NodeTag]:
        """The tags of the nodes, those that are unresolved included; nodes without any are left out."""
        if self.evidence == "sidecar" and self.record is not None:
            return self.record.tags
        return read_tags(self.model)

    @cached_property
    def hierarchy(self) -> Hierarchy:
        """The modules, and the nodes of each."""
        if self.record is not None and self.evidence != "none":
            trees = self.record.trees
            known = {tree.tag(path) for tree in trees for info in tree for path in (info.path, *info.aliases)}
            if all(tag.tag in known for tag in self.tags.values()):
                return Hierarchy(trees, self.tags)
        return Hierarchy(tree_of_tags(self.tags), self.tags)

    @property
    def counts(self) -> TagCounts:
        """How the nodes were tagged; nodes without a tag count as unresolved."""
        tags = list(self.tags.values())
        missing = sum(len(graph.nodes) for _, graph in self.model.graphs()) - len(tags)
        return TagCounts.of([*tags, *(NodeTag("/", "unresolved") for _ in range(missing))])


class HtpPackage:
    """An exported package: a directory as Optimum writes it, or a single ONNX file, packed (`packing`) or not.

    Packages of plain Optimum open too; their files are not tagged. Nothing is executed and no weight is read.

    Attributes:
        path: The directory or the file.
        directory: The directory that file names are relative to.
        packed: What a packed file carries; None for a directory, and for a file that is not packed.
        sidecar: The content of `export_metadata.json`, None where there is none.
        files: The ONNX files by their path in the package.

    Raises:
        PackageError: There is no such path, it holds no ONNX file, or its sidecar is broken.
        OnnxFileError: The path is that of a file, and it is no ONNX model.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.directory = self.path if self.path.is_dir() else self.path.parent
        found = onnx_files(self.path)
        model = read_model(self.path) if self.path.is_file() else None
        self.packed = read_packed(model) if model is not None else None
        if self.packed is None:
            self.sidecar = Sidecar.read(self.directory)
        else:
            # What lies beside a packed file has nothing to do with it.
            content = self.packed.read(SIDECAR)
            where = f"{self.path}: {SIDECAR}"
            self.sidecar = Sidecar.parse(content, where=where) if content is not None else None
        records = self.sidecar.files if self.sidecar is not None else {}
        self.files = {}
        for name, path_of_file in found.items():
            recorded = records.get(name if self.packed is None else self.packed.onnx_name)
            self.files[name] = HtpFile(name, path_of_file, recorded)
            if model is not None:
                self.files[name].model = model

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The content of config.json (for a diffusers pipeline, model_index.json); None where there is none.

        Raises:
            PackageError: It is no JSON object.
        """
        for name in ("config.json", "model_index.json"):
            if self.packed is None:
                config = read_json_object(self.directory / name)
            else:
                content = self.packed.read(name)
                config = None if content is None else _json_object(content, f"{self.path}: {name}")
            if config is not None:
                return config
        return None

    @property
    def task(self) -> str | None:
        """The task that it was exported for, as the sidecar says; None where that is not known."""
        task = self.sidecar.source.get("task") if self.sidecar is not None else None
        return task if isinstance(task, str) else None


def load_package(path: str | Path) -> HtpPackage:
    """Opens an exported package: a directory, or a single ONNX file.

    Raises:
        PackageError: There is no such path, it holds no ONNX file, or its sidecar is broken.

    Example:
        >>> package = load_package("bert_onnx")                                   # doctest: +SKIP
        >>> package.files["model.onnx"].hierarchy.nodes("bert.encoder.layer.0")   # doctest: +SKIP
    """
    return HtpPackage(path)


def strip(path: str | Path) -> list[str]:
    """Removes all that we wrote from a package, or from one ONNX file: Optimum's own bytes are left.

    Args:
        path: The package's directory, or an ONNX file; the sidecar is only deleted with the whole directory.

    Returns:
        The files that were changed or deleted, by their path in the package.

    Raises:
        PackageError: There is no such package.
        HtpError: A file is no ONNX model, or could not be written; it stays as it is.
    """
    path = Path(path)
    files = onnx_files(path)
    for file in files.values():
        # One that is broken, or holds more than tags, is told of before anything is changed.
        if read_packed(read_model(file)) is not None:
            raise PackageError(f"{file}: a packed file; unpack it first: optimum-cli htp unpack {file} DIR")
    changed = []
    sidecar = path / SIDECAR
    if sidecar.is_file():
        # First, for as long as it is there it says that the package is complete.
        try:
            sidecar.unlink()
        except OSError as error:
            raise PackageError(f"{sidecar}: cannot be removed: {error.strerror}") from error
        changed.append(SIDECAR)
    return changed + [name for name, file in files.items() if strip_tags(file)]


def onnx_files(path: Path) -> dict[str, Path]:
    """The ONNX files of a package by their path in it; of a path to a file, that one. Hidden directories don't count.

    Raises:
        PackageError: There is no such path, or no ONNX file in it.
    """
    if path.is_file():
        return {path.name: path}
    if not path.is_dir():
        raise PackageError(f"{path}: no such package; give a directory with ONNX files, or an ONNX file")
    found = {file.relative_to(path): file for file in sorted(path.rglob("*.onnx"))}
    files = {
        relative.as_posix(): file
        for relative, file in found.items()
        if not any(part.startswith(".") for part in relative.parts)
    }
    if not files:
        advice = f"export a model there: optimum-cli export htp -m MODEL {path}"
        raise PackageError(f"{path}: no ONNX file in it; {advice}")
    return files


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Reads a JSON file that should hold an object; None where there is no such file.

    Raises:
        PackageError: It can't be read, is too large, or holds something else.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise PackageError(f"{path}: larger than {MAX_CONFIG_BYTES:,} bytes, which no config is")
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PackageError(f"{path}: cannot be read: {error.strerror}") from error
    return _json_object(content, str(path))


def _json_object(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise PackageError(f"{where}: holds no JSON object")
    return value


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
    return {
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
    )


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
