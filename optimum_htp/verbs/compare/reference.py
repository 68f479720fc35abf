"""What a graph is compared with: the calls of modules, and the tensors that each of them returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from optimum_htp.hierarchy import NodeTag
from optimum_htp.models import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceCall:
    """One call of a module."""

    number: int  # its place in the order in which the calls ended
    tag: str
    path: str  # the module's dotted path
    class_name: str
    call: int  # the 0-based index of the call
    repeated: bool = False  # the module ran more than once
    parent: int | None = None  # the number of the call that it was made from; None for the root's
    bytes: int = 0  # the size of its outputs, roughly
    # For each output the call inside that returned the same tensor first, and which of its outputs that is, or None.
    passed_on: tuple[tuple[int, int] | None, ...] = ()  # empty if unknown
    fused: bool = False  # an optimizer fused a part of it with other modules: no tensor has what it returned
    several: bool = False  # it returned more than one tensor, of any type


class Reference(Protocol):
    """What a graph is compared with."""

    name: str  # what it is, for messages
    calls: Sequence[ReferenceCall]  # in the order in which they ended
    inputs: Mapping[str, Array]  # of the ONNX file
    outputs: Mapping[str, Array]  # the model's, by their names in the ONNX file

    def call_of(self, tag: NodeTag) -> int | None:
        """The number of the call that a node belongs to; None if unknown."""

    def returned(self, wanted: Sequence[int]) -> dict[int, tuple[Array, ...]]:
        """What some calls returned."""

    def named(self, names: Sequence[str]) -> dict[str, Array]:
        """The tensors with some names, as far as there are any; none if the reference is not a graph."""

    def received(self, number: int) -> tuple[Array, ...]:
        """The tensors that a call was given."""
