"""Finds and loads a source model in PyTorch: its configs, the model itself, or its modules without weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from optimum_htp.errors import PackageError, needing_optimum, reason
from optimum_htp.hierarchy import ModuleInfo
from optimum_htp.models.claims import GraphSize, TooManyModulesError
from optimum_htp.models.hub_cache import check_model_name, local_directory, snapshot_directory, source_files
from optimum_htp.models.local_first import local_models
from optimum_htp.models.optimum_tasks import task_of_class
from optimum_htp.models.trust import only_libraries, refuse_named_code
from optimum_htp.onnxfile import OnnxModel, element_type
from optimum_htp.package import MODULES, cache_leaf, is_sentence_graph, read_config

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


# Optimum's names for floating-point types.
FLOAT_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_LIBRARIES = ("diffusers", "sentence_transformers", "timm", "transformers")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's configs are."""

    name: str  # the id on the Hub, or the directory, as it was given
    directory: Path

    def save_configs(self, output: Path, *, trust_remote_code: bool = False) -> None:
        """Writes config, generation config, tokenizer and processor, as Optimum does. Raises PackageError."""
        from transformers import GenerationConfig

        _load_config(self.directory, trust_remote_code=trust_remote_code).save_pretrained(str(output))
        with only_libraries(self.directory, trust_remote_code=trust_remote_code, library=""):
            if (self.directory / "generation_config.json").is_file():
                GenerationConfig.from_pretrained(str(self.directory)).save_pretrained(str(output))
            try:
                from optimum.utils.save_utils import maybe_save_preprocessors
            except ImportError:  # then `complete_package` copies their files
                return
            maybe_save_preprocessors(str(self.directory), output, trust_remote_code=trust_remote_code)


def find_source(model: str | Path, *, revision: str | None = None) -> ModelSource:
    """Finds a model's configs, in a directory, else on the Hub or in its cache. Raises PackageError if it can't."""
    check_model_name(model)
    directory = local_directory(model)
    if directory is None:
        try:
            directory = snapshot_directory(str(model), revision=revision)
        except Exception as error:  # the Hub's client raises errors of several libraries
            raise PackageError(f"{model}: no such directory, and the Hub does not have it: {reason(error)}") from error
    return ModelSource(str(model), directory)


@dataclass(frozen=True, slots=True)
class SourceModel:
    """A source model in PyTorch."""

    model: Any  # or the diffusion pipeline
    task: str  # that it was loaded for, as Optimum names it, with `-with-past` where that is meant
    library: str  # Optimum's name for it
    name: str  # what the user called the model
    float_dtype: str  # Optimum's name for the type of its weights: `"fp32"`, `"fp16"` or `"bf16"`
    preprocessors: list[Any]  # those that could be loaded: some determine sizes of inputs


def load_source_of(
    models: Sequence[OnnxModel],
    name: str | Path,
    *,
    recorded: Mapping[str, Any],
    roots: Iterable[ModuleInfo],
    task: str | None = None,
    trust_remote_code: bool = False,
) -> SourceModel:
    """As `load_source_model`, for the task (see `source_facts`) and in the type that ONNX files were exported with."""
    with needing_optimum(f"loading {name}"):
        import optimum.exporters.tasks  # noqa: F401
    with_past = any(cache_leaf(value.name) is not None for model in models for value in model.graph.inputs)
    # Optimum exports attention weights from the implementation that computes them.
    options: dict[str, Any] = {"attn_implementation": "eager"} if any(map(returns_attentions, models)) else {}
    return load_source_model(
        name,
        **source_facts(recorded, roots, task=task, with_past=with_past),
        dtype=weights_dtype(models),
        revision=recorded_revision(name, recorded),
        trust_remote_code=trust_remote_code,
        **options,
    )


def recorded_revision(name: str | Path, recorded: Mapping[str, Any]) -> str | None:
    """The revision of a model that a package was exported from, as its sidecar has `recorded`; None for any other model."""
    revision = recorded.get("revision")
    return revision if isinstance(revision, str) and recorded.get("model") == str(name) else None


def source_facts(
    recorded: Mapping[str, Any], roots: Iterable[ModuleInfo], *, task: str | None = None, with_past: bool = False
) -> dict[str, Any]:
    """The arguments `task`, `library` and `with_past` of `load_source_model` for a package's source model.

    What the sidecar has `recorded` decides, else the classes of the root modules: a checkpoint can fit several tasks.
    """
    classes = [info.qualified_class for info in roots]
    known = task or recorded.get("task")
    library = recorded.get("library")
    if not isinstance(library, str):
        library = library_of_classes(classes)
    if not isinstance(known, str) or known == "auto":
        known = next(filter(None, map(task_of_class, classes)), None) if library == "transformers" else None
        known = f"{known}-with-past" if known and with_past else known
    return {"task": known, "library": library, "with_past": with_past}


def weights_dtype(models: Iterable[OnnxModel]) -> str:
    """Optimum's name for the floating-point type of the weights: `"fp32"` if any has that, or if there are none."""
    tensors = (tensor for model in models for _, graph in model.graphs() for tensor in graph.initializers)
    types = {element_type(tensor.data_type).name for tensor in tensors}
    return next((dtype for name, dtype in FLOAT_DTYPES.items() if name in types), "fp32")


def returns_attentions(model: OnnxModel) -> bool:
    """Whether the graph returns attention weights: Optimum then loads the model with the eager implementation."""
    names = (value.name.rpartition("_")[2].partition(".")[0] for value in model.graph.outputs)
    return any(name == "attentions" for name in names)


def load_source_model(
    model: str | Path,
    *,
    task: str | None = None,
    library: str | None = None,
    dtype: str | None = None,
    with_past: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> SourceModel:
    """Loads a directory or an id on the Hub as Optimum's export does; None infers. Raises PackageError if it can't.

    `with_past` is for an inferred task, the dtype is `"fp32"` by default, and `options` go to `from_pretrained`.
    """
    check_model_name(model)
    import torch

    with needing_optimum(f"loading {model}"):
        from optimum.exporters.tasks import TasksManager
        from optimum.utils.save_utils import maybe_load_preprocessors

    types = {"fp16": torch.float16, "bf16": torch.bfloat16}
    name = str(model)
    try:
        trusted = only_libraries(name, trust_remote_code=trust_remote_code, library=library, revision=revision)
        with trusted, local_models(revision=revision):
            library = library or TasksManager.infer_library_from_model(name, revision=revision)
            if task is None:
                task = TasksManager.infer_task_from_model(name, revision=revision, library_name=library)
                task += "-with-past" if with_past else ""
            task = TasksManager.map_from_synonym(task)
            loaded = TasksManager.get_model_from_task(
                task,
                name,
                revision=revision,
                framework="pt",
                library_name=library,
                torch_dtype=types.get(dtype or "", torch.float32),
                device="cpu",
                trust_remote_code=trust_remote_code,
                **options,
            )
            files = source_files(name, revision=revision)
            place = str(files.directory) if files is not None else name
            preprocessors = maybe_load_preprocessors(place, trust_remote_code=trust_remote_code)
    except PackageError:  # already one line
        raise
    except Exception as error:  # transformers, diffusers and the Hub's client raise errors of many kinds
        raise PackageError(f"{name}: can't be loaded in PyTorch: {reason(error)}") from error
    if isinstance(loaded, torch.nn.Module):
        loaded.eval()
    TasksManager.standardize_model_attributes(loaded)
    return SourceModel(loaded, str(task), str(library), name, dtype or "fp32", preprocessors)


def model_facts(model: Any) -> dict[str, str | None]:
    """The `library`, `dtype` (Optimum's names) and `revision` of a model or a pipeline; each None if unknown."""
    from optimum.exporters.tasks import TasksManager

    try:
        library = str(TasksManager.infer_library_from_model(model))
    except (ValueError, AttributeError, TypeError):  # none of those that Optimum knows
        library = None
    commit = getattr(getattr(model, "config", None), "_commit_hash", None)
    return {"library": library, "dtype": dtype_of(model), "revision": commit if isinstance(commit, str) else None}


def library_of_classes(qualified: Iterable[str]) -> str | None:
    """Optimum's name for the library of classes; None for any other. Of a pipeline's, transformers comes last.

    >>> library_of_classes(["transformers.models.clip.modeling_clip.CLIPTextModel", "diffusers.models.unets.UNet"])
    'diffusers'
    """
    packages = {name.partition(".")[0] for name in qualified}
    return next((name for name in _LIBRARIES if name in packages), None)


def dtype_of(model: object) -> str | None:
    """Optimum's name for the type of a model's weights, of a pipeline's first component with any; None without weights."""
    import torch

    components = getattr(model, "components", None)
    parts = [model, *(components.values() if isinstance(components, dict) else ())]
    weights = (weight for part in parts if isinstance(part, torch.nn.Module) for weight in part.parameters())
    names = (str(weight.dtype).removeprefix("torch.") for weight in weights if weight.dtype.is_floating_point)
    return next((FLOAT_DTYPES.get(name, name) for name in names), None)


def tensor_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and buffer of a model, by each of the names that it has."""
    parameters = model.named_parameters(remove_duplicate=False)
    buffers = model.named_buffers(remove_duplicate=False)
    return {name: tuple(tensor.shape) for named in (parameters, buffers) for name, tensor in named}


def instantiate_on_meta(
    directory: str | Path,
    *,
    trust_remote_code: bool = False,
    tasks: bool = False,
    attn_implementation: str | None = None,
    graph: GraphSize | None = None,
    exported: Iterable[str] = (),
) -> Iterator[torch.nn.Module]:
    """What a config describes, on torch's `meta` device: models with every module and no weight, made one by one.

    First the classes that were `exported`, as far as they are known, and the `architectures`, then with `tasks` the class of
    each task; all that fail raise PackageError together. So does what is far too large for a `graph`.
    """
    directory = Path(directory)
    config = read_config(directory / "config.json") or {}
    library = "sentence_transformers" if _has_sentence_modules(directory) else "transformers"
    if not trust_remote_code:
        refuse_named_code(directory, library)
    where = str(directory / "config.json")
    if graph is not None:
        graph.check(config, where=where)
    failures: list[str] = []
    made = 0
    options = {"attn_implementation": attn_implementation} if attn_implementation else {}
    makers = _makers(directory, config, options, exported, trust_remote_code=trust_remote_code, tasks=tasks)
    for make in makers:
        try:
            with (
                only_libraries(directory, trust_remote_code=trust_remote_code, library=library),
                graph.limiting(where=where) if graph is not None else nullcontext(),
            ):
                model = make()
        except TooManyModulesError:
            raise
        except Exception as error:  # whatever the model's own constructor raises
            failures.append(reason(error))
            continue
        made += 1
        yield model.eval()
    if not made:
        why = failures[0] if failures else "it names no class in architectures or _class_name that is installed"
        raise PackageError(f"{directory / 'config.json'}: the model can't be made of it: {why}; give --model MODEL")


def _makers(
    directory: Path,
    config: dict[str, Any],
    options: dict[str, Any],
    exported: Iterable[str],
    *,
    trust_remote_code: bool,
    tasks: bool,
) -> Iterator[Callable[[], torch.nn.Module]]:
    """A constructor for each model that a config may describe, the likeliest first."""
    if _has_sentence_modules(directory):
        yield lambda: _sentence_transformer(directory, whole=True, trust_remote_code=trust_remote_code)
    class_name = config.get("_class_name")
    if isinstance(class_name, str):
        yield lambda: _diffusers_component(class_name, config)
        return
    if "model_type" not in config and "architectures" not in config:
        return
    loaded = _load_config(directory, trust_remote_code=trust_remote_code)
    seen: set[Any] = set()
    named = _named_classes(directory, loaded, exported, trust_remote_code=trust_remote_code)
    for cls in chain(named, _task_classes(loaded) if tasks else ()):
        if cls not in seen:
            seen.add(cls)
            yield partial(_on_meta, cls, loaded, **options)
    if tasks:
        yield lambda: _sentence_transformer(directory, whole=False, trust_remote_code=trust_remote_code)


def _has_sentence_modules(directory: Path) -> bool:
    return (directory / MODULES).is_file() and not is_sentence_graph(directory)


def _load_config(directory: Path, *, trust_remote_code: bool) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
        with only_libraries(directory, trust_remote_code=trust_remote_code, library=""):
            config: PretrainedConfig = AutoConfig.from_pretrained(str(directory), **options)
    except (ValueError, OSError, KeyError) as error:
        raise PackageError(f"{directory / 'config.json'}: transformers can't load it: {reason(error)}") from error
    return config


def _named_classes(
    directory: Path, config: PretrainedConfig, exported: Iterable[str], *, trust_remote_code: bool
) -> Iterator[Any]:
    """The models that were exported, and those that a config names."""
    import transformers
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    auto_map = getattr(config, "auto_map", None) or {}
    for name in dict.fromkeys((*exported, *(config.architectures or []))):
        reference = next((target for target in auto_map.values() if str(target).rpartition(".")[2] == name), None)
        cls = getattr(transformers, name, None)
        if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
            cls = None
        if trust_remote_code and isinstance(reference, str):
            cls = get_class_from_dynamic_module(reference, str(directory), local_files_only=True)
        if cls is not None:
            yield cls


def _task_classes(config: PretrainedConfig) -> Iterator[Any]:
    """The class that Optimum loads for each task that it exports a model type for; without it, those of transformers."""
    try:
        from optimum.exporters.tasks import TasksManager
    except ImportError:
        yield from _auto_classes(config)
        return
    try:
        supported = TasksManager.get_supported_tasks_for_model_type(
            config.model_type, "onnx", library_name="transformers"
        )
    except KeyError:
        return
    for task in supported:
        try:
            auto = TasksManager.get_model_class_for_task(task, model_type=config.model_type)
        except (KeyError, ValueError):
            continue
        mapping = getattr(auto, "_model_mapping", None)
        if mapping is None:
            yield auto
        elif type(config) in mapping:
            cls = mapping[type(config)]
            yield from cls if isinstance(cls, tuple) else (cls,)


def _auto_classes(config: PretrainedConfig) -> Iterator[Any]:
    """The class of each of transformers' auto classes that has one for a config."""
    from transformers.models.auto import modeling_auto

    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None) if name.startswith("AutoModel") else None
        if mapping is not None and type(config) in mapping:
            cls = mapping[type(config)]
            yield from cls if isinstance(cls, tuple) else (cls,)


def _without_initialization() -> AbstractContextManager[None]:
    """Makes models without values for their weights."""
    try:
        from transformers.initialization import no_init_weights  # type: ignore[import-not-found, unused-ignore]
    except ImportError:  # before transformers 5
        from transformers.modeling_utils import no_init_weights
    without: AbstractContextManager[None] = no_init_weights()
    return without


def _on_meta(cls: Any, config: Any, **options: Any) -> torch.nn.Module:
    import torch

    def make() -> Any:
        with _without_initialization():
            return cls._from_config(copy.deepcopy(config), **options)

    try:
        with torch.device("meta"):
            model = make()
    except (NotImplementedError, RuntimeError):  # a constructor that looks at values, which meta tensors don't have
        from accelerate import init_empty_weights

        with init_empty_weights(include_buffers=False):
            model = make()
    model.tie_weights()
    return cast("torch.nn.Module", model)


def _diffusers_component(class_name: str, config: dict[str, Any]) -> torch.nn.Module:
    import diffusers
    import torch

    found = getattr(diffusers, class_name)
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise PackageError(f"diffusers' {class_name} is no model")
    cls: Any = found
    with torch.device("meta"):
        return cast("torch.nn.Module", cls.from_config(config))


def _sentence_transformer(directory: Path, *, whole: bool, trust_remote_code: bool) -> torch.nn.Module:
    """A sentence-transformers model, or its first module only, for a directory without modules.json (an export's)."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Transformer

    with _weights_left_out(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the import path, which older releases need
        if whole:
            options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
            model = SentenceTransformer(str(directory), device="meta", **options)
        else:
            model = SentenceTransformer(modules=[Transformer(str(directory))], device="meta")
    return cast("torch.nn.Module", model)


@contextmanager
def _weights_left_out() -> Iterator[None]:
    """Makes transformers' `from_pretrained` create models on the `meta` device."""
    from transformers import AutoConfig, PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    def of_auto(cls: Any, name: str, /, *_: Any, config: Any = None, **options: Any) -> Any:
        trust = bool(options.get("trust_remote_code"))
        loaded = AutoConfig.from_pretrained(name, trust_remote_code=trust) if config is None else config
        classes = cls._model_mapping.get(type(loaded), None)
        if classes is None:
            raise PackageError(f"{name}: {cls.__name__} has no class for {type(loaded).__name__}")
        return _on_meta(classes[0] if isinstance(classes, tuple) else classes, loaded)

    def of_class(cls: Any, name: str, /, *_: Any, config: Any = None, **__: Any) -> Any:
        return _on_meta(cls, cls.config_class.from_pretrained(name) if config is None else config)

    name = "from_pretrained"
    owners: tuple[type, ...] = (_BaseAutoModelClass, PreTrainedModel)
    originals = [owner.__dict__[name] for owner in owners]
    try:
        setattr(_BaseAutoModelClass, name, classmethod(of_auto))
        setattr(PreTrainedModel, name, classmethod(of_class))
        yield
    finally:
        for owner, original in zip(owners, originals, strict=True):
            setattr(owner, name, original)
