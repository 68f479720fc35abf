"""Tags carried onto the files that tools made from tagged ones: what `optimum-cli htp project` does.

What a file's tags are projected from is looked for in this order: the tagged files that are given; what the sidecar
says, where it describes just this graph; the skeleton in the file's own metadata; what its nodes still carry; the other
files of its package; the sidecar's list of nodes. The report says which it was.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optimum_htp.annotations import (
    CLASS_HIERARCHY,
    KEYS,
    NAME_SCOPES,
    NAMESPACE,
    HtpOptions,
    read_tags,
    write_tags,
)
from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy import ModuleInfo, ModuleTree, NodeTags, tag_ancestors, tree_of_tags
from optimum_htp.onnxfile import Graph, Node, OnnxModel, external_data_files, graph_digest
from optimum_htp.package import HtpFile, HtpPackage
from optimum_htp.projection import TaggedModel
from optimum_htp.projection import project as project_graph
from optimum_htp.sidecar import SIDECAR, FileRecord, Sidecar, library_versions
from optimum_htp.skeleton import SKELETON, Roots, pack_skeleton, unpack_skeleton
from optimum_htp.staging import StagedDirectory


@dataclass(frozen=True, slots=True)
class FileProjection:
    """How the nodes of one ONNX file were tagged.

    Attributes:
        nodes: Nodes in all, those of bodies and functions included.
        by_source: Nodes by the kind of evidence.
        unresolved: Nodes of which nothing is known.
        below_root: Nodes whose module lies below the root.
        several_origins: Nodes that came from several modules, and carry the list.
        evidence: What the tags were projected from, in words.
    """

    nodes: int
    by_source: dict[str, int]
    unresolved: int
    below_root: int
    several_origins: int
    evidence: str

    @classmethod
    def of(cls, tags: NodeTags, evidence: str) -> FileProjection:
        """Counts tags."""
        by_source = Counter(tag.source for tag in tags.values())
        return cls(
            nodes=len(tags),
            by_source=dict(sorted(by_source.items())),
            unresolved=by_source["unresolved"],
            below_root=sum("/" in tag.tag[1:] for tag in tags.values()),
            several_origins=sum(bool(tag.origins) for tag in tags.values()),
            evidence=evidence,
        )


@dataclass(frozen=True, slots=True)
class ProjectionReport:
    """What a projection did.

    Attributes:
        output: The package or file that has the tags now.
        files: Its ONNX files, by their path in the package.
    """

    output: Path
    files: dict[str, FileProjection]

    @property
    def unresolved(self) -> int:
        """Nodes of which nothing is known, in all files."""
        return sum(file.unresolved for file in self.files.values())


def project(
    optimized: str | Path, *, source: str | Path | None = None, output: str | Path | None = None
) -> ProjectionReport:
    """Carries tags onto a file, or each file of a package, that tools made from tagged ones.

    Args:
        optimized: An ONNX file, or a directory with ONNX files.
        source: The tagged file or package that it was made from; None means what the files themselves tell.
        output: Where to write: a file for a file, a directory for a directory; None replaces the tags in place. Each
            file is replaced atomically, and none before the tags of all are known.

    Returns:
        How the nodes were tagged, and what told it.

    Raises:
        HtpError: Nothing tells what the nodes came from, or what there is describes another model; nothing is written.

    Example:
        >>> report = project("bert_quantized", source="bert_onnx")     # doctest: +SKIP
        >>> report.files["model_quantized.onnx"].unresolved            # doctest: +SKIP
        0
    """
    package = HtpPackage(optimized)
    package.require_unpacked()
    given = HtpPackage(source) if source is not None else None
    plans = {name: _plan(file, package, given) for name, file in package.files.items()}
    written = _write(package, given, plans, None if output is None else Path(output))
    return ProjectionReport(
        written, {name: FileProjection.of(plan.tags, plan.evidence) for name, plan in plans.items()}
    )


# --- What there is to project from ---


@dataclass(frozen=True, slots=True)
class _Evidence:
    """Tagged graphs, their module trees, and where they are from.

    Attributes:
        models: The tagged graphs, the likeliest first.
        roots: For each root module its tree and its place in the whole model.
        origin: Where they are from, in words.
        skeleton: The packed skeleton that they are from.
    """

    models: tuple[TaggedModel, ...]
    roots: Roots
    origin: str
    skeleton: str | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    model: OnnxModel
    tags: NodeTags
    roots: Roots
    evidence: str
    skeleton: str | None
    options: HtpOptions


def _plan(file: HtpFile, package: HtpPackage, given: HtpPackage | None) -> _Plan:
    """The tags of one file, by the first evidence that fits it."""
    refused: list[HtpError] = []
    for evidence in _all_evidence(file, package, given):
        try:
            trees = [tree for tree, _ in evidence.roots.values()]
            tags = project_graph(evidence.models, file.model, trees=trees, require_descent=True)
        except HtpError as error:
            refused.append(error)
            continue
        used = {next(tag_ancestors(name)) for tag in tags.values() for name in (tag.tag, *tag.origins)}
        roots = {root: place for root, place in evidence.roots.items() if root in used}
        skeleton = evidence.skeleton
        if skeleton is None and _has_skeleton(evidence, given):
            skeleton = pack_skeleton(TaggedModel(file.model, tags), roots)
        return _Plan(file.model, tags, roots, evidence.origin, skeleton, _options(file.model, given))
    if refused:
        raise refused[0]
    raise HtpError(
        f"{file.path}: nothing in it tells which modules its nodes came from; give the tagged file or package that it "
        "was made from (--from)"
    )


def _all_evidence(file: HtpFile, package: HtpPackage, given: HtpPackage | None) -> Iterator[_Evidence]:
    if given is not None:
        yield _of_package(given, file.name)
        return
    if file.record is not None and file.record.digest == graph_digest(file.model):
        yield _Evidence((TaggedModel(file.model, file.record.tags),), _recorded_roots(file.record), SIDECAR)
    own = _of_skeleton(file) or _of_nodes(file)
    if own is not None:
        yield own
    others = [each for name, each in package.files.items() if name != file.name]
    found = [evidence for each in others if (evidence := _of_file(each)) is not None]
    if found:
        yield _joined(found, f"the other files of {package.path}")
    if file.record is not None:
        yield _Evidence((_listed(file.record),), _recorded_roots(file.record), f"the list of nodes in {SIDECAR}")


def _of_package(given: HtpPackage, name: str) -> _Evidence:
    """The tagged files that are given: that of the same name first, for content decides and then the order."""
    files = sorted(given.files.values(), key=lambda file: file.name != name)
    found = [evidence for file in files if (evidence := _of_file(file)) is not None]
    if not found:
        raise PackageError(f"{given.path}: not tagged; export it with optimum-cli export htp, or tag it first")
    return _joined(found, f"the tagged {'file' if given.path.is_file() else 'package'} {given.path}")


def _of_file(file: HtpFile) -> _Evidence | None:
    """What a file knows of itself, whatever it was made from."""
    if file.evidence == "sidecar" and file.record is not None:
        return _Evidence((TaggedModel(file.model, file.record.tags),), _recorded_roots(file.record), SIDECAR)
    tagged = len(read_tags(file.model))
    complete = tagged == sum(len(graph.nodes) for _, graph in file.model.graphs())
    return (_of_nodes(file) if complete else None) or _of_skeleton(file) or _of_nodes(file)


def _of_skeleton(file: HtpFile) -> _Evidence | None:
    text = file.model.metadata.get(SKELETON)
    if not text:
        return None
    try:
        tagged, roots = unpack_skeleton(text)
    except HtpError as error:
        raise HtpError(f"{file.path}: {error}") from error
    return _Evidence((tagged,), roots, "the skeleton in its own metadata", text)


def _of_nodes(file: HtpFile) -> _Evidence | None:
    tags = read_tags(file.model)
    if not tags:
        return None
    roots = _recorded_roots(file.record) if file.record is not None else {}
    known = {tree.tag(path) for tree, _ in roots.values() for info in tree for path in (info.path, *info.aliases)}
    if not all(name in known for tag in tags.values() for name in (tag.tag, *tag.origins)):
        roots = {tree.tag(()): (tree, None) for tree in _trees_of_nodes(file.model, tags)}
    return _Evidence((TaggedModel(file.model, tags),), roots, "the metadata that its nodes kept")


def _joined(found: Sequence[_Evidence], origin: str) -> _Evidence:
    roots: dict[str, tuple[ModuleTree, str | None]] = {}
    for evidence in found:
        for root, place in evidence.roots.items():
            roots.setdefault(root, place)
    return _Evidence(tuple(model for evidence in found for model in evidence.models), roots, origin)


def _recorded_roots(record: FileRecord) -> dict[str, tuple[ModuleTree, str | None]]:
    return {tree.tag(()): (tree, at) for tree, at in zip(record.trees, record.roots_in_model, strict=True)}


def _listed(record: FileRecord) -> TaggedModel:
    """The sidecar's nodes as a graph without edges: enough to know those again whose first output kept its name."""
    nodes: dict[str, list[Node]] = {}
    for (path, _), name in record.node_ids.items():
        outputs = () if name.startswith("#") else (name,)
        nodes.setdefault(path, []).append(Node("", "", "", (), outputs, {}, ()))
    graphs = {path: Graph("", listed, (), (), ()) for path, listed in nodes.items()}
    graphs.setdefault("", Graph("", [], (), (), ()))
    for path, graph in graphs.items():
        parent, _, last = path.rpartition("/")
        place, _, element = last.partition(".")
        if path and place.isdecimal() and parent in graphs and int(place) < len(graphs[parent].nodes):
            holder = graphs[parent].nodes[int(place)]
            holder.bodies = (*holder.bodies, (element, graph))
    return TaggedModel(OnnxModel(Path(), 0, {}, "", "", {}, graphs[""], ()), record.tags)


def _trees_of_nodes(model: OnnxModel, tags: NodeTags) -> Iterator[ModuleTree]:
    """Module trees as far as the nodes tell: their tags, and the qualified classes in their namespaces."""
    classes: dict[str, str] = {}
    for path, graph in model.graphs():
        for position, node in enumerate(graph.nodes):
            tag = tags.get((path, position))
            parts = node.metadata.get(NAMESPACE, "").split("/")
            above = list(tag_ancestors(tag.tag)) if tag is not None else []
            if len(parts) == len(above):
                classes.update(zip(above, (part.rpartition(": ")[2] for part in parts), strict=True))
    for tree in tree_of_tags(tags):
        yield ModuleTree(_with_class(tree, info, classes) for info in tree)


def _with_class(tree: ModuleTree, info: ModuleInfo, classes: Mapping[str, str]) -> ModuleInfo:
    qualified = classes.get(tree.tag(info.path), "") if not info.container else ""
    return replace(info, qualified_class=qualified) if qualified.endswith(info.class_name) else info


def _has_skeleton(evidence: _Evidence, given: HtpPackage | None) -> bool:
    """Whether the files that the tags are from carry skeletons: whoever left them out doesn't want them here."""
    files = given.files.values() if given is not None else ()
    models = (*(file.model for file in files), *(tagged.model for tagged in evidence.models))
    return any(SKELETON in model.metadata for model in models)


def _options(model: OnnxModel, given: HtpPackage | None) -> HtpOptions:
    """What is written beside the tags: what stood there, or stands in the files that are given."""
    models = (model, *((file.model for file in given.files.values()) if given is not None else ()))
    for each in models:
        try:
            keys = json.loads(each.metadata.get(KEYS, ""))
        except (ValueError, RecursionError):
            continue
        if isinstance(keys, list):
            return HtpOptions(
                namespace=NAMESPACE in keys, torch_metadata={NAME_SCOPES, CLASS_HIERARCHY} <= {*map(str, keys)}
            )
    return HtpOptions()


# --- Writing ---


def _write(package: HtpPackage, given: HtpPackage | None, plans: Mapping[str, _Plan], output: Path | None) -> Path:
    if output is None:
        for plan in plans.values():
            _write_file(plan, plan.model)
        _write_sidecar(package, given, plans, package.directory)
        return package.path
    if package.path.is_dir():
        _write_directory(package, given, plans, output)
    else:
        _write_copy(package, next(iter(plans.values())), output)
    return output


def _write_file(plan: _Plan, model: OnnxModel) -> None:
    metadata = {SKELETON: plan.skeleton} if plan.skeleton is not None else {}
    trees = [tree for tree, _ in plan.roots.values()]
    write_tags(model, plan.tags, trees=trees, options=plan.options, model_metadata=metadata)


def _write_directory(package: HtpPackage, given: HtpPackage | None, plans: Mapping[str, _Plan], output: Path) -> None:
    if output.resolve() == package.path.resolve() or package.path.resolve() in output.resolve().parents:
        raise HtpError(f"{output}: lies in the package that is read; leave the output out to tag it in place")
    with StagedDirectory(output) as staging:
        shutil.copytree(package.path, staging.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SIDECAR))
        for name, plan in plans.items():
            _write_file(plan, replace(plan.model, path=staging.path / name))
        _write_sidecar(package, given, plans, staging.path)
        staging.commit(remove=(SIDECAR,))


def _write_copy(package: HtpPackage, plan: _Plan, output: Path) -> None:
    if output.is_dir():
        raise HtpError(f"{output}: is a directory; give the name of the file to write")
    same_place = output.parent.resolve() == package.path.parent.resolve()
    with StagedDirectory(output.parent) as staging:
        staged = staging.path / output.name
        shutil.copyfile(package.path, staged)
        for location in () if same_place else sorted(external_data_files(plan.model)):
            _copy_data(package.path.parent, staging.path, output.parent, location)
        _write_file(plan, replace(plan.model, path=staged))
        staging.commit()


def _copy_data(directory: Path, staged: Path, output: Path, location: str) -> None:
    """Copies a file with external data, which is there under the name that the ONNX file knows."""
    relative = Path(location)
    if relative.is_absolute() or ".." in relative.parts:
        raise HtpError(f"{location}: external data outside the model's directory is not copied; project it in place")
    if (output / relative).exists():
        raise HtpError(f"{output / relative}: is there already, and the model's external data would replace it")
    (staged / relative).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(directory / relative, staged / relative)


def _write_sidecar(package: HtpPackage, given: HtpPackage | None, plans: Mapping[str, _Plan], directory: Path) -> None:
    """Brings the sidecar in step with the files, or writes one for a package that has none.

    Beside a single file it is only changed where it has a record of it.
    """
    old = package.sidecar if package.packed is None else None
    records = {
        name: FileRecord.of(plan.model, plan.tags, trees=plan.roots).keeping(package.files[name].record)
        for name, plan in plans.items()
    }
    if package.path.is_dir():
        known = old or (given.sidecar if given is not None and given.sidecar is not None else Sidecar(files={}))
        replace(known, files=records, versions=library_versions()).write(directory)
    elif old is not None and records.keys() <= old.files.keys():
        replace(old, files={**old.files, **records}).write(directory)
