"""A graph as one list of nodes, with a branch of a merged decoder in the place of its `If`."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from optimum_htp.hierarchy import NodeKey, NodeTag
from optimum_htp.onnxfile import Graph, Node, OnnxModel, body_path, reads, topological_order

_BRANCH_INPUT = "use_cache_branch"


@dataclass(frozen=True, slots=True)
class FlatNode:
    """A node, its index in the main graph (scope 0) or the branch (1), and its tag."""

    scope: int
    index: int
    node: Node
    tag: NodeTag | None


class FlatGraph:
    """The nodes of a main graph, or of one branch of a merged decoder and what is around it.

    For example, of a merged decoder the nodes `Cast, If(then_branch: MatMul, Add)` are `Cast, MatMul, Add` for the
    branch with past key values (`branch=True`). A node's index in `nodes` identifies it everywhere else; producers come
    before consumers, whatever their order in the file.
    """

    def __init__(self, model: OnnxModel, tags: Mapping[NodeKey, NodeTag], *, branch: bool | None = None) -> None:
        merged, self.path, body = _find_branch(model.graph, branch)
        self.scopes = (model.graph,) if body is None else (model.graph, body)
        self.nodes: list[FlatNode] = []
        for scope, (path, graph) in enumerate(zip(("", self.path), self.scopes, strict=False)):
            self.nodes += [
                FlatNode(scope, index, graph.nodes[index], tags.get((path, index)))
                for index in topological_order(graph.nodes)
                if scope or index != merged
            ]
        self.outputs = tuple(value.name for value in self.scopes[-1].outputs)
        # The tags of nodes in the bodies of these nodes, whose tensors can't be shown.
        self.hidden = [tag for (path, _), tag in tags.items() if self._is_hidden(path, merged)]

    def _is_hidden(self, path: str, merged: int) -> bool:
        """Whether a graph is inside one of the nodes: not a function, and not a branch that was left out."""
        if path in ("", self.path) or "::" in path.split("/", 1)[0]:
            return False
        return not self.path or not path.startswith(f"{merged}.") or path.startswith(f"{self.path}/")

    @cached_property
    def producer(self) -> dict[str, int]:
        """The node that produces each tensor."""
        return {name: index for index, flat in enumerate(self.nodes) for name in flat.node.outputs if name}

    @cached_property
    def consumers(self) -> dict[str, list[int]]:
        """The nodes that read each tensor, themselves or in their bodies."""
        consumers: dict[str, list[int]] = {}
        for index, flat in enumerate(self.nodes):
            for name in dict.fromkeys(reads(flat.node)):
                consumers.setdefault(name, []).append(index)
        return consumers

    @cached_property
    def varying(self) -> frozenset[int]:
        """The nodes whose values depend on the model's inputs."""
        names = set(self.inputs)
        varying: set[int] = set()
        for index, flat in enumerate(self.nodes):
            if not names.isdisjoint(reads(flat.node)):
                varying.add(index)
                names.update(flat.node.outputs)
        return frozenset(varying)

    def known_sources(self, name: str, known: Container[str]) -> tuple[set[str], set[int]]:
        """The nearest tensors before one that have known names and depend on the model's inputs, and the nodes after these."""
        sources: set[str] = set()
        nodes: set[int] = set()
        done: set[str] = set()
        stack = [name]
        while stack:
            current = stack.pop()
            index = self.producer.get(current)
            if current in done:
                continue
            done.add(current)
            if current != name and (index is None or current in known):
                if current in self.inputs or index in self.varying:
                    sources.add(current)
            elif index is not None:
                nodes.add(index)
                stack.extend(reads(self.nodes[index].node))
        return sources, nodes & self.varying

    @cached_property
    def inputs(self) -> frozenset[str]:
        """The names of the inputs that have to be given."""
        initializers = {tensor.name for graph in self.scopes for tensor in graph.initializers}
        return frozenset(value.name for value in self.scopes[0].inputs if value.name not in initializers)

    def slice_to(self, names: Iterable[str], *, stop: Iterable[str] = ()) -> tuple[list[int], list[str]]:
        """The nodes that some tensors depend on, in order, and the inputs and tensors to stop at that these need."""
        given = set(stop) | self.inputs
        needed: dict[str, None] = {}
        chosen: set[int] = set()
        stack = list(names)
        while stack:
            name = stack.pop()
            if name in given:
                needed[name] = None
                continue
            index = self.producer.get(name)
            if index is not None and index not in chosen:
                chosen.add(index)
                stack.extend(reads(self.nodes[index].node))
        return sorted(chosen), list(needed)


def _find_branch(graph: Graph, branch: bool | None) -> tuple[int, str, Graph | None]:
    """The index of the node that has the branches of a merged decoder, and the path and the graph of the wanted one."""
    for index, node in enumerate(graph.nodes if branch is not None else ()):
        if node.op_type == "If" and node.inputs and node.inputs[0] == _BRANCH_INPUT:
            element = "then_branch" if branch else "else_branch"
            body = dict(node.bodies).get(element)
            if body is not None:
                return index, body_path("", index, element), body
    return -1, "", None
