"""Whether a model is the one that a package was exported from: its parameters have the values of the initializers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from optimum_htp.errors import PackageError
from optimum_htp.models import FLOATS, Matcher, TaggedInitializer
from optimum_htp.package import HtpFile
from optimum_htp.verbs.params.report import ParameterRow

_BY_MORE_THAN_ROUNDING = "; or they were quantized by more than rounding, as GPTQ does"


def refuse_other_model(
    file: HtpFile,
    model: str,
    *,
    rows: Sequence[ParameterRow],
    initializers: Sequence[TaggedInitializer],
    matcher: Matcher,
) -> None:
    """Refuses a model whose parameter has other values than its initializer, or in which most of the weights are not."""
    pairs = list(zip(rows, initializers, strict=True))
    lost = [initializer for row, initializer in pairs if row.kind == "unknown"]
    for initializer in lost:
        name = matcher.source.named(initializer.tensor.name)
        if name is not None:
            difference = _difference(initializer, name, matcher)
            raise PackageError(f"{file.path}: {model} is not what it was exported from: {difference}")
    weights = [
        initializer
        for row, initializer in pairs
        if prod(row.shape) > 1 and (row.data_type in FLOATS or row.kind == "unknown" or row.scale)
    ]
    missing = [initializer for initializer in lost if _size(initializer) > 1]
    if sum(map(_size, missing)) * 2 > sum(map(_size, weights)) > 0:
        largest = max(missing, key=_size).tensor
        quantized = all(initializer.tensor.data_type not in FLOATS for initializer in missing)
        raise PackageError(
            f"{file.path}: {model} is not what it was exported from: the values of {len(missing)} of its "
            f"{len(weights)} weights are nowhere in it, the largest being {largest.name!r} "
            f"{list(largest.dims)}{_BY_MORE_THAN_ROUNDING if quantized else ''}"
        )


def _difference(initializer: TaggedInitializer, name: str, matcher: Matcher) -> str:
    import numpy as np

    value, array = matcher.source.tensors[name], matcher.read(initializer)
    if array is None or value.shape != array.shape:
        return f"{name} is {list(value.shape)} in the model and {list(initializer.tensor.dims)} in the package"
    apart = np.abs(value.astype(np.float64) - array.astype(np.float64))
    count = int(np.count_nonzero(apart))
    return f"{name} differs in {count:,} of its {value.size:,} values, by up to {float(apart.max()):.3g}"


def _size(initializer: TaggedInitializer) -> int:
    return prod(initializer.tensor.dims)
