"""`project`: carrying tags to the files that tools made from tagged ones.

The tags are those of the reference and nothing else, if one is given; else what the package itself says, in the order of
`package/resolver.py`. The report says what it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optimum_htp.collecting import no_collecting
from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy import NodeTags
from optimum_htp.package import (
    SIDECAR,
    FileRecord,
    HtpFile,
    HtpPackage,
    Sidecar,
    StagedDirectory,
    as_package,
    changing,
    checked_output,
    copy_data,
    copy_others,
    evidence_of,
    library_versions,
    options_of,
    projected,
    reference_evidence,
    write_files,
)
from optimum_htp.reports import Report
from optimum_htp.tagging import TaggedGraph, refuse_empty


@dataclass(frozen=True, slots=True)
class FileProjection:
    """How the nodes of one ONNX file were tagged.

    Attributes:
        nodes: All nodes, those of bodies and functions included.
        by_source: Nodes by the kind of evidence.
        unresolved: Nodes of which nothing is known.
        below_root: Nodes whose module lies below the root.
        several_origins: Nodes that came from several modules, and carry the list.
        evidence: What the tags were projected from.
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


@dataclass(frozen=True, slots=True, repr=False)
class ProjectReport(Report):
    """What a projection did.

    Attributes:
        output: The package or file that has the tags now.
        files: Its ONNX files, by their path in the package.
    """

    output: Path
    files: dict[str, FileProjection]

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {**asdict(self), "output": str(self.output)}

    @property
    def unresolved(self) -> int:
        """Nodes of which nothing is known, in all files."""
        return sum(file.unresolved for file in self.files.values())


@no_collecting()
def project(
    package: str | Path | HtpPackage,
    *,
    reference: str | Path | HtpPackage | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
) -> ProjectReport:
    """Carries tags to a file, or to each file of a package, that tools made from tagged ones: to all of them or none.

    Args:
        package: An ONNX file, or a directory with ONNX files.
        reference: The tagged file or package that it was made from; None means what the files themselves say.
        output: Where to write: a file for a file, a directory for a directory. External data is copied too. None writes
            in place.
        overwrite: Write into a file or directory that exists, and replace files of the same names, but not other
            models' external data.

    Raises:
        HtpError: It is unknown what the nodes came from, or the evidence is of another model, or the output can't be
            written; then nothing is.

    Example:
        >>> report = project("bert_quantized", reference="bert_onnx")  # doctest: +SKIP
        >>> report.files["model_quantized.onnx"].unresolved            # doctest: +SKIP
        0
    """
    opened = as_package(package)
    opened.require_unpacked()
    target = checked_output(opened.path, output, overwrite=overwrite) if output is not None else None
    given = as_package(reference) if reference is not None else None
    if overwrite and target is None:
        raise HtpError("--overwrite is for --output: without it, tags are written in place")
    if target is not None and given is not None:
        _refuse_inside(target, given.path)
    with ExitStack() as stack:
        if target is None:
            opened, staging = stack.enter_context(changing(opened))
            graphs = {name: _projected(file, opened, given) for name, file in opened.files.items()}
        else:
            graphs = {name: _projected(file, opened, given) for name, file in opened.files.items()}
            staging = stack.enter_context(StagedDirectory(target if opened.path.is_dir() else target.parent))
            checked_output(opened.path, target, overwrite=overwrite)  # again, now that nobody else writes there
        _write(opened, given, graphs, target, staging)
    files = {name: FileProjection.of(graph.tags, graph.origin) for name, graph in graphs.items()}
    return ProjectReport(target or opened.path, files)


def _projected(file: HtpFile, package: HtpPackage, reference: HtpPackage | None) -> TaggedGraph:
    """The tags of one file, by the first evidence that fits it: that of the reference only, if there is one."""
    refuse_empty(file.model)  # first, because this says more than that no evidence fits
    evidence = evidence_of(file, package) if reference is None else reference_evidence(reference, file)
    graph, refused = projected(file, evidence)
    if graph is not None:
        return graph
    if refused:
        raise refused[0]
    if reference is not None:
        raise PackageError(f"{reference.path}: not tagged; export it with optimum-cli export htp, or tag it first")
    raise HtpError(
        f"{file.path}: it is unknown which modules its nodes came from; give the tagged file or package that it was "
        "made from (--reference)"
    )


def _refuse_inside(output: Path, reference: Path) -> None:
    """Raises HtpError if the output is what the tags are read from, or lies in it."""
    place, read = output.resolve(), reference.resolve()
    if place == read or (reference.is_dir() and read in place.parents):
        raise HtpError(f"{output}: what the tags are from ({reference}) is only read; give another path")


def _write(
    package: HtpPackage,
    reference: HtpPackage | None,
    graphs: Mapping[str, TaggedGraph],
    output: Path | None,
    staging: StagedDirectory,
) -> None:
    files = (*package.files.values(), *(reference.files.values() if reference is not None else ()))
    options = options_of(file.model for file in files)
    records = {name: FileRecord.of(graph).keeping(package.files[name].record) for name, graph in graphs.items()}
    whole = package.path.is_dir()
    if output is not None and whole:
        copy_others(package, staging.path)
    elif output is not None:
        (name,) = graphs
        copy_data(package.files[name], staging)
        graphs, records = {output.name: graphs[name]}, {output.name: records[name]}
    too_large = write_files(graphs, staging.path, options=options, whole=output is not None)
    if whole:  # what is known of the source, here or where the tags are from
        known = (opened.sidecar for opened in (package, reference) if opened is not None)
        sidecar = replace(next(filter(None, known), Sidecar({})), files={})
    else:
        sidecar = Sidecar.read(staging.output) or Sidecar({})
    # That of the package around a single file is updated if it has the file, or nothing else can have its tags.
    if whole or too_large or records.keys() <= sidecar.files.keys():
        replace(sidecar, files=sidecar.files | records, versions=library_versions()).write(staging.path)
    staging.commit(last=SIDECAR)
