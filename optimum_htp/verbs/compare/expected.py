"""What error the work of a module may have by what it computes with: rounding of float32 and float16, quantization.

Rounding numbers to steps of size `s` adds noise of `s**2 / 12` to each. Of a quantized weight the step is known from its
whole numbers alone: the largest of them over what its bits can hold. So is the least noise that its quantization costs,
whatever its scale says: a wrong scale, a clipped range or a wrong zero point costs more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import inf, log10

from optimum_htp.models import QUANTIZED_OPERATORS, Array
from optimum_htp.onnxfile import Node, reads
from optimum_htp.verbs.compare.cut_graph import Port
from optimum_htp.verbs.compare.own_errors import Row
from optimum_htp.verbs.compare.ports import Ports
from optimum_htp.verbs.compare.quantized_steps import Steps, noise_of_range
from optimum_htp.verbs.compare.unrounded import Unrounded, cost_of_precision, noise_of

FLOAT32, FLOAT16, BFLOAT16, QUANTIZED = "float32", "float16", "bfloat16", "quantized"

EXPECTED_DB = {FLOAT32: 110.0, FLOAT16: 62.0, BFLOAT16: 40.0}
"""The SQNR in dB that the work of one module has at least, by what it computes with."""

MARGIN_DB = {FLOAT32: 10.0, FLOAT16: 12.0, BFLOAT16: 12.0, QUANTIZED: 6.0}
"""How far below that it may be and still be no surprise."""

_COARSER = (FLOAT32, FLOAT16, BFLOAT16, QUANTIZED)  # each than the ones before it

# Quantized operators whose steps are not known, and what these may cost: an SQNR in dB, and as noise.
_UNKNOWN = QUANTIZED_OPERATORS - set(
    (
        "QuantizeLinear DequantizeLinear DynamicQuantizeLinear MatMulInteger ConvInteger MatMulIntegerToFloat "
        "DynamicQuantizeMatMul MatMulNBits"
    ).split()
)
_UNKNOWN_DB = 12.0
_ROWS = 256  # of what a matrix is multiplied with: so many are enough to know
_LEAST_DB = {
    FLOAT32: 60.0,
    FLOAT16: 20.0,
    BFLOAT16: 10.0,
}  # rounding that leaves less is a fault, whoever makes much of it
_EXACT_DB = 60.0  # that nothing which is not rounded is below
_QUANTIZING = frozenset(("DynamicQuantizeMatMul",))  # those that quantize what they are given


class Expected:
    """The expected errors of rows of one graph, those that are given first together; the reference may be in another precision."""

    def __init__(self, ports: Ports, rows: Sequence[Row]) -> None:
        self._ports = ports
        self._flat = ports.graph.flat
        self._prober = ports.prober
        self._cut = ports.cut()
        self._known: dict[int, float] = {}
        self._held: list[Row] = []
        self._measured: dict[int, float | None] = {}
        reference = ports.samples[0].precision
        self._reference = QUANTIZED if reference == "int8" else reference
        self._steps = Steps(ports, self._cut, rows)

    def kind(self, row: Row) -> str:
        """What a row computes with here or in the reference, the coarser of both."""
        return max(self._own_kind(row), self._reference, key=_COARSER.index)

    def _own_kind(self, row: Row) -> str:
        nodes = [self._flat.nodes[index].node for index in row.makers]
        if any(node.op_type in QUANTIZED_OPERATORS for node in nodes) or next(self._weights(nodes), None):
            return QUANTIZED
        types = {self._prober.type_of(name) for node in nodes for name in (*node.inputs, *node.outputs) if name}
        types |= {self._prober.type_of(port.tensor) for port in row.errors}
        return next((kind for kind in (BFLOAT16, FLOAT16) if kind in types), FLOAT32)

    def sqnr_db(self, row: Row) -> float:
        """The SQNR that a row has at least if it is sound, in dB."""
        kind = self.kind(row)
        if kind == QUANTIZED == self._reference:
            return _UNKNOWN_DB  # its steps are not known
        known = self._known.get(id(row))
        if known is None:
            self._held.append(row)  # or another would get its id
            known = self._known[id(row)] = EXPECTED_DB.get(kind) or self._of_quantized(row)
        return min(known, row.worst.sqnr_db) if self._is_only_rounded(row) else known

    def excess_db(self, row: Row) -> float:
        """How far below that a row is, in dB; one that would be as wrong without rounding, as far as it is then."""
        excess = self.sqnr_db(row) - row.worst.sqnr_db
        measured = self._measured.get(id(row))
        return excess if measured is None else max(excess, measured)

    def _of_quantized(self, row: Row) -> float:
        """What its steps explain, if what is done behind them makes neither more nor less of it."""
        nodes = [self._flat.nodes[index].node for index in row.makers]
        noise = self._steps.noise_of(row)
        if any(node.op_type in _QUANTIZING for node in nodes):
            noise += sum(self._of_activations(row))
        weights = list(self._weights(nodes))
        for node, weight in weights:
            part = _of_integers(weight, node) if node.op_type not in _UNKNOWN else None
            if part is None:
                return _UNKNOWN_DB
            noise += part
        if len(weights) == 1:
            noise *= self._cancelled(row, weights[0][1])
        if any(node.op_type in _UNKNOWN for node in nodes):
            return _UNKNOWN_DB
        return -10 * log10(noise) if noise else EXPECTED_DB[FLOAT32]

    def _is_only_rounded(self, row: Row) -> bool:
        """Whether a row that loses more than is expected does so since its operations make much of what is rounded."""
        if id(row) not in self._measured:
            self._measured[id(row)] = self._excess_measured(row)
        excess = self._measured[id(row)]
        return excess is not None and excess <= MARGIN_DB[self.kind(row)]

    def _excess_measured(self, row: Row) -> float | None:
        """How far a row is below what its rounding is seen to cost; None if it is no suspect, or that can't be seen."""
        margin, known = MARGIN_DB[self.kind(row)], self._known[id(row)]
        suspect = [port for port, errors in row.errors.items() if known - errors.sqnr_db > margin]
        found = [self._seen(row, port) for port in suspect]
        excess = [min(cost, most) - actual for each in found if each is not None for actual, cost, most in (each,)]
        return max(excess) if excess and None not in found else None

    def _seen(self, row: Row, port: Port) -> tuple[float, float, float] | None:
        """What a port of a row has, what rounding costs it, and the most that is expected of it, in dB.

        Of one that quantizes, it is what both are without the rounding of activations.
        """
        kind = self.kind(row)
        if kind == QUANTIZED:
            errors = Unrounded(self._ports, self._cut, port).errors()
            return None if errors is None else (*errors, _EXACT_DB)
        if row.errors[port].sqnr_db < _LEAST_DB[kind]:
            return None
        cost = cost_of_precision(self._ports, self._cut, port, self._ports.samples[0].precision)
        return None if cost is None or cost == -inf else (row.errors[port].sqnr_db, cost, EXPECTED_DB[kind])

    def _cancelled(self, row: Row, weight: Array) -> float:
        """By how much the products of a matrix cancel out, more than those of random numbers: noise does not."""
        import numpy as np

        if weight.ndim != 2:
            return 1.0
        numbers = weight.astype(np.float32) - np.median(weight)
        factors = [1.0]
        for value in self._ports.samples[0].values([row.call])[row.call].received:
            array = value.array
            sides = [side for side in (numbers, numbers.T) if array.ndim and array.shape[-1] == side.shape[0]]
            if array.dtype.kind != "f" or not sides or not np.isfinite(array).all():
                continue
            rows = array.reshape(-1, array.shape[-1])[:_ROWS].astype(np.float32)
            expected = float(np.mean(np.square(rows))) * float(np.mean(np.square(numbers))) * len(sides[0])
            actual = float(np.mean(np.square(rows @ sides[0])))
            factors.append(expected / actual if actual else 1.0)
        return max(factors)

    def _of_activations(self, row: Row) -> Iterator[float]:
        """The noise of quantizing what a row's call was given, to 8 bits over its range, relative to its power."""
        import numpy as np

        for sample in self._ports.samples:
            received = [value.array for value in sample.values([row.call])[row.call].received]
            floats = [array for array in received if array.dtype.kind == "f" and array.ndim > 1]
            yield max((noise_of_range(array) for array in floats if np.isfinite(array).all()), default=0.0)

    def _weights(self, nodes: Iterable[Node]) -> Iterator[tuple[Node, Array]]:
        """The quantized weights that nodes use, as whole numbers."""
        for node in nodes:
            for name in dict.fromkeys(reads(node)):
                if self._prober.is_small_integer(name):
                    weight = self._prober.constant(name)
                    if weight is not None and weight.ndim > 1:
                        yield node, weight


def _of_integers(weight: Array, node: Node) -> float | None:
    """The noise that rounding to whole numbers adds to a weight, relative to its power."""
    packed = node.op_type == "MatMulNBits"
    if packed and str(weight.dtype) != "uint8":
        return None
    noise, power = noise_of(weight, packed=packed)
    return noise / power if power else None
