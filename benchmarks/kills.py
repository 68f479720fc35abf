"""What is left of a package when a command that writes to it is cut short: `make kills` writes the tables in
docs/reliability.md.

Every writing verb on tiny packages, in a process that is killed, whose disk is full or that gets Ctrl-C, at every step of
its file system work (tests/kill_points.py). Then comes the next command, one of all verbs in turn, and the package has to
be the one from before or the one that the verb makes, with nothing of ours left beside it. And two commands at once, of
which the result has to be that of one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
os.environ.update(
    HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"
)

from kill_points import in_memory  # noqa: E402 (found by the line above)
from kill_verbs import LIGHT, NEXT, Case, command, cut_short, derive_packages, two_at_once, with_copy, with_output  # noqa: E402

REPORT = HERE.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- benchmarks/kills.py writes from here -->", "<!-- to here -->"


def export_a_module(arguments: list[str]) -> int:
    """`export_module`, which only Python has; its exit code if it were a command."""
    import torch

    from optimum_htp import HtpError, export_module

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            export_module(net, torch.ones(1, 4), arguments[0])
    except HtpError:
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def make_packages(packages: Path) -> None:
    """The packages that the cases begin with."""
    import zoo

    for name in ("bert", "t5"):
        zoo.build(name, packages / "models" / name)
        command(["export", "--model", str(packages / "models" / name), str(packages / name)])
    derive_packages(packages)
    (packages / "bare").mkdir()
    shutil.copy(packages / "plain-bert" / "model.onnx", packages / "bare")


CASES = (
    *LIGHT,
    Case("tag", "tag @pkg --model @../packages/models/bert", "pkg", with_copy("plain-bert")),
    Case("tag, config and tokenizer missing", "tag @pkg --model @../packages/models/bert", "pkg", with_copy("bare")),
    Case("tag --force", "tag @pkg --force", "pkg", with_copy("bert")),
    Case("params", "params @pkg --model @../packages/models/bert", "pkg", with_copy("bert")),
    Case("params --rename", "params @pkg --model @../packages/models/bert --rename", "pkg", with_copy("bert")),
    Case("export", "export --model @../packages/models/bert @out", "out", lambda *_: None),
    Case("export over an older package", "export --model @../packages/models/bert @out", "out", with_output("bert", "plain-bert")),
    Case("export_module over an older package", "@out", "out", with_output("bert", "plain-bert"), export_a_module),
)  # fmt: skip


# --- The report ---------------------------------------------------------------------------------------------------


def tables(arguments: argparse.Namespace, packages: Path, world: Path) -> Iterator[str]:
    cases = [case for case in CASES if not arguments.only or arguments.only in case.name]
    wrong: list[str] = []
    for what, title in (
        ("kill", "Killed (`kill -9`), and then the next command"),
        ("full disk", "A full disk, from a step on"),
        ("interrupt", "Ctrl-C"),
    ):
        every = arguments.every * (1 if what == "kill" else 4)
        yield f"### {title}\n"
        yield "| command | steps | tried | as before | as if done | hidden files left | wrong |"
        yield "|---|---|---|---|---|---|---|"
        total: Counter[str] = Counter()
        for case in cases:
            started = time.perf_counter()
            tally = cut_short(
                case,
                what,
                packages,
                world,
                every=every if case.name.startswith("export") else 1,
                following=(*NEXT, "profile @ --runs 1 --warmup 0"),
            )
            row = {name: getattr(tally, name) for name in ("steps", "tried", "before", "after", "hidden")}
            row["wrong"] = len(tally.wrong)
            total.update(row)
            wrong += tally.wrong
            print(f"{what:10} {case.name:40} {row} {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
            yield f"| {case.name} | " + " | ".join(map(str, row.values())) + " |"
        yield "| **all** | " + " | ".join(f"**{number}**" for number in total.values()) + " |\n"
    yield "### Two commands at once, on one package\n"
    yield "| commands | tried | as one after the other | wrong |\n|---|---|---|---|"
    named = {case.name: case for case in CASES}
    for first, second in (
        ("tag --force", "tag --force"),
        ("tag --force", "params --rename"),
        ("tag --force", "strip, 3 files"),
        ("params --rename", "select --write-layer-annotations"),
        ("project --output --overwrite", "export over an older package"),
        ("export", "export"),
        ("extract --overwrite", "extract --overwrite"),
    ):
        if arguments.only:
            break
        tally = two_at_once(named[first], named[second], packages, world, rounds=arguments.rounds)
        wrong += tally.wrong
        print(f"{first} + {second}: {tally}", file=sys.stderr, flush=True)
        yield f"| {first}, {second.split(',')[0]} | {tally.tried} | {tally.before + tally.after} | {len(tally.wrong)} |"
    print(*wrong, sep="\n", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="cases whose names have this in them; writes no report")
    parser.add_argument(
        "--every", type=int, default=1, help="of an export's steps before its commit, one in this many"
    )
    parser.add_argument("--rounds", type=int, default=20, help="how often two commands run at once")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Imported once, before the forks; nothing is computed here, so there are no threads.
    import onnxruntime  # noqa: F401
    import optimum.exporters.onnx.__main__  # noqa: F401
    import torch

    import optimum_htp.cli.plugin  # noqa: F401

    torch.set_num_threads(1)
    os.fsync = lambda _: None  # what a killed process has written to the system stays written
    with tempfile.TemporaryDirectory(dir=in_memory()) as scratch:
        packages, world = Path(scratch, "packages"), Path(scratch, "world")
        child = os.fork()
        if not child:
            make_packages(packages)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit("the packages could not be made")
        text = "\n".join(tables(arguments, packages, world))
    if arguments.only:
        print(text)
        return
    before, _, rest = REPORT.read_text(encoding="utf-8").partition(BEGIN)
    REPORT.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
