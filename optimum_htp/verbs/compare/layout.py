"""How a graph keeps a tensor that PyTorch has in another order or shape: optimizers move transpositions and reshapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

from optimum_htp.models import Array, Errors, Measure

_MOST_AXES = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """The reference's axes in the graph's order, or with `flat` the same elements in another shape."""

    order: tuple[int, ...] = ()
    flat: bool = False

    def of_reference(self, array: Array, shape: Sequence[int]) -> Array:
        """The graph's tensor as the reference has it, whose shape that is.

        >>> import numpy as np
        >>> Layout((1, 0)).of_reference(np.zeros((2, 3)), (3, 2)).shape
        (3, 2)
        """
        if self.flat:
            return array.reshape(tuple(shape))
        return array.transpose(self.order) if self.order else array

    def of_graph(self, array: Array, shape: Sequence[int]) -> Array:
        """The reference's tensor as the graph has it, where it has that shape."""
        if self.flat:
            return array.reshape(tuple(shape))
        if not self.order:
            return array
        inverse = tuple(sorted(range(len(self.order)), key=self.order.__getitem__))
        moved: Array = array.transpose(inverse)
        return moved


AS_IT_IS = Layout()


def fit(
    actual: Sequence[Array], expected: Sequence[Array], agrees: Callable[[Errors], bool]
) -> tuple[Layout, Errors] | None:
    """The layout in which a tensor agrees with a reference on all samples, else as it is; None if it has no shape for that.

    Whole numbers and booleans have to be equal, in the same layout.
    """
    if any(ours.dtype.kind != theirs.dtype.kind for ours, theirs in zip(actual, expected, strict=True)):
        return None
    plain = _measured(AS_IT_IS, actual, expected)
    if plain is not None and agrees(plain):
        return AS_IT_IS, plain
    for layout in _layouts(actual[0], expected[0]) if actual[0].dtype.kind == "f" else ():
        errors = _measured(layout, actual, expected)
        if errors is not None and agrees(errors):
            return layout, errors
    return None if plain is None else (AS_IT_IS, plain)


def measured(layout: Layout, actual: Sequence[Array], expected: Sequence[Array]) -> Errors | None:
    """How far a tensor is from a reference in a layout, on all samples; None if the shapes are different there."""
    return _measured(layout, actual, expected)


def _measured(layout: Layout, actual: Sequence[Array], expected: Sequence[Array]) -> Errors | None:
    measure = Measure()
    for ours, theirs in zip(actual, expected, strict=True):
        if (ours.size != theirs.size) if layout.flat else (len(layout.order or ours.shape) != ours.ndim):
            return None
        seen = layout.of_reference(ours, theirs.shape)
        if seen.shape != theirs.shape:
            return None
        measure.add(seen, theirs)
    return measure.errors()


def _layouts(actual: Array, expected: Array) -> list[Layout]:
    if actual.ndim != expected.ndim:
        return [Layout(flat=True)] if actual.size == expected.size and actual.size > 1 else []
    if sorted(actual.shape) != sorted(expected.shape) or not 2 <= actual.ndim <= _MOST_AXES:
        return []
    orders = (order for order in permutations(range(actual.ndim)) if list(order) != list(range(actual.ndim)))
    return [Layout(order) for order in orders if actual.transpose(order).shape == expected.shape]
