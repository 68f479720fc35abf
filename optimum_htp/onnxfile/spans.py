"""Where the parts of a graph stand in an ONNX file, so that they can be copied without being read.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optimum_htp.onnxfile.attributes import scan_attribute
from optimum_htp.onnxfile.schema import (
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    GRAPH_SPARSE_INITIALIZER,
    MODEL_FUNCTION,
    MODEL_GRAPH,
    MODEL_METADATA,
    NODE_ATTRIBUTE,
    SPARSE_VALUES,
    TENSOR_NAME,
)
from optimum_htp.onnxfile.wire import fields, last_fields, release_pages


if TYPE_CHECKING:
    from optimum_htp.onnxfile.wire import Data

Span = tuple[int, int]

_GRAPH_VALUE_INFO = 106
_MODEL_TRAINING = 162


@dataclass(frozen=True, slots=True)
class GraphSpans:
    """The payloads of a graph's parts.

    Attributes:
        nodes: Its nodes in order.
        tensors: Its initializers by name.
        sparse: Its sparse initializers by name.
        value_infos: What the file says of the types of tensors inside.
    """

    nodes: tuple[Span, ...]
    tensors: Mapping[str, Span]
    sparse: Mapping[str, Span]
    value_infos: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class ModelSpans:
    """The parts of a model.

    Attributes:
        head: Whole fields: all but graph, functions, metadata and training.
        functions: Its functions' payloads.
        metadata: Its metadata entries' payloads.
        graph: The main graph's payload.
    """

    head: tuple[Span, ...]
    functions: tuple[Span, ...]
    metadata: tuple[Span, ...]
    graph: Span


def model_spans(data: Data) -> ModelSpans:
    """Walks over a model, which `onnxfile.read_model` has read without complaint.

    Raises:
        WireError: It is no ONNX model.
    """
    apart: dict[int, list[Span]] = {MODEL_GRAPH: [], MODEL_FUNCTION: [], MODEL_METADATA: [], _MODEL_TRAINING: []}
    head: list[Span] = []
    for tag, at, first, stop in fields(data, 0, len(data), {}):
        if tag in apart:
            apart[tag].append((first, stop))
        else:
            head.append((at, stop))
    return ModelSpans(tuple(head), tuple(apart[MODEL_FUNCTION]), tuple(apart[MODEL_METADATA]), apart[MODEL_GRAPH][0])


def graph_spans(data: Data, span: Span) -> GraphSpans:
    """Walks over a graph."""
    nodes: list[Span] = []
    tensors: dict[str, Span] = {}
    sparse: dict[str, Span] = {}
    value_infos: list[Span] = []
    released = span[0]
    for tag, _, first, stop in fields(data, *span, {}):
        released = release_pages(data, stop, released)  # or those around each tensor's head pile up
        if tag == GRAPH_NODE:
            nodes.append((first, stop))
        elif tag == GRAPH_INITIALIZER:
            tensors[_tensor_name(data, (first, stop))] = (first, stop)
        elif tag == GRAPH_SPARSE_INITIALIZER:
            values = last_fields(data, first, stop, {SPARSE_VALUES >> 3: 2})
            if values:
                sparse[_tensor_name(data, values[SPARSE_VALUES >> 3])] = (first, stop)
        elif tag == _GRAPH_VALUE_INFO:
            value_infos.append((first, stop))
    return GraphSpans(tuple(nodes), tensors, sparse, tuple(value_infos))


def body_span(data: Data, node: Span, element: str) -> Span:
    """Where a body of a node is, by the attribute's name, for the i-th of a list `name[i]`."""
    for tag, _, first, stop in fields(data, *node, {}):
        found = scan_attribute(data, first, stop, set()) if tag == NODE_ATTRIBUTE else None
        for name, field in found[0] if found is not None else ():
            if name == element:
                return field[2], field[3]
    raise KeyError(element)


def scope_spans(data: Data, main: Span, path: str) -> list[GraphSpans]:
    """The graphs from the main graph to the one at a path, as `OnnxModel.graphs` names them."""
    scopes = [graph_spans(data, main)]
    for part in path.split("/") if path else ():
        position, _, element = part.partition(".")
        scopes.append(graph_spans(data, body_span(data, scopes[-1].nodes[int(position)], element)))
    return scopes


def _tensor_name(data: Data, span: Span) -> str:
    found = last_fields(data, *span, {TENSOR_NAME >> 3: 2})
    return data[slice(*found[TENSOR_NAME >> 3])].decode() if found else ""
