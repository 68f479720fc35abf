"""Where the time goes: how long each module takes in the runtime that users really run.

A runtime times the kernels of the graph that it made for itself: fused, folded, in other layouts. `runtimes` has what each
says of them and finds the modules of their nodes; `sums` adds up, and the results are in `times` and `report`.
`cli/views/profile.py` prints them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.models import InputSizes, check_source_of_sizes, graph_limits
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
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.profile.chosen_inputs import ChosenInputs, choose_inputs
from optimum_htp.verbs.profile.report import ProfileReport
from optimum_htp.verbs.profile.runtimes.onnxruntime import OnnxRuntime
from optimum_htp.verbs.profile.runtimes.openvino import OpenVino
from optimum_htp.verbs.profile.runtimes.ran import Runtime
from optimum_htp.verbs.profile.runtimes.tensorrt import TensorRt
from optimum_htp.verbs.profile.sums import phase_profile
from optimum_htp.verbs.profile.times import PhaseProfile

_RUNS, _WARMUP = 10, 3
RUNTIMES = (OnnxRuntime.name, OpenVino.name, TensorRt.name)
"""What `runtime` may be."""


def profile(
    package: str | Path | HtpPackage,
    *,
    batch_size: int | None = None,
    sequence_length: int | None = None,
    height: int | None = None,
    width: int | None = None,
    dims: Mapping[str, int] | None = None,
    inputs: str | Path | None = None,
    file: str | Sequence[str] | None = None,
    runtime: str | None = None,
    layer_info: str | Path | None = None,
    layer_profile: str | Path | None = None,
    provider: str | None = None,
    threads: int | None = None,
    runs: int | None = None,
    warmup: int | None = None,
    reference: str | Path | HtpPackage | None = None,
    renamed: Mapping[str, str] | None = None,
    timeout: float | None = None,
    max_memory_bytes: int | None = None,
) -> ProfileReport:
    """Measures how long each module of a package takes in a runtime, with its default optimizations.

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
        file: The ONNX files to run, of one name or several, globs allowed; None means those that generation uses (of a decoder that is there
            in several forms, the merged one; for OpenVINO, which can't run that, the others).
        runtime: `onnxruntime`, `openvino` (on the CPU) or `tensorrt`, which is not run; None means `tensorrt` with
            `layer_info` or `layer_profile`, else `onnxruntime`.
        layer_info: The layers of a TensorRT engine, as `trtexec --exportLayerInfo` writes them.
        layer_profile: Their times, as `trtexec --exportProfile` writes them.
        provider: ONNX Runtime's execution provider, `"cuda"` for short; None means the CPU's.
        threads: Threads within an operator; None for the runtime's own choice.
        runs: Runs that count, of each phase; None means 10.
        warmup: Runs before those; None means 3.
        reference: The tagged package that this one was made from, or cut from: its tags are projected onto files whose
            own tags are lost, and an extracted part is run on what it gives it. It is not profiled itself. `inputs` may
            have the names that its inputs have.
        renamed: Inputs of the package that the reference calls otherwise, and how it calls them, where that is not found
            by itself.
        timeout: Seconds that the runtime may take to load a file, and for each run; None means 600.
        max_memory_bytes: Memory that ONNX Runtime may take for that, on Linux; None means 2 GiB and 8 times what the model
            has on the disk.

    Raises:
        PackageError: There is no such package or file in it, or its nodes are not tagged.
        HtpError: The runtime or the provider is not installed, an option can't act on the runtime, the files of an engine are
            of another model, the inputs are not what the model takes, or it takes too long or too much memory.

    Example:
        >>> report = profile("bert_onnx", batch_size=8)                                     # doctest: +SKIP
        >>> max(report.phases[0].modules, key=lambda module: module.self_time.median).path  # doctest: +SKIP
        'bert.encoder.layer.0.intermediate.dense'
    """
    sizes = InputSizes(batch_size, sequence_length, height, width, dims or {})
    name = _runtime_name(runtime, layer_info, layer_profile)
    _refuse_idle(
        name,
        {
            **{
                "provider": provider,
                "max-memory": max_memory_bytes,
                "inputs": inputs,
                "threads": threads,
                "runs": runs,
            },
            **{"warmup": warmup, "timeout": timeout, "map": renamed or None},
            "sizes of inputs": None if sizes == InputSizes() else sizes,
        },
    )
    check_source_of_sizes(sizes, inputs)
    runs, warmup = _RUNS if runs is None else runs, _WARMUP if warmup is None else warmup
    if runs < 1 or warmup < 0:
        raise HtpError(f"{runs} runs after {warmup} to warm up: give at least one run, and 0 or more before it")
    package = as_package(package)  # before anything is imported that takes its time
    files = _files(package, file, merged=name != OpenVino.name)  # which takes no `If` of tensors without a known rank
    if len(files) > 1 and (inputs is not None or name == TensorRt.name):
        what = f"{inputs} can be the inputs" if inputs is not None else f"{layer_info} can be the engine"
        raise PackageError(
            f"{package.path}: {what} of one file only; name it with --file: {', '.join(match.name for match in files)}"
        )
    origin = as_package(reference) if reference is not None else None
    tagged = [tagged_file(match, package=package, reference=origin) for match in files]
    if renamed and (inputs is None or origin is None):
        raise HtpError(
            "--map tells how --reference calls what is in --inputs: give both (reference=, inputs=) or none"
        )
    check_renamed(renamed or {}, (graph.model for graph in tagged))
    if name == TensorRt.name:
        chosen: Runtime = TensorRt(layer_info=layer_info, layer_profile=layer_profile)
        profiles = [phase_profile(graph, ran) for graph in tagged for ran in chosen.run(graph, {})]
    else:
        if name == OpenVino.name:
            chosen = OpenVino(threads=threads, warmup=warmup, runs=runs)
        else:
            chosen = OnnxRuntime(provider=provider, threads=threads, warmup=warmup, runs=runs)
        graphs = [package] if origin is None else [package, origin]
        with graph_limits(graphs, provider=chosen.device, timeout_s=timeout, max_memory_bytes=max_memory_bytes):
            run_on = choose_inputs(tagged, package, origin=origin, sizes=sizes, inputs=inputs, renamed=renamed)
            chosen.notes += run_on.notes
            profiles = list(_profiles(chosen, package, tagged, run_on))
    return ProfileReport(
        package=str(package.path),
        runtime=name,
        version=chosen.version,
        provider=chosen.device,
        threads=chosen.threads,
        warmup=chosen.warmup,
        runs=chosen.runs,
        average=chosen.average,
        phases=tuple(profiles),
        notes=tuple(chosen.notes),
        fingerprints={match.name: fingerprint(match) for match in files},
        _traits=traits_of(files),
    )


def _profiles(
    runtime: Runtime, package: HtpPackage, tagged: Sequence[TaggedGraph], chosen: ChosenInputs
) -> Iterator[PhaseProfile]:
    """The profiles of files on their inputs."""
    for whole, by_phase in zip(tagged, chosen.by_phase, strict=True):
        # Runtimes inline functions first of all, and forget whose each of their nodes is.
        with inlined(whole, package=package.directory) as graph:
            yield from (phase_profile(graph, ran) for ran in runtime.run(graph, by_phase))


def _runtime_name(runtime: str | None, layer_info: str | Path | None, layer_profile: str | Path | None) -> str:
    """Which runtime is meant. Raises HtpError if there is none of that name, or the files of another are given."""
    has_files = layer_info is not None or layer_profile is not None
    if runtime is None:
        return TensorRt.name if has_files else OnnxRuntime.name
    if runtime not in RUNTIMES:
        raise HtpError(f"the runtime {runtime!r} is not one of {', '.join(RUNTIMES)}")
    if has_files and runtime != TensorRt.name:
        raise HtpError(
            f"--layer-info and --profile are TensorRT's, and --runtime {runtime} takes none: leave out one of these"
        )
    return runtime


_IDLE: dict[str, dict[str, str]] = {
    OnnxRuntime.name: {},
    OpenVino.name: {
        "provider": "it is ONNX Runtime's",
        "max-memory": "OpenVINO ends the process where it may have no more",
    },
}
"""By a runtime the options that can't act on it, and why."""


def _refuse_idle(runtime: str, given: Mapping[str, object]) -> None:
    """Raises HtpError if an option was given that can't act on a runtime: none of these acts on an engine that ran before."""
    for option, value in given.items():
        why = _IDLE[runtime].get(option) if runtime in _IDLE else "its engine was run before"
        if value is not None and why is not None:
            named = option if " " in option else f"--{option}"
            raise HtpError(f"{named}: it does nothing for --runtime {runtime}: {why}")


def _files(package: HtpPackage, names: str | Sequence[str] | None, *, merged: bool) -> list[HtpFile]:
    """The files to run: where nobody says which, of a decoder in several forms the merged one, or those it was merged from."""
    if names is not None and not isinstance(names, str):
        chosen = {name for pattern in names for name in package.matching(pattern)}
        return [file for name, file in package.files.items() if name in chosen]
    files = package.matching(names)
    parts = ("decoder_model", "decoder_with_past_model")

    def is_merged(name: str) -> bool:
        return "decoder_model_merged" in name

    def is_part(name: str) -> bool:
        return not is_merged(name) and Path(name).name.startswith(parts)

    if names is not None or not any(map(is_merged, files)) or not any(map(is_part, files)):
        return list(files.values())
    return [file for name, file in files.items() if not (is_part(name) if merged else is_merged(name))]
