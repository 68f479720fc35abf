"""What `profile --speedscope` and `--chrome-trace` write, for other programs to show.

Formats: https://www.speedscope.app/file-format-schema.json, and "Trace Event Format" (chrome://tracing, Perfetto).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from optimum_htp.cli.views.profile_rows import fused_label
from optimum_htp.hierarchy import split_tag, tag_ancestors, tag_module_path
from optimum_htp.verbs.profile import Kernel, PhaseProfile, ProfileReport

_UNKNOWN = "(unattributed)"


def speedscope_document(report: ProfileReport) -> dict[str, Any]:
    """Modules as stacks in the order in which kernels ran: profiles of each phase, a sample for each kernel.

    One weighs kernels by their time, and where that is known another by the memory that they take.
    """
    frames: dict[str, int] = {}
    profiles = []
    for phase in report.phases:
        samples = [[frames.setdefault(name, len(frames)) for name in _stack(kernel)] for kernel in phase.timeline]
        taken = [kernel.work.allocated_bytes for kernel in phase.timeline]
        profiles.append(
            _sampled(_title(phase), "microseconds", samples, [kernel.time_us for kernel in phase.timeline])
        )
        if any(size is not None for size in taken):
            sizes = [max(size or 0, 0) for size in taken]
            profiles.append(_sampled(f"{_title(phase)}: memory taken", "bytes", samples, sizes))
    return {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": "optimum-htp",
        "name": report.package,
        "activeProfileIndex": 0,
        "shared": {"frames": [{"name": name} for name in frames]},
        "profiles": profiles,
    }


def _sampled(name: str, unit: str, samples: list[list[int]], weights: Sequence[float]) -> dict[str, Any]:
    about = {"type": "sampled", "name": name, "unit": unit, "startValue": 0, "endValue": sum(weights)}
    return {**about, "samples": samples, "weights": weights}


def chrome_document(report: ProfileReport) -> dict[str, Any]:
    """Kernels in time, modules around them: a process for each phase, the kernels of its run of median length.

    With the memory that is held while each runs, as in the first run.
    """
    events: list[dict[str, Any]] = []
    for process, phase in enumerate(report.phases):
        events.append({"name": "process_name", "ph": "M", "pid": process, "tid": 0, "args": {"name": _title(phase)}})
        events += _module_spans(phase, process)
        events += (_kernel_event(kernel, process) for kernel in phase.timeline)
        events += (
            {"name": "memory held", "ph": "C", "ts": kernel.start_us, "pid": process, "args": {"bytes": held}}
            for kernel in phase.timeline
            if (held := kernel.work.peak_bytes) is not None
        )
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _title(phase: PhaseProfile) -> str:
    return phase.file if phase.phase == "forward" else f"{phase.file} ({phase.phase})"


def _stack(kernel: Kernel) -> Iterator[str]:
    if kernel.tag is None:
        yield _UNKNOWN
    else:
        yield from (_frame(tag) for tag in tag_ancestors(kernel.tag))
        if len(kernel.origins) > 1:
            yield f"fused: {fused_label(kernel.tag, kernel.origins)}"
    yield kernel.op_type


def _frame(tag: str) -> str:
    path = tag_module_path(tag)
    name = split_tag(tag)[-1].partition(".")[0]
    return f"{path} ({name})" if path else name


def _kernel_event(kernel: Kernel, process: int) -> dict[str, Any]:
    args: dict[str, Any] = {"op_type": kernel.op_type, "module": kernel.tag or _UNKNOWN}
    if kernel.call is not None:
        args["call"] = kernel.call
    if len(kernel.origins) > 1:
        args["origins"] = list(kernel.origins)
    args |= _known(kernel)
    span = {"name": kernel.node or kernel.op_type, "cat": "kernel", "ts": kernel.start_us, "dur": kernel.time_us}
    return {**span, "ph": "X", "pid": process, "tid": 0, "args": args}


def _known(kernel: Kernel) -> dict[str, Any]:
    """What is known of a kernel besides."""
    work = kernel.work
    known = {
        "provider": kernel.provider or None,
        "peak_bytes": work.peak_bytes,
        "allocated_bytes": work.allocated_bytes,
        "parameter_bytes": work.parameter_bytes,
        "read_bytes": work.read_bytes,
        "written_bytes": work.written_bytes,
        "flops": work.flops,
        "gflops": work.gflops(kernel.time_us),
    }
    return {name: value for name, value in known.items() if value is not None}


def _module_spans(phase: PhaseProfile, process: int) -> Iterator[dict[str, Any]]:
    """For each module the spans in which only its kernels ran; each level of the tree is a thread, where none overlap."""
    open_spans: list[tuple[str, float, float]] = []  # tag, begin, end
    for kernel in [*phase.timeline, None]:
        chain = list(tag_ancestors(kernel.tag)) if kernel is not None and kernel.tag is not None else []
        keep = 0
        while keep < min(len(chain), len(open_spans)) and open_spans[keep][0] == chain[keep]:
            keep += 1
        for level in range(len(open_spans) - 1, keep - 1, -1):
            tag, begin, end = open_spans.pop()
            span = {"name": _frame(tag), "cat": "module", "ts": begin, "dur": end - begin}
            yield {**span, "ph": "X", "pid": process, "tid": level + 1, "args": {"tag": tag}}
        if kernel is not None:
            end = kernel.start_us + kernel.time_us
            open_spans = [(tag, begin, max(end, last)) for tag, begin, last in open_spans]
            open_spans += [(tag, kernel.start_us, end) for tag in chain[keep:]]
