"""The quantized file that meets a budget, the figures measured on it, and the package around it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optimum_htp.errors import HtpError, writing
from optimum_htp.hierarchy import NodeKey, Root, Roots, tree_of_tags
from optimum_htp.models import DEFAULT_PROVIDER, Array, open_rounded, open_session, run_session, session_options
from optimum_htp.onnxfile import external_data_files, read_model
from optimum_htp.package import (
    SIDECAR,
    FileRecord,
    HtpFile,
    HtpPackage,
    StagedDirectory,
    checked_output,
    copy_others,
    options_of,
    write_files,
    write_records,
)
from optimum_htp.selections import FileSelection, Selection, selection_of
from optimum_htp.tagging import TaggedGraph, project
from optimum_htp.verbs.sensitivity.budget import Budget
from optimum_htp.verbs.sensitivity.judging import NO_NUMBER, Figures, Judge
from optimum_htp.verbs.sensitivity.quantizers.quantizer import Quantizer
from optimum_htp.verbs.sensitivity.ranking import Ranking, Samples
from optimum_htp.verbs.sensitivity.working_copy import WorkingCopy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Built:
    """A quantized file.

    Attributes:
        graph: The file, with tags.
        left_out: How many modules are left in float32.
        figures: What the model is like.
    """

    graph: TaggedGraph
    left_out: int
    figures: Figures


def selected(tagged: TaggedGraph, ranking: Ranking, count: int) -> FileSelection:
    """The nodes of the worst modules, that are to be left in float32."""
    groups = ranking.groups[:count]
    nodes: dict[NodeKey, bool] = {key: False for group in groups for key in group.nodes}
    return selection_of(tagged, nodes, {group.tag for group in groups if group.is_known})


def names_of(tagged: TaggedGraph, ranking: Ranking, count: int, quantizer: Quantizer) -> list[str]:
    """The names that a quantizer is given of what it is to leave in float32."""
    selection = selected(tagged, ranking, count)
    return Selection("", (), (selection,)).names_for(quantizer.form) if selection.nodes else []


class Builder:
    """Quantizes a file with some modules left in float32, and measures what comes out.

    `name` is what errors call it, `target` the name of the file that it makes, after which weights beside it are named;
    `last` are the figures of the last file that was built for a budget.
    """

    def __init__(
        self,
        copy: WorkingCopy,
        source: TaggedGraph,
        quantizer: Quantizer,
        judge: Judge,
        samples: Samples,
        *,
        name: str,
        target: str,
    ) -> None:
        self._copy = copy
        self._target = target
        self._source = source
        self._quantizer = quantizer
        self._judge = judge
        self._samples = samples
        self._name = name
        self.last: Figures | None = None

    def quantize(self, left_out: Sequence[str] = ()) -> Path:
        """The file with some nodes left in float32."""
        shutil.rmtree(self._copy.directory, ignore_errors=True)
        self._copy.directory.mkdir()
        target = self._copy.directory / self._target
        self._quantizer.quantize(
            self._copy.path,
            target,
            name=self._name,
            left_out=left_out,
            samples=self._samples,
            external=self._copy.is_external,
            bodies=self._copy.has_bodies,
        )
        return target

    def measure(self, path: Path) -> Figures:
        """What a file gives, beside the model in float32."""
        try:
            return self._judge.figures(self._runs(path))
        except HtpError as error:
            logger.debug("%s", error)
            return NO_NUMBER

    def expect(self, path: Path) -> None:
        """Takes what a file gives for right. Raises HtpError if ONNX Runtime can't run it."""
        self._judge.expect(self._runs(path))

    def build(self, ranking: Ranking, first: int, budget: Budget | None) -> Built | None:
        """Leaves more and more of the worst modules in float32 until the file that comes out meets the budget.

        None if it is not met before nothing is left to quantize.
        """
        for count in range(first, max(len(ranking.groups), 1)):
            path = self.quantize(names_of(self._copy.tagged, ranking, count, self._quantizer))
            self.last = figures = self.measure(path)
            if budget is None or budget.is_met(figures):
                model = read_model(path)
                graph = project([replace(self._source, skeleton=None)], model, require_descent=True)
                roots = graph.roots or Roots(map(Root, tree_of_tags(graph.tags)))
                return Built(replace(graph, roots=roots, name=self._source.name), count, figures)
        return None

    def _runs(self, path: Path) -> list[list[Array]]:
        session = self._session(path)
        return [run_session(session, self._judge.outputs, sample, name=self._name) for sample in self._samples]

    def _session(self, path: Path) -> Any:
        if self._quantizer.rounds_results:
            return open_rounded(read_model(path), name=self._name)[0]
        return open_session(path, session_options(), provider=DEFAULT_PROVIDER, name=self._name)


def write_package(
    package: HtpPackage, output: str | Path, built: Mapping[str, TaggedGraph], *, overwrite: bool
) -> Path:
    """Writes the package with quantized files in place of its own, whole or not at all; gives where."""
    target = checked_output(package.path, output, overwrite=overwrite)
    if target is None:
        raise HtpError(f"{output}: the package is only read; give another path")
    is_whole = package.path.is_dir()
    with writing(target), StagedDirectory(target if is_whole else target.parent) as staging:
        checked_output(package.path, output, overwrite=overwrite)
        records = _stage(package, built, target, staging, overwrite=overwrite)
        write_records(package, records, staging)
        staging.commit(last=SIDECAR)
    return target


def _stage(
    package: HtpPackage, built: Mapping[str, TaggedGraph], target: Path, staging: StagedDirectory, *, overwrite: bool
) -> dict[str, FileRecord]:
    is_whole = package.path.is_dir()
    if is_whole:
        copy_others(package, staging.path)
        _remove_replaced(package, built, staging.path)
    places = {name if is_whole else target.name: graph for name, graph in built.items()}
    options = options_of(file.model for file in package.files.values())
    write_files(places, staging.path, options=options, whole=True)
    for place, graph in places.items():
        for location in external_data_files(graph.model):
            data = (staging.path / place).parent / location
            there = staging.output / data.relative_to(staging.path)
            if not is_whole and there.exists() and not overwrite:
                raise HtpError(
                    f"{there}: it exists already, and the weights would replace it; overwrite with --overwrite"
                )
            shutil.copyfile(graph.model.path.parent / location, data)
    records = {place: FileRecord.of(graph) for place, graph in places.items()}
    for name, file in package.files.items() if is_whole else ():
        if name not in built:
            (staging.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.path, staging.path / name)
            if file.record is not None:
                records[name] = file.record
    return records


def _remove_replaced(package: HtpPackage, built: Mapping[str, TaggedGraph], staged: Path) -> None:
    """Takes away external data that only files have that are replaced."""

    def data(files: Mapping[str, HtpFile]) -> set[Path]:
        return {
            (staged / name).parent / location
            for name, file in files.items()
            for location in external_data_files(file.model)
        }

    kept = data({name: file for name, file in package.files.items() if name not in built})
    for path in data({name: package.files[name] for name in built}) - kept:
        path.unlink(missing_ok=True)
