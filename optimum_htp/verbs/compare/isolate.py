"""Calls that are off, run on the reference's tensors: what of the error each adds itself, apart from what it inherits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from optimum_htp.models import Array, Errors, compare_arrays, measure_in_any_layout, worst_errors
from optimum_htp.onnxfile import element_type
from optimum_htp.verbs.compare.matching import Matcher
from optimum_htp.verbs.compare.report import CallComparison, Isolated


class Isolator:
    """Runs calls on what the reference has before them; `calls` is what the matcher made of them."""

    def __init__(self, matcher: Matcher, calls: Sequence[CallComparison]) -> None:
        self._matcher = matcher
        self._flat = matcher.prober.flat
        self._reference = matcher.reference
        self._tolerance = matcher.tolerance
        self._calls = {call.order: call for call in calls}

    def isolate(self, comparison: CallComparison) -> Isolated | None:
        """Runs a call on the reference's tensors; None if they can't replace the graph's own."""
        number = comparison.order
        stops = self._reference_tensors(number)
        tensors = self._matcher.matches[number].tensors
        nodes, needed = self._flat.slice_to(tensors, stop=stops)
        fed = {name: stops[name] for name in needed if name in stops}
        given = {name: self._in_type_of(name, array) for name, array in self._values(fed).items()}
        added = self._error(number, given)
        if added is None:
            return None
        outside = self._flat.varying - self._matcher.boundaries.nodes[number]
        before = [index for index in nodes if index in outside]
        between = self._calls_of(filter(self._computes, before))
        alone, source = None, None
        if added.relative > self._tolerance:
            alone, source = self._source(number, self._calls_of(before), given)
        return Isolated(
            call=comparison,
            added=added,
            alone=alone,
            source=self._calls.get(source) if source is not None else None,
            fed=tuple(fed),
            between=tuple(sorted({self._reference.calls[other].path or "(root)" for other in between})),
            not_fed=len(needed) - len(fed),
        )

    def _reference_tensors(self, number: int) -> dict[str, tuple[int, int] | None]:
        """The tensors that other calls returned, but for those that contain this one: the call, and which output.

        None if the reference's graph has the tensor by the same name. Those of the calls inside are among them, so that
        only what the module does itself is left.
        """
        around = set(self._matcher.boundaries.around(number))
        stops: dict[str, tuple[int, int] | None] = {}
        for other, match in self._matcher.matches.items():
            if other in around or self._matcher.is_fused(other):
                continue
            target = other if match.compared_as is None else match.compared_as
            for index, output in enumerate(match.outputs):
                if output.tensor is not None and output.errors is not None and not output.permuted:
                    stops.setdefault(output.tensor, None if match.by_name else (target, index))
        return stops

    def _values(self, fed: Mapping[str, tuple[int, int] | None]) -> dict[str, Array]:
        wanted = self._reference.returned(list(dict.fromkeys(place[0] for place in fed.values() if place is not None)))
        named = self._reference.named([name for name, place in fed.items() if place is None])
        return {name: named[name] if place is None else wanted[place[0]][place[1]] for name, place in fed.items()}

    def _error(self, number: int, given: Mapping[str, Array]) -> Errors | None:
        """How far off a call is if some tensors are given; None if that can't be run."""
        match = self._matcher.matches[number]
        values = self._matcher.run(match.tensors, given)
        if values is None:
            return None
        expected = self._matcher.expected(number)
        measured = (
            measure_in_any_layout(values[output.tensor], array, tolerance=self._tolerance)
            for output, array in zip(match.outputs, expected, strict=False)
            if output.tensor is not None
        )
        return worst_errors(measured)

    def _calls_of(self, nodes: Iterable[int]) -> set[int]:
        """The calls that some nodes belong to."""
        owners = (self._matcher.boundaries.owner[index] for index in nodes)
        return {owner for owner in owners if owner is not None}

    def _computes(self, index: int) -> bool:
        """Whether a node produces a floating-point tensor."""
        return any(name and self._matcher.prober.may_be_float(name) for name in self._flat.nodes[index].node.outputs)

    def _source(self, number: int, before: set[int], given: Mapping[str, Array]) -> tuple[Errors | None, int | None]:
        """The error of a call on what the reference's module was given, and the call whose own operations make it.

        Before it are the calls whose own operations lie between it and the reference's tensors, which are given.
        """
        alone = self._on_inputs_of(number, number, given) if before else None
        if alone is None or alone.relative > self._tolerance:
            return alone, number
        _, *around = self._matcher.boundaries.around(number)
        for outer in around:
            errors = self._on_inputs_of(outer, number, given) if outer in before else alone
            if errors is None or errors.relative > self._tolerance:
                return alone, outer
        agreeing = {call.order for call in self._calls.values() if call.errors is not None and not call.over}
        return alone, max(before.difference(around, agreeing), default=None)

    def _on_inputs_of(self, outer: int, number: int, given: Mapping[str, Array]) -> Errors | None:
        """How far off a call is if one around it, or it itself, gets just what the reference's was given.

        Tensors go with inputs of their shape, of several with the nearest. None if that leaves no input known.
        """
        entering = [name for name in self._matcher.boundaries.entering(outer) if name not in given]
        values = self._matcher.run(entering, given) if entering else None
        if values is None:
            return None
        received = dict(enumerate(self._reference.received(outer)))
        distances = [
            (compare_arrays(value, array).relative, name, index)
            for name, value in values.items()
            for index, array in received.items()
            if value.shape == array.shape and value.dtype.kind == array.dtype.kind
        ]
        inputs: dict[str, Array] = {}
        for _, name, index in sorted(distances):
            if name not in inputs and index in received:
                inputs[name] = received.pop(index).astype(values[name].dtype)
        return self._error(number, {**given, **inputs}) if inputs else None

    def _in_type_of(self, name: str, array: Array) -> Array:
        """A tensor of the reference in the type that the graph has there."""
        value = self._matcher.prober.types.get(name)
        is_half = value is not None and element_type(value.elem_type).name == "float16"
        return array.astype("float16") if is_half else array
