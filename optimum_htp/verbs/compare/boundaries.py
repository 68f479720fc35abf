"""Which tensors of a graph may be the outputs of a module call, the likeliest first.

The output of a module is the last floating-point tensor that is produced in the call, by it or the calls in it, and used
outside; of a tuple, the tensors in order; if nobody outside uses any, the last one inside. Shapes rule some out
(`assign`), and where they leave several the values decide (`matching`).

For example, of a graph with these nodes (module: operator -> tensor)

    attention.query: MatMul -> a
    attention.query: Add    -> q
    attention:       Shape  -> s
    attention:       Mul    -> y
    norm:            Sub    -> z

the candidates of `attention.query` are `q, a` (`Shape` and `Mul` use `q`, nobody outside uses `a`), and those of
`attention` are `y, q, a`: `norm` uses `y`, and `s` is not of a floating-point type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from optimum_htp.hierarchy import NodeTag
from optimum_htp.onnxfile import reads
from optimum_htp.verbs.compare.flat_graph import FlatGraph
from optimum_htp.verbs.compare.reference import ReferenceCall

MAX_CANDIDATES = 12
"""How many tensors of a call are tried for one output."""

_SCALES = "DynamicQuantizeLinear"  # what it produces in floating point is not a tensor of the model
_VIEWS = frozenset(("Shape", "Size"))

Shape = tuple[int | str | None, ...]


class Boundaries:
    """The tensors around module calls. `call_of` gives the call that a node belongs to by its tag."""

    def __init__(
        self,
        flat: FlatGraph,
        calls: Sequence[ReferenceCall],
        call_of: Callable[[NodeTag], int | None],
        may_be_float: Callable[[str], bool],
    ) -> None:
        self.flat = flat
        self.calls = calls
        self._may_be_float = may_be_float
        self._results = frozenset(flat.outputs)
        # For each node the call that it belongs to.
        self.owner: list[int | None] = [
            call_of(node.tag) if node.tag is not None and node.tag.source != "unresolved" else None
            for node in flat.nodes
        ]
        # For each call that has nodes, their indices, those of the calls in it included.
        self.nodes: dict[int, set[int]] = {}
        for index, owner in enumerate(self.owner):
            for number in self.around(owner):
                self.nodes.setdefault(number, set()).add(index)
        # The calls that share a node that an optimizer fused with modules outside them.
        self.fused = set(self._find_fused(call_of))
        # The calls whose nodes are all in the bodies of control-flow nodes.
        hidden = {number for tag in flat.hidden for number in self.around(call_of(tag))}
        self.hidden = sorted(hidden - self.nodes.keys())

    def around(self, number: int | None) -> Iterator[int]:
        """A call and those that contain it, the innermost first."""
        while number is not None:
            yield number
            number = self.calls[number].parent

    def candidates(self, number: int) -> list[str]:
        """The tensors that a call may return, the likeliest first: used outside, its shape used outside, used inside."""
        names = [
            name
            for index in sorted(self.nodes[number], reverse=True)
            if self._op(index) != _SCALES
            for name in self.flat.nodes[index].node.outputs
            if name and self._may_be_float(name)
        ]
        return sorted(names, key=lambda name: self._rank(number, name))

    def _rank(self, number: int, name: str) -> int:
        if self.is_used(number, name):
            return 0
        return 1 if self._consumers_outside(number, name) else 2

    def is_used(self, number: int, name: str) -> bool:
        """Whether a node outside a call, or an output, uses the values of a tensor, not just its shape."""
        return name in self._results or any(
            self._op(consumer) not in _VIEWS for consumer in self._consumers_outside(number, name)
        )

    def entering(self, number: int) -> list[str]:
        """The tensors that a call takes from outside and that depend on the model's inputs."""
        nodes = self.nodes[number]
        outside = self.flat.varying - nodes
        names = dict.fromkeys(name for index in sorted(nodes) for name in reads(self.flat.nodes[index].node))
        return [name for name in names if self.flat.producer.get(name) in outside]

    def folded_batch_norm(self, number: int) -> int | None:
        """The call of the BatchNorm that was folded into a convolution: the next one, which has no nodes left."""
        following = number + 1
        if following >= len(self.calls) or following in self.nodes:
            return None
        call = self.calls[following]
        is_norm = "BatchNorm" in call.class_name and call.parent == self.calls[number].parent
        return following if is_norm else None

    def _consumers_outside(self, number: int, name: str) -> list[int]:
        return [consumer for consumer in self.flat.consumers.get(name, ()) if consumer not in self.nodes[number]]

    def _op(self, index: int) -> str:
        return self.flat.nodes[index].node.op_type

    def _find_fused(self, call_of: Callable[[NodeTag], int | None]) -> Iterator[int]:
        """The calls of the modules that a node was fused from, if the node lies outside them."""
        calls: dict[str, list[int]] = {}
        for call in self.calls:
            calls.setdefault(call.tag, []).append(call.number)
        for index, node in enumerate(self.flat.nodes):
            if node.tag is None or len(node.tag.origins) < 2:
                continue
            for origin in node.tag.origins:
                # The calls of the origin that were made in the call of the module which contains all origins.
                inside = [number for number in calls.get(origin, ()) if self.owner[index] in {*self.around(number)}]
                owners: list[int | None] = [*inside] or [call_of(NodeTag(origin, "fused"))]
                around = {number for owner in owners for number in self.around(owner)}
                yield from (number for number in around if index not in self.nodes.get(number, {index}))


def fits(shape: Shape | None, actual: tuple[int, ...], *, in_any_order: bool = False) -> bool:
    """Whether a tensor whose shape is known so far can have a shape, or with `in_any_order` its axes permuted.

    >>> fits(("batch", 4), (2, 4)), fits(("batch", 4), (2, 5)), fits(None, (2, 4))
    (True, False, True)
    >>> fits((4, "batch"), (2, 4), in_any_order=True), fits((4, 4), (2, 4), in_any_order=True)
    (True, False)
    """
    if shape is None or len(shape) != len(actual):
        return shape is None
    if in_any_order:
        return Counter(size for size in shape if isinstance(size, int)) <= Counter(actual)
    return all(size == wanted for size, wanted in zip(shape, actual, strict=True) if isinstance(size, int))


def assign(
    candidates: Sequence[str], shapes: Sequence[tuple[int, ...]], known: Callable[[str], Shape | None]
) -> list[str | None]:
    """A candidate for each output: the likeliest that fits; of several outputs, those that fit in their order.

    >>> assign(["last", "first"], [(2,), (2,)], {"last": (2,), "first": (2,)}.get)
    ['first', 'last']
    """
    fitting = [[name for name in candidates if fits(known(name), shape)] for shape in shapes]
    if len(shapes) > 1:
        same = [name for name in candidates if any(name in names for names in fitting)]
        if len(same) == len(shapes) and all(
            name in names for name, names in zip(reversed(same), fitting, strict=True)
        ):
            return list(reversed(same))
    chosen: list[str | None] = []
    for names in fitting:
        chosen.append(next((name for name in names if name not in chosen), None))
    return chosen
