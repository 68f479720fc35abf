"""What differs between two packages, module by module: nodes, operators, parameters, opsets, stored tensors.

It is for reviewing what an upgrade, an option or an optimizer changed. What is compared is the structure: the values of
weights and of attributes are not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from optimum_htp.hierarchy import ModuleInfo, ModulePath
from optimum_htp.onnxfile import OnnxModel, Value
from optimum_htp.package import HtpPackage, tagged_file
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.diff.wiring import same_wiring


# What Optimum and ONNX Runtime put behind the name of a file that they make of another.
_SUFFIXES = re.compile(r"(_(optimized|quantized|fp16|int8|O[1-4]))+(?=\.onnx$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Change:
    """A thing that both sides have, or one.

    Attributes:
        name: What it is.
        before: How it is in the first package; None where it is not there.
        after: How it is in the second; None where it is not there.
    """

    name: str
    before: int | str | None
    after: int | str | None


@dataclass(frozen=True, slots=True)
class ModuleSide:
    """A module in one of the packages.

    Attributes:
        class_name: Its class.
        tag: Its tag.
        calls: How often it ran in the trace; None where that is not known.
        parameters: Elements of the parameters at and below it; None where that is not known.
        nodes: The nodes that it owns, and below `depth` those of the modules below it.
        operators: How many of them have each operator.
    """

    class_name: str
    tag: str
    calls: int | None
    parameters: int | None
    nodes: int
    operators: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ModuleDiff:
    """A module in both packages, or in one.

    Attributes:
        path: Its dotted path; `""` is the root, None stands for the nodes of which no module is known.
        depth: Modules above it; containers don't count.
        before: The module in the first package; None where it is not there.
        after: The module in the second; None where it is not there.
    """

    path: str | None
    depth: int
    before: ModuleSide | None
    after: ModuleSide | None

    @property
    def operators(self) -> tuple[Change, ...]:
        """The operators of which there are more or fewer."""
        left = self.before.operators if self.before is not None else {}
        right = self.after.operators if self.after is not None else {}
        return _changes(left, right)

    @property
    def changed(self) -> bool:
        """Whether anything but the tag differs; what one side does not know does not count."""
        left, right = self.before, self.after
        if left is None or right is None:
            return True
        known = ((left.calls, right.calls), (left.parameters, right.parameters))
        return (
            left.class_name != right.class_name
            or left.operators != right.operators
            or any(None not in pair and pair[0] != pair[1] for pair in known)
        )


@dataclass(frozen=True, slots=True)
class FileDiff:
    """Two ONNX files that were compared.

    Attributes:
        before: The path of the first in its package.
        after: The path of the second in its package.
        nodes: How many nodes each has, those of bodies and functions included.
        versions: The operator domains whose opset differs, and `ir_version` where that does.
        values: The inputs and outputs of the graph that differ, as `input NAME` and `output NAME`, with their types.
        stored: The element types, `float32` or another, of which each stores another number of elements.
        operators: The operators of which there are more or fewer.
        modules: All modules that own nodes on either side or are on one side only, each before those below it.
        same_wiring: Whether all nodes stand in the same order with the same operators and are connected in the same
            way, however tensors are called.
    """

    before: str
    after: str
    nodes: tuple[int, int]
    versions: tuple[Change, ...]
    values: tuple[Change, ...]
    stored: tuple[Change, ...]
    operators: tuple[Change, ...]
    modules: tuple[ModuleDiff, ...]
    same_wiring: bool

    @property
    def changed_modules(self) -> tuple[ModuleDiff, ...]:
        """The modules that differ."""
        return tuple(module for module in self.modules if module.changed)

    @property
    def changed(self) -> bool:
        """Whether anything differs but the names of files and tensors."""
        parts = (self.versions, self.values, self.stored, self.operators, self.changed_modules)
        return any(parts) or not self.same_wiring


@dataclass(frozen=True, slots=True)
class DiffReport:
    """Two packages, compared.

    Attributes:
        before: The path of the first.
        after: The path of the second.
        files: The files that were compared.
        only_before: The files that the first has and the second has not.
        only_after: The files that the second has and the first has not.
    """

    before: str
    after: str
    files: tuple[FileDiff, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether anything differs."""
        return bool(self.only_before or self.only_after or any(file.changed for file in self.files))


def diff(before: str | Path | HtpPackage, after: str | Path | HtpPackage, *, depth: int | None = None) -> DiffReport:
    """Compares two packages module by module.

    Files are paired by name; what Optimum puts behind a name (`model_quantized.onnx`) does not count where that leaves
    no doubt, and neither do the names where each package has one file. A file whose nodes are not tagged is read
    with the tags of the other package, if one was made from the other.

    Args:
        before: The first package, or the path of one or of an ONNX file.
        after: The second.
        depth: Count what is more levels than this below the root with the module above it; None counts each by itself.

    Raises:
        PackageError: There is no such package, or nothing tells which modules the nodes of a file come from.
        OnnxFileError: A file is no ONNX model.

    Example:
        >>> [module.path for module in diff("bert_onnx", "bert_onnx_O2").files[0].changed_modules]   # doctest: +SKIP
    """
    left = before if isinstance(before, HtpPackage) else HtpPackage(before)
    right = after if isinstance(after, HtpPackage) else HtpPackage(after)
    pairs = pair_files(list(left.files), list(right.files))
    files = tuple(
        _file_diff(
            tagged_file(left.files[one], package=left, reference=right),
            tagged_file(right.files[other], package=right, reference=left),
            depth,
        )
        for one, other in pairs
    )
    only_before = tuple(name for name in left.files if name not in {one for one, _ in pairs})
    only_after = tuple(name for name in right.files if name not in {other for _, other in pairs})
    return DiffReport(str(left.path), str(right.path), files, only_before, only_after)


def pair_files(before: Iterable[str], after: Iterable[str]) -> list[tuple[str, str]]:
    """Which files of two packages belong together: those of one name, else of one name without suffixes.

    >>> pair_files(["encoder.onnx", "model.onnx"], ["model_quantized.onnx", "encoder.onnx"])
    [('encoder.onnx', 'encoder.onnx'), ('model.onnx', 'model_quantized.onnx')]
    """
    left, right = list(before), list(after)
    if len(left) == len(right) == 1:
        return [(left[0], right[0])]
    paired = {name: name for name in left if name in right}
    bare: dict[str, tuple[list[str], list[str]]] = {}
    for side, names in enumerate((left, right)):
        for name in names:
            if name not in paired:
                bare.setdefault(_SUFFIXES.sub("", name), ([], []))[side].append(name)
    paired |= {ones[0]: others[0] for ones, others in bare.values() if len(ones) == len(others) == 1}
    return [(name, paired[name]) for name in left if name in paired]


_Place = tuple[int, ModulePath] | None


class _Side:
    """One of two files: its modules by place, and what they own.

    Attributes:
        places: The modules, in the tree's order; None stands for nodes of which no module is known.
    """

    def __init__(self, file: TaggedGraph, depth: int | None) -> None:
        self._file = file
        self._depth = depth
        self._operators: dict[_Place, Counter[str]] = {}
        found: dict[str, _Place] = {}
        for path, graph in file.model.graphs():
            for position, node in enumerate(graph.nodes):
                tag = file.tags.get((path, position))
                place = None
                if tag is not None and tag.source != "unresolved":
                    if tag.tag not in found:
                        found[tag.tag] = self._place(tag.tag)
                    place = found[tag.tag]
                operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
                self._operators.setdefault(place, Counter())[operator] += 1
        self.places: list[_Place] = [
            (index, info.path)
            for index, tree in enumerate(file.trees)
            for info in tree
            if (not info.container or (index, info.path) in self._operators)
            and (depth is None or len(tree.chain(info.path)) - 1 <= depth)
        ]
        if None in self._operators:
            self.places.append(None)

    @property
    def operators(self) -> Counter[str]:
        """How many nodes of the file have each operator."""
        return sum(self._operators.values(), Counter())

    def depth(self, place: _Place) -> int:
        """How many modules are above one."""
        return len(self._file.trees[place[0]].chain(place[1])) - 1 if place is not None else 0

    def module(self, place: _Place) -> ModuleSide:
        """What is known of a module."""
        operators = self._operators.get(place, Counter[str]())
        if place is None:
            return ModuleSide("", "", None, None, operators.total(), operators)
        tree = self._file.trees[place[0]]
        info = tree.module(place[1])
        known = _is_traced(tree.root)
        return ModuleSide(
            class_name=info.class_name,
            tag=tree.tag(place[1]),
            calls=info.calls if known else None,
            parameters=info.parameters if known else None,
            nodes=operators.total(),
            operators=operators,
        )

    def _place(self, tag: str) -> _Place:
        for index, tree in enumerate(self._file.trees):
            path = tree.path_of_tag(tag)
            if path is not None:
                path = tree.module(path).path
                if self._depth is not None:
                    path = tree.chain(path)[: self._depth + 1][-1][0]
                return index, path
        return None


def _is_traced(root: ModuleInfo) -> bool:
    """Whether calls and parameters are known: trees that are made from tags alone know of none."""
    return root.calls > 0 or root.parameters > 0


def _file_diff(before: TaggedGraph, after: TaggedGraph, depth: int | None) -> FileDiff:
    left, right = _Side(before, depth), _Side(after, depth)
    there, here = set(left.places), set(right.places)
    modules = tuple(
        ModuleDiff(
            None if place is None else ".".join(place[1]),
            (left if place in there else right).depth(place),
            left.module(place) if place in there else None,
            right.module(place) if place in here else None,
        )
        for place in _merged(left.places, right.places)
    )
    kept = tuple(each for each in modules if each.changed or (each.before is not None and each.before.nodes))
    return FileDiff(
        before=before.name,
        after=after.name,
        nodes=(left.operators.total(), right.operators.total()),
        versions=_changes(_versions(before.model), _versions(after.model)),
        values=_changes(_values(before.model), _values(after.model)),
        stored=_changes(_stored(before.model), _stored(after.model)),
        operators=_changes(left.operators, right.operators),
        modules=kept,
        same_wiring=same_wiring(before.model, after.model),
    )


def _merged(left: list[_Place], right: list[_Place]) -> list[_Place]:
    """Both lists in one, where what only the second has stands behind what it stands behind there."""
    order: list[_Place] = []
    known = set(left)
    behind: dict[_Place, list[_Place]] = {}
    first: list[_Place] = []
    last: list[_Place] = first
    for place in right:
        if place in known:
            last = behind.setdefault(place, [])
        else:
            last.append(place)
    order += first
    for place in left:
        order += [place, *behind.get(place, ())]
    return order


def _changes(
    before: Mapping[str, int] | Mapping[str, str], after: Mapping[str, int] | Mapping[str, str]
) -> tuple[Change, ...]:
    names = dict.fromkeys((*before, *after))
    found = (Change(name, before.get(name), after.get(name)) for name in names)
    return tuple(change for change in found if change.before != change.after)


def _versions(model: OnnxModel) -> dict[str, int]:
    return {
        "ir_version": model.ir_version,
        **{domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
    }


def _values(model: OnnxModel) -> dict[str, str]:
    stored = {tensor.name for tensor in model.graph.initializers}
    sides = (("input", model.graph.inputs), ("output", model.graph.outputs))
    return {
        f"{side} {value.name}": _type_text(value)
        for side, values in sides
        for value in values
        if value.name not in stored
    }


def _type_text(value: Value) -> str:
    shape = "" if value.shape is None else f"[{', '.join('?' if size is None else str(size) for size in value.shape)}]"
    return element_type(value.elem_type) + shape


def _stored(model: OnnxModel) -> dict[str, int]:
    elements: Counter[str] = Counter()
    for _, graph in model.graphs():
        for tensor in graph.initializers:
            elements[element_type(tensor.data_type)] += prod(tensor.dims)
    return dict(elements)


_ELEMENT_TYPES = (
    "undefined", "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16",
    "float64", "uint32", "uint64", "complex64", "complex128", "bfloat16", "float8e4m3fn", "float8e4m3fnuz",
    "float8e5m2", "float8e5m2fnuz", "uint4", "int4", "float4e2m1",
)  # fmt: skip


def element_type(number: int) -> str:
    """The name of one of ONNX's element types.

    >>> element_type(1), element_type(10), element_type(99)
    ('float32', 'float16', 'type 99')
    """
    return _ELEMENT_TYPES[number] if 0 <= number < len(_ELEMENT_TYPES) else f"type {number}"
