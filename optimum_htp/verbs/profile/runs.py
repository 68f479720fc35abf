"""Runs of an ONNX file under ONNX Runtime's own profiler, and the graph that it really ran."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from optimum_htp.errors import HtpError
from optimum_htp.models import DEFAULT_PROVIDER, Array, open_session, run_session, session_options, write_optimized
from optimum_htp.onnxfile import OnnxModel, read_model
from optimum_htp.verbs.profile.joiner import Event

Inputs: TypeAlias = Mapping[str, Array]

logger = logging.getLogger(__name__)

_KERNEL = "_kernel_time"
_MAX_EVENTS = 1_000_000  # then ONNX Runtime's profiler stops recording


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its kernels in the order in which they ended, when it began, and how long it took (microseconds)."""

    events: list[Event]
    start_us: int
    time_us: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one ONNX file."""

    optimized: OnnxModel | None  # the graph that ONNX Runtime made; None from providers that compile it
    runs: list[list[Run]]  # for each set of inputs, those after the warm-up


def measure(
    model: OnnxModel, inputs: Sequence[Inputs], *, provider: str, threads: int | None, warmup: int, runs: int
) -> Measured:
    """Runs a file `warmup + runs` times on each set of inputs. Raises HtpError if ONNX Runtime can't."""
    with tempfile.TemporaryDirectory(prefix="optimum-htp-") as directory:
        written = Path(directory, "optimized.onnx")
        options = session_options(threads=threads, spinning=True)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(directory, "profile"))
        session = _open(model, options, written, provider=provider)
        try:
            for arrays in inputs:
                for _ in range(warmup + runs):
                    run_session(session, None, arrays, name=str(model.path))
        finally:
            profile = Path(session.end_profiling())
        optimized = read_model(written) if written.is_file() else None
        recorded = _runs(json.loads(profile.read_bytes()))
    expected = len(inputs) * (warmup + runs)
    if len(recorded) != expected:
        raise HtpError(
            f"{model.path}: ONNX Runtime's profiler recorded {len(recorded)} of {expected} runs (it stops after "
            f"{_MAX_EVENTS:,} kernels); take fewer: --runs N --warmup N"
        )
    starts = range(0, expected, warmup + runs)
    return Measured(optimized, [recorded[start + warmup : start + warmup + runs] for start in starts])


def _open(model: OnnxModel, options: Any, written: Path, *, provider: str) -> Any:
    """Starts a session that writes the graph that it made, unless the provider can't."""
    write_optimized(options, model, written)
    start = partial(open_session, model.path, options, provider=provider, name=str(model.path))
    try:
        return start()
    except HtpError:
        if provider == DEFAULT_PROVIDER:
            raise
        logger.debug("%s can't write the graph that it made", provider, exc_info=True)
        options.optimized_model_filepath = ""
        return start()


def _runs(trace: list[dict[str, Any]]) -> list[Run]:
    """The runs of a profile; the event of a run comes after those of its kernels."""
    runs: list[Run] = []
    events: list[Event] = []
    for entry in trace:
        name = str(entry.get("name", ""))
        if entry.get("cat") == "Node" and name.endswith(_KERNEL):
            op_type, index = str(entry["args"].get("op_name", "")), int(entry["args"].get("node_index", -1))
            events.append(Event(name.removesuffix(_KERNEL), op_type, index, int(entry["ts"]), int(entry["dur"])))
        elif entry.get("cat") == "Session" and name == "model_run":
            runs.append(Run(events, int(entry["ts"]), int(entry["dur"])))
            events = []
    return runs
