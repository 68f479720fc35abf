"""What a comparison of two packages finds: for each pair of files the modules that differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_TABLES = ("versions", "values", "stored_elements", "functions", "operators")  # the changes of a file as a whole


@dataclass(frozen=True, slots=True)
class Change:
    """Something that differs, and that both sides have or one.

    Attributes:
        name: What it is.
        before: How it is in the first package; None if it is not there.
        after: How it is in the second; None if it is not there.
    """

    name: str
    before: int | str | None
    after: int | str | None


@dataclass(frozen=True, slots=True)
class ContentChange:
    """Something that nodes of a module say, and said differently before.

    Attributes:
        kind: `"attribute"`; or of what they read: `"constant"`, `"weight_values"`, `"weight_type"`, or `"weight"` where
            another parameter of the model stands in the place of one.
        operator: Their operator; empty for what a graph returns.
        name: The attribute's name; or which input or output it is, such as `input 1`.
        before: Its value in the first package: all of it, or its beginning and a digest; for `"weight"` its name. None if
            it is not given there.
        after: The same of the second.
        tensors: The constants or weights, by their names in the first.
        nodes: How many nodes of the module have this change.
    """

    kind: str
    operator: str
    name: str
    before: str | None
    after: str | None
    tensors: tuple[str, ...] = ()
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class Compared:
    """What of two files was held against each other, and what not.

    Attributes:
        nodes: Nodes that have a counterpart, whose attributes and constants were compared.
        alone: How many nodes of each file have none.
        constants: Constants that these nodes read.
        weights: Weights that they read whose values were compared.
        types_only: Weights whose types were compared and not their values, and constants that lie in a file that is not
            there.
    """

    nodes: int
    alone: tuple[int, int] = (0, 0)
    constants: int = 0
    weights: int = 0
    types_only: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        alone = {"before": self.alone[0], "after": self.alone[1]}
        return {**asdict(self), "alone": alone}


@dataclass(frozen=True, slots=True)
class ModuleSide:
    """A module in one of the packages.

    Attributes:
        class_name: Its class.
        tag: Its tag.
        calls: How often it ran in the trace; None if unknown.
        parameters: Elements of the parameters at and below it; None if unknown.
        nodes: The nodes that it owns, and below `depth` those of the modules below it.
        operators: How many of them have each operator.
    """

    class_name: str
    tag: str
    calls: int | None
    parameters: int | None
    nodes: int
    operators: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The side as JSON has it."""
        return {
            "class": self.class_name,
            "tag": self.tag,
            "calls": self.calls,
            "parameters": self.parameters,
            "nodes": self.nodes,
            "operators": dict(self.operators),
        }


@dataclass(frozen=True, slots=True)
class ModuleDiff:
    """A module in both packages, or in one.

    Attributes:
        path: Its dotted path; `""` is the root, None stands for the nodes whose module is unknown.
        before: The module in the first package; None if it is not there.
        after: The module in the second; None if it is not there.
        contents: What its nodes say differently: attributes, constants and weights.
    """

    path: str | None
    before: ModuleSide | None
    after: ModuleSide | None
    contents: tuple[ContentChange, ...] = ()

    @property
    def operators(self) -> tuple[Change, ...]:
        """The operators of which there are more or fewer."""
        return changes(*({} if side is None else side.operators for side in (self.before, self.after)))

    @property
    def changed(self) -> bool:
        """Whether anything but the tag differs; what one side does not know does not count."""
        left, right = self.before, self.after
        if left is None or right is None or self.contents:
            return True
        known = ((left.calls, right.calls), (left.parameters, right.parameters))
        return (
            left.class_name != right.class_name
            or left.operators != right.operators
            or any(None not in pair and pair[0] != pair[1] for pair in known)
        )

    def to_dict(self) -> dict[str, Any]:
        """The module as JSON has it."""
        return {
            "path": self.path,
            "before": self.before and self.before.to_dict(),
            "after": self.after and self.after.to_dict(),
            "operators": [asdict(change) for change in self.operators],
            "contents": [asdict(change) for change in self.contents],
        }


@dataclass(frozen=True, slots=True)
class FileDiff:
    """Two ONNX files that were compared.

    Attributes:
        before: The path of the first in its package.
        after: The path of the second in its package.
        nodes: How many nodes each has, those of bodies and functions included.
        versions: The operator domains whose opset differs, and `ir_version` where that does.
        values: The inputs and outputs of the graph that differ, as `input NAME` and `output NAME` in the first, with their
            types, and with their names in the second if these are others.
        stored_elements: The element types, such as `float32`, of which the initializers have another number of elements.
        operators: The operators of which there are more or fewer.
        modules: All modules that own nodes on either side or are on one side only, each before those below it.
        same_wiring: Whether all nodes have the same operators in the same order, with inputs from the same producers,
            whatever the names of tensors.
        functions: The functions that only one side has, and what else they declare: defaults of attributes, opsets.
        compared: What this says something about.
    """

    before: str
    after: str
    nodes: tuple[int, int]
    versions: tuple[Change, ...]
    values: tuple[Change, ...]
    stored_elements: tuple[Change, ...]
    operators: tuple[Change, ...]
    modules: tuple[ModuleDiff, ...]
    same_wiring: bool
    functions: tuple[Change, ...]
    compared: Compared

    @property
    def changed_modules(self) -> tuple[ModuleDiff, ...]:
        """The modules that differ."""
        return tuple(module for module in self.modules if module.changed)

    @property
    def changed(self) -> bool:
        """Whether anything differs but names; weights count by their types, and by their values if these were compared."""
        parts = (*(getattr(self, name) for name in _TABLES), self.changed_modules)
        return any(parts) or not self.same_wiring

    def to_dict(self) -> dict[str, Any]:
        """The comparison of the files as JSON has it; of the modules, those that differ."""
        lists = {name: getattr(self, name) for name in _TABLES}
        return {
            "before": self.before,
            "after": self.after,
            "changed": self.changed,
            "nodes": {"before": self.nodes[0], "after": self.nodes[1]},
            **{name: [asdict(change) for change in changes] for name, changes in lists.items()},
            "same_wiring": self.same_wiring,
            "compared": self.compared.to_dict(),
            "modules_compared": len(self.modules),
            "modules": [module.to_dict() for module in self.changed_modules],
        }


@dataclass(frozen=True, slots=True)
class DiffReport:
    """Two packages, compared.

    Attributes:
        before: The path of the first.
        after: The path of the second.
        files: The files that were compared.
        only_before: The files that only the first has.
        only_after: The files that only the second has.
        weights: Whether the values of weights were compared.
        not_compared: The files of the second that may go with several of the first, and how to say with which.
    """

    before: str
    after: str
    files: tuple[FileDiff, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    weights: bool = False
    not_compared: Mapping[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether anything differs."""
        alone = (self.only_before, self.only_after, self.not_compared)
        return any(alone) or any(file.changed for file in self.files)

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints; of the modules, those that differ."""
        return {
            "before": self.before,
            "after": self.after,
            "changed": self.changed,
            "only_before": list(self.only_before),
            "only_after": list(self.only_after),
            "weights_compared": self.weights,
            "not_compared": dict(self.not_compared),
            "files": [file.to_dict() for file in self.files],
        }


def changes(
    before: Mapping[str, int] | Mapping[str, str], after: Mapping[str, int] | Mapping[str, str]
) -> tuple[Change, ...]:
    """What differs between two tables."""
    names = dict.fromkeys((*before, *after))
    return tuple(
        Change(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    )
