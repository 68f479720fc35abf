"""Which tensors of a graph are what a module call was given and what it returned, by evidence.

The reference knows the values at a call's borders, but not which tensors of the ONNX graph these are. In this order:

1. by name: a tensor of the reference's own graph has the name, and crosses the same border here (`NAME`);
2. by value: the tensor has the reference's values, on all samples, in whatever layout (`VALUE`): in the running model, then
   with the reference's values at all ports that are known, so that a module after a faulty one is recognized too;
3. by shape: nothing agrees, and the tensor is the likeliest: for an output the last that is used outside, for an input the
   only one left of the shape (`SHAPE`). What a faulty module returns is found so.

All tensors that agree are ports: what reads any of them reads the same values in the reference. A tensor that only agrees in
another layout is given to its readers in the layout that they take.

For example, a layer `y = norm(x + dense(x))` with a fault in `dense`. In the running model only `x` agrees. `dense` has one
tensor that leaves it, which is taken for its output by shape; with the reference's values there, the sum is what `norm` was
given, and what leaves `norm` is what it returned. Both rest on a guess, which is no evidence for others: they count as one too.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from optimum_htp.errors import HtpError
from optimum_htp.models import Array, Errors, Prober
from optimum_htp.verbs.compare.call_graph import CallGraph
from optimum_htp.verbs.compare.cut_graph import Cut, Plan, Port
from optimum_htp.verbs.compare.layout import AS_IT_IS, Layout, fit, measured
from optimum_htp.verbs.compare.plan_run import Run
from optimum_htp.verbs.compare.reference import CallValues, PortValue, Reference

logger = logging.getLogger(__name__)

NAME, VALUE, SHAPE = "name", "value", "shape"
_ROUNDS = 4
_MOST_CANDIDATES = 12
_EXACT_DB = 60.0
_CLOSE_DB = 3.0
_SHARED = 0.1  # by so many of the reference's names a graph is known to be made of its graph

Samples = Sequence[Array]  # of one tensor: one array for each sample


@dataclass(frozen=True, slots=True)
class PortMatch:
    """What a port's tensor is compared with."""

    index: int  # which of the tensors that the call was given or returned
    evidence: str
    layout: Layout = AS_IT_IS


@dataclass(slots=True)
class Seen:
    """What a call's borders look like: the arrays of each tensor, and what the reference has, for all samples."""

    tensors: dict[Port, Samples] = field(default_factory=dict)
    values: list[CallValues] = field(default_factory=list)
    guessed: frozenset[Port] = frozenset()  # whose tensors rest on ports that are known by their shape only


class Ports:
    """The ports of one graph. From an SQNR of `agree_db` on a tensor has the reference's values, in this `precision`."""

    def __init__(
        self,
        graph: CallGraph,
        prober: Prober,
        samples: Sequence[Reference],
        *,
        precision: str,
        agree_db: float,
        max_bytes: int,
    ) -> None:
        self.graph = graph
        self.prober = prober
        self.samples = samples
        self.precision = precision
        self.agree_db = agree_db
        self.matches: dict[Port, PortMatch] = {}
        self.problems: dict[int, str] = {}  # of calls that could not be run, why
        self.works: dict[int, bool] = {}  # whether calls do something here, as far as that was asked
        self.chunks = 0  # in how many groups of calls the tensors were exposed
        self._max_bytes = max_bytes // 3
        self.names_are_shared = False
        self._shapes: dict[tuple[int, str], tuple[int, ...]] = {}  # by sample
        self._dtypes: dict[str, str] = {}
        self._digests: tuple[frozenset[Port], dict[bytes, list[Port]]] | None = None

    # --- Running ------------------------------------------------------------------------------------------------------

    def cut(self, graph: CallGraph | None = None) -> Cut:
        """The graph, cut at all ports; with another depth of calls at those of these."""
        graph = graph or self.graph
        return Cut(graph, fed=(port for port in self.matches if graph.has_call(port.call)))

    def seen(self, cut: Cut, ports: Mapping[int, Iterable[Port]]) -> Iterator[dict[int, Seen]]:
        """What is at some ports of each call, as much at once as fits into memory."""
        for chunk in self.in_chunks(ports):
            self.chunks += 1
            wanted = {number: list(ports[number]) for number in chunk}
            yield self._chunk(cut, wanted)

    def in_chunks(self, numbers: Iterable[int]) -> Iterator[list[int]]:
        """Calls in groups, the tensors of each of which fit into memory."""
        return _groups({number: self.samples[0].calls[number].bytes for number in numbers}, self._max_bytes)

    def _chunk(self, cut: Cut, ports: Mapping[int, Sequence[Port]]) -> dict[int, Seen]:
        whole = self._run(cut, [port for group in ports.values() for port in group])
        seen: dict[int, Seen] = {}
        values = [self._values(sample, list(ports)) for sample in self.samples]
        for number, group in ports.items():
            tensors = whole if whole is not None else self._run(cut, group)
            if tensors is None and len(group) > 1:  # one of them can't be shown
                single = (self._run(cut, [port]) for port in group)
                tensors = {port: arrays for each in single if each is not None for port, arrays in each.items()}
            if not tensors and group:
                self.problems[number] = "ONNX Runtime can't show its tensors"
            known = {port: tensors[port] for port in group if port in (tensors or {})}  # type: ignore[index]
            seen[number] = Seen(known, [sample[number] for sample in values], self._guessed(cut, known))
        return seen

    def _guessed(self, cut: Cut, ports: Iterable[Port]) -> frozenset[Port]:
        guesses = {port for port, match in self.matches.items() if match.evidence == SHAPE}
        if not guesses:
            return frozenset()
        return frozenset(port for port in ports if not guesses.isdisjoint(cut.sources(cut.seen(port))))

    def _run(self, cut: Cut, ports: Sequence[Port]) -> dict[Port, Samples] | None:
        """The tensors at some ports; None if ONNX Runtime can't show them."""
        names = {str(index): cut.seen(port) for index, port in enumerate(ports)}
        arrays = self.run(cut.plan(names))
        if arrays is None:
            return None
        result: dict[Port, Samples] = {}
        for index, port in enumerate(ports):
            found = [array[str(index)] for array in arrays]
            if all(hasattr(array, "dtype") for array in found):
                result[port] = found
                if cut.source(names[str(index)]) is None:
                    self._note(port.tensor, found)
        return result

    def run_or_raise(self, plan: Plan) -> list[dict[str, Array]]:
        """What a plan without ports shows on each sample. Raises HtpError if ONNX Runtime can't run it."""
        runner = Run(self.prober, plan)
        return [runner.on(sample.inputs, {}) for sample in self.samples]

    def run(
        self,
        plan: Plan,
        deltas: Sequence[Mapping[str, tuple[Array, Array, Array]]] | None = None,
        *,
        runner: Run | None = None,
    ) -> list[dict[str, Array]] | None:
        """What a plan shows on each sample; None if ONNX Runtime can't. A plan's `runner` is for one that runs often."""
        runner = runner or Run(self.prober, plan)
        results = []
        try:
            for index, sample in enumerate(self.samples):
                fed = self.fed(plan, index)
                results.append(runner.on(sample.inputs, fed, deltas[index] if deltas else None))
        except HtpError as error:
            logger.debug("%s", error)
            return None
        return results

    def fed(self, plan: Plan, sample: int) -> dict[str, Array]:
        """What a plan is given of the reference on a sample."""
        values = self._values(self.samples[sample], sorted({port.call for port in plan.fed.values()}))
        return {name: self.given(port, values[port.call], sample) for name, port in plan.fed.items()}

    def given(self, port: Port, values: CallValues, sample: int) -> Array:
        """The reference's value at a port, as the graph has it."""
        match = self.matches[port]
        value = self.expected(port, values)[match.index].array
        array = match.layout.of_graph(value, self._shapes.get((sample, port.tensor), ()))
        dtype = self._dtypes.get(port.tensor)
        return array.astype(dtype) if dtype is not None else array

    def compared_as(self, number: int) -> int | None:
        """The call of the BatchNorm that was folded into a convolution: the next one, which has no nodes left."""
        calls, following = self.graph.calls, number + 1
        if number not in self.graph.nodes or following >= len(calls) or following in self.graph.nodes:
            return None
        is_norm = "BatchNorm" in calls[following].class_name and calls[following].parent == calls[number].parent
        return following if is_norm and following not in self.graph.fused else None

    def _values(self, sample: Reference, numbers: Sequence[int]) -> dict[int, CallValues]:
        """What the reference has for some calls; of a convolution with a folded BatchNorm what that returned."""
        folded = {number: norm for number in numbers if (norm := self.compared_as(number)) is not None}
        values = sample.values([*numbers, *(norm for norm in folded.values() if norm not in numbers)])
        for number, norm in folded.items():
            values[number] = CallValues(values[number].received, values[norm].returned)
        return values

    def right(self, port: Port) -> list[Array]:
        """What the reference has for a port's tensor, on all samples."""
        index = self.matches[port].index
        values = (self._values(sample, [port.call])[port.call] for sample in self.samples)
        return [self.expected(port, each)[index].array for each in values]

    def expected(self, port: Port, values: CallValues) -> tuple[PortValue, ...]:
        """What a port's tensor is one of."""
        return values.received if port.into else values.returned

    def dtype(self, tensor: str) -> str | None:
        """The numpy type that the graph has for a tensor; None if it was not seen yet."""
        return self._dtypes.get(tensor)

    def _note(self, tensor: str, arrays: Samples) -> None:
        self._dtypes[tensor] = str(arrays[0].dtype)
        for index, array in enumerate(arrays):
            self._shapes[index, tensor] = array.shape

    # --- Matching -----------------------------------------------------------------------------------------------------

    def match(self) -> None:
        """Finds the ports of all calls."""
        self._by_name()
        calls = [number for number in range(len(self.samples[0].calls)) if self._candidates(number, 0)]
        for step in range(_ROUNDS):
            cut = Cut(self.graph) if step == 0 else self.cut()
            before = dict(self.matches)
            wanted = {number: candidates for number in calls if (candidates := self._in_doubt(number, step))}
            for chunk in self.seen(cut, wanted):
                for number, seen in chunk.items():
                    self._match(number, seen)
            if step and self.matches == before:
                break

    def agrees(self, errors: Errors) -> bool:
        """Whether a tensor has the reference's values."""
        return errors.sqnr_db >= self.agree_db

    def _by_name(self) -> None:
        numbers = self.samples[0].named_calls
        named: list[str] = []
        for chunk in self.in_chunks(numbers):
            for number, values in self._values(self.samples[0], chunk).items():
                inside = self.graph.nodes.get(number, set())
                entering = self.graph.entering(number) if inside else []
                for index, value in enumerate(values.received):
                    tensor = self._named_tensor(value)
                    if tensor is not None and tensor in entering:
                        self.matches[Port(number, tensor, into=True)] = PortMatch(index, NAME)
                named += [value.name for value in values.returned if value.name is not None]
                for index, value in enumerate(values.returned):
                    tensor = self._named_tensor(value)
                    producer = self.graph.flat.producer.get(tensor or "")
                    if producer is None or tensor is None:
                        continue
                    if producer in inside:
                        self.matches[Port(number, tensor, into=False)] = PortMatch(index, NAME)
                    elif producer in self.graph.fused.get(number, ()):
                        self.matches[Port(number, tensor, into=False, shared=True)] = PortMatch(index, NAME)
        ours = self.graph.flat.producer
        shared = [name in ours for name in named if name not in self.samples[0].outputs]  # those are called so by all
        self.names_are_shared = sum(shared) > _SHARED * len(shared)
        # Names are evidence only where the shapes are the same.
        wanted: dict[int, list[Port]] = {}
        for port in self.matches:
            wanted.setdefault(port.call, []).append(port)
        for chunk_seen in self.seen(Cut(self.graph), wanted):
            for number, seen in chunk_seen.items():
                for port in wanted[number]:
                    index = self.matches[port].index
                    expected = [self.expected(port, values)[index].array for values in seen.values]
                    arrays = seen.tensors.get(port)
                    if arrays is None or measured(AS_IT_IS, arrays, expected) is None:
                        del self.matches[port]

    def _named_tensor(self, value: PortValue) -> str | None:
        """The tensor with a value's name: where a tool quantizes it, that before, and the name is with what comes after."""
        return None if value.name is None else self.graph.source(value.name)

    def _candidates(self, number: int, step: int) -> list[Port]:
        """The tensors that may be at a call's borders."""
        graph, prober = self.graph, self.prober
        ports: list[Port] = []
        if number in graph.nodes:
            leaving = [name for name in graph.leaving(number) if prober.may_be_float(name)]
            if step:
                leaving = list(dict.fromkeys((*leaving, *filter(prober.may_be_float, graph.inside(number)))))
            leaving = leaving or [name for name in graph.inside(number) if prober.may_be_float(name)][:1]
            ports += [Port(number, name, into=False) for name in leaving[:_MOST_CANDIDATES]]
            ports += [
                Port(number, name, into=True)
                for name in graph.entering(number)
                if prober.may_be_port(name) and not self._is_computed_there(name)
            ]
        for index in reversed(graph.fused.get(number, [])):
            outputs = [name for name in graph.flat.nodes[index].node.outputs if name and prober.may_be_float(name)]
            ports += [Port(number, name, into=False, shared=True) for name in outputs]
        return ports

    def _is_computed_there(self, name: str) -> bool:
        """Whether an input of the graph is a tensor that the reference computes: of a part, whose calls know it by name.

        What the calls around the part are given may look like it, as layers do that add little to what they are given.
        """
        return name in self.graph.flat.inputs and self.samples[0].owner_of(name) is not None

    def _in_doubt(self, number: int, step: int) -> list[Port]:
        """The candidates of a call of which something is not known for certain."""
        known = {port: match for port, match in self.matches.items() if port.call == number} if step else {}
        if step and known and all(match.evidence != SHAPE for match in known.values()):
            sides = {port.into for port in known}
            candidates = self._candidates(number, 0)
            if {port.into for port in candidates} <= sides:
                return []
        return self._candidates(number, step)

    def _match(self, number: int, seen: Seen) -> None:
        for into in (True, False):
            tensors = {port: arrays for port, arrays in seen.tensors.items() if port.into == into}
            sides = [values.received if into else values.returned for values in seen.values]
            counts = {len(side) for side in sides}
            if len(counts) != 1:  # samples that took other ways
                continue
            expected = [[side[index].array for side in sides] for index in range(counts.pop())]
            names = [value.name for value in sides[0]]
            self._match_side(number, tensors, expected, names, seen.guessed, into=into)

    def _match_side(
        self,
        number: int,
        tensors: Mapping[Port, Samples],
        expected: Sequence[Samples],
        expected_names: Sequence[str | None],
        guessed: frozenset[Port],
        *,
        into: bool,
    ) -> None:
        named = {
            port: match
            for port, match in self.matches.items()
            if port.call == number and port.into == into and match.evidence == NAME
        }
        taken = {match.index for match in named.values()}
        free = {port: arrays for port, arrays in tensors.items() if port not in named}
        fits = {
            (port, index): result
            for port, arrays in free.items()
            for index, wanted in enumerate(expected)
            if (result := fit(arrays, wanted, self.agrees)) is not None
        }
        chosen: dict[Port, PortMatch] = dict(named)
        for index in range(len(expected)):
            agreeing = {
                port: result
                for (port, other), result in fits.items()
                if other == index and self.agrees(result[1]) and port not in chosen
            }
            best = max((errors.sqnr_db for _, errors in agreeing.values()), default=0.0)
            for port, (layout, errors) in agreeing.items():
                if errors.sqnr_db >= min(best - _CLOSE_DB, _EXACT_DB):
                    chosen[port] = PortMatch(index, SHAPE if port in guessed else VALUE, layout)
                    taken.add(index)
        if not into:  # what only the module itself reads may be what comes before its output
            chosen_used = {match.index for port, match in chosen.items() if port.shared or self._is_used(port)}
            taken &= chosen_used | {index for index in taken if not self._has_used(index, free, chosen, fits)}
        left = [index for index in range(len(expected)) if index not in taken]
        unused = [port for port in free if port not in chosen]
        # What an optimizer made of a call and others may have the shape of what it returned before that is done.
        if into or not (self._has_names(expected_names) or number in self.graph.fused):
            guessable = [port for port in unused if not port.shared and self._may_be_given(port, free[port])]
            chosen |= self._by_shape(left, guessable, set(fits), into=into)
        for port in [port for port in self.matches if port.call == number and port.into == into]:
            if port not in tensors and self.matches[port].evidence != NAME and port not in chosen:
                continue
            del self.matches[port]
        self.matches |= chosen

    def _may_be_given(self, port: Port, arrays: Samples) -> bool:
        """Whether a tensor may be what a call should be given, wrong as it is.

        Of whole numbers not one that only another module knows: an exporter that finds the same numbers computed twice keeps
        one of both, so who has its own in PyTorch may read another's here.
        """
        index = self.graph.flat.producer.get(port.tensor)
        if not port.into or index is None or arrays[0].dtype.kind == "f":
            return True
        owner = self.graph.owner[index]
        return owner is None or self.graph.is_inside(port.call, owner)

    def _is_used(self, port: Port) -> bool:
        return self.graph.is_used(port.call, port.tensor)

    def _has_used(
        self, index: int, free: Iterable[Port], chosen: Mapping[Port, PortMatch], fits: Container[tuple[Port, int]]
    ) -> bool:
        """Whether a tensor that is used outside is left for a value."""
        return any(
            not port.shared and port not in chosen and (port, index) in fits and self._is_used(port) for port in free
        )

    def _has_names(self, names: Iterable[str | None]) -> bool:
        """Whether some names are those of a graph that this one was made from.

        Then a tensor that the graph does not have is not there, and no other is taken for it.
        """
        return self.names_are_shared and any(name is not None for name in names)

    def _by_shape(
        self, left: Sequence[int], unused: Sequence[Port], fits: set[tuple[Port, int]], *, into: bool
    ) -> dict[Port, PortMatch]:
        """The likeliest ports for values that no tensor agrees with: the only one, the last, or several in their order."""
        chosen: dict[Port, PortMatch] = {}
        for index in left:
            ports = [port for port in unused if (port, index) in fits]
            if not ports:
                continue
            rivals = [other for other in left if any((port, other) in fits for port in ports)]
            if len(rivals) > 1 or into:
                if len(ports) == len(rivals):
                    ordered = ports if into else ports[::-1]
                    chosen[ordered[rivals.index(index)]] = PortMatch(index, SHAPE)
            else:
                chosen[ports[0]] = PortMatch(index, SHAPE)
        return chosen

    def is_whole(self, port: Port) -> bool:
        """Whether a port's tensor is all that the call returned, and not what comes before it."""
        values = self._values(self.samples[0], [port.call])[port.call]
        return self.expected(port, values)[self.matches[port].index].whole

    def returns(self, number: int, name: str) -> bool:
        """Whether a call returned the tensor with a name in the reference's graph."""
        return any(value.name == name for value in self._values(self.samples[0], [number])[number].returned)

    def tensors_of(self, port: Port) -> dict[str, int]:
        """The tensors with what a call should be given at a port, where other calls returned just that, and which calls."""
        values = self._values(self.samples[0], [port.call])[port.call]
        wanted = _digest(self.expected(port, values)[self.matches[port].index].array)
        return {other.tensor: other.call for other in self._returned().get(wanted, ())}

    def _returned(self) -> dict[bytes, list[Port]]:
        """The ports whose calls returned some values, by the digest of these, where that is no guess."""
        ports = frozenset(port for port, match in self.matches.items() if not port.into and match.evidence != SHAPE)
        if self._digests is None or self._digests[0] != ports:
            found: dict[bytes, list[Port]] = {}
            for port in sorted(ports, key=lambda port: port.call):
                values = self._values(self.samples[0], [port.call])[port.call]
                found.setdefault(_digest(values.returned[self.matches[port].index].array), []).append(port)
            self._digests = ports, found
        return self._digests[1]

    def makers_of(self, port: Port) -> list[int]:
        """The calls that made just what a call should be given, or return, at a port: not those that only hand it on."""
        sample = self.samples[0]
        makers = []
        for chunk in _groups({call.number: call.bytes for call in sample.calls}, self._max_bytes):
            values = self._values(sample, list(dict.fromkeys((*chunk, port.call))))
            wanted = self.expected(port, values[port.call])[self.matches[port].index]
            makers += [
                number
                for number in chunk
                if any(map(wanted.is_same, values[number].returned))
                and not any(map(wanted.is_same, values[number].received))
            ]
        return makers

    def makes_something(self, number: int) -> bool:
        """Whether a call returned what it was not given: dropout, for one, hands on what it is given."""
        values = self._values(self.samples[0], [number])[number]
        return not all(any(map(value.is_same, values.received)) for value in values.returned)

    def expected_name(self, port: Port) -> str | None:
        """The name that the reference's graph has for a port's tensor."""
        values = self._values(self.samples[0], [port.call])[port.call]
        return self.expected(port, values)[self.matches[port].index].name

    def forget(self, ports: Iterable[Port]) -> None:
        """Takes back matches that something speaks against."""
        for port in ports:
            self.matches.pop(port, None)


def _digest(array: Array) -> bytes:
    """What only arrays of the same type, shape and values have."""
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).digest()


def _groups(sizes: Mapping[int, int], max_bytes: int) -> Iterator[list[int]]:
    """Calls in groups whose tensors take at most so many bytes together, each of one call at least.

    >>> list(_groups({0: 5, 1: 5, 2: 90, 3: 1}, max_bytes=10))
    [[0, 1], [2], [3]]
    """
    group: list[int] = []
    total = 0
    for number, size in sizes.items():
        if group and total + size > max_bytes:
            yield group
            group, total = [], 0
        group.append(number)
        total += size
    if group:
        yield group
