"""Fits a table into a width, by rules that hold for every table.

- the first column, and others that are `exact`, are never shortened: what is too long for them goes on in the next line,
  behind a dot or a slash;
- numbers are never broken, words wrap between words;
- where that needs more room than there is, columns that can be spared are left out, and named below the table;
- in a pipe there is no width: nothing wraps, and nothing is left out; bars and lines of a tree are for terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from optimum_htp.cli.views.blocks import Cell, Column, Row, Table, printable

Segments = list[tuple[str, str]]
"""A line of text in parts, each with its style: one of a row, `"title"`, `"bar"` or none."""

_GAP = "  "
_READABLE = 24  # cells that words get before columns are left out for them
_TIGHT = 16  # cells that are enough for words where names are whole then
_NARROWEST = 20  # cells of the narrowest terminal that anything is fitted to
_NAMES = 0.6  # of the width is for the first column, before others are left out for it
_BREAKS = "./_:"  # names go on in the next line behind one of these
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Look:
    """What is drawn on.

    Attributes:
        width: In cells; None for no limit, as in a pipe.
        drawn: Whether there are bars and the lines of trees.
        unicode: Whether there are other signs than those of ASCII.
        measure: How many cells a text takes.
    """

    width: int | None = None
    drawn: bool = False
    unicode: bool = True
    measure: Callable[[str], int] = len


class _Text(NamedTuple):
    """A cell: what stands in front of it, in a tree, and what goes on below that."""

    text: str
    lead: str = ""
    below: str = ""


@dataclass(frozen=True, slots=True)
class _Size:
    """How wide a column is if nothing in it wraps, and its longest word."""

    whole: int
    word: int


def fitted(table: Table, look: Look) -> tuple[Iterator[Segments], list[str]]:
    """The lines of a table, made when they are asked for, and the titles of the columns that were left out."""
    columns = [replace(table.columns[0], exact=True), *table.columns[1:]]
    titles = [_Text(column.title if look.unicode else column.title.replace("±", "+-")) for column in columns]
    guides = _guides(table.rows, look)

    def cells() -> Iterator[list[_Text]]:  # once to measure them, and once to show them: they are not kept
        return (_cells(row, guide, look) for row, guide in zip(table.rows, guides, strict=True))

    sizes = _sizes(chain([titles], cells()), look)
    shown, bar = _shown(columns, sizes, look)
    widths = _widths(columns, sizes, shown, bar, look)
    marked = any(column.marked for column in columns)

    def lines(texts: Sequence[_Text], style: str, shares: Sequence[Cell]) -> Iterator[Segments]:
        styles = [style if column.marked or style == "title" or not marked else "" for column in columns]
        line: Segments = []
        for index in shown:  # as most rows are: each cell fits into one line
            text = _padded(texts[index], columns[index], widths[index], look)
            if text is None or bar:
                break
            line += [(_GAP, ""), (text, styles[index])]
        else:
            yield line[1:]
            return
        blocks = [_block(texts[index], columns[index], widths[index], look, styles[index]) for index in shown]
        if bar:
            for place, index in enumerate(shown):
                if columns[index].bar:
                    blocks[place][0].append((f" {_bar(shares[index], bar)}".ljust(bar + 1), "bar"))
        for number in range(max(map(len, blocks))):
            line = []
            for block in blocks:
                blank: Segments = [(" " * sum(look.measure(text) for text, _ in block[0]), "")]
                line += [(_GAP, ""), *(block[number] if number < len(block) else blank)]
            yield line[1:]

    def found() -> Iterator[Segments]:
        if any(title.text for title in titles):
            yield from lines(titles, "title", [""] * len(columns))
        for row, texts in zip(table.rows, cells(), strict=True):
            yield from lines(texts, row.style, row.cells)

    return found(), [title.text for index, title in enumerate(titles) if index not in shown]


def _sizes(rows: Iterable[Sequence[_Text]], look: Look) -> list[_Size]:
    wholes: list[int] = []
    words: list[int] = []
    for row in rows:
        wholes += [0] * (len(row) - len(wholes))
        words += [0] * (len(row) - len(words))
        for index, cell in enumerate(row):
            size = look.measure(cell.lead) + look.measure(cell.text)
            if size > wholes[index]:
                wholes[index] = size
            if look.width is not None and size > words[index]:
                words[index] = max(words[index], *map(look.measure, cell.text.split()), 0)
    return list(map(_Size, wholes, words))


def wrapped(text: str, width: int, measure: Callable[[str], int] = len, *, of: str = "words") -> list[str]:
    """A text in lines that are no wider: of `"words"`, of `"items"` with commas between them, or of the parts of a `"name"`.

    Where none of these ends, a line ends behind a sign, or anywhere; but words stay whole, for paths to be copied, and a
    longer one has a line of its own. A name goes on a little to the right.

    >>> wrapped("encoder.layer.10.attention", 14, of="name")
    ['encoder.layer.', '  10.attention']
    """
    lines: list[str] = []
    start, indent = 0, ""
    while (fits := _fitting(text, start, width - len(indent), measure)) < len(text) - start:
        cut = _cut(text[start : start + fits + 1], fits, of)
        if of == "words" and cut == fits:
            space = text.find(" ", start + fits)
            cut = (space if space >= 0 else len(text)) - start
        lines.append(indent + text[start : start + cut].rstrip())
        start, indent = start + cut, " " * min(2 * (of == "name"), width // 2)
        while start < len(text) and text[start] == " ":
            start += 1
    return [*lines, indent + text[start:]] if start < len(text) or not lines else lines


def _fitting(text: str, start: int, room: int, measure: Callable[[str], int]) -> int:
    """How many characters of a text fit, where some take two cells or none; at least one."""
    if measure is len:
        return max(min(room, len(text) - start), 1)
    used = 0
    for end in range(start, len(text)):
        used += measure(text[end])
        if used > room:
            return max(end - start, 1)
    return len(text) - start


def _cut(text: str, end: int, of: str) -> int:
    space, comma = text.rfind(" ", 1, end + 1), text.rfind(", ", 1, end) + 1
    sign = max(text.rfind(sign, 0, end) for sign in _BREAKS) + 1
    sign = sign if sign > end // 2 else 0
    if of == "name":
        glued = text[space + 1 : space + 2] in ("×", "x")  # how many a row stands for
        return max(sign, 0 if glued else space) or (space if space > 0 else end)
    if of == "items" and comma > end // 3:
        return comma
    if of == "words":
        return space if space > 0 else end
    return space if space > 0 else sign or end


def _cells(row: Row, guides: tuple[str, str], look: Look) -> list[_Text]:
    texts = [_Text(printable(cell) if isinstance(cell, str) else f"{cell:.1%}") for cell in row.cells]
    times = f" {'×' if look.unicode else 'x'}{row.count}" if row.count > 1 else ""
    return [_Text(texts[0].text + times, *guides), *texts[1:]]


def _guides(rows: Sequence[Row], look: Look) -> list[tuple[str, str]]:
    """For each row what stands in front of it, and in front of what goes on below it."""
    if not look.drawn:
        return [("  " * (row.depth + row.leaf) + "- " * row.leaf, "  " * (row.depth + 2 * row.leaf)) for row in rows]
    guides: list[tuple[str, str]] = []
    follows: list[bool] = []  # for each depth, from the bottom up: whether another row follows below the same parent
    for row in reversed(rows):
        follows += [False] * (row.depth + 2 - len(follows))
        bars = ["│  " if more else "   " for more in follows]
        if row.leaf:
            inner = "".join(bars[1 : row.depth + 2])
            guides.append((f"{inner}- ", f"{inner}  "))
            continue
        above = "".join(bars[1 : row.depth])
        own = ("├─ " if follows[row.depth] else "└─ ") if row.depth else ""
        guides.append((above + own, above + bars[row.depth] if row.depth else ""))
        follows[row.depth :] = [True]
    return guides[::-1]


def _bar(cell: Cell, width: int) -> str:
    """A share as a bar, in eighths of a cell."""
    if isinstance(cell, str):
        return ""
    eighths = round(min(max(cell, 0.0), 1.0) * width * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _shown(columns: Sequence[Column], sizes: Sequence[_Size], look: Look) -> tuple[list[int], int]:
    """The columns that there is room for, and how wide bars are."""
    shown = list(range(len(columns)))
    if look.width is None:
        return shown, 0
    width = max(look.width, _NARROWEST)
    needed, least = [], []
    for column, size in zip(columns, sizes, strict=True):
        broken = not (column.number or column.bar)
        wanted = max(int(width * _NAMES), _READABLE) if column.exact else _READABLE
        needed.append(min(size.whole, wanted) if broken else size.whole)
        least.append(min(size.whole, _NARROWEST if column.exact else _NARROWEST // 2) if broken else size.whole)

    def room() -> int:
        return width - sum(needed[index] + len(_GAP) for index in shown) + len(_GAP)

    bars = sum(column.bar for column in columns) if look.drawn else 0
    bar = (20 if width >= 120 else 10) if bars else 0
    while room() < bars * (bar + 1) and (most := max(columns[index].spare for index in shown)):
        shown = [index for index in shown if columns[index].spare != most]
    if room() < bars * (bar + 1):
        bar = 0
    while len(shown) > 1 and sum(least[index] + len(_GAP) for index in shown) - len(_GAP) > width:
        shown.pop()
    return shown, bar


def _widths(
    columns: Sequence[Column], sizes: Sequence[_Size], shown: Sequence[int], bar: int, look: Look
) -> dict[int, int]:
    """How wide each column is: as wide as it takes, or where that is too much in all, names before words."""
    widths = {index: sizes[index].whole for index in shown}
    if look.width is None:
        return widths
    fixed = [index for index in shown if columns[index].number or columns[index].bar]
    room = max(look.width, _NARROWEST) - len(_GAP) * (len(shown) - 1)
    room -= sum(widths[index] + (bar + 1 if columns[index].bar and bar else 0) for index in fixed)
    names = [index for index in shown if index not in fixed and columns[index].exact]
    words = [index for index in shown if index not in fixed and index not in names]
    loose, tight = (
        sum(min(sizes[index].whole, max(least, sizes[index].word if least < _READABLE else 0)) for index in words)
        for least in (_READABLE, _TIGHT)
    )
    needed = sum(widths[index] for index in names)
    least = tight if loose + needed > room >= tight + needed else min(loose, room // 2)
    for group in (names, words):
        left = room - (least if group is names else sum(widths[index] for index in names))
        most = max(left, 1)  # for the widest: as much as there is for all of them
        while most > 1 and sum(min(widths[index], most) for index in group) > left:
            most -= 1
        widths.update({index: min(widths[index], most) for index in group})
    return widths


def _padded(cell: _Text, column: Column, width: int, look: Look) -> str | None:
    """A cell as wide as its column; None if it does not fit into one line."""
    line = cell.lead + cell.text
    missing = width - look.measure(line)
    if missing < 0:
        return None
    return " " * missing + line if column.number or column.bar else line + " " * missing


def _block(cell: _Text, column: Column, width: int, look: Look, style: str) -> list[Segments]:
    """The lines of a cell, each as wide as its column."""
    lead, below = cell.lead, cell.below
    whole = _padded(cell, column, width, look)
    if whole is not None:
        return [[(whole, style)]]
    if look.width is not None and look.measure(lead) > width // 2:  # a tree that is deeper than the terminal is wide
        lead, below = lead[-(width // 2) :], below[-(width // 2) :]
    room = width - look.measure(lead)
    first, *others = wrapped(cell.text, max(room, 1), look.measure, of="name" if column.exact else "items")
    lines = [lead + first, *(below.ljust(len(lead)) + other for other in others)]
    return [[(line + " " * (width - look.measure(line)), style)] for line in lines]
