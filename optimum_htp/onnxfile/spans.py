"""Where the parts of a graph are in an ONNX file, so that they can be copied without being parsed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.attributes import scan_attribute
from optimum_htp.onnxfile.model import OnnxModel, split_body_path
from optimum_htp.onnxfile.wire import Data, decode_text, fields, last_fields, release_pages

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class GraphSpans:
    """The payloads of a graph's nodes in order, initializers by name (`sparse` apart), and types of tensors."""

    nodes: tuple[Span, ...]
    tensors: Mapping[str, Span]
    sparse: Mapping[str, Span]
    value_infos: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class ModelSpans:
    """The payloads of a model's functions, metadata and graph; of the rest, without training, whole fields (`head`)."""

    head: tuple[Span, ...]
    functions: tuple[Span, ...]
    metadata: tuple[Span, ...]
    graph: Span


def model_spans(data: Data) -> ModelSpans:
    """Walks over a model, which `onnxfile.read_model` has read without complaint."""
    tags = (schema.MODEL_GRAPH, schema.MODEL_FUNCTION, schema.MODEL_METADATA, schema.MODEL_TRAINING)
    apart: dict[int, list[Span]] = {tag: [] for tag in tags}
    head: list[Span] = []
    for tag, at, first, stop in fields(data, 0, len(data)):
        if tag in apart:
            apart[tag].append((first, stop))
        else:
            head.append((at, stop))
    graphs, functions, metadata, _ = map(tuple, apart.values())
    return ModelSpans(tuple(head), functions, metadata, graphs[0])


def graph_spans(data: Data, span: Span, *, node_tag: int = schema.GRAPH_NODE) -> GraphSpans:
    """Walks over a graph; of a function, whose nodes have another tag, over these alone."""
    nodes: list[Span] = []
    tensors: dict[str, Span] = {}
    sparse: dict[str, Span] = {}
    value_infos: list[Span] = []
    released = span[0]
    for tag, _, first, stop in fields(data, *span):
        released = release_pages(data, stop, released)  # or those around each tensor's head pile up
        if tag == node_tag:
            nodes.append((first, stop))
        elif node_tag != schema.GRAPH_NODE:
            continue
        elif tag == schema.GRAPH_INITIALIZER:
            tensors[_tensor_name(data, (first, stop))] = (first, stop)
        elif tag == schema.GRAPH_SPARSE_INITIALIZER:
            for values in last_fields(data, first, stop, {schema.SPARSE_VALUES >> 3: 2}).values():
                sparse[_tensor_name(data, values)] = (first, stop)
        elif tag == schema.GRAPH_VALUE_INFO:
            value_infos.append((first, stop))
    return GraphSpans(tuple(nodes), tensors, sparse, tuple(value_infos))


def scope_spans(data: Data, main: Span, path: str) -> list[GraphSpans]:
    """The graphs from the main graph to the one at a path, as `OnnxModel.graphs` names them."""
    scopes = [graph_spans(data, main)]
    for part in path.split("/") if path else ():
        index, _, element = part.partition(".")
        scopes.append(graph_spans(data, _body_span(data, scopes[-1].nodes[int(index)], element)))
    return scopes


def initializer_span(scopes: Sequence[GraphSpans], name: str) -> tuple[Span, bool] | None:
    """Where the initializer is that a name means in the last of the graphs, and whether it is a sparse one."""
    for spans in reversed(scopes):
        if name in spans.tensors:
            return spans.tensors[name], False
        if name in spans.sparse:
            return spans.sparse[name], True
    return None


def _body_span(data: Data, node: Span, element: str) -> Span:
    """Where a body of a node is, by the attribute's name, for the i-th of a list `name[i]`."""
    return dict(_body_spans(data, node))[element]


def _body_spans(data: Data, node: Span) -> Iterator[tuple[str, Span]]:
    for tag, _, first, stop in fields(data, *node):
        attribute = scan_attribute(data, first, stop, set()) if tag == schema.NODE_ATTRIBUTE else None
        for name, (_, _, body_first, body_stop) in attribute[0] if attribute is not None else ():
            yield name, (body_first, body_stop)


def _tensor_name(data: Data, span: Span) -> str:
    names = last_fields(data, *span, {schema.TENSOR_NAME >> 3: 2}).values()
    return next((decode_text(data[slice(*name)]) for name in names), "")


class GraphPlaces:
    """Where the nodes and the initializers of all graphs of a model are in its file, by the graphs' paths."""

    def __init__(self, data: Data, model: OnnxModel) -> None:
        self._data = data
        whole = model_spans(data)
        self.functions = {function.path: span for function, span in zip(model.functions, whole.functions, strict=True)}
        self._graphs: dict[str, GraphSpans] = {}
        holder, bodies = ("", -1), dict[str, Span]()
        for path, _ in model.graphs():  # a graph comes before its bodies
            around = split_body_path(path)
            if path in self.functions:
                self._graphs[path] = graph_spans(data, self.functions[path], node_tag=schema.FUNCTION_NODE)
            elif around is None:
                self._graphs[path] = graph_spans(data, whole.graph)
            else:
                if holder != around[:2]:
                    holder = around[:2]
                    bodies = dict(_body_spans(data, self.node(holder)))
                self._graphs[path] = graph_spans(data, bodies[around[2]])

    def node(self, key: tuple[str, int]) -> Span:
        """Where a node is, by the path of its graph and its index there."""
        return self._graphs[key[0]].nodes[key[1]]

    def initializer(self, key: tuple[str, str]) -> tuple[Span, bool]:
        """Where an initializer is, by the path of its graph and its name there, and whether it is a sparse one."""
        found = initializer_span([self._graphs[key[0]]], key[1])
        if found is None:
            raise KeyError(key)
        return found
