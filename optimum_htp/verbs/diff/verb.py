"""`diff`: what an upgrade, an option or an optimizer changed in a package, module by module.

The structure is compared (nodes, operators, parameters, opsets, types of the weights), not the values of weights and
attributes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import ModulePath
from optimum_htp.models import graph_inputs, paired_inputs, paired_outputs
from optimum_htp.onnxfile import OnnxModel, Value, bounded_product, element_type
from optimum_htp.package import (
    HtpPackage,
    ValuePairs,
    as_package,
    check_renamed,
    partners,
    tagged_file,
    traits_of,
    whole_package,
)
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.diff.report import Change, DiffReport, FileDiff, ModuleDiff, ModuleSide, changes
from optimum_htp.verbs.diff.wiring import same_wiring


def diff(
    package: str | Path | HtpPackage,
    reference: str | Path | HtpPackage | None = None,
    *,
    renamed: Mapping[str, str] | None = None,
    depth: int | None = None,
) -> DiffReport:
    """Compares a package with another one, module by module: what changed from `reference` to `package`.

    Files are paired by what they share, and by name where several share the same; of `model.onnx` and what tools made of it
    (`model_quantized.onnx`) each is compared with what it was made from. A file whose nodes are not tagged is read with
    the tags of the other package, if one was made from the other.

    Args:
        package: The package as it is now ("after"), or an ONNX file.
        reference: The package to compare with ("before"): on the command line, where time runs from left to right, it
            is the first of the two. None compares each file of the package with the one of it that it was made from.
        renamed: Inputs and outputs of the package, and what the reference calls them, where that is not found by itself.
        depth: Count what is more levels than this below the root with the module above it; None counts each by itself.

    Raises:
        PackageError: There is no such package, or nothing tells which modules the nodes of a file come from; or there is
            no reference, and no file was made from another one.
        OnnxFileError: A file is not an ONNX model.

    Example:
        >>> [module.path for module in diff("bert_onnx_O2", "bert_onnx").files[0].changed_modules]   # doctest: +SKIP
    """
    right = as_package(package)
    left = whole_package(right) if reference is None else as_package(reference)
    found = partners(traits_of(right.files.values()), traits_of(left.files.values())).values()
    pairs = [(each.other, each.file) for each in found if each.other is not None]
    if reference is None:
        pairs = [(before, after) for before, after in pairs if before != after]
        if not pairs:
            raise PackageError(
                f"{right.path}: none of its files was made from another; give a package to compare with"
            )
    check_renamed(renamed or {}, (file.model for file in right.files.values()))
    order = list(left.files)
    files: list[FileDiff] = []
    for before, after in sorted(pairs, key=lambda pair: order.index(pair[0])):
        one = tagged_file(left.files[before], package=left, reference=right)
        other = tagged_file(right.files[after], package=right, reference=left)
        ends = paired_inputs(other, one, renamed=renamed), paired_outputs(other, one, renamed=renamed)
        files.append(_file_diff(one, other, ends, depth))
    return DiffReport(
        before=str(left.path),
        after=str(right.path),
        files=tuple(files),
        only_before=() if reference is None else tuple(name for name in order if name not in dict(pairs)),
        only_after=tuple(each.file for each in found if each.other is None and not each.candidates),
        not_compared={each.file: each.problem(left.path) for each in found if each.candidates},
    )


_Place = tuple[int, ModulePath] | None  # a tree and a path in it; None stands for the nodes whose module is unknown


def _file_diff(
    before: TaggedGraph, after: TaggedGraph, ends: tuple[ValuePairs, ValuePairs], depth: int | None
) -> FileDiff:
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
        values=_values(before.model, after.model, ends),
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


def _values(before: OnnxModel, after: OnnxModel, ends: tuple[ValuePairs, ValuePairs]) -> tuple[Change, ...]:
    """The inputs and outputs that differ, in their type or their name."""
    left, right = ({**_types("input", model), **_types("output", model)} for model in (before, after))
    for kind, pairs in zip(("input", "output"), ends, strict=True):
        for new, old in pairs.renamed.items():
            right[f"{kind} {old}"] = f"{right.pop(f'{kind} {new}')}, called {new}"
    return changes(left, right)


def _types(kind: str, model: OnnxModel) -> dict[str, str]:
    values = graph_inputs(model) if kind == "input" else model.graph.outputs
    return {f"{kind} {value.name}": _type_text(value) for value in values}


def _type_text(value: Value) -> str:
    shape = "" if value.shape is None else f"[{', '.join('?' if size is None else str(size) for size in value.shape)}]"
    return element_type(value.elem_type).name + shape


def _stored_elements(model: OnnxModel) -> dict[str, int]:
    """How many elements the initializers of each element type have."""
    elements: Counter[str] = Counter()
    for _, graph in model.graphs():
        for tensor in graph.initializers:
            elements[element_type(tensor.data_type).name] += bounded_product(tensor.dims)
    return dict(elements)
