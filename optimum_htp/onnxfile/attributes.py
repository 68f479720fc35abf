"""Find the graphs and the tensors in a node's attributes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.limits import CACHED, MAX_BODY_NAME_BYTES, MAX_LISTED
from optimum_htp.onnxfile.wire import Data, WireError, decode_text, fields

Field: TypeAlias = tuple[int, int, int, int]
Body: TypeAlias = tuple[str, Field]


_SHORT_ATTRIBUTE_BYTES = 128

# Elements of lists: `floats`, `ints` and `strings` that stand singly, as they do in files of old writers.
_FLOAT, _INT = schema.ATTRIBUTE_FLOATS & ~7 | 5, schema.ATTRIBUTE_INTS & ~7
_TEXTS = b"|".join(rb"%c.{%d}" % (length, length) for length in range(8))
_ELEMENTS = re.compile(
    rb"(?:%s.{4}|%s[\x80-\xff]{0,8}[\x00-\x7f]|%s(?:%s)){1,500}"
    % (*(re.escape(bytes((tag,))) for tag in (_FLOAT, _INT, schema.ATTRIBUTE_STRINGS)), _TEXTS),
    re.DOTALL,
)
_LISTED = frozenset((_FLOAT, _INT, schema.ATTRIBUTE_STRINGS))


def scan_attribute(data: Data, start: int, end: int, plain: set[bytes]) -> tuple[list[Body], list[Field]] | None:
    """Returns the bodies and the tensors in an attribute; None where it has neither, as most, which `plain` collects."""
    short = data[start:end] if end - start <= _SHORT_ATTRIBUTE_BYTES else b""
    if short in plain:
        return None
    name_span = (start, start)
    graphs: list[Field] = []
    tensors: list[Field] = []
    for field in fields(data, start, end) if short else _besides_elements(data, start, end):
        tag = field[0]
        if tag == schema.ATTRIBUTE_NAME:
            name_span = field[2:]
        elif tag in schema.ATTRIBUTE_GRAPH_TAGS:
            graphs.append(field)
        elif tag in schema.ATTRIBUTE_TENSOR_TAGS:
            tensors.append(field)
        if len(graphs) + len(tensors) > MAX_LISTED:
            raise WireError(f"an attribute has more than {MAX_LISTED:,} graphs and tensors", field[1])
    if not graphs and not tensors:
        if short and len(plain) < CACHED:
            plain.add(short)
        return None
    if not graphs:
        return [], tensors
    name = path_name(data, *name_span, MAX_BODY_NAME_BYTES)
    if not name or not name.isprintable() or "/" in name:
        raise WireError(f"{name!r} cannot be the name of an attribute with a graph", name_span[0])
    lists = [field for field in graphs if field[0] == schema.ATTRIBUTE_GRAPHS]
    single = [field for field in graphs if field[0] == schema.ATTRIBUTE_G]
    if len(single) > 1:
        raise WireError(f"the attribute {name!r} has its graph twice", single[1][1])
    bodies = [(name, field) for field in single]
    bodies.extend((f"{name}[{index}]", field) for index, field in enumerate(lists))
    return sorted(bodies, key=lambda body: body[1][1]), tensors


def _besides_elements(data: Data, start: int, end: int) -> Iterator[Field]:
    """The fields of a long attribute, without most of those that are one number or a short text of a list each.

    There may be millions, which is quicker this way.
    """
    while start < end:
        while elements := _ELEMENTS.match(data, start, end):
            start = elements.end()
        for field in fields(data, start, end):
            yield field
            start = field[3]
            if start < end and data[start] in _LISTED:
                break


def path_name(data: Data, first: int, stop: int, longest_bytes: int) -> str:
    """Returns a name that becomes a part of graph paths, if it has at most `longest_bytes`."""
    if stop - first > longest_bytes:
        raise WireError(f"a function or attribute has a name of {stop - first} bytes", first)
    return decode_text(data[first:stop])
