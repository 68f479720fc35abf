"""Who is to blame, and the proof: what is left of the error of the outputs when a module's work is put right.

Of each module the error that it adds itself is known (`own_errors`), and what it may be by what it computes with
(`expected`). A module that adds more is suspect. It is named if that explains the outputs: the model runs again with just
this error taken off what the module gives (`Counterfactual`), all else as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log10

from optimum_htp.models import Array, Errors, compare_arrays, worst_errors
from optimum_htp.verbs.compare.cut import Cut, Port
from optimum_htp.verbs.compare.expected import MARGIN_DB, QUANTIZED, Expected
from optimum_htp.verbs.compare.own_errors import Row
from optimum_htp.verbs.compare.ports import Ports

AGREES, ONE, SEVERAL, SPREAD, UNKNOWN = "agrees", "one", "several", "spread", "unknown"

_MOST = 8  # modules whose effect is tried
_CARRIERS = 5
_GAIN_DB = 1.0  # by so much the outputs are better if a module is to blame that is known by its shape only


@dataclass(frozen=True, slots=True)
class Outputs:
    """How far the outputs are off, each and together."""

    errors: Mapping[str, Errors]
    sqnr_db: float

    @property
    def worst(self) -> float:
        """The largest relative error."""
        return max((errors.relative for errors in self.errors.values()), default=0.0)


@dataclass(frozen=True, slots=True)
class Blame:
    """A module whose work is wrong, or carries much of the error: its rows, the worst first, and the proof."""

    rows: tuple[Row, ...]
    excess_db: float  # below what is expected
    without: Outputs | None  # what the outputs are with its work put right; None if that can't be run


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of a file."""

    verdict: str
    culprits: tuple[Blame, ...] = ()
    carriers: tuple[Blame, ...] = ()  # where all modules add a little, those that add most
    together: Outputs | None = None  # the outputs with all of these put right
    reason: str | None = None  # why it can't be told


class Counterfactual:
    """The running model with the work of some modules put right."""

    def __init__(self, ports: Ports, rows: Sequence[Row]) -> None:
        self._ports = ports
        self._rows = list(rows)
        corrected = {port for row in self._rows for port in row.errors if self._can_correct(port)}
        self._cut = Cut(ports.graph, corrected=corrected)
        names = [name for name in ports.graph.flat.outputs if name in ports.samples[0].outputs]
        self._plan = self._cut.plan({name: self._cut.view(name, None) for name in names})
        self._deltas = self._find_deltas(corrected)

    def outputs(self, rows: Iterable[Row]) -> Outputs | None:
        """The outputs with the work of these rows put right; None if that can't be run."""
        active = {port for row in rows for port in row.errors}
        deltas = []
        for sample in self._deltas:
            chosen = {}
            for correction in self._plan.corrections:
                delta, value, replaced = sample[correction.port]
                if correction.port not in active:
                    delta, replaced = delta * 0, replaced & False
                chosen[correction.name] = (delta, value, replaced)
            deltas.append(chosen)
        arrays = self._ports.run(self._plan, deltas)
        return None if arrays is None else measured_outputs(self._ports, arrays)

    def _can_correct(self, port: Port) -> bool:
        return self._ports.dtype(port.tensor) not in (None, "bool")

    def _find_deltas(self, corrected: set[Port]) -> list[dict[Port, tuple[Array, Array, Array]]]:
        import numpy as np

        ports = self._ports
        wanted: dict[int, list[Port]] = {}
        for port in corrected:
            wanted.setdefault(port.call, []).append(port)
        deltas: list[dict[Port, tuple[Array, Array, Array]]] = [{} for _ in ports.samples]
        for chunk in ports.seen(ports.cut(), wanted):
            for seen in chunk.values():
                for port, arrays in seen.tensors.items():
                    for index, array in enumerate(arrays):
                        value = ports.given(port, seen.values[index], index)
                        replaced = ~(np.isfinite(array) & np.isfinite(value))
                        with np.errstate(all="ignore"):
                            delta = np.where(replaced, 0, value - array).astype(value.dtype)
                            replaced |= ~np.isfinite(delta)
                        delta[replaced] = 0
                        deltas[index][port] = (delta, value, replaced)
        return deltas


def measured_outputs(ports: Ports, arrays: Sequence[Mapping[str, Array]]) -> Outputs:
    """How far outputs of all samples are off."""
    errors = {}
    for name in arrays[0]:
        pairs = [(values[name], sample.outputs[name]) for values, sample in zip(arrays, ports.samples, strict=True)]
        errors[name] = worst_errors(compare_arrays(ours, theirs) for ours, theirs in pairs)
    known = {name: error for name, error in errors.items() if error is not None}
    fractions = [10 ** (-max(error.sqnr_db, -300.0) / 10) for error in known.values()]
    total = sum(fractions) / max(len(fractions), 1)
    return Outputs(known, -10 * log10(total) if total else inf)


def judge(ports: Ports, rows: Sequence[Row], outputs: Outputs, *, tolerance: float, random: bool) -> Verdict:
    """Who is to blame for what the outputs are off by."""
    expected = Expected(ports)
    excess = {id(row): expected.sqnr_db(row) - row.worst.sqnr_db for row in rows}
    kinds = {id(row): expected.kind(row) for row in rows}
    suspects = [row for row in rows if excess[id(row)] > MARGIN_DB[kinds[id(row)]]]
    groups = _by_module(suspects, excess)
    if random and groups:
        return Verdict(UNKNOWN, reason="it draws random numbers: what comes after them differs from run to run")
    if groups:
        blamed = _named(ports, groups, outputs, excess, tolerance)
        if blamed:
            return blamed
    quantized = any(kind == QUANTIZED for kind in kinds.values())
    if outputs.worst <= tolerance and not quantized:
        return Verdict(AGREES)
    if not rows:
        return Verdict(UNKNOWN, reason="no module could be compared")
    if outputs.worst > tolerance:
        right = Counterfactual(ports, rows).outputs(rows)
        if right is None or right.worst > tolerance:
            return Verdict(UNKNOWN, reason="the error comes from what could not be compared")
    ranked = sorted((row for row in rows if row.worst.sqnr_db < inf), key=lambda row: row.worst.sqnr_db)
    carriers = _tried(ports, _by_module(ranked, excess)[:_CARRIERS], excess)
    if not carriers:
        return Verdict(AGREES)
    return Verdict(SPREAD, carriers=tuple(carriers))


def _named(
    ports: Ports, groups: Sequence[Sequence[Row]], before: Outputs, excess: Mapping[int, float], tolerance: float
) -> Verdict | None:
    tried = _tried(ports, groups[:_MOST], excess)
    culprits = [blame for blame in tried if _is_to_blame(blame, before, tolerance)]
    if not culprits:
        return None
    culprits.sort(key=lambda blame: (-round(_gain(blame, before)), -blame.excess_db))
    together = Counterfactual(ports, [row for blame in culprits for row in blame.rows])
    left = together.outputs(row for blame in culprits for row in blame.rows)
    return Verdict(ONE if len(culprits) == 1 else SEVERAL, tuple(culprits), together=left)


def _is_to_blame(blame: Blame, before: Outputs, tolerance: float) -> bool:
    gain = _gain(blame, before)
    if all(row.certain and not row.foreign for row in blame.rows):
        return gain > 0 or any(row.worst.relative > tolerance for row in blame.rows)
    return gain > _GAIN_DB


def _gain(blame: Blame, before: Outputs) -> float:
    """By how much the outputs are better without a module's error, in dB."""
    if blame.without is None or before.sqnr_db == inf:
        return 0.0
    return min(blame.without.sqnr_db, 300.0) - max(before.sqnr_db, -300.0)


def _tried(ports: Ports, groups: Sequence[Sequence[Row]], excess: Mapping[int, float]) -> list[Blame]:
    if not groups:
        return []
    counterfactual = Counterfactual(ports, [row for group in groups for row in group])
    return [
        Blame(tuple(group), max(excess[id(row)] for row in group), counterfactual.outputs(group)) for group in groups
    ]


def _by_module(rows: Iterable[Row], excess: Mapping[int, float]) -> list[list[Row]]:
    """Rows of all calls of one module together, those of the module that is farthest from what is expected first."""
    groups: dict[tuple[str, bool], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.module, row.operations), []).append(row)
    for group in groups.values():
        group.sort(key=lambda row: -excess[id(row)])
    return sorted(groups.values(), key=lambda group: -excess[id(group[0])])
