"""What the HTP pass costs beside an export: `make bench` prints the table that docs/benchmarks.md holds.

Every figure is a ratio, or CPU seconds and memory of a process of its own, so that noisy machines disagree little.
BERT-base size (110 million parameters), random weights, exported in pairs: Optimum alone, then with the HTP pass.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
HERE = Path(__file__).resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="how many pairs of exports to run")
    parser.add_argument("--step", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        name, *paths = arguments.step
        print(json.dumps(STEPS[name](*map(Path, paths))))
        return
    with tempfile.TemporaryDirectory(prefix="htp-bench-") as scratch:
        report(Path(scratch), arguments.pairs)


def report(scratch: Path, pairs: int) -> None:
    """Runs everything and prints the table."""
    step("make_model", scratch / "model")
    rows = []
    times, peaks = [], []
    for _ in range(pairs):
        order = ("plain", "tagged") if len(times) % 2 else ("tagged", "plain")
        run = {name: step(name, scratch / "model", scratch / name) for name in order}
        plain, tagged = run["plain"], run["tagged"]
        times.append(tagged["seconds"] / plain["seconds"])
        peaks.append(tagged["peak_mb"] / plain["peak_mb"])
    seconds, peak = statistics.median(times), statistics.median(peaks)
    rows.append(("`main_export` against plain Optimum, time", f"{seconds:.3f}×", "1.03×", spread(times)))
    rows.append(("`main_export` against plain Optimum, peak memory", f"{peak:.3f}×", "1.02×", spread(peaks)))

    alone = [step("pass_alone", scratch / "plain" / "model.onnx", scratch / "tagged", scratch) for _ in range(pairs)]
    ratio = statistics.median(run["ratio"] for run in alone)
    rows.append(("The pass alone against `cp` and `sync`", f"{ratio:.2f}×", "2×", spread([r["ratio"] for r in alone])))
    rows.append(("The pass alone, peak memory", f"{max(r['peak_mb'] for r in alone):.0f} MB", "100 MB", ""))

    external = step("external", scratch / "external")
    rows.append(("100 GB of external data: time", f"{external['seconds']:.2f} s", "1 s", ""))
    rows.append(("100 GB of external data: peak memory", f"{external['peak_mb']:.0f} MB", "150 MB", ""))
    for nodes in (12_500, 25_000, 50_000):
        many = step("many_nodes", Path(str(nodes)), scratch / "many")
        rows.append(
            (f"A graph of {nodes:,} nodes, tagged", f"{many['seconds'] / nodes * 1e6:.0f} µs per node", "", "")
        )

    cpu = [
        cpu_seconds([sys.executable, "-m", "optimum_htp.cli.main", "tree", str(scratch / "tagged")]) for _ in "12345"
    ]
    rows.append(("`optimum-htp tree` on the package, CPU", f"{statistics.median(cpu):.2f} s", "0.4 s", spread(cpu)))
    print("| what | measured (median) | at most | spread |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def spread(values: list[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}"


def step(name: str, *paths: Path) -> dict[str, float]:
    """Runs one step in a process of its own."""
    command = [sys.executable, str(HERE), "--step", name, *map(str, paths)]
    done = subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peak_mb() -> float:
    """The peak resident memory of this process, without what other processes share with it before an exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def make_model(directory: Path) -> dict[str, float]:
    from transformers import BertConfig, BertForSequenceClassification

    BertForSequenceClassification(BertConfig()).save_pretrained(directory)
    return {}


def export_with(main_export: Callable[..., object], model: Path, output: Path) -> dict[str, float]:
    shutil.rmtree(output, ignore_errors=True)
    os.sync()
    started = time.perf_counter()
    main_export(str(model), output, task="text-classification")
    return {"seconds": time.perf_counter() - started, "peak_mb": peak_mb()}


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
    from optimum_htp.annotations import HtpOptions, write_tags
    from optimum_htp.onnxfile import read_model
    from optimum_htp.package import HtpPackage
    from optimum_htp.sidecar import FileRecord, Sidecar

    known = HtpPackage(package).files["model.onnx"]
    assert known.record is not None
    target, copy = scratch / "alone" / "model.onnx", scratch / "copy.onnx"
    target.parent.mkdir(exist_ok=True)
    ratios = []
    for _ in range(4):
        shutil.copyfile(source, target)
        os.sync()
        started = time.perf_counter()
        model = read_model(target)
        write_tags(model, known.tags, trees=known.record.trees, options=HtpOptions())
        roots = {"": (known.record.trees[0], "")}
        Sidecar({"model.onnx": FileRecord.of(model, known.tags, trees=roots)}).write(target.parent)
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
    return tag_in_child(directory / "model.onnx")


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
    return tag_in_child(directory / "model.onnx")


def tag_in_child(file: Path) -> dict[str, float]:
    """Tags a file in a process that has loaded nothing else."""
    return step("tag", file)


def tag(file: Path) -> dict[str, float]:
    """All that the pass does to one file: read, decide, write, record."""
    from optimum_htp.annotations import HtpOptions, write_tags
    from optimum_htp.hierarchy import ModuleInfo, ModuleTree
    from optimum_htp.onnxfile import read_model
    from optimum_htp.sidecar import FileRecord, Sidecar
    from optimum_htp.tagging import tag_model
    from optimum_htp.tracing import ModuleCall, ModuleTrace

    tree = ModuleTree([ModuleInfo((), "Net", "pkg.Net", calls=1), ModuleInfo(("fc",), "Linear", "Linear", calls=1)])
    started = time.perf_counter()
    model = read_model(file)
    scopes = {node.outputs[0]: 1 for node in model.graph.nodes if node.name}
    tags = tag_model(model, ModuleTrace(tree, (ModuleCall((), 0, None), ModuleCall(("fc",), 0, 0)), scopes))
    write_tags(model, tags, trees=[tree], options=HtpOptions())
    Sidecar({file.name: FileRecord.of(model, tags, trees={"/Net": (tree, "")})}).write(file.parent)
    return {"seconds": time.perf_counter() - started, "peak_mb": peak_mb()}


STEPS: dict[str, Callable[..., dict[str, float]]] = {
    function.__name__: function for function in (make_model, plain, tagged, pass_alone, external, many_nodes, tag)
}


if __name__ == "__main__":
    main()
