"""The guard of `make bench`: what counts as worse than the baseline, with made-up figures."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

pytest.importorskip("resource", reason="benchmarks measure by what POSIX systems count")

import bench  # noqa: E402
import guard  # noqa: E402
from measuring import Row  # noqa: E402

TREE = Row("tree", "0.3 s", figures=(2.0, 2.1, 2.02))
SHARE = Row("share", "99%", figures=(0.99,), higher_is_better=True, band=1.01)
COUNT = Row("count", "1 million", figures=(1e6,), band=1.03, needs_python=True)


@pytest.fixture
def baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(guard, "BASELINE", tmp_path / "baseline.json")
    guard.write_baseline([TREE, SHARE, COUNT], whole=True, path=guard.BASELINE)
    return guard.BASELINE


def worse(*rows: Row, path: Path) -> list[str]:
    return list(guard.regressions(rows, guard.read_baseline(path)))


def test_the_committed_baseline_is_one() -> None:
    known = guard.read_baseline()
    assert known
    assert all(row["figure"] > 0 and 1 < row["band"] <= 1.5 for row in known.values())


def test_bands(baseline: Path) -> None:
    """As wide as the noise of the baseline's own runs, between a tenth and a half; or as the row says."""
    assert {name: row["band"] for name, row in guard.read_baseline(baseline).items()} == {
        "tree": 1.12, "share": 1.01, "count": 1.03,
    }  # fmt: skip
    assert guard.entry(replace(TREE, figures=(2.0, 2.0)))["band"] == 1.1
    assert guard.entry(replace(TREE, figures=(2.0, 9.0)))["band"] == 1.5
    assert guard.entry(replace(TREE, figures=(2.0,)))["band"] == 1.3


@pytest.mark.parametrize(
    ("row", "figure", "is_worse"),
    [
        (TREE, 2.02, False), (TREE, 2.25, False), (TREE, 2.3, True), (TREE, 1.0, False),
        (SHARE, 0.99, False), (SHARE, 0.985, False), (SHARE, 0.97, True), (SHARE, 1.0, False),
        (COUNT, 1.02e6, False), (COUNT, 1.04e6, True),
    ],
)  # fmt: skip
def test_worse(row: Row, figure: float, is_worse: bool, baseline: Path) -> None:
    assert worse(replace(row, figures=(figure, figure, figure)), path=baseline) == [row.what] * is_worse


def test_one_slow_run_of_many_is_noise(baseline: Path) -> None:
    assert worse(replace(TREE, figures=(2.0, 9.0, 2.0)), path=baseline) == []


def test_what_is_not_compared_is_said(baseline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New rows, rows that are not measured here, and counts of another Python: no regressions, but no silence."""
    monkeypatch.setattr(guard, "python_version", lambda: "3.99")
    rows = [replace(COUNT, figures=(9e9,)), Row("new", "", figures=(1.0,))]
    assert worse(*rows, path=baseline) == []
    notes = guard.notes(rows, guard.read_baseline(baseline), whole=True)
    assert [note.partition(":")[0] for note in notes] == ["new", "count", "tree", "share"]
    assert len(guard.notes(rows, guard.read_baseline(baseline), whole=False)) == 2


def test_a_part_leaves_the_rest_of_the_baseline(baseline: Path) -> None:
    guard.write_baseline([replace(TREE, figures=(1.0,))], whole=False, path=baseline)
    found = json.loads(baseline.read_text(encoding="utf-8"))
    assert found.keys() == {"tree", "share", "count"}
    assert found["tree"]["figure"] == 1.0


@pytest.mark.parametrize(("again", "code"), [(9.0, 1), (2.0, 0)])
def test_only_what_is_worse_twice_fails(
    again: float, code: int, baseline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And each in one line."""
    runs = iter((9.0, again))

    def rows(*_: Any) -> list[Row]:
        return [replace(TREE, figures=(next(runs),)), SHARE]

    monkeypatch.setattr(bench, "SECTIONS", {"part": ("Part", rows)})
    monkeypatch.setattr(guard.read_baseline, "__defaults__", (baseline,))
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    assert bench.main() == code
    regressions = [line for line in capsys.readouterr().out.splitlines() if line.startswith("REGRESSION")]
    expected = "REGRESSION tree: 9, 4.46 times the baseline (2.02); at most 1.12 times is noise"
    assert regressions == [expected] * code
