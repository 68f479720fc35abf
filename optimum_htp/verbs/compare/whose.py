"""Whose work a tensor at a port is: that of the nodes that make it, unless two graphs are connected in different ways.

For example, `block` is `norm(x + dense(x))`:

    block.dense: MatMul -> d0         the bias is missing: `d0` is there, and what `dense` returned is not: dense
    block.dense: Add    -> d
    block:       Add(x, d) -> s       it is missing, and `norm` reads `d`: nobody makes what `norm` should be given: block
                                      it adds another tensor than `x`, which is there as well: block, which reads it
    block.norm:  Norm(s) -> y         wrong on the right `s`: norm
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence

from optimum_htp.models import Array, Errors
from optimum_htp.onnxfile import reads
from optimum_htp.verbs.compare.call_graph import VIEWS, CallGraph
from optimum_htp.verbs.compare.cut_graph import Cut, Port
from optimum_htp.verbs.compare.ports import Ports
from optimum_htp.verbs.compare.reference import Reference

_WRONG_DB = 60.0
"""What is closer to the reference, in dB, needs no explanation."""


def whose(ports: Ports, cut: Cut, port: Port, nodes: Collection[int], errors: Errors) -> tuple[list[int], set[int]]:
    """The call whose work a tensor at a port is, and other calls that have a part in it; none if nobody's is known.

    Several if a node that was made of them has other weights than theirs.
    """
    graph = ports.graph
    rewired = _rewired(ports, port)
    if rewired is None and ports.names_are_shared and errors.sqnr_db < _WRONG_DB:
        rewired = _cut_short(ports, cut, port, nodes)
        if rewired is None:
            rewired = _left_out(ports, port, nodes)
    if rewired is not None:
        return [rewired], set()
    level = graph.calls[port.call].parent if port.into else port.call
    numbers = [index for index in nodes if _hands_on(ports, index)] or nodes
    owners = {owner for index in numbers if (owner := graph.owner[index]) is not None}
    if not owners:
        gone = _gone_maker(ports, port, level)
        return _known(level if gone is None else gone), set()
    changed = _changed_weights(ports, nodes) if graph.fused and errors.sqnr_db < _WRONG_DB else []
    if changed:  # of a layer that is gone as a whole the layer
        outermost = (_outermost_gone(ports, number) for number in changed)
        return sorted({own if gone is None else gone for own, gone in zip(changed, outermost, strict=True)}), set()
    foreign = {owner for owner in owners if not graph.is_inside(owner, level)}
    if (port.shared or foreign) and errors.sqnr_db < _WRONG_DB:
        elsewhere = sorted(_made_of_others(ports, port))
        if elsewhere:  # of several it can't be told which one reads another tensor than it should
            return elsewhere[-1:], set(elsewhere[:-1])
    if port.shared and all(graph.is_inside(port.call, owner) for owner in owners):
        return _known(port.call), set()
    own = owners - foreign
    if not own:
        return _known(_common(graph, foreign)), set()
    return _known(_common(graph, own)), foreign


def _known(number: int | None) -> list[int]:
    return [] if number is None else [number]


def _hands_on(ports: Ports, index: int) -> bool:
    """Whether a node makes a tensor that modules may hand on: sizes and the like are nobody's work."""
    return any(name and ports.prober.may_be_port(name) for name in ports.graph.flat.nodes[index].node.outputs)


def _rewired(ports: Ports, port: Port) -> int | None:
    """The call that is to blame where a call is given another tensor than in the reference; None if it is the same.

    If this graph has the reference's tensor, that is who reads the wrong one; if not, or if nobody reads it, who should have
    made it. What the maker of the right tensor makes of it is that one's work, as any other.
    """
    graph, reference = ports.graph, ports.samples[0]
    if not port.into:
        return None
    name = ports.expected_name(port)
    if name is None:
        right = ports.tensors_of(port)
        if not right or port.tensor in right or any(_made_in(graph, port.tensor, number) for number in right.values()):
            return None
        return _readers(graph, port)
    if graph.source(name) == port.tensor or not ports.names_are_shared:
        return None
    if (
        name not in graph.flat.producer
        and reference.owner_of(port.tensor) is None
        and port.tensor in graph.flat.producer
    ):
        return None  # an optimizer makes another tensor here
    maker = reference.owner_of(name)
    if name in graph.flat.producer:
        if maker is not None and _made_in(graph, port.tensor, maker):
            return maker
        if maker is None or graph.is_read(name):
            return _readers(graph, port)
        unused = [number for number in graph.around(maker) if not graph.is_inside(port.call, number)]
        return unused[-1] if unused else _readers(graph, port)
    if maker is None:
        return None
    skipped = [
        number
        for number in graph.around(maker)
        if ports.returns(number, name)
        and not graph.is_inside(port.call, number)
        and not _made_in(graph, port.tensor, number)
    ]
    if skipped:  # what comes before it is read in its place
        return skipped[-1]
    gone = _outermost_gone(ports, maker)
    return maker if gone is None else gone


def _gone_maker(ports: Ports, port: Port, level: int | None) -> int | None:
    """The outermost call in another that made what should be at a port, and does nothing here; None if there is none.

    It is the one around it where one beside it, which ran before, is gone as well: of a layer that is skipped, a decoder still
    has its keys and values in the cache.
    """
    graph = ports.graph
    makers = [number for number in ports.makers_of(port) if graph.is_inside(number, level) and number != level]
    gone = {_outermost_gone(ports, number) for number in makers}
    maker = max((number for number in gone if number is not None and number != level), default=None)
    if maker is None:
        return None
    around = graph.calls[maker].parent
    beside = [call.number for call in graph.calls if call.parent == around and call.number < maker]
    return around if any(not _works(ports, number) and ports.makes_something(number) for number in beside) else maker


def _outermost_gone(ports: Ports, number: int) -> int | None:
    """The outermost call around one, or itself, that does nothing here; None if it does something."""
    for outer in ports.graph.around(number):
        if outer not in ports.works:
            ports.works[outer] = _works(ports, outer)
    gone = [outer for outer in ports.graph.around(number) if not ports.works[outer]]
    return gone[-1] if gone else None


def _works(ports: Ports, number: int) -> bool:
    """Whether a call does something here: by nodes of its own, or by nodes that were made of it and have its weights."""
    graph, reference = ports.graph, ports.samples[0]
    inside = [call.number for call in graph.calls if graph.is_inside(call.number, number)]
    weights = {inner: known for inner in inside if (known := reference.weights_of(inner))}
    if not weights:
        return number in graph.working
    own = {graph.owner[index] for index in graph.alive}
    return any(inner in own or _has_any(ports, graph.fused.get(inner, ()), known) for inner, known in weights.items())


def _left_out(ports: Ports, port: Port, nodes: Collection[int]) -> int | None:
    """What is left out between a tensor and those that it is made of, where the reference has it; None if nothing is.

    Of several calls that are gone it is the one around them: of a layer that is skipped, a decoder still has its keys and
    values in the cache. What has no weights may be in a node that an optimizer made, whatever that one says it came from.
    """
    graph, weights_of = ports.graph, ports.samples[0].weights_of
    known = _sources(ports, port)
    gone = {_outermost_gone(ports, maker) for maker in known[1]} if known is not None else set()
    left_out = [number for number in gone if number is not None]
    if any(graph.is_fused(index) for index in nodes):
        inside = {
            outer: [call.number for call in graph.calls if graph.is_inside(call.number, outer)] for outer in left_out
        }
        left_out = [outer for outer in left_out if any(map(weights_of, inside[outer]))]
    return _common(graph, left_out) if left_out else None


def _made_in(graph: CallGraph, name: str, number: int) -> bool:
    """Whether a call's nodes make a tensor."""
    index = graph.flat.producer.get(name)
    return index is not None and index in graph.nodes.get(number, ())


def _readers(graph: CallGraph, port: Port) -> int | None:
    """The innermost call whose nodes read the tensor at a port."""
    readers = [graph.owner[index] for index in graph.readers(port.call, port.tensor)]
    known = [owner for owner in readers if owner is not None]
    return _common(graph, known) if known else None


def _uses(graph: CallGraph, nodes: Container[int], name: str) -> bool:
    """Whether one of some nodes reads the values of a tensor, not just its shape."""
    readers = (index for index in graph.flat.consumers.get(name, ()) if index in nodes)
    return any(graph.flat.nodes[index].node.op_type not in VIEWS for index in readers)


def _cut_short(ports: Ports, cut: Cut, port: Port, nodes: Collection[int]) -> int | None:
    """The call whose last operations are missing: the nodes read what it has before them, and none came from it.

    An optimizer that moves them, a bias into the next operator, say, makes a node that has their weights; or that came from
    both, if they have none.
    """
    graph = ports.graph
    origins = _origins(graph, nodes)
    makers = {maker.index for maker in cut.makers(cut.seen(port))}  # a module may work on what no input changes
    for source in cut.sources(cut.seen(port)):
        if source.into or ports.is_whole(source) or not _uses(graph, makers, source.tensor):
            continue
        name = ports.expected_name(source) or ""
        maker = ports.samples[0].owner_of(name)
        number = source.call if maker is None else maker
        weights = ports.samples[0].weights_of(number, after=name)
        moved = _has_any(ports, nodes, weights) if weights else graph.calls[number].tag in origins
        if not moved:
            return number
    return None


def _made_of_others(ports: Ports, port: Port) -> set[int]:
    """The calls that should make a tensor of what it is not made of here, as far as both graphs have names for that.

    Those with others in them: a module without makes what it does of what it is given, and which tensor that is, is the work of
    the one around it.
    """
    graph, reference = ports.graph, ports.samples[0]
    theirs = _sources(ports, port)
    if theirs is None:
        return set()
    ours = graph.flat.known_sources(port.tensor, _Named(reference))[0]
    parents = {call.parent for call in graph.calls}
    return {number for source, calls in theirs[0].items() if source not in ours for number in calls} & parents


def _sources(ports: Ports, port: Port) -> tuple[dict[str, set[int]], set[int]] | None:
    """What the reference makes the tensor at a port of: the nearest that this graph has too, before the node that makes it."""
    flat = ports.graph.flat
    index = flat.producer.get(port.tensor)
    made = flat.nodes[index].node.outputs if index is not None else ()
    return ports.samples[0].sources_of(ports.expected_name(port) or "", flat.producer.keys() - set(made))


class _Named:
    """The names that a reference's graph has."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._reference.owner_of(name) is not None


def _changed_weights(ports: Ports, nodes: Iterable[int]) -> list[int]:
    """Of the calls that nodes are of, or were fused from, those whose weights are nowhere, if others' are there.

    Attention, for one, has the weights of query, key and value side by side.
    """
    graph, reference = ports.graph, ports.samples[0]
    nodes = list(nodes)
    origins = _origins(graph, nodes)
    calls = [call.number for call in graph.calls if call.tag in origins]
    theirs = {number: weights for number in calls if (weights := reference.weights_of(number))}
    ours = _weights(ports, nodes)
    changed, replaced = set(), set()
    places: dict[int, dict[int, int]] = {}  # of the matrices that lie side by side in one, by it and by their calls
    for number, weights in theirs.items():
        own = [index for index, owner in enumerate(graph.owner) if owner == number]
        known = [*ours, *_weights(ports, own)]
        found = [_place(weight, known) for weight in weights]
        for weight, place in zip(weights, found, strict=True):
            if place is None:
                changed.add(number)
                if any(found):  # one is gone, or another, beside one that is there
                    replaced.add(number)
                if any(array.shape == weight.shape and array.dtype.kind == "f" for array in known):
                    replaced.add(number)
            elif weight.ndim > 1:
                places.setdefault(place[0], {})[number] = place[1]
    changed |= _replaced_slices(ports, nodes, ours, places)
    for matrix in places.values():
        in_order = zip(sorted(matrix), sorted(matrix, key=matrix.__getitem__), strict=True)
        changed.update(number for pair in in_order if pair[0] != pair[1] for number in pair)  # they have each other's
    # Where none is there, they may be in another form, packed or quantized: but not where others stand in their place.
    return sorted(changed if len(changed) < len(theirs) else replaced)


def _replaced_slices(
    ports: Ports, nodes: Iterable[int], ours: Sequence[Array], places: Mapping[int, Mapping[int, int]]
) -> set[int]:
    """The calls whose matrices belong where one of several that lie side by side is that of none of those known, in `places`.

    They are beside these and work nowhere else: a projection names no origin for what it knows from another place.
    """
    graph, weights_of = ports.graph, ports.samples[0].weights_of
    working = {graph.owner[index] for index in graph.alive}
    owners = {owner for index in nodes if graph.is_fused(index) and (owner := graph.owner[index]) is not None}
    found: set[int] = set()
    for matrix, starts in places.items():
        shapes = [weight.shape for number in starts for weight in weights_of(number) if weight.ndim > 1]
        if matrix >= len(ours) or sum(shape[-1] for shape in shapes) >= ours[matrix].shape[-1]:
            continue
        for call in graph.calls:
            if call.parent in owners and call.number not in starts and call.number not in working:
                replaced = (weight for weight in weights_of(call.number) if weight.shape in shapes)
                found.update(call.number for weight in replaced if _place(weight, ours) is None)
    return found


def _origins(graph: CallGraph, nodes: Iterable[int]) -> set[str]:
    """The modules that an optimizer made nodes of: not those of nodes that are as they were, or that only quantize."""
    tags = (
        graph.flat.nodes[index].tag for index in nodes if index not in graph.adapters and index not in graph.unchanged
    )
    return {origin for tag in tags if tag is not None for origin in (*tag.origins, tag.tag)}


def _has_any(ports: Ports, nodes: Iterable[int], weights: Iterable[Array]) -> bool:
    ours = _weights(ports, nodes)
    return any(_place(weight, ours) is not None for weight in weights)


def _weights(ports: Ports, nodes: Iterable[int]) -> list[Array]:
    """The initializers that some nodes read."""
    names = dict.fromkeys(name for index in nodes for name in reads(ports.graph.flat.nodes[index].node))
    return [array for name in names if (array := ports.prober.constant(name)) is not None]


def _place(weight: Array, arrays: Sequence[Array]) -> tuple[int, int] | None:
    """Which array has another, in its type and with others at its side, and where it begins there; None if none has it."""
    import numpy as np

    for index, array in enumerate(arrays):
        if weight.ndim != array.ndim or weight.shape[:-1] != array.shape[:-1] or array.dtype.kind != "f":
            continue
        width = weight.shape[-1] if weight.ndim else 0
        if not width or array.shape[-1] % width:
            continue
        cast = weight.astype(array.dtype)
        for start in range(0, array.shape[-1], width):
            if np.array_equal(array[..., start : start + width], cast):
                return index, start
    return None


def _common(graph: CallGraph, numbers: Iterable[int]) -> int | None:
    """The innermost call that contains all of some."""
    chains = [list(graph.around(number)) for number in numbers]
    return next((number for number in chains[0] if all(number in chain for chain in chains)), None)
