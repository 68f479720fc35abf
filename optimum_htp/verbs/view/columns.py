"""Rows as columns of numbers, and texts as a table in which each is what it adds to the one before.

A graph of 50,000 nodes has some 200,000 texts, most of which begin like their neighbours in the alphabet. That takes a
fifth of the room, and needs nothing to unpack that every browser would not have.
"""

from __future__ import annotations

from collections.abc import Iterable
from os.path import commonprefix
from typing import Any

from optimum_htp.verbs.view.graph_content import FileContent


class Texts:
    """Texts that stand in the data once, and by their number elsewhere."""

    def __init__(self, files: Iterable[FileContent]) -> None:
        texts = {text for file in files for text in _texts(file)}
        self._sorted = sorted(texts)
        self._numbers = {text: number for number, text in enumerate(self._sorted)}

    def __getitem__(self, text: str) -> int:
        return self._numbers[text]

    def packed(self) -> list[int | str]:
        """For each text how many characters it shares with the one before, and the rest.

        Characters are those of JavaScript, where some of Python's are two: no pair is taken apart, as what is shared is
        counted in Python's.
        """
        packed: list[int | str] = []
        before = ""
        for text in self._sorted:
            shared = commonprefix((before, text))  # noqa: RUF071 (characters are what is meant)
            packed += (len(shared.encode("utf-16-le", "surrogatepass")) // 2, text[len(shared) :])
            before = text
        return packed


def _texts(file: FileContent) -> Iterable[str]:
    for module in file.modules:
        row = module.row
        yield from (
            row.path,
            row.attribute,
            row.class_name,
            row.tag,
            row.alias_of or "",
            row.in_model or "",
            *row.aliases,
        )
    for node in file.nodes:
        yield from (node.row.operator, node.row.name, node.row.graph, node.row.source, *node.origins)
    for tensor in file.tensors:
        yield from tensor
    for weight in file.weights:
        yield from (*weight.names, *weight.changes, weight.kind)


def file_columns(file: FileContent, texts: Texts) -> dict[str, Any]:
    """A file as the page reads it."""
    rows = [module.row for module in file.modules]
    nodes = file.nodes
    return {
        "name": file.name,
        "modules": {
            "parent": [-1 if module.parent is None else module.parent for module in file.modules],
            "path": [texts[row.path] for row in rows],
            "label": [texts[row.attribute] for row in rows],
            "class": [texts[row.class_name] for row in rows],
            "tag": [texts[row.tag] for row in rows],
            "calls": [row.calls for row in rows],
            "parameters": [row.parameters for row in rows],
            "own": [row.own_nodes for row in rows],
            "nodes": [row.all_nodes for row in rows],
            "bytes": list(file.weight_bytes),
            "more": {
                number: [
                    [texts[alias] for alias in row.aliases],
                    _number(row.alias_of, texts),
                    _number(row.in_model, texts),
                ]
                for number, row in enumerate(rows)
                if row.aliases or row.alias_of is not None or row.in_model is not None
            },
        },
        "nodes": {
            "module": [-1 if node.module is None else node.module for node in nodes],
            "operator": [texts[node.row.operator] for node in nodes],
            "name": [texts[node.row.name] for node in nodes],
            "graph": [texts[node.row.graph] for node in nodes],
            "source": [texts[node.row.source] for node in nodes],
            "call": {number: node.row.call for number, node in enumerate(nodes) if node.row.call is not None},
            "inputs": [[-1 if each is None else each for each in node.inputs] for node in nodes],
            "outputs": [[-1 if each is None else each for each in node.outputs] for node in nodes],
            "origins": {
                number: [texts[tag] for tag in node.origins] for number, node in enumerate(nodes) if node.origins
            },
        },
        "tensors": {
            "name": [texts[name] for name, _ in file.tensors],
            "type": [texts[type_name] for _, type_name in file.tensors],
        },
        "weights": [
            [
                weight.tensor,
                -1 if weight.module is None else weight.module,
                weight.elements,
                weight.size_bytes,
                [texts[name] for name in weight.names],
                [texts[change] for change in weight.changes],
                texts[weight.kind],
            ]
            for weight in file.weights
        ],
    }


def _number(text: str | None, texts: Texts) -> int | None:
    return None if text is None else texts[text]
