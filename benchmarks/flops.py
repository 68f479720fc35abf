"""Whether `profile` counts the operations that `torch.utils.flop_counter` counts: `make flops` writes docs/flops.md.

Each tiny model of the tests' zoo is exported, profiled, and run in PyTorch on the same inputs. Where they differ by more than
2%, the page says by what.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimum_htp.models import Part
    from optimum_htp.onnxfile import OnnxModel

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

NEAR = 0.02
WHY = {
    "swinv2": "ONNX Runtime computed `continuous_position_bias_mlp`, which depends on constants alone, when it loaded: "
    "602,112",
}
"""Why a model's counts differ, by its name."""


@dataclass(frozen=True, slots=True)
class Count:
    """The operations of one file in one phase."""

    model: str
    file: str
    phase: str
    ours: int | None
    theirs: int | None
    why: str = ""

    @property
    def is_near(self) -> bool:
        """Whether they differ by no more than 2%."""
        if self.ours is None or self.theirs is None:
            return self.ours is None and self.theirs == 0
        return abs(self.ours - self.theirs) <= NEAR * max(self.theirs, 1)


def main() -> int:
    import zoo

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", metavar="MODEL", help="these models of the zoo alone, and no page")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "flops.md")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    counts: list[Count] = []
    for name in arguments.only or sorted(zoo.ZOO):
        if not zoo.ZOO[name].available:
            continue
        with tempfile.TemporaryDirectory(prefix="htp-flops-") as scratch:
            for count in counts_of(name, Path(scratch)):
                counts.append(count)
                print(line(count), flush=True)
    if not arguments.only:
        arguments.output.write_text(page(counts), encoding="utf-8")
        print(f"written to {arguments.output}")
    return 0


def counts_of(name: str, scratch: Path) -> Iterator[Count]:
    """The operations of each file and phase of a model of the zoo."""
    import zoo
    from oracle import seed_everything

    from optimum_htp import HtpPackage, main_export
    from optimum_htp.errors import HtpError
    from optimum_htp.models import component_config, find_parts, load_source_of, make_inputs
    from optimum_htp.verbs.profile import profile

    source, package = zoo.build(name, scratch / "model"), scratch / "package"
    seed_everything()  # of a mixture of experts, those that got no token while it was traced are not in the graph
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main_export(str(source), package, **{**zoo.ZOO[name].main_export_kwargs(source), "do_validation": False})
    opened = HtpPackage(package)
    try:
        report = profile(opened, runs=1, warmup=0, threads=1)
    except HtpError as error:
        yield Count(name, "", "", None, None, str(error).replace(f"{package}/", "")[:120])
        return
    models = {file.name: file.model for file in opened.files.values()}
    problem = ""
    try:
        loaded = load_source_of(
            list(models.values()),
            source,
            recorded=opened.sidecar.source if opened.sidecar is not None else {},
            roots=[root.tree.root for file in opened.files.values() for root in file.tagged.roots],
            trust_remote_code=True,
        )
        parts = find_parts(loaded, opened.files.values())
    except Exception as error:
        parts, problem = [], f"{type(error).__name__}: {error}".replace(str(source), "the model")[:120]
    for phase in report.phases:
        part = next((each for each in parts if each.file == phase.file and is_of(each.branch, phase.phase)), None)
        theirs, why = None, problem if not parts else "no part of the source model is known to be this file"
        if part is not None:
            config = component_config(opened, phase.file) or opened.config
            inputs = make_inputs(models[phase.file], config, phase=phase.phase)
            try:
                theirs, why = counted_by_torch(part, models[phase.file], inputs), ""
            except Exception as error:  # whatever a model raises
                why = f"PyTorch can't run it on these inputs: {type(error).__name__}: {error}".partition("\n")[0][:120]
        yield Count(name, phase.file, phase.phase, phase.work.flops, theirs, why or WHY.get(name, ""))


def is_of(branch: bool | None, phase: str) -> bool:
    """Whether a branch of a merged decoder, or a file that is none, is what runs in a phase."""
    return branch is None or branch == (phase == "decode")


def counted_by_torch(part: Part, model: OnnxModel, inputs: dict[str, Any]) -> int:
    """The operations that PyTorch counts."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from optimum_htp.models import names_in_torch, run_for_file

    names = names_in_torch(part, model, shapes={})
    # The counter does not know the attention that PyTorch has for the CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run_for_file(part, model, names, shapes={}, given=inputs)
    return int(counter.get_total_flops())


def line(count: Count) -> str:
    """A row of the table."""
    ours, theirs = ("-" if each is None else f"{each:,}" for each in (count.ours, count.theirs))
    ratio = f"{count.ours / count.theirs:.4f}" if count.ours is not None and count.theirs else ""
    return f"| {count.model} | {count.file} | {count.phase} | {ours} | {theirs} | {ratio} | {count.why} |"


HEADER = "| model | file | phase | `profile` | torch | ratio | |\n|---|---|---|---:|---:|---:|---|"


def page(counts: list[Count]) -> str:
    """The page of the documentation."""
    compared = [count for count in counts if count.theirs is not None]
    near = [count for count in compared if count.is_near]
    others = [count for count in counts if not count.is_near]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "onnxruntime"))
    return "\n".join(
        [
            INTRODUCTION.format(
                versions=versions, near=len(near), compared=len(compared), exact=sum(c.ours == c.theirs for c in near)
            ),
            "## More than 2% apart, or not compared\n",
            HEADER,
            *map(line, others),
            "\n## Within 2%\n",
            HEADER,
            *map(line, near),
            "",
        ]
    )


INTRODUCTION = """\
# Operations, beside those that PyTorch counts

Written by `make flops`; do not edit. `profile` counts the operations of what ONNX Runtime really ran, from the shapes of the \
run; `torch.utils.flop_counter` those of the PyTorch model on the same inputs. Both count two operations for each \
multiplication that is added up. The models are the tiny ones of the tests' zoo, with {versions}.

{near} of {compared} files and phases are within 2%, {exact} of them exactly the same.
"""

if __name__ == "__main__":
    sys.exit(main())
