"""How `profile` prints: a heading and a table for each file and phase.

What the columns mean is in `cli/profile.py`, which rows there are in `profile_rows`. Two packages side by side are in
`profile_delta`, the files of `--speedscope` and `--chrome-trace` in `profile_traces`.
"""

from __future__ import annotations

from collections.abc import Iterator

from optimum_htp.cli.views.blocks import Block, Column, Note, Row, Table, heading
from optimum_htp.cli.views.profile_rows import TimeRow, folded_rows
from optimum_htp.verbs.profile import PhaseProfile, ProfileReport

FIRST_COLUMN = {"module": "module", "layer": "layer", "call": "module", "class": "class", "op": "operator"}
"""The title of the first column, by what times are added up by."""


def profile_page(
    report: ProfileReport,
    *,
    by: str = "module",
    depth: int | None = None,
    top: int | None = None,
    sort: str | None = None,
    expand: bool = False,
) -> Iterator[Block]:
    """A table for each file and phase; the arguments are those of `folded_rows`."""
    for phase in report.phases:
        rows = folded_rows(phase, by=by, depth=depth, top=top, sort=sort, expand=expand)
        yield heading(_heading(report, phase))
        yield phase_table(phase, rows, by=by)


def phase_table(phase: PhaseProfile, rows: list[TimeRow], *, by: str) -> Block:
    """The table of rows; or what to say where there are none."""
    if not rows:
        return Note(nothing_by(by))
    return Table(_columns(by), tuple(_row(phase, row, by=by) for row in rows))


def nothing_by(by: str) -> str:
    """What to say where there are no rows."""
    return f"no {'module ran more than once' if by == 'call' else by + 's'}"


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
    first, kernels = Column(FIRST_COLUMN[by]), Column("kernels", number=True, spare=3)
    total = (Column("total ms", number=True), Column("share", bar=True), Column("± ms", number=True, spare=2))
    own = (Column("self ms", number=True), Column("self", number=True, spare=1))
    if by == "op":
        return first, *total, kernels
    if by == "class":
        return first, *total, *own, Column("modules", number=True, spare=3)
    class_name = Column("class", spare=5)
    if by == "call":
        return first, Column("call", number=True), *total, *own, kernels, class_name
    return (
        first,
        *total,
        *own,
        kernels,
        Column("calls", number=True, spare=4),
        class_name,
        Column("operators", spare=6),
    )


def _row(phase: PhaseProfile, row: TimeRow, *, by: str) -> Row:
    """The cells of a row, for the columns above."""
    total = (
        milliseconds(row.total_time.median),
        phase.share(row.total_time),
        milliseconds(row.total_time.spread),
    )
    own = (milliseconds(row.self_time.median), f"{phase.share(row.self_time):.1%}")
    fused = row.kind == "fused"
    label, kernels = ("+ " if fused and by == "module" else "") + row.label, f"{row.kernels:,}"
    if by == "op":
        return Row((label, *total, kernels))
    if by == "class":
        return Row((label, *total, *own, kernels))
    if by == "call":
        return Row((label, row.calls, *total, *own, kernels, row.class_name))
    cells = (label, *total, *own, kernels, row.calls, row.class_name, _mix(row))
    return Row(cells, row.depth, count=row.count, style="faint" if fused else "")


def _mix(row: TimeRow) -> str:
    """The operators that take most of the time; `ops` has the longest first."""
    whole = row.total_time.median
    return ", ".join(f"{name} {op.time.median / whole:.0%}" for name, op in list(row.ops.items())[:3] if whole)


def milliseconds(microseconds: float) -> str:
    """A time for a table."""
    return f"{microseconds / 1000:,.3f}"
