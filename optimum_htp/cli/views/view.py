"""How what `view` wrote is shown: where it is, how large, and what is in it; a card that went to no file as it is."""

from __future__ import annotations

from optimum_htp.cli.views.terminal import print_lines, short_count
from optimum_htp.verbs.view import ViewReport


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
