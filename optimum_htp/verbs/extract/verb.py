"""Cut a module out of an exported package as an ONNX model of its own.

The nodes are those that carry the module's tag, with the constants and weights that they consume; what they need from
outside becomes an input, and what others need from them an output, by the names that the tensors have in the package.
The parts are copied as they are in the file: weights are neither parsed nor held in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from optimum_htp.errors import PackageError, writing
from optimum_htp.hierarchy import ModulePath, ModuleTree, NodeKey, NodeTag, Root, Roots
from optimum_htp.models import graph_limits, load_error
from optimum_htp.onnxfile import (
    SourceFiles,
    TensorTypes,
    Value,
    body_path,
    check_sound,
    graph_digest,
    model_spans,
    named_axes,
    read_model,
    scope_spans,
    scopes_of,
    split_body_path,
)
from optimum_htp.package import (
    SIDECAR,
    CutFrom,
    FileRecord,
    HtpPackage,
    Sidecar,
    StagedDirectory,
    as_package,
    entries,
    library_versions,
    options_of,
    refuse_link,
    settle,
    write_tags,
)
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.extract.choice import Choice, choose
from optimum_htp.verbs.extract.cut import Cut, cut
from optimum_htp.verbs.extract.part import PartWriter
from optimum_htp.verbs.extract.report import ExtractReport

_FILE_NAME = "model.onnx"


def extract(
    package: str | Path | HtpPackage,
    module: str,
    *,
    output: str | Path,
    file: str | None = None,
    graph: str | None = None,
    call: int | None = None,
    overwrite: bool = False,
) -> ExtractReport:
    """Cuts a module out of a package as an ONNX model of its own.

    Args:
        package: The package's directory, or an ONNX file. It is only read.
        module: The module's dotted path or tag. `encoder.layer.2-5` means these layers, both ends included, and a
            container such as `encoder.layer` all that is in it; `layer@1` is the second call of a module that ran
            more than once.
        output: The ONNX file to write, whose name ends in `.onnx`; else a directory for `model.onnx` and its sidecar.
        file: The file of the package to cut from, globs allowed; None means the one that has the module's nodes.
        graph: Which graph to cut from where the module is in several, as in both branches of a merged decoder: the
            name of the branch (`then_branch`), or the path of the graph.
        call: The index of the module's call, instead of `@` in `module`.
        overwrite: Replace what an earlier extraction wrote there.

    Returns:
        What was written.

    Raises:
        PackageError: There is no such module, it has no nodes, no clean cut around it exists, or the output is in use.
        HtpError: A file is not an ONNX model, or the output could not be written; what was there is unchanged.

    Example:
        >>> extract("bert_onnx", "bert.encoder.layer.0", output="layer.onnx")    # doctest: +SKIP
    """
    opened, output = as_package(package), Path(output)
    target, _ = _target(opened, output, overwrite=overwrite)  # first, because it is quick to refuse
    choice = choose(opened, module, file=file, graph=graph, call=call)
    chosen = opened.files[choice.file.name]
    if opened.path.is_dir() and chosen.path.is_symlink():
        refuse_link(chosen.path, opened.directory)
    check_sound(choice.file.model)
    with (
        graph_limits((opened,)),
        SourceFiles(chosen.path) as files,
        writing(target),
        StagedDirectory(target.parent) as staging,
    ):
        _, earlier = _target(opened, output, overwrite=overwrite)
        model = model_spans(files.data)
        spans = scope_spans(files.data, model.graph, choice.graph)
        types = TensorTypes(files.data, model, scopes_of(choice.file.model, choice.graph), spans)
        part = cut(choice, types.known)
        typed = _typed(choice, part, types.sized((*part.inputs, *part.outputs)))
        staged = staging.path / target.name
        record = _record(choice, part, target, opened)
        weight_bytes = PartWriter(files, chosen, model, spans).write(
            part, staged, name=choice.name, types=typed, metadata=record.entries()
        )
        _tag(choice, part, staged, sidecar=target != output)
        not_loaded = _check_loads(staged, chosen.path, name=choice.name)
        names = sorted(path.name for path in staging.path.iterdir())
        staging.commit(remove=tuple(path.name for path in earlier), last=SIDECAR)
    return ExtractReport(
        package=str(opened.path),
        file=choice.file.name,
        graph=choice.graph,
        modules=tuple(".".join(path) for path in choice.paths),
        call=choice.call,
        output=str(target),
        files=tuple(str(target.parent / name) for name in names),
        nodes=part.own,
        constants=len(part.nodes) - part.own - len(part.shared),
        shared=part.shared,
        folded=tuple(_folded_norms(choice)),
        inputs=tuple(typed[name] for name in part.inputs),
        outputs=tuple(typed[name] for name in part.outputs),
        initializers=len(part.initializers),
        weight_bytes=weight_bytes,
        external_data=f"{target.name}_data" in names,
        not_loaded=not_loaded,
    )


def _check_loads(part: Path, source: Path, *, name: str) -> str | None:
    """Loads a part in ONNX Runtime; says why that fails where it fails for the file that it is from, too, else raises."""
    refused = load_error(part)
    if refused is None:
        return None
    if load_error(source) is None:
        raise PackageError(
            f"{source}: ONNX Runtime can't load what was cut out for {name!r}, so nothing was written ({refused}); extract a "
            "module around it"
        )
    return refused


def _folded_norms(choice: Choice) -> Iterator[str]:
    """The batch norms that were folded into convolutions that were cut out without them."""
    tree = choice.tree
    graph = dict(choice.file.model.graphs())[choice.graph]
    convolutions = (index for index in choice.positions if "Conv" in graph.nodes[index].op_type)
    owners = (tree.path_of_tag(choice.file.tags[choice.graph, index].tag) for index in convolutions)
    parents = {owner[:-1] for owner in owners if owner}
    tags = {tag.tag for tag in choice.file.tags.values()}
    for info in tree:
        tag = tree.tag(info.path)
        is_norm = "BatchNorm" in info.class_name and info.calls > 0 and info.path[:-1] in parents
        if is_norm and tag not in tags and not choice.owns(tag):
            yield ".".join(info.path)


def _target(package: HtpPackage, output: Path, *, overwrite: bool) -> tuple[Path, list[Path]]:
    """The ONNX file to write, if it is not in the way of anything, and the files of an earlier extraction there."""
    single = output.suffix == ".onnx"
    if single and output.is_dir():
        raise PackageError(f"{output}: a directory; give the path of the ONNX file to write")
    if not single and output.exists() and not output.is_dir():
        raise PackageError(f"{output}: a file; give a directory, or a file whose name ends in .onnx")
    target = output if single else output / _FILE_NAME
    settle(target.parent)
    real = Path(os.path.realpath(target.parent), target.name)
    if package.path.is_dir() and real.is_relative_to(package.path.resolve()):
        raise PackageError(f"{output}: inside the package that is cut from; write somewhere else")
    if real == Path(os.path.realpath(package.path.parent), package.path.name):
        raise PackageError(f"{output}: the file that is cut from; write somewhere else")
    written = [target, target.with_name(target.name + "_data")]
    if not single:
        written.append(output / SIDECAR)
        unexpected = [path.name for path in entries(output) if path not in written] if output.is_dir() else []
        if unexpected:
            raise PackageError(f"{output}: has other files in it ({unexpected[0]}); give a new directory")
    existing = [path for path in written if os.path.lexists(path)]
    if existing and not overwrite:
        raise PackageError(f"{existing[0]}: exists already; give --overwrite to replace it, or another path")
    return target, existing


def _typed(choice: Choice, part: Cut, types: Mapping[str, Value]) -> dict[str, Value]:
    """The types of the inputs and outputs, with names for the axes whose size is not known."""
    boundary = dict.fromkeys((*part.inputs, *part.outputs))
    unknown = [name for name in boundary if name not in types]
    if unknown:
        raise PackageError(
            f"{choice.file.model.path}: the types of tensors that go into {choice.name!r} or out of it are unknown, because "
            f"they are no tensors, or ONNX Runtime lacks the operator that makes them: {', '.join(unknown)}; extract a "
            "module around it, or declare them in the file's value_info"
        )
    return {value.name: value for value in named_axes(types[name] for name in boundary)}


def _record(choice: Choice, part: Cut, target: Path, package: HtpPackage) -> CutFrom:
    """What the new file says of the package, for `compare` and `profile`."""
    path = package.path.resolve()
    if not package.path.is_dir():  # by its own name, not that of what it is a link to
        path = package.path.parent.resolve() / package.path.name
    with suppress(ValueError):  # on another drive of Windows
        path = Path(os.path.relpath(path, target.parent.resolve()))
    return CutFrom(
        package=path.as_posix(),
        file=choice.file.name,
        digest=graph_digest(choice.file.model),
        graph=choice.graph,
        modules=tuple(".".join(path) for path in choice.paths),
        call=choice.call,
        inputs=part.inputs,
        outputs=part.outputs,
    )


def _tag(choice: Choice, part: Cut, staged: Path, *, sidecar: bool) -> None:
    """Tags the nodes of the new file, if they have lost their tags, and writes its sidecar."""
    moved = {(part.scopes[scope].path, old): new for new, (scope, old) in enumerate(part.nodes)}
    model = choice.file.model
    called = {model.functions[index].path for index in part.functions}
    inside = {path: function.path for path, _ in model.graphs() if (function := model.function_of(path)) is not None}
    functions = {path for path, function in inside.items() if function in called}
    keys = ((key if key[0] in functions else _moved_key(key, moved), tag) for key, tag in choice.file.tags.items())
    tags = {key: tag for key, tag in keys if key is not None}
    graph = TaggedGraph(read_model(staged), tags, Roots((_part_of_root(choice, tags.values()),)))
    write_tags(graph, options=options_of([choice.file.model]))  # for tags that a tool dropped too, and a new skeleton
    graph = replace(graph, model=read_model(staged))
    if sidecar:
        Sidecar({staged.name: FileRecord.of(graph)}, versions=library_versions()).write(staged.parent)


def _moved_key(key: NodeKey, moved: Mapping[NodeKey, int]) -> NodeKey | None:
    """Where a node of the old file is in the new one; None where it did not come along."""
    if key in moved:
        return "", moved[key]
    body = split_body_path(key[0])
    if body is None:
        return None
    holder = _moved_key(body[:2], moved)
    return (body_path(*holder, body[2]), key[1]) if holder is not None else None


def _part_of_root(choice: Choice, tags: Iterable[NodeTag]) -> Root:
    """The modules that were cut out, those around them, and those of the nodes that came along, with their calls."""
    (whole,) = (root for root in choice.file.roots if root.tree is choice.tree)
    tree = whole.tree
    named = {name for tag in tags for name in (tag.tag, *tag.origins)}
    wanted = {path for name in named if (path := tree.path_of_tag(name)) is not None} | set(choice.paths)
    for info in tree:
        paths = (info.path, *info.aliases)
        if any(path[: len(top)] == top for path in paths for top in choice.paths):
            wanted.update(paths)
    kept = {id(tree.module(path[:length])) for path in wanted for length in range(len(path) + 1)}
    part = ModuleTree(
        replace(info, aliases=tuple(alias for alias in info.aliases if _is_known(alias, tree, kept)))
        for info in tree
        if id(info) in kept
    )
    return Root(part, whole.in_model, tuple(trace.within(part) for trace in whole.traces))


def _is_known(alias: ModulePath, tree: ModuleTree, kept: set[int]) -> bool:
    return all(id(tree.module(alias[:length])) in kept for length in range(len(alias)))
