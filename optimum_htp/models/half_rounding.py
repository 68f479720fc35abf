"""Float16 that is computed as float16: what a GPU gives, on the CPU.

ONNX Runtime's CPU provider has few kernels for float16: it computes in float32 and drops the casts in between, so that what
overflows on a GPU does not. Here each float16 tensor passes a sequence of one, which it can't see through: so it is rounded.

Example: `y = Mul(x, w)` in float16 becomes `u = Mul(x, w); s = SequenceConstruct(u); y = SequenceAt(s, 0)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optimum_htp.hierarchy import NodeKey
from optimum_htp.models.external_weights import ExternalWeights
from optimum_htp.models.runtime import DEFAULT_PROVIDER, open_session, session_options
from optimum_htp.onnxfile import (
    NUMBERS,
    ModelSpans,
    Node,
    OnnxModel,
    Piece,
    SourceFiles,
    TensorTypes,
    Value,
    body_path,
    graph_pieces,
    model_pieces,
    model_spans,
    scope_spans,
    scopes_of,
    topological_order,
)

_HALF = NUMBERS["float16"]
_UNROUNDED, _LIST, _ZERO = "/optimum_htp_unrounded", "/optimum_htp_list", "/optimum_htp_zero"


def open_rounded(model: OnnxModel, *, name: str) -> tuple[Any, bool]:
    """A session of a whole file on the CPU, and whether float16 is rounded in it. Raises HtpError with `name`."""
    with SourceFiles(model.path) as files:
        rounding = HalfRounding(model, files, model_spans(files.data))
        if not rounding.is_needed:
            return open_session(model.path, session_options(), provider=DEFAULT_PROVIDER, name=name), False
        weights = ExternalWeights(model, files.data)
        pieces = rounding.whole_model(weights)
        return weights.open(files, pieces, session_options(), provider=DEFAULT_PROVIDER, name=name), True


class HalfRounding:
    """The nodes of a file, encoded so that their results in float16 are rounded, in bodies too; not those in functions."""

    def __init__(self, model: OnnxModel, files: SourceFiles, spans: ModelSpans) -> None:
        self._model = model
        self._files = files
        self._spans = spans
        self._known: dict[str, frozenset[str]] = {}

    @property
    def is_needed(self) -> bool:
        """Whether any node of the main graph gives float16, or a body has weights of it."""
        bodies = (graph for path, graph in self._model.graphs() if path)
        if any(tensor.data_type == _HALF for graph in bodies for tensor in graph.initializers):
            return True
        return any(name in self.halves("") for node in self._model.graph.nodes for name in node.outputs)

    def halves(self, path: str) -> frozenset[str]:
        """The tensors that are known to be in float16 in a graph; none of a function's."""
        if path not in self._known:
            scopes, spans = scopes_of(self._model, path), scope_spans(self._files.data, self._spans.graph, path)
            self._known[path] = half_tensors(TensorTypes(self._files.data, self._spans, scopes, spans).known)
        return self._known[path]

    def whole_model(self, weights: ExternalWeights) -> list[Piece]:
        """The file, so encoded."""
        (spans,) = scope_spans(self._files.data, self._spans.graph, "")
        graph = self._model.graph
        nodes = [
            piece
            for index in topological_order(graph.nodes)
            for piece in self.encoded(
                weights.placed("node", spans.nodes[index]), graph.nodes[index], ("", index), halves=self.halves("")
            )
        ]
        pieces = graph_pieces(
            name="rounded",
            nodes=[[zero()], *nodes],
            initializers=(weights.placed("tensor", span) for span in spans.tensors.values()),
            sparse_initializers=(weights.placed("sparse", span) for span in dict.fromkeys(spans.sparse.values())),
            inputs=graph.inputs,
            outputs=graph.outputs,
        )
        return model_pieces(self._spans, pieces)

    def encoded(
        self,
        pieces: list[Piece],
        node: Node,
        place: NodeKey,
        *,
        halves: frozenset[str] | None,
        names: Mapping[str, str] | None = None,
    ) -> Iterator[list[Piece]]:
        """A node, with other names for some tensors, and behind it what rounds those of its results that are `halves`.

        `pieces` are the node as the file has it, `place` where that is. With None nothing is rounded, in bodies neither.
        """
        import onnx

        if not (names or (halves is not None and (node.bodies or not halves.isdisjoint(node.outputs)))):
            yield pieces
            return
        proto = onnx.NodeProto.FromString(self._files.joined(pieces))
        if halves is not None:
            self._round_bodies(proto, place)
        yield from ([each.SerializeToString()] for each in _rounded(proto, halves or frozenset(), names or {}))

    def _round_bodies(self, node: Any, place: NodeKey) -> None:
        for attribute in node.attribute:
            bodies = [(attribute.name, attribute.g)] if attribute.type == attribute.GRAPH else []
            bodies += [(f"{attribute.name}[{index}]", body) for index, body in enumerate(attribute.graphs)]
            for element, body in bodies:
                path = body_path(*place, element)
                rounded = []
                for index, inner in enumerate(body.node):
                    self._round_bodies(inner, (path, index))
                    rounded += _rounded(inner, self.halves(path), {})
                del body.node[:]
                body.node.extend(rounded)


def half_tensors(types: Mapping[str, Value]) -> frozenset[str]:
    """Those of some tensors that are in float16."""
    return frozenset(name for name, value in types.items() if value.elem_type == _HALF)


def zero() -> bytes:
    """The node that a graph with rounded tensors needs in front."""
    from onnx import helper

    encoded: bytes = helper.make_node("Constant", [], [_ZERO], value_int=0).SerializeToString()
    return encoded


def _rounded(node: Any, halves: frozenset[str], names: Mapping[str, str]) -> list[Any]:
    from onnx import helper

    results = [names.get(name, name) for name in node.output if name in halves]
    if not (results or names):
        return [node]
    known = {name: f"{names.get(name, name)}{_UNROUNDED}" for name in node.output if name in halves}
    renamed = {**names, **known}
    if any(
        name in renamed for name in node.output
    ):  # there may be others of it, and ONNX Runtime wants one of each name
        node.ClearField("name")
    _rename(node, renamed)
    lists = [helper.make_node("SequenceConstruct", [f"{name}{_UNROUNDED}"], [f"{name}{_LIST}"]) for name in results]
    values = [helper.make_node("SequenceAt", [f"{name}{_LIST}", _ZERO], [name]) for name in results]
    return [node, *lists, *values]


def _rename(node: Any, names: Mapping[str, str]) -> None:
    """Other names for what a node reads and gives, in its bodies where they read from around them."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs) if attribute.type in (attribute.GRAPH, attribute.GRAPHS) else ():
            own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
            own |= {name for inner in body.node for name in inner.output}
            around = {name: new for name, new in names.items() if name not in own}
            for inner in body.node:
                _rename(inner, around)
            for value in body.output:
                value.name = around.get(value.name, value.name)
