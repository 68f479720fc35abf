"""`tag`: tagging an existing package, without exporting it again.

The modules are those of the model that the package's own config describes, instantiated without weights; which of them a
node comes from is decided by node names, weight names and data flow. Where nodes have no names that say it and the model's
weights are at hand, their values count too. What only an export can know, such as the call of a module, stays unknown.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError, PackageError, reason
from optimum_htp.hierarchy import ModuleTree, NodeTag, NodeTags, Root, Roots
from optimum_htp.models import (
    ExportedRoot,
    GraphSize,
    ModelSource,
    check_model_name,
    choose_root,
    distinct_parameters,
    find_source,
    instantiate_on_meta,
    load_source_model,
    recorded_revision,
    returns_attentions,
    source_facts,
)
from optimum_htp.onnxfile import Graph, Node, OnnxModel, body_path, external_data_files
from optimum_htp.package import (
    CONFIG,
    MODEL_INDEX,
    SIDECAR,
    FileRecord,
    HtpFile,
    HtpOptions,
    HtpPackage,
    Ownership,
    Sidecar,
    TagCounts,
    add_config_metadata,
    cache_leaf,
    changing,
    complete_package,
    external_file,
    library_versions,
    options_of,
    projected,
    read_tags,
    reset_modes,
    skeleton_of,
    write_files,
)
from optimum_htp.reports import Report
from optimum_htp.tagging import (
    NAME_SCOPES,
    ModuleTrace,
    Statements,
    TaggedGraph,
    described_trace,
    has_scopes,
    statements,
    static_trace,
    tag_model,
    with_calls,
)

if TYPE_CHECKING:
    import torch


logger = logging.getLogger(__name__)

# Where the tags of a file are from, if not from an export: the names of its nodes, what they say of themselves, neither.
_NAMES, _STATED, _UNKNOWN = "names", "statements", "unknown"
# The directories of a pipeline's export that are not named like the component.
_COMPONENTS = {"vae_encoder": "vae", "vae_decoder": "vae"}
_ITSELF = f"itself or the graph ({NAME_SCOPES})"
_WITHOUT_STATEMENTS = "export the model again, or remove that metadata to go by the names of nodes and weights"
_FROM_NAMES = "tagged_from_names"
"""In the sidecar's `source`: the files, joined by `, `, whose tags are from names and not from an export."""


@dataclass(frozen=True, slots=True, repr=False)
class TagReport(Report):
    """What tagging an existing package did.

    Attributes:
        package: The package.
        files: For each ONNX file, by its path in the package, how its nodes are tagged now.
        kept: The files that were tagged already, and that the sidecar still describes; they keep their tags.
        restored: Those of them on whose nodes the tags were not any more, as tools leave them, and are again.
        unknown: The files of which nothing is resolved: they are not exports of any model that the config may mean, or
            have neither names nor weights that say so.
        notes: Why nodes of a file are left, and what to do, for files whose nodes have no names that say it.
        written: The config, tokenizer and processor files that were missing and were written.
        seconds: Wall-clock seconds spent.
    """

    package: Path
    files: dict[str, TagCounts]
    kept: tuple[str, ...]
    restored: tuple[str, ...]
    unknown: tuple[str, ...]
    notes: dict[str, str]
    written: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {**asdict(self), "package": str(self.package)}


def tag(
    package: str | Path | HtpPackage,
    *,
    model: str | Path | None = None,
    trust_remote_code: bool = False,
    force: bool = False,
    htp_options: HtpOptions | None = None,
) -> TagReport:
    """Tags an existing package, such as one of plain `optimum-cli export onnx`, without exporting it again.

    Args:
        package: The package, its directory, or one ONNX file of it.
        model: The model that it was exported from: an id on the Hub or a local directory. None means what the
            package's own config.json says. If the package has no config, tokenizer or processor, they are written. Its
            weights are read for files whose nodes have no names that say anything.
        trust_remote_code: Run code that comes with the model.
        force: Tag again what an export tagged and the sidecar still describes; the calls are lost then.
        htp_options: What to write in addition to the tags; None means the defaults, and for files that keep their tags
            what is on their nodes already.

    Raises:
        PackageError: There is no such package, it doesn't say what model it is, or nothing is known of any node: none of
            its files is an export of that model, or shows it. Nothing was written.
        TaggingError: A file could not be tagged; all of them are as they were.

    Example:
        >>> tag("bert_onnx").files["model.onnx"].unresolved    # doctest: +SKIP
        0
    """
    started = time.perf_counter()
    if model is not None:
        check_model_name(model)
    with changing(package) as (opened, staging):
        opened.require_unpacked()
        sources = _Sources(opened, model, trust_remote_code)
        options = htp_options or HtpOptions()
        files = opened.files.items()
        kept = {name: file.record for name, file in files if not force and file.record and _is_described(opened, file)}
        for file in (file for name, file in files if name not in kept):
            for location in sorted(external_data_files(file.model)):
                external_file(file.path, location, package=file.directory)
        graphs = {name: _tagged(file, sources, keep=not force) for name, file in files if name not in kept}
        problems = {name: problem for name, graph in graphs.items() if (problem := sources.problem(name, graph))}
        if graphs and len(problems) == len(graphs):
            raise PackageError(f"{opened.path}: {next(iter(problems.values()))}.")
        for problem in problems.values():
            logger.warning("%s. No node of it is resolved.", problem)
        written = sources.complete_package(staging.path)
        write_files(graphs, staging.path, options=options)
        restored = [name for name in kept if _has_lost_tags(opened.files[name])]
        for name in kept if htp_options is not None else restored:
            file = opened.files[name]
            write_files({name: file.tagged}, staging.path, options=htp_options or options_of([file.model]))
        records = kept | {
            name: FileRecord.of(graph).keeping(opened.files[name].record) for name, graph in graphs.items()
        }
        if options.config_metadata:
            configured = staging.path if CONFIG in written else opened.directory
            add_config_metadata(configured, records, destination=staging.path)
        seconds = time.perf_counter() - started
        if graphs:
            named = {name for name, graph in graphs.items() if graph.origin in (_NAMES, _STATED)}
            _sidecar(opened, records, named, model, seconds).write(staging.path)
        staging.commit(last=SIDECAR)
    counts = {name: records[name].counts for name, _ in files}
    notes = {
        name: sources.without_names(name) for name, graph in graphs.items() if name not in problems and _is_left(graph)
    }
    for name, graph in graphs.items():
        if name not in problems and graph.origin == _STATED and records[name].counts.unresolved:
            notes[name] = f"what some nodes say of their modules can't be read, or contradicts {_ITSELF}"
    return TagReport(opened.path, counts, tuple(kept), tuple(restored), tuple(problems), notes, written, seconds)


class _Sources:
    """The models that the files of a package may be exports of."""

    def __init__(self, package: HtpPackage, model: str | Path | None, trust_remote_code: bool) -> None:
        self._package = package
        self._model = model
        self._trust_remote_code = trust_remote_code
        self._made: dict[tuple[object, ...], list[torch.nn.Module]] = {}
        self._weights: dict[str, str] = {}  # what came of reading the model's weights for a file, for the user

    @cached_property
    def _source(self) -> ModelSource | None:
        if self._model is None:
            return None
        recorded = self._package.sidecar.source if self._package.sidecar is not None else {}
        return find_source(self._model, revision=recorded_revision(self._model, recorded))

    @cached_property
    def _graph(self) -> GraphSize | None:
        """How large the graph is that the package's own config has to fit; a model that is given may be larger."""
        return GraphSize.of(self._package) if self._model is None else None

    def directory(self, name: str) -> Path:
        """The directory whose config says what model a file is of. Raises PackageError if there is none."""
        part = Path(name).parent
        if self._source is not None:
            top = self._source.directory
            places = [part.parent / _COMPONENTS.get(part.name, part.name), part, Path()]
        else:
            top = self._package.directory
            places = [part, *part.parents]
        for place in places:
            if any((top / place / config).is_file() for config in (CONFIG, "modules.json")):
                return top / place
        advice = f"give the model it was exported from: optimum-cli htp tag {self._package.path} --model MODEL"
        raise PackageError(f"{top}: no config.json says what model {name} is of; {advice}")

    def candidates(self, name: str, *, eager: bool, root_class: str | None = None) -> Iterator[torch.nn.Module]:
        """The models that a file may be an export of, or of a part of, the likeliest first; of its class, where it says that."""
        directory = self.directory(name)
        component = self._package.components.of_file(name)
        exported = tuple(filter(None, (root_class, component.architecture if component is not None else None)))
        seen = 0
        for tasks in (False, True) if root_class is None else (False,):
            key = (directory, tasks, eager, *exported)
            if key not in self._made:
                attention, trust = "eager" if eager else None, self._trust_remote_code
                self._made[key] = list(
                    instantiate_on_meta(
                        directory,
                        trust_remote_code=trust,
                        tasks=tasks,
                        attn_implementation=attention,
                        graph=self._graph,
                        exported=exported,
                    )
                )
            yield from self._made[key][seen:]
            seen = len(self._made[key])

    def by_values(
        self, file: HtpFile, model: OnnxModel, named: ExportedRoot | None, whole: torch.nn.Module
    ) -> tuple[ExportedRoot, dict[tuple[str, str], str]] | None:
        """The module that the values of a file's weights are of, and the parameters that they are; None if none is known.

        `named` is the module that names speak for, in the model `whole`: what explains less of the file is not taken.
        """
        at_hand = self._model if self._model is not None else self._beside(file.name)
        if at_hand is None:
            return None
        root = (named.trace if named is not None else static_trace(whole)).tree.root
        with_past = any(cache_leaf(value.name) is not None for value in model.graph.inputs)
        recorded = self._package.sidecar.source if self._package.sidecar is not None else {}
        try:
            loaded = load_source_model(
                at_hand,
                **source_facts({}, [root], with_past=with_past),
                revision=recorded_revision(at_hand, recorded),
                trust_remote_code=self._trust_remote_code,
            ).model
            parameters = distinct_parameters(file, loaded)
        except PackageError as error:
            self._weights[file.name] = f"its weights can't be told by value either: {error}"
            return None
        found, _ = choose_root(model, [loaded], distinct=parameters)
        if found is not None and found.in_model:
            parameters = distinct_parameters(file, loaded.get_submodule(found.in_model))
        if not parameters or found is None or (named is not None and found.explained < named.explained):
            self._weights[file.name] = f"its weights have not the values of those in {at_hand}"
            return None
        self._weights[file.name] = "only weights that the code of one module alone computes with say more"
        return found, parameters

    def _beside(self, name: str) -> Path | None:
        """The directory of a file's config where it has weights too, in a format that runs nothing when it is read."""
        directory = self.directory(name)
        return directory if any(directory.glob("*.safetensors")) else None

    def without_names(self, name: str) -> str:
        """Why nodes without scopes in their names are left, and what to do."""
        said = self._weights.get(
            name,
            "only weights with a parameter's name say more, or their values, with the model's weights: --model MODEL",
        )
        return (
            "the names of the nodes hold no module scopes, as torch wrote them before 1.13 and other tools drop them, and "
            f"{said}; export the model again (optimum-cli export htp -m MODEL OUTPUT), or, if a tool renamed the nodes of a "
            f"tagged file: optimum-cli htp project {self._package.path} --reference TAGGED"
        )

    def stated(self, name: str, model: OnnxModel, said: Statements) -> tuple[ModuleTrace, str] | None:
        """The modules of a file whose nodes say which they are, and where the root is in the whole model.

        None if what they say is not to be believed, and their names say more.

        They are those of the model that the config describes if it has all of them, else what the nodes say and no more: a
        config may be of another class, or of another release of the model's library. Raises PackageError if they say nothing.
        """
        described = described_trace(model, said)
        if described is None and has_scopes(model):
            return None
        if described is None:
            raise PackageError(
                f"{model.path}: what its nodes say of their modules can't be read, or contradicts {_ITSELF}; {_WITHOUT_STATEMENTS}"
            )
        try:
            match, _ = choose_root(
                model, self.candidates(name, eager=returns_attentions(model), root_class=said.root_class)
            )
        except (HtpError, ImportError) as error:  # there is no config or no class for it, or torch is not installed
            logger.info("%s: its modules are known by its nodes alone: %s", name, reason(error))
            return described, ""
        if match is None or match.strangers or match.spoken_for < len(said.made):
            logger.info("%s: its nodes name other modules than %s describes", name, self.directory(name) / CONFIG)
            return described, ""
        return match.trace, match.in_model

    def place(self, name: str, in_model: str) -> str:
        """Where a module sits in the whole model, which for a component of a pipeline is the pipeline."""
        part = Path(name).parent
        if not part.parts or not (self._package.directory / MODEL_INDEX).is_file():
            return in_model
        return ".".join(filter(None, (_COMPONENTS.get(part.name, part.name), in_model)))

    def problem(self, name: str, graph: TaggedGraph) -> str | None:
        """Why no node of a file is resolved, and what to do; None if some are, or there are none."""
        if any(tag.source != "unresolved" for tag in graph.tags.values()) or not graph.tags:
            return None
        if graph.origin == _STATED:
            return f"{name}: what its nodes say of their modules contradicts {_ITSELF}; {_WITHOUT_STATEMENTS}"
        if graph.origin != _UNKNOWN:
            why = "they fit several" if has_scopes(graph.model) else self.without_names(name)
            return f"the names in {name} do not say which modules its nodes come from: {why}"
        described = ", ".join(type(model).__name__ for model in self.candidates(name, eager=False))
        config = f"{self.directory(name) / CONFIG} describes ({described})"
        return f"{name} is not an export of what {config}: give the model it was exported from with --model"

    def complete_package(self, staged: Path) -> tuple[str, ...]:
        """Stages config, tokenizer and processor if the package has none, and says which files."""
        directory = self._package.directory
        if self._source is None or (directory / MODEL_INDEX).exists():
            return ()
        source, trust = self._source, self._trust_remote_code
        if (directory / CONFIG).exists():
            added = complete_package(directory, source.directory, trust_remote_code=trust, destination=staged)
            return tuple(sorted(added))
        source.save_configs(staged, trust_remote_code=trust)
        complete_package(staged, source.directory, trust_remote_code=trust)
        reset_modes(staged)
        for file in staged.iterdir():
            if (directory / file.name).exists():
                file.unlink()
        return tuple(sorted(file.name for file in staged.iterdir()))


def _is_left(graph: TaggedGraph) -> bool:
    """Whether nodes of a file are unresolved because their names hold no scopes."""
    unresolved = any(tag.source == "unresolved" for tag in graph.tags.values())
    return unresolved and graph.origin == _NAMES and not has_scopes(graph.model)


def _from_names(package: HtpPackage) -> list[str]:
    """The files whose tags, as the sidecar says, are from names and not from an export."""
    source = package.sidecar.source if package.sidecar is not None else {}
    return str(source.get(_FROM_NAMES, "")).split(", ")


def _has_lost_tags(file: HtpFile) -> bool:
    """Whether nodes have other tags than the sidecar says, or none."""
    written = read_tags(file.model)
    return file.record is not None and any(written.get(key) != tag for key, tag in file.record.tags.items())


def _is_described(package: HtpPackage, file: HtpFile) -> bool:
    """Whether an export tagged a file, and its sidecar still describes it."""
    return file.name not in _from_names(package) and file.evidence == "sidecar"


def _tagged(file: HtpFile, sources: _Sources, *, keep: bool) -> TaggedGraph:
    """The tags of one file; `keep` says whether to use what an export left in it."""
    if keep and file.evidence != "sidecar":
        # The tags of the graph that a tool made this one from are stronger than names.
        graph, refused = projected(file, _skeleton(file))
        if graph is not None:
            return replace(graph, skeleton=None)
        if refused:
            logger.warning("%s: its skeleton is not used: %s", file.name, refused[0])
    model = _without_ours(file.model)
    said = statements(model)
    stated = sources.stated(file.name, model, said) if said else None
    tags: NodeTags
    if stated is not None:
        trace, in_model, origin = *stated, _STATED
        tags, calls = with_calls(model, trace.tree, tag_model(model, trace))
    else:
        match, whole = choose_root(model, sources.candidates(file.name, eager=returns_attentions(model)))
        by_values = None if has_scopes(model) else sources.by_values(file, model, match, whole)
        match, parameters = by_values or (match, {})
        if match is None:
            root = Root(static_trace(whole).tree, None)
            unknown: NodeTags = {key: NodeTag(root.tag, "unresolved") for key, _ in model.nodes()}
            return TaggedGraph(file.model, unknown, Roots((root,)), _UNKNOWN)
        trace, in_model, origin = match.trace, match.in_model, _NAMES
        tags, calls = tag_model(model, trace, distinct=parameters), match.fit.calls
    tags = _with_earlier(file.model, tags, trace.tree) if keep else tags
    tree = ModuleTree(replace(module, calls=calls.get(module.path, 0)) for module in trace.tree)
    root = Root(tree, sources.place(file.name, in_model))
    return TaggedGraph(file.model, tags, Roots((root,)), origin)


def _skeleton(file: HtpFile) -> Iterator[tuple[TaggedGraph]]:
    graph = skeleton_of(file)
    if graph is not None:
        yield (graph,)


def _without_ours(model: OnnxModel) -> OnnxModel:
    """The graph without the metadata that we wrote ourselves, which is not evidence."""
    ours = Ownership.of(model)

    def clean(graph: Graph, path: str) -> Graph:
        return replace(graph, nodes=[clean_node(node, path, index) for index, node in enumerate(graph.nodes)])

    def clean_node(node: Node, path: str, index: int) -> Node:
        bodies = tuple((name, clean(body, body_path(path, index, name))) for name, body in node.bodies)
        return replace(node, metadata=ours.without_ours((path, index), node.metadata), bodies=bodies)

    functions = tuple(replace(function, graph=clean(function.graph, function.path)) for function in model.functions)
    return replace(model, graph=clean(model.graph, ""), functions=functions)


def _with_earlier(model: OnnxModel, tags: NodeTags, tree: ModuleTree) -> NodeTags:
    """The tags; where names decide nothing, or only the module, those that an export left and a tool did not touch."""
    merged = dict(tags)
    for key, left in read_tags(model).items():
        usable = left.source != "unresolved" and tree.path_of_tag(left.tag) is not None
        if usable and (tags[key].source == "unresolved" or tags[key].tag == left.tag):
            merged[key] = left
    return merged


def _sidecar(
    package: HtpPackage, records: dict[str, FileRecord], named: set[str], model: str | Path | None, seconds: float
) -> Sidecar:
    """The sidecar, with what an earlier one says of other files; `named` are the files tagged from names."""
    earlier = package.sidecar or Sidecar({})
    files = earlier.files | records
    named = named | {name for name in _from_names(package) if name in files and name not in package.files}
    source = {key: value for key, value in earlier.source.items() if key != _FROM_NAMES}
    if model is not None:
        source["model"] = str(model)
    if named:
        source[_FROM_NAMES] = ", ".join(sorted(named))
    timings = earlier.timings or {"optimum_seconds": 0.0, "htp_seconds": round(seconds, 3)}
    return Sidecar(files, source, timings, library_versions())
