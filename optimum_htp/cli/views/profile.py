"""How `profile` prints: a heading and a table for each file and phase.

Change here what the headings say and which columns there are. Which rows there are, and in which order, is in
`profile_rows`; the tables of `--compare` are in `profile_delta`, the files of `--speedscope` and `--chrome-trace` in
`profile_traces`. `--json` prints `ProfileReport.to_dict`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TextIO

from optimum_htp.cli.views.profile_rows import TimeRow, profile_rows
from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_table, printable
from optimum_htp.verbs.profile import PhaseProfile, ProfileReport


FIRST_COLUMN = {"module": "module", "layer": "layer", "call": "module", "class": "class", "op": "operator"}
"""The title of the first column, by what times are added up by."""


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


def milliseconds(microseconds: float) -> str:
    """A time as it stands in a table."""
    return f"{microseconds / 1000:,.3f}"


def _percent(share: float) -> str:
    return f"{share:.1%}"
