"""How what `view` wrote is shown: where it is, how large, and what is in it; a card that went to no file as it is."""

from __future__ import annotations

from optimum_htp.cli.views.terminal import print_lines, short_count
from optimum_htp.verbs.view import ExplorerReport, ViewReport


def print_view(report: ViewReport) -> None:
    """Prints where the page is, or the card."""
    if report.text is not None:
        print_lines(*report.text.splitlines())
        return
    data = f", of which the package's data {report.data_bytes:,}" if report.format == "html" else ""
    print_lines(
        f"{report.output}: {report.size_bytes:,} bytes{data}",
        f"{short_count(report.modules)} modules, {short_count(report.nodes)} nodes; {', '.join(report.tabs)}",
    )
    if report.format == "html":
        print_lines(f"open it in a browser; {report.output}#/MODULE opens a module")


def print_explorer(report: ExplorerReport) -> None:
    """Prints what was written for Model Explorer, and the command that shows it."""
    for file in report.files:
        left_out = file.nodes - file.drawn
        note = f" (Model Explorer draws {file.drawn:,}: no bodies inside bodies)" if left_out else ""
        print_lines(f"{file.name}: {file.nodes:,} nodes{note}")
        print_lines(*(f"  {path}: {file.figures[kind]:,} values" for kind, path in file.node_data.items()))
        if file.navigation is not None:
            print_lines(
                f"  {file.navigation}: what goes with what; {file.left} on the left, {file.right} on the right"
            )
        data = ",".join(map(str, file.node_data.values()))
        print_lines(f"  model-explorer {file.model} --extensions model_explorer_onnx --node_data_paths {data}")
    for name, why in report.not_paired.items():
        print_lines(f"{name}: not paired: {why}")
