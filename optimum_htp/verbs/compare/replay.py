"""What has to be changed in the reference to get what this graph has: whose work that would be, that one is to blame.

The nodes that make a wrong tensor don't say whose work is wrong where an optimizer made one node of several modules' work,
or where a module is given another tensor. Then the reference's nodes that make it run again on the same values, once for
each way to change one thing:

    left out    a node, or a call, gives what it is given        it is that one's work
    rewired     a node reads another tensor                      it is the work of the call that gives it to the node's
    retuned     a node has a weight or a number of this graph    it is the node's, or of the call that computes the weight

The change that makes the very tensor of this graph is what happened. What this graph has too on the way, by its values, is
right; if all that is left is the work of one call, no change is asked for.

For example, the reference has `y = norm(dense(x) + x)` and this graph one fused node that makes `y`. If it is
`norm(dense(x))` of the reference's values, the addition is left out: the block, whose work that is, is wrong. If it is no
such thing, and a tensor of the graph has the values of `dense(x) + x`, the norm is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias

from optimum_htp.errors import HtpError
from optimum_htp.models import Array, Errors, PlannedNode, compare_arrays, run_session
from optimum_htp.onnxfile import reads
from optimum_htp.verbs.compare.call_graph import MOVES, VIEWS
from optimum_htp.verbs.compare.cut_graph import Cut, Port
from optimum_htp.verbs.compare.expected import MARGIN_DB, Expected
from optimum_htp.verbs.compare.layout import fit, measured
from optimum_htp.verbs.compare.own_errors import Row, shifted
from optimum_htp.verbs.compare.package_reference import PackageReference
from optimum_htp.verbs.compare.ports import SHAPE, Ports, Samples

logger = logging.getLogger(__name__)

_MOST_NODES, _MOST_COPIES = 1000, 4000  # of nodes that make a tensor, and in all that is run at once
_CLEARLY_DB = 10.0  # what is right, or changed just so, is closer to what it is held against by so much
_ALIKE_DB, _EXACT_DB = 6.0, 60.0  # changes that fit as well as each other
_PREFIX = "/optimum_htp/replay/"
_Number: TypeAlias = "float | int | tuple[int, ...]"
_FEW = 8  # numbers in a tensor that may be alike by chance


def explained(ports: Ports, rows: Sequence[Row], expected: Expected) -> tuple[list[Row], set[Port], set[Port]]:
    """The rows, with the work of suspect ones given to those whose it is; the ports that show it; and guesses that are wrong then."""
    reference = ports.samples[0]
    suspect = {port for row in rows for port in _suspects(row, expected)}
    wrong = [port for row in rows for port in row.errors if port in suspect and ports.matches[port].evidence != SHAPE]
    if not wrong or not isinstance(reference, PackageReference) or not ports.names_are_shared:
        return list(rows), set(), set()
    replay = Replay(ports, reference, (port for row in rows for port in row.errors if port not in suspect))
    found = {port: replay.whose(port) for port in wrong}
    known = {port: min(calls) for port, calls in found.items() if len(calls) == 1}
    others = {row.call for row in rows for port in row.errors if port in suspect and port not in found}
    for port, calls in found.items():  # of several the one that is wrong already: one fault is likelier than two
        if len(calls) > 1 and len(likely := calls & others.union(known.values())) == 1:
            known[port] = likely.pop()
    mixed: dict[Port, set[int]] = {}
    for port in wrong:
        makers = replay.makers_of_constants(port) if port not in known else set()
        if len(makers) == 1:
            known[port] = makers.pop()
        elif makers:
            mixed[port] = makers
    cut = ports.cut()
    sources = {source for port in known for source in cut.sources(cut.seen(port))}
    explained_rows = shifted(ports, rows, known)
    for row in explained_rows:
        for port in row.errors.keys() & mixed.keys():
            row.foreign_of.setdefault(port, set()).update(mixed[port] - {row.call})
    guesses = {port for port in sources if ports.matches[port].evidence == SHAPE}
    return explained_rows, set(known), guesses


def _suspects(row: Row, expected: Expected) -> list[Port]:
    """The ports that show a row to be a suspect."""
    margin = MARGIN_DB[expected.kind(row)]
    if expected.excess_db(row) <= margin:
        return []
    bar = expected.sqnr_db(row) - margin
    return [port for port, errors in row.errors.items() if errors.sqnr_db < bar]


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of the reference: tensors that are read in the place of others, by one node or by all."""

    call: int  # whose work it would be
    read: Mapping[str, str]
    node: int | None = None
    number: tuple[str, _Number] | None = None  # an attribute of the node


class Replay:
    """The reference's graph, for the tensors of this one that are wrong; `sound` are ports whose tensors are right."""

    def __init__(self, ports: Ports, reference: PackageReference, sound: Iterable[Port]) -> None:
        self.ports = ports
        self.prober = reference.prober
        self.graph = reference.graph
        self.cut = Cut(ports.graph, fed=(port for port, match in ports.matches.items() if match.evidence != SHAPE))
        self._sound = list(sound)

    def whose(self, port: Port) -> set[int]:
        """The call whose work a wrong tensor is, or several if it may be that of any; none if that can't be told here."""
        name = self.ports.expected_name(port)
        if name is None or name not in self.graph.flat.producer or not self.prober.may_be_float(name):
            return set()
        try:
            return _Wrong(self, port, name).owners()
        except HtpError as error:
            logger.debug("%s", error)
            return set()

    def makers_of_constants(self, port: Port) -> set[int]:
        """The calls that compute, in the reference, what nodes that make a tensor have stored here, where that is wrong."""
        flat = self.ports.graph.flat
        nodes = {maker.index for maker in self.cut.makers(self.cut.seen(port))}
        names = {
            name
            for index in nodes
            for name in reads(flat.nodes[index].node)
            if name in self.graph.flat.producer and name not in flat.producer and self.prober.may_be_float(name)
        }
        stored = {name: array for name in sorted(names) if (array := self.ports.prober.constant(name)) is not None}
        right = self.ports.samples[0].tensors(stored)
        wrong = [name for name, array in right.items() if compare_arrays(stored[name], array).sqnr_db < _EXACT_DB]
        behind = {index for name in wrong for index in self.before(name, ())[0]} - self.graph.flat.varying
        return {
            owner
            for index in behind
            if self.graph.flat.nodes[index].node.op_type not in MOVES
            and (owner := self.graph.owner[index]) is not None
            and any(name and self.prober.may_be_float(name) for name in self.graph.flat.nodes[index].node.outputs)
            and reads(self.graph.flat.nodes[index].node)
        }

    def before(self, name: str, stop: Container[str]) -> tuple[list[int], set[str]]:
        """The reference's nodes that make a tensor, in order, up to some others, and those of these that they read."""
        flat = self.graph.flat
        nodes: set[int] = set()
        stops: set[str] = set()
        stack = [name]
        while stack:
            current = stack.pop()
            index = flat.producer.get(current)
            if current != name and (current in stop or current in flat.inputs):
                stops.add(current)
            elif index is not None and index not in nodes:
                nodes.add(index)
                stack.extend(reads(flat.nodes[index].node))
        return sorted(nodes), stops

    @cached_property
    def made(self) -> frozenset[str]:
        """The reference's tensors that this graph has made too, under whatever name: what is right was made of them."""
        ours = self.ports.graph.flat
        made = {name for name in ours.producer if name in self.graph.flat.producer}
        cut = self.ports.cut()  # by which they are seen to be right
        for port in self._sound:
            name = self.ports.expected_name(port)
            given = {self.ports.expected_name(source) for source in cut.sources(cut.seen(port))}
            if name is not None and name in self.graph.flat.producer and name not in given:  # else it is handed on
                nodes, _ = self.before(name, {*ours.producer, *filter(None, given)})
                made.update(output for index in nodes for output in self.graph.flat.nodes[index].node.outputs)
        return frozenset(made)


class _Wrong:
    """A wrong tensor: the nodes that make it here, of the values that `cut` gives, and those that make it in the reference."""

    def __init__(self, replay: Replay, port: Port, name: str) -> None:
        self._replay = replay
        self._ports = replay.ports
        self._graph = replay.graph
        self._port = port
        self._name = name
        cut = replay.cut
        self._seen = cut.seen(port)
        self._makers = cut.makers(self._seen)
        given = (self._ports.expected_name(source) for source in cut.sources(self._seen))
        self._given = {known for known in given if known is not None}
        ours = self._ports.graph.flat
        self._made = {output for maker in self._makers for output in ours.nodes[maker.index].node.outputs}
        self._known = (ours.producer.keys() - self._made) | self._given

    def owners(self) -> set[int]:
        """The calls whose work it may be; none if it is what the nodes say, or can't be told."""
        graph = self._ports.graph
        nodes, stops = self._replay.before(self._name, self._known)
        theirs, ours = self._owners(nodes), {graph.owner[maker.index] for maker in self._makers} - {None}
        if len(theirs) == 1 and ours <= theirs and self._is_given(stops, self._given):
            return set()
        shown = self._shown() if max(len(nodes), len(self._makers)) <= _MOST_NODES else None
        if shown is None or self._seen not in shown:
            return set()
        actual = shown.pop(self._seen)
        named = {
            name for name in self._made & self._graph.flat.producer.keys() if self._replay.prober.may_be_float(name)
        }
        right = self._values({*named, *stops, *(name for index in nodes for name in self._floats(index))})
        expected = right.pop(self._name, None)
        errors = None if expected is None else measured(self._ports.matches[self._port].layout, actual, expected)
        if errors is None:
            return set()
        bar = max(self._ports.agree_db, errors.sqnr_db + _CLEARLY_DB)
        stored = {name: [array] * len(self._ports.samples) for name, array in self._weights.items()}
        pairs = list(_alike(shown | stored, right, bar))
        given = self._given.union(theirs for theirs, _ in pairs)
        nodes, stops = self._replay.before(self._name, self._known | given)
        owners = self._owners(nodes)
        if (
            len(owners) == 1
            and self._is_given(stops, given)
            and self._is_left_of(min(owners), {ours for _, ours in pairs})
        ):
            return owners
        folded = [theirs for theirs, ours in pairs if ours in stored]
        return self._of_change(nodes, stops, given, folded, actual, bar)

    def _is_left_of(self, number: int, right: Collection[str]) -> bool:
        """Whether no other call has nodes of its own here that make the tensor of what is right."""
        graph, prober = self._ports.graph, self._ports.prober
        for index in {maker.index for maker in self._replay.cut.makers(self._seen, after=right)} & graph.flat.varying:
            node = graph.flat.nodes[index].node
            if graph.owner[index] in (None, number) or graph.is_fused(index) or node.op_type in VIEWS:
                continue
            if any(name and prober.may_be_port(name) for name in node.outputs):
                return False
        return True

    def _is_given(self, stops: Collection[str], given: Collection[str]) -> bool:
        """Whether what the reference makes it of is what it is made of here."""
        return all(name in given or name in self._graph.flat.inputs for name in stops)

    def _floats(self, index: int) -> list[str]:
        outputs = self._graph.flat.nodes[index].node.outputs
        return [name for name in outputs if name and self._replay.prober.may_be_float(name)]

    def _owners(self, nodes: Iterable[int]) -> set[int]:
        """Whose some nodes of the reference are, those aside that only make shapes or hold a constant."""
        known = (
            self._graph.owner[index]
            for index in nodes
            if self._floats(index) and reads(self._graph.flat.nodes[index].node)
        )
        return {owner for owner in known if owner is not None}

    def _shown(self) -> dict[str, Samples] | None:
        """What the nodes here make on the way, the tensor itself included; None if ONNX Runtime can't show it."""
        flat, prober = self._ports.graph.flat, self._ports.prober
        names = {self._seen: self._seen}
        steps: dict[str, tuple[str, str]] = {}  # of tensors in whole numbers the scale and the zero point
        for maker in sorted(self._makers, key=lambda maker: maker.index):
            node = flat.nodes[maker.index].node
            made, read = ([maker.names.get(name, name) for name in side] for side in (node.outputs, node.inputs))
            if node.op_type == "DynamicQuantizeLinear":
                steps[made[0]] = made[1], made[2]
            elif node.op_type in MOVES and read[0] in steps:
                steps[made[0]] = steps[read[0]]
            else:
                floats = (
                    view for name, view in zip(node.outputs, made, strict=True) if name and prober.may_be_float(name)
                )
                names.update((name, name) for name in floats)
        for name, kept in steps.items():
            names.update((each, each) for each in (name, *kept))
        arrays = self._ports.run(self._replay.cut.plan(names))
        if arrays is None:
            return None
        shown = _of_samples(arrays)
        for name, (scale, zero) in steps.items():
            parts = zip(shown[name], shown[scale], shown[zero], strict=True)
            shown[name] = [(array.astype("float32") - start.astype("float32")) * step for array, step, start in parts]
        return shown

    def _values(self, names: Iterable[str]) -> dict[str, Samples]:
        """What the reference has."""
        return _of_samples([sample.tensors(sorted(names)) for sample in self._ports.samples])

    # --- Changes ------------------------------------------------------------------------------------------------------

    def _of_change(
        self,
        nodes: Sequence[int],
        stops: Collection[str],
        given: Collection[str],
        folded: Iterable[str],
        actual: Samples,
        bar: float,
    ) -> set[int]:
        """Whose work the one change is that makes what this graph has, of calls in each other the innermost; none if there is none."""
        made = {name for index in nodes for name in self._floats(index)}
        values = self._values({*stops, *given, *made})
        shapes = {name: arrays[0].shape for name, arrays in values.items() if arrays[0].dtype.kind == "f"}
        changes: list[_Change] = []
        planned: list[PlannedNode] = [PlannedNode(index, {}) for index in nodes]
        more: list[bytes] = []
        results: list[str] = []
        for change in chain(self._retuned(nodes, folded), self._changes(nodes, shapes, given)):
            copies, edited, result = self._changed(nodes, change, suffix=f"{_PREFIX}{len(changes)}")
            if len(planned) + len(copies) > _MOST_COPIES:
                break
            if result is not None:
                planned += copies
                more += edited
                changes.append(change)
                results.append(result)
        simulated = self._run(planned, more, stops, given, results) if changes else {}
        layout = self._ports.matches[self._port].layout
        fits = []
        for change, result in zip(changes, results, strict=True):
            errors = measured(layout, actual, simulated[result])
            if errors is not None and errors.sqnr_db >= bar:
                fits.append((errors.sqnr_db, change.call))
        best = max(fits, default=(0.0, 0))[0]
        calls = {call for sqnr_db, call in fits if sqnr_db >= min(best - _ALIKE_DB, _EXACT_DB)}
        innermost = next((call for call in calls if all(self._graph.is_inside(call, other) for other in calls)), None)
        return calls if innermost is None else {innermost}

    def _changes(
        self, nodes: Iterable[int], shapes: Mapping[str, tuple[int, ...]], given: Collection[str]
    ) -> Iterator[_Change]:
        """What may have been changed: calls and nodes that are left out, and those that read another tensor."""
        graph, made = self._graph, self._replay.made
        outputs = {name for index in nodes for name in self._floats(index)} & shapes.keys()
        numbers = {number for index in nodes for number in graph.around(graph.owner[index])}
        for number in sorted(numbers, reverse=True):
            values = self._ports.samples[0].values([number])[number]
            for result in (value.name for value in values.returned if value.name in outputs - made):
                received = (value.name for value in values.received if value.name in shapes)
                for name in (name for name in received if name and shapes[name] == shapes[result or ""]):
                    yield _Change(number, {result or "": name})
        for index in nodes:
            node, owner = graph.flat.nodes[index].node, graph.owner[index]
            if owner is None or node.op_type in VIEWS:
                continue
            read = [name for name in dict.fromkeys(node.inputs) if name in shapes]
            for result in (
                name for name in node.outputs[:1] if name in outputs and (name == self._name or name not in made)
            ):
                yield from (_Change(owner, {result: name}) for name in read if shapes[name] == shapes[result])
            for name in (name for name in read if name in made):
                maker = graph.owner[graph.flat.producer[name]] if name in graph.flat.producer else None
                for other in sorted(given):
                    if other != name and shapes.get(other) == shapes[name]:
                        yield _Change(self._giver(owner, maker), {name: other}, index)

    def _retuned(self, nodes: Iterable[int], folded: Iterable[str]) -> Iterator[_Change]:
        """Nodes with the weights and the numbers of this graph, where these are other ones.

        Of what is computed of weights it has the results, of which some, `folded`, are right.
        """
        graph, prober = self._graph, self._replay.prober
        behind = {index for name in folded for index in self._replay.before(name, ())[0]}
        right = self._replay.made.union(name for index in behind for name in graph.flat.nodes[index].node.outputs)
        for index in nodes:
            node, owner = graph.flat.nodes[index].node, graph.owner[index]
            if owner is None or not reads(node):
                continue
            theirs = _numbers(prober.encoded(index))
            stored = [array for name in node.inputs if name and (array := prober.constant(name)) is not None]
            for name, number in dict.fromkeys(self._own_numbers(stored)):
                if name in theirs and theirs[name] != number and isinstance(number, type(theirs[name])):
                    yield _Change(owner, {}, index, (name, number))
            for name in dict.fromkeys(node.inputs):
                weight = prober.constant(name) if name else None
                if weight is not None:
                    yield from (_Change(owner, {name: other}, index) for other in self._others(weight))
            for name in () if index in graph.flat.varying else self._floats(index):
                maker = self._maker(name, right)
                value = self._values([name]).get(name) if maker is not None else None
                if maker is not None and value is not None:
                    yield from (_Change(maker, {name: other}) for other in self._others(value[0]))

    def _maker(self, name: str, right: Container[str]) -> int | None:
        """The call that computes a constant of what is right; None if it may be several's. Who only moves it does not."""
        flat = self._graph.flat
        nodes, _ = self._replay.before(name, right)
        makers = self._owners(index for index in nodes if flat.nodes[index].node.op_type not in MOVES)
        return makers.pop() if len(makers) == 1 else None

    def _others(self, array: Array) -> Iterator[str]:
        """The weights here that may stand for one of the reference, and are others."""
        import numpy as np

        for name, own in self._weights.items():
            if own.shape == array.shape and own.dtype == array.dtype and not np.array_equal(own, array):
                yield name

    @cached_property
    def _weights(self) -> dict[str, Array]:
        """The weights of the nodes here in floating point, by the names that they have in a run."""
        nodes = (self._ports.graph.flat.nodes[maker.index].node for maker in self._makers)
        names = dict.fromkeys(name for node in nodes for name in node.inputs if name)
        known = {f"{_PREFIX}{name}": self._ports.prober.constant(name) for name in names}
        return {name: array for name, array in known.items() if array is not None and array.dtype.kind == "f"}

    def _own_numbers(self, weights: Sequence[Array]) -> Iterator[tuple[str, _Number]]:
        """The numbers that the nodes here have: an epsilon, say; whole ones, as paddings are, of nodes with these weights."""
        import numpy as np

        prober = self._ports.prober
        for index in sorted({maker.index for maker in self._makers}):
            names = filter(None, self._ports.graph.flat.nodes[index].node.inputs)
            own = [array for name in names if (array := prober.constant(name)) is not None and array.size >= _FEW]
            is_same = any(np.array_equal(one, other) for one in own for other in weights)
            for name, number in _numbers(prober.encoded(index)).items():
                if is_same or isinstance(number, float):
                    yield name, number

    def _giver(self, reader: int, maker: int | None) -> int:
        """Whose work it is which tensor a node reads: of a module without others in it that of the one around it."""
        graph = self._graph
        parent = graph.calls[reader].parent
        is_given = maker != reader and not graph.children.get(reader)
        return parent if is_given and parent is not None else reader

    def _changed(
        self, nodes: Iterable[int], change: _Change, *, suffix: str
    ) -> tuple[list[PlannedNode], list[bytes], str | None]:
        """Copies of the nodes that a change has an effect on, as they are or encoded; and what they make of the tensor.

        None if they make the same.
        """
        renamed = dict(change.read) if change.node is None else {}
        copies: list[PlannedNode] = []
        edited: list[bytes] = []
        for index in nodes:
            node = self._graph.flat.nodes[index].node
            names = {name: renamed[name] for name in reads(node) if name in renamed}
            if index == change.node:
                names |= change.read
            is_retuned = index == change.node and change.number is not None
            if node.op_type in VIEWS or not (names or is_retuned):
                continue  # of another tensor of the shape the shape is the same
            names |= {output: f"{output}{suffix}" for output in node.outputs if output}
            renamed = {**{output: names[output] for output in node.outputs if output}, **renamed}
            if index == change.node and change.number is not None:
                edited.append(_with_number(self._replay.prober.encoded(index), names, *change.number))
            else:
                copies.append(PlannedNode(index, names))
        return copies, edited, renamed.get(self._name)

    def _run(
        self,
        planned: Sequence[PlannedNode],
        more: Sequence[bytes],
        stops: Collection[str],
        given: Collection[str],
        results: Sequence[str],
    ) -> dict[str, Samples]:
        """What the changed copies make on each sample."""
        made = {
            name for index in {node.index for node in planned} for name in self._graph.flat.nodes[index].node.outputs
        }
        names = sorted({*stops, *given} - made)
        wanted = list(dict.fromkeys(results))
        session: Any = None
        runs: list[dict[str, Array]] = []
        for sample in self._ports.samples:
            feed = {**sample.tensors(names), **self._weights}
            computed = [name for name in wanted if name not in feed]
            if session is None and computed:
                session = self._replay.prober.session(planned, feed, computed, more)
            arrays = run_session(session, computed, feed, name=self._replay.prober.name) if computed else []
            runs.append({**feed, **dict(zip(computed, arrays, strict=True))})
        return {name: [run[name] for run in runs] for name in wanted}


def _numbers(encoded: bytes) -> dict[str, _Number]:
    """The attributes of a node that are numbers."""
    import onnx

    kinds = (onnx.AttributeProto.FLOAT, onnx.AttributeProto.INT, onnx.AttributeProto.INTS)
    node = onnx.NodeProto.FromString(encoded)
    known = ((each.name, onnx.helper.get_attribute_value(each)) for each in node.attribute if each.type in kinds)
    return {name: value if isinstance(value, (int, float)) else tuple(value) for name, value in known}


def _with_number(encoded: bytes, names: Mapping[str, str], attribute: str, number: _Number) -> bytes:
    """A node with other names for its tensors, and another number for an attribute."""
    import onnx

    node = onnx.NodeProto.FromString(encoded)
    node.name = ""
    node.input[:], node.output[:] = ([names.get(name, name) for name in side] for side in (node.input, node.output))
    next(each for each in node.attribute if each.name == attribute).CopyFrom(
        onnx.helper.make_attribute(attribute, number)
    )
    result: bytes = node.SerializeToString()
    return result


def _of_samples(arrays: Sequence[Mapping[str, Array]]) -> dict[str, Samples]:
    """By name what all samples have: no sequences of tensors."""
    names = (name for name, array in arrays[0].items() if hasattr(array, "dtype"))
    return {name: [each[name] for each in arrays] for name in names}


def _alike(ours: Mapping[str, Samples], theirs: Mapping[str, Samples], bar: float) -> Iterator[tuple[str, str]]:
    """The tensors of the reference that have the values of others, in whatever layout, on all samples; and these."""

    def agrees(errors: Errors) -> bool:
        return errors.sqnr_db >= bar

    for name, wanted in theirs.items():
        array = wanted[0]
        if array.size < _FEW or array.dtype.kind != "f" or array.min() == array.max():
            continue
        for other, arrays in ours.items():
            found = fit(arrays, wanted, agrees) if arrays[0].size == array.size else None
            if found is not None and agrees(found[1]):
                yield name, other
