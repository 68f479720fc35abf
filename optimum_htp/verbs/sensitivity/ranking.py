"""The modules of a file by what quantizing each costs, measured with all others in float32.

The noise of modules adds up: to leave the worst by this measure in float32 is as good as to try, step by step, which gains
most (measured on MiniLM in int8, where to sort by what leaving out each alone gains is far worse).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy import NodeKey, NodeTag, tag_class, tag_module_path
from optimum_htp.models import Array
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.sensitivity.judging import NO_NUMBER, Figures, Judge
from optimum_htp.verbs.sensitivity.quantizers.quantizer import Changes
from optimum_htp.verbs.sensitivity.report import ModuleSensitivity
from optimum_htp.verbs.sensitivity.switchboard import Switchboard

logger = logging.getLogger(__name__)

Samples = Sequence[Mapping[str, Array]]


@dataclass(frozen=True, slots=True)
class Group:
    """The nodes that one module owns and a quantizer changes; `is_known` is whether the module is."""

    tag: str
    is_known: bool
    nodes: tuple[NodeKey, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Modules, the worst first.

    Attributes:
        groups: The nodes of each.
        modules: What each costs.
        quantized: What the model is like with all of them quantized.
    """

    groups: tuple[Group, ...]
    modules: tuple[ModuleSensitivity, ...]
    quantized: Figures

    def left(self, count: int) -> Figures:
        """What the model is like with the first few left in float32."""
        return self.modules[count - 1].left if count else self.quantized


def grouped(tagged: TaggedGraph, changes: Changes) -> list[Group]:
    """The nodes that are changed, by the module that owns them."""
    nodes: dict[tuple[str, bool], list[NodeKey]] = {}
    for key in changes:
        tag = tagged.tags.get(key) or NodeTag("/", "unresolved")
        nodes.setdefault((tag.tag, tag.source != "unresolved"), []).append(key)
    return [Group(tag, is_known, tuple(keys)) for (tag, is_known), keys in nodes.items()]


def ranked(
    groups: Iterable[Group], board: Switchboard, judge: Judge, samples: Samples, *, metric: str, by: str
) -> Ranking:
    """Measures what each module costs, and sorts them by that, or `by` noise for each byte of their weights (`"size"`)."""

    def figures(of: Iterable[Group], *, weights: bool = True, activations: bool = True) -> Figures:
        nodes = [key for group in of for key in group.nodes]
        try:
            return judge.figures(board.run(samples, judge.outputs, nodes, weights=weights, activations=activations))
        except HtpError as error:
            logger.debug("%s", error)
            return NO_NUMBER

    board.run(samples, judge.outputs, ())  # what fails here is not for what is quantized

    alone = {group: figures([group]) for group in groups}
    sizes = {group: board.weight_bytes(group.nodes) for group in alone}
    least = min(filter(None, sizes.values()), default=1)  # what has no weights is not for nothing in float32

    def badness(group: Group) -> tuple[float, float]:
        if by == "size":
            return alone[group].noise / max(sizes[group], least), 0.0
        return alone[group].badness(metric)

    in_order = sorted(alone, key=badness, reverse=True)
    modules = [
        _measured(group, alone[group], figures(in_order[place + 1 :]), board, figures)
        for place, group in enumerate(in_order)
    ]
    return Ranking(tuple(in_order), tuple(modules), figures(in_order))


def _measured(
    group: Group, alone: Figures, left: Figures, board: Switchboard, figures: Callable[..., Figures]
) -> ModuleSensitivity:
    has_weights, has_activations = board.kinds(group.nodes)
    return ModuleSensitivity(
        module=group.tag,
        path=tag_module_path(group.tag) if group.is_known else "(unknown)",
        class_name=tag_class(group.tag) if group.is_known else "",
        nodes=len(group.nodes),
        weight_bytes=board.weight_bytes(group.nodes),
        alone=alone,
        weights=_part(has_weights, has_activations, alone, lambda: figures([group], activations=False)),
        activations=_part(has_activations, has_weights, alone, lambda: figures([group], weights=False)),
        left=left,
    )


def _part(has_it: bool, has_others: bool, alone: Figures, measure: Callable[[], Figures]) -> Figures | None:
    """What a part of the changes of a module costs; nothing is measured again that is all that there is."""
    if not has_it:
        return None
    return measure() if has_others else alone
