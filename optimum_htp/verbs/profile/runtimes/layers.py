"""The modules of layers that a runtime made of a file, where each says which nodes it was made of.

A layer that was made of several nodes does the work of all of them. One that says nothing, or only names of the runtime's own,
gets the module that projection gives it in the graph of all layers; that graph has the file's names for the tensors between
layers, wherever they are known.

    the file   a = Gather(w, ids)   embed     layers   Convert_7 (ids)          of nothing: put in, embed by projection
               n = LayerNorm(a)     norm               /embed/Gather            of /embed/Gather: embed
               y = MatMul(n, v)     head               MVN_32                   of nothing: norm by projection
                                                       Multiply_39              of Multiply_39, /norm/LayerNorm: norm
                                                       /head/MatMul             of /head/MatMul: head
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from optimum_htp.hierarchy import NodeKey, NodeTag, NodeTags, common_ancestor
from optimum_htp.onnxfile import Graph, Node, OnnxModel, reads
from optimum_htp.tagging import TaggedGraph, project, work_of
from optimum_htp.verbs.profile.flops import is_counted
from optimum_htp.verbs.profile.joiner import Event

_DOMAIN = "runtime"  # so that no operator of a runtime is taken for ONNX's of the same name


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer.

    Attributes:
        name: Its name.
        op_type: What it does, as the runtime calls it; empty where it doesn't say.
        made_of: The nodes of the file that it was made of.
        is_part: Whether it only prepares what another layer does, which was made of the same nodes.
        inputs: The tensors that it reads, by the names that the runtime has for them; empty where it doesn't say.
        outputs: The tensors that it makes.
    """

    name: str
    op_type: str
    made_of: tuple[NodeKey, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    is_part: bool = False


class SourceNames:
    """The nodes of a file, by the names that a runtime may have for them."""

    def __init__(self, model: OnnxModel) -> None:
        self.nodes = dict(model.nodes())
        self.order = {key: index for index, key in enumerate(self.nodes)}
        self.tensors = {name for _, graph in model.graphs() for name in _defined(graph)}
        self.weights = {tensor.name for _, graph in model.graphs() for tensor in graph.initializers}
        self._by_name: dict[str, list[NodeKey]] = {}
        makers: dict[str, list[NodeKey]] = {}
        self._readers: dict[str, list[NodeKey]] = {}
        for key, node in self.nodes.items():
            if node.name:
                self._by_name.setdefault(node.name, []).append(key)
            for name in filter(None, node.outputs):
                makers.setdefault(name, []).append(key)
            for name in reads(node):
                self._readers.setdefault(name, []).append(key)
        self._makers = makers
        self.constant = set(_constant(model))

    def find(self, name: str) -> tuple[NodeKey, ...]:
        """The nodes with a name, in all graphs; where there is none, those that make the tensor of that name."""
        return tuple(self._by_name.get(name) or self._makers.get(name) or ())

    def readers(self, name: str) -> tuple[NodeKey, ...]:
        """The nodes that read the tensor of a name."""
        return tuple(self._readers.get(name, ()))

    def __iter__(self) -> Iterator[str]:
        """The names of nodes and of what they make."""
        return iter(dict.fromkeys((*self._by_name, *self._makers)))

    def whole(self, keys: Iterable[NodeKey]) -> tuple[NodeKey, ...]:
        """Nodes and those in their bodies, in the order of the file."""
        found = set(keys)
        bodies = tuple(
            f"{path}/{index}." if path else f"{index}." for path, index in found if self.nodes[path, index].bodies
        )
        if bodies:
            found |= {key for key in self.nodes if key[0].startswith(bodies)}
        return tuple(sorted(found, key=self.order.__getitem__))


def _constant(model: OnnxModel) -> Iterator[NodeKey]:
    """The nodes of the main graph whose results depend on no input: most runtimes compute them when they load a file."""
    known = {tensor.name for tensor in model.graph.initializers} - {value.name for value in model.graph.inputs}
    known.add("")  # an input that is not given
    for index, node in enumerate(model.graph.nodes):
        if known.issuperset(reads(node)) and not node.op_type.startswith("Random"):
            known.update(node.outputs)
            yield "", index


def _defined(graph: Graph) -> Iterator[str]:
    yield from (value.name for value in graph.inputs)
    yield from (tensor.name for tensor in graph.initializers)
    yield from (name for node in graph.nodes for name in node.outputs if name)


class Layers:
    """The layers that a runtime made of a file, as nodes; events are of the layer with their index."""

    def __init__(self, layers: Sequence[Layer], tagged: TaggedGraph, names: SourceNames) -> None:
        self._layers, self._tagged, self._names = layers, tagged, names
        self._renamed = dict(self._known_outputs())

    @cached_property
    def nodes(self) -> dict[NodeKey, Node]:
        """The layers; of the tensors that they make those that the file has."""
        return {
            ("", index): Node(
                layer.name,
                layer.op_type,
                inputs=tuple(map(self._called, layer.inputs)),
                outputs=tuple(name for name in map(self._called, layer.outputs) if name in self._names.tensors),
            )
            for index, layer in enumerate(self._layers)
        }

    def join(self, events: Sequence[Event]) -> list[tuple[Event, NodeKey | None]]:
        """The layer of each event."""
        return [(event, ("", event.index) if ("", event.index) in self.nodes else None) for event in events]

    def is_made_of_nodes(self, index: int) -> bool:
        """Whether a layer says which nodes it was made of."""
        return bool(self._layers[index].made_of)

    @cached_property
    def made_of(self) -> list[tuple[NodeKey, ...]]:
        """The nodes that each layer was made of: those that it says, and those with most work that no layer says.

        Of `y = MatMul(x, w) + b` as one layer, runtimes may say the sum alone. It is the layer that reads the weight, where one
        alone does; else whose work is done where is found as for any graph that a tool made.
        """
        made = [layer.made_of for layer in self._layers]
        said = {key for keys in made for key in keys}
        silent = {
            key for key, node in self._names.nodes.items() if is_counted(node.domain, node.op_type) and key not in said
        } - self._names.constant
        if not silent or not any(layer.inputs or layer.outputs for layer in self._layers):
            return made
        found: dict[int, list[NodeKey]] = {}
        for key in sorted(silent, key=self._names.order.__getitem__):
            index = self._reader(key)
            if index is not None:
                found.setdefault(index, []).append(key)
                silent.discard(key)
        if silent:
            for (_, index), olds in work_of(self._tagged.model, self._graph(as_nodes=False)).items():
                more = silent.intersection(olds)
                found.setdefault(index, []).extend(more)
                silent -= more
        for index, keys in found.items():
            made[index] = self._names.whole((*made[index], *keys))
        return made

    @cached_property
    def tags(self) -> NodeTags:
        """The tag of each layer whose module is known."""
        found: dict[NodeKey, NodeTag] = {}
        projected: Mapping[NodeKey, NodeTag] | None = None
        for index, (layer, keys) in enumerate(zip(self._layers, self.made_of, strict=True)):
            tag = self._of_several(keys)
            if tag is None and (layer.inputs or layer.outputs):
                if projected is None:
                    projected = project((self._tagged,), self._graph(as_nodes=True)).tags
                tag = projected.get(("", index))
            if tag is not None:
                found["", index] = tag
        return found

    def does(self, *, ran: Callable[[int], bool]) -> dict[int, list[NodeKey]]:
        """Which of the file's nodes with most work each layer does that ran, each node once.

        The layer that reads a node's weight, where one alone does; else the first that was made of it.
        """
        owners: dict[NodeKey, int] = {}
        for index in sorted(range(len(self._layers)), key=lambda index: self._layers[index].is_part):
            if ran(index):
                for key in self.made_of[index]:
                    owners.setdefault(key, index)
        done: dict[int, list[NodeKey]] = {}
        for key, first in owners.items():
            node = self._names.nodes[key]
            if is_counted(node.domain, node.op_type):
                reader = self._reader(key)
                owner = reader if reader is not None and ran(reader) and key in self.made_of[reader] else first
                done.setdefault(owner, []).append(key)
        return done

    def _reader(self, key: NodeKey) -> int | None:
        """The only layer that reads a weight of a node; None if there is none, or there are several."""
        weights = self._names.weights.intersection(self._names.nodes[key].inputs)
        found = {index for name in weights for index in self._readers.get(name, ())}
        return found.pop() if len(found) == 1 else None

    @cached_property
    def _readers(self) -> dict[str, list[int]]:
        """The layers that read a tensor, by its name."""
        readers: dict[str, list[int]] = {}
        for (_, index), node in self.nodes.items():
            for name in dict.fromkeys(node.inputs):
                readers.setdefault(name, []).append(index)
        return readers

    def _graph(self, *, as_nodes: bool) -> OnnxModel:
        """The graph of all layers, whose operators are the runtime's; or `as_nodes` the last node's that each was made of."""
        main = self._tagged.model.graph
        nodes = []
        for index, (layer, node) in enumerate(zip(self._layers, self.nodes.values(), strict=True)):
            last = self._last(layer)
            outputs = tuple(map(self._called, layer.outputs)) or (f"{index}:{layer.name}",)
            if as_nodes and last is not None:
                nodes.append(replace(node, outputs=outputs, op_type=last.op_type, domain=last.domain))
            else:
                nodes.append(replace(node, outputs=outputs, domain=_DOMAIN))
        return OnnxModel(
            path=self._tagged.model.path,
            opset_imports=self._tagged.model.opset_imports,
            graph=Graph(main.name, nodes, main.inputs, main.outputs, main.initializers),
        )

    def _last(self, layer: Layer) -> Node | None:
        """The last node of the main graph that a layer was made of; bodies come after it. None of one that makes no result."""
        if layer.is_part:
            return None
        main = [key for key in layer.made_of if not key[0]]
        keys = main or layer.made_of
        return self._names.nodes[keys[-1]] if keys else None

    def _known_outputs(self) -> Iterator[tuple[str, str]]:
        """The file's names for what layers make that were made of nodes, by those of the runtime."""
        taken = {name for layer in self._layers for name in layer.outputs if name in self._names.tensors}
        for layer in self._layers:
            last = self._last(layer)
            if last is not None and not taken.intersection(layer.outputs):
                made = tuple(filter(None, last.outputs))
                if len(made) >= len(layer.outputs) and taken.isdisjoint(made):
                    taken.update(made)
                    yield from zip(layer.outputs, made, strict=False)

    def _called(self, name: str) -> str:
        return self._renamed.get(name, name)

    def _of_several(self, keys: Sequence[NodeKey]) -> NodeTag | None:
        """The tag of a layer that was made of some nodes; None if no module of any is known."""
        tags = [tag for key in keys if (tag := self._tagged.tags.get(key)) is not None and tag.source != "unresolved"]
        origins = tuple(dict.fromkeys(origin for tag in tags for origin in (tag.origins or (tag.tag,))))
        try:
            above = common_ancestor(origins)
        except ValueError:  # none, or of several models
            return None
        if len(origins) == 1:
            calls = {tag.call for tag in tags}
            return replace(tags[0], call=calls.pop() if len(calls) == 1 else None, origins=())
        roots = self._tagged.roots
        around = (
            {roots.call_above(tag, above) for tag in dict.fromkeys(tags)} if (roots.calls(above) or 1) > 1 else {None}
        )
        call = around.pop() if len(around) == 1 else None
        return NodeTag(above, "fused", call, origins)
