"""Sessions that show any tensor of a graph as an output, or take it as an input instead of computing it.

The parts of the file are copied byte by byte; its weights are not parsed for that, and external ones are read from where
they are.

On the CPU float16 is rounded as `HalfRounding` does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from optimum_htp.errors import HtpError
from optimum_htp.models.external_weights import ExternalWeights
from optimum_htp.models.flat_graph import FlatGraph
from optimum_htp.models.half_rounding import HalfRounding, half_tensors, zero
from optimum_htp.models.measures import Array
from optimum_htp.models.runtime import DEFAULT_PROVIDER, run_session, session_options
from optimum_htp.onnxfile import (
    NUMBERS,
    GraphSpans,
    OnnxModel,
    Piece,
    SourceFiles,
    TensorTypes,
    Value,
    element_type,
    encode_node,
    graph_pieces,
    initializer_span,
    model_pieces,
    model_spans,
    reads,
    scope_spans,
    scopes_of,
)
from optimum_htp.package import external_file

logger = logging.getLogger(__name__)

_LENGTH = "/optimum_htp_length"
_CONSTANTS_BYTES = 1 << 28  # of the weights that are held once they have been looked at
HALF_NOTE = (
    "float16 tensors are rounded to float16, as a GPU does; ONNX Runtime's CPU provider alone would compute in float32"
)


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """A node to run, by its index in the flat graph, with other names for some of its tensors."""

    index: int
    names: Mapping[str, str]


class Prober:
    """Runs a graph, or a part of it, with any of its tensors as outputs. A context manager."""

    def __init__(self, model: OnnxModel, flat: FlatGraph, *, provider: str, threads: int | None = None) -> None:
        self.flat = flat
        self._model = model
        self._provider = provider
        self._threads = threads
        self._stack = ExitStack()
        self._files = self._stack.enter_context(SourceFiles(model.path))
        self._spans = model_spans(self._files.data)
        self._scopes: list[GraphSpans] = scope_spans(self._files.data, self._spans.graph, flat.path)
        self._constants: dict[str, Array | None] = {}
        self._room = _CONSTANTS_BYTES
        self._declared = {value.name: value for value in model.graph.inputs}
        self._weights = ExternalWeights(model, self._files.data)
        self.types = TensorTypes(self._files.data, self._spans, scopes_of(model, flat.path), self._scopes).known
        self._rounding = HalfRounding(model, self._files, self._spans)
        self._halves = half_tensors(self.types)
        self.rounds_half = provider == DEFAULT_PROVIDER and not self._halves.isdisjoint(flat.producer)

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def name(self) -> str:
        """What it runs, for messages."""
        return str(self._model.path)

    def may_be_float(self, name: str) -> bool:
        """Whether a tensor is of a floating-point type, or of an unknown one."""
        value = self.types.get(name)
        return value is None or not value.elem_type or element_type(value.elem_type).is_float

    def may_be_port(self, name: str) -> bool:
        """Whether a tensor may be one that modules hand on: of numbers, of booleans, or of indices, and not a size."""
        value = self.types.get(name)
        if value is None or not value.elem_type or element_type(value.elem_type).kind != "integer":
            return True
        return value.shape is None or len(value.shape) > 1

    def type_of(self, name: str) -> str:
        """The name of a tensor's element type; that of an unknown one is "undefined"."""
        value = self.types.get(name)
        return element_type(value.elem_type if value is not None else 0).name

    def is_small_integer(self, name: str) -> bool:
        """Whether a tensor is an initializer of 8 bits or fewer, as quantized weights are."""
        number = next((s.data_type for g in self.flat.scopes for s in g.initializers if s.name == name), 0)
        element = element_type(number)
        return element.kind == "integer" and (element.bits or 64) <= 8

    def constant(self, name: str) -> Array | None:
        """The values of an initializer; None for what is not one, or can't be read. The same ones are asked for often."""
        if name in self._constants:
            return self._constants[name]
        array = self._read_constant(name)
        size = 0 if array is None else array.nbytes
        if size <= self._room:
            self._room -= size
            self._constants[name] = array
        return array

    def _read_constant(self, name: str) -> Array | None:
        import onnx
        from onnx.external_data_helper import ExternalDataInfo

        span = initializer_span(self._scopes, name)
        if span is None or span[1]:
            return None
        tensor = onnx.TensorProto.FromString(bytes(self._files.data[slice(*span[0])]))
        try:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                info = ExternalDataInfo(tensor)
                path = external_file(self._model.path, info.location, package=self._model.path.parent)
                with path.open("rb") as stream:
                    stream.seek(info.offset or 0)
                    tensor.raw_data = stream.read(info.length or -1)
                tensor.data_location = onnx.TensorProto.DEFAULT
            array: Array = onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # of files that are missing, and types that numpy lacks
            logger.debug("%s: %s", name, error)
            return None
        return array

    def encoded(self, index: int) -> bytes:
        """A node as it is in the file, by its index in the flat graph."""
        flat = self.flat.nodes[index]
        return bytes(self._files.joined(self._weights.placed("node", self._scopes[flat.scope].nodes[flat.index])))

    def run(
        self, names: Sequence[str], inputs: Mapping[str, Array], *, given: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """The values of some tensors; `given` ones are not computed. Raises HtpError if the part can't be run."""
        given = given or {}
        values = {**inputs, **given}
        passed = {name: values[name] for name in names if name in values}
        wanted = [name for name in dict.fromkeys(names) if name not in passed]
        if not wanted:
            return passed
        nodes, needed = self.flat.slice_to(wanted, stop=given)
        missing = [name for name in needed if name not in values]
        if missing:
            raise HtpError(f"{self._model.path}: needs the inputs {', '.join(missing)}, which are not given")
        computed = self._compute(wanted, nodes, {name: values[name] for name in needed})
        return {**passed, **dict(zip(wanted, computed, strict=True))}

    def lengths(self, names: Sequence[str], inputs: Mapping[str, Array]) -> dict[str, int]:
        """How many elements some tensors have; they are not held. Raises HtpError as `run` does."""
        wanted = list(dict.fromkeys(names))
        nodes, needed = self.flat.slice_to(wanted)
        counted = [f"{name}{_LENGTH}" for name in wanted]
        counters = [encode_node("Size", [name], [counter]) for name, counter in zip(wanted, counted, strict=True)]
        lengths = self._compute(counted, nodes, {name: inputs[name] for name in needed}, counters=counters)
        return {name: int(length) for name, length in zip(wanted, lengths, strict=True)}

    def _compute(
        self,
        outputs: Sequence[str],
        nodes: Sequence[int],
        feed: Mapping[str, Array],
        *,
        counters: Sequence[bytes] = (),
    ) -> list[Any]:
        planned = [PlannedNode(index, {}) for index in nodes]
        session = self.session(planned, feed, outputs, counters, counts=bool(counters))
        return run_session(session, outputs, feed, name=str(self._model.path))

    def session(
        self,
        nodes: Sequence[PlannedNode],
        feed: Mapping[str, Array],
        outputs: Iterable[str],
        more: Iterable[bytes],
        *,
        counts: bool = False,
    ) -> Any:
        """A session for some nodes, and encoded `more`, with inputs like the given ones. Raises HtpError.

        One that `counts` asks each tensor for its size right after it was made, and not when all are there.
        """
        inputs = [self._input(name, array) for name, array in feed.items()]
        pieces = self._pieces(nodes, inputs, outputs, more=more)
        options = session_options(threads=self._threads)
        if counts:
            import onnxruntime

            options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        return self._weights.open(self._files, pieces, options, provider=self._provider, name=self.name)

    def _input(self, name: str, array: Array) -> Value:
        declared = self._declared.get(name)
        if declared is not None:
            return declared
        return Value(name, NUMBERS[str(array.dtype)], tuple(f"{name}_{axis}" for axis in range(array.ndim)))

    def _pieces(
        self, nodes: Sequence[PlannedNode], inputs: Iterable[Value], outputs: Iterable[str], *, more: Iterable[bytes]
    ) -> list[Piece]:
        used = dict.fromkeys(name for node in nodes for name in reads(self.flat.nodes[node.index].node))
        stored = [span for name in used if (span := initializer_span(self._scopes, name)) is not None]
        encoded = [piece for node in nodes for piece in self._encoded(node)]
        if self.rounds_half:
            encoded.append([zero()])
        graph = graph_pieces(
            name="probe",
            nodes=[*encoded, *([node] for node in more)],
            initializers=(self._weights.placed("tensor", span) for span, is_sparse in stored if not is_sparse),
            sparse_initializers=(self._weights.placed("sparse", span) for span, is_sparse in stored if is_sparse),
            inputs=inputs,
            outputs=map(Value, outputs),
        )
        return model_pieces(self._spans, graph)

    def _encoded(self, planned: PlannedNode) -> Iterator[list[Piece]]:
        flat = self.flat.nodes[planned.index]
        placed = self._weights.placed("node", self._scopes[flat.scope].nodes[flat.index])
        place = (self.flat.path if flat.scope else "", flat.index)
        halves = self._halves if self.rounds_half else None
        return self._rounding.encoded(placed, flat.node, place, halves=halves, names=planned.names)
