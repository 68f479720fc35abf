"""TensorRT's layers: which of the selected nodes have a layer of their name, whose type can be set.

The parser calls a layer like the node that it is of; of several nodes with one name only the first layer has it, and layers
that a node needs besides are called otherwise. A Constant has none. What gives whole numbers, as the computing of a shape
does, can't be told to be in float32: TensorRT refuses to build that.

Up to TensorRT 10: from 11 on a network has the types of the file, and a file in mixed precision is made by AutoCast
(`--format modelopt`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import Node, SourceFiles, TensorTypes, element_type, model_spans, scope_spans, scopes_of
from optimum_htp.selections.file_selection import FileSelection, counted
from optimum_htp.selections.formats.base import NameFormat


@dataclass(frozen=True, slots=True)
class TensorRTFormat(NameFormat):
    """Arguments of a tool that sets the types of layers by their names; `refused` are characters that it splits names at."""

    as_json: bool = False
    refused: str = ""

    def listed(self, file: FileSelection) -> set[NodeKey]:
        """The nodes of the main graph that give floating-point numbers. Raises PackageError if there are none."""
        found = {("", at) for at, node in self._chosen(file) if not self._is_refused(node)}
        if not found:
            raise PackageError(
                f"{file.name}: none of the nodes is a layer of TensorRT whose type can be set: they are constants, give "
                "whole numbers, or are in branches, loops or functions"
            )
        return found

    def names_of_results(self, file: FileSelection) -> list[str]:
        """The names of those nodes all of whose results are floating-point numbers."""
        whole = self._floats(file)
        nodes = (node for at, node in self._chosen(file) if all(name in whole for name in filter(None, node.outputs)))
        return list(dict.fromkeys(node.name for node in nodes if node.name and not self._is_refused(node)))

    def notes(self, file: FileSelection, *, device: str) -> Iterator[str]:
        """What is left out."""
        yield from NameFormat.notes(self, file, device=device)
        refused = sum(self._is_refused(node) for _, node in self._chosen(file))
        if refused:
            yield f"left out {counted(refused)} with one of {self.refused} in the name, where the tool splits the list"
        others = len(file.nodes) - len(self._chosen(file))
        if others:
            yield f"left out {counted(others)} that are constants, give whole numbers, or are in branches, loops or functions"

    def _is_refused(self, node: Node) -> bool:
        return any(char in node.name for char in self.refused)

    def _chosen(self, file: FileSelection) -> list[tuple[int, Node]]:
        floats, graph = self._floats(file), file.model.graph
        selected = [(node.position, graph.nodes[node.position]) for node in file.nodes if not node.graph]
        return [
            (at, node)
            for at, node in selected
            if node.op_type != "Constant" and any(name in floats for name in node.outputs)
        ]

    @staticmethod
    def _floats(file: FileSelection) -> set[str]:
        """The tensors of the main graph that have floating-point numbers."""
        with SourceFiles(file.model.path) as files:
            spans = model_spans(files.data)
            parts = scope_spans(files.data, spans.graph, "")
            known = TensorTypes(files.data, spans, scopes_of(file.model, ""), parts).known
        return {name for name, value in known.items() if element_type(value.elem_type).is_float}
