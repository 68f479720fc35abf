"""A graph as calls of modules: which call each node belongs to, and the tensors that enter and leave a call.

For example, of a graph with these nodes (module: operator -> tensor)

    attention.query: MatMul -> a
    attention.query: Add    -> q
    attention:       Shape  -> s
    attention:       Mul    -> y
    norm:            Sub    -> z

`q` leaves `attention.query` (`Shape` and `Mul` read it), `y` leaves `attention`, and enters `norm`.

Nodes that only quantize an activation, or undo that, belong to no call: whoever reads what they give does that work
(`adapters`). Of `x -> QuantizeLinear -> DequantizeLinear -> MatMul`, `x` enters the module of the `MatMul`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cached_property

from optimum_htp.hierarchy import NodeTag
from optimum_htp.models import FlatGraph
from optimum_htp.onnxfile import Node, reads
from optimum_htp.verbs.compare.reference import ReferenceCall

_QUANTIZERS = frozenset(("QuantizeLinear", "DynamicQuantizeLinear"))
_UNCERTAIN = frozenset(("fused", "inserted", "unresolved"))
MOVES = frozenset(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split", "Concat"))
VIEWS = frozenset(("Shape", "Size"))  # of a tensor, which do not use its values


class CallGraph:
    """The calls around each node.

    `call_of` gives the call that a node belongs to by its tag, None if unknown; `same_node` the one that it belongs to in the
    reference, if that has the very node.
    """

    def __init__(
        self,
        flat: FlatGraph,
        calls: Sequence[ReferenceCall],
        call_of: Callable[[NodeTag], int | None],
        *,
        same_node: Callable[[Node], int | None] = lambda _: None,
    ) -> None:
        self.flat = flat
        self.calls = calls
        self._call_of = call_of
        self._depth: int | None = None
        self.adapters = self._find_adapters()
        # Nodes that the reference's graph has too, whatever was made of the nodes around them.
        self.unchanged = {
            index: number
            for index, node in enumerate(flat.nodes)
            if node.tag is not None and node.tag.source in _UNCERTAIN and index not in self.adapters
            if (number := same_node(node.node)) is not None
        }
        # For each node the call that it belongs to; None for adapters, and where that is unknown.
        self.owner: list[int | None] = []
        for index, node in enumerate(flat.nodes):
            owner = self.unchanged.get(index)
            known = node.tag is not None and node.tag.source != "unresolved" and index not in self.adapters
            if owner is None and known and node.tag is not None:
                owner = call_of(node.tag)
            self.owner.append(owner)

    @cached_property
    def nodes(self) -> dict[int, set[int]]:
        """For each call that has nodes, their indices, those of the calls in it included."""
        nodes: dict[int, set[int]] = {}
        for index, owner in enumerate(self.owner):
            for number in self.around(owner):
                nodes.setdefault(number, set()).add(index)
        return nodes

    def at_depth(self, depth: int) -> CallGraph:
        """The same graph, with the calls deeper in the tree (the root is at depth 0) as one with those that they were made from."""
        graph = copy(self)
        graph._depth = depth
        graph.owner = [graph._cut_off(owner) for owner in self.owner]
        for name in ("nodes", "children", "fused", "working", "hidden"):  # what rests on the owners
            graph.__dict__.pop(name, None)
        return graph

    def has_call(self, number: int) -> bool:
        """Whether a call is not too deep to be one here."""
        return self._depth is None or self.depth(number) <= self._depth

    def around(self, number: int | None) -> Iterator[int]:
        """A call and those that contain it, the innermost first."""
        while number is not None:
            yield number
            number = self.calls[number].parent

    def depth(self, number: int) -> int:
        """How many calls are around one."""
        return sum(1 for _ in self.around(number)) - 1

    def is_inside(self, inner: int | None, outer: int | None) -> bool:
        """Whether one call is another or was made in it; all are inside None, the graph."""
        return outer is None or outer in self.around(inner)

    def step_towards(self, outer: int | None, inner: int) -> int:
        """The call made directly in `outer` that `inner` is or is inside of."""
        return next(number for number in self.around(inner) if self.calls[number].parent == outer)

    @cached_property
    def children(self) -> dict[int | None, list[int]]:
        """The calls with nodes made directly in each call; the roots of None."""
        children: dict[int | None, list[int]] = {}
        for number in sorted(self.nodes):
            children.setdefault(self.calls[number].parent, []).append(number)
        return children

    @cached_property
    def fused(self) -> dict[int, list[int]]:
        """For each call the nodes outside it that an optimizer made of it and others."""
        by_tag: dict[str, list[int]] = {}
        for call in self.calls:
            by_tag.setdefault(call.tag, []).append(call.number)
        fused: dict[int, list[int]] = {}
        for index, node in enumerate(self.flat.nodes):
            if node.tag is None or len(node.tag.origins) < 2 or index in self.unchanged:
                continue
            for origin in node.tag.origins:
                # The calls of the origin that were made in the call of the module which contains all origins.
                for number in by_tag.get(origin, ()):
                    if not self.is_inside(self.owner[index], number) and self.is_inside(number, self.owner[index]):
                        fused.setdefault(number, []).append(index)
        return fused

    def is_fused(self, index: int) -> bool:
        """Whether a tool made a node of others: whose they were, it need not be alone."""
        tag = self.flat.nodes[index].tag
        return tag is not None and tag.source == "fused" and index not in self.unchanged

    @cached_property
    def alive(self) -> frozenset[int]:
        """The nodes that lead from inputs to outputs."""
        return self.flat.varying.intersection(self.flat.slice_to(self.flat.outputs)[0])

    @cached_property
    def working(self) -> frozenset[int]:
        """The calls of which nodes are alive, or nodes that were made from them and others."""
        own = {number for index in self.alive for number in self.around(self.owner[index])}
        return frozenset(own | {number for number, nodes in self.fused.items() if not self.alive.isdisjoint(nodes)})

    @property
    def has_fusions(self) -> bool:
        """Whether an optimizer made nodes of several modules."""
        return bool(self.fused)

    @cached_property
    def hidden(self) -> list[int]:
        """The calls whose nodes are all in the bodies of control-flow nodes."""
        calls = {number for tag in self.flat.hidden for number in self.around(self._call_of(tag))}
        return sorted(calls - self.nodes.keys())

    def leaving(self, number: int) -> list[str]:
        """The tensors that a call produces and that are used outside, the last first; those only looked at come later."""
        names = [name for index in sorted(self.nodes[number], reverse=True) for name in self._outputs(index)]
        used = [name for name in names if self.is_used(number, name)]
        return used + [name for name in names if name not in used and self._consumers_outside(number, name)]

    def inside(self, number: int) -> list[str]:
        """All tensors that a call produces, the last first."""
        return [name for index in sorted(self.nodes[number], reverse=True) for name in self._outputs(index)]

    def is_used(self, number: int, name: str) -> bool:
        """Whether a node outside a call, or an output of the graph, uses the values of a tensor, not just its shape."""
        return name in self._results or any(
            self.flat.nodes[index].node.op_type not in VIEWS for index in self._consumers_outside(number, name)
        )

    def entering(self, number: int) -> list[str]:
        """The tensors that a call takes from outside and that depend on the model's inputs, in the order of their use."""
        nodes = self.nodes[number]
        names = dict.fromkeys(
            self.source(name) for index in sorted(nodes) for name in reads(self.flat.nodes[index].node)
        )
        return [name for name in names if self.varies(name) and self.flat.producer.get(name) not in nodes]

    def readers(self, number: int, name: str) -> list[int]:
        """The nodes of a call that read a tensor, through adapters too."""
        return [index for index in self._consumers(name) if index in self.nodes[number]]

    def is_read(self, name: str) -> bool:
        """Whether anything reads a tensor, or it is an output of the graph."""
        return name in self._results or next(self._consumers(name), None) is not None

    def varies(self, name: str) -> bool:
        """Whether a tensor depends on the model's inputs, or is one."""
        index = self.flat.producer.get(name)
        return index in self.flat.varying if index is not None else name in self.flat.inputs

    def source(self, name: str) -> str:
        """The tensor that adapters made another from; itself if no adapter did."""
        index = self.flat.producer.get(name)
        return name if index not in self.adapters else self.source(self.flat.nodes[index].node.inputs[0])

    def _find_adapters(self) -> frozenset[int]:
        adapters: set[int] = set()
        for index in sorted(self.flat.varying):
            node = self.flat.nodes[index].node
            undoes = node.op_type == "DequantizeLinear" and self.flat.producer.get(node.inputs[0]) in adapters
            if undoes or node.op_type in _QUANTIZERS:
                adapters.add(index)
        return frozenset(adapters)

    def _outputs(self, index: int) -> list[str]:
        return [name for name in self.flat.nodes[index].node.outputs if name]

    def _consumers(self, name: str) -> Iterator[int]:
        """The nodes that read a tensor, through adapters too."""
        for index in self.flat.consumers.get(name, ()):
            if index in self.adapters:
                for output in self._outputs(index):
                    yield from self._consumers(output)
            else:
                yield index

    def _consumers_outside(self, number: int, name: str) -> list[int]:
        return [index for index in self._consumers(name) if index not in self.nodes[number]]

    @cached_property
    def _results(self) -> frozenset[str]:
        return frozenset((*self.flat.outputs, *map(self.source, self.flat.outputs)))

    def _cut_off(self, number: int | None) -> int | None:
        while self._depth is not None and number is not None and self.depth(number) > self._depth:
            number = self.calls[number].parent
        return number
