"""What the exporter's fusions put in place of nodes of several modules, in a file of torch's dynamo exporter.

A fusion leaves what one of the nodes said, or nothing. What else the new node does is known

- of a MatMul whose product is taken apart by a Split: it is that of all the modules around whose weights, side by side, are
  as wide as its own, and that multiply nowhere else;
- of an operator that adds before it normalizes, or a bias before it computes: by the parameters that it reads by name, and
  by the data for the sum, which is the work of the lowest module that contains both terms, or one of them and the rest.

Example, where the nodes say nothing of 1 and 2:

    0: h = LayerNorm(x, norm.weight)      norm
    1: p = MatMul(h, packed)              fused  attention, of q, k and v: [8, 8], [8, 4] and [8, 4] are [8, 16]
    2: a, b, c = Split(p)                 fused  the same
    3: y = Reshape(a)                     attention
"""

from __future__ import annotations

from collections.abc import Iterator

from optimum_htp.hierarchy import ModulePath, NodeKey
from optimum_htp.onnxfile import Node, OnnxModel
from optimum_htp.tagging.rules.evidence import Evidence

_RUNTIME = "com.microsoft"
# Operators of ONNX Runtime that add their first two inputs, and the output that has the sum.
_ADDING = {"SkipLayerNormalization": 3, "SkipSimplifiedLayerNormalization": 3}
_OWN_INPUTS = {
    "SkipLayerNormalization": 4,
    "SkipSimplifiedLayerNormalization": 3,
}  # what is before a bias of another's
_PRODUCTS = frozenset(("MatMul", "Gemm", "FusedMatMul"))


def fused_origins(model: OnnxModel, evidence: Evidence) -> dict[NodeKey, tuple[ModulePath, ...]]:
    """The modules of each node that does the work of several, as far as that is certain."""
    return dict(_Fusions(model, evidence).found())


class _Fusions:
    def __init__(self, model: OnnxModel, evidence: Evidence) -> None:
        self._evidence = evidence
        self._tree = evidence.trace.tree
        self._nodes = evidence.nodes
        self._stored = {tensor.name: tensor.dims for _, graph in model.graphs() for tensor in graph.initializers}
        self._makers = {(key[0], name): key for key, node in self._nodes.items() for name in node.outputs if name}
        self._readers: dict[tuple[str, str], list[NodeKey]] = {}
        for key, node in self._nodes.items():
            for name in node.inputs:
                self._readers.setdefault((key[0], name), []).append(key)
        self._multiplying = {
            evidence.stated[key]
            for key, node in self._nodes.items()
            if key in evidence.stated and node.op_type in _PRODUCTS
        }
        self._sums: dict[NodeKey, ModulePath] = {}  # the modules of the sums in nodes that add

    def found(self) -> Iterator[tuple[NodeKey, tuple[ModulePath, ...]]]:
        """The nodes and their modules, producers before consumers."""
        for key, node in self._nodes.items():
            if key not in self._evidence.owners:
                continue
            if key not in self._evidence.stated and node.op_type in _PRODUCTS:
                paths = self._packed(key, node)
                split = self._split(key, node)
                if paths and split is not None:
                    yield key, paths
                    yield split, paths
            elif key in self._evidence.stated and node.domain == _RUNTIME:
                paths = self._added(key, node)
                if len(paths) > 1:
                    yield key, paths

    def _split(self, key: NodeKey, node: Node) -> NodeKey | None:
        """The Split that takes the product apart, if nothing else reads it."""
        readers = self._readers.get((key[0], node.outputs[0]), [])
        return readers[0] if len(readers) == 1 and self._nodes[readers[0]].op_type == "Split" else None

    def _packed(self, key: NodeKey, node: Node) -> tuple[ModulePath, ...]:
        """The modules whose weights side by side are as wide as that of a product, if there is just one choice of them."""
        split = self._split(key, node)
        dims = self._stored.get(node.inputs[1], ()) if len(node.inputs) > 1 else ()
        if split is None or len(dims) != 2:
            return ()
        inside = self._evidence.owners[key].path
        width = {
            path: shape[0]
            for name, shape in self._evidence.trace.shapes.items()
            if len(shape) == 2 and shape[1] == dims[0] and name.rpartition(".")[2] == "weight"
            and (path := self._evidence.trace.tensors[name])[: len(inside)] == inside and path not in self._multiplying
        }  # fmt: skip
        parts = len(self._nodes[split].outputs)
        return tuple(width) if len(width) == parts > 1 and sum(width.values()) == dims[1] else ()

    def _added(self, key: NodeKey, node: Node) -> tuple[ModulePath, ...]:
        """The modules of what a fused operator adds, and its own."""
        own = self._evidence.stated[key]
        paths = dict.fromkeys(
            path
            for name in node.inputs[_OWN_INPUTS.get(node.op_type, 1) :]
            if name in self._stored
            and (path := self._evidence.trace.tensors.get(name)) is not None
            and path[:-1] == own[:-1]
        )
        if node.op_type in _ADDING:
            self._sums[key] = self._sum(key, node, own)
            paths = {**paths, self._sums[key]: None}
        return tuple({**paths, own: None})

    def _sum(self, key: NodeKey, node: Node, own: ModulePath) -> ModulePath:
        terms = [path for name in node.inputs[:2] if (path := self._of_value(key[0], name)) is not None]
        choices = [self._tree.lowest_common([term, own]) for term in terms]
        if len(terms) == 2:
            choices.append(self._tree.lowest_common(terms))
        return max(choices, key=len, default=own)

    def _of_value(self, graph: str, name: str) -> ModulePath | None:
        maker = self._makers.get((graph, name))
        owner = self._evidence.owners.get(maker) if maker is not None else None
        if maker is None or owner is None:
            return None
        node = self._nodes[maker]
        is_sum = maker in self._sums and name == dict(enumerate(node.outputs)).get(_ADDING[node.op_type])
        return self._sums[maker] if is_sum else owner.path
