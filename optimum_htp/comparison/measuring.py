"""How far two tensors are from each other."""

from __future__ import annotations

from itertools import permutations
from math import inf, log10
from typing import TYPE_CHECKING, Any

from optimum_htp.comparison.report import EXACT, Errors


if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

TOLERANCES = {"float32": 1e-4, "float64": 1e-4, "float16": 2e-2, "bfloat16": 1e-1, "int8": 2e-1}
"""What the relative error of a module may be, by the type of what it computes with."""

_MOST_AXES = 4
_TINY = 1e-12  # where a reference is 0 everywhere, what is left of rounding is no error
_NO_NUMBER = Errors(inf, inf, inf, 0.0, -inf)


def compare_arrays(actual: Array, expected: Array) -> Errors:
    """How far a tensor is from its reference, which may have another shape: then it is as far off as can be."""
    return measure_errors(actual, expected) if actual.shape == expected.shape else _NO_NUMBER


def measure_in_any_layout(actual: Array, expected: Array, *, tolerance: float) -> Errors | None:
    """How far a tensor is from its reference in the order of axes in which both agree, else as it stands.

    Optimizers move transpositions from one module into the next. Returns None where no order has the right shape.
    """
    if actual.shape == expected.shape:
        errors = measure_errors(actual, expected)
        if errors.relative <= tolerance:
            return errors
    if sorted(actual.shape) != sorted(expected.shape) or not 2 <= actual.ndim <= _MOST_AXES:
        return measure_errors(actual, expected) if actual.shape == expected.shape else None
    for order in permutations(range(actual.ndim)):
        turned = actual.transpose(order)
        if turned.shape == expected.shape:
            errors = measure_errors(turned, expected)
            if errors.relative <= tolerance:
                return errors
    return measure_errors(actual, expected) if actual.shape == expected.shape else None


def measure_errors(actual: Array, expected: Array) -> Errors:
    """How far a tensor is from its reference, which has the same shape.

    Infinities and NaNs have to be in the same places, and so have values at the end of what the type can hold, which
    attention masks are filled with.
    """
    import numpy as np

    if not expected.size:
        return EXACT
    left, right = actual.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    limit = 0.9 * min(float(np.finfo(each.dtype).max) for each in (actual, expected))
    huge = ~(np.abs(right) < limit)  # NaNs too
    if not np.array_equal(huge, ~(np.abs(left) < limit)):
        return _NO_NUMBER
    left, right = left[~huge], right[~huge]
    if not right.size:
        return EXACT
    difference = np.abs(left - right)
    noise, signal = float(np.dot(difference, difference)), float(np.dot(right, right))
    length = float(np.dot(left, left)) ** 0.5 * signal**0.5
    worst = float(difference.max())
    return Errors(
        max_abs=worst,
        mean_abs=float(difference.mean()),
        relative=worst / max(float(np.abs(right).max()), _TINY),
        cosine=float(np.dot(left, right)) / length if length else float(not noise),
        sqnr_db=inf if not noise else (10 * log10(signal / noise) if signal else -inf),
    )
