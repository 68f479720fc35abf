"""How what `view` wrote is shown: where it is, how large, and what is in it; a card that went to no file as it is."""

from __future__ import annotations

from collections.abc import Iterator

from optimum_htp.cli.views.blocks import Block, notes, short_count
from optimum_htp.verbs.view import ExplorerReport, ViewReport


def view_page(report: ViewReport) -> Iterator[Block]:
    """Where the page is, or the card."""
    if report.text is not None:
        yield from notes(report.text.splitlines(), exact=True)
        return
    data = f", of which the package's data {report.data_bytes:,}" if report.format == "html" else ""
    yield from notes(
        (
            f"{report.output}: {report.size_bytes:,} bytes{data}",
            f"{short_count(report.modules)} modules, {short_count(report.nodes)} nodes; {', '.join(report.tabs)}",
        )
    )
    if report.format == "html":
        yield from notes([f"open it in a browser; {report.output}#/MODULE opens a module"])


def explorer_page(report: ExplorerReport) -> Iterator[Block]:
    """What was written for Model Explorer, and the command that shows it."""
    for file in report.files:
        left_out = file.nodes - file.drawn
        note = f" (Model Explorer draws {file.drawn:,}: no bodies inside bodies)" if left_out else ""
        yield from notes([f"{file.name}: {file.nodes:,} nodes{note}"])
        yield from notes(f"  {path}: {file.figures[kind]:,} values" for kind, path in file.node_data.items())
        if file.navigation is not None:
            sides = f"{file.left} on the left, {file.right} on the right"
            yield from notes([f"  {file.navigation}: what goes with what; {sides}"])
        data = ",".join(map(str, file.node_data.values()))
        command = f"model-explorer {file.model} --extensions model_explorer_onnx --node_data_paths {data}"
        yield from notes([f"  {command}"], exact=True)
    yield from notes(f"{name}: not paired: {why}" for name, why in report.not_paired.items())
