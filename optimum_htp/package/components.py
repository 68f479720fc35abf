"""`export.json`: the components of a package that transformers 5 exported by itself (`transformers.exporters`).

It names each component's file and says what was recorded while that was exported. Its format, version 1:
https://github.com/huggingface/transformers/blob/main/src/transformers/exporters/base.py (`ExportedModel.save_pretrained`).
Nothing of it is trusted: it is bounded, and what it names must be files of the package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from optimum_htp.errors import PackageError
from optimum_htp.package.json_files import as_name, as_object, as_text, as_text_or_none, parse_config
from optimum_htp.package.limits import MAX_COMPONENTS
from optimum_htp.package.links import is_inside

EXPORT_MANIFEST = "export.json"
"""The file's name."""

_FORMAT = "onnx"  # what its `export_format` says; transformers exports to others too, whose files are none of ours
_AGAIN = "export or download the package again"
# How the exporters call the tensors of a cache: where a graph takes and returns one, the two are told apart.
_CACHE = re.compile(r"(?:(?P<side>input|output)\.)?(?P<leaf>(?:\w+\.)*?(?:past_key_values|\w*cache\w*)\..+)")


@dataclass(frozen=True, slots=True)
class Component:
    """One component: a stage of generation (`prefill`, `decode`), an encoder, or the whole model.

    Attributes:
        name: Its name.
        file: Its ONNX file, by the path in the package.
        architecture: The class that was exported; None where it is not said.
        versions: Of transformers, torch and so on, by package.
        sizes: The sizes of the inputs that it was exported with, by the name of the input.
    """

    name: str
    file: str
    architecture: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


class Components(tuple[Component, ...]):
    """The components of a package, in the order of generation."""

    __slots__ = ()

    def of_file(self, file: str) -> Component | None:
        """The component that a file is; None if it is none of them."""
        return next((component for component in self if component.file == file), None)

    def missing(self, directory: Path) -> str | None:
        """What is wrong with the files that are named, in a package's directory; None if all of them are there."""
        for component in self:
            file = directory / component.file
            named = f"{EXPORT_MANIFEST} names {component.file} ({component.name})"
            if not is_inside(file, directory):
                return f"{named}, which leads out of the package; do not use it, unless you know who made it and why"
            if not file.is_file():
                return f"{named}, which is not there; {_AGAIN}"
        return None


def with_architectures(config: Mapping[str, Any], components: Components) -> dict[str, Any]:
    """A config with the classes that were exported, where it names none: `save_pretrained` writes them, not the export."""
    named = [component.architecture for component in components if component.architecture is not None]
    return {"architectures": list(dict.fromkeys(named)), **config} if named else dict(config)


def parse_components(content: bytes, *, where: str) -> Components:
    """The components that an `export.json` names; none if that is another tool's file, or of another format.

    Raises:
        PackageError: It is not JSON, or names something else than ONNX files in the package.
    """
    document = parse_config(content, where=where)
    if document.get("export_format") != _FORMAT or not isinstance(document.get("components"), dict):
        return Components()
    listed = document["components"]
    if not 0 < len(listed) <= MAX_COMPONENTS:
        raise PackageError(f"{where}: {len(listed):,} components, which no export has; {_AGAIN}")
    try:
        found = Components(_component(name, entry) for name, entry in listed.items())
    except (TypeError, ValueError) as error:
        raise PackageError(f"{where}: {error}; {_AGAIN}") from error
    files = [component.file for component in found]
    twice = next((file for file in files if files.count(file) > 1), None)
    if twice is not None:
        raise PackageError(f"{where}: {twice!r} is the file of two components; {_AGAIN}")
    return found


def _component(name: str, entry: Any) -> Component:
    recorded = as_object(entry).get("metadata") or {}
    versions = as_object(recorded).get("packages") or {}
    architecture = recorded.get("architecture")
    return Component(
        as_name(name),
        _file(name, entry.get("file")),
        as_name(architecture) if architecture is not None else None,
        {as_name(key): as_text(value) for key, value in as_object(versions).items() if as_text_or_none(value)},
        dict(_sizes("", recorded.get("kwargs") or {})),
    )


def _file(name: str, value: Any) -> str:
    """The path of a component's file. Raises TypeError or ValueError if it is not one in the package."""
    path = as_text(value)
    pure = PurePosixPath(path)
    what = f"the file of the component {name!r:.80} is {path!r:.200}"
    if "\\" in path or "\0" in path or re.match(r"[A-Za-z]:", path) or pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"{what}, outside the package")
    if pure.suffix != ".onnx" or len(path) > 1_000 or any(part.startswith(".") for part in pure.parts):
        raise ValueError(f"{what}, not an ONNX file of it")
    return pure.as_posix()


def _sizes(prefix: str, described: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The sizes of tensors, and of those in mappings, by the names that the graph has for them."""
    for name, entry in as_object(described).items():
        shape, leaves = (as_object(entry).get(key) for key in ("shape", "leaves"))
        if isinstance(shape, list) and all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
            yield f"{prefix}{name}", tuple(shape)
        elif isinstance(leaves, dict) and prefix.count(".") < 8:
            yield from _sizes(f"{prefix}{name}.", leaves)


def cache_leaf(name: str) -> str | None:
    """What an input or output is called in the cache that it is a part of; None if it is not a part of one.

    The output of a step goes into the input of the next that has the same.

    >>> cache_leaf("input.cache.layers.0.keys"), cache_leaf("cache.layers.0.keys"), cache_leaf("input_ids")
    ('cache.layers.0.keys', 'cache.layers.0.keys', None)
    >>> cache_leaf("past_key_values.0.decoder.key") == cache_leaf("present.0.decoder.key")
    True
    """
    if name.startswith("present."):
        return f"past_key_values.{name.removeprefix('present.')}"
    match = _CACHE.fullmatch(name)
    return match["leaf"] if match is not None else None
