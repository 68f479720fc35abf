"""`AutoModelForONNX`: a package, or a packed file, as the `ORTModel` of its task, in one line."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from optimum_htp.errors import HtpError, PackageError, needing_optimum
from optimum_htp.models.optimum_tasks import inferred_task, plain_task
from optimum_htp.models.runtime import check_provider
from optimum_htp.models.session_model import generic_config, session_model_class
from optimum_htp.models.trust import only_libraries
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package import (
    HtpFile,
    HtpPackage,
    PackedFiles,
    advice_without_config,
    architectures,
    directory_with_config,
    read_config,
)

logger = logging.getLogger(__name__)

# Task: Optimum's class for one ONNX file, and the outputs that the class reads.
TASK_CLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "audio-classification": ("ORTModelForAudioClassification", ("logits",)),
    "audio-frame-classification": ("ORTModelForAudioFrameClassification", ("logits",)),
    "audio-xvector": ("ORTModelForAudioXVector", ("logits", "embeddings")),
    "automatic-speech-recognition": ("ORTModelForCTC", ("logits",)),
    "feature-extraction": ("ORTModelForFeatureExtraction", ("last_hidden_state",)),
    "fill-mask": ("ORTModelForMaskedLM", ("logits",)),
    "image-classification": ("ORTModelForImageClassification", ("logits",)),
    "image-segmentation": ("ORTModelForSemanticSegmentation", ("logits",)),
    "image-to-image": ("ORTModelForImageToImage", ("reconstruction",)),
    "multiple-choice": ("ORTModelForMultipleChoice", ("logits",)),
    "question-answering": ("ORTModelForQuestionAnswering", ("start_logits", "end_logits")),
    "semantic-segmentation": ("ORTModelForSemanticSegmentation", ("logits",)),
    "text-classification": ("ORTModelForSequenceClassification", ("logits",)),
    "text-generation": ("ORTModelForCausalLM", ("logits",)),
    "token-classification": ("ORTModelForTokenClassification", ("logits",)),
    "zero-shot-image-classification": (
        "ORTModelForZeroShotImageClassification",
        ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"),
    ),
}

# Task: Optimum's class for an encoder and a decoder.
_ENCODER_DECODER = {
    "automatic-speech-recognition": "ORTModelForSpeechSeq2Seq",
    "image-to-text": "ORTModelForVision2Seq",
    "text2text-generation": "ORTModelForSeq2SeqLM",
}

_PIPELINES = {"image-to-image": "ORTPipelineForImage2Image", "inpainting": "ORTPipelineForInpainting"}

# Outputs that only these kinds of segmentation have; Optimum's class would drop them.
_NOT_SEMANTIC = frozenset(("pred_masks", "masks_queries_logits"))

# What a repository holds for other runtimes.
_OTHER_WEIGHTS = "*.safetensors *.h5 *.msgpack *.pt *.pth *.ckpt *.gguf *.ot *pytorch_model*.bin openvino_*".split()


class AutoModelForONNX:
    """Loads an exported package as the `ORTModelForX` of its task, or as the diffusion pipeline that it is.

    The task is the one in `export_metadata.json`, else what `architectures` in config.json says. Where Optimum has no
    class for it, or its class does not fit the graph, the result is a plain `ORTModel` with the graph's outputs by
    name. The result works in `transformers.pipeline` and in Optimum's.

    Example:
        >>> model = AutoModelForONNX.from_pretrained("bert_onnx")                           # doctest: +SKIP
        >>> pipeline("text-classification", model=model, tokenizer=tokenizer)("fine film")  # doctest: +SKIP
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        raise OSError(f"{type(self).__name__} is made by {type(self).__name__}.from_pretrained(path_or_file)")

    @classmethod
    def from_pretrained(cls, model_id: str | Path, *, task: str | None = None, **kwargs: Any) -> Any:
        """Loads a package.

        Args:
            model_id: The package's directory, an ONNX file of it, a packed file (`pack`), or a repository on the Hub.
            task: What the package is for; None reads it from the package.
            **kwargs: What the chosen class of Optimum takes: `provider`, `providers`, `provider_options`,
                `session_options`, `use_io_binding`, `use_cache`, `file_name`, `subfolder`, `config`,
                `trust_remote_code`, `export` and so on. Code that came with the model is only run with
                `trust_remote_code=True`, and a config of an unknown type loads without it.

        Returns:
            An `ORTModel`, or an `ORTDiffusionPipeline`. What a packed file holds in addition to the model is in a
            temporary directory, `model.model_save_dir`, as long as the model exists: load the tokenizer from it.

        Raises:
            HtpError: The package is incomplete, does not say what it is, or a provider is not installed; the message
                says what to do.
            Exception: Whatever Optimum or ONNX Runtime raises.
        """
        with needing_optimum(cls.__name__):
            from optimum.onnxruntime import ORTModel  # noqa: F401 (the module itself imports nothing)
        provider = None
        if kwargs.get("providers"):
            kwargs["providers"] = [check_provider(name) for name in kwargs["providers"]]
            provider = kwargs["providers"][0]
        elif kwargs.get("provider"):
            provider = kwargs["provider"] = check_provider(kwargs["provider"])
        path = Path(model_id)
        above = directory_with_config(path) if path.is_dir() else None
        if above is not None:
            kwargs["subfolder"] = str(PurePosixPath(path.name, kwargs.get("subfolder") or ""))
            path = above
        if path.is_file():
            model = _load_file(path, task, kwargs)
        else:
            model = _load_directory(path if path.is_dir() else _download(str(model_id), kwargs), task, kwargs)
        # ONNX Runtime falls back to the CPU when a provider's own libraries are missing.
        if provider is not None and provider not in model.providers:
            advice = "its libraries (CUDA, cuDNN, TensorRT) were not found or do not fit, the lines above say which"
            raise HtpError(f"{provider} could not be started, only {', '.join(model.providers)}: {advice}")
        return model


@dataclass(frozen=True, slots=True)
class _Opened:
    """What is known of a package before anything is loaded."""

    directory: Path
    config: dict[str, Any]  # the content of config.json or model_index.json
    task: str | None  # without `-with-past`; None where it is unknown
    files: dict[str, HtpFile]  # by path, those of the subfolder only if the caller named one

    def has(self, word: str) -> bool:
        """Whether any file has a word in its name."""
        return any(word in name.rpartition("/")[2] for name in self.files)


def _load_file(path: Path, task: str | None, kwargs: dict[str, Any]) -> Any:
    package = HtpPackage(path)
    if package.packed is None:
        (name,) = package.files
        if "/" in name:  # as in many repositories: `onnx/model.onnx`, with the config above
            kwargs = {**kwargs, "subfolder": name.rpartition("/")[0]}
        return _load_directory(package.directory, task, {**kwargs, "file_name": path.name})
    scratch = _small_files(package.packed, path)
    name = Path(package.packed.onnx_name).name
    # Optimum's models keep the directory as long as they exist; at exit it is removed at the latest.
    return _load_directory(Path(scratch.name), task, {**kwargs, "file_name": name, "model_save_dir": scratch})


def _small_files(packed: PackedFiles, path: Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary directory with the files that are packed in an ONNX file, and a link to that."""
    scratch = tempfile.TemporaryDirectory(prefix="optimum-htp-", ignore_cleanup_errors=True)
    for name in packed.encoded:
        target = Path(scratch.name, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(packed.read(name) or b"")
    link = Path(scratch.name, packed.onnx_name)
    link.parent.mkdir(parents=True, exist_ok=True)
    for make in (os.symlink, os.link, shutil.copyfile):  # the system, or the file system, may have no links
        try:
            make(path.resolve(), link)
            break
        except OSError:
            if make is shutil.copyfile:
                raise
    return scratch


def _download(model_id: str, kwargs: Mapping[str, Any]) -> Path:
    """The snapshot of a repository on the Hub, from the cache where the Hub can't be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    names = ("revision", "cache_dir", "token", "force_download", "local_files_only")
    options = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
    try:
        unwanted = None if kwargs.get("export") else _OTHER_WEIGHTS
        return Path(snapshot_download(model_id, ignore_patterns=unwanted, **options))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        advice = "give a directory with ONNX files, an ONNX file, or a repository that can be reached or is cached"
        raise PackageError(f"{model_id}: no such package; {advice}") from error


def _load_directory(directory: Path, task: str | None, kwargs: dict[str, Any]) -> Any:
    folder, _, last = str(kwargs.get("file_name") or "").rpartition("/")
    if folder:  # `onnx/model_q4.onnx`, of which Optimum wants the parts
        kwargs = {**kwargs, "file_name": last, "subfolder": str(PurePosixPath(kwargs.get("subfolder") or "", folder))}
    opened = _open(directory, task, kwargs)
    if "_class_name" in opened.config and "model_type" not in opened.config:
        return _load_pipeline(opened, kwargs)
    name, extra = _choose(opened, kwargs)
    if kwargs.get("config") is None and _needs_generic_config(opened.config, kwargs):
        extra["config"] = generic_config(opened.config, where=str(directory))
    with _only_libraries(opened, kwargs, None if kwargs.get("export") else ""):
        loaded = _class(name, opened).from_pretrained(directory, **{**extra, **kwargs})
    if not hasattr(loaded, "main_input_name"):
        # transformers' speech recognition pipeline asks for it, and ORTModelForCTC of optimum-onnx 0.1 has none.
        loaded.main_input_name = next(iter(loaded.input_names), "")
    logger.info("%s is loaded as %s (task %s).", directory, type(loaded).__name__, opened.task)
    return loaded


def _open(directory: Path, task: str | None, kwargs: Mapping[str, Any]) -> _Opened:
    subfolder = kwargs.get("subfolder") or ""
    if kwargs.get("export"):
        config, recorded, files = _read_config(directory / subfolder), None, {}
    else:
        package = HtpPackage(directory)
        inside = f"{Path(subfolder).as_posix()}/" if subfolder else ""
        files = {name: file for name, file in package.files.items() if name.startswith(inside)}
        if not files:
            raise PackageError(f"{directory}: no ONNX file in its subfolder {subfolder!r}")
        config, recorded = _read_config(directory / subfolder) or package.config, package.task
    if config is None:  # also where the caller has one: Optimum looks into the file to see which library this is of
        advice = advice_without_config(directory)
        raise PackageError(f"{directory}: no config.json in it, which says what kind of model this is; {advice}")
    override = kwargs.get("config")
    if isinstance(override, (str, os.PathLike)):
        config = _read_config(Path(override)) or config
    elif override is not None:
        config = override.to_dict() or config
    task = None if task == "auto" else task
    if task is not None and plain_task(task) is None:
        from optimum.exporters.tasks import TasksManager

        raise HtpError(f"Optimum knows no task {task!r}: give one of {', '.join(TasksManager.get_all_tasks())}")
    return _Opened(directory, config, plain_task(task or recorded) or inferred_task(directory, config), files)


def _read_config(directory: Path) -> dict[str, Any] | None:
    config = read_config(directory / "config.json")
    return config if config is not None else read_config(directory / "model_index.json")


def _choose(opened: _Opened, kwargs: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The class of Optimum that fits, None for ours, and the options that it needs."""
    task = opened.task or ""
    if not opened.files:
        name = TASK_CLASSES.get(task, (None,))[0]
        is_ctc = any(architecture.endswith("ForCTC") for architecture in architectures(opened.config)[:1])
        encoder_decoder = opened.config.get("is_encoder_decoder") or not is_ctc
        return (_ENCODER_DECODER.get(task, name) if encoder_decoder else name), {}
    if opened.has("encoder") and opened.has("decoder") and not kwargs.get("file_name"):
        return _choose_encoder_decoder(opened, kwargs)
    if task == "text-generation" and opened.has("decoder") and not kwargs.get("file_name"):
        return "ORTModelForCausalLM", {}  # as Optimum wrote decoders before 1.15; it chooses the file itself
    file = _main_file(opened, kwargs.get("file_name"))
    extra: dict[str, Any] = {"file_name": file.path.name}
    name = _fitting_class(opened, file.model)
    if name == "ORTModelForCausalLM":
        # Optimum's default is to use the cache, which fails at the first token of a model without one.
        extra["use_cache"] = any(value.name.startswith("past_key_values") for value in file.model.graph.inputs)
    return name, extra


def _choose_encoder_decoder(opened: _Opened, kwargs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name = _ENCODER_DECODER.get(opened.task or "")
    if name is None:
        listed = ", ".join(sorted(opened.files))
        advice = "load one of them with file_name=NAME"
        raise PackageError(f"{opened.directory}: Optimum has no class for {opened.task} in {listed}; {advice}")
    if opened.config.get("model_type") == "pix2struct":
        name = "ORTModelForPix2Struct"
    if any(kwargs.get(option) for option in ("decoder_file_name", "decoder_with_past_file_name")):
        return name, {}
    # By default Optimum warns or fails where one of these files is missing.
    return name, {} if opened.has("merged") else {"use_merged": False, "use_cache": opened.has("with_past")}


def _main_file(opened: _Opened, file_name: str | None) -> HtpFile:
    """The file to load: the one that the caller names, else model.onnx, else the only one."""
    files = list(opened.files.values())
    if file_name is None and len(files) == 1:
        return files[0]
    for file in files:
        if file.path.name == (file_name or "model.onnx"):
            return file
    listed = ", ".join(sorted(opened.files))
    problem = f"no file {file_name!r} among" if file_name else "several ONNX files, and which to load is open:"
    raise PackageError(f"{opened.directory}: {problem} {listed}; give file_name=NAME")


def _fitting_class(opened: _Opened, model: OnnxModel) -> str | None:
    """Optimum's class for the task, if it takes the graph's inputs and reads outputs that the graph has."""
    import optimum.onnxruntime

    name, needed = TASK_CLASSES.get(opened.task or "", (None, ()))
    outputs = {value.name for value in model.graph.outputs}
    if name is not None and not outputs.issuperset(needed):
        # `architectures` names the class of the checkpoint, even where only its trunk was exported.
        name, needed = TASK_CLASSES["feature-extraction"]
    if name is None or not outputs.issuperset(needed):
        return None
    if name == "ORTModelForCausalLM":
        # The class reads the sizes of the cache from the config.
        sizes = ("hidden_size", "num_attention_heads")
        return name if _is_known(opened.config) or all(size in opened.config for size in sizes) else None
    if opened.task == "image-segmentation" and outputs & _NOT_SEMANTIC:
        return None
    taken = inspect.signature(getattr(optimum.onnxruntime, name).forward).parameters
    return name if all(value.name in taken for value in model.graph.inputs) else None


def _class(name: str | None, opened: _Opened) -> Any:
    import optimum.onnxruntime
    from optimum.exporters.tasks import TasksManager

    if name is not None:
        return getattr(optimum.onnxruntime, name)
    loaders = TasksManager._TRANSFORMERS_TASKS_TO_MODEL_LOADERS.get(opened.task or "", "AutoModel")
    return session_model_class(_auto_class(opened.config, (loaders,) if isinstance(loaders, str) else loaders))


def _auto_class(config: Mapping[str, Any], loaders: Sequence[str]) -> str:
    """Of the transformers classes that load models of a task, the one that has the architecture."""
    import transformers

    for loader in loaders:
        mapping = getattr(getattr(transformers, loader, None), "_model_mapping", None)
        known = mapping._model_mapping.values() if mapping is not None else ()
        classes = {name for names in known for name in (names if isinstance(names, tuple) else (names,))}
        if not classes.isdisjoint(architectures(config)):
            return loader
    return next((loader for loader in loaders if hasattr(transformers, loader)), "AutoModel")


def _is_known(config: Mapping[str, Any]) -> bool:
    from transformers import CONFIG_MAPPING

    return config.get("model_type") in CONFIG_MAPPING


def _needs_generic_config(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether `AutoConfig` would refuse a config; ONNX Runtime does not need its type to be known."""
    if _is_known(config) or ("architecture" in config and "model_type" not in config):
        return False
    return not (kwargs.get("trust_remote_code") and "auto_map" in config)


def _load_pipeline(opened: _Opened, kwargs: dict[str, Any]) -> Any:
    if importlib.util.find_spec("diffusers") is None:
        raise HtpError(f"{opened.directory}: a diffusion pipeline, which needs diffusers: pip install diffusers")
    import optimum.onnxruntime

    name = _PIPELINES.get(opened.task or "", "ORTDiffusionPipeline")
    with _only_libraries(opened, kwargs, "diffusers"):
        return getattr(optimum.onnxruntime, name).from_pretrained(opened.directory, **kwargs)


def _only_libraries(opened: _Opened, kwargs: Mapping[str, Any], library: str | None) -> AbstractContextManager[None]:
    """No code of the package runs unless the caller said so."""
    trust = bool(kwargs.get("trust_remote_code"))
    return only_libraries(opened.directory, trust_remote_code=trust, library=library)
