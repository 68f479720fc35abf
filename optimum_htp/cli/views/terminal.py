"""Prints reports: pages and JSON on a terminal or in a pipe, and what goes on meanwhile.

On a terminal there are colours, bars and the lines of trees, within its width; `NO_COLOR`, `COLUMNS` and `TERM=dumb` are
respected. In a pipe there is plain text, with nothing cut.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, TypeVar

from optimum_htp.cli.views.blocks import Block, Heading, Note, Page, printable
from optimum_htp.cli.views.fitting import Look, Segments, fitted, wrapped
from optimum_htp.collecting import no_collecting
from optimum_htp.reports import Report

if TYPE_CHECKING:
    from rich.console import Console

_Report = TypeVar("_Report", bound=Report)

_STYLES = {
    "title": "bold",
    "faint": "dim",
    "bar": "cyan",
    "good": "green",
    "warning": "yellow",
    "bad": "bold red",
}
_WIDTH = 80  # where a terminal doesn't say


@no_collecting()
def print_report(report: _Report, page: Callable[[_Report], Page], *, as_json: bool) -> None:
    """Prints the report of a verb: its document for `--json`, else its page, for people."""
    if as_json:
        print_json(report.to_dict())
    else:
        print_page(page(report))


def print_json(document: object) -> None:
    """Prints a document as JSON."""
    print(json.dumps(document, indent=2))


def print_lines(*lines: object) -> None:
    """Prints lines, made `printable`."""
    for line in lines:
        print(printable(str(line)))


def print_page(page: Page) -> None:
    """Prints a page, made `printable`: fitted to a terminal, else plain and at full width."""
    unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    if not is_terminal(sys.stdout):
        for line in page_lines(page, Look(unicode=unicode)):
            print("".join(text for text, _ in line).rstrip())
        return
    from rich.text import Text

    console = _console()
    drawn = unicode and not console.is_dumb_terminal
    look = Look(width=console.width, drawn=drawn, unicode=unicode, measure=_cells)
    for line in page_lines(page, look):
        text = Text.assemble(*((part, _STYLES.get(style, "")) for part, style in line))
        text.rstrip()
        console.print(text, soft_wrap=True)


def page_lines(page: Page, look: Look, elsewhere: str = "a pipe has them") -> Iterator[Segments]:
    """The lines of a page: an empty one before each heading and table. `elsewhere` is where columns are that are left out."""
    above: Block | None = None
    for block in page:
        if above is not None and not isinstance(block, Note):
            yield []
        above = block
        if isinstance(block, Note):
            yield from _words(block.text, "", look, exact=block.exact)
        elif isinstance(block, Heading):
            yield from _words(block.title, "title", look)
            for detail in block.details:
                yield from _words(detail, "faint", look)
        else:
            lines, left_out = fitted(block, look)
            yield from lines
            if left_out:
                yield from _words(f"not shown, for want of room: {', '.join(left_out)} ({elsewhere})", "faint", look)


def _words(text: str, style: str, look: Look, *, exact: bool = False) -> Iterable[Segments]:
    text = printable(text)
    lines = [text] if exact or look.width is None else wrapped(text, look.width, look.measure)
    return [[(line, style)] for line in lines]


def _cells(text: str) -> int:
    """How many cells a terminal gives to a text."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _console(*, stderr: bool = False) -> Console:
    """The terminal, as rich finds it; `COLUMNS=0` says nothing of its width."""
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.width > 0 else Console(stderr=stderr, width=_WIDTH)


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


@contextmanager
def working(doing: str, what: object) -> Iterator[None]:
    """Shows on a terminal that work is going on (`doing`, such as "Packing", `what`), and for how long.

    The clock comes first: of a path that is too long, the beginning is left out.
    """
    if not is_terminal(sys.stderr):
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    console = _console(stderr=True)
    text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    # Drawn seldom, because what is measured meanwhile shares the machine.
    with Progress(
        SpinnerColumn(),
        TimeElapsedColumn(),
        text,
        console=console,
        transient=True,
        redirect_stdout=False,
        refresh_per_second=4,
    ) as progress:
        progress.add_task(f"{doing} {_end_of(printable(str(what)), console.width - len(doing) - 14)}", total=None)
        yield


def _end_of(path: str, width: int) -> str:
    """The end of a path that is too long, after a sign that there is more."""
    if _cells(path) <= width:
        return path
    while path and _cells(path) > max(width, 8) - 1:
        path = path[1:]
    return f"…{path}"
