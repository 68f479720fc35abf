"""`--model`: the outputs of a package against those of its source model in PyTorch, on the same inputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import isinf
from typing import Any

from optimum_htp.errors import HtpError, PackageError, reason
from optimum_htp.models import (
    SAMPLES,
    Array,
    Errors,
    Example,
    InputSizes,
    Part,
    check_axes,
    compare_arrays,
    computes_in,
    default_tolerance,
    find_parts,
    fixed_sizes,
    graph_inputs,
    load_components,
    load_source_of,
    names_in_torch,
    off_by,
    open_rounded,
    outputs_of,
    random_operators,
    run_for_file,
)
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package import check_renamed
from optimum_htp.verbs.validate.contents import Contents
from optimum_htp.verbs.validate.report import OK, Check, Finding, combine, failed, good, skipped, warning

logger = logging.getLogger(__name__)

_CONSTANT_AXIS = "an axis was traced as a constant; export again, or report it to Optimum"

# Sizes that `compare` has options of their own for.
_OPTIONS = ("batch_size", "sequence_length", "height", "width")
# Sizes that differ from the defaults in every batch and sequence axis, then in fewer, for models that take no others.
_OTHER_SIZES: tuple[dict[str, int], ...] = (
    {"batch_size": 3, "sequence_length": 21, "audio_sequence_length": 12000},
    {"batch_size": 3, "audio_sequence_length": 12000},
    {"batch_size": 3},
)


def check_outputs(
    package: Contents,
    model: str,
    *,
    task: str | None = None,
    trust_remote_code: bool = False,
    tolerance: float | None = None,
    shapes: Mapping[str, int] | None = None,
    renamed: Mapping[str, str] | None = None,
) -> list[Check]:
    """The checks `outputs` (at the sizes given) and `dynamic-axes` (at others). Raises PackageError."""
    check_renamed(renamed or {}, package.readable.values())
    sidecar = package.sidecar
    records = sidecar.files.values() if sidecar is not None else ()
    try:
        if package.components:
            files = package.readable_files
            _, parts = load_components(package, files, model, task=task, trust_remote_code=trust_remote_code)
        else:
            source = load_source_of(
                list(package.readable.values()),
                model,
                recorded=sidecar.source if sidecar is not None else {},
                roots=[tree.root for record in records for tree in record.roots.trees],
                task=task,
                trust_remote_code=trust_remote_code,
            )
            parts = find_parts(source, package.readable_files.values())
    except PackageError:
        raise
    except HtpError as error:
        return [combine(name, [warning(f"not compared: {error}")], ok="") for name in ("outputs", "dynamic-axes")]
    first, others = [], []
    for part in parts:
        graph = package.readable[part.file]
        allowed = default_tolerance(graph) if tolerance is None else tolerance
        comparison = _Comparison(package, part, model, allowed, renamed or {})
        sizes = {**fixed_sizes(graph.graph.inputs), **(shapes or {})}
        first.append(comparison.at(sizes))
        is_ok = first[-1].status == OK
        others.append(comparison.at_other_sizes(sizes) if is_ok else skipped(f"{comparison.label}: see `outputs`"))
    left_out = sorted(package.readable.keys() - {part.file for part in parts})
    if left_out:
        finding = warning(f"not compared: {', '.join(left_out)}: Optimum's export config does not know it")
        first.append(finding)
        others += [] if parts else [finding]
    if not first:
        first = others = [skipped("no file could be read")]
    return [combine("outputs", first, ok="close"), combine("dynamic-axes", others, ok="close")]


@dataclass
class _Comparison:
    """One part of the source model, and its ONNX file."""

    package: Contents
    part: Part
    source: str  # what the user calls the model
    tolerance: float
    renamed: Mapping[str, str]
    session: Any = None
    is_rounded: bool = False

    @property
    def model(self) -> OnnxModel:
        return self.package.readable[self.part.file]

    @property
    def label(self) -> str:
        return f"{self.part.file} {self.part.branch_name}".rstrip()

    @cached_property
    def precision(self) -> str:
        """What it computes with."""
        return computes_in(self.model)

    def _off(self, errors: Errors) -> float:
        return off_by(errors, self.precision)

    def at(self, shapes: dict[str, int]) -> Finding:
        """Compares at one size; if PyTorch itself does not take it, that is not a fault of the package."""
        random = random_operators(self.model)
        if random:
            return skipped(f"{self.label} is random ({', '.join(random)})")
        examples = []
        for seed in range(SAMPLES):
            example = self._reference(shapes, seed)
            if isinstance(example, str):
                return warning(f"{self.label} not compared: PyTorch can't run it: {example}")
            misfit = self._misfit(example)
            if misfit is not None:
                advice = "give the model and the sizes of the export"
                return failed(f"{self.label} could not be compared: {misfit}", advice)
            examples.append(example)
        return self._compare(examples, shapes, "")

    def at_other_sizes(self, shapes: dict[str, int]) -> Finding:
        """Compares at the first of the other sizes that PyTorch and the declared inputs of the graph take."""
        why = "PyTorch takes no other sizes"
        for other in _OTHER_SIZES:
            example = self._reference({**shapes, **other}, 0)
            if isinstance(example, str):
                continue
            misfit = self._misfit(example)
            if misfit is None:
                sizes = ", ".join(f"{name} {size}" for name, size in other.items() if name != "audio_sequence_length")
                return self._compare([example], {**shapes, **other}, f" at {sizes}")
            why = misfit
        return skipped(f"{self.label}: {why}")

    def _reference(self, shapes: dict[str, int], seed: int) -> Example | str:
        try:
            names = names_in_torch(self.part, self.model, shapes=shapes, renamed=self.renamed)
            return run_for_file(self.part, self.model, names, shapes=shapes, seed=seed)
        except Exception as error:  # whatever the model raises for inputs that it does not take
            logger.debug("%s at %s", self.label, shapes, exc_info=True)
            return reason(error)

    def _misfit(self, example: Example) -> str | None:
        """Why the graph does not take the inputs: some are missing, or have other sizes than the fixed ones of the graph."""
        inputs = graph_inputs(self.model)
        missing = [value.name for value in inputs if value.name not in example.inputs]
        names = ", ".join(map(repr, missing))
        problems = [f"the model takes no input {names}: it may not be what the package was exported from"] * bool(
            names
        )
        for value in inputs:
            sizes = example.inputs[value.name].shape if value.name not in missing else ()
            if any(
                isinstance(size, int) and size > 0 and size != actual
                for size, actual in zip(value.shape or (), sizes, strict=False)
            ):
                problems.append(
                    f"the input {value.name!r} has the fixed shape {list(value.shape or ())}, not {list(sizes)}"
                )
        return "; ".join(problems) or None

    def _command(self, shapes: Mapping[str, int]) -> str:
        """The command that compares module by module what was compared here, on the same inputs."""
        fixed = fixed_sizes(self.model.graph.inputs)
        words = ["optimum-cli htp compare", str(self.package.path), "--model", self.source]
        for name, size in shapes.items():
            with suppress(HtpError):  # where the graph has no such axis, the size is of no account
                check_axes([self.model], InputSizes(dims={name: size}), where=self.part.file, of_optimum=True)
                option = f"--{name.replace('_', '-')} {size}" if name in _OPTIONS else f"--dim {name}={size}"
                words += [option] if fixed.get(name) != size else []
        words += [f"--map {ours}={theirs}" for ours, theirs in self.renamed.items()]
        words += [f"--tolerance {self.tolerance:g}"] if self.tolerance != default_tolerance(self.model) else []
        words += [f"--file {self.part.file}"] if len(self.package.readable) > 1 else []
        return " ".join(words)

    def _compare(self, examples: Sequence[Example], shapes: Mapping[str, int], where: str) -> Finding:
        first = examples[0]
        names = [value.name for value in self.model.graph.outputs if value.name in self.part.comparable(first.outputs)]
        if not names:
            return warning(f"{self.label} not compared: PyTorch has none of its outputs")
        worst: dict[str, tuple[Errors, Array, Array]] = {}
        for example in examples:
            try:
                if self.session is None:
                    self.session, self.is_rounded = open_rounded(self.model, name=self.part.file)
                answers = outputs_of(self.session, names, example.inputs, name=self.part.file)
            except Exception as error:  # ONNX Runtime raises exceptions of its own C++ module
                why = f"{self.label} can't be run{where}, and PyTorch can: {reason(error)}"
                return _failed(first, why, _CONSTANT_AXIS if where else "")
            for name, answer in zip(names, answers, strict=True):
                expected = self.part.comparable(example.outputs)[name]
                errors = compare_arrays(answer, expected)
                if name not in worst or self._off(errors) > self._off(worst[name][0]):
                    worst[name] = errors, answer, expected
        problems = [
            f"{name} {describe(errors, answer, expected, precision=self.precision, tolerance=self.tolerance)}"
            for name, (errors, answer, expected) in worst.items()
            if self._off(errors) > self.tolerance
        ]
        if problems:
            advice = f"{self._command(shapes)} names the module that is wrong"
            if where and self.precision != "int8":  # a quantized model may just be too coarse there
                advice = f"{_CONSTANT_AXIS}; {advice}"
            more = f" and {len(problems) - 3} more outputs" if len(problems) > 3 else ""
            return _failed(first, f"{self.label}{where}: {', '.join(problems[:3])}{more}", advice)
        plural = "output" if len(names) == 1 else "outputs"
        most = max(self._off(errors) for errors, _, _ in worst.values())
        rounded = ", computed in float16" if self.is_rounded else ""
        return good(f"{self.label}: {len(names)} {plural}{where}, off by {most:.1e} at most{rounded}")


def _failed(example: Example, why: str, advice: str) -> Finding:
    """The finding for outputs that differ, which a wrong guess of what the inputs are may be the reason for."""
    if not example.guessed:
        return failed(why, advice)
    listed = ", ".join(f"{ours} for {theirs}" for ours, theirs in example.guessed.items())
    return warning(f"{why}, if by their order {listed} can be taken", "say which is which: --map NEW=OLD")


def describe(errors: Errors, actual: Array, expected: Array, *, precision: str, tolerance: float) -> str:
    """How an output is off, in words."""
    if actual.shape != expected.shape:
        return f"has the shape {list(actual.shape)}, not {list(expected.shape)}"
    if (actual.dtype.kind == "f") != (expected.dtype.kind == "f"):
        return f"is {actual.dtype}, not {expected.dtype}"
    if expected.dtype.kind != "f":
        return f"differs in {int((actual != expected).sum()):,} of {expected.size:,} values"
    if isinf(errors.relative):
        return "has NaNs or infinities where PyTorch's has none, or the other way round"
    of = "its size" if precision == "int8" else "its largest value"
    return f"is off by {off_by(errors, precision):.1e} of {of} (tolerance {tolerance:.0e})"
