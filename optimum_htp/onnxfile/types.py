"""ONNX's element types: the one table of their numbers, names and sizes (`TensorProto.DataType` in onnx.proto3)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ElementType:
    """The type of a tensor's elements: ONNX's number, and the name that numpy or `ml_dtypes` has for it.

    `bits` is None for strings and unknown numbers; `kind` is float, integer, bool, complex, string or unknown.
    """

    number: int
    name: str
    bits: int | None
    kind: str

    @property
    def is_float(self) -> bool:
        """Whether its elements are floating-point numbers that models compute with: of 16 bits or more."""
        return self.kind == "float" and (self.bits or 0) >= 16


_NAMES = (
    "undefined float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 uint64 complex64 "
    "complex128 bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz uint4 int4 float4e2m1 float8e8m0 uint2 "
    "int2 float6e2m3 float6e3m2"
).split()
_BITS = (
    None, 32, 8, 8, 16, 16, 32, 64, None, 8, 16, 64, 32, 64, 64, 128, 16, 8, 8, 8, 8, 4, 4, 4, 8, 2, 2, 6, 6,
)  # fmt: skip


def _kind(name: str) -> str:
    kinds = {"undefined": "unknown", "string": "string", "bool": "bool", "complex": "complex", "float": "float"}
    return next((kind for word, kind in kinds.items() if word in name), "integer")


ELEMENT_TYPES = tuple(
    ElementType(number, name, bits, _kind(name)) for number, (name, bits) in enumerate(zip(_NAMES, _BITS, strict=True))
)
"""All of them, by their number."""

NUMBERS = {element.name: element.number for element in ELEMENT_TYPES}
"""The number of each type, by its name."""


_MOST_ELEMENTS = 1 << 63


def bounded_product(dims: Iterable[int]) -> int:
    """How many elements a tensor of this shape has; `1 << 63` for all that are more: what no machine holds.

    >>> bounded_product((2, 3)), bounded_product([1 << 62] * 17) == 1 << 63, bounded_product([1 << 62, 1 << 62, 0])
    (6, True, 0)
    """
    return min(math.prod(dims), _MOST_ELEMENTS)  # no tensor has more dimensions than `MAX_DIMENSIONS`


def element_type(number: int) -> ElementType:
    """The element type with one of ONNX's numbers; one that ONNX does not have is called `"type 99"`.

    >>> element_type(1).name, element_type(10).bits, element_type(99).name, element_type(-1).kind
    ('float32', 16, 'type 99', 'unknown')
    """
    if 0 <= number < len(ELEMENT_TYPES):
        return ELEMENT_TYPES[number]
    return ElementType(number, f"type {number}", None, "unknown")
