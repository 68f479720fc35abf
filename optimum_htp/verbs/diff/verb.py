"""`diff`: what an upgrade, an option or an optimizer changed in a package, module by module.

The structure is compared (nodes, operators, parameters, opsets, types of the weights), not the values of weights and
attributes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache, partial
from math import prod
from pathlib import Path

from optimum_htp.hierarchy import ModulePath
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


_Place = tuple[int, ModulePath] | None  # a tree and a path in it; None stands for the nodes whose module is unknown


def _file_diff(before: TaggedGraph, after: TaggedGraph, depth: int | None) -> FileDiff:
    left, right = _modules(before, depth), _modules(after, depth)
    modules = (
        ModuleDiff(None if place is None else ".".join(place[1]), left.get(place), right.get(place))
        for place in _merged(left, right)
    )
    operators = [Counter(node.operator for _, node in file.model.nodes()) for file in (before, after)]
    return FileDiff(
        before=before.name,
        after=after.name,
        nodes=(operators[0].total(), operators[1].total()),
        versions=changes(_versions(before.model), _versions(after.model)),
        values=changes(_values(before.model), _values(after.model)),
        stored_elements=changes(_stored_elements(before.model), _stored_elements(after.model)),
        operators=changes(*operators),
        modules=tuple(module for module in modules if module.changed or (module.before and module.before.nodes)),
        same_wiring=same_wiring(before.model, after.model),
    )


def _modules(file: TaggedGraph, depth: int | None) -> dict[_Place, ModuleSide]:
    """What is known of each module, in the tree's order: those of at most a depth, and containers that own nodes."""
    place_of = cache(partial(_place, file, depth=depth))
    operators: defaultdict[_Place, Counter[str]] = defaultdict(Counter)
    for key, node in file.model.nodes():
        tag = file.tags.get(key)
        place = place_of(tag.tag) if tag is not None and tag.source != "unresolved" else None
        operators[place][node.operator] += 1
    modules: dict[_Place, ModuleSide] = {}
    for index, tree in enumerate(file.trees):
        # Trees that are made from tags alone know of no calls and no parameters.
        traced = tree.root.calls > 0 or tree.root.parameters > 0
        for info in tree:
            place = index, info.path
            too_deep = depth is not None and len(tree.chain(info.path)) - 1 > depth
            if too_deep or (info.container and place not in operators):
                continue
            modules[place] = ModuleSide(
                class_name=info.class_name,
                tag=tree.tag(info.path),
                calls=info.calls if traced else None,
                parameters=info.parameters if traced else None,
                nodes=operators[place].total(),
                operators=operators[place],
            )
    if None in operators:
        modules[None] = ModuleSide("", "", None, None, operators[None].total(), operators[None])
    return modules


def _place(file: TaggedGraph, tag: str, *, depth: int | None) -> _Place:
    for index, tree in enumerate(file.trees):
        path = tree.path_of_tag(tag)
        if path is not None:
            chain = tree.chain(tree.module(path).path)
            return index, chain[-1 if depth is None else min(depth, len(chain) - 1)][0]
    return None


def _merged(left: Iterable[_Place], right: Iterable[_Place]) -> list[_Place]:
    """Both in one list; what only the second has comes after what it comes after there.

    >>> _merged([(0, ("a",)), (0, ("c",))], [(0, ("a",)), (0, ("b",)), (0, ("c",))])
    [(0, ('a',)), (0, ('b',)), (0, ('c',))]
    """
    first: list[_Place] = []
    following: dict[_Place, list[_Place]] = {place: [] for place in left}
    last = first
    for place in right:
        if place in following:
            last = following[place]
        else:
            last.append(place)
    return [*first, *(merged for place, others in following.items() for merged in (place, *others))]


def _versions(model: OnnxModel) -> dict[str, int]:
    return {
        "ir_version": model.ir_version,
        **{domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
    }


def _values(model: OnnxModel) -> dict[str, str]:
    initializers = {tensor.name for tensor in model.graph.initializers}
    values = (
        *(("input", value) for value in model.graph.inputs),
        *(("output", value) for value in model.graph.outputs),
    )
    return {f"{side} {value.name}": _type_text(value) for side, value in values if value.name not in initializers}


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
