"""What all of it costs: `make bench` measures, and writes docs/benchmarks.md.

Figures are ratios within one run, or CPU seconds and memory of a process of its own, so that noisy machines disagree
little.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import answers
import export
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="how often to measure each (5)")
    parser.add_argument("--only", choices=SECTIONS, help="measure these and only print them")
    arguments = parser.parse_args()
    tables: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="htp-bench-") as scratch:
        for name, (title, measured) in SECTIONS.items():
            if arguments.only in (None, name):
                print(f"\n## {title}\n\n{HEADER}", flush=True)
                directory = Path(scratch, name)
                directory.mkdir()
                tables[title] = []
                for row in measured(directory, arguments.repeats):
                    tables[title].append(row)
                    print(line(row), flush=True)
    if arguments.only is None:
        PAGE.write_text(page(tables), encoding="utf-8")
        print(f"\nwritten to {PAGE}")


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

Written by `make bench`; do not edit. "BERT-base" is a model of that size (110 million parameters, 437 MB) with random \
weights; MiniLM is the real all-MiniLM-L6-v2. A figure is the median of several runs, and the spread is from the lowest \
to the highest. Ratios are of pairs within one run; CPU seconds and memory are those of a process of its own.

In an export the tags go into the file while the exporter writes it, so that nothing is copied. "The pass alone" is what \
`tag` and `project` do to a file that is already on the disk.

Measured with {versions} on {cores} cores ({system})."""


if __name__ == "__main__":
    main()
