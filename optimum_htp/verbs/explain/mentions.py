"""Which names of a package stand in a text.

Names are looked for as they are, the longest first. Where none is there, what tools add to names is left out: a name that
something follows after `_` or `/` (`…/MatMul_quant`, `…/Add_output_0_QuantizeLinear`, `MatMul_kernel_time`). A name of fewer
than four characters counts only where it stands in quotation marks or alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

_SHORT = 4
_LEFT = re.compile(r"[\w./:\-]\Z")
_RIGHT = re.compile(r"[\w/\-]|[.:][\w:]")
BY_TOOLS = re.compile(r"[_/][\w/.:\-]*")
PARAMETER = re.compile(r"\.\w+")
_QUOTES = "'\"`\u2018\u2019\u201c\u201d"


@dataclass(frozen=True, slots=True)
class Mention:
    """A name in a text."""

    start: int
    stop: int
    text: str  # with what a tool added
    name: str
    exact: bool


def mentions(text: str, names: Collection[str], *, added: re.Pattern[str] = BY_TOOLS) -> list[Mention]:
    """The names that stand in a text, in its order; if there is none, those with something `added`, mostly by tools.

    >>> [each.name for each in mentions("while running MatMul node. Name:'/a/MatMul'", {"/a/MatMul", "/a", "MatMul"})]
    ['MatMul', '/a/MatMul']
    """
    present = sorted((name for name in names if name and name in text), key=len, reverse=True)
    found = _longest(_exact(text, present))
    return found or _longest(_parts(text, present, added))


def _exact(text: str, names: Iterable[str]) -> Iterable[Mention]:
    for name in names:
        for start in _places(text, name):
            stop = start + len(name)
            if _LEFT.search(text[:start][-1:]) or _RIGHT.match(text, stop):
                continue
            quoted = text[:start][-1:] in _QUOTES and text[stop : stop + 1] in _QUOTES and start > 0
            if len(name) >= _SHORT or quoted or text.strip() == name:
                yield Mention(start, stop, name, name, exact=True)


def _parts(text: str, names: Iterable[str], pattern: re.Pattern[str]) -> Iterable[Mention]:
    for name in names:
        for start in _places(text, name) if len(name) >= _SHORT else ():
            added = pattern.match(text, start + len(name))
            if added is not None and not _LEFT.search(text[:start][-1:]):
                yield Mention(start, added.end(), text[start : added.end()], name, exact=False)


def _places(text: str, name: str) -> Iterable[int]:
    start = text.find(name)
    while start >= 0:
        yield start
        start = text.find(name, start + 1)


def _longest(found: Iterable[Mention]) -> list[Mention]:
    """Mentions that don't overlap, of each the one that came first; each name once."""
    kept: list[Mention] = []
    for mention in found:
        if all(mention.stop <= other.start or other.stop <= mention.start for other in kept):
            kept.append(mention)
    by_name: dict[tuple[str, str], Mention] = {}
    for mention in sorted(kept, key=lambda each: each.start):
        by_name.setdefault((mention.name, mention.text), mention)
    return list(by_name.values())
