"""A few numbers of each weight, by which it is known again inside another: what tools pack is put together of whole weights.

Four numbers are taken of a weight, at places that only its size decides. A weight was packed into a larger one, along
whichever axis, in whatever order, transposed or stacked, if the four stand there at the places where they then have to
be. Nothing else of either is looked at, so it costs the same for weights of any size.

Example: of `[[a, b], [c, d]]`, `a` and `d` are taken. In `[[e, a, b], [f, c, d]]` they stand one column further on, both.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import permutations
from math import prod
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from optimum_htp.onnxfile.model import Graph, Initializer, OnnxModel
from optimum_htp.onnxfile.types import NUMBERS, element_type
from optimum_htp.onnxfile.wire import Data, release_pages

PROBE_NUMBERS = 4
"""How many numbers are taken of a weight."""

_PLACES = (
    40_503,
    15_470,
    55_973,
    30_940,
)  # of 65,536 parts of the weight: far apart, and in rows and columns of their own
_FEWEST = 8  # elements; four numbers of fewer are most of them
_DISTINCT = 3  # numbers; of a weight that is all zeros or ones they tell nothing
_MAX_RANK = 6
_LIKELY = 64  # places that are tried before all are
_MAX_LOOKS = 1 << 22  # numbers that are compared for one model; a search that would take longer finds nothing

_FLOAT32, _FLOAT64, _FLOAT16, _BFLOAT16 = (NUMBERS[name] for name in ("float32", "float64", "float16", "bfloat16"))
_FORMATS = {_FLOAT32: "<f", _FLOAT64: "<d", _FLOAT16: "<e", _BFLOAT16: "<f"}


class _Numbers(NamedTuple):
    """The numbers of a tensor, in a row."""

    data: Data
    start: int
    data_type: int

    @property
    def width(self) -> int:
        return (element_type(self.data_type).bits or 8) // 8

    def at(self, index: int) -> bytes:
        place = self.start + index * self.width
        return self.data[place : place + self.width]


class StoredNumbers(ExitStack):
    """Looks at single numbers of the tensors in a model's file and in its external data; a context manager.

    What can't be read is not there: a file that is missing, was changed since, or lies outside the model's directory.
    `content` is that of a file that has not been written yet.
    """

    def __init__(self, model: OnnxModel, content: bytes | None = None) -> None:
        super().__init__()
        self._path = model.path
        self._files: dict[str | None, Data | None] = {} if content is None else {None: content}
        self._looks = _MAX_LOOKS
        self._passed = self._released = 0  # bytes of the tensors, of which none stay in memory

    def probe(self, tensor: Initializer) -> tuple[float, ...]:
        """The numbers that a weight is known by; none where they tell nothing."""
        numbers = self._numbers(tensor)
        if numbers is None or prod(tensor.dims) < _FEWEST:
            return ()
        values = tuple(_decoded(numbers.at(place), tensor.data_type) for place in _places(prod(tensor.dims)))
        self._pass(numbers, tensor)
        return values if _tell(values) else ()

    def parts(self, whole: Initializer, candidates: Sequence[Initializer]) -> dict[int, int] | None:
        """Which of some weights stand in another, by their index, in the order in which they do there.

        The values of the dict are places in the other weight, which order the parts. None if its content can't be
        compared with theirs: it is not there, or has other numbers, as quantized ones.
        """
        numbers = self._numbers(whole)
        if numbers is None or not any(each.probe for each in candidates):
            return None
        shape = tuple(size for size in whole.dims if size != 1)
        found: dict[int, int] = {}
        for layout in _layouts(shape, [each if each.probe else None for each in candidates]):
            place = self._place(numbers, shape, layout) if layout.which not in found else None
            if place is not None:
                found[layout.which] = place
        self._pass(numbers, whole)
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def _pass(self, numbers: _Numbers, tensor: Initializer) -> None:
        self._passed += prod(tensor.dims) * numbers.width
        self._released = release_pages(numbers.data, self._passed, self._released)

    def _place(self, numbers: _Numbers, shape: tuple[int, ...], layout: _Layout) -> int | None:
        """Where along the layout's axis a weight begins; None if it is not there."""
        strides: list[int] = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
        step, length = strides[layout.axis], shape[layout.axis]
        wanted = [_encoded(value, numbers.data_type) for value in layout.probe]
        rows = [  # the first number of the line along the axis that each has to be in
            sum(
                at * stride
                for axis, (at, stride) in enumerate(zip(place, strides, strict=True))
                if axis != layout.axis
            )
            for place in layout.places
        ]
        along = [place[layout.axis] for place in layout.places]

        def stands(begin: int) -> bool:
            self._looks -= 1
            return self._looks > 0 and all(
                numbers.at(row + (begin + at) * step) in values
                for row, at, values in zip(rows, along, wanted, strict=True)
            )

        starts = range(shape[layout.axis] - layout.size + 1)
        likely = range(0, len(starts), layout.size)  # where the parts before it are as long, or several times so
        begin: int
        for begin in (*likely[:_LIKELY], len(starts) - 1):
            if stands(begin):
                return begin
        first = self._line(numbers, rows[0], step, length, wanted[0])
        found: int | None = next(
            (at - along[0] for at in first if at - along[0] in starts and stands(at - along[0])), None
        )
        if found is None and first and numbers.data_type in (_FLOAT32, _FLOAT64):
            others = zip(rows[1:], wanted[1:], strict=True)
            if all(self._line(numbers, row, step, length, values) for row, values in others):
                return first[0]  # in pieces, such as one for each head
        return found

    def _line(self, numbers: _Numbers, row: int, step: int, length: int, values: Sequence[bytes]) -> list[int]:
        """Where one of some numbers stands in a line of a weight."""
        if length > self._looks:
            return []
        self._looks -= length
        return [index for index in range(length) if numbers.at(row + index * step) in values]

    def _numbers(self, tensor: Initializer) -> _Numbers | None:
        """The numbers of a tensor, if it has floats and all of them are there."""
        if tensor.data_type not in _FORMATS or len(tensor.dims) > _MAX_RANK or min(tensor.dims, default=0) <= 0:
            return None
        size = prod(tensor.dims) * ((element_type(tensor.data_type).bits or 0) // 8)
        span = tensor.span
        if tensor.location is not None:
            span = tensor.offset, tensor.offset + (size if tensor.length is None else tensor.length)
        if span is None or span[1] - span[0] != size:
            return None
        data = self._data(tensor.location)
        return _Numbers(data, span[0], tensor.data_type) if data is not None and span[1] <= len(data) else None

    def _data(self, location: str | None) -> Data | None:
        if location not in self._files:
            path = self._path if location is None else _inside(self._path.parent, location)
            self._files[location] = self._mapped(path) if path is not None else None
        return self._files[location]

    def _mapped(self, path: Path) -> Data | None:
        with suppress(OSError, ValueError):
            if stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its other end
                with path.open("rb") as file:
                    return self.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return None


def with_probes(model: OnnxModel, content: bytes | None = None) -> OnnxModel:
    """A model whose weights have their probes, as far as its file is there; `content` is that of one not yet written."""
    with StoredNumbers(model, content) as stored:

        def probed(graph: Graph) -> Graph:
            nodes = [
                replace(node, bodies=tuple((name, probed(body)) for name, body in node.bodies))
                if node.bodies
                else node
                for node in graph.nodes
            ]
            tensors = tuple(  # without their places, which are others once the file is written anew
                replace(tensor, probe=tensor.probe or stored.probe(tensor), span=None) for tensor in graph.initializers
            )
            return replace(graph, nodes=nodes, initializers=tensors)

        return replace(model, graph=probed(model.graph))


class _Layout(NamedTuple):
    """How a weight may lie in a larger one."""

    which: int  # of the weights
    axis: int  # of the larger one, along which it has a part
    size: int  # of that part
    probe: tuple[float, ...]
    places: list[tuple[int, ...]]  # of the numbers, from the part's own beginning


def _layouts(shape: tuple[int, ...], candidates: Sequence[Initializer | None]) -> Iterator[_Layout]:
    """All ways in which each of some weights fits into a shape: as it is, transposed or stacked, along each axis."""
    for index, tensor in enumerate(candidates):
        if tensor is None or min(tensor.dims, default=0) <= 0:
            continue
        own = tuple(size for size in tensor.dims if size != 1)
        if len(own) not in (len(shape), len(shape) - 1):
            continue
        for order in _orders(len(own)):
            turned = [own[axis] for axis in order]
            places = [tuple(place[axis] for axis in order) for place in _coordinates(own)]
            for axis in range(len(shape)):
                stacked = len(own) < len(shape)
                fitted = [*turned[:axis], 1, *turned[axis:]] if stacked else turned
                others = (a == b for at, (a, b) in enumerate(zip(fitted, shape, strict=True)) if at != axis)
                if not all(others) or fitted[axis] > shape[axis]:
                    continue
                fits = [(*place[:axis], 0, *place[axis:]) for place in places] if stacked else places
                yield _Layout(index, axis, fitted[axis], tensor.probe, fits)


def _orders(rank: int) -> Iterable[tuple[int, ...]]:
    """The orders of a weight's axes: all for few, else as they are, with the last two exchanged, and turned round."""
    if rank <= 3:
        return permutations(range(rank))
    plain = tuple(range(rank))
    return (plain, (*plain[:-2], plain[-1], plain[-2]), plain[::-1])


def _places(count: int) -> list[int]:
    return [count * part >> 16 for part in _PLACES]


def _coordinates(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for place in _places(prod(shape)):
        at = []
        for size in reversed(shape):
            place, rest = divmod(place, size)
            at.append(rest)
        yield tuple(reversed(at))


def _decoded(content: bytes, data_type: int) -> float:
    if data_type == _BFLOAT16:
        content = b"\0\0" + content
    value = struct.unpack(_FORMATS[data_type], content)[0]
    return _single(value)


def _single(value: float) -> float:
    """A number in single precision."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _encoded(value: float, data_type: int) -> tuple[bytes, ...]:
    """How a number may be stored in a type: rounded, for bfloat16 also cut off."""
    if data_type == _BFLOAT16:
        content = struct.pack("<f", value)
        (bits,) = struct.unpack("<I", content)
        rounded = bits + 0x7FFF + (bits >> 16 & 1)
        return content[2:], struct.pack("<I", rounded & 0xFFFF_FFFF)[2:]
    try:
        return (struct.pack(_FORMATS[data_type], value),)
    except OverflowError:
        return ()


def _tell(values: Sequence[float]) -> bool:
    """Whether numbers are such that a weight can be known by them."""
    return len({value for value in values if value == value and abs(value) != float("inf")}) >= _DISTINCT


def _inside(directory: Path, location: str) -> Path | None:
    """A file of external data, if it lies in the model's directory, links followed."""
    name = PurePosixPath(location)
    if name.is_absolute() or ".." in name.parts or "\\" in location or "\0" in location or ":" in location:
        return None
    path = directory / name
    home = os.path.realpath(directory)
    return path if Path(os.path.realpath(path)).is_relative_to(home) else None
