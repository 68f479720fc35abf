"""Where the time goes: the time of each module in the session that users really run.

ONNX Runtime's profiler times the kernels of the graph that ONNX Runtime made for itself: fused, folded, laid out anew.
That graph is written out, the tags are projected onto it (`tagging.projection`), and the events are joined to its
nodes by name (`joiner`). `runs` measures, `sums` adds up, `report` is what comes out.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy import NodeTags
from optimum_htp.models import (
    DEFAULT_PROVIDER,
    InputSizes,
    check_provider,
    component_config,
    graph_inputs,
    load_inputs,
    make_inputs,
    phases,
)
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package import HtpFile, HtpPackage, tagged_file
from optimum_htp.tagging import TaggedGraph, project
from optimum_htp.verbs.profile.delta import side_by_side
from optimum_htp.verbs.profile.joiner import Joiner
from optimum_htp.verbs.profile.report import (
    CallTime,
    FusedTime,
    GroupTime,
    Kernel,
    Microseconds,
    ModuleDelta,
    ModuleTime,
    OpTime,
    PhaseDelta,
    PhaseProfile,
    ProfileDelta,
    ProfileReport,
    by_class,
    by_op,
)
from optimum_htp.verbs.profile.runs import Measured, measure
from optimum_htp.verbs.profile.sums import PhaseSums


if TYPE_CHECKING:
    import numpy as np


_ON_ACCELERATORS = (
    "times are those of ONNX Runtime's profiler on the host: what an accelerator does after a kernel was launched is "
    "not in them"
)
_NOT_WRITTEN = "{}: the provider can't write the graph that it made: nodes are known by their original names only"


def profile(
    path: str | Path,
    *,
    sizes: InputSizes | None = None,
    inputs: str | Path | None = None,
    file: str | None = None,
    provider: str = DEFAULT_PROVIDER,
    threads: int | None = None,
    runs: int = 10,
    warmup: int = 3,
    origin: str | Path | None = None,
) -> ProfileReport:
    """Measures how long each module of a package takes in ONNX Runtime, with its default optimizations.

    Args:
        path: The package's directory, or an ONNX file.
        sizes: The sizes of the inputs, whose values are arbitrary; None means usual ones.
        inputs: An .npz file with the inputs of the one file that is run.
        file: Which ONNX files to run, a name or a glob; None means those that generation uses (of a decoder that is
            there in several forms, the merged one).
        provider: ONNX Runtime's execution provider.
        threads: Threads within an operator; None for ONNX Runtime's own choice.
        runs: Runs that count, of each phase.
        warmup: Runs before those.
        origin: A tagged package that this one was made from, where its own files don't tell what their nodes are.

    Raises:
        PackageError: There is no such package or file in it, or its nodes are not tagged.
        HtpError: The provider is not installed, or the inputs are not what the model takes.

    Example:
        >>> report = profile("bert_onnx")                                                   # doctest: +SKIP
        >>> max(report.phases[0].modules, key=lambda module: module.self_time.median).path  # doctest: +SKIP
        'bert.encoder.layer.0.intermediate.dense'
    """
    import onnxruntime

    if runs < 1 or warmup < 0:
        raise HtpError(f"{runs} runs after {warmup} to warm up: give one run at least, and 0 or more before it")
    provider = check_provider(provider)
    package = HtpPackage(path)
    chosen = _chosen(package, file)
    if inputs is not None and len(chosen) > 1:
        names = ", ".join(each.name for each in chosen)
        raise PackageError(
            f"{package.path}: {inputs} can be the inputs of one file only; name it with --file: {names}"
        )
    from_package = HtpPackage(origin) if origin is not None else None
    tagged = [tagged_file(each, package=package, reference=from_package) for each in chosen]
    config = package.config or (from_package.config if from_package is not None else None)
    notes = [] if provider == DEFAULT_PROVIDER else [_ON_ACCELERATORS]
    found: list[PhaseProfile] = []
    for each in tagged:
        given = _given(each.model, component_config(package, each.name) or config, sizes, inputs)
        measured = measure(
            each.model, list(given.values()), provider=provider, threads=threads, warmup=warmup, runs=runs
        )
        if measured.optimized is None:
            notes.append(_NOT_WRITTEN.format(each.name))
        found += _reports(each, given, measured)
    return ProfileReport(
        str(package.path), provider, threads, warmup, runs, str(onnxruntime.__version__), tuple(found), tuple(notes)
    )


def compare_profiles(left: ProfileReport, right: ProfileReport) -> ProfileDelta:
    """Two profiles side by side, by module: of a package before and after quantization, say.

    Raises:
        HtpError: They have no phase in common.
    """
    return side_by_side(left, right)


def _chosen(package: HtpPackage, pattern: str | None) -> list[HtpFile]:
    files = package.files
    if pattern is not None:
        chosen = [file for name, file in files.items() if name == pattern or fnmatchcase(name, pattern)]
        if not chosen:
            raise PackageError(f"{package.path}: no ONNX file is called {pattern!r}; there is {', '.join(files)}")
        return chosen
    merged = any("decoder_model_merged" in name for name in files)
    parts = ("decoder_model", "decoder_with_past_model")
    return [
        file
        for name, file in files.items()
        if not (merged and "merged" not in name and Path(name).name.startswith(parts))
    ]


def _given(
    model: OnnxModel, config: dict[str, Any] | None, sizes: InputSizes | None, inputs: str | Path | None
) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """The inputs of each phase."""
    if inputs is None:
        return {phase: make_inputs(model, config, sizes=sizes, phase=phase) for phase in phases(model)}
    given = load_inputs(inputs, model)
    possible = phases(model)
    past = [given[value.name] for value in graph_inputs(model) if value.name.startswith("past_key_values")]
    decodes = bool(given["use_cache_branch"].all()) if "use_cache_branch" in given else any(map(_size, past))
    return {possible[-1] if decodes else possible[0]: given}


def _size(array: np.ndarray[Any, Any]) -> int:
    return int(array.size)


def _reports(
    tagged: TaggedGraph, given: dict[str, dict[str, np.ndarray[Any, Any]]], measured: Measured
) -> Iterable[PhaseProfile]:
    tags: NodeTags = tagged.tags
    if measured.optimized is not None:
        tags = project(tagged.sources or (tagged,), measured.optimized).tags
    joiner = Joiner(measured.optimized or tagged.model)
    for (phase, inputs), runs in zip(given.items(), measured.runs, strict=True):
        shapes = {name: tuple(array.shape) for name, array in inputs.items()}
        yield PhaseSums(tagged, joiner, tags, runs).report(tagged.name, phase, shapes)


__all__ = [
    "CallTime",
    "FusedTime",
    "GroupTime",
    "Kernel",
    "Microseconds",
    "ModuleDelta",
    "ModuleTime",
    "OpTime",
    "PhaseDelta",
    "PhaseProfile",
    "ProfileDelta",
    "ProfileReport",
    "by_class",
    "by_op",
    "compare_profiles",
    "profile",
]
