"""What tools take that look at the main graph alone, and at nodes by their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import NodeKey
from optimum_htp.selections.file_selection import FileSelection, counted
from optimum_htp.selections.formats.base import NameFormat


@dataclass(frozen=True, slots=True)
class MainGraphFormat(NameFormat):
    """A list of the nodes that are in the main graph, but for some operators that the tool has no use for."""

    without: frozenset[str] = frozenset()

    def listed(self, file: FileSelection) -> set[NodeKey]:
        """The nodes in the main graph. Raises PackageError if there are none."""
        found = {("", node.position) for node in file.nodes if not node.graph and node.operator not in self.without}
        if not found:
            raise PackageError(
                f"{file.name}: the nodes are in branches, loops or functions, which the tool does not look into, or nothing that it quantizes"
            )
        return found

    def notes(self, file: FileSelection, *, device: str) -> Iterator[str]:
        """What is left out."""
        yield from NameFormat.notes(self, file, device=device)
        inside = sum(bool(node.graph) for node in file.nodes)
        if inside:
            yield f"left out {counted(inside)} in branches, loops or functions, which the tool does not look into"
