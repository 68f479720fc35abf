"""The core of the tests with other versions of what we build on: `make versions` writes docs/versions.md.

Each environment is made once, under `.versions`, and anew when what is listed here changes. Only making one needs a
network. The bounds in pyproject.toml are the versions of these environments; tests/test_packaging.py holds them together.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

# The columns of the table, and of what is compared with pyproject.toml.
LIBRARIES = "torch transformers optimum optimum-onnx onnx onnxruntime onnxscript numpy filelock rich".split()

# What the tests need in addition, in any version that fits.
TESTING = "pytest pytest-xdist hypothesis jsonschema pyyaml pillow accelerate onnxconverter-common onnxslim".split()

# What each environment runs: the reading verbs, their rules, and both exporters. What is about one version of a tool, and
# what only looks at this repository, is not among them.
CORE = """
    calls compare_rules configs custom diff dynamo extract_rules half_rounding hostile_sidecar onnxfile onnxfile_rules
    packing profile_rules profile_work projection_packed projection_rules public_api python_lines rules toys transformers5
    tree views without_optimum
""".split()


@dataclass(frozen=True, slots=True)
class Environment:
    """Versions that are installed together.

    Attributes:
        name: Its folder, and its row.
        what: What it stands for.
        python: The minor version of Python.
        pins: The version of each library; one without a pin is what pip finds for the others.
        optimum: Whether Optimum is there. Where it is, our own requirements are resolved by pip, too.
    """

    name: str
    what: str
    python: str
    pins: dict[str, str]
    optimum: bool = True


ENVIRONMENTS = (
    Environment(
        "oldest",
        "the oldest that install and work together",
        "3.10",
        {
            "torch": "2.11.0", "transformers": "4.45.0", "optimum": "2.1.0", "optimum-onnx": "0.1.0", "onnx": "1.19.0",
            "onnxruntime": "1.23.2", "onnxscript": "0.6.2", "numpy": "2.2.6", "filelock": "3.21.0", "rich": "13.0.0",
        },
    ),
    Environment(
        "newest",
        "the newest that install together with Optimum",
        "3.11",
        {
            "torch": "2.13.0", "transformers": "4.57.6", "optimum": "2.1.0", "optimum-onnx": "0.1.0", "onnx": "1.23.2",
            "onnxruntime": "1.32.0", "onnxscript": "0.7.2", "numpy": "2.4.6", "filelock": "4.3.1", "rich": "15.0.0",
        },
    ),
    Environment(
        "transformers5",
        "transformers 5, without Optimum",
        "3.11",
        {
            "torch": "2.13.0", "transformers": "5.24.0", "onnx": "1.23.2", "onnxruntime": "1.32.0",
            "onnxscript": "0.7.2", "numpy": "2.4.6", "filelock": "4.3.1", "rich": "15.0.0",
        },
        optimum=False,
    ),
)  # fmt: skip


# What was run in no environment of these, because it brings gigabytes of CUDA libraries.
BY_HAND = {"torch": "2.14.1"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the tests said in an environment."""

    passed: int
    failed: tuple[str, ...]
    skipped: Counter[str]  # by reason


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "versions.md")
    parser.add_argument("--folder", type=Path, default=ROOT / ".versions", help="where the environments are kept")
    parser.add_argument("--only", choices=[each.name for each in ENVIRONMENTS], help="only this one, on the terminal")
    parser.add_argument("--workers", default="1", help="processes for the tests, as pytest-xdist takes them")
    arguments = parser.parse_args()
    chosen = [each for each in ENVIRONMENTS if arguments.only in (None, each.name)]
    rows, bad = [], False
    for environment in chosen:
        interpreter = find_python(environment.python)
        if interpreter is None:
            print(f"{environment.name}: there is no python{environment.python} here", file=sys.stderr)
            return 1
        python = made(environment, interpreter, arguments.folder)
        print(f"{environment.name}: running the tests", file=sys.stderr, flush=True)
        outcome = tested(python, arguments.workers)
        rows.append((environment, installed(python), outcome))
        bad = bad or bool(outcome.failed)
        print(summary(environment, outcome), flush=True)
    if arguments.only is None and not bad:
        arguments.output.write_text("\n".join(document(rows)), encoding="utf-8")
        print(f"{arguments.output}: {len(rows)} environments")
    return int(bad)


# --- Environments --------------------------------------------------------------------------------------------------


def find_python(version: str) -> str | None:
    """The interpreter of a minor version: this one, one on the path, or one of pyenv's."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        return sys.executable
    named = shutil.which(f"python{version}")
    pyenv = sorted(
        Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob(f"versions/{version}.*/bin/python")
    )
    for candidate in [
        *([named] if named else []),
        *map(str, pyenv),
    ]:  # pyenv's shims are there for any, and may do nothing
        asked = subprocess.run([candidate, "-c", "import venv"], capture_output=True)
        if asked.returncode == 0:
            return candidate
    return None


def made(environment: Environment, interpreter: str, folder: Path) -> Path:
    """The interpreter of an environment, which is made if it is not as listed."""
    path, stamp = folder / environment.name, folder / f"{environment.name}.json"
    python = path / ("Scripts" if os.name == "nt" else "bin") / "python"
    requirements = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    wanted = json.dumps([environment.python, environment.pins, environment.optimum, TESTING, requirements])
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"{environment.name}: making {path}", file=sys.stderr, flush=True)
    shutil.rmtree(path, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    subprocess.run([interpreter, "-m", "venv", path], check=True)
    pins = [f"{name}=={version}" for name, version in environment.pins.items()]

    def install(*what: str | Path) -> None:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *what], check=True)

    if os.environ.get("TORCH_INDEX"):
        install("--no-deps", "--index-url", os.environ["TORCH_INDEX"], f"torch=={environment.pins['torch']}")
    if environment.optimum:
        install(*pins, *TESTING, "--editable", ROOT)
    else:  # as docs/versions.md says
        install(*pins, *TESTING)
        install("--no-deps", "--editable", ROOT)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def installed(python: Path) -> dict[str, str]:
    """The versions in an environment, by name."""
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, check=True, text=True)
    return {each["name"].lower().replace("_", "-"): each["version"] for each in json.loads(listed.stdout)}


# --- Tests ---------------------------------------------------------------------------------------------------------


def tested(python: Path, workers: str) -> Outcome:
    """Runs the core of the tests."""
    files = [f"tests/test_{name}.py" for name in CORE]
    with tempfile.TemporaryDirectory(prefix="htp-versions-") as scratch:
        report = Path(scratch, "report.xml")
        command = [python, "-m", "pytest", "-q", "-n", workers, "--dist", "loadgroup", "-p", "no:cacheprovider"]
        started = time.perf_counter()
        subprocess.run(
            [*command, f"--junitxml={report}", f"--basetemp={scratch}/tests", *files],
            cwd=ROOT,
            env={**os.environ, **OFFLINE},
            stdout=sys.stderr,
        )
        print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
        return outcome_of(report)


def outcome_of(report: Path) -> Outcome:
    """What a JUnit report says."""
    passed, failed, skipped = 0, [], Counter[str]()
    cases = ElementTree.parse(report).iter("testcase") if report.exists() else ()
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        reason = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif reason is not None:
            skipped[str(reason.get("message"))] += 1
        else:
            passed += 1
    if not passed:
        failed.append("no test ran")
    return Outcome(passed, tuple(failed), skipped)


# --- The page ------------------------------------------------------------------------------------------------------


def summary(environment: Environment, outcome: Outcome) -> str:
    """A line for the terminal, and one for each failure and each reason of a skip."""
    counts = f"{outcome.passed:,} passed, {len(outcome.failed):,} failed, {sum(outcome.skipped.values()):,} skipped"
    reasons = (f"  skipped {count}: {reason}" for reason, count in outcome.skipped.most_common())
    return "\n".join([f"{environment.name}: {counts}", *(f"  failed: {name}" for name in outcome.failed), *reasons])


def document(rows: list[tuple[Environment, dict[str, str], Outcome]]) -> Iterator[str]:
    """The page."""
    yield from (
        "# Versions",
        "",
        "Written by `make versions`; do not edit. The core of the tests, run with other versions of the libraries than those",
        "that `make test` installs. The bounds in `pyproject.toml` are these versions.",
        "",
        f"| | {' | '.join(environment.name for environment, _, _ in rows)} |",
        f"|{'---|' * (len(rows) + 1)}",
        f"| | {' | '.join(environment.what for environment, _, _ in rows)} |",
        f"| Python | {' | '.join(environment.python for environment, _, _ in rows)} |",
    )
    for library in LIBRARIES:
        yield f"| {library} | {' | '.join(plain(versions.get(library)) for _, versions, _ in rows)} |"
    yield f"| tests passed | {' | '.join(f'{outcome.passed:,}' for _, _, outcome in rows)} |"
    yield f"| skipped | {' | '.join(f'{sum(outcome.skipped.values()):,}' for _, _, outcome in rows)} |"
    yield from ("", "Why tests were skipped:", "")
    for environment, _, outcome in rows:
        for reason, count in outcome.skipped.most_common():
            yield f"- *{environment.name}*, {count:,}: {reason}"
    by_hand = " and ".join(f"{name} {version}" for name, version in BY_HAND.items())
    yield from (
        "",
        f"Run by hand: {by_hand}, whose builds on PyPI bring 5 GB of CUDA libraries.",
        "",
        "transformers 5 and optimum-onnx 0.1 exclude each other, so pip refuses this package beside transformers 5 unless it",
        "is told not to look. Then every command works that does not export or load as Optimum does; those say so in one line:",
        "",
        "```sh",
        "pip install torch transformers onnx onnxruntime onnxscript filelock rich",
        "pip install --no-deps .    # in a clone of the repository",
        "```",
        "",
    )


def plain(version: str | None) -> str:
    """A version without the name of its build; nothing for what is not there."""
    return re.sub(r"\+.*", "", version) if version else ""


if __name__ == "__main__":
    sys.exit(main())
