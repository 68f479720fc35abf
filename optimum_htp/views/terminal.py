"""Text for people: whether a terminal is there to show it, and names from files made harmless for it."""

from __future__ import annotations

from typing import TextIO


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


def short_count(number: int) -> str:
    """A count in at most six characters, in thousands (K), millions (M), billions (B) or trillions (T).

    >>> short_count(9_999), short_count(12_345), short_count(109_482_240)
    ('9,999', '12.3K', '109M')
    """
    if number < 10_000:
        return f"{number:,}"
    value, unit = float(number), ""
    for unit in "KMBT":
        value /= 1000
        if value < 999.5:
            break
    return f"{value:.{0 if value >= 99.95 else 1}f}{unit}"
