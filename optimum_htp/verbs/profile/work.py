"""What kernels do beside taking time: memory that they hold, bytes that they read and write, operations, and where.

All of it is of one run, the first on its inputs: later runs take all their memory at once, before the first kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

COPIES = frozenset(("MemcpyFromHost", "MemcpyToHost"))
"""Operators with which ONNX Runtime copies tensors between the memories of two providers."""


@dataclass(frozen=True, slots=True)
class Work:
    """What some kernels do in one run. None is what is not known, or what none of them does; 0 never stands for that.

    Attributes:
        peak_bytes: The most that ONNX Runtime's arena holds while they run: when one of them ends, before its inputs are
            given back, or within one that takes the arena higher than it ever was. All that is in the arena counts,
            whoever needs it.
        allocated_bytes: What they take of the arena and hold when they end.
        net_bytes: How much more is held when the kernel after each of them begins than when it began itself.
        parameter_bytes: The size of the constants that they read; of a table that rows are taken from, those rows.
        read_bytes: The size of their other inputs.
        written_bytes: The size of what they return.
        flops: Floating-point or integer operations of matrix products, convolutions, attention and recurrent cells: two
            for each multiplication that is added up.
        uncounted: Kernels of operators whose operations are not counted, by operator.
        unknown: Kernels of which nobody knows how many operations they take, by operator: then `flops` is None.
        providers: Nodes by the execution provider that runs them.
        copies: Kernels that copy between providers.
        copied_bytes: The size of what they copy.
    """

    peak_bytes: int | None = None
    allocated_bytes: int | None = None
    net_bytes: int | None = None
    parameter_bytes: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    flops: int | None = None
    uncounted: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    providers: Mapping[str, int] = field(default_factory=dict)
    copies: int = 0
    copied_bytes: int | None = None

    @property
    def bytes_per_flop(self) -> float | None:
        """Bytes read and written for each operation."""
        parts = (self.parameter_bytes, self.read_bytes, self.written_bytes)
        known = [part for part in parts if part is not None]
        return sum(known) / self.flops if self.flops and len(known) == len(parts) else None

    def gflops(self, microseconds: float) -> float | None:
        """Billions of operations in a second, if they took that time."""
        return self.flops / microseconds / 1000 if self.flops is not None and microseconds else None

    def to_dict(self) -> dict[str, Any]:
        """The work as JSON."""
        return {
            "peak_bytes": self.peak_bytes,
            "allocated_bytes": self.allocated_bytes,
            "net_bytes": self.net_bytes,
            "parameter_bytes": self.parameter_bytes,
            "read_bytes": self.read_bytes,
            "written_bytes": self.written_bytes,
            "flops": self.flops,
            "bytes_per_flop": self.bytes_per_flop,
            "uncounted": dict(self.uncounted),
            "unknown": dict(self.unknown),
            "providers": dict(self.providers),
            "copies": self.copies,
            "copied_bytes": self.copied_bytes,
        }


NO_WORK = Work()
"""Nothing is known, or nothing ran."""


class WorkSum:
    """Work that adds up, quickly; the highest of the peaks is the peak of all.

    Sizes of parameters and activations are known of several kernels only if they are known of each, and operations only if
    there is none of which nobody knows them. Memory is that of the kernels that have it: those of one provider.
    """

    __slots__ = ("_works",)

    def __init__(self) -> None:
        self._works: list[Work] = []

    def add(self, work: Work) -> None:
        """Counts it in."""
        if work.uncounted or work.unknown or work.flops is not None:  # else no kernel ran
            self._works.append(work)

    @property
    def work(self) -> Work:
        """All of it."""
        works = self._works
        if len(works) < 2:
            return works[0] if works else NO_WORK
        unknown = _counts(work.unknown for work in works)
        return Work(
            peak_bytes=max((work.peak_bytes for work in works if work.peak_bytes is not None), default=None),
            allocated_bytes=_of_some([work.allocated_bytes for work in works]),
            net_bytes=_of_some([work.net_bytes for work in works]),
            parameter_bytes=_of_all([work.parameter_bytes for work in works]),
            read_bytes=_of_all([work.read_bytes for work in works]),
            written_bytes=_of_all([work.written_bytes for work in works]),
            flops=None if unknown else _of_some([work.flops for work in works]),
            uncounted=_counts(work.uncounted for work in works),
            unknown=unknown,
            providers=_counts(work.providers for work in works),
            copies=sum(work.copies for work in works),
            copied_bytes=_of_some([work.copied_bytes for work in works]),
        )


def _of_some(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _of_all(values: list[int | None]) -> int | None:
    return None if None in values else _of_some(values)


def _counts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """How many of each there are, the most first."""
    counts: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            counts[name] = counts.get(name, 0) + count
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def joined(works: Iterable[Work]) -> Work:
    """Several together.

    >>> joined([Work(peak_bytes=3, read_bytes=1), Work(peak_bytes=2, read_bytes=4)]).read_bytes
    5
    """
    total = WorkSum()
    for work in works:
        total.add(work)
    return total.work
