"""Odd but valid protobuf: models taken apart by protobuf's own description, changed as no serializer does, and put together
again; and what onnx reads of a file and what we read of it, in one form.

`test_onnxfile_differential.py` and the fuzzer (`fuzz_targets.py`) compare these.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from optimum_htp.onnxfile.model import Graph, OnnxModel, Value
from optimum_htp.onnxfile.wire import decode_text, encode_varint, fields


@dataclass(slots=True)
class Field:
    """A field of a message: its bytes, or the fields of the message that it holds."""

    tag: int
    content: bytes | list[Field]


def taken_apart(data: bytes, message: Descriptor) -> list[Field]:
    found = []
    for tag, at, first, stop in fields(data, 0, len(data)):
        kind = message.fields_by_number.get(tag >> 3)
        content = data[at + len(encode_varint(tag)) : stop] if tag & 7 != 2 else data[first:stop]
        inner = kind.message_type if kind is not None and tag & 7 == 2 else None
        found.append(Field(tag, taken_apart(content, inner) if inner is not None else content))
    return found


def put_together(message: list[Field], width: Callable[[], int]) -> bytes:
    """The bytes of a message; `width` says for each tag and each length how many bytes it has at least."""
    encoded = bytearray()
    for field in message:
        content = field.content if isinstance(field.content, bytes) else put_together(field.content, width)
        length = encode_varint(len(content), width()) if field.tag & 7 == 2 else b""
        encoded += encode_varint(field.tag, width()) + length + content
    return bytes(encoded)


def messages(message: list[Field]) -> Iterator[list[Field]]:
    yield message
    for field in message:
        if isinstance(field.content, list):
            yield from messages(field.content)


def repeat(message: list[Field], rng: random.Random) -> None:
    message.insert(rng.randrange(len(message) + 1), rng.choice(message))


def drop(message: list[Field], rng: random.Random) -> None:
    del message[rng.randrange(len(message))]


def shuffle(message: list[Field], rng: random.Random) -> None:
    rng.shuffle(message)


def split(message: list[Field], rng: random.Random) -> None:
    """A message in two pieces: two of a repeated field, one put together of a single one."""
    at = rng.randrange(len(message))
    content = message[at].content
    cut = rng.randrange(len(content) + 1)
    if isinstance(content, list):
        message[at : at + 1] = [Field(message[at].tag, content[:cut]), Field(message[at].tag, content[cut:])]


def add_unknown(message: list[Field], rng: random.Random) -> None:
    message.insert(rng.randrange(len(message) + 1), Field(7777 << 3 | 2, rng.randbytes(rng.randrange(200))))


def add_group(message: list[Field], rng: random.Random) -> None:
    """A group, which ONNX has none of, with a field and a group in it; its number may be that of a known field."""
    number = rng.choice((*range(1, 30), 7777))
    inner = encode_varint(number << 3 | 3) + b"\x08\x05" + encode_varint(number << 3 | 4)
    content = rng.choice((b"", b"\x12\x02ab", inner)) + encode_varint(number << 3 | 4)
    message.insert(rng.randrange(len(message) + 1), Field(number << 3 | 3, content))


def retype(message: list[Field], rng: random.Random) -> None:
    """A field with a wire type that is not its own, which protobuf takes for an unknown one."""
    wire_type, content = rng.choice(((0, b"\x07"), (1, bytes(8)), (2, b"abc"), (5, bytes(4))))
    number = rng.choice(message).tag >> 3
    message.insert(rng.randrange(len(message) + 1), Field(number << 3 | wire_type, content))


def other_bytes(message: list[Field], rng: random.Random) -> None:
    """A text that is not UTF-8."""
    field = rng.choice(message)
    if field.tag & 7 == 2 and isinstance(field.content, bytes):
        field.content += bytes((rng.choice((0x80, 0xC3, 0xED, 0xFF)),))


def add_empty(message: list[Field], rng: random.Random) -> None:
    field = rng.choice(message)
    message.insert(rng.randrange(len(message) + 1), Field(field.tag, b"" if field.tag & 7 == 2 else field.content))


def enlarge(message: list[Field], rng: random.Random) -> None:
    """A number in more bits than its type has, or a text that is longer."""
    field = rng.choice(message)
    if field.tag & 7 == 0:
        field.content = encode_varint(rng.choice((1 << 63, 1 << 32, (1 << 40) + 1, (1 << 64) - 1)))
    elif isinstance(field.content, bytes):
        field.content = field.content * 100


CHANGES: tuple[Callable[[list[Field], random.Random], None], ...] = (
    *(repeat, drop, shuffle, split, add_unknown, add_empty, enlarge, add_group, retype, other_bytes),
)  # fmt: skip


def text(value: str | bytes) -> str:
    """What protobuf gives for a string, which is bytes where it is not UTF-8."""
    return decode_text(value) if isinstance(value, bytes) else value


def theirs(model: onnx.ModelProto) -> dict[str, Any]:
    """What onnx reads."""
    return {
        "versions": (model.ir_version, {text(each.domain): each.version for each in model.opset_import}),
        "metadata": {text(each.key): text(each.value) for each in model.metadata_props},
        "graph": graph_of(model.graph),
        "functions": {
            (text(each.domain), text(each.name), text(each.overload)): (
                nodes_of(each.node),
                list(map(text, each.input)),
                list(map(text, each.output)),
            )
            for each in model.functions
        },
    }


def graph_of(graph: onnx.GraphProto) -> tuple[Any, ...]:
    tensors = [(text(each.name), each.data_type, tuple(each.dims)) for each in graph.initializer]
    sparse = [(text(each.values.name), each.values.data_type, tuple(each.dims)) for each in graph.sparse_initializer]
    return (
        text(graph.name),
        nodes_of(graph.node),
        values_of(graph.input),
        values_of(graph.output),
        sorted(tensors + sparse),
    )


def nodes_of(nodes: Any) -> list[Any]:
    return [
        (
            *map(text, (node.name, node.op_type, node.domain)),
            *(tuple(map(text, node.input)), tuple(map(text, node.output))),
            {text(each.key): text(each.value) for each in node.metadata_props},
            {
                name: graph_of(graph)
                for attribute in node.attribute
                for name, graph in (
                    *([(text(attribute.name), attribute.g)] if attribute.HasField("g") else []),
                    *((f"{text(attribute.name)}[{i}]", each) for i, each in enumerate(attribute.graphs)),
                )
            },
        )
        for node in nodes
    ]


def values_of(values: Any) -> list[Any]:
    return [(text(value.name), *type_of(value.type)) for value in values]


def type_of(of: onnx.TypeProto) -> tuple[int, tuple[Any, ...] | None]:
    if not of.HasField("tensor_type"):
        return 0, None
    sizes = (getattr(dim, dim.WhichOneof("value") or "", None) for dim in of.tensor_type.shape.dim)
    dims = tuple(text(size) if isinstance(size, bytes) else size for size in sizes)
    return of.tensor_type.elem_type, dims if of.tensor_type.HasField("shape") else None


def read(model: OnnxModel) -> dict[str, Any]:
    """What we read, in the same form."""
    return {
        "versions": (model.ir_version, model.opset_imports),
        "metadata": model.metadata,
        "graph": read_graph(model.graph),
        "functions": {
            (each.domain, each.name, each.overload): (
                read_nodes(each.graph),
                [value.name for value in each.graph.inputs],
                [value.name for value in each.graph.outputs],
            )
            for each in model.functions
        },
    }


def read_graph(graph: Graph) -> tuple[Any, ...]:
    tensors = sorted((each.name, each.data_type, each.dims) for each in graph.initializers)
    return graph.name, read_nodes(graph), read_values(graph.inputs), read_values(graph.outputs), tensors


def read_nodes(graph: Graph) -> list[Any]:
    return [
        (
            *(node.name, node.op_type, node.domain, node.inputs, node.outputs),
            node.metadata,
            {name: read_graph(body) for name, body in node.bodies},
        )
        for node in graph.nodes
    ]


def read_values(values: tuple[Value, ...]) -> list[Any]:
    return [(value.name, value.elem_type, value.shape) for value in values]


REFUSALS = (
    *("second main graph", "graph twice", "two attributes of the same name", "its values twice", "second function"),
    *("the name of an attribute with a graph", "has no valid location", "it has no graph", "has a name of"),
    *("more than", "nested deeper"),
)
"""What we refuse of what protobuf reads: what can't be told apart in a graph's path, or has no meaning to ONNX."""


def is_ours_to_refuse(content: bytes, error: Exception) -> bool:
    """Whether protobuf does not read a file either, or it is one of the `REFUSALS`."""
    try:
        onnx.ModelProto.FromString(content)
    except DecodeError:
        return True
    return any(why in f"{error} {error.__cause__}" for why in REFUSALS)
