"""ONNX Runtime sessions, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError, reason
from optimum_htp.onnxfile import external_data_files, limited, out_of_memory, run_limits
from optimum_htp.package import HtpPackage

if TYPE_CHECKING:
    import numpy as np


DEFAULT_PROVIDER = "CPUExecutionProvider"
_FREE_BYTES, _RATIO = 2 << 30, 8  # of memory: real models take twice their weights, and small ones more
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


def session_options(*, threads: int | None = None, spinning: bool = False) -> Any:
    """ONNX Runtime's default options, quiet; `threads` within an operator, None for its own choice.

    Without `spinning` its threads sleep while they wait for work, which costs less time of the processor; with it they are
    as quick as in a session that runs all the time.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_FATAL
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_session(model: str | Path | bytes, options: Any, *, provider: str, name: str) -> Any:
    """Starts a session on the provider, and for operators that it lacks on the CPU. Raises HtpError with `name`."""
    import onnxruntime

    source = model if isinstance(model, bytes) else str(model)
    providers = list(dict.fromkeys([provider, DEFAULT_PROVIDER]))
    start = partial(onnxruntime.InferenceSession, source, options, providers=providers)
    try:
        session = limited(start, partial(options.set_load_cancellation_flag, True), name=name)
    except HtpError:
        raise
    except Exception as error:  # ONNX Runtime raises exceptions of its own C++ module
        raise HtpError(f"{name}: ONNX Runtime can't load it: {out_of_memory(error) or reason(error)}") from error
    started = session.get_providers()
    if provider not in started:
        raise HtpError(f"{provider} could not be started, only {', '.join(started)}: its libraries are missing")
    return session


def load_error(file: Path, *, optimized: bool = False) -> str | None:
    """Why ONNX Runtime can't load a file on the CPU, without optimizing it or as it does by default; None if it can."""
    import onnxruntime

    options = session_options(threads=1)
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        open_session(file, options, provider=DEFAULT_PROVIDER, name="")
    except HtpError as error:
        return reason(error.__cause__ or error)
    return None


def outputs_of(
    session: Any, outputs: Sequence[str] | None, inputs: Mapping[str, np.ndarray[Any, Any]], *, name: str
) -> list[Any]:
    """Runs a session as `run_session` does, and raises what ONNX Runtime raises; HtpError when the time is over."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = _ONLY_FATAL

    def stop() -> None:
        options.terminate = True

    wanted = None if outputs is None else list(outputs)
    return list(limited(lambda: session.run(wanted, dict(inputs), options), stop, name=name))


@contextmanager
def graph_limits(
    packages: Iterable[HtpPackage],
    *,
    provider: str = DEFAULT_PROVIDER,
    timeout_s: float | None = None,
    max_memory_bytes: int | None = None,
    held_bytes: int = 0,
) -> Iterator[None]:
    """Limits what ONNX Runtime may take for each call with graphs of these packages; None means the defaults.

    Those are `DEFAULT_TIMEOUT_S`, and `usual_memory` and what is `held` besides; other providers than the CPU's, whose
    drivers map what they like, have no limit of memory unless one is given.
    """
    if timeout_s is not None and not timeout_s > 0:
        raise HtpError(f"a timeout of {timeout_s:g} s: give more than 0")
    if max_memory_bytes is None and provider == DEFAULT_PROVIDER:
        max_memory_bytes = usual_memory(packages) + held_bytes
    with run_limits(seconds=timeout_s, memory_bytes=max_memory_bytes):
        yield


def usual_memory(packages: Iterable[HtpPackage]) -> int:
    """How much memory ONNX Runtime may have for the graphs of packages, in bytes, unless it is said."""
    paths = set()
    for package in packages:
        for file in package.files.values():
            paths.add(file.path)
            with suppress(HtpError):  # a file that can't be read needs none
                paths.update(file.path.parent / location for location in external_data_files(file.model))
    return _FREE_BYTES + _RATIO * sum(map(_stored_bytes, paths))


def _stored_bytes(path: Path) -> int:
    """What a file takes on the disk: a hostile one may have holes."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return 0
    return min(status.st_size, getattr(status, "st_blocks", 1 << 60) * 512)


def run_session(
    session: Any, outputs: Sequence[str] | None, inputs: Mapping[str, np.ndarray[Any, Any]], *, name: str
) -> list[Any]:
    """Runs a session for some outputs, None for all. Raises HtpError with the `name` if it can't run."""
    try:
        return outputs_of(session, outputs, inputs, name=name)
    except HtpError:
        raise
    except Exception as error:  # ONNX Runtime raises exceptions of its own C++ module
        memory = out_of_memory(error)
        if memory is not None:
            raise HtpError(f"{name}: ONNX Runtime can't run it: {memory}") from error
        shapes = ", ".join(f"{key} {list(value.shape)}" for key, value in list(inputs.items())[:4])
        raise HtpError(
            f"{name}: ONNX Runtime can't run it on inputs of these sizes ({shapes}): {reason(error)}; "
            "give others (--batch-size, --sequence-length, --dim NAME=N) or --inputs FILE.npz"
        ) from error
