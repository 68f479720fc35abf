"""How a validation is shown: a row for each check."""

from __future__ import annotations

from collections.abc import Iterator

from optimum_htp.cli.views.blocks import Block, Column, Heading, Row, Table
from optimum_htp.verbs.validate import Check, ValidationReport

_COLUMNS = (Column(""), Column("", marked=True), Column(""))
_STYLES = {"ok": "good", "warning": "warning", "failed": "bad", "skipped": "faint"}


def validation_page(report: ValidationReport) -> Iterator[Block]:
    """Each check with its reason, and below it what to do; the verdict comes last."""
    yield Heading(f"{report.package} ({report.task})" if report.task else report.package)
    yield Table(_COLUMNS, tuple(row for check in report.checks for row in _rows(check)))
    yield Heading(_verdict(report))


def _rows(check: Check) -> Iterator[Row]:
    yield Row((check.name, check.status, check.reason), style=_STYLES[check.status])
    if check.advice:
        yield Row(("", "", f"-> {check.advice}"))


def _verdict(report: ValidationReport) -> str:
    failed, warnings = len(report.failed), len(report.warnings)
    ending = f", {warnings} {'warning' if warnings == 1 else 'warnings'}" if warnings else ""
    return f"{len(report.checks)} checks: {failed or 'nothing'} failed{ending}"
