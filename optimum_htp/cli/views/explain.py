"""What `explain` says of a text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from optimum_htp.cli.views.blocks import Block, Column, Heading, Note, Row, Table
from optimum_htp.onnxfile import element_type

if TYPE_CHECKING:
    from optimum_htp.onnxfile import Value
    from optimum_htp.verbs.explain import Explained, ExplainReport

_FIRST = 10  # names that are shown
_COLUMNS = (Column(""), Column("", exact=True))
_HOW = {
    "part": "something follows the name {name}",
    "projection": "ONNX Runtime's optimizer made it; the module is that of the nodes it was made from",
}


def explain_page(report: ExplainReport) -> Iterator[Block]:
    """The modules, the innermost facts below each, then what to try."""
    if not report.names:
        yield Heading(f"nothing in this text is a name in {report.package}")
    several = len({each.file for each in report.names}) > 1
    for each in report.names[:_FIRST]:
        yield Heading(_title(each, several=several))
        yield Table(_COLUMNS, tuple(_facts(each)))
    if len(report.names) > _FIRST:
        yield Note(f"and {len(report.names) - _FIRST} more (--json)")
    for advice in report.advice:
        yield Heading(advice.problem, (f"try: {advice.advice}",))


def _title(each: Explained, *, several: bool) -> str:
    call = "" if each.call is None else f", call {each.call}"
    where = f", in {each.file}" if several else ""
    if each.tag is None:
        return f"{each.text}: {_article(each)} of no known module{where}"
    return f"{each.path or 'the root'} ({each.class_name}{call}{where})"


def _article(each: Explained) -> str:
    return f"an {each.kind}" if each.kind[0] in "aeiou" else f"a {each.kind}"


def _facts(each: Explained) -> Iterator[Row]:
    yield Row((each.kind, each.text))
    if each.evidence in _HOW:
        yield Row(("found", _HOW[each.evidence].format(name=each.name)))
    if each.operator is not None:
        yield Row(("operator", each.operator))
    if each.node is not None and each.node != each.name:
        yield Row(("node", each.node))
    if each.graph:
        yield Row(("graph", each.graph))
    if each.origins:
        yield Row(("made from", ", ".join(each.origins)))
    for title, values in (("takes", each.inputs), ("gives", each.outputs)):
        for value in values:
            yield Row((title, f"{value.name}{_type(value)}"))
    for name in each.parameters:
        yield Row(("weight", name))


def _type(value: Value) -> str:
    if not value.elem_type:
        return ""
    shape = "?" if value.shape is None else ", ".join("?" if size is None else str(size) for size in value.shape)
    return f": {element_type(value.elem_type).name} [{shape}]"
