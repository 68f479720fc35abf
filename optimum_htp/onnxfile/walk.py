"""Rewrite parts of nested messages, wherever they are: one walk over the fields that lead to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from optimum_htp.onnxfile.limits import MAX_MESSAGE_DEPTH
from optimum_htp.onnxfile.splice import Splice
from optimum_htp.onnxfile.wire import Data, WireError, fields, release_pages


Change: TypeAlias = Callable[[int, int], Splice | None]
"""Gives the new content of a payload by its start and end; None to keep it."""


class Walk:
    """Describes the message that one becomes when parts of it change.

    Args:
        data: The file.
        leads: By kind of message, the fields to go into (by their tags), and the kind of message in them.
        changes: How the payloads of some kinds change; these are not gone into.
    """

    def __init__(self, data: Data, leads: Mapping[str, Mapping[int, str]], changes: Mapping[str, Change]) -> None:
        self.data = data
        self.leads = leads
        self.changes = changes
        self.released = 0

    def message(self, kind: str, start: int, end: int, depth: int = 0) -> Splice | None:
        """Returns the new content of the message in `data[start:end]`, None where it stays the same.

        Raises:
            WireError: It is not a valid message.
        """
        if depth > MAX_MESSAGE_DEPTH:
            raise WireError(f"messages nested deeper than {MAX_MESSAGE_DEPTH}", start)
        if kind in self.changes:
            return self.changes[kind](start, end)
        leads = self.leads[kind]
        splice = Splice(start)
        for tag, at, first, stop in fields(self.data, start, end):
            if tag in leads:
                splice.replace(tag, (at, first, stop), self.message(leads[tag], first, stop, depth + 1))
            if kind == "graph":
                self.released = release_pages(self.data, stop, self.released)
        return splice.finish(end)
