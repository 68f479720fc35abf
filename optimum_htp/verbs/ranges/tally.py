"""The numbers of a tensor, counted block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from optimum_htp.models import Array
from optimum_htp.verbs.ranges.number_format import Question

_BLOCK = 1 << 18  # numbers that are looked at once


@dataclass(slots=True)
class Tally:
    """What the numbers of a tensor are like, over several samples.

    Attributes:
        above: How many of those past the limit are positive.
        smaller: How many are not 0, and less than half of the largest.
    """

    count: int = 0
    finite: int = 0
    minimum: float = inf
    maximum: float = -inf
    total: float = 0.0
    zeros: int = 0
    nans: int = 0
    infinite: int = 0
    over: int = 0
    above: int = 0
    lost: int = 0
    smaller: int = 0

    @property
    def mean(self) -> float | None:
        """The mean of the finite numbers."""
        return self.total / self.finite if self.finite else None

    def add(self, block: Array) -> None:
        """Counts some numbers more: their range, and what is none."""
        import numpy as np

        if not block.size:
            return
        lowest, highest = float(block.min()), float(block.max())
        self.count += block.size
        self.zeros += block.size - int(np.count_nonzero(block))
        if not (-inf < lowest and highest < inf):  # also where one is no number
            self.nans += int(np.count_nonzero(np.isnan(block)))
            self.infinite += int(np.count_nonzero(np.isinf(block)))
            block = block[np.isfinite(block)]
            if not block.size:
                return
            lowest, highest = float(block.min()), float(block.max())
        self.finite += block.size
        self.minimum, self.maximum = min(self.minimum, lowest), max(self.maximum, highest)
        self.total += float(block.sum(dtype=np.float64))

    def hold(self, block: Array, question: Question, *, is_weight: bool, is_half: bool) -> None:
        """Counts what becomes of some numbers in the type, once the range of all is known."""
        import numpy as np

        if is_half:
            infinite = np.isinf(block)
            self.over += int(np.count_nonzero(infinite))
            self.above += int(np.count_nonzero(infinite & (block > 0)))
        if not self.finite:
            return
        if self.maximum >= question.limit or -self.minimum >= question.limit:
            above, below = (block >= question.limit) & (block < inf), (block <= -question.limit) & (block > -inf)
            self.above += int(np.count_nonzero(above))
            self.over += int(np.count_nonzero(above | below))
        smallest = question.smallest(self.minimum, self.maximum, is_weight=is_weight)
        if smallest:
            sizes = np.abs(block)
            zeros = block.size - int(np.count_nonzero(block))
            self.lost += int(np.count_nonzero(sizes <= smallest)) - zeros
            if question.dtype == "int8":
                half = max(-self.minimum, self.maximum) / 2
                self.smaller += int(np.count_nonzero(sizes < half)) - zeros


def tally(arrays: Sequence[Array], question: Question) -> Tally:
    """What the numbers of some arrays of one type are like, together."""
    is_half = bool(arrays) and str(arrays[0].dtype) == "float16"
    return tally_blocks(lambda: (block for each in arrays for block in _blocks(each)), question, is_half=is_half)


def tally_blocks(
    blocks: Callable[[], Iterable[Array]], question: Question, *, is_weight: bool = False, is_half: bool = False
) -> Tally:
    """The same of blocks, in float32 or more, which `blocks()` gives again where they are to be held against a type."""
    counted = Tally()
    for block in blocks():
        counted.add(block)
    if question.dtype is not None or max(counted.maximum, -counted.minimum) >= question.limit:
        for block in blocks():
            counted.hold(block, question, is_weight=is_weight, is_half=is_half and question.dtype == "fp16")
    return counted


def _blocks(array: Array) -> Iterator[Array]:
    import numpy as np

    flat = array.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        yield flat[start : start + _BLOCK].astype(np.float32 if array.itemsize < 4 else array.dtype, copy=False)
