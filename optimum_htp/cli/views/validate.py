"""How a validation is shown: a line for each check, on a terminal or in a pipe."""

from __future__ import annotations

import sys

from optimum_htp.cli.views.terminal import is_terminal, print_heading, printable
from optimum_htp.verbs.validate import Check, ValidationReport

_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


def print_validation(report: ValidationReport) -> None:
    """Prints each check with its reason, and below it what to do; the verdict comes last."""
    print_heading(f"{report.package} ({report.task})" if report.task else report.package)
    if is_terminal(sys.stdout):
        _print_coloured(report)
    else:
        _print_plain(report)
    print(f"\n{_verdict(report)}")


def _verdict(report: ValidationReport) -> str:
    failed, warnings = len(report.failed), len(report.warnings)
    ending = f", {warnings} {'warning' if warnings == 1 else 'warnings'}" if warnings else ""
    return f"{len(report.checks)} checks: {failed or 'nothing'} failed{ending}"


def _cells(check: Check) -> tuple[str, str, str]:
    return printable(check.name), printable(check.status), printable(check.reason)


def _print_plain(report: ValidationReport) -> None:
    rows = [_cells(check) for check in report.checks]
    names, statuses = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    for check, (name, status, reason) in zip(report.checks, rows, strict=True):
        print(f"{name:{names}}  {status:{statuses}}  {reason}".rstrip())
        if check.advice:
            print(f"{'':{names}}  {'':{statuses}}  -> {printable(check.advice)}")


def _print_coloured(report: ValidationReport) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    columns = (Column(no_wrap=True), Column(no_wrap=True), Column(overflow="fold"))
    table = Table(*columns, box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for check in report.checks:
        name, status, reason = _cells(check)
        text = Text(reason)
        if check.advice:
            text.append(f"\n→ {printable(check.advice)}", style="italic")
        table.add_row(name, Text(status, style=_STYLES[check.status]), text)
    Console().print(table)
