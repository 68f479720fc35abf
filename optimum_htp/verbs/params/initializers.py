"""The stored tensors of an ONNX file: their values, one at a time, and the modules whose nodes read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import PackageError
from optimum_htp.onnxfile import Initializer, Node, SourceFiles, model_spans, scope_spans
from optimum_htp.package import HtpFile, names_problem
from optimum_htp.tagging import TaggedGraph


if TYPE_CHECKING:
    import numpy as np

    from optimum_htp.onnxfile import Data

_MAX_HANDS = 8
# Nodes that only hand a tensor on: whoever reads what they make is who the tensor is for.
_HANDS_ON = frozenset(
    "Identity Cast Transpose Reshape Unsqueeze Squeeze DequantizeLinear QuantizeLinear Flatten".split()
)


@dataclass(frozen=True, slots=True)
class Use:
    """A node that reads a stored tensor.

    Attributes:
        node: The node.
        slot: Which of its inputs the tensor is.
    """

    node: Node
    slot: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A stored tensor.

    Attributes:
        graph: The path of the graph that stores it.
        tensor: Its name, type and shape.
        uses: The nodes that read it.
        tags: The modules that it is for: those of the nodes that read it, also by way of nodes that hand it on.
    """

    graph: str
    tensor: Initializer
    uses: tuple[Use, ...]
    tags: tuple[str, ...]


def stored_tensors(file: TaggedGraph) -> list[StoredTensor]:
    """The stored tensors of a file in order."""
    readers = _Readers(file)
    return [
        StoredTensor(
            path,
            tensor,
            tuple(readers.uses(path, tensor.name)),
            tuple(dict.fromkeys(readers.tags(path, tensor.name))),
        )
        for path, graph in file.model.graphs()
        for tensor in graph.initializers
    ]


class _Readers:
    """Which nodes read a tensor, from whatever graph."""

    def __init__(self, file: TaggedGraph) -> None:
        self.file = file
        self.graphs = dict(file.model.graphs())
        self.made = {
            path: {value.name for value in graph.inputs}
            | {tensor.name for tensor in graph.initializers}
            | {name for node in graph.nodes for name in node.outputs}
            for path, graph in self.graphs.items()
        }
        self.readers: dict[tuple[str, str], list[tuple[str, int, int]]] = {}
        for path, graph in self.graphs.items():
            for position, node in enumerate(graph.nodes):
                for slot, name in enumerate(node.inputs):
                    self.readers.setdefault((self._home(path, name), name), []).append((path, position, slot))

    def uses(self, path: str, name: str) -> Iterator[Use]:
        """The nodes that read a tensor of a graph."""
        for at, position, slot in self.readers.get((path, name), ()):
            yield Use(self.graphs[at].nodes[position], slot)

    def tags(self, path: str, name: str, depth: int = 0) -> Iterator[str]:
        """The modules that a tensor is for."""
        for at, position, _ in self.readers.get((path, name), ()):
            node, tag = self.graphs[at].nodes[position], self.file.tags.get((at, position))
            if tag is not None and tag.source != "unresolved":
                yield from (*tag.origins, tag.tag)
            if node.op_type in _HANDS_ON and depth < _MAX_HANDS:
                for output in filter(None, node.outputs):
                    yield from self.tags(at, output, depth + 1)

    def _home(self, path: str, name: str) -> str:
        """The graph that a name is from: this one, or one around it."""
        while path and "::" not in path and name not in self.made[path]:
            path = path.rpartition("/")[0]
        return path


class Values:
    """Reads the values of stored tensors, one at a time.

    A context manager.
    """

    def __init__(self, file: HtpFile) -> None:
        self._file = file
        self._files = SourceFiles(file.path)
        self._spans: dict[tuple[str, str], tuple[int, int]] = {}
        for path in dict(file.model.graphs()):
            if "::" not in path:
                self._spans.update({(path, name): span for name, span in tensor_spans(self._files.data, path).items()})

    def __enter__(self) -> Values:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def read(self, graph: str, tensor: Initializer) -> np.ndarray[Any, Any] | None:
        """The values of a stored tensor; None of a sparse one, and of one of strings.

        Raises:
            PackageError: Its external data is not there.
        """
        import onnx

        span = self._spans.get((graph, tensor.name))
        if span is None or tensor.data_type == onnx.TensorProto.STRING:
            return None
        proto = onnx.TensorProto.FromString(self._files.data[slice(*span)])
        if tensor.location is not None:
            proto.raw_data = self._external(tensor)
            proto.data_location = onnx.TensorProto.DEFAULT
            del proto.external_data[:]
        array: np.ndarray[Any, Any] = onnx.numpy_helper.to_array(proto)
        return array

    def _external(self, tensor: Initializer) -> bytes:
        assert tensor.location is not None
        path = self._file.path.parent / tensor.location
        if names_problem([PurePosixPath(tensor.location).as_posix()]) is not None or not path.is_file():
            raise PackageError(
                f"{self._file.path}: its weights are in {tensor.location!r}, which is no file of the package"
            )
        with path.open("rb") as stream:
            stream.seek(tensor.offset)
            return stream.read() if tensor.length is None else stream.read(tensor.length)


def tensor_spans(data: Data, path: str) -> dict[str, tuple[int, int]]:
    """Where the initializers of a graph are in a file, by name."""
    span = model_spans(data).graph
    return dict(scope_spans(data, span, path)[-1].tensors)
