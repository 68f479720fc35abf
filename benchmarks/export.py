"""What the HTP pass costs beside an export."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from measuring import (
    Row,
    beside_yardstick,
    command_cpu_seconds,
    command_instructions,
    make_base_model,
    peak_mb,
    run_step,
    serve,
)

# Verbs that need no numbers of a model, and what else they are given: these take the same instructions each time.
INSTRUCTIONS: dict[str, tuple[str, ...]] = {"tree": (), "validate": (), "select": ("LayerNorm",), "diff": ()}


def rows(scratch: Path, repeats: int) -> Iterator[Row]:
    """Exports in pairs, Optimum alone and with the pass; then the pass alone, huge files, and `tree`."""
    run_step(make_model, scratch / "model")
    times, cpu, peaks = [], [], []
    for number in range(repeats):
        steps = (plain, tagged) if number % 2 else (tagged, plain)
        run = {step: run_step(step, scratch / "model", scratch / step.__name__) for step in steps}
        times.append(run[tagged]["seconds"] / run[plain]["seconds"])
        cpu.append(run[tagged]["cpu"] / run[plain]["cpu"])
        peaks.append(run[tagged]["peak_mb"] / run[plain]["peak_mb"])
    timed = Row.of("`main_export` of BERT-base against plain Optimum, time", times, "1.03×", form="{:.3f}×")
    yield replace(timed, figures=())  # the next is the same without what the disk and others do
    yield Row.of("the export's CPU seconds against plain Optimum's", cpu, form="{:.3f}×")
    yield Row.of("the export's peak memory against plain Optimum's", peaks, "1.02×", form="{:.3f}×")

    alone = [run_step(pass_alone, scratch / "plain/model.onnx", scratch / "tagged", scratch) for _ in range(repeats)]
    yield Row.of("the pass alone against `cp` and `sync`", [run["ratio"] for run in alone], "2×", form="{:.2f}×")
    yield Row.of("the pass alone, peak memory", [run["peak_mb"] for run in alone], "100 MB", form="{:.0f} MB")

    huge = run_step(external, scratch / "external")
    yield Row("tagging beside 100 GB of external data, time", f"{huge['seconds']:.2f} s", "1 s")
    huge_mb = huge["peak_mb"]
    yield Row("tagging beside 100 GB, peak memory", f"{huge_mb:.0f} MB", "150 MB", figures=(huge_mb,))
    for nodes in (12_500, 25_000, 50_000):
        (seconds,), (yardstick,) = beside_yardstick(1, partial(_tagging_cpu, nodes, scratch / "many"))
        measured = f"{seconds / nodes * 1e6:.0f} µs per node"
        yield Row(f"tagging a graph of {nodes:,} nodes, CPU", measured, figures=(seconds / yardstick,), band=1.5)

    cpu, yardsticks = beside_yardstick(repeats, lambda: command_cpu_seconds("tree", scratch / "tagged"))
    yield Row.of("`optimum-htp tree` of BERT-base, CPU", cpu, "0.4 s", form="{:.2f} s", against=yardsticks)
    for verb, arguments in INSTRUCTIONS.items():
        counted = command_instructions(verb, scratch / "tagged", *arguments)
        if counted is not None:
            words = " ".join(("optimum-htp", verb, *map(str, arguments)))
            yield Row(
                f"instructions of `{words}` for BERT-base", f"{counted / 1e6:,.0f} million", figures=(counted,),
                band=1.03, needs_python=True,
            )  # fmt: skip


def _tagging_cpu(nodes: int, directory: Path) -> float:
    return run_step(many_nodes, nodes, directory)["cpu"]


def make_model(directory: Path) -> None:
    make_base_model(directory)


def export_with(main_export: Callable[..., object], model: Path, output: Path) -> dict[str, float]:
    shutil.rmtree(output, ignore_errors=True)
    os.sync()
    started, cpu = time.perf_counter(), time.process_time()
    main_export(str(model), output, task="text-classification")
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "peak_mb": peak_mb()}


def plain(model: Path, output: Path) -> dict[str, float]:
    from optimum.exporters.onnx import main_export

    return export_with(main_export, model, output)


def tagged(model: Path, output: Path) -> dict[str, float]:
    # What plain() imports before it looks at the clock.
    from optimum.exporters.onnx import main_export as optimum_export  # noqa: F401

    from optimum_htp import main_export

    return export_with(main_export, model, output)


def pass_alone(source: Path, package: Path, scratch: Path) -> dict[str, float]:
    """Reading a plain file, writing its tags, and the sidecar; against copying the file, both to the disk.

    They take turns, and the first turn of each does not count: memory that the machine has not used yet is slow the
    first time that a file is cached in it, whoever writes the file.
    """
    from optimum_htp.onnxfile.reading import read_model
    from optimum_htp.package.node_metadata import HtpOptions, write_tags
    from optimum_htp.package.package import HtpPackage
    from optimum_htp.package.sidecar.record import FileRecord
    from optimum_htp.package.sidecar.sidecar import Sidecar

    known = HtpPackage(package).files["model.onnx"].tagged
    target, copy = scratch / "alone" / "model.onnx", scratch / "copy.onnx"
    target.parent.mkdir(exist_ok=True)
    ratios = []
    for _ in range(4):
        shutil.copyfile(source, target)
        os.sync()
        started = time.perf_counter()
        graph = replace(known, model=read_model(target))
        write_tags(graph, options=HtpOptions(skeleton=False))
        Sidecar({"model.onnx": FileRecord.of(graph)}).write(target.parent)
        seconds = time.perf_counter() - started
        started = time.perf_counter()
        subprocess.run(["cp", str(source), str(copy)], check=True)
        subprocess.run(["sync", str(copy)], check=True)
        ratios.append(seconds / (time.perf_counter() - started))
        copy.unlink()
    return {"ratio": statistics.median(ratios[1:]), "peak_mb": peak_mb()}


def external(directory: Path) -> dict[str, float]:
    """A graph whose 100 GB of weights lie in a sparse file."""
    import onnx
    from onnx import TensorProto, helper

    directory.mkdir()
    count, size = 100, 10**9
    nodes = [helper.make_node("Add", [f"x{i}", f"w{i}"], [f"x{i + 1}"], name=f"/fc/Add_{i}") for i in range(count)]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x0", TensorProto.INT8, [size])],
        [helper.make_tensor_value_info(f"x{count}", TensorProto.INT8, [size])],
    )  # fmt: skip
    for i in range(count):
        tensor = graph.initializer.add(name=f"w{i}", data_type=TensorProto.INT8, dims=[size])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "weights", "offset": str(i * size), "length": str(size)}.items():
            tensor.external_data.add(key=key, value=value)
    onnx.save(helper.make_model(graph, ir_version=10), directory / "model.onnx")
    with (directory / "weights").open("wb") as weights:
        weights.truncate(count * size)
    return run_step(tag, directory / "model.onnx")


def many_nodes(nodes: Path, directory: Path) -> dict[str, float]:
    """A chain of nodes, half of them without a scope, so that the rules have work."""
    import onnx
    from onnx import TensorProto, helper

    directory.mkdir(exist_ok=True)
    chain = []
    for i in range(int(str(nodes)) // 2):
        chain.append(helper.make_node("Constant", [], [f"c{i}"], value_float=1.0))
        chain.append(helper.make_node("Add", [f"x{i}", f"c{i}"], [f"x{i + 1}"], name=f"/fc/Add_{i}"))
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x0", f"x{len(chain) // 2}")]
    graph = helper.make_graph(chain, "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, ir_version=10), directory / "model.onnx")
    return run_step(tag, directory / "model.onnx")


def tag(file: Path) -> dict[str, float]:
    """All that the pass does to one file: read, decide, write, record."""
    from optimum_htp.hierarchy.calls import CallTree
    from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
    from optimum_htp.onnxfile.reading import read_model
    from optimum_htp.package.node_metadata import HtpOptions, write_tags
    from optimum_htp.package.sidecar.record import FileRecord
    from optimum_htp.package.sidecar.sidecar import Sidecar
    from optimum_htp.tagging.rules.order import tag_export
    from optimum_htp.tagging.tracing.trace import ExportTrace, ModuleTrace

    tree = ModuleTree([ModuleInfo((), "Net", "pkg.Net", calls=1), ModuleInfo(("fc",), "Linear", "Linear", calls=1)])
    calls = CallTree.of_rows(tree, [(0, -1), (1, 0)])
    started, cpu = time.perf_counter(), time.process_time()
    model = read_model(file)
    scopes = {node.outputs[0]: 1 for node in model.graph.nodes if node.name}
    graph = tag_export(ExportTrace(file, model, ModuleTrace(calls, scopes), ""))
    write_tags(graph, options=HtpOptions(skeleton=False))
    Sidecar({file.name: FileRecord.of(graph)}).write(file.parent)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "peak_mb": peak_mb()}


if __name__ == "__main__":
    serve(make_model, plain, tagged, pass_alone, external, many_nodes, tag)
