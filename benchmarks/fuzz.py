"""What damaged and hostile files do to us: `make fuzz` writes its table into docs/reliability.md.

The targets are in `tests/fuzz_targets.py`: what each makes and what must hold. Here they run: a million cases by seeds that
are numbers, so each can be run again (`--only reader --case 1234`); then hypothesis draws, which makes a failure small; then
atheris, where it is installed, whose mutations follow the code that they reach. Of each kind of failure the first is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import random
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", OMP_NUM_THREADS="1")
os.fsync = lambda _: None

import fuzz_targets  # noqa: E402 (found by the line above)
from fuzz_targets import ONE_LINE, TARGETS  # noqa: E402

REPORT = HERE.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- benchmarks/fuzz.py writes from here -->", "<!-- to there -->"

# How many of a million cases each target gets: about as much time each, and the files first.
SHARES = {
    **{"reader": 250_000, "rewriter": 100_000, "rename": 50_000, "sidecar": 180_000, "skeleton": 100_000},
    **{"packed_names": 110_000, "config": 120_000, "npz": 30_000, "pattern": 55_000, "verbs": 5_000},
}


class Found:
    """What became of the cases of one target."""

    def __init__(self) -> None:
        self.became: Counter[str] = Counter()
        self.failures: dict[str, str] = {}

    def case(self, name: str, draw: random.Random, scratch: Path, label: str) -> None:
        """Runs one case, and keeps the first failure of each kind."""
        try:
            self.became[fuzz_targets.run(name, draw, scratch)] += 1
        except Exception as error:
            self.became["wrong"] += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
            if kind not in self.failures:
                self.failures[kind] = f"{label}: {error}"
                print(f"{name}, {label}: {kind}: {str(error)[:500]}", file=sys.stderr, flush=True)


def by_seeds(name: str, cases: range, scratch: Path, found: Found) -> None:
    """Cases whose number is the seed."""
    started = time.monotonic()
    for number in cases:
        found.case(name, random.Random(f"{name}{number}"), scratch, f"case {number}")
        if not number % 20_000:
            seconds = time.monotonic() - started
            print(f"{name:14} {number:8,} {seconds:6.0f} s {dict(found.became)}", file=sys.stderr, flush=True)


def by_hypothesis(name: str, count: int, scratch: Path, found: Found) -> None:
    """Cases that hypothesis draws."""
    from hypothesis import HealthCheck, Phase, given, settings, strategies

    @settings(
        max_examples=count, derandomize=True, deadline=None, database=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategies.randoms(note_method_calls=False))
    def cases(draw: random.Random) -> None:
        found.case(name, draw, scratch, "hypothesis")

    cases()


def by_atheris(name: str, count: int) -> int:
    """Cases that atheris draws, in a process of its own, which its engine takes over; returns how many there were."""
    with fuzz_targets.scratch_directory() as scratch:
        command = [sys.executable, str(Path(__file__).resolve()), "--atheris", name, "--cases", str(count)]
        environment = {**os.environ, "TMPDIR": str(scratch)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=scratch, check=False)
    if done.returncode:
        print(f"{name}, atheris: {done.stderr[-1500:]}", file=sys.stderr, flush=True)
        return -1
    return count


class Drawn(random.Random):
    """Draws from bytes, and zeros when they are used up."""

    def __init__(self, content: bytes) -> None:
        super().__init__(0)
        self._content = content
        self._at = 0

    def getrandbits(self, bits: int) -> int:
        size = (bits + 7) // 8
        taken = self._content[self._at : self._at + size].ljust(size, b"\0")
        self._at += size
        return int.from_bytes(taken, "little") & ((1 << bits) - 1)

    def random(self) -> float:
        return self.getrandbits(16) / 65536


def atheris_process(name: str, count: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["optimum_htp.onnxfile", "optimum_htp.package", "optimum_htp.hierarchy"]):
        for module in [each for each in sys.modules if each.startswith("optimum_htp") or each == "fuzz_targets"]:
            del sys.modules[module]
        import fuzz_targets as instrumented
    with instrumented.scratch_directory() as scratch:

        def one(content: bytes) -> None:
            if instrumented_is_small(content):
                instrumented.TARGETS[name](Drawn(content), scratch)

        def instrumented_is_small(content: bytes) -> bool:
            for left in scratch.iterdir():
                with contextlib.suppress(OSError):
                    left.unlink()
            return len(content) < 4096

        atheris.Setup(
            [sys.argv[0], f"-runs={count}", "-timeout=10", "-rss_limit_mb=2000", "-max_len=512", "-seed=1"], one
        )
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=TARGETS, help="one target; writes no report")
    parser.add_argument("--case", type=int, help="with --only: this case, with its traceback")
    parser.add_argument("--cases", type=int, default=1_000_000, help="how many, of all targets together (1,000,000)")
    parser.add_argument("--atheris", choices=TARGETS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.atheris:
        atheris_process(arguments.atheris, arguments.cases)
        return
    with fuzz_targets.scratch_directory() as scratch:
        if arguments.case is not None:
            draw = random.Random(f"{arguments.only}{arguments.case}")
            print(fuzz_targets.run(arguments.only, draw, scratch))
            return
        names = [arguments.only] if arguments.only else list(TARGETS)
        shares = sum(SHARES[name] for name in names)
        rows = []
        is_wrong = False
        for name in names:
            found = Found()
            share = max(1, arguments.cases * SHARES[name] // shares)
            by_seeds(name, range(share - 2 * (share // 50)), scratch, found)
            by_hypothesis(name, max(1, share // 50), scratch, found)
            guided = 0
            if importlib.util.find_spec("atheris") is not None and name != "verbs":
                guided = by_atheris(name, max(1, share // 50))
            is_wrong |= bool(found.failures) or guided < 0
            rows.append((name, found, max(guided, 0), found.became["wrong"] + (guided < 0)))
    text = "\n".join(table(rows))
    if arguments.only:
        print(text)
    else:
        before, _, rest = REPORT.read_text(encoding="utf-8").partition(BEGIN)
        REPORT.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    sys.exit(int(is_wrong))


def table(rows: list[tuple[str, Found, int, int]]) -> list[str]:
    lines = [
        "| target | cases | accepted | refused | by atheris | wrong | what must hold |",
        "|---|---|---|---|---|---|---|",
    ]
    totals = [0] * 5
    for name, found, guided, wrong in rows:
        became = found.became
        refused = became["refused"] + became["exit 2"]
        numbers = (became.total() + guided, became.total() - refused - became["wrong"], refused, guided, wrong)
        totals = [one + other for one, other in zip(totals, numbers, strict=True)]
        lines.append(
            f"| {name.replace('_', ' ')} | "
            + " | ".join(f"{number:,}" for number in numbers)
            + f" | {ONE_LINE[name]} |"
        )
    lines.append("| **all** | " + " | ".join(f"**{number:,}**" for number in totals) + " | |")
    return lines


if __name__ == "__main__":
    main()
