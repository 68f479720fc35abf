"""What all reports have in common: as text, as a table in a notebook, and in short.

A report knows nothing of what it looks like. Its view, which is made of it and stands far above, is found by name when it
is asked for, as the command line finds its verbs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any, TypeVar

from optimum_htp.errors import UnknownNameError, unknown_name

_T = TypeVar("_T")

_VIEWS = "optimum_htp.cli.views.notebook"
_SHORT = 80  # characters of a field that are shown as they are


class Brief:
    """A dataclass whose representation says how much is in its fields, and not everything that is."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = (field for field in fields(self) if field.repr)  # type: ignore[arg-type]
        facts = (f"{field.name}={_in_short(getattr(self, field.name))}" for field in shown)
        return f"{type(self).__name__}({', '.join(facts)})"


class Report(Brief):
    """What a verb gives: `print` shows of it what the command prints, a notebook a table."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        raise NotImplementedError

    def __str__(self) -> str:
        text: str = import_module(_VIEWS).text_of(self)
        return text

    def _repr_html_(self) -> str:
        text: str = import_module(_VIEWS).html_of(self)
        return text


def _in_short(value: object) -> str:
    """A value as it is written, if that is short; of many, how many they are."""
    if not isinstance(value, Collection) or isinstance(value, (str, bytes)):
        return repr(value)
    if len(value) <= 3:
        text = repr(value)
        if len(text) <= _SHORT:
            return text
    items: Iterable[object] = value.values() if isinstance(value, Mapping) else value
    kinds = dict.fromkeys(type(item).__name__ for item in items)
    return f"<{len(value):,} {' or '.join(kinds)}>"


def called(name: str, things: Iterable[tuple[Collection[str], str, _T]], *, what: str) -> _T:
    """The thing that a name means, of some that have names and are somewhere.

    Raises UnknownNameError if there is none, or if several are in different places.
    """
    known: list[str] = []
    found: list[tuple[str, _T]] = []
    for names, where, thing in things:
        known += names
        if name in names:
            found.append((where, thing))
    if not found:
        raise unknown_name(name, known, what=what)
    if len(found) > 1:
        raise UnknownNameError(
            f"{what} {name!r} is in each of {', '.join(where for where, _ in found)}: ask one of them"
        )
    return found[0][1]


def numbered(field: str, things: Iterable[_T]) -> Iterator[tuple[str, _T]]:
    """Things with the way to them: `phases[0]`, ..."""
    return ((f"{field}[{number}]", thing) for number, thing in enumerate(things))
