"""Translates what Optimum, transformers and torch raise for a user's fault into a line that says what to do.

The one list of upstream errors that are not bugs of ours.
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

import optimum_htp
from optimum_htp.errors import cannot_write
from optimum_htp.package import without_staging

# What libraries raise for what they are given. An AttributeError, TypeError or IndexError is a bug, unless it is raised
# while a model is loaded: then the model's own files are to blame.
_FAULTS = (OSError, ImportError, ValueError, KeyError, RuntimeError)
_LIBRARIES_WITH_ERRORS_OF_THEIR_OWN = ("huggingface_hub", "onnx", "onnxruntime", "requests", "safetensors", "httpx")
_LOADING = frozenset(("from_pretrained", "from_config"))
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OUR_CODE = str(Path(optimum_htp.__file__).parent)
_CONFIGS = ("config.json", "model_index.json", "modules.json")

_UNREACHABLE = "the Hub can't be reached: check the network, or give a model directory"
# What is wrong with an id, by the name of the exception: importing huggingface_hub for its classes would be slow.
_HUB_FAULTS = {
    "GatedRepoError": "access to it on the Hub is restricted: ask for it on the model's page, then run `hf auth login`",
    "RepositoryNotFoundError": "the Hub has none of that name: check it, and run `hf auth login` if it is private",
    "RevisionNotFoundError": "the Hub has it, but not that revision",
    "HFValidationError": "it is not a valid id on the Hub either: give a model directory or an id such as `org/name`",
    "OfflineModeIsEnabled": "the Hub is not asked because HF_HUB_OFFLINE is set: give a model directory or unset it",
    "LocalEntryNotFoundError": _UNREACHABLE,
    "ConnectionError": _UNREACHABLE,
    "ConnectError": _UNREACHABLE,
    "Timeout": _UNREACHABLE,
}

# By a pattern for the messages of others that are long, or name what this command does not have.
_MESSAGES = {
    r"^Cannot infer the task from a local directory": (
        "the task of {model} is unknown, its config does not say it: give it with --task"
    ),
    r"^Unrecognized model in": (
        "{model}: its config.json has no `model_type`: add it, or use a model that `save_pretrained` wrote"
    ),
    r"model type `(\S+)` but Transformers does not recognize": (
        "{model}: the installed transformers has no architecture {0!r}: fix `model_type` in its config.json, or upgrade "
        "transformers and optimum-onnx"
    ),
    r"^Trying to export a (\S+) model, that is a custom or unsupported architecture": (
        "{model}: Optimum has no ONNX export for the architecture {0!r}: export it from Python, with `main_export` and "
        "`custom_onnx_configs`, or upgrade optimum-onnx"
    ),
    r"^Asked to export a (\S+) model for the task ([^ ,]+).* only supports the tasks (.+?) for ": (
        "{model}: Optimum exports no {0!r} model for the task {1!r}: give --task one of {2}"
    ),
    r"not compiled with CUDA|No CUDA GPUs|Found no NVIDIA driver": (
        "{model} can't be exported on CUDA here: use --device cpu, or a PyTorch and a machine that have it"
    ),
}


def explain(error: Exception, *, model: str, output: str, model_kwargs: Iterable[str] = ()) -> str | None:
    """What the user did wrong when exporting `model` into `output`, and what to do; None if the error is a bug.

    `model_kwargs` are the names of the arguments that the model's forward was to get.
    """
    chain = _chain(error)
    loading = any(frame.name in _LOADING for frame in traceback.extract_tb(error.__traceback__))
    refused = [name for name in model_kwargs if f"unexpected keyword argument '{name}'" in str(error)]
    if not refused and not _is_fault(error, loading=loading):
        return None
    text = _text(chain)
    if _no_space(chain, text):
        message = str(cannot_write(output, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    elif refused:
        message = f"{model} takes no argument {refused[0]!r}: leave it out of --model-kwargs"
    else:
        generic = f"cannot {'load' if loading else 'export'} {model}: {text}"
        message = _of_model(chain, model) or _of_text(text, model) or generic
    return without_staging(message)


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and those that it was raised from, the last first."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and not any(cause is known for known in chain):
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return chain


def _is_fault(error: Exception, *, loading: bool) -> bool:
    if isinstance(error, ImportError):
        return not (error.name or "").startswith("optimum_htp")
    if isinstance(error, OSError):
        return True
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(_OUR_CODE):
            return False
        if "-packages" in frame.filename:
            break
    if isinstance(error, (RecursionError, NameError)):
        return False
    library = type(error).__module__.partition(".")[0]
    missing_device = isinstance(error, AssertionError) and "not compiled with" in str(error)
    return loading or missing_device or isinstance(error, _FAULTS) or library in _LIBRARIES_WITH_ERRORS_OF_THEIR_OWN


def _text(chain: list[BaseException]) -> str:
    """What an exception says, with its kind where that alone says little, and what it was raised from."""
    first = chain[0]
    text = str(first.args[0]) if isinstance(first, KeyError) and first.args else str(first)
    if not text or not isinstance(first, _FAULTS):
        text = f"{type(first).__name__}: {text}".rstrip(": ")
    wrapped = re.match(r"The ([\w-]+) of the ONNX export failed", text)
    if wrapped is not None and len(chain) > 1:
        return f"its {wrapped[1]} failed: {_text(chain[1:])}"
    return text


def _no_space(chain: list[BaseException], text: str) -> bool:
    full = any(isinstance(link, OSError) and link.errno in _NO_SPACE for link in chain)
    return full or "No space left on device" in text or "File too large" in text


def _of_model(chain: list[BaseException], model: str) -> str | None:
    """What is wrong with the path or id of the model."""
    place = Path(model)
    try:
        exists, is_directory = place.exists(), place.is_dir()
    except (OSError, ValueError):
        exists = is_directory = False
    if not exists:
        names = {cls.__name__ for link in chain for cls in type(link).__mro__}
        advice = next((advice for name, advice in _HUB_FAULTS.items() if name in names), None)
        return advice and f"no model {model!r}: there is no such directory, and {advice}"
    if not is_directory:
        return f"{model} is a file: give the model's directory"
    if not any((place / name).is_file() for name in _CONFIGS):
        return f"{model} is not a model directory, it has no config.json: give one that `save_pretrained` wrote"
    return None


def _of_text(text: str, model: str) -> str | None:
    """What is wrong, for messages that are known."""
    for pattern, message in _MESSAGES.items():
        match = re.search(pattern, text, re.DOTALL)
        if match is not None:
            return message.format(*match.groups(), model=model)
    return None
