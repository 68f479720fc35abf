"""Whether a model is the one that a package was exported from: its parameters have the values of the stored tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from optimum_htp.errors import PackageError
from optimum_htp.package import HtpFile
from optimum_htp.verbs.params.initializers import StoredTensor
from optimum_htp.verbs.params.readings import FLOATS
from optimum_htp.verbs.params.state_dict import SourceTensors


if TYPE_CHECKING:
    import numpy as np

_MERGED = re.compile(r"_merged_\d+$")
_QUANTIZED = re.compile(r"(_quantized)?(_scale|_zero_point)?$")
_BY_MORE_THAN_ROUNDING = "; or they were quantized by more than rounding, as GPTQ does"


class Row(Protocol):
    """What is read of a row of the report."""

    @property
    def kind(self) -> str:
        """Whether it is a parameter."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def scale(self) -> tuple[str, ...]:
        """The scale of a quantized one."""


def own_name(name: str, source: SourceTensors, places: Iterable[str]) -> str | None:
    """The parameter that a stored tensor has the name of, in the whole model; None where it has none's.

    Args:
        name: The stored tensor's name; Optimum puts `_merged_0` behind those of a merged decoder.
        source: The model's tensors.
        places: Where in the model the exported modules are, which names are relative to.
    """
    plain = _MERGED.sub("", name)
    candidates = (plain, *(f"{place}.{plain}" for place in places if place))
    return next((each for each in candidates if each in source.tensors), None)


def is_anonymous(name: str, source: SourceTensors, places: Iterable[str]) -> bool:
    """Whether a stored tensor has no parameter's name, not even with what a quantizer puts behind it."""
    return all(own_name(each, source, places) is None for each in (name, _QUANTIZED.sub("", name, count=1)))


def refuse_other_model(
    file: HtpFile,
    model: str,
    rows: Sequence[Row],
    stored: Sequence[StoredTensor],
    source: SourceTensors,
    read: Callable[[StoredTensor], np.ndarray[Any, Any] | None],
    *,
    places: Sequence[str],
) -> None:
    """Refuses a model that the file was not exported from.

    Raises:
        PackageError: A stored tensor has the name of a parameter and other values, or most of the weights are found
            nowhere in the model; the message says which.
    """
    lost = [(row, tensor) for row, tensor in zip(rows, stored, strict=True) if row.kind == "unknown"]
    for row, tensor in lost:
        known = own_name(row.name, source, places)
        if known is not None:
            raise PackageError(
                f"{file.path}: {model} is not what it was exported from: {_difference(tensor, known, source, read)}"
            )
    weights = [
        tensor
        for row, tensor in zip(rows, stored, strict=True)
        if _size(tensor) > 1 and (tensor.tensor.data_type in FLOATS or row.kind == "unknown" or row.scale)
    ]
    missing = [tensor for _, tensor in lost if _size(tensor) > 1]
    if sum(map(_size, missing)) * 2 > sum(map(_size, weights)) > 0:
        largest = max(missing, key=_size)
        quantized = all(tensor.tensor.data_type not in FLOATS for tensor in missing)
        raise PackageError(
            f"{file.path}: {model} is not what it was exported from: the values of {len(missing)} of its "
            f"{len(weights)} weights are nowhere in it, the largest being {largest.tensor.name!r} "
            f"{list(largest.tensor.dims)}{_BY_MORE_THAN_ROUNDING if quantized else ''}"
        )


def _difference(
    tensor: StoredTensor,
    name: str,
    source: SourceTensors,
    read: Callable[[StoredTensor], np.ndarray[Any, Any] | None],
) -> str:
    import numpy as np

    value, array = source.tensors[name], read(tensor)
    if array is None or value.shape != array.shape:
        return f"{name} is {list(value.shape)} in the model and {list(tensor.tensor.dims)} in the package"
    apart = np.abs(value.astype(np.float64) - array.astype(np.float64))
    count = int(np.count_nonzero(apart))
    return f"{name} differs in {count:,} of its {value.size:,} values, by up to {float(apart.max()):.3g}"


def _size(tensor: StoredTensor) -> int:
    size = 1
    for dim in tensor.tensor.dims:
        size *= dim
    return size
