"""Makes Optimum take what is here for what is here: a directory for a directory, and what the Hub's cache has for known."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from optimum_htp.models.hub_cache import local_directory, snapshot_directory
from optimum_htp.models.optimum_tasks import infer_local_task

_HUB = "hf_hub:"  # how Optimum writes the name of a model that timm is to load


@contextmanager
def local_models(*, subfolder: str = "", revision: str | None = None, cache_dir: Any = None) -> Iterator[None]:
    """Has Optimum load local models, and infer their tasks; where a timm model is has to be said here."""
    from optimum.exporters.tasks import TasksManager

    replaced: dict[str, Any] = {
        "_infer_task_from_model_name_or_path": lambda original: classmethod(_inferring(original)),
        "get_model_class_for_task": lambda original: staticmethod(
            _of_timm(original, subfolder=subfolder, revision=revision, cache_dir=cache_dir)
        ),
    }
    descriptors = {name: TasksManager.__dict__[name] for name in replaced if name in TasksManager.__dict__}
    originals = {name: getattr(TasksManager, name) for name in descriptors}
    try:
        for name, original in originals.items():
            setattr(TasksManager, name, replaced[name](original))
        yield
    finally:
        for name, descriptor in descriptors.items():
            setattr(TasksManager, name, descriptor)


def _inferring(original: Callable[..., str]) -> Callable[..., str]:
    """Infers the task of a directory by its config, which Optimum refuses to, and so that of an id if the Hub does not say it.

    https://github.com/huggingface/optimum/issues/1556; can go when Optimum reads local and cached configs.
    """
    from optimum.exporters.tasks import TasksManager

    def infer(_: Any, model_name_or_path: str, subfolder: str = "", *args: Any, **kwargs: Any) -> str:
        failure: Exception | None = None
        given = inspect.signature(original).bind(model_name_or_path, subfolder, *args, **kwargs).arguments
        where = {name: given[name] for name in ("revision", "cache_dir", "token") if name in given}
        directory = local_directory(model_name_or_path)
        if directory is None:
            try:
                return original(model_name_or_path, subfolder, *args, **kwargs)
            except Exception as error:  # it can't be reached, or does not know
                failure = error
            with suppress(Exception):  # nor is it in the cache
                directory = snapshot_directory(model_name_or_path, **where, local_files_only=True)
        task = None
        if directory is not None and (directory / subfolder).is_dir():
            library = given.get("library_name")
            with suppress(ValueError, OSError):
                library = library or TasksManager.infer_library_from_model(
                    model_name_or_path, subfolder=subfolder, **where
                )
            task = infer_local_task(directory / subfolder, library)
        if task is None and failure is not None:
            raise failure
        return task or original(model_name_or_path, subfolder, *args, **kwargs)

    return infer


def _of_timm(
    original: Callable[..., Any], *, subfolder: str, revision: str | None, cache_dir: Any
) -> Callable[..., Any]:
    """Has timm load a directory as a directory, and an id in the revision and from the cache that are meant.

    Optimum hands on the name alone, as that of an id (https://github.com/huggingface/optimum/issues/2423).
    """

    def create(make: Callable[..., Any], name: str, **options: Any) -> Any:
        model = name.removeprefix(_HUB)
        directory = local_directory(model)
        if directory is not None:
            return make(f"local-dir:{Path(directory, subfolder)}", **options)
        if cache_dir is not None and "cache_dir" in inspect.signature(make).parameters:
            options = {"cache_dir": str(cache_dir), **options}
        return make(name if revision in (None, "main") else f"{name}@{revision}", **options)

    def class_for_task(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(original).bind(*args, **kwargs).arguments
        made = original(*args, **kwargs)
        return partial(create, made) if given.get("library") == "timm" else made

    return class_for_task
