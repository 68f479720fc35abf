"""What all of it costs: `make bench` measures, and compares with benchmarks/baseline.json: 1 if anything got worse.

Figures are ratios within one run, or CPU seconds and memory of a process of its own, so that noisy machines disagree
little; `guard.py` says what of them is compared. What seems worse is measured again, with all of its table.
`--update-baseline` accepts what was measured, and writes docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import answers
import export
import guard
import packages
from measuring import Row

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
LIBRARIES = ("torch", "optimum", "optimum-onnx", "transformers", "onnxruntime")
Section = Callable[[Path, int], Iterator[Row]]
SECTIONS: dict[str, tuple[str, Section]] = {
    "export": ("Exporting", export.rows),
    "packages": ("Packages", packages.rows),
    "answers": ("Answers", answers.rows),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="how often to measure each (5)")
    parser.add_argument("--only", choices=SECTIONS, help="measure these alone")
    parser.add_argument("--update-baseline", action="store_true", help="accept what is measured, and write the page")
    arguments = parser.parse_args()
    wanted = [name for name in SECTIONS if arguments.only in (None, name)]
    whole = arguments.only is None
    tables = {name: measure(name, arguments.repeats) for name in wanted}
    rows = [row for table in tables.values() for row in table]
    if arguments.update_baseline:
        guard.write_baseline(rows, whole=whole)
        print(f"\nwritten to {guard.BASELINE}")
        if whole:
            PAGE.write_text(page({SECTIONS[name][0]: table for name, table in tables.items()}), encoding="utf-8")
            print(f"written to {PAGE}")
        return 0
    return verdict(tables, arguments.repeats, whole=whole)


def measure(name: str, repeats: int) -> list[Row]:
    title, measured = SECTIONS[name]
    print(f"\n## {title}\n\n{HEADER}", flush=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix="htp-bench-") as scratch:
        for row in measured(Path(scratch), repeats):
            rows.append(row)
            print(line(row), flush=True)
    return rows


def verdict(tables: dict[str, list[Row]], repeats: int, *, whole: bool) -> int:
    """Says what is worse than the baseline in two runs; 1 if anything is."""
    baseline = guard.read_baseline()
    found: dict[str, str] = {}
    for name, rows in tables.items():
        if suspects := guard.regressions(rows, baseline):
            print(f"\nmeasured again, because it seems worse: {', '.join(suspects)}", flush=True)
            again = guard.regressions(measure(name, repeats), baseline)
            found |= {what: why for what, why in again.items() if what in suspects}
    print()
    for note in guard.notes([row for rows in tables.values() for row in rows], baseline, whole=whole):
        print(note)
    for why in found.values():
        print(f"REGRESSION {why}")
    print("worse than the baseline" if found else "no worse than the baseline")
    return 1 if found else 0


HEADER = "| what | measured | at most | spread |\n|---|---|---|---|"


def line(row: Row) -> str:
    return f"| {row.what} | {row.measured} | {row.limit} | {row.spread} |"


def page(tables: dict[str, list[Row]]) -> str:
    """The page of the documentation."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    sections = [f"## {title}\n\n{HEADER}\n" + "\n".join(map(line, rows)) for title, rows in tables.items()]
    return "\n\n".join([INTRODUCTION.format(versions=versions, cores=os.cpu_count(), system=platform.machine()),
                        *sections]) + "\n"  # fmt: skip


INTRODUCTION = """\
# What it costs

Written by `make bench BENCH_ARGS=--update-baseline`; do not edit. `make bench` measures again and compares. "BERT-base" is a model of that size (110 million parameters, 437 MB) with random \
weights; MiniLM is the real all-MiniLM-L6-v2. A figure is the median of several runs, and the spread is from the lowest \
to the highest. Ratios are of pairs within one run; CPU seconds and memory are those of a process of its own.

In an export the tags go into the file while the exporter writes it, so that nothing is copied. "The pass alone" is what \
`tag` and `project` do to a file that is already on the disk.

Measured with {versions} on {cores} cores ({system})."""


if __name__ == "__main__":
    sys.exit(main())
