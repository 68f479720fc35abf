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
import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

from kill_points import KILLED, in_child, in_memory  # noqa: E402 (found by the line above)

REPORT = HERE.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- benchmarks/kills.py writes from here -->", "<!-- to here -->"

State = dict[str, str]


@dataclass(frozen=True)
class Case:
    """A verb, its arguments, and what it writes to; all paths are in the world that `start` lays out."""

    name: str
    arguments: str
    target: str
    start: Callable[[Path, Path], None]  # from the packages to the world

    def run(self, world: Path) -> int:
        """Runs the verb in this process; its exit code."""
        return command([word.replace("@", f"{world}/") for word in self.arguments.split()])


@dataclass
class Tally:
    """What was seen in one case."""

    steps: int = 0
    tried: int = 0
    before: int = 0
    after: int = 0
    hidden: int = 0  # hidden files, before the next command came
    wrong: list[str] = field(default_factory=list)


def command(arguments: list[str]) -> int:
    """Runs a command line, or for `module` an export from Python; its exit code."""
    from optimum_htp.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = export_a_module(Path(arguments[1])) if arguments[0] == "module" else main(arguments)
    if code == 2 and errors.getvalue().count("error: ") != 1:
        return 98
    return code


def export_a_module(output: Path) -> int:
    import torch

    from optimum_htp import HtpError, export_module

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
    try:
        export_module(net, torch.ones(1, 4), output)
    except HtpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


# --- Worlds -------------------------------------------------------------------------------------------------------


def make_packages(packages: Path) -> None:
    """The packages that the cases begin with."""
    import zoo

    for name in ("bert", "t5"):
        zoo.build(name, packages / "models" / name)
        command(["export", "--model", str(packages / "models" / name), str(packages / name)])
        shutil.copytree(packages / name, packages / f"plain-{name}")
        command(["strip", str(packages / f"plain-{name}")])
    shutil.copytree(packages / "t5", packages / "untagged-t5")
    forget_tags(packages / "untagged-t5")
    bare = packages / "bare"
    bare.mkdir()
    shutil.copy(packages / "plain-bert" / "model.onnx", bare)
    command(["pack", str(packages / "bert"), str(packages / "packed.onnx")])
    command(["extract", str(packages / "bert"), "bert.encoder.layer.1", str(packages / "part")])
    export_a_module(packages / "module")


def forget_tags(package: Path) -> None:
    """As tools do that drop the metadata of nodes; the skeletons stay."""
    import onnx

    for file in package.glob("*.onnx"):
        model = onnx.load(file)
        graphs = [model.graph]
        while graphs:
            for node in graphs.pop().node:
                del node.metadata_props[:]
                graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        onnx.save(model, file)
    (package / "export_metadata.json").unlink()


def with_copy(name: str) -> Callable[[Path, Path], None]:
    """A world in which there is a package."""
    return lambda packages, world: copy(packages / name, world / "pkg")


def with_output(name: str, output: str) -> Callable[[Path, Path], None]:
    """A world in which there is a package, and something where the verb writes to."""

    def start(packages: Path, world: Path) -> None:
        copy(packages / name, world / "pkg")
        copy(packages / output, world / "out" if (packages / output).is_dir() else world / "out.onnx")

    return start


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


CASES = (
    Case("tag", "tag @pkg --model @../packages/models/bert", "pkg", with_copy("plain-bert")),
    Case("tag, config and tokenizer missing", "tag @pkg --model @../packages/models/bert", "pkg", with_copy("bare")),
    Case("tag --force", "tag @pkg --force", "pkg", with_copy("bert")),
    Case("strip, 3 files", "strip @pkg", "pkg", with_copy("t5")),
    Case("project in place, 3 files", "project @pkg", "pkg", with_copy("untagged-t5")),
    Case("project --output", "project @pkg --output @out", "out", with_copy("bert")),
    Case("project --output --overwrite", "project @pkg --output @out --overwrite", "out", with_output("bert", "plain-bert")),
    Case("params", "params @pkg --model @../packages/models/bert", "pkg", with_copy("bert")),
    Case("params --rename", "params @pkg --model @../packages/models/bert --rename", "pkg", with_copy("bert")),
    Case("select --write-layer-annotations", "select @pkg LayerNorm --write-layer-annotations", "pkg", with_copy("bert")),
    Case("pack --overwrite", "pack @pkg @out.onnx --overwrite", "out.onnx", with_output("bert", "module/model.onnx")),
    Case("unpack", "unpack @pkg @out", "out", with_copy("packed.onnx")),
    Case("unpack --overwrite", "unpack @pkg @out --overwrite", "out", with_output("packed.onnx", "plain-bert")),
    Case("extract --overwrite", "extract @pkg bert.encoder.layer.0 @out --overwrite", "out", with_output("bert", "part")),
    Case("export", "export --model @../packages/models/bert @out", "out", lambda *_: None),
    Case("export over an older package", "export --model @../packages/models/bert @out", "out", with_output("bert", "plain-bert")),
    Case("export_module over an older package", "module @out", "out", with_output("bert", "plain-bert")),
)  # fmt: skip

# What comes next: every verb that takes a package, in turn. Those that write, write elsewhere.
NEXT = (
    "tree @", "validate @", "diff @ @", "select @ *", "tree @/model.onnx", "project @ --output @@new", "pack @ @@new.onnx",
    "extract @ bert.encoder @@new", "tree @ --nodes", "profile @ --runs 1 --warmup 0",
)  # fmt: skip


def fresh(case: Case, packages: Path, world: Path) -> None:
    shutil.rmtree(world, ignore_errors=True)
    world.mkdir()
    case.start(packages, world)


def state(place: Path) -> State:
    """What is there, hidden or not: the content of each file, without the times that a command took."""
    files = place.rglob("*") if place.is_dir() else [place] if place.exists() else []
    return {path.relative_to(place.parent).as_posix(): digest(path) for path in files if not path.is_dir()}


def digest(path: Path) -> str:
    if path.is_symlink():
        return str(path.readlink())
    content = path.read_bytes()
    if path.name == "export_metadata.json":
        with contextlib.suppress(ValueError):
            document = json.loads(content)
            document["timings"] = {}
            content = json.dumps(document, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def hidden(world: Path) -> list[str]:
    return [path.name for path in world.rglob(".*") if path.name != ".gitattributes"]


# --- What is tried ------------------------------------------------------------------------------------------------


def outcomes(case: Case, packages: Path, world: Path) -> tuple[State, State, list[str]]:
    """What is there before, what the verb makes of it, and its steps."""
    fresh(case, packages, world)
    before = state(world / case.target)
    code, steps = in_child(lambda: case.run(world))
    if code:
        sys.exit(f"{case.name}: exit code {code}")
    return before, state(world / case.target), steps


def cut_short(case: Case, what: str, packages: Path, world: Path, *, every: int = 1) -> Tally:
    """Cuts a verb short at every step, and has the next command come."""
    before, after, steps = outcomes(case, packages, world)
    tally = Tally(len(steps))
    following = itertools.cycle(NEXT)
    for number in chosen(steps, every):
        fresh(case, packages, world)
        code, _ = in_child(lambda: case.run(world), number, what)
        tally.tried += 1
        tally.hidden += bool(hidden(world))
        problem = {"kill": code != KILLED, "full disk": code not in (0, 2), "interrupt": code not in (0, 130)}[what]
        if what == "kill":
            follow = next(following)
            arguments = [
                word.replace("@@", f"{world}/").replace("@", str(world / case.target)) for word in follow.split()
            ]
            next_code, _ = in_child(lambda: command(arguments))
            problem = problem or next_code not in (0, 1, 2)
        found = state(world / case.target)
        tally.before += found == before
        tally.after += found == after != before
        if problem or found not in (before, after) or hidden(world):
            difference = sorted(name for name in found.keys() | before.keys() if found.get(name) != before.get(name))
            tally.wrong.append(f"{case.name}, {what} at {number} ({steps[number - 1]}): {code}, {difference}, {hidden(world)}")
        elif what == "kill" and number % 2:  # and the verb itself, once more
            in_child(lambda: case.run(world))
            if state(world / case.target) != after and found == before:
                tally.wrong.append(f"{case.name}, again after a kill at {number} ({steps[number - 1]})")
    return tally


def chosen(steps: list[str], every: int) -> list[int]:
    """All steps from the one before the commit on, and of those before it each `every`-th."""
    commit = next((number for number, step in enumerate(steps, 1) if step.startswith("open moves")), len(steps)) - 1
    return [number for number in range(1, len(steps) + 1) if number >= commit - 8 or number % every == 0]


def two_at_once(first: Case, second: Case, packages: Path, world: Path, *, rounds: int) -> Tally:
    """Two commands at once, on one package: as if one had come after the other."""
    results = []
    for order in ((first, second), (second, first)):
        fresh(first, packages, world)
        for case in order:
            in_child(lambda case=case: case.run(world))
        results.append(state(world / first.target))
    tally = Tally()
    for _ in range(rounds):
        fresh(first, packages, world)
        children = []
        for case in (first, second):
            child = os.fork()
            if not child:
                os._exit(case.run(world))
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        found = state(world / first.target)
        tally.tried += 1
        tally.before += found == results[1]
        tally.after += found == results[0] != results[1]
        if found not in results or hidden(world) or not set(codes) <= {0, 2}:
            tally.wrong.append(f"{first.name} and {second.name}: {codes}, {hidden(world)}")
    return tally


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
            tally = cut_short(case, what, packages, world, every=every if case.name.startswith("export") else 1)
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
    parser.add_argument("--every", type=int, default=1, help="of an export's steps before its commit, one in this many")
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
