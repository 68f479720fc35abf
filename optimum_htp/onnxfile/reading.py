"""Read an ONNX file without its weights."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from optimum_htp.collecting import no_collecting
from optimum_htp.onnxfile import schema
from optimum_htp.onnxfile.attributes import Body, Field, path_name, scan_attribute
from optimum_htp.onnxfile.limits import (
    CACHED,
    MAX_BODY_DEPTH,
    MAX_DIMENSIONS,
    MAX_FUNCTION_NAME_BYTES,
    MAX_FUNCTIONS,
    items_of,
    names_of,
    texts_of,
)
from optimum_htp.onnxfile.model import Function, Graph, Initializer, Node, OnnxModel, Value
from optimum_htp.onnxfile.opening import mapped, wire_errors
from optimum_htp.onnxfile.wire import (
    Data,
    WireError,
    decode_text,
    fields,
    last_fields,
    read_varint,
    release_pages,
    signed,
    signed32,
)

_COUNTED = 1024  # fields of a message are counted in steps of this many

_Shape: TypeAlias = list[int | str | None] | None


@no_collecting()
def read_model(path: str | Path) -> OnnxModel:
    """Reads what an ONNX file says, without its weights.

    Training graphs and the default values of functions' attributes are left out, as they are from every rewrite.

    Raises:
        OnnxFileError: If the file is missing, unreadable or not an ONNX model.
    """
    path = Path(path)
    with mapped(path) as (_, data):
        return _Reader(data).model(path)


@no_collecting()
def read_content(content: bytes, *, path: Path) -> OnnxModel:
    """Reads what the bytes of an ONNX file, which is going to be at `path`, say, as `read_model` does."""
    with wire_errors(path, content):
        return _Reader(content).model(path)


def read_function(data: Data, span: tuple[int, int]) -> Function:
    """Reads a function of a file that `read_model` has read without complaint."""
    return _Reader(data).function(*span)


def read_value(data: Data, span: tuple[int, int]) -> Value:
    """Reads the name and the type of a tensor of such a file."""
    return _Reader(data).value(*span)


class _Reader:
    """Makes an `OnnxModel` of a mapped file. Spans are offsets into the file, first included, stop not."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.texts: dict[str, str] = {}  # the same name is stored once, however often the file repeats it
        self.different = texts_of(len(data))
        self.entries: dict[bytes, tuple[str, ...]] = {}  # metadata entries and
        self.plain: set[bytes] = set()  # attributes repeat from node to node: each is read once
        self.released = 0
        self.items = items_of(len(data))
        self.names = names_of(len(data))

    def text(self, first: int, stop: int) -> str:
        return self.known(self.data[first:stop])

    def known(self, encoded: bytes) -> str:
        text = decode_text(encoded)
        known = self.texts.setdefault(text, text)
        self.different.check(len(self.texts), 0)
        return known

    def model(self, path: Path) -> OnnxModel:
        ir_version = 0
        producer = {schema.MODEL_PRODUCER_NAME: "", schema.MODEL_PRODUCER_VERSION: ""}
        opset_imports: dict[str, int] = {}
        metadata: dict[str, str] = {}
        graph: Graph | None = None
        functions: dict[str, Function] = {}
        for tag, at, first, stop in fields(self.data, 0, len(self.data)):
            if tag == schema.MODEL_GRAPH:
                if graph is not None:
                    raise WireError("a second main graph", at)
                graph = self.graph(first, stop, 0)
            elif tag == schema.MODEL_FUNCTION:
                self.items.spend(1, at)
                if len(functions) >= MAX_FUNCTIONS:
                    raise WireError(f"more than {MAX_FUNCTIONS:,} functions", at)
                function = self.function(first, stop)
                if functions.setdefault(function.path, function) is not function:
                    raise WireError(f"a second function {function.path}", at)
            elif tag == schema.MODEL_METADATA:
                self.entry(metadata, first, stop)
            elif tag == schema.MODEL_OPSET_IMPORT:
                self.items.spend(1, at)
                domain, opset = self.opset_import(first, stop)
                opset_imports[domain] = opset
            elif tag == schema.MODEL_IR_VERSION:
                ir_version = signed(first)
            elif tag in producer:
                producer[tag] = self.text(first, stop)
        if graph is None:
            raise WireError("it has no graph", 0)
        return OnnxModel(
            path=path,
            ir_version=ir_version,
            opset_imports=opset_imports,
            producer_name=producer[schema.MODEL_PRODUCER_NAME],
            producer_version=producer[schema.MODEL_PRODUCER_VERSION],
            metadata=metadata,
            graph=graph,
            functions=tuple(functions.values()),
        )

    def graph(self, start: int, end: int, depth: int) -> Graph:
        if depth > MAX_BODY_DEPTH:
            raise WireError(f"graphs nested deeper than {MAX_BODY_DEPTH}", start)
        name = ""
        nodes: list[Node] = []
        values: dict[int, list[Value]] = {schema.GRAPH_INPUT: [], schema.GRAPH_OUTPUT: []}
        initializers: list[Initializer] = []
        external: list[Initializer] = []
        for count, (tag, at, first, stop) in enumerate(fields(self.data, start, end), 1):
            if not count % _COUNTED:
                self.names.spend(_COUNTED, at)
            if tag not in schema.GRAPH_TAGS:
                continue
            self.items.spend(1, at)
            self.released = release_pages(self.data, stop, self.released)
            if tag == schema.GRAPH_NODE:
                nodes.append(self.node(first, stop, external, depth))
            elif tag == schema.GRAPH_INITIALIZER:
                initializers.append(self.tensor(first, stop))
            elif tag == schema.GRAPH_NAME:
                name = self.text(first, stop)
            elif tag in values:
                values[tag].append(self.value(first, stop))
            else:
                initializers.append(self.sparse_tensor(first, stop, external))
        inputs, outputs = map(tuple, values.values())
        return Graph(name, nodes, inputs, outputs, tuple(initializers), tuple(external))

    def function(self, start: int, end: int) -> Function:
        nodes: list[Node] = []
        external: list[Initializer] = []
        identity = {schema.FUNCTION_NAME: "", schema.FUNCTION_DOMAIN: "", schema.FUNCTION_OVERLOAD: ""}
        values: dict[int, list[Value]] = {schema.FUNCTION_INPUT: [], schema.FUNCTION_OUTPUT: []}
        for tag, at, first, stop in fields(self.data, start, end):
            if tag == schema.FUNCTION_NODE:
                self.items.spend(1, at)
                nodes.append(self.node(first, stop, external, 0))
            elif tag in values:
                self.items.spend(1, at)
                values[tag].append(Value(self.text(first, stop)))
            elif tag in identity:
                identity[tag] = path_name(self.data, first, stop, MAX_FUNCTION_NAME_BYTES)
        name, domain, overload = identity.values()
        inputs, outputs = values.values()
        return Function(domain, name, overload, Graph(name, nodes, tuple(inputs), tuple(outputs), (), tuple(external)))

    def node(self, start: int, end: int, external: list[Initializer], depth: int) -> Node:
        data, texts, once = self.data, self.texts, self.texts.setdefault
        name = op_type = domain = ""
        inputs: list[str] = []
        outputs: list[str] = []
        metadata: dict[str, str] = {}
        repeated: list[str] = []
        bodies: list[tuple[str, Graph]] = []
        count = 0
        for count, (tag, _, first, stop) in enumerate(fields(data, start, end), 1):
            if not count % _COUNTED:
                self.names.spend(_COUNTED, first)
            if tag == schema.NODE_INPUT:
                text = decode_text(data[first:stop])
                inputs.append(once(text, text))
            elif tag == schema.NODE_OUTPUT:
                text = decode_text(data[first:stop])
                outputs.append(once(text, text))
            elif tag == schema.NODE_ATTRIBUTE:
                attribute = scan_attribute(data, first, stop, self.plain)
                if attribute is not None:
                    self.attribute(attribute, bodies, external, depth)
            elif tag == schema.NODE_METADATA:
                known = len(metadata)
                key = self.entry(metadata, first, stop)
                if len(metadata) == known:
                    repeated.append(key)
            elif tag == schema.NODE_NAME:
                text = decode_text(data[first:stop])
                name = once(text, text)
            elif tag == schema.NODE_OP_TYPE:
                text = decode_text(data[first:stop])
                op_type = once(text, text)
            elif tag == schema.NODE_DOMAIN:
                text = decode_text(data[first:stop])
                domain = once(text, text)
        self.names.spend(count % _COUNTED, start)
        self.different.check(len(texts), start)
        if len(bodies) > 1 and len({element for element, _ in bodies}) < len(bodies):
            raise WireError("a node has two attributes of the same name", start)
        return Node(name, op_type, domain, tuple(inputs), tuple(outputs), metadata, tuple(bodies), tuple(repeated))

    def attribute(
        self,
        attribute: tuple[list[Body], list[Field]],
        bodies: list[tuple[str, Graph]],
        external: list[Initializer],
        depth: int,
    ) -> None:
        graphs, tensors = attribute
        for element, (_, at, first, stop) in graphs:
            self.items.spend(1, at)
            bodies.append((element, self.graph(first, stop, depth + 1)))
        for tag, _, first, stop in tensors:
            sparse = tag in (schema.ATTRIBUTE_SPARSE_TENSOR, schema.ATTRIBUTE_SPARSE_TENSORS)
            tensor = self.sparse_tensor(first, stop, external) if sparse else self.tensor(first, stop)
            if tensor.location is not None:
                external.append(tensor)

    def tensor(self, start: int, end: int) -> Initializer:
        name, data_type, is_external = "", 0, False
        dims: list[int] = []
        where: dict[str, str] = {}
        span: tuple[int, int] | None = None
        for tag, _, first, stop in fields(self.data, start, end):
            if tag in schema.TENSOR_NUMBERS:
                span = first, stop
            elif tag in (schema.TENSOR_DIM, schema.TENSOR_PACKED_DIMS):
                self.dims(dims, tag, first, stop)
            elif tag == schema.TENSOR_DATA_TYPE:
                data_type = signed32(first)
            elif tag == schema.TENSOR_NAME:
                name = self.text(first, stop)
            elif tag == schema.TENSOR_EXTERNAL_DATA:
                self.names.spend(1, first)
                self.entry(where, first, stop)
            elif tag == schema.TENSOR_DATA_LOCATION:
                is_external = schema.location(first, is_external)
        if not is_external:
            return Initializer(name, data_type, tuple(dims), span=span)
        sizes = {key: where[key] for key in ("offset", "length") if key in where}
        if not where.get("location") or not all(map(_is_size, sizes.values())):
            raise WireError(
                f"the external tensor {name!r} has no valid location, offset and length: {where!r:.200}", start
            )
        length = int(sizes["length"]) if "length" in sizes else None
        return Initializer(name, data_type, tuple(dims), where["location"], int(sizes.get("offset", 0)), length)

    def dims(self, dims: list[int], tag: int, first: int, stop: int) -> None:
        """Adds what one field says about the shape: one dimension (`first` itself), or packed ones."""
        if tag & 7 == 0:
            self.dimension_fits(dims, stop)
            dims.append(signed(first))
            return
        while first < stop:
            self.dimension_fits(dims, first)
            size, first = read_varint(self.data, first)
            dims.append(signed(size))
        if first > stop:
            raise WireError("a dimension runs past the end of the list that it is in", stop)

    def dimension_fits(self, dims: Sized, at: int) -> None:
        if len(dims) >= MAX_DIMENSIONS:
            raise WireError(f"a tensor has more than {MAX_DIMENSIONS:,} dimensions", at)

    def sparse_tensor(self, start: int, end: int, external: list[Initializer]) -> Initializer:
        values: Initializer | None = None
        dims: list[int] = []
        for tag, at, first, stop in fields(self.data, start, end):
            if tag == schema.SPARSE_VALUES:
                if values is not None:
                    raise WireError("a sparse tensor has its values twice", at)
                values = self.tensor(first, stop)
            elif tag == schema.SPARSE_INDICES:
                indices = self.tensor(first, stop)
                if indices.location is not None:
                    external.append(indices)
            elif tag in (schema.SPARSE_DIM, schema.SPARSE_PACKED_DIMS):
                self.dims(dims, tag, first, stop)
        return replace(values or Initializer(), dims=tuple(dims), span=None)

    def value(self, start: int, end: int) -> Value:
        """Reads a value; a type that is given in several pieces is put together, as protobuf does."""
        name, elem_type, shape = "", 0, None
        for tag, _, first, stop in fields(self.data, start, end):
            if tag == schema.VALUE_NAME:
                name = self.text(first, stop)
            elif tag == schema.VALUE_TYPE:
                for inner, _, at, to in fields(self.data, first, stop):
                    if inner == schema.TENSOR_TYPE:
                        elem_type, shape = self.tensor_type(at, to, elem_type, shape)
                    elif inner in schema.OTHER_TYPES:
                        elem_type, shape = 0, None
        return Value(name, elem_type, None if shape is None else tuple(shape))

    def tensor_type(self, start: int, end: int, elem_type: int, shape: _Shape) -> tuple[int, _Shape]:
        """Reads a tensor's type on top of what is known of it."""
        for tag, _, first, stop in fields(self.data, start, end):
            if tag == schema.TYPE_ELEM_TYPE:
                elem_type = signed32(first)
            elif tag == schema.TYPE_SHAPE:
                shape = list(shape or ())
                for inner, _, at, to in fields(self.data, first, stop):
                    if inner == schema.DIMENSION:
                        self.dimension_fits(shape, at)
                        shape.append(self.dimension(at, to))
        return elem_type, shape

    def dimension(self, start: int, end: int) -> int | str | None:
        size: int | str | None = None
        for tag, _, first, stop in fields(self.data, start, end):
            if tag == schema.DIMENSION_SIZE:
                size = signed(first)
            elif tag == schema.DIMENSION_SYMBOL:
                size = self.text(first, stop)
        return size

    def opset_import(self, start: int, end: int) -> tuple[str, int]:
        import_fields = last_fields(self.data, start, end, schema.DOMAIN_AND_VERSION)
        domain, version = import_fields.get(1, (start, start)), import_fields.get(2, (0, 0))
        return self.text(*domain), signed(version[0])

    def entry(self, entries: dict[str, str], start: int, end: int) -> str:
        """Adds a key and its value, and returns the key."""
        encoded = self.data[start:end]
        entry = self.entries.get(encoded)
        if entry is None:
            entry = self.usual_entry(encoded)
            if entry is None:
                spans = last_fields(self.data, start, end, schema.KEY_AND_VALUE)
                entry = tuple(self.text(*spans.get(field, (start, start))) for field in (1, 2))
            if len(self.entries) < CACHED:
                self.entries[encoded] = entry
        key, value = entry
        entries[key] = value
        return key

    def usual_entry(self, encoded: bytes) -> tuple[str, str] | None:
        """A key and its value, each short and once, as nearly all are; else None."""
        length = encoded[1] if len(encoded) > 3 else 0x80
        value = length + 4  # where it begins
        if length > 0x7F or len(encoded) < value or encoded[0] != 0x0A or encoded[value - 2] != 0x12:
            return None
        if encoded[value - 1] != len(encoded) - value or encoded[value - 1] > 0x7F:
            return None
        return self.known(encoded[2 : value - 2]), self.known(encoded[value:])


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20
