"""ONNX's own objects of a graph and its bodies, whose nodes are called as in the rest of this package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import body_path

Proto = Any
"""An object of the `onnx` library, which has no types."""


def graphs_in(graph: Proto, path: str = "") -> Iterator[tuple[str, Proto]]:
    """A graph and the bodies in it, each with its path."""
    yield path, graph
    for index, node in enumerate(graph.node):
        for attribute in node.attribute:
            if attribute.type == attribute.GRAPH:
                yield from graphs_in(attribute.g, body_path(path, index, attribute.name))
            for number, body in enumerate(attribute.graphs):
                yield from graphs_in(body, body_path(path, index, f"{attribute.name}[{number}]"))


def nodes_in(graph: Proto) -> Iterator[tuple[NodeKey, Proto]]:
    """The nodes of a graph and of the bodies in it."""
    for path, each in graphs_in(graph):
        for index, node in enumerate(each.node):
            yield (path, index), node


def stored_in(graph: Proto) -> dict[str, Proto]:
    """The initializers of a graph and of the bodies in it, by name."""
    return {tensor.name: tensor for _, each in graphs_in(graph) for tensor in each.initializer}


def constants_in(graph: Proto) -> dict[str, Proto]:
    """The tensors of the Constant nodes of a graph and of the bodies in it, by the name of their result."""
    return {
        node.output[0]: attribute.t
        for _, node in nodes_in(graph)
        if node.op_type == "Constant" and not node.domain
        for attribute in node.attribute
        if attribute.name == "value"
    }


def attribute_of(node: Proto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    from onnx import helper

    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)
