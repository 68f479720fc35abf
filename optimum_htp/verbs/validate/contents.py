"""A package as it is found, broken or not: what can be read of it, and what is wrong with the rest."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

from optimum_htp.errors import HtpError, OnnxFileError, PackageError
from optimum_htp.onnxfile import OnnxModel, read_model
from optimum_htp.package import (
    CONFIG,
    MODEL_INDEX,
    SIDECAR,
    HtpFile,
    PackedFiles,
    Sidecar,
    onnx_files,
    parse_config,
    read_config,
    read_packed,
    read_small,
    task_of,
)


MAX_ENTRIES = 100_000
"""How many files and directories of a package are looked at."""

_MAX_SMALL_BYTES = 500_000_000
_END_BYTES = 1000


class Contents:
    """A package as it is found.

    Attributes:
        path: What the user gave: a directory or an ONNX file.
        directory: The directory that names are relative to.
        files: The ONNX files by their path in the package.
        models: What each of them says, or what is wrong with it.

    Raises:
        PackageError: The path is none, or has no ONNX file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.files = onnx_files(self.path)
        self.directory = self.path if self.path.is_dir() else self.path.parent
        self.models: dict[str, OnnxModel | OnnxFileError] = {}
        for name, file in self.files.items():
            try:
                self.models[name] = read_model(file)
            except OnnxFileError as error:
                self.models[name] = error
        self._configs: dict[str, dict[str, Any] | PackageError | None] = {}

    @property
    def readable(self) -> dict[str, OnnxModel]:
        """The ONNX files that could be read."""
        return {name: model for name, model in self.models.items() if isinstance(model, OnnxModel)}

    @cached_property
    def _packed(self) -> PackedFiles | HtpError | None:
        if self.path.is_dir():
            return None
        model = self.models[self.path.name]
        try:
            return read_packed(model) if isinstance(model, OnnxModel) else None
        except HtpError as error:
            return error

    @property
    def packed(self) -> PackedFiles | None:
        """What a packed file carries; None for any other package, and for one that is damaged."""
        return self._packed if isinstance(self._packed, PackedFiles) else None

    @property
    def packed_error(self) -> HtpError | None:
        """What is wrong with what a packed file carries."""
        return self._packed if isinstance(self._packed, HtpError) else None

    def has(self, name: str) -> bool:
        """Whether the package has a file."""
        return name in self.packed.encoded if self.packed is not None else (self.directory / name).is_file()

    def exists(self, name: str) -> bool:
        """Whether there is anything of that name, if only a pipe."""
        return name in self.packed.encoded if self.packed is not None else (self.directory / name).exists()

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None where there is none.

        Raises:
            PackageError: It can't be read.
        """
        if self.packed is not None:
            return self.packed.read(name)
        return read_small(self.directory / name, _MAX_SMALL_BYTES)

    def ends(self, name: str) -> tuple[bytes, bytes, int]:
        """The first and the last bytes of a file, and how many it has; empty where there is none.

        Raises:
            PackageError: It can't be read.
        """
        if self.packed is not None or not self.has(name):
            content = self.read(name) or b""
            return content[:_END_BYTES], content[-_END_BYTES:], len(content)
        try:
            with (self.directory / name).open("rb") as file:
                first = file.read(_END_BYTES)
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _END_BYTES))
                return first, file.read(_END_BYTES), size
        except OSError as error:
            raise PackageError(f"{name}: cannot be read: {error.strerror}") from error

    def config(self, name: str) -> dict[str, Any] | None:
        """The content of a JSON file; None where there is none.

        Raises:
            PackageError: It is no JSON object, or larger or deeper than any config.
        """
        if name not in self._configs:
            try:
                self._configs[name] = self._read_config(name)
            except PackageError as error:
                self._configs[name] = error
        found = self._configs[name]
        if isinstance(found, PackageError):
            raise found
        return found

    def _read_config(self, name: str) -> dict[str, Any] | None:
        if self.packed is None:
            return read_config(self.directory / name)
        content = self.packed.read(name)
        return None if content is None else parse_config(content, where=f"{self.path}: {name}")

    def lenient(self, name: str) -> dict[str, Any]:
        """The content of a JSON file, empty where there is none or it is broken."""
        try:
            return self.config(name) or {}
        except PackageError:
            return {}

    @cached_property
    def main_config(self) -> dict[str, Any]:
        """The content of config.json, empty where there is none or it is broken."""
        return self.lenient(CONFIG)

    @property
    def is_pipeline(self) -> bool:
        """Whether this is a diffusion pipeline, whose components have configs of their own."""
        return not self.has(CONFIG) and self.has(MODEL_INDEX)

    @cached_property
    def sidecar(self) -> Sidecar | PackageError | None:
        """What `export_metadata.json` says, what is wrong with it, or None where there is none."""
        try:
            content = self.read(SIDECAR)
            return None if content is None else Sidecar.parse(content, where=SIDECAR)
        except PackageError as error:
            return error

    @property
    def records(self) -> Sidecar | None:
        """The sidecar, where there is one that can be read."""
        return self.sidecar if isinstance(self.sidecar, Sidecar) else None

    @cached_property
    def tagged_files(self) -> dict[str, HtpFile]:
        """The readable ONNX files with what the sidecar says of each."""
        recorded = self.records.files if self.records is not None else {}
        files = {}
        for name, model in self.readable.items():
            known = recorded.get(name if self.packed is None else self.packed.onnx_name)
            files[name] = HtpFile(name, self.files[name], known)
            files[name].model = model
        return files

    @cached_property
    def task(self) -> str | None:
        """What the package was exported for, without `-with-past`: as the sidecar says, else by its architecture."""
        recorded = self.records.source.get("task") if self.records is not None else None
        if isinstance(recorded, str) and recorded != "auto":
            return recorded.removesuffix("-with-past")
        return task_of(self.main_config)

    @cached_property
    def library(self) -> str | None:
        """The library that the model is from, as the sidecar says."""
        library = self.records.source.get("library") if self.records is not None else None
        return library if isinstance(library, str) else None

    def exported_with(self, kind: str) -> bool:
        """Whether the export put a `tokenizer` or a `processor` into the package; True where no sidecar says."""
        return self.records is None or self.records.source.get(kind) is not False

    def inputs(self) -> set[str]:
        """The names of the inputs of all ONNX files."""
        return {value.name for model in self.readable.values() for value in model.graph.inputs}

    def entries(self) -> list[Path]:
        """All that is in the package's directory, links not followed; nothing for a single ONNX file."""
        if self.path.is_file():
            return []
        found: list[Path] = []
        for directory, names, files in os.walk(self.directory):
            found += [Path(directory, name) for name in (*names, *files)]
            if len(found) > MAX_ENTRIES:
                break
        return found
