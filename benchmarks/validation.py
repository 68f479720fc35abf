"""What validating a package costs: `python benchmarks/validation.py` prints the rows that docs/benchmarks.md holds.

BERT-base size (110 million parameters), random weights, a WordPiece tokenizer of 30,522 words. CPU seconds inside
`validate()`, each measured in a process of its own, as the first thing that the process does; the export's completion
of configs likewise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}

VALIDATE = """
import sys, time
import optimum_htp
validate = optimum_htp.validate
started = time.process_time()
report = validate(sys.argv[1])
spent = time.process_time() - started
assert report.ok, report.failed
assert not {"torch", "onnx", "onnxruntime", "numpy"} & set(sys.modules)
print(spent)
"""

CONFIGS = """
import shutil, sys, time
from pathlib import Path
from optimum_htp.configs import add_config_metadata, complete_package
from optimum_htp.sidecar import Sidecar
package, model, scratch = map(Path, sys.argv[1:])
shutil.rmtree(scratch, ignore_errors=True)
scratch.mkdir()
shutil.copyfile(package / "config.json", scratch / "config.json")
records = Sidecar.read(package).files
started = time.process_time()
added = complete_package(scratch, model)
add_config_metadata(scratch, records)
print(time.process_time() - started)
assert "tokenizer.json" in added
"""

MAKE = """
import sys
from pathlib import Path
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
from optimum_htp import main_export
model, package = map(Path, sys.argv[1:])
torch.manual_seed(0)
BertForSequenceClassification(BertConfig()).save_pretrained(model)
words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *(f"word{number}" for number in range(30520))])}
tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(str(model))
main_export(str(model), package, task="text-classification", do_validation=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="how many processes to measure")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="htp-bench-") as scratch:
        model, package, copy = (Path(scratch, name) for name in ("model", "package", "copy"))
        python(MAKE, model, package)
        checked = [float(python(VALIDATE, package)) * 1000 for _ in range(runs)]
        completed = [float(python(CONFIGS, package, model, copy)) * 1000 for _ in range(runs)]
    print("| what | measured | limit | spread |\n|---|---|---|---|")
    for what, figures, limit in (
        ("`validate()`, the structure of a BERT-base package, CPU", checked, "50 ms"),
        ("Completing config and tokenizer after an export, CPU", completed, "100 ms"),
    ):
        print(f"| {what} | {statistics.median(figures):.0f} ms | {limit} | {min(figures):.0f}–{max(figures):.0f} ms |")


def python(code: str, *arguments: Path) -> str:
    """What a fresh interpreter prints last."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
    return result.stdout.splitlines()[-1] if result.stdout else ""


if __name__ == "__main__":
    main()
