"""Who is to blame, and the proof: what is left of the error of the outputs when a module's work is put right.

Of each module the error that it adds itself is known (`own_errors`), and what it may be by what it computes with
(`expected`). A module that adds more is suspect. It is named if that explains the outputs: the model runs again with just
this error taken off what the module gives (`Counterfactual`), all else as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log10

from optimum_htp.models import Array, Errors, compare_arrays, off_by
from optimum_htp.verbs.compare.call_graph import CallGraph
from optimum_htp.verbs.compare.cut_graph import Cut, Port
from optimum_htp.verbs.compare.expected import MARGIN_DB, QUANTIZED, Expected
from optimum_htp.verbs.compare.own_errors import Row
from optimum_htp.verbs.compare.plan_run import Run
from optimum_htp.verbs.compare.ports import Ports
from optimum_htp.verbs.compare.report import FOREIGN

AGREES, ONE, SEVERAL, SPREAD, UNKNOWN = "agrees", "one", "several", "spread", "unknown"

_MOST = 8  # modules whose effect is tried
_CARRIERS = 5  # modules that are listed where all add a little
_LISTED = 5  # modules in a reason
_MANY = 5  # clear suspects that may be another model's weights, if they are most of all modules

# In dB, how much better the outputs have to be for a module to be to blame: one whose tensors are certain; one of guesses,
# or one that quantizes and is not far from what is expected. Without the error of a sound one that quantizes, they are
# better or worse by several dB, by chance. Where only one is far from what is expected, a few dB are enough.
_GAIN_DB, _GUESS_GAIN_DB, _CHANCE_GAIN_DB = 0.2, 3.0, 6.0
_FLOOR_DB = 100.0  # where outputs agree as far as float32 can tell, what is better is so by chance
# What a quantized model loses hides a module that does not quantize: one so far from what is expected may make outputs, that
# are off so far, seem worse by so much.
_CLEAR_DB, _HIDING_DB, _HARM_DB = 20.0, 60.0, 3.0
_BROKEN_DB, _EXPLAINED_DB = 20.0, 10.0  # outputs that are off so far, and what explains them alone
_LIMIT_DB = 150.0  # what float32 can show
_LOST = 1e4  # times the largest value of the reference: what is added to such a number is rounded away
_CHOOSERS = frozenset(("TopK", "ArgMax", "ArgMin", "NonMaxSuppression", "Unique"))


@dataclass(frozen=True, slots=True)
class Outputs:
    """How far the outputs are off, each and together; as the tolerance of a `precision` counts it, by the worst."""

    errors: Mapping[str, Errors]
    sqnr_db: float
    precision: str

    @property
    def worst(self) -> float:
        """How far off the worst is."""
        return max((off_by(errors, self.precision) for errors in self.errors.values()), default=0.0)


@dataclass(frozen=True, slots=True)
class Blame:
    """A module whose work is wrong, or carries much of the error: its rows, its own worst first, and the proof."""

    rows: tuple[Row, ...]
    excess_db: float  # below what is expected
    without: Outputs | None  # what the outputs are with its work put right; None if that can't be run
    gain_db: float  # by how much they are better

    @property
    def guesses(self) -> frozenset[Port]:
        """Ports that it rests on, and that are known by their shape only."""
        return frozenset(port for row in self.rows for port in row.guesses)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of a file."""

    verdict: str
    culprits: tuple[Blame, ...] = ()
    carriers: tuple[Blame, ...] = ()  # where all modules add a little, those that add most
    together: Outputs | None = None  # the outputs with all of these put right
    reason: str | None = None  # why it can't be told
    unconfirmed: frozenset[Port] = frozenset()  # ports that are known by their shape only, and that nothing speaks for


class Counterfactual:
    """The running model with the work of some modules put right."""

    def __init__(self, ports: Ports, rows: Sequence[Row]) -> None:
        self._ports = ports
        self._rows = list(rows)
        corrected = {port for row in self._rows for port in row.errors if self._can_correct(port)}
        self._cut = Cut(ports.graph, corrected=corrected)
        names = [name for name in ports.graph.flat.outputs if name in ports.samples[0].outputs]
        self._plan = self._cut.plan({name: self._cut.view(name, None) for name in names})
        self._runner = Run(ports.prober, self._plan)
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
        arrays = self._ports.run(self._plan, deltas, runner=self._runner)
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
                            # What is added to a number that is so much larger is lost.
                            replaced |= ~(np.abs(delta) < _LOST * np.abs(value[np.isfinite(value)]).max(initial=0))
                        delta[replaced] = 0
                        deltas[index][port] = (delta, value, replaced)
        return deltas


def measured_outputs(ports: Ports, arrays: Sequence[Mapping[str, Array]]) -> Outputs:
    """How far outputs of all samples are off."""
    errors = {}
    for name in arrays[0]:
        pairs = [(values[name], sample.outputs[name]) for values, sample in zip(arrays, ports.samples, strict=True)]
        found = (compare_arrays(ours, theirs) for ours, theirs in pairs)
        errors[name] = max(found, key=lambda error: off_by(error, ports.precision))
    fractions = [10 ** (-max(error.sqnr_db, -300.0) / 10) for error in errors.values()]
    total = sum(fractions) / max(len(fractions), 1)
    return Outputs(errors, -10 * log10(total) if total else inf, ports.precision)


class _Suspects:
    """How far each row is below what is expected of it, and those that are farther than is no surprise, by their modules."""

    def __init__(self, rows: Sequence[Row], expected: Expected) -> None:
        self._rows = rows
        self.excess = {id(row): expected.excess_db(row) for row in rows}
        self.kinds = {id(row): expected.kind(row) for row in rows}
        self.sound = [row for row in rows if self.excess[id(row)] <= MARGIN_DB[self.kinds[id(row)]]]
        sound = {id(row) for row in self.sound}
        self.groups = _by_module((row for row in rows if id(row) not in sound), self.excess)
        clear = sum(self.excess[id(group[0])] > _CLEAR_DB for group in self.groups)
        self.are_most = clear > _MANY and clear > len(_by_module(rows, self.excess)) / 2

    def stands_out(self, blame: Blame) -> bool:
        """Whether all others that quantize are much nearer to what is expected: so that is right for this model."""
        own = {id(row) for row in blame.rows}
        others = (
            self.excess[id(row)] for row in self._rows if self.kinds[id(row)] == QUANTIZED and id(row) not in own
        )
        return blame.excess_db - max(others, default=blame.excess_db) > MARGIN_DB[QUANTIZED]

    def kinds_of(self, blame: Blame) -> set[str]:
        """What the rows of a module compute with."""
        return {self.kinds[id(row)] for row in blame.rows}


def judge(
    ports: Ports,
    rows: Sequence[Row],
    expected: Expected,
    outputs: Outputs,
    *,
    tolerance: float,
    random: bool = False,
) -> Verdict:
    """Who is to blame for what the outputs are off by."""
    suspects = _Suspects(rows, expected)
    if suspects.are_most:
        return Verdict(UNKNOWN, reason=FOREIGN)
    tried = _tried(ports, suspects.groups[:_MOST], suspects.excess, outputs)
    is_alone = len(suspects.groups) == 1
    culprits = [
        blame
        for blame in tried
        if _is_to_blame(
            blame, outputs, suspects.kinds_of(blame), is_alone=is_alone, stands_out=suspects.stands_out(blame)
        )
    ]
    alone = [blame for blame in culprits if blame.without is not None and blame.without.sqnr_db > _FLOOR_DB]
    culprits = alone or culprits  # nothing is left that others could explain
    confirmed = {port for blame in culprits for port in blame.guesses}
    unconfirmed = frozenset(port for blame in tried for port in blame.guesses - confirmed)
    if random and (culprits or outputs.worst > tolerance):
        return Verdict(UNKNOWN, reason="it draws random numbers: what comes after them differs from run to run")
    doubt = _doubt(ports, culprits, suspects.sound)
    if doubt is not None:
        return Verdict(UNKNOWN, reason=doubt, unconfirmed=unconfirmed)
    if culprits:
        culprits.sort(key=lambda blame: (-round(blame.gain_db), -blame.excess_db))
        named = [row for blame in culprits for row in blame.rows]
        left = Counterfactual(ports, named).outputs(named)
        verdict = ONE if len(culprits) == 1 else SEVERAL
        return Verdict(verdict, tuple(culprits), together=left, unconfirmed=unconfirmed)
    return replace(_without_culprits(ports, rows, suspects, outputs, tolerance), unconfirmed=unconfirmed)


def settled(verdict: Verdict, forgotten: Collection[Port], certain: Collection[Port], graph: CallGraph) -> Verdict:
    """The verdict where some guesses were taken back: who is given something of that kind may not be who is wrong.

    Unless it is, since ports show its work that are `certain`.
    """
    if not verdict.culprits or not verdict.culprits[0].rows[0].errors.keys().isdisjoint(certain):
        return verdict
    number = verdict.culprits[0].rows[0].call
    if not any(port.into and port.call == number for port in forgotten):
        return verdict
    path = graph.calls[number].path or "the root"
    return Verdict(
        UNKNOWN, reason=f"{path} is wrong, or what it is given: which tensor that should be is not found here"
    )


def _doubt(ports: Ports, culprits: Sequence[Blame], sound: Iterable[Row]) -> str | None:
    """Why it can't be told whether those that seem to be to blame are; None if they are."""
    if not culprits:
        return None
    rows = [row for blame in culprits for row in blame.rows]
    chosen = [_choosers(ports, row) for row in rows]
    if all(chosen):
        return f"{', '.join(sorted(set().union(*chosen)))} may choose otherwise among values that are nearly equal"
    right = {index for row in sound for index in row.nodes}
    firsts = [blame.rows[0] for blame in culprits]
    if all(_is_mixed(ports, first, right) for first in firsts):
        numbers = dict.fromkeys(number for first in firsts for number in (first.call, *sorted(first.foreign)))
        calls = list(dict.fromkeys(ports.graph.calls[number].path or "the root" for number in numbers))
        listed = ", ".join(calls[:_LISTED]) + (f" and {len(calls) - _LISTED} more" if len(calls) > _LISTED else "")
        return f"operations of {listed} make one tensor together, and what is between them is not compared"
    return None


def _without_culprits(
    ports: Ports, rows: Sequence[Row], suspects: _Suspects, outputs: Outputs, tolerance: float
) -> Verdict:
    """What is said where nobody is to blame."""
    if outputs.worst <= tolerance and QUANTIZED not in suspects.kinds.values():
        return Verdict(AGREES)
    if not rows:
        return Verdict(UNKNOWN, reason="no module could be compared")
    if outputs.worst > tolerance:
        right = Counterfactual(ports, rows).outputs(rows)
        if right is None or right.worst > tolerance:
            return Verdict(UNKNOWN, reason="the error comes from what could not be compared")
    ranked = sorted((row for row in rows if row.worst.sqnr_db < inf), key=lambda row: row.worst.sqnr_db)
    groups = _by_module(ranked, {id(row): -row.worst.sqnr_db for row in ranked})
    carriers = _tried(ports, groups[:_CARRIERS], suspects.excess, outputs)
    return Verdict(SPREAD if carriers else AGREES, carriers=tuple(carriers))


def _is_mixed(ports: Ports, row: Row, sound: Container[int]) -> bool:
    """Whether a row may be other calls' work too: by nodes that no sound row shows to be right, or without any."""
    makers = {ports.graph.owner[index] for index in row.nodes}
    unsure = {ports.graph.owner[index] for index in row.nodes if index not in sound}
    return any(number in unsure or number not in makers for number in row.foreign)


def _choosers(ports: Ports, row: Row) -> set[str]:
    """The operators in a row that choose, and so may turn a difference in rounding into any other: those before what is worst."""
    cut = ports.cut()
    worst = min(row.errors, key=lambda port: row.errors[port].sqnr_db)
    return {ports.graph.flat.nodes[index].node.op_type for index in cut.segment(cut.seen(worst))} & _CHOOSERS


def _is_to_blame(blame: Blame, before: Outputs, kinds: set[str], *, is_alone: bool, stands_out: bool = False) -> bool:
    """Whether the outputs show that a suspect is wrong.

    What a quantized model loses in all hides what one module does, or is better by chance with it. So there a module that is
    far from what is expected, and whose tensors are certain, is to blame whatever the outputs are without its error, if no
    other is suspect (`is_alone`): nothing undoes what it does. If another is, a tool may have moved a factor from one to the
    other; a module that does not quantize is to blame then if putting it right does no great harm. One that quantizes and is
    nearer to what is expected is to blame if the outputs are better than they may be by chance; less has to speak for one
    that stands out among all others.
    """
    if before.sqnr_db > _FLOOR_DB:  # what is better there is so by chance
        return False
    if blame.guesses:
        return blame.gain_db > _GUESS_GAIN_DB
    is_hidden = before.sqnr_db < _HIDING_DB and blame.excess_db > _CLEAR_DB
    if is_hidden and (is_alone or QUANTIZED not in kinds):
        return is_alone or blame.gain_db > -_HARM_DB
    is_by_chance = QUANTIZED in kinds and blame.excess_db <= _CLEAR_DB
    chance_db = _GUESS_GAIN_DB if stands_out else _CHANCE_GAIN_DB
    return blame.gain_db > (chance_db if is_by_chance else _GAIN_DB)


def _tried(ports: Ports, groups: Sequence[Sequence[Row]], excess: Mapping[int, float], before: Outputs) -> list[Blame]:
    """What putting the work of each of some modules right does to the outputs.

    Where these are far off and no module alone explains it, as with two whose weights are each other's, one of several shows
    no effect alone: there it counts what is worse if all but this one are put right.
    """
    if not groups:
        return []
    rows = [row for group in groups for row in group]
    counterfactual = Counterfactual(ports, rows)
    alone = [counterfactual.outputs(group) for group in groups]
    gains = [_better(outputs, before) for outputs in alone]
    explained = any(gain > _EXPLAINED_DB for gain in gains)
    if before.sqnr_db < _BROKEN_DB and len(groups) > 1 and not explained:
        together = counterfactual.outputs(rows)
        # By their tensors: one that is handed on into a module in a module is guessed once.
        guesses = [{port.tensor for row in group for port in row.guesses} for group in groups]
        for index, group in enumerate(groups) if together is not None else ():
            if any(guesses[index] & other for i, other in enumerate(guesses) if i != index):
                continue  # guesses that rest on each other speak for each other, right or wrong
            others = counterfactual.outputs(row for row in rows if row not in group)
            if others is not None and together is not None:
                gains[index] = max(gains[index], _better(together, others))
    return [
        Blame(tuple(group), max(excess[id(row)] for row in group), outputs, gain)
        for group, outputs, gain in zip(groups, alone, gains, strict=True)
    ]


def _better(outputs: Outputs | None, before: Outputs) -> float:
    """By how much some outputs are better than others, in dB."""
    if outputs is None or before.sqnr_db == inf:
        return 0.0
    return min(outputs.sqnr_db, _LIMIT_DB) - max(min(before.sqnr_db, _LIMIT_DB), -_LIMIT_DB)


def _by_module(rows: Iterable[Row], excess: Mapping[int, float]) -> list[list[Row]]:
    """Rows of all calls of one module together, those of the module that is farthest from what is expected first.

    A row that another call among these has a part in comes with that call's: the fault may be seen where it is read only. So
    does one that rests on a guess and is made by the very nodes that make a certain one, by a fused node with two outputs. A
    guess is no evidence for others.
    """
    listed = list(rows)
    certain = [row for row in listed if not row.foreign and not row.guesses]
    own = {row.call: (row.module, row.operations) for row in certain}
    same = {frozenset(row.nodes): (row.module, row.operations) for row in certain if row.nodes}
    groups: dict[tuple[str, bool], list[Row]] = {}
    for row in listed:
        source = next((own[number] for number in sorted(row.foreign) if number in own), (row.module, row.operations))
        if row.guesses:
            source = same.get(frozenset(row.nodes), source)
        groups.setdefault(source, []).append(row)
    for key, group in groups.items():
        group.sort(key=lambda row: ((row.module, row.operations) != key, -excess[id(row)]))
    return sorted(groups.values(), key=lambda group: -excess[id(group[0])])
