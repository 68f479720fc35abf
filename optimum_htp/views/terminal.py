"""Where views print: a terminal, a pipe or a file, and text from files made harmless for it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO


if TYPE_CHECKING:
    from rich.console import Console


def printable(text: str) -> str:
    r"""Escapes what a terminal could take for a command, or what turns the direction of writing: names come from files.

    >>> printable("layer\x1b[2J")
    'layer\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii") for char in text
    )


def is_terminal(stream: TextIO) -> bool:
    """Whether a person watches a stream."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def console(stream: TextIO | None = None) -> Console:
    """A rich console that prints what it is given: no markup, no emoji codes, no highlighting.

    A reader that goes away is an ordinary `BrokenPipeError`, where rich would end the process.
    """
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704 (rich calls this from its `except BrokenPipeError`)

    return PlainConsole(file=stream or sys.stdout, markup=False, emoji=False, highlight=False)
