"""How `compare` is shown: who is to blame and the proof at the top, then a table of what each module adds itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import isinf

from optimum_htp.cli.views.blocks import Block, Column, Note, Row, Table, heading, notes
from optimum_htp.cli.views.folding import Folded, fold, unfolded
from optimum_htp.models import Errors
from optimum_htp.verbs.compare import CallComparison, CompareReport, Culprit, PartComparison

METRICS: dict[str, tuple[str, Callable[[Errors], float], str]] = {
    "sqnr": ("dB", lambda errors: errors.sqnr_db, "{:.1f}"),
    "relative": ("relative", lambda errors: errors.relative, "{:.1e}"),
    "absolute": ("max abs", lambda errors: errors.max_abs, "{:.1e}"),
    "mean": ("mean abs", lambda errors: errors.mean_abs, "{:.1e}"),
    "cosine": ("cosine", lambda errors: errors.cosine, "{:.6f}"),
}
"""What `--metric` takes: the heading, the figure, and how it is written."""

OPERATIONS = "its own operations"
_WORST = 5
_NEAR_DB = 3.0  # calls that are no farther apart are shown as one: half a bit


def comparison_page(
    report: CompareReport,
    *,
    top: int = 20,
    every: bool = False,
    metric: str = "sqnr",
    expand: bool = False,
    source: bool = False,
) -> Iterator[Block]:
    """A table for each file: of all calls (`every`), or of `top` that add most if not all is well, else of a few.

    Calls of several layers that are as far off are one row, unless it is to `expand`. `source` shows the lines of Python
    that they come from.
    """
    for part in report.parts:
        yield heading(_heading(part))
        rows = _rows(part, top=top, every=every, expand=expand)
        if rows:
            yield _table(part, rows, metric, source=source)
        shown = sum(row.count for row in rows)
        measured = [call for call in part.calls if call.own is not None]
        if len(measured) > shown and not every:
            yield Note(f"and {len(measured) - shown:,} more that add less (--top N, --all)")
    yield from notes(f"{name}: not compared: {reason}" for name, reason in report.not_compared.items())


def _heading(part: PartComparison) -> Iterator[str]:
    if not part.samples:
        yield f"{part.label}: not compared: {part.reason}"
        return
    yield f"{part.label}: {_verdict(part)}"
    yield from _proof(part)
    against = "their size" if part.precision == "int8" else "the largest value"
    worst = f"off by {part.output_error:.1e}, relative to {against} ({_decibel(part.outputs_sqnr_db)})"
    known = f"{len(part.outputs):,}, {worst}" if part.outputs else "none was compared, since the reference has no such"
    yield f"outputs: {known}; tolerance {part.tolerance:.0e}"
    yield f"compared {part.compared:,} of {len(part.modules):,} module calls that have nodes; {part.without_nodes:,} have none"
    if part.unknown_calls:
        yield f"which calls {part.unknown_calls:,} nodes belong to is unknown: they count for the module around the calls"
    if part.random:
        yield f"it draws random numbers ({', '.join(part.random)}): tensors after them differ from run to run"
    for reason, count in part.skipped.items():
        yield f"not compared: {count:,}, because {reason}"
    yield from part.notes
    shapes = [f"{key} {list(shape)}" for key, shape in part.inputs.items()]
    more = f" and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    samples = f", {part.samples} samples" if part.samples > 1 else ""
    yield f"inputs: {', '.join(shapes[:4])}{more}{samples}"


def _verdict(part: PartComparison) -> str:
    if part.verdict == "one":
        return f"{_name(part.culprits[0].row)} is wrong"
    if part.verdict == "several":
        named = ", ".join(_name(culprit.row) for culprit in part.culprits[:3])
        more = f" and {len(part.culprits) - 3} more" if len(part.culprits) > 3 else ""
        return f"{named}{more} are wrong"
    if part.verdict == "spread":
        return f"every module adds a little, as {part.precision} does; none stands out"
    if part.verdict == "unknown":
        return f"whose error it is can't be told: {part.reason}"
    return f"agrees with {part.reference} in every module that was compared"


def _proof(part: PartComparison) -> Iterator[str]:
    for culprit in part.culprits[:3]:
        usual = f"sound {part.precision} work has {_decibel(culprit.expected_sqnr_db)} or more"
        yield f"{_name(culprit.row)} adds an error of {_decibel(culprit.own.sqnr_db)} SQNR by itself; {usual}"
        yield f"  with its work put right, and all else as it is, the outputs are {_off(culprit)}"
        if culprit.row.python is not None:
            yield f"  it comes from {culprit.row.python.place}, in {culprit.row.python.function}"
    if len(part.culprits) > 1 and part.output_error_without_all is not None:
        yield f"with all of them put right the outputs are off by {part.output_error_without_all:.1e}"
    if part.carriers:
        names = ", ".join(f"{_name(each.row)} {_decibel(each.own.sqnr_db)}" for each in part.carriers[:3])
        yield f"most is added by {names}"


def _off(culprit: Culprit) -> str:
    if culprit.output_error_without is None:
        return "unknown: ONNX Runtime can't run that"
    return f"off by {culprit.output_error_without:.1e} ({_decibel(culprit.output_sqnr_db_without or 0.0)})"


def _decibel(value: float) -> str:
    if isinf(value):
        return "exact" if value > 0 else "no number"
    return f"{value:.0f} dB"


def _rows(part: PartComparison, *, top: int, every: bool, expand: bool) -> list[Folded[CallComparison]]:
    """The calls to show, those that add most first; or all, in their order."""
    first = [culprit.row for culprit in (*part.culprits, *part.carriers)]
    known = [call for call in part.calls if call.own is not None and call not in first]
    known.sort(key=lambda call: call.own.sqnr_db if call.own is not None else 0.0)
    calls = list(part.calls) if every else [*first, *known]
    if expand:
        rows = unfolded(calls, _path)
    else:
        rows = fold(calls, name=_path, like=lambda call: _likeness(part, call), near=_near)
    return rows if every else rows[: top if part.verdict != "agrees" else min(top, _WORST)]


def _path(call: CallComparison) -> str:
    return call.path or "(root)"


def _likeness(part: PartComparison, call: CallComparison) -> tuple[object, ...] | None:
    """What calls have in common that are shown as one; who is to blame is like no other."""
    if _is_wrong(part, call) or call.compared_as is not None:
        return None
    return call.class_name, call.operations, call.call, call.over, call.skipped


def _near(one: CallComparison, other: CallComparison) -> bool:
    """Whether calls are about as far off: in both figures."""
    pairs = ((one.own, other.own), (one.errors, other.errors))
    return all(
        left is right or (left is not None and right is not None and _within(left.sqnr_db, right.sqnr_db))
        for left, right in pairs
    )


def _within(one: float, other: float) -> bool:
    return one == other or abs(one - other) <= _NEAR_DB


def _is_wrong(part: PartComparison, call: CallComparison) -> bool:
    return any(call is culprit.row for culprit in part.culprits)


def _columns(metric: str) -> tuple[Column, ...]:
    unit = METRICS[metric][0]
    return (
        Column("module"),
        Column(f"adds, {unit}", number=True),
        Column(f"output, {unit}", number=True),
        Column("call", number=True),
        Column("class", spare=1),
        Column("remark"),
        Column("python", spare=2),
        Column("line", spare=3),
    )


def _table(part: PartComparison, rows: Sequence[Folded[CallComparison]], metric: str, *, source: bool) -> Table:
    """The table, without the columns of calls, remarks and Python where there are none."""
    lines = [_line(part, row, metric, source=source) for row in rows]
    columns = _columns(metric)
    kept = [
        i
        for i, column in enumerate(columns)
        if column.title not in ("call", "remark", "python", "line") or any(line.cells[i] for line in lines)
    ]
    return Table(
        tuple(columns[index] for index in kept),
        tuple(replace(line, cells=tuple(line.cells[index] for index in kept)) for line in lines),
    )


def _line(part: PartComparison, row: Folded[CallComparison], metric: str, *, source: bool) -> Row:
    call, wrong = row.first, _is_wrong(part, row.first)
    remark = "wrong" if wrong else call.skipped or ("over" if call.over else "")
    if call.compared_as is not None:
        remark = f"{remark} as {call.compared_as}".strip()
    name = row.name + (f", {OPERATIONS}" if call.operations else "")
    which = "" if call.call is None else str(call.call)
    figures = (_worst(each.own for each in row.members), _worst(each.errors for each in row.members))
    places = {each.python.place: each.python for each in row.members if each.python is not None}
    python = next(iter(places)) if len(places) == 1 else ""
    text = (places[python].source() or "") if python and source else ""
    cells = (name, *(_figure(errors, metric) for errors in figures), which, call.class_name, remark, python, text)
    return Row(cells, count=row.count, style="bad" if wrong else "faint" if figures == (None, None) else "")


def _worst(errors: Iterable[Errors | None]) -> Errors | None:
    return min((each for each in errors if each is not None), key=lambda each: each.sqnr_db, default=None)


def _figure(errors: Errors | None, metric: str) -> str:
    if errors is None:
        return ""
    _, figure, form = METRICS[metric]
    value = figure(errors)
    if isinf(value):
        return "exact" if errors.max_abs == 0 else "no number"
    return form.format(value)


def _name(call: CallComparison) -> str:
    which = "" if call.call is None else f", call {call.call}"
    what = f"{call.class_name}, {OPERATIONS}" if call.operations else call.class_name
    return f"{call.path or 'the root'} ({what}{which})"
