"""What each module call adds itself: its error on the reference's values, apart from what it inherits.

A row is the work of one module call: of a module without others in it all that it does, of one with others the operations
between these (a residual addition, a mask, a reshape). Its errors are those of the tensors that this work makes, with the
reference's values at all ports before them: of what the call returns, and of what the calls in it are given.

Whose work it is, the nodes say that lie between the ports and the tensor. If there are none, and the tensor is not what the
reference has there, two calls are connected in another way: that is the work of the call around them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from optimum_htp.models import Array, Errors, worst_errors
from optimum_htp.verbs.compare.cut_graph import Cut, Port
from optimum_htp.verbs.compare.layout import measured
from optimum_htp.verbs.compare.ports import SHAPE, Ports, Seen
from optimum_htp.verbs.compare.whose import whose


@dataclass(slots=True)
class Row:
    """The work of one call.

    Attributes:
        call: Its number.
        module: The module's tag, the same for all its calls.
        operations: Whether it is what the module does between the calls in it.
        errors: The errors of each port that shows it.
        nodes: The nodes that do it, by their indices in the flat graph.
        makers: The same, and those that make the constants that they use.
        foreign_of: Of a port, calls outside this one whose nodes are among them: what they make could not be replaced.
        guesses: Ports that it rests on and that are known by their shape only: those that show it, or give it values.
    """

    call: int
    module: str
    operations: bool
    errors: dict[Port, Errors] = field(default_factory=dict)
    nodes: set[int] = field(default_factory=set)
    makers: set[int] = field(default_factory=set)
    foreign_of: dict[Port, set[int]] = field(default_factory=dict)
    guesses: set[Port] = field(default_factory=set)

    @property
    def worst(self) -> Errors:
        """Those of the port that is farthest off."""
        return min(self.errors.values(), key=lambda errors: errors.sqnr_db)

    @property
    def foreign(self) -> set[int]:
        """Calls outside this one that have a part in what any of its ports shows."""
        return set().union(*self.foreign_of.values())

    def add(self, ports: Ports, cut: Cut, port: Port, errors: Errors, foreign: Iterable[int]) -> None:
        """Adds what a port shows of it."""
        seen = cut.seen(port)
        self.errors[port] = errors
        self.nodes |= cut.segment(seen)
        self.makers |= {maker.index for maker in cut.makers(seen)}
        if errors.sqnr_db < inf:  # else all of it is right, whoever's it is
            self.foreign_of[port] = set(foreign)
        self.guesses |= {each for each in (port, *cut.sources(seen)) if ports.matches[each].evidence == SHAPE}


def running_errors(ports: Ports) -> dict[int, dict[Port, Errors]]:
    """How far off what each call returns is in the running model."""
    cut = Cut(ports.graph)
    return {
        number: {port: errors for port in seen.tensors if (errors := _errors(ports, port, seen.tensors[port], seen))}
        for chunk in ports.seen(cut, _returned(ports))
        for number, seen in chunk.items()
    }


def own_rows(ports: Ports) -> list[Row]:
    """The work of all calls, in the order in which they ended; the operations of a call come after what is in it."""
    cut = ports.cut()
    wanted: dict[int, list[Port]] = {}
    for port in ports.matches:
        wanted.setdefault(port.call, []).append(port)
    rows: dict[tuple[int, bool], Row] = {}
    for chunk in ports.seen(cut, dict(sorted(wanted.items()))):
        for seen in chunk.values():
            for port, arrays in seen.tensors.items():
                errors = _errors(ports, port, arrays, seen)
                nodes = cut.segment(cut.seen(port))
                if errors is None or (not nodes and errors.sqnr_db == inf):
                    continue  # it is handed on
                numbers, foreign = whose(ports, cut, port, nodes, errors)
                for number in numbers:
                    _row(rows, ports, number).add(ports, cut, port, errors, foreign)
    return _in_order(rows)


def shifted(ports: Ports, rows: Iterable[Row], makers: Mapping[Port, int]) -> list[Row]:
    """The rows, where the work that some ports show is that of other calls."""
    cut = ports.cut()
    new: dict[tuple[int, bool], Row] = {}
    kept = [row for row in rows if makers.keys().isdisjoint(row.errors)]
    new.update(((row.call, row.operations), row) for row in kept)
    for row in rows:
        for port, errors in row.errors.items() if row not in kept else ():
            foreign = set() if port in makers else row.foreign_of.get(port, ())
            _row(new, ports, makers.get(port, row.call)).add(ports, cut, port, errors, foreign)
    return _in_order(new)


def _row(rows: dict[tuple[int, bool], Row], ports: Ports, number: int) -> Row:
    operations = bool(ports.graph.children.get(number))
    return rows.setdefault((number, operations), Row(number, ports.graph.calls[number].tag, operations))


def _in_order(rows: Mapping[tuple[int, bool], Row]) -> list[Row]:
    return [rows[key] for key in sorted(rows)]


def whole_errors(ports: Ports) -> dict[int, Errors]:
    """What each call that has others in it adds with all that is in it, on the reference's inputs."""
    graph = ports.graph
    containers = [number for number in graph.nodes if graph.children.get(number)]
    whole: dict[int, Errors] = {}
    for depth in sorted({graph.depth(number) for number in containers}):
        wanted = {
            number: group
            for number, group in _returned(ports).items()
            if number in containers and graph.depth(number) == depth
        }
        if not wanted:
            continue
        for chunk in ports.seen(ports.cut(graph.at_depth(depth)), wanted):
            for number, seen in chunk.items():
                errors = worst_errors(_errors(ports, port, arrays, seen) for port, arrays in seen.tensors.items())
                if errors is not None:
                    whole[number] = errors
    return whole


def _returned(ports: Ports) -> dict[int, list[Port]]:
    returned: dict[int, list[Port]] = {}
    for port in sorted(ports.matches, key=lambda port: port.call):
        if not port.into:
            returned.setdefault(port.call, []).append(port)
    return returned


def _errors(ports: Ports, port: Port, arrays: Sequence[Array], seen: Seen) -> Errors | None:
    match = ports.matches[port]
    expected = [ports.expected(port, values)[match.index].array for values in seen.values]
    return measured(match.layout, arrays, expected)
