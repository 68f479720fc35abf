"""What `functions` says when it is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from optimum_htp.cli.views.blocks import Block, Column, Heading, Row, Table
from optimum_htp.cli.views.folding import fold, ranges

if TYPE_CHECKING:
    from optimum_htp.verbs.functions import FunctionCall, FunctionsReport, ModuleFunction, NoFunction

_COLUMNS = (
    Column("function"),
    Column("calls", number=True),
    Column("nodes", number=True),
    Column("inputs", number=True, spare=1),
    Column("outputs", number=True, spare=2),
    Column("modules"),
    Column("domain", spare=4),
    Column("file", spare=3),
)
_MOST_NAMES, _MOST_REASONS = 4, 5


def functions_page(report: FunctionsReport) -> Iterator[Block]:
    """The functions, who calls them, and whose nodes stay."""
    count, calls = len(report.functions), sum(len(each.calls) for each in report.functions)
    made = f"{count} function{'' if count == 1 else 's'}, called {calls} times"
    details = [f"from {report.package}: {report.nodes_before:,} nodes are {report.nodes:,}"]
    given = sum(each.constants for each in report.functions)
    if given:
        what = "1 constant is" if given == 1 else f"{given} constants are"
        details.append(f"{what} not the same in all calls, and given to the functions")
    reasons: dict[str, list[NoFunction]] = {}
    for each in report.left_out:
        reasons.setdefault(each.reason, []).append(each)
    for reason, members in list(reasons.items())[:_MOST_REASONS]:
        details.append(f"not {_names(members)}: {reason}")
    if len(reasons) > _MOST_REASONS:
        left = sum(map(len, list(reasons.values())[_MOST_REASONS:]))
        details.append(f"nor {left} more (--json has all)")
    yield Heading(f"Wrote {report.output} with {made}", tuple(details))
    several = len({each.file for each in report.functions}) > 1
    rows = map(_row, report.functions)
    yield Table(_COLUMNS, tuple(rows)) if several else Table(_COLUMNS[:-1], tuple(Row(row.cells[:-1]) for row in rows))


def _row(function: ModuleFunction) -> Row:
    counts = (len(function.calls), function.nodes, function.inputs, function.outputs)
    return Row(
        (function.name, *(f"{count:,}" for count in counts), _names(function.calls), function.domain, function.file)
    )


def _names(calls: Iterable[NoFunction | FunctionCall]) -> str:
    """The modules of calls as patterns, with ranges for numbers in which they differ: `encoder.layer.0-11`, `layer@0-2`."""
    by_path: dict[str, dict[int, None]] = {}
    for each in calls:
        own = by_path.setdefault(each.path or each.module, {})
        if each.call is not None:
            own[each.call] = None
    folded = fold(by_path, name=str, like=lambda path: tuple(by_path[path]))
    names = [each.name + (f"@{ranges(by_path[each.first])}" if by_path[each.first] else "") for each in folded]
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
