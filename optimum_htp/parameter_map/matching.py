"""What was done to the parameters of a PyTorch model to make a stored tensor: found by value.

Each kind of change is one function that proves itself on the values. Those of the modules whose nodes read the tensor are
tried first, because equal values are common: biases start as zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

from optimum_htp.parameter_map.source import SourceTensors, distance
from optimum_htp.parameter_map.stored import StoredTensor


if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_MAX_PIECES = 16
_CLOSE = 1e-4


@dataclass(frozen=True, slots=True)
class Match:
    """What a stored tensor was made of, and how.

    Attributes:
        parameters: The parameters and buffers that it was made of; the one that it is named after is the first.
        changes: What was done to them, in order: `same` or some of `transposed`, `reshaped`, `cast`, `scaled`, `shifted`, `folded`,
            `concatenated`, `quantized`; `scale` and `zero_point` are those of a quantized one.
        duplicates: Other parameters that it stands for, because they have the same values.
        scale: The stored tensor that holds the scale of a quantized one.
        zero_point: That which holds its zero point; None where there is none.
    """

    parameters: tuple[str, ...]
    changes: tuple[str, ...]
    duplicates: tuple[str, ...] = ()
    scale: str | None = None
    zero_point: str | None = None


class Matcher:
    """Finds what stored tensors were made of.

    Args:
        source: The model's tensors.
        stored: The stored tensors of the file, by name.
        read: Gives the values of a stored tensor.
    """

    def __init__(
        self, source: SourceTensors, stored: Mapping[str, StoredTensor], read: Callable[[StoredTensor], Array | None]
    ) -> None:
        self.source = source
        self.stored = stored
        self.read = read

    def match(self, tensor: StoredTensor, array: Array, paths: Sequence[str]) -> Match | None:
        """What a tensor was made of; None where that is not known.

        Args:
            tensor: The tensor.
            array: Its values.
            paths: The dotted paths, in the whole model, of the modules that it is for.
        """
        if array.dtype.kind in "iu" and (found := self._quantized(tensor, array, paths)) is not None:
            return found
        found = self._plain(array, paths)
        if found is None and array.dtype.kind not in "iub":
            found = (
                self._folded(tensor, array, paths)
                or self._norm(array, paths)
                or self._concatenated(array, paths)
                or self._scaled(array, paths)
                or self._shifted(array, paths)
            )
        return found

    def _plain(self, array: Array, paths: Sequence[str]) -> Match | None:
        """A parameter itself, in another shape, order or type."""
        near, far = self.source.near(paths, self.source.by_size.get(array.size, ()))
        if array.size < 2:  # one number is equal to many: only the module's own can be meant
            near = [name for name in near if any(distance(name, path) == 0 for path in paths)]
        telling = array.dtype.kind == "f" and bool((array != array.flat[0]).any()) if array.size > 1 else False
        for names in (near, far) if telling else (near,):
            found = [(name, changes) for name in names if (changes := changes_to(self.source.tensors[name], array))]
            if found:
                if names is near:
                    found = _nearest(found, paths)
                # Of a square matrix with equal values, the one that is just the same is meant.
                first = min(found, key=lambda item: (len(item[1]) > 1, item[1] != ("same",)))
                others = tuple(name for name, _ in found if name != first[0]) if names is near else ()
                return Match((first[0],), first[1], others)
        return None

    def _folded(self, tensor: StoredTensor, array: Array, paths: Sequence[str]) -> Match | None:
        """The weight or the bias of a convolution with the batch norm behind it."""
        slots = {use.slot for use in tensor.uses if use.node.op_type in _CONVOLUTIONS} & {1, 2}
        found = [parts for path in paths for slot in slots if (parts := self._fold(array, path, bias=slot == 2))]
        if not found:
            return None
        others = dict.fromkeys(parts[0] for parts in found if parts[0] not in found[0])
        return Match(found[0], ("folded",), tuple(others))

    def _fold(self, array: Array, path: str, *, bias: bool) -> tuple[str, ...]:
        """The parameters of a convolution at a path and of a batch norm that make an array together."""
        norms = [norm for norm in self.source.norms if norm.scale.size in array.shape]
        norms.sort(key=lambda norm: -_shared_prefix(norm.name, path))
        weights = [name for name, value in self.source.tensors.items() if name.endswith("weight") and value.ndim > 2]
        for weight in self.source.near([path], weights)[0]:
            own = f"{weight.rpartition('.')[0]}.bias"
            for norm in norms:
                parts = [weight, f"{norm.name}.weight", f"{norm.name}.running_var"]
                expected = _per_channel(self.source.tensors[weight], norm.scale, array.shape)
                if bias:
                    before = self.source.tensors.get(own)
                    expected = norm.shift if before is None else norm.shift + before * norm.scale
                    parts = [own, f"{norm.name}.bias", f"{norm.name}.running_mean", *parts[1:]]
                if expected is not None and _close(expected, array):
                    return tuple(part for part in parts if part in self.source.tensors)
        return ()

    def _norm(self, array: Array, paths: Sequence[str]) -> Match | None:
        """What a batch norm that stands for itself multiplies by, or adds, computed beforehand."""
        found = []
        for norm in self.source.norms:
            if norm.scale.size != array.size or norm.name not in paths:
                continue
            made = ((norm.scale, _SCALE), (norm.shift, _SHIFT))
            parts = next((parts for each, parts in made if _close(each, array.ravel())), ())
            names = tuple(f"{norm.name}.{part}" for part in parts if f"{norm.name}.{part}" in self.source.tensors)
            found += [names] if names else []
        return Match(found[0], ("folded",), tuple(names[0] for names in found[1:])) if found else None

    def _concatenated(self, array: Array, paths: Sequence[str]) -> Match | None:
        """Several parameters side by side, as in a fused QKV; zeros may stand for a bias that is not there."""
        near, _ = self.source.near(paths, self.source.tensors)
        for axis in sorted({array.ndim - 1, 0}, reverse=True) if array.ndim in (1, 2) else ():
            parts = list(self._pieces(array, axis, near))
            if len(parts) > 1:
                transposed = any(each == "transposed" for _, each in parts)
                names = tuple(name for name, _ in parts)
                return Match(names, (*(("transposed",) if transposed else ()), "concatenated"))
        return None

    def _pieces(self, array: Array, axis: int, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The parameters that fill an array along an axis; nothing where they don't fill all of it."""
        import numpy as np

        whole = np.moveaxis(array, axis, 0)
        parts: list[tuple[str, str]] = []
        at, width = 0, 0
        while at < len(whole) and len(parts) < _MAX_PIECES:
            found = next(self._starting(whole[at:], names, {name for name, _ in parts}), None)
            if found is None:
                if not width or np.any(whole[at : at + width]):
                    return
                at += width
                continue
            name, change, width = found
            # In the first axis the rows of a Linear's weight stand as they are; in the last they were transposed.
            parts.append((name, "transposed" if (change == "same") == (axis == 1) and array.ndim == 2 else "same"))
            at += width
        if at == len(whole):
            yield from parts

    def _starting(self, whole: Array, names: Iterable[str], used: set[str]) -> Iterator[tuple[str, str, int]]:
        """The parameters that an array starts with along its first axis."""
        import numpy as np

        for name in names:
            value = self.source.tensors[name]
            if name in used or value.ndim != whole.ndim or value.size == 0 or value.size > whole.size:
                continue
            for change, each in (("same", value), ("transposed", value.T)) if value.ndim == 2 else (("same", value),):
                fits = len(each) <= len(whole) and each.shape[1:] == whole.shape[1:]
                if fits and np.array_equal(each.astype(whole.dtype, copy=False), whole[: len(each)]):
                    yield name, change, len(each)

    def _scaled(self, array: Array, paths: Sequence[str]) -> Match | None:
        """A parameter times a number, as a division by √d that was multiplied into a weight."""
        import numpy as np

        near, _ = self.source.near(paths, self.source.by_size.get(array.size, ()))
        for name in near:
            value = self.source.tensors[name]
            if value.dtype.kind != "f" or array.size < 2:
                continue
            for change, each in (("", value), ("transposed", value.T)):
                if each.shape != array.shape:
                    continue
                top = np.unravel_index(int(np.argmax(np.abs(each))), each.shape)
                if each[top] and array[top] and _close(each * (array[top] / each[top]), array):
                    return Match((name,), (*((change,) if change else ()), "scaled"))
        return None

    def _shifted(self, array: Array, paths: Sequence[str]) -> Match | None:
        """A parameter plus a number, as the `1 + weight` of Gemma's norms."""
        found = []
        for name in self.source.by_size.get(array.size, ()):
            value = self.source.tensors[name]
            own = any(distance(name, path) == 0 for path in paths)
            alike = array.size > 1 and value.dtype.kind == "f" and value.shape == array.shape
            if own and alike and _close(value + (array.flat[0] - value.flat[0]), array):
                found.append(name)
        return Match((found[0],), ("shifted",), tuple(found[1:])) if found else None

    def _quantized(self, tensor: StoredTensor, array: Array, paths: Sequence[str]) -> Match | None:
        """A parameter in steps of a scale: within half a step of it everywhere."""
        near, far = self.source.near(paths, self.source.by_size.get(array.size, ()))
        for scale, zero_point in self._scales(tensor):
            steps = self.read(self.stored[scale])
            zero = self.read(self.stored[zero_point]) if zero_point is not None else None
            if steps is None or steps.dtype.kind != "f":
                continue
            for name in (*near, *far):
                changes = _changes_of_quantized(self.source.tensors[name], array, steps, zero)
                if changes:
                    return Match((name,), changes, (), scale, zero_point)
        return None

    def _scales(self, tensor: StoredTensor) -> Iterator[tuple[str, str | None]]:
        """The stored tensors that may be the scale and the zero point of a quantized one."""
        stem = tensor.tensor.name.removesuffix("_quantized")
        for base in (stem, tensor.tensor.name):
            if f"{base}_scale" in self.stored:
                yield f"{base}_scale", _known(f"{base}_zero_point", self.stored)
        for use in tensor.uses:
            behind = [name for name in use.node.inputs[use.slot + 1 :] if name in self.stored]
            floats = [name for name in behind if self.stored[name].tensor.data_type in _FLOATS]
            same = [name for name in behind if self.stored[name].tensor.data_type == tensor.tensor.data_type]
            for scale in floats[:2]:
                yield scale, same[0] if same else None


def _nearest(found: list[tuple[str, tuple[str, ...]]], paths: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """For each module that a tensor is for, the parameters that are nearest to it."""
    wanted: set[str] = set()
    for path in paths:
        nearest = min(distance(name, path) for name, _ in found)
        wanted.update(name for name, _ in found if distance(name, path) == nearest < 3)
    return [item for item in found if item[0] in wanted]


_SCALE = ("weight", "running_var")
_SHIFT = ("bias", "running_mean", "weight", "running_var")
_CONVOLUTIONS = ("Conv", "FusedConv", "ConvTranspose", "NhwcFusedConv", "QLinearConv")
_FLOATS = (1, 10, 11, 16)


def changes_to(value: Array, array: Array) -> tuple[str, ...]:
    """What makes an array of a parameter's values: `("same",)`, or what was done; `()` where it was not made of them."""
    import numpy as np

    if value.size != array.size or value.dtype.kind != array.dtype.kind:
        return ()
    cast = ("cast",) if value.dtype != array.dtype else ()
    value = value.astype(array.dtype, copy=False)
    if array.size and not _same_corner(value, array):
        return ()
    if value.shape == array.shape and np.array_equal(value, array, equal_nan=value.dtype.kind == "f"):
        return cast or ("same",)
    for order in permutations(range(value.ndim)) if 2 <= value.ndim <= 4 else ():
        moved = value.transpose(order)
        if moved.shape == array.shape and np.array_equal(moved, array):
            return ("transposed", *cast)
    if value.shape != array.shape and np.array_equal(value.ravel(), array.ravel()):
        return ("reshaped", *cast)
    return ()


def _same_corner(value: Array, array: Array) -> bool:
    """Whether the first and the last element are equal; a transposition leaves both where they are."""
    ends = [(each.flat[0], each.flat[-1]) for each in (value, array)]
    return all(left == right or (left != left and right != right) for left, right in zip(*ends, strict=True))


def _changes_of_quantized(value: Array, array: Array, scale: Array, zero: Array | None) -> tuple[str, ...]:
    import numpy as np

    if value.dtype.kind != "f" or value.size != array.size:
        return ()
    steps = array.astype(np.float32)
    for change, each in (("", value), ("transposed", value.T)):
        if each.shape != array.shape:
            continue
        for shape in _channel_shapes(scale, array.shape):
            by = scale.astype(np.float32).reshape(shape)
            offset = (
                zero.astype(np.float32).reshape(shape if zero.size == scale.size else ()) if zero is not None else 0.0
            )
            error = np.abs((steps - offset) * by - each)
            if np.all(error <= np.abs(by) * 0.502 + 1e-7 * np.abs(each) + 1e-12):
                return (*((change,) if change else ()), "quantized")
    return ()


def _channel_shapes(scale: Array, shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The shapes in which a scale may be held against an array: one for all, or one for each channel of an axis."""
    if scale.size == 1:
        yield ()
        return
    for axis, size in enumerate(shape):
        if size == scale.size:
            yield tuple(size if each == axis else 1 for each in range(len(shape)))


def _per_channel(weight: Array, scale: Array, shape: tuple[int, ...]) -> Array | None:
    """A convolution's weight with each output channel multiplied; None where the shapes don't fit."""
    if weight.shape != shape:
        return None
    axis = next((axis for axis in (0, 1) if shape[axis] == scale.size), None)
    if axis is None:
        return None
    made: Array = weight * scale.reshape([-1 if each == axis else 1 for each in range(weight.ndim)])
    return made


def _close(expected: Array, array: Array) -> bool:
    import numpy as np

    if expected.shape != array.shape:
        return False
    top = float(np.abs(array).max(initial=0.0))
    return bool(np.allclose(expected, array, rtol=_CLOSE, atol=_CLOSE * 0.01 * top))


def _shared_prefix(left: str, right: str) -> int:
    pairs = zip(left.split("."), right.split("."), strict=False)
    length = 0
    for one, other in pairs:
        if one != other:
            break
        length += 1
    return length


def _known(name: str, names: Mapping[str, object]) -> str | None:
    return name if name in names else None
