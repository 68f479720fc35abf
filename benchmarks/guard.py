"""The guard: what a run measured, held against the committed baseline, in figures that another machine would give too.

Those are ratios within the run (with the pass to without it; CPU seconds to those of a yardstick that ran right after),
counts (instructions, bytes), and shares. Each has a band: how far it may be from the baseline before it is a regression.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import Row

BASELINE = Path(__file__).resolve().parent / "baseline.json"

_LEAST_BAND, _MOST_BAND = 1.1, 1.5
_SINGLE_BAND = 1.3  # of what was measured once
_NOISE = 3.0  # how many times the spread of the baseline's own runs is taken for noise


def entry(row: Row) -> dict[str, Any]:
    """What the baseline says of a row: its figure, and the factor by which it may be worse.

    >>> entry(Row("tree", "", figures=(1.0, 1.04, 1.02)))
    {'figure': 1.02, 'band': 1.1}
    """
    figure = statistics.median(row.figures)
    found: dict[str, Any] = {"figure": float(f"{figure:.6g}"), "band": row.band or _band(row.figures)}
    if row.higher_is_better:
        found["higher_is_better"] = True
    if row.needs_python:
        found["python"] = python_version()
    return found


def _band(figures: Sequence[float]) -> float:
    if len(figures) < 2:
        return _SINGLE_BAND
    median = statistics.median(figures)
    spread = max(max(figures) / median, median / min(figures)) - 1 if min(figures) > 0 else _MOST_BAND
    return round(min(max(1 + _NOISE * spread, _LEAST_BAND), _MOST_BAND), 2)


def regressions(rows: Iterable[Row], baseline: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The rows that are worse than the baseline by more than their bands, and why.

    >>> known = {"tree": {"figure": 1.0, "band": 1.1}, "share": {"figure": 0.99, "band": 1.01, "higher_is_better": True}}
    >>> regressions([Row("tree", "", figures=(1.09,)), Row("share", "", figures=(0.985,), higher_is_better=True)], known)
    {}
    >>> regressions([Row("tree", "", figures=(1.3, 1.2, 1.25))], known)
    {'tree': 'tree: 1.25, 1.25 times the baseline (1); at most 1.1 times is noise'}
    """
    found = {}
    for row in rows:
        known = baseline.get(row.what)
        if not row.figures or known is None or known.get("python", python_version()) != python_version():
            continue
        figure = statistics.median(row.figures)
        pair = (known["figure"], figure) if row.higher_is_better else (figure, known["figure"])
        factor = pair[0] / pair[1] if pair[1] > 0 else (1.0 if pair[0] <= 0 else float("inf"))
        if factor > known["band"]:
            times = f"{figure / known['figure']:.3g} times the baseline" if known["figure"] else "and was nothing"
            band = f"at {'least 1/' if row.higher_is_better else 'most '}{known['band']:g} times is noise"
            found[row.what] = f"{row.what}: {figure:.4g}, {times} ({known['figure']:g}); {band}"
    return found


def notes(rows: Iterable[Row], baseline: Mapping[str, Mapping[str, Any]], *, whole: bool) -> list[str]:
    """What was not held against the baseline, and why, which is no regression."""
    measured = {row.what: row for row in rows if row.figures}
    new = [f"{name}: new; `--update-baseline` takes it in" for name in measured if name not in baseline]
    other = [
        f"{name}: not compared: its baseline is of Python {known['python']}"
        for name, known in baseline.items()
        if name in measured and known.get("python", python_version()) != python_version()
    ]
    gone = [f"{name}: not measured here" for name in baseline if whole and name not in measured]
    return [*new, *other, *gone]


def read_baseline(path: Path = BASELINE) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    document: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return document


def write_baseline(rows: Iterable[Row], *, whole: bool, path: Path = BASELINE) -> None:
    """Takes the rows in; after a run of everything, what it did not measure goes."""
    kept = {} if whole else read_baseline(path)
    kept.update((row.what, entry(row)) for row in rows if row.figures)
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
