"""ONNX Runtime's assignment by names: the session option that puts the nodes on a device, without a change of the file.

A rule is any part of a node's name, and of those that match the longest counts. There is no exact match, and the option
can't be given together with layer annotations. So the rules are the shortest beginnings of names, up to a `/`, that no other
node's name has in it; and where a node's whole name is in that of another, that one goes along.
https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/framework/layering_annotations.cc
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optimum_htp.errors import PackageError
from optimum_htp.selections.file_selection import FileSelection, counted
from optimum_htp.selections.formats.base import SelectionFormat
from optimum_htp.selections.layer_annotations import MAX_SETTING_CHARACTERS, check_device

SESSION_OPTION = "session.name_based_layer_assignment"
"""The option of ONNX Runtime that maps parts of names to devices."""

_RESERVED = frozenset(",;()")  # of the rules


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules for the nodes of a file, the nodes that none can be for, and others that these match too."""

    rules: tuple[str, ...]
    without: int
    along: tuple[str, ...]

    @classmethod
    def of(cls, file: FileSelection) -> _Rules:
        """The rules. ONNX Runtime makes initializers of Constants, which are on no device."""
        constants = {key for key, node in file.model.nodes() if node.operator == "Constant"}
        chosen = [node for node in file.nodes if (node.graph, node.position) not in constants]
        selected = {(node.graph, node.position) for node in chosen} | constants
        others = [node.name for key, node in file.model.nodes() if key not in selected and node.name]
        text = "\n".join(others)  # in which a name can be looked for at once
        rules: list[str] = []
        without = 0
        for node in chosen:
            if any(rule in node.name for rule in rules):
                continue
            rule = _rule(node.name, text)
            if rule is None:
                without += 1
            else:
                rules.append(rule)
        along = [name for name in dict.fromkeys(others) if any(rule in name for rule in rules)]
        return cls(tuple(rules), without, tuple(along))


def _rule(name: str, others: str) -> str | None:
    """The shortest beginning of a name that is in no other name; else the whole name; None if it can't be a rule."""
    if not name or name != name.strip() or name.startswith("=") or not _RESERVED.isdisjoint(name) or "\n" in name:
        return None
    ends = [at + 1 for at, char in enumerate(name) if char == "/" and at]
    return next((name[:end] for end in ends if name[:end] not in others), name)


class _LayerNames(SelectionFormat):
    """The option and its value."""

    use = "ONNX Runtime's session option that puts the nodes on a device by parts of their names (--device)"
    checked = "onnxruntime 1.32.0"

    def lines(self, file: FileSelection, *, device: str) -> list[str]:
        check_device(device)
        found = _Rules.of(file)
        if not found.rules:
            raise PackageError(
                f"{file.name}: no part of their names can stand for these nodes: they have none, or one of {_shown()} in it, "
                "or are constants; use --write-layer-annotations"
            )
        return [f"{SESSION_OPTION}={device}({', '.join(found.rules)})"]

    def notes(self, file: FileSelection, *, device: str) -> Iterator[str]:
        found = _Rules.of(file)
        if found.without:
            yield f"left out {counted(found.without)} whose names can't be rules; --write-layer-annotations can take them"
        if found.along:
            yield (
                f"{counted(len(found.along))} that were not selected go along, such as {found.along[0]!r}, which has a "
                "selected name in it; --write-layer-annotations keeps them apart"
            )
        if len(self.lines(file, device=device)[0]) - len(SESSION_OPTION) - 1 > MAX_SETTING_CHARACTERS:
            yield f"ONNX Runtime takes no setting of more than {MAX_SETTING_CHARACTERS:,} characters"


def _shown(chars: Sequence[str] = tuple(sorted(_RESERVED))) -> str:
    return " ".join(chars)


FORMAT = _LayerNames()
