"""`view` for Model Explorer: node data of a package, and which nodes go with those of another."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from optimum_htp.errors import HtpError, PackageError, writing
from optimum_htp.package import (
    HtpPackage,
    StagedDirectory,
    as_package,
    entries,
    fingerprint,
    partners,
    refuse_ways,
    settle,
    tagged_file,
    traits_of,
)
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.view.explorer.drawn import Drawn
from optimum_htp.verbs.view.explorer.figures import Figure, compare_figures, known_figures, profile_figures
from optimum_htp.verbs.view.explorer.navigation import navigation
from optimum_htp.verbs.view.explorer.report import ExplorerFile, ExplorerReport
from optimum_htp.verbs.view.given import Given, read_given

NAVIGATION = "navigation"


def model_explorer(
    package: str | Path | HtpPackage,
    directory: str | Path,
    *,
    file: str | None = None,
    profile: Given | None = None,
    compare: Given | None = None,
    other: str | Path | HtpPackage | None = None,
    overwrite: bool = False,
) -> ExplorerReport:
    """Writes what is known of a package for Google's Model Explorer, which draws it with a box for each module.

    For each ONNX file there is a directory with its node data, a file for each figure: the evidence of the tags and the
    parameters, and from a profile and a comparison the time, the memory and the error. Ids are those that `model-explorer-onnx` makes.

    Args:
        package: The package's directory, or an ONNX file. It is only read.
        directory: Where to write; created if it does not exist.
        file: The files of the package, globs allowed; None means all.
        profile: Where its time goes: what `profile` returns, the JSON that it prints, or a file with that.
        compare: What each module adds to the error: of `compare`, as for `profile`.
        other: The package before a tool changed it, or after: which of the two it is, the nodes say. The nodes that go
            with each other are written in the form that Model Explorer's synchronized navigation takes.
        overwrite: Replace what was written there before.

    Raises:
        PackageError: Nothing tells which modules the nodes of a file come from, or the directory is in use.
        HtpError: The profile or the comparison is of another package, no file goes with one of `other`, or the directory
            can't be written; what was there is unchanged.

    Example:
        >>> report = model_explorer("bert_onnx", "explorer", profile=profile("bert_onnx"))   # doctest: +SKIP
        >>> report.files[0].node_data["time"]                                               # doctest: +SKIP
        PosixPath('explorer/model/time.json')
    """
    opened, target = as_package(package), Path(directory)
    if not str(directory):
        raise HtpError("the directory is an empty name; give one")
    check_directory(opened, target, file=file, overwrite=overwrite)  # first, because it is quick to refuse
    gathered = gather(opened, file=file, profile=profile, compare=compare, other=other)
    return write_node_data(gathered, target, overwrite=overwrite)


@dataclass(frozen=True, slots=True)
class Sides:
    """Two ONNX files, of which a tool made the second from the first.

    Attributes:
        models: Where they are: the one on the left, and the one on the right.
        drawn: What their nodes are called.
        mapping: Which nodes go with each other.
    """

    models: tuple[Path, Path]
    drawn: tuple[Drawn, Drawn]
    mapping: Mapping[str, Any]


@dataclass(slots=True)
class Shown:
    """What is shown of one ONNX file, before it is written anywhere; `sides` only with another package."""

    name: str
    graph: TaggedGraph
    drawn: Drawn
    figures: list[Figure] = field(default_factory=list)
    sides: Sides | None = None

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """The files to write, by their names, and their content."""
        for figure in self.figures:
            document = figure.document()
            # Of one graph alone, without its id: Model Explorer calls a graph otherwise if another model has one of its name.
            only_main = [*document] == [self.drawn.graphs[""]]
            yield _file(self.name, figure.kind), _json(document[self.drawn.graphs[""]] if only_main else document)
        if self.sides is not None:
            yield _file(self.name, NAVIGATION), _json(self.sides.mapping)

    def written(self, directory: Path) -> ExplorerFile:
        """What is reported of it."""
        left, right = self.sides.models if self.sides is not None else (None, None)
        return ExplorerFile(
            name=self.name,
            model=self.graph.model.path,
            nodes=sum(1 for _ in self.graph.model.nodes()),
            drawn=len(self.drawn.nodes),
            node_data={figure.kind: directory / _file(self.name, figure.kind) for figure in self.figures},
            figures={figure.kind: len(figure.values) for figure in self.figures},
            navigation=directory / _file(self.name, NAVIGATION) if self.sides is not None else None,
            left=left,
            right=right,
        )


@dataclass(frozen=True, slots=True)
class Gathered:
    """What is shown of a package: its files, and why files have no partner in the other package."""

    package: HtpPackage
    shown: list[Shown]
    not_paired: Mapping[str, str]


def gather(
    package: HtpPackage,
    *,
    file: str | None = None,
    profile: Given | None = None,
    compare: Given | None = None,
    other: str | Path | HtpPackage | None = None,
) -> Gathered:
    """What `model_explorer` writes, gathered and not written anywhere; raises as that does."""
    graphs = {name: tagged_file(chosen, package=package) for name, chosen in package.matching(file).items()}
    shown = {name: Shown(name, graph, Drawn.of(graph.model)) for name, graph in graphs.items()}
    for each in shown.values():
        each.figures += (figure for figure in known_figures(each.graph, each.drawn) if figure.values)
    measured = profile is not None or compare is not None
    own = {name: fingerprint(package.files[name]) for name in graphs if measured}
    drawn = {name: each.drawn for name, each in shown.items()}
    for verb, given, read in (("profile", profile, profile_figures), ("compare", compare, compare_figures)):
        if given is not None:
            for name, figure in read_given(verb, given, own, partial(read, graphs=graphs, drawn=drawn)):
                if figure.values:
                    shown[name].figures.append(figure)
    not_paired = _pair(package, shown, other) if other is not None else {}
    return Gathered(package, list(shown.values()), not_paired)


def write_node_data(gathered: Gathered, directory: Path, *, overwrite: bool) -> ExplorerReport:
    """Writes what was gathered into a directory, whole or not at all; raises as `model_explorer` does."""
    package, names = gathered.package, [each.name for each in gathered.shown]
    contents = {name: content for each in gathered.shown for name, content in each.contents()}
    with writing(directory, needed_bytes=sum(map(len, contents.values()))), StagedDirectory(directory) as staging:
        _refuse(package, directory, names, overwrite=overwrite)  # again, now that nobody else writes there
        for name, content in contents.items():
            staged = staging.path / name
            staged.parent.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(content)
        staging.commit(remove=tuple(name for name in _earlier(directory, names) if name not in contents))
    written = tuple(each.written(directory) for each in gathered.shown)
    return ExplorerReport(str(package.path), directory, written, gathered.not_paired)


def _pair(package: HtpPackage, shown: Mapping[str, Shown], other: str | Path | HtpPackage) -> dict[str, str]:
    """Says of each file which nodes go with those of its partner, and returns why files have none."""
    opened = as_package(other)
    found = partners(traits_of(package.files[name] for name in shown), traits_of(opened.files.values()))
    not_paired = {name: partner.problem(opened.path) for name, partner in found.items() if partner.other is None}
    if len(not_paired) == len(shown):
        raise HtpError(
            f"{package.path} and {opened.path}: no files go with each other: {'; '.join(not_paired.values())}"
        )
    for name, partner in found.items():
        if partner.other is None:
            continue
        theirs = tagged_file(opened.files[partner.other], package=opened, reference=package)
        ours = shown[name].graph
        sides = [(ours, shown[name].drawn), (theirs, Drawn.of(theirs.model))]
        if _by_tools(ours) >= _by_tools(theirs):
            sides.reverse()
        (before, left), (after, right) = sides
        mapping = navigation(before, after, (left, right))
        shown[name].sides = Sides((before.model.path, after.model.path), (left, right), mapping)
    return not_paired


def _by_tools(graph: TaggedGraph) -> int:
    """How many nodes a tool made: what it made of a graph has more of them."""
    return sum(tag.source in ("fused", "inserted") for tag in graph.tags.values())


def check_directory(package: HtpPackage, directory: Path, *, file: str | None, overwrite: bool) -> None:
    """Raises PackageError if `model_explorer` would not write there."""
    _refuse(package, directory, list(package.matching(file)), overwrite=overwrite)


def _refuse(package: HtpPackage, directory: Path, names: Sequence[str], *, overwrite: bool) -> None:
    if os.path.lexists(directory) and not directory.is_dir():
        raise PackageError(f"{directory}: a file; give a directory to write into")
    settle(directory)
    real = Path(os.path.realpath(directory))
    if package.path.is_dir() and real.is_relative_to(package.path.resolve()):
        raise PackageError(f"{directory}: inside the package that is shown; write somewhere else")
    refuse_ways(directory, [_file(name, NAVIGATION) for name in names])
    earlier = _earlier(directory, names)
    if earlier and not overwrite:
        raise PackageError(
            f"{directory / earlier[0]}: it exists already; give --overwrite to replace it, or another directory"
        )


_KINDS = ("evidence", "parameters", "time", "memory", "own-sqnr", "sqnr", NAVIGATION)


def _earlier(directory: Path, names: Sequence[str]) -> list[str]:
    """What there is in a directory of what may be written for some ONNX files."""
    found = []
    for name in names:
        inner = directory / name.removesuffix(".onnx")
        for path in entries(inner) if inner.is_dir() else ():
            kind = path.name.removesuffix(".json")
            if path.name.endswith(".json") and any(kind == each or kind.startswith(f"{each}-") for each in _KINDS):
                found.append(path.relative_to(directory).as_posix())
    return found


def _file(name: str, kind: str) -> str:
    return f"{name.removesuffix('.onnx')}/{kind}.json"


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
