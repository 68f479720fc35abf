"""What the attributes of nodes say, in whichever of ONNX's ways it is written: whether two say the same, and a text of it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence

from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.stored_values import (
    SHOWN,
    Content,
    Outside,
    list_text,
    number_text,
    packed_numbers,
    tensor_content,
)
from optimum_htp.onnxfile.types import element_type
from optimum_htp.onnxfile.wire import Data, WireError, fields, last_fields, signed

# What AttributeProto.AttributeType calls the kinds of values, by the tag of the field that has them.
_KINDS = {
    schema.ATTRIBUTE_F: "float",
    schema.ATTRIBUTE_I: "int",
    schema.ATTRIBUTE_S: "string",
    schema.ATTRIBUTE_T: "tensor",
    schema.ATTRIBUTE_G: "graph",
    schema.ATTRIBUTE_FLOATS: "floats",
    schema.ATTRIBUTE_INTS: "ints",
    schema.ATTRIBUTE_STRINGS: "strings",
    schema.ATTRIBUTE_TENSORS: "tensors",
    schema.ATTRIBUTE_GRAPHS: "graphs",
    schema.ATTRIBUTE_SPARSE_TENSOR: "sparse_tensor",
    schema.ATTRIBUTE_SPARSE_TENSORS: "sparse_tensors",
    schema.ATTRIBUTE_TP: "type",
    schema.ATTRIBUTE_TYPES: "types",
}
# Numbers may also stand in a field each.
_BY_TAG = {**_KINDS, schema.ATTRIBUTE_FLOATS + 3: "floats", schema.ATTRIBUTE_INTS - 2: "ints"}
_BY_TYPE = dict(enumerate(_KINDS.values(), start=1))  # `type` counts them in the same order
_EMPTY = {"float": b"\0\0\0\0", "int": 0, "string": b""}
_LONG_BYTES = 1 << 16
_TEXT_BYTES = 60
_MAX_TYPE_DEPTH = 16


def node_attributes(data: Data, node: tuple[int, int]) -> list[tuple[int, int]]:
    """Where the attributes of the node in a span of a file are, in order."""
    return [(first, stop) for tag, _, first, stop in fields(data, *node) if tag == schema.NODE_ATTRIBUTE]


def node_overload(data: Data, node: tuple[int, int]) -> bytes:
    """Which of several functions with its operator a node in a span of a file calls; empty for most."""
    found = last_fields(data, *node, {schema.NODE_OVERLOAD >> 3: 2})
    return b"".join(data[slice(*each)] for each in found.values())


def named_attribute(data: Data, span: tuple[int, int], outside: Outside) -> tuple[str, Content | None]:
    """The name of an attribute, and what `attribute_value` says of it."""
    return _name(data, span), attribute_value(data, span, outside)


def attribute_value(data: Data, span: tuple[int, int], outside: Outside) -> Content | None:
    """What an attribute says; None for a graph, whose nodes say it. Raises WireError, and what `outside` raises.

    Its name and its description don't count, nor those of tensors in it.
    """
    kind, reference = "", None
    by_kind: dict[str, list[tuple[int, int, int]]] = {}
    for tag, _, first, stop in fields(data, *span):
        if tag == schema.ATTRIBUTE_TYPE:
            kind = _BY_TYPE.get(first, "")
        elif tag == schema.ATTRIBUTE_REFERENCE:
            reference = data[first:stop]
        elif tag in _BY_TAG:
            by_kind.setdefault(_BY_TAG[tag], []).append((tag, first, stop))
    if reference is not None:
        return Content(("reference", reference), "attribute", f"the function's {_text(reference)}")
    kind = kind or next(iter(by_kind), "")
    stored = by_kind.get(kind, [])
    if kind in ("graph", "graphs"):
        return None
    if sum(stop - first for tag, first, stop in stored if tag & 7 == 2) > _LONG_BYTES and kind in ("ints", "floats"):
        return _digested(kind, (data[first:stop] for _, first, stop in stored))
    return _value(data, kind, stored, outside)


def _value(data: Data, kind: str, stored: list[tuple[int, int, int]], outside: Outside) -> Content:
    spans = [(first, stop) for _, first, stop in stored]
    if kind in ("tensor", "tensors", "sparse_tensor", "sparse_tensors"):
        read: Callable[..., Content] = sparse_content if kind.startswith("sparse") else tensor_content
        tensors = [read(data, each, outside) for each in spans]
        if not kind.endswith("s") and tensors:
            return tensors[-1]
        return _listed(kind, [each.identity for each in tensors], [f"{each.type} {each.text}" for each in tensors])
    if kind in ("float", "floats"):
        floats = [data[at : at + 4] for first, stop in spans for at in range(first, stop, 4)]
        if floats and len(floats[-1]) < 4:
            raise WireError("a list of floats ends in the middle of one", stored[0][1])
        texts = [number_text(number, "f") for each in floats for (number,) in struct.iter_unpack("<f", each)]
        return _one_or_all(kind, floats, texts)
    if kind in ("int", "ints"):
        ints = [signed(number) for each in stored for number in _numbers(data, each)]
        return _one_or_all(kind, ints, map(str, ints))
    if kind in ("type", "types"):
        types = [type_text(data, each) for each in spans]
        return _one_or_all(kind, types, types)
    values = [data[slice(*each)] for each in spans]
    return _one_or_all(kind, values, map(_text, values))


def _one_or_all(kind: str, values: Sequence[object], texts: Iterable[str]) -> Content:
    """The last of the values where the kind has one, which may be left out if it is zero or empty; else all of them."""
    if kind.endswith("s"):
        return _listed(kind, values, texts)
    if not values:
        return Content((kind, _EMPTY.get(kind)), kind, {"float": "0.0", "int": "0"}.get(kind, "''"))
    return Content((kind, values[-1]), kind, list(texts)[-1])


def _listed(kind: str, values: Sequence[object], texts: Iterable[str]) -> Content:
    """Several values: all of them in words, or the first and a digest."""
    shown = list(texts)
    if len(shown) <= SHOWN:
        return Content((kind, tuple(values)), kind, list_text(shown))
    digest = hashlib.sha256(repr(values).encode()).hexdigest()
    return Content((kind, digest), kind, f"{list_text([*shown[:3], '…'])} ({len(shown):,}, sha256 {digest[:12]})")


def _digested(kind: str, pieces: Iterable[bytes]) -> Content:
    digest = hashlib.sha256(b"".join(pieces)).hexdigest()
    return Content((kind, digest), kind, f"sha256 {digest[:12]}")


def sparse_content(data: Data, span: tuple[int, int], outside: Outside) -> Content:
    """What the sparse tensor in a span of a file holds. Raises WireError, and what `outside` raises."""
    values: list[Content] = []
    dims: list[int] = []
    for tag, _, first, stop in fields(data, *span):
        if tag in (schema.SPARSE_VALUES, schema.SPARSE_INDICES):
            values.append(tensor_content(data, (first, stop), outside))
        elif tag in (schema.SPARSE_DIM, schema.SPARSE_PACKED_DIMS):
            dims += _numbers(data, (tag, first, stop))
    identity = (tuple(each.identity for each in values), tuple(dims))
    return Content(identity, f"sparse {list_text(map(str, dims[:SHOWN]))}", " at ".join(each.text for each in values))


def _numbers(data: Data, stored: tuple[int, int, int]) -> Iterable[int]:
    """The numbers of a field that has them one by one, or all in one."""
    tag, first, stop = stored
    return (first,) if tag & 7 == 0 else packed_numbers(data, first, stop)


def _name(data: Data, span: tuple[int, int]) -> str:
    found = last_fields(data, *span, {schema.ATTRIBUTE_NAME >> 3: 2}).values()
    return next((data[slice(*each)].decode(errors="replace") for each in found), "")


def _text(value: bytes) -> str:
    text = value.decode(errors="backslashreplace")
    return (
        repr(text)
        if len(value) <= _TEXT_BYTES
        else f"{text[:20]!r}… (sha256 {hashlib.sha256(value).hexdigest()[:12]})"
    )


def type_text(data: Data, span: tuple[int, int], depth: int = 0) -> str:
    """The type of a value that need not be a tensor, in words: `seq(tensor(float32))`. Raises WireError.

    Of tensors the element type alone is told.
    """
    if depth > _MAX_TYPE_DEPTH:
        raise WireError("types nested deeper than any model's", span[0])
    for tag, _, first, stop in fields(data, *span):
        if tag in (schema.TENSOR_TYPE, schema.TYPE_SPARSE):
            element = last_fields(data, first, stop, {schema.TYPE_ELEM_TYPE >> 3: 0}).get(1, (0, 0))[0]
            return f"{'tensor' if tag == schema.TENSOR_TYPE else 'sparse_tensor'}({element_type(element).name})"
        if tag in (schema.TYPE_SEQUENCE, schema.TYPE_OPTIONAL):
            inner = last_fields(data, first, stop, {1: 2}).get(1, (first, first))
            return f"{'seq' if tag == schema.TYPE_SEQUENCE else 'optional'}({type_text(data, inner, depth + 1)})"
        if tag == schema.TYPE_MAP:
            parts = last_fields(data, first, stop, {schema.MAP_KEY >> 3: 0, schema.MAP_VALUE >> 3: 2})
            value = type_text(data, parts.get(2, (first, first)), depth + 1)
            return f"map({element_type(parts.get(1, (0, 0))[0]).name}, {value})"
    return "undefined"


def other_types(data: Data, graph: tuple[int, int]) -> dict[str, str]:
    """The types of a graph's inputs and outputs that are no tensors, by their names, as words. Raises WireError."""
    found: dict[str, str] = {}
    for tag, _, first, stop in fields(data, *graph):
        if tag in (schema.GRAPH_INPUT, schema.GRAPH_OUTPUT):
            parts = last_fields(data, first, stop, {schema.VALUE_NAME >> 3: 2, schema.VALUE_TYPE >> 3: 2})
            text = type_text(data, parts.get(2, (first, first)))
            if not text.startswith("tensor("):
                found[data[slice(*parts.get(1, (first, first)))].decode(errors="replace")] = text
    return found


def function_declaration(data: Data, span: tuple[int, int], outside: Outside) -> Mapping[str, str]:
    """What a function says besides its nodes: its attributes with their defaults, and the opsets of its operators."""
    found: dict[str, str] = {}
    for tag, at, first, stop in fields(data, *span):
        if tag == schema.FUNCTION_ATTRIBUTE:
            found[f"attribute {_text(data[first:stop])[1:-1]}"] = "required"
        elif tag == schema.FUNCTION_ATTRIBUTE_DEFAULT:
            value = attribute_value(data, (first, stop), outside)
            if value is None:
                raise WireError("the default value of an attribute is a graph", at)
            found[f"attribute {_name(data, (first, stop))}"] = value.text
        elif tag == schema.FUNCTION_OPSET_IMPORT:
            entry = last_fields(data, first, stop, schema.DOMAIN_AND_VERSION)
            domain, version = entry.get(1, (first, first)), entry.get(2, (0, 0))
            found[f"opset {data[slice(*domain)].decode(errors='replace') or 'ai.onnx'}"] = str(signed(version[0]))
    return found
