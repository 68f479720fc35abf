"""How `profile` prints: a heading and a table for each file and phase.

What the columns mean is in `cli/profile.py`, which rows there are in `profile_rows`. Two packages side by side are in
`profile_delta`, the files of `--speedscope` and `--chrome-trace` in `profile_traces`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from optimum_htp.cli.views.profile_rows import TimeRow, profile_rows
from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_table
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
) -> None:
    """Prints a table for each file and phase; the arguments are those of `profile_rows`."""
    for index, phase in enumerate(report.phases):
        rows = profile_rows(phase, by=by, depth=depth, top=top, sort=sort)
        lines = [_line(phase, row, by=by) for row in rows]
        empty = f"no {'module ran more than once' if by == 'call' else by + 's'}"
        print_phase(index, _heading(report, phase), _columns(by), lines, empty=empty)


def print_phase(
    index: int, heading: Iterable[str], columns: Sequence[Column], lines: Sequence[Line], *, empty: str = ""
) -> None:
    """Prints one of several tables below its heading; or what to say in the place of one without lines."""
    if index:
        print()
    print_heading(*heading)
    print()
    if empty and not lines:
        print(empty)
    else:
        print_table(columns, lines)


def _heading(report: ProfileReport, phase: PhaseProfile) -> Iterator[str]:
    kernel, run = phase.kernel_time, phase.run_time
    name = phase.file + ("" if phase.phase == "forward" else f", {phase.phase}")
    yield f"{name}: {milliseconds(kernel.median)} ms in kernels, {milliseconds(run.median)} ms in all"
    threads = "as many threads as ONNX Runtime chooses" if report.threads is None else f"threads: {report.threads}"
    yield (
        f"median of {report.runs} runs after {report.warmup}; spread between quartiles {milliseconds(kernel.spread)} ms; "
        f"{report.provider}, {threads}, onnxruntime {report.onnxruntime}"
    )
    shapes = [f"{name} {list(shape)}" for name, shape in phase.inputs.items()]
    more = f" and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    yield f"inputs: {', '.join(shapes[:4])}{more}"
    yield f"{phase.attributed:.2%} of kernel time has a module"
    yield from report.notes


def _columns(by: str) -> tuple[Column, ...]:
    first, kernels = Column(FIRST_COLUMN[by], is_path=True), Column("kernels", True, spare=2)
    total = (Column("total ms", True), Column("±", True, spare=1), Column("share", True))
    own = (Column("self ms", True), Column("self", True, spare=1))
    if by == "op":
        return first, kernels, *total
    if by == "class":
        return first, Column("modules", True, spare=2), *total, *own
    if by == "call":
        return first, Column("class", spare=4), Column("call", True), kernels, *total, *own
    calls = Column("calls", True, spare=3)
    return first, Column("class", spare=4), calls, kernels, *total, *own, Column("operators", spare=5)


def _line(phase: PhaseProfile, row: TimeRow, *, by: str) -> Line:
    """The cells of a row, for the columns above."""
    total = (
        milliseconds(row.total_time.median),
        milliseconds(row.total_time.spread),
        f"{phase.share(row.total_time):.1%}",
    )
    own = (milliseconds(row.self_time.median), f"{phase.share(row.self_time):.1%}")
    label = "  " * row.depth + ("+ " if row.kind == "fused" and by == "module" else "") + row.label
    kernels = f"{row.kernels:,}"
    if by == "op":
        return Line((label, kernels, *total))
    if by == "class":
        return Line((label, kernels, *total, *own))
    cells = (label, row.class_name, row.calls, kernels, *total, *own)
    return Line(cells if by == "call" else (*cells, _mix(row)), row.kind == "fused")


def _mix(row: TimeRow) -> str:
    """The operators that take most of the time; `ops` has the longest first."""
    whole = row.total_time.median
    return ", ".join(f"{name} {op.time.median / whole:.0%}" for name, op in list(row.ops.items())[:3] if whole)


def milliseconds(microseconds: float) -> str:
    """A time for a table."""
    return f"{microseconds / 1000:,.3f}"
