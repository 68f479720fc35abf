"""Which input (or output) of one graph is which of another, where a tool or another exporter has renamed them.

Names come first: those that the caller maps, equal ones, then those that only differ in spelling. Graphs that share names
speak one language, and what is left of them under other names is another thing, unless it stands in the same place and just
the same modules use it. Graphs that share none were renamed: there a prefix or suffix decides, then the modules that use a
value, then type, shape and order. What none of these decide stays open, with the candidates, since a wrong pair would have
a model compared on other values.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import NamedTuple, TypeAlias, TypeVar

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import Node, OnnxModel, Value, element_type
from optimum_htp.tagging import TaggedGraph

_T = TypeVar("_T")

_GIVEN = "as given"
_SPELLING = "spelled differently"
_USES = "by the modules that use them"
_PLACE = "in the same place, and used by the same modules"
_ONLY = "the only ones of their type and shape"
_ORDER = "by order, type and shape"
_USES_AND_ORDER = f"{_USES}, and in their order"
_PASSING = frozenset("Cast Flatten Identity Reshape Squeeze Transpose Unsqueeze".split())

_MAX_PAIRS = 200_000  # that are looked at; decoders have hundreds of values, a hostile file tens of thousands
_LONGEST_NAME = 500
_MAX_NAMED = 8  # in a message

Uses = Mapping[str, Collection[str]]
"""The tags of the modules that use each value."""


@dataclass(frozen=True, slots=True)
class ValuePairs:
    """The inputs, or the outputs, of two graphs that are each other's.

    Attributes:
        names: The name that each of ours has in the other graph.
        evidence: For those with another name there, or that the caller paired: what it goes by, in words.
        only_ours: Ours that the other graph lacks, as far as is known.
        only_theirs: The other graph's that we lack.
        candidates: Of `only_ours`, those that may be one of several of the other graph's, and which.
    """

    names: Mapping[str, str]
    evidence: Mapping[str, str]
    only_ours: tuple[str, ...]
    only_theirs: tuple[str, ...]
    candidates: Mapping[str, tuple[str, ...]]

    def theirs(self, values: Mapping[str, _T]) -> dict[str, _T]:
        """What is known by our names, by the other graph's; what that lacks is left out."""
        return {theirs: values[ours] for ours, theirs in self.names.items() if ours in values}

    def ours(self, values: Mapping[str, _T]) -> dict[str, _T]:
        """What is known by the other graph's names, by ours; what we lack is left out."""
        return {ours: values[theirs] for ours, theirs in self.names.items() if theirs in values}

    @property
    def renamed(self) -> dict[str, str]:
        """Those of `names` that have another name in the other graph."""
        return {ours: theirs for ours, theirs in self.names.items() if ours != theirs}

    @property
    def guessed(self) -> dict[str, str]:
        """Those of `names` that nothing but their order tells from others."""
        return {name: self.names[name] for name, why in self.evidence.items() if why in (_ORDER, _USES_AND_ORDER)}

    def explain(self) -> list[str]:
        """Which were paired under different names, and why: a line for each kind of evidence."""
        reasons: dict[str, list[str]] = {}
        for ours, theirs in self.renamed.items():
            reasons.setdefault(self.evidence[ours], []).append(f"{ours} is {theirs}")
        return [f"{', '.join(pairs)} ({why})" for why, pairs in reasons.items()]

    def problem(self) -> str | None:
        """What is open, and how to settle it; None if nothing is. One side may still have more than the other."""
        if not self.candidates:
            return None
        ours, several = next(iter(self.candidates.items()))
        listed = " or ".join((*several[:_MAX_NAMED], *(["another"] if len(several) > _MAX_NAMED else [])))
        return (
            f"{ours!r} is {listed} there, or new: say which with --map {ours}={several[0]}, or --map {ours}= "
            "if it is new"
        )


def paired_values(
    ours: Sequence[Value],
    theirs: Sequence[Value],
    *,
    renamed: Mapping[str, str] | None = None,
    uses: tuple[Uses, Uses] | None = None,
) -> ValuePairs:
    """Pairs the inputs of one graph with those of another, or the outputs.

    Args:
        ours: Those of the graph that is compared, in its order.
        theirs: Those of the reference.
        renamed: What the caller knows: names of ours, and what each is called there, `""` for what is not there. Names
            that ours don't have are those of other files, and ignored (`check_renamed`).
        uses: The modules that use ours and theirs (`users_of`, `makers_of`), which tell what a value is for.

    Raises:
        HtpError: `renamed` names one of theirs that is not there, or the same one twice.

    Example:
        >>> paired_values([Value("enc_x", 1, (2, "n"))], [Value("x", 1, (2, "m"))]).explain()
        ["enc_x is x (its name without 'enc_')"]
        >>> paired_values([Value("a", 7, (2,)), Value("b", 1, (2,))], [Value("x", 1, (2,)), Value("y", 7, (2,))]).names
        {'a': 'y', 'b': 'x'}
    """
    pairing = _Pairing(ours, theirs, uses)
    pairing.given(renamed or {})
    given = len(pairing.names)
    pairing.equal()
    pairing.spelled()
    if len(pairing.names) == given and not pairing.affixed():
        pairing.used()
        pairing.in_order()
    pairing.in_place()
    return pairing.result()


def check_renamed(renamed: Mapping[str, str], models: Iterable[OnnxModel]) -> None:
    """Raises HtpError if what the caller mapped is an input or output of none of the files."""
    ends = (value.name for model in models for value in (*model.graph.inputs, *model.graph.outputs))
    known = dict.fromkeys(ends) if renamed else {}
    for name in (name for name in renamed if name not in known):
        raise HtpError(
            f"--map {name}={renamed[name]}: no input or output is called {name!r}; there are {', '.join(known)}"
        )


def users_of(graph: TaggedGraph) -> dict[str, frozenset[str]]:
    """The modules that use each input, in bodies and behind what only brings it into another form too.

    Of a fused node these are all that it came from.
    """
    readers: dict[str, list[tuple[NodeKey, Node]]] = {}
    for key, node in graph.model.nodes():
        for name in dict.fromkeys(node.inputs):
            readers.setdefault(name, []).append((key, node))
    users: dict[str, frozenset[str]] = {}
    for value in graph.model.graph.inputs:
        names, seen, modules = [value.name], {value.name}, set[str]()
        for name in names:  # which grows
            for key, node in readers.get(name, ()):
                modules.update(_modules(graph, key))
                if node.op_type in _PASSING and node.inputs[0] == name:
                    fresh = [output for output in node.outputs if output and output not in seen]
                    seen.update(fresh)
                    names += fresh
        users[value.name] = frozenset(modules)
    return users


def makers_of(graph: TaggedGraph) -> dict[str, frozenset[str]]:
    """The modules whose node produces each tensor of the main graph."""
    nodes = enumerate(graph.model.graph.nodes)
    return {name: frozenset(_modules(graph, ("", index))) for index, node in nodes for name in node.outputs if name}


def _modules(graph: TaggedGraph, key: NodeKey) -> tuple[str, ...]:
    tag = graph.tags.get(key)
    return () if tag is None or tag.source == "unresolved" else tag.origins or (tag.tag,)


class _Pairing:
    """What is paired so far, and what is left on both sides."""

    def __init__(self, ours: Iterable[Value], theirs: Iterable[Value], uses: tuple[Uses, Uses] | None) -> None:
        self.ours = {value.name: value for value in ours}
        self.theirs = {value.name: value for value in theirs}
        self.uses = uses or ({}, {})
        self.order = tuple(self.ours), tuple(self.theirs)
        self.places = tuple({name: place for place, name in enumerate(side)} for side in self.order)
        # Then the symbols mean the same, as those of one exporter do.
        self.same_symbols = _symbols(self.ours.values()) == _symbols(self.theirs.values())
        self.names: dict[str, str] = {}
        self.evidence: dict[str, str] = {}

    def given(self, renamed: Mapping[str, str]) -> None:
        """What the caller mapped."""
        for ours, theirs in renamed.items():
            if ours not in self.ours:
                continue
            if not theirs:
                del self.ours[ours]
            elif theirs not in self.theirs:
                problem = "is mapped already" if theirs in self.order[1] else "is not there"
                raise HtpError(f"--map {ours}={theirs}: {theirs!r} {problem}; there are {', '.join(self.order[1])}")
            else:
                self._pair(ours, theirs, _GIVEN)

    def equal(self) -> None:
        """Those of the same name, whatever their type: it is for others to say that it does not fit."""
        for name in [name for name in self.ours if name in self.theirs]:
            self._pair(name, name, "")

    def spelled(self) -> None:
        """`pastKeyValues.0.key` and `past_key_values_0_key`."""
        spelled = [_by_spelling(side) for side in (self.ours, self.theirs)]
        for words, names in spelled[0].items():
            others = spelled[1].get(words, [])
            if len(names) == len(others) == 1 and self._fits(names[0], others[0]):
                self._pair(names[0], others[0], _SPELLING)

    def affixed(self) -> bool:
        """`encoder.x` and `x`: what most have in common in front or behind first, the shortest of several.

        Returns whether all names of a side have it: then only the rest of the name counts, and what is left differs.
        """
        used: list[_Affix] = []
        pairs = list(islice(_affixed(self.ours, self.theirs, self._fits), _MAX_PAIRS + 1))
        pairs.sort(key=lambda pair: (self.places[0][pair[1]], self.places[1][pair[2]]))
        steps = _MAX_PAIRS if len(pairs) <= _MAX_PAIRS else 0  # no model has so many names that begin with each other
        while steps >= 0:
            affixes: dict[_Affix, list[tuple[str, str]]] = {}
            pairs = [pair for pair in pairs if pair[1] in self.ours and pair[2] in self.theirs]
            steps -= 1 + len(pairs)
            for affix, ours, theirs in pairs:
                affixes.setdefault(affix, []).append((ours, theirs))
            # `mask` is not `x` because there is a `maskx`; if that is so of all, it is.
            smaller = min(len(self.ours), len(self.theirs))
            sure = [affix for affix, found in affixes.items() if affix.is_bounded or len(found) == smaller]
            if not sure:
                break
            affix = max(sure, key=lambda affix: (len(affixes[affix]), -len(affix.text)))
            for ours, theirs in affixes[affix]:
                if ours in self.ours and theirs in self.theirs:
                    self._pair(ours, theirs, affix.words)
            used.append(affix)
        return bool(used) and any(
            all(any(affix.is_of(name) for affix in used) for name in side) for side in self.order
        )

    def used(self) -> None:
        """Those whose modules are most alike."""
        groups = self._groups()
        alike = {pair: score for pair in groups.pairs() if (score := self._alike(*groups.first(pair)))}
        for score in sorted(set(alike.values()), reverse=True):
            equal = [pair for pair, each in alike.items() if each == score]
            left = self._in_order(groups, equal, _USES, _USES_AND_ORDER)
            # Which of these are each other's is open, and those that are less alike are no better.
            alike = {pair: each for pair, each in alike.items() if pair[0] not in left}

    def in_place(self) -> None:
        """Those that stand in the same place among as many, and that just the same modules use."""
        if len(self.order[0]) == len(self.order[1]):
            for ours, theirs in zip(*self.order, strict=True):
                if ours in self.ours and theirs in self.theirs and self._alike(ours, theirs) == 1:
                    self._pair(ours, theirs, _PLACE)

    def in_order(self) -> None:
        """Those that only fit one another, then the others if they fit in their order."""
        while True:
            groups = self._groups()
            fitting = [pair for pair in groups.pairs() if self._fits(*groups.first(pair))]
            counts: tuple[Counter[_Group], Counter[_Group]] = Counter(), Counter()
            for pair in fitting:
                for side in (0, 1):
                    counts[side][pair[side]] += len(groups.sides[1 - side][pair[1 - side]])
            only = [pair for pair in fitting if counts[0][pair[0]] == counts[1][pair[1]] == 1]
            for pair in only:
                self._pair(*groups.first(pair), _ONLY)
            if not only:
                break
        self._in_order(groups, fitting, _ONLY, _ORDER)

    def _in_order(self, groups: _Groups, pairs: Iterable[_GroupPair], alone: str, among: str) -> set[_Group]:
        """Of pairs that may be, makes those that are as many on both sides, in their order; returns ours that are open.

        `alone` is why a pair is one that shares its names with no other, `among` why others are.
        """
        open_ones: set[_Group] = set()
        for connected in _connected([pair for pair in pairs if groups.are_left(pair, self.ours, self.theirs)]):
            group_of = [
                {
                    name: group
                    for group in dict.fromkeys(pair[side] for pair in connected)
                    for name in groups.sides[side][group]
                }
                for side in (0, 1)
            ]
            ours, theirs = (
                sorted(names, key=places.__getitem__) for names, places in zip(group_of, self.places, strict=True)
            )
            may_be = set(connected)
            chosen = list(zip(ours, theirs, strict=False))
            if len(ours) == len(theirs) and all(
                (group_of[0][one], group_of[1][other]) in may_be for one, other in chosen
            ):
                for one, other in chosen:
                    self._pair(one, other, alone if len(chosen) == 1 else among)
            else:
                open_ones.update(pair[0] for pair in connected)
        return open_ones

    def _groups(self) -> _Groups:
        """What is left, in groups of which all members have the same type and shape, and the same modules use them."""
        sides: tuple[dict[_Group, list[str]], dict[_Group, list[str]]] = {}, {}
        for side, (left, uses) in enumerate(zip((self.ours, self.theirs), self.uses, strict=True)):
            for name, value in left.items():
                group = _kind(value.elem_type), value.shape, frozenset(uses.get(name, ()))
                sides[side].setdefault(group, []).append(name)
        return _Groups(sides)

    def result(self) -> ValuePairs:
        """What was found, in the order of ours."""
        groups = self._groups()
        candidates: dict[str, tuple[str, ...]] = {}
        if groups.are_too_many:  # then any may be any
            candidates = dict.fromkeys(self.ours, tuple(self.theirs))
        others: dict[_Group, list[_Group]] = {}
        for pair in groups.pairs():
            first = groups.first(pair)
            if self._fits(*first) and self._alike(*first) != 0:
                others.setdefault(pair[0], []).append(pair[1])
        for group, fitting in others.items():
            named = (name for other in fitting for name in groups.sides[1][other])
            listed = tuple(sorted(named, key=self.places[1].__getitem__))
            candidates.update(dict.fromkeys(groups.sides[0][group], listed))
        return ValuePairs(
            names={name: self.names[name] for name in self.order[0] if name in self.names},
            evidence=self.evidence,
            only_ours=tuple(name for name in self.order[0] if name not in self.names),
            only_theirs=tuple(self.theirs),
            candidates={name: candidates[name] for name in self.ours if candidates.get(name)},
        )

    def _pair(self, ours: str, theirs: str, why: str) -> None:
        self.names[ours] = theirs
        if why:
            self.evidence[ours] = why
        del self.ours[ours], self.theirs[theirs]

    def _fits(self, ours: str, theirs: str) -> bool:
        return _fits(self.ours[ours], self.theirs[theirs], by_symbol=self.same_symbols)

    def _alike(self, ours: str, theirs: str) -> float | None:
        """The share of the modules that use one of two values which use both; None if it is unknown who does."""
        one, other = set(self.uses[0].get(ours, ())), set(self.uses[1].get(theirs, ()))
        return len(one & other) / len(one | other) if one and other and self._fits(ours, theirs) else None


_Group: TypeAlias = tuple[str, tuple[int | str | None, ...] | None, frozenset[str]]
_GroupPair: TypeAlias = tuple[_Group, _Group]


@dataclass(frozen=True, slots=True)
class _Groups:
    """Names of each side by what they have in common: what is true of one is of all in its group."""

    sides: tuple[Mapping[_Group, list[str]], Mapping[_Group, list[str]]]

    @property
    def are_too_many(self) -> bool:
        """Whether there are more pairs of them than any two models have, so that none are looked at."""
        return len(self.sides[0]) * len(self.sides[1]) > _MAX_PAIRS

    def pairs(self) -> Iterator[_GroupPair]:
        """All that may be each other's."""
        return iter(()) if self.are_too_many else product(*self.sides)

    def first(self, pair: _GroupPair) -> tuple[str, str]:
        """A name of each of two groups."""
        return self.sides[0][pair[0]][0], self.sides[1][pair[1]][0]

    def are_left(self, pair: _GroupPair, ours: Collection[str], theirs: Collection[str]) -> bool:
        """Whether the names of two groups are in these."""
        one, other = self.first(pair)
        return one in ours and other in theirs


class _Affix(NamedTuple):
    """What one of two names has in front or behind."""

    words: str
    text: str
    in_front: bool

    @property
    def is_bounded(self) -> bool:
        """Whether the rest is a word of its own."""
        return not self.text[-1 if self.in_front else 0].isalnum()

    def is_of(self, name: str) -> bool:
        """Whether a name has it."""
        return name.startswith(self.text) if self.in_front else name.endswith(self.text)


def _fits(one: Value, other: Value, *, by_symbol: bool) -> bool:
    """Whether two values may be the same: numbers of one kind, of any precision, and no size that contradicts."""
    kinds = {_kind(value.elem_type) for value in (one, other)} - {"unknown"}
    if len(kinds) > 1:
        return False
    if one.shape is None or other.shape is None:
        return True
    return len(one.shape) == len(other.shape) and all(
        left == right
        for left, right in zip(one.shape, other.shape, strict=True)
        if type(left) is type(right) and (by_symbol or isinstance(left, int))
    )


def _symbols(values: Iterable[Value]) -> set[str]:
    return {size for value in values for size in value.shape or () if isinstance(size, str)}


def _kind(elem_type: int) -> str:
    kind = element_type(elem_type).kind
    return "integer" if kind == "bool" else kind  # masks are either


def _by_spelling(names: Iterable[str]) -> dict[str, list[str]]:
    """The names by their words, whatever separates these.

    >>> list(_by_spelling(["pastKeyValues.0.key", "_PAST_key_values/0/key"]))
    ['past key values 0 key']
    """
    spelled: dict[str, list[str]] = {}
    for name in names:
        words = re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name))
        spelled.setdefault(" ".join(words).casefold(), []).append(name)
    return spelled


def _affixed(
    ours: Collection[str], theirs: Collection[str], fits: Callable[[str, str], bool]
) -> Iterator[tuple[_Affix, str, str]]:
    """The pairs of which one name has more in front or behind than the other, in their order."""
    for name in ours:
        shorter = [other for other in _parts(name) if other in theirs]
        yield from ((affix, name, other) for other in shorter if fits(name, other) and (affix := _affix(name, other)))
    for other in theirs:
        shorter = [name for name in _parts(other) if name in ours]
        yield from ((affix, name, other) for name in shorter if fits(name, other) and (affix := _affix(name, other)))


def _parts(name: str) -> Iterator[str]:
    """What a name begins or ends with, besides itself."""
    if len(name) <= _LONGEST_NAME:
        yield from dict.fromkeys(part for cut in range(1, len(name)) for part in (name[:cut], name[cut:]))


def _affix(ours: str, theirs: str) -> _Affix | None:
    """What is in front or behind of one of two names that the other is without.

    >>> _affix("enc_x", "x").words, _affix("x", "x.1").words, _affix("x", "y")
    ("its name without 'enc_'", "its name with '.1'", None)
    """
    short, long = sorted((ours, theirs), key=len)
    if not short or short == long or not (long.endswith(short) or long.startswith(short)):
        return None
    in_front = long.endswith(short)
    text = long[: -len(short)] if in_front else long[len(short) :]
    return _Affix(f"its name {'without' if long == ours else 'with'} {text!r}", text, in_front)


def _connected(pairs: Sequence[_GroupPair]) -> list[list[_GroupPair]]:
    """The pairs, those together that share a member, or are connected by others."""
    members: dict[tuple[int, _Group], list[_GroupPair]] = {}
    for pair in pairs:
        for side in (0, 1):
            members.setdefault((side, pair[side]), []).append(pair)
    connected: list[list[_GroupPair]] = []
    seen: set[_GroupPair] = set()
    for pair in pairs:
        together = [] if pair in seen else [pair]
        seen.add(pair)
        for one in together:  # which grows
            for side in (0, 1):
                fresh = [other for other in members.pop((side, one[side]), ()) if other not in seen]
                seen.update(fresh)
                together += fresh
        if together:
            connected.append(together)
    return connected
