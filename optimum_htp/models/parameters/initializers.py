"""The initializers of an ONNX file: their values, one at a time, and the modules whose nodes consume them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from optimum_htp.hierarchy import NodeKey
from optimum_htp.models.parameters.state_dict import Array
from optimum_htp.onnxfile import Edges, Initializer, Node, SourceFiles, element_type, model_spans, scope_spans
from optimum_htp.package import HtpFile, external_file
from optimum_htp.tagging import TaggedGraph

# Operators that pass a tensor through: the consumers of their output count as the tensor's.
_PASS_THROUGH = frozenset(
    "Identity Cast Transpose Reshape Unsqueeze Squeeze DequantizeLinear QuantizeLinear Flatten".split()
)
_MAX_PASSES = 8


class Consumer(NamedTuple):
    """A node that consumes an initializer, as its input `slot`."""

    node: Node
    slot: int


@dataclass(frozen=True, slots=True)
class TaggedInitializer:
    """An initializer of a graph, its consumers, and the tags of the modules that it is for.

    Those are the modules of the nodes that consume it, directly or passed through others.
    """

    graph: str
    tensor: Initializer
    consumers: tuple[Consumer, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """The path of its graph, and its name."""
        return self.graph, self.tensor.name


def tagged_initializers(file: TaggedGraph) -> list[TaggedInitializer]:
    """The initializers of a file, in order."""
    edges = Edges(file.model)
    uses: dict[tuple[str, str], list[tuple[NodeKey, Consumer]]] = {}
    for key, node in file.model.nodes():
        for slot, name in enumerate(node.inputs):
            tensor = edges.find(key[0], name)
            if tensor is not None:
                uses.setdefault(tensor, []).append((key, Consumer(node, slot)))

    def tags(tensor: tuple[str, str], passes: int = 0) -> Iterator[str]:
        for key, (node, _) in uses.get(tensor, ()):
            tag = file.tags.get(key)
            if tag is not None and tag.source != "unresolved":
                yield from (*tag.origins, tag.tag)
            if node.op_type in _PASS_THROUGH and passes < _MAX_PASSES:
                for output in filter(None, node.outputs):
                    yield from tags((key[0], output), passes + 1)

    return [
        TaggedInitializer(
            path,
            tensor,
            tuple(consumer for _, consumer in uses.get((path, tensor.name), ())),
            tuple(dict.fromkeys(tags((path, tensor.name)))),
        )
        for path, graph in file.model.graphs()
        for tensor in graph.initializers
    ]


@contextmanager
def initializer_values(file: HtpFile) -> Iterator[Callable[[TaggedInitializer], Array | None]]:
    """Gives a function that reads the values of an initializer; None for a sparse one, and for one of strings."""
    import onnx

    spans: dict[tuple[str, str], tuple[int, int]] = {}
    with SourceFiles(file.path) as files:
        main = model_spans(files.data).graph
        for path, _ in file.model.graphs():
            if "::" not in path:  # functions have no initializers
                tensors = scope_spans(files.data, main, path)[-1].tensors
                spans.update({(path, name): span for name, span in tensors.items()})

        def read(initializer: TaggedInitializer) -> Array | None:
            tensor, span = initializer.tensor, spans.get(initializer.key)
            if span is None or element_type(tensor.data_type).kind == "string":
                return None
            proto = onnx.TensorProto.FromString(files.data[slice(*span)])
            if tensor.location is not None:
                with external_file(file.path, tensor.location, package=file.directory).open("rb") as stream:
                    stream.seek(tensor.offset)
                    proto.raw_data = stream.read(-1 if tensor.length is None else tensor.length)
                proto.data_location = onnx.TensorProto.DEFAULT
                del proto.external_data[:]
            array: Array = onnx.numpy_helper.to_array(proto)
            return array

        yield read
