"""ONNX messages put together: what we encode ourselves, and parts of a file that are copied as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.model import Value
from optimum_htp.onnxfile.spans import ModelSpans
from optimum_htp.onnxfile.wire import (
    Data,
    Piece,
    encode_message,
    encode_text,
    encode_varint,
    last_fields,
    message_pieces,
)


def encode_entry(key: str, value: str) -> bytes:
    """A `StringStringEntryProto`, as metadata and the places of external data are."""
    return encode_message(schema.ENTRY_KEY, encode_text(key)) + encode_message(schema.ENTRY_VALUE, encode_text(value))


def read_entry(data: Data, start: int, end: int) -> tuple[bytes, bytes]:
    """The key and the value of a `StringStringEntryProto`."""
    entry = last_fields(data, start, end, schema.KEY_AND_VALUE)
    key, value = (data[slice(*entry.get(tag >> 3, (0, 0)))] for tag in (schema.ENTRY_KEY, schema.ENTRY_VALUE))
    return key, value


def encode_value(value: Value) -> bytes:
    """A `ValueInfoProto`; without an element type it is just the name, and ONNX Runtime infers the type."""
    encoded = encode_message(schema.VALUE_NAME, encode_text(value.name))
    if not value.elem_type:
        return encoded
    tensor = encode_varint(schema.TYPE_ELEM_TYPE) + encode_varint(value.elem_type)
    if value.shape is not None:
        axes = (encode_message(schema.DIMENSION, _encode_dimension(size)) for size in value.shape)
        tensor += encode_message(schema.TYPE_SHAPE, b"".join(axes))
    return encoded + encode_message(schema.VALUE_TYPE, encode_message(schema.TENSOR_TYPE, tensor))


def _encode_dimension(size: int | str | None) -> bytes:
    if size is None:
        return b""
    if isinstance(size, str):
        return encode_message(schema.DIMENSION_SYMBOL, encode_text(size))
    return encode_varint(schema.DIMENSION_SIZE) + encode_varint(size)


def encode_node(
    op_type: str, inputs: Iterable[str], outputs: Iterable[str], *, name: str = "", domain: str = ""
) -> bytes:
    """A `NodeProto` without attributes."""
    parts = [(schema.NODE_INPUT, each) for each in inputs] + [(schema.NODE_OUTPUT, each) for each in outputs]
    parts += [(schema.NODE_NAME, name)] * bool(name) + [(schema.NODE_OP_TYPE, op_type)]
    parts += [(schema.NODE_DOMAIN, domain)] * bool(domain)
    return b"".join(encode_message(tag, encode_text(text)) for tag, text in parts)


def encode_opset(domain: str, version: int) -> bytes:
    """An `OperatorSetIdProto`."""
    named = encode_message(schema.OPSET_DOMAIN, encode_text(domain)) if domain else b""
    return named + encode_varint(schema.OPSET_VERSION) + encode_varint(version)


def graph_pieces(
    *,
    name: str,
    nodes: Iterable[Sequence[Piece]],
    initializers: Iterable[Sequence[Piece]] = (),
    sparse_initializers: Iterable[Sequence[Piece]] = (),
    inputs: Iterable[Value] = (),
    outputs: Iterable[Value] = (),
    value_infos: Iterable[Sequence[Piece]] = (),
) -> list[Piece]:
    """A `GraphProto` whose nodes and tensors are pieces."""
    pieces: list[Piece] = []
    for tag, messages in (  # in the order in which protobuf writes them
        (schema.GRAPH_NODE, nodes),
        (schema.GRAPH_NAME, [[encode_text(name)]]),
        (schema.GRAPH_INITIALIZER, initializers),
        (schema.GRAPH_INPUT, ([encode_value(value)] for value in inputs)),
        (schema.GRAPH_OUTPUT, ([encode_value(value)] for value in outputs)),
        (schema.GRAPH_VALUE_INFO, value_infos),
        (schema.GRAPH_SPARSE_INITIALIZER, sparse_initializers),
    ):
        for message in messages:
            pieces += message_pieces(tag, message)
    return pieces


def model_pieces(
    model: ModelSpans,
    graph: Sequence[Piece],
    *,
    functions: Iterable[Sequence[Piece]] | None = None,
    metadata: Iterable[Sequence[Piece]] = (),
) -> list[Piece]:
    """A `ModelProto` with the head of a model and another graph; with the model's functions, unless others are given."""
    pieces: list[Piece] = [*model.head, *message_pieces(schema.MODEL_GRAPH, graph)]
    functions = ([span] for span in model.functions) if functions is None else functions
    for tag, messages in ((schema.MODEL_FUNCTION, functions), (schema.MODEL_METADATA, metadata)):
        for message in messages:
            pieces += message_pieces(tag, message)
    return pieces
