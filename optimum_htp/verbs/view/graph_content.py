"""What a view shows of one ONNX file: its modules, nodes, tensors and weights, each as a row that names others by number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod

from optimum_htp.errors import PackageError, reason
from optimum_htp.hierarchy import Root, common_ancestor
from optimum_htp.onnxfile import (
    Initializer,
    OnnxModel,
    SourceFiles,
    TensorTypes,
    Value,
    element_type,
    model_spans,
    node_id,
    scope_spans,
    scopes_of,
)
from optimum_htp.package import HtpFile, StoredParameter, TagCounts, fingerprint
from optimum_htp.tagging import Flow, TaggedGraph, parameter_name
from optimum_htp.verbs.tree import ModuleRow, NodeRow, module_rows

_MAX_BODIES = 8  # whose tensors get types: each costs as much as the graphs around it


@dataclass(frozen=True, slots=True)
class ModuleContent:
    """A module, or one more name of a module; `parent` is the number of the one above it, None for a root."""

    row: ModuleRow
    parent: int | None


@dataclass(frozen=True, slots=True)
class NodeContent:
    """A node.

    Attributes:
        row: What `tree` says of it.
        module: The number of its module; None where that is not known.
        origins: The tags of the modules that it does the work of, where there are several.
        inputs: The numbers of the tensors that it consumes; None for one that is not given.
        outputs: Those that it produces.
    """

    row: NodeRow
    module: int | None
    origins: tuple[str, ...]
    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class WeightContent:
    """An initializer.

    Attributes:
        tensor: The number of its tensor.
        names: The PyTorch parameters that it was made of or stands for; empty where they are not known.
        changes: What was done to them, as `params` says it.
        kind: `parameter`, `constant`, or `unknown`, as `params` says it; empty where nobody asked.
        elements: How many.
        size_bytes: Of its values in the file; None for strings and unknown types.
        module: The number of the module that it belongs to: the one with the parameter, else the lowest that contains all
            nodes that read it; None if no node of a known module does.
    """

    tensor: int
    names: tuple[str, ...]
    changes: tuple[str, ...]
    kind: str
    elements: int
    size_bytes: int | None
    module: int | None


@dataclass(frozen=True, slots=True)
class FileContent:
    """One ONNX file.

    Attributes:
        name: Its path in the package.
        graph: Its tagged graph.
        fingerprint: What reports know it by.
        counts: How its nodes were tagged.
        modules: Its modules, each before those below it.
        nodes: Its nodes, in the order of the file.
        tensors: The name and the type of each tensor; an empty type where it is not known.
        weights: Its initializers.
        untyped: Why types of tensors are missing; empty if they are not.
    """

    name: str
    graph: TaggedGraph
    fingerprint: str
    counts: TagCounts
    modules: tuple[ModuleContent, ...]
    nodes: tuple[NodeContent, ...]
    tensors: tuple[tuple[str, str], ...]
    weights: tuple[WeightContent, ...]
    untyped: str

    @property
    def weight_bytes(self) -> tuple[int, ...]:
        """The bytes of the weights of each module and those below it."""
        totals = [0] * len(self.modules)
        for weight in self.weights:
            if weight.module is not None:
                totals[weight.module] += weight.size_bytes or 0
        for index in reversed(range(len(totals))):
            parent = self.modules[index].parent
            if parent is not None:
                totals[parent] += totals[index]
        return tuple(totals)


def file_content(file: HtpFile, graph: TaggedGraph, parameters: Iterable[StoredParameter]) -> FileContent:
    """What there is to see of a file; `parameters` is what is known of its initializers.

    Raises:
        OnnxFileError: The file is not an ONNX model.
        PackageError: A tag names no module, or there is none.
    """
    rows = {
        key: NodeRow(
            key[0], node_id(node, key[1]), node.name, node.operator, graph.tags[key].source, graph.tags[key].call
        )
        for key, node in graph.model.nodes()
    }
    modules, owners = _modules(graph, rows)
    if not modules:
        raise PackageError(f"{file.path}: it has no nodes, so there is nothing to see; export the model again")
    flow = Flow.of(graph.model)
    operations = {operation.key: operation for operation in flow.operations}
    types, untyped = _types(graph.model)
    nodes = []
    for key, row in rows.items():
        operation, tag = operations[key], graph.tags[key]
        nodes.append(
            NodeContent(
                row=row,
                module=owners.get(tag.tag) if tag.source != "unresolved" else None,
                origins=tag.origins,
                inputs=tuple(None if value < 0 else value for value in operation.inputs[: len(operation.node.inputs)]),
                outputs=tuple(None if value < 0 else value for value in operation.outputs),
            )
        )
    stored = {(scope.path, name): number for scope in flow.scopes for name, number in scope.values.items()}
    tensors = [(value.name, "") for value in flow.values]
    for place, number in stored.items():
        if place in types:
            tensors[number] = (tensors[number][0], type_text(types[place]))
    return FileContent(
        name=file.name,
        graph=graph,
        fingerprint=fingerprint(file),
        counts=TagCounts.of(graph.tags.values()),
        modules=tuple(modules),
        nodes=tuple(nodes),
        tensors=tuple(tensors),
        weights=tuple(_weights(graph, modules, nodes, stored, {(each.graph, each.name): each for each in parameters})),
        untyped=untyped,
    )


def type_text(value: Value) -> str:
    """The type of a tensor in words.

    >>> type_text(Value("x", 1, ("batch", 384, None)))
    'float32[batch, 384, ?]'
    """
    if value.shape is None:
        return element_type(value.elem_type).name if value.elem_type else ""
    sizes = ("?" if size is None or str(size).startswith("unk__") else str(size) for size in value.shape)
    return f"{element_type(value.elem_type).name}[{', '.join(sizes)}]"


def _modules(
    graph: TaggedGraph, rows: Mapping[tuple[str, int], NodeRow]
) -> tuple[list[ModuleContent], dict[str, int]]:
    """The modules of all roots, and the number of each by its tag."""
    tagged: defaultdict[str, list[NodeRow]] = defaultdict(list)
    for key, tag in graph.tags.items():
        if tag.source != "unresolved":
            tagged[tag.tag].append(rows[key])
    unknown = next((tag for tag in tagged if graph.roots.find(tag) is None), None)
    if unknown is not None:
        raise PackageError(
            f"{graph.model.path}: {unknown!r}, the tag of a node, names no module; export the model again"
        )
    modules: list[ModuleContent] = []
    numbers: dict[str, int] = {}
    for root in graph.roots:
        paths = {tag: root.tree.path_of_tag(tag) for tag in tagged}
        nodes = {path: tagged[tag] for tag, path in paths.items() if path is not None}
        above: list[int] = []
        for row in module_rows(root, nodes, known=_is_traced(root)):
            del above[row.depth :]
            numbers[row.tag] = len(modules)
            modules.append(ModuleContent(row, above[-1] if above else None))
            above.append(numbers[row.tag])
    return modules, numbers


def _is_traced(root: Root) -> bool:
    """Whether calls and parameters are known: trees that are made from tags alone have none."""
    return root.tree.root.calls > 0 or root.tree.root.parameters > 0


def _types(model: OnnxModel) -> tuple[dict[tuple[str, str], Value], str]:
    """The types of tensors, by the graph that they are of and their names, and in words which are missing."""
    types: dict[tuple[str, str], Value] = {}
    inside = {graph.path: graph.path for graph in model.functions}
    paths = [path for path, _ in model.graphs() if not any(path.startswith(name) for name in inside)]
    missing = ["functions"] if inside else []
    if len(paths) > 1 + _MAX_BODIES:
        missing.append(f"{len(paths) - 1 - _MAX_BODIES} bodies")
        paths = paths[: 1 + _MAX_BODIES]
    for path, graph in model.graphs():
        known = (
            *graph.inputs,
            *graph.outputs,
            *(Value(each.name, each.data_type, each.dims) for each in graph.initializers),
        )
        types |= {(path, value.name): value for value in known if value.elem_type}
    try:
        with SourceFiles(model.path) as files:
            spans = model_spans(files.data)
            for path in paths:
                known_types = TensorTypes(
                    files.data, spans, scopes_of(model, path), scope_spans(files.data, spans.graph, path)
                ).sized()
                own = {name for node in dict(model.graphs())[path].nodes for name in node.outputs}
                types |= {(path, name): value for name, value in known_types.items() if name in own}
    except Exception as error:  # ONNX Runtime and ONNX raise exceptions of their own C++ modules
        return types, f"types and shapes inside the graph are unknown: {reason(error)}"
    return types, f"types and shapes inside {' and '.join(missing)} are unknown" if missing else ""


def _weights(
    graph: TaggedGraph,
    modules: list[ModuleContent],
    nodes: Iterable[NodeContent],
    stored: Mapping[tuple[str, str], int],
    parameters: Mapping[tuple[str, str], StoredParameter],
) -> Iterable[WeightContent]:
    """The initializers of all graphs."""
    readers: defaultdict[int, list[int]] = defaultdict(list)
    for node in nodes:
        if node.module is not None:
            for tensor in node.inputs:
                if tensor is not None:
                    readers[tensor].append(node.module)
    numbers = {module.row.tag: number for number, module in enumerate(modules)}
    for path, inner in graph.model.graphs():
        stored_names = {initializer.name for initializer in inner.initializers}
        for initializer in inner.initializers:
            tensor = stored[path, initializer.name]
            known = parameters.get((path, initializer.name)) or _by_name(graph, initializer.name, stored_names)
            names = (*known.parameters, *known.duplicates)
            owner = _holder(graph, names[0]) if names else None
            readers_of = [modules[number].row.tag for number in dict.fromkeys(readers[tensor])]
            module = _lowest([owner], numbers) if owner is not None else None
            yield WeightContent(
                tensor=tensor,
                names=names,
                changes=known.changes,
                kind=known.kind,
                elements=prod(initializer.dims),
                size_bytes=_size_bytes(initializer),
                module=_lowest(readers_of, numbers) if module is None else module,
            )


def _by_name(graph: TaggedGraph, initializer: str, others: Set[str]) -> StoredParameter:
    """What the name of an initializer says, where nobody compared its values: `weight_quantized` was made of `weight`."""
    name, changes = parameter_name(initializer), ("same",)
    for role in ("quantized", "scale", "zero_point"):
        base = name.removesuffix(f"_{role}")
        # A parameter may be called `logit_scale`: what was quantized has the others beside it.
        if base != name and any(f"{base}_{other}" in others for other in ("quantized", "scale") if other != role):
            name, changes = base, (role,)
            break
    known = (name,) if _holder(graph, name) is not None else ()
    return StoredParameter(graph="", name=initializer, kind="", parameters=known, changes=changes if known else ())


def _holder(graph: TaggedGraph, parameter: str) -> str | None:
    """The tag of the module whose parameter has a name, in the exported module or in the whole model."""
    for root in graph.roots:
        place = f"{root.in_model}." if root.in_model else ""
        for name in dict.fromkeys((parameter.removeprefix(place), parameter)):
            dotted, _, attribute = name.rpartition(".")
            path = root.tree.find(dotted)
            may_be = attribute.isidentifier() or attribute.isdecimal()  # as in a ParameterList
            if path is not None and may_be and (path or _has_own_parameters(root)):
                return root.tree.tag(root.tree.module(path).path)
    return None


def _has_own_parameters(root: Root) -> bool:
    """Whether a root has parameters that are in none of its modules: else what is called without a dot is a constant."""
    return root.tree.root.parameters > sum(info.parameters for info in root.tree if len(info.path) == 1)


def _lowest(tags: Sequence[str], numbers: Mapping[str, int]) -> int | None:
    """The lowest module that is shown and contains all of some; None if there is none, or they are none."""
    try:
        ancestor = common_ancestor(tags)
    except ValueError:
        return None
    while ancestor and ancestor not in numbers:
        ancestor = ancestor.rpartition("/")[0]
    return numbers.get(ancestor)


def _size_bytes(initializer: Initializer) -> int | None:
    bits = element_type(initializer.data_type).bits
    return None if bits is None else (prod(initializer.dims) * bits + 7) // 8
