"""Where the time goes: how long each module takes in the session that users really run.

ONNX Runtime's profiler times the kernels of the graph that ONNX Runtime made for itself: fused, folded, in other layouts.
That graph is written out, the tags are projected onto it (`tagging.projection`), and the events are joined to its
nodes by name (`joiner`). `runs` measures, `sums` adds up, and the results are in `times` and `report`.
`cli/views/profile.py` prints them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.models import (
    DEFAULT_PROVIDER,
    InputSizes,
    check_provider,
    check_source_of_sizes,
    graph_limits,
)
from optimum_htp.package import (
    HtpFile,
    HtpPackage,
    as_package,
    check_renamed,
    fingerprint,
    inlined,
    tagged_file,
    traits_of,
)
from optimum_htp.tagging import TaggedGraph, project
from optimum_htp.verbs.profile.chosen_inputs import choose_inputs
from optimum_htp.verbs.profile.compiled import compiled_kernels
from optimum_htp.verbs.profile.facts import Facts
from optimum_htp.verbs.profile.joiner import Joiner, nest
from optimum_htp.verbs.profile.report import ProfileReport
from optimum_htp.verbs.profile.runs import Inputs, Measured, measure
from optimum_htp.verbs.profile.sums import PhaseSums
from optimum_htp.verbs.profile.times import PhaseProfile

_ON_ACCELERATORS = (
    "times are those of ONNX Runtime's profiler on the host: what an accelerator does after a kernel was launched is "
    "not in them"
)
_NOT_WRITTEN = "{}: the provider can't write the graph that it made: nodes are known by their original names only"


def profile(
    package: str | Path | HtpPackage,
    *,
    batch_size: int | None = None,
    sequence_length: int | None = None,
    height: int | None = None,
    width: int | None = None,
    dims: Mapping[str, int] | None = None,
    inputs: str | Path | None = None,
    file: str | None = None,
    provider: str = DEFAULT_PROVIDER,
    threads: int | None = None,
    runs: int = 10,
    warmup: int = 3,
    reference: str | Path | HtpPackage | None = None,
    renamed: Mapping[str, str] | None = None,
    timeout: float | None = None,
    max_memory_bytes: int | None = None,
) -> ProfileReport:
    """Measures how long each module of a package takes in ONNX Runtime, with its default optimizations.

    The inputs are made up, and sizes that are not given are usual ones. To see two packages side by side, profile both:
    `profile(package).compared_with(profile(other))`.

    Args:
        package: A package, or the path of one or of an ONNX file.
        batch_size: Examples at once.
        sequence_length: Tokens of each: of the text, or in decode steps of what came before.
        height: Of images, in pixels.
        width: Of images, in pixels.
        dims: Sizes of other axes, by the names that the graph has for them.
        inputs: An .npz file with the inputs of the one file that is run.
        file: The ONNX files to run, globs allowed; None means those that generation uses (of a decoder that is there
            in several forms, the merged one).
        provider: ONNX Runtime's execution provider, `"cuda"` for short.
        threads: Threads within an operator; None for ONNX Runtime's own choice.
        runs: Runs that count, of each phase.
        warmup: Runs before those.
        reference: The tagged package that this one was made from, or cut from: its tags are projected onto files whose
            own tags are lost, and an extracted part is run on what it gives it. It is not profiled itself. `inputs` may
            have the names that its inputs have.
        renamed: Inputs of the package that the reference calls otherwise, and how it calls them, where that is not found
            by itself.
        timeout: Seconds that ONNX Runtime may take to load a file, and for each run; None means 600.
        max_memory_bytes: Memory that it may take for that, on Linux; None means 2 GiB and 8 times what the model has on
            the disk.

    Raises:
        PackageError: There is no such package or file in it, or its nodes are not tagged.
        HtpError: The provider is not installed, the inputs are not what the model takes, or it takes too long or too
            much memory.

    Example:
        >>> report = profile("bert_onnx", batch_size=8)                                     # doctest: +SKIP
        >>> max(report.phases[0].modules, key=lambda module: module.self_time.median).path  # doctest: +SKIP
        'bert.encoder.layer.0.intermediate.dense'
    """
    sizes = InputSizes(batch_size, sequence_length, height, width, dims or {})
    check_source_of_sizes(sizes, inputs)
    if runs < 1 or warmup < 0:
        raise HtpError(f"{runs} runs after {warmup} to warm up: give at least one run, and 0 or more before it")
    package = as_package(package)  # before anything is imported that takes its time
    files = _files(package, file)
    if inputs is not None and len(files) > 1:
        names = ", ".join(match.name for match in files)
        raise PackageError(
            f"{package.path}: {inputs} can be the inputs of one file only; name it with --file: {names}"
        )
    origin = as_package(reference) if reference is not None else None
    tagged = [tagged_file(match, package=package, reference=origin) for match in files]
    if renamed and (inputs is None or origin is None):
        raise HtpError(
            "--map tells how --reference calls what is in --inputs: give both (reference=, inputs=) or none"
        )
    check_renamed(renamed or {}, (graph.model for graph in tagged))
    provider = check_provider(provider)
    import onnxruntime

    graphs = [package] if origin is None else [package, origin]
    with graph_limits(graphs, provider=provider, timeout_s=timeout, max_memory_bytes=max_memory_bytes):
        chosen = choose_inputs(tagged, package, origin=origin, sizes=sizes, inputs=inputs, renamed=renamed)
        notes = [] if provider == DEFAULT_PROVIDER else [_ON_ACCELERATORS]
        notes += chosen.notes
        profiles: list[PhaseProfile] = []
        for whole, by_phase in zip(tagged, chosen.by_phase, strict=True):
            # ONNX Runtime inlines functions first of all, and forgets whose each of their nodes is.
            with inlined(whole, package=package.directory) as graph:
                measured = measure(
                    graph.model, list(by_phase.values()), provider=provider, threads=threads, warmup=warmup, runs=runs
                )
                if measured.optimized is None:
                    notes.append(_NOT_WRITTEN.format(graph.name))
                profiles += _profiles(graph, by_phase, measured, provider)
    return ProfileReport(
        package=str(package.path),
        provider=provider,
        threads=threads,
        warmup=warmup,
        runs=runs,
        onnxruntime=str(onnxruntime.__version__),
        phases=tuple(profiles),
        notes=tuple(notes),
        fingerprints={match.name: fingerprint(match) for match in files},
        _traits=traits_of(files),
    )


def _files(package: HtpPackage, pattern: str | None) -> list[HtpFile]:
    files = package.matching(pattern)
    merged = pattern is None and any("decoder_model_merged" in name for name in files)
    parts = ("decoder_model", "decoder_with_past_model")
    return [
        file
        for name, file in files.items()
        if not (merged and "merged" not in name and Path(name).name.startswith(parts))
    ]


def _profiles(
    tagged: TaggedGraph, by_phase: Mapping[str, Inputs], measured: Measured, provider: str
) -> Iterator[PhaseProfile]:
    """The profile of each phase of a file."""
    optimized = measured.optimized
    tags = tagged.tags if optimized is None else project(tagged.sources or (tagged,), optimized).tags
    model = optimized or tagged.model
    joiner, facts = Joiner(model), Facts(model, measured.attributes, tagged.model)
    for (phase, inputs), runs, first in zip(by_phase.items(), measured.runs, measured.first, strict=True):
        shapes = {name: tuple(array.shape) for name, array in inputs.items()}
        compiled = {}
        if optimized is None:
            compiled = compiled_kernels(joiner.join(nest(first.events)), measured.assigned, tagged)
        sums = PhaseSums(tagged, joiner, tags, runs, compiled)
        sums.add_work(first, facts, provider=provider)
        yield sums.report(tagged.name, phase, shapes)
