"""Checks of the files next to the graphs: config, labels, generation config, tokenizer and processor, custom code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optimum_htp.errors import PackageError
from optimum_htp.package import (
    CONFIG,
    GENERATION_CONFIG,
    MANIFEST,
    MODEL_INDEX,
    PROCESSOR_FILES,
    TOKENIZER_CONFIG,
    VOCABULARY_FILES,
    advice_without_config,
    architectures,
    code_files,
    generates,
    parse_config,
)
from optimum_htp.verbs.validate.contents import Contents
from optimum_htp.verbs.validate.report import Finding, failed, good, skipped, warning

_TRANSFORMERS_LIKE = (None, "transformers", "diffusers", "sentence_transformers", "timm")

# By task, which axis of the output `logits` has the labels, and how many axes there are; None for any number.
_LOGITS: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys(("text-classification", "image-classification", "audio-classification"), (-1, 2)),
    **dict.fromkeys(("token-classification", "audio-frame-classification", "object-detection"), (-1, None)),
    **dict.fromkeys(("semantic-segmentation", "image-segmentation"), (1, 4)),
}

# By input of a graph, what a pipeline needs to prepare it, and the files, one of which has that.
_TOKENIZER = ("a tokenizer", (TOKENIZER_CONFIG, *VOCABULARY_FILES))
_PREPROCESSORS: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(("input_ids", "decoder_input_ids"), _TOKENIZER),
    **dict.fromkeys(("pixel_values", "flattened_patches"), ("an image processor", PROCESSOR_FILES)),
    **dict.fromkeys(("input_features", "input_values"), ("a feature extractor", PROCESSOR_FILES)),
}

# Tasks whose outputs are decoded into text.
_DECODING = frozenset(("automatic-speech-recognition", "image-to-text"))
# Tasks with inputs of these names that are neither text nor audio: nothing has to prepare them.
_PREPARED_BY_NOTHING = frozenset(("time-series-forecasting", "reinforcement-learning"))

_PARSED_TOKENIZER_BYTES = 200_000

_GENERATING_TASKS = frozenset(("text-generation", "text2text-generation", "image-to-text"))


def check_config(package: Contents) -> Iterator[Finding]:
    """config.json is there, can be read, and says what kind of model this is."""
    if MANIFEST in package.problems:
        yield failed(str(package.problems[MANIFEST]))
    if package.is_pipeline:
        yield from _check_pipeline(package)
        return
    try:
        config = package.read_json(CONFIG)
    except PackageError as error:
        yield failed(str(error), _rewrite(package))
        return
    if config is None:
        yield failed(
            f"there is no {CONFIG}, which says what kind of model this is", advice_without_config(package.path)
        )
        return
    yield from _check_kind(package, config)


def _repair(package: Contents) -> str:
    return f"optimum-cli htp tag {package.path} --model MODEL"


def _rewrite(package: Contents) -> str:
    return f"fix it, or delete it and write it again: {_repair(package)}"


def _check_kind(package: Contents, config: Mapping[str, Any]) -> Iterator[Finding]:
    if "architecture" in config and "model_type" not in config:  # as timm writes it
        if not isinstance(config["architecture"], str):
            yield failed(f"{CONFIG}: `architecture` is not a string but {config['architecture']!r}", _rewrite(package))
        return
    kind, listed = config.get("model_type"), config.get("architectures")
    custom = package.library not in _TRANSFORMERS_LIKE
    if kind is None or kind == "":
        message, advice = f"{CONFIG} has no `model_type`", "AutoConfig can't load it; AutoModelForONNX can"
        yield warning(message, advice) if custom else failed(message, _rewrite(package))
    elif not isinstance(kind, str):
        yield failed(f"{CONFIG}: `model_type` is not a string but {kind!r}", _rewrite(package))
    if listed is None and any(component.architecture for component in package.components):
        return  # transformers' exporters leave it to export.json
    if listed is None:
        yield warning(f"{CONFIG} has no `architectures`", "load it with the ORTModelForX class of its task, or task=")
    elif not architectures(config) or len(architectures(config)) != len(listed):
        message = f"{CONFIG}: `architectures` is not a list of class names but {str(listed)[:100]}"
        yield failed(message, _rewrite(package))


def _check_pipeline(package: Contents) -> Iterator[Finding]:
    """A diffusion pipeline: each component that has an ONNX file has a config, and those without have their files."""
    again = "export the pipeline again"
    try:
        index = package.read_json(MODEL_INDEX) or {}
    except PackageError as error:
        yield failed(str(error), again)
        return
    if not isinstance(index.get("_class_name"), str):
        yield failed(f"{MODEL_INDEX} has no `_class_name`", again)
    for name in sorted({file.rpartition("/")[0] for file in package.files} - {""}):
        try:
            if package.read_json(f"{name}/{CONFIG}") is None:
                yield failed(f"there is no {name}/{CONFIG}", again)
        except PackageError as error:
            yield failed(str(error), again)
    if "scheduler" in index and not package.has("scheduler/scheduler_config.json"):
        yield failed("there is no scheduler/scheduler_config.json", "copy the directory `scheduler` from the model")


def check_labels(package: Contents) -> Iterator[Finding]:
    """id2label, label2id and num_labels agree with each other and with the width of the logits."""
    config = package.main_config
    if not config:
        yield skipped(f"no {CONFIG} that could be read")
        return
    names, ids, count = config.get("id2label"), config.get("label2id"), config.get("num_labels")
    problems = list(_label_problems(names, ids, count))
    yield from problems
    if problems:
        return
    default = 2 if config.get("model_type") and package.library in _TRANSFORMERS_LIKE else None  # that of transformers
    counts = (len(names) if isinstance(names, dict) else None, count, config.get("num_classes"), default)
    labels = next((number for number in counts if isinstance(number, int)), None)
    if labels is None:
        yield skipped(f"{CONFIG} has no labels")
    else:
        yield from _check_width(package, labels)


def _label_problems(names: Any, ids: Any, count: Any) -> Iterator[Finding]:
    advice = f"correct {CONFIG}, or export again"
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        yield failed(f"`num_labels` is not a count but {count!r}", advice)
        return
    if names is not None and not isinstance(names, dict):
        yield failed(f"`id2label` is not an object but {str(names)[:60]!r}", advice)
        return
    if names is None:
        return
    indices = [int(key) for key in names if key.isascii() and key.isdecimal() and len(key) < 10]
    if len(indices) != len(names):
        yield failed("`id2label` has keys that are not numbers", advice)
        return
    if sorted(indices) != list(range(len(indices))):
        yield warning(f"`id2label` does not number its {len(names)} labels from 0 on", advice)
    if count is not None and count != len(names):
        yield failed(f"`num_labels` is {count}, but `id2label` has {len(names)} labels", advice)
    if ids is not None:
        yield from _label2id_problems(names, ids, advice)


def _label2id_problems(names: Mapping[str, Any], ids: Any, advice: str) -> Iterator[Finding]:
    if not isinstance(ids, dict):
        yield failed(f"`label2id` is not an object but {str(ids)[:60]!r}", advice)
        return
    for label, index in ids.items():
        other = names.get(str(index))
        if str(other) != label:
            yield failed(f"`label2id` has {label!r}: {index!r}, but `id2label` has {index!r}: {other!r}", advice)
            return
    missing = next((str(label) for label in names.values() if str(label) not in ids), None)
    if missing is not None:
        yield failed(f"`label2id` lacks {missing!r}, which `id2label` has", advice)


def _check_width(package: Contents, labels: int) -> Iterator[Finding]:
    task = package.plain_task
    if task not in _LOGITS:
        yield good(f"consistent; {task or 'an unknown task'} has no logits to compare them with")
        return
    axis, rank = _LOGITS[task]
    # Detection heads of the DETR family have one more label, "no object".
    allowed = (labels, labels + 1) if task == "object-detection" else (labels,)
    compared = 0
    for name, model in package.readable.items():
        for value in model.graph.outputs:
            if value.name != "logits" or value.shape is None:
                continue
            width = value.shape[axis] if len(value.shape) > 1 and rank in (None, len(value.shape)) else None
            if not isinstance(width, int):
                continue
            compared += 1
            if width not in allowed:
                advice = f"correct `id2label` and `label2id` in {CONFIG}, or export again"
                yield failed(f"{CONFIG} has {labels} labels, but the logits of {name} have {width}", advice)
    unknown = "consistent; the graph does not say how wide its logits are"
    yield good(f"{labels} labels, {'as many as the logits have' if compared else unknown}")


def check_generation(package: Contents) -> Iterator[Finding]:
    """A generating model has a generation config."""
    try:
        config = package.read_json(GENERATION_CONFIG)
    except PackageError as error:
        yield failed(str(error), "copy it from the source model, or delete it: defaults from config.json hold then")
        return
    # CTC models transcribe without generating; a package of plain Optimum does not say its task.
    told_by_class = package.plain_task in (None, "automatic-speech-recognition") and generates(package.known_config)
    if package.plain_task not in _GENERATING_TASKS and not told_by_class:
        yield skipped(f"{package.plain_task or 'the model'} does not generate" if config is None else "not needed")
    elif config is None:
        advice = "copy it from the source model, or set what you need in generate()"
        yield warning(f"there is no {GENERATION_CONFIG}: generate() takes defaults from {CONFIG}", advice)


def check_preprocessors(package: Contents) -> Iterator[Finding]:
    """What a pipeline needs to prepare the inputs of the graph is there and can be read."""
    directory = "tokenizer/" if package.is_pipeline else ""
    for name in (*PROCESSOR_FILES, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"):
        try:
            package.read_json(directory + name)
        except PackageError as error:
            yield failed(str(error), "copy it from the source model again")
    yield from _check_tokenizer_json(package, directory)
    inputs = {value.name for model in package.readable.values() for value in model.graph.inputs}
    if package.plain_task in _PREPARED_BY_NOTHING:
        inputs.clear()
    needed = {kind: files for name, (kind, files) in _PREPROCESSORS.items() if name in inputs}
    if package.plain_task in _DECODING:
        needed.setdefault(*_TOKENIZER)
    if "pretrained_cfg" in package.main_config:  # timm's config says how to prepare images, and transformers reads it
        needed.pop("an image processor", None)
    if package.is_pipeline:
        needed = {kind: files for kind, files in needed.items() if kind == _TOKENIZER[0]}
    exported = package.sidecar.source if package.sidecar is not None else {}
    for kind, files in needed.items():
        if any(package.has(directory + name) for name in files):
            continue
        reason = f"there is no {kind.partition(' ')[2]}: the model loads, but `pipeline` needs {kind}"
        had = exported.get("tokenizer" if kind == _TOKENIZER[0] else "processor")
        if had is False:
            yield warning(f"{reason}; the source model had none")
        elif had is True:
            yield failed(f"{reason}; the source model had one", f"copy it from there: {_repair(package)}")
        else:  # the source was not looked at, or what prepares the inputs of a custom model is unknown
            yield warning(reason, f"if the source model has one, copy it from there: {_repair(package)}")
    if not needed:
        yield skipped("the graph takes neither text, images nor audio" if inputs else "nothing has to be prepared")
    else:
        yield good(" and ".join(needed))


def _check_tokenizer_json(package: Contents, directory: str) -> Iterator[Finding]:
    """A tokenizer.json that was cut off; a long one is not parsed, which would take longer than everything else."""
    name, advice = f"{directory}tokenizer.json", "copy it from the source model again"
    try:
        first, last, size = package.ends(name)
        if size < _PARSED_TOKENIZER_BYTES:
            content = package.read(name)
            if content is None:
                return
            parse_config(content, where=name)
    except PackageError as error:
        yield failed(str(error), advice)
        return
    if (first.lstrip()[:1], last.rstrip()[-1:]) != (b"{", b"}"):
        yield failed(f"{name} is not a JSON object, or is cut off", advice)


def check_code(package: Contents) -> Iterator[Finding]:
    """The Python files that an `auto_map` names are there; they are not run."""
    configs = [package.lenient(name) for name in (CONFIG, TOKENIZER_CONFIG, *PROCESSOR_FILES)]
    if not any("auto_map" in config for config in configs):
        yield skipped("the model has no code of its own")
        return
    named = code_files(*configs)
    for name in named:
        if not package.has(name):
            advice = "copy it from the source model; ONNX Runtime itself does not need it"
            yield warning(f"`auto_map` names {name}, which is not there: trust_remote_code=True will fail", advice)
    yield good(f"{len(named)} files of code, which runs with trust_remote_code=True only")
