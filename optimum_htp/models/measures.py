"""How far a tensor is from its reference, and how far it may be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from math import inf, isfinite, log10
from typing import TYPE_CHECKING, Any, TypeAlias

from optimum_htp.onnxfile import RANDOM_OPERATORS, OnnxModel, element_type

if TYPE_CHECKING:
    import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

TOLERANCES = {"float32": 1e-4, "float64": 1e-4, "float16": 2e-2, "bfloat16": 1e-1, "int8": 7e-1}
"""How far off (`off_by`) a tensor may be, by the type that a model computes with (`computes_in`).

This is the one place: a test holds the help and the documentation to it. That of `"int8"`, for every quantized model, is
noise of half the signal's power, 3 dB, and only tells a broken graph from a coarse one: a sound int8 MiniLM is off by 0.3 on
most texts and by 0.53 on the oddest of hundreds; one that a static quantization spoiled by 0.9 to 3.
"""

QUANTIZED_OPERATORS = frozenset(
    (
        "QuantizeLinear DequantizeLinear DynamicQuantizeLinear MatMulInteger ConvInteger QLinearMatMul QLinearConv "
        "MatMulIntegerToFloat DynamicQuantizeMatMul DynamicQuantizeLSTM QGemm QAttention QEmbedLayerNormalization "
        "MatMulNBits MatMulBnb4 GatherBlockQuantized QMoE"
    ).split()
)

_BLOCK = 1 << 18  # elements that are compared at once
_TINY = 1e-12  # for a reference that is 0 everywhere


def computes_in(model: OnnxModel) -> str:
    """The coarsest type of a model's matrices, by its name in `TOLERANCES`; `"int8"` if anything is quantized."""
    if any(node.op_type in QUANTIZED_OPERATORS for _, node in model.nodes()):
        return "int8"
    types = {tensor.data_type for _, graph in model.graphs() for tensor in graph.initializers if len(tensor.dims) > 1}
    types = types or {value.elem_type for value in (*model.graph.inputs, *model.graph.outputs)}
    names = {element_type(number).name for number in types}
    return next((name for name in ("bfloat16", "float16") if name in names), "float32")


def default_tolerance(*models: OnnxModel) -> float:
    """How far off outputs of models, or of one and its source, may be: that of the coarsest model."""
    return max(TOLERANCES[computes_in(model)] for model in models)


def off_by(errors: Errors, precision: str) -> float:
    """How far off a tensor is, to be held against the tolerance of what a model computes with.

    The largest difference over the largest value. Of a quantized model (`"int8"`) it is the noise over the signal: single
    numbers of a sound one, those of padding say, are off by as much as the largest value.
    """
    return errors.noise if precision == "int8" else errors.relative


def random_operators(model: OnnxModel) -> tuple[str, ...]:
    """The operators of a model that draw random numbers: what comes after them differs from run to run."""
    return tuple(sorted({node.op_type for _, node in model.nodes()} & RANDOM_OPERATORS))


def worst_errors(errors: Iterable[Errors | None]) -> Errors | None:
    """The errors of the tensor that is farthest off, of those that are known."""
    known = [error for error in errors if error is not None]
    return max(known, key=lambda error: error.relative, default=None)


def compare_arrays(actual: Array, expected: Array) -> Errors:
    """How far a tensor is from its reference: infinitely, with another shape or kind, and where integers differ."""
    if actual.shape != expected.shape or (actual.dtype.kind == "f") != (expected.dtype.kind == "f"):
        return _NO_NUMBER
    errors = measure_errors(actual, expected)
    return errors if actual.dtype.kind == "f" or not errors.max_abs else replace(errors, relative=inf)


def measure_errors(actual: Array, expected: Array) -> Errors:
    """How far a tensor is from its reference, which has the same shape; of any numeric or boolean type.

    NaNs, infinities, and values near the largest of the type (attention masks) have to be in the same places.
    """
    measure = Measure()
    measure.add(actual, expected)
    return measure.errors()


@dataclass(slots=True)
class Measure:
    """How far a tensor is from its reference over several samples: what `measure_errors` says of all together."""

    special: bool = False  # what is no ordinary number is in other places than in the reference
    count: int = 0
    worst: float = 0.0
    largest: float = 0.0
    total: float = 0.0
    noise: float = 0.0
    signal: float = 0.0
    energy: float = 0.0
    product: float = 0.0

    def add(self, actual: Array, expected: Array) -> None:
        """Counts one sample more; both arrays have one shape."""
        import numpy as np

        dtypes = [array.dtype for array in (actual, expected) if array.dtype.kind == "f"]
        limit = 0.9 * min((float(np.finfo(dtype).max) for dtype in dtypes), default=inf)
        left, right = actual.ravel(), expected.ravel()
        for start in range(0, right.size, _BLOCK):
            ours, theirs = (array[start : start + _BLOCK].astype(np.float64) for array in (left, right))
            sizes, others = np.abs(theirs), np.abs(ours)
            if not (sizes.max() < limit and others.max() < limit):  # also where one is no number
                special = _special(theirs, limit)
                if not np.array_equal(special, _special(ours, limit)):
                    self.special = True
                    return
                ours, theirs, sizes = ours[special == 0], theirs[special == 0], sizes[special == 0]
            if not theirs.size:
                continue
            difference = np.abs(ours - theirs)
            self.count += theirs.size
            self.worst = max(self.worst, float(difference.max()))
            self.largest = max(self.largest, float(sizes.max()))
            self.total += float(difference.sum())
            self.noise += _sum_of_products(difference, difference)
            self.signal += _sum_of_products(theirs, theirs)
            self.energy += _sum_of_products(ours, ours)
            self.product += _sum_of_products(ours, theirs)

    def errors(self) -> Errors:
        """What all samples say."""
        if self.special:
            return _NO_NUMBER
        if not self.noise:
            return EXACT
        length = self.energy**0.5 * self.signal**0.5
        return Errors(
            max_abs=self.worst,
            mean_abs=self.total / self.count,
            relative=self.worst / max(self.largest, _TINY),
            cosine=self.product / length if length else 0.0,
            sqnr_db=10 * log10(self.signal / self.noise) if self.signal else -inf,
        )


def _sum_of_products(one: Array, other: Array) -> float:
    """As `numpy.dot`, without the threads of its libraries, which wait for each other on a machine that has other work."""
    import numpy as np

    return float(np.einsum("i,i->", one, other))


def _special(values: Array, limit: float) -> Array:
    """0 for ordinary numbers, 1 and -1 for those past a limit, 2 for NaNs."""
    import numpy as np

    return np.select([np.isnan(values), values >= limit, values <= -limit], [2, 1, -1], 0)


@dataclass(frozen=True, slots=True)
class Errors:
    """How far a tensor is from its reference.

    Attributes:
        max_abs: The largest difference.
        mean_abs: The mean difference.
        relative: The largest difference over the reference's largest value; infinite where NaNs or infinities are in
            other places than the reference's, and where integers or booleans differ at all.
        cosine: The cosine of the angle between both, 1 for the same direction.
        sqnr_db: The signal to quantization noise ratio: ten times the decimal logarithm of the reference's sum of
            squares over that of the difference; infinite where there is no difference.
    """

    max_abs: float
    mean_abs: float
    relative: float
    cosine: float
    sqnr_db: float

    @property
    def noise(self) -> float:
        """The root mean square of the difference over that of the reference: 1 is 0 dB. Infinite where `relative` is."""
        return inf if self.relative == inf else 10 ** (-self.sqnr_db / 20)

    def to_dict(self) -> dict[str, float | None]:
        """As JSON has it, which knows no infinity: null stands for that."""
        return {name: finite(value) for name, value in asdict(self).items()}


def finite(value: float | None) -> float | None:
    """A number as JSON has it; None for an infinite one."""
    return value if value is not None and isfinite(value) else None


EXACT = Errors(0.0, 0.0, 0.0, 1.0, inf)

_NO_NUMBER = Errors(inf, inf, inf, 0.0, -inf)
