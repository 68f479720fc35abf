"""What becomes of numbers that a type can't hold: whether that does any harm, by what reads them.

In a type with infinity a number that is too large is infinite. Where only a Softmax comes to see that it is minus infinity,
as in the mask of an attention, it is 0 after that, as it was before; unless all numbers of a row are, which gives NaN.

What is stored in the file is no larger than the type's largest number once it was converted: converters cut it there. So is
what is filled with it, or made of it without computing.

Example: `m = Where(mask, 0, -3.4e38)`, `s = Add(scores, m)`, `p = Softmax(s)`: what is too large in `m` and `s` is harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from optimum_htp.models import FlatGraph
from optimum_htp.onnxfile import Node
from optimum_htp.verbs.ranges.tally import Tally

VIEWS = frozenset(("Shape", "Size"))
"""What looks at a tensor, and not at its numbers."""

_MOVES = frozenset(
    "Reshape Transpose Squeeze Unsqueeze Flatten Identity Slice Split Concat Expand Tile Gather GatherND Pad Dropout Trilu "
    "Cast ScatterND ScatterElements".split()
)
_BOUNDED = frozenset("Sigmoid Tanh Erf HardSigmoid Equal Less Greater LessOrEqual GreaterOrEqual IsNaN IsInf".split())
_BOUNDED_BELOW = frozenset("Exp Relu Elu Celu Selu Softplus".split())  # their results, for what is minus infinity
_BIASES = {"MultiHeadAttention": 5, "Attention": 5, "GroupQueryAttention": 10}  # that is added to scores
_CHOOSES = frozenset(("Where", "Min", "Max", "Clip"))
_STORED = frozenset(("Constant", "ConstantOfShape"))
_DIVIDES = {"Div": 1, "Reciprocal": 0, "Log": 0}


class Consequences:
    """Looks at what reads tensors of a graph.

    `over` are the tensors with numbers that are too large, `masked` those of which a Softmax has rows without any that the
    type holds; `sign` is that of all numbers of a tensor, 0 where they differ or are not known, `is_float` says whether a
    tensor has floating-point numbers.
    """

    def __init__(
        self,
        flat: FlatGraph,
        *,
        over: Collection[str],
        masked: Collection[str],
        sign: Callable[[str], int],
        is_float: Callable[[str], bool],
    ) -> None:
        self._flat = flat
        self._over = over
        self._masked = masked
        self._sign = sign
        self._is_float = is_float
        self._harmless: dict[tuple[str, int], bool] = {}

    def is_harmless(self, name: str, tally: Tally) -> bool:
        """Whether it does no harm that what is too large in a tensor becomes infinite."""
        signs = ([1] if tally.above else []) + ([-1] if tally.over > tally.above else [])
        return all(self._absorbed(name, sign) for sign in signs)

    def is_cut(self, name: str) -> bool:
        """Whether what is too large in a tensor is stored in the file, or was made of that without computing."""
        index = self._flat.producer.get(name)
        if index is None:
            return name not in self._flat.inputs
        node = self._flat.nodes[index].node
        if node.op_type in _STORED:
            return True
        if node.op_type not in _MOVES | _CHOOSES:
            return False
        large = [read for read in node.inputs if read in self._over]
        return bool(large) and all(map(self.is_cut, large))

    def divides(self, name: str) -> bool:
        """Whether something is divided by a tensor, or its logarithm is taken, or that of its square root."""
        for index in self._flat.consumers.get(name, ()):
            node = self._flat.nodes[index].node
            slot = _DIVIDES.get(node.op_type)
            if slot is not None and node.inputs[slot : slot + 1] == (name,):
                return True
            follows = node.op_type in _MOVES or node.op_type == "Sqrt"
            if follows and node.inputs[:1] == (name,) and any(map(self.divides, filter(None, node.outputs))):
                return True
        return False

    def readers(self, name: str) -> list[int]:
        """The nodes that read the numbers of a tensor."""
        found = self._flat.consumers.get(name, ())
        return [index for index in found if self._flat.nodes[index].node.op_type not in VIEWS]

    def _absorbed(self, name: str, sign: int) -> bool:
        known = self._harmless.get((name, sign))
        if known is None:
            known = name not in self._flat.outputs and all(
                self._absorbs(self._flat.nodes[index].node, name, sign) for index in self._flat.consumers.get(name, ())
            )
            self._harmless[name, sign] = known
        return known

    def _absorbs(self, node: Node, name: str, sign: int) -> bool:
        slots = [slot for slot, read in enumerate(node.inputs) if read == name]
        return bool(slots) and not node.bodies and all(self._absorbs_at(node, slot, sign) for slot in slots)

    def _absorbs_at(self, node: Node, slot: int, sign: int) -> bool:
        operator = node.op_type
        if operator in VIEWS or operator in _BOUNDED:
            return True
        if operator == "Softmax":
            return sign < 0 and node.inputs[0] not in self._masked
        if operator in _BOUNDED_BELOW:
            return sign < 0
        if operator == "Clip" and slot:
            return True  # the bound is that of the type
        if operator in ("Min", "Max"):
            return (sign > 0) == (operator == "Min") or self._handed_on(node, sign)
        if operator in _BIASES or operator == "Attention":
            bias = 3 if operator == "Attention" and not node.domain else _BIASES[operator]
            return sign < 0 and slot == bias
        if operator in ("Add", "Sum", "Clip", "LogSoftmax") or (operator == "Where" and slot):
            return self._handed_on(node, sign)
        if operator in _MOVES:
            return self._handed_on(node, sign)
        if operator in ("Sub", "Neg"):
            return self._handed_on(node, -sign if slot or operator == "Neg" else sign)
        if operator in ("Mul", "Div") and not (operator == "Div" and slot):
            factor = self._sign(node.inputs[1 - slot])
            return bool(factor) and self._handed_on(node, sign * factor)
        return False

    def _handed_on(self, node: Node, sign: int) -> bool:
        return all(self._is_float(name) and self._absorbed(name, sign) for name in filter(None, node.outputs))
