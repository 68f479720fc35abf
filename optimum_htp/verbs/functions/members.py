"""The calls of modules whose nodes a function may take the place of: which nodes they are, and what stands in the way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from optimum_htp.hierarchy import ModuleInfo, ModulePattern, NodeTag, Root, tag_module_path
from optimum_htp.onnxfile import DraftGraph, DraftNode, reads, topological_order
from optimum_htp.tagging import TaggedGraph


@dataclass(frozen=True, slots=True)
class Wanted:
    """A module that is to become a function, with the patterns that select it; none where all of its calls do."""

    root: Root
    info: ModuleInfo
    patterns: tuple[ModulePattern, ...] = ()

    @property
    def tag(self) -> str:
        """Its tag, by the first of its names."""
        return self.root.tree.tag(self.info.path)

    def selects(self, call: int) -> bool:
        """Whether a call is one of those."""
        ranges = [pattern.calls for pattern in self.patterns]
        return not ranges or any(calls is None or calls[0] <= call <= calls[1] for calls in ranges)


@dataclass(slots=True, eq=False)
class Member:
    """One call of a module in one graph, as nodes.

    Attributes:
        wanted: The module.
        call: The index of the call; None where it ran once.
        graph: The path of the graph that the nodes are in.
        nodes: The nodes, producers before consumers.
    """

    wanted: Wanted
    call: int | None
    graph: str
    nodes: list[DraftNode] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The module's dotted path."""
        return ".".join(self.wanted.info.path)

    @property
    def name(self) -> str:
        """What to call the node in the place of its nodes."""
        return (self.path or self.wanted.info.class_name) + (f"@{self.call}" if self.call is not None else "")


class GraphWires:
    """Who makes and who reads the tensors of a graph, and in which order its nodes run."""

    def __init__(self, graph: DraftGraph) -> None:
        self.graph = graph
        nodes = [draft.node for draft in graph.nodes]
        self.order = [graph.nodes[index] for index in topological_order(nodes)]
        self.places = {draft: place for place, draft in enumerate(self.order)}
        self.makers = {name: draft for draft in graph.nodes for name in draft.node.outputs if name}
        self.reads = {draft: tuple(dict.fromkeys(reads(draft.node))) for draft in graph.nodes}
        self.readers: dict[str, list[DraftNode]] = {}
        for draft, names in self.reads.items():
            for name in names:
                self.readers.setdefault(name, []).append(draft)
        self.returned = {value.name for value in graph.graph.outputs}

    def leaving(self, nodes: set[DraftNode], draft: DraftNode) -> Iterator[int]:
        """The places of those outputs of a node that are read by others than some nodes, or returned."""
        for place, name in enumerate(draft.node.outputs):
            if name and (name in self.returned or any(user not in nodes for user in self.readers.get(name, ()))):
                yield place

    def between(self, nodes: Sequence[DraftNode]) -> list[DraftNode]:
        """The nodes that are on a way that leaves some nodes and comes back to them."""
        own = set(nodes)
        places = [self.places[draft] for draft in nodes]
        made: set[str] = set()  # by those, and by what depends on them
        behind: list[DraftNode] = []
        for draft in self.order[min(places) : max(places) + 1]:
            if draft in own:
                made.update(draft.node.outputs)
            elif not made.isdisjoint(self.reads[draft]):
                behind.append(draft)
                made.update(draft.node.outputs)
        wanted = {name for draft in nodes for name in self.reads[draft]}
        found = []
        for draft in reversed(behind):
            if not wanted.isdisjoint(draft.node.outputs):
                found.append(draft)
                wanted.update(self.reads[draft])
        return found[::-1]


class MemberFinder:
    """Finds the calls of modules in the graphs of one file."""

    def __init__(
        self,
        graphs: Mapping[str, DraftGraph],
        tags: Mapping[DraftNode, NodeTag],
        file: TaggedGraph,
        *,
        stored: Collection[str],
        fixed: Collection[str],
    ) -> None:
        """`stored` are the initializers of all graphs, `fixed` tensors whose nodes stay where they are."""
        self._graphs = graphs
        self._tags = tags
        self._roots = file.roots
        self._several = cache(lambda tag: (file.calls(tag) or 1) > 1)  # of calls, as far as that is known
        self._stored = frozenset(stored)
        self._fixed = frozenset(fixed)
        self._around: dict[str, tuple[str, ...]] = {}

    def find(self, wanted: Sequence[Wanted], wires: Mapping[str, GraphWires]) -> list[Member]:
        """The calls of some modules, none of which is inside of another, in the order of the modules and the graphs."""
        modules = {each.tag: each for each in wanted}
        members: dict[tuple[str, int, str], Member] = {}
        around: dict[str, set[tuple[str, int]]] = {"": set()}  # whose nodes the bodies with a path are inside of
        for path in self._graphs:  # a graph comes before its bodies
            for draft in wires[path].order:
                owner = self._owner(draft, modules)
                if owner is not None and self._is_apart(draft):
                    owner = None
                for _, body in draft.bodies:
                    around[body.path] = around[path] | ({owner} if owner is not None else set())
                if owner is None or owner in around[path]:
                    continue  # the latter go with the node that they are inside of
                module = modules[owner[0]]
                call = owner[1] if self._several(module.tag) else None
                members.setdefault((*owner, path), Member(module, call, path)).nodes.append(draft)
        for member in members.values():
            _leave_shared_constants(member, wires[member.graph])
        order = {tag: index for index, tag in enumerate(modules)}
        found = sorted(members.items(), key=lambda item: (order[item[0][0]], item[0][1]))
        return [member for _, member in found if member.nodes]

    def _owner(self, draft: DraftNode, modules: Mapping[str, Wanted]) -> tuple[str, int] | None:
        """The wanted module that a node is of, and the call; None where it is of none, or of several calls."""
        tag = self._tags.get(draft)
        if tag is None or tag.source == "unresolved":
            return None
        module = next((modules[above] for above in self._modules_around(tag.tag) if above in modules), None)
        if module is None:
            return None
        calls = self._roots.calls_above(tag, module.tag) if self._several(module.tag) else frozenset((0,))
        if calls is None or len(calls) != 1:
            return None
        (call,) = calls
        return (module.tag, call) if module.selects(call) else None

    def _modules_around(self, tag: str) -> tuple[str, ...]:
        """The tags of a module and of those around it, each by the first of its names."""
        known = self._around.get(tag)
        if known is None:
            found = self._roots.find(tag)
            known = ()
            if found is not None:
                tree, path = found[0].tree, found[1]
                lengths = range(len(path), -1, -1)
                known = tuple(tree.tag(tree.module(path[:length]).path) for length in lengths)
            self._around[tag] = known
        return known

    def _is_apart(self, draft: DraftNode) -> bool:
        """Whether a node gives a name: to a parameter that is stored once for several modules, or to an added output."""
        node = draft.node
        copies = node.operator == "Identity" and not self._stored.isdisjoint(node.inputs)
        return copies or not self._fixed.isdisjoint(node.outputs)


def nodes_inside(nodes: Iterable[DraftNode]) -> Iterator[DraftNode]:
    """Nodes, and those in their bodies."""
    for draft in nodes:
        yield draft
        for _, body in draft.bodies:
            yield from nodes_inside(body.nodes)


def _leave_shared_constants(member: Member, wires: GraphWires) -> None:
    """Takes out constants that others read too: they are nobody's alone."""
    own = set(member.nodes)
    member.nodes = [
        draft
        for draft in member.nodes
        if draft.node.operator != "Constant" or not any(True for _ in wires.leaving(own, draft))
    ]


def without_shared(
    member: Member, others: Iterable[Member], wires: GraphWires, stored: Collection[str]
) -> list[DraftNode]:
    """The nodes of a call without what it makes for other calls too, of nothing but what it is given.

    What is the same for all layers (the angles of rotary positions, the size of a batch) is often computed once, in the first.
    What reads weights is a part of the module, whoever reads what comes of it.
    """
    theirs = {draft for other in others if other.graph == member.graph for draft in other.nodes}
    own = set(member.nodes)
    plain: set[DraftNode] = set()  # that depend on no weight
    for draft in member.nodes:
        makers = (wires.makers.get(name) for name in wires.reads[draft])
        if not any(name in stored for name in wires.reads[draft]) and all(
            maker not in own or maker in plain for maker in makers
        ):
            plain.add(draft)
    shared: set[DraftNode] = set()
    for draft in reversed(member.nodes):
        users = {user for name in draft.node.outputs for user in wires.readers.get(name, ())}
        if draft in plain and (not users.isdisjoint(theirs) or not users.isdisjoint(shared)):
            shared.add(draft)
    constants = {draft for draft in shared if draft.node.operator == "Constant"}
    for draft in constants:  # those that are read here too stay
        users = {user for name in draft.node.outputs for user in wires.readers.get(name, ())}
        if users & own - shared and not users & theirs:
            shared.discard(draft)
    return [draft for draft in member.nodes if draft not in shared]


def said_between(member: Member, others: Sequence[DraftNode], tags: Mapping[DraftNode, NodeTag]) -> str:
    """Why the nodes of a call can't be one node, where others are on ways that leave them and come back."""
    owners = dict.fromkeys(
        (tag_module_path(tags[draft].tag) or "the root") if draft in tags else "no known module" for draft in others
    )
    listed = ", ".join(list(owners)[:3]) + (f" and {len(owners) - 3} more" if len(owners) > 3 else "")
    example = others[0].node.name or others[0].node.op_type
    count = "a node" if len(others) == 1 else f"{len(others)} nodes"
    inside = [tags[draft].tag for draft in others if draft in tags]
    of = member.wanted.tag
    if len(inside) == len(others) and all(tag == of or tag.startswith(f"{of}/") for tag in inside):
        listed += ", of which the call is not known,"
    verb = "is" if len(others) == 1 else "are"
    return f"{count} of {listed} {verb} between its own: what leaves it comes back through {example!r}"
