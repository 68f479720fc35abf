"""What becomes of one file: which calls of modules are alike, the function of each kind, and the nodes that call it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from mmap import mmap

from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import (
    DraftGraph,
    DraftNode,
    Graph,
    GraphPlaces,
    draft_graphs,
    drafted_graph,
    node_overload,
    reads,
)
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.functions.groups import Column, Group, by_class, grouped
from optimum_htp.verbs.functions.likeness import Outlines, Wiring
from optimum_htp.verbs.functions.making import FunctionMaker, Workshop
from optimum_htp.verbs.functions.members import (
    GraphWires,
    Member,
    MemberFinder,
    Wanted,
    nodes_inside,
    said_between,
    without_shared,
)
from optimum_htp.verbs.functions.report import NoFunction

FIRST_IR_VERSION = 8
"""The first version of the format that has functions."""

_FEWEST_NODES = 2


class FilePlan:
    """Makes functions of modules of one file, one kind of modules after the other, those inside of others first.

    Attributes:
        file: The file as it was.
        workshop: The functions.
        left_out: The calls whose nodes stay.
        main: The main graph as it is to be.
    """

    def __init__(self, file: TaggedGraph, data: mmap | bytes, *, fixed: Iterable[str]) -> None:
        self.file = file
        self.left_out: list[NoFunction] = []
        self._fixed = tuple(fixed)
        self.main = draft_graphs("", file.model.graph, GraphPlaces(data, file.model).node)
        self.keys = {draft: key for key, draft in self.main.walk()}
        self._tags = {draft: file.tags[key] for draft, key in self.keys.items() if key in file.tags}
        self.workshop = Workshop(file, self._tags)
        self._outlines = Outlines(data)
        # ONNX Runtime 1.32 does not find the function that a node with an overload calls from inside of another.
        self._overloaded = {
            draft
            for draft in self.keys
            if draft.node.domain and draft.span is not None and node_overload(data, draft.span)
        }
        self._wires: dict[str, GraphWires] = {}
        self._stored = {tensor.name for _, graph in file.model.graphs() for tensor in graph.initializers}

    # --- Which modules ---

    def alike(self, wanted: Sequence[Wanted]) -> set[str]:
        """The tags of those of some modules, none inside of another, whose class has two or more calls that are alike.

        Those of other classes that run more than once are told of.
        """
        members, problems = self._candidates(wanted)
        groups, alone = self._groups(members)
        classes = {member.wanted.info.qualified_class for group in groups for member in group.members}
        of_class = by_class((*members, *problems))
        self._leave(
            {
                member: reason
                for member, reason in (problems | alone).items()
                if member.wanted.info.qualified_class not in classes
                and len(of_class[member.wanted.info.class_name]) > 1
            }
        )
        return {each.tag for each in wanted if each.info.qualified_class in classes}

    def make(self, wanted: Sequence[Wanted]) -> None:
        """Makes functions of some modules, none inside of another."""
        members, problems = self._candidates(wanted)
        while True:
            groups, alone = self._groups(members)
            tangled = self._order(groups)
            if tangled is None:
                break
            members.remove(tangled)
            problems[tangled] = "its nodes take turns with those of other calls, which would be one node each"
        self._leave(problems | alone)

    def _leave(self, reasons: Mapping[Member, str]) -> None:
        """Tells of calls whose nodes stay."""
        self.left_out += [
            NoFunction(
                file=self.file.name,
                module=member.wanted.tag,
                path=member.path,
                call=member.call,
                graph=member.graph,
                reason=reason,
            )
            for member, reason in reasons.items()
        ]

    def _candidates(self, wanted: Sequence[Wanted]) -> tuple[list[Member], dict[Member, str]]:
        """The calls of some modules, and why some of them can't be one node."""
        self._outlines.forget()
        graphs = {graph.path: graph for graph in _graphs(self.main)}
        self._wires = {path: GraphWires(graph) for path, graph in graphs.items()}
        finder = MemberFinder(graphs, self._tags, self.file, stored=self._stored, fixed=self._fixed)
        members = finder.find(wanted, self._wires)
        between = {member: self._wires[member.graph].between(member.nodes) for member in members}
        problems = {member: said_between(member, found, self._tags) for member, found in between.items() if found}
        for member in members:
            inside = nodes_inside(member.nodes) if self._overloaded else ()
            named = next((draft.node.operator for draft in inside if draft in self._overloaded), None)
            if named is not None:
                problems[member] = f"it calls an overload of {named}, which ONNX Runtime can't do inside of a function"
        return [member for member in members if member not in problems], problems

    def _groups(self, members: Sequence[Member]) -> tuple[list[Group], dict[Member, str]]:
        """Members that are alike, and why the others are alone."""
        wirings = {member: Wiring(member.nodes, self._outlines) for member in members}
        alone = set(members).difference(*(group.members for group in self._alike(wirings)))
        classes = by_class(members)
        for member in alone:
            if len(member.nodes) < _FEWEST_NODES:
                continue
            others = (other for other in classes[member.wanted.info.class_name] if other is not member)
            nodes = without_shared(member, others, self._wires[member.graph], self._stored)
            if nodes and len(nodes) < len(member.nodes):
                wirings[member] = Wiring(nodes, self._outlines)
        groups = self._alike(wirings)
        for group in groups:
            for member in alone.intersection(group.members):
                member.nodes = list(wirings[member].nodes)
        grouped = {member for group in groups for member in group.members}
        return groups, {
            member: self._why_alone(member, wirings, groups, classes) for member in members if member not in grouped
        }

    def _alike(self, wirings: Mapping[Member, Wiring]) -> list[Group]:
        """Two or more members that are alike."""
        same: dict[tuple[str, str, bytes], list[tuple[Member, Wiring]]] = {}
        for member, wiring in wirings.items():
            wanted = member.wanted
            key = wanted.root.tag, wanted.info.qualified_class, wiring.mark
            same.setdefault(key, []).append((member, wiring))
        groups = (group for candidates in same.values() for group in grouped(candidates))
        return [group for group in groups if len(group.members) > 1 and self._is_enough(group)]

    def _is_enough(self, group: Group) -> bool:
        """Whether a function has enough nodes to be worth it, and gives anything."""
        inner = [column for column in group.columns() if not self._differs(column)]
        return len(inner) >= _FEWEST_NODES and any(self._leaving(group, column) for column in inner)

    def _why_alone(
        self,
        member: Member,
        wirings: Mapping[Member, Wiring],
        groups: Iterable[Group],
        classes: Mapping[str, Sequence[Member]],
    ) -> str:
        wiring, name = wirings[member], member.wanted.info.class_name
        if len(wiring.nodes) < _FEWEST_NODES:
            return "it is one node already"
        like = [group for group in groups if group.members[0].wanted.info.class_name == name]
        if like:
            return f"it {max(like, key=lambda group: len(group.members)).pattern.difference(wiring)}"
        others = [other for other in classes[name] if other is not member]
        if not others:
            return f"no other {name} runs"
        if any(wirings[other].mark == wiring.mark for other in others):
            return "nothing of what it makes is used, or all of it is constants"
        return f"no other {name} is like it: it {wirings[others[0]].difference(wiring, others[0].name)}"

    def _differs(self, column: Column) -> bool:
        """Whether constants are not the same in all members, so that the function is given them."""
        values = [self._outlines.of(draft).value for draft in column]
        return any(value != values[0] for value in values)

    def _leaving(self, group: Group, column: Column) -> list[int]:
        """The places of those outputs of a node that others read, in any of the members."""
        places = {
            place
            for member, own, draft in zip(group.members, group.own, column, strict=True)
            for place in self._wires[member.graph].leaving(own, draft)
        }
        return sorted(places)

    # --- Functions ---

    def _order(self, groups: Sequence[Group]) -> Member | None:
        """Makes the functions, and puts what calls them into the graphs; a member that stands in the way, if any does."""
        prepared = [self._maker(group) for group in groups]
        calls: dict[str, dict[DraftNode, tuple[Member, DraftNode]]] = {}  # by graph, what becomes of moved nodes
        for each in prepared:
            for member, call, nodes in each.calls():
                calls.setdefault(member.graph, {}).update(dict.fromkeys(nodes, (member, call)))
        ordered = {}
        for path, moved in calls.items():
            result = _contracted(self._wires[path].graph, moved)
            if isinstance(result, Member):
                return result
            ordered[path] = result
        for each in prepared:
            each.commit()
        for path, nodes in ordered.items():
            self._wires[path].graph.nodes = nodes
        return None

    def _maker(self, group: Group) -> FunctionMaker:
        columns = [column for column in group.columns() if not self._differs(column)]
        outputs = [(column, place) for column in columns for place in self._leaving(group, column)]
        return FunctionMaker(self.workshop, group, columns=columns, outputs=outputs, stored=self._stored)

    # --- The result ---

    def result(self) -> tuple[TaggedGraph, dict[DraftNode, NodeKey]]:
        """The file as it is to be, with its tags; and where each node is there."""
        functions = tuple(each.function() for each in self.workshop.made)
        model = replace(
            self.file.model,
            graph=drafted_graph(self.main, {}),
            functions=(*self.file.model.functions, *functions),
            opset_imports={**self.file.model.opset_imports, **self.workshop.new_opsets},
            ir_version=max(self.file.model.ir_version, FIRST_IR_VERSION),
        )
        places = {draft: key for key, draft in self.main.walk()}
        for made, function in zip(self.workshop.made, functions, strict=True):
            places |= {draft: key for key, draft in DraftGraph(function.path, Graph(), list(made.nodes)).walk()}
        tags = {place: self._tags[draft] for draft, place in places.items() if draft in self._tags}
        inside = {each.path for each in self.file.model.functions}
        tags |= {key: tag for key, tag in self.file.tags.items() if key[0].split("/")[0] in inside}
        ordered = {key: tags[key] for key, _ in model.nodes() if key in tags}
        return replace(self.file, model=model, tags=ordered, sources=()), places


def _contracted(graph: DraftGraph, moved: Mapping[DraftNode, tuple[Member, DraftNode]]) -> list[DraftNode] | Member:
    """A graph's nodes in order, with one in the place of those that move together; a member that is before and behind others.

    What did not move stays where it was, as far as it can.
    """
    places: dict[DraftNode, int] = {}
    for index, draft in enumerate(graph.nodes):
        unit = moved[draft][1] if draft in moved else draft
        places[unit] = index  # of several the last
    units = sorted(places, key=places.__getitem__)
    makers = {name: unit for unit in units for name in unit.node.outputs if name}
    needed = {unit: {makers[name] for name in reads(unit.node) if name in makers} - {unit} for unit in units}
    readers: dict[DraftNode, list[DraftNode]] = {}
    for unit, before in needed.items():
        for maker in before:
            readers.setdefault(maker, []).append(unit)
    missing = {unit: len(before) for unit, before in needed.items()}
    ready = [places[unit] for unit in units if not missing[unit]]
    at = {place: unit for unit, place in places.items()}
    order: list[DraftNode] = []
    while ready:
        unit = at[heappop(ready)]
        order.append(unit)
        for reader in readers.get(unit, ()):
            missing[reader] -= 1
            if not missing[reader]:
                heappush(ready, places[reader])
    if len(order) == len(units):
        return order
    left = set(units).difference(order)
    return next(member for member, call in moved.values() if call in left)


def _graphs(graph: DraftGraph) -> Iterator[DraftGraph]:
    """A graph and the bodies in it, each before those inside of it."""
    yield graph
    for draft in graph.nodes:
        for _, body in draft.bodies:
            yield from _graphs(body)
