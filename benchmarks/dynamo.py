"""How exact the tags of dynamo exports are: `make dynamo` writes docs/dynamo.md.

Every model of the tests' zoo is exported as Optimum exports it, file by file, but by torch's dynamo exporter; every toy
net too. Each is held against the oracle (`tests/dynamo_oracle.py`) and, once its tags are gone, against what torch writes
without us.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import re
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    TRANSFORMERS_VERBOSITY="error",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
)
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

LIBRARIES = ("torch", "onnxscript", "onnx-ir", "transformers", "optimum-onnx")
LIMIT_S = 900  # for one model
TOYS = "the toy nets"
# Torch takes modules that are equal for one and calls another than it is asked to; and it writes the same of a module
# whose name is empty and of the one around it, which is left unresolved.
UNLIKE = ("modules_that_are_equal", "name_empty")

MISSING = """## What is not in the table

torch does not export it, or not for the oracle, which nests modules twice as deep and counts calls beforehand:

"""

DOCUMENT = """# The dynamo exporter

How exact the tags of `dynamo=True` exports are, with {versions}. `make dynamo` writes this page.

{total}

- **module calls**: nodes that come from a module call. The oracle is a second export in which each *call* of a module is
  one of a module object of its own, so that the names that torch writes tell the calls apart (`tests/dynamo_oracle.py`;
  it shares no code with the package). Tag, index of the call, and the call that it was made from must be the oracle's, as
  far up as the root.
- **fused**: nodes that torch's optimizer made of nodes of several calls. Their origins must be those of the oracle.
- **the rest**: nodes of which the oracle names no call, by the evidence that decided them: `scope` are those that torch's
  optimizer put in without its metadata, and nodes in the bodies of loops, which torch names by no module; `dataflow` those
  that decompositions put in.
- **torch's bytes**: whether each file is, once `strip` took the tags away, what torch writes without us.

| model | files | nodes | module calls | right | fused | the rest | torch's bytes |
|---|---|---|---|---|---|---|---|
{rows}

{failed}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "dynamo.md")
    parser.add_argument("--results", type=Path, help="a file to keep results in, and to go on from")
    parser.add_argument("models", nargs="*", help="only these, on the terminal")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import zoo

    results: dict[str, dict[str, Any]] = {}
    if arguments.results is not None and arguments.results.exists():
        results = json.loads(arguments.results.read_text())
    for name in arguments.models or [
        TOYS,
        *zoo.names(quick=True),
        *sorted(set(zoo.names()) - set(zoo.names(quick=True))),
    ]:
        if name not in results:
            results[name] = measure(name)
            print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
            if arguments.results is not None:
                arguments.results.write_text(json.dumps(results))
    if not arguments.models:
        arguments.output.write_text(document(results), encoding="utf-8")
        print(f"{arguments.output}: {len(results)} models")
    sys.exit(any(result.get("wrong") for result in results.values()))


def measure(name: str) -> dict[str, Any]:
    """What was found of one model, and why parts of it were not exported."""
    from dynamo_exactness import Verdict, captured, check_module, one_registry

    verdict = Verdict()
    errors: list[str] = []

    def check(model: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        part = Path(scratch, str(len(list(Path(scratch).iterdir()))))
        found = Verdict()
        try:
            check_module(model, args, part, found, **options)
        except Exception as error:
            while error.__cause__ is not None:  # torch's own words are about where to ask for help
                error = error.__cause__  # type: ignore[assignment]
            errors.append(" ".join(f"{type(error).__name__}: {error}".strip().split("\n", 1)[0].split())[:160])
        else:
            verdict.add(found)

    with tempfile.TemporaryDirectory(prefix="htp-dynamo-") as scratch, one_registry(), _quiet():
        try:
            with _limited():
                _export(name, Path(scratch, "model"), check, captured)
        except TimeoutError as error:
            errors.append(str(error))
    return {
        "files": verdict.files,
        "nodes": verdict.nodes,
        "calls": verdict.right + verdict.fused + verdict.unlike,
        "right": verdict.right,
        "fused": verdict.fused,
        "rest": dict(verdict.rest),
        "bytes": verdict.same_bytes,
        "wrong": verdict.wrong,
        "errors": errors,
    }


def _export(name: str, directory: Path, check: Callable[..., None], captured: Callable[..., Any]) -> None:
    import toynets
    import zoo
    from optimum.exporters.onnx import main_export
    from optimum.exporters.onnx.base import OnnxConfig

    if name == TOYS:
        for name, toy in toynets.TOYS.items():
            if name not in UNLIKE:
                check(toy.build(), toy.inputs(), {})
        return
    zoo.build(name, directory)
    # Optimum would run what it exported, and take it apart; there is nothing in these files.
    with (
        captured(check),
        mock.patch.object(OnnxConfig, "fix_dynamic_axes", lambda *_, **__: None),
        contextlib.suppress(Exception),
    ):
        kwargs = zoo.ZOO[name].main_export_kwargs(directory)
        main_export(str(directory), directory.parent / "unused", do_validation=False, **kwargs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Gives up after a while: what some models make torch do takes hours."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done in {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def document(results: dict[str, dict[str, Any]]) -> str:
    """The page."""
    done = {name: result for name, result in results.items() if result["files"]}
    calls, right, fused = (sum(result[key] for result in done.values()) for key in ("calls", "right", "fused"))
    rest = sum((Counter(result["rest"]) for result in done.values()), Counter[str]())
    files = sum(result["files"] for result in done.values())
    wrong = [line for result in done.values() for line in result["wrong"]]
    total = (
        f"Of {files:,} files of {len(done) - (TOYS in done)} models and of the toy nets, {right + fused:,} of {calls:,} nodes "
        f"that come from module calls have the right ones: {(right + fused) / calls:.2%}, {fused:,} of them fused from "
        f"several. {rest.total():,} nodes come from none. {len(wrong) or 'Nothing'} is wrong otherwise."
    )
    rows = "\n".join(
        f"| {name} | {found['files']} | {found['nodes']:,} | {found['calls']:,} | {found['right']:,} | "
        f"{found['fused']:,} | {_rest(found['rest'])} | {'yes' if found['bytes'] == found['files'] else 'no'} |"
        for name, found in done.items()
    )
    failed = [
        f"- {name}: {count} × {error.replace('|', ' ')}"
        for name, found in results.items()
        for error, count in Counter(re.sub(r"\x1b\[\d*m", "", error) for error in found["errors"]).items()
    ]
    text = MISSING + "\n".join(failed) if failed else ""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    return DOCUMENT.format(versions=versions, total=total, rows=rows, failed=text).rstrip() + "\n"


def _rest(found: dict[str, int]) -> str:
    return ", ".join(f"{count} `{source}`" for source, count in sorted(found.items())) or "0"


if __name__ == "__main__":
    main()
