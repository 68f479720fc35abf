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
from optimum_htp.package import HtpFile, HtpPackage, load_package
from optimum_htp.parameter_map.identity import own_name, refuse_other_model
from optimum_htp.parameter_map.matching import Match, Matcher
from optimum_htp.parameter_map.naming import RenamedFile, new_names, write_renamed
from optimum_htp.parameter_map.source import SourceTensors
from optimum_htp.parameter_map.stored import StoredTensor, Values, stored_tensors
from optimum_htp.references import SourceModel, find_parts, load_source_model
from optimum_htp.sidecar import StoredParameter


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
        changes: What was done to them: `same`, or some of `transposed`, `reshaped`, `cast`, `scaled`, `shifted`, `folded` (with a
            batch norm), `concatenated`, `quantized`; for the scale and the zero point of a quantized one those words.
        duplicates: Other parameters that it stands for as well, because they have the same values.
        scale: The stored tensor with the scale of a quantized one.
        zero_point: The stored tensor with its zero point.
        anonymous: Whether its name was none of a parameter's.
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
    scale: str | None
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
        path: The package's directory, or an ONNX file.
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
    package = load_package(path)
    files = _chosen(package, file)
    undescribed = [each.path for each in files if each.evidence != "sidecar" or not package.path.is_dir()]
    if rename and undescribed:
        raise PackageError(
            f"{undescribed[0]}: no sidecar describes it, and the old names would be lost; tag the package first"
        )
    facts = package.sidecar.source if package.sidecar is not None else {}
    task, library = (value if isinstance(value := facts.get(key), str) else None for key in ("task", "library"))
    source = load_source_model(model, task=task, library=library, trust_remote_code=trust_remote_code)
    found: dict[str, list[ParameterRow]] = {}
    for each in files:
        found[each.name] = _rows(each, package, source)
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
    for each in files:
        if each.evidence == "none":
            raise PackageError(
                f"{each.path}: its nodes are not tagged; tag them with: optimum-cli htp tag {package.path}"
            )
    return files


def _rows(file: HtpFile, package: HtpPackage, source: SourceModel) -> list[ParameterRow]:
    module, places = _module_of(file, package, source)
    tensors = SourceTensors.of(module)
    stored = stored_tensors(file)
    with Values(file) as values:

        def read(tensor: StoredTensor) -> np.ndarray[Any, Any] | None:
            return values.read(tensor.graph, tensor.tensor)

        matcher = Matcher(tensors, {tensor.tensor.name: tensor for tensor in stored}, read)
        rows = [_row(file, tensor, matcher, places) for tensor in stored]
        rows = _with_scales(rows)
        refuse_other_model(file, source.name, rows, stored, tensors, read, places=list(places.values()))
    return rows


def _module_of(file: HtpFile, package: HtpPackage, source: SourceModel) -> tuple[Any, dict[str, str]]:
    """The PyTorch module that a file was exported from, and where in it each root of the file is, by the root's tag."""
    import torch

    roots = [split_tag(tree.tag(()))[0] for tree in file.hierarchy.trees]
    record = file.record
    known = record is not None and record.trees == file.hierarchy.trees
    at = record.roots_in_model if known and record is not None else ("",) * len(roots)
    if isinstance(source.model, torch.nn.Module) and None not in at:
        return source.model, {root: place or "" for root, place in zip(roots, at, strict=True)}
    parts = [part for part in find_parts(source, package.files) if part.file == file.name]
    if not parts:
        raise HtpError(f"{file.path}: which part of {source.name} it was exported from is not known")
    return parts[0].module, dict.fromkeys(roots, "")


def _row(file: HtpFile, stored: StoredTensor, matcher: Matcher, places: Mapping[str, str]) -> ParameterRow:
    tensor = stored.tensor
    paths = list(dict.fromkeys(_in_model(tag, places) for tag in stored.tags))
    named = own_name(tensor.name, matcher.source, places.values())
    if named is not None:  # the values have the last word, but of equal ones those of the name are meant
        paths = list(dict.fromkeys((named.rpartition(".")[0], *paths)))
    array = matcher.read(stored)
    match = matcher.match(stored, array, paths) if array is not None else None
    kind = "parameter" if match is not None else "constant" if array is None or _is_constant(array) else "unknown"
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
        anonymous=named is None,
    )


def _in_model(tag: str, places: Mapping[str, str]) -> str:
    place, path = places.get(split_tag(tag)[0], ""), tag_module_path(tag)
    return f"{place}.{path}" if place and path else place or path


def _is_constant(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype.kind in "iub" or array.size < 2 or bool((array == array.flat[0]).all())


def _with_scales(rows: list[ParameterRow]) -> list[ParameterRow]:
    """Says of the scales and zero points of quantized parameters whose they are."""
    roles: dict[str, tuple[str, tuple[str, ...]]] = {}
    for row in rows:
        for role, name in (("scale", row.scale), ("zero_point", row.zero_point)):
            if name is not None:
                before = roles.get(name, (role, ()))[1]
                roles[name] = role, (*before, *row.parameters)
    return [
        replace(row, kind="parameter", changes=(roles[row.name][0],), parameters=roles[row.name][1][:1],
                duplicates=roles[row.name][1][1:])
        if row.name in roles
        else row
        for row in rows
    ]  # fmt: skip


def _new_names(file: HtpFile, rows: Iterable[ParameterRow], rename: bool) -> dict[str, str]:
    if not rename:
        return {}
    record = file.record
    place = (record.roots_in_model[0] if record is not None and record.roots_in_model else "") or ""
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
