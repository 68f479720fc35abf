"""What differs between two packages, module by module: nodes, operators, parameters, opsets, types of the weights.

It is for reviewing what an upgrade, an option or an optimizer changed. What is compared is the structure: the values of
weights and of attributes are not.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

from optimum_htp.hierarchy import ModuleInfo, ModulePath
from optimum_htp.onnxfile import OnnxModel, Value, element_type
from optimum_htp.package import HtpPackage, as_package, pair_files, tagged_file
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.diff.report import DiffReport, FileDiff, ModuleDiff, ModuleSide, changes
from optimum_htp.verbs.diff.wiring import same_wiring


def diff(
    package: str | Path | HtpPackage, reference: str | Path | HtpPackage, *, depth: int | None = None
) -> DiffReport:
    """Compares a package with another one, module by module: what changed from `reference` to `package`.

    Files are paired by name; what tools append to a name (`model_quantized.onnx`) does not count if that is unambiguous,
    and names don't count at all if each package has one file. A file whose nodes are not tagged is read with the tags
    of the other package, if one was made from the other.

    Args:
        package: The package as it is now ("after"), or an ONNX file.
        reference: The package to compare with ("before"): on the command line, where time runs from left to right, it
            is the first of the two.
        depth: Count what is more levels than this below the root with the module above it; None counts each by itself.

    Raises:
        PackageError: There is no such package, or nothing tells which modules the nodes of a file come from.
        OnnxFileError: A file is not an ONNX model.

    Example:
        >>> [module.path for module in diff("bert_onnx_O2", "bert_onnx").files[0].changed_modules]   # doctest: +SKIP
    """
    left, right = as_package(reference), as_package(package)
    pairs = pair_files(left.files, right.files)
    files = tuple(
        _file_diff(
            tagged_file(left.files[before], package=left, reference=right),
            tagged_file(right.files[after], package=right, reference=left),
            depth,
        )
        for before, after in pairs.items()
    )
    only_before = tuple(name for name in left.files if name not in pairs)
    only_after = tuple(name for name in right.files if name not in pairs.values())
    return DiffReport(str(left.path), str(right.path), files, only_before, only_after)


_Place = tuple[int, ModulePath] | None


class _Side:
    """One of two files: its modules by place, and what they own.

    Attributes:
        places: The modules, in the tree's order; None stands for nodes whose module is unknown.
    """

    def __init__(self, file: TaggedGraph, depth: int | None) -> None:
        self._file = file
        self._depth = depth
        self._operators: dict[_Place, Counter[str]] = {}
        places: dict[str, _Place] = {}
        for key, node in file.model.nodes():
            tag = file.tags.get(key)
            place = None
            if tag is not None and tag.source != "unresolved":
                if tag.tag not in places:
                    places[tag.tag] = self._place(tag.tag)
                place = places[tag.tag]
            self._operators.setdefault(place, Counter())[node.operator] += 1
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
    kept = tuple(module for module in modules if module.changed or (module.before and module.before.nodes))
    return FileDiff(
        before=before.name,
        after=after.name,
        nodes=(left.operators.total(), right.operators.total()),
        versions=changes(_versions(before.model), _versions(after.model)),
        values=changes(_values(before.model), _values(after.model)),
        stored_elements=changes(_stored_elements(before.model), _stored_elements(after.model)),
        operators=changes(left.operators, right.operators),
        modules=kept,
        same_wiring=same_wiring(before.model, after.model),
    )


def _merged(left: list[_Place], right: list[_Place]) -> list[_Place]:
    """Both lists in one; what only the second has comes after what it comes after there."""
    order: list[_Place] = []
    known = set(left)
    following: dict[_Place, list[_Place]] = {}
    first: list[_Place] = []
    last: list[_Place] = first
    for place in right:
        if place in known:
            last = following.setdefault(place, [])
        else:
            last.append(place)
    order += first
    for place in left:
        order += [place, *following.get(place, ())]
    return order


def _versions(model: OnnxModel) -> dict[str, int]:
    return {
        "ir_version": model.ir_version,
        **{domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
    }


def _values(model: OnnxModel) -> dict[str, str]:
    initializers = {tensor.name for tensor in model.graph.initializers}
    sides = (("input", model.graph.inputs), ("output", model.graph.outputs))
    return {
        f"{side} {value.name}": _type_text(value)
        for side, values in sides
        for value in values
        if value.name not in initializers
    }


def _type_text(value: Value) -> str:
    shape = "" if value.shape is None else f"[{', '.join('?' if size is None else str(size) for size in value.shape)}]"
    return element_type(value.elem_type).name + shape


def _stored_elements(model: OnnxModel) -> dict[str, int]:
    """How many elements the initializers of each element type have."""
    elements: Counter[str] = Counter()
    for _, graph in model.graphs():
        for tensor in graph.initializers:
            elements[element_type(tensor.data_type).name] += prod(tensor.dims)
    return dict(elements)
