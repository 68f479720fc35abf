"""How `compare` is shown: who is to blame and the proof at the top, then a table of what each module adds itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isinf

from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_lines, print_table
from optimum_htp.models import Errors
from optimum_htp.verbs.compare import CallComparison, CompareReport, Culprit, PartComparison

METRICS: dict[str, tuple[str, Callable[[Errors], float], str]] = {
    "sqnr": ("SQNR dB", lambda errors: errors.sqnr_db, "{:.1f}"),
    "relative": ("relative", lambda errors: errors.relative, "{:.1e}"),
    "absolute": ("max abs", lambda errors: errors.max_abs, "{:.1e}"),
    "mean": ("mean abs", lambda errors: errors.mean_abs, "{:.1e}"),
    "cosine": ("cosine", lambda errors: errors.cosine, "{:.6f}"),
}
"""What `--metric` takes: the heading, the figure, and how it is written."""

OPERATIONS = "its own operations"
_WORST = 5


def print_comparison(report: CompareReport, *, top: int = 20, every: bool = False, metric: str = "sqnr") -> None:
    """Prints a table for each file: of all calls (`every`), or of `top` that add most if not all is well, else of a few."""
    for index, part in enumerate(report.parts):
        if index:
            print()
        print_heading(*_heading(part))
        shown = _shown(part, top=top, every=every)
        if shown:
            print()
            print_table(_columns(metric), (_line(part, call, metric) for call in shown))
        measured = [call for call in part.calls if call.own is not None]
        if len(measured) > len(shown) and not every:
            print(f"and {len(measured) - len(shown):,} more that add less (--top N, --all)")
    print_lines(*(f"{name}: not compared: {reason}" for name, reason in report.not_compared.items()))


def _heading(part: PartComparison) -> Iterator[str]:
    if not part.samples:
        yield f"{part.label}: not compared: {part.reason}"
        return
    yield f"{part.label}: {_verdict(part)}"
    yield from _proof(part)
    worst = f"off by {part.output_error:.1e}, relative to the largest value ({_decibel(part.outputs_sqnr_db)})"
    yield f"outputs: {len(part.outputs):,}, {worst}; tolerance {part.tolerance:.0e}"
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


def _shown(part: PartComparison, *, top: int, every: bool) -> list[CallComparison]:
    if every:
        return list(part.calls)
    first = [culprit.row for culprit in (*part.culprits, *part.carriers)]
    known = [call for call in part.calls if call.own is not None and call not in first]
    known.sort(key=lambda call: call.own.sqnr_db if call.own is not None else 0.0)
    return [*first, *known][: top if part.verdict != "agrees" else min(top, _WORST)]


def _columns(metric: str) -> tuple[Column, ...]:
    title = METRICS[metric][0]
    return (
        Column("module", is_path=True),
        Column("class", spare=2),
        Column("call", True),
        Column(f"adds, {title}", True),
        Column(f"output, {title}", True),
        Column("", spare=1),
    )


def _line(part: PartComparison, call: CallComparison, metric: str) -> Line:
    wrong = any(call is culprit.row for culprit in part.culprits)
    remark = "wrong" if wrong else call.skipped or ("over" if call.over else "")
    if call.compared_as is not None:
        remark = f"{remark} as {call.compared_as}".strip()
    what = OPERATIONS if call.operations else call.class_name
    which = "" if call.call is None else str(call.call)
    figures = (_figure(call.own, metric), _figure(call.errors, metric))
    return Line((call.path or "(root)", what, which, *figures, remark), call.errors is None and call.own is None)


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
