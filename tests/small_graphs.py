"""Graphs of a few lines in ONNX's own text, with what is true of each node in the comment at the end of its line.

    >>> small = read('''
    ...     [conv] c = Conv(x, w)    # b.conv
    ...     y = Relu(c)              # b.act
    ... ''')
    >>> small.notes
    {('', 0): 'b.conv', ('', 1): 'b.act'}

A line holds one node, its name in front in brackets; names with odd characters stand in quotes. Each line of a node
has a comment, an empty one too. A tensor that no node of the main graph makes is an initializer if its name begins
with `w`, an input otherwise; one that no node reads is an output.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.parser

from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeKey, NodeTag
from optimum_htp.onnxfile.model import OnnxModel
from optimum_htp.onnxfile.reading import read_content
from optimum_htp.onnxfile.rewriting import rewrite_metadata
from optimum_htp.package.node_metadata import CALL, ORIGINS, SOURCE, TAG
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.tagging.projection.steps import project

_OPSETS = {"": 17, "com.microsoft": 1, "local": 1}


@dataclass(frozen=True, slots=True)
class SmallGraph:
    """A graph and the comments of its nodes.

    Attributes:
        model: The graph.
        notes: The comment of each node.
        content: The bytes of its file, which need not be there.
    """

    model: OnnxModel
    notes: dict[NodeKey, str]
    content: bytes = b""


def read(
    text: str, *functions: str, outputs: Sequence[str] = (), weights: Mapping[str, onnx.TensorProto] = {}
) -> SmallGraph:
    """Reads a graph.

    Args:
        text: The nodes of the main graph.
        functions: The text of each function, head and nodes.
        outputs: Outputs in addition to what no node reads.
        weights: Initializers that are more than a single one.
    """
    graph = onnx.parser.parse_graph(f"main () => () {{\n{_without_comments(text)}\n}}")
    makes, reads = _names(graph.node)
    for name in reads:
        if name in makes:
            continue
        if name in weights:
            graph.initializer.append(weights[name])
        elif name.startswith("w"):
            graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [1], [1.0]))
        else:
            graph.input.append(_value(name))
    made = [name for node in graph.node for name in node.output if name]
    graph.output.extend(_value(name) for name in made if name not in reads or name in outputs)
    model = onnx.helper.make_model(
        graph,
        ir_version=10,
        opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()],
        functions=[onnx.parser.parse_function(_without_comments(function)) for function in functions],
    )
    content = model.SerializeToString()
    known = read_content(content, path=Path("model.onnx"))
    comments = [comment for part in (text, *functions) for comment in _comments(part)]
    return SmallGraph(known, dict(zip(_in_text_order(known), comments, strict=True)), content)


def _without_comments(text: str) -> str:
    return "\n".join(line.partition("#")[0] for line in text.splitlines())


def _comments(text: str) -> Iterator[str]:
    for line in text.splitlines():
        _, mark, comment = line.partition("#")
        if mark:
            yield comment.strip()


def _in_text_order(model: OnnxModel) -> Iterator[NodeKey]:
    """The nodes as they stand in the text: a node, what is in its bodies, the next node; functions last."""
    graphs = dict(model.graphs())

    def walk(path: str) -> Iterator[NodeKey]:
        for position, node in enumerate(graphs[path].nodes):
            yield path, position
            for element, _ in node.bodies:
                yield from walk(f"{path}/{position}.{element}" if path else f"{position}.{element}")

    yield from walk("")
    for function in model.functions:
        yield from walk(function.path)


def _names(nodes: Iterable[onnx.NodeProto]) -> tuple[set[str], dict[str, None]]:
    """What nodes and those in their bodies make, and what they read of it and from outside."""
    makes: set[str] = set()
    reads: dict[str, None] = {}
    for node in nodes:
        makes.update(node.output)
        reads.update(dict.fromkeys(filter(None, node.input)))
        for attribute in node.attribute:
            if attribute.HasField("g"):
                inner_makes, inner_reads = _names(attribute.g.node)
                known = inner_makes | {value.name for value in attribute.g.input}
                returned = dict.fromkeys(value.name for value in attribute.g.output)
                reads.update({name: None for name in {**inner_reads, **returned} if name not in known})
    return makes, reads


def _value(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N"])


# --- Tags ---------------------------------------------------------------------------------------------------------


def spelled(path: str) -> str:
    """The tag of a dotted path, each of whose modules has its name for its class: `/Net/A.a/B.b` for `a.b`."""
    return "/Net" + "".join(f"/{name.upper()}.{name}" for name in path.split(".") if path != "root")


def short(tag: NodeTag) -> str:
    """A tag as the comments spell it: `a.b`, `a.b@1` for a call, `fused a (a.b, a.c)`, `inserted a`, `unresolved`."""
    if tag.source == "unresolved":
        return tag.source
    text = _path(tag.tag) + (f"@{tag.call}" if tag.call is not None else "")
    text = text if tag.source == "scope" else f"{tag.source} {text}"
    return f"{text} ({', '.join(map(_path, tag.origins))})" if tag.origins else text


def _path(tag: str) -> str:
    return ".".join(segment.partition(".")[2] for segment in tag.split("/")[2:]) or "root"


def tags_of(small: SmallGraph) -> dict[NodeKey, NodeTag]:
    """The tags that the comments spell; `-` is a node without."""
    tags = {}
    for key, note in small.notes.items():
        if note != "-":
            path, at, call = note.partition("@")
            assert re.fullmatch(r"[\w.]+", path), f"{note!r} is not the path of a module"
            tags[key] = NodeTag(spelled(path), "scope", int(call) if at else None)
    return tags


Tagged = tuple[OnnxModel, dict[NodeKey, NodeTag]]


def tagged(text: str, *functions: str, outputs: Sequence[str] = ()) -> Tagged:
    """A graph and the tags that its comments spell."""
    small = read(text, *functions, outputs=outputs)
    return small.model, tags_of(small)


def carried(
    sources: Iterable[tuple[OnnxModel, Any]], target: OnnxModel, *, roots: Iterable[Root] = (), **options: Any
) -> dict[NodeKey, NodeTag]:
    """Projects the tags of some graphs onto another. All tests of its rules go through here."""
    known = Roots(roots)
    return dict(project([TaggedGraph(model, tags, known) for model, tags in sources], target, **options).tags)


# --- Files --------------------------------------------------------------------------------------------------------


def save(
    path: Path,
    text: str,
    *,
    opset: int = 17,
    weights: Mapping[str, onnx.TensorProto] = {},
    origins: Mapping[str, Sequence[str]] = {},
) -> Path:
    """Writes a model whose graphs are spelled as ONNX does, inputs, outputs, functions and all; each node has a comment.

    Its nodes are tagged as the comments say (`net.a`, or `net.a@1` for a call), and carry no namespace. `weights` are
    initializers that the text does not spell; `origins` has the modules that the node of a tensor was made of.
    """
    domains = ["com.microsoft", "com.microsoft.nchwc", "local", "mine"]
    imports = ", ".join(
        f'"{domain}": {version}' for domain, version in {"": opset, **dict.fromkeys(domains, 1)}.items()
    )
    model = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{imports}]>\n{_without_comments(text)}")
    model.graph.initializer.extend(weights.values())
    known = read_content(model.SerializeToString(), path=path)
    notes = zip(_in_text_order(known), _comments(text), strict=True)
    fused = {
        index: origins[node.outputs[0]] for index, node in enumerate(known.graph.nodes) if node.outputs[0] in origins
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    nodes = {}
    for key, note in notes:
        name, _, call = note.partition("@")
        nodes[key] = {TAG: spelled(name), SOURCE: "scope", **({CALL: call} if call else {})}
        if not key[0] and key[1] in fused:
            nodes[key] |= {SOURCE: "fused", ORIGINS: json.dumps([spelled(path) for path in fused[key[1]]])}
    rewrite_metadata(path, nodes=nodes, owned=lambda key: False, model={})
    return path
