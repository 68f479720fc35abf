"""Convolutions that ONNX Runtime lays out in blocks of channels, and the weights that they had before.

A block has as many channels as the processor's vectors have numbers (8 or 16), and the last is filled up with zeros. How many
channels there are without those is only in the file: such a node is called like the tensor that it makes there.
"""

from __future__ import annotations

from collections.abc import Iterator

from optimum_htp.onnxfile import Node, OnnxModel

_DOMAIN = "com.microsoft.nchwc"
_SUFFIX = "_nchwc"
_MOST_CHANNELS = 16  # in a block
_STEPS = 6  # from what a node makes back to its convolution: past a normalization, an addition, an activation
_SCALING = ("_mul", "_bn")  # what stands behind the name of what a `Mul` or a `BatchNormalization` makes
_SAME_SHAPE = frozenset(("Identity", "Cast", "DequantizeLinear", "QuantizeLinear"))

Shape = tuple[int, ...]


class BlockedConvolutions:
    """The convolutions of the file that an optimized graph was made of."""

    def __init__(self, source: OnnxModel) -> None:
        graphs = [graph for _, graph in source.graphs()]
        self._makers = {name: node for graph in graphs for node in graph.nodes for name in node.outputs if name}
        self._weights = {each.name: each.dims for graph in graphs for each in graph.initializers}

    def is_blocked(self, node: Node) -> bool:
        """Whether a node is such a convolution."""
        return node.domain == _DOMAIN and node.op_type == "Conv"

    def is_scaling(self, node: Node) -> bool:
        """Whether a node was no convolution in the file, but multiplied each channel by a number."""
        name = node.name.removesuffix(_SUFFIX)
        return self.is_blocked(node) and any(
            name.endswith(suffix) and name.removesuffix(suffix) in self._makers for suffix in _SCALING
        )

    def weight(self, node: Node, blocked: Shape) -> Shape | None:
        """The shape that the weight of such a convolution has in the file; None if that is not known."""
        for each in self._near(node.name.removesuffix(_SUFFIX)):
            shape = self._shape(each.inputs[1]) if each.op_type == "Conv" and len(each.inputs) > 1 else None
            if shape is not None and _is_same(shape, blocked):
                return shape
        return None

    def _shape(self, name: str) -> Shape | None:
        """The shape of a weight, also behind what gives it another name or type."""
        for _ in range(_STEPS):
            maker = self._makers.get(name)
            if name in self._weights or maker is None or maker.op_type not in _SAME_SHAPE:
                break
            name = maker.inputs[0]
        return self._weights.get(name)

    def _near(self, output: str) -> Iterator[Node]:
        """The node that makes a tensor, and those right before it, the nearest first."""
        names = [output]
        for _ in range(_STEPS):
            nodes = [self._makers[name] for name in names if name in self._makers]
            yield from nodes
            names = list(dict.fromkeys(name for node in nodes for name in node.inputs))


def _is_same(shape: Shape, blocked: Shape) -> bool:
    """Whether a weight in blocks is one of that shape, whose channels may have been filled up."""
    channels = all(0 <= wide - narrow < _MOST_CHANNELS for narrow, wide in zip(shape[:2], blocked[:2], strict=True))
    return len(shape) == len(blocked) and channels and shape[2:] == blocked[2:]
