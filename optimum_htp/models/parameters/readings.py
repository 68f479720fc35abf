"""How an initializer is read as numbers: as they are, or in steps of a scale, and how far those may be off.

A parameter that was rounded to another type, or quantized, is within half a step of what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations, permutations
from math import prod

from optimum_htp.models.parameters.initializers import TaggedInitializer
from optimum_htp.models.parameters.state_dict import Array
from optimum_htp.onnxfile import NUMBERS

# How far off a number may be that was rounded to a type, as a part of it.
_ROUNDING = {NUMBERS["float16"]: 2.0**-11, NUMBERS["bfloat16"]: 2.0**-8}
FLOATS = (NUMBERS["float32"], NUMBERS["float64"], *_ROUNDING)
_QUANTIZED = tuple(NUMBERS[name] for name in ("uint8", "int8", "uint16", "int16", "int32", "uint4", "int4"))
# Half precision has nothing between 0 and this; converters move what is nearer to 0.
_SMALLEST_HALF = 1.2e-7
_COMPUTED = 1e-4
_HALF_A_STEP = 0.502


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read an initializer, as these numbers."""

    values: Array
    rounding: float = 0.0  # how far they may be off, as a part of each
    step: Array | None = None  # how far apart neighbours are, for all or for each channel; None if not quantized
    scale: tuple[str, ...] = ()  # the initializers whose product the step is
    zero_point: str | None = None  # the initializer that holds it

    @property
    def telling(self) -> bool:
        """Whether such numbers can't be met by accident."""
        return (
            self.values.dtype.kind == "f" and self.values.size > 1 and bool((self.values != self.values.flat[0]).any())
        )

    def is_of(self, value: Array) -> bool:
        """Whether a parameter's values are these numbers."""
        if value.shape != self.values.shape or value.dtype.kind != self.values.dtype.kind:
            return False
        if self.step is not None or self.rounding:
            return self._near(value, relative=0.0)
        import numpy as np

        cast = value.astype(self.values.dtype, copy=False)
        ends = ((cast.flat[index], self.values.flat[index]) for index in ((0, -1) if cast.size else ()))
        if not all(left == right or (left != left and right != right) for left, right in ends):
            return False
        return np.array_equal(cast, self.values, equal_nan=cast.dtype.kind == "f")

    def is_made_by(self, value: Array) -> bool:
        """Whether these are the numbers that a computation gives, whose order of rounding is not known."""
        return value.shape == self.values.shape and self._near(value, relative=_COMPUTED)

    def moved(self, axis: int) -> Reading:
        """The same with an axis as the first."""
        import numpy as np

        step = None if self.step is None else np.moveaxis(np.broadcast_to(self.step, self.values.shape), axis, 0)
        return replace(self, values=np.moveaxis(self.values, axis, 0), step=step)

    def part(self, start: int, stop: int) -> Reading:
        """What is from one index to another along the first axis."""
        step = self.step if self.step is None or not self.step.ndim else self.step[start:stop]
        return replace(self, values=self.values[start:stop], step=step)

    def _near(self, value: Array, *, relative: float) -> bool:
        import numpy as np

        top = float(np.abs(self.values).max(initial=0.0))
        smallest = (_SMALLEST_HALF if self.rounding else 1e-12) + relative * 0.01 * top

        def near(value: Array, values: Array, step: Array | float) -> bool:
            limit = smallest + (relative + self.rounding + 1e-7) * np.abs(value) + step * _HALF_A_STEP
            return bool(np.all(np.abs(values - value) <= limit))

        step = np.broadcast_to(np.abs(self.step) if self.step is not None else np.float32(0), value.shape)
        ends = (slice(0, 1), slice(-1, None)) if value.size else ()
        corners = ((end,) * value.ndim for end in ends)
        if not all(near(value[corner], self.values[corner], step[corner]) for corner in corners):
            return False
        return near(value, self.values, step)


def _arrangements(value: Array, shape: tuple[int, ...]) -> Iterator[tuple[tuple[str, ...], Array]]:
    """A parameter's values in a shape, and what was done to them: nothing, `transposed`, or `reshaped`."""
    if value.shape == shape:
        yield (), value
    _, *orders = permutations(range(value.ndim)) if value.ndim <= 4 else ((),)  # the first leaves the axes as they are
    for order in orders:
        if tuple(value.shape[axis] for axis in order) == shape:
            yield ("transposed",), value.transpose(order)
    if value.shape != shape and value.size == prod(shape):
        yield ("reshaped",), value.reshape(shape)


def changes_to(value: Array, reading: Reading) -> tuple[str, ...]:
    """What makes an initializer of a parameter's values: `("same",)`, or what was done; `()` where it is not of them."""
    for changes, arranged in _arrangements(value, reading.values.shape):
        if reading.is_of(arranged):
            cast = reading.step is None and (value.dtype != reading.values.dtype or reading.rounding > 0)
            done = (*changes, *(("cast",) if cast else ()), *(("quantized",) if reading.step is not None else ()))
            return done or ("same",)
    return ()


def readings(
    tensor: TaggedInitializer,
    array: Array,
    *,
    find: Callable[[str], TaggedInitializer | None],
    read: Callable[[TaggedInitializer], Array | None],
) -> Iterator[Reading]:
    """The ways to read an initializer, the likeliest first; `find` gives the initializer that a name means there."""
    import numpy as np

    kind = tensor.tensor.data_type
    if kind in _QUANTIZED:
        steps = array.astype(np.float32)
        for scale, zero_point in _scales(tensor, find=find):
            step = reduce(
                np.multiply, (values.astype(np.float32) for factor in scale if (values := read(factor)) is not None)
            )
            zero = read(zero_point) if zero_point is not None else None
            for shape in _channel_shapes(step.size, array.shape):
                by = step.reshape(shape)
                offset = np.float32(0) if zero is None else zero.astype(np.float32)
                offset = offset.reshape(shape if offset.size == by.size else ())
                names = tuple(factor.tensor.name for factor in scale)
                zero_name = zero_point.tensor.name if zero_point is not None else None
                yield Reading((steps - offset) * by, step=by, scale=names, zero_point=zero_name)
    rounding = _ROUNDING.get(kind, 0.0)
    yield Reading(array.astype(np.float32) if rounding else array, rounding=rounding)


def _scales(
    tensor: TaggedInitializer, *, find: Callable[[str], TaggedInitializer | None]
) -> Iterator[tuple[tuple[TaggedInitializer, ...], TaggedInitializer | None]]:
    """The initializers that may be the scale and the zero point of a quantized one.

    The names say it (a product of integers may be scaled further on), or the tensor's consumers consume them too.
    The bias of a quantized convolution has the product of two scales.
    """
    name, size = tensor.tensor.name, tensor.tensor.dims
    for base in (name.removesuffix("_quantized"), name):
        scale = find(f"{base}_scale")
        if scale is not None and _fits(scale, size):
            yield (scale,), find(f"{base}_zero_point")
    for node, slot in tensor.consumers:
        inputs = node.inputs
        # Those after it come first: operators have a tensor's scale and zero point after the tensor.
        others = list(filter(None, map(find, (*inputs[slot + 1 :], *inputs[:slot]))))
        scales = [other for other in others if other.tensor.data_type in FLOATS and _fits(other, size)]
        products = combinations(sorted(scales, key=lambda scale: inputs.index(scale.tensor.name)), 2)
        for pair in products if tensor.tensor.data_type == NUMBERS["int32"] else ():
            yield pair, None
        for scale in scales:
            alike = (other for other in others if other.tensor.data_type == tensor.tensor.data_type)
            yield (scale,), next((other for other in alike if other.tensor.dims == scale.tensor.dims), None)


def _fits(scale: TaggedInitializer, shape: tuple[int, ...]) -> bool:
    """Whether a tensor may be the scale of one of this shape: it has one number, or one for each channel of an axis."""
    return prod(scale.tensor.dims) in (1, *shape)


def _channel_shapes(size: int, shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The shapes in which a scale may be compared with an array: one for all, or one for each channel of an axis."""
    if size == 1:
        yield ()
        return
    for axis, length in enumerate(shape):
        if length == size:
            yield (1,) * axis + (size,) + (1,) * (len(shape) - axis - 1)
