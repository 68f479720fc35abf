"""Whether two groups of nodes do the same: the same operators and attributes, wired in the same way.

What comes in from outside is not compared, as a function is given it. Nor are the values of constants: those that differ
are given to it too.

Example: of `a = MatMul(x, w0); b = Add(a, b0)` and `d = Add(c, b1); c = MatMul(y, w1)` the nodes are each other's, though
they stand in another order; `Add(b0, a)` is wired in another way.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Any

from optimum_htp.onnxfile import (
    DraftGraph,
    DraftNode,
    named_attribute,
    node_attributes,
)

_MAX_STORED_BYTES = 1 << 16
"""What a body stores beyond this is not read: it is like itself alone."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What a node does and reads.

    Attributes:
        kind: A digest of its operator, its attributes and its bodies, without the value of a constant.
        value: The value of a constant; None of other nodes.
        reads: Its inputs in order, `""` for one that is not given, then what its bodies read of what is around them.
    """

    kind: bytes
    value: Any
    reads: tuple[str, ...]


class Outlines:
    """The outlines of nodes of one file."""

    def __init__(self, data: mmap | bytes) -> None:
        self._data = data
        self._known: dict[DraftNode, Outline] = {}
        self._attributes: dict[bytes, tuple[str, Any, str]] = {}

    def of(self, draft: DraftNode) -> Outline:
        """The outline of a node."""
        known = self._known.get(draft)
        if known is None:
            reads: list[str] = []
            fact, value = self._fact(draft, [], reads)
            known = self._known[draft] = Outline(_digest(fact), value, (*draft.node.inputs, *reads))
        return known

    def forget(self) -> None:
        """Forgets what was asked: nodes of bodies have changed."""
        self._known.clear()

    def _fact(self, draft: DraftNode, around: list[dict[str, int]], reads: list[str]) -> tuple[Any, Any]:
        """All that makes up a node's kind, and its value; what its bodies read from outside is added to `reads`."""
        node = draft.node
        attributes, value = sorted(self._attributes_of(draft), key=lambda each: each[0]), None
        if node.operator == "Constant":
            value = tuple((name, identity) for name, identity, _ in attributes)
            attributes = [(name, None, type_text) for name, _, type_text in attributes]
        bodies = [(element, self._body(body, around, reads)) for element, body in draft.bodies]
        given, wanted = ([bool(name) for name in names] for names in (node.inputs, node.outputs))
        return (node.operator, given, wanted, attributes, bodies), value

    def _body(self, body: DraftGraph, around: list[dict[str, int]], reads: list[str]) -> Any:
        own: dict[str, int] = {}
        scopes = [*around, own]
        for name in (value.name for value in body.graph.inputs):
            own.setdefault(name, len(own))
        for tensor in body.graph.initializers:
            own.setdefault(tensor.name, len(own))
        for name in (name for draft in body.nodes for name in draft.node.outputs):
            own.setdefault(name, len(own))

        def meant(name: str) -> Any:
            for depth in range(len(scopes) - 1, -1, -1):
                if name in scopes[depth]:
                    return depth, scopes[depth][name]
            if name:
                reads.append(name)
            return bool(name)

        nodes = []
        for draft in body.nodes:
            fact, value = self._fact(draft, scopes, reads)
            nodes.append(
                (
                    fact,
                    value,
                    [meant(name) for name in draft.node.inputs],
                    [own.get(name) for name in draft.node.outputs],
                )
            )
        inputs = [value.elem_type for value in body.graph.inputs]
        return (
            inputs,
            [self._stored(body, tensor) for tensor in body.graph.initializers],
            nodes,
            [meant(value.name) for value in body.graph.outputs],
        )

    def _stored(self, body: DraftGraph, tensor: Any) -> Any:
        length = tensor.span[1] - tensor.span[0] if tensor.span is not None else None
        if length is None or length > _MAX_STORED_BYTES:
            return body.path, tensor.name
        return tensor.data_type, tensor.dims, self._data[slice(*tensor.span)]

    def _attributes_of(self, draft: DraftNode) -> Iterator[tuple[str, Any, str]]:
        for span in node_attributes(self._data, draft.span) if draft.span is not None else ():
            encoded = self._data[slice(*span)] if span[1] - span[0] <= _MAX_STORED_BYTES else b""
            known = self._attributes.get(encoded)
            if known is None:
                name, content = named_attribute(self._data, span, _place)
                known = (name, None, "") if content is None else (name, content.identity, content.type)
                if encoded:
                    self._attributes[encoded] = known
            yield known


def _place(location: str, offset: int, length: int | None) -> Iterator[bytes]:
    """What is in another file is not read: it is the same at the same place."""
    yield f"{location}\0{offset}\0{length}".encode("utf-8", "surrogateescape")


def _digest(fact: Any) -> bytes:
    return hashlib.blake2b(repr(fact).encode("utf-8", "surrogateescape"), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Counterparts:
    """What is what in another group of nodes: the nodes in the order of ours, and what comes in from outside by our names."""

    nodes: tuple[DraftNode, ...]
    outer: Mapping[str, str]


class Wiring:
    """Some nodes of a graph, producers before consumers, and how they are wired to each other."""

    def __init__(self, nodes: Sequence[DraftNode], outlines: Outlines) -> None:
        self.nodes = tuple(nodes)
        self.outlines = [outlines.of(draft) for draft in nodes]
        self.makers = {
            name: (index, place)
            for index, draft in enumerate(nodes)
            for place, name in enumerate(draft.node.outputs)
            if name
        }
        self.marks = self._marks()
        self.mark = _digest(sorted(self.marks))
        """Equal for those that are alike."""

    def _marks(self) -> list[bytes]:
        """A digest of each node with all that comes before and behind it."""
        before: list[bytes] = []
        users: list[list[tuple[int, int, int]]] = [[] for _ in self.nodes]
        for index, outline in enumerate(self.outlines):
            sources = []
            for slot, name in enumerate(outline.reads):
                maker = self.makers.get(name) if name else None
                sources.append(None if maker is None else (before[maker[0]], maker[1]))
                if maker is not None:
                    users[maker[0]].append((maker[1], slot, index))
            before.append(_digest((outline.kind, sources)))
        marks = list(before)
        for index in reversed(range(len(self.nodes))):
            behind = sorted((place, slot, marks[user]) for place, slot, user in users[index])
            marks[index] = _digest((before[index], behind))
        return marks

    @property
    def outer(self) -> dict[str, tuple[int, int]]:
        """What comes in from outside, with the first node that reads it and the place of the input there."""
        found: dict[str, tuple[int, int]] = {}
        for index, outline in enumerate(self.outlines):
            for place, name in enumerate(outline.reads):
                if name and name not in self.makers:
                    found.setdefault(name, (index, place))
        return found

    def counterparts(self, other: Wiring) -> Counterparts | None:
        """What of another is what here; None if they are not alike, or are given two things for one of what is given here."""
        places: dict[bytes, list[int]] = {}
        for index, mark in enumerate(other.marks):
            places.setdefault(mark, []).append(index)
        found: list[int] = []
        for mark in self.marks:
            if not places.get(mark):
                return None
            found.append(places[mark].pop(0))
        if len(found) != len(other.nodes):
            return None
        outer: dict[str, str] = {}
        for index, counterpart in enumerate(found):
            for name, theirs in zip(self.outlines[index].reads, other.outlines[counterpart].reads, strict=True):
                maker, their_maker = self.makers.get(name), other.makers.get(theirs)
                if maker is not None:
                    if their_maker != (found[maker[0]], maker[1]):
                        return None
                elif their_maker is not None or outer.setdefault(name, theirs) != theirs:
                    return None
        return Counterparts(tuple(other.nodes[index] for index in found), outer)

    def difference(self, other: Wiring, ours_are: str = "others") -> str:
        """How another differs, in words; `ours_are` says whose nodes these are."""
        ours, theirs = (Counter(draft.node.operator for draft in each.nodes) for each in (self, other))
        parts = []
        for sign, more in (("more", theirs - ours), ("fewer", ours - theirs)):
            if more:
                names = [name if count == 1 else f"{count} {name}" for name, count in sorted(more.items())]
                listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more kinds" if len(names) > 4 else "")
                parts.append(f"{sum(more.values())} {sign} ({listed})")
        if parts:
            have = "have" if ours_are == "others" else "has"
            return f"has {len(other.nodes)} nodes where {ours_are} {have} {len(self.nodes)}: {' and '.join(parts)}"
        unlike = [
            draft
            for draft, outline in zip(other.nodes, other.outlines, strict=True)
            if outline.kind not in {each.kind for each in self.outlines}
        ]
        if unlike:
            return f"has other attributes, first of {unlike[0].node.name or unlike[0].node.op_type!r}"
        return "has the same nodes, wired in another way"
