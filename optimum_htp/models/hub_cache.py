"""The small files of a source model, of just the revision that is meant: configs, tokenizer, processor, code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_htp.package import preprocessors_of

# What a model has besides weights; of weights in subdirectories only those of a sentence model's further modules count.
_SMALL_FILES = ("*.json", "*.txt", "*.py", "*.model", "*.jinja", "*.codes", "*.tiktoken")
_WHERE = ("revision", "cache_dir", "token", "local_files_only")


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """Where the small files of a model are.

    Attributes:
        model: The id on the Hub or the directory, as it was given.
        directory: The directory, for an id its snapshot in the Hub's cache.
        places: Where in it to look, the likeliest first: the subfolder that was given, then the top.
        is_complete: Whether all of them are there, so that what is not there does not exist.
    """

    model: str
    directory: Path
    places: tuple[Path, ...]
    is_complete: bool

    def preprocessors(self) -> dict[str, bool]:
        """Whether the model has a `tokenizer` and a `processor`; without those of which that is unknown."""
        found = [preprocessors_of(place) for place in self.places]
        has = {kind: any(each[kind] for each in found) for kind in found[0]}
        return {kind: there for kind, there in has.items() if there or self.is_complete}


def source_files(model: str | Path, *, subfolder: str = "", **where: Any) -> SourceFiles | None:
    """The files of a model, a directory or an id; `where` is what `snapshot_directory` takes. None if they can't be had."""
    directory = local_directory(model)
    is_complete = directory is not None
    if directory is None:
        try:
            directory = snapshot_directory(str(model), **where)
        except Exception:  # of several libraries: the loader says what is wrong
            return None
        is_complete = _has_all(str(model), directory, where)
    places = dict.fromkeys((directory / subfolder, directory))
    return SourceFiles(str(model), directory, tuple(place for place in places if place.is_dir()), is_complete)


def local_directory(model: str | Path) -> Path | None:
    """The directory that a model is; None for an id. A directory here is never taken for an id, whatever its name."""
    try:
        return Path(model) if Path(model).is_dir() else None
    except (OSError, ValueError):  # no path at all
        return None


def snapshot_directory(model: str, **where: Any) -> Path:
    """The directory of an id's small files in the Hub's cache, downloaded if they are not there and the Hub is.

    `where` is what `snapshot_download` takes: the revision, the cache, the token. Raises what the Hub's client does.
    """
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=list(_SMALL_FILES), **_given(where)))


def _given(where: Mapping[str, Any]) -> dict[str, Any]:
    return {name: where[name] for name in _WHERE if where.get(name) is not None}


def _has_all(model: str, directory: Path, where: Mapping[str, Any]) -> bool:
    """Whether a snapshot has all small files that the Hub lists: what was cached by others may be a part."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    if where.get("local_files_only"):
        return False
    try:
        listed = HfApi(token=where.get("token")).list_repo_files(model, revision=where.get("revision"))
    except Exception:  # of several libraries; the cache may well do without the Hub
        return False
    return all((directory / name).is_file() for name in filter_repo_objects(listed, allow_patterns=list(_SMALL_FILES)))
