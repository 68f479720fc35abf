"""A graph with the branch of a merged decoder put in the place of its `If`: one list of nodes, in which to cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from optimum_htp.hierarchy import NodeKey, NodeTag
from optimum_htp.onnxfile import Graph, Node, OnnxModel, reads


_BRANCH_INPUT = "use_cache_branch"


@dataclass(frozen=True, slots=True)
class FlatNode:
    """A node: 0 for the main graph or 1 for the branch, its position there, and its tag."""

    scope: int
    position: int
    node: Node
    tag: NodeTag | None


class FlatGraph:
    """The nodes of a main graph, or of one branch of a merged decoder and what is around it.

    Args:
        model: The file.
        tags: Its tags.
        branch: Of a merged decoder, whether the branch with past key values is meant.

    Attributes:
        path: The path of the branch's graph; `""` where there is none.
        scopes: The graphs whose nodes these are.
        nodes: The nodes in the order of the graph.
        outputs: The names of the results.
        hidden: The tags of nodes in the bodies of these nodes, whose tensors can't be shown.
    """

    def __init__(self, model: OnnxModel, tags: Mapping[NodeKey, NodeTag], *, branch: bool | None = None) -> None:
        self.path, body, at = _branch(model.graph, branch)
        self.scopes = (model.graph,) if body is None else (model.graph, body)
        self.nodes: list[FlatNode] = []
        for position, node in enumerate(model.graph.nodes):
            if position != at:
                self.nodes.append(FlatNode(0, position, node, tags.get(("", position))))
        for position, node in enumerate(body.nodes if body is not None else ()):
            self.nodes.append(FlatNode(1, position, node, tags.get((self.path, position))))
        self.outputs = tuple(value.name for value in (body or model.graph).outputs)
        self.hidden = [tag for (path, _), tag in tags.items() if self._is_hidden(path, at)]

    def _is_hidden(self, path: str, at: int) -> bool:
        """Whether a graph is inside one of the nodes: not a function, and not a branch that was left out."""
        if path in ("", self.path) or "::" in path.split("/", 1)[0]:
            return False
        return path.startswith(self.path + "/") if self.path and path.startswith(f"{at}.") else True

    @cached_property
    def maker(self) -> dict[str, int]:
        """The node that makes each tensor."""
        return {name: at for at, flat in enumerate(self.nodes) for name in flat.node.outputs if name}

    @cached_property
    def readers(self) -> dict[str, list[int]]:
        """The nodes that read each tensor, those included whose bodies do."""
        found: dict[str, list[int]] = {}
        for at, flat in enumerate(self.nodes):
            for name in dict.fromkeys(reads(flat.node)):
                found.setdefault(name, []).append(at)
        return found

    @cached_property
    def varying(self) -> frozenset[int]:
        """The nodes whose values depend on the model's inputs."""
        names = set(self.inputs)
        found: set[int] = set()
        for at, flat in enumerate(self.nodes):
            if not names.isdisjoint(reads(flat.node)):
                found.add(at)
                names.update(flat.node.outputs)
        return frozenset(found)

    def after(self, name: str) -> set[str]:
        """The tensors that depend on one, itself left out."""
        found: set[str] = set()
        stack = [name]
        while stack:
            for at in self.readers.get(stack.pop(), ()):
                fresh = [made for made in self.nodes[at].node.outputs if made and made not in found]
                found.update(fresh)
                stack.extend(fresh)
        return found

    @cached_property
    def inputs(self) -> frozenset[str]:
        """The names of what has to be given."""
        stored = {tensor.name for graph in self.scopes for tensor in graph.initializers}
        return frozenset(value.name for value in self.scopes[0].inputs if value.name not in stored)

    def slice_to(self, names: Iterable[str], *, stop: Iterable[str] = ()) -> tuple[list[int], list[str]]:
        """The nodes that some tensors depend on, in order, and what they need: inputs, and tensors to stop at."""
        given = set(stop) | self.inputs
        needed: dict[str, None] = {}
        chosen: set[int] = set()
        stack = list(names)
        while stack:
            name = stack.pop()
            if name in given:
                needed[name] = None
                continue
            at = self.maker.get(name)
            if at is not None and at not in chosen:
                chosen.add(at)
                stack.extend(reads(self.nodes[at].node))
        return sorted(chosen), list(needed)


def _branch(graph: Graph, branch: bool | None) -> tuple[str, Graph | None, int]:
    if branch is not None:
        for position, node in enumerate(graph.nodes):
            if node.op_type == "If" and node.inputs and node.inputs[0] == _BRANCH_INPUT:
                name = "then_branch" if branch else "else_branch"
                body = next((body for element, body in node.bodies if element == name), None)
                if body is not None:
                    return f"{position}.{name}", body, position
    return "", None, -1
