"""Cuts verbs short at every step of their file system work, and looks at what the next command finds.

Then the package has to be the one from before or the one that the verb makes, with nothing of ours left beside it.
`benchmarks/kills.py` does it to all verbs. As a script, `kill_verbs.py DIR`, it kills two quick ones at the steps of their
commit, on the package `bert` in the directory, and prints what went wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kill_points import KILLED, in_child, in_memory


def command(arguments: list[str]) -> int:
    """Runs a command line in this process; its exit code, or 98 where the error is not said in one line."""
    from optimum_htp.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main(arguments)
    return 98 if code == 2 and errors.getvalue().count("error: ") != 1 else code


State = dict[str, str]


@dataclass(frozen=True)
class Case:
    """A verb, its arguments, and what it writes to; all paths are in the world that `start` lays out."""

    name: str
    arguments: str
    target: str
    start: Callable[[Path, Path], None]  # from the packages to the world
    command: Callable[[list[str]], int] = command

    def run(self, world: Path) -> int:
        """Runs the verb in this process; its exit code."""
        return self.command([word.replace("@", f"{world}/") for word in self.arguments.split()])


@dataclass
class Tally:
    """What was seen in one case."""

    steps: int = 0
    tried: int = 0
    before: int = 0
    after: int = 0
    hidden: int = 0  # hidden files, before the next command came
    wrong: list[str] = field(default_factory=list)


# --- Worlds -------------------------------------------------------------------------------------------------------


def derive_packages(packages: Path) -> None:
    """Makes the packages that the cases begin with of `bert` and `t5`, two exports."""
    for name in ("bert", "t5"):
        shutil.copytree(packages / name, packages / f"plain-{name}")
        command(["strip", str(packages / f"plain-{name}")])
    shutil.copytree(packages / "t5", packages / "untagged-t5")
    forget_tags(packages / "untagged-t5")
    command(["pack", str(packages / "bert"), str(packages / "packed.onnx")])
    command(["extract", str(packages / "bert"), "bert.encoder.layer.1", str(packages / "part")])


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


LIGHT = (
    Case("strip, 3 files", "strip @pkg", "pkg", with_copy("t5")),
    Case("project in place, 3 files", "project @pkg", "pkg", with_copy("untagged-t5")),
    Case("project --output", "project @pkg --output @out", "out", with_copy("bert")),
    Case("project --output --overwrite", "project @pkg --output @out --overwrite", "out", with_output("bert", "plain-bert")),
    Case("select --write-layer-annotations", "select @pkg LayerNorm --write-layer-annotations", "pkg", with_copy("bert")),
    Case("pack --overwrite", "pack @pkg @out.onnx --overwrite", "out.onnx", with_output("bert", "plain-bert/model.onnx")),
    Case("unpack", "unpack @pkg @out", "out", with_copy("packed.onnx")),
    Case("unpack --overwrite", "unpack @pkg @out --overwrite", "out", with_output("packed.onnx", "plain-bert")),
    Case("extract --overwrite", "extract @pkg bert.encoder.layer.0 @out --overwrite", "out", with_output("bert", "part")),
    Case("expose --overwrite", "expose @pkg BertLayer -o @out --overwrite", "out", with_output("bert", "plain-bert")),
    Case("functions --overwrite", "functions @pkg -o @out --overwrite", "out", with_output("bert", "plain-bert")),
)  # fmt: skip
"""The verbs that need no torch."""

# What comes next: every verb that takes a package, in turn. Those that write, write elsewhere.
NEXT = (
    "tree @", "validate @", "diff @ @", "select @ *", "tree @/model.onnx", "project @ --output @@new", "pack @ @@new.onnx",
    "extract @ bert.encoder @@new", "tree @ --nodes",
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
    code, steps = in_child(partial(case.run, world))
    if code:
        sys.exit(f"{case.name}: exit code {code}")
    return before, state(world / case.target), steps


def cut_short(
    case: Case, what: str, packages: Path, world: Path, *, every: int = 1, following: Sequence[str] = NEXT
) -> Tally:
    """Cuts a verb short at every step, and has the next command come."""
    before, after, steps = outcomes(case, packages, world)
    tally = Tally(len(steps))
    is_file = case.target.endswith(".onnx")
    commands = itertools.cycle(each for each in following if not is_file or each.startswith(("tree @ ", "extract")))
    for number in chosen(steps, every):
        fresh(case, packages, world)
        code, _ = in_child(partial(case.run, world), number, what)
        tally.tried += 1
        tally.hidden += bool(hidden(world))
        problem = code not in {"kill": (KILLED,), "full disk": (0, 2), "interrupt": (0, 130)}[what]
        if what == "kill":
            follow = next(commands)
            arguments = [
                word.replace("@@", f"{world}/").replace("@", str(world / case.target)) for word in follow.split()
            ]
            next_code, _ = in_child(partial(command, arguments))
            problem = problem or next_code not in (0, 1, 2)
        found = state(world / case.target)
        tally.before += found == before
        tally.after += found == after != before
        problem = problem or (what == "full disk" and (code == 0) != (found == after))
        if problem or found not in (before, after) or hidden(world):
            difference = sorted(name for name in found.keys() | before.keys() if found.get(name) != before.get(name))
            tally.wrong.append(
                f"{case.name}, {what} at {number} ({steps[number - 1]}): {code}, {difference}, {hidden(world)}"
            )
        elif what == "kill" and number % 2:  # and the verb itself, once more
            in_child(partial(case.run, world))
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
            in_child(partial(case.run, world))
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


def main(packages: Path) -> None:
    import filelock  # noqa: F401 (here and once, not in each child)

    import optimum_htp

    for name in optimum_htp.__all__:
        getattr(optimum_htp, name)
    os.fsync = lambda _: None  # what a killed process has written to the system stays written
    quick = [Case("strip", "strip @pkg", "pkg", with_copy("bert")), LIGHT[4]]
    with tempfile.TemporaryDirectory(dir=in_memory()) as scratch:
        world = Path(scratch, "world")
        tallies = [cut_short(case, "kill", packages, world, every=1000, following=["tree @"]) for case in quick]
    print(json.dumps([[tally.tried, tally.before, tally.after, tally.wrong] for tally in tallies]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
