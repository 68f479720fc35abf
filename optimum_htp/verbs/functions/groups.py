"""Calls of modules whose nodes are alike, and of each what is what there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from optimum_htp.onnxfile import DraftNode
from optimum_htp.verbs.functions.likeness import Counterparts, Wiring
from optimum_htp.verbs.functions.members import Member

Column: TypeAlias = tuple[DraftNode, ...]
"""Nodes that do the same, one of each call."""


@dataclass(eq=False)
class Group:
    """Members that are alike: the one whose nodes the function gets, and of each what is what there."""

    pattern: Wiring
    members: list[Member]
    counterparts: list[Counterparts]

    @cached_property
    def own(self) -> list[set[DraftNode]]:
        """The nodes of each member."""
        return [set(each.nodes) for each in self.counterparts]

    def columns(self) -> list[Column]:
        """The nodes that do the same in all members, one column for each node of the pattern."""
        return list(zip(*(each.nodes for each in self.counterparts), strict=True))


def grouped(candidates: Sequence[tuple[Member, Wiring]]) -> list[Group]:
    """Of calls whose nodes look alike, those that are wired alike; the pattern is one that is given most different things."""
    groups: list[Group] = []
    for member, wiring in sorted(candidates, key=lambda each: -len(each[1].outer)):
        for group in groups:
            counterparts = group.pattern.counterparts(wiring)
            if counterparts is not None:
                group.members.append(member)
                group.counterparts.append(counterparts)
                break
        else:
            own = Counterparts(wiring.nodes, {name: name for name in wiring.outer})
            groups.append(Group(wiring, [member], [own]))
    order = {member: place for place, (member, _) in enumerate(candidates)}
    for group in groups:
        pairs = sorted(zip(group.members, group.counterparts, strict=True), key=lambda pair: order[pair[0]])
        group.members, group.counterparts = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return groups


def by_class(members: Iterable[Member]) -> dict[str, list[Member]]:
    """Members by the name of their class."""
    found: dict[str, list[Member]] = {}
    for member in members:
        found.setdefault(member.wanted.info.class_name, []).append(member)
    return found
