"""The interface of the formats, and what those that are lists of names have in common."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import Node
from optimum_htp.selections.file_selection import FileSelection, counted


class SelectionFormat(ABC):
    """How a tool takes the nodes that are selected in a file; `device` is for tools that put nodes on one.

    Attributes:
        one_file: Whether the tool takes the nodes of one file only.
        use: What the format is for: the tool, and what of it takes the nodes.
        checked: The versions of the tool that it was checked against.
    """

    one_file: bool = False
    use: str = ""
    checked: str = ""

    @abstractmethod
    def lines(self, file: FileSelection, *, device: str) -> list[str]:
        """The lines to print. Raises PackageError if the format can't express the selection."""

    def nothing(self) -> list[str]:
        """The lines to print where no node is selected."""
        return []

    @abstractmethod
    def notes(self, file: FileSelection, *, device: str) -> Iterator[str]:
        """What to know, in addition to `FileSelection.notes`, before the tool is given the nodes: a line for each."""


@dataclass(frozen=True, slots=True)
class NameFormat(SelectionFormat):
    """A list for a tool that knows nodes by their names."""

    one_file: bool = True
    use: str = ""
    checked: str = ""
    as_json: bool = True  # else a name on each line
    names_of: Callable[[Node], tuple[str, ...]] = lambda node: (node.name,)  # by which the tool knows a node
    entry: Callable[[str], str] = str  # what stands for a name in the list, such as a pattern that matches it

    def listed(self, file: FileSelection) -> set[NodeKey]:
        """The nodes that the tool is given: those that are selected. Raises PackageError if it can take none."""
        return {(node.graph, node.position) for node in file.nodes}

    def names(self, file: FileSelection) -> list[str]:
        """The names by which the tool knows the nodes; nodes without a name are left out."""
        listed = self.listed(file)
        nodes = (node for key, node in file.model.nodes() if key in listed and node.name)
        return list(dict.fromkeys(name for node in nodes for name in self.names_of(node)))

    def entries(self, file: FileSelection) -> list[str]:
        """The list that the tool takes."""
        return [self.entry(name) for name in self.names(file)]

    def lines(self, file: FileSelection, *, device: str) -> list[str]:
        """The lines to print."""
        entries = self.entries(file)
        return json.dumps(entries, indent=2).splitlines() if self.as_json else entries

    def nothing(self) -> list[str]:
        """An empty list."""
        return ["[]"] if self.as_json else []

    def notes(self, file: FileSelection, *, device: str) -> Iterator[str]:
        """How the nodes of these names differ from those that are meant."""
        listed = self.listed(file)
        meant = [node.name for key, node in file.model.nodes() if key in listed]
        others = {node.name for key, node in file.model.nodes() if key not in listed}
        unnamed, named = meant.count(""), {*meant} - {""}
        if unnamed:
            yield (
                f"left out {counted(unnamed)} without a name, which tools that go by names can't select (--json lists all)"
            )
        if len(meant) - unnamed > len(named):
            yield f"{len(named):,} names stand for {len(meant) - unnamed:,} nodes, as in branches"
        ambiguous = [name for name in self.names(file) if name in others]
        if ambiguous:
            yield (
                f"{len(ambiguous):,} of the names are also those of nodes that were not selected, such as "
                f"{ambiguous[0]!r}; a tool that goes by names takes these too"
            )
