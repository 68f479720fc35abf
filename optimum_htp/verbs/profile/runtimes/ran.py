"""What a runtime gives: the kernels of each phase of a file, and the nodes that they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from optimum_htp.hierarchy import NodeKey, NodeTags
from optimum_htp.onnxfile import Node
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.profile.compiled import Compiled
from optimum_htp.verbs.profile.joiner import Event
from optimum_htp.verbs.profile.runs import Inputs, Run
from optimum_htp.verbs.profile.work import Work


class Nodes(Protocol):
    """The graph that a runtime made of a file."""

    @property
    def nodes(self) -> Mapping[NodeKey, Node]:
        """Its nodes."""

    def join(self, events: Sequence[Event]) -> list[tuple[Event, NodeKey | None]]:
        """The node of each event of a run that counts."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What ran in one phase of a file.

    Attributes:
        phase: The phase.
        inputs: The shape of each input; empty where that is not known.
        nodes: The graph that ran.
        tags: The tags of its nodes.
        runs: The kernels of each run, or of one whose times are those of several together.
        run_us: How long each of the runs took; empty where that is not known.
        first: The run whose work is known.
        works: The work of each of its kernels that count; empty where nothing is known.
        compiled: Kernels that are no nodes of the graph, and stand for many, by name.
        held_bytes: What was held before the first kernel.
        not_known: Why figures are not there, by what they are of.
    """

    phase: str
    inputs: Mapping[str, tuple[int, ...]]
    nodes: Nodes
    tags: NodeTags
    runs: Sequence[Run]
    run_us: Sequence[float]
    first: Run
    works: Sequence[Work] = ()
    compiled: Mapping[str, Compiled] = field(default_factory=dict)
    held_bytes: int | None = None
    not_known: Mapping[str, str] = field(default_factory=dict)


class Runtime(Protocol):
    """One that measures files.

    Attributes:
        name: What `--runtime` calls it.
        version: Its version; empty where nobody says it.
        device: What it runs on, in its own words.
        threads: Threads within an operator; None where it chooses.
        warmup: Runs before those that count; None where nobody says it.
        average: What of several runs the times are: `median` or `mean`.
        notes: What to know when reading the times.
    """

    name: str
    version: str
    device: str
    threads: int | None
    warmup: int | None
    average: str
    notes: list[str]

    @property
    def runs(self) -> int:
        """Runs that count."""

    def run(self, graph: TaggedGraph, by_phase: Mapping[str, Inputs]) -> Iterator[Ran]:
        """What runs in each phase of a file. Raises HtpError."""
