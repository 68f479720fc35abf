"""Valid but odd protobuf: what we read is what onnx reads, and tagging and stripping give back every byte.

Models are taken apart by protobuf's own description of them, changed in ways that no serializer has, and put together
again: fields twice, in another order, split into pieces, unknown, packed, with lengths wider than they need be.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from test_onnxfile import entries_for, make_odd_model, ours

from optimum_htp.errors import OnnxFileError
from optimum_htp.onnxfile.model import Graph, OnnxModel, Value
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.onnxfile.rewriting import rewrite_metadata
from optimum_htp.onnxfile.wire import encode_varint, fields


@dataclass(slots=True)
class Field:
    """A field of a message: its bytes, or the fields of the message that it holds."""

    tag: int
    content: bytes | list[Field]


def taken_apart(data: bytes, message: Descriptor) -> list[Field]:
    found = []
    for tag, at, first, stop in fields(data, 0, len(data), {}):
        kind = message.fields_by_number.get(tag >> 3)
        content = data[at + len(encode_varint(tag)) : stop] if tag & 7 != 2 else data[first:stop]
        inner = kind.message_type if kind is not None and tag & 7 == 2 else None
        found.append(Field(tag, taken_apart(content, inner) if inner is not None else content))
    return found


def put_together(message: list[Field], width: int) -> bytes:
    encoded = bytearray()
    for field in message:
        content = field.content if isinstance(field.content, bytes) else put_together(field.content, width)
        length = encode_varint(len(content), width) if field.tag & 7 == 2 else b""
        encoded += encode_varint(field.tag) + length + content
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
    *(repeat, drop, shuffle, split, add_unknown, add_empty, enlarge),
)  # fmt: skip


def theirs(model: onnx.ModelProto) -> dict[str, Any]:
    """What onnx reads."""
    return {
        "versions": (model.ir_version, {each.domain: each.version for each in model.opset_import}),
        "metadata": {each.key: each.value for each in model.metadata_props},
        "graph": graph_of(model.graph),
        "functions": {
            (each.domain, each.name, each.overload): (nodes_of(each.node), list(each.input), list(each.output))
            for each in model.functions
        },
    }


def graph_of(graph: onnx.GraphProto) -> tuple[Any, ...]:
    tensors = [(each.name, each.data_type, tuple(each.dims)) for each in graph.initializer]
    sparse = [(each.values.name, each.values.data_type, tuple(each.dims)) for each in graph.sparse_initializer]
    return graph.name, nodes_of(graph.node), values_of(graph.input), values_of(graph.output), sorted(tensors + sparse)


def nodes_of(nodes: Any) -> list[Any]:
    return [
        (
            *(node.name, node.op_type, node.domain, tuple(node.input), tuple(node.output)),
            {each.key: each.value for each in node.metadata_props},
            {
                name: graph_of(graph)
                for attribute in node.attribute
                for name, graph in (
                    *([(attribute.name, attribute.g)] if attribute.HasField("g") else []),
                    *((f"{attribute.name}[{i}]", each) for i, each in enumerate(attribute.graphs)),
                )
            },
        )
        for node in nodes
    ]


def values_of(values: Any) -> list[Any]:
    return [(value.name, *type_of(value.type)) for value in values]


def type_of(of: onnx.TypeProto) -> tuple[int, tuple[Any, ...] | None]:
    if not of.HasField("tensor_type"):
        return 0, None
    dims = tuple(getattr(dim, dim.WhichOneof("value") or "", None) for dim in of.tensor_type.shape.dim)
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


@pytest.mark.parametrize("width", [1, 5], ids=["shortest lengths", "lengths of five bytes"])
def test_read_as_onnx_reads_and_stripped_to_the_byte(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    content = make_odd_model().SerializeToString()
    path = tmp_path / "model.onnx"
    rng = random.Random(width)
    same = refused = 0
    for number in range(300):
        whole = taken_apart(content, onnx.ModelProto.DESCRIPTOR)
        for _ in range(rng.choice((1, 1, 2, 4))):
            rng.choice(CHANGES)(rng.choice([each for each in messages(whole) if each]), rng)
        changed = put_together(whole, width)
        path.write_bytes(changed)
        try:
            model = read_model(path)
        except OnnxFileError:
            refused += 1
            continue
        try:
            expected = theirs(onnx.ModelProto.FromString(changed))
        except (DecodeError, UnicodeDecodeError):  # in what we never look into
            continue
        assert read(model) == expected, f"change {number}"
        rewrite_metadata(path, nodes=entries_for(model), owned=ours, model={"pkg.optimum_htp.tagged.0": "{}"})
        onnx.ModelProto.FromString(path.read_bytes())
        rewrite_metadata(path, nodes={}, owned=ours, model={})
        assert path.read_bytes() == changed, f"change {number}"
        same += 1
    assert same > 150
    assert refused > 10
