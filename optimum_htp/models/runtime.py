"""ONNX Runtime sessions, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError, reason

if TYPE_CHECKING:
    import numpy as np


DEFAULT_PROVIDER = "CPUExecutionProvider"
_ONLY_FATAL = 4  # the other messages are in ONNX Runtime's exceptions


def check_provider(provider: str) -> str:
    """The full name of an execution provider, `"cuda"` for short. Raises HtpError if it is not installed."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    for name in available:
        if provider.lower() in (name.lower(), name.lower().removesuffix("executionprovider")):
            return str(name)
    raise HtpError(
        f"the provider {provider!r} is not installed: this onnxruntime {onnxruntime.__version__} has "
        f"{', '.join(available)}; choose one of these, or install the onnxruntime that has it (onnxruntime-gpu for CUDA)"
    )


def session_options(*, threads: int | None = None) -> Any:
    """ONNX Runtime's default options, quiet; `threads` within an operator, None for its own choice."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_session(model: str | Path | bytes, options: Any, *, provider: str, name: str) -> Any:
    """Starts a session on the provider, and for operators that it lacks on the CPU. Raises HtpError with `name`."""
    import onnxruntime

    source = model if isinstance(model, bytes) else str(model)
    providers = list(dict.fromkeys([provider, DEFAULT_PROVIDER]))
    try:
        session = onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # ONNX Runtime raises exceptions of its own C++ module
        raise HtpError(f"{name}: ONNX Runtime can't load it: {reason(error)}") from error
    started = session.get_providers()
    if provider not in started:
        raise HtpError(f"{provider} could not be started, only {', '.join(started)}: its libraries are missing")
    return session


def run_session(
    session: Any, outputs: Sequence[str] | None, inputs: Mapping[str, np.ndarray[Any, Any]], *, name: str
) -> list[Any]:
    """Runs a session for some outputs, None for all. Raises HtpError with the `name` if it can't run."""
    try:
        return list(session.run(None if outputs is None else list(outputs), dict(inputs)))
    except Exception as error:  # ONNX Runtime raises exceptions of its own C++ module
        shapes = ", ".join(f"{key} {list(value.shape)}" for key, value in list(inputs.items())[:4])
        raise HtpError(
            f"{name}: ONNX Runtime can't run it on inputs of these sizes ({shapes}): {reason(error)}; "
            "give others (--batch-size, --sequence-length, --dim NAME=N) or --inputs FILE.npz"
        ) from error
