"""What an extraction says when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from optimum_htp.cli.views.blocks import Block, Column, Heading, Row, Table
from optimum_htp.onnxfile import element_type

if TYPE_CHECKING:
    from optimum_htp.onnxfile import Value
    from optimum_htp.verbs.extract import ExtractReport


_COLUMNS = (Column("tensor"), Column(""), Column("shape"), Column("type", spare=1))


def extract_page(report: ExtractReport) -> Iterator[Block]:
    """What was cut out, and its inputs and outputs."""
    yield Heading(f"Wrote {report.output}: {_modules(report)}", tuple(_details(report)))
    values = (*(("input", value) for value in report.inputs), *(("output", value) for value in report.outputs))
    yield Table(_COLUMNS, tuple(_row(value, kind) for kind, value in values))


def _modules(report: ExtractReport) -> str:
    names = [name or "the whole model" for name in report.modules]
    text = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    return text + (f", call {report.call}" if report.call is not None else "")


def _details(report: ExtractReport) -> list[str]:
    where = f"{report.file}, {report.graph}" if report.graph else report.file
    outside = ", in a file of external data" if report.external_data else ""
    details = [
        f"from {report.package}: {where}",
        f"{report.nodes:,} nodes of its own, {report.constants:,} constants, {report.initializers:,} initializers "
        f"({report.weight_bytes:,} bytes{outside})",
    ]
    if report.shared:
        details.append(f"copied along, because it shares them with other modules: {', '.join(report.shared)}")
    if report.folded:
        details.append(f"its convolutions have what follows them folded in: {', '.join(report.folded)}")
    if report.not_loaded is not None:
        details.append(f"ONNX Runtime can't load it here, nor the file that it is from: {report.not_loaded}")
    return details


def _row(value: Value, kind: str) -> Row:
    axes = "?" if value.shape is None else ", ".join("?" if size is None else str(size) for size in value.shape)
    return Row((value.name, kind, f"[{axes}]", element_type(value.elem_type).name))
