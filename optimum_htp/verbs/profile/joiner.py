"""Which node of the graph that ONNX Runtime made each event of its profiler is about.

An event has the name of its node, or where that has none its operator and a number of ONNX Runtime's, which is not its
index. A name may occur in several graphs of a model. What ran inside a control-flow node is known by the time, and which
of its branches that was by what ran in it:

    events, as they ended        nested               joined
    a   Add  from 0 to 2         a                    a: node 0 of the main graph
    a   Add  from 3 to 4         if                   a: node 0 of 1.else_branch
    c   Sub  from 4 to 5           a                  c: node 1 of 1.else_branch (then_branch has no c)
    if  If   from 3 to 6           c
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import Graph, OnnxModel, body_path

CONTROL_FLOW = frozenset(("If", "Loop", "Scan"))
"""Operators with bodies that ONNX Runtime has kernels for; it makes a `Loop` of a `SequenceMap`."""


@dataclass(slots=True)
class Event:
    """One kernel that ran; times are microseconds from when the profiler began.

    `facts` is what the profiler says besides, of the first run on the same inputs.
    """

    name: str
    op_type: str
    index: int
    start_us: float
    time_us: float
    provider: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    inside: list[Event] = field(default_factory=list)


def nest(events: Sequence[Event]) -> list[Event]:
    """Puts what ran inside a control-flow node into that node's event; events are in the order in which they ended."""
    done: list[Event] = []
    for event in events:
        if event.op_type in CONTROL_FLOW:
            split = len(done)
            while split and done[split - 1].start_us >= event.start_us:
                split -= 1
            event.inside = done[split:]
            del done[split:]
        done.append(event)
    return done


class Joiner:
    """Finds the nodes of one optimized graph, as ONNX Runtime wrote it.

    Attributes:
        nodes: Those of all its graphs.
    """

    def __init__(self, model: OnnxModel) -> None:
        self.nodes = dict(model.nodes())
        self._indexes = {path: _GraphIndex(graph) for path, graph in model.graphs()}
        self._bodies: dict[NodeKey, list[str]] = {
            (path, index): [body_path(path, index, name) for name, _ in node.bodies]
            for (path, index), node in self.nodes.items()
            if node.bodies
        }

    def join(self, events: Sequence[Event]) -> list[tuple[Event, NodeKey | None]]:
        """The node of each event of a run, in the order in which they ended, without control flow, whose time contains its bodies'."""
        return list(self._join(nest(events), ""))

    def _join(self, events: Sequence[Event], path: str) -> Iterator[tuple[Event, NodeKey | None]]:
        for event, index in zip(events, self._indexes[path].find(events), strict=True):
            key = (path, index) if index is not None else self._anywhere(event)
            if event.op_type not in CONTROL_FLOW:
                yield event, key
            elif event.inside:
                yield from self._join(event.inside, self._body(event, key))

    def _body(self, event: Event, key: NodeKey | None) -> str:
        """The body of a control-flow node that knows most of what ran in it."""
        bodies = self._bodies.get(key, []) if key is not None else []
        candidates = bodies or list(self._indexes)
        return max(candidates, key=lambda path: self._indexes[path].known(event.inside))

    def _anywhere(self, event: Event) -> NodeKey | None:
        """The one node of all graphs that has an event's name and operator."""
        keys = [
            (path, index)
            for path, nodes in self._indexes.items()
            for index in nodes.named.get((event.name, event.op_type), ())
        ]
        return keys[0] if len(keys) == 1 else None


class _GraphIndex:
    """The nodes of one graph by name and operator; those without a name, by operator in the order in which they run."""

    def __init__(self, graph: Graph) -> None:
        self.named: dict[tuple[str, str], list[int]] = {}
        self._unnamed: dict[str, list[int]] = {}
        for index, node in enumerate(graph.nodes):
            if node.name:
                self.named.setdefault((node.name, node.op_type), []).append(index)
            else:
                self._unnamed.setdefault(node.op_type, []).append(index)

    def known(self, events: Sequence[Event]) -> int:
        """How many of some events may be of this graph."""
        return sum((event.name, event.op_type) in self.named or self._is_unnamed(event) for event in events)

    def find(self, events: Sequence[Event]) -> Iterator[int | None]:
        """The indexes of the nodes of some events, which may run repeatedly, as the body of a loop does."""
        turns: Counter[tuple[str, str]] = Counter()
        orders: dict[str, dict[int, int]] = {}  # by operator: which of those without a name a number stands for
        for event in events:
            key = (event.name, event.op_type)
            if key in self.named:
                yield self.named[key][turns[key] % len(self.named[key])]
                turns[key] += 1
            elif self._is_unnamed(event):
                order = orders.setdefault(event.op_type, {})
                turn = order.setdefault(event.index, len(order))
                unnamed = self._unnamed[event.op_type]
                yield unnamed[turn] if turn < len(unnamed) else None
            else:
                yield None

    def _is_unnamed(self, event: Event) -> bool:
        is_numbered = event.name == f"{event.op_type}_{event.index}" and event.op_type in self._unnamed
        return is_numbered and (event.name, event.op_type) not in self.named
