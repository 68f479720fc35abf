"""The result of a validation: a list of named checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from optimum_htp.reports import Report, called

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"
STATUSES = (OK, WARNING, FAILED, SKIPPED)

_LISTED_PROBLEMS = 5
_SEVERITY = {SKIPPED: 0, OK: 1, WARNING: 2, FAILED: 3}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about a package, with the fields of a `Check` that consists of several."""

    status: str
    reason: str
    advice: str = ""


failed = partial(Finding, FAILED)
warning = partial(Finding, WARNING)  # does not fail a check
skipped = partial(Finding, SKIPPED)  # what could not be checked, and why
good = partial(Finding, OK)


@dataclass(frozen=True, slots=True)
class Check:
    """One named check of a package.

    Attributes:
        name: Its name, the same in every report.
        status: `ok`, `warning` (works, but something is missing or unknown), `failed` or `skipped`.
        reason: What is so; for a skipped check, why it was not done.
        advice: What to do about it, with the command if there is one; empty if nothing has to be done.
    """

    name: str
    status: str
    reason: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ValidationReport(Report):
    """The result of a validation.

    Attributes:
        package: The package.
        task: What it was exported for, if it says so.
        files: Its ONNX files, by their path in it.
        checks: The checks, in the order in which they were done.
    """

    package: str
    task: str | None = None
    files: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no check failed; warnings and skipped checks don't count."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == FAILED)

    @property
    def warnings(self) -> tuple[Check, ...]:
        """The checks that ended with a warning."""
        return tuple(check for check in self.checks if check.status == WARNING)

    def __getitem__(self, name: str) -> Check:
        """The check of that name.

        Raises:
            UnknownNameError: It was not asked for.
        """
        return called(name, (((check.name,), self.package, check) for check in self.checks), what="check")

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "path": self.package,
            "task": self.task,
            "ok": self.ok,
            "counts": {status: sum(check.status == status for check in self.checks) for status in STATUSES},
            "checks": [asdict(check) for check in self.checks],
        }


def combine(name: str, findings: Iterable[Finding], *, ok: str) -> Check:
    """The check that findings amount to: as bad as the worst, with the reasons of those; without any, it says `ok`."""
    listed = list(findings)
    worst = max((finding.status for finding in listed), key=_SEVERITY.__getitem__, default=OK)
    chosen = [finding for finding in listed if finding.status == worst]
    reasons = list(dict.fromkeys(finding.reason for finding in chosen if finding.reason))
    if not reasons:
        return Check(name, worst, ok)
    more = f"; and {len(reasons) - _LISTED_PROBLEMS:,} more" if len(reasons) > _LISTED_PROBLEMS else ""
    advice = "; ".join(dict.fromkeys(finding.advice for finding in chosen if finding.advice))
    return Check(name, worst, "; ".join(reasons[:_LISTED_PROBLEMS]) + more, advice)
