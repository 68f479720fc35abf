"""The parameters of a package, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optimum_htp.cli.views.blocks import Block, Column, Heading, Note, Row, Table
from optimum_htp.cli.views.folding import Folded, fold, unfolded
from optimum_htp.models import shared_segments
from optimum_htp.verbs.params import ParameterRow, ParamsReport

_SHOWN_NAMES = 3
_KINDS = (("parameter", "parameters"), ("constant", "constants"), ("unknown", "unknown"))
_COLUMNS = (
    Column("parameter"),
    Column("initializer", exact=True),
    Column("change"),
    Column("shape", spare=1),
)


def params_page(report: ParamsReport, *, expand: bool = False) -> Iterator[Block]:
    """For each file a row for each initializer: its parameters, its name, and what was done to them."""
    for file, rows in report.files.items():
        yield Heading(f"{file}: {_counts(rows)}")
        shown = unfolded(rows, _name) if expand else fold(rows, name=_name, like=_likeness)
        yield Table(_COLUMNS, tuple(map(_line, shown)))
    renamed = sum(row.new_name is not None for row in report.rows)
    if renamed:
        yield Note(f"renamed: {renamed:,}; the old names are in the sidecar (optimum-cli htp strip gives them back)")
    elif report.saved:
        yield Note("the map is in the sidecar")


def _counts(rows: Sequence[ParameterRow]) -> str:
    kinds = (f"{sum(row.kind == kind for row in rows):,} {word}" for kind, word in _KINDS)
    anonymous = sum(row.anonymous and row.kind == "parameter" for row in rows)
    return f"{len(rows):,} initializers: {', '.join(kinds)}; {anonymous:,} of the parameters under another name"


def _name(row: ParameterRow) -> str:
    """What stands in the first column."""
    return _braced(row.parameters) if row.parameters else f"({row.kind})"


def _likeness(row: ParameterRow) -> tuple[object, ...] | None:
    """What initializers have in common that are shown as one: those that are named as the parameter is."""
    if len(row.parameters) != 1 or row.duplicates or row.new_name is not None:
        return None
    parameter = row.parameters[0]
    if not row.name.startswith(parameter):
        return None
    changes = ", ".join(_changes(row)).replace(parameter.rpartition(".")[0] or parameter, "")
    return row.name.removeprefix(parameter), row.graph, row.shape, row.data_type, changes


def _line(folded: Folded[ParameterRow]) -> Row:
    row = folded.first
    changes = ", ".join(_changes(row))
    name = row.name if row.new_name is None else f"{row.name} -> {row.new_name}"
    if row.parameters == (row.name,) and row.new_name is None:
        name = "(the same)"
    elif folded.count > 1:
        name = folded.name + row.name.removeprefix(row.parameters[0])
    if folded.count > 1:
        above = row.parameters[0].rpartition(".")[0]
        changes = changes.replace(above, folded.name.rpartition(".")[0]) if above else changes
    parameters = folded.name + _more(row.duplicates)
    shape = "x".join(map(str, row.shape)) or "scalar"
    return Row(
        (parameters, name, changes, shape), count=folded.count, style="" if row.kind == "parameter" else "faint"
    )


def _more(duplicates: Sequence[str]) -> str:
    if not duplicates:
        return ""
    more = len(duplicates) - _SHOWN_NAMES
    return f" (also {', '.join(duplicates[:_SHOWN_NAMES])}{f' and {more} more' if more > 0 else ''})"


def _braced(names: Sequence[str]) -> str:
    """Names with what they share written once, as a shell takes them.

    >>> _braced(["layer.query.weight", "layer.key.weight"]), _braced(["weight"])
    ('layer.{query,key}.weight', 'weight')
    """
    head, middle, tail = shared_segments(names)
    return ".".join([*head, f"{{{','.join(middle)}}}" if len(names) > 1 else middle[0], *tail])


def _changes(row: ParameterRow) -> Iterator[str]:
    for change in row.changes:
        if change == "folded":
            yield "folded with a batch norm"
        elif change == "quantized":
            zero = f", zero point {row.zero_point}" if row.zero_point is not None else ""
            yield f"quantized (scale {' * '.join(row.scale)}{zero})"
        elif change in ("scale", "zero_point"):
            yield f"its {change.replace('_', ' ')}"
        else:
            yield change
