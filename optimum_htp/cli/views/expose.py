"""What `expose` says when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from optimum_htp.cli.views.blocks import Block, Column, Heading, Row, Table
from optimum_htp.onnxfile import element_type

if TYPE_CHECKING:
    from optimum_htp.verbs.expose import ExposedTensor, ExposeReport


_COLUMNS = (
    Column("output"),
    Column("shape"),
    Column("type", spare=1),
    Column("tensor", spare=3),
    Column("file", spare=2),
)


def expose_page(report: ExposeReport) -> Iterator[Block]:
    """The outputs that are new, and of which modules there is none."""
    added = [tensor for tensor in report.tensors if tensor.added]
    known = [tensor for tensor in report.tensors if not tensor.added]
    count = "1 more output" if len(added) == 1 else f"{len(added)} more outputs"
    details = [f"from {report.package}; strip takes them off again"]
    if known:
        details.append(
            f"outputs before: {', '.join(f'{each.output.name} of {each.path or each.module}' for each in known)}"
        )
    reasons = dict.fromkeys(each.reason for each in report.left_out)
    details += [f"left out: {reason}" for reason in list(reasons)[:5]]
    if len(reasons) > 5:
        details.append(f"and {len(reasons) - 5} more left out (--json)")
    yield Heading(f"Wrote {report.output} with {count}", tuple(details))
    several = len({tensor.file for tensor in report.tensors}) > 1
    rows = map(_row, added)
    yield Table(_COLUMNS, tuple(rows)) if several else Table(_COLUMNS[:-1], tuple(Row(row.cells[:-1]) for row in rows))


def _row(tensor: ExposedTensor) -> Row:
    value = tensor.output
    axes = "?" if value.shape is None else ", ".join("?" if size is None else str(size) for size in value.shape)
    names = ", ".join(dict.fromkeys(tensor.tensors.values()))
    return Row((value.name, f"[{axes}]", element_type(value.elem_type).name, names, tensor.file))
