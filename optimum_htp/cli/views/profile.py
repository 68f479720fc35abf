"""How `profile` prints: a heading and a table for each file and phase.

What the columns mean is in `cli/profile.py`, which rows there are in `profile_rows`, and which columns in
`profile_columns`. Two packages side by side are in `profile_delta`, the files of `--speedscope` and `--chrome-trace` in `profile_traces`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optimum_htp.cli.views.blocks import Block, Cell, Column, Note, Row, Table, heading
from optimum_htp.cli.views.profile_columns import expanded, milliseconds, parts_of, usual
from optimum_htp.cli.views.profile_rows import TimeRow, folded_rows
from optimum_htp.hierarchy import tag_module_path
from optimum_htp.verbs.profile import PhaseProfile, ProfileReport, Work

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
    columns: Sequence[str] | None = None,
) -> Iterator[Block]:
    """A table for each file and phase: the rows of `folded_rows`, and columns by the names of `profile_columns.NAMES`."""
    for phase in report.phases:
        rows = folded_rows(phase, by=by, depth=depth, top=top, sort=sort, expand=expand)
        yield heading(_heading(report, phase))
        yield phase_table(phase, rows, by=by, columns=columns)


def phase_table(phase: PhaseProfile, rows: list[TimeRow], *, by: str, columns: Sequence[str] | None = None) -> Block:
    """The table of rows; or what to say where there are none."""
    if not rows:
        return Note(nothing_by(by))
    names = usual(by, rows) if columns is None else expanded(columns, by=by)
    parts = parts_of(names, by=by, with_spread=len(phase.kernel_time) > 1)
    first = (Column(FIRST_COLUMN[by]), *((Column("call", number=True),) if by == "call" else ()))
    return Table(
        (*first, *(column for column, _ in parts)),
        tuple(_row(row, [cell(phase, row) for _, cell in parts], by=by) for row in rows),
    )


def nothing_by(by: str) -> str:
    """What to say where there are no rows."""
    return f"no {'module ran more than once' if by == 'call' else by + 's'}"


RUNTIMES = {"onnxruntime": "onnxruntime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}
"""What people call a runtime, by what a report calls it."""


def ran_in(report: ProfileReport) -> str:
    """The runtime and its version."""
    return " ".join(filter(None, (RUNTIMES.get(report.runtime, report.runtime), report.version)))


def _heading(report: ProfileReport, phase: PhaseProfile) -> Iterator[str]:
    kernel, run = phase.kernel_time, phase.run_time
    name = phase.file + ("" if phase.phase == "forward" else f", {phase.phase}")
    whole = f", {milliseconds(run.median)} ms in all" if run else ""
    yield f"{name}: {milliseconds(kernel.median)} ms in kernels{whole}"
    after = "" if report.warmup is None else f" after {report.warmup}"
    spread = f"; spread between quartiles {milliseconds(kernel.spread)} ms" if len(kernel) > 1 else ""
    yield f"{report.average} of {report.runs} runs{after}{spread}; {', '.join(_session(report))}"
    shapes = [f"{name} {list(shape)}" for name, shape in phase.inputs.items()]
    more = f" and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    if shapes:
        yield f"inputs: {', '.join(shapes[:4])}{more}"
    yield f"{phase.attributed:.2%} of kernel time has a module"
    yield from _work(report, phase)
    yield from report.notes


def _session(report: ProfileReport) -> Iterator[str]:
    """What ran it, and how."""
    runtime = RUNTIMES.get(report.runtime, report.runtime)
    if report.provider != runtime:
        yield report.provider
    if report.threads is not None:
        yield f"threads: {report.threads}"
    elif report.runtime != "tensorrt":
        yield f"as many threads as {'ONNX Runtime' if report.runtime == 'onnxruntime' else runtime} chooses"
    yield ran_in(report)


def _work(report: ProfileReport, phase: PhaseProfile) -> Iterator[str]:
    """What is known beside time, what of it is not, and what runs elsewhere than it was asked to."""
    work = phase.work
    if work.peak_bytes is not None:
        held = "" if phase.held_bytes is None else f", {amount(phase.held_bytes, 'B')} of it before the first kernel"
        yield f"memory: at most {amount(work.peak_bytes, 'B')} in the arena of {report.provider}{held}"
    if work.flops is not None:
        rate = work.gflops(phase.kernel_time.median)
        speed = "" if rate is None else f", {amount(rate * 1e9, 'FLOP/s')}"
        ratio = "" if work.bytes_per_flop is None else f", {work.bytes_per_flop:.3g} bytes for each"
        yield f"work: {amount(work.flops, 'FLOP')}{speed}{ratio}{_uncounted(work)}"
    yield from (f"{what}: {why}" for what, why in phase.not_known.items())
    yield from _elsewhere(report, phase)


def _uncounted(work: Work) -> str:
    if not work.uncounted:
        return ""
    names = list(work.uncounted)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"; not counted: {sum(work.uncounted.values()):,} kernels of {', '.join(names[:3])}{more}"


def _elsewhere(report: ProfileReport, phase: PhaseProfile) -> Iterator[str]:
    """Which nodes another provider runs than the one that was asked for, and what is copied between the two."""
    whole = phase.kernel_time.median
    nodes = sum(phase.work.providers.values())
    for name, part in phase.providers.items():
        if name != report.provider:
            inside = [module.path or "(root)" for module in phase.modules if name in module.self_work.providers]
            inside += [
                f"nodes fused in {tag_module_path(each.tag) or '(root)'}"
                for each in phase.fused
                if name in each.work.providers
            ]
            where = (
                f", in {', '.join(inside[:3])}{f' and {len(inside) - 3} more' if len(inside) > 3 else ''}"
                if inside
                else ""
            )
            share = f", {part.time.median / whole:.1%} of kernel time" if whole else ""
            yield f"runs partly on {name}: {phase.work.providers.get(name, 0):,} of {nodes:,} nodes{share}{where}"
    if phase.work.copies:
        size = "" if phase.work.copied_bytes is None else f", {amount(phase.work.copied_bytes, 'B')}"
        yield f"copies between providers: {phase.work.copies:,}{size}"


def _row(row: TimeRow, cells: Sequence[Cell], *, by: str) -> Row:
    """A row of the table."""
    label = ("+ " if row.kind == "fused" and by == "module" else "") + row.label
    first = (label, row.calls) if by == "call" else (label,)
    depth, count = (0, 1) if by in ("op", "class", "call") else (row.depth, row.count)
    return Row((*first, *cells), depth, count=count, style="faint" if row.kind == "fused" and by != "class" else "")


def amount(value: float, unit: str) -> str:
    """A size or a number of operations in three digits, with a prefix of the unit.

    >>> amount(130_656, "B"), amount(2.8e9, "FLOP"), amount(512, "B")
    ('131 kB', '2.8 GFLOP', '512 B')
    """
    prefix = ""
    for prefix in ("", "k", "M", "G", "T", "P"):  # noqa: B007 (the prefix that is left is the one to use)
        if value < 999.5:
            break
        value /= 1000
    return f"{value:.3g} {prefix}{unit}"
