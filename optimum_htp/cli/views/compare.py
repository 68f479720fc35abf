"""How `compare` is shown: the module that makes the first error at the top, then a table."""

from __future__ import annotations

from collections.abc import Iterator

from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_lines, print_table
from optimum_htp.models import Errors
from optimum_htp.verbs.compare import CallComparison, CompareReport, Isolated, PartComparison

_COLUMNS = (
    Column("module", is_path=True),
    Column("class", spare=4),
    Column("call", True),
    Column("max abs", True, spare=1),
    Column("mean abs", True, spare=3),
    Column("relative", True),
    Column("cosine", True, spare=2),
    Column("SQNR dB", True),
    Column(""),
)
_WORST = 5


def print_comparison(report: CompareReport, *, top: int = 20, every: bool = False) -> None:
    """Prints a table for each file: of all calls (`every`), of `top` that are off or, if none is, of the few worst."""
    for index, part in enumerate(report.parts):
        if index:
            print()
        print_heading(*_heading(part))
        shown = _shown(part, top=top, every=every)
        if shown:
            print()
            print_table(_COLUMNS, map(_line, shown))
        more = len(part.over) - len(shown)
        if more > 0:
            print(f"and {more:,} more over the tolerance (--top N, --all)")
    print_lines(*(f"{name}: not compared: {reason}" for name, reason in report.not_compared.items()))


def _heading(part: PartComparison) -> Iterator[str]:
    first, culprit = part.first_over, part.culprit
    worst = max((errors.relative for errors in part.outputs.values()), default=0.0)
    name = part.label
    if first is not None and culprit is not None:
        yield f"{name}: {_name(culprit)} is the first to differ from {part.reference}"
        yield from _first(part, first)
    elif part.ok:
        yield f"{name}: agrees with {part.reference} in every module that was compared"
    else:
        yield f"{name}: every module that was compared agrees with {part.reference}, and the outputs do not"
    yield (
        f"compared {part.compared:,} of {len(part.calls):,} module calls that have nodes, {len(part.over):,} over the "
        f"tolerance of {part.tolerance:.0e}; {part.without_nodes:,} more have no nodes"
    )
    if part.unknown_calls:
        yield f"which calls {part.unknown_calls:,} nodes belong to is unknown: they count for the module around the calls"
    if part.random:
        yield f"it draws random numbers ({', '.join(part.random)}): tensors after them differ from run to run"
    for reason, count in part.skipped.items():
        yield f"not compared: {count:,}, because {reason}"
    yield f"outputs: {len(part.outputs):,}, off by {worst:.1e} at most, relative to their largest value"
    shapes = [f"{key} {list(shape)}" for key, shape in part.inputs.items()]
    more = f" and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    yield f"inputs: {', '.join(shapes[:4])}{more}"


def _first(part: PartComparison, first: CallComparison) -> Iterator[str]:
    assert first.errors is not None  # it is over the tolerance
    isolated = part.isolated_call(first)
    whose = "" if part.culprit is first else f" of {_name(first)}, the first output that shows it"
    yield f"relative error {first.errors.relative:.1e}{whose}; tolerance {part.tolerance:.0e}"
    if isolated is None:
        yield "how much of it the module adds itself is unknown: it was not run on the reference's tensors"
    else:
        yield from _isolated(isolated)
    if part.looks_foreign:
        yield (
            "several of the first modules are off by themselves, as if the weights were another model's: is the "
            "reference what this was exported from?"
        )


def _isolated(isolated: Isolated) -> Iterator[str]:
    alone = isolated.alone or isolated.added
    if isolated.source is None and isolated.alone is None:
        verdict = "the rest is inherited, little by little"
    elif isolated.over:
        verdict = "the error is its own"
    elif isolated.source is None:
        verdict = "the error is of the operations before it"
    else:
        verdict = f"the error is of the operations of {_name(isolated.source)} itself before it"
    what = "inputs" if isolated.alone is not None else "tensors"
    yield f"on the reference's {what} it is off by {alone.relative:.1e}: {verdict}"
    if isolated.between and isolated.alone is None:
        names = ", ".join(isolated.between[:3])
        more = f" and {len(isolated.between) - 3} more" if len(isolated.between) > 3 else ""
        yield f"that includes operations of {names}{more} right before it"
    if not isolated.fed:
        yield "no tensor of the reference could be used before it: it was run from the model's inputs"


def _shown(part: PartComparison, *, top: int, every: bool) -> list[CallComparison]:
    if every:
        return list(part.calls)
    if part.over:
        return list(part.over[:top])
    known = {call.order: call.errors.relative for call in part.calls if call.errors is not None}
    worst = sorted(known, key=lambda order: -known[order])[: min(top, _WORST)]
    return [call for call in part.calls if call.order in worst]


def _line(call: CallComparison) -> Line:
    remark = "over" if call.over else (call.skipped or "")
    if call.compared_as is not None:
        remark = f"{remark} as {call.compared_as}".strip()
    which = "" if call.call is None else str(call.call)
    names = (call.path or "(root)", call.class_name, which)
    return Line((*names, *_figures(call.errors), remark), call.errors is None)


def _figures(errors: Errors | None) -> tuple[str, ...]:
    if errors is None:
        return ("",) * 5
    return (
        f"{errors.max_abs:.2e}",
        f"{errors.mean_abs:.2e}",
        f"{errors.relative:.2e}",
        f"{errors.cosine:.6f}",
        f"{errors.sqnr_db:.1f}",
    )


def _name(call: CallComparison) -> str:
    which = "" if call.call is None else f", call {call.call}"
    return f"{call.path or 'the root'} ({call.class_name}{which})"
