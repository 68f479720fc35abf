"""Which parameter of the PyTorch model each initializer of a package is, and what was done to it.

Exporters and optimizers lose the names of weights: a transposed weight is `onnx::MatMul_302` afterwards. The values say
what it is, and the modules of the nodes that consume it say which, where several parameters have equal values.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError, PackageError, needing_optimum
from optimum_htp.hierarchy import split_tag
from optimum_htp.models import (
    Matcher,
    Reading,
    SourceModel,
    SourceTensors,
    TaggedInitializer,
    check_model_name,
    find_parts,
    initializer_values,
    load_component_model,
    load_source_model,
    recorded_revision,
    source_facts,
    tagged_initializers,
)
from optimum_htp.package import Derivation, HtpFile, HtpPackage, as_package, cache_leaf, changing, tagged_file
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.params.identity import refuse_other_model
from optimum_htp.verbs.params.rename import RenamedFile, new_names, write_renamed
from optimum_htp.verbs.params.report import ParameterRow, ParamsReport

if TYPE_CHECKING:
    import numpy as np


def params(
    package: str | Path | HtpPackage,
    *,
    model: str | Path,
    file: str | None = None,
    rename: bool = False,
    save: bool = True,
    trust_remote_code: bool = False,
) -> ParamsReport:
    """Finds the PyTorch parameter of every initializer of a package, by value.

    Args:
        package: The package's directory, or an ONNX file of it.
        model: The model that it was exported from: a directory, or an id on the Hub.
        file: The files of the package, by name, globs allowed; None means all.
        rename: Give initializers the names of their parameters, in the files. Inputs, outputs and nodes keep their
            names; the sidecar has the old names, so that `strip` can give them back.
        save: Write the map to the sidecar, if the package has one that describes its graphs.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The initializers of each file, and what each was made of.

    Raises:
        PackageError: The package is not tagged, the model can't be loaded or is not the one that was exported, or there
            is no sidecar to keep the old names in.
        HtpError: A file could not be written; the package is unchanged.

    Example:
        >>> report = params("bert_onnx", model="bert")                           # doctest: +SKIP
        >>> {row.name: row.parameters for row in report.rows if row.anonymous}    # doctest: +SKIP
    """
    if rename and not save:
        raise HtpError(
            "--rename keeps the old names in the sidecar, and --no-save (save=) writes none: give one of them"
        )
    check_model_name(model)
    opened = as_package(package)
    with ExitStack() as stack:
        saved = save and _can_be_saved(opened, file, rename=rename)
        if saved:
            opened, staging = stack.enter_context(changing(opened))
            saved = _can_be_saved(opened, file, rename=rename)  # nobody else writes from here on
        files = list(opened.matching(file).values())
        graphs = [tagged_file(chosen, package=opened) for chosen in files]
        source = _source(opened, files, graphs, model, trust_remote_code=trust_remote_code)
        rows = {chosen.name: _rows(chosen, graph, opened, source) for chosen, graph in zip(files, graphs, strict=True)}
        if saved:
            names = {chosen.name: _new_names(chosen, rows[chosen.name]) if rename else {} for chosen in files}
            changes = [RenamedFile(chosen, rows[chosen.name], names[chosen.name]) for chosen in files]
            write_renamed(opened, changes, staging)
            for name, listed in rows.items():
                rows[name] = [replace(row, new_name=names[name].get(row.name)) for row in listed]
    return ParamsReport(str(opened.path), str(model), {name: tuple(listed) for name, listed in rows.items()}, saved)


def _can_be_saved(package: HtpPackage, file: str | None, *, rename: bool) -> bool:
    """Whether a sidecar describes the files, so that the map can go there; without it nothing can be renamed."""
    if rename:
        package.require_unpacked()
    files = package.matching(file).values()
    undescribed = [chosen.path for chosen in files if chosen.evidence != "sidecar" or package.packed is not None]
    if rename and undescribed:
        advice = "the old names would be lost; tag the package first"
        raise PackageError(f"{undescribed[0]}: no sidecar describes it, and {advice}")
    return not undescribed


def _source(
    package: HtpPackage,
    files: Iterable[HtpFile],
    graphs: Iterable[TaggedGraph],
    model: str | Path,
    *,
    trust_remote_code: bool,
) -> SourceModel:
    """The model that a package was exported from, in PyTorch."""
    if package.components:
        return load_component_model(package, files, str(model), trust_remote_code=trust_remote_code)
    inputs = (value.name for chosen in files for value in chosen.model.graph.inputs)
    recorded = package.sidecar.source if package.sidecar is not None else {}
    with needing_optimum(f"loading {model}"):
        import optimum.exporters.tasks  # noqa: F401
    facts = source_facts(
        recorded,
        [tree.root for graph in graphs for tree in graph.trees],
        with_past=any(cache_leaf(name) is not None for name in inputs),
    )
    revision = recorded_revision(model, recorded)
    return load_source_model(model, **facts, revision=revision, trust_remote_code=trust_remote_code)


def _rows(file: HtpFile, graph: TaggedGraph, package: HtpPackage, source: SourceModel) -> list[ParameterRow]:
    tensors = _tensors_of(file, graph, package, source)
    initializers = tagged_initializers(graph)
    with initializer_values(file) as read:
        matcher = Matcher(tensors, initializers, read)
        rows = _with_scales([_row(file, initializer, matcher) for initializer in initializers], matcher)
        refuse_other_model(file, source.name, rows=rows, initializers=initializers, matcher=matcher)
    return rows


def _tensors_of(file: HtpFile, graph: TaggedGraph, package: HtpPackage, source: SourceModel) -> SourceTensors:
    """The tensors of the PyTorch module that a file was exported from."""
    import torch

    places = {split_tag(root.tag)[0]: root.in_model for root in graph.roots}
    if isinstance(source.model, torch.nn.Module) and None not in places.values():
        return SourceTensors.of(source.model, places={root: place or "" for root, place in places.items()})
    parts = find_parts(source, [file])
    if not parts:
        raise HtpError(f"{file.path}: which part of {source.name} it was exported from is unknown")
    return SourceTensors.of(parts[0].module, places=dict.fromkeys(places, ""))


def _row(file: HtpFile, initializer: TaggedInitializer, matcher: Matcher) -> ParameterRow:
    tensor, source = initializer.tensor, matcher.source
    paths = [source.path(tag) for tag in initializer.tags]
    named = source.named(tensor.name)
    if named is not None:  # the values have the last word, but of equal ones those of the name are meant
        paths.insert(0, named.rpartition(".")[0])
    array = matcher.read(initializer)
    derivation, kind = None, "constant"
    if array is not None:
        derivation = matcher.match(initializer, array, list(dict.fromkeys(paths)), named=named)
        if derivation is not None:
            kind = "parameter"
        elif not _is_constant(array, matcher.readings(initializer, array)):
            kind = "unknown"
    return ParameterRow(
        file=file.name,
        graph=initializer.graph,
        name=tensor.name,
        data_type=tensor.data_type,
        shape=tensor.dims,
        kind=kind,
        anonymous=source.is_anonymous(tensor.name),
        **asdict(derivation or Derivation()),
    )


def _is_constant(array: np.ndarray[Any, Any], readings: Iterable[Reading]) -> bool:
    if array.size < 2 or bool((array == array.flat[0]).all()):
        return True
    return array.dtype.kind in "iub" and all(reading.step is None for reading in readings)


def _with_scales(rows: list[ParameterRow], matcher: Matcher) -> list[ParameterRow]:
    """The rows, in which the scales and zero points of quantized parameters have those parameters."""
    roles: dict[tuple[str, str], str] = {}
    parameters: dict[tuple[str, str], dict[str, None]] = {}  # a set that keeps its order
    for row in rows:
        scale = row.scale[0] if len(row.scale) == 1 else None
        for role, name in (("scale", scale), ("zero_point", row.zero_point)):
            initializer = matcher.find(row.graph, name) if name is not None else None
            if initializer is not None:
                roles[initializer.key] = role
                parameters.setdefault(initializer.key, {})[row.parameters[0]] = None
    changed = []
    for row in rows:
        key = row.graph, row.name
        if key in roles:
            named, *others = parameters[key]
            row = replace(row, kind="parameter", changes=(roles[key],), parameters=(named,), duplicates=tuple(others))
        changed.append(row)
    return changed


def _new_names(file: HtpFile, rows: Iterable[ParameterRow]) -> dict[str, str]:
    record = file.record
    place = (record.roots[0].in_model if record is not None and record.roots else "") or ""
    return new_names(file.model, rows, place=place)
