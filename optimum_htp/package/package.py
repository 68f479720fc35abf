"""Packages: the directory that an export writes, opened for reading; nothing is executed and no weight is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from optimum_htp.errors import HtpError, PackageError, unknown_name
from optimum_htp.hierarchy import Hierarchy, NodeKey, NodeTag, Root, Roots
from optimum_htp.onnxfile import OnnxModel, read_model
from optimum_htp.package.archive import MANIFEST, PackedFiles, read_packed
from optimum_htp.package.components import (
    EXPORT_MANIFEST,
    Components,
    cache_leaf,
    parse_components,
    with_architectures,
)
from optimum_htp.package.configs import CONFIG, MODEL_INDEX, task_of
from optimum_htp.package.copies import roots_of_skeletons, told_apart
from optimum_htp.package.directories import visible_files
from optimum_htp.package.json_files import parse_config, read_small
from optimum_htp.package.limits import MAX_CONFIG_BYTES, MAX_SIDECAR_BYTES, MAX_SMALL_BYTES
from optimum_htp.package.node_metadata import read_tags, trees_of_nodes
from optimum_htp.package.recovery import settle
from optimum_htp.package.sidecar.record import FileRecord, TagCounts
from optimum_htp.package.sidecar.sidecar import SIDECAR, Sidecar
from optimum_htp.tagging import TaggedGraph

_T = TypeVar("_T")


class HtpFile:
    """One ONNX file of a package; its graph is read when first asked for, its weights never.

    Attributes:
        name: Its path in the package.
        path: Where it is.
        record: What the sidecar says of it; None if that is nothing.
    """

    def __init__(self, name: str, path: Path, record: FileRecord | None) -> None:
        self.name = name
        self.path = path
        self.record = record

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {str(self.path)!r})"

    @property
    def directory(self) -> Path:
        """The package's directory."""
        return self.path.absolute().parents[self.name.count("/")]

    @cached_property
    def model(self) -> OnnxModel:
        """The graph.

        Raises:
            OnnxFileError: The file is not an ONNX model.
        """
        return read_model(self.path)

    @cached_property
    def evidence(self) -> str:
        """Where the tags are from.

        `"sidecar"`: it describes just this graph. `"metadata"`: that of the nodes; the graph was changed since, or has
        no sidecar. `"none"`: the graph is not tagged.
        """
        if self.record is not None and self.record.describes(self.model):
            return "sidecar"
        return "metadata" if self._node_tags else "none"

    @cached_property
    def tagged(self) -> TaggedGraph:
        """The graph with the tags that the sidecar has for it, else with those that its nodes carry, if any.

        `tagged_file` finds those of a graph that a tool changed.
        """
        if self.evidence == "sidecar" and self.record is not None:
            return replace(self.record.tagged(self.model), origin=SIDECAR, name=self.name)
        tags, roots = told_apart(self.model, self._node_tags)
        roots = roots or (self.record.roots if self.record is not None else Roots())
        if not roots.knows(tags.values()):
            roots = roots_of_skeletons(self.model)
        if not roots.knows(tags.values()):
            roots = Roots(map(Root, trees_of_nodes(self.model, tags)))
        return TaggedGraph(self.model, tags, roots, "the metadata that its nodes kept", name=self.name)

    @cached_property
    def _node_tags(self) -> Mapping[NodeKey, NodeTag]:
        return read_tags(self.model)

    @property
    def tags(self) -> Mapping[NodeKey, NodeTag]:
        """The tags of the nodes, unresolved ones included; nodes without a tag are left out."""
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


class _Files(dict[str, HtpFile]):
    """The files of a package by name, which says what there is where there is none of a name."""

    def __missing__(self, name: str) -> HtpFile:
        raise unknown_name(name, self, what="ONNX file")


class HtpPackage:
    """An exported package: a directory as Optimum writes it, or a single ONNX file, packed (`pack`) or not.

    Packages of plain Optimum open too; their files are not tagged. Nothing is executed and no weight is read. The public
    class of this name, with the verbs as its methods, is `methods.HtpPackage`.

    Args:
        path: The directory or the file.
        strict: Whether what is broken raises. If not, the package is opened without it, and `problems` has the error.

    Attributes:
        path: The directory or the file.
        directory: The directory that file names are relative to.
        packed: What a packed file carries; None for a directory, and for a file that is not packed.
        sidecar: The content of `export_metadata.json`; None if there is none.
        components: What `export.json` names, if transformers exported the package by itself; else none.
        files: The ONNX files by their path in the package.
        problems: What is wrong with files of the package, by their names, and with what a packed file carries, by
            the key of its manifest; empty if `strict`.

    Raises:
        PackageError: There is no such path, it holds no ONNX file, its sidecar is broken, or its `export.json` is or
            names a file that is not there.
        OnnxFileError: The path is that of a file, and it is not an ONNX model.
    """

    def __init__(self, path: str | Path, *, strict: bool = True) -> None:
        self.path = Path(path)
        self.problems: dict[str, HtpError] = {}
        self._strict = strict
        self.directory, files = onnx_files(self.path)
        self.files: dict[str, HtpFile] = _Files({name: HtpFile(name, file, None) for name, file in files.items()})
        self.packed = self._packed() if self.path.is_file() else None
        self.sidecar = self._unless_broken(SIDECAR, self._read_sidecar)
        self.components = self._unless_broken(EXPORT_MANIFEST, self._read_components) or Components()
        stages = [component.file for component in self.components]  # before those that it does not name
        for name in sorted(self.files, key=lambda name: stages.index(name) if name in stages else len(stages)):
            self.files[name] = self.files.pop(name)
        records = self.sidecar.files if self.sidecar is not None else {}
        for name, file in self.files.items():
            file.record = records.get(name if self.packed is None else self.packed.onnx_name)

    def _unless_broken(self, name: str, read: Callable[[], _T]) -> _T | None:
        try:
            return read()
        except HtpError as error:
            if self._strict:
                raise
            self.problems[name] = error
            return None

    def _packed(self) -> PackedFiles | None:
        (file,) = self.files.values()
        model = self._unless_broken(file.name, lambda: file.model)
        return self._unless_broken(MANIFEST, lambda: read_packed(model)) if model is not None else None

    def _read_sidecar(self) -> Sidecar | None:
        content = self.read(SIDECAR, MAX_SIDECAR_BYTES)
        if content is None:
            return None
        beside_bytes = sum(file.path.stat().st_size for file in self.files.values() if file.path.is_file())
        return Sidecar.parse(content, where=self._where(SIDECAR), beside_bytes=beside_bytes)

    def _read_components(self) -> Components:
        content = self.read(EXPORT_MANIFEST, MAX_CONFIG_BYTES)
        found = Components() if content is None else parse_components(content, where=self._where(EXPORT_MANIFEST))
        problem = found.missing(self.directory) if self.path.is_dir() else None
        if problem is not None:
            raise PackageError(f"{self.path}: {problem}")
        return found

    def _where(self, name: str) -> str:
        return str(self.directory / name) if self.packed is None else f"{self.path}: {name}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def matching(self, pattern: str | None) -> dict[str, HtpFile]:
        """The ONNX files that a name or a glob means, by their path in the package; all for None.

        Without a directory, a name also means the files of that name in any: `model.onnx` is `onnx/model.onnx`, where the
        package has no `model.onnx` beside its config.

        Raises:
            PackageError: There is none.
        """
        if pattern is None:
            return dict(self.files)
        wanted = PurePosixPath(pattern).as_posix()  # without `./`
        for name_of in (str, _base_name) if "/" not in wanted else (str,):
            called = {name: file for name, file in self.files.items() if name_of(name) == wanted}
            matches = called or {name: file for name, file in self.files.items() if fnmatchcase(name_of(name), wanted)}
            if matches:
                return matches
        raise PackageError(f"{self.path}: no file of it is called {pattern!r}; it has {', '.join(self.files)}")

    def require_unpacked(self) -> None:
        """Raises a PackageError if this is a packed file, whose inner files could not be changed along with it."""
        if self.packed is not None:
            raise PackageError(f"{self.path}: a packed file; unpack it first: optimum-cli htp unpack {self.path} DIR")

    def read(self, name: str, limit_bytes: int = MAX_SMALL_BYTES) -> bytes | None:
        """The content of a small file of the package; None if there is none of that name.

        What lies next to a packed file has nothing to do with it.

        Raises:
            PackageError: It can't be read, or is longer than that.
        """
        if self.packed is not None:
            return self.packed.read(name)
        return read_small(self.directory / name, limit_bytes)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The content of a config of the package; None if there is none of that name. Raises what `parse_config` does."""
        content = self.read(name, MAX_CONFIG_BYTES)
        return None if content is None else parse_config(content, where=self._where(name))

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The content of config.json (for a diffusers pipeline, model_index.json); None if there is none.

        Raises:
            PackageError: It is not a JSON object, and the package was opened with `strict`.
        """
        for name in (CONFIG, MODEL_INDEX):
            config = self._unless_broken(name, partial(self.read_json, name))
            if config is not None:
                return config
        return None

    @property
    def task(self) -> str | None:
        """What it was exported for: as the sidecar says, else by its architecture; None if that is unknown.

        Raises:
            PackageError: There is no sidecar, and config.json is not a JSON object.
        """
        task = self.sidecar.source.get("task") if self.sidecar is not None else None
        if isinstance(task, str) and task != "auto":
            return task
        task = task_of(with_architectures(self.config or {}, self.components))
        readable = (file for name, file in self.files.items() if name not in self.problems)
        inputs = (value.name for file in readable for value in file.model.graph.inputs)
        cached = task == "text-generation" and any(cache_leaf(name) is not None for name in inputs)
        return f"{task}-with-past" if cached else task


def _base_name(name: str) -> str:
    return name.rpartition("/")[2]


def as_package(package: str | Path | HtpPackage) -> HtpPackage:
    """The package at a path, opened as `HtpPackage` does, or the one that is given."""
    return package if isinstance(package, HtpPackage) else HtpPackage(package)


def whole_package(package: HtpPackage) -> HtpPackage:
    """The package that a file is in, with the files beside it; a directory, and a packed file, are that themselves."""
    return package if package.path.is_dir() or package.packed is not None else HtpPackage(package.directory)


def path_of(package: str | Path | HtpPackage) -> Path:
    """The path of a package, opened or not."""
    return package.path if isinstance(package, HtpPackage) else Path(package)


def onnx_files(path: Path) -> tuple[Path, dict[str, Path]]:
    """A package's directory and its ONNX files by their path in it, no hidden ones. Raises PackageError for none.

    What a command left that was killed while it wrote there is cleared up first.
    """
    for directory in (path,) if path.is_dir() else _possible_directories(path):
        settle(directory)
    if path.is_file():
        directory = _package_directory(path)
        return directory, {path.absolute().relative_to(directory.absolute()).as_posix(): path}
    if not path.is_dir():
        raise PackageError(f"{path}: no such package; give a directory with ONNX files, or an ONNX file")
    if not os.access(path, os.R_OK | os.X_OK):
        raise PackageError(f"{path}: cannot be read: no permission; fix its permissions")
    found = sorted(file for file in visible_files(path) if file.suffix == ".onnx")
    files = {file.relative_to(path).as_posix(): file for file in found}
    if not files:
        raise PackageError(f"{path}: no ONNX file in it; {_how_to_export(path)}")
    return path, files


def _how_to_export(path: Path) -> str:
    """What to do about a directory without ONNX files."""
    if any((path / name).is_file() for name in (CONFIG, MODEL_INDEX, "modules.json")):
        return f"it is a model, so export it: optimum-cli export htp -m {path} OUTPUT"
    if any(path.iterdir()):
        return "give a package: optimum-cli export htp -m MODEL OUTPUT makes one"
    return f"export a model there: optimum-cli export htp -m MODEL {path}"


def _package_directory(file: Path) -> Path:
    """The directory of a single file's package: its own, or the one above that has the sidecar or the config."""
    for names in ((SIDECAR,), (CONFIG, MODEL_INDEX)):
        for directory in _possible_directories(file):
            if any((directory / name).is_file() for name in names):
                return directory
    return file.parent


def _possible_directories(file: Path) -> tuple[Path, Path]:
    # A component of a pipeline has its sidecar above; `onnx/model.onnx`, as often on the Hub, its config.
    return file.parent, file.absolute().parent.parent
