"""A graph cut at the borders of module calls, so that each call can run on the reference's values alone.

The tensors at a call's borders are its *ports*: those that it is given and those that it returns. A node reads each tensor
as it looks from its own call (`Cut.view`): at a port, the reference's value; elsewhere what the graph computes. So one
session shows what every call makes of what the reference gives it, and what the operations between calls do.

For example, `block` is `norm(x + dense(x))` (module: operator -> tensor), with ports at all borders:

    block.dense: MatMul(x, W) -> d      reads what the reference's `dense` was given; `d` is its own work
    block:       Add(x, d)    -> s      reads what `block` was given, and what the reference's `dense` returned
    block.norm:  Norm(s)      -> y      reads what the reference's `norm` was given

`d` against what `dense` returned is the error of `dense` itself; `s` against what `norm` was given that of the addition,
which is `block`'s own; `y` that of `norm`. If the addition is missing and `norm` reads `d`, nothing computes what `norm`
should be given: also an error of `block`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from optimum_htp.models import PlannedNode
from optimum_htp.onnxfile import reads
from optimum_htp.verbs.compare.call_graph import CallGraph

_PREFIX = "/optimum_htp/"


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor at the border of a call.

    `into` says which side: whether the call is given the tensor, or returns it. `shared` is for one that a node outside the
    call computes, which an optimizer made of it and others: all that read it read the reference's.
    """

    call: int
    tensor: str
    into: bool
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Correction:
    """A tensor that something is added to: `base + delta`, or `value` where `replaced` holds."""

    base: str
    name: str
    port: Port


@dataclass(slots=True)
class Plan:
    """What to run: nodes in order, the tensors to give by the names that they have there, and what to show."""

    nodes: list[PlannedNode] = field(default_factory=list)
    fed: dict[str, Port] = field(default_factory=dict)
    corrections: list[Correction] = field(default_factory=list)
    inputs: set[str] = field(default_factory=set)  # the graph's own that are needed
    shown: dict[str, str] = field(default_factory=dict)  # by what is asked for, the name that it has


View: TypeAlias = "tuple[str, int | None]"


class Cut:
    """A graph with some ports, which take the reference's values (`fed`) or have an error taken off (`corrected`)."""

    def __init__(self, graph: CallGraph, fed: Iterable[Port] = (), corrected: Iterable[Port] = ()) -> None:
        self._graph = graph
        self._flat = graph.flat
        fed, corrected = list(fed), list(corrected)
        self._fed = {(port.call, port.tensor, port.into): port for port in fed if not port.shared}
        self._corrected = {(port.call, port.tensor, port.into): port for port in corrected if not port.shared}
        self._shared_fed = {port.tensor: port for port in fed if port.shared}
        self._shared_corrected = {port.tensor: port for port in corrected if port.shared}
        self._views: dict[View, str] = {}
        self._sources: dict[str, Port] = {}
        self._corrections: dict[str, Correction] = {}
        self._clones: dict[str, PlannedNode] = {}  # by each name that a clone of an adapter gives

    def view(self, name: str, level: int | None) -> str:
        """The name of a tensor as a call's own nodes read it; None as what is outside all calls does."""
        known = self._views.get((name, level))
        if known is None:
            known = self._views[name, level] = self._view(name, level)
        return known

    def seen(self, port: Port) -> str:
        """The name of what the graph has at a port, on the side that makes it."""
        if port.shared:
            return port.tensor
        return self.view(port.tensor, self._graph.calls[port.call].parent if port.into else port.call)

    def source(self, name: str) -> Port | None:
        """The port that gives a name its value; None if it is computed."""
        return self._sources.get(name)

    def _view(self, name: str, level: int | None) -> str:
        graph = self._graph
        index = self._flat.producer.get(name)
        if not graph.varies(name):
            return self._constant(name, level)
        if index in graph.adapters:
            return self._clone(index, name, level)
        if name in self._shared_fed:
            return self._feed(self._shared_fed[name])
        if name in self._shared_corrected:
            return self._correct(self._shared_corrected[name], name)
        owner = None if index is None else graph.owner[index]
        if owner == level:
            return name
        if index is not None and owner is not None and graph.is_inside(owner, level):
            inner = graph.step_towards(level, owner)
            return self._at(Port(inner, name, into=False), inner)
        if level is None:
            return name
        return self._at(Port(level, name, into=True), graph.calls[level].parent)

    def _constant(self, name: str, level: int | None) -> str:
        """What does not depend on the inputs is a port's too where a module returns it: a weight that is computed."""
        index = self._flat.producer.get(name)
        seen = name
        for number in self._graph.around(None if index is None else self._graph.owner[index]):
            if self._graph.is_inside(level, number):
                break
            key = (number, name, False)
            if key in self._fed:
                return self._feed(self._fed[key])
            if key in self._corrected:
                seen = self._correct(self._corrected[key], seen)
        return seen

    def _at(self, port: Port, beyond: int | None) -> str:
        """What is at a port if it is one, else what is beyond it."""
        key = (port.call, port.tensor, port.into)
        if key in self._fed:
            return self._feed(port)
        below = self.view(port.tensor, beyond)
        return self._correct(port, below) if key in self._corrected else below

    def _feed(self, port: Port) -> str:
        name = f"{_PREFIX}{'in' if port.into else 'out'}/{port.call}/{port.tensor}"
        self._sources[name] = port
        return name

    def _correct(self, port: Port, below: str) -> str:
        name = f"{_PREFIX}corrected/{'in' if port.into else 'out'}/{port.call}/{port.tensor}"
        self._corrections[name] = Correction(below, name, port)
        return name

    def _clone(self, index: int, name: str, level: int | None) -> str:
        node = self._flat.nodes[index].node
        names = {read: self.view(read, level) for read in reads(node)}
        for output in filter(None, node.outputs):
            names[output] = f"{_PREFIX}{level}/{output}"
        clone = PlannedNode(index, names)
        for output in filter(None, node.outputs):
            self._views[output, level] = names[output]
            self._clones[names[output]] = clone
        return names[name]

    def planned(self, index: int) -> PlannedNode:
        """A node as it runs here."""
        level = self._graph.owner[index]
        node = self._flat.nodes[index].node
        names = {name: self.view(name, level) for name in reads(node)}
        return PlannedNode(index, {name: view for name, view in names.items() if view != name})

    def needed(self, name: str) -> tuple[PlannedNode | Correction | None, list[str]]:
        """What computes a name, and the names that it reads."""
        correction = self._corrections.get(name)
        if correction is not None:
            return correction, [correction.base]
        node = self._clones.get(name)
        if node is None:
            index = self._flat.producer.get(name)
            if index is None:
                return None, []
            node = self.planned(index)
        return node, [node.names.get(read, read) for read in reads(self._flat.nodes[node.index].node)]

    def plan(self, shown: Mapping[str, str]) -> Plan:
        """What has to run to show some names, by what they are asked for."""
        plan = Plan(shown=dict(shown))
        done: set[str] = set()
        nodes: dict[tuple[int, str], PlannedNode] = {}
        stack = list(dict.fromkeys(shown.values()))
        corrections: dict[str, Correction] = {}
        while stack:
            name = stack.pop()
            if name in done:
                continue
            done.add(name)
            port = self._sources.get(name)
            if port is not None:
                plan.fed[name] = port
                continue
            maker, read = self.needed(name)
            if maker is None:
                if name in self._flat.inputs:
                    plan.inputs.add(name)
                continue
            if isinstance(maker, Correction):
                corrections[name] = maker
            else:
                outputs = filter(None, self._flat.nodes[maker.index].node.outputs)
                first = next(maker.names.get(output, output) for output in outputs)
                nodes[maker.index, first] = maker
            stack.extend(read)
        plan.nodes = [nodes[key] for key in sorted(nodes)]
        plan.corrections = list(corrections.values())
        return plan

    def segment(self, name: str) -> set[int]:
        """The nodes that compute a name from what is given: those that depend on the model's inputs, if any does."""
        nodes = {maker.index for maker in self.makers(name)}
        return nodes & self._flat.varying or nodes

    def makers(self, name: str, *, after: Collection[str] = ()) -> list[PlannedNode]:
        """The same as they run here, those after some tensors: one that quantizes may be there for each call that reads it."""
        return self._behind(name, after)[0]

    def sources(self, name: str) -> set[Port]:
        """The ports that a name is computed from."""
        return self._behind(name)[1]

    def _behind(self, name: str, after: Collection[str] = ()) -> tuple[list[PlannedNode], set[Port]]:
        nodes: list[PlannedNode] = []
        ports: set[Port] = set()
        done: set[str] = set(after)
        stack = [name]
        while stack:
            current = stack.pop()
            if current in done:
                continue
            done.add(current)
            port = self._sources.get(current)
            if port is not None:
                ports.add(port)
                continue
            maker, read = self.needed(current)
            if isinstance(maker, PlannedNode):
                nodes.append(maker)
            stack.extend(read)
        return nodes, ports
