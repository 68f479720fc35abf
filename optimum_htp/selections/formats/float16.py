"""What converters to float16 make of nodes that are to stay in float32.

They take the names of nodes and put a Cast to float32 in front of each, and one to float16 behind it. Whether a module
stays in float32 depends on what becomes of these between one of its nodes and the next, and of what is stored for it. None
can keep nodes in branches, loops and functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import NUMBERS, reads
from optimum_htp.selections.file_selection import FileSelection, counted
from optimum_htp.selections.formats.base import NameFormat


class Surroundings:
    """The selected nodes of the main graph, by their positions, and the tensors that they read and produce."""

    def __init__(self, file: FileSelection) -> None:
        self.graph = file.model.graph
        self.selected = {node.position for node in file.nodes if not node.graph}
        self._producers = {name: at for at, node in enumerate(self.graph.nodes) for name in node.outputs if name}
        self._readers: dict[str, list[int]] = {}  # a node that reads something twice is there twice
        for at, node in enumerate(self.graph.nodes):
            for name in reads(node):
                self._readers.setdefault(name, []).append(at)

    def of(self, operator: str) -> set[int]:
        """The nodes of an operator, among them and those whose results they read."""
        read = {self._producers.get(name) for name, readers in self._readers.items() if self._meets(readers)}
        return {at for at in read | self.selected if at is not None and self.graph.nodes[at].operator == operator}

    def passed_on(self) -> dict[str, int]:
        """What goes from one of the nodes to another, and how often it is read."""
        made = {name: self._readers.get(name, []) for name, at in self._producers.items() if at in self.selected}
        return {name: len(readers) for name, readers in made.items() if self._meets(readers)}

    def shared_weights(self) -> list[str]:
        """The weights in float32 that the nodes read, and others too."""
        weights = (each.name for each in self.graph.initializers if each.data_type == NUMBERS["float32"])
        readers = ((name, self._readers.get(name, [])) for name in weights)
        return [name for name, found in readers if self._meets(found) and not self.selected.issuperset(found)]

    def _meets(self, nodes: list[int]) -> bool:
        return not self.selected.isdisjoint(nodes)


@dataclass(frozen=True, slots=True)
class Float16Format(NameFormat):
    """The list for a converter to float16."""

    def listed(self, file: FileSelection) -> set[NodeKey]:
        """The nodes in the main graph. Raises PackageError if there are none."""
        around = Surroundings(file)
        if not around.selected:
            raise PackageError(
                f"{file.name}: the nodes are in branches, loops or functions, which no converter to float16 can keep in "
                "float32; convert what the file was merged from"
            )
        return {("", at) for at in self.positions(around)}

    def positions(self, around: Surroundings) -> set[int]:
        """Those of the nodes to list."""
        return around.selected

    def notes(self, file: FileSelection, *, device: str) -> Iterator[str]:
        """What is left out."""
        yield from NameFormat.notes(self, file, device=device)
        inside = sum(bool(node.graph) for node in file.nodes)
        if inside:
            yield (
                f"left out {counted(inside)} in branches, loops or functions, which the converter can't keep in float32"
            )
