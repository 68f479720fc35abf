"""Whether `compare` names what is wrong: `make faults` plants faults into sound models and writes docs/faults.md.

Each case is an architecture, a kind of fault and the form in which the model is shipped. The fault is planted into the
ONNX file by hand, so the truth is known without `compare`; the same package without the fault has to accuse nobody.

One case, with both packages left to look at:

    python benchmarks/faults.py --only bert/missing-residual/int8-dynamic --keep /tmp/faults

All of them take an hour or two. With `--cases FILE` each is written down when it is done, and what is written down is not
done again: a run that was stopped goes on, one with `--only` adds to it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from fnmatch import fnmatchcase
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
os.environ.update(
    HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false"
)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import fault_tables  # noqa: E402 (found by the lines above)
import numpy as np  # noqa: E402
import onnx  # noqa: E402
from fault_kinds import KINDS, Kind  # noqa: E402
from fault_models import (  # noqa: E402
    ARCHITECTURES,
    VARIANTS,
    Architecture,
    copy_configs,
    distance,
    make_inputs,
    make_variant,
    quiet,
    run,
    sound_float,
    source_model,
    tensors,
    whole,
)
from planting import Fault, Net, NotHereError  # noqa: E402

from optimum_htp import compare, project  # noqa: E402
from optimum_htp.package import HtpPackage  # noqa: E402

REPORT = HERE.parent / "docs" / "faults.md"
SOUND = "sound"
REACHED = 1e-4
"""The change of the outputs, relative and in the norm, from which on a fault counts as reached: a hundred times what
float32 makes of a sound export."""
VERDICTS = ("agrees", "spread", "unknown", "several", "one")
ACCUSING = VERDICTS[3:]

Case = tuple[str, str, str]
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["*"], metavar="ARCHITECTURE/KIND/VARIANT", help="globs")
    parser.add_argument(
        "--limit", type=int, help="so many of the faulty cases, drawn evenly, and the sound ones with them"
    )
    parser.add_argument("--against", choices=("auto", "package", "pytorch"), default="auto",
                        help="auto: float files against PyTorch, the others against the float package")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="for the places and for --limit")
    parser.add_argument("--jobs", type=int, default=1, help="architectures at a time")
    parser.add_argument(
        "--cases", type=Path, help="write each case as a line of JSON; cases that it has are not run again"
    )
    parser.add_argument(
        "--held-out", type=Path, help="such a file, of a draw before whose run nothing was changed for it"
    )
    parser.add_argument("--keep", type=Path, help="keep what is exported, and the packages of all cases, there")
    parser.add_argument("--no-run", action="store_true", help="only the tables, of what --cases has")
    parser.add_argument("--no-compare", action="store_true", help="only plant, and say which faults are reached")
    parser.add_argument("--no-report", action="store_true", help="print the tables, and leave the docs alone")
    arguments = parser.parse_args()
    cases = drawn(arguments.only, arguments.limit, arguments.seed)
    if not cases:
        parser.error(f"no case is called so; e.g. {'/'.join(next(all_cases()))}")
    if arguments.no_run:
        written = {case_of(record): record for record in read_records(arguments.cases)}
        records = [written[case] for case in cases if case in written]
    else:
        with tempfile.TemporaryDirectory(prefix="htp-faults-") as temporary:
            records = measured(cases, arguments.keep or Path(temporary), arguments)
    if arguments.no_compare:
        return
    held_out = read_records(arguments.held_out) if arguments.held_out else []
    text = fault_tables.document(records, held_out, of=len(list(all_cases())))
    print(text)
    if not arguments.no_report:
        REPORT.write_text(text, encoding="utf-8")


# --- Which cases --------------------------------------------------------------------------------------------------


def all_cases() -> Iterator[Case]:
    for architecture in ARCHITECTURES:
        for kind in (SOUND, *KINDS):
            for variant in VARIANTS if kind == SOUND else KINDS[kind].variants:
                yield architecture, kind, variant


def drawn(only: Iterable[str], limit: int | None, seed: int) -> list[Case]:
    """The cases that match; of more than `limit` an even draw, with the sound packages that belong to them."""
    patterns = [pattern if "/" in pattern else f"{pattern}*" for pattern in only]
    named = [case for case in all_cases() if any(fnmatchcase("/".join(case), pattern) for pattern in patterns)]
    faulty = [case for case in named if case[1] != SOUND]
    if limit is not None and limit < len(faulty):
        faulty = random.Random(seed).sample(faulty, limit)
    touched = {(architecture, variant) for architecture, _, variant in faulty}
    chosen = {*faulty, *((a, SOUND, v) for a, v in touched), *(case for case in named if limit is None)}
    return [case for case in all_cases() if case in chosen]


def measured(cases: list[Case], scratch: Path, arguments: argparse.Namespace) -> list[Record]:
    """The records of some cases, in their order: those that are written down, and the others, which are run."""
    written = arguments.cases if arguments.cases and arguments.cases.exists() else None
    known = [record for record in read_records(written) if record["seed"] == arguments.seed] if written else []
    records = {case_of(record): record for record in known}
    groups: dict[str, list[Case]] = {}
    for case in cases:  # the files of one model share its export
        if case not in records:
            groups.setdefault(ARCHITECTURES[case[0]].model, []).append(case)
    ordered = sorted(groups.values(), key=lambda group: group[0][0] == "minilm")  # the one of real size last
    for record in _records(ordered, scratch, arguments):
        records[case_of(record)] = record
        print(fault_tables.line(record), file=sys.stderr, flush=True)
        if arguments.keep and "command" in record:
            print(f"    {record['command']}", file=sys.stderr, flush=True)
    return [records[case] for case in cases]


def case_of(record: Record) -> Case:
    return record["architecture"], record["kind"], record["variant"]


def read_records(file: Path) -> list[Record]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _records(groups: list[list[Case]], scratch: Path, arguments: argparse.Namespace) -> Iterator[Record]:
    if arguments.jobs == 1:
        for group in groups:
            yield from examined(group, scratch, arguments)
        return
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_listed, group, scratch, arguments) for group in groups]
        for future in as_completed(futures):
            yield from future.result()


def _listed(group: list[Case], scratch: Path, arguments: argparse.Namespace) -> list[Record]:
    return list(examined(group, scratch, arguments))


def examined(cases: list[Case], scratch: Path, arguments: argparse.Namespace) -> Iterator[Record]:
    """The records of the cases of one model."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    benches: dict[str, Bench] = {}
    for name, kind, variant in cases:
        if name not in benches:
            benches[name] = Bench(ARCHITECTURES[name], scratch, arguments)
        started = time.perf_counter()
        record: Record = {"architecture": name, "kind": kind, "variant": variant, "seed": arguments.seed}
        try:
            record |= benches[name].sound(variant) if kind == SOUND else benches[name].faulty(KINDS[kind], variant)
        except NotHereError as error:
            record |= {"status": "n/a", "reason": str(error)}
        except Exception as error:  # of tools, of runs and of `compare`: counted, with its reason
            record |= {"status": "error", "reason": first_line(error)}
        record["seconds"] = round(time.perf_counter() - started, 2)
        seed = f" --seed {arguments.seed}" if arguments.seed else ""
        record["reproduce"] = (
            f"python benchmarks/faults.py --no-report --only {name}/{kind}/{variant}{seed} --keep DIR"
        )
        if arguments.cases:
            with arguments.cases.open("a", encoding="utf-8") as lines:
                lines.write(f"{json.dumps(record)}\n")
        yield record


def first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


# --- One architecture ---------------------------------------------------------------------------------------------


class Bench:
    """An architecture with its sound packages, and the faults that were planted into it."""

    def __init__(self, architecture: Architecture, scratch: Path, arguments: argparse.Namespace) -> None:
        self.architecture = architecture
        self.arguments = arguments
        self.scratch = scratch
        self.directory = scratch / architecture.name
        self.float_package = sound_float(architecture, scratch)
        self.float_file = self.float_package / architecture.file
        self.config = json.loads((self.float_package / "config.json").read_text())
        self.feed = self.calibration(100)
        self.inputs = self.directory / "inputs.npz"
        np.savez(self.inputs, **self.feed)
        self.float_outputs = run(self.float_file, self.feed)
        self._packages: dict[str, Path | str] = {}
        self._outputs: dict[str, dict[str, Any]] = {}

    def calibration(self, seed: int) -> dict[str, Any]:
        return make_inputs(self.float_file, self.config, seed)

    @cached_property
    def values(self) -> dict[str, Any]:
        return {**self.feed, **tensors(onnx.load(self.float_file), self.feed)}

    def net(self) -> Net:
        return Net(HtpPackage(self.float_package).files[self.architecture.file], self.values)

    # --- Packages ---

    def sound_package(self, variant: str) -> Path:
        """The package without a fault.

        Raises:
            NotHereError: The tool that makes this form can't, or what it makes does not run.
        """
        if variant not in self._packages:
            package = self.directory / variant / SOUND
            try:
                if variant != "float" and not package.exists():
                    with whole(package) as unfinished:
                        make_variant(variant, self.float_file, unfinished, self.calibration)
                        self.project(unfinished)
                self._outputs[variant] = run(package / self.architecture.file, self.feed, half=variant == "fp16")
                self._packages[variant] = package
            except Exception as error:
                self._packages[variant] = f"no sound {variant}: {first_line(error)}"
        known = self._packages[variant]
        if isinstance(known, str):
            raise NotHereError(known)
        return known

    def project(self, package: Path) -> None:
        with quiet():
            project(package, reference=self.float_package)

    def plant(self, kind: Kind, variant: str, package: Path) -> Fault:
        """Writes the package with the fault."""
        die = random.Random(f"{self.arguments.seed}/{self.architecture.name}/{kind.name}")
        net = self.net()
        name = self.architecture.file
        if kind.quantized is not None:
            sound = self.sound_package(variant)
            model = onnx.load(sound / name)
            fault = kind.quantized(model, net, die)
            copy_configs(sound, package)
            onnx.save(model, package / name)
        else:
            assert kind.plant is not None
            fault = kind.plant(net, die)
            shutil.rmtree(package, ignore_errors=True)
            planted = package if variant == "float" else package.with_name(f"{package.name}.float")
            copy_configs(self.float_package, planted)
            net.save(planted / name)
            if variant != "float":
                make_variant(variant, planted / name, package, self.calibration)
                shutil.rmtree(planted)
        if variant == "float":  # as it stays when a file is edited
            shutil.copy(self.float_package / "export_metadata.json", package)
        else:
            self.project(package)
        return fault

    # --- Cases ---

    def sound(self, variant: str) -> Record:
        package = self.sound_package(variant)
        record: Record = {"status": "sound", "noise": self.noise(variant)}
        return record if self.arguments.no_compare else record | self.compared(package, variant)

    def noise(self, variant: str) -> float:
        """What the form itself costs."""
        return distance(self._outputs[variant], self.float_outputs)

    def faulty(self, kind: Kind, variant: str) -> Record:
        self.sound_package(variant)
        package = self.directory / variant / kind.name
        try:
            fault = self.plant(kind, variant, package)
            outputs = run(package / self.architecture.file, self.feed, half=variant == "fp16")
            change, noise = distance(outputs, self._outputs[variant]), self.noise(variant)
            children = HtpPackage(self.float_package).files[self.architecture.file].hierarchy.children
            record: Record = {
                "truth": list(fault.paths), "operations": [bool(children(path)) for path in fault.paths],
                "call": fault.call, "what": fault.what, "change": change, "noise": noise,
            }  # fmt: skip
            if change < REACHED:
                return record | {"status": "not reached"}
            record["status"] = "in the noise" if change < noise else "reached"
            if self.arguments.no_compare:
                return record
            record |= self.compared(package, variant)
            return record | {"outcome": outcome(record)}
        finally:
            if not self.arguments.keep:
                shutil.rmtree(package, ignore_errors=True)

    def inputs_of(self, package: Path) -> Path:
        """The inputs for a package: tools drop those that nothing reads any more."""
        graph = onnx.load(package / self.architecture.file, load_external_data=False).graph
        taken = {value.name for value in graph.input}
        if taken.issuperset(self.feed):
            return self.inputs
        inputs = package / "inputs.npz"
        np.savez(inputs, **{name: array for name, array in self.feed.items() if name in taken})
        return inputs

    def compared(self, package: Path, variant: str) -> Record:
        """What `compare` says of a package."""
        against = self.arguments.against
        if against == "auto":
            against = "pytorch" if variant == "float" else "package"
        source = source_model(self.architecture, self.scratch)
        inputs = self.inputs_of(package)
        to = {"model": str(source)} if against == "pytorch" else {"reference": self.float_package}
        with quiet():
            report = compare(package, inputs=inputs, file=self.architecture.file, threads=1, **to)
        command = f"optimum-cli htp compare {package} --inputs {inputs} --{next(iter(to))} {next(iter(to.values()))}"
        return {"against": against, "command": command} | said(report) | {"ok": bool(report.ok)}


# --- What `compare` said ------------------------------------------------------------------------------------------


def said(report: Any) -> Record:
    """The verdict and the ranked culprits of a report on one file; of several runs of it, those of the worst."""
    keys = ("path", "call", "operations", "own_sqnr_db", "own_relative", "output_error_without")
    answers = [
        {
            "verdict": file["verdict"],
            "culprits": [{key: culprit[key] for key in keys} for culprit in file["culprits"]],
        }
        for file in report.to_dict()["files"]
    ]
    worst = max(answers, key=lambda answer: VERDICTS.index(answer["verdict"]))
    return {**worst, "culprits": worst["culprits"][:10]}


def outcome(record: Record) -> str:
    """How a faulty case was answered."""
    truth, verdict = record["truth"], record["verdict"]
    named = [culprit["path"] for culprit in record["culprits"]]
    if verdict == "unknown":
        return "unknown"
    if verdict not in ACCUSING:
        return "missed"
    if named[0] in truth:
        return "first"
    if set(truth) & set(named):
        return "among"
    around = [path for path in truth if is_around(named[0], path)]
    return "enclosing" if around else "wrong"


def is_around(path: str, inner: str) -> bool:
    return path != inner and (not path or inner.startswith(f"{path}."))


if __name__ == "__main__":
    main()
