"""Names for initializers after the parameters that they were made of, and writing them with the map to the package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, count

from optimum_htp.models import shared_segments
from optimum_htp.onnxfile import (
    OnnxModel,
    graph_digest,
    read_model,
    renamable_initializers,
    rename_initializers,
    tensor_names,
)
from optimum_htp.package import (
    SIDECAR,
    HtpFile,
    HtpPackage,
    StagedDirectory,
    StoredParameter,
    write_renames,
)
from optimum_htp.verbs.params.report import ParameterRow


@dataclass(frozen=True, slots=True)
class RenamedFile:
    """A file, its initializers by their old names, and the new names by old ones."""

    file: HtpFile
    rows: Sequence[ParameterRow]
    names: Mapping[str, str]

    def stored(self) -> Iterator[StoredParameter]:
        """What the sidecar says of its initializers, by their new names."""
        for row in self.rows:
            stored = StoredParameter(**{member.name: getattr(row, member.name) for member in fields(StoredParameter)})
            scale = tuple(self.names.get(name, name) for name in row.scale)
            zero_point = self.names.get(row.zero_point or "", row.zero_point)
            yield replace(stored, name=self.names.get(row.name, row.name), scale=scale, zero_point=zero_point)


def new_names(model: OnnxModel, rows: Iterable[ParameterRow], *, place: str) -> dict[str, str]:
    """The new names of initializers by old ones; those that have the name of their parameter keep it.

    A name is relative to the module that the file was exported from, whose place in the whole model is `place`, as the
    exporter's own names are. Instead of one that is in use in any graph of the file the next is taken: that of a
    duplicate, one with the changes as its suffix, one with a number.
    """
    taken = tensor_names(model)
    renamable = renamable_initializers(model)
    names: dict[str, str] = {}
    for row in rows:
        if not row.parameters or row.name not in renamable:
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


def _wanted(row: ParameterRow, place: str) -> Iterator[str]:
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
    head, middle, tail = shared_segments(names)
    return ".".join([*head, "_".join(middle), *tail])


def write_renamed(package: HtpPackage, changes: Sequence[RenamedFile], staging: StagedDirectory) -> None:
    """Renames initializers in a package and writes the map to its sidecar, all or nothing. Raises HtpError."""
    assert package.sidecar is not None  # the caller has seen that it describes the files
    records = dict(package.sidecar.files)
    for change in changes:
        record = change.file.record
        assert record is not None
        before = {new: old for new, old in record.renamed.items() if new not in change.names}
        renamed = {new: record.renamed.get(old, old) for old, new in change.names.items()}
        digest = record.digest
        if change.names:
            digest = graph_digest(_staged(change, staging, {**before, **renamed}))
        record = replace(record, digest=digest, parameters=tuple(change.stored()), renamed={**before, **renamed})
        records[change.file.name] = record
    replace(package.sidecar, files=records).write(staging.path)
    staging.commit(last=SIDECAR)


def _staged(change: RenamedFile, staging: StagedDirectory, renamed: Mapping[str, str]) -> OnnxModel:
    """Writes a file with its new names, and the old ones in its metadata, to the staging directory."""
    target = staging.path / change.file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    rename_initializers(change.file.path, change.names, destination=target)
    record = change.file.record
    assert record is not None
    write_renames(record.tagged(read_model(target)), renamed)
    return read_model(target)
