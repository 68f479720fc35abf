"""What was done to the parameters of a PyTorch model to make an initializer: found by value.

Each kind of change is one method that proves itself on the values. The parameters of the modules whose nodes consume the
tensor are tried first, because equal values are common: biases start as zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import prod

from optimum_htp.models.parameters.initializers import TaggedInitializer
from optimum_htp.models.parameters.readings import Reading, changes_to, readings
from optimum_htp.models.parameters.state_dict import Array, SourceTensors, distance, shared_start
from optimum_htp.package import Derivation

_MAX_PIECES = 16
_SCALE = ("weight", "running_var")
_SHIFT = ("bias", "running_mean", "weight", "running_var")


CHANGES = (
    "transposed", "reshaped", "sliced", "gathered", "cast", "scaled", "shifted", "folded", "concatenated", "quantized",
)  # fmt: skip
"""What may be done to parameters. `ParameterRow` says what the words mean."""


class Matcher:
    """Finds what initializers were made of: `source` has the model's tensors, `read` gives an initializer's values."""

    def __init__(
        self,
        source: SourceTensors,
        initializers: Iterable[TaggedInitializer],
        read: Callable[[TaggedInitializer], Array | None],
    ) -> None:
        self.source = source
        self.read = read
        self._initializers = {initializer.key: initializer for initializer in initializers}

    def readings(self, tensor: TaggedInitializer, array: Array) -> Iterator[Reading]:
        """The ways to read a tensor."""
        return readings(tensor, array, find=lambda name: self.find(tensor.graph, name), read=self.read)

    def find(self, graph: str, name: str) -> TaggedInitializer | None:
        """The initializer that a name means in a graph: of that graph, or of one around it."""
        while (graph, name) not in self._initializers and graph:
            graph = graph.rpartition("/")[0]
        return self._initializers.get((graph, name))

    def match(
        self, tensor: TaggedInitializer, array: Array, paths: Sequence[str], *, named: str | None = None
    ) -> Derivation | None:
        """What a tensor with these values was made of; None where that is not known.

        `paths` are those, in the whole model, of the modules that it is for; of equal parameters `named` is meant.
        """
        computed = (self._folded, self._norm, self._concatenated, self._rows)
        unquantized = (self._scaled, self._shifted)
        for reading in self.readings(tensor, array):
            derivation = self._plain(reading, paths, named)
            if derivation is None and reading.values.dtype.kind == "f":
                kinds = computed if reading.step is not None else computed + unquantized
                derivation = next((made for kind in kinds if (made := kind(reading, paths))), None)
            if derivation is not None:
                word = "quantized" if reading.step is not None else "cast" if reading.rounding else ""
                changes = dict.fromkeys((*derivation.changes, *([word] if word else ())))
                return replace(derivation, changes=tuple(changes), scale=reading.scale, zero_point=reading.zero_point)
        return None

    def anywhere(self, tensor: TaggedInitializer, array: Array) -> tuple[str, ...]:
        """All parameters that a tensor with these values may be, with nothing else but the values to tell.

        It is one of these itself, or the weight of a convolution with the batch norm after it folded in.
        """
        for reading in self.readings(tensor, array):
            if not reading.telling:
                continue
            found = self._plain(reading, (), None) or self._folded(reading, self._convolutions(reading.values.shape))
            if found is not None:
                return (found.parameters[0], *found.duplicates)  # what else went into a folded one is its norm's
        return ()

    def _convolutions(self, shape: tuple[int, ...]) -> list[str]:
        """The modules with a convolution's weight of a shape."""
        if len(shape) < 3 or not self.source.norms:
            return []
        alike = (name for name in self.source.by_size.get(prod(shape), ()) if name.endswith("weight"))
        return [name.rpartition(".")[0] for name in alike if self.source.tensors[name].shape == shape]

    def _plain(self, reading: Reading, paths: Sequence[str], named: str | None) -> Derivation | None:
        """A parameter itself, in another shape, order or type."""
        size = reading.values.size
        near, far = self.source.near(paths, self.source.by_size.get(size, ()))
        if size < 2:  # one number is equal to many: only the module's own can be meant
            near = [name for name in near if any(distance(name, path) == 0 for path in paths)]
        for names in (near, far) if reading.telling else (near,):
            matches = {name: changes for name in names if (changes := changes_to(self.source.tensors[name], reading))}
            if matches:
                equal = _nearest(matches, paths) if names is near else list(matches)
                # Of a square matrix with equal values, the one that is just the same is meant.
                first = min(
                    equal, key=lambda name: (name != named, len(matches[name]) > 1, matches[name] != ("same",))
                )
                return Derivation((first,), matches[first], tuple(name for name in equal if name != first))
        return None

    def _folded(self, reading: Reading, paths: Sequence[str]) -> Derivation | None:
        """The weight or the bias of a convolution with the batch norm after it."""
        if reading.values.ndim == 2 or not self.source.norms:
            return None
        folds = [parts for path in paths if (parts := self._fold(reading, path))]
        if not folds:
            return None
        others = dict.fromkeys(parts[0] for parts in folds if parts[0] not in folds[0])
        return Derivation(folds[0], ("folded",), tuple(others))

    def _fold(self, reading: Reading, path: str) -> tuple[str, ...]:
        """The parameters of a convolution at a path and of a batch norm that make a tensor together."""
        shape = reading.values.shape
        norms = [norm for norm in self.source.norms if norm.scale.size in shape]
        norms.sort(key=lambda norm: -len(shared_start([norm.name.split("."), path.split(".")])))
        weights = [name for name, value in self.source.tensors.items() if name.endswith("weight") and value.ndim > 2]
        for weight in self.source.near([path], weights)[0]:
            own = f"{weight.rpartition('.')[0]}.bias"
            for norm in norms:
                parts = [weight, f"{norm.name}.weight", f"{norm.name}.running_var"]
                expected = _per_channel(self.source.tensors[weight], norm.scale, reading)
                if len(shape) == 1:
                    before = self.source.tensors.get(own)
                    expected = norm.shift if before is None else norm.shift + before * norm.scale
                    parts = [own, f"{norm.name}.bias", f"{norm.name}.running_mean", *parts[1:]]
                if expected is not None and reading.is_made_by(expected):
                    return tuple(part for part in parts if part in self.source.tensors)
        return ()

    def _norm(self, reading: Reading, paths: Sequence[str]) -> Derivation | None:
        """What a batch norm on its own multiplies by, or adds, computed beforehand."""
        matches = []
        for norm in self.source.norms:
            if norm.scale.size != reading.values.size or norm.name not in paths:
                continue
            for values, parts in ((norm.scale, _SCALE), (norm.shift, _SHIFT)):
                names = tuple(name for part in parts if (name := f"{norm.name}.{part}") in self.source.tensors)
                if names and reading.is_made_by(values.reshape(reading.values.shape)):
                    matches.append(names)
                    break
        return Derivation(matches[0], ("folded",), tuple(names[0] for names in matches[1:])) if matches else None

    def _concatenated(self, reading: Reading, paths: Sequence[str]) -> Derivation | None:
        """Several parameters side by side, as in a fused QKV; zeros may stand for a bias that is not there."""
        near, _ = self.source.near(paths, self.source.tensors)
        axes = reading.values.ndim
        for axis in sorted({axes - 1, 0}, reverse=True) if axes in (1, 2) else ():
            parts = list(self._pieces(reading.moved(axis), near))
            if len(parts) > 1:
                # In the first axis the rows of a Linear's weight stand as they are; in the last they were transposed.
                transposed = axes == 2 and any((change == "same") == (axis == 1) for _, change in parts)
                names = tuple(name for name, _ in parts)
                return Derivation(names, (*(("transposed",) if transposed else ()), "concatenated"))
        return None

    def _pieces(self, whole: Reading, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The parameters that fill a tensor along its first axis; nothing where they don't fill all of it."""
        import numpy as np

        parts: list[tuple[str, str]] = []
        start, width, length = 0, 0, len(whole.values)
        while start < length and len(parts) < _MAX_PIECES:
            piece = next(self._starting(whole.part(start, length), names, {name for name, _ in parts}), None)
            if piece is not None:
                name, change, width = piece
                parts.append((name, change))
            elif not width or np.any(whole.values[start : start + width]):
                return
            start += width
        if start == length:
            yield from parts

    def _starting(self, whole: Reading, names: Iterable[str], used: set[str]) -> Iterator[tuple[str, str, int]]:
        """The parameters that a tensor starts with along its first axis."""
        shape = whole.values.shape
        for name in names:
            value = self.source.tensors[name]
            if name in used or value.ndim != len(shape) or not 0 < value.size <= whole.values.size:
                continue
            for change, piece in (("same", value), ("transposed", value.T))[: value.ndim]:
                if len(piece) <= shape[0] and piece.shape[1:] == shape[1:] and whole.part(0, len(piece)).is_of(piece):
                    yield name, change, len(piece)

    def _rows(self, reading: Reading, paths: Sequence[str]) -> Derivation | None:
        """Some rows of a table: a part of it (`sliced`), or those that constant numbers choose (`gathered`)."""
        if reading.step is not None or not reading.telling:
            return None
        near, _ = self.source.near(paths, self.source.tensors)
        for name in near:
            value = self.source.tensors[name]
            if value.ndim > 1 and value.dtype.kind == "f" and value.shape[-1] > 1:
                change = _rows_change(value, reading)
                if change:
                    return Derivation((name,), (change,))
        return None

    def _scaled(self, reading: Reading, paths: Sequence[str]) -> Derivation | None:
        """A parameter times a number, as a division by √d that was multiplied into a weight."""
        import numpy as np

        array = reading.values
        near, _ = self.source.near(paths, self.source.by_size.get(array.size, ()))
        for name in near:
            value = self.source.tensors[name]
            if value.dtype.kind != "f" or array.size < 2:
                continue
            for changes, arranged in ((("scaled",), value), (("transposed", "scaled"), value.T)):
                if arranged.shape != array.shape:
                    continue
                top = np.unravel_index(int(np.argmax(np.abs(arranged))), array.shape)
                if arranged[top] and array[top] and reading.is_made_by(arranged * (array[top] / arranged[top])):
                    return Derivation((name,), changes)
        return None

    def _shifted(self, reading: Reading, paths: Sequence[str]) -> Derivation | None:
        """A parameter plus a number, as the `1 + weight` of Gemma's norms."""
        array, matches = reading.values, []
        for name in self.source.by_size.get(array.size, ()):
            value = self.source.tensors[name]
            own = any(distance(name, path) == 0 for path in paths)
            alike = array.size > 1 and value.dtype.kind == "f" and value.shape == array.shape
            if own and alike and reading.is_made_by(value + (array.flat[0] - value.flat[0])):
                matches.append(name)
        return Derivation((matches[0],), ("shifted",), tuple(matches[1:])) if matches else None


def _nearest(names: Iterable[str], paths: Sequence[str]) -> list[str]:
    """For each module that a tensor is for, the parameters that are nearest to it."""
    names = list(names)
    nearest = {path: min(distance(name, path) for name in names) for path in paths}
    return [name for name in names if any(distance(name, path) == near < 3 for path, near in nearest.items())]


def _per_channel(weight: Array, scale: Array, reading: Reading) -> Array | None:
    """A convolution's weight with each output channel multiplied; None where they can't be these numbers."""
    shape = reading.values.shape
    if weight.shape != shape:
        return None
    axis = next((axis for axis in (0, 1) if shape[axis] == scale.size), None)
    if axis is None:
        return None
    by = scale.reshape(-1, *(1,) * (weight.ndim - axis - 1))
    one_each = tuple(slice(None) if each == axis else slice(0, 1) for each in range(weight.ndim))
    if reading.step is None and not replace(reading, values=reading.values[one_each]).is_made_by(
        weight[one_each] * by
    ):
        return None  # most are not, and the whole product takes long
    product: Array = weight * by
    return product


def _rows_change(table: Array, reading: Reading) -> str:
    """Whether a tensor holds rows of a table, whichever axis they lie along: `sliced`, `gathered`, or nothing."""
    import numpy as np

    width = table.shape[-1]
    rows = np.ascontiguousarray(table.reshape(-1, width).astype(reading.values.dtype, copy=False))
    known = {row.tobytes(): index for index, row in reversed(list(enumerate(rows)))}
    for axis in [axis for axis, size in enumerate(reading.values.shape) if size == width]:
        wanted = np.ascontiguousarray(np.moveaxis(reading.values, axis, -1)).reshape(-1, width)
        chosen = [known.get(row.tobytes(), -1) for row in wanted]
        if -1 not in chosen:
            return "sliced" if chosen == list(range(chosen[0], chosen[0] + len(chosen))) else "gathered"
    return ""
