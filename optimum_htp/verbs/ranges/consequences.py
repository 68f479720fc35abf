"""What becomes of numbers that a type can't hold: whether that does any harm, by what reads them.

In a type with infinity a number that is too large is infinite. Where only a Softmax comes to see that it is minus infinity,
as in the mask of an attention, it is 0 after that, as it was before; unless all numbers of a row are, which gives NaN.

What is stored in the file is no larger than the type's largest number once it was converted: converters cut it there. So is
what is filled with it, or made of it without computing.

Example: `m = Where(mask, 0, -3.4e38)`, `s = Add(scores, m)`, `p = Softmax(s)`: what is too large in `m` and `s` is harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeAlias

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


_Infinite: TypeAlias = tuple[str, int]  # infinities of a sign in a tensor


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
        self._harmless: dict[_Infinite, bool] = {}

    def is_harmless(self, name: str, tally: Tally) -> bool:
        """Whether it does no harm that what is too large in a tensor becomes infinite."""
        signs = ([1] if tally.above else []) + ([-1] if tally.over > tally.above else [])
        return all(self._is_absorbed((name, sign)) for sign in signs)

    def is_cut(self, name: str) -> bool:
        """Whether what is too large in a tensor is stored in the file, or was made of that without computing."""
        seen: set[str] = set()
        stack = [name]
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            index = self._flat.producer.get(name)
            if index is None:
                if name in self._flat.inputs:
                    return False
                continue
            node = self._flat.nodes[index].node
            if node.op_type in _STORED:
                continue
            large = [read for read in node.inputs if read in self._over]
            if node.op_type not in _MOVES | _CHOOSES or not large:
                return False
            stack += large
        return True

    def divides(self, name: str) -> bool:
        """Whether something is divided by a tensor, or its logarithm is taken, or that of its square root."""
        seen: set[str] = set()
        stack = [name]
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            for index in self._flat.consumers.get(name, ()):
                node = self._flat.nodes[index].node
                slot = _DIVIDES.get(node.op_type)
                if slot is not None and node.inputs[slot : slot + 1] == (name,):
                    return True
                if (node.op_type in _MOVES or node.op_type == "Sqrt") and node.inputs[:1] == (name,):
                    stack += filter(None, node.outputs)
        return False

    def readers(self, name: str) -> list[int]:
        """The nodes that read the numbers of a tensor."""
        found = self._flat.consumers.get(name, ())
        return [index for index in found if self._flat.nodes[index].node.op_type not in VIEWS]

    def _is_absorbed(self, start: _Infinite) -> bool:
        """Whether infinities of a sign in a tensor, and those that they make of others, are nowhere computed with."""
        seen: set[_Infinite] = set()
        stack = [start]
        absorbed = True
        while stack and absorbed:
            state = stack.pop()
            if state in seen or self._harmless.get(state):
                continue
            seen.add(state)
            made = None if self._harmless.get(state) is False else self._made(*state)
            if made is None:
                absorbed = False
            else:
                stack += made
        if absorbed:
            self._harmless.update(dict.fromkeys(seen, True))
        else:
            self._harmless[start] = False
        return absorbed

    def _made(self, name: str, sign: int) -> list[_Infinite] | None:
        """The infinities that those in a tensor make of others; None if something computes with them."""
        if name in self._flat.outputs:
            return None
        made: list[_Infinite] = []
        for index in self._flat.consumers.get(name, ()):
            node = self._flat.nodes[index].node
            slots = [slot for slot, read in enumerate(node.inputs) if read == name]
            if not slots or node.bodies:
                return None
            for slot in slots:
                signs = self._signs_after(node, slot, sign)
                results = [result for result in node.outputs if result]
                if signs is None or (signs and not all(map(self._is_float, results))):
                    return None
                made += [(result, after) for after in signs for result in results]
        return made

    def _signs_after(self, node: Node, slot: int, sign: int) -> tuple[int, ...] | None:
        """The sign of what an operator makes of infinities of one sign; `()` if of none, None if it computes with them."""
        operator = node.op_type
        if operator in VIEWS or operator in _BOUNDED:
            return ()
        if operator == "Softmax":
            return () if sign < 0 and node.inputs[0] not in self._masked else None
        if operator in _BOUNDED_BELOW:
            return () if sign < 0 else None
        if operator == "Clip" and slot:
            return ()  # the bound is that of the type
        if operator in ("Min", "Max"):
            return () if (sign > 0) == (operator == "Min") else (sign,)
        if operator in _BIASES:
            bias = 3 if operator == "Attention" and not node.domain else _BIASES[operator]
            return () if sign < 0 and slot == bias else None
        if operator in ("Add", "Sum", "Clip", "LogSoftmax") or operator in _MOVES or (operator == "Where" and slot):
            return (sign,)
        if operator in ("Sub", "Neg"):
            return (-sign,) if slot or operator == "Neg" else (sign,)
        if operator in ("Mul", "Div") and not (operator == "Div" and slot):
            factor = self._sign(node.inputs[1 - slot])
            return (sign * factor,) if factor else None
        return None
