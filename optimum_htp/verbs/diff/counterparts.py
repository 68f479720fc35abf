"""Which node of one graph stands where a node of another does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence

from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import Node, OnnxModel
from optimum_htp.verbs.diff.wiring import graphs_in_order

Pair = tuple[NodeKey, NodeKey]
_Nodes = Sequence[tuple[NodeKey, Node]]


def pairs_in_order(left: OnnxModel, right: OnnxModel) -> list[Pair]:
    """The pairs of two graphs that are connected in the same way."""
    return list(zip(*(map(_key, _nodes(model)) for model in (left, right)), strict=True))


def likely_pairs(
    left: OnnxModel,
    right: OnnxModel,
    *,
    groups: tuple[Callable[[NodeKey], Hashable], Callable[[NodeKey], Hashable]],
    contents: tuple[Callable[[NodeKey], Hashable], Callable[[NodeKey], Hashable]],
) -> list[Pair]:
    """The pairs of two graphs that are not, with the same operator and in the same of `groups`, such as modules.

    Those come first that say the same, then those of the same name, then, if as many are left on both sides, the rest in
    order. Where they are not as many, which of them has become which is not known, and they stay without a counterpart.
    """
    sides = []
    for model, group_of in zip((left, right), groups, strict=True):
        grouped: defaultdict[Hashable, list[tuple[NodeKey, Node]]] = defaultdict(list)
        for key, node in _nodes(model):
            grouped[group_of(key), node.operator].append((key, node))
        sides.append(grouped)
    pairs: list[Pair] = []
    for group in sides[0]:
        ours: _Nodes = sides[0][group]
        theirs: _Nodes = sides[1].get(group, [])
        for one, other in (
            ((lambda each: contents[0](each[0])), (lambda each: contents[1](each[0]))),
            (_name, _name),
        ):
            found, ours, theirs = _matched(ours, theirs, one, other)
            pairs += found
        if len(ours) == len(theirs):
            pairs += zip(map(_key, ours), map(_key, theirs), strict=True)
    return pairs


def _matched(
    ours: _Nodes,
    theirs: _Nodes,
    one: Callable[[tuple[NodeKey, Node]], Hashable],
    other: Callable[[tuple[NodeKey, Node]], Hashable],
) -> tuple[list[Pair], _Nodes, _Nodes]:
    """The pairs for which the same is found, in order, and what is left of both; None is nothing."""
    waiting: defaultdict[Hashable, list[NodeKey]] = defaultdict(list)
    for each in reversed(ours):
        waiting[one(each)].append(each[0])
    waiting.pop(None, None)
    pairs: list[Pair] = []
    left_over = []
    for each in theirs:
        same = waiting.get(other(each))
        if same:
            pairs.append((same.pop(), each[0]))
        else:
            left_over.append(each)
    taken = {key for key, _ in pairs}
    return pairs, [each for each in ours if each[0] not in taken], left_over


def _nodes(model: OnnxModel) -> Iterator[tuple[NodeKey, Node]]:
    for path, graph in graphs_in_order(model):
        for index, node in enumerate(graph.nodes):
            yield (path, index), node


def _key(entry: tuple[NodeKey, Node]) -> NodeKey:
    return entry[0]


def _name(entry: tuple[NodeKey, Node]) -> str | None:
    return entry[1].name or None
