"""A package as the reference for another that was made from it, or from the same model: no PyTorch is needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

from optimum_htp.hierarchy import NodeTag, tag_ancestors, tag_class, tag_module_path
from optimum_htp.models import Array
from optimum_htp.package import ValuePairs
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.compare.boundaries import Boundaries
from optimum_htp.verbs.compare.prober import Prober
from optimum_htp.verbs.compare.reference import ReferenceCall

_BYTES = 4  # of a number, or fewer

_Key = tuple[str, int]


class PackageReference:
    """A file of another package, run on the same inputs; `inputs` and `outputs` have the names of what is compared.

    `shared` are the tensors of the graph that is compared: of several that a call may have returned, one of these is it.
    """

    def __init__(
        self,
        name: str,
        tagged: TaggedGraph,
        prober: Prober,
        inputs: Mapping[str, Array],
        shared: Collection[str],
        input_pairs: ValuePairs,
        output_pairs: ValuePairs,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self._given = input_pairs.theirs(inputs)
        self._tagged = tagged
        self._prober = prober
        self._shared = shared
        self._count = cache(tagged.calls)  # how often a module ran, if known
        self.calls: Sequence[ReferenceCall] = self._find_calls()
        self._numbers = {(call.tag, call.call): call.number for call in self.calls}
        self._boundaries = Boundaries(prober.flat, self.calls, self.call_of, prober.may_be_float)
        self.calls = self._with_sizes()
        outputs = output_pairs.ours(prober.run(prober.flat.outputs, self._given))
        self.outputs: Mapping[str, Array] = {name: value for name, value in outputs.items() if hasattr(value, "dtype")}

    def call_of(self, tag: NodeTag) -> int | None:
        """The number of the call that a node belongs to, or of the innermost around it that has nodes here."""
        known = [self._numbers[key] for key in self._chain(tag) if key in self._numbers]
        return known[-1] if known else None

    def returned(self, wanted: Sequence[int]) -> dict[int, tuple[Array, ...]]:
        """What some calls returned: the last floating-point tensor that is used outside."""
        chosen = {number: self._output(number) for number in wanted}
        values = self._prober.run([name for name in chosen.values() if name is not None], self._given)
        return {
            number: (values[name],) if name is not None and values[name].dtype.kind == "f" else ()
            for number, name in chosen.items()
        }

    def named(self, names: Sequence[str]) -> dict[str, Array]:
        """The tensors with some names, those that a node of the graph produces."""
        return self._prober.run([name for name in names if name in self._prober.flat.producer], self._given)

    def received(self, number: int) -> tuple[Array, ...]:
        """The tensors that a call takes from outside."""
        return tuple(self._prober.run(self._boundaries.entering(number), self._given).values())

    def _output(self, number: int) -> str | None:
        if number not in self._boundaries.nodes or number in self._boundaries.fused:
            return None
        candidates = self._boundaries.candidates(number)
        used = (name for name in candidates if self._boundaries.is_used(number, name))
        return next((name for name in used if name in self._shared), next(iter(candidates), None))

    def _with_sizes(self) -> list[ReferenceCall]:
        """The calls with the sizes of what they return, from a run that holds none of it."""
        chosen = {call.number: self._output(call.number) for call in self.calls}
        lengths = self._prober.lengths([name for name in chosen.values() if name is not None], self._given)
        sizes = {number: _BYTES * lengths.get(name or "", 0) for number, name in chosen.items()}
        fused = self._boundaries.fused
        return [replace(call, bytes=sizes[call.number], fused=call.number in fused) for call in self.calls]

    def _find_calls(self) -> list[ReferenceCall]:
        """The calls of modules with nodes, in the order of their last nodes."""
        last: dict[_Key, int] = {}
        for index, flat in enumerate(self._prober.flat.nodes):
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
        above = tag.rpartition("/")[0]
        outer = self._call(NodeTag(tag, "scope", call), above) if above else None
        return numbers.get((above, outer)) if outer is not None else None
