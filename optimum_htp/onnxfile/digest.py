"""A digest of a model's structure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from optimum_htp.onnxfile.model import Graph, OnnxModel
from optimum_htp.onnxfile.wire import encode_text


def graph_digest(model: OnnxModel) -> str:
    """Returns the SHA-256, in hexadecimal, of the model's structure.

    That is each node's domain, operator, inputs and outputs, with bodies and functions; not the nodes' names, metadata,
    weights or other attributes. Each string goes in after its length, each list after its count, 8 bytes little-endian.
    """
    digest = hashlib.sha256()
    _digest_nodes(model.graph, digest.update)
    digest.update(_count(len(model.functions)))
    for function in model.functions:
        digest.update(_strings((function.domain, function.name, function.overload)))
        _digest_nodes(function.graph, digest.update)
    return digest.hexdigest()


def _digest_nodes(graph: Graph, update: Callable[[bytes], None]) -> None:
    update(_count(len(graph.nodes)))
    operators: dict[tuple[str, str], bytes] = {}
    for node in graph.nodes:
        operator = node.domain, node.op_type
        encoded = operators.get(operator)
        if encoded is None:
            encoded = operators[operator] = _strings(operator)
        update(b"".join((encoded, _strings(node.inputs), _strings(node.outputs), _count(len(node.bodies)))))
        for element, body in node.bodies:
            update(_strings((element,)))
            _digest_nodes(body, update)


def _strings(strings: tuple[str, ...]) -> bytes:
    parts = [len(strings).to_bytes(8, "little")]
    for string in strings:
        encoded = encode_text(string)
        parts += (len(encoded).to_bytes(8, "little"), encoded)
    return b"".join(parts)


def _count(number: int) -> bytes:
    return number.to_bytes(8, "little")
