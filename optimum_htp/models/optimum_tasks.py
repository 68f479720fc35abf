"""The task that Optimum exports a model for, by its tables, where a package does not say it (`HtpPackage.task`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from optimum_htp.errors import PackageError, needing_optimum
from optimum_htp.package import architectures, read_config


def _tasks_manager() -> Any:
    """Optimum's tables. Raises HtpError if Optimum can't be imported."""
    with needing_optimum("what a model is exported for"):
        from optimum.exporters.tasks import TasksManager
    return TasksManager


def infer_local_task(directory: Path, library: str | None) -> str | None:
    """The task of a local model directory, by its config.json or model_index.json; None if these don't show it."""
    TasksManager = _tasks_manager()
    if library == "timm":
        return "image-classification"
    if library == "sentence_transformers":
        return "feature-extraction"
    if library == "diffusers":
        pipeline = _read_json(directory / "model_index.json").get("_class_name")
        return next(iter(_tasks_of_class(TasksManager._DIFFUSERS_TASKS_TO_MODEL_MAPPINGS, pipeline)), None)
    return _transformers_task(_read_json(directory / "config.json"))


def inferred_task(directory: Path, config: Mapping[str, Any]) -> str | None:
    """The plain task of a package, by the files of its directory, else by the class name in its config."""
    TasksManager = _tasks_manager()
    if "architecture" in config and "model_type" not in config:
        return "image-classification"  # timm
    task = infer_local_task(directory, "transformers") if (directory / "config.json").is_file() else None
    if task is not None:
        return plain_task(task)
    for task, loaders in TasksManager._TRANSFORMERS_TASKS_TO_MODEL_LOADERS.items():
        heads = [loader.removeprefix("AutoModel") for loader in _names(loaders)]
        if any(head and name.endswith(head) for head in heads for name in architectures(config)):
            return str(task)
    return None


def plain_task(task: str | None) -> str | None:
    """A task by Optimum's name for it, without `-with-past`; None if Optimum does not know it."""
    if task is None:
        return None
    TasksManager = _tasks_manager()
    plain = str(TasksManager.map_from_synonym(task)).removesuffix("-with-past")
    return plain if plain in TasksManager.get_all_tasks() else None


def task_of_class(qualified_class: str) -> str | None:
    """The task that a qualified model class of transformers is for; None for any other class, such as an encoder's."""
    package, *inside, name = qualified_class.split(".")
    if package != "transformers" or len(inside) < 2:
        return None
    return _transformers_task({"architectures": [name], "model_type": inside[1]})


def _transformers_task(config: dict[str, Any]) -> str | None:
    """By `architectures`, else by `auto_map`; of several tasks the first that Optimum exports for the model type."""
    TasksManager = _tasks_manager()
    named = architectures(config)
    mappings = TasksManager._TRANSFORMERS_TASKS_TO_MODEL_MAPPINGS
    candidates = [task for name in named for task in _tasks_of_class(mappings, name)]
    candidates += [
        task
        for (_, model_type, task), (_, name) in TasksManager._CUSTOM_CLASSES.items()
        if name in named and model_type == config.get("model_type")
    ]
    loaders = TasksManager._TRANSFORMERS_TASKS_TO_MODEL_LOADERS
    if "feature-extraction" in candidates:
        # Every base model can be loaded for the tasks of AutoModel; a task of its own comes first.
        candidates.sort(key=lambda task: "AutoModel" in _names(loaders.get(task)))
    candidates = candidates or _tasks_of_remote_code(config.get("auto_map"), named)
    supported_types, model_type = TasksManager._SUPPORTED_MODEL_TYPE, str(config.get("model_type"))
    exportable = supported_types.get(model_type.replace("_", "-")) or supported_types.get(model_type, {})
    supported = exportable.get("onnx", {})
    return next((task for task in candidates if task in supported), candidates[0] if candidates else None)


def _tasks_of_remote_code(auto_map: Any, named: list[str]) -> list[str]:
    """The tasks of the auto classes that remote code registers; first, those that load the checkpoint's own class."""
    TasksManager = _tasks_manager()
    if not isinstance(auto_map, dict):
        return []
    own = {name for name, target in auto_map.items() if str(target).rpartition(".")[2] in named}
    return [
        task
        for registered in (own, set(auto_map))
        for task, names in TasksManager._TRANSFORMERS_TASKS_TO_MODEL_LOADERS.items()
        if registered.intersection(_names(names))
    ]


def _tasks_of_class(mappings: dict[str, dict[str, Any]], class_name: Any) -> list[str]:
    return [task for task, known in mappings.items() if any(class_name in _names(names) for names in known.values())]


def _names(names: Any) -> tuple[Any, ...]:
    return tuple(names) if isinstance(names, (tuple, list)) else (names,)


def _read_json(path: Path) -> dict[str, Any]:
    with suppress(PackageError):  # Optimum's own reading of the file says what is wrong with it
        return read_config(path) or {}
    return {}
