"""The columns of a profile's table: which there are, which are shown, and what stands in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from optimum_htp.cli.views.blocks import Cell, Column
from optimum_htp.cli.views.profile_rows import TimeRow
from optimum_htp.errors import HtpError
from optimum_htp.verbs.profile import PhaseProfile

NOTHING = "-"
"""What stands where a figure is not known."""

_SHORT_PROVIDER = "ExecutionProvider"


def milliseconds(microseconds: float) -> str:
    """A time for a table."""
    return f"{microseconds / 1000:,.3f}"


def megabytes(size: float) -> str:
    """A size for a table."""
    return f"{size / 1e6:,.3f}"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of a row, in the unit of its title; None where it is not known."""

    title: str
    value: Callable[[TimeRow], float | None]
    text: Callable[[float], str]
    spare: int = 0

    @property
    def is_time(self) -> bool:
        """Whether it is a time, which is 0 for what did not run."""
        return self.title.endswith(" ms")

    @property
    def column(self) -> Column:
        """Its column."""
        return Column(self.title, number=True, spare=self.spare)

    def cell(self, row: TimeRow) -> str:
        """What stands in it."""
        value = self.value(row)
        return NOTHING if value is None else self.text(value)


FIGURES = {
    "total": Figure("total ms", lambda row: row.total_time.median, milliseconds),
    "self": Figure("self ms", lambda row: row.self_time.median, milliseconds),
    "peak": Figure("peak MB", lambda row: row.total_work.peak_bytes, megabytes, 2),
    "allocated": Figure("allocated MB", lambda row: row.total_work.allocated_bytes, megabytes, 2),
    "net": Figure(
        "net MB", lambda row: row.total_work.net_bytes, lambda size: f"{round(size / 1e6, 3) + 0.0:+,.3f}", 2
    ),
    "parameters": Figure("parameters MB", lambda row: row.total_work.parameter_bytes, megabytes, 2),
    "read": Figure("read MB", lambda row: row.total_work.read_bytes, megabytes, 2),
    "written": Figure("written MB", lambda row: row.total_work.written_bytes, megabytes, 2),
    "gflop": Figure("GFLOP", lambda row: row.total_work.flops, lambda flops: f"{flops / 1e9:,.3f}", 2),
    "gflops": Figure(
        "GFLOP/s", lambda row: row.total_work.gflops(row.total_time.median), lambda rate: f"{rate:,.1f}", 2
    ),
    "intensity": Figure("B/FLOP", lambda row: row.total_work.bytes_per_flop, lambda ratio: f"{ratio:,.3f}", 2),
    "copied": Figure("copied MB", lambda row: row.total_work.copied_bytes, megabytes, 2),
    "kernels": Figure("kernels", lambda row: row.kernels, lambda count: f"{count:,}", 3),
}
"""What is a number, by its name."""

_TEXTS: dict[str, tuple[Column, Callable[[TimeRow], str]]] = {
    "calls": (Column("calls", number=True, spare=4), lambda row: row.calls),
    "class": (Column("class", spare=5), lambda row: row.class_name),
    "provider": (Column("provider", spare=2), lambda row: providers(row)),
    "operators": (Column("operators", spare=6), lambda row: mix(row)),
}

GROUPS = {
    "time": ("total", "self"),
    "memory": ("peak", "allocated", "net"),
    "bytes": ("parameters", "read", "written"),
    "work": ("gflop", "gflops", "intensity"),
    "all": (*FIGURES, *_TEXTS),
}
"""Names that stand for several columns."""

NAMES = (*FIGURES, *_TEXTS, *GROUPS)
"""All names that `--columns` takes."""

_NOT_BY = {
    "op": ("self", "calls", "class", "operators"),
    "class": ("calls", "class", "operators"),
    "call": ("calls", "operators"),
}
_USUAL = ("total", "self", "peak", "gflops", "kernels", "calls", "class", "operators")

_Part = tuple[Column, Callable[[PhaseProfile, TimeRow], Cell]]


def expanded(names: Iterable[str], *, by: str) -> tuple[str, ...]:
    """The columns that names stand for. Raises HtpError for one that there is not, by what rows are added up by."""
    found: list[str] = []
    for name in names:
        members = GROUPS.get(name, (name,))
        known = [each for each in members if each not in _NOT_BY.get(by, ())]
        if not known:
            raise HtpError(f"--columns {name}: there is no such column by {by}")
        found += known
    return tuple(dict.fromkeys(found))


def usual(by: str, rows: Sequence[TimeRow]) -> tuple[str, ...]:
    """The columns where nobody says which: without those in which nothing would stand."""
    names = [name for name in _USUAL if name not in _NOT_BY.get(by, ())]
    return tuple(
        name for name in names if name not in FIGURES or any(FIGURES[name].value(row) is not None for row in rows)
    )


def parts_of(names: Sequence[str], *, by: str, with_spread: bool) -> list[_Part]:
    """The columns of some names, each with what makes its cells; `with_spread` where times have one."""
    parts: list[_Part] = []
    for name in names:
        parts += _parts(name, by, with_spread)
    return parts


def _parts(name: str, by: str, with_spread: bool) -> list[_Part]:
    if name in _TEXTS:
        column, text = _TEXTS[name]
        return [(column, lambda _, row: text(row))]
    figure = FIGURES[name]
    column = Column("modules", number=True, spare=3) if name == "kernels" and by == "class" else figure.column
    parts: list[_Part] = [(column, lambda _, row: figure.cell(row))]
    if name == "total":
        parts.append((Column("share", bar=True), lambda phase, row: phase.share(row.total_time)))
        if with_spread:
            spread = Column("± ms", number=True, spare=2)
            parts.append((spread, lambda _, row: milliseconds(row.total_time.spread)))
    elif name == "self":
        share = Column("self", number=True, spare=1)
        parts.append((share, lambda phase, row: f"{phase.share(row.self_time):.1%}"))
    return parts


def mix(row: TimeRow) -> str:
    """The operators that take most of the time; `ops` has the longest first."""
    whole = row.total_time.median
    return ", ".join(f"{name} {op.time.median / whole:.0%}" for name, op in list(row.ops.items())[:3] if whole)


def providers(row: TimeRow) -> str:
    """Where the nodes run: `CPU`, or `CUDA 118, CPU 3`."""
    counts = {name.removesuffix(_SHORT_PROVIDER): count for name, count in row.total_work.providers.items()}
    if len(counts) < 2:
        return next(iter(counts), NOTHING)
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
