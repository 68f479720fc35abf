"""Tags carried onto the files that tools made from tagged ones: what `optimum-cli htp project` does.

What a file's tags are projected from is looked for in this order: the tagged files that are given; what the sidecar
says, where it describes just this graph; the skeleton in the file's own metadata; what its nodes still carry; the other
files of its package; the sidecar's list of nodes. The report says which it was.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from optimum_htp.annotations import (
    CLASS_HIERARCHY,
    KEYS,
    NAME_SCOPES,
    NAMESPACE,
    HtpOptions,
    write_tags,
)
from optimum_htp.errors import HtpError
from optimum_htp.hierarchy import NodeTags, tag_ancestors
from optimum_htp.onnxfile import OnnxModel, external_data_files
from optimum_htp.package import HtpFile, HtpPackage
from optimum_htp.projection import TaggedModel
from optimum_htp.projection import project as project_graph
from optimum_htp.sidecar import SIDECAR, FileRecord, Sidecar, library_versions
from optimum_htp.skeleton import SKELETON, Roots, pack_skeleton
from optimum_htp.staging import StagedDirectory
from optimum_htp.tagged import Evidence, evidence_for


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
    for evidence in evidence_for(file, package, given):
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


def _has_skeleton(evidence: Evidence, given: HtpPackage | None) -> bool:
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
