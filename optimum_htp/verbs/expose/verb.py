"""What modules return as outputs of the graph: a node gives a tensor a good name, and the graph returns it.

Nothing else changes: what is added comes last, and `strip` takes it off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from optimum_htp.errors import HtpError, PackageError, writing
from optimum_htp.hierarchy import ModulePatterns, NodeTag
from optimum_htp.models import graph_limits, load_error
from optimum_htp.onnxfile import (
    Graft,
    OnnxModel,
    SourceFiles,
    TensorTypes,
    Value,
    check_sound,
    external_data_files,
    model_spans,
    named_axes,
    read_model,
    rewrite_metadata,
    scope_spans,
    scopes_of,
    split_body_path,
    tensor_names,
)
from optimum_htp.package import (
    HtpFile,
    HtpPackage,
    StagedDirectory,
    as_package,
    checked_output,
    exposed_entries,
    options_of,
    tagged_file,
    write_copy,
    write_tags,
)
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.expose.report import ExposedTensor, ExposeReport, NotExposed
from optimum_htp.verbs.expose.results import ModuleResult, ModuleResults

_BRANCHES = ("then_branch", "else_branch")


def expose(
    package: str | Path | HtpPackage,
    patterns: str | Sequence[str],
    *,
    output: str | Path,
    operator: str | None = None,
    file: str | None = None,
    overwrite: bool = False,
) -> ExposeReport:
    """Makes what modules return outputs of the graph, in a copy of a package.

    The model's own outputs stay as they are and come first; `strip` takes the others off again. What is in both branches
    of an `If`, as in a merged decoder, is given by both.

    Args:
        package: A package, or the path of one or of an ONNX file. It is only read.
        patterns: The modules, as `select` takes them: `encoder.layer.0-2`, `BertLayer`, `layer@1`, `!LayerNorm`.
        output: Where to write: a directory for a package, a file for a file.
        operator: Expose what the nodes with this operator make in the modules, instead of what the modules return:
            `Softmax` in an attention is its probabilities.
        file: The files of the package to expose in, globs allowed; None means all that have the modules.
        overwrite: Write into a directory or file that exists.

    Returns:
        The outputs: each has the module's dotted path as its name (`encoder.layer.3`, of a module that ran more than once
        `layer@1`). Where several tensors leave a module, the likeliest to be its result has the name, and others
        `layer[1]`.

    Raises:
        PackageError: A pattern matches no module, or none of the modules has a result that can be an output.
        HtpError: A file is not tagged, or the output can't be written; then nothing is.

    Example:
        >>> expose("bert_onnx", "encoder.layer.*.output", output="bert_states")    # doctest: +SKIP
    """
    opened = as_package(package)
    opened.require_unpacked()
    wanted = ModulePatterns((patterns,) if isinstance(patterns, str) else patterns)
    if not wanted.texts:
        raise HtpError("no pattern says what to expose; '*' is what all modules return")
    target = checked_output(opened.path, output, overwrite=overwrite)
    if target is None:
        raise HtpError(f"{output}: the package is only read; give another path")
    tagged = {name: tagged_file(each, package=opened) for name, each in opened.matching(file).items()}
    unmatched = wanted.unmatched([graph.roots for graph in tagged.values()])
    if unmatched:
        raise PackageError(f"{opened.path}: {unmatched}")
    for graph in tagged.values():
        check_sound(graph.model)
    with graph_limits((opened,)):
        plans = {name: _Plan(graph, wanted, operator) for name, graph in tagged.items()}
        if not any(plan.exposed for plan in plans.values()):
            raise PackageError(f"{opened.path}: {_nothing(wanted, plans, operator)}")
        with writing(target), StagedDirectory(target if opened.path.is_dir() else target.parent) as staging:
            checked_output(opened.path, output, overwrite=overwrite)
            changed = {name: partial(_written, plan, opened.files[name]) for name, plan in plans.items() if plan.added}
            write_copy(opened, target, staging, changed)
    return ExposeReport(
        package=str(opened.path),
        output=str(target),
        tensors=tuple(tensor for plan in plans.values() for tensor in plan.exposed),
        left_out=tuple(each for plan in plans.values() for each in plan.left_out),
    )


def _nothing(wanted: ModulePatterns, plans: Mapping[str, _Plan], operator: str | None) -> str:
    """Why nothing can be exposed, where there are modules."""
    reasons = dict.fromkeys(each.reason for plan in plans.values() for each in plan.left_out)
    if reasons:
        return "; ".join(list(reasons)[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
    what = " ".join(map(repr, wanted.texts))
    return f"no node of {what} is a {operator}" if operator else f"{what} selects modules that no node comes from"


@dataclass(slots=True)
class _Places:
    """What is added to a graph."""

    sources: dict[str, str] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    handed_on: dict[int, list[str]] = field(default_factory=dict)
    tags: list[NodeTag] = field(default_factory=list)


class _Plan:
    """What is exposed in one file, and how."""

    def __init__(self, file: TaggedGraph, wanted: ModulePatterns, operator: str | None) -> None:
        self.file = file
        self.exposed: list[ExposedTensor] = []
        self.left_out: list[NotExposed] = []
        self._model = file.model
        self._graphs = dict(self._model.graphs())
        self._places: dict[str, _Places] = {}
        self._types = _types_of(self._model)
        self._taken = tensor_names(self._model)
        self._returned = self._find_returned()
        known = ModuleResults(file, self._types)
        results = [
            result
            for root, info, patterns in wanted.modules(file.roots)
            if not info.container and (info.path or operator is not None)  # what the root returns is there
            for result in known.of(root, info, patterns, operator=operator)
        ]
        for result in results if operator is None else _innermost(results):
            self._expose(result)
        self._name_axes()

    def _expose(self, result: ModuleResult) -> None:
        known = {self._returned.get(place) for place in result.tensors.items()}
        problem = result.problem or self._problem(result)
        if problem is not None:
            self.left_out.append(
                NotExposed(file=self.file.name, module=result.tag, path=result.path, call=result.call, reason=problem)
            )
            return
        (returned,) = known if len(known) == 1 else (None,)
        name = returned or self._free_name(result.name)
        if returned is None:
            self._graft(result, name)
        elif result.name.endswith("]"):
            return  # a cache, say, that leaves the module too
        value = self._type(result.tensors, name)
        if returned is not None:
            value = next((each for each in self._model.graph.outputs if each.name == name), value)
        self.exposed.append(
            ExposedTensor(
                file=self.file.name,
                module=result.tag,
                path=result.path,
                call=result.call,
                output=value,
                tensors=result.tensors,
                added=returned is None,
            )
        )

    def _problem(self, result: ModuleResult) -> str | None:
        """Why tensors can't be handed up to the main graph; None if they can."""
        paths = set(result.tensors)
        while paths - {""}:
            path = max(paths, key=len)
            body = split_body_path(path)
            if body is None:
                return f"{result.name} is in the function {path}; inline functions first (onnx.inliner)"
            holder, index, _ = body
            node = self._graphs[holder].nodes[index]
            if node.op_type != "If" or node.domain:
                return f"{result.name} is in the body of a {node.operator}, which runs more than once"
            both = {f"{path.rpartition('.')[0]}.{branch}" for branch in _BRANCHES}
            if not both <= paths:
                (other,) = both - {path}
                return f"{result.name} is in one branch of an If only: {other} has nothing to give for it"
            paths = paths - both | {holder}
        return None

    def _graft(self, result: ModuleResult, name: str) -> None:
        self._taken.add(name)
        for path, source in result.tensors.items():
            places = self._at(path)
            places.sources[name] = source
            places.tags.append(NodeTag(result.tag, "inserted", result.call))
            places.outputs.append(name)
            while body := split_body_path(path):
                path, index, _ = body
                places = self._at(path)
                names = places.handed_on.setdefault(index, [])
                if name in names:
                    break
                names.append(name)
                places.outputs.append(name)

    def _at(self, path: str) -> _Places:
        return self._places.setdefault(path, _Places())

    def _free_name(self, name: str) -> str:
        while name in self._taken:
            name += "/output"
        return name

    def _type(self, tensors: Mapping[str, str], name: str) -> Value:
        """The type of a tensor, with those sizes only that all graphs have that make it."""
        values = [self._types[path][tensor] for path, tensor in tensors.items()]
        shapes = [value.shape for value in values]
        first = shapes[0]
        if first is None or any(shape is None or len(shape) != len(first) for shape in shapes):
            return Value(name, values[0].elem_type)
        sizes = zip(*(shape for shape in shapes if shape is not None), strict=True)
        return Value(name, values[0].elem_type, tuple(each[0] if len(set(each)) == 1 else None for each in sizes))

    def _find_returned(self) -> dict[tuple[str, str], str]:
        """The tensors of all graphs that the model returns, with the names of its outputs."""
        returned = {("", value.name): value.name for value in self._model.graph.outputs}
        for path, graph in self._graphs.items():
            body = split_body_path(path)
            if body is None or self._graphs[body[0]].nodes[body[1]].op_type != "If":
                continue
            outputs = self._graphs[body[0]].nodes[body[1]].outputs
            for value, name in zip(graph.outputs, outputs, strict=False):
                if (body[0], name) in returned:
                    returned[path, value.name] = returned[body[0], name]
        return returned

    def _name_axes(self) -> None:
        added = iter(named_axes(tensor.output for tensor in self.exposed if tensor.added))
        self.exposed = [replace(each, output=next(added)) if each.added else each for each in self.exposed]

    @property
    def added(self) -> list[str]:
        """The names of the outputs that are new."""
        return [tensor.output.name for tensor in self.exposed if tensor.added]

    def write(self, target: Path, *, operator: str = "Identity") -> TaggedGraph:
        """Writes the file with the new outputs and the tags of what makes them; gives it as it is then."""
        outer = {tensor.output.name: tensor.output for tensor in self.exposed}
        grafts = {
            path: Graft(
                outputs=tuple(
                    outer[name]
                    if not path or name not in places.sources
                    else self._type({path: places.sources[name]}, name)
                    for name in places.outputs
                ),
                sources=places.sources,
                handed_on={index: tuple(names) for index, names in places.handed_on.items()},
                operator=operator,
            )
            for path, places in self._places.items()
        }
        rewrite_metadata(
            self._model.path,
            nodes={},
            owned=lambda _: False,
            model=exposed_entries(self.added),
            grafts=grafts,
            destination=target,
        )
        tags = dict(self.file.tags)
        for path, places in self._places.items():
            first = len(self._graphs[path].nodes)
            tags |= {(path, first + index): tag for index, tag in enumerate(places.tags)}
        graph = TaggedGraph(read_model(target), tags, self.file.roots)
        write_tags(graph, options=options_of([self._model]))
        return replace(graph, model=read_model(target))


def _innermost(results: Sequence[ModuleResult]) -> list[ModuleResult]:
    """Of results that are the same tensors, those of the innermost module."""
    deepest: dict[tuple[tuple[str, str], ...], ModuleResult] = {}
    for result in results:
        key = tuple(sorted(result.tensors.items()))
        if key not in deepest or result.tag.count("/") > deepest[key].tag.count("/"):
            deepest[key] = result
    return [result for result in results if deepest[tuple(sorted(result.tensors.items()))] is result]


def _types_of(model: OnnxModel) -> dict[str, dict[str, Value]]:
    """The types of the tensors of all graphs but functions, by the graph's path."""
    types: dict[str, dict[str, Value]] = {}
    with SourceFiles(model.path) as files:
        whole = model_spans(files.data)
        for path in _bodies(model):
            spans = scope_spans(files.data, whole.graph, path)
            types[path] = TensorTypes(files.data, whole, scopes_of(model, path), spans).sized()
    return types


def _bodies(model: OnnxModel) -> Iterator[str]:
    return (path for path, _ in model.graphs() if model.function_of(path) is None)


def _written(plan: _Plan, source: HtpFile, staged: Path) -> TaggedGraph:
    """The graph with its new outputs, as it was written: ONNX Runtime can load it."""
    graph = plan.write(staged)
    if _refused(staged, source) is not None:
        # ONNX Runtime 1.32 makes a graph of some that it then refuses when it takes an Identity away: where the tensor
        # is read by a Pad, too.
        graph = plan.write(staged, operator="Max")
        refused = _refused(staged, source)
        if refused is not None:
            message = "ONNX Runtime can't load it with these outputs, so nothing was written; expose fewer"
            raise PackageError(f"{source.path}: {message} ({refused})")
    return graph


def _refused(staged: Path, source: HtpFile) -> str | None:
    """Why ONNX Runtime can't load a file with new outputs; None if it can, or can't load the one that it is made from."""
    if not all((staged.parent / location).is_file() for location in external_data_files(source.model)):
        return None  # its weights are beside where it goes
    refused = load_error(staged, optimized=True)
    return refused if refused is None or load_error(source.path, optimized=True) is None else None
