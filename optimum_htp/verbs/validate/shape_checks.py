"""Checks of sizes that a config states against those that tensors in the graph have.

No size is guessed that the config (nested ones leave out defaults) or the graph leaves out: what fails here is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optimum_htp.onnxfile import OnnxModel
from optimum_htp.verbs.validate.contents import Contents
from optimum_htp.verbs.validate.report import Finding, failed, good, skipped

_OTHER_MODEL = "config.json is of another model: copy the right one, or export again"

# Operator: the inputs that are the table of embeddings and the token ids.
_EMBEDDING_OPERATORS = {"Gather": (0, 1), "EmbedLayerNormalization": (2, 0)}

_VOCABULARY_KEYS = "vocab_size n_words decoder_vocab_size src_vocab_size tgt_vocab_size text_vocab_size".split()
# Nested configs without words of their own.
_WORDLESS = re.compile(r"vision|image|audio|speech|backbone|quantization|pretrain|vocoder|qformer|mask|prompt", re.I)
# Models whose tables are meant to have other sizes than the vocabulary.
_PADDED_VOCABULARIES = frozenset(("musicgen", "musicgen_melody", "moshi", "mllama", "csm", "dia", "bark", "kosmos-2"))

_WORD_TASKS = "text-generation fill-mask text2text-generation image-to-text automatic-speech-recognition".split()

_WIDTH_KEYS = "hidden_size d_model n_embd n_embed dim emb_dim embed_dim d_latents".split()
_EMBEDDING_KEYS = [
    *_WIDTH_KEYS,
    *"embedding_size word_embed_proj_dim input_embedding_size emb_size hidden_dim d_embed".split(),
    *"embedding_dim word_embed_dim".split(),
]

# For how many layers past key values are kept; the first of these that a config has, its decoder's own first.
_LAYER_KEYS = ("decoder_layers", "num_decoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")
_DECODER_CONFIGS = ("decoder", "text_config")
_PAST = re.compile(r"(?:past_key_values|.*\blayers)\.(\d+)\.(?:(?:decoder|encoder)\.)?(?:key|value)s?$")


def check_dimensions(package: Contents) -> Iterator[Finding]:
    """Vocabulary, hidden size and layers of the cache are the same in the config and the graph."""
    if package.is_pipeline:
        yield skipped("each component of a pipeline has a config of its own")
        return
    config = package.main_config
    if not config:
        yield skipped("no config.json that could be read")
        return
    findings: list[Finding] = []
    for name, model in package.readable.items():
        for check in (_check_vocabulary, _check_width, _check_cache):
            findings += check(package, name, model, config)
    yield from (finding for finding in findings if finding.status == "failed")
    agreed = list(dict.fromkeys(finding.reason for finding in findings if finding.status == "ok"))
    yield good(", ".join(agreed)) if agreed else skipped("config.json and the graph state no size in common")


def vocabulary_sizes(config: Mapping[str, Any]) -> set[int] | None:
    """The sizes that a vocabulary of this model may have; None if they are unknown.

    >>> vocabulary_sizes({"vocab_size": 96}), vocabulary_sizes({"decoder": {"model_type": "bert"}})
    ({96}, None)
    """
    if str(config.get("model_type")) in _PADDED_VOCABULARIES:
        return None
    sizes = {config[key] for key in _VOCABULARY_KEYS if isinstance(config.get(key), int)}
    for name, nested in config.items():
        if not isinstance(nested, dict) or not _is_config(nested) or _WORDLESS.search(name):
            continue
        inner = {nested[key] for key in _VOCABULARY_KEYS if isinstance(nested.get(key), int)}
        if not inner and not {"image_size", "patch_size", "num_mel_bins"} & nested.keys():
            return None  # it may have the default of its type
        sizes |= inner
    return sizes or None


def _is_config(value: Mapping[str, Any]) -> bool:
    return "model_type" in value or "hidden_size" in value or "vocab_size" in value


def _embedding_shapes(model: OnnxModel) -> Iterator[tuple[int, int]]:
    """The shapes of the tables that `input_ids` index."""
    shapes = {tensor.name: tensor.dims for _, graph in model.graphs() for tensor in graph.initializers}
    for _, node in model.nodes():
        table, ids = _EMBEDDING_OPERATORS.get(node.op_type, (0, 0))
        if table == ids or len(node.inputs) <= max(table, ids) or node.inputs[ids] != "input_ids":
            continue
        dims = shapes.get(node.inputs[table], ())
        if len(dims) == 2:
            yield dims[0], dims[1]


def _output_widths(model: OnnxModel, name: str) -> Iterator[int]:
    """The last size of an output with three axes, if the graph says it."""
    for value in model.graph.outputs:
        if value.name == name and value.shape is not None and len(value.shape) == 3:
            width = value.shape[-1]
            if isinstance(width, int):
                yield width


def _known_sizes(config: Mapping[str, Any], keys: Sequence[str]) -> set[int]:
    """The sizes that a config states, if it has no nested configs, which make it ambiguous whose they are."""
    if any(isinstance(value, dict) and _is_config(value) for value in config.values()):
        return set()
    return {config[key] for key in keys if isinstance(config.get(key), int)}


def _agreement(what: str, stated: set[int], actual: int, where: str) -> Finding:
    if actual in stated:
        return good(f"{what} {actual:,}")
    sizes = " or ".join(map(str, sorted(stated)))
    return failed(f"the {what} is {sizes} in config.json, {actual} in {where}", _OTHER_MODEL)


def _check_vocabulary(package: Contents, name: str, model: OnnxModel, config: Mapping[str, Any]) -> Iterator[Finding]:
    sizes = vocabulary_sizes(config)
    widths = _known_sizes(config, _EMBEDDING_KEYS)
    for rows, width in set(_embedding_shapes(model)):
        if sizes is not None:
            yield _agreement("vocabulary", sizes, rows, name)
        if widths and width not in widths:
            yield _agreement("hidden size", widths, width, f"the embeddings of {name}")
    if sizes is not None and package.plain_task in _WORD_TASKS:
        for width in _output_widths(model, "logits"):
            yield _agreement("vocabulary", sizes, width, f"the logits of {name}")


def _check_width(_: Contents, name: str, model: OnnxModel, config: Mapping[str, Any]) -> Iterator[Finding]:
    widths = _known_sizes(config, _WIDTH_KEYS)
    if widths and any(value.name == "input_ids" for value in model.graph.inputs):
        for width in _output_widths(model, "last_hidden_state"):
            yield _agreement("hidden size", widths, width, name)


def _check_cache(_: Contents, name: str, model: OnnxModel, config: Mapping[str, Any]) -> Iterator[Finding]:
    numbers = {int(match[1]) for value in model.graph.inputs if (match := _PAST.match(value.name))}
    source = next((config[key] for key in _DECODER_CONFIGS if isinstance(config.get(key), dict)), config)
    layers = next((source[key] for key in _LAYER_KEYS if isinstance(source.get(key), int)), None)
    if layers is None or not numbers:
        return
    if max(numbers) + 1 != layers or len(numbers) != layers:
        reason = f"config.json has {layers} layers, but {name} takes past key values for {len(numbers)}"
        yield failed(reason, _OTHER_MODEL)
    else:
        yield good(f"{layers} layers of past key values")
