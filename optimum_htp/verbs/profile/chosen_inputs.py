"""What files are run on: inputs that are made up, those of an .npz file, or what a package gives to a part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.models import (
    InputSizes,
    axis_names,
    check_axes,
    check_inputs,
    component_config,
    graph_inputs,
    make_inputs,
    paired_inputs,
    part_inputs,
    part_phases,
    phase_of,
    phases,
    read_arrays,
)
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package import CutFrom, HtpFile, HtpPackage, ValuePairs, cut_from, partners, tagged_file, traits_of
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.profile.runs import Inputs


@dataclass(frozen=True, slots=True)
class ChosenInputs:
    """For each file the inputs of each phase, and where they are from, in words, if that is not obvious."""

    by_phase: tuple[Mapping[str, Inputs], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """The file that a part was cut from."""

    record: CutFrom
    package: HtpPackage
    file: HtpFile


def choose_inputs(
    files: Sequence[TaggedGraph],
    package: HtpPackage,
    *,
    origin: HtpPackage | None,
    sizes: InputSizes,
    inputs: str | Path | None,
    renamed: Mapping[str, str] | None = None,
) -> ChosenInputs:
    """The inputs of files of a package. Raises HtpError, which names all that is unknown of any, or does not fit."""
    sources, lost = _sources(files, origin, sizes)
    run = [
        source.file.model if source is not None else file.model for file, source in zip(files, sources, strict=True)
    ]
    by_phase: list[Mapping[str, Inputs]] = []
    problems = []
    by_other_names: list[str] = []
    try:
        check_axes(run, sizes, where=str(package.path))
    except HtpError as error:
        problems.append(str(error))
    for file, source in zip(files, sources, strict=True):
        try:
            if source is not None:
                by_phase.append(_given_by(source, file.model, sizes, inputs))
            else:
                config = component_config(package, file.name) or package.config or (origin.config if origin else None)
                known = _known_names(file, package, origin, renamed) if inputs is not None else None
                by_phase.append(_own(file.model, config, sizes, inputs, known))
                if known is not None and known.renamed:
                    by_other_names += [f"{file.name}: {line}" for line in known.explain()]
        except HtpError as error:
            problems.append("; ".join([str(error), *filter(None, [lost.get(file.name)])]))
    if problems:
        raise HtpError("; ".join(problems))
    notes = [f"run on what {source.file.path} gives it" for source in sources if source is not None]
    notes += by_other_names
    notes += [f"run on made-up inputs: {why}" for why in lost.values()]
    return ChosenInputs(tuple(by_phase), tuple(dict.fromkeys(notes)))


def _sources(
    files: Sequence[TaggedGraph], origin: HtpPackage | None, sizes: InputSizes
) -> tuple[list[_Source | None], dict[str, str]]:
    """What parts were cut from; and by the names of parts why that is not to be had."""
    sources: list[_Source | None] = []
    lost: dict[str, str] = {}
    for file in files:
        record = cut_from(file.model)
        source = None
        if record is not None:
            try:
                source = _Source(record, *record.source(file.model.path, given=origin))
            except PackageError as error:
                why = str(error).removeprefix(f"{file.model.path}: ")
                lost[file.name] = f"{why}; --reference PKG says where it is"
        if source is not None and not sizes.dims.keys() <= axis_names(source.file.model).keys():
            source = source if not sizes.dims.keys() <= axis_names(file.model).keys() else None
        sources.append(source)
    return sources, lost


def _known_names(
    file: TaggedGraph, package: HtpPackage, origin: HtpPackage | None, renamed: Mapping[str, str] | None
) -> ValuePairs | None:
    """What the package that a file was made from calls its inputs; None if there is none, or nothing goes with it."""
    if origin is None:
        return None
    match = partners(traits_of(package.files.values()), traits_of(origin.files.values()))[file.name]
    if match.other is None:
        return None
    reference = tagged_file(origin.files[match.other], package=origin, reference=package)
    return paired_inputs(file, reference, renamed=renamed)


def _own(
    model: OnnxModel,
    config: Mapping[str, Any] | None,
    sizes: InputSizes,
    inputs: str | Path | None,
    known: ValuePairs | None = None,
) -> dict[str, Inputs]:
    """The inputs of each phase; those of a file, which may have the `known` names, are for the one phase that they fit."""
    if inputs is None:
        return {phase: make_inputs(model, config, sizes=sizes, phase=phase) for phase in phases(model)}
    given = read_arrays(inputs)
    if known is not None and set(given).isdisjoint(value.name for value in graph_inputs(model)):
        given = known.ours(given)
    check_inputs(given, model, where=str(inputs))
    return {phase_of(given, phases(model)): given}


def _given_by(source: _Source, part: OnnxModel, sizes: InputSizes, inputs: str | Path | None) -> dict[str, Inputs]:
    """The inputs of a part in each phase; those of an .npz file may be its own or those of what it was cut from."""
    model, name = source.file.model, source.file.name
    possible = part_phases(source.record, model)
    if inputs is None:
        config = component_config(source.package, name) or source.package.config
        return {phase: part_inputs(part, source.record, model, config, phase=phase, sizes=sizes) for phase in possible}
    given = read_arrays(inputs)
    if given.keys() != {value.name for value in graph_inputs(model)}:
        check_inputs(given, part, where=str(inputs))
        return {phase_of(given, phases(part)): given}
    check_inputs(given, model, where=str(inputs))
    phase = phase_of(given, possible)
    return {phase: part_inputs(part, source.record, model, None, phase=phase, given=given)}
