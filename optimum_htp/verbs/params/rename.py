"""Names for stored tensors after the parameters that they were made of, and writing them with the map to the package."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, takewhile
from typing import Protocol

from optimum_htp.onnxfile import (
    OnnxModel,
    graph_digest,
    read_model,
    rename_initializers,
    rewrite_metadata,
    tensor_names,
)
from optimum_htp.package import (
    RENAMED,
    SKELETON,
    HtpFile,
    HtpPackage,
    Sidecar,
    StagedDirectory,
    StoredParameter,
    pack_skeleton,
)


@dataclass(frozen=True, slots=True)
class RenamedFile:
    """What becomes of a file.

    Attributes:
        file: The file.
        names: New names of stored tensors by old ones.
        parameters: The map of its stored tensors, by old names.
    """

    file: HtpFile
    names: Mapping[str, str]
    parameters: tuple[StoredParameter, ...]


class Row(Protocol):
    """What is read of a row of the report."""

    @property
    def name(self) -> str:
        """The tensor's name."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """What it was made of."""

    @property
    def duplicates(self) -> tuple[str, ...]:
        """What it stands for beside."""

    @property
    def changes(self) -> tuple[str, ...]:
        """What was done."""


def new_names(model: OnnxModel, rows: Iterable[Row], *, place: str) -> dict[str, str]:
    """The new names of stored tensors by old ones; those that have the name of their parameter keep it.

    A name is relative to the module that the file was exported from, as the exporter's own names are. One that is in
    use in any graph of the file is passed over for the next: that of a duplicate, one with what was done behind it, one
    with a number behind it.

    Args:
        model: The file.
        rows: Its stored tensors.
        place: Where the exported module sits in the whole model.
    """
    taken = tensor_names(model)
    fixed = {value.name for _, graph in model.graphs() for value in (*graph.inputs, *graph.outputs)}
    stored = [tensor.name for _, graph in model.graphs() for tensor in graph.initializers]
    names: dict[str, str] = {}
    for row in rows:
        if not row.parameters or row.name in fixed or stored.count(row.name) != 1:
            continue
        wanted = list(_wanted(row, place))
        if any(row.name == name or _is_numbered(row.name, name) for name in wanted):
            continue
        numbered = (f"{wanted[0]}.{number}" for number in count(2))
        names[row.name] = next(name for name in chain(wanted, numbered) if name not in taken)
        taken.add(names[row.name])
    return names


def _is_numbered(name: str, wanted: str) -> bool:
    head, _, number = name.rpartition(".")
    return head == wanted and number.isdecimal()


def _wanted(row: Row, place: str) -> Iterator[str]:
    suffix = {"quantized": "_quantized", "scale": "_scale", "zero_point": "_zero_point"}.get(row.changes[-1], "")
    if "concatenated" in row.changes:
        yield _relative(_joined(row.parameters), place)
        return
    for name in (row.parameters[0], *(() if "folded" in row.changes else row.duplicates)):
        yield _relative(name, place) + suffix
    named = row.parameters[0]
    yield f"{_relative(named, place)}.{'.'.join(row.changes)}"


def _relative(name: str, place: str) -> str:
    return name[len(place) + 1 :] if place and name.startswith(place + ".") else name


def _joined(names: Sequence[str]) -> str:
    """A name for parameters side by side.

    >>> _joined(["self.query.weight", "self.key.weight", "self.value.weight"])
    'self.query_key_value.weight'
    """
    parts = [name.split(".") for name in names]
    head = _shared(parts)
    tail = _shared([each[:0:-1] for each in parts])[::-1]
    middle = "_".join(".".join(each[len(head) : len(each) - len(tail)]) for each in parts)
    return ".".join([*head, middle, *tail])


def _shared(lists: Sequence[Sequence[str]]) -> list[str]:
    """What all the lists start with."""
    columns = zip(*lists, strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]


def write_renamed(package: HtpPackage, changes: Sequence[RenamedFile]) -> None:
    """Renames stored tensors in the files of a package and writes the map to its sidecar, all of it or nothing.

    Raises:
        HtpError: A file could not be written; the package stands as it was.
    """
    assert package.sidecar is not None  # the caller has seen that it describes the files
    records = dict(package.sidecar.files)
    with StagedDirectory(package.directory) as staging:
        for change in changes:
            record = change.file.record
            assert record is not None
            parameters = tuple(
                replace(
                    each,
                    name=change.names.get(each.name, each.name),
                    scale=tuple(change.names.get(name, name) for name in each.scale),
                    zero_point=change.names.get(each.zero_point or "", each.zero_point),
                )
                for each in change.parameters
            )
            before = {new: old for new, old in record.renamed.items() if new not in change.names}
            renamed = {new: record.renamed.get(old, old) for old, new in change.names.items()}
            digest = record.digest
            if change.names:
                digest = graph_digest(_staged(change, staging, {**before, **renamed}))
            record = replace(record, digest=digest, parameters=parameters, renamed={**before, **renamed})
            records[change.file.name] = record
        Sidecar.write(replace(package.sidecar, files=records), staging.path)
        staging.commit()


def _staged(change: RenamedFile, staging: StagedDirectory, renamed: Mapping[str, str]) -> OnnxModel:
    """Writes a file with its new names, and the old ones in its metadata, to the staging directory."""
    target = staging.path / change.file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    rename_initializers(change.file.path, change.names, destination=target)
    model = read_model(target)
    record = change.file.record
    entries: dict[str, str] = {RENAMED: json.dumps(renamed, ensure_ascii=False)}
    if record is not None and SKELETON in model.metadata:
        skeleton = pack_skeleton(record.tagged(model))
        if skeleton is not None:
            entries[SKELETON] = skeleton
    rewrite_metadata(target, nodes={}, owned=lambda key: key in (SKELETON, RENAMED), model=entries)
    return model
