"""What a graph is compared with: the calls of modules, and the tensors that each of them was given and returned."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from optimum_htp.hierarchy import NodeTag
from optimum_htp.models import Array
from optimum_htp.onnxfile import Node


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
    bytes: int = 0  # the size of what it was given and returned, roughly
    nodes: int | None = None  # how many nodes of the reference's graph are its own; None if the reference has no graph


@dataclass(frozen=True, slots=True)
class PortValue:
    """A tensor that a call was given or that it returned, and its name in the reference's graph if there is one.

    It is not the `whole` of what the call returned where the graph that is compared lacks that: then it is what comes before.
    """

    array: Array
    name: str | None = None
    whole: bool = True

    def is_same(self, other: PortValue) -> bool:
        """Whether both are one tensor of the reference."""
        return self is other or (self.name is not None and self.name == other.name)


@dataclass(frozen=True, slots=True)
class CallValues:
    """What a call was given, and what it returned."""

    received: tuple[PortValue, ...] = ()
    returned: tuple[PortValue, ...] = ()


class Reference(Protocol):
    """What a graph is compared with, on one sample."""

    @property
    def name(self) -> str:
        """What it is, for messages."""

    @property
    def precision(self) -> str:
        """What it computes with, as `computes_in` says it."""

    @property
    def calls(self) -> Sequence[ReferenceCall]:
        """The calls, in the order in which they ended."""

    @property
    def inputs(self) -> Mapping[str, Array]:
        """The inputs of the ONNX file."""

    @property
    def outputs(self) -> Mapping[str, Array]:
        """The model's, by their names in the ONNX file."""

    @property
    def named_calls(self) -> Sequence[int]:
        """The calls of which some tensors have names."""

    def call_of(self, tag: NodeTag) -> int | None:
        """The number of the call that a node belongs to, or of the innermost around it that is known."""

    def same_node(self, node: Node) -> int | None:
        """The call of a node of the reference's graph with this operator and these outputs; None if there is none."""

    def owner_of(self, name: str) -> int | None:
        """The call that made the tensor with a name in the reference's graph; None if unknown."""

    def sources_of(self, name: str, known: Container[str]) -> tuple[dict[str, set[int]], set[int]] | None:
        """The nearest tensors before one with known names, each with the calls on the way from it, and all calls in between.

        None if it is not there.
        """

    def weights_of(self, number: int, *, after: str = "") -> list[Array]:
        """The weights that a call's own nodes use, those after a tensor; none if unknown."""

    def values(self, wanted: Sequence[int]) -> dict[int, CallValues]:
        """What some calls were given and returned."""

    def tensors(self, names: Iterable[str]) -> dict[str, Array]:
        """The values of tensors and inputs of the reference's graph by their names; none of those that it has not."""
