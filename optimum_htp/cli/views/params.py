"""The parameters of a package, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optimum_htp.cli.views.terminal import Column, Line, print_heading, print_table
from optimum_htp.verbs.params import ParameterRow, ParamsReport, shared_segments

_SHOWN_NAMES = 3
_KINDS = (("parameter", "parameters"), ("constant", "constants"), ("unknown", "unknown"))
_COLUMNS = (
    Column("initializer", is_path=True),
    Column("shape"),
    Column("parameter", is_path=True),
    Column("change", wraps=True),
)


def print_params(report: ParamsReport) -> None:
    """Prints a line for each initializer: its name, shape, parameters, and what was done to them."""
    for file, rows in report.files.items():
        print_heading(f"{file}: {_counts(rows)}")
        print_table(_COLUMNS, map(_line, rows))
    renamed = sum(row.new_name is not None for row in report.rows)
    if renamed:
        print(f"renamed: {renamed:,}; the old names are in the sidecar (optimum-cli htp strip gives them back)")
    elif report.saved:
        print("the map is in the sidecar")


def _counts(rows: Sequence[ParameterRow]) -> str:
    kinds = (f"{sum(row.kind == kind for row in rows):,} {word}" for kind, word in _KINDS)
    anonymous = sum(row.anonymous and row.kind == "parameter" for row in rows)
    return f"{len(rows):,} initializers: {', '.join(kinds)}; {anonymous:,} of the parameters under another name"


def _line(row: ParameterRow) -> Line:
    name = row.name if row.new_name is None else f"{row.name} -> {row.new_name}"
    shape = "x".join(map(str, row.shape)) or "scalar"
    return Line((name, shape, _parameters(row), ", ".join(_changes(row))), row.kind != "parameter")


def _parameters(row: ParameterRow) -> str:
    if not row.parameters:
        return f"({row.kind})"
    text = "(as named)" if row.parameters == (row.name,) else _braced(row.parameters)
    if row.duplicates:
        more = len(row.duplicates) - _SHOWN_NAMES
        text += f" (also {', '.join(row.duplicates[:_SHOWN_NAMES])}{f' and {more} more' if more > 0 else ''})"
    return text


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
