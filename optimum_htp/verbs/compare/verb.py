"""`compare`: where an ONNX model differs from its reference, the source model in PyTorch or another package.

For each call of a module the tensors at its borders are found (`ports`) in the graph, and in the reference
(`torch_reference` or `package_reference`). Cut there (`cut_graph`), the graph shows in one session what each module adds itself
(`own_errors`); held against what its arithmetic costs (`expected`), and against what the outputs are with its error taken
off, that says who is to blame (`verdict`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.models import (
    DEFAULT_PROVIDER,
    HALF_NOTE,
    SAMPLES,
    Array,
    FlatGraph,
    InputSizes,
    Part,
    Prober,
    SourceModel,
    check_axes,
    check_model_name,
    check_provider,
    check_source_of_sizes,
    check_task,
    component_config,
    default_tolerance,
    find_parts,
    fixed_sizes,
    graph_inputs,
    graph_limits,
    load_components,
    load_inputs,
    load_source_of,
    make_inputs,
    names_in_torch,
    paired_inputs,
    paired_outputs,
    part_inputs,
    part_phases,
    phase_of,
    phases,
)
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package import (
    CutFrom,
    HtpFile,
    HtpPackage,
    ValuePairs,
    as_package,
    check_renamed,
    cut_from,
    fingerprint,
    inlined,
    partners,
    tagged_file,
    traits_of,
    whole_package,
)
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.compare.graph_comparison import compare_graph
from optimum_htp.verbs.compare.inputs_of_both import shared_inputs, shared_phases
from optimum_htp.verbs.compare.package_reference import PackageReference
from optimum_htp.verbs.compare.reference import Reference
from optimum_htp.verbs.compare.report import CompareReport, PartComparison
from optimum_htp.verbs.compare.torch_reference import TorchReference, check_source, run_part

DEFAULT_MAX_MEMORY_BYTES = 1 << 30

_Compared: TypeAlias = tuple[tuple[PartComparison, ...], dict[str, str]]  # and why other files were not compared


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What a comparison was asked for."""

    sizes: InputSizes
    inputs: tuple[Path, ...]
    file: str | None
    tolerance: float | None
    max_bytes: int
    provider: str
    threads: int | None
    renamed: Mapping[str, str]

    def given(self, model: OnnxModel, phase: str, possible: Sequence[str]) -> list[dict[str, Array] | None]:
        """The inputs of each sample for one of the possible phases; None for one that has to be made."""
        if not self.inputs:
            return [None] * SAMPLES
        loaded = [load_inputs(path, model) for path in self.inputs]
        return [given for given in loaded if phase_of(given, possible) == phase]


def compare(
    package: str | Path | HtpPackage,
    *,
    model: str | Path | None = None,
    reference: str | Path | HtpPackage | None = None,
    file: str | None = None,
    inputs: str | Path | Sequence[str | Path] | None = None,
    batch_size: int | None = None,
    sequence_length: int | None = None,
    height: int | None = None,
    width: int | None = None,
    dims: Mapping[str, int] | None = None,
    tolerance: float | None = None,
    max_memory_bytes: int = DEFAULT_MAX_MEMORY_BYTES,
    provider: str = DEFAULT_PROVIDER,
    threads: int | None = None,
    renamed: Mapping[str, str] | None = None,
    task: str | None = None,
    trust_remote_code: bool = False,
    timeout: float | None = None,
) -> CompareReport:
    """Compares each module call of a package with the source model, or with another package.

    Args:
        package: The package: its directory, an ONNX file of it, or one that is open.
        model: The source model: its directory, or its id on the Hub.
        reference: A package to compare with instead, without PyTorch: the one before quantization, say. Without either,
            each file is compared with the one of the package that it was made from: `onnx/model_q4.onnx` with
            `onnx/model.onnx`.
        file: Which ONNX files to compare, a name or a glob; None means all.
        inputs: .npz files with inputs of the one file that is compared: a sample each. None makes two samples.
        batch_size: Examples at once; None means a usual size, as for the next ones.
        sequence_length: Tokens of each.
        height: Pixels.
        width: Pixels.
        dims: Sizes of other axes of the inputs, by their names.
        tolerance: How far off the outputs may be, relative to their largest value, or if quantized as noise over signal;
            None means by the type that the model, or the package that it is compared with, computes with: 1e-4 for
            float32, 2e-2 for float16, 1e-1 for bfloat16, 7e-1 if quantized.
        max_memory_bytes: How much memory the tensors that are held at once may take.
        provider: ONNX Runtime's execution provider.
        threads: Threads within an operator; None for ONNX Runtime's own choice.
        renamed: Inputs and outputs of the package that the reference calls otherwise, and how it calls them; `""` for
            what it has not. Most are found by themselves: prefixes, other spellings, or by order, type and shape where no
            name is the same.
        task: The task of the source model; None means what the package says.
        trust_remote_code: Run code that comes with the source model.
        timeout: Seconds that ONNX Runtime may take to load a part of the graph, and for each run; None means 600. On Linux
            it may have 2 GiB of memory, 8 times what the models have on the disk, and twice `max_memory_bytes`.

    Raises:
        PackageError: There is no such package or model, the nodes are not tagged, or the model is not the source.
        HtpError: The provider is not installed, the inputs are not what the model takes, or ONNX Runtime takes too long or
            too much memory.

    Example:
        >>> report = compare("bert_onnx", model="bert")    # doctest: +SKIP
        >>> report.parts[0].culprits                       # doctest: +SKIP
    """
    if model is not None and reference is not None:
        raise HtpError("a package is compared with its source model or with another package: give one of the two")
    if model is None and (task is not None or trust_remote_code):
        option = "--task" if task is not None else "--trust-remote-code"
        raise HtpError(f"{option} is for a source model to compare with: give --model MODEL (model=) too")
    if model is not None:
        check_model_name(model)
    options = _Options(
        sizes=InputSizes(batch_size, sequence_length, height, width, dims or {}),
        inputs=_paths(inputs),
        file=file,
        tolerance=tolerance,
        max_bytes=max_memory_bytes,
        provider=check_provider(provider),
        threads=threads,
        renamed=renamed or {},
    )
    check_source_of_sizes(options.sizes, inputs)
    package = as_package(package)
    other = None
    if model is None:
        other = whole_package(package) if reference is None else as_package(reference)
    graphs = [package, *([other] if other is not None else [])]
    with graph_limits(graphs, provider=options.provider, timeout_s=timeout, held_bytes=2 * max_memory_bytes):
        if other is not None:
            name = str(other.path)
            parts, refused = _with_package(package, other, options, is_own=reference is None)
        else:
            name = str(model)
            parts, refused = _with_model(package, name, options, task=task, trust_remote_code=trust_remote_code)
    return CompareReport(
        package=str(package.path),
        reference=name,
        provider=options.provider,
        parts=parts,
        not_compared=refused,
        fingerprints={part.file: fingerprint(package.files[part.file]) for part in parts if part.samples},
    )


class _Results:
    """The comparisons of files. One that can't be compared is told of, and the others go on; a single one raises."""

    def __init__(self, files: Mapping[str, HtpFile], reference: str) -> None:
        self.parts: list[PartComparison] = []
        self._files = files
        self._reference = reference
        self._errors: list[HtpError] = []

    @contextmanager
    def trying(self, name: str, *, branch: str = "") -> Iterator[None]:
        """What is raised in the block is why a file is not compared."""
        try:
            yield
        except HtpError as error:
            if len(self._files) == 1:
                raise
            self._errors.append(error)
            reason = str(error).removeprefix(f"{self._files[name].path}: ")
            self.parts.append(PartComparison.of_none(name, self._reference, reason, branch=branch))

    def readable(self) -> dict[str, HtpFile]:
        """The files that can be read."""
        found: dict[str, HtpFile] = {}
        for name, file in self._files.items():
            with self.trying(name):
                _ = file.model
                found[name] = file
        return found

    def all(self) -> tuple[PartComparison, ...]:
        """All of them. Raises HtpError, which says what is wrong with each, if none could be compared."""
        if self._errors and not any(part.samples for part in self.parts):
            messages = list(dict.fromkeys(map(str, self._errors)))
            raise self._errors[0] if len(messages) == 1 else HtpError("; ".join(messages))
        return tuple(self.parts)


def _with_model(
    package: HtpPackage, model: str, options: _Options, *, task: str | None, trust_remote_code: bool
) -> _Compared:
    results = _Results(package.matching(options.file), model)
    chosen = results.readable()
    check_renamed(options.renamed, (file.model for file in chosen.values()))
    check_axes([file.model for file in chosen.values()], options.sizes, where=str(package.path), of_optimum=True)
    check_task(package, task)
    tagged: dict[str, TaggedGraph] = {}
    for name, file in chosen.items():
        with results.trying(name):
            tagged[name] = tagged_file(file, package=package)
    if not tagged:
        return results.all(), {}
    files = {name: chosen[name] for name in tagged}
    if package.components:
        source, parts = load_components(package, files, model, task=task, trust_remote_code=trust_remote_code)
    else:
        source = load_source_of(
            [file.model for file in tagged.values()],
            model,
            recorded=package.sidecar.source if package.sidecar is not None else {},
            roots=[tree.root for file in tagged.values() for tree in file.trees],
            task=task,
            trust_remote_code=trust_remote_code,
        )
        parts = find_parts(source, files.values())
    _check_one(options, (part.file for part in parts), package)
    if not parts:
        raise PackageError(
            f"{package.path}: {model} has no part that any of its files is an export of; give its source"
        )
    compared = {part.file for part in parts}
    for part in parts:
        with (
            results.trying(part.file, branch=part.branch_name),
            # Nothing can be seen of what a function does.
            inlined(tagged[part.file], package=package.directory) as graph,
        ):
            results.parts += _compare_part(graph, part, source, options)
    return results.all(), {name: "Optimum's export config does not know it" for name in tagged if name not in compared}


def _compare_part(tagged: TaggedGraph, part: Part, source: SourceModel, options: _Options) -> Iterator[PartComparison]:
    """Compares a part with its module, unless the inputs that are given are for the other branch of a merged decoder."""
    phase = "decode" if part.branch else "prefill"
    inputs = options.given(tagged.model, phase, (phase,) if part.branch is None else ("prefill", "decode"))
    if not inputs:
        return
    flat = FlatGraph(tagged.model, tagged.tags, branch=part.branch)
    root = next((node.tag.tag.split("/")[1] for node in flat.nodes if node.tag is not None), "")
    tree = next((tree for tree in tagged.trees if tree.tag(()) == f"/{root}"), tagged.trees[0])
    check_source(part, source, tree, file=tagged.name)
    shapes = fixed_sizes(tagged.model.graph.inputs) | options.sizes.by_name()
    names = names_in_torch(part, tagged.model, shapes=shapes, renamed=options.renamed)
    samples: list[TorchReference] = []
    for seed, given in enumerate(inputs):
        run = partial(run_part, part, tagged.model, shapes, given, names, seed)
        samples.append(
            TorchReference(part, source, tree, tagged.roots, run, max_bytes=options.max_bytes // (2 * SAMPLES))
        )
    tolerance = default_tolerance(tagged.model)
    pairs = names if names is not None else ()
    yield _compare(tagged, flat, samples, pairs, options, branch=part.branch_name, tolerance=tolerance)


def _with_package(package: HtpPackage, other: HtpPackage, options: _Options, *, is_own: bool) -> _Compared:
    results = _Results(package.matching(options.file), str(other.path))
    chosen = results.readable()
    others = _Results(other.files, "").readable()
    _check_one(options, chosen, package)
    refused: dict[str, str] = {}
    check_renamed(options.renamed, (file.model for file in chosen.values()))
    _check_sizes(package, other, chosen, others, options)
    found = partners(traits_of(chosen.values()), traits_of(others.values()))
    for file in chosen.values():
        with results.trying(file.name):
            record = cut_from(file.model)
            if record is not None:
                source, origin = record.source(file.model.path, given=None if is_own else other)
                tagged = tagged_file(file, package=package, reference=source)
                reference, named = tagged_file(origin, package=source), str(origin.path)
                with (
                    inlined(tagged, package=package.directory) as ours,
                    inlined(reference, package=source.directory) as theirs,
                ):
                    results.parts += _compare_cut(ours, theirs, named, record, source, options)
                continue
            partner = found[file.name]
            if partner.other is None:
                unreadable = "".join(f"; {name} of it can't be read" for name in other.files if name not in others)
                refused[file.name] = partner.problem(other.path) + unreadable
            elif not is_own or partner.other != file.name:  # else it was made from no other
                tagged = tagged_file(file, package=package, reference=other)
                reference = tagged_file(others[partner.other], package=other, reference=package)
                if _modules(tagged).isdisjoint(_modules(reference)):
                    classes = [side.trees[0].root.class_name for side in (tagged, reference)]
                    refused[file.name] = (
                        f"no module of it is in {other.path}: it is a {classes[0]}, and that a {classes[1]}"
                    )
                    continue
                config = component_config(package, file.name) or package.config or other.config
                named = str(reference.model.path)
                with (
                    inlined(tagged, package=package.directory) as ours,
                    inlined(reference, package=other.directory) as theirs,
                ):
                    results.parts += _compare_pair(ours, theirs, named, config, options)
    if not results.parts:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        if is_own:
            why = reasons or f"{' and '.join(chosen)}: made from no other file of it"
            raise PackageError(f"{package.path}: {why}; give what to compare with: --model MODEL or --reference OTHER")
        raise PackageError(f"{package.path} and {other.path} have nothing in common: {reasons}; give its origin")
    return results.all(), refused


def _modules(graph: TaggedGraph) -> set[str]:
    """The tags of the modules that nodes come from."""
    return {name for tag in graph.tags.values() for name in (tag.tag, *tag.origins)}


def _check_sizes(
    package: HtpPackage,
    other: HtpPackage,
    chosen: Mapping[str, HtpFile],
    others: Mapping[str, HtpFile],
    options: _Options,
) -> None:
    """Raises HtpError for sizes that no input has an axis for; it says then which others are unknown, too."""
    try:
        check_axes(
            [file.model for files in (chosen, others) for file in files.values()],
            options.sizes,
            where=str(package.path),
        )
    except HtpError as error:
        problems = [str(error)]
        for name, file in chosen.items():
            if cut_from(file.model) is None:
                config = component_config(package, name) or package.config or other.config
                try:
                    make_inputs(file.model, config, sizes=options.sizes, phase=phases(file.model)[-1])
                except HtpError as unknown:
                    problems.append(str(unknown))
        raise HtpError("; ".join(problems)) from error


def _compare_pair(
    tagged: TaggedGraph, reference: TaggedGraph, named: str, config: Mapping[str, Any] | None, options: _Options
) -> Iterator[PartComparison]:
    """Compares a file with the one that it goes with, in each phase that it is run in."""
    inputs, outputs = (pair(tagged, reference, renamed=options.renamed) for pair in (paired_inputs, paired_outputs))
    if inputs.problem() is not None:
        raise HtpError(f"{tagged.model.path} and {reference.model.path}: {inputs.problem()}")
    possible = phases(tagged.model)
    for phase in shared_phases(tagged.model, reference.model):
        given = options.given(tagged.model, phase, possible)
        if given:
            yield _compare_phase(tagged, reference, named, (inputs, outputs), config, options, phase, given)


def _compare_cut(
    tagged: TaggedGraph, reference: TaggedGraph, named: str, record: CutFrom, source: HtpPackage, options: _Options
) -> Iterator[PartComparison]:
    """Compares an extracted part with what it was cut from, on what that gives it."""
    config = component_config(source, reference.name) or source.config
    possible = part_phases(record, reference.model)
    for phase in possible:
        samples = []
        for seed, given in enumerate(options.given(reference.model, phase, possible)):
            if given is None:
                given = make_inputs(reference.model, config, sizes=options.sizes, phase=phase, varied=True, seed=seed)
            inputs = part_inputs(tagged.model, record, reference.model, config, phase=phase, given=given)
            samples.append((inputs, given))
        names = [value.name for value in tagged.model.graph.outputs]
        results = dict(zip(names, record.outputs, strict=False))
        if samples:
            yield _compare_files(tagged, reference, named, samples, results, (), options, phase)


def _compare_phase(
    tagged: TaggedGraph,
    reference: TaggedGraph,
    named: str,
    pairs: tuple[ValuePairs, ValuePairs],
    config: Mapping[str, Any] | None,
    options: _Options,
    phase: str,
    inputs: Sequence[dict[str, Array] | None],
) -> PartComparison:
    samples = [
        shared_inputs(tagged.model, reference.model, pairs[0], config, options.sizes, phase, given=given, seed=seed)
        for seed, given in enumerate(inputs)
    ]
    results = {value.name: pairs[1].names.get(value.name, value.name) for value in tagged.model.graph.outputs}
    return _compare_files(tagged, reference, named, samples, results, pairs, options, phase)


def _compare_files(
    tagged: TaggedGraph,
    reference: TaggedGraph,
    named: str,
    samples: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]],
    results: Mapping[str, str],
    pairs: Sequence[ValuePairs],
    options: _Options,
    phase: str,
) -> PartComparison:
    """Compares two graphs: `samples` has the inputs of each, `results` which tensors the outputs are there.

    `named` is what the second is called.
    """

    def flat(graph: TaggedGraph) -> FlatGraph:
        is_merged = any(value.name == "use_cache_branch" for value in graph_inputs(graph.model))
        return FlatGraph(graph.model, graph.tags, branch=phase == "decode" if is_merged else None)

    ours, theirs = flat(tagged), flat(reference)
    if ours.path:  # the outputs of a merged decoder are those of its branches
        results = {name: results.get(name, name) for name in ours.outputs}
    with Prober(reference.model, theirs, provider=options.provider, threads=options.threads) as prober:
        references = [
            PackageReference(
                named, reference, prober, inputs=inputs, own_inputs=own_inputs, results=results,
                shared=ours.producer, max_bytes=options.max_bytes // (2 * SAMPLES),
            )
            for inputs, own_inputs in samples
        ]  # fmt: skip
        label = "" if phase == "forward" else phase
        tolerance = default_tolerance(tagged.model, reference.model)
        return _compare(
            tagged,
            ours,
            references,
            pairs,
            options,
            branch=label,
            tolerance=tolerance,
        )


def _compare(
    tagged: TaggedGraph,
    flat: FlatGraph,
    samples: Sequence[Reference],
    pairs: Sequence[ValuePairs],
    options: _Options,
    *,
    branch: str,
    tolerance: float,
) -> PartComparison:
    first, *others = samples
    ways = [(call.tag, call.call, call.parent) for call in first.calls]
    # What a mixture of experts calls depends on the input: samples that go another way can't be put together.
    same = [sample for sample in others if [(call.tag, call.call, call.parent) for call in sample.calls] == ways]
    with Prober(tagged.model, flat, provider=options.provider, threads=options.threads) as prober:
        return compare_graph(
            tagged,
            flat,
            prober,
            [first, *same],
            branch=branch,
            tolerance=options.tolerance if options.tolerance is not None else tolerance,
            max_bytes=options.max_bytes // SAMPLES,
            guessed={name: theirs for side in pairs for name, theirs in side.guessed.items()},
            notes=[*(line for side in pairs for line in side.explain()), *([HALF_NOTE] if prober.rounds_half else [])],
        )


def _paths(inputs: str | Path | Sequence[str | Path] | None) -> tuple[Path, ...]:
    if inputs is None:
        return ()
    return tuple(map(Path, [inputs] if isinstance(inputs, (str, Path)) else inputs))


def _check_one(options: _Options, files: Iterable[str], package: HtpPackage) -> None:
    """Inputs from a file are those of one file."""
    names = list(dict.fromkeys(files))
    if options.inputs and len(names) > 1:
        raise PackageError(
            f"{package.path}: {options.inputs[0]} can be the inputs of one file only; name it: {', '.join(names)}"
        )
