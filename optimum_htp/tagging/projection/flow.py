"""A model as one flat graph of operations and values: bodies spliced in where they run, names resolved by scope.

Equal names in different graphs are different values; a body reads the values of the graphs around it. Operations,
values and scopes are known by their index in the flow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import Graph, Initializer, Node, OnnxModel, body_path

MOVEMENT = frozenset(
    "Concat DepthToSpace Expand Flatten Pad Reshape Shape Size Slice SpaceToDepth Split Squeeze Tile Transpose "
    "Unsqueeze".split()
)
"""Operators that move values, and compute none."""

PLAIN = frozenset("Cast CastLike Identity MemcpyFromHost MemcpyToHost".split())
"""Operators to look through: their output is their input."""

QUANTIZING = frozenset("DequantizeLinear DynamicQuantizeLinear QuantizeLinear ReorderInput ReorderOutput".split())
"""Operators that a tool puts around others; no exporter of ours writes them."""

ADAPTERS = PLAIN | QUANTIZING
"""Operators that pass on what another one computed."""

GLUE = MOVEMENT | ADAPTERS
"""Operators that tools insert between those that do the work."""

BLOCKED = "com.microsoft.nchwc"
"""The domain of what ONNX Runtime lays out in blocks of channels, as many as the processor's vectors hold."""

REACH = 8
"""How many nodes in a row a rule looks through."""

BREADTH = 64
"""How many nodes a rule collects."""


@dataclass(slots=True)
class Operation:
    """A node in the flat graph; its inputs include what its bodies return."""

    key: NodeKey
    node: Node
    scope: int
    inputs: list[int] = field(default_factory=list)  # -1 for one that is not given
    outputs: list[int] = field(default_factory=list)  # -1 for one that is not wanted

    @property
    def consumed(self) -> list[int]:
        """The inputs that are given."""
        return [value for value in self.inputs if value >= 0]

    @property
    def produced(self) -> list[int]:
        """The outputs that are wanted."""
        return [value for value in self.outputs if value >= 0]


@dataclass(slots=True)
class Value:
    """A tensor in the flat graph."""

    name: str
    producer: int | None = None  # None for inputs and initializers
    consumers: list[int] = field(default_factory=list)
    tensor: Initializer | None = None  # None for what is not stored
    is_output: bool = False  # of whatever graph

    @property
    def is_initializer(self) -> bool:
        """Whether it is stored."""
        return self.tensor is not None


@dataclass(slots=True)
class Scope:
    """A graph of the model, and the values that it defines."""

    path: str
    parent: int | None  # the scope around it; None for a main graph or a function
    values: dict[str, int] = field(default_factory=dict)  # by name
    holder: int | None = None  # the operation whose body it is


class Flow:
    """Operations, values and scopes of one model or of several."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.values: list[Value] = []
        self.scopes: list[Scope] = []

    @classmethod
    def of(cls, model: OnnxModel) -> Flow:
        """The flow of a whole model."""
        flow = cls()
        flow.add("", model.graph)
        for function in model.functions:
            flow.add(function.path, function.graph)
        return flow

    def add(self, path: str, graph: Graph) -> range:
        """Adds a graph with all that is inside it, and returns the new scopes, the graph's own first."""
        first, first_operation = len(self.scopes), len(self.operations)
        waiting: list[tuple[str, Graph, int | None, int | None]] = [(path, graph, None, None)]
        while waiting:
            inner_path, inner, parent, holder = waiting.pop()
            scope, start = len(self.scopes), len(self.operations)
            self._add_scope(inner_path, inner, parent, holder)
            waiting += reversed(
                [
                    (body_path(inner_path, index, element), body, scope, start + index)
                    for index, node in enumerate(inner.nodes)
                    for element, body in node.bodies
                ]
            )
        self._connect(first_operation)
        return range(first, len(self.scopes))

    @cached_property
    def order(self) -> list[int]:
        """The operations of the complete flow, producers before consumers, whatever the order in the file."""
        missing = [len(set(self.producers(index))) for index in range(len(self.operations))]
        ready = deque(index for index, count in enumerate(missing) if not count)
        order: list[int] = []
        while ready:
            order.append(ready.popleft())
            for consumer in dict.fromkeys(self.consumers(order[-1])):
                missing[consumer] -= 1
                if not missing[consumer]:
                    ready.append(consumer)
        return order + [index for index, count in enumerate(missing) if count]  # those are a cycle: not ONNX

    @cached_property
    def constant(self) -> list[bool]:
        """For each operation whether its values are known before the model runs, or once the inputs' shapes are."""
        known = [False] * len(self.operations)
        for index in self.order:
            operation = self.operations[index]
            op_type = operation.node.op_type
            if op_type in ("Constant", "Shape", "Size"):
                known[index] = True
                continue
            inputs = [self.values[value] for value in operation.consumed]
            fixed = [value.is_initializer if value.producer is None else known[value.producer] for value in inputs]
            # Looking a row up in a stored table is a module's work, wherever the index comes from.
            table = operation.inputs[0] if op_type == "Gather" and operation.inputs else -1
            known[index] = bool(fixed) and all(fixed) and not (table >= 0 and self.values[table].is_initializer)
        return known

    def find(self, scope: int, name: str) -> int | None:
        """The value that a name means in a scope."""
        around: int | None = scope
        while around is not None:
            value = self.scopes[around].values.get(name)
            if value is not None:
                return value
            around = self.scopes[around].parent
        return None

    def op_type(self, operation: int) -> str:
        """The operator of an operation; empty where only its result is known."""
        return self.operations[operation].node.op_type

    def producers(self, operation: int) -> list[int]:
        """The operations that produce the inputs of one."""
        producers = (self.values[value].producer for value in self.operations[operation].consumed)
        return [producer for producer in producers if producer is not None]

    def consumers(self, operation: int) -> list[int]:
        """The operations that consume the outputs of one."""
        return [consumer for value in self.operations[operation].produced for consumer in self.values[value].consumers]

    def consumers_through(self, value: int, passes: Callable[[int], bool]) -> list[int]:
        """The consumers of a value, and after those that only pass it on, theirs; nearest first."""
        consumers: list[int] = []
        front = self.values[value].consumers[:BREADTH]
        for _ in range(REACH):
            consumers += front
            front = [consumer for index in front if passes(index) for consumer in self.consumers(index)][:BREADTH]
        return consumers

    def _add_scope(self, path: str, graph: Graph, parent: int | None, holder: int | None) -> None:
        scope = Scope(path, parent, holder=holder)
        for value in graph.inputs:
            self._define(scope, value.name)
        for tensor in graph.initializers:
            self.values[self._define(scope, tensor.name)].tensor = tensor
        for index, node in enumerate(graph.nodes):
            operation = Operation((path, index), node, len(self.scopes))
            operation.outputs = [self._define(scope, name) if name else -1 for name in node.outputs]
            for produced in operation.produced:
                self.values[produced].producer = len(self.operations)
            self.operations.append(operation)
        self.scopes.append(scope)
        for value in graph.outputs:
            if value.name in scope.values:
                self.values[scope.values[value.name]].is_output = True
            elif parent is not None:  # a body may return a value of the graph around it
                outer = self.find(parent, value.name)
                if outer is not None:
                    scope.values[value.name] = outer
        if holder is not None:
            returned = (scope.values.get(value.name) for value in graph.outputs)
            self.operations[holder].inputs += [value for value in returned if value is not None]

    def _define(self, scope: Scope, name: str) -> int:
        if name not in scope.values:
            scope.values[name] = len(self.values)
            self.values.append(Value(name))
        return scope.values[name]

    def _connect(self, first: int) -> None:
        """Connects the operations from `first` on with the values that they consume."""
        for index in range(first, len(self.operations)):
            operation = self.operations[index]
            named = [self.find(operation.scope, name) if name else None for name in operation.node.inputs]
            operation.inputs = [-1 if value is None else value for value in named] + operation.inputs
            for value in dict.fromkeys(operation.consumed):
                self.values[value].consumers.append(index)
