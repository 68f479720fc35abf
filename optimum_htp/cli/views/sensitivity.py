"""How `sensitivity` is shown: what the quantized model is like, and a table of what each module costs, the worst first."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING

from optimum_htp.cli.views.blocks import Block, Column, Note, Row, Table, heading, notes
from optimum_htp.cli.views.select import selection_lines, selection_notes
from optimum_htp.selections import FORMATS

if TYPE_CHECKING:
    from optimum_htp.verbs.sensitivity import Figures, FileSensitivity, ModuleSensitivity, SensitivityReport

_DEVICE = "gpu"  # of the one format that names one
_UNITS = {"sqnr": ", dB", "cosine": "", "relative": "", "top1": ""}
_SEEDED = (
    "the inputs are random numbers: the order of modules tells something, how good the model is for yours does not"
)
_CALIBRATED = ", nor do the ranges that static quantization took from them"


def sensitivity_page(report: SensitivityReport, *, top: int = 20, every: bool = False) -> Iterator[Block]:
    """A table for each file, of the `top` worst modules, or of `every` one."""
    for file in report.files:
        yield heading(_heading(report, file))
        shown = file.modules if every else file.modules[:top]
        yield _table(report, file, shown)
        if len(shown) < len(file.modules):
            yield Note(f"and {len(file.modules) - len(shown):,} more that cost less (--top N, --all)")
    yield from notes(f"{name}: left as it is: {problem}" for name, problem in report.skipped.items())


def left_in_float_lines(report: SensitivityReport, *, form: str) -> Iterator[str]:
    """The nodes that are left in float32, in one of `FORMATS`; nothing where the budget can't be met."""
    if report.selection.files:
        yield from selection_lines(report.selection, form=form, device=_DEVICE)
    elif report.ok:
        yield from FORMATS[form].nothing()


def left_in_float_notes(report: SensitivityReport, *, form: str) -> Iterator[str]:
    """What to know of the nodes before another tool is given them: a line for each."""
    for file in report.files:
        yield from _outcome(report, file)
    yield from dict.fromkeys(line for file in report.files for line in _inputs_worth(report, file))
    yield from selection_notes(report.selection, form=form, device=_DEVICE)


def _heading(report: SensitivityReport, file: FileSensitivity) -> Iterator[str]:
    yield from _outcome(report, file)
    yield from _inputs_worth(report, file)
    shapes = [f"{name} {list(shape)}" for name, shape in file.samples[0].items()]
    more = f" and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    samples = f", {len(file.samples)} samples" if len(file.samples) > 1 else ""
    yield f"inputs: {', '.join(shapes[:4])}{more}{samples}"


def _outcome(report: SensitivityReport, file: FileSensitivity) -> Iterator[str]:
    """What the quantized model is like, the point first."""
    count = len(file.modules)
    all_of_it = f"{_worded(file.quantized, report.metric)} with all {count:,} modules in {file.into}"
    wish = _budget(report)
    if file.problem is not None:
        best = f", which gives {_worded(file.figures, report.metric)}" if file.figures is not None else ""
        yield f"{file.file}: {wish} can't be met, {file.problem}{best}"
        yield all_of_it
    elif file.left_out is None or file.figures is None:
        yield f"{file.file}: {all_of_it}"
    else:
        left = f"with {file.left_out:,} of {count:,} modules left in float32"
        figure = _worded(file.figures, report.metric)
        if report.output is not None:
            yield f"Wrote {report.output}: {file.file} in {file.into} reaches {figure}, {left}"
        else:
            yield f"{file.file} in {file.into} would reach {figure}, {left}; -o OUT writes it and measures the file"
        yield all_of_it


def _inputs_worth(report: SensitivityReport, file: FileSensitivity) -> Iterator[str]:
    if file.seeded:
        more = _CALIBRATED if report.mode == "static" else ""
        yield f"{_SEEDED}{more}; give --inputs FILE.npz"


def _table(report: SensitivityReport, file: FileSensitivity, modules: tuple[ModuleSensitivity, ...]) -> Table:
    unit = _UNITS[report.metric]
    columns = (
        Column("module"),
        Column(f"alone{unit}", number=True),
        Column("weights", number=True, spare=2),
        Column("activations", number=True, spare=2),
        Column(f"then{unit}", number=True),
        Column("MB", number=True, spare=3),
        Column("class", spare=1),
    )
    rows = [
        Row(
            (
                each.path or "(root)",
                figure_text(each.alone, report.metric),
                figure_text(each.weights, report.metric),
                figure_text(each.activations, report.metric),
                figure_text(each.left, report.metric),
                f"{each.weight_bytes / 1e6:.1f}",
                each.class_name,
            ),
            style="" if file.left_out is None or place < file.left_out else "faint",
        )
        for place, each in enumerate(modules)
    ]
    return Table(columns, tuple(rows))


def figure_text(figures: Figures | None, metric: str) -> str:
    """A figure as a table has it."""
    if figures is None:
        return "-"
    value = figures.value(metric)
    if metric == "sqnr":
        return "exact" if value == inf else "no number" if value == -inf else f"{value:.1f}"
    if metric == "cosine":
        return f"{value:.6f}"
    if metric == "top1":
        return f"{value:.1%}"
    return "no number" if value == inf else f"{value:.2%}"


def _worded(figures: Figures, metric: str) -> str:
    text = figure_text(figures, metric)
    if metric == "sqnr":
        return text if text[0] not in "-0123456789" else f"{text} dB"
    return {"cosine": "a cosine of ", "relative": "a largest difference of ", "top1": "top-1 agreement of "}[
        metric
    ] + text


def _budget(report: SensitivityReport) -> str:
    budget = report.budget
    if budget is None:
        return "that"
    return {
        "sqnr": f"{budget.limit:g} dB",
        "cosine": f"a cosine of {budget.limit:g}",
        "relative": f"a largest difference of {budget.limit:.4g}",
        "top1": f"top-1 agreement of {budget.limit:.4g}",
    }[budget.metric]
