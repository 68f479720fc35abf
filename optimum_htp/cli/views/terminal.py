"""Text for people: tables on a terminal or in a pipe, and names from files made harmless."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TextIO


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: What stands above it.
        number: Whether it holds numbers, which stand on the right.
        is_path: Whether it holds paths, of which the end tells more than the beginning.
        wraps: Whether what is too long for a narrow terminal goes on in the next line.
        spare: The columns with the highest number are the first that a narrow terminal does without; 0 is never left
            out.
    """

    title: str
    number: bool = False
    is_path: bool = False
    wraps: bool = False
    spare: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table; a faint one matters less."""

    cells: tuple[str, ...]
    faint: bool = False


# Cells between two columns, and cells that a column of names keeps on the narrowest terminal.
_GAP = 2
_NARROWEST = 8
_READABLE = 30  # before that, columns that can be spared are left out


def print_table(columns: Sequence[Column], lines: Iterable[Line], stream: TextIO) -> None:
    """Prints a table: coloured and cut to the width of a terminal, else plain and as wide as it takes.

    Args:
        columns: Its columns.
        lines: Its lines, with a cell for each column, made `printable`.
        stream: Where to print.
    """
    if is_terminal(stream):
        _print_coloured(columns, lines, stream)
    else:
        listed = [Line(tuple(column.title for column in columns)), *lines]
        stream.writelines(f"{line}\n" for line in _aligned(columns, listed))


def print_heading(title: str, details: Iterable[str], stream: TextIO) -> None:
    """Prints what stands above a table, made `printable`: on a terminal the title bold and the details faint."""
    if not is_terminal(stream):
        stream.writelines(f"{line}\n" for line in (title, *details))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream)
    console.print(Text(title, style="bold"))
    for line in details:
        console.print(Text(line, style="dim"))


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


def print_json(document: object, stream: TextIO | None = None) -> None:
    """Prints a document as JSON, as `--json` of every verb does.

    Args:
        document: What `to_dict` of a report gives.
        stream: Where to print; None means standard output.
    """
    print(json.dumps(document, indent=2), file=stream or sys.stdout)


@contextmanager
def working(text: str) -> Iterator[None]:
    """Shows on a terminal that work is going on, and for how long; quiet in a pipe.

    Args:
        text: What is done, safe to print.
    """
    if not is_terminal(sys.stderr):
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    console = Console(stderr=True)
    # Drawn seldom, because what is measured meanwhile shares the machine.
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, refresh_per_second=4) as progress:
        progress.add_task(text, total=None)
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


def _aligned(columns: Sequence[Column], lines: Sequence[Line]) -> Iterable[str]:
    widths = [max(len(line.cells[position]) for line in lines) for position in range(len(columns))]
    for line in lines:
        padded = [
            cell.rjust(width) if column.number else cell.ljust(width)
            for cell, width, column in zip(line.cells, widths, columns, strict=True)
        ]
        yield (" " * _GAP).join(padded).rstrip()


def _print_coloured(columns: Sequence[Column], lines: Iterable[Line], stream: TextIO) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream)
    listed = [Line(tuple(column.title for column in columns)), *lines]
    natural = [max(cell_len(line.cells[position]) for line in listed) for position in range(len(columns))]
    shown = _shown(columns, natural, console.width)
    widths = _fitted([columns[at] for at in shown], [natural[at] for at in shown], console.width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for at, width in zip(shown, widths, strict=True):
        column = columns[at]
        justify: Literal["left", "right"] = "right" if column.number else "left"
        overflow: Literal["fold", "ellipsis"] = "fold" if column.wraps else "ellipsis"
        table.add_column(column.title, justify=justify, overflow=overflow, no_wrap=not column.wraps, width=width)
    for line in listed[1:]:
        cells = [
            _end_of(line.cells[at], width) if columns[at].is_path else line.cells[at]
            for at, width in zip(shown, widths, strict=True)
        ]
        table.add_row(*map(Text, cells), style="dim" if line.faint else "")
    console.print(table)
    if len(shown) < len(columns):
        left_out = ", ".join(column.title for at, column in enumerate(columns) if at not in shown)
        console.print(Text(f"this terminal is too narrow for: {left_out}", style="dim"))


def _shown(columns: Sequence[Column], natural: Sequence[int], total: int) -> list[int]:
    """The columns that a terminal has room for: those that can be spared make it for what is left of names."""
    shown = list(range(len(columns)))

    def needed() -> int:
        widths = (natural[at] if columns[at].number else min(natural[at], _READABLE) for at in shown)
        return sum(widths) + _GAP * (len(shown) - 1)

    while needed() > total and any(columns[at].spare for at in shown):
        shown.remove(max(shown, key=lambda at: columns[at].spare))
    return shown


def _end_of(text: str, width: int) -> str:
    """The end of a text that is too long, after what shows that there is more."""
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
    names = [position for position, column in enumerate(columns) if not column.number]
    shares = [1 + (column.is_path or column.wraps) for column in columns]
    for _ in range(sum(widths) + _GAP * (len(widths) - 1) - total):
        narrowable = [position for position in names if widths[position] > _NARROWEST]
        if not narrowable:
            break
        widths[max(narrowable, key=lambda position: widths[position] / shares[position])] -= 1
    return widths
