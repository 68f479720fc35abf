"""A model as one flat graph of operations and values: bodies spliced in where they run, names resolved by scope.

Equal names in different graphs are different values; a body reads the values of the graphs around it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import Graph, Node, OnnxModel


MOVEMENT = frozenset(
    "Concat DepthToSpace Expand Flatten Pad Reshape Shape Size Slice SpaceToDepth Split Squeeze Tile Transpose "
    "Unsqueeze".split()
)
"""Operators that move values, and compute none."""

PLAIN = frozenset("Cast CastLike Identity MemcpyFromHost MemcpyToHost".split())
"""Operators to look through: what goes in comes out."""

QUANTIZING = frozenset("DequantizeLinear DynamicQuantizeLinear QuantizeLinear ReorderInput ReorderOutput".split())
"""Operators that a tool puts around others; no exporter of ours writes them."""

GLUE = MOVEMENT | PLAIN | QUANTIZING
"""Operators that tools insert between those that do the work."""

BLOCKED = "com.microsoft.nchwc"
"""The domain of what ONNX Runtime lays out in blocks of channels, as many as the processor's vectors hold."""

_CONSTANT = frozenset(("Constant",))
_SHAPE = frozenset(("Shape", "Size"))


@dataclass(slots=True)
class Operation:
    """A node in the flat graph.

    Attributes:
        key: Where it is in the model.
        node: What stands there.
        scope: The graph that it stands in, as a number of `Flow.scopes`.
        inputs: The values that it reads, those that its bodies return included; -1 for an input that is not given.
        outputs: The values that it makes; -1 for an output that is not wanted.
    """

    key: NodeKey
    node: Node
    scope: int
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Value:
    """A tensor in the flat graph.

    Attributes:
        name: Its name.
        maker: The number of the operation that makes it, None for what is given: inputs and stored tensors.
        readers: The numbers of the operations that read it.
        stored: Whether it is a stored tensor.
        returned: Whether a graph returns it.
    """

    name: str
    maker: int | None = None
    readers: list[int] = field(default_factory=list)
    stored: bool = False
    returned: bool = False


@dataclass(slots=True)
class Scope:
    """A graph of the model and what its names mean.

    Attributes:
        path: The graph's path in its model.
        parent: The number of the scope around it, None for a main graph or a function.
        values: The values that are defined in it, by name.
        holder: The number of the operation whose body it is.
    """

    path: str
    parent: int | None
    values: dict[str, int] = field(default_factory=dict)
    holder: int | None = None


class Flow:
    """Operations, values and scopes of one model or of several.

    Attributes:
        operations: Every node, by number.
        values: Every tensor, by number.
        scopes: Every graph, by number.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.values: list[Value] = []
        self.scopes: list[Scope] = []
        self._order: list[int] | None = None

    @classmethod
    def of(cls, model: OnnxModel) -> Flow:
        """The flow of a whole model."""
        flow = cls()
        flow.add("", model.graph)
        for function in model.functions:
            flow.add(function.path, function.graph)
        return flow

    def add(self, path: str, graph: Graph) -> list[int]:
        """Adds a graph with all that is inside it, and returns the numbers of the new scopes, the graph's own first."""
        self._order = None
        first, first_operation = len(self.scopes), len(self.operations)
        waiting: list[tuple[str, Graph, int | None, int | None]] = [(path, graph, None, None)]
        while waiting:
            inner_path, inner, parent, holder = waiting.pop()
            number = self._add_scope(inner_path, inner, parent, holder)
            start = len(self.operations) - len(inner.nodes)
            for position in reversed(range(len(inner.nodes))):
                for element, body in reversed(inner.nodes[position].bodies):
                    below = f"{inner_path}/{position}.{element}" if inner_path else f"{position}.{element}"
                    waiting.append((below, body, number, start + position))
        self._link(first_operation)
        return list(range(first, len(self.scopes)))

    @property
    def order(self) -> list[int]:
        """The operations, makers before readers, whatever the order in the file."""
        if self._order is None:
            self._order = self._sorted()
        return self._order

    def find(self, scope: int, name: str) -> int | None:
        """The value that a name means in a scope."""
        at: int | None = scope
        while at is not None:
            value = self.scopes[at].values.get(name)
            if value is not None:
                return value
            at = self.scopes[at].parent
        return None

    def makers(self, operation: int) -> list[int]:
        """The operations that make what one reads."""
        found = (self.values[value].maker for value in self.operations[operation].inputs if value >= 0)
        return [maker for maker in found if maker is not None]

    def readers(self, operation: int) -> list[int]:
        """The operations that read what one makes."""
        return [
            reader
            for value in self.operations[operation].outputs
            if value >= 0
            for reader in self.values[value].readers
        ]

    def constants(self) -> list[bool]:
        """For each operation whether its values are known before the model runs, or once the inputs' shapes are."""
        known = [False] * len(self.operations)
        for number in self.order:
            operation = self.operations[number]
            op_type = operation.node.op_type
            if op_type in _SHAPE or op_type in _CONSTANT:
                known[number] = True
                continue
            flags = [self._is_known(value, known) for value in operation.inputs if value >= 0]
            # Looking a row up in a stored table is a module's work, wherever the index comes from.
            lookup = op_type == "Gather" and bool(operation.inputs) and self._is_stored(operation.inputs[0])
            known[number] = bool(flags) and all(flags) and not lookup
        return known

    def _is_stored(self, value: int) -> bool:
        return value >= 0 and self.values[value].stored

    def _is_known(self, value: int, known: list[bool]) -> bool:
        made = self.values[value]
        return made.stored if made.maker is None else known[made.maker]

    def _add_scope(self, path: str, graph: Graph, parent: int | None, holder: int | None) -> int:
        scope = Scope(path, parent, holder=holder)
        number = len(self.scopes)
        self.scopes.append(scope)
        for name in (value.name for value in graph.inputs):
            self._define(scope, name)
        for tensor in graph.initializers:
            self.values[self._define(scope, tensor.name)].stored = True
        for position, node in enumerate(graph.nodes):
            operation = Operation((path, position), node, number)
            for name in node.outputs:
                value = self._define(scope, name) if name else -1
                operation.outputs.append(value)
                if value >= 0:
                    self.values[value].maker = len(self.operations)
            self.operations.append(operation)
        for returned in graph.outputs:
            value = scope.values.get(returned.name, -1)
            if value >= 0:
                self.values[value].returned = True
            elif parent is not None:  # a body may return a value of the graph around it
                outer = self.find(parent, returned.name)
                if outer is not None:
                    scope.values[returned.name] = outer
        if holder is not None:
            inside = (scope.values.get(returned.name) for returned in graph.outputs)
            self.operations[holder].inputs += [value for value in inside if value is not None]
        return number

    def _define(self, scope: Scope, name: str) -> int:
        value = scope.values.get(name)
        if value is None:
            value = scope.values[name] = len(self.values)
            self.values.append(Value(name))
        return value

    def _link(self, first: int) -> None:
        """Connects the operations from `first` on with what they read."""
        for number in range(first, len(self.operations)):
            operation = self.operations[number]
            named = [self.find(operation.scope, name) if name else None for name in operation.node.inputs]
            operation.inputs = [-1 if value is None else value for value in named] + operation.inputs
            for value in dict.fromkeys(operation.inputs):
                if value >= 0:
                    self.values[value].readers.append(number)

    def _sorted(self) -> list[int]:
        missing = [len(set(self.makers(number))) for number in range(len(self.operations))]
        ready = deque(number for number, count in enumerate(missing) if not count)
        order: list[int] = []
        while ready:
            number = ready.popleft()
            order.append(number)
            for reader in dict.fromkeys(self.readers(number)):
                missing[reader] -= 1
                if not missing[reader]:
                    ready.append(reader)
        if len(order) < len(self.operations):  # a cycle: not ONNX, but no reason to hang
            seen = set(order)
            order += [number for number in range(len(self.operations)) if number not in seen]
        return order
