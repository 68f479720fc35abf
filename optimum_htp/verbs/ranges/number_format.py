"""What a narrower type makes of numbers: which become infinite, and which become zero."""

from __future__ import annotations

from dataclasses import dataclass

from optimum_htp.errors import HtpError

DTYPES = ("fp16", "int8")
"""The types that numbers are held against."""

LARGEST_HALF = 65504.0
"""The largest finite float16."""

_INFINITE_HALF = 65520.0  # from here on rounding to nearest gives infinity
_ZERO_HALF = 2.0**-25  # and up to here zero: half of the smallest one
_STEPS = 255  # of 8 bits, between the smallest number and the largest
_MOST_PRODUCTS = (2**31 - 1) // (255 * 128)  # of unsigned by signed bytes, whose sum an int32 holds in any case

ALL_LOST = 0.99
"""The share of a tensor's smaller numbers from which on int8 is said not to hold it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What the numbers are held against.

    Attributes:
        dtype: The type, one of `DTYPES`; None for nothing.
        accumulate: What kernels add in, `"float32"` or `"float16"`.
        headroom: How many times larger than the numbers that are seen those may be that have to fit.
        is_settled: Whether nothing is asked of these numbers: they stay in the type that they are in.
    """

    dtype: str | None = None
    accumulate: str = "float32"
    headroom: float = 1.0
    is_settled: bool = False

    def check(self) -> None:
        """Raises HtpError if there is no such question."""
        if self.dtype is not None and self.dtype not in DTYPES:
            raise HtpError(f"{self.dtype!r} is not a type that numbers are held against: give {' or '.join(DTYPES)}")
        if self.accumulate not in ("float32", "float16"):
            raise HtpError(f"kernels add in float32 or in float16, not in {self.accumulate!r}")
        if not 1 <= self.headroom < float("inf"):
            raise HtpError(f"a headroom of {self.headroom:g}: give 1 or more")

    @property
    def limit(self) -> float:
        """From where on a number counts as too large for float16."""
        return float("inf") if self.is_settled else _INFINITE_HALF / self.headroom

    def smallest(self, minimum: float, maximum: float, *, is_weight: bool) -> float:
        """Up to where a number becomes zero, of a tensor with this range."""
        if self.is_settled:
            return 0.0
        if self.dtype == "fp16":
            return _ZERO_HALF
        if self.dtype != "int8":
            return 0.0
        if is_weight:
            return max(abs(minimum), abs(maximum)) / 127 / 2
        return (max(maximum, 0.0) - min(minimum, 0.0)) / _STEPS / 2


def fits_int32(products: int) -> bool:
    """Whether an int32 holds the sum of so many products of unsigned by signed bytes, whatever they are.

    >>> fits_int32(65_793), fits_int32(65_794)
    (True, False)
    """
    return products <= _MOST_PRODUCTS
