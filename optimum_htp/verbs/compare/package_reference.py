"""A package as the reference for another that was made from it, or from the same model: no PyTorch is needed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice

from optimum_htp.hierarchy import NodeTag, tag_ancestors, tag_class, tag_module_path
from optimum_htp.models import Array, Prober, computes_in
from optimum_htp.onnxfile import Node, reads
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.compare.call_graph import CallGraph
from optimum_htp.verbs.compare.kept_values import KeptValues
from optimum_htp.verbs.compare.reference import CallValues, PortValue, ReferenceCall

_BYTES = 4  # of a number, or fewer

_Key = tuple[str, int]


class PackageReference:
    """A file of another package, run on some inputs: what crosses the borders of calls in its graph.

    `inputs` are those of the graph that is compared, and `own_inputs` the reference's; `results` has the tensors that its
    outputs are compared with, and `shared` those that it has too: where it lacks what a
    call returned, the last of these that the same module made stands for it. Up to `max_bytes` are kept.

    Attributes:
        graph: Its nodes and whose they are.
        prober: What runs a part of it.
    """

    def __init__(
        self,
        name: str,
        tagged: TaggedGraph,
        prober: Prober,
        *,
        inputs: Mapping[str, Array],
        own_inputs: Mapping[str, Array],
        results: Mapping[str, str],
        shared: Container[str],
        max_bytes: int,
    ) -> None:
        self.name = name
        self.precision = computes_in(tagged.model)
        self.inputs = inputs
        self._given = own_inputs
        self._shared = shared
        self._tagged = tagged
        self.prober = prober
        self._count = cache(tagged.calls)  # how often a module ran, if known
        self.calls: Sequence[ReferenceCall] = self._find_calls()
        self._numbers = {(call.tag, call.call): call.number for call in self.calls}
        self.graph = CallGraph(prober.flat, self.calls, self.call_of)
        self._partial: set[str] = set()  # what stands for the output of a call
        self._borders = {number: self._border(number) for number in self.graph.nodes}
        self.named_calls = sorted(self.graph.nodes)
        self.calls = self._with_sizes()
        self._values = KeptValues({call.number: call.bytes for call in self.calls}, self._load, max_bytes=max_bytes)
        known = self._run(name for name in results.values() if self.has(name))
        outputs = {name: known[theirs] for name, theirs in results.items() if theirs in known}
        self.outputs: Mapping[str, Array] = {name: value for name, value in outputs.items() if hasattr(value, "dtype")}

    def has(self, name: str) -> bool:
        """Whether the graph has a tensor with a name that depends on its inputs."""
        return name in self.prober.flat.producer

    def call_of(self, tag: NodeTag) -> int | None:
        """The number of the call that a node belongs to, or of the innermost around it that has nodes here."""
        known = [self._numbers[key] for key in self._chain(tag) if key in self._numbers]
        return known[-1] if known else None

    def same_node(self, node: Node) -> int | None:
        """The call of a node of the graph with this operator and these outputs; None if there is none."""
        index = self.prober.flat.producer.get(node.outputs[0]) if node.outputs else None
        if index is None:
            return None
        own = self.prober.flat.nodes[index].node
        return self.graph.owner[index] if (own.op_type, own.outputs) == (node.op_type, node.outputs) else None

    def owner_of(self, name: str) -> int | None:
        """The call that made the tensor with a name; None if there is none."""
        index = self.prober.flat.producer.get(name)
        return None if index is None else self.graph.owner[index]

    def sources_of(self, name: str, known: Container[str]) -> tuple[dict[str, set[int]], set[int]] | None:
        """The nearest tensors before one with known names, each with the calls on the way from it, and all calls in between."""
        if not self.has(name):
            return None
        flat, graph = self.prober.flat, self.graph
        sources, nodes = flat.known_sources(name, known)
        on_the_way: dict[str, set[int]] = {}
        for source in sources:
            made = {source}
            owners = on_the_way.setdefault(source, set())
            for index in sorted(nodes):
                if made.isdisjoint(reads(flat.nodes[index].node)):
                    continue
                made.update(flat.nodes[index].node.outputs)
                owner = graph.owner[index]
                if owner is not None:
                    owners.add(owner)
        return on_the_way, {owner for index in nodes if (owner := graph.owner[index]) is not None}

    def weights_of(self, number: int, *, after: str = "") -> list[Array]:
        """The weights that a call's own nodes use, those after a tensor: the initializers of some length."""
        first = self.prober.flat.producer.get(after, -1)
        owners = enumerate(self.graph.owner)
        nodes = [self.prober.flat.nodes[index].node for index, owner in owners if owner == number and index > first]
        names = dict.fromkeys(name for node in nodes for name in node.inputs if name)
        known = (self.prober.constant(name) for name in names)
        return [array for array in known if array is not None and array.ndim and array.dtype.kind == "f"]

    def values(self, wanted: Sequence[int]) -> dict[int, CallValues]:
        """What enters and leaves some calls, by the names in the graph."""
        return self._values.of(wanted)

    def _load(self, wanted: Sequence[int]) -> dict[int, CallValues]:
        borders = {number: self._borders.get(number, ((), ())) for number in wanted}
        values = self._run(name for sides in borders.values() for side in sides for name in side)
        arrays = {name: value for name, value in values.items() if hasattr(value, "dtype")}

        def known(side: Sequence[str]) -> tuple[PortValue, ...]:
            return tuple(PortValue(arrays[name], name, name not in self._partial) for name in side if name in arrays)

        return {
            number: CallValues(
                known(received), tuple(value for value in known(returned) if value.array.dtype.kind == "f")
            )
            for number, (received, returned) in borders.items()
        }

    def tensors(self, names: Iterable[str]) -> dict[str, Array]:
        """The values of tensors and inputs of the graph, those that it has."""
        return self._run(name for name in names if self.has(name) or name in self._given)

    def _run(self, names: Iterable[str]) -> dict[str, Array]:
        return self.prober.run(list(dict.fromkeys(names)), self._given)

    def _border(self, number: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        graph, prober = self.graph, self.prober
        received = [name for name in graph.entering(number) if prober.may_be_port(name)]
        inside = [name for name in graph.inside(number) if prober.may_be_float(name)]
        leaving = [name for name in graph.leaving(number) if name in inside and graph.is_used(number, name)]
        returned = leaving or inside[:1]
        if not any(name in self._shared for name in returned):
            makers = {self.owner_of(name) for name in returned}
            known = (name for name in inside if name in self._shared and self.owner_of(name) in makers)
            partial = list(islice(known, 1))
            self._partial.update(partial)
            returned = partial or returned
        return tuple(received), tuple(reversed(returned))

    def _with_sizes(self) -> list[ReferenceCall]:
        """The calls with the sizes of what they take and return, from a run that holds none of it."""
        names = {name for sides in self._borders.values() for side in sides for name in side}
        lengths = self.prober.lengths([name for name in names if self.has(name)], self._given)
        own: dict[int, int] = {}
        for owner in self.graph.owner:
            if owner is not None:
                own[owner] = own.get(owner, 0) + 1
        return [
            replace(
                call,
                bytes=_BYTES * sum(lengths.get(name, 0) for side in self._borders[call.number] for name in side),
                nodes=own.get(call.number, 0),
            )
            for call in self.calls
        ]

    def _find_calls(self) -> list[ReferenceCall]:
        """The calls of modules with nodes, in the order of their last nodes."""
        last: dict[_Key, int] = {}
        for index, flat in enumerate(self.prober.flat.nodes):
            if flat.tag is not None and flat.tag.source != "unresolved":
                last.update(dict.fromkeys(self._chain(flat.tag), index))
        # Of calls that end with the same node the inner ones end first.
        order = sorted(last, key=lambda key: (last[key], -key[0].count("/")))
        numbers = {key: number for number, key in enumerate(order)}
        return [
            ReferenceCall(
                number=number,
                tag=tag,
                path=tag_module_path(tag),
                class_name=tag_class(tag),
                call=call,
                repeated=(self._count(tag) or 1) > 1,
                parent=self._parent(tag, call, numbers),
            )
            for number, (tag, call) in enumerate(order)
        ]

    def _chain(self, tag: NodeTag) -> Iterator[_Key]:
        """The calls that a node belongs to, as far as they are known: of a node that several share, those around them."""
        for above in tag_ancestors(tag.tag):
            call = self._call(tag, above)
            if call is not None:
                yield above, call

    def _call(self, tag: NodeTag, above: str) -> int | None:
        """The call of a module that a node was made in; if it is unknown how often the module ran, its only one."""
        call = self._tagged.roots.call_above(tag, above)
        return 0 if call is None and self._count(above) is None else call

    def _parent(self, tag: str, call: int, numbers: Mapping[_Key, int]) -> int | None:
        """The call that one was made from, or the innermost around it that is known."""
        node = NodeTag(tag, "scope", call)
        known = [numbers[key] for key in self._chain(node) if key in numbers and key[0] != tag]
        return known[-1] if known else None
