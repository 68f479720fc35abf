"""The noise of quantizing activations in the steps that a file has: what is beyond their range is cut off.

What is quantized is measured for all rows of a graph together, in chunks, and only the noise of each tensor is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from optimum_htp.models import Array, Prober
from optimum_htp.onnxfile import Node
from optimum_htp.verbs.compare.cut_graph import Cut
from optimum_htp.verbs.compare.own_errors import Row
from optimum_htp.verbs.compare.ports import Ports

_UNKNOWN = 0.06  # noise of steps that can't be seen
_COARSE = 1e-3  # noise of steps that are wide, or of a range that is narrow
_OPERATORS = frozenset(("QuantizeLinear", "DynamicQuantizeLinear"))

_Noise = Mapping[str, float]  # on one sample, by the names of what is quantized


class Steps:
    """The steps of the rows of a graph that is cut at its ports, those that are given first together."""

    def __init__(self, ports: Ports, cut: Cut, rows: Sequence[Row]) -> None:
        self._ports = ports
        self._cut = cut
        self._rows = rows

    def noise_of(self, row: Row) -> float:
        """The noise of what a row quantizes, relative to its power."""
        if id(row) not in self._noise:
            self._noise |= self._measured([row])
        return self._noise[id(row)]

    @cached_property
    def _noise(self) -> dict[int, float]:
        return self._measured(self._rows)

    def _measured(self, rows: Sequence[Row]) -> dict[int, float]:
        quantized = {id(row): self._quantized_by(row) for row in rows}
        noise = {key: 0.0 for key, names in quantized.items() if not names}
        by_call: dict[int, list[int]] = {}
        for row in rows:
            if id(row) not in noise:
                by_call.setdefault(row.call, []).append(id(row))
        for calls in self._ports.in_chunks(by_call):
            noise |= self._of_chunk({key: quantized[key] for call in calls for key in by_call[call]})
        return noise

    def _quantized_by(self, row: Row) -> dict[str, Node]:
        """What a row quantizes, by the names that it has in the cut, each with the node that does."""
        nodes = self._ports.graph.flat.nodes
        quantizing = (
            (maker, nodes[maker.index].node)
            for port in row.errors
            for maker in self._cut.makers(self._cut.seen(port))
            if nodes[maker.index].node.op_type in _OPERATORS
        )
        return {maker.names.get(node.inputs[0], node.inputs[0]): node for maker, node in quantizing}

    def _of_chunk(self, rows: Mapping[int, Mapping[str, Node]]) -> dict[int, float]:
        """The noise of some rows, measured together; each alone where that can't be run."""
        nodes = {name: node for names in rows.values() for name, node in names.items()}
        arrays = self._ports.run(self._cut.plan({name: name for name in nodes}))
        if arrays is None:
            if len(rows) == 1:
                return dict.fromkeys(rows, _UNKNOWN)
            return {key: noise for row in rows.items() for key, noise in self._of_chunk(dict([row])).items()}
        ours = [self._of_arrays(sample, nodes) for sample in arrays]
        noise = {key: _worst(ours, names) for key, names in rows.items()}
        coarse = [key for key in rows if noise[key] >= _COARSE] if self._ports.names_are_shared else []
        if not coarse:
            return noise
        # What a wrong weight makes may be beyond a range that is right.
        wanted = dict.fromkeys(name for key in coarse for name in rows[key] if self._cut.source(name) is None)
        inside = {name: nodes[name].inputs[0] for name in wanted}
        right = []
        for known, sample in zip(ours, self._ports.samples, strict=True):
            values = sample.tensors(inside.values())
            theirs = {name: values[own] for name, own in inside.items() if own in values}
            right.append({**known, **self._of_arrays(theirs, nodes)})
        return noise | {key: _worst(right, rows[key]) for key in coarse}

    def _of_arrays(self, values: Mapping[str, Array], nodes: Mapping[str, Node]) -> _Noise:
        return {name: _of_rounding(array, nodes[name], self._ports.prober) for name, array in values.items()}


def noise_of_range(values: Array) -> float:
    """The noise of quantizing values to 8 bits over their range, relative to their power."""
    import numpy as np

    power = float(np.mean(np.square(values, dtype=np.float64)))
    step = (max(float(values.max()), 0.0) - min(float(values.min()), 0.0)) / 255
    return step**2 / 12 / power if power else 0.0


def _worst(samples: Iterable[_Noise], names: Iterable[str]) -> float:
    listed = list(names)
    return max(sum(noise[name] for name in listed) for noise in samples)


def _of_rounding(values: Array, node: Node, prober: Prober) -> float:
    """The noise that a node's rounding adds to some values, relative to their power."""
    import numpy as np

    if not np.isfinite(values).all() or values.dtype.kind != "f":
        return 0.0
    if node.op_type == "DynamicQuantizeLinear":
        return noise_of_range(values)
    scale = prober.constant(node.inputs[1])
    zero = prober.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.uint8(0)
    if scale is None or zero is None or scale.size != 1 or zero.dtype.kind not in "iu":
        return 0.0
    limits = np.iinfo(zero.dtype)
    exact = values.astype(np.float64)
    steps = np.clip(np.rint(exact / scale) + zero.astype(np.float64), limits.min, limits.max)
    power = float(np.mean(np.square(exact)))
    error = (steps - zero.astype(np.float64)) * scale - exact
    return float(np.mean(np.square(error))) / power if power else 0.0
