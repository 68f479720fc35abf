"""Text for people: tables on a terminal or in a pipe, and names from files made harmless."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TextIO, TypeVar


class Report(Protocol):
    """What a verb gives."""

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""


_Report = TypeVar("_Report", bound=Report)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    number: bool = False  # numbers stand on the right
    is_path: bool = False  # of a path the end says more than the beginning
    wraps: bool = False  # what is too long for a narrow terminal goes on in the next line
    spare: int = 0  # a narrow terminal leaves out the columns with the highest first; 0 is never left out


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table; a faint one matters less."""

    cells: tuple[str, ...]
    faint: bool = False


_GAP = 2  # cells between two columns
_NARROWEST = 8  # cells that a column of names keeps on the narrowest terminal
_READABLE = 30  # columns that can be spared are left out before names get narrower than this


def print_report(report: _Report, show: Callable[[_Report], None], *, as_json: bool) -> None:
    """Prints the report of a verb: its document for `--json`, else what `show` prints for people."""
    if as_json:
        print_json(report.to_dict())
    else:
        show(report)


def print_json(document: object) -> None:
    """Prints a document as JSON."""
    print(json.dumps(document, indent=2))


def print_lines(*lines: object) -> None:
    """Prints lines, made `printable`."""
    for line in lines:
        print(printable(str(line)))


def print_table(columns: Sequence[Column], lines: Iterable[Line]) -> None:
    """Prints a table, made `printable`: coloured and cut to the width of a terminal, else plain and at full width."""
    titles = Line(tuple(column.title for column in columns))
    listed = [titles, *(Line(tuple(map(printable, line.cells)), line.faint) for line in lines)]
    if is_terminal(sys.stdout):
        _print_coloured(columns, listed)
        return
    widths = _widths(listed, len)
    for line in listed:
        padded = [
            cell.rjust(width) if column.number else cell.ljust(width)
            for cell, width, column in zip(line.cells, widths, columns, strict=True)
        ]
        print((" " * _GAP).join(padded).rstrip())


def print_heading(title: str, *details: str) -> None:
    """Prints what stands above a table, made `printable`: on a terminal the title bold and the details faint."""
    lines = [(printable(title), "bold"), *((printable(line), "dim") for line in details)]
    if not is_terminal(sys.stdout):
        print(*(line for line, _ in lines), sep="\n")
        return
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for line, style in lines:
        console.print(Text(line, style=style))


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
    """Whether a stream is a terminal."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


@contextmanager
def working(doing: str, what: object) -> Iterator[None]:
    """Shows on a terminal that work is going on (`doing`, such as "Packing", `what`), and for how long."""
    if not is_terminal(sys.stderr):
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    console = Console(stderr=True)
    # Drawn seldom, because what is measured meanwhile shares the machine.
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, refresh_per_second=4) as progress:
        progress.add_task(f"{doing} {printable(str(what))}", total=None)
        yield


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


def _widths(lines: Sequence[Line], length: Callable[[str], int]) -> list[int]:
    """How wide each column is without any cut."""
    return [max(map(length, cells)) for cells in zip(*(line.cells for line in lines), strict=True)]


def _print_coloured(columns: Sequence[Column], lines: Sequence[Line]) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    natural = _widths(lines, cell_len)
    shown = _shown(columns, natural, console.width)
    widths = _fitted([columns[index] for index in shown], [natural[index] for index in shown], console.width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for index, width in zip(shown, widths, strict=True):
        column = columns[index]
        table.add_column(
            column.title,
            justify="right" if column.number else "left",
            overflow="fold" if column.wraps else "ellipsis",
            no_wrap=not column.wraps,
            width=width,
        )
    for line in lines[1:]:
        cells = [
            _end_of(line.cells[index], width) if columns[index].is_path else line.cells[index]
            for index, width in zip(shown, widths, strict=True)
        ]
        table.add_row(*map(Text, cells), style="dim" if line.faint else "")
    console.print(table)
    if len(shown) < len(columns):
        left_out = ", ".join(column.title for index, column in enumerate(columns) if index not in shown)
        console.print(Text(f"this terminal is too narrow for: {left_out}", style="dim"))


def _shown(columns: Sequence[Column], natural: Sequence[int], total: int) -> list[int]:
    """The columns that a terminal has room for: those that can be spared are left out until the others are readable."""
    needed = [
        width if column.number else min(width, _READABLE) for column, width in zip(columns, natural, strict=True)
    ]
    shown = list(range(len(columns)))
    while sum(needed[index] + _GAP for index in shown) - _GAP > total:
        last = max(shown, key=lambda index: columns[index].spare)
        if not columns[last].spare:
            break
        shown.remove(last)
    return shown


def _end_of(text: str, width: int) -> str:
    """The end of a text that is too long, after a sign that there is more."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[1:]
    return f"…{text}"


def _fitted(columns: Sequence[Column], natural: Sequence[int], total: int) -> list[int]:
    """Widths that fit into a terminal: the widest columns of names get narrower, those of numbers never.

    Columns that say the most, whose names are cut at their start or that wrap, stay twice as wide as others.
    """
    widths = [min(width, total) for width in natural]
    shares = [1 + (column.is_path or column.wraps) for column in columns]
    for _ in range(sum(widths) + _GAP * (len(widths) - 1) - total):
        narrowable = [
            index for index, column in enumerate(columns) if not column.number and widths[index] > _NARROWEST
        ]
        if not narrowable:
            break
        widths[max(narrowable, key=lambda index: widths[index] / shares[index])] -= 1
    return widths
