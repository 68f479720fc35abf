"""How profiles are shown: as tables on a terminal or in a pipe, and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from optimum_htp.cli.views.profile_rows import TimeRow, profile_rows
from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_table, printable
from optimum_htp.verbs.profile import FusedTime, Microseconds, ModuleTime, OpTime, PhaseProfile, ProfileReport


FIRST_COLUMN = {"module": "module", "layer": "layer", "call": "module", "class": "class", "op": "operator"}
"""What stands in the first column of each view."""


def print_profile(
    report: ProfileReport,
    *,
    by: str = "module",
    depth: int | None = None,
    top: int | None = None,
    sort: str | None = None,
    stream: TextIO | None = None,
) -> None:
    """Prints a table for each file and phase; the arguments are those of `profile_rows`."""
    stream = stream or sys.stdout
    for position, phase in enumerate(report.phases):
        if position:
            print(file=stream)
        title, *details = _heading(report, phase)
        print_heading(title, details, stream)
        print(file=stream)
        rows = profile_rows(phase, by=by, depth=depth, top=top, sort=sort)
        if rows:
            print_table(_columns(by), [_line(phase, row, by=by) for row in rows], stream)
        else:
            print(f"no {'module ran more than once' if by == 'call' else by + 's'}", file=stream)


def profile_document(report: ProfileReport) -> dict[str, Any]:
    """A profile as a JSON document; times are microseconds."""
    return {
        "package": report.package,
        "provider": report.provider,
        "threads": report.threads,
        "warmup": report.warmup,
        "runs": report.runs,
        "onnxruntime": report.onnxruntime,
        "notes": list(report.notes),
        "phases": [_phase_document(phase) for phase in report.phases],
    }


def print_profile_json(report: ProfileReport, *, stream: TextIO | None = None) -> None:
    """Prints a profile as JSON, all of it."""
    print(json.dumps(profile_document(report), indent=2), file=stream or sys.stdout)


def _heading(report: ProfileReport, phase: PhaseProfile) -> Iterator[str]:
    kernel, run = phase.kernel_time, phase.run_time
    name = printable(phase.file) + ("" if phase.phase == "forward" else f", {phase.phase}")
    yield f"{name}: {milliseconds(kernel.median)} ms in kernels, {milliseconds(run.median)} ms in all"
    threads = "as many threads as ONNX Runtime chooses" if report.threads is None else f"threads: {report.threads}"
    yield (
        f"median of {report.runs} runs after {report.warmup}; spread between quartiles {milliseconds(kernel.spread)} ms; "
        f"{report.provider}, {threads}, onnxruntime {report.onnxruntime}"
    )
    shapes = [f"{printable(name)} {list(shape)}" for name, shape in phase.inputs.items()]
    more = f" and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    yield f"inputs: {', '.join(shapes[:4])}{more}"
    yield f"{phase.attributed:.2%} of kernel time has a module"
    yield from report.notes


def _columns(by: str) -> tuple[Column, ...]:
    first = Column(FIRST_COLUMN[by], is_path=True)
    times = (
        Column("total ms", True), Column("±", True, spare=1), Column("share", True), Column("self ms", True),
        Column("self", True, spare=1),
    )  # fmt: skip
    kernels = Column("kernels", True, spare=2)
    if by == "op":
        return first, kernels, *times[:3]
    if by == "class":
        return first, Column("modules", True, spare=2), *times
    counts = (
        Column("class", spare=4),
        Column("call", True) if by == "call" else Column("calls", True, spare=3),
        kernels,
    )
    return (first, *counts, *times) if by == "call" else (first, *counts, *times, Column("operators", spare=5))


def _line(phase: PhaseProfile, row: TimeRow, *, by: str) -> Line:
    total = (
        milliseconds(row.total_time.median),
        milliseconds(row.total_time.spread),
        _percent(phase.share(row.total_time)),
    )
    own = (milliseconds(row.self_time.median), _percent(phase.share(row.self_time)))
    label = "  " * row.depth + ("+ " if row.kind == "fused" and by == "module" else "") + printable(row.label)
    kernels = f"{row.kernels:,}"
    if by == "op":
        return Line((label, kernels, *total))
    if by == "class":
        return Line((label, kernels, *total, *own))
    cells = (label, printable(row.class_name), row.calls, kernels, *total, *own)
    return Line(cells if by == "call" else (*cells, _mix(row)), row.kind == "fused")


def _mix(row: TimeRow) -> str:
    """The operators that take most of the time."""
    whole = row.total_time.median
    ordered = sorted(row.ops.items(), key=lambda item: -item[1].time.median)
    return ", ".join(f"{printable(name)} {op.time.median / whole:.0%}" for name, op in ordered[:3] if whole)


def _phase_document(phase: PhaseProfile) -> dict[str, Any]:
    return {
        "file": phase.file,
        "phase": phase.phase,
        "inputs": {name: list(shape) for name, shape in phase.inputs.items()},
        "kernel_time": time_document(phase.kernel_time),
        "run_time": time_document(phase.run_time),
        "attributed": phase.attributed,
        "unattributed": {"time": time_document(phase.unattributed), "ops": _ops_document(phase.unattributed_ops)},
        "modules": [_module_document(phase, module) for module in phase.modules],
        "fused": [_fused_document(phase, fused) for fused in phase.fused],
        "calls": [
            {
                "path": call.path,
                "class": call.class_name,
                "tag": call.tag,
                "call": call.call,
                "kernels": call.kernels,
                "self_time": time_document(call.self_time),
                "total_time": time_document(call.total_time),
            }
            for call in phase.calls
        ],
    }


def _module_document(phase: PhaseProfile, module: ModuleTime) -> dict[str, Any]:
    return {
        "path": module.path,
        "class": module.class_name,
        "tag": module.tag,
        "depth": module.depth,
        "calls": module.calls,
        "is_layer": module.is_layer,
        "kernels": module.kernels,
        "self_time": time_document(module.self_time),
        "self_share": phase.share(module.self_time),
        "total_time": time_document(module.total_time),
        "total_share": phase.share(module.total_time),
        "ops": _ops_document(module.ops),
    }


def _fused_document(phase: PhaseProfile, fused: FusedTime) -> dict[str, Any]:
    return {
        "tag": fused.tag,
        "origins": list(fused.origins),
        "kernels": fused.kernels,
        "time": time_document(fused.time),
        "share": phase.share(fused.time),
        "ops": _ops_document(fused.ops),
    }


def _ops_document(ops: Mapping[str, OpTime]) -> dict[str, Any]:
    return {name: {"kernels": op.kernels, "time": time_document(op.time)} for name, op in ops.items()}


def time_document(time: Microseconds) -> dict[str, Any]:
    """A time in microseconds: median, spread, and in each run."""
    return {"median_us": time.median, "spread_us": time.spread, "runs_us": list(time)}


def milliseconds(microseconds: float) -> str:
    """A time as it stands in a table."""
    return f"{microseconds / 1000:,.3f}"


def _percent(share: float) -> str:
    return f"{share:.1%}"
