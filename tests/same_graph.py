"""Whether two graphs are the same node by node, whatever their inner tensors are called and in which order nodes stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import onnx


def facts(graph: onnx.GraphProto, around: Mapping[str, Any] | None = None) -> tuple[Counter[int], list[Any]]:
    """How often each node is there, as what it does with all that comes before it; and what the graph returns."""
    known = dict(around or {})
    own: dict[str, Any] = {
        value.name: ("input", index if around is not None else value.name) for index, value in enumerate(graph.input)
    }
    own |= {tensor.name: ("stored", tensor.name) for tensor in graph.initializer}
    known |= own
    nodes: Counter[int] = Counter()
    waiting = list(graph.node)
    while waiting:
        late = []
        for node in waiting:
            if not all(name in known or not name for name in _reads(node)):
                late.append(node)
                continue
            fact = hash(
                (
                    node.op_type,
                    node.domain,
                    _attributes(node, known),
                    tuple(known[name] if name else "" for name in node.input),
                    len(node.output),
                )
            )
            nodes[fact] += 1
            known |= {name: (fact, index) for index, name in enumerate(node.output) if name}
        assert len(late) < len(waiting), f"nodes read what nothing makes: {[list(node.input) for node in late][:3]}"
        waiting = late
    return nodes, [known[value.name] for value in graph.output]


def _attributes(node: onnx.NodeProto, known: Mapping[str, Any]) -> Any:
    found = []
    for attribute in sorted(node.attribute, key=lambda each: each.name):
        graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
        if graphs:
            for graph in graphs:
                inner, returned = facts(graph, known)
                found.append((attribute.name, frozenset(inner.items()), tuple(returned)))
            continue
        if attribute.HasField("t"):
            plain = onnx.TensorProto()
            plain.CopyFrom(attribute.t)
            plain.ClearField("name")
            found.append((attribute.name, plain.SerializeToString(deterministic=True)))
        else:
            found.append((attribute.name, str(onnx.helper.get_attribute_value(attribute))))
    return tuple(found)


def _reads(node: onnx.NodeProto) -> set[str]:
    names = set(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
            inside = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            inside |= {name for inner in graph.node for name in inner.output}
            names |= {name for inner in graph.node for name in _reads(inner)} - inside
            names |= {value.name for value in graph.output} - inside
    return names
