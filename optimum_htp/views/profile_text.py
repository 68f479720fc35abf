"""How profiles are shown: as tables on a terminal or in a pipe, and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from optimum_htp.profiling import (
    FusedTime,
    Microseconds,
    ModuleTime,
    OpTime,
    PhaseDelta,
    PhaseProfile,
    ProfileDelta,
    ProfileReport,
)
from optimum_htp.views.profile import TimeRow, attribute, profile_rows
from optimum_htp.views.terminal import Column, Line, print_heading, print_table, printable


_FIRST = {"module": "module", "layer": "layer", "call": "module", "class": "class", "op": "operator"}
_COUNTS = {"call": "call", "class": "", "op": ""}


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


def print_delta(
    delta: ProfileDelta, *, depth: int | None = None, top: int | None = None, stream: TextIO | None = None
) -> None:
    """Prints two profiles side by side, a table for each phase.

    Args:
        delta: The profiles.
        depth: How many levels of modules below the root; None means all.
        top: How many modules, those that differ most first; None means all, in the order of the tree.
        stream: Where to print; None means standard output.
    """
    stream = stream or sys.stdout
    columns = (
        Column("module"), Column("class"), Column("A ms", True), Column("B ms", True), Column("B/A", True),
        Column("B-A ms", True),
    )  # fmt: skip
    for position, phase in enumerate(delta.phases):
        if position:
            print(file=stream)
        print_heading(*_delta_heading(delta, phase), stream)
        print(file=stream)
        print_table(columns, list(_delta_lines(phase, depth=depth, top=top)), stream)
    for lonely in delta.unpaired:
        print(f"only in one: {printable(lonely)}", file=stream)


def delta_document(delta: ProfileDelta) -> dict[str, Any]:
    """Two profiles side by side as a JSON document; times are microseconds."""
    return {
        "left": delta.left.package,
        "right": delta.right.package,
        "unpaired": list(delta.unpaired),
        "phases": [
            {
                "left_file": phase.left.file,
                "right_file": phase.right.file,
                "phase": phase.left.phase,
                "left_kernel_time": _time(phase.left.kernel_time),
                "right_kernel_time": _time(phase.right.kernel_time),
                "modules": [
                    {
                        "path": module.path,
                        "class": module.class_name,
                        "left": _time(module.left.total_time) if module.left else None,
                        "right": _time(module.right.total_time) if module.right else None,
                        "ratio": module.ratio,
                    }
                    for module in phase.modules
                ],
            }
            for phase in delta.phases
        ],
    }


def print_delta_json(delta: ProfileDelta, *, stream: TextIO | None = None) -> None:
    """Prints two profiles side by side as JSON."""
    print(json.dumps(delta_document(delta), indent=2), file=stream or sys.stdout)


def _heading(report: ProfileReport, phase: PhaseProfile) -> Iterator[str]:
    kernel, run = phase.kernel_time, phase.run_time
    name = printable(phase.file) + ("" if phase.phase == "forward" else f", {phase.phase}")
    yield f"{name}: {_ms(kernel.median)} ms in kernels, {_ms(run.median)} ms in all"
    threads = "as many threads as ONNX Runtime chooses" if report.threads is None else f"threads: {report.threads}"
    yield (
        f"median of {report.runs} runs after {report.warmup}; spread between quartiles {_ms(kernel.spread)} ms; "
        f"{report.provider}, {threads}, onnxruntime {report.onnxruntime}"
    )
    shapes = [f"{printable(name)} {list(shape)}" for name, shape in phase.inputs.items()]
    more = f" and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    yield f"inputs: {', '.join(shapes[:4])}{more}"
    yield f"{phase.attributed:.2%} of kernel time has a module"
    yield from report.notes


def _columns(by: str) -> tuple[Column, ...]:
    first = Column(_FIRST[by])
    times = (
        Column("total ms", True), Column("±", True), Column("share", True), Column("self ms", True),
        Column("self", True),
    )  # fmt: skip
    if by == "op":
        return first, Column("kernels", True), *times[:3]
    if by == "class":
        return first, Column("modules", True), *times
    counts = (Column("class"), Column("call" if by == "call" else "calls", True), Column("kernels", True))
    return (first, *counts, *times) if by == "call" else (first, *counts, *times, Column("operators"))


def _line(phase: PhaseProfile, row: TimeRow, *, by: str) -> Line:
    total = (_ms(row.total_time.median), _ms(row.total_time.spread), _percent(phase.share(row.total_time)))
    own = (_ms(row.self_time.median), _percent(phase.share(row.self_time)))
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


def _delta_heading(delta: ProfileDelta, phase: PhaseDelta) -> tuple[str, list[str]]:
    left, right = phase.left.kernel_time.median, phase.right.kernel_time.median
    name = "" if phase.left.phase == "forward" else f"{phase.left.phase}: "
    ratio = f", {right / left:.2f} times as long" if left else ""
    title = f"{name}{_ms(left)} ms against {_ms(right)} ms in kernels{ratio}"
    sides = ((delta.left.package, phase.left.file), (delta.right.package, phase.right.file))
    return title, [f"{side}: {printable(package)}, {file}" for side, (package, file) in zip("AB", sides, strict=True)]


def _delta_lines(phase: PhaseDelta, *, depth: int | None, top: int | None) -> Iterator[Line]:
    rows = []
    for module in phase.modules:
        left = module.left.total_time.median if module.left else None
        right = module.right.total_time.median if module.right else None
        if depth is None or module.depth <= depth:
            rows.append((module, left, right, (right or 0.0) - (left or 0.0)))
    if top is not None:
        rows = sorted(rows, key=lambda row: -abs(row[3]))[:top]
    for module, left, right, difference in rows:
        whole = module.path or "(root)"
        name = printable(whole) if top is not None else "  " * module.depth + printable(attribute(module.tag))
        ratio = "" if module.ratio is None else f"{module.ratio:.2f}"
        sides = ("-" if time is None else _ms(time) for time in (left, right))
        yield Line((name, printable(module.class_name), *sides, ratio, f"{difference / 1000:+.3f}"))


def _phase_document(phase: PhaseProfile) -> dict[str, Any]:
    return {
        "file": phase.file,
        "phase": phase.phase,
        "inputs": {name: list(shape) for name, shape in phase.inputs.items()},
        "kernel_time": _time(phase.kernel_time),
        "run_time": _time(phase.run_time),
        "attributed": phase.attributed,
        "unattributed": {"time": _time(phase.unattributed), "ops": _ops_document(phase.unattributed_ops)},
        "modules": [_module_document(phase, module) for module in phase.modules],
        "fused": [_fused_document(phase, fused) for fused in phase.fused],
        "calls": [
            {
                "path": call.path,
                "class": call.class_name,
                "tag": call.tag,
                "call": call.call,
                "kernels": call.kernels,
                "self_time": _time(call.self_time),
                "total_time": _time(call.total_time),
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
        "self_time": _time(module.self_time),
        "self_share": phase.share(module.self_time),
        "total_time": _time(module.total_time),
        "total_share": phase.share(module.total_time),
        "ops": _ops_document(module.ops),
    }


def _fused_document(phase: PhaseProfile, fused: FusedTime) -> dict[str, Any]:
    return {
        "tag": fused.tag,
        "origins": list(fused.origins),
        "kernels": fused.kernels,
        "time": _time(fused.time),
        "share": phase.share(fused.time),
        "ops": _ops_document(fused.ops),
    }


def _ops_document(ops: Mapping[str, OpTime]) -> dict[str, Any]:
    return {name: {"kernels": op.kernels, "time": _time(op.time)} for name, op in ops.items()}


def _time(time: Microseconds) -> dict[str, Any]:
    return {"median_us": time.median, "spread_us": time.spread, "runs_us": list(time)}


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1000:,.3f}"


def _percent(share: float) -> str:
    return f"{share:.1%}"
