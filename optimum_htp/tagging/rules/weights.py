"""Evidence in the weights, for graphs whose nodes have names that say nothing: `Conv_0`, or none at all.

Torch before 1.13 numbered the nodes, as other tools still do, and kept the names of most parameters; where the model is at
hand, its values say what the others are, such as a transposed `onnx::MatMul_302`. What reads
`encoder.layer.0.output.LayerNorm.weight` was made by the module that computes with it. Which one that is, is known if

- the code of the module that holds it computes with it, and no other's reads it (`code`);
- one node reads it, copies left out: several may be several calls, or may have read other parameters of the same values,
  which some tool stores once. Torch does so too, but puts an Identity in front of those that read the others. Where the
  values are known to be one parameter's alone, all that read it, or a copy, are its module's calls.

From there follows what a function of PyTorch's own is exported to in all its parts: the product in front of a Linear's
bias, and the steps of a LayerNorm, where it is not one operator yet.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from optimum_htp.hierarchy import ModuleInfo, ModulePath, NodeKey
from optimum_htp.onnxfile import Edges, OnnxModel, split_body_path
from optimum_htp.tagging.rules.code import ANY, code_of
from optimum_htp.tagging.rules.evidence import Owner
from optimum_htp.tagging.tracing.trace import ModuleTrace

# They pass on a stored value to whoever reads it next.
_PASSING = frozenset(("QuantizeLinear", "DequantizeLinear"))
# What Optimum adds to the names of weights that the two parts of a merged decoder share.
_MERGED = re.compile(r"_merged_\d+$")
_LINEAR = "torch.nn.modules.linear.Linear"
_LAYER_NORM = "torch.nn.modules.normalization.LayerNorm"
_EMBEDDING = "torch.nn.modules.sparse.Embedding"


def parameter_name(tensor: str) -> str:
    """The name that a stored tensor has in the model, if it is a parameter or a buffer that kept its name."""
    return _MERGED.sub("", tensor)


def read_weights(
    model: OnnxModel, trace: ModuleTrace, distinct: Mapping[tuple[str, str], str] | None = None
) -> dict[NodeKey, Owner]:
    """The owners of the nodes that the weights of a graph prove.

    `distinct` has the parameters whose values stored tensors have, and no other parameter has, by graph and name of the tensor.
    """
    readers = _Readers(model, trace, distinct or {})
    found: dict[NodeKey, set[ModulePath]] = defaultdict(set)
    for name, key, first in readers.single():
        path = readers.module(name, key, first=first)
        if path is not None:
            found[key].add(path)
    proven = {key: paths.pop() for key, paths in found.items() if len(paths) == 1}
    for key, path in list(proven.items()):
        proven = {**dict.fromkeys(readers.parts(key, path), path), **proven}
    return {key: Owner(path) for key, path in proven.items()}


class _Readers:
    """The nodes of a graph that read its parameters and buffers."""

    def __init__(self, model: OnnxModel, trace: ModuleTrace, distinct: Mapping[tuple[str, str], str]) -> None:
        self._trace = trace
        self._distinct = distinct
        self._tree = trace.tree
        self._nodes = dict(model.nodes())
        self._edges = Edges(model)
        self._uses: dict[tuple[str, str], dict[NodeKey, None]] = {}  # by the graph of a tensor and its name
        for key, node in self._nodes.items():
            for name in node.inputs:
                tensor = self._edges.find(key[0], name)
                if tensor is not None:
                    self._uses.setdefault(tensor, {})[key] = None
        self._returned = {(path, value.name) for path, graph in model.graphs() for value in graph.outputs}
        self._shapes = {
            (path, tensor.name): tensor.dims for path, graph in model.graphs() for tensor in graph.initializers
        }
        self._read_anywhere = {pair for info in self._tree for pair in code_of(info.qualified_class).reads}

    def single(self) -> Iterator[tuple[str, NodeKey, bool]]:
        """The parameters that one node reads, or one in each body of a node, and whether as its first input.

        Of those whose values no other parameter has, all that read them.
        """
        for tensor in self._shapes:
            name = self._parameter(tensor)
            if name is None:
                continue
            alone = tensor in self._distinct  # then a copy, too, is one of nothing else
            reads = dict(self._reads(tensor, _PASSING | {"Identity"} if alone else _PASSING))
            bodies = [split_body_path(path) for path, _ in reads]
            branches = None not in bodies and len({body[:2] for body in bodies if body}) == 1
            by_one = len(reads) == 1 or (branches and len({path for path, _ in reads}) == len(reads))
            if by_one or alone:
                yield from ((name, key, first) for key, first in reads.items())

    def _parameter(self, tensor: tuple[str, str]) -> str | None:
        """The parameter or buffer that a stored tensor is: by its values, else by its name and shape."""
        known = self._distinct.get(tensor)
        if known is not None:
            return known if known in self._trace.shapes else None
        name = parameter_name(tensor[1])
        alike = name in self._trace.tensors and self._trace.shapes.get(name) == self._shapes[tensor]
        return name if alike else None

    def _reads(
        self, tensor: tuple[str, str], through: frozenset[str], passed: int = 0
    ) -> Iterator[tuple[NodeKey, bool]]:
        """The nodes that read a tensor, passed on by those operators or as it is; and whether as their first input."""
        for key in self._uses.get(tensor, ()):
            node = self._nodes[key]
            first = self._edges.find(key[0], node.inputs[0]) == tensor
            if node.op_type in through and first and node.outputs and passed <= len(through):
                yield from self._reads((key[0], node.outputs[0]), through, passed + 1)
            elif node.op_type != "Identity":
                yield key, first

    def module(self, name: str, key: NodeKey, *, first: bool) -> ModulePath | None:
        """The module that computes with a parameter in a node that reads it; None if that is not certain."""
        node = self._nodes[key]
        if node.domain not in ("", "ai.onnx") or node.op_type in _PASSING:
            return None
        holders = self._trace.holders.get(name, (self._trace.tensors[name],))
        if len(holders) > 1:  # of those that share a weight, an Embedding is what looks its rows up
            looks_up = node.op_type == "Gather" and first
            holders = tuple(path for path in holders if (self._class(path) == _EMBEDDING) == looks_up)
        if len(holders) != 1 or any(info.aliases for info in self._chain(holders[0])):
            return None
        attribute = name.rpartition(".")[2]
        computes = attribute in code_of(self._class(holders[0])).computes
        return holders[0] if computes and not self._read_by_others(holders[0], attribute) else None

    def _read_by_others(self, holder: ModulePath, attribute: str) -> bool:
        """Whether code reads what this module holds: by the module's name, or of any module below its own."""
        names = {(name, ANY) for name in holder} | {(name, attribute) for name in holder[-1:]}
        above = {pair for info in self._chain(holder[:-1]) for pair in code_of(info.qualified_class).reads if holder}
        return not (names.isdisjoint(self._read_anywhere) and above.isdisjoint({(ANY, attribute), (ANY, ANY)}))

    def _chain(self, path: ModulePath) -> Iterator[ModuleInfo]:
        return (self._tree.module(path[:length]) for length in range(len(path) + 1))

    def _class(self, path: ModulePath) -> str:
        return self._tree.module(path).qualified_class

    # --- What follows from a node that is proven ---

    def parts(self, key: NodeKey, path: ModulePath) -> Sequence[NodeKey]:
        """The nodes that come with one that reads a weight, as the parts of one function."""
        kind, op_type = self._class(path), self._nodes[key].op_type
        if kind == _LINEAR and op_type == "Add":
            return self._product(key, path)
        return self._steps(key) if kind == _LAYER_NORM and op_type == "Mul" else ()

    def _product(self, key: NodeKey, path: ModulePath) -> Sequence[NodeKey]:
        """The product that a Linear's bias is added to, by a weight of the Linear's size."""
        product = self._producer(key, "MatMul")
        shape = self._trace.shapes.get(".".join((*path, "weight")))
        if product is None or shape is None or self._readers(product) != {key}:
            return ()
        inputs = (self._edges.find(product[0], name) for name in self._nodes[product].inputs)
        shapes = [self._shapes.get(tensor) for tensor in inputs if tensor is not None]
        return (product,) if shape[::-1] in shapes else ()

    def _steps(self, scaled: NodeKey) -> Sequence[NodeKey]:
        """The steps in front of the scale of a LayerNorm: `(x - mean(x)) / sqrt(mean((x - mean(x))**2) + eps)`."""
        divided = self._producer(scaled, "Div")
        centered = self._producer(divided, "Sub")
        mean = self._producer(centered, "ReduceMean")
        root = self._producer(divided, "Sqrt")
        shifted = self._producer(root, "Add")
        variance = self._producer(shifted, "ReduceMean")
        squared = self._producer(variance, "Pow") or self._producer(variance, "Mul")
        steps = [step for step in (divided, centered, mean, root, shifted, variance, squared) if step is not None]
        own = {*steps, scaled}
        whole = len(steps) == 7 and self._producer(squared, "Sub") == centered and self._reads_alike(mean, centered)
        if not whole or not all(self._readers(step) <= own for step in steps):
            return ()
        read = {self._edges.producer(step[0], name) for step in steps for name in self._nodes[step].inputs}
        constants = (key for key in read if key is not None and self._nodes[key].op_type == "Constant")
        return [*steps, *(key for key in constants if self._readers(key) <= own)]

    def _producer(self, key: NodeKey | None, op_type: str) -> NodeKey | None:
        """The node of this operator that produces an input of a node."""
        producers = () if key is None else (self._edges.producer(key[0], name) for name in self._nodes[key].inputs)
        return next((each for each in producers if each and self._nodes[each].op_type == op_type), None)

    def _readers(self, key: NodeKey) -> set[NodeKey]:
        """The nodes that read what a node produces; itself too, where the model returns it."""
        outputs = [(key[0], name) for name in self._nodes[key].outputs]
        readers = {key for output in outputs for key in self._uses.get(output, ())}
        return readers | ({("", -1)} if self._returned.intersection(outputs) else set())

    def _reads_alike(self, mean: NodeKey | None, centered: NodeKey | None) -> bool:
        """Whether a mean is taken of what it is subtracted from."""
        if mean is None or centered is None:
            return False
        return self._edges.find(mean[0], self._nodes[mean].inputs[0]) == self._edges.find(
            centered[0], self._nodes[centered].inputs[0]
        )
