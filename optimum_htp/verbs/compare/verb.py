"""Where an ONNX model leaves its reference: the source model in PyTorch, or another package.

For each call of a module the tensor that it returned (`boundaries`) is compared with what the reference returned
(`recording` for PyTorch, `packages` for a package), on the same inputs. Only these tensors are exposed (`probing`), so
many at once as fit into memory (`matching`). The first module that is off is run again on the reference's tensors, which
tells the error that it adds from the one that it inherits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.models import (
    DEFAULT_PROVIDER,
    TOLERANCES,
    Errors,
    InputSizes,
    Part,
    SourceModel,
    check_inputs,
    check_provider,
    component_config,
    find_parts,
    fixed_sizes,
    graph_inputs,
    load_inputs,
    load_source_model,
    make_inputs,
    phases,
    returns_attentions,
    source_facts,
)
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package import HtpPackage, TaggedFile, partner, tagged_file
from optimum_htp.verbs.compare.flat_graph import FlatGraph
from optimum_htp.verbs.compare.isolate import Isolator
from optimum_htp.verbs.compare.matching import Matcher
from optimum_htp.verbs.compare.package_reference import PackageReference
from optimum_htp.verbs.compare.prober import Prober
from optimum_htp.verbs.compare.reference import Reference
from optimum_htp.verbs.compare.report import CallComparison, CompareReport, Isolated, PartComparison
from optimum_htp.verbs.compare.torch_reference import TorchReference, check_source, run_part


if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

DEFAULT_MAX_MEMORY_BYTES = 1 << 30
_ISOLATED = 5
_QUANTIZED = frozenset(
    ("DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear", "MatMulInteger", "QLinearMatMul", "MatMulNBits",
     "DynamicQuantizeMatMul", "ConvInteger")
)  # fmt: skip
_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)


@dataclass(frozen=True, slots=True)
class _Options:
    """What a comparison was asked for."""

    sizes: InputSizes
    inputs: Path | None
    file: str | None
    tolerance: float | None
    max_bytes: int
    provider: str
    threads: int | None
    isolate: int


def compare(
    path: str | Path,
    model: str | Path | None = None,
    *,
    reference: str | Path | None = None,
    sizes: InputSizes | None = None,
    inputs: str | Path | None = None,
    file: str | None = None,
    tolerance: float | None = None,
    max_memory_bytes: int = DEFAULT_MAX_MEMORY_BYTES,
    provider: str = DEFAULT_PROVIDER,
    threads: int | None = None,
    isolate: int = _ISOLATED,
    task: str | None = None,
    trust_remote_code: bool = False,
) -> CompareReport:
    """Compares each module call of a package with the source model, or with another package.

    Args:
        path: The package's directory, or an ONNX file.
        model: The source model: its directory, or its id on the Hub.
        reference: A package to compare with instead, without PyTorch: before quantization, say.
        sizes: The sizes of the inputs; None means usual ones.
        inputs: An .npz file with the inputs of the one file that is compared.
        file: Which ONNX files to compare, a name or a glob; None means all.
        tolerance: What the relative error may be; None means by the type that the model, or
            the package that it is compared with, computes with (`TOLERANCES`).
        max_memory_bytes: How much the tensors that are held at once may take.
        provider: ONNX Runtime's execution provider.
        threads: Threads within an operator; None for ONNX Runtime's own choice.
        isolate: How many of the calls that are off, the first ones, are run on the reference's tensors.
        task: The task of the source model; None means what the package says.
        trust_remote_code: Run code that comes with the source model.

    Raises:
        PackageError: There is no such package or model, the nodes are not tagged, or the model is not the source.
        HtpError: The provider is not installed, or the inputs are not what the model takes.

    Example:
        >>> report = compare("bert_onnx", "bert")    # doctest: +SKIP
        >>> report.parts[0].first_over               # doctest: +SKIP
    """
    if (model is None) == (reference is None):
        raise HtpError("a package is compared with its source model, or with another package: give one of both")
    options = _Options(
        sizes or InputSizes(), None if inputs is None else Path(inputs), file, tolerance, max_memory_bytes,
        check_provider(provider), threads, isolate,
    )  # fmt: skip
    package = HtpPackage(path)
    if reference is not None:
        return _with_package(package, HtpPackage(reference), options)
    return _with_model(package, str(model), options, task=task, trust_remote_code=trust_remote_code)


def _with_model(
    package: HtpPackage, model: str, options: _Options, *, task: str | None, trust_remote_code: bool
) -> CompareReport:
    tagged = {
        name: tagged_file(file, package=package)
        for name, file in package.files.items()
        if _is_chosen(name, options.file, package)
    }
    recorded = package.sidecar.source if package.sidecar is not None else {}
    roots = [tree.root for each in tagged.values() for tree in each.trees]
    past = any(each.name.startswith("past_key_values") for file in tagged.values() for each in file.model.graph.inputs)
    source = load_source_model(
        model,
        **source_facts(recorded, roots, task=task, with_past=past),
        dtype=_weights_type(file.model for file in tagged.values()),
        trust_remote_code=trust_remote_code,
        **_attention(file.model for file in tagged.values()),
    )
    parts = [part for part in find_parts(source, package.files) if part.file in tagged]
    _check_one(options, [part.file for part in parts], package)
    compared: list[PartComparison] = []
    refused = {name: "Optimum's export config does not know it" for name in tagged}
    for part in parts:
        refused.pop(part.file, None)
        compared.append(_compare_part(tagged[part.file], part, source, options))
    if not compared:
        raise PackageError(
            f"{package.path}: {model} has no part that any of its files is an export of; give its source"
        )
    return CompareReport(str(package.path), model, options.provider, tuple(compared), refused)


def _compare_part(tagged: TaggedFile, part: Part, source: SourceModel, options: _Options) -> PartComparison:
    flat = FlatGraph(tagged.model, tagged.tags, branch=part.branch)
    root = next((node.tag.tag.split("/")[1] for node in flat.nodes if node.tag is not None), "")
    tree = next((tree for tree in tagged.trees if tree.tag(()) == f"/{root}"), tagged.trees[0])
    check_source(part, source, tree, file=tagged.name)
    given = load_inputs(options.inputs, tagged.model) if options.inputs is not None else None
    names = [value.name for value in graph_inputs(tagged.model)]
    shapes = {
        **fixed_sizes((value.name, value.shape) for value in tagged.model.graph.inputs),
        **_shapes(options.sizes),
    }
    run = partial(run_part, part, names, shapes, given)
    recorded = TorchReference(part, source, tree, run, max_bytes=options.max_bytes // 2)
    branch = "" if part.branch is None else ("with past" if part.branch else "without past")
    return _compare(tagged, flat, recorded, options, branch=branch)


def _with_package(package: HtpPackage, other: HtpPackage, options: _Options) -> CompareReport:
    chosen = [file for name, file in package.files.items() if _is_chosen(name, options.file, package)]
    _check_one(options, [file.name for file in chosen], package)
    compared: list[PartComparison] = []
    refused: dict[str, str] = {}
    names = [file.name for file in chosen]
    for file in chosen:
        match = partner(file.name, names, other.files)
        if match is None:
            refused[file.name] = f"{other.path} has no file that goes with it"
            continue
        tagged = tagged_file(file, package=package, origin=other)
        reference = tagged_file(other.files[match], package=other, origin=package)
        if {tag.tag for tag in tagged.tags.values()}.isdisjoint(tag.tag for tag in reference.tags.values()):
            roots = (each.trees[0].root.class_name for each in (tagged, reference))
            refused[file.name] = f"no module of it is in {other.path}: it is a {next(roots)}, and that a {next(roots)}"
            continue
        config = package.config or other.config
        for phase in phases(tagged.model):
            given = _package_inputs(tagged.model, component_config(package, file.name) or config, options, phase)
            branch = phase == "decode" if "use_cache_branch" in given else None
            ours = FlatGraph(tagged.model, tagged.tags, branch=branch)
            theirs = FlatGraph(reference.model, reference.tags, branch=branch)
            check_inputs(given, reference.model, where=f"the inputs of {package.path}")
            with Prober(reference.model, theirs, provider=options.provider, threads=options.threads) as prober:
                recorded = PackageReference(str(other.path), reference, prober, given, shared=ours.maker)
                label = "" if phase == "forward" else phase
                compared.append(_compare(tagged, ours, recorded, options, branch=label, origin=reference.model))
    if not compared:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise PackageError(f"{package.path} and {other.path} have nothing in common: {reasons}; give its origin")
    return CompareReport(str(package.path), str(other.path), options.provider, tuple(compared), refused)


def _compare(
    tagged: TaggedFile,
    flat: FlatGraph,
    reference: Reference,
    options: _Options,
    *,
    branch: str,
    origin: OnnxModel | None = None,
) -> PartComparison:
    models = (tagged.model,) if origin is None else (tagged.model, origin)
    tolerance = options.tolerance if options.tolerance is not None else max(map(_tolerance, models))
    with Prober(tagged.model, flat, provider=options.provider, threads=options.threads) as prober:
        matcher = Matcher(prober, reference, tolerance=tolerance, max_bytes=options.max_bytes)
        calls = matcher.calls()
        outputs = matcher.outputs()
        over = [call for call in calls if call.over][: options.isolate]
        isolator = Isolator(matcher, prober, reference, calls, tolerance=tolerance)
        isolated = [found for call in over if (found := isolator.isolate(call)) is not None]
    return PartComparison(
        file=tagged.name,
        branch=branch,
        reference=reference.name,
        inputs={name: tuple(array.shape) for name, array in reference.inputs.items()},
        tolerance=tolerance,
        calls=tuple(calls),
        outputs=outputs,
        isolated=tuple(isolated),
        without_nodes=len(reference.calls) - len(calls),
        chunks=matcher.chunks,
        random=tuple(sorted({node.node.op_type for node in flat.nodes} & _RANDOM)),
    )


def _package_inputs(
    model: OnnxModel, config: Mapping[str, Any] | None, options: _Options, phase: str
) -> dict[str, Array]:
    if options.inputs is not None:
        return load_inputs(options.inputs, model)
    return make_inputs(model, config, sizes=options.sizes, phase=phase, varied=True)


def _is_chosen(name: str, pattern: str | None, package: HtpPackage) -> bool:
    if pattern is None or name == pattern or fnmatchcase(name, pattern):
        return True
    if not any(each == pattern or fnmatchcase(each, pattern) for each in package.files):
        there = ", ".join(package.files)
        raise PackageError(f"{package.path}: no ONNX file is called {pattern!r}; there is {there}")
    return False


def _check_one(options: _Options, files: list[str], package: HtpPackage) -> None:
    if options.inputs is not None and len(set(files)) > 1:
        names = ", ".join(dict.fromkeys(files))
        raise PackageError(f"{package.path}: {options.inputs} can be the inputs of one file only; name it: {names}")


def _shapes(sizes: InputSizes) -> dict[str, int]:
    """The sizes that were asked for, by Optimum's names for them."""
    named = {
        "batch_size": sizes.batch_size,
        "sequence_length": sizes.sequence_length,
        "height": sizes.height,
        "width": sizes.width,
    }
    shapes = {name: size for name, size in named.items() if size is not None}
    return {**shapes, **sizes.dims}


def _attention(models: Iterable[OnnxModel]) -> dict[str, Any]:
    """Optimum loads a model whose attention weights are exported with the implementation that computes them."""
    return {"attn_implementation": "eager"} if any(map(returns_attentions, models)) else {}


def _weights_type(models: Iterable[OnnxModel]) -> str:
    """Optimum's name for the type of the weights."""
    types = {tensor.data_type for model in models for _, graph in model.graphs() for tensor in graph.initializers}
    return (
        "fp32"
        if 1 in types
        else next((name for number, name in ((10, "fp16"), (16, "bf16")) if number in types), "fp32")
    )


def _tolerance(model: OnnxModel) -> float:
    """What a model may be off by, by the types that it computes with."""
    if any(node.op_type in _QUANTIZED for _, graph in model.graphs() for node in graph.nodes):
        return TOLERANCES["int8"]
    stored = {tensor.data_type for _, graph in model.graphs() for tensor in graph.initializers if len(tensor.dims) > 1}
    if 16 in stored:
        return TOLERANCES["bfloat16"]
    return TOLERANCES["float16" if 10 in stored else "float32"]


__all__ = [
    "DEFAULT_MAX_MEMORY_BYTES",
    "TOLERANCES",
    "CallComparison",
    "CompareReport",
    "Errors",
    "Isolated",
    "PartComparison",
    "compare",
]
