"""Which tensors of a graph are the outputs of a module call.

The output of a module is the last floating-point tensor that is made in the call, by it or the calls in it, and used
outside; of a tuple, the tensors in order; where nobody outside uses it, the last one inside. Where shapes leave several,
the values decide: a tensor that agrees with the reference is what the module returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from optimum_htp.hierarchy import NodeTag
from optimum_htp.onnxfile import reads
from optimum_htp.verbs.compare.flat_graph import FlatGraph
from optimum_htp.verbs.compare.reference import ReferenceCall


MAX_CANDIDATES = 12
"""How many tensors of a call are looked at for one output."""

_SCALES = "DynamicQuantizeLinear"  # what it makes in floating point is no tensor of the model
_VIEWS = frozenset(("Shape", "Size"))


@dataclass(slots=True)
class CallNodes:
    """The nodes of a module call, those of the calls in it included.

    Attributes:
        nodes: Their numbers in the graph.
        foreign: The modules, outside the call, that nodes outside it do the work of together with one inside.
    """

    nodes: set[int] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)


class Boundaries:
    """The tensors around module calls.

    Args:
        flat: The graph.
        calls: The calls.
        call_of: The call that a node belongs to by its tag.
        may_be_float: Whether a tensor may be of a floating-point type.
    """

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
        self.owner: list[int | None] = [
            call_of(node.tag) if node.tag is not None and node.tag.source != "unresolved" else None
            for node in flat.nodes
        ]
        self.found: dict[int, CallNodes] = {}
        for at, owner in enumerate(self.owner):
            for number in self.around(owner):
                self.found.setdefault(number, CallNodes()).nodes.add(at)
        self._mark_fused(call_of)
        hidden = {number for tag in flat.hidden for number in self.around(call_of(tag))}
        self.hidden = sorted(hidden - self.found.keys())
        """The calls whose nodes are all in the bodies of control-flow nodes."""

    def with_nodes(self) -> list[int]:
        """The calls that have nodes, in their order."""
        return sorted(self.found)

    def around(self, number: int | None) -> Iterator[int]:
        """A call and those that contain it, the innermost first."""
        while number is not None:
            yield number
            number = self.calls[number].parent

    def candidates(self, number: int) -> list[str]:
        """The tensors that a call may return, the likeliest first."""
        nodes = self.found[number].nodes
        used: list[str] = []
        looked_at: list[str] = []
        inside: list[str] = []
        for at in sorted(nodes, reverse=True):
            if self._op(at) == _SCALES:
                continue
            for name in self.flat.nodes[at].node.outputs:
                if not name or not self._may_be_float(name):
                    continue
                if self.is_used(number, name):
                    used.append(name)
                else:
                    (looked_at if self._readers_outside(number, name) else inside).append(name)
        return [*used, *looked_at, *inside]

    def is_used(self, number: int, name: str) -> bool:
        """Whether somebody outside a call uses the values of a tensor, not just its shape."""
        return name in self._results or any(
            self._op(reader) not in _VIEWS for reader in self._readers_outside(number, name)
        )

    def entering(self, number: int) -> list[str]:
        """The tensors that a call takes from outside, as far as they depend on the model's inputs."""
        nodes = self.found[number].nodes
        names = dict.fromkeys(name for at in sorted(nodes) for name in reads(self.flat.nodes[at].node))
        return [
            name
            for name in names
            if (at := self.flat.maker.get(name)) is not None and at not in nodes and at in self.flat.varying
        ]

    def fused_with(self, number: int) -> tuple[str, ...]:
        """The modules outside a call that do a part of its work, or it of theirs, in one node."""
        return tuple(sorted(self.found[number].foreign))

    def _readers_outside(self, number: int, name: str) -> list[int]:
        nodes = self.found[number].nodes
        return [reader for reader in self.flat.readers.get(name, ()) if reader not in nodes]

    def _op(self, at: int) -> str:
        return self.flat.nodes[at].node.op_type

    def _mark_fused(self, call_of: Callable[[NodeTag], int | None]) -> None:
        """Tells every call of the modules of a node fused across modules, as far as the node lies outside the call."""
        for at, flat in enumerate(self.flat.nodes):
            tag = flat.tag
            for origin in tag.origins if tag is not None and len(tag.origins) > 1 else ():
                owner = call_of(NodeTag(origin, "fused", tag.call if tag else None))
                owner = owner if owner is not None else call_of(NodeTag(origin, "fused"))
                others = {each for each in (tag.origins if tag else ()) if each != origin}
                for number in self.around(owner):
                    found = self.found.get(number)
                    if found is not None and at not in found.nodes:
                        found.foreign |= others


def fits(shape: tuple[int | str | None, ...] | None, actual: tuple[int, ...]) -> bool:
    """Whether a tensor that this is known of can have a shape."""
    if shape is None:
        return True
    return len(shape) == len(actual) and all(
        size == wanted for size, wanted in zip(shape, actual, strict=True) if isinstance(size, int)
    )


def fits_in_some_order(shape: tuple[int | str | None, ...] | None, actual: tuple[int, ...]) -> bool:
    """Whether a tensor that this is known of can have a shape, but for the order of the axes."""
    if shape is None:
        return True
    left = list(actual)
    for size in shape:
        if isinstance(size, int):
            if size not in left:
                return False
            left.remove(size)
    return len(shape) == len(actual)


def assign(
    candidates: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    known: Callable[[str], tuple[int | str | None, ...] | None],
) -> list[str | None]:
    """A candidate for each output: the likeliest that fits; of several outputs, those that fit in their order."""
    fitting = [[name for name in candidates if fits(known(name), shape)] for shape in shapes]
    if len(shapes) > 1:
        same = [name for name in candidates if any(name in names for names in fitting)]
        if len(same) == len(shapes) and all(
            name in names for name, names in zip(reversed(same), fitting, strict=True)
        ):
            return list(reversed(same))
    taken: set[str] = set()
    chosen: list[str | None] = []
    for names in fitting:
        name = next((name for name in names if name not in taken), None)
        chosen.append(name)
        taken.update([name] if name is not None else [])
    return chosen


def folded_batch_norm(number: int, calls: Sequence[ReferenceCall], found: Mapping[int, CallNodes]) -> int | None:
    """The call of the BatchNorm that was folded into a convolution: the next one, which has no nodes left."""
    following = number + 1
    if following >= len(calls) or following in found:
        return None
    call = calls[following]
    is_norm = "BatchNorm" in call.class_name and call.parent == calls[number].parent
    return following if is_norm else None
