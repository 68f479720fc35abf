"""The model in float32 with a switch at each place where a quantizer would change something, in one session.

A weight is an input of the graph that has the float32 values if it is not given; what is given instead are the values that
the quantized file computes with. An activation passes an `If`, which rounds it where its input says so. So any part of the
model is quantized without quantizing anything again, and with all switches on it is what the quantized file is.

Example: `y = MatMul(x, w)` becomes `x2 = If(round_0, then: rounded x, else: x); y = MatMul(x2, weight_0)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from optimum_htp.hierarchy import NodeKey
from optimum_htp.models import DEFAULT_PROVIDER, Array, ExternalWeights, run_session, session_options
from optimum_htp.onnxfile import OnnxModel, SourceFiles
from optimum_htp.verbs.sensitivity.protos import Proto, constants_in, graphs_in, stored_in
from optimum_htp.verbs.sensitivity.quantizers.quantizer import Changes, NodeChange, Rounding

_PREFIX = "optimum_htp_switch"
_EXACT, _ROUNDED = "/optimum_htp_exact", "/optimum_htp_rounded"


class Switchboard:
    """A session in which nodes are quantized, or not, in each run.

    Raises HtpError with `name` if ONNX Runtime can't load it.
    """

    def __init__(self, model: OnnxModel, changes: Changes, *, threads: int | None, name: str) -> None:
        self._name = name
        self._changes = changes
        self._values: dict[str, Array] = {}
        self._weights: dict[tuple[NodeKey, int], str] = {}
        self._shared: dict[str, str] = {}
        self._reads: dict[tuple[NodeKey, int], str] = {}
        self._tensors: dict[str, str] = {}
        self._session = self._open(model, threads)

    def run(
        self,
        samples: Sequence[Mapping[str, Array]],
        outputs: Sequence[str],
        nodes: Iterable[NodeKey],
        *,
        weights: bool = True,
        activations: bool = True,
    ) -> list[list[Array]]:
        """What the outputs are for each sample with some nodes quantized: their weights, activations or both."""
        import numpy as np

        feed: dict[str, Array] = {}
        for key in nodes:
            change = self._changes[key]
            if weights:
                feed |= self._values_of(key)
            if activations:
                names = [self._reads[key, place] for place in change.reads]
                names += [self._tensors[name] for name in change.tensors]
                feed |= dict.fromkeys(names, np.array(True))
        return [run_session(self._session, outputs, {**sample, **feed}, name=self._name) for sample in samples]

    def kinds(self, nodes: Iterable[NodeKey]) -> tuple[bool, bool]:
        """Whether any weights, and whether any activations, of some nodes are quantized."""
        changes = [self._changes[key] for key in nodes]
        return any(each.has_weights for each in changes), any(each.has_activations for each in changes)

    def weight_bytes(self, nodes: Iterable[NodeKey]) -> int:
        """How much the weights of some nodes take in float32."""
        values = {name: value.nbytes for key in nodes for name, value in self._values_of(key).items()}
        return sum(values.values())

    def _values_of(self, key: NodeKey) -> dict[str, Array]:
        """The weights of a quantized node, by the inputs of the graph that take them."""
        change = self._changes[key]
        ways = {self._weights[key, place]: get for place, get in change.weights.items()}
        ways |= {self._shared[name]: get for name, get in change.shared.items()}
        return {name: self._value(name, get) for name, get in ways.items()}

    def _value(self, name: str, get: Callable[[], Array]) -> Array:
        import numpy as np

        if name not in self._values:
            self._values[name] = np.ascontiguousarray(get(), np.float32)
        return self._values[name]

    # --- The graph ----------------------------------------------------------------------------------------------------

    def _open(self, model: OnnxModel, threads: int | None) -> Any:
        import onnx

        proto = onnx.load(model.path, load_external_data=False)
        proto.ir_version = max(proto.ir_version, 4)  # from there on what is given replaces an initializer
        stored = stored_in(proto.graph) | constants_in(proto.graph)
        shared = dict.fromkeys(name for change in self._changes.values() for name in change.shared)
        self._shared = {name: self._weight(proto.graph, stored[name]) for name in shared}
        for path, graph in reversed(list(graphs_in(proto.graph))):  # bodies before what holds them
            nodes: list[Proto] = []
            for index, node in enumerate(graph.node):
                change = self._changes.get((path, index), NodeChange())
                for place, rounding in change.reads.items():
                    switch = self._reads[(path, index), place] = self._switch(proto.graph)
                    nodes.append(_rounding_if(switch, node.input[place], f"{switch}/rounded", rounding))
                    node.input[place] = f"{switch}/rounded"
                for place in change.weights:
                    name = self._weight(proto.graph, stored[node.input[place]])
                    node.input[place] = self._weights[(path, index), place] = name
                nodes.append(node)
            _replace(graph, nodes)
        for node in proto.graph.node:
            _rename_inputs(node, self._shared)
        self._round_tensors(proto.graph)
        with SourceFiles(model.path) as files:
            weights = ExternalWeights(model, files.data)
            options = session_options(threads=threads)
            return weights.open(
                files, [proto.SerializeToString()], options, provider=DEFAULT_PROVIDER, name=self._name
            )

    def _round_tensors(self, graph: Proto) -> None:
        """Has all that read some tensors of the main graph read what an `If` makes of them, and the model give it."""
        roundings = {name: each for change in self._changes.values() for name, each in change.tensors.items()}
        given = {value.name: f"{value.name}{_ROUNDED}" for value in graph.input if value.name in roundings}
        nodes = [self._rounded(graph, name, name, rounded, roundings[name]) for name, rounded in given.items()]
        for node in graph.node:
            _rename_inputs(node, given)
            made = [name for name in node.output if name in roundings]
            node.output[:] = [f"{name}{_EXACT}" if name in made else name for name in node.output]
            nodes.append(node)
            nodes += [self._rounded(graph, name, f"{name}{_EXACT}", name, roundings[name]) for name in made]
        _replace(graph, nodes)

    def _rounded(self, graph: Proto, name: str, exact: str, rounded: str, rounding: Rounding) -> Proto:
        self._tensors[name] = switch = self._switch(graph)
        return _rounding_if(switch, exact, rounded, rounding)

    def _switch(self, graph: Proto) -> str:
        """A new input that says whether something is rounded; no if it is not given."""
        import numpy as np
        from onnx import TensorProto, helper, numpy_helper

        name = f"{_PREFIX}/round_{len(self._reads) + len(self._tensors)}"
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.BOOL, []))
        graph.initializer.append(numpy_helper.from_array(np.array(False), name))
        return name

    def _weight(self, graph: Proto, tensor: Proto) -> str:
        """A new input that has a weight's values if it is not given."""
        from onnx import helper

        name = f"{_PREFIX}/weight_{len(graph.input)}"
        graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        added = graph.initializer.add()
        added.CopyFrom(tensor)
        added.name = name
        return name


def _rounding_if(switch: str, source: str, result: str, rounding: Rounding) -> Proto:
    from onnx import TensorProto, helper

    def branch(name: str, nodes: list[Proto]) -> Proto:
        value = helper.make_tensor_value_info(f"{result}/{name}", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [value])

    rounded = branch("then", rounding.nodes(source, f"{result}/then"))
    exact = branch("else", [helper.make_node("Identity", [source], [f"{result}/else"])])
    return helper.make_node("If", [switch], [result], then_branch=rounded, else_branch=exact)


def _rename_inputs(node: Proto, names: Mapping[str, str]) -> None:
    """Other names for what a node reads, and what its bodies read from around them."""
    node.input[:] = [names.get(name, name) for name in node.input]
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs) if attribute.type in (attribute.GRAPH, attribute.GRAPHS) else ():
            for inner in body.node:
                _rename_inputs(inner, names)


def _replace(graph: Proto, nodes: list[Proto]) -> None:
    """Gives a graph other nodes, of which some may be its own."""
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
