"""The config.json of a module that is exported: its own, the caller's, or what is known of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError
from optimum_htp.models import tensors_in
from optimum_htp.package import CONFIG

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


# For each size in a config, the attributes of modules that have it.
_SIZES = {
    "hidden_size": ("hidden_size", "d_model", "embed_dim"),
    "num_attention_heads": ("num_attention_heads", "num_heads", "nhead"),
    "num_hidden_layers": ("num_hidden_layers",),
}


def config_document(
    model: torch.nn.Module, config: PretrainedConfig | Mapping[str, Any] | None, labels: int | None
) -> PretrainedConfig | dict[str, Any]:
    """What to save as config.json: a copy of what was given, of the model's own, or what is known of the module."""
    from transformers import PretrainedConfig

    own = _own_config(model) if config is None else None
    given = own if config is None else config
    if isinstance(given, PretrainedConfig):
        copied = copy.deepcopy(given)
        copied.architectures = copied.architectures or [type(model).__name__]
        return copied
    if given is None:
        return {"architectures": [type(model).__name__], **_known_sizes(model, labels)}
    if not isinstance(given, Mapping):
        raise HtpError(f"config is a {type(config).__name__}: give a dict or a PretrainedConfig of transformers")
    document = {"architectures": [type(model).__name__], **given}
    try:
        loaded: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise HtpError(f"config can't be written as JSON ({error}): give plain values") from error
    return loaded


def _own_config(model: torch.nn.Module) -> PretrainedConfig | Mapping[str, Any] | None:
    """The config that a model carries: transformers', or a mapping or data class of plain values."""
    from transformers import PretrainedConfig

    own = getattr(model, "config", None)
    if isinstance(own, PretrainedConfig):
        return own
    if is_dataclass(own) and not isinstance(own, type):
        own = asdict(own)
    try:
        json.dumps(own, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return own if isinstance(own, Mapping) else None


def label_count(results: Any, task: str | None) -> int | None:
    """The number of classes of the one output of a classifier."""
    tensors = tensors_in(results)
    if not (task or "").endswith("classification") or len(tensors) != 1 or tensors[0].dim() < 2:
        return None
    return tensors[0].shape[-1]


def _known_sizes(model: torch.nn.Module, labels: int | None) -> dict[str, Any]:
    """The sizes that all modules which have them agree on, and generic names for the labels."""
    sizes: dict[str, Any] = {}
    for key, attributes in _SIZES.items():
        values = [getattr(module, name, None) for module in model.modules() for name in attributes]
        integers = {value for value in values if type(value) is int}
        if len(integers) == 1:
            sizes[key] = integers.pop()
    if labels is not None:
        sizes["num_labels"] = labels
        sizes["id2label"] = {str(index): f"LABEL_{index}" for index in range(labels)}
        sizes["label2id"] = {f"LABEL_{index}": index for index in range(labels)}
    return sizes


def save_config(document: PretrainedConfig | dict[str, Any], model: torch.nn.Module, directory: Path) -> None:
    """Writes config.json, and the generation config of a model that generates."""
    if isinstance(document, dict):
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        (directory / CONFIG).write_text(text, encoding="utf-8")
        return
    document.save_pretrained(str(directory))
    generation = getattr(model, "generation_config", None)
    if getattr(model, "can_generate", bool)() and generation is not None:
        generation.save_pretrained(str(directory))
