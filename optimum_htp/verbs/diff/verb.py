"""`diff`: what an upgrade, an option or an optimizer changed in a package, module by module.

What the graphs are is compared: nodes, how they are connected, attributes, constants, opsets, the types of the weights; on
request the values of the weights too. What things are called is not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

from optimum_htp.collecting import no_collecting
from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import NodeKey
from optimum_htp.models import graph_inputs, paired_inputs, paired_outputs
from optimum_htp.onnxfile import OnnxModel, Value, bounded_product, element_type, split_body_path
from optimum_htp.package import (
    HtpPackage,
    ValuePairs,
    as_package,
    check_renamed,
    inlined,
    partners,
    tagged_file,
    traits_of,
    whole_package,
)
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.diff.counterparts import Pair, likely_pairs, pairs_in_order
from optimum_htp.verbs.diff.module_sides import Place, merged, module_sides, places
from optimum_htp.verbs.diff.node_contents import NodeContents, content_changes, output_changes
from optimum_htp.verbs.diff.report import (
    Change,
    Compared,
    ContentChange,
    DiffReport,
    FileDiff,
    ModuleDiff,
    changes,
)
from optimum_htp.verbs.diff.wiring import graphs_in_order, same_wiring


@no_collecting()
def diff(
    package: str | Path | HtpPackage,
    reference: str | Path | HtpPackage | None = None,
    *,
    renamed: Mapping[str, str] | None = None,
    depth: int | None = None,
    weights: bool = False,
) -> DiffReport:
    """Compares a package with another one, module by module: what changed from `reference` to `package`.

    Compared are the nodes and how they are connected, their attributes, the constants that they read, inputs and outputs,
    opsets, functions, and of weights the types; with `weights` their values too. Constants are stored integers of 32 and 64
    bits and bools of up to 1 MiB, and other stored tensors of up to 64 elements that are not called like a parameter of a
    module. Names of nodes and tensors, descriptions and metadata don't count, nor does the order in which tensors are stored,
    or whether they lie in the ONNX file. Where graphs are connected differently, nodes have a counterpart of the same operator
    in the same module as far as it can be known; `FileDiff.compared` counts.

    Files are paired by what they share, and by name where several share the same; of `model.onnx` and what tools made of it
    (`model_quantized.onnx`) each is compared with what it was made from. A file whose nodes are not tagged is read with
    the tags of the other package, if one was made from the other.

    Args:
        package: The package as it is now ("after"), or an ONNX file.
        reference: The package to compare with ("before"): on the command line, where time runs from left to right, it
            is the first of the two. None compares each file of the package with the one of it that it was made from.
        renamed: Inputs and outputs of the package, and what the reference calls them, where that is not found by itself.
        depth: Count what is more levels than this below the root with the module above it; None counts each by itself.
        weights: Compare the values of weights too, by their digests. They are read in pieces, from external data too.

    Raises:
        PackageError: There is no such package, or nothing tells which modules the nodes of a file come from; or there is
            no reference, and no file was made from another one.
        OnnxFileError: A file is not an ONNX model, or has a damaged tensor or attribute.

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
        directories = left.files[before].directory, right.files[after].directory
        files.append(_file_diff((one, other), directories, ends, depth=depth, weights=weights))
    return DiffReport(
        before=str(left.path),
        after=str(right.path),
        files=tuple(files),
        only_before=() if reference is None else tuple(name for name in order if name not in dict(pairs)),
        only_after=tuple(each.file for each in found if each.other is None and not each.candidates),
        weights=weights,
        not_compared={each.file: each.problem(left.path) for each in found if each.candidates},
    )


def _file_diff(
    sides: tuple[TaggedGraph, TaggedGraph],
    directories: tuple[Path, Path],
    ends: tuple[ValuePairs, ValuePairs],
    *,
    depth: int | None,
    weights: bool,
) -> FileDiff:
    with (
        NodeContents(sides[0], package=directories[0], weights=False) as ours,
        NodeContents(sides[1], package=directories[1], weights=False) as theirs,
    ):
        declared = ours.functions(), theirs.functions()
    if {path.partition(": ")[0] for path in declared[0]} == {path.partition(": ")[0] for path in declared[1]}:
        return _compared(sides, sides, directories, ends, changes(*declared), depth=depth, weights=weights)
    # One has functions that the other has not: what they do is compared where they are called.
    with inlined(sides[0], package=directories[0]) as one, inlined(sides[1], package=directories[1]) as other:
        found = zip((one, other), sides, directories, strict=True)
        own = [place if graph is side else graph.model.path.parent for graph, side, place in found]
        return _compared(sides, (one, other), (own[0], own[1]), ends, changes(*declared), depth=depth, weights=weights)


def _compared(
    files: tuple[TaggedGraph, TaggedGraph],
    sides: tuple[TaggedGraph, TaggedGraph],
    directories: tuple[Path, Path],
    ends: tuple[ValuePairs, ValuePairs],
    functions: tuple[Change, ...],
    *,
    depth: int | None,
    weights: bool,
) -> FileDiff:
    """How two files differ; `sides` are their graphs as they are compared."""
    before, after = sides
    left, right = (module_sides(file, depth) for file in sides)
    wired = same_wiring(before.model, after.model)
    with (
        NodeContents(before, package=directories[0], weights=weights) as ours,
        NodeContents(after, package=directories[1], weights=weights) as theirs,
    ):
        pairs = _pairs(ours, theirs, sides, wired=wired)
        contents = _contents(ours, theirs, pairs, places(before, depth), wired=wired)
        values = _values(ours, theirs, ends)
        seen = Counter(theirs.seen.values())
    modules = (
        ModuleDiff(
            None if place is None else ".".join(place[1]),
            left.get(place),
            right.get(place),
            contents.get(place, ()),
        )
        for place in merged(left, right)
    )
    operators = [Counter(node.operator for _, node in file.model.nodes()) for file in files]
    nodes = operators[0].total(), operators[1].total()
    all_nodes = [sum(1 for _ in file.model.nodes()) for file in sides]
    return FileDiff(
        before=before.name,
        after=after.name,
        nodes=nodes,
        versions=changes(*(_versions(file.model) for file in files)),
        values=values,
        stored_elements=changes(_stored_elements(before.model), _stored_elements(after.model)),
        operators=changes(*operators),
        modules=tuple(module for module in modules if module.changed or (module.before and module.before.nodes)),
        same_wiring=wired,
        functions=functions,
        compared=Compared(
            nodes=len(pairs),
            alone=(all_nodes[0] - len(pairs), all_nodes[1] - len(pairs)),
            constants=seen["constant"],
            weights=seen["weight"],
            types_only=seen["type"],
        ),
    )


def _pairs(
    ours: NodeContents, theirs: NodeContents, sides: tuple[TaggedGraph, TaggedGraph], *, wired: bool
) -> list[Pair]:
    if wired:
        return pairs_in_order(ours.model, theirs.model)
    groups = places(sides[0]), places(sides[1])
    return likely_pairs(ours.model, theirs.model, groups=groups, contents=(ours.says, theirs.says))


def _contents(
    ours: NodeContents,
    theirs: NodeContents,
    pairs: Iterable[Pair],
    place_of: Callable[[NodeKey], Place],
    *,
    wired: bool,
) -> dict[Place, tuple[ContentChange, ...]]:
    """What nodes and their counterparts say differently, by module; the same change of several nodes once."""
    found: defaultdict[Place, dict[ContentChange, list[ContentChange]]] = defaultdict(dict)

    def add(place: Place, changed: Iterable[ContentChange]) -> None:
        for change in changed:
            found[place].setdefault(replace(change, tensors=()), []).append(change)

    for pair in pairs:
        add(place_of(pair[0]), content_changes(ours, theirs, pair))
    for paths in _both_in_order(ours.model, theirs.model) if wired else ():
        holder = split_body_path(paths[0])
        add(place_of(holder[:2]) if holder is not None else (0, ()), output_changes(ours, theirs, paths))
    return {
        place: tuple(
            replace(change, nodes=len(each), tensors=tuple(dict.fromkeys(chain(*(one.tensors for one in each)))))
            for change, each in changed.items()
        )
        for place, changed in found.items()
    }


def _both_in_order(before: OnnxModel, after: OnnxModel) -> Iterable[tuple[str, str]]:
    sides = ([path for path, _ in graphs_in_order(model)] for model in (before, after))
    return zip(*sides, strict=True)


def _versions(model: OnnxModel) -> dict[str, int]:
    return {
        "ir_version": model.ir_version,
        **{domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
    }


def _values(before: NodeContents, after: NodeContents, ends: tuple[ValuePairs, ValuePairs]) -> tuple[Change, ...]:
    """The inputs and outputs that differ, in their type or their name."""
    left, right = ({**_types("input", file), **_types("output", file)} for file in (before, after))
    for kind, pairs in zip(("input", "output"), ends, strict=True):
        for new, old in pairs.renamed.items():
            right[f"{kind} {old}"] = f"{right.pop(f'{kind} {new}')}, called {new}"
    return changes(left, right)


def _types(kind: str, file: NodeContents) -> dict[str, str]:
    values = graph_inputs(file.model) if kind == "input" else file.model.graph.outputs
    others = file.other_types() if any(not value.elem_type for value in values) else {}
    return {f"{kind} {value.name}": others.get(value.name) or _type_text(value) for value in values}


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
