"""Which nodes of two graphs go with each other, as the mapping that Model Explorer's synchronized navigation takes.

An entry has the ids of nodes or boxes on the left and of those on the right; whoever is chosen on one side is shown with
all of the entry on the other. Of several entries with the same id the last one counts, for each side of an entry alone, so
what goes together is in one entry, and what is less exact comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from optimum_htp.hierarchy import NodeKey
from optimum_htp.tagging import TaggedGraph, work_of
from optimum_htp.verbs.view.explorer.drawn import Drawn

_Entry = dict[str, list[str]]
_Boxes = Mapping[str, str]  # their ids, by their names within the graph


def navigation(before: TaggedGraph, after: TaggedGraph, drawn: tuple[Drawn, Drawn]) -> dict[str, Any]:
    """The mapping of a graph, on the left, and the one that a tool made of it, on the right.

    What a tool put in goes with the box of its module, nodes with those whose work they do, boxes with those of the same
    name, and inputs, outputs and initializers with theirs.
    """
    left, right = _boxes(before, drawn[0]), _boxes(after, drawn[1])
    work = work_of(before.model, after.model)
    entries = [
        *_inserted(after, drawn[1], work, left),
        *(_entry([box], [right[name]]) for name, box in left.items() if name in right),
        *_values(before, after),
        *(_entry(_ids(olds, drawn[0]), _ids(news, drawn[1])) for olds, news in _grouped(work)),
    ]
    return {
        "mappingEntries": [entry for entry in entries if all(entry.values())],
        # A node that is not listed has nothing that goes with it, also where the other graph has a node of its name.
        "disableMappingFallback": True,
    }


def _entry(left: Iterable[str], right: Iterable[str]) -> _Entry:
    return {"leftNodeIds": list(left), "rightNodeIds": list(right)}


def _ids(keys: Iterable[NodeKey], drawn: Drawn) -> list[str]:
    return [drawn.nodes[key][1] for key in keys if key in drawn.nodes]


def _boxes(graph: TaggedGraph, drawn: Drawn) -> _Boxes:
    """The boxes of modules in the main graph, as the `namespace` of its nodes has them."""
    boxes: dict[str, str] = {}
    for node in graph.model.graph.nodes:
        parts = [part for part in node.metadata.get("namespace", "").split("/") if part]
        for name in accumulate(parts, "{}/{}".format):
            boxes.setdefault(name, f"{drawn.graphs['']}/{name}___group___")
    return boxes


def _inserted(after: TaggedGraph, drawn: Drawn, work: Mapping[NodeKey, object], left: _Boxes) -> Iterator[_Entry]:
    for key, node in after.model.nodes():
        name = "/".join(part for part in node.metadata.get("namespace", "").split("/") if part)
        if key not in work and not key[0] and name in left:
            yield _entry([left[name]], _ids([key], drawn))


def _values(before: TaggedGraph, after: TaggedGraph) -> Iterator[_Entry]:
    """The inputs, outputs and initializers of the main graphs that have the same names."""
    names = [
        [value.name for value in (*graph.inputs, *graph.outputs)] + [tensor.name for tensor in graph.initializers]
        for graph in (before.model.graph, after.model.graph)
    ]
    known = set(names[1])
    for name in dict.fromkeys(names[0]):
        if name in known:
            yield _entry([f"[value] {name}"], [f"[value] {name}"])


def _grouped(work: Mapping[NodeKey, Iterable[NodeKey]]) -> list[tuple[list[NodeKey], list[NodeKey]]]:
    """The nodes on both sides that go together, by the nodes whose work each of the others does.

    >>> _grouped({("", 7): [("", 0), ("", 1)], ("", 8): [("", 2)], ("", 9): [("", 1)]})
    [([('', 0), ('', 1)], [('', 7), ('', 9)]), ([('', 2)], [('', 8)])]
    """
    groups: list[tuple[list[NodeKey], list[NodeKey]]] = []
    group_of: dict[NodeKey, int] = {}
    for new, olds in work.items():
        known = sorted({group_of[old] for old in olds if old in group_of})
        index = known[0] if known else len(groups)
        if not known:
            groups.append(([], []))
        for other in known[1:]:
            for side, more in zip(groups[index], groups[other], strict=True):
                side += more
                more.clear()
        groups[index][0].extend(old for old in olds if old not in group_of)
        groups[index][1].append(new)
        group_of.update((old, index) for old in groups[index][0])
    return [group for group in groups if group[1]]
