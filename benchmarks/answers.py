"""What the answers cost, and how much they cover: `profile`, `compare`, `ranges`, `select`, `diff`, `extract`."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

from measuring import Row, Step, beside_yardstick, make_base_model, minilm, run_step, serve

MODELS = ("bert", "albert", "gpt2", "llama", "vit", "resnet", "t5", "bart")
RUNS, WARMUP = 5, 2


def rows(scratch: Path, repeats: int) -> Iterator[Row]:
    """CPU seconds after the imports; coverage over the models of the tests' zoo and the real MiniLM."""
    base = scratch / "base"
    run_step(export_base, scratch / "base-model", base)
    run_step(export_minilm, scratch / "minilm")
    for what, limit, run in (
        (
            "`profile` of BERT-base beyond the runs themselves, CPU", "1 s",
            lambda: run_step(profile_base, base, threads=1)["extra"],
        ),
        (
            "`profile` of MiniLM beyond ONNX Runtime's own profile, memory and operations included, CPU", "0.5 s",
            lambda: run_step(profile_minilm, scratch / "minilm", threads=1)["extra"],
        ),
        (
            "`compare` of MiniLM with PyTorch, beyond imports, CPU", "10 s",
            lambda: run_step(compare_minilm, scratch / "minilm", threads=1)["cpu"],
        ),
        (
            "`ranges --dtype fp16` of MiniLM, beyond imports, CPU", "5 s",
            lambda: run_step(ranges_minilm, scratch / "minilm", threads=1)["cpu"],
        ),
    ):  # fmt: skip
        cpu, yardsticks = beside_yardstick(repeats, run)
        yield Row.of(what, cpu, limit, form="{:.2f} s", against=yardsticks)
    for step, what in (
        (select_base, "`select` in BERT-base, CPU"),
        (diff_base, "`diff` of BERT-base with itself, CPU"),
        (extract_base, "`extract` of a layer of BERT-base, beyond copying its weights, CPU"),
        (explain_base, "`explain` of a node of BERT-base, CPU"),
    ):
        cpu, yardsticks = beside_yardstick(repeats, partial(_cpu, step, base, scratch / "part.onnx"))
        yield Row.of(what, cpu, "0.5 s", form="{:.2f} s", against=yardsticks)
    run_step(externalize, base, scratch / "external")
    cpu, yardsticks = beside_yardstick(repeats, partial(_cpu, functions_base, scratch / "external"))
    what = "`functions` of BERT-base whose weights are beside it, CPU"
    yield Row.of(what, cpu, "0.5 s", form="{:.2f} s", against=yardsticks)
    minilm_package = scratch / "minilm"
    cpu, yardsticks = beside_yardstick(repeats, partial(_cpu, expose_minilm, minilm_package, scratch / "exposed"))
    yield Row.of(
        "`expose` of all layers of MiniLM, beyond imports, CPU", cpu, "5 s", form="{:.2f} s", against=yardsticks
    )
    found = run_step(coverage, scratch, threads=1)
    compared, calls = found["compared"], found["calls"]
    for what, measured, limit, share in (
        (
            "kernel time with a module, least of all files", f"{found['attributed']:.2%}", "at least 99%",
            found["attributed"],
        ),
        (
            "module calls with nodes that are compared", f"{compared:,} of {calls:,}", "at least 97%",
            compared / calls,
        ),
    ):  # fmt: skip
        yield Row(what, measured, limit, figures=(share,), higher_is_better=True, band=1.01)
    yield Row("largest relative error of a sound export", f"{found['worst']:.1e}", "1e-4")


def _cpu(step: Step, *arguments: object) -> float:
    return run_step(step, *arguments)["cpu"]


def export_base(model: Path, output: Path) -> None:
    from optimum_htp import main_export

    make_base_model(model)
    main_export(str(model), str(output), task="text-classification", do_validation=False)


def export_minilm(output: Path) -> None:
    from optimum_htp import main_export

    main_export(str(minilm()), str(output), task="feature-extraction", library_name="transformers")


def profile_base(package: Path) -> dict[str, float]:
    """CPU seconds of `profile` beyond those of loading the session and running it as often without a profiler."""
    import onnxruntime

    import optimum_htp.verbs.profile
    from optimum_htp.models.inputs import make_inputs
    from optimum_htp.onnxfile.reading import read_model

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
    optimum_htp.verbs.profile.profile(package, threads=1, runs=RUNS, warmup=WARMUP)
    return {"extra": time.process_time() - started - plain}


def profile_minilm(package: Path) -> dict[str, float]:
    """CPU seconds of `profile` beyond those of running it with ONNX Runtime's profiler and reading what that writes."""
    import json

    import onnxruntime

    import optimum_htp.verbs.profile
    from optimum_htp.models.inputs import make_inputs
    from optimum_htp.onnxfile.reading import read_model

    inputs = make_inputs(read_model(package / "model.onnx"), None)
    started = time.process_time()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(package.parent / "profile")
    session = onnxruntime.InferenceSession(str(package / "model.onnx"), options)
    for _ in range(RUNS + WARMUP):
        session.run(None, inputs)
    written = Path(session.end_profiling())
    json.loads(written.read_bytes())
    plain = time.process_time() - started
    written.unlink()
    del session
    started = time.process_time()
    report = optimum_htp.verbs.profile.profile(package, threads=1, runs=RUNS, warmup=WARMUP)
    spent = time.process_time() - started
    assert report.phases[0].work.flops and report.phases[0].work.peak_bytes
    return {"extra": spent - plain}


def compare_minilm(package: Path) -> dict[str, float]:
    import_module("optimum.exporters.onnx.model_configs")  # before the clock starts
    import torch

    import optimum_htp.verbs.compare

    torch.set_num_threads(1)
    started = time.process_time()
    report = optimum_htp.verbs.compare.compare(package, model=minilm(), threads=1)
    assert report.ok
    return {"cpu": time.process_time() - started}


def ranges_minilm(package: Path) -> dict[str, float]:
    import onnx
    import onnxruntime

    from optimum_htp import ranges

    assert onnx.__version__ and onnxruntime.__version__  # loaded before the clock starts
    started = time.process_time()
    assert ranges(package, dtype="fp16", threads=1).ok
    return _without_torch(started)


def select_base(package: Path, _: Path) -> dict[str, float]:
    from optimum_htp import select

    started = time.process_time()
    assert select(package, ["LayerNorm", "bert.encoder.layer.2-5"]).files
    return _without_torch(started)


def diff_base(package: Path, _: Path) -> dict[str, float]:
    from optimum_htp import diff

    started = time.process_time()
    diff(package, package)
    return _without_torch(started)


def extract_base(package: Path, output: Path) -> dict[str, float]:
    from optimum_htp import extract

    output.unlink(missing_ok=True)
    started = time.process_time()
    extract(package, "bert.encoder.layer.3", output=output)
    found = _without_torch(started)
    started = time.process_time()
    shutil.copyfile(output, output.with_suffix(".copy"))
    return {"cpu": found["cpu"] - (time.process_time() - started)}


def externalize(package: Path, output: Path) -> None:
    import onnx

    shutil.copytree(package, output)
    model = onnx.load(package / "model.onnx")
    (output / "model.onnx").unlink()
    onnx.save(model, output / "model.onnx", save_as_external_data=True, location="model.onnx_data")


def functions_base(package: Path) -> dict[str, float]:
    """CPU seconds where no weight is copied."""
    from optimum_htp import functions

    output = package / "blocks.onnx"
    output.unlink(missing_ok=True)
    started = time.process_time()
    (function,) = functions(package / "model.onnx", output=output).functions
    assert len(function.calls) == 12
    return _without_torch(started)


def explain_base(package: Path, _: Path) -> dict[str, float]:
    from optimum_htp import explain

    started = time.process_time()
    assert explain(package, "/bert/encoder/layer.3/attention/self/query/MatMul").names
    return _without_torch(started)


def expose_minilm(package: Path, output: Path) -> dict[str, float]:
    import onnxruntime  # noqa: F401

    import optimum_htp.verbs.expose

    shutil.rmtree(output, ignore_errors=True)
    started = time.process_time()
    assert optimum_htp.verbs.expose.expose(package, "BertLayer", output=output).tensors
    return {"cpu": time.process_time() - started}


def _without_torch(started: float) -> dict[str, float]:
    spent = time.process_time() - started
    assert "torch" not in sys.modules
    return {"cpu": spent}


def coverage(scratch: Path) -> dict[str, float]:
    """How much of the kernel time has a module, and how many module calls are compared, over several models."""
    import zoo

    from optimum_htp import main_export
    from optimum_htp.verbs.compare.verb import compare
    from optimum_htp.verbs.profile.verb import profile

    sources = {"minilm": str(minilm()), **{name: str(zoo.build(name, scratch / f"{name}-model")) for name in MODELS}}
    parts, phases = [], []
    for name, source in sources.items():
        if name != "minilm":
            main_export(source, str(scratch / name), **zoo.ZOO[name].main_export_kwargs(Path(source)))
        parts += compare(scratch / name, model=source, threads=1).parts
        phases += profile(scratch / name, file="*", threads=1, runs=3, warmup=1).phases
    return {
        "attributed": min(phase.attributed for phase in phases),
        "compared": sum(part.compared for part in parts),
        "calls": sum(len(part.modules) for part in parts),
        "worst": max(call.errors.relative for part in parts for call in part.calls if call.errors is not None),
    }


if __name__ == "__main__":
    serve(
        export_base,
        export_minilm,
        profile_base,
        profile_minilm,
        compare_minilm,
        ranges_minilm,
        select_base,
        diff_base,
        extract_base,
        externalize,
        functions_base,
        explain_base,
        expose_minilm,
        coverage,
    )
