"""How large the numbers are that flow through each module, and what a narrower type would lose of them.

The graph runs in parts (`run_in_parts`), each of its tensors is counted (`tally`), the sums inside operators are bounded
(`partial_sums`), and what does not fit is judged by what reads it (`consequences`). `phase_ranges` puts that together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy import NodeKey
from optimum_htp.models import (
    DEFAULT_PROVIDER,
    SAMPLES,
    Array,
    FlatGraph,
    InputSizes,
    Prober,
    check_axes,
    check_inputs,
    check_provider,
    check_source_of_sizes,
    component_config,
    graph_inputs,
    graph_limits,
    make_inputs,
    part_inputs,
    part_phases,
    phase_of,
    phases,
    read_arrays,
)
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package import CutFrom, HtpFile, HtpPackage, as_package, cut_from, tagged_file
from optimum_htp.selections import Selection, selection_of
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.ranges.number_format import Question
from optimum_htp.verbs.ranges.phase_ranges import PhaseMeasure
from optimum_htp.verbs.ranges.report import PhaseRanges, RangesReport

DEFAULT_MAX_MEMORY_BYTES = 1 << 30

_LOST = "run on made-up inputs: {}"


@dataclass(frozen=True, slots=True)
class _Source:
    """The file that a part was cut from."""

    record: CutFrom
    package: HtpPackage
    file: HtpFile


def ranges(
    package: str | Path | HtpPackage,
    *,
    inputs: str | Path | Sequence[str | Path] | None = None,
    batch_size: int | None = None,
    sequence_length: int | None = None,
    height: int | None = None,
    width: int | None = None,
    dims: Mapping[str, int] | None = None,
    dtype: str | None = None,
    accumulate: str = "float32",
    headroom: float = 1.0,
    file: str | None = None,
    max_memory_bytes: int = DEFAULT_MAX_MEMORY_BYTES,
    provider: str = DEFAULT_PROVIDER,
    threads: int | None = None,
    timeout: float | None = None,
) -> RangesReport:
    """Measures the numbers that each module call makes, and names the modules whose numbers a narrower type can't hold.

    It says that before anything is converted. What it says is true of the inputs that it was run on: give real ones.

    Args:
        package: A package, or the path of one or of an ONNX file. It is only read.
        inputs: .npz files with inputs of the one file that is run: a sample each. None makes two samples.
        batch_size: Examples at once; None means a usual size, as for the next ones.
        sequence_length: Tokens of each.
        height: Pixels.
        width: Pixels.
        dims: Sizes of other axes of the inputs, by their names.
        dtype: What to hold the numbers against: `"fp16"`, `"int8"`, or nothing.
        accumulate: What kernels add in, for fp16: with `"float16"` a module is named too if a sum inside one of its
            operators may pass the range, in whatever order the products are added.
        headroom: How many times larger than the numbers that were seen those may be that have to fit, for fp16.
        file: The ONNX files to run, globs allowed; None means all.
        max_memory_bytes: How much memory the tensors that are held at once may take.
        provider: ONNX Runtime's execution provider.
        threads: Threads within an operator; None for ONNX Runtime's own choice.
        timeout: Seconds that ONNX Runtime may take to load a part of the graph, and for each run; None means 600.

    Raises:
        PackageError: There is no such package or file in it, or its nodes are not tagged.
        HtpError: The provider is not installed, the inputs are not what the model takes, or ONNX Runtime takes too long or
            too much memory.

    Example:
        >>> report = ranges("whisper_onnx", dtype="fp16", inputs="speech.npz")    # doctest: +SKIP
        >>> report.modules                                                        # doctest: +SKIP
        ('model.encoder.layers.1.fc2', 'model.encoder.layers.1')
    """
    question = Question(dtype, accumulate, headroom)
    question.check()
    sizes = InputSizes(batch_size, sequence_length, height, width, dims or {})
    check_source_of_sizes(sizes, inputs)
    provider = check_provider(provider)
    package = as_package(package)
    chosen = package.matching(file)
    given = _paths(inputs)
    if given and len(chosen) > 1:
        raise PackageError(
            f"{package.path}: {given[0]} can be the inputs of one file only; name it with --file: {', '.join(chosen)}"
        )
    sources = [source for each in chosen.values() if (source := _source(each.model)[0]) is not None]
    models = [each.model for each in (*chosen.values(), *(source.file for source in sources))]
    check_axes(models, sizes, where=str(package.path))
    measured: list[PhaseRanges] = []
    selected = []
    refused: dict[str, HtpError] = {}
    with graph_limits([package], provider=provider, timeout_s=timeout, held_bytes=2 * max_memory_bytes):
        for name, each in chosen.items():
            nodes: dict[NodeKey, None] = {}
            try:
                tagged = tagged_file(each, package=package)
                samples, note = _samples(tagged.model, package, name, sizes, given)
                for phase, arrays in samples.items():
                    found, bad = _measure(tagged, phase, arrays, question, max_memory_bytes, provider, threads, note)
                    measured.append(found)
                    nodes |= bad
            except HtpError as error:
                refused[name] = error
                continue
            if nodes:
                tags = {tagged.tags[key].tag for key in nodes if key in tagged.tags}
                selected.append(selection_of(tagged, dict.fromkeys(nodes, False), tags))
    if refused and not measured:
        raise next(iter(refused.values()))
    report_of = tuple(measured)
    modules = tuple(dict.fromkeys(call.path for phase in report_of for call in phase.problems))
    return RangesReport(
        package=str(package.path),
        dtype=dtype,
        accumulate=accumulate,
        headroom=headroom,
        given=tuple(map(str, given)),
        phases=report_of,
        not_run={name: str(error).removeprefix(f"{chosen[name].path}: ") for name, error in refused.items()},
        selection=Selection(str(package.path), modules, tuple(selected)),
    )


def _measure(
    tagged: TaggedGraph,
    phase: str,
    samples: Sequence[Mapping[str, Array]],
    question: Question,
    max_bytes: int,
    provider: str,
    threads: int | None,
    notes: tuple[str, ...],
) -> tuple[PhaseRanges, Mapping[NodeKey, None]]:
    is_merged = any(value.name == "use_cache_branch" for value in graph_inputs(tagged.model))
    flat = FlatGraph(tagged.model, tagged.tags, branch=phase == "decode" if is_merged else None)
    with Prober(tagged.model, flat, provider=provider, threads=threads) as prober:
        measure = PhaseMeasure(tagged, prober, question, notes=notes, max_bytes=max_bytes)
        return measure.measure(samples, phase=phase), measure.nodes


def _samples(
    model: OnnxModel, package: HtpPackage, name: str, sizes: InputSizes, given: Sequence[Path]
) -> tuple[dict[str, list[dict[str, Array]]], tuple[str, ...]]:
    """The samples of each phase of a file; and where they are from, if that is not obvious."""
    source, note = _source(model)
    if source is not None:
        origin = source.file.model
        possible = part_phases(source.record, origin)
        config = component_config(source.package, source.file.name) or source.package.config
        note = f"run on what {source.file.path} gives it"
    else:
        origin, possible = model, phases(model)
        config = component_config(package, name) or package.config
    by_phase: dict[str, list[dict[str, Array]]] = {}
    for path in given:
        arrays = read_arrays(path)
        is_own = source is None or arrays.keys() != {value.name for value in graph_inputs(origin)}
        check_inputs(arrays, model if is_own else origin, where=str(path))
        phase = phase_of(arrays, possible)
        if source is not None and not is_own:
            arrays = part_inputs(model, source.record, origin, config, phase=phase, given=arrays)
        by_phase.setdefault(phase, []).append(arrays)
    if given:
        return by_phase, ()
    for phase in possible:
        for seed in range(SAMPLES):
            arrays = make_inputs(origin, config, sizes=sizes, phase=phase, varied=True, seed=seed)
            if source is not None:
                arrays = part_inputs(model, source.record, origin, config, phase=phase, given=arrays)
            by_phase.setdefault(phase, []).append(arrays)
    return by_phase, (note,) if note else ()


def _source(model: OnnxModel) -> tuple[_Source | None, str]:
    """What a part was cut from, and if that is not to be had, why; None for what is no part."""
    record = cut_from(model)
    if record is None:
        return None, ""
    try:
        return _Source(record, *record.source(model.path)), ""
    except PackageError as error:
        return None, _LOST.format(str(error).removeprefix(f"{model.path}: "))


def _paths(inputs: str | Path | Sequence[str | Path] | None) -> tuple[Path, ...]:
    if inputs is None:
        return ()
    return tuple(map(Path, [inputs] if isinstance(inputs, (str, Path)) else inputs))
