"""Rewrite parts of nested messages, wherever they are: one walk over the fields that lead to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from optimum_htp.onnxfile.headers import Headers, Place
from optimum_htp.onnxfile.limits import MAX_MESSAGE_DEPTH
from optimum_htp.onnxfile.splice import Splice
from optimum_htp.onnxfile.wire import Data, WireError, fields, release_pages

Change: TypeAlias = Callable[[int, int], Splice | None]
"""Gives the new content of a payload by its start and end; None to keep it."""


def rewrite_message(
    data: Data,
    leads: Mapping[str, Mapping[int, str]],
    changes: Mapping[str, Change],
    *,
    kind: str = "model",
    span: tuple[int, int] | None = None,
) -> Splice | None:
    """The message in a span, by default the whole file, when parts of it change; None where it stays the same.

    `leads` has by kind of message the fields to go into (by tag) and the kind of message in them; `changes` says how
    the payloads of some kinds change, which are not gone into. Raises WireError.
    """
    released = 0
    headers = Headers(data, part=span is not None)

    def message(kind: str, start: int, end: int, place: Place) -> Splice | None:
        nonlocal released
        if len(place) > MAX_MESSAGE_DEPTH:
            raise WireError(f"messages nested deeper than {MAX_MESSAGE_DEPTH}", start)
        if kind in changes:
            return changes[kind](start, end)
        splice = Splice(start)
        for index, (tag, at, first, stop) in enumerate(fields(data, start, end)):
            if tag in leads[kind]:
                inner = (*place, index)
                headers.replace(splice, (at, first, stop), message(leads[kind][tag], first, stop, inner), inner)
            elif not place and headers.is_record(at):
                splice.cut(at, stop)
            if kind == "graph":
                released = release_pages(data, stop, released)
        return splice.finish(end, b"" if place else headers.record())

    return message(kind, *(span or (0, len(data))), ())
