"""A graph that is run part by part, so that all of its tensors are seen and few are held.

Each node runs once. What a part hands on to later ones is held until the last of them has run; all else that it makes is
looked at and let go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from optimum_htp.models import Array, PlannedNode, Prober, run_session
from optimum_htp.onnxfile import element_type, reads
from optimum_htp.verbs.ranges.partial_sums import PartialSums, SumNodes, as_single

_SINGLE = "/optimum_htp_single/"
_LEAST = 4  # part of the memory that is left for what is looked at, however much is handed on


@dataclass(slots=True)
class Part:
    """Nodes that run together, by their indices in the flat graph, and what later ones need of them."""

    nodes: list[int] = field(default_factory=list)
    handed_on: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a part showed.

    Attributes:
        nodes: Its nodes.
        arrays: The values of each tensor in each sample, those that it was given too.
        sums: By the index of a node, its sums.
        inside: By the index of a node, the tensor that it adds up inside.
    """

    nodes: Sequence[int]
    arrays: Mapping[str, Sequence[Array]]
    sums: Mapping[int, PartialSums]
    inside: Mapping[int, str]


class RunInParts:
    """Runs a graph on some samples. `inside` is whether sums within operators are shown too."""

    def __init__(
        self, prober: Prober, samples: Sequence[Mapping[str, Array]], *, inside: bool, max_bytes: int
    ) -> None:
        self._prober = prober
        self._flat = prober.flat
        self._samples = samples
        self._inside = inside
        self._max_bytes = max_bytes
        self._last = {name: max(indices) for name, indices in self._flat.consumers.items()}
        self.parts = self._cut(self._sizes())

    def __iter__(self) -> Iterator[Seen]:
        held: list[dict[str, Array]] = [dict(sample) for sample in self._samples]
        for part in self.parts:
            yield self._run(part, held)
            end = part.nodes[-1]
            for values in held:
                for name in [name for name in values if self._last.get(name, -1) <= end]:
                    del values[name]

    def _sizes(self) -> dict[str, int]:
        """How many bytes each tensor has, in all samples together."""
        known = [name for name in self._flat.producer if self._bits(name)]
        sizes = dict.fromkeys(known, 0)
        before: Mapping[str, int] = {}
        for number, sample in enumerate(self._samples):
            if not number or _shapes(sample) != _shapes(self._samples[number - 1]):
                before = self._prober.lengths(known, sample) if known else {}
            for name, length in before.items():
                sizes[name] += length * self._bits(name) // 8
        return sizes

    def _bits(self, name: str) -> int:
        """How many bits a number of a tensor has; 0 for what is none that numpy has, or not known."""
        value = self._prober.types.get(name)
        element = element_type(value.elem_type if value is not None else 0)
        if element.kind not in ("float", "integer", "bool") or ((element.bits or 0) < 8 and element.kind != "bool"):
            return 0
        return max(element.bits or 8, 8)

    def _cut(self, sizes: Mapping[str, int]) -> list[Part]:
        parts = [Part()]
        live: dict[str, int] = {}  # what later nodes need, by the index of the last
        made = 0
        for index, flat in enumerate(self._flat.nodes):
            outputs = list(filter(None, flat.node.outputs))
            more = sum(sizes.get(name, 0) for name in outputs)
            if self._inside:  # the magnitudes of what is read and made are as large
                more += more + sum(sizes.get(name, 0) for name in flat.node.inputs)
            waiting = [name for name, last in live.items() if last >= index]
            room = self._max_bytes - sum(sizes.get(name, 0) for name in waiting)
            can_cut = all(self._is_array(name) for name in waiting)
            if parts[-1].nodes and made + more > max(room, self._max_bytes // _LEAST) and can_cut:
                parts[-1].handed_on = [name for name in waiting if self._flat.producer[name] >= parts[-1].nodes[0]]
                parts.append(Part())
                made = 0
            parts[-1].nodes.append(index)
            made += more
            live = {name: last for name, last in live.items() if last > index}
            if index in self._flat.varying:
                live |= {name: self._last[name] for name in outputs if self._last.get(name, -1) > index}
        return parts

    def _is_array(self, name: str) -> bool:
        """Whether a tensor can be given to a session: it is known, and numpy has its type."""
        return self._bits(name) > 0 and self._prober.type_of(name) != "bfloat16"

    def _run(self, part: Part, held: list[dict[str, Array]]) -> Seen:
        flat, prober = self._flat, self._prober
        nodes, needed = self._with_constants(part.nodes)
        outputs = [name for index in part.nodes for name in flat.nodes[index].node.outputs if name]
        shown = [name for name in outputs if prober.may_be_float(name)]
        more = SumNodes(prober)
        sums: dict[int, PartialSums] = {}
        inside: dict[int, str] = {}
        for index in part.nodes if self._inside else ():
            found = more.sums(index, flat.nodes[index].node) if index in flat.varying else None
            if found is not None:
                sums[index] = found
            within = more.inside(index, flat.nodes[index].node)
            if within is not None:
                inside[index] = within
        single = {name: f"{_SINGLE}{name}" for name in shown if self._is_odd(name)}
        casts = [as_single(name, other) for name, other in single.items()]
        wanted = {name: single.get(name, name) for name in dict.fromkeys((*shown, *part.handed_on))}
        wanted |= {each.magnitudes: each.magnitudes for each in sums.values()}
        wanted |= {name: name for name in inside.values()}
        arrays: dict[str, list[Array]] = {name: [] for name in wanted}
        session = None
        for values in held:
            feed = {name: values[name] for name in needed}
            if wanted:
                if session is None:
                    planned = [PlannedNode(index, {}) for index in nodes]
                    session = prober.session(planned, feed, wanted.values(), [*more.nodes, *casts])
                results = run_session(session, list(wanted.values()), feed, name=prober.name)
                for name, array in zip(wanted, results, strict=True):
                    arrays[name].append(array)
                values.update((name, arrays[name][-1]) for name in part.handed_on)
        given = {name: [values[name] for values in held] for name in needed}
        return Seen(part.nodes, {**given, **arrays}, sums, inside)

    def _is_odd(self, name: str) -> bool:
        """Whether numpy lacks the type of a tensor."""
        kind = self._prober.type_of(name)
        return kind == "bfloat16" or kind.startswith("float8")

    def _with_constants(self, indices: Sequence[int]) -> tuple[list[int], list[str]]:
        """Some nodes with those that they need and that depend on no input, in order, and what has to be given to them."""
        chosen = set(indices)
        needed: dict[str, None] = {}
        stack = [name for index in indices for name in reads(self._flat.nodes[index].node)]
        while stack:
            name = stack.pop()
            index = self._flat.producer.get(name)
            if name in self._flat.inputs or (
                index is not None and index not in chosen and index in self._flat.varying
            ):
                needed[name] = None
            elif index is not None and index not in chosen:
                chosen.add(index)
                stack.extend(reads(self._flat.nodes[index].node))
        return sorted(chosen), list(needed)


def _shapes(sample: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in sample.items()}
