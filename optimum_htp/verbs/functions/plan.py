"""What becomes of one file: which calls of modules are alike, the function of each kind, and the nodes that call it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import heappop, heappush
from mmap import mmap

from optimum_htp.hierarchy import NodeKey, NodeTag
from optimum_htp.onnxfile import (
    DraftFunction,
    DraftGraph,
    DraftNode,
    Graph,
    GraphPlaces,
    Node,
    draft_graphs,
    drafted_graph,
    node_overload,
    reads,
    tensor_names,
)
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.functions.likeness import Counterparts, Outlines, Wiring
from optimum_htp.verbs.functions.members import GraphWires, Member, MemberFinder, Wanted, said_between, without_shared
from optimum_htp.verbs.functions.naming import NamesInside, distinct, domain_of
from optimum_htp.verbs.functions.report import FunctionCall, ModuleFunction, NoFunction

FIRST_IR_VERSION = 8
"""The first version of the format that has functions."""

_FEWEST_NODES = 2


@dataclass(eq=False)
class _Group:
    """Members that are alike: the one whose nodes the function gets, and of each what is what there."""

    pattern: Wiring
    members: list[Member]
    counterparts: list[Counterparts]

    @cached_property
    def own(self) -> list[set[DraftNode]]:
        """The nodes of each member."""
        return [set(each.nodes) for each in self.counterparts]

    def columns(self) -> list[tuple[DraftNode, ...]]:
        """The nodes that do the same in all members, one column for each node of the pattern."""
        return list(zip(*(each.nodes for each in self.counterparts), strict=True))


class FilePlan:
    """Makes functions of modules of one file, one kind of modules after the other, those inside of others first.

    Attributes:
        file: The file as it was.
        functions: What the report says of the functions.
        left_out: The calls whose nodes stay.
        made: The functions.
        main: The main graph as it is to be.
    """

    def __init__(self, file: TaggedGraph, data: mmap | bytes, *, fixed: Iterable[str]) -> None:
        self.file = file
        self.functions: list[ModuleFunction] = []
        self.left_out: list[NoFunction] = []
        self.made: list[DraftFunction] = []
        self._fixed = tuple(fixed)
        self.main = draft_graphs("", file.model.graph, GraphPlaces(data, file.model).node)
        self.keys = {draft: key for key, draft in self.main.walk()}
        self.tags = {draft: file.tags[key] for draft, key in self.keys.items() if key in file.tags}
        self._outlines = Outlines(data)
        # ONNX Runtime 1.32 does not find the function that a node with an overload calls from inside of another.
        self._overloaded = {
            draft
            for draft in self.keys
            if draft.node.domain and draft.span is not None and node_overload(data, draft.span)
        }
        self._wires: dict[str, GraphWires] = {}
        self._sizes: dict[tuple[str, str], int] = {}  # how many nodes functions have
        self._names = {node.name for _, node in file.model.nodes()}
        self.names = self._names | tensor_names(file.model)
        self._stored = {tensor.name for _, graph in file.model.graphs() for tensor in graph.initializers}
        self._operators = {(node.domain, node.op_type) for _, node in file.model.nodes()}
        self._operators |= {(each.domain, each.name) for each in file.model.functions}

    # --- Which modules ---

    def alike(self, wanted: Sequence[Wanted]) -> set[str]:
        """The tags of those of some modules, none inside of another, whose class has two or more calls that are alike.

        Those of other classes that run more than once are told of.
        """
        members, problems = self._candidates(wanted)
        groups, alone = self._groups(members)
        classes = {member.wanted.info.qualified_class for group in groups for member in group.members}
        of_class = _by_class((*members, *problems))
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
        finder = MemberFinder(graphs, self.tags, self.file, stored=self._stored, fixed=self._fixed)
        members = finder.find(wanted, self._wires)
        between = {member: self._wires[member.graph].between(member.nodes) for member in members}
        problems = {member: said_between(member, found, self.tags) for member, found in between.items() if found}
        for member in members:
            inside = _inside(member.nodes) if self._overloaded else ()
            named = next((draft.node.operator for draft in inside if draft in self._overloaded), None)
            if named is not None:
                problems[member] = f"it calls an overload of {named}, which ONNX Runtime can't do inside of a function"
        return [member for member in members if member not in problems], problems

    def _groups(self, members: Sequence[Member]) -> tuple[list[_Group], dict[Member, str]]:
        """Members that are alike, and why the others are alone."""
        wirings = {member: Wiring(member.nodes, self._outlines) for member in members}
        alone = set(members).difference(*(group.members for group in self._alike(wirings)))
        classes = _by_class(members)
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

    def _alike(self, wirings: Mapping[Member, Wiring]) -> list[_Group]:
        """Two or more members that are alike."""
        same: dict[tuple[str, str, bytes], list[tuple[Member, Wiring]]] = {}
        for member, wiring in wirings.items():
            wanted = member.wanted
            key = wanted.root.tag, wanted.info.qualified_class, wiring.mark
            same.setdefault(key, []).append((member, wiring))
        groups = (group for candidates in same.values() for group in _grouped(candidates))
        return [group for group in groups if len(group.members) > 1 and self._is_enough(group)]

    def _is_enough(self, group: _Group) -> bool:
        """Whether a function has enough nodes to be worth it, and gives anything."""
        inner = [column for column in group.columns() if not self._differs(column)]
        return len(inner) >= _FEWEST_NODES and any(self._leaving(group, column) for column in inner)

    def _why_alone(
        self,
        member: Member,
        wirings: Mapping[Member, Wiring],
        groups: Iterable[_Group],
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

    def _differs(self, column: Sequence[DraftNode]) -> bool:
        """Whether constants are not the same in all members, so that the function is given them."""
        values = [self._outlines.of(draft).value for draft in column]
        return any(value != values[0] for value in values)

    def _leaving(self, group: _Group, column: Sequence[DraftNode]) -> list[int]:
        """The places of those outputs of a node that others read, in any of the members."""
        places = {
            place
            for member, own, draft in zip(group.members, group.own, column, strict=True)
            for place in self._wires[member.graph].leaving(own, draft)
        }
        return sorted(places)

    # --- Functions ---

    def _order(self, groups: Sequence[_Group]) -> Member | None:
        """Makes the functions, and puts what calls them into the graphs; a member that stands in the way, if any does."""
        prepared = [_Prepared(self, group) for group in groups]
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

    def inside(self, group: _Group) -> list[tuple[DraftNode, ...]]:
        """The columns that go into the function."""
        return [column for column in group.columns() if not self._differs(column)]

    def identity(self, wanted: Wanted) -> tuple[str, str]:
        """A domain and a name that no operator has."""
        domain = domain_of(wanted.info.qualified_class, wanted.info.class_name)
        taken = {name for known, name in self._operators if known == domain}
        name = distinct(wanted.info.class_name, taken)
        self._operators.add((domain, name))
        return domain, name

    def call_name(self, member: Member) -> str:
        """A name for a node that no node has."""
        name = distinct(member.name, self._names)
        self._names.add(name)
        return name

    def imports(self, nodes: Iterable[DraftNode]) -> dict[str, int]:
        """The versions of the domains of some nodes, and of those inside of them."""
        domains = {draft.node.domain for draft in _inside(nodes)}
        return {domain: self._version(domain) for domain in sorted(domains)}

    def _version(self, domain: str) -> int:
        known = self.file.model.opset_imports
        other = {"": "ai.onnx", "ai.onnx": ""}.get(domain, domain)
        return known.get(domain, known.get(other, 1))

    def size(self, nodes: Iterable[DraftNode]) -> int:
        """How many nodes there are, with those inside of them."""
        return sum(1 for _ in _inside(nodes))

    def stored(self, names: Iterable[str]) -> set[str]:
        """Those of some tensors that are initializers."""
        return self._stored.intersection(names)

    # --- The result ---

    @property
    def new_opsets(self) -> dict[str, int]:
        """The versions of domains that the model is to have in addition."""
        known = self.file.model.opset_imports
        return {each.domain: 1 for each in self.made if each.domain not in known}

    def result(self) -> tuple[TaggedGraph, dict[DraftNode, NodeKey]]:
        """The file as it is to be, with its tags; and where each node is there."""
        functions = tuple(each.function() for each in self.made)
        model = replace(
            self.file.model,
            graph=drafted_graph(self.main, {}),
            functions=(*self.file.model.functions, *functions),
            opset_imports={**self.file.model.opset_imports, **self.new_opsets},
            ir_version=max(self.file.model.ir_version, FIRST_IR_VERSION),
        )
        places = {draft: key for key, draft in self.main.walk()}
        for made, function in zip(self.made, functions, strict=True):
            places |= {draft: key for key, draft in DraftGraph(function.path, Graph(), list(made.nodes)).walk()}
        tags = {place: self.tags[draft] for draft, place in places.items() if draft in self.tags}
        inside = {each.path for each in self.file.model.functions}
        tags |= {key: tag for key, tag in self.file.tags.items() if key[0].split("/")[0] in inside}
        ordered = {key: tags[key] for key, _ in model.nodes() if key in tags}
        return replace(self.file, model=model, tags=ordered, sources=()), places


class _Prepared:
    """A function that is about to be made of a group."""

    def __init__(self, plan: FilePlan, group: _Group) -> None:
        self._plan = plan
        self._group = group
        self._columns = plan.inside(group)
        self._outputs = [(column, place) for column in self._columns for place in plan._leaving(group, column)]
        pattern = group.pattern
        kept = {column[self._pattern_place] for column in self._columns}
        self._nodes = [draft for draft in pattern.nodes if draft in kept]
        made = {name for draft in self._nodes for name in draft.node.outputs}
        self._given: dict[str, tuple[DraftNode, int]] = {}
        for draft, outline in zip(pattern.nodes, pattern.outlines, strict=True):
            for place, name in enumerate(outline.reads if draft in kept else ()):
                if name and name not in made:
                    self._given.setdefault(name, (draft, place))
        self._calls = [DraftNode(Node()) for _ in group.members]

    @property
    def _pattern_place(self) -> int:
        """Which of the members the pattern is."""
        first = self._group.pattern.nodes[0]
        return next(index for index, each in enumerate(self._group.counterparts) if each.nodes[0] is first)

    def calls(self) -> Iterator[tuple[Member, DraftNode, list[DraftNode]]]:
        """Each member with the node that calls the function for it, and the nodes in whose place that is."""
        for index, (member, call) in enumerate(zip(self._group.members, self._calls, strict=True)):
            known = self._group.counterparts[index]
            constants = dict(zip(self._group.pattern.nodes, known.nodes, strict=True))
            given = [self._of_member(name, known, constants) for name in self._given]
            made = [column[index].node.outputs[place] for column, place in self._outputs]
            call.node = Node("", "", "", tuple(given), tuple(made))
            yield member, call, [column[index] for column in self._columns]

    def _of_member(self, name: str, known: Counterparts, nodes: Mapping[DraftNode, DraftNode]) -> str:
        """What a tensor that the pattern is given is in a member: it comes from outside, or is a constant that differs."""
        maker = self._group.pattern.makers.get(name)
        if maker is None:
            return known.outer[name]
        return nodes[self._group.pattern.nodes[maker[0]]].node.outputs[maker[1]]

    def commit(self) -> None:
        """Makes the function."""
        plan, group = self._plan, self._group
        wanted = group.members[self._pattern_place].wanted
        names = NamesInside(wanted.tag, self._nodes, plan.tags, known=plan.names)
        names.add_inputs(((name, *reader) for name, reader in self._given.items()), plan.stored(self._given))
        names.add_made()
        domain, name = plan.identity(wanted)
        for column in self._columns:
            _merge(plan, column, column[self._pattern_place])
        outputs = [(column[self._pattern_place], place) for column, place in self._outputs]
        function = DraftFunction(
            domain=domain,
            name=name,
            inputs=tuple(names.tensors[each] for each in self._given),
            outputs=tuple(names.tensors[draft.node.outputs[place]] for draft, place in outputs),
            nodes=tuple(self._nodes),
            names=names.tensors,
            node_names=tuple(names.nodes),
            opset_imports=plan.imports(self._nodes),
            description=_description(group.members),
        )
        plan.made.append(function)
        for member, call in zip(group.members, self._calls, strict=True):
            call.node = replace(call.node, name=plan.call_name(member), op_type=name, domain=domain)
            plan.tags[call] = NodeTag(member.wanted.tag, "fused", member.call)
        plan.functions.append(
            ModuleFunction(
                file=plan.file.name,
                domain=domain,
                name=name,
                nodes=plan.size(self._nodes),
                inputs=len(function.inputs),
                outputs=len(function.outputs),
                constants=sum(each in group.pattern.makers for each in self._given),
                calls=tuple(
                    FunctionCall(
                        module=member.wanted.tag,
                        path=member.path,
                        call=member.call,
                        graph=member.graph,
                        node=call.node.name,
                    )
                    for member, call in zip(group.members, self._calls, strict=True)
                ),
            )
        )


def _by_class(members: Iterable[Member]) -> dict[str, list[Member]]:
    """Members by the name of their class."""
    found: dict[str, list[Member]] = {}
    for member in members:
        found.setdefault(member.wanted.info.class_name, []).append(member)
    return found


def _grouped(candidates: Sequence[tuple[Member, Wiring]]) -> list[_Group]:
    """Of calls whose nodes look alike, those that are wired alike; the pattern is one that is given most different things."""
    groups: list[_Group] = []
    for member, wiring in sorted(candidates, key=lambda each: -len(each[1].outer)):
        for group in groups:
            counterparts = group.pattern.counterparts(wiring)
            if counterparts is not None:
                group.members.append(member)
                group.counterparts.append(counterparts)
                break
        else:
            own = Counterparts(wiring.nodes, {name: name for name in wiring.outer})
            groups.append(_Group(wiring, [member], [own]))
    order = {member: place for place, (member, _) in enumerate(candidates)}
    for group in groups:
        pairs = sorted(zip(group.members, group.counterparts, strict=True), key=lambda pair: order[pair[0]])
        group.members, group.counterparts = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return groups


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


def _merge(plan: FilePlan, column: Sequence[DraftNode], pattern: DraftNode) -> None:
    """Gives a node of the function, and those inside of it, the tags of all that are in its place."""
    tags = [plan.tags[draft] for draft in column if draft in plan.tags]
    if tags:
        plan.tags[pattern] = plan.file.roots.together(tags)
    values = [draft.node.metadata for draft in column]
    keys = {key for metadata in values for key in metadata}
    pattern.dropped |= {key for key in keys if any(each.get(key) != values[0].get(key) for each in values)}
    for bodies in zip(*(draft.bodies for draft in column), strict=True):
        graphs = [body for _, body in bodies]
        own = dict(pattern.bodies)[bodies[0][0]]
        for inner, each in zip(zip(*(graph.nodes for graph in graphs), strict=True), own.nodes, strict=True):
            _merge(plan, inner, each)


def _description(members: Sequence[Member]) -> str:
    names = list(dict.fromkeys(member.name for member in members))
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{members[0].wanted.info.class_name}: {listed}"


def _inside(nodes: Iterable[DraftNode]) -> Iterator[DraftNode]:
    """Nodes, and those in their bodies."""
    for draft in nodes:
        yield draft
        for _, body in draft.bodies:
            yield from _inside(body.nodes)


def _graphs(graph: DraftGraph) -> Iterator[DraftGraph]:
    """A graph and the bodies in it, each before those inside of it."""
    yield graph
    for draft in graph.nodes:
        for _, body in draft.bodies:
            yield from _graphs(body)
