"""Models of some nodes of a graph, without its large weights: by these, others are asked about its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.assembly import graph_pieces
from optimum_htp.onnxfile.edges import reads
from optimum_htp.onnxfile.model import Function, Value
from optimum_htp.onnxfile.reading import read_function, read_value
from optimum_htp.onnxfile.scopes import Scope
from optimum_htp.onnxfile.spans import GraphSpans, ModelSpans, Span
from optimum_htp.onnxfile.wire import Data, encode_message, encode_varint, fields, last_fields, release_pages

_SMALL_TENSOR_BYTES = 4096
_INTEGER_BYTES = 8
_IR_VERSION = 10


class Submodels:
    """Makes models of nodes of a graph, with the opsets and the functions of its file.

    Small initializers are in them as they are; of large ones, and of those of other files, they have inputs.

    Attributes:
        nodes: The graph's nodes, producers before consumers. The indices here are those in this list.
        outputs: Its outputs, as the file has them.
        given: The types of the tensors that it takes from outside: inputs, and what is around it.
        initializers: The names of the initializers that it may read.
    """

    def __init__(
        self,
        data: Data,
        model: ModelSpans,
        scope: Scope,
        spans: GraphSpans,
        *,
        given: Mapping[str, Value],
        tensors: Mapping[str, Span],
        types: Mapping[str, Value],
    ) -> None:
        self.nodes = [scope.graph.nodes[index] for index in scope.order]
        self.outputs = scope.graph.outputs
        self.given = given
        self.initializers = tensors.keys()
        self._data = data
        self._encoded = [data[slice(*spans.nodes[index])] for index in scope.order]
        self._functions = model.functions
        self._value_infos = spans.value_infos
        head = (data[slice(*span)] for span in model.head)
        # Types don't depend on the version of the format, and those who are asked may not know a new one.
        self._head = encode_varint(schema.MODEL_IR_VERSION) + encode_varint(_IR_VERSION)
        self._head += b"".join(field for field in head if field[0] != schema.MODEL_IR_VERSION)
        self._head += b"".join(encode_message(schema.MODEL_FUNCTION, data[slice(*span)]) for span in model.functions)
        self._small: dict[str, bytes] = {}
        self._large: dict[str, Value] = {}
        released = 0
        for name, span in tensors.items():
            if _is_small(data, span):
                self._small[name] = data[slice(*span)]
            else:
                self._large[name] = types[name]
            released = release_pages(data, span[1], released)

    def model(
        self,
        chosen: Iterable[int],
        inputs: Mapping[str, Value],
        outputs: Iterable[Value],
        *,
        more: Iterable[bytes] = (),
        declared: bool = True,
    ) -> bytes:
        """A model of some of the nodes and `more`; with the types that the file declares, unless not `declared`."""
        chosen = list(chosen)
        used = dict.fromkeys(name for index in chosen for name in reads(self.nodes[index]))
        large = {name: self._large[name] for name in used if name in self._large}
        graph = graph_pieces(
            name="g",
            nodes=[*([self._encoded[index]] for index in chosen), *([node] for node in more)],
            initializers=([self._small[name]] for name in used if name in self._small),
            inputs={**inputs, **large}.values(),
            outputs=outputs,
            value_infos=[[self._data[slice(*span)]] for span in self._value_infos] if declared else (),
        )
        return self._head + encode_message(schema.MODEL_GRAPH, b"".join(map(bytes, graph)))

    def needed(self, names: Iterable[str]) -> list[int]:
        """The nodes that tensors follow from."""
        wanted = set(names)
        chosen = []
        for index in reversed(range(len(self.nodes))):
            if not wanted.isdisjoint(self.nodes[index].outputs):
                chosen.append(index)
                wanted.update(reads(self.nodes[index]))
        return chosen[::-1]

    def number(self, name: str) -> int | None:
        """The value of a constant, or an initializer, that is one integer of 64 bits; None if it is anything else."""
        tensor = self._small.get(name)
        if tensor is None:
            made = (
                index for index, node in enumerate(self.nodes) if name in node.outputs and node.op_type == "Constant"
            )
            node = self._encoded[index] if (index := next(made, None)) is not None else b""
            tensor = _inside(_inside(node, schema.NODE_ATTRIBUTE), schema.ATTRIBUTE_T)
        content = _inside(tensor, schema.TENSOR_RAW_DATA)
        return int.from_bytes(content, "little", signed=True) if len(content) == _INTEGER_BYTES else None

    def declared(self) -> dict[str, Value]:
        """The types that the file declares."""
        values = (*(read_value(self._data, span) for span in self._value_infos), *self.outputs)
        return {value.name: value for value in values if value.elem_type}

    def functions(self) -> list[Function]:
        """The functions of the file."""
        return [read_function(self._data, span) for span in self._functions]


def _inside(message: bytes, tag: int) -> bytes:
    """The last field of a message with this tag."""
    return message[slice(*last_fields(message, 0, len(message), {tag >> 3: tag & 7}).get(tag >> 3, (0, 0)))]


def _is_small(data: Data, span: Span) -> bool:
    if span[1] - span[0] > _SMALL_TENSOR_BYTES:
        return False
    tags = {tag: first for tag, _, first, _ in fields(data, *span)}
    return tags.get(schema.TENSOR_DATA_LOCATION) != schema.EXTERNAL
