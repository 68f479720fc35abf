"""Makes functions of groups, and the nodes that call them: names, tags, opsets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from optimum_htp.hierarchy import NodeTag
from optimum_htp.onnxfile import DraftFunction, DraftNode, Node, tensor_names
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.functions.groups import Column, Group
from optimum_htp.verbs.functions.likeness import Counterparts
from optimum_htp.verbs.functions.members import Member, Wanted, nodes_inside
from optimum_htp.verbs.functions.naming import NamesInside, distinct, domain_of
from optimum_htp.verbs.functions.report import FunctionCall, ModuleFunction


class Workshop:
    """What functions of one file have in common.

    Attributes:
        file: The file.
        tags: The tags of all nodes as they are to be.
        made: The functions.
        reports: What the report says of them.
        names: All names of the file.
    """

    def __init__(self, file: TaggedGraph, tags: dict[DraftNode, NodeTag]) -> None:
        self.file = file
        self.tags = tags
        self.made: list[DraftFunction] = []
        self.reports: list[ModuleFunction] = []
        self._nodes = {node.name for _, node in file.model.nodes()}
        self.names = self._nodes | tensor_names(file.model)
        self._operators = {(node.domain, node.op_type) for _, node in file.model.nodes()}
        self._operators |= {(each.domain, each.name) for each in file.model.functions}

    def identity(self, wanted: Wanted) -> tuple[str, str]:
        """A domain and a name that no operator has."""
        domain = domain_of(wanted.info.qualified_class, wanted.info.class_name)
        taken = {name for known, name in self._operators if known == domain}
        name = distinct(wanted.info.class_name, taken)
        self._operators.add((domain, name))
        return domain, name

    def call_name(self, member: Member) -> str:
        """A name for a node that no node has."""
        name = distinct(member.name, self._nodes)
        self._nodes.add(name)
        return name

    def imports(self, nodes: Iterable[DraftNode]) -> dict[str, int]:
        """The versions of the domains of some nodes, and of those inside of them."""
        domains = {draft.node.domain for draft in nodes_inside(nodes)}
        return {domain: self._version(domain) for domain in sorted(domains)}

    def _version(self, domain: str) -> int:
        known = self.file.model.opset_imports
        other = {"": "ai.onnx", "ai.onnx": ""}.get(domain, domain)
        return known.get(domain, known.get(other, 1))

    @property
    def new_opsets(self) -> dict[str, int]:
        """The versions of domains that the model is to have in addition."""
        known = self.file.model.opset_imports
        return {each.domain: 1 for each in self.made if each.domain not in known}


class FunctionMaker:
    """A function that is about to be made of a group.

    Args:
        workshop: What it has in common with others.
        group: The calls.
        columns: The nodes that go into it, each with those that do the same in the other calls.
        outputs: What it returns: the nodes that make it, and the place among what they make.
        stored: The initializers of the file.
    """

    def __init__(
        self,
        workshop: Workshop,
        group: Group,
        *,
        columns: Sequence[Column],
        outputs: Sequence[tuple[Column, int]],
        stored: Collection[str],
    ) -> None:
        self._workshop = workshop
        self._group = group
        self._columns = columns
        self._outputs = outputs
        self._stored = stored
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
        workshop, group = self._workshop, self._group
        wanted = group.members[self._pattern_place].wanted
        names = NamesInside(wanted.tag, self._nodes, workshop.tags, known=workshop.names)
        names.add_inputs(((name, *reader) for name, reader in self._given.items()), self._stored)
        names.add_made()
        domain, name = workshop.identity(wanted)
        for column in self._columns:
            _merge(workshop, column, column[self._pattern_place])
        outputs = [(column[self._pattern_place], place) for column, place in self._outputs]
        function = DraftFunction(
            domain=domain,
            name=name,
            inputs=tuple(names.tensors[each] for each in self._given),
            outputs=tuple(names.tensors[draft.node.outputs[place]] for draft, place in outputs),
            nodes=tuple(self._nodes),
            names=names.tensors,
            node_names=tuple(names.nodes),
            opset_imports=workshop.imports(self._nodes),
            description=_description(group.members),
        )
        workshop.made.append(function)
        for member, call in zip(group.members, self._calls, strict=True):
            call.node = replace(call.node, name=workshop.call_name(member), op_type=name, domain=domain)
            workshop.tags[call] = NodeTag(member.wanted.tag, "fused", member.call)
        workshop.reports.append(
            ModuleFunction(
                file=workshop.file.name,
                domain=domain,
                name=name,
                nodes=sum(1 for _ in nodes_inside(self._nodes)),
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


def _merge(workshop: Workshop, column: Sequence[DraftNode], pattern: DraftNode) -> None:
    """Gives a node of the function, and those inside of it, the tags of all that are in its place."""
    tags = [workshop.tags[draft] for draft in column if draft in workshop.tags]
    if tags:
        workshop.tags[pattern] = workshop.file.roots.together(tags)
    values = [draft.node.metadata for draft in column]
    keys = {key for metadata in values for key in metadata}
    pattern.dropped |= {key for key in keys if any(each.get(key) != values[0].get(key) for each in values)}
    for bodies in zip(*(draft.bodies for draft in column), strict=True):
        graphs = [body for _, body in bodies]
        own = dict(pattern.bodies)[bodies[0][0]]
        for inner, each in zip(zip(*(graph.nodes for graph in graphs), strict=True), own.nodes, strict=True):
            _merge(workshop, inner, each)


def _description(members: Sequence[Member]) -> str:
    names = list(dict.fromkeys(member.name for member in members))
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{members[0].wanted.info.class_name}: {listed}"
