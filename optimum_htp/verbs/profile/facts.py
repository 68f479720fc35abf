"""From what ONNX Runtime's profiler says of the kernels of a run to the work of each.

What it says of each kernel ("args" of an event), of ONNX Runtime 1.32; sizes are texts:

- `mem_bytes_in_use`, `mem_in_use_delta`: what the arena of the kernel's provider holds when the kernel ends, and how much
  more that is than when it began. Inputs are given back between kernels. Weights are outside the arena, but for what
  kernels laid out anew before the first run ("prepacked").
- `mem_in_use_peak`: the most that the arena ever held. It only rises.
- `activation_size`, `output_size`: the size of all inputs that are no constants, and of all outputs.
- `parameter_size`: the size of the constants among its inputs, without those that it laid out anew, which are most weights.
  The graph knows all of them.
- `input_type_shape`, `output_type_shape`: types and shapes of these, in their order, without those that were left out.
- `provider`: the execution provider.

1.24 says nothing of the arena.
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import prod
from typing import Any, TypedDict

from optimum_htp.hierarchy import NodeKey
from optimum_htp.models import DEFAULT_PROVIDER
from optimum_htp.onnxfile import Initializer, Node, OnnxModel, element_type
from optimum_htp.verbs.profile.blocked import BlockedConvolutions
from optimum_htp.verbs.profile.flops import Attributes, Shape, Tensors, UnknownShapeError, flops, is_counted
from optimum_htp.verbs.profile.joiner import Event
from optimum_htp.verbs.profile.work import COPIES, Work

_ARENA = {"mem_bytes_in_use", "mem_in_use_delta", "mem_in_use_peak"}
_TABLES = {
    "Gather": (0,),
    "GatherBlockQuantized": (0, 2, 3),
    "EmbedLayerNormalization": (2, 3, 4),
    "QEmbedLayerNormalization": (2, 3, 4),
}
"""Operators that read some rows of tables, and which inputs those are."""


class _Operations(TypedDict, total=False):
    """What of the work are operations."""

    flops: int
    uncounted: dict[str, int]
    unknown: dict[str, int]


class Facts:
    """Tells the work of kernels: those of nodes of one graph, as the joiner knows them, which was made of `source`."""

    def __init__(self, model: OnnxModel, attributes: Mapping[NodeKey, Attributes], source: OnnxModel) -> None:
        self._attributes = attributes
        self._blocked = BlockedConvolutions(source)
        self._nodes = dict(model.nodes())
        self._constants: dict[str, ChainMap[str, Initializer]] = {}
        for path, graph in model.graphs():  # a graph comes before its bodies
            given = {value.name for value in graph.inputs}
            own = {each.name: each for each in graph.initializers if each.name not in given}
            around = self._constants.get(path.rpartition("/")[0]) if path else None
            self._constants[path] = ChainMap(own, *around.maps) if around is not None else ChainMap(own)

    def work(self, events: Sequence[tuple[Event, NodeKey | None]], *, provider: str) -> Iterator[Work]:
        """The work of each kernel of a run, in the order in which they ran; `provider` is whose memory counts."""
        memory = _memory([event for event, _ in events], provider)
        for (event, key), (peak, allocated, net) in zip(events, memory, strict=True):
            parameters, operations = (None, _unjoined(event)) if key is None else self._of_node(event, key)
            written = _number(event.facts, "output_size")
            is_copy = event.op_type in COPIES
            yield Work(
                peak_bytes=peak,
                allocated_bytes=allocated,
                net_bytes=net,
                parameter_bytes=parameters,
                read_bytes=_number(event.facts, "activation_size"),
                written_bytes=written,
                providers={event.provider: 1} if event.provider else {},
                copies=int(is_copy),
                copied_bytes=written if is_copy else None,
                **operations,
            )

    def _of_node(self, event: Event, key: NodeKey) -> tuple[int | None, _Operations]:
        """The size of the constants that a node's kernel reads, and its operations."""
        node, constants = self._nodes[key], self._constants[key[0]]
        outputs = _outputs(node, event.facts)
        operations: _Operations = {"uncounted": {node.op_type: 1}}
        if is_counted(node.domain, node.op_type) and not self._blocked.is_scaling(node):
            try:
                inputs, counted = self._shapes(node, constants, event.facts, outputs)
                count = flops(node.op_type, inputs, counted, self._attributes.get(key, {}))
                operations = operations if count is None else {"flops": count}
            except UnknownShapeError:
                operations = {"unknown": {node.op_type: 1}}
        return _parameters(node, constants, outputs), operations

    def _shapes(
        self,
        node: Node,
        constants: Mapping[str, Initializer],
        facts: Mapping[str, Any],
        outputs: tuple[Shape | None, ...],
    ) -> tuple[Tensors, Tensors]:
        """The shapes that count, without channels that only fill up a block. Raises UnknownShapeError."""
        inputs = _inputs(node, constants, facts)
        if not self._blocked.is_blocked(node):
            return Tensors(inputs), Tensors(outputs)
        weight = self._blocked.weight(node, Tensors(inputs)[1])
        if weight is None:
            raise UnknownShapeError
        batch, _, *sizes = Tensors(outputs)[0]
        return Tensors((inputs[0], weight)), Tensors(((batch, weight[0], *sizes),))


def _unjoined(event: Event) -> _Operations:
    """The operations of a kernel that is no node of the graph: what a provider compiled may take any number of them."""
    compiled = event.provider not in ("", DEFAULT_PROVIDER) and event.op_type not in COPIES
    if compiled or is_counted("", event.op_type):
        return {"unknown": {event.op_type: 1}}
    return {"uncounted": {event.op_type: 1}}


def reasons(events: Sequence[Event], works: Sequence[Work], provider: str) -> dict[str, str]:
    """Why figures of a run are not there, or not of all kernels, by what they are of."""
    found: dict[str, str] = {}
    others = {event.provider for event in events if event.provider and event.provider != provider}
    without = sum(work.peak_bytes is None for work in works)
    if without == len(works):
        found["memory"] = "ONNX Runtime says nothing of it here"
    elif without:
        found["memory"] = f"without that of {_kernels(without)} on {' and '.join(sorted(others))}, which have another"
    if any(work.read_bytes is None or work.written_bytes is None for work in works):
        found["activations"] = "ONNX Runtime says nothing of their size here"
    strange = sum(work.parameter_bytes is None for work in works)
    if strange:
        found["parameters"] = (
            f"not known, nor of the modules around: those of {_kernels(strange)} that are no nodes of the graph"
        )
    operators = Counter(name for work in works for name in work.unknown)
    if operators:
        named = ", ".join(f"{name} ({_kernels(count)})" for name, count in operators.most_common(3))
        found["flops"] = f"not known, nor of the modules around: those of {named}"
    if not all(event.provider for event in events):
        found["providers"] = "ONNX Runtime does not say which ran a kernel here"
    return found


def _kernels(count: int) -> str:
    return "1 kernel" if count == 1 else f"{count:,} kernels"


def held_before(events: Sequence[Event], *, provider: str) -> int | None:
    """What the arena of a provider holds before its first kernel of a run."""
    first = next((event for event in events if event.provider == provider), None)
    in_use, delta = (_number(first.facts, key) if first else None for key in ("mem_bytes_in_use", "mem_in_use_delta"))
    return in_use - delta if in_use is not None and delta is not None else None


def _memory(events: Sequence[Event], provider: str) -> Iterator[tuple[int | None, int | None, int | None]]:
    """Of each kernel the peak, what it took, and how much more is held when the next one begins.

    Kernels of other providers have another memory, and none of this.
    """
    ours = [event for event in events if event.provider == provider and event.facts.keys() >= _ARENA]
    starts = [int(event.facts["mem_bytes_in_use"]) - int(event.facts["mem_in_use_delta"]) for event in ours]
    ends = [*starts[1:], int(ours[-1].facts["mem_bytes_in_use"])] if ours else []
    highest: int | None = None
    known: dict[int, tuple[int, int, int]] = {}
    for event, start, end in zip(ours, starts, ends, strict=True):
        peak = int(event.facts["mem_bytes_in_use"])
        ever = int(event.facts["mem_in_use_peak"])
        if highest is not None and ever > highest:
            peak = max(peak, ever)
        highest = ever
        known[id(event)] = (peak, int(event.facts["mem_in_use_delta"]), end - start)
    for event in events:
        yield known.get(id(event), (None, None, None))


def _inputs(node: Node, constants: Mapping[str, Initializer], facts: Mapping[str, Any]) -> tuple[Shape | None, ...]:
    """The shapes of a node's inputs: of constants as stored, of the others as they were in the run."""
    listed = _shapes(facts.get("input_type_shape"))
    given = [index for index, name in enumerate(node.inputs) if name]
    stored = {index: constants[node.inputs[index]].dims for index in given if node.inputs[index] in constants}
    known = {} if listed is None else _others(given, stored, listed)
    return tuple(stored.get(index, known.get(index)) for index in range(len(node.inputs)))


def _others(given: Sequence[int], stored: Mapping[int, Shape], listed: Sequence[Shape]) -> dict[int, Shape]:
    """The shapes of inputs that are no constants, by their index; nothing where it is not clear which they are.

    Some of the constants are not listed, and nothing says which: whichever goes with the shapes of those that are.
    """
    found = []
    for left_out in combinations(stored, len(given) - len(listed)) if len(given) >= len(listed) else ():
        shapes = dict(zip((index for index in given if index not in left_out), listed, strict=True))
        if all(shapes[index] == dims for index, dims in stored.items() if index in shapes):
            found.append({index: shape for index, shape in shapes.items() if index not in stored})
    return found[0] if found and all(each == found[0] for each in found) else {}


def _outputs(node: Node, facts: Mapping[str, Any]) -> tuple[Shape | None, ...]:
    """The shapes of a node's outputs."""
    listed = _shapes(facts.get("output_type_shape")) or []
    given = [index for index, name in enumerate(node.outputs) if name]
    known = dict(zip(given, listed, strict=True)) if len(given) == len(listed) else {}
    return tuple(known.get(index) for index in range(len(node.outputs)))


def _shapes(listed: Any) -> list[Shape] | None:
    """The shapes of a list such as `[{"float": [1, 8]}, {"int64": []}]`; None for what is no such list."""
    if not isinstance(listed, list):
        return None
    return [tuple(int(size) for size in shape) for each in listed for shape in each.values()]


def _parameters(node: Node, constants: Mapping[str, Initializer], outputs: tuple[Shape | None, ...]) -> int | None:
    """The size of the constants that a node reads; None where that of one is not known."""
    total = 0
    for name in dict.fromkeys(node.inputs):
        if name in constants:
            size = _size(constants[name])
            if size is not None and node.inputs.index(name) in _TABLES.get(node.op_type, ()):
                size = _of_rows(size, node, constants[name].dims, outputs[0])
            if size is None:
                return None
            total += size
    return total


def _of_rows(size: int, node: Node, table: Shape, output: Shape | None) -> int | None:
    """The size of what a node takes of a table, a row that it takes twice counting twice; None if that is not known."""
    if output is None:
        return None
    if node.op_type == "Gather":
        taken, there = prod(output), prod(table)
    elif node.op_type == "GatherBlockQuantized":  # several of the last axis are in one element
        taken, there = prod(output[:-1]), prod(table[:-1])
    else:
        taken, there = prod(output[:-1]), table[0]
    return size * taken // there if there else 0


def _size(constant: Initializer) -> int | None:
    bits = element_type(constant.data_type).bits
    return None if bits is None else (prod(constant.dims) * bits + 7) // 8


def _number(facts: Mapping[str, Any], key: str) -> int | None:
    return int(facts[key]) if key in facts else None
