"""The element types and shapes of the tensors in a graph, without its weights.

ONNX Runtime says them (`runtime_types`), so a type is the one that the model runs with, and none is guessed. Only of a file
that it can't load at all, ONNX's own inference says what it can. Dynamic axes get symbols by trials (`tried_sizes`), and
where these leave one open, by ONNX Runtime's symbolic shape inference (`symbolic_sizes`), which takes ten times as long.

Measured against the values of all 68,000 tensors in 185 graphs (thirteen architectures as exported, saved by ONNX Runtime,
optimized, quantized, in float16), before there were trials, which know more: every element type is right, and no size,
symbol or number of axes is wrong; 5,400 of 128,000 axes have neither size nor symbol, and of 198 tensors, behind an `If`
whose branches differ, not even their number is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from optimum_htp.onnxfile.edges import reads
from optimum_htp.onnxfile.model import Value
from optimum_htp.onnxfile.runtime_types import runtime_types
from optimum_htp.onnxfile.scopes import Scope
from optimum_htp.onnxfile.spans import GraphSpans, ModelSpans, Span
from optimum_htp.onnxfile.submodels import Submodels
from optimum_htp.onnxfile.symbolic_sizes import is_open, merged, read_proto, with_sizes
from optimum_htp.onnxfile.tried_sizes import tried_sizes
from optimum_htp.onnxfile.wire import Data


class TensorTypes:
    """What is known of the tensors of a graph and of those around it, the last of `scopes` and `spans`.

    Attributes:
        known: The types by name, with those sizes of dynamic axes only that operators hand on. What is not known to be a
            tensor is left out.
    """

    def __init__(self, data: Data, model: ModelSpans, scopes: Sequence[Scope], spans: Sequence[GraphSpans]) -> None:
        self.known: dict[str, Value] = {}
        self._graphs: list[tuple[Submodels, Mapping[str, Value]]] = []
        weights: dict[str, Value] = {}
        outer: dict[str, Span] = {}
        for scope, parts in zip(scopes, spans, strict=True):
            produced = {name for node in scope.graph.nodes for name in node.outputs}
            known = {name: value for name, value in self.known.items() if name not in produced}
            known.update({value.name: value for value in scope.graph.inputs if value.elem_type})
            outside = dict.fromkeys(name for node in scope.graph.nodes for name in reads(node) if name not in produced)
            own = {
                tensor.name: Value(tensor.name, tensor.data_type, tensor.dims) for tensor in scope.graph.initializers
            }
            weights |= own
            # ONNX's own inference takes a sparse initializer for a value of another kind; for its consumers it is a tensor.
            sparse = {name: own[name] for name in parts.sparse}
            known |= sparse
            given = {**sparse, **{name: known[name] for name in outside if name in known}}
            tensors = {name: outer[name] for name in outside if name in outer} | dict(parts.tensors)
            graph = Submodels(data, model, scope, parts, given=given, tensors=tensors, types=weights)
            inferred = runtime_types(graph)
            inferred = _onnx_types(graph) if inferred is None else inferred
            for value in scope.graph.outputs:  # what the file says of them, where inference says less
                tensor = inferred.get(value.name)
                if value.elem_type and (tensor is None or tensor.shape is None):
                    inferred[value.name] = value
            self._graphs.append((graph, inferred))
            self.known = known | inferred
            outer |= parts.tensors

    def sized(self, names: Iterable[str] | None = None) -> dict[str, Value]:
        """The types, where those of some tensors, or of all, have the sizes of all dynamic axes that can be told.

        Such an axis has its symbol or what is computed from symbols (`past + sequence_length`), which tensors of equal
        size share, or None; symbols that begin with `unk__` are not the file's own.
        """
        types: dict[str, Value] = {}
        inside = [graph.given for graph, _ in self._graphs[1:]]
        for (graph, inferred), taken in zip(self._graphs, [*inside, {}], strict=True):
            graph.given = {name: types.get(name, value) for name, value in graph.given.items()}
            known = {**inferred, **graph.given}
            types |= known | _sized(graph, known, known if names is None else {*names, *taken})
        return self.known | types


def named_axes(values: Iterable[Value]) -> list[Value]:
    """Types with names for the axes of which `TensorTypes.sized` knows only which are equal: `dim_0`, `dim_1`.

    >>> named_axes([Value("a", 1, ("batch", "unk__7")), Value("b", 1, ("unk__7", 4))])[1].shape
    ('dim_0', 4)
    """
    names: dict[str, str] = {}

    def named(size: int | str | None) -> int | str | None:
        is_unknown = isinstance(size, str) and size.startswith("unk__")
        return names.setdefault(str(size), f"dim_{len(names)}") if is_unknown else size

    return [value if value.shape is None else replace(value, shape=tuple(map(named, value.shape))) for value in values]


def _sized(graph: Submodels, known: Mapping[str, Value], wanted: Iterable[str]) -> dict[str, Value]:
    types = tried_sizes(graph, known, wanted)
    if any(map(is_open, types.values())):
        symbolic = with_sizes(graph, known)
        types = {name: merged(value, symbolic[name]) for name, value in types.items()}
    return types


def _onnx_types(graph: Submodels) -> dict[str, Value]:
    """What ONNX's own inference says, which knows no operators but ONNX's and goes on behind those that it doesn't."""
    import onnx

    proto = onnx.ModelProto.FromString(graph.model(range(len(graph.nodes)), graph.given, graph.outputs))
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
    except Exception:  # of its C++ module, for what is no model: ONNX Runtime, which refuses it too, says why
        return dict(graph.given)
    values = map(read_proto, (*inferred.graph.value_info, *inferred.graph.output))
    return {**graph.given, **{value.name: value for value in values if value.elem_type}}
