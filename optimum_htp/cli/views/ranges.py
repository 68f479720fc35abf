"""How `ranges` is shown: what the type can't hold at the top, then a table of the numbers of each module call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from optimum_htp.cli.views.blocks import Block, Column, Note, Row, Table, heading, notes, printable
from optimum_htp.cli.views.folding import Folded, fold, unfolded
from optimum_htp.cli.views.select import selection_lines
from optimum_htp.selections import FORMATS
from optimum_htp.verbs.ranges import CallRanges, PhaseRanges, RangesReport, TensorRange

_NAMES = {"fp16": "float16", "int8": "int8"}
_END = 65504.0
_NEAR = 2.0  # calls whose numbers differ by no more than this factor are shown as one
_NAMED = 5  # modules that the heading names
_DEVICE = "cpu"  # where what float16 can't hold is to run, for the formats that put nodes on one


def ranges_page(report: RangesReport, *, top: int = 20, every: bool = False, expand: bool = False) -> Iterator[Block]:
    """A table for each file and phase: what the type can't hold, and then the `top` largest, or `every` call in order."""
    for phase in report.phases:
        yield heading(_heading(report, phase))
        rows = _rows(phase, top=top, every=every, expand=expand)
        if rows:
            yield _table(report, rows)
        shown = sum(len(row.members) for row in rows)
        counted = sum(call.largest is not None for call in phase.calls)
        if counted > shown and not every:
            yield Note(f"and {counted - shown:,} more with smaller numbers (--top N, --all)")
    yield from notes(f"{name}: not run: {reason}" for name, reason in report.not_run.items())


def left_out_lines(report: RangesReport, *, form: str) -> Iterator[str]:
    """The nodes that have to be left out of the type, in one of `FORMATS`; an empty list where there are none."""
    if report.selection.files:
        yield from selection_lines(report.selection, form=form, device=_DEVICE)
    else:
        yield from FORMATS[form].nothing()


def left_out_notes(report: RangesReport, *, form: str) -> Iterator[str]:
    """What to know before the list is handed to another tool: a line for each."""
    if not report.selection.files:
        yield f"{_NAMES[str(report.dtype)]} holds all that was seen: there is nothing to leave out"
    for file in report.selection.files:
        yield from (f"{printable(file.name)}: {printable(note)}" for note in FORMATS[form].notes(file, device=_DEVICE))
    if not report.given:
        yield _MADE_UP
    yield from (f"{printable(name)}: not run: {printable(reason)}" for name, reason in report.not_run.items())


_MADE_UP = "seen on made-up inputs: numbers of real ones may be larger; give them with --inputs FILE.npz"


def _heading(report: RangesReport, phase: PhaseRanges) -> Iterator[str]:
    yield f"{phase.label}: {_verdict(report, phase)}"
    problems = phase.problems
    named = fold(
        problems, name=lambda call: call.path or "the root", like=lambda call: (*_likeness(call), call.problem)
    )
    for row in named[:_NAMED]:
        count = f" ×{row.count}" if row.count > 1 else ""
        yield f"{row.name}{count} ({_class(row.first)}): {_reason(report, row.first)}"
    if len(named) > _NAMED:
        yield f"and {len(problems) - sum(len(row.members) for row in named[:_NAMED]):,} more"
    if problems and report.dtype is not None:
        form = "ort-fp16" if report.dtype == "fp16" else "ort-quantize"
        yield f"--format {form} lists the nodes to leave out"
    if report.dtype == "fp16":
        yield from _sums(report, phase)
        masks = sum(tensor.harmless for call in phase.calls for tensor in call.tensors)
        if masks:
            yield f"what is too large in {masks:,} tensor{'s' * (masks > 1)} more is harmless, as in masks: see --help"
    if phase.closed:
        inside = ", ".join(f"{operator} ×{count}" for operator, count in phase.closed.items())
        yield f"what happens inside of these is not seen: {inside}"
    if phase.unseen:
        yield f"{phase.unseen:,} nodes in loops, branches and functions are not seen"
    yield from phase.notes
    shapes = [f"{key} {list(shape)}" for key, shape in phase.inputs.items()]
    more = f" and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    yield f"inputs: {', '.join(shapes[:4])}{more}, {phase.samples} sample{'s' * (phase.samples > 1)}"
    if not report.given:
        yield _MADE_UP


def _verdict(report: RangesReport, phase: PhaseRanges) -> str:
    problems = phase.problems
    held = [(tensor, call) for call in phase.calls for tensor in call.tensors if tensor.kind in ("result", "inside")]
    held = [(tensor, call) for tensor, call in held if not tensor.harmless and tensor.largest is not None]
    if report.dtype == "fp16" and any(tensor.type == "float16" for tensor, _ in held):
        held = [(tensor, call) for tensor, call in held if tensor.type == "float16"]
    largest = max(held, key=lambda each: each[0].largest or 0.0, default=None)
    where = f"{_figure(largest[0].largest)} in {_name(largest[1])}" if largest is not None else "unknown"
    if report.dtype is None:
        return f"NaN begins in {_name(problems[0])}" if problems else f"the largest number is {where}"
    kind = _NAMES[report.dtype]
    if problems:
        made = sum(bool(call.made) for call in problems)
        others = len(problems) - made
        read = f"; {others} more read{'s' * (others == 1)} it" if others else ""
        return f"{kind} can't hold what {made} module call{'s make' if made > 1 else ' makes'}{read}"
    return f"{kind} holds all that was seen; the largest number is {where}"


def _reason(report: RangesReport, call: CallRanges) -> str:
    reason = call.problem or ""
    if report.dtype == "fp16" and reason.startswith("reaches"):
        if report.headroom != 1:
            return f"{reason}, and {report.headroom:g} times that is more than float16's {_END:.0f}"
        return f"{reason}, and float16 ends at {_END:.0f}"
    return reason


def _sums(report: RangesReport, phase: PhaseRanges) -> Iterator[str]:
    known = [call for call in phase.calls if call.largest_sum is not None]
    if not known:
        return
    most = max(known, key=lambda call: call.largest_sum or 0.0)
    over = [call for call in known if (call.largest_sum or 0.0) > _END / report.headroom and call.problem is None]
    if over and report.accumulate == "float32":
        yield (
            f"sums inside {len(over):,} more may pass the range in a kernel that adds in float16, up to "
            f"{_figure(max(call.largest_sum or 0.0 for call in over))}; --accumulate float16 names these too"
        )
    elif (most.largest_sum or 0.0) <= _END:
        yield (
            f"no sum inside a MatMul, Gemm or Conv passes {_figure(most.largest_sum)}, in whatever order it is added up"
        )


def _size(call: CallRanges) -> float:
    largest = call.largest
    return largest.largest or 0.0 if largest is not None and not largest.harmless else 0.0


def _rows(phase: PhaseRanges, *, top: int, every: bool, expand: bool) -> list[Folded[CallRanges]]:
    problems = list(phase.problems)
    counted = [call for call in phase.calls if call.largest is not None]
    if every:
        calls = [call for call in phase.calls if call.largest is not None or call.problem is not None]
    else:
        calls = problems + sorted((call for call in counted if call.problem is None), key=_size, reverse=True)
    if expand:
        rows = unfolded(calls, lambda call: call.path or "(root)")
    else:
        rows = fold(calls, name=lambda call: call.path or "(root)", like=_likeness, near=_near)
    return rows if every else rows[: max(top, sum(row.first.problem is not None for row in rows))]


def _likeness(call: CallRanges) -> tuple[object, ...]:
    return call.class_name, call.call, call.known, bool(call.made), bool(call.read)


def _near(one: CallRanges, other: CallRanges) -> bool:
    smaller, larger = sorted((_size(one), _size(other)))
    return larger <= smaller * _NEAR


_COLUMNS = (
    Column("module"),
    Column("min", number=True),
    Column("max", number=True),
    Column("mean", number=True, spare=3),
    Column("zeros", number=True, spare=2),
    Column("largest", number=True),
    Column("lost", number=True),
    Column("sums", number=True),
    Column("call", number=True),
    Column("class", spare=4),
    Column("remark"),
)


def _table(report: RangesReport, rows: Sequence[Folded[CallRanges]]) -> Table:
    """The table, without the columns that say nothing."""
    lines = [_line(report, row) for row in rows]
    kept = [
        index
        for index, column in enumerate(_COLUMNS)
        if column.title not in ("lost", "sums", "call", "remark") or any(line.cells[index] for line in lines)
    ]
    return Table(
        tuple(_COLUMNS[index] for index in kept),
        tuple(replace(line, cells=tuple(line.cells[index] for index in kept)) for line in lines),
    )


def _line(report: RangesReport, row: Folded[CallRanges]) -> Row:
    call = row.first
    results = [member.result for member in row.members if member.result is not None]
    largest = max(row.members, key=_size).largest
    sums = [member.largest_sum for member in row.members if member.largest_sum is not None]
    cells = (
        row.name,
        _figure(min((each.minimum for each in results if each.minimum is not None), default=None)),
        _figure(max((each.maximum for each in results if each.maximum is not None), default=None)),
        _figure(_mean(results)),
        _share(sum(each.zeros for each in results), sum(each.count for each in results)),
        _figure(largest.largest if largest is not None else None),
        f"{max(member.lost for member in row.members):.1%}" if report.dtype is not None else "",
        _figure(max(sums, default=None)) if report.dtype == "fp16" else "",
        "" if call.call is None else str(call.call),
        call.class_name,
        _remark(row.members),
    )
    bad, faint = any(member.made for member in row.members), call.largest is None or not _size(call)
    style = "bad" if bad else "warning" if call.problem is not None else "faint" if faint else ""
    return Row(cells, count=row.count, style=style)


def _remark(calls: Sequence[CallRanges]) -> str:
    """What there is to say of the numbers in a few words."""
    if any(call.made for call in calls):
        nans = any(tensor.nans and tensor.problem is not None for call in calls for tensor in call.tensors)
        return "NaN" if nans else "too large" if any(call.over for call in calls) else "not held"
    if any(call.read for call in calls):
        return "reads these"
    if any(tensor.harmless for call in calls for tensor in call.tensors):
        return "a mask"
    odd = [tensor for call in calls for tensor in call.tensors if tensor.kind != "weight"]
    if any(tensor.nans for tensor in odd):
        return "NaN"
    if any(tensor.infinite for tensor in odd):
        return "infinite"
    return "" if all(call.known for call in calls) else "module unknown"


def _mean(results: Sequence[TensorRange]) -> float | None:
    known = [(each.mean, each.count) for each in results if each.mean is not None]
    count = sum(count for _, count in known)
    return sum(mean * count for mean, count in known) / count if count else None


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _name(call: CallRanges) -> str:
    return f"{call.path or 'the root'} ({_class(call)})"


def _class(call: CallRanges) -> str:
    return call.class_name if call.call is None else f"{call.class_name}, call {call.call}"
