"""Read and rewrite ONNX files without touching their weights.

The file is mapped and walked field by field in protobuf's wire format; tensors' contents are skipped, whatever their
size, and external data is never opened. Neither `onnx` nor `torch` nor `numpy` is needed.
Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_htp.errors import HtpError, ModelTooLargeError, OnnxFileError
from optimum_htp.wire import (
    Splice,
    WireError,
    encode_message,
    fields,
    last_fields,
    read_varint,
    release_pages,
    replacing,
    signed,
    write_pieces,
)


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeAlias

    from optimum_htp.wire import Data, Piece

    _Field: TypeAlias = tuple[int, int, int, int]
    _Body: TypeAlias = tuple[str, _Field]


__all__ = [
    "Function",
    "Graph",
    "Initializer",
    "Node",
    "OnnxModel",
    "Value",
    "external_data_files",
    "graph_digest",
    "node_id",
    "read_model",
    "rewrite_metadata",
]

MAX_MODEL_BYTES = 2_147_483_647
"""The longest message that protobuf reads or writes."""

MAX_BODY_DEPTH = 100
"""How deep bodies may be nested; protobuf itself stops at 33."""

MAX_ITEMS = 4_000_000
"""How many nodes, tensors and values, and how many different strings, one file may have: far more than any model,
few enough that no file of a few bytes per item fills the memory."""

_SHORT_ATTRIBUTE_BYTES = 128
_TEXT_BYTES = frozenset(b"\t\n\r") | frozenset(range(0x20, 0x7F))

MAX_BODY_NAME_BYTES, MAX_FUNCTION_NAME_BYTES = 128, 1024
"""How long the name of an attribute with a graph, and of a function, may be: each path inside repeats it."""

_SHORT_ATTRIBUTE_BYTES = 128
_TEXT_BYTES = frozenset(b"\t\n\r") | frozenset(range(0x20, 0x7F))

MAX_PATH_NAME_BYTES = 1024
"""How long a name may be that becomes a part of every path inside: a function's, or that of an attribute with a graph."""


@dataclass(slots=True)
class Node:
    """One operation.

    Attributes:
        name: Its name, often empty and never reliably unique.
        op_type: The operator.
        domain: The operator's domain as written, empty for ONNX's own.
        inputs: Names of the tensors it reads; empty for an optional input that is not given.
        outputs: Names of the tensors it makes; empty for an output that is not wanted.
        metadata: Its `metadata_props`; of a repeated key, the last.
        bodies: The graphs in its attributes: the attribute's name (for the i-th of a list, `name[i]`) and the graph.
    """

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, str]
    bodies: tuple[tuple[str, Graph], ...]


@dataclass(frozen=True, slots=True)
class Value:
    """A graph's input or output.

    Attributes:
        name: The tensor's name.
        elem_type: ONNX's number of the element type; 0 where it is no tensor or not said.
        shape: Per dimension its size, its symbol or None (unknown); None where it is no tensor or the rank is unknown.
    """

    name: str
    elem_type: int
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class Initializer:
    """A tensor that is stored with the model; its content is not read.

    Attributes:
        name: The tensor's name. For a sparse one, the name of its values.
        data_type: ONNX's number of the element type.
        dims: Its shape. For a sparse one, that of the tensor it stands for.
        location: Where the content is, relative to the model's directory and as written; None if in the ONNX file.
        offset: Bytes from the start of `location` to the content.
        length: Bytes of content in `location`; None where it is not said.
    """

    name: str
    data_type: int
    dims: tuple[int, ...]
    location: str | None
    offset: int
    length: int | None


@dataclass(slots=True)
class Graph:
    """The main graph, a body or the inside of a function.

    Attributes:
        name: Its name.
        nodes: Its nodes, as they stand in the file.
        inputs: What it is given.
        outputs: What it returns.
        initializers: Its stored tensors, the sparse ones too.
        external_attributes: External tensors that are no initializers: in its nodes' attributes, and the indices of
            sparse tensors. Tensors of that kind that are not external are left out.
    """

    name: str
    nodes: list[Node]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    initializers: tuple[Initializer, ...]
    external_attributes: tuple[Initializer, ...] = ()


@dataclass(frozen=True, slots=True)
class Function:
    """An operator that the model defines.

    Attributes:
        domain: The domain of its identity.
        name: The name of its identity, which is the `op_type` of the nodes that call it.
        overload: The rest of its identity, mostly empty.
        graph: Its nodes; inputs and outputs have names only.
    """

    domain: str
    name: str
    overload: str
    graph: Graph

    @property
    def path(self) -> str:
        """Its graph path: `domain::name`, or `domain::name:overload`."""
        return _function_path(self.domain, self.name, self.overload)


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """What an ONNX file says, without its weights.

    Attributes:
        path: The file it was read from.
        ir_version: Version of the format; 0 where it is not said.
        opset_imports: Version of each operator domain.
        producer_name: The tool that wrote it.
        producer_version: That tool's version.
        metadata: Its `metadata_props`; of a repeated key, the last.
        graph: The main graph.
        functions: The operators it defines.
    """

    path: Path
    ir_version: int
    opset_imports: dict[str, int]
    producer_name: str
    producer_version: str
    metadata: dict[str, str]
    graph: Graph
    functions: tuple[Function, ...]

    def graphs(self) -> Iterator[tuple[str, Graph]]:
        """Walks all graphs, depth first, a parent before its bodies, functions last.

        Yields:
            The graph's path and the graph: `""` for the main graph, `3.then_branch` for the body in its node 3,
            `3.then_branch/7.body` for one inside that, `domain::name` for a function.
        """
        stack = [(function.path, function.graph) for function in reversed(self.functions)]
        stack.append(("", self.graph))
        while stack:
            path, graph = stack.pop()
            yield path, graph
            stack.extend(
                (_body_path(path, position, element), body)
                for position, node in reversed(list(enumerate(graph.nodes)))
                for element, body in reversed(node.bodies)
            )


def _function_path(domain: str, name: str, overload: str) -> str:
    return f"{domain}::{name}:{overload}" if overload else f"{domain}::{name}"


def _body_path(path: str, position: int, element: str) -> str:
    return f"{path}/{position}.{element}" if path else f"{position}.{element}"


def node_id(node: Node, position: int) -> str:
    """Returns what identifies a node in its graph: its first output that has a name, else `#<position>`."""
    return next(filter(None, node.outputs), f"#{position}")


def external_data_files(model: OnnxModel) -> set[str]:
    """Returns the locations, as written, of all tensors that are stored outside the ONNX file, in any graph."""
    return {
        tensor.location
        for _, graph in model.graphs()
        for tensor in (*graph.initializers, *graph.external_attributes)
        if tensor.location is not None
    }


def graph_digest(model: OnnxModel) -> str:
    """Returns the SHA-256, in hexadecimal, of the model's structure.

    That is each node's domain, operator, inputs and outputs, with bodies and functions; not the nodes' names, metadata,
    weights or other attributes. Each string goes in after its length, each list after its count, 8 bytes little-endian.
    """
    digest = hashlib.sha256()
    _digest_nodes(model.graph, digest.update)
    digest.update(_count(len(model.functions)))
    for function in model.functions:
        digest.update(_strings((function.domain, function.name, function.overload)))
        _digest_nodes(function.graph, digest.update)
    return digest.hexdigest()


def _digest_nodes(graph: Graph, update: Callable[[bytes], None]) -> None:
    update(_count(len(graph.nodes)))
    for node in graph.nodes:
        update(_strings((node.domain, node.op_type)) + _strings(node.inputs) + _strings(node.outputs))
        update(_count(len(node.bodies)))
        for element, body in node.bodies:
            update(_strings((element,)))
            _digest_nodes(body, update)


def _strings(strings: tuple[str, ...]) -> bytes:
    encoded = [string.encode() for string in strings]
    return _count(len(encoded)) + b"".join(_count(len(string)) + string for string in encoded)


def _count(number: int) -> bytes:
    return number.to_bytes(8, "little")


def read_model(path: str | Path) -> OnnxModel:
    """Reads what an ONNX file says, without its weights.

    Training graphs and the default values of functions' attributes are left out, as they are from every rewrite.

    Args:
        path: The file.

    Raises:
        OnnxFileError: If the file is missing, unreadable or not an ONNX model.
    """
    path = Path(path)
    with _mapped(path) as (_, data):
        return _Reader(data).model(path)


def rewrite_metadata(
    path: str | Path,
    *,
    nodes: Mapping[tuple[str, int], Mapping[str, str]],
    owned: Callable[[str], bool],
    model: Mapping[str, str],
    destination: str | Path | None = None,
) -> None:
    """Replaces our metadata in a file, and leaves every other byte as it is.

    Each node, in every graph, loses the entries whose key is `owned` and gets those of `nodes`; the model likewise.
    Rewriting again with nothing to add gives back the file as it was before the first time.

    Args:
        path: The ONNX file; where it is a symbolic link, the file it points to.
        nodes: New entries by graph path (as `OnnxModel.graphs` gives it) and the node's position in that graph.
        owned: Whether a metadata key is one to remove.
        model: The model's new entries.
        destination: Where to write; None replaces the file. Either is atomic.

    Raises:
        OnnxFileError: If the file is not an ONNX model, or `nodes` names a node that it does not have.
        ModelTooLargeError: If the result would be longer than protobuf allows; nothing was written.
        HtpError: If the result can't be written; what was there still is.
    """
    path = Path(path)
    target = Path(os.path.realpath(path if destination is None else destination))
    with _mapped(path) as (source, data):
        content = _Rewriter(data, nodes=nodes, owned=owned).model(model)
        if content is None and destination is None:
            return
        pieces: list[Piece] = [(0, len(data))] if content is None else content.pieces
        length = len(data) if content is None else content.length_bytes
        if length > MAX_MODEL_BYTES:
            advice = "save its weights as external data, or keep the tags in the sidecar only"
            message = f"the result would have {length} bytes, more than protobuf's {MAX_MODEL_BYTES}: {advice}"
            raise ModelTooLargeError(message, path=path)
        with _explained(target, length):
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            before = os.fstat(source)
            mode = target.stat().st_mode if target.exists() else before.st_mode
            with replacing(target, mode=stat.S_IMODE(mode)) as descriptor:
                write_pieces(pieces, source=source, data=data, target=descriptor)
                after = os.fstat(source)
                if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                    raise OnnxFileError("it was changed while it was read: run it again", path=path)


@contextlib.contextmanager
def _explained(target: Path, length_bytes: int) -> Iterator[None]:
    """Turns what the system says about writing into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = f"make {length_bytes} bytes of room on that disk and run it again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = f"get write permission for the directory {target.parent}, or write elsewhere"
        else:
            advice = "nothing was changed"
        raise HtpError(f"cannot write {target}: {error.strerror or error}: {advice}") from error


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[tuple[int, mmap.mmap]]:
    """Gives a file's descriptor and content, and names the file in what goes wrong in the block."""
    with contextlib.ExitStack() as stack:
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its other end
                kind = "a directory: name the .onnx file in it" if path.is_dir() else "not a regular file"
                raise OnnxFileError(f"this is {kind}", path=path)
            file = stack.enter_context(path.open("rb"))
            if not os.fstat(file.fileno()).st_size:
                raise OnnxFileError("the file is empty: export or download it again", path=path, offset=0)
            data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError as error:
            raise OnnxFileError("there is no such file", path=path) from error
        except (OSError, ValueError) as error:
            raise OnnxFileError(f"cannot be read: {error}", path=path) from error
        try:
            yield file.fileno(), data
        except WireError as error:
            known = _other_format(data[:64])
            message = f"this is {known}" if known else f"not a valid ONNX file: {error.message}"
            raise OnnxFileError(message, path=path, offset=error.offset) from error


def _other_format(head: bytes) -> str | None:
    """Returns what a file that is no ONNX model is, as far as its first bytes say."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the model itself: run `git lfs pull`"
    for prefix, kind in (
        (b"PK\x03\x04", "a ZIP archive (perhaps a PyTorch checkpoint)"),
        (b"\x1f\x8b", "a gzip file: unpack it first"),
        (b"\x80", "a Python pickle (perhaps a PyTorch checkpoint)"),
        (b"GGUF", "a GGUF model"),
    ):
        if head.startswith(prefix):
            return f"not an ONNX model but {kind}"
    if head[4:8] == b"ORTM":
        return "not an ONNX model but ONNX Runtime's own format (.ort)"
    if head[8:9] == b"{":
        return "not an ONNX model but a safetensors file"
    if len(head) >= 8 and all(byte in _TEXT_BYTES for byte in head):
        kind = {b"<": "HTML or XML", b"{": "JSON", b"[": "JSON"}.get(head.strip()[:1], "text")
        return f"not an ONNX model but {kind}"
    return None


# Field number << 3 | wire type, by message. Names are those of onnx.proto.
_MODEL_IR_VERSION, _MODEL_PRODUCER_NAME, _MODEL_PRODUCER_VERSION = 8, 18, 26
_MODEL_GRAPH, _MODEL_OPSET_IMPORT, _MODEL_METADATA, _MODEL_FUNCTION = 58, 66, 114, 202
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER = 10, 18, 42
_GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE_INITIALIZER = 90, 98, 122
_FUNCTION_NAME, _FUNCTION_INPUT, _FUNCTION_OUTPUT, _FUNCTION_NODE = 10, 34, 42, 58
_FUNCTION_DOMAIN, _FUNCTION_OVERLOAD = 82, 106
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP_TYPE = 10, 18, 26, 34
_NODE_ATTRIBUTE, _NODE_DOMAIN, _NODE_METADATA = 42, 58, 74
_ATTRIBUTE_NAME, _ATTRIBUTE_T, _ATTRIBUTE_G, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 10, 42, 50, 82, 90
_ATTRIBUTE_SPARSE_TENSOR, _ATTRIBUTE_SPARSE_TENSORS = 178, 186
_TENSOR_DIM, _TENSOR_PACKED_DIMS, _TENSOR_DATA_TYPE, _TENSOR_NAME = 8, 10, 16, 66
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 106, 112
_DIMENSION, _DIMENSION_SIZE, _DIMENSION_SYMBOL, _ENTRY_KEY, _ENTRY_VALUE = 10, 8, 18, 10, 18
_SPARSE_VALUES, _SPARSE_INDICES, _SPARSE_DIM, _SPARSE_PACKED_DIMS = 10, 18, 24, 26
_EXTERNAL = 1


def _schema(*tags: int) -> dict[int, int]:
    return {tag >> 3: tag & 7 for tag in tags}


_MODEL = _schema(
    _MODEL_IR_VERSION,
    _MODEL_PRODUCER_NAME,
    _MODEL_PRODUCER_VERSION,
    _MODEL_GRAPH,
    _MODEL_OPSET_IMPORT,
    _MODEL_METADATA,
    _MODEL_FUNCTION,
)
_GRAPH = _schema(_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE_INITIALIZER)
_FUNCTION = _schema(
    _FUNCTION_NAME, _FUNCTION_INPUT, _FUNCTION_OUTPUT, _FUNCTION_NODE, _FUNCTION_DOMAIN, _FUNCTION_OVERLOAD
)
_FUNCTION_IDENTITY = _schema(_FUNCTION_NAME, _FUNCTION_DOMAIN, _FUNCTION_OVERLOAD)
_NODE = _schema(_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN, _NODE_METADATA)
_GRAPH_TAGS = frozenset(
    (_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE_INITIALIZER)
)
_ATTRIBUTE_GRAPH_TAGS = frozenset((_ATTRIBUTE_G, _ATTRIBUTE_GRAPHS))
_ATTRIBUTE_TENSOR_TAGS = frozenset(
    (_ATTRIBUTE_T, _ATTRIBUTE_TENSORS, _ATTRIBUTE_SPARSE_TENSOR, _ATTRIBUTE_SPARSE_TENSORS)
)
_ATTRIBUTE = _schema(_ATTRIBUTE_NAME, *_ATTRIBUTE_GRAPH_TAGS, *_ATTRIBUTE_TENSOR_TAGS)
_TENSOR = _schema(_TENSOR_DATA_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION)
_SPARSE = _schema(_SPARSE_VALUES, _SPARSE_INDICES)
_NAME_AND_TYPE = _schema(10, 18)  # ValueInfoProto
_TENSOR_TYPE_ONLY = _schema(10)  # TypeProto
_ELEM_TYPE_AND_SHAPE = _schema(8, 18)  # TypeProto.Tensor
_DIMENSIONS = _schema(10)  # TensorShapeProto
_SIZE_OR_SYMBOL = _schema(8, 18)  # TensorShapeProto.Dimension
_DOMAIN_AND_VERSION = _schema(10, 16)  # OperatorSetIdProto
_KEY_AND_VALUE = _schema(10, 18)  # StringStringEntryProto


class _Texts(dict[bytes, str]):
    """Decoded strings by their bytes: the same name is stored once, however often the file repeats it."""

    def __missing__(self, encoded: bytes) -> str:
        if len(self) >= MAX_ITEMS:
            raise WireError(f"more than {MAX_ITEMS} different strings, more than any model has", 0)
        text = self[encoded] = encoded.decode()
        return text


def _scan_attribute(data: Data, start: int, end: int, plain: set[bytes]) -> tuple[list[_Body], list[_Field]] | None:
    """Returns the bodies and the tensors in an attribute; None where it has neither, as most, which `plain` collects."""
    short = data[start:end] if end - start <= _SHORT_ATTRIBUTE_BYTES else b""
    if short in plain:
        return None
    name_first = name_stop = start
    graphs: list[_Field] = []
    tensors: list[_Field] = []
    for field in fields(data, start, end, _ATTRIBUTE):
        tag = field[0]
        if tag == _ATTRIBUTE_NAME:
            _, _, name_first, name_stop = field
        elif tag in _ATTRIBUTE_GRAPH_TAGS:
            graphs.append(field)
            if len(graphs) > 1000 + (end - start) // 8:
                raise WireError("more graphs than an attribute of this size can have", field[1])
        elif tag in _ATTRIBUTE_TENSOR_TAGS:
            tensors.append(field)
    if not graphs and not tensors:
        if short:
            plain.add(short)
        return None
    if not graphs:
        return [], tensors
    name = _path_name(data, name_first, name_stop, MAX_BODY_NAME_BYTES)
    if not name or not name.isprintable() or "/" in name:
        raise WireError(f"{name!r} is no name for an attribute with a graph", name_first)
    lists = [field for field in graphs if field[0] == _ATTRIBUTE_GRAPHS]
    single = [field for field in graphs if field[0] == _ATTRIBUTE_G]
    if len(single) > 1:
        raise WireError(f"the attribute {name!r} has its graph twice", single[1][1])
    bodies = [(name, field) for field in single]
    bodies.extend((f"{name}[{index}]", field) for index, field in enumerate(lists))
    return sorted(bodies, key=lambda body: body[1][1]), tensors


def _path_name(data: Data, first: int, stop: int, longest_bytes: int) -> str:
    if stop - first > longest_bytes:
        raise WireError(f"a function or attribute has a name of {stop - first} bytes", first)
    try:
        return data[first:stop].decode()
    except UnicodeDecodeError:
        raise WireError("a string is not valid UTF-8", first) from None


class _Reader:
    """Makes an `OnnxModel` of a mapped file. Spans are offsets into the file, first included, stop not."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.texts = _Texts()
        self.entries: dict[bytes, tuple[str, ...]] = {}  # metadata entries and
        self.plain: set[bytes] = set()  # attributes repeat from node to node: each is read once
        self.released = 0
        self.items_left = min(MAX_ITEMS, 1000 + len(data) // 8)

    def spend(self, at: int) -> None:
        """Counts one node, tensor or value."""
        self.items_left -= 1
        if self.items_left < 0:
            raise WireError("more nodes, tensors and values than a model of this size can have", at)

    def text(self, first: int, stop: int) -> str:
        try:
            return self.texts[self.data[first:stop]]
        except UnicodeDecodeError:
            raise WireError("a string is not valid UTF-8", first) from None

    def model(self, path: Path) -> OnnxModel:
        ir_version = 0
        producer = {_MODEL_PRODUCER_NAME: "", _MODEL_PRODUCER_VERSION: ""}
        opset_imports: dict[str, int] = {}
        metadata: dict[str, str] = {}
        graph: Graph | None = None
        functions: dict[str, Function] = {}
        for tag, at, first, stop in fields(self.data, 0, len(self.data), _MODEL):
            if tag == _MODEL_GRAPH:
                if graph is not None:
                    raise WireError("a second main graph", at)
                graph = self.graph(first, stop, 0)
            elif tag == _MODEL_FUNCTION:
                function = self.function(first, stop)
                if functions.setdefault(function.path, function) is not function:
                    raise WireError(f"a second function {function.path}", at)
            elif tag == _MODEL_METADATA:
                self.entry(metadata, first, stop)
            elif tag == _MODEL_OPSET_IMPORT:
                domain, opset = self.opset_import(first, stop)
                opset_imports[domain] = opset
            elif tag == _MODEL_IR_VERSION:
                ir_version = signed(first)
            elif tag in producer:
                producer[tag] = self.text(first, stop)
        if graph is None:
            raise WireError("it has no graph", 0)
        return OnnxModel(
            path=path,
            ir_version=ir_version,
            opset_imports=opset_imports,
            producer_name=producer[_MODEL_PRODUCER_NAME],
            producer_version=producer[_MODEL_PRODUCER_VERSION],
            metadata=metadata,
            graph=graph,
            functions=tuple(functions.values()),
        )

    def graph(self, start: int, end: int, depth: int) -> Graph:
        if depth > MAX_BODY_DEPTH:
            raise WireError(f"graphs nested deeper than {MAX_BODY_DEPTH}", start)
        name = ""
        nodes: list[Node] = []
        inputs: list[Value] = []
        outputs: list[Value] = []
        initializers: list[Initializer] = []
        external: list[Initializer] = []
        for tag, at, first, stop in fields(self.data, start, end, _GRAPH):
            if tag not in _GRAPH_TAGS:
                continue
            self.spend(at)
            self.released = release_pages(self.data, stop, self.released)
            if tag == _GRAPH_NODE:
                nodes.append(self.node(first, stop, external, depth))
            elif tag == _GRAPH_INITIALIZER:
                initializers.append(self.tensor(first, stop))
            elif tag == _GRAPH_NAME:
                name = self.text(first, stop)
            elif tag == _GRAPH_INPUT:
                inputs.append(self.value(first, stop))
            elif tag == _GRAPH_OUTPUT:
                outputs.append(self.value(first, stop))
            else:
                initializers.append(self.sparse_tensor(first, stop, external))
        return Graph(name, nodes, tuple(inputs), tuple(outputs), tuple(initializers), tuple(external))

    def function(self, start: int, end: int) -> Function:
        nodes: list[Node] = []
        external: list[Initializer] = []
        identity = {_FUNCTION_NAME: "", _FUNCTION_DOMAIN: "", _FUNCTION_OVERLOAD: ""}
        values: dict[int, list[Value]] = {_FUNCTION_INPUT: [], _FUNCTION_OUTPUT: []}
        for tag, at, first, stop in fields(self.data, start, end, _FUNCTION):
            if tag == _FUNCTION_NODE:
                self.spend(at)
                nodes.append(self.node(first, stop, external, 0))
            elif tag in values:
                self.spend(at)
                values[tag].append(Value(self.text(first, stop), 0, None))
            elif tag in identity:
                identity[tag] = _path_name(self.data, first, stop, MAX_FUNCTION_NAME_BYTES)
        name, domain, overload = identity.values()
        inputs, outputs = values.values()
        return Function(domain, name, overload, Graph(name, nodes, tuple(inputs), tuple(outputs), (), tuple(external)))

    def node(self, start: int, end: int, external: list[Initializer], depth: int) -> Node:
        data, texts = self.data, self.texts
        name = op_type = domain = ""
        inputs: list[str] = []
        outputs: list[str] = []
        metadata: dict[str, str] = {}
        bodies: list[tuple[str, Graph]] = []
        first = start
        try:
            for tag, _, first, stop in fields(data, start, end, _NODE):
                if tag == _NODE_INPUT:
                    inputs.append(texts[data[first:stop]])
                elif tag == _NODE_OUTPUT:
                    outputs.append(texts[data[first:stop]])
                elif tag == _NODE_ATTRIBUTE:
                    attribute = _scan_attribute(data, first, stop, self.plain)
                    if attribute is not None:
                        self.attribute(attribute, bodies, external, depth)
                elif tag == _NODE_METADATA:
                    self.entry(metadata, first, stop)
                elif tag == _NODE_NAME:
                    name = texts[data[first:stop]]
                elif tag == _NODE_OP_TYPE:
                    op_type = texts[data[first:stop]]
                elif tag == _NODE_DOMAIN:
                    domain = texts[data[first:stop]]
        except UnicodeDecodeError:
            raise WireError("a string is not valid UTF-8", first) from None
        if len(bodies) > 1 and len({element for element, _ in bodies}) < len(bodies):
            raise WireError("a node has two attributes of the same name", start)
        return Node(name, op_type, domain, tuple(inputs), tuple(outputs), metadata, tuple(bodies))

    def attribute(
        self,
        attribute: tuple[list[_Body], list[_Field]],
        bodies: list[tuple[str, Graph]],
        external: list[Initializer],
        depth: int,
    ) -> None:
        graphs, tensors = attribute
        for element, (_, at, first, stop) in graphs:
            self.spend(at)
            bodies.append((element, self.graph(first, stop, depth + 1)))
        for tag, _, first, stop in tensors:
            sparse = tag in (_ATTRIBUTE_SPARSE_TENSOR, _ATTRIBUTE_SPARSE_TENSORS)
            tensor = self.sparse_tensor(first, stop, external) if sparse else self.tensor(first, stop)
            if tensor.location is not None:
                external.append(tensor)

    def tensor(self, start: int, end: int) -> Initializer:
        name, data_type, is_external = "", 0, False
        dims: list[int] = []
        where: dict[str, str] = {}
        for tag, at, first, stop in fields(self.data, start, end, _TENSOR):
            if tag in (_TENSOR_DIM, _TENSOR_PACKED_DIMS):
                self.dims(dims, tag, first, stop)
            elif tag == _TENSOR_DATA_TYPE:
                data_type = signed(first)
            elif tag == _TENSOR_NAME:
                name = self.text(first, stop)
            elif tag == _TENSOR_EXTERNAL_DATA:
                self.entry(where, first, stop)
            elif tag == _TENSOR_DATA_LOCATION:
                is_external = first == _EXTERNAL
            elif tag >> 3 == _TENSOR_DIM >> 3:
                raise WireError("the dimensions of a tensor are no integers", at)
        if not is_external:
            return Initializer(name, data_type, tuple(dims), None, 0, None)
        numbers = [where.get(key) for key in ("offset", "length")]
        if not where.get("location") or any(number is not None and not _is_size(number) for number in numbers):
            raise WireError(f"the external tensor {name!r} has no valid location, offset and length: {where}", start)
        offset, length = (None if number is None else int(number) for number in numbers)
        return Initializer(name, data_type, tuple(dims), where["location"], offset or 0, length)

    def dims(self, dims: list[int], tag: int, first: int, stop: int) -> None:
        """Adds what one field says about the shape: one dimension (`first` itself), or packed ones."""
        if tag & 7 == 0:
            dims.append(signed(first))
            return
        while first < stop:
            size, first = read_varint(self.data, first)
            dims.append(signed(size))
        if first > stop:
            raise WireError("a dimension runs past the end of the list that it is in", stop)

    def sparse_tensor(self, start: int, end: int, external: list[Initializer]) -> Initializer:
        values = Initializer("", 0, (), None, 0, None)
        dims: list[int] = []
        for tag, _, first, stop in fields(self.data, start, end, _SPARSE):
            if tag == _SPARSE_VALUES:
                values = self.tensor(first, stop)
            elif tag == _SPARSE_INDICES:
                indices = self.tensor(first, stop)
                if indices.location is not None:
                    external.append(indices)
            elif tag in (_SPARSE_DIM, _SPARSE_PACKED_DIMS):
                self.dims(dims, tag, first, stop)
        return replace(values, dims=tuple(dims))

    def value(self, start: int, end: int) -> Value:
        found = last_fields(self.data, start, end, _NAME_AND_TYPE)
        name = self.text(*found[1]) if 1 in found else ""
        of_tensor = last_fields(self.data, *found[2], _TENSOR_TYPE_ONLY).get(1) if 2 in found else None
        if of_tensor is None:
            return Value(name, 0, None)
        found = last_fields(self.data, *of_tensor, _ELEM_TYPE_AND_SHAPE)
        elem_type = signed(found[1][0]) if 1 in found else 0
        if 2 not in found:
            return Value(name, elem_type, None)
        shape: list[int | str | None] = []
        for tag, _, first, stop in fields(self.data, *found[2], _DIMENSIONS):
            if tag == _DIMENSION:
                shape.append(self.dimension(first, stop))
        return Value(name, elem_type, tuple(shape))

    def dimension(self, start: int, end: int) -> int | str | None:
        size: int | str | None = None
        for tag, _, first, stop in fields(self.data, start, end, _SIZE_OR_SYMBOL):
            if tag == _DIMENSION_SIZE:
                size = signed(first)
            elif tag == _DIMENSION_SYMBOL:
                size = self.text(first, stop)
        return size

    def opset_import(self, start: int, end: int) -> tuple[str, int]:
        found = last_fields(self.data, start, end, _DOMAIN_AND_VERSION)
        return self.text(*found[1]) if 1 in found else "", signed(found[2][0]) if 2 in found else 0

    def entry(self, entries: dict[str, str], start: int, end: int) -> None:
        encoded = self.data[start:end]
        known = self.entries.get(encoded)
        if known is None:
            found = last_fields(self.data, start, end, _KEY_AND_VALUE)
            known = tuple(self.text(*found[number]) if number in found else "" for number in (1, 2))
            self.entries[encoded] = known
        entries[known[0]] = known[1]


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20


class _Rewriter:
    """Describes the file that a mapped one becomes with other metadata."""

    def __init__(
        self,
        data: mmap.mmap,
        *,
        nodes: Mapping[tuple[str, int], Mapping[str, str]],
        owned: Callable[[str], bool],
    ) -> None:
        self.data = data
        self.remaining = dict(nodes)
        self.owned = owned
        self.released = 0
        self.is_owned: dict[bytes, bool] = {}
        self.plain: set[bytes] = set()
        self.encoded: dict[tuple[int, str, str], bytes] = {}

    def model(self, entries: Mapping[str, str]) -> Splice | None:
        """Returns the new file, None where it is the same as the old one."""
        data, end = self.data, len(self.data)
        splice = Splice(0)
        has_graph = False
        for tag, at, first, stop in fields(data, 0, end, _MODEL):
            if tag == _MODEL_METADATA:
                if self.is_ours(first, stop):
                    splice.cut(at, stop)
            elif tag in (_MODEL_GRAPH, _MODEL_FUNCTION):
                if tag == _MODEL_GRAPH:
                    if has_graph:
                        raise WireError("a second main graph", at)
                    has_graph, path, node_tag = True, "", _GRAPH_NODE
                else:
                    path, node_tag = self.function_path(first, stop), _FUNCTION_NODE
                splice.replace(tag, (at, first, stop), self.graph(first, stop, path, node_tag, 0))
        if not has_graph:
            raise WireError("it has no graph", 0)
        if self.remaining:
            path, position = next(iter(self.remaining))
            where = f"the graph {path!r}" if path else "the main graph"
            raise WireError(f"there is no node {position} in {where}: was the file changed since it was read?", 0)
        return splice.finish(end, self.encode(_MODEL_METADATA, entries))

    def function_path(self, start: int, end: int) -> str:
        found = last_fields(self.data, start, end, _FUNCTION_IDENTITY)
        domain, name, overload = (
            _path_name(self.data, *found.get(tag >> 3, (start, start)), MAX_FUNCTION_NAME_BYTES)
            for tag in (_FUNCTION_DOMAIN, _FUNCTION_NAME, _FUNCTION_OVERLOAD)
        )
        return _function_path(domain, name, overload)

    def graph(self, start: int, end: int, path: str, node_tag: int, depth: int) -> Splice | None:
        """Returns the new content of a graph or function, None where it stays the same."""
        if depth > MAX_BODY_DEPTH:
            raise WireError(f"graphs nested deeper than {MAX_BODY_DEPTH}", start)
        splice = Splice(start)
        position = 0
        for tag, at, first, stop in fields(self.data, start, end, {node_tag >> 3: node_tag & 7}):
            self.released = release_pages(self.data, stop, self.released)
            if tag == node_tag:
                splice.replace(tag, (at, first, stop), self.node(first, stop, path, position, depth))
                position += 1
        return splice.finish(end)

    def node(self, start: int, end: int, path: str, position: int, depth: int) -> Splice | None:
        data = self.data
        splice = Splice(start)
        for tag, at, first, stop in fields(data, start, end, _NODE):
            if tag == _NODE_METADATA:
                if self.is_ours(first, stop):
                    splice.cut(at, stop)
            elif tag == _NODE_ATTRIBUTE:
                attribute = _scan_attribute(data, first, stop, self.plain)
                if attribute is not None and attribute[0]:
                    content = self.bodies(attribute[0], (first, stop), _body_path(path, position, ""), depth)
                    splice.replace(tag, (at, first, stop), content)
        entries = self.remaining.pop((path, position), None)
        return splice.finish(end, self.encode(_NODE_METADATA, entries) if entries else b"")

    def bodies(self, bodies: list[_Body], span: tuple[int, int], path: str, depth: int) -> Splice | None:
        """Returns the new content of an attribute, whose bodies have paths that start with `path`."""
        splice = Splice(span[0])
        for element, (tag, at, first, stop) in bodies:
            content = self.graph(first, stop, path + element, _GRAPH_NODE, depth + 1)
            splice.replace(tag, (at, first, stop), content)
        return splice.finish(span[1])

    def is_ours(self, start: int, end: int) -> bool:
        """Whether the metadata entry in this span has a key that the caller owns."""
        found = last_fields(self.data, start, end, _KEY_AND_VALUE)
        key = self.data[slice(*found[1])] if 1 in found else b""
        known = self.is_owned.get(key)
        if known is None:
            known = self.is_owned[key] = self.owned(key.decode(errors="replace"))
        return known

    def encode(self, tag: int, entries: Mapping[str, str]) -> bytes:
        """Returns metadata entries as fields; the same entry is encoded once, as many nodes share a tag."""
        encoded = []
        for key, value in entries.items():
            field = self.encoded.get((tag, key, value))
            if field is None:
                entry = encode_message(_ENTRY_KEY, key.encode()) + encode_message(_ENTRY_VALUE, value.encode())
                field = self.encoded[tag, key, value] = encode_message(tag, entry)
            encoded.append(field)
        return b"".join(encoded)
