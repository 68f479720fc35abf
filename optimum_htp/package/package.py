"""Packages: the directory that an export leaves, opened for reading; nothing is executed and no weight is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import Hierarchy, NodeKey, NodeTag, Root, Roots
from optimum_htp.onnxfile import OnnxModel, graph_digest, read_model
from optimum_htp.package.archive import read_packed
from optimum_htp.package.configs import task_of
from optimum_htp.package.json_files import parse_config, read_config
from optimum_htp.package.node_metadata import read_tags, trees_of_nodes
from optimum_htp.package.sidecar.record import FileRecord, TagCounts
from optimum_htp.package.sidecar.sidecar import SIDECAR, Sidecar
from optimum_htp.tagging import TaggedGraph


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
        record = self.record
        if (
            record is not None
            and record.tags.keys() == {key for key, _ in self.model.nodes()}
            and record.digest == graph_digest(self.model)
        ):
            return "sidecar"
        return "metadata" if self._node_tags else "none"

    @cached_property
    def tagged(self) -> TaggedGraph:
        """The graph with the tags that the sidecar has for it, else with those that its nodes carry, if any.

        `package.tagged_file` finds those of a graph that a tool changed.
        """
        if self.evidence == "sidecar" and self.record is not None:
            return replace(self.record.tagged(self.model), origin=SIDECAR, name=self.name)
        tags = self._node_tags
        roots = self.record.roots if self.record is not None else Roots()
        if not roots.knows(tags.values()):
            roots = Roots(map(Root, trees_of_nodes(self.model, tags)))
        return TaggedGraph(self.model, tags, roots, "the metadata that its nodes kept", name=self.name)

    @cached_property
    def _node_tags(self) -> Mapping[NodeKey, NodeTag]:
        return read_tags(self.model)

    @property
    def tags(self) -> Mapping[NodeKey, NodeTag]:
        """The tags of the nodes, those that are unresolved included; nodes without any are left out."""
        return self.tagged.tags

    @cached_property
    def hierarchy(self) -> Hierarchy:
        """The modules, and the nodes of each."""
        return Hierarchy(self.tagged.trees, self.tags)

    @property
    def counts(self) -> TagCounts:
        """How the nodes were tagged; nodes without a tag count as unresolved."""
        tags = list(self.tags.values())
        missing = sum(1 for _ in self.model.nodes()) - len(tags)
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
        self.directory = self.path if self.path.is_dir() else package_directory(self.path)
        found = onnx_files(self.path)
        if self.path.is_file():
            found = {self.path.absolute().relative_to(self.directory.absolute()).as_posix(): self.path}
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

    def matching(self, pattern: str | None) -> dict[str, HtpFile]:
        """The ONNX files that a name or a glob means, by their path in the package; all for None.

        Raises:
            PackageError: There is none.
        """
        found = {
            name: file
            for name, file in self.files.items()
            if pattern is None or name == pattern or fnmatchcase(name, pattern)
        }
        if not found:
            raise PackageError(f"{self.path}: no file of it is called {pattern!r}; it has {', '.join(self.files)}")
        return found

    def require_unpacked(self) -> None:
        """Checks that this is no packed file, inside which what is written elsewhere could not be kept in step.

        Raises:
            PackageError: It is one.
        """
        if self.packed is not None:
            raise PackageError(f"{self.path}: a packed file; unpack it first: optimum-cli htp unpack {self.path} DIR")

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The content of config.json (for a diffusers pipeline, model_index.json); None where there is none.

        Raises:
            PackageError: It is no JSON object.
        """
        for name in ("config.json", "model_index.json"):
            if self.packed is None:
                config = read_config(self.directory / name)
            else:
                content = self.packed.read(name)
                config = None if content is None else parse_config(content, where=f"{self.path}: {name}")
            if config is not None:
                return config
        return None

    @property
    def task(self) -> str | None:
        """What it was exported for: as the sidecar says, else by its architecture; None where that is not known.

        Raises:
            PackageError: There is no sidecar, and config.json is no JSON object.
        """
        task = self.sidecar.source.get("task") if self.sidecar is not None else None
        if isinstance(task, str) and task != "auto":
            return task
        task = task_of(self.config or {})
        inputs = (value.name for file in self.files.values() for value in file.model.graph.inputs)
        cached = task == "text-generation" and any(name.startswith("past_key_values") for name in inputs)
        return f"{task}-with-past" if cached else task


def package_directory(file: Path) -> Path:
    """The directory of the package that a single file belongs to: for a component of a pipeline, the one above."""
    above = file.absolute().parent.parent
    return file.parent if (file.parent / SIDECAR).is_file() or not (above / SIDECAR).is_file() else above


def load_package(path: str | Path) -> HtpPackage:
    """Opens an exported package: a directory, or a single ONNX file.

    Raises:
        PackageError: There is no such path, it holds no ONNX file, or its sidecar is broken.

    Example:
        >>> package = load_package("bert_onnx")                                   # doctest: +SKIP
        >>> package.files["model.onnx"].hierarchy.nodes("bert.encoder.layer.0")   # doctest: +SKIP
    """
    return HtpPackage(path)


def as_package(package: str | Path | HtpPackage) -> HtpPackage:
    """The package at a path, or the one that was opened before.

    Raises:
        PackageError: As for `load_package`.
    """
    return package if isinstance(package, HtpPackage) else HtpPackage(package)


def onnx_files(path: Path) -> dict[str, Path]:
    """The ONNX files of a package by their path in it; of a path to a file, that one. Hidden directories don't count.

    Raises:
        PackageError: There is no such path, or no ONNX file in it.
    """
    if path.is_file():
        return {path.name: path}
    if not path.is_dir():
        raise PackageError(f"{path}: no such package; give a directory with ONNX files, or an ONNX file")
    if not os.access(path, os.R_OK | os.X_OK):
        raise PackageError(f"{path}: cannot be read: no permission; mend its permissions")
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
