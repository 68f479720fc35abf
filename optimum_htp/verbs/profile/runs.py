"""Runs of an ONNX file under ONNX Runtime's own profiler, and the graph that it really ran.

The first run on inputs of new shapes is the one that shows what each kernel needs of the memory: ONNX Runtime remembers it,
and from the second run on takes all of it in one piece before the first kernel ("memory pattern").
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from mmap import mmap
from pathlib import Path
from typing import Any, TypeAlias

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy import NodeKey
from optimum_htp.models import DEFAULT_PROVIDER, Array, open_session, run_session, session_options, write_optimized
from optimum_htp.onnxfile import (
    GraphPlaces,
    OnnxModel,
    SourceFiles,
    Span,
    named_attribute,
    node_attributes,
    read_model,
)
from optimum_htp.verbs.profile.flops import NEED_ATTRIBUTES, Attributes
from optimum_htp.verbs.profile.joiner import Event

Inputs: TypeAlias = Mapping[str, Array]

logger = logging.getLogger(__name__)

_KERNEL = "_kernel_time"
_MAX_EVENTS = 1_000_000  # then ONNX Runtime's profiler stops recording


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its kernels in the order in which they ended, when it began, and how long it took (microseconds)."""

    events: list[Event]
    start_us: float
    time_us: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one ONNX file."""

    optimized: OnnxModel | None  # the graph that ONNX Runtime made; None from providers that compile it
    runs: list[list[Run]]  # for each set of inputs, those after the warm-up
    first: list[Run]  # for each set of inputs, the first, with all that the profiler says of its kernels
    attributes: Mapping[NodeKey, Attributes]  # of nodes whose operations can't be counted without
    assigned: tuple[Assigned, ...]  # nothing from an ONNX Runtime that doesn't say, and on the CPU, which runs all


@dataclass(frozen=True, slots=True)
class Assigned:
    """Nodes that ONNX Runtime gave to a provider together: one, or those that the provider compiles into one kernel."""

    provider: str
    nodes: tuple[str, ...]


def measure(
    model: OnnxModel, inputs: Sequence[Inputs], *, provider: str, threads: int | None, warmup: int, runs: int
) -> Measured:
    """Runs a file `warmup + runs` times on each set of inputs. Raises HtpError if ONNX Runtime can't."""
    with tempfile.TemporaryDirectory(prefix="optimum-htp-") as directory:
        written = Path(directory, "optimized.onnx")
        options = session_options(threads=threads, spinning=True)
        options.enable_profiling = True
        if provider != DEFAULT_PROVIDER:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.profile_file_prefix = str(Path(directory, "profile"))
        session = _open(model, options, written, provider=provider)
        assigned = _assigned(session) if provider != DEFAULT_PROVIDER else ()
        try:
            for arrays in inputs:
                for _ in range(warmup + runs):
                    run_session(session, None, arrays, name=str(model.path))
        finally:
            profile = Path(session.end_profiling())
        optimized = read_model(written) if written.is_file() else None
        attributes = counted_attributes(optimized or model)
        expected = len(inputs) * (warmup + runs)
        starts = range(0, expected, warmup + runs)
        recorded = _runs(json.loads(profile.read_bytes()), with_facts=starts)
    if len(recorded) != expected:
        raise HtpError(
            f"{model.path}: ONNX Runtime's profiler recorded {len(recorded)} of {expected} runs (it stops after "
            f"{_MAX_EVENTS:,} kernels); take fewer: --runs N --warmup N"
        )
    return Measured(
        optimized,
        [recorded[start + warmup : start + warmup + runs] for start in starts],
        [recorded[start] for start in starts],
        attributes,
        assigned,
    )


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


def _assigned(session: Any) -> tuple[Assigned, ...]:
    """Which provider has which nodes; ONNX Runtime says so since 1.24."""
    tell = getattr(session, "get_provider_graph_assignment_info", None)
    parts = () if tell is None else tell()
    return tuple(Assigned(str(part.ep_name), tuple(str(node.name) for node in part.get_nodes())) for part in parts)


def counted_attributes(model: OnnxModel) -> dict[NodeKey, Attributes]:
    """The attributes that count for how many operations nodes take."""
    keys = [key for key, node in model.nodes() if node.op_type in NEED_ATTRIBUTES]
    if not keys:
        return {}
    with SourceFiles(model.path) as files:
        places = GraphPlaces(files.data, model)
        return {key: dict(_values(files.data, places.node(key))) for key in keys}


def _values(data: mmap | bytes, node: Span) -> Iterator[tuple[str, object]]:
    for span in node_attributes(data, node):
        name, content = named_attribute(data, span, lambda *_: ())
        if content is not None and isinstance(content.identity, tuple):
            yield name, content.identity[1]


def _runs(trace: list[dict[str, Any]], *, with_facts: Container[int]) -> list[Run]:
    """The runs of a profile; the event of a run comes after those of its kernels."""
    runs: list[Run] = []
    events: list[Event] = []
    for entry in trace:
        name = str(entry.get("name", ""))
        if entry.get("cat") == "Node" and name.endswith(_KERNEL):
            facts = entry["args"]
            event = Event(
                name=name.removesuffix(_KERNEL),
                op_type=str(facts.get("op_name", "")),
                index=int(facts.get("node_index", -1)),
                start_us=int(entry["ts"]),
                time_us=int(entry["dur"]),
                provider=str(facts.get("provider", "")),
            )
            if len(runs) in with_facts:
                event.facts = facts
            events.append(event)
        elif entry.get("cat") == "Session" and name == "model_run":
            runs.append(Run(events, int(entry["ts"]), int(entry["dur"])))
            events = []
    return runs
