"""What reports look like, whoever shows them: headings, notes and tables, without a word on terminals or HTML.

A view makes a page of a report; `terminal` prints it, `notebook` makes text and HTML of it. What all tables have in common
is true here and in `fitting`, and in no view.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Cell: TypeAlias = str | float
"""Text; or a share of 1, in a column of bars."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. Its unit is in its title."""

    title: str
    number: bool = False  # stands on the right, and is never broken
    exact: bool = (
        False  # names that answer what was asked: they wrap where they are too long, as the first column's do
    )
    bar: bool = False  # shares: a number, and on a terminal a bar beside it
    marked: bool = False  # the style of a row is for this column alone
    spare: int = 0  # a narrow terminal leaves out those with the highest first, together; 0 is left out last of all


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        cells: One for each column.
        depth: In a tree, how many rows it is below.
        leaf: Whether it lists something of the row above, as its nodes, and is no branch of the tree.
        count: How many it stands for.
        style: `""`, `"faint"` (it matters less), `"good"`, `"warning"` or `"bad"`.
    """

    cells: tuple[Cell, ...]
    depth: int = 0
    leaf: bool = False
    count: int = 1
    style: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table, whose first column has the answer; without titles where no column has one."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands above a table: the point, and details that matter less."""

    title: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """A line right below what is above it; one that is `exact` is there to be copied, and never broken."""

    text: str
    exact: bool = False


Block: TypeAlias = Heading | Table | Note
Page: TypeAlias = Iterable[Block]


def heading(lines: Iterable[str]) -> Heading:
    """A heading of lines, the point first."""
    title, *details = lines
    return Heading(title, tuple(details))


def notes(lines: Iterable[str], *, exact: bool = False) -> Sequence[Note]:
    """A note for each line."""
    return [Note(line, exact) for line in lines]


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


def short_count(number: int) -> str:
    """A count in at most six characters, in thousands (K), millions (M), billions (B) or trillions (T).

    >>> short_count(9_999), short_count(12_345), short_count(109_482_240)
    ('9,999', '12.3K', '109M')
    """
    if number < 10_000:
        return f"{number:,}"
    value, unit = float(number), ""
    for unit in "KMBT":  # noqa: B007 (the unit that is left is the one to use)
        value /= 1000
        if value < 999.5:
            break
    return f"{value:.{0 if value >= 99.95 else 1}f}{unit}"
