"""Reports of other verbs, as they are given to a view: themselves, what they print with `--json`, or a file with that.

A document may come from anywhere. It is read field by field, and has to be of the package that is shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from optimum_htp.errors import HtpError, reason
from optimum_htp.package import read_small

_T = TypeVar("_T")
_MAX_REPORT_BYTES = 500_000_000


class Report(Protocol):
    """A report of another verb."""

    def to_dict(self) -> dict[str, Any]:
        """What the verb prints with `--json`."""


Given: TypeAlias = "str | Path | Mapping[str, Any] | Report"
"""A report, what it prints with `--json`, or a file with that."""

FileOf: TypeAlias = Callable[[str], "str | None"]
"""From what a document calls a file to its path in the package that is shown; None if it is not shown."""


class OfAnother(Exception):
    """A report says something of what is not shown; the message says what."""


def read_given(
    verb: str, given: Given, shown: Mapping[str, str], read: Callable[[Mapping[str, Any], FileOf], _T]
) -> _T:
    """What a function reads from a report, which it is told the files of.

    Raises HtpError if it is not a report of that verb, or of none of the files that are shown, whose fingerprints are given.
    """
    document, where = _document(verb, given)
    again = f"make it again: optimum-cli htp {verb} PKG --json > FILE"
    if verb == "profile" and "left" in document and "right" in document:
        raise HtpError(
            f"{where}: two profiles side by side; give that of one package: optimum-cli htp profile PKG --json"
        )
    try:
        fingerprints = {text(name): text(fingerprint) for name, fingerprint in document["fingerprints"].items()}
        files = _files(fingerprints, shown)
        result = read(document, files.get)
    except OfAnother as error:
        raise HtpError(f"{where}: {error}; {again}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        advice = f"give what this prints: optimum-cli htp {verb} PKG --json"
        raise HtpError(f"{where}: not a report of `{verb}` ({reason(error)}); {advice}") from error
    if not files:
        theirs = f"{document.get('package', 'another package')} ({', '.join(fingerprints)})"
        raise HtpError(f"{where}: it is of another model, {theirs}, or the package was changed since; {again}")
    return result


def _files(fingerprints: Mapping[str, str], shown: Mapping[str, str]) -> dict[str, str]:
    files: dict[str, str] = {}
    for name, fingerprint in fingerprints.items():
        same = [known for known, theirs in shown.items() if theirs == fingerprint]
        if same:  # of several that are the same, the one that is called so
            files[name] = name if name in same else same[0]
    return files


def _document(verb: str, given: Given) -> tuple[Mapping[str, Any], str]:
    """The document of a report, and what to call it in messages."""
    if isinstance(given, Mapping):
        return given, f"the report of {verb}"
    if not isinstance(given, (str, Path)):
        return given.to_dict(), f"the report of {verb}"
    content = read_small(Path(given), _MAX_REPORT_BYTES)
    if content is None:
        raise HtpError(f"{given}: no such file; give what this prints: optimum-cli htp {verb} PKG --json")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise HtpError(f"{given}: not JSON; give what this prints: optimum-cli htp {verb} PKG --json") from error
    if not isinstance(document, dict):
        raise HtpError(f"{given}: not a report of `{verb}`; give what this prints: optimum-cli htp {verb} PKG --json")
    return document, str(given)


def number(value: Any) -> Any:
    """A finite number, as an integer if it is whole. Raises TypeError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise TypeError(f"{value!r:.80} is not a number")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def number_or_none(value: Any) -> Any:
    """As `number`; None stands for what is infinite, or not there."""
    return None if value is None else number(value)


def text(value: Any) -> str:
    """A text. Raises TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is not a text")
    return value
