"""`--model`: the outputs of a package against those of its source model in PyTorch, on the same inputs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.verbs.validate.contents import Contents
from optimum_htp.verbs.validate.report import Check, Finding, combine, failed, good, skipped, warning


if TYPE_CHECKING:
    import numpy as np

    from optimum_htp.models import Example, Part


logger = logging.getLogger(__name__)

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 5e-1}
"""How far an output may be from PyTorch's, relative to its largest value, by the type of the weights.

That of quantized weights only tells a graph that is broken from one that is coarse, as a small real model easily is: off
by a quarter of the largest value in single elements. `compare` looks closer.
"""

_CONSTANT_AXIS = "an axis was traced as a constant; export again, or report it to Optimum"

# Sizes that differ from the defaults in every batch and sequence axis, then in fewer, for models that take no others.
_OTHER_SIZES: tuple[dict[str, int], ...] = (
    {"batch_size": 3, "sequence_length": 21, "audio_sequence_length": 12000},
    {"batch_size": 3, "audio_sequence_length": 12000},
    {"batch_size": 3},
)

# Operators that give something else each time.
_RANDOM = frozenset(("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli",
                     "Multinomial"))  # fmt: skip
_QUANTIZED = frozenset(("DynamicQuantizeLinear", "QuantizeLinear", "MatMulInteger", "QLinearMatMul", "MatMulNBits",
                        "DynamicQuantizeMatMul"))  # fmt: skip
_ELEMENT_TYPES = {10: "fp16", 16: "bf16"}
_TINY = 1e-6


def check_outputs(
    package: Contents,
    model: str,
    *,
    task: str | None = None,
    trust_remote_code: bool = False,
    tolerance: float | None = None,
    shapes: Mapping[str, int] | None = None,
) -> list[Check]:
    """Runs the source model and the ONNX files on the same inputs, of two sizes each.

    Args:
        package: The package.
        model: The source model: its directory, or its id on the Hub.
        task: The task; None means the one that the package says.
        trust_remote_code: Run code that comes with the model.
        tolerance: Of all outputs, relative to their largest value; None means by the type of the weights.
        shapes: Sizes of the first inputs, by Optimum's names; others have their defaults.

    Returns:
        The checks `outputs` (at the default sizes) and `dynamic-axes` (at other sizes of batch and sequence).

    Raises:
        PackageError: There is no such model, or it can't be loaded in PyTorch.
    """
    from optimum_htp.models import find_parts, fixed_sizes, load_source_model, source_facts

    records = package.records
    roots = (
        [tree.root for record in records.files.values() for tree in record.roots.trees] if records is not None else []
    )
    past = any(name.startswith("past_key_values") for name in package.inputs())
    source = load_source_model(
        model,
        **source_facts(records.source if records is not None else {}, roots, task=task, with_past=past),
        dtype=weights_type(package),
        trust_remote_code=trust_remote_code,
    )
    try:
        parts = find_parts(source, package.readable)
    except HtpError as error:
        return [combine(name, [warning(f"not compared: {error}")], ok="") for name in ("outputs", "dynamic-axes")]
    first, others = [], []
    for part in parts:
        comparison = _Comparison(package, part, tolerance)
        fixed = fixed_sizes((value.name, value.shape) for value in comparison.model.graph.inputs)
        sizes = {**fixed, **(shapes or {})}
        done = comparison.at(sizes)
        first.append(done)
        label = comparison.label
        others.append(comparison.at_other_sizes(sizes) if done.status == "ok" else skipped(f"{label}: see `outputs`"))
    left_out = sorted(package.readable.keys() - {part.file for part in parts})
    if left_out:
        finding = warning(f"not compared: {', '.join(left_out)}: Optimum's export config does not know it")
        first.append(finding)
        others += [] if parts else [finding]
    if not first:
        first = others = [skipped("there is no graph that could be read")]
    return [combine("outputs", first, ok="close"), combine("dynamic-axes", others, ok="close")]


def weights_type(package: Contents) -> str:
    """Optimum's name for the type of the weights, by the inputs, outputs and initializers of the graphs."""
    types = {
        value.elem_type for model in package.readable.values() for value in (*model.graph.inputs, *model.graph.outputs)
    }
    types |= {tensor.data_type for model in package.readable.values() for tensor in model.graph.initializers}
    if 1 in types:  # float weights: half precision anywhere else is an operator's own affair
        return "fp32"
    return next((name for number, name in _ELEMENT_TYPES.items() if number in types), "fp32")


@dataclass(slots=True)
class _Comparison:
    """One part of the source model, and its ONNX file."""

    package: Contents
    part: Part
    tolerance: float | None
    session: Any = None

    @property
    def model(self) -> OnnxModel:
        return self.package.readable[self.part.file]

    @property
    def label(self) -> str:
        if self.part.branch is None:
            return self.part.file
        return f"{self.part.file} {'with' if self.part.branch else 'without'} past"

    def at(self, shapes: dict[str, int]) -> Finding:
        """Compares at one size; what PyTorch itself does not take is no fault of the package."""
        random = {node.op_type for _, graph in self.model.graphs() for node in graph.nodes} & _RANDOM
        if random:
            return skipped(f"{self.label} is random ({', '.join(sorted(random))})")
        example = self._reference(shapes)
        if isinstance(example, str):
            return warning(f"{self.label} not compared: PyTorch can't run it: {example}")
        misfit = self._misfit(example)
        if misfit is not None:
            return failed(
                f"{self.label} could not be compared: {misfit}", "give the model, and the sizes, of the export"
            )
        return self._compare(example, "")

    def at_other_sizes(self, shapes: dict[str, int]) -> Finding:
        """Compares at the first of the other sizes that PyTorch takes and the graph says it takes."""
        reason = "PyTorch takes no other sizes"
        for other in _OTHER_SIZES:
            example = self._reference({**shapes, **other})
            if isinstance(example, str):
                continue
            misfit = self._misfit(example)
            if misfit is not None:
                reason = misfit
                continue
            sizes = ", ".join(f"{name} {size}" for name, size in other.items() if name != "audio_sequence_length")
            return self._compare(example, f" at {sizes}")
        return skipped(f"{self.label}: {reason}")

    def _reference(self, shapes: dict[str, int]) -> Example | str:
        from optimum_htp.models import run_reference

        try:
            return run_reference(self.part, [value.name for value in self._inputs()], shapes=shapes)
        except Exception as error:  # whatever the model raises for inputs that it does not take
            logger.debug("%s at %s", self.label, shapes, exc_info=True)
            return " ".join(f"{type(error).__name__}: {error}".split())[:200]

    def _inputs(self) -> Iterator[Any]:
        stored = {tensor.name for tensor in self.model.graph.initializers}
        return (value for value in self.model.graph.inputs if value.name not in stored)

    def _misfit(self, example: Example) -> str | None:
        """What keeps the inputs from being run: one is missing, or has another size than the graph says for good."""
        for value in self._inputs():
            given = example.inputs.get(value.name)
            if given is None:
                return f"the model takes no input {value.name!r}: it may not be what the package was exported from"
            if value.shape is not None and any(
                isinstance(size, int) and size > 0 and size != actual
                for size, actual in zip(value.shape, given.shape, strict=False)
            ):
                return (
                    f"the input {value.name!r} is {list(value.shape)} for good, and {list(given.shape)} does not fit"
                )
        return None

    def _compare(self, example: Example, where: str) -> Finding:
        names = [value.name for value in self.model.graph.outputs if value.name in example.outputs]
        if self.part.branch:  # the encoder's keys and values are empty there, the first call has given them
            names = [name for name in names if not (name.startswith("present.") and ".encoder." in name)]
        if not names:
            return warning(f"{self.label} not compared: PyTorch has none of its outputs")
        try:
            answers = self._run(names, example.inputs)
        except Exception as error:  # ONNX Runtime raises exceptions of its own C++ module
            reason = " ".join(str(error).split())[:300]
            advice = _CONSTANT_AXIS if where else ""
            return failed(f"{self.label} can't be run{where}, and PyTorch can: {reason}", advice)
        problems, worst = [], 0.0
        for name, answer in zip(names, answers, strict=True):
            distance, problem = difference(answer, example.outputs[name])
            limit = self._limit(example.outputs[name])
            worst = max(worst, distance)
            if problem is not None:
                problems.append(f"{name} {problem}")
            elif distance > limit:
                problems.append(f"{name} is off by {distance:.1e} of its largest value (tolerance {limit:.0e})")
        if problems:
            advice = f"optimum-cli htp compare {self.package.path} --model MODEL names the first module that is off"
            if where and not self._quantized:
                advice = _CONSTANT_AXIS
            more = f" and {len(problems) - 3} more outputs" if len(problems) > 3 else ""
            return failed(f"{self.label}{where}: {', '.join(problems[:3])}{more}", advice)
        plural = "output" if len(names) == 1 else "outputs"
        return good(f"{self.label}: {len(names)} {plural}{where}, off by {worst:.1e} at most")

    @property
    def _quantized(self) -> bool:
        return any(node.op_type in _QUANTIZED for _, graph in self.model.graphs() for node in graph.nodes)

    def _limit(self, expected: np.ndarray[Any, Any]) -> float:
        if self.tolerance is not None:
            return self.tolerance
        if self._quantized:
            return TOLERANCES["int8"]
        return TOLERANCES["fp16" if expected.dtype == "float16" else weights_type(self.package)]

    def _run(self, names: list[str], inputs: Mapping[str, Any]) -> list[Any]:
        import onnxruntime

        if self.session is None:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4  # what it complains of is in the exception
            path = str(self.package.files[self.part.file])
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return list(self.session.run(names, dict(inputs)))


def difference(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> tuple[float, str | None]:
    """How far an output is from another, relative to the largest value of the other; and what else is wrong.

    Infinities and NaNs have to be in the same places.
    """
    import numpy as np

    if actual.shape != expected.shape:
        return 0.0, f"has the shape {list(actual.shape)}, not {list(expected.shape)}"
    if not expected.size:
        return 0.0, None
    if expected.dtype.kind not in "fc":
        differing = int((actual != expected).sum())
        return 0.0, f"differs in {differing:,} of {expected.size:,} values" if differing else None
    left, right = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(right)
    if not np.array_equal(finite, np.isfinite(left)):
        return 0.0, "is not finite where PyTorch's is, or the other way round"
    if not finite.any():
        return 0.0, None
    scale = max(float(np.abs(right[finite]).max()), _TINY)
    return float(np.abs(left[finite] - right[finite]).max()) / scale, None
