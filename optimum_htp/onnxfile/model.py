"""What an ONNX file says, without its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Node:
    """One operation.

    Attributes:
        name: Its name, often empty and never reliably unique.
        op_type: The operator.
        domain: The operator's domain as written, empty for ONNX's own.
        inputs: Names of the tensors it consumes; empty for an optional input that is not given.
        outputs: Names of the tensors it produces; empty for an output that is not wanted.
        metadata: Its `metadata_props`; of a repeated key, the last.
        bodies: The graphs in its attributes, by the attribute's name (for the i-th of a list, `name[i]`).
        repeated_keys: The keys that are in its `metadata_props` more than once.
    """

    name: str = ""
    op_type: str = ""
    domain: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    bodies: tuple[tuple[str, Graph], ...] = ()
    repeated_keys: tuple[str, ...] = ()

    @property
    def operator(self) -> str:
        """The operator with its domain, which ONNX's own do without: `MatMul`, `com.microsoft::Gelu`."""
        return operator_name(self.domain, self.op_type)


@dataclass(frozen=True, slots=True)
class Value:
    """A graph's input or output.

    Attributes:
        name: The tensor's name.
        elem_type: ONNX's number of the element type; 0 where it is not a tensor or not said.
        shape: Per dimension its size, its symbol or None (unknown); None where it is not a tensor or the rank is
            unknown.
    """

    name: str
    elem_type: int = 0
    shape: tuple[int | str | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class Initializer:
    """A tensor of the model's weights; its content is not read, but for a few numbers on request.

    Attributes:
        name: The tensor's name. For a sparse one, the name of its values.
        data_type: ONNX's number of the element type.
        dims: Its shape; for a sparse one, the dense shape.
        location: Where the content is, relative to the model's directory and as written; None if in the ONNX file.
        offset: Bytes from the start of `location` to the content.
        length: Bytes of content in `location`; None where it is not said.
        span: Where the content is in the ONNX file, as little-endian numbers in a row; None if it is not there, or not so.
        probe: A few of its numbers, as `probes` takes them; empty where they were not taken, or tell nothing.
    """

    name: str = ""
    data_type: int = 0
    dims: tuple[int, ...] = ()
    location: str | None = None
    offset: int = 0
    length: int | None = None
    span: tuple[int, int] | None = field(default=None, compare=False)
    probe: tuple[float, ...] = field(default=(), compare=False)


@dataclass(slots=True)
class Graph:
    """The main graph, a body or the inside of a function.

    Attributes:
        name: Its name.
        nodes: Its nodes, in the order of the file.
        inputs: What it is given.
        outputs: What it returns.
        initializers: Its initializers, the sparse ones too.
        external_attributes: External tensors that are not initializers: in its nodes' attributes, and the indices of
            sparse tensors. Tensors of that kind that are not external are left out.
    """

    name: str = ""
    nodes: list[Node] = field(default_factory=list)
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()
    initializers: tuple[Initializer, ...] = ()
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
        return function_path(self.domain, self.name, self.overload)

    @property
    def operator(self) -> str:
        """The `Node.operator` of the nodes that call it; functions that differ in their overload share it."""
        return operator_name(self.domain, self.name)


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """What an ONNX file says, without its weights.

    Attributes:
        path: The file it was read from; the empty path if it was not.
        ir_version: Version of the format; 0 where it is not said.
        opset_imports: Version of each operator domain.
        producer_name: The tool that wrote it.
        producer_version: That tool's version.
        metadata: Its `metadata_props`; of a repeated key, the last.
        graph: The main graph.
        functions: The operators it defines.
    """

    path: Path = Path()
    ir_version: int = 0
    opset_imports: dict[str, int] = field(default_factory=dict)
    producer_name: str = ""
    producer_version: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    graph: Graph = field(default_factory=Graph)
    functions: tuple[Function, ...] = ()

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
            holders = [(index, node) for index, node in enumerate(graph.nodes) if node.bodies]
            stack.extend(
                (body_path(path, index, element), body)
                for index, node in reversed(holders)
                for element, body in reversed(node.bodies)
            )

    def function_of(self, path: str) -> Function | None:
        """The function whose graph, or a body in it, has a path; None for the main graph and its bodies."""
        return next((each for each in self.functions if path == each.path or path.startswith(f"{each.path}/")), None)

    def called_functions(self, nodes: Iterable[Node]) -> tuple[Function, ...]:
        """The functions that nodes call, themselves, in their bodies and in those functions, in the order of the file."""
        called: set[str] = set()
        stack = list(nodes)
        while stack:
            node = stack.pop()
            stack += [inner for _, body in node.bodies for inner in body.nodes]
            fresh = [each for each in self.functions if each.operator == node.operator and each.path not in called]
            called.update(each.path for each in fresh)
            stack += [inner for each in fresh for inner in each.graph.nodes]
        return tuple(each for each in self.functions if each.path in called)

    def nodes(self) -> Iterator[tuple[tuple[str, int], Node]]:
        """Walks the nodes of all graphs, in the order of `graphs`.

        Yields:
            The node's key, which is the path of its graph and its index in it, and the node.
        """
        for path, graph in self.graphs():
            for index, node in enumerate(graph.nodes):
                yield (path, index), node


def operator_name(domain: str, op_type: str) -> str:
    """Returns what identifies an operator: its name, with its domain where that is not ONNX's own."""
    return op_type if domain in ("", "ai.onnx") else f"{domain}::{op_type}"


def function_path(domain: str, name: str, overload: str) -> str:
    """Returns the graph path of a function, which is its identity."""
    return f"{domain}::{name}:{overload}" if overload else f"{domain}::{name}"


def body_path(path: str, index: int, element: str) -> str:
    """Returns the graph path of the body `element` of the node at `index` in the graph `path`.

    >>> body_path("", 3, "then_branch"), body_path("3.then_branch", 7, "body")
    ('3.then_branch', '3.then_branch/7.body')
    """
    return f"{path}/{index}.{element}" if path else f"{index}.{element}"


def split_body_path(path: str) -> tuple[str, int, str] | None:
    """Takes apart what `body_path` made: the graph around a body, the index of the node and the attribute.

    None for the main graph and for the inside of a function.

    >>> split_body_path("3.then_branch/7.body"), split_body_path("pkg.domain::Gelu")
    (('3.then_branch', 7, 'body'), None)
    """
    above, _, last = path.rpartition("/")
    index, _, element = last.partition(".")
    return (above, int(index), element) if index.isdecimal() and "::" not in element else None


def node_id(node: Node, index: int) -> str:
    """Returns what identifies a node in its graph: its first output that has a name, else `#<index>`."""
    return next(filter(None, node.outputs), f"#{index}")


def external_data_files(model: OnnxModel) -> set[str]:
    """Returns the locations, as written, of all tensors whose content is outside the ONNX file, in any graph."""
    return {
        tensor.location
        for _, graph in model.graphs()
        for tensor in (*graph.initializers, *graph.external_attributes)
        if tensor.location is not None
    }
