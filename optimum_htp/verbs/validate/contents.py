"""A package, broken or not: what can be read of it, and what is wrong with the rest."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from optimum_htp.errors import OnnxFileError, PackageError
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package import (
    CONFIG,
    MODEL_INDEX,
    HtpFile,
    HtpPackage,
    is_staging,
    partners,
    traits_of,
    with_architectures,
)

MAX_ENTRIES = 100_000  # how many files and directories of a package are checked
_END_BYTES = 1000


class Contents(HtpPackage):
    """A package that may be broken: what is wrong with it is in `problems`, and the rest can be read."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, strict=False)
        for name, file in self.files.items():
            try:
                _ = file.model
            except OnnxFileError as error:
                self.problems[name] = error

    @property
    def readable_files(self) -> dict[str, HtpFile]:
        """The ONNX files that could be read."""
        return {name: file for name, file in self.files.items() if name not in self.problems}

    @property
    def readable(self) -> dict[str, OnnxModel]:
        """The graphs of those."""
        return {name: file.model for name, file in self.readable_files.items()}

    @cached_property
    def origins(self) -> dict[str, str]:
        """The files that were made from others of the package, and from which."""
        traits = traits_of(self.readable_files.values())
        found = partners(traits, traits).values()
        return {each.file: each.other for each in found if each.other is not None and each.other != each.file}

    def has(self, name: str) -> bool:
        """Whether the package has a file."""
        return name in self.packed.encoded if self.packed is not None else (self.directory / name).is_file()

    def ends(self, name: str) -> tuple[bytes, bytes, int]:
        """The first and the last bytes of a file, and how many it has; empty if there is none."""
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

    def lenient(self, name: str) -> dict[str, Any]:
        """The content of a JSON file, empty if there is none or it is broken."""
        try:
            return self.read_json(name) or {}
        except PackageError:
            return {}

    @cached_property
    def main_config(self) -> dict[str, Any]:
        """The content of config.json, empty if there is none or it is broken."""
        return self.lenient(CONFIG)

    @property
    def known_config(self) -> dict[str, Any]:
        """That, with the classes that were exported where it names none."""
        return with_architectures(self.main_config, self.components)

    @property
    def is_pipeline(self) -> bool:
        """Whether this is a diffusion pipeline, whose components have configs of their own."""
        return not self.has(CONFIG) and self.has(MODEL_INDEX)

    @cached_property
    def plain_task(self) -> str | None:
        """What the package was exported for, without `-with-past`."""
        return self.task.removesuffix("-with-past") if self.task is not None else None

    @cached_property
    def library(self) -> str | None:
        """The library that the model is from, as the sidecar says."""
        library = self.sidecar.source.get("library") if self.sidecar is not None else None
        return library if isinstance(library, str) else None

    def entries(self) -> list[Path]:
        """All that is in the package's directory, links not followed; nothing for a single ONNX file."""
        entries: list[Path] = []
        waiting = [self.directory] if self.path.is_dir() else []
        while waiting and len(entries) <= MAX_ENTRIES:
            with suppress(OSError), os.scandir(waiting.pop()) as found:
                inside = [entry for entry in found if not is_staging(entry.name)]
                entries += [Path(entry.path) for entry in inside]
                waiting += [Path(entry.path) for entry in inside if entry.is_dir(follow_symlinks=False)]
        return entries
