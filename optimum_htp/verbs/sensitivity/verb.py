"""`sensitivity`: which modules quantization hurts, and the smallest set of them to leave in float32.

The quantizer runs once on a copy of the file (`working_copy`, `quantizers`). What it made of each node becomes a switch in
the model in float32 (`switchboard`), so that modules are quantized one by one in one session (`ranking`). What a budget
needs is then quantized for real, measured, and written (`building`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.models import (
    QUANTIZED_OPERATORS,
    SAMPLES,
    InputSizes,
    check_axes,
    check_source_of_sizes,
    component_config,
    computes_in,
    graph_limits,
    load_inputs,
    make_inputs,
    phases,
)
from optimum_htp.onnxfile import OnnxModel, check_sound
from optimum_htp.package import HtpFile, HtpPackage, as_package, checked_output, tagged_file
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.sensitivity.budget import Budget, check_metric
from optimum_htp.verbs.sensitivity.building import Builder, Built, selected, write_package
from optimum_htp.verbs.sensitivity.judging import Judge
from optimum_htp.verbs.sensitivity.quantizers.modes import QUANTIZERS
from optimum_htp.verbs.sensitivity.quantizers.quantizer import Quantizer, QuantizerOptions
from optimum_htp.verbs.sensitivity.ranking import Ranking, Samples, grouped, ranked
from optimum_htp.verbs.sensitivity.report import FileSensitivity, SensitivityReport
from optimum_htp.verbs.sensitivity.switchboard import Switchboard
from optimum_htp.verbs.sensitivity.working_copy import WorkingCopy, working_copy

_WHAT = {
    "int4": ": it takes a MatMul whose second input is stored",
    "dynamic": ": it takes MatMul, Gemm, Conv, Gather and LSTM whose weights are stored",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is asked for."""

    quantizer: Quantizer
    metric: str
    budget: Budget | None
    leave: int | None
    by: str
    write: bool
    threads: int | None


def sensitivity(
    package: str | Path | HtpPackage,
    *,
    mode: str = "dynamic",
    inputs: str | Path | Sequence[str | Path] | None = None,
    batch_size: int | None = None,
    sequence_length: int | None = None,
    height: int | None = None,
    width: int | None = None,
    dims: Mapping[str, int] | None = None,
    metric: str | None = None,
    budget: str | float | None = None,
    leave: int | None = None,
    by: str = "modules",
    output: str | Path | None = None,
    overwrite: bool = False,
    file: str | None = None,
    per_channel: bool = False,
    reduce_range: bool = False,
    block_size: int | None = None,
    operators: Sequence[str] | None = None,
    threads: int | None = None,
    timeout: float | None = None,
    max_memory_bytes: int | None = None,
) -> SensitivityReport:
    """Measures what quantizing each module costs, and quantizes the package within a budget.

    Args:
        package: A package in float32, or the path of one or of an ONNX file. It is only read.
        mode: ONNX Runtime's `"dynamic"` or `"static"` quantization to int8, `"int4"` for weights in blocks
            (`MatMulNBits`), or `"fp16"`.
        inputs: .npz files with inputs of the one file that is measured: a sample each. `"static"` takes its ranges from
            them, too. None makes samples of random numbers, which say little of how good the model is for real ones.
        batch_size: Examples at once; None means a usual size, as for the next ones.
        sequence_length: Tokens of each.
        height: Pixels.
        width: Pixels.
        dims: Sizes of other axes of the inputs, by their names.
        metric: What modules are sorted by: `"sqnr"` (None means that), `"cosine"`, `"relative"`, `"top1"`.
        budget: What the quantized model has to reach: `"30dB"`, with the metric `"cosine"` 0.999, `"relative"` `"1%"`,
            `"top1"` `"99%"`.
        leave: Leave so many of the worst modules in float32, instead of a budget.
        by: What is to be as little as can be in float32: the number of `"modules"`, or the `"size"` of their weights.
            They are sorted by the metric, or by noise for each byte.
        output: Where to write the quantized package: a directory for a package, a file for a file. None writes nothing.
        overwrite: Write into a directory or file that exists.
        file: The files of the package to quantize, globs allowed; None means all.
        per_channel: A scale for each channel of a weight.
        reduce_range: Weights in 7 bits.
        block_size: How many weights share a scale in `"int4"`; None means 32.
        operators: Quantize these operators only; None means all that the quantizer does.
        threads: Threads within an operator; None for ONNX Runtime's own choice.
        timeout: Seconds that ONNX Runtime may take to load the graph, and for each run; None means 600.
        max_memory_bytes: How much memory it may take for that, on Linux; None means 2 GiB and 8 times what the package has
            on the disk.

    Returns:
        The modules of each file, the worst first, and how many of them have to stay in float32. If `output` is given and
        the budget can be met, the figures are those of the files that were written; if it can't, nothing is written and
        the report says why.

    Raises:
        PackageError: A file is not tagged, or is quantized already.
        HtpError: The budget can't be read, the inputs are not what the model takes, the quantizer is not installed or
            can't quantize the file, or the output can't be written; then nothing is.

    Example:
        >>> report = sensitivity("bert_onnx", budget="30dB", output="bert_int8")   # doctest: +SKIP
        >>> report.names_for("ort-quantize")                                       # doctest: +SKIP
    """
    wish = _wish(mode, metric, budget, leave, by, per_channel, reduce_range, block_size, operators, output, threads)
    paths = [inputs] if isinstance(inputs, (str, Path)) else list(inputs or ())
    sizes = InputSizes(batch_size, sequence_length, height, width, dims or {})
    check_source_of_sizes(sizes, ", ".join(map(str, paths)))
    opened = as_package(package)
    opened.require_unpacked()
    if output is not None and checked_output(opened.path, output, overwrite=overwrite) is None:
        raise HtpError(f"{output}: the package is only read; give another path")
    if output is None and overwrite:
        raise HtpError("--overwrite is for --output (output=): without it nothing is written")
    files = opened.matching(file)
    skipped = {
        name: problem for name, each in files.items() if (problem := _problem(each, wish.quantizer)) is not None
    }
    chosen = {name: each for name, each in files.items() if name not in skipped}
    if not chosen:
        raise PackageError("; ".join(f"{files[name].path}: {problem}" for name, problem in skipped.items()))
    if paths and len(chosen) > 1:
        raise HtpError(
            f"{opened.path}: the inputs are those of one file, and there are {', '.join(chosen)}: choose it (--file)"
        )
    check_axes([each.model for each in chosen.values()], sizes, where=str(opened.path))
    tagged = {name: tagged_file(each, package=opened) for name, each in chosen.items()}
    reports: list[FileSensitivity] = []
    nothing: dict[str, str] = {}
    built: dict[str, TaggedGraph] = {}
    with graph_limits((opened,), timeout_s=timeout, max_memory_bytes=max_memory_bytes), ExitStack() as stack:
        for name, each in chosen.items():
            check_sound(each.model)
            config = component_config(opened, name) or opened.config
            samples = _samples(each.model, config, paths, sizes)
            copy = stack.enter_context(working_copy(each, tagged[name]))
            target = Path(output).name if output is not None and opened.path.is_file() else each.path.name
            measured = _measured(copy, tagged[name], samples, wish, target=target, seeded=not paths)
            if measured is None:
                nothing[name] = f"--mode {mode} quantizes nothing in it{_WHAT.get(mode, '')}"
                continue
            reports.append(measured[0])
            if measured[1] is not None:
                built[name] = measured[1].graph
        if not reports:
            raise PackageError("; ".join(f"{files[name].path}: {problem}" for name, problem in nothing.items()))
        written = None
        if output is not None and len(built) == len(reports):
            written = write_package(opened, output, built, overwrite=overwrite)
    return SensitivityReport(
        package=str(opened.path),
        output=str(written) if written is not None else None,
        mode=mode,
        metric=wish.metric,
        budget=wish.budget,
        files=tuple(reports),
        skipped=skipped | nothing,
    )


def _wish(
    mode: str,
    metric: str | None,
    budget: str | float | None,
    leave: int | None,
    by: str,
    per_channel: bool,
    reduce_range: bool,
    block_size: int | None,
    operators: Sequence[str] | None,
    output: str | Path | None,
    threads: int | None,
) -> _Wish:
    """What is asked for. Raises HtpError if that is not clear, or can't be."""
    if mode not in QUANTIZERS:
        raise HtpError(f"{mode!r} is not a mode: give one of {', '.join(QUANTIZERS)}")
    check_metric(metric)
    if by not in ("modules", "size"):
        raise HtpError(f"{by!r} is nothing to sort by: give modules or size")
    if budget is not None and leave is not None:
        raise HtpError("a budget says how many modules to leave in float32: give it or --leave N (leave=)")
    if output is not None and budget is None and leave is None:
        raise HtpError("what the package has to reach is not said: give --budget 30dB (budget=) or --leave N (leave=)")
    if (per_channel or reduce_range) and mode not in ("dynamic", "static"):
        option = "--per-channel" if per_channel else "--reduce-range"
        raise HtpError(f"{option} is for --mode dynamic and static, which quantize to int8")
    if block_size is not None and mode != "int4":
        raise HtpError("--block-size is for --mode int4")
    if block_size is not None and (block_size < 16 or block_size & (block_size - 1)):
        raise HtpError(f"a block of {block_size} weights: give a power of two, 16 or more")
    if operators is not None and mode not in ("dynamic", "static"):
        raise HtpError("--operators is for --mode dynamic and static: int4 quantizes products, and fp16 converts all")
    options = QuantizerOptions(
        per_channel=per_channel,
        reduce_range=reduce_range,
        block_size=block_size or 32,
        operators=tuple(operators) if operators else None,
    )
    return _Wish(
        quantizer=QUANTIZERS[mode](options),
        metric=metric or "sqnr",
        budget=Budget.parse(budget, metric) if budget is not None else None,
        leave=leave,
        by=by,
        write=output is not None,
        threads=threads,
    )


def _problem(file: HtpFile, quantizer: Quantizer) -> str | None:
    """Why a file can't be quantized; None if it may be."""
    model = file.model
    kind = computes_in(model)
    if kind == "int8":
        found = next(node.op_type for _, node in model.nodes() if node.op_type in QUANTIZED_OPERATORS)
        return f"it is quantized already ({found}); give what it was made from, in float32"
    if kind != "float32":
        return f"it is in {kind} already; give what it was made from, in float32"
    if not quantizer.in_bodies and any(path and model.function_of(path) is None for path, _ in model.graphs()):
        return (
            f"it has branches or loops, whose nodes --mode {quantizer.mode} can't tell apart; give what it was merged from, "
            "or --mode dynamic or int4"
        )
    return None


def _samples(
    model: OnnxModel, config: Mapping[str, object] | None, paths: Sequence[str | Path], sizes: InputSizes
) -> Samples:
    if paths:
        return [load_inputs(path, model) for path in paths]
    return [
        make_inputs(model, config, sizes=sizes, phase=phase, seed=seed)
        for phase in phases(model)
        for seed in range(SAMPLES)
    ]


def _measured(
    copy: WorkingCopy, tagged: TaggedGraph, samples: Samples, wish: _Wish, *, target: str, seeded: bool
) -> tuple[FileSensitivity, Built | None] | None:
    """What quantizing the modules of a file costs, None if there are none; and the file that meets the budget, to write."""
    name = str(tagged.model.path)
    judge = Judge(copy.tagged.model, samples, metric=wish.metric)
    builder = Builder(copy, tagged, wish.quantizer, judge, samples, name=name, target=target)
    builder.expect(copy.path)
    ranking = _ranking(copy, builder, judge, samples, wish, name=name)
    if ranking is None:
        return None
    most = len(ranking.groups)
    if wish.leave is not None and wish.leave >= most:
        raise HtpError(f"{name}: {most} modules can be quantized: leave fewer than that in float32 (--leave)")
    fits = (count for count in range(most) if wish.budget is not None and wish.budget.is_met(ranking.left(count)))
    count = wish.leave if wish.leave is not None else next(fits, None)
    built = builder.build(ranking, count, wish.budget) if wish.write and count is not None else None
    figures = ranking.left(count) if count is not None else None
    problem = None
    if built is not None:
        count, figures = built.left_out, built.figures
    elif wish.budget is not None and (wish.write or count is None):
        count, figures = None, builder.last or ranking.left(most - 1)
        problem = _unmet(ranking)
    report = FileSensitivity(
        file=tagged.name,
        into=wish.quantizer.into,
        quantized=ranking.quantized,
        modules=ranking.modules,
        left_out=count,
        figures=figures,
        problem=problem,
        samples=tuple({key: tuple(array.shape) for key, array in sample.items()} for sample in samples),
        seeded=seeded,
        selection=selected(tagged, ranking, count) if count is not None else None,
    )
    return report, built


def _ranking(
    copy: WorkingCopy, builder: Builder, judge: Judge, samples: Samples, wish: _Wish, *, name: str
) -> Ranking | None:
    import onnx

    quantized = onnx.load(builder.quantize())
    source = onnx.load(copy.path, load_external_data=False)
    changes = wish.quantizer.changes(copy.tagged.model, source, quantized)
    if not changes:
        return None
    board = Switchboard(copy.tagged.model, changes, threads=wish.threads, name=name)
    return ranked(grouped(copy.tagged, changes), board, judge, samples, metric=wish.metric, by=wish.by)


def _unmet(ranking: Ranking) -> str:
    """Why a budget can't be met."""
    last = ranking.modules[-1]
    name = last.path or "the root"
    if len(ranking.modules) == 1:
        return f"{name} is all that could be left in float32, and then nothing is quantized"
    return f"not even with all but {name} left in float32"
