"""Modules that repeat as functions of the model: one for all that are alike, and a node that calls it for each.

Weights are given to the functions and stay where they are; they are neither read nor changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from optimum_htp.errors import HtpError, PackageError, writing
from optimum_htp.hierarchy import ModulePatterns, NodeKey
from optimum_htp.onnxfile import (
    DraftEncoder,
    DraftNode,
    Functions,
    Graft,
    SourceFiles,
    check_sound,
    read_model,
    rewrite_metadata,
)
from optimum_htp.package import (
    Annotations,
    HtpPackage,
    StagedDirectory,
    as_package,
    checked_output,
    exposed_outputs,
    kept_skeleton,
    options_of,
    pack_skeleton,
    tagged_file,
    write_copy,
)
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.functions.chosen_blocks import blocks, chosen
from optimum_htp.verbs.functions.plan import FilePlan
from optimum_htp.verbs.functions.report import FunctionsReport


def functions(
    package: str | Path | HtpPackage,
    patterns: str | Sequence[str] = (),
    *,
    output: str | Path,
    depth: int | None = None,
    file: str | None = None,
    overwrite: bool = False,
) -> FunctionsReport:
    """Makes ONNX functions of modules that repeat, in a copy of a package.

    Calls of modules of one class whose nodes are alike become calls of one function, which is given what differs: weights,
    what comes in, and constants. After inlining (`onnx.inliner`, and ONNX Runtime does it by itself) the graph is what it
    was, node by node. Calls that are not like any other stay as they are, and the report says why.

    Args:
        package: A package, or the path of one or of an ONNX file. It is only read.
        patterns: The modules, as `select` takes them: `BertLayer`, `encoder.layer.*`, `layer@1-3`. Of modules inside of each
            other the functions call each other. None means the outermost modules that repeat and have modules of their
            own: the layers.
        output: Where to write: a directory for a package, a file for a file.
        depth: Only modules with so many modules above them, as `tree` shows them; without patterns all of those.
        file: The files of the package, globs allowed; None means all.
        overwrite: Write into a directory or file that exists.

    Raises:
        PackageError: A pattern matches no module, or none of the modules repeats.
        HtpError: A file is not tagged, or the output can't be written; then nothing is.

    Example:
        >>> functions("bert_onnx", output="bert_functions").functions[0].name    # doctest: +SKIP
        'BertLayer'
    """
    opened = as_package(package)
    opened.require_unpacked()
    if depth is not None and depth < 0:
        raise HtpError(f"depth {depth}: the root is at 0, and what is in it below; give 1 or more")
    texts = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    wanted = ModulePatterns(texts or (() if depth is None else ("*",)))
    target = checked_output(opened.path, output, overwrite=overwrite)
    if target is None:
        raise HtpError(f"{output}: the package is only read; give another path")
    tagged = {name: tagged_file(each, package=opened) for name, each in opened.matching(file).items()}
    unmatched = wanted.unmatched([graph.roots for graph in tagged.values()])
    if unmatched:
        raise PackageError(f"{opened.path}: {unmatched}")
    for graph in tagged.values():
        check_sound(graph.model)
    tried = {name: _Change(graph, wanted, depth) for name, graph in tagged.items()}
    changes = {name: change for name, change in tried.items() if change.functions}
    if not changes:
        raise PackageError(f"{opened.path}: {_nothing(tuple(tried.values()), texts, depth)}")
    with writing(target), StagedDirectory(target if opened.path.is_dir() else target.parent) as staging:
        checked_output(opened.path, output, overwrite=overwrite)
        write_copy(opened, target, staging, {name: change.write for name, change in changes.items()})
    before = {name: each.model for name, each in opened.files.items()}
    after = {name: changes[name].graph.model if name in changes else model for name, model in before.items()}
    return FunctionsReport(
        package=str(opened.path),
        output=str(target),
        nodes_before=sum(1 for model in before.values() for _ in model.nodes()),
        nodes=sum(1 for model in after.values() for _ in model.nodes()),
        functions=tuple(each for change in changes.values() for each in change.functions),
        left_out=tuple(each for change in tried.values() for each in change.left_out),
    )


class _Change:
    """What becomes of one file.

    Attributes:
        graph: The file as it is to be, with its tags.
        functions: What the report says of its functions.
        left_out: The calls whose nodes stay.
        modules: How many modules were looked at.
    """

    def __init__(self, file: TaggedGraph, wanted: ModulePatterns, depth: int | None) -> None:
        self._source = file.model
        with SourceFiles(file.model.path) as files:
            plan = FilePlan(file, files.data, fixed=exposed_outputs(file.model))
            levels = chosen(file.roots, wanted, depth=depth) if wanted.texts else [blocks(plan)]
            self.modules = sum(map(len, levels))
            for modules in levels:
                plan.make(modules)
            self.functions = tuple(plan.workshop.reports)
            self.left_out = tuple(plan.left_out)
            self.graph, places = plan.result()
            if self.functions:
                self._encode(plan, files, places)

    def _encode(self, plan: FilePlan, files: SourceFiles, places: Mapping[DraftNode, NodeKey]) -> None:
        options = options_of([self._source])
        if options.skeleton:  # of the graph as it was: what inlining makes of this one again
            skeleton = plan.file.skeleton or kept_skeleton(self._source) or pack_skeleton(plan.file)
            self.graph = replace(self.graph, skeleton=skeleton)
        self._annotations = Annotations.of(self.graph, options)
        ours = self._annotations.ours
        for draft, key in places.items():
            draft.dropped |= draft.node.metadata.keys() - ours.without_ours(key, draft.node.metadata).keys()
        encoder = DraftEncoder(
            files.data, entries=lambda draft: self._annotations.nodes.get(places[draft], {}) if draft in places else {}
        )
        self._grafts: dict[str, Graft] = {}
        stay: dict[NodeKey, NodeKey] = {
            key: key for key in self._annotations.nodes if self._source.function_of(key[0])
        }
        graphs = [plan.main]
        while graphs:
            graph = graphs.pop()
            old = {draft: plan.keys[draft][1] for draft in graph.nodes if draft in plan.keys}
            self._grafts[graph.path], left = encoder.graft(graph, old)
            for draft in left:
                stay[places[draft]] = plan.keys[draft]
                graphs += [body for _, body in draft.bodies]
        self._stay = stay
        self._functions = Functions(
            self.graph.model.ir_version,
            tuple(encoder.function(each) for each in plan.workshop.made),
            plan.workshop.new_opsets,
        )

    def write(self, target: Path) -> TaggedGraph:
        """Writes the file; gives it as it is then."""
        annotations, stay = self._annotations, self._stay
        rewrite_metadata(
            self._source.path,
            nodes={stay[key]: entries for key, entries in annotations.nodes.items() if key in stay},
            owned=annotations.ours.has,
            foreign={stay[key] for key in annotations.ours.foreign if key in stay},
            model=annotations.model,
            grafts=self._grafts,
            functions=self._functions,
            destination=target,
        )
        return replace(self.graph, model=read_model(target))


def _nothing(changes: Sequence[_Change], patterns: Sequence[str], depth: int | None) -> str:
    """Why no function can be made."""
    reasons = dict.fromkeys(
        f"{each.path or 'the root'}: {each.reason}" for change in changes for each in change.left_out
    )
    if reasons:
        return "; ".join(list(reasons)[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
    if depth is not None and not any(change.modules for change in changes):
        return f"no such module has {depth} modules above it; `optimum-cli htp tree` shows them"
    if not patterns:
        return "no module that has modules of its own repeats; name what is to be a function, such as Linear"
    return f"no node comes from a call of {' '.join(map(repr, patterns))}"
