"""Tagging a package that is there already, without exporting it again.

The classes come from the model that the package's own config describes, instantiated without weights; what the nodes
come from, from their names, the names of weights and the data flow. What only an export can know, such as which of its
calls a node belongs to, stays open.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import ModuleTree, NodeTag, NodeTags, Root, Roots
from optimum_htp.models import ModelSource, choose_root, find_source, instantiate_on_meta, returns_attentions
from optimum_htp.onnxfile import Graph, Node, OnnxModel
from optimum_htp.package import (
    FileRecord,
    HtpFile,
    HtpOptions,
    HtpPackage,
    Sidecar,
    StagedDirectory,
    TagCounts,
    add_config_metadata,
    as_package,
    complete_package,
    library_versions,
    owned_keys,
    projected,
    read_tags,
    skeleton_of,
    write_files,
)
from optimum_htp.tagging import TaggedGraph, static_trace, tag_model


if TYPE_CHECKING:
    import torch


logger = logging.getLogger(__name__)

# The directories of a pipeline's export that are not named like the component.
_COMPONENTS = {"vae_encoder": "vae", "vae_decoder": "vae"}
_LATER = "tagged_from_names"
"""In the sidecar's `source`: the files, joined by `, `, whose tags are from names and not from an export."""


@dataclass(frozen=True, slots=True)
class TagReport:
    """What tagging an existing package did.

    Attributes:
        package: The package.
        files: For each ONNX file, by its path in the package, how its nodes are tagged now.
        kept: The files that were tagged already, whose tags the sidecar still describes; they stay as they are.
        unknown: The files that none of the models that the config may mean explains; nothing in them is resolved.
        written: The config, tokenizer and processor files that were missing and were written.
        seconds: Wall-clock seconds spent.
    """

    package: Path
    files: dict[str, TagCounts]
    kept: tuple[str, ...]
    unknown: tuple[str, ...]
    written: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
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
            package's own config.json says. Config, tokenizer and processor files that the package has none of are
            written.
        trust_remote_code: Run code that comes with the model.
        force: Tag again what an export tagged and the sidecar still describes; that loses the calls.
        htp_options: What to write in addition to the tags; None means the defaults.

    Returns:
        How the nodes of each file are tagged, and what else was done.

    Raises:
        PackageError: There is no such package, it doesn't say what model it is, or that model explains none of its
            files. Nothing was written.
        TaggingError: A file could not be tagged; all of them are as they were.

    Example:
        >>> tag("bert_onnx").files["model.onnx"].unresolved    # doctest: +SKIP
        0
    """
    started = time.perf_counter()
    package = as_package(package)
    package.require_unpacked()
    described = {name for name, file in package.files.items() if _is_described(package, file)}
    kept = () if force else tuple(name for name in package.files if name in described)
    sources = _Sources(package, model, trust_remote_code)
    decided = {
        name: _decided(file, sources, keep=not force) for name, file in package.files.items() if name not in kept
    }
    unknown = tuple(name for name, found in decided.items() if not found.known)
    if decided and len(unknown) == len(decided):
        raise PackageError(f"{package.path}: {sources.mismatch(unknown[0])}")
    for name in unknown:
        logger.warning("%s No node of it is resolved.", sources.mismatch(name))
    records = {name: file.record for name, file in package.files.items() if name in kept and file.record is not None}
    options = htp_options or HtpOptions()
    graphs = {name: found.graph for name, found in decided.items()}
    with StagedDirectory(package.directory) as staging:
        write_files(graphs, staging.path, options=options)
        staging.commit()
    records |= {name: FileRecord.of(graph).keeping(package.files[name].record) for name, graph in graphs.items()}
    written = sources.complete_package()
    if options.config_metadata and (package.directory / "config.json").is_file():
        add_config_metadata(package.directory, records)
    seconds = time.perf_counter() - started
    if decided:
        later = [name for name, found in decided.items() if found.known and not found.graph.sources]
        _write_sidecar(package, records, later, model, seconds)
    counts = {name: records[name].counts for name in package.files}
    return TagReport(package.path, counts, kept, unknown, written, seconds)


@dataclass(frozen=True, slots=True)
class _Decided:
    """The tags of one file, and whether it is an export of one of the models."""

    graph: TaggedGraph
    known: bool = True


class _Sources:
    """The models that the files of a package may be exports of."""

    def __init__(self, package: HtpPackage, model: str | Path | None, trust_remote_code: bool) -> None:
        self._package = package
        self._model = model
        self._trust_remote_code = trust_remote_code
        self._made: dict[tuple[Path, bool, bool], list[torch.nn.Module]] = {}

    @cached_property
    def _source(self) -> ModelSource | None:
        return None if self._model is None else find_source(self._model)

    def directory(self, name: str) -> Path:
        """The directory whose config says what model a file is of.

        Raises:
            PackageError: There is none.
        """
        top = self._package.directory
        part = Path(name).parent
        if self._source is not None:
            component = _COMPONENTS.get(part.name, part.name)
            places = [self._source.directory / part.parent / component, self._source.directory / part]
            places.append(self._source.directory)
        else:
            places = [top / above for above in (part, *part.parents)]
        for place in places:
            if (place / "config.json").is_file() or (place / "modules.json").is_file():
                return place
        where = self._source.directory if self._source is not None else top
        advice = f"give the model it was exported from: optimum-cli htp tag {self._package.path} --model MODEL"
        raise PackageError(f"{where}: no config.json says what model {name} is of; {advice}")

    def candidates(self, name: str, *, eager: bool) -> Iterator[torch.nn.Module]:
        """The models that a file may be of, or be of a part of, the likeliest first."""
        directory = self.directory(name)
        for tasks in (False, True):
            key = (directory, tasks, eager)
            if key not in self._made:
                attention = "eager" if eager else None
                models = instantiate_on_meta(
                    directory,
                    trust_remote_code=self._trust_remote_code,
                    tasks=tasks,
                    attn_implementation=attention,
                )
                self._made[key] = list(models)
            yield from self._made[key][len(self._made.get((directory, False, eager), ())) if tasks else 0 :]

    def place(self, name: str, in_model: str) -> str:
        """Where a module sits in the whole model, which for a component of a pipeline is the pipeline."""
        part = Path(name).parent
        if not part.parts or not (self._package.directory / "model_index.json").is_file():
            return in_model
        return ".".join(filter(None, (_COMPONENTS.get(part.name, part.name), in_model)))

    def mismatch(self, name: str) -> str:
        """What to say where the config describes a model that a file is not an export of."""
        described = ", ".join(type(model).__name__ for model in self.candidates(name, eager=False))
        advice = "give the model it was exported from with --model"
        return f"{name} is not an export of what {self.directory(name) / 'config.json'} describes ({described}): {advice}."

    def complete_package(self) -> tuple[str, ...]:
        """Writes config, tokenizer and processor where the package has none, and says which files."""
        directory = self._package.directory
        if self._source is None or (directory / "model_index.json").exists():
            return ()
        source, trust = self._source, self._trust_remote_code
        if (directory / "config.json").exists():
            return tuple(sorted(complete_package(directory, source.directory, trust_remote_code=trust)))
        with StagedDirectory(directory) as staging:
            source.save_configs(staging.path, trust_remote_code=trust)
            complete_package(staging.path, source.directory, trust_remote_code=trust)
            for file in staging.path.iterdir():
                if (directory / file.name).exists():
                    file.unlink()
            written = tuple(sorted(file.name for file in staging.path.iterdir()))
            staging.commit()
        return written


def _tagged_later(package: HtpPackage) -> list[str]:
    """The files whose tags, as the sidecar says, are from names and not from an export."""
    source = package.sidecar.source if package.sidecar is not None else {}
    return str(source.get(_LATER, "")).split(", ")


def _is_described(package: HtpPackage, file: HtpFile) -> bool:
    """Whether an export tagged a file, and its sidecar still describes it."""
    return file.name not in _tagged_later(package) and file.evidence == "sidecar"


def _decided(file: HtpFile, sources: _Sources, *, keep: bool) -> _Decided:
    """Decides the tags of one file; `keep` says whether what an export left in it counts."""
    if keep and file.evidence != "sidecar":
        # The tags of the graph that a tool made this one of are stronger than names.
        graph, refused = projected(file, _skeleton(file))
        if graph is not None:
            return _Decided(replace(graph, skeleton=None))
        if refused:
            logger.warning("%s: its skeleton is not used: %s", file.name, refused[0])
    return _named(file, sources, keep=keep)


def _skeleton(file: HtpFile) -> Iterator[tuple[TaggedGraph]]:
    graph = skeleton_of(file)
    if graph is not None:
        yield (graph,)


def _named(file: HtpFile, sources: _Sources, *, keep: bool) -> _Decided:
    """The tags that the names of a file's nodes spell, read against the models that it may be an export of."""
    model = _without_ours(file.model)
    match, whole = choose_root(model, sources.candidates(file.name, eager=returns_attentions(model)))
    if match is None:
        root = Root(static_trace(whole).tree, None)
        tags: NodeTags = {key: NodeTag(root.tag, "unresolved") for key, _ in model.nodes()}
        return _Decided(TaggedGraph(file.model, tags, Roots((root,))), known=False)
    tags = tag_model(model, match.trace)
    tags = _with_earlier(file.model, tags, match.trace.tree) if keep else tags
    tree = ModuleTree(replace(module, calls=match.fit.calls.get(module.path, 0)) for module in match.trace.tree)
    root = Root(tree, sources.place(file.name, match.in_model))
    return _Decided(TaggedGraph(file.model, tags, Roots((root,))))


def _without_ours(model: OnnxModel) -> OnnxModel:
    """The graph without the metadata that we wrote ourselves, which is no evidence."""
    owned = owned_keys(model)

    def clean(graph: Graph) -> Graph:
        return replace(graph, nodes=[clean_node(node) for node in graph.nodes])

    def clean_node(node: Node) -> Node:
        metadata = {key: value for key, value in node.metadata.items() if not owned(key)}
        return replace(node, metadata=metadata, bodies=tuple((name, clean(body)) for name, body in node.bodies))

    functions = tuple(replace(function, graph=clean(function.graph)) for function in model.functions)
    return replace(model, graph=clean(model.graph), functions=functions)


def _with_earlier(model: OnnxModel, tags: NodeTags, tree: ModuleTree) -> NodeTags:
    """The tags, with those that an export left on nodes where names decide nothing, or the same module without a call.

    Tools that change a graph leave the metadata of the nodes that they don't touch.
    """
    earlier = {
        key: tag for key, tag in read_tags(model).items()
        if tag.source != "unresolved" and tree.path_of_tag(tag.tag) is not None
    }  # fmt: skip
    return {
        key: earlier[key] if key in earlier and (tag.source == "unresolved" or tag.tag == earlier[key].tag) else tag
        for key, tag in tags.items()
    }


def _write_sidecar(
    package: HtpPackage, records: Mapping[str, FileRecord], later: list[str], model: str | Path | None, seconds: float
) -> None:
    """Writes the sidecar, with what an earlier one says of other files; `later` are the files tagged from names."""
    earlier = package.sidecar or Sidecar({})
    source: dict[str, Any] = {**earlier.source, **({} if model is None else {"model": str(model)})}
    files = {**earlier.files, **records}
    named = set(later) | {name for name in _tagged_later(package) if name in files and name not in package.files}
    source.pop(_LATER, None)
    if named:
        source[_LATER] = ", ".join(sorted(named))
    timings = earlier.timings or {"optimum_seconds": 0.0, "htp_seconds": round(seconds, 3)}
    Sidecar(files=files, source=source, timings=timings, versions=library_versions()).write(package.directory)
