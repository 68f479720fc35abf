"""Which parameter of the PyTorch model each stored tensor of a package is, and what was done to it.

Exporters and optimizers lose the names of weights: a transposed weight is `onnx::MatMul_302` afterwards. The values say
what it is, and the module of the nodes that read it says which, where several parameters have equal values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy import split_tag, tag_module_path
from optimum_htp.models import SourceModel, find_parts, load_source_model, source_facts
from optimum_htp.package import HtpFile, HtpPackage, StoredParameter, as_package, tagged_file
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.params.identity import is_anonymous, own_name, refuse_other_model
from optimum_htp.verbs.params.initializers import StoredTensor, Values, stored_tensors
from optimum_htp.verbs.params.origins import Match, Matcher
from optimum_htp.verbs.params.readings import Reading
from optimum_htp.verbs.params.rename import RenamedFile, new_names, write_renamed
from optimum_htp.verbs.params.state_dict import SourceTensors


if TYPE_CHECKING:
    import numpy as np

KINDS = ("parameter", "constant", "unknown")


@dataclass(frozen=True, slots=True)
class ParameterRow:
    """A stored tensor and what it was made of.

    Attributes:
        file: The ONNX file, by its path in the package.
        graph: The path of the graph that stores it; `""` is the main graph.
        name: Its name, before a renaming.
        new_name: What it was renamed to; None where it kept its name.
        data_type: ONNX's number of its element type.
        shape: Its shape.
        kind: `"parameter"` (or a buffer); `"constant"`, which no parameter went into: integers, truth values, or one
            number throughout; `"unknown"`.
        parameters: The parameters of the PyTorch model that it was made of.
        changes: What was done to them: `same`, or some of `transposed`, `reshaped`, `sliced` (some rows), `gathered` (rows
            in another order), `cast` (to another type), `scaled` (by one number), `shifted` (by one), `folded` (with a
            batch norm), `concatenated`, `quantized`; for the scale and the zero point of a quantized one those words.
        duplicates: Other parameters that it stands for as well, because they have the same values.
        scale: The stored tensors whose product is the scale of a quantized one: one, or for a bias two.
        zero_point: The stored tensor with its zero point; None where there is none.
        anonymous: Whether its name was none of a parameter's, nor one with what a quantizer puts behind it.
    """

    file: str
    graph: str
    name: str
    new_name: str | None
    data_type: int
    shape: tuple[int, ...]
    kind: str
    parameters: tuple[str, ...]
    changes: tuple[str, ...]
    duplicates: tuple[str, ...]
    scale: tuple[str, ...]
    zero_point: str | None
    anonymous: bool


@dataclass(frozen=True, slots=True)
class ParameterReport:
    """The stored tensors of a package.

    Attributes:
        package: The package.
        model: The PyTorch model that it was held against.
        rows: The stored tensors of each file, in order.
        saved: Whether the map was written to the sidecar.
    """

    package: str
    model: str
    rows: tuple[ParameterRow, ...]
    saved: bool

    @property
    def counts(self) -> dict[str, int]:
        """How many stored tensors there are of each kind."""
        return {kind: sum(row.kind == kind for row in self.rows) for kind in KINDS}


def parameters(
    path: str | Path,
    model: str | Path,
    *,
    file: str | None = None,
    rename: bool = False,
    save: bool = True,
    trust_remote_code: bool = False,
) -> ParameterReport:
    """Finds the PyTorch parameter of every stored tensor of a package, by value.

    Args:
        path: The package's directory, or an ONNX file of it.
        model: The model that it was exported from: a directory, or an id on the Hub.
        file: The files of the package, by a glob; None means all.
        rename: Give stored tensors the names of their parameters, in the files. Inputs, outputs and nodes keep their
            names; the sidecar has the old names, so that `strip` can give them back.
        save: Write the map to the sidecar, if the package has one that describes its graphs.
        trust_remote_code: Run code that comes with the model.

    Returns:
        What was found.

    Raises:
        PackageError: The package is not tagged, the model can't be loaded or is not the one that was exported, or there
            is no sidecar to keep the old names in.
        HtpError: A file could not be written; the package stands as it was.

    Example:
        >>> report = parameters("bert_onnx", "bert")                             # doctest: +SKIP
        >>> {row.name: row.parameters for row in report.rows if row.anonymous}    # doctest: +SKIP
    """
    package = as_package(path)
    files = _chosen(package, file)
    tagged = [tagged_file(each, package=package) for each in files]
    undescribed = [each.path for each in files if each.evidence != "sidecar" or package.packed is not None]
    if rename:
        package.require_unpacked()
    if rename and undescribed:
        raise PackageError(
            f"{undescribed[0]}: no sidecar describes it, and the old names would be lost; tag the package first"
        )
    facts = source_facts(
        package.sidecar.source if package.sidecar is not None else {},
        [tree.root for each in tagged for tree in each.trees],
        with_past=any(value.name.startswith("past_key_values") for each in files for value in each.model.graph.inputs),
    )
    source = load_source_model(model, **facts, trust_remote_code=trust_remote_code)
    found: dict[str, list[ParameterRow]] = {}
    for each, with_tags in zip(files, tagged, strict=True):
        found[each.name] = _rows(each, with_tags, package, source)
    saved = False
    if (save or rename) and not undescribed:
        saved = True
        changes = [
            RenamedFile(each, _new_names(each, found[each.name], rename), _map(found[each.name])) for each in files
        ]
        write_renamed(package, changes)
        found = {each.file.name: _renamed(found[each.file.name], each.names) for each in changes}
    rows = tuple(row for listed in found.values() for row in listed)
    return ParameterReport(str(package.path), str(model), rows, saved)


def _chosen(package: HtpPackage, pattern: str | None) -> list[HtpFile]:
    files = [each for name, each in package.files.items() if pattern is None or fnmatchcase(name, pattern)]
    if not files:
        raise PackageError(f"{package.path}: no file of it is called {pattern!r}; it has {', '.join(package.files)}")
    return files


def _rows(file: HtpFile, tagged: TaggedGraph, package: HtpPackage, source: SourceModel) -> list[ParameterRow]:
    module, places = _module_of(file, tagged, package, source)
    tensors = SourceTensors.of(module)
    stored = stored_tensors(tagged)
    with Values(file) as values:

        def read(tensor: StoredTensor) -> np.ndarray[Any, Any] | None:
            return values.read(tensor.graph, tensor.tensor)

        matcher = Matcher(tensors, {(tensor.graph, tensor.tensor.name): tensor for tensor in stored}, read)
        rows = _with_scales([_row(file, tensor, matcher, places) for tensor in stored], matcher)
        refuse_other_model(file, source.name, rows, stored, tensors, read, places=list(places.values()))
    return rows


def _module_of(
    file: HtpFile, tagged: TaggedGraph, package: HtpPackage, source: SourceModel
) -> tuple[Any, dict[str, str]]:
    """The PyTorch module that a file was exported from, and where in it each root of the file is, by the root's tag."""
    import torch

    places = {split_tag(root.tag)[0]: root.in_model for root in tagged.roots}
    if isinstance(source.model, torch.nn.Module) and None not in places.values():
        return source.model, {root: place or "" for root, place in places.items()}
    parts = [part for part in find_parts(source, package.files) if part.file == file.name]
    if not parts:
        raise HtpError(f"{file.path}: which part of {source.name} it was exported from is not known")
    return parts[0].module, dict.fromkeys(places, "")


def _row(file: HtpFile, stored: StoredTensor, matcher: Matcher, places: Mapping[str, str]) -> ParameterRow:
    tensor = stored.tensor
    paths = list(dict.fromkeys(_in_model(tag, places) for tag in stored.tags))
    named = own_name(tensor.name, matcher.source, places.values())
    if named is not None:  # the values have the last word, but of equal ones those of the name are meant
        paths = list(dict.fromkeys((named.rpartition(".")[0], *paths)))
    array = matcher.read(stored)
    match = matcher.match(stored, array, paths, named=named) if array is not None else None
    kind = "parameter" if match is not None else "constant"
    if match is None and array is not None and not _is_constant(array, matcher.readings(stored, array)):
        kind = "unknown"
    match = match or Match((), ())
    return ParameterRow(
        file=file.name,
        graph=stored.graph,
        name=tensor.name,
        new_name=None,
        data_type=tensor.data_type,
        shape=tensor.dims,
        kind=kind,
        parameters=match.parameters,
        changes=match.changes,
        duplicates=match.duplicates,
        scale=match.scale,
        zero_point=match.zero_point,
        anonymous=is_anonymous(tensor.name, matcher.source, list(places.values())),
    )


def _in_model(tag: str, places: Mapping[str, str]) -> str:
    place, path = places.get(split_tag(tag)[0], ""), tag_module_path(tag)
    return f"{place}.{path}" if place and path else place or path


def _is_constant(array: np.ndarray[Any, Any], readings: Iterable[Reading]) -> bool:
    if array.size < 2 or bool((array == array.flat[0]).all()):
        return True
    return array.dtype.kind in "iub" and all(reading.step is None for reading in readings)


def _with_scales(rows: list[ParameterRow], matcher: Matcher) -> list[ParameterRow]:
    """Says of the scales and zero points of quantized parameters whose they are."""
    roles: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
    for row in rows:
        scale = row.scale[0] if len(row.scale) == 1 else None
        for role, name in (("scale", scale), ("zero_point", row.zero_point)):
            stored = matcher.find(row.graph, name) if name is not None else None
            if stored is not None:
                key = stored.graph, stored.tensor.name
                roles[key] = role, (*roles.get(key, ("", ()))[1], *row.parameters[:1])
    return [_with_role(row, *roles[row.graph, row.name]) if (row.graph, row.name) in roles else row for row in rows]


def _with_role(row: ParameterRow, role: str, parameters: tuple[str, ...]) -> ParameterRow:
    named, *others = dict.fromkeys(parameters)
    return replace(row, kind="parameter", changes=(role,), parameters=(named,), duplicates=tuple(others))


def _new_names(file: HtpFile, rows: Iterable[ParameterRow], rename: bool) -> dict[str, str]:
    if not rename:
        return {}
    record = file.record
    place = (record.roots[0].in_model if record is not None and record.roots else "") or ""
    return new_names(file.model, rows, place=place)


def _renamed(rows: list[ParameterRow], names: Mapping[str, str]) -> list[ParameterRow]:
    return [replace(row, new_name=names.get(row.name)) for row in rows]


def _map(rows: Iterable[ParameterRow]) -> tuple[StoredParameter, ...]:
    return tuple(
        StoredParameter(
            row.graph, row.name, row.kind, row.parameters, row.changes, row.duplicates, row.scale, row.zero_point
        )
        for row in rows
    )
