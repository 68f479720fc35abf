"""The work of a row without the rounding of activations: what its error is then, and what that of its weights makes of it.

How far rounding moves a result depends on what is done behind it: a softmax of large numbers, or a division by a small one,
makes much of little. So a row that loses more than its steps explain runs once more, with each activation in its steps but
not rounded to whole ones:

    y = saturate(round(x / scale) + zero)    is    y = x / scale + zero
    MatMulInteger(a, b, a_zero, b_zero)      is    (a - a_zero) @ (b - b_zero)      in floating point

A wrong scale or a wrong zero point is as wrong as before. Weights stay the whole numbers that they are; what rounding these
makes is seen by moving some of them to the next one: one in twelve, which is as much noise as rounding adds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import inf
from typing import Any

from optimum_htp.errors import HtpError
from optimum_htp.models import Array, PlannedNode, compare_arrays, run_session
from optimum_htp.onnxfile import Node, encode_node, reads
from optimum_htp.verbs.compare.call_graph import MOVES
from optimum_htp.verbs.compare.cut_graph import Cut, Port
from optimum_htp.verbs.compare.layout import measured
from optimum_htp.verbs.compare.ports import Ports

logger = logging.getLogger(__name__)

_PREFIX = "/optimum_htp_unrounded/"
_DRAWS = 3
# What rounding changes of a number at most; of float32 what sums in another order do.
_ROUNDED = {"float32": 2.0**-22, "float16": 2.0**-11, "bfloat16": 2.0**-8}


class Unrounded:
    """What computes a tensor that a port shows, without the rounding of activations."""

    def __init__(self, ports: Ports, cut: Cut, port: Port) -> None:
        self._ports = ports
        self._port = port
        self._prober = ports.prober
        self._plan = cut.plan({"shown": cut.seen(port)})
        self._nodes: list[PlannedNode] = []
        self._more: list[bytes] = []
        self._unrounded: set[str] = set()  # tensors of whole numbers that are none here
        self._stored: dict[str, Array] = {}  # constants of nodes that are computed in another way
        self.weights: dict[str, Array] = {}  # quantized ones, by the names that they have here
        self._is_known = True
        self._packed: set[str] = set()  # those with two numbers in each byte
        for planned in self._plan.nodes:
            self._add(planned)

    def errors(self) -> tuple[float, float] | None:
        """The SQNR in dB of the tensor, and that which rounding its weights costs it; None if it can't be run."""
        try:
            return self._errors()
        except HtpError as error:
            logger.debug("%s", error)
            return None

    def _errors(self) -> tuple[float, float] | None:
        import numpy as np

        if self._shown in self._plan.fed or not self._is_known:
            return None

        random = np.random.default_rng(0)
        packed = {name: name in self._packed for name in self.weights}
        noise = {name: noise_of(weight, packed=packed[name])[0] for name, weight in self.weights.items()}
        moved = [
            {name: _moved(weight, noise[name], random, packed=packed[name]) for name, weight in self.weights.items()}
            for _ in range(_DRAWS if self.weights else 0)
        ]
        session: Any = None
        arrays, cost = [], inf
        for index, sample in enumerate(self._ports.samples):
            given = {name: sample.inputs[name] for name in sorted(self._plan.inputs)}
            given |= self._ports.fed(self._plan, index) | self._stored
            if session is None:
                session = self._prober.session(self._nodes, given | self.weights, [self._shown], self._more)
            runs = [self._run(session, given | weights) for weights in (self.weights, *moved)]
            arrays.append(runs[0])
            cost = min(cost, *(compare_arrays(other, runs[0]).sqnr_db for other in runs[1:]), inf)
        match = self._ports.matches[self._port]
        errors = measured(match.layout, arrays, self._ports.right(self._port))
        return -inf if errors is None else errors.sqnr_db, cost

    @property
    def _shown(self) -> str:
        return self._plan.shown["shown"]

    def _run(self, session: Any, given: Mapping[str, Array]) -> Array:
        array: Array = run_session(session, [self._shown], given, name=self._prober.name)[0]
        return array

    # --- Nodes --------------------------------------------------------------------------------------------------------

    def _add(self, planned: PlannedNode) -> None:
        node = self._ports.graph.flat.nodes[planned.index].node
        names = dict(planned.names)
        for name in dict.fromkeys(reads(node)):
            if self._prober.is_small_integer(name):
                weight = self._prober.constant(name)
                if weight is not None and weight.ndim > 1 and str(weight.dtype) not in ("int8", "uint8"):
                    self._is_known = False  # ONNX Runtime takes no other from numpy
                elif weight is not None and weight.ndim > 1:
                    names[name] = f"{_PREFIX}weight/{name}"
                    self.weights[names[name]] = weight
                    if node.op_type == "MatMulNBits":
                        self._packed.add(names[name])
        inputs = [names.get(name, name) for name in node.inputs]
        outputs = [names.get(name, name) for name in node.outputs]
        if node.op_type == "DynamicQuantizeLinear":  # its steps are those of the values
            names[node.outputs[0]] = f"{outputs[0]}/rounded"
            self._nodes.append(PlannedNode(planned.index, names))
            self._make(self._in_steps(inputs[0], outputs[1], outputs[2]), outputs[0])
        elif (made := self._made(planned.index, node, inputs)) is not None:
            self._store(node, names)
            self._make(made, outputs[0])
        else:
            if node.op_type in MOVES and not self._unrounded.isdisjoint(inputs):
                self._unrounded.update(outputs)
            self._nodes.append(PlannedNode(planned.index, names))

    def _make(self, made: str, output: str) -> None:
        self._more.append(encode_node("Identity", [made], [output]))
        self._unrounded.add(output)

    def _store(self, node: Node, names: Mapping[str, str]) -> None:
        for name in filter(None, node.inputs):
            if names.get(name, name) == name and (value := self._prober.constant(name)) is not None:
                self._stored[name] = value

    def _made(self, index: int, node: Node, inputs: list[str]) -> str | None:
        """What a node gives here, if it is computed in another way."""
        inputs = [*inputs, *[""] * (8 - len(inputs))]
        if node.op_type == "QuantizeLinear" and self._is_one(node, 1):
            return self._in_steps(*inputs[:3])
        if node.op_type == "DequantizeLinear" and inputs[0] in self._unrounded:
            return self._of("Mul", self._centered(inputs[0], inputs[2]), inputs[1])
        if node.op_type == "MatMulInteger":
            return self._product(*inputs[:4])
        if node.op_type == "ConvInteger":
            pairs = (inputs[0], inputs[2]), (inputs[1], inputs[3])
            return self._like(index, "Conv", [self._centered(*pair) for pair in pairs])
        if node.op_type == "MatMulIntegerToFloat":
            product = self._product(inputs[0], inputs[1], inputs[4], inputs[5])
            scaled = self._of("Mul", self._of("Mul", product, inputs[2]), inputs[3])
            return self._of("Add", scaled, inputs[6]) if inputs[6] else scaled
        if node.op_type == "DynamicQuantizeMatMul":
            weight = self._of("Mul", self._centered(inputs[1], inputs[3]), inputs[2])
            product = self._of("MatMul", inputs[0], weight)
            return self._of("Add", product, inputs[4]) if inputs[4] else product
        return None

    def _is_one(self, node: Node, index: int) -> bool:
        scale = self._prober.constant(node.inputs[index])
        return scale is not None and scale.size == 1

    def _in_steps(self, name: str, scale: str, zero: str) -> str:
        steps = self._of("Div", name, scale)
        return self._of("Add", steps, self._float(zero)) if zero else steps

    def _product(self, a: str, b: str, a_zero: str, b_zero: str) -> str:
        return self._of("MatMul", self._centered(a, a_zero), self._centered(b, b_zero))

    def _centered(self, name: str, zero: str) -> str:
        return self._of("Sub", self._float(name), self._float(zero)) if zero else self._float(name)

    def _of(self, operator: str, *inputs: str) -> str:
        result = f"{_PREFIX}{len(self._more)}"
        self._more.append(encode_node(operator, inputs, [result]))
        return result

    def _like(self, index: int, operator: str, inputs: list[str]) -> str:
        """Another operator with the attributes of a node."""
        import onnx

        node = onnx.NodeProto.FromString(self._prober.encoded(index))
        result = f"{_PREFIX}{len(self._more)}"
        node.op_type = operator
        node.input[:], node.output[:] = inputs, [result]
        self._more.append(node.SerializeToString())
        return result

    def _float(self, name: str) -> str:
        from onnx import TensorProto, helper

        if name in self._unrounded:
            return name
        result = f"{_PREFIX}{len(self._more)}"
        self._more.append(helper.make_node("Cast", [name], [result], to=TensorProto.FLOAT).SerializeToString())
        return result


def cost_of_precision(ports: Ports, cut: Cut, port: Port, reference: str) -> float | None:
    """The SQNR in dB that a tensor keeps if all floating-point numbers on the way to it are rounded once more.

    Either side may be the coarser one: of the reference its precision is given. None if it can't be run.
    """
    plan = cut.plan({"shown": cut.seen(port)})
    nodes: list[PlannedNode] = []
    more: list[bytes] = []
    for planned in plan.nodes:
        names = dict(planned.names)
        for output in filter(None, ports.graph.flat.nodes[planned.index].node.outputs):
            kind = ports.prober.type_of(output)
            if kind in _ROUNDED and planned.index in ports.graph.flat.varying:
                rounded = names.get(output, output)
                names[output] = f"{rounded}/exact"
                width = 2 * max(_ROUNDED[kind], _ROUNDED.get(reference, 0.0))
                more += _rounded(names[output], rounded, kind, width, seed=len(more))
        nodes.append(PlannedNode(planned.index, names))
    exact = ports.run(plan)
    if exact is None or not more:
        return None
    cost, session = inf, None
    shown = plan.shown["shown"]
    try:
        for index, sample in enumerate(ports.samples):
            given = {name: sample.inputs[name] for name in sorted(plan.inputs)} | ports.fed(plan, index)
            session = session or ports.prober.session(nodes, given, [shown], more)
            for _ in range(_DRAWS):
                (array,) = run_session(session, [shown], given, name=ports.prober.name)
                cost = min(cost, compare_arrays(array, exact[index]["shown"]).sqnr_db)
    except HtpError as error:
        logger.debug("%s", error)
        return None
    return cost


def _rounded(name: str, result: str, kind: str, width: float, *, seed: int) -> list[bytes]:
    """Nodes that make numbers smaller by up to so much of them: a large one does not overflow."""
    from onnx import TensorProto, helper

    single, factor, product = (f"{result}/{part}" for part in ("single", "factor", "product"))
    types = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
    nodes = (
        helper.make_node("Cast", [name], [single], to=TensorProto.FLOAT),
        helper.make_node("RandomUniformLike", [single], [factor], low=1 - width, high=1.0, seed=float(seed)),
        helper.make_node("Mul", [single, factor], [product]),
        helper.make_node("Cast", [product], [result], to=types[kind]),
    )
    return [node.SerializeToString() for node in nodes]


def noise_of(weight: Array, *, packed: bool) -> tuple[float, float]:
    """The noise that rounding to whole numbers adds to a weight, and its power, both in squares of whole numbers.

    Weights lie around zero, so their median tells the zero point, whatever the file says; and the largest tells the step.
    """
    import numpy as np

    numbers = (np.concatenate([weight.ravel() & 15, weight.ravel() >> 4]) if packed else weight).astype(np.float64)
    numbers -= np.median(numbers)
    limit = 7.0 if packed or "int4" in str(weight.dtype) else 127.0
    step = min(1.0, float(np.abs(numbers).max()) / limit)
    cut_off = 1.4 if limit < 127 else 1.0  # of 4 bits the largest number of each block is often one too large
    return cut_off * step**2 / 12, float(np.mean(np.square(numbers)))


def _moved(weight: Array, noise: float, random: Any, *, packed: bool) -> Array:
    """A weight, some of whose whole numbers are one more or less.

    Not those of a channel that has one number only: zeros, which rounding costs nothing, in steps of whatever size.
    """
    import numpy as np

    if packed:
        low, high = (_moved(part, noise, random, packed=False) for part in (weight & 15, weight >> 4))
        moved: Array = np.minimum(low, 15) | np.minimum(high, 15) << 4
        return moved
    limits = np.iinfo(weight.dtype)
    chance = random.random(weight.shape)
    change = (chance < noise / 2).astype(np.int16) - (chance > 1 - noise / 2)
    for axis in range(weight.ndim):
        rest = tuple(other for other in range(weight.ndim) if other != axis)
        change *= weight.min(rest, keepdims=True) != weight.max(rest, keepdims=True)
    moved = np.clip(weight + change, limits.min, limits.max).astype(weight.dtype)
    return moved
