"""Every module call of a graph against its reference, and the first that leaves it run on the reference's tensors."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from optimum_htp.comparison.boundaries import MAX_CANDIDATES, Boundaries, assign, fits_in_some_order, folded_batch_norm
from optimum_htp.comparison.measuring import compare_arrays, measure_errors, measure_in_any_layout
from optimum_htp.comparison.probing import Prober
from optimum_htp.comparison.reference import Reference
from optimum_htp.comparison.report import CallComparison, Errors, Isolated
from optimum_htp.errors import HtpError
from optimum_htp.hierarchy import tag_module_path


if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

logger = logging.getLogger(__name__)

_FAR = 100  # times the tolerance: no fault of that size is lost on the way to the outputs

NO_FLOATS = "it returns no floating-point tensor of its own"
NO_TENSOR = "no tensor of the graph has the shape of its output"
FUSED = "an optimizer fused a part of it with other modules"
NO_EFFECT = "the tensor that seemed its output is far off and nothing after it is: it is not what the module returned"
HIDDEN = "its nodes are in the body of a control-flow node"
NOT_RUN = "ONNX Runtime can't show its tensors"


@dataclass(slots=True)
class _Found:
    """What is known so far of one call: for each output the tensor, how far off it is, and whether axes are swapped."""

    names: list[str | None]
    errors: list[Errors | None]
    compared_as: int | None = None
    problem: str | None = None
    turned: set[int] = field(default_factory=set)

    @property
    def worst(self) -> Errors | None:
        known = [errors for errors in self.errors if errors is not None]
        return max(known, key=lambda errors: errors.relative) if known else None


class Matcher:
    """Compares the module calls of one graph with their reference.

    Args:
        prober: The graph.
        reference: What it is compared with.
        tolerance: What the relative error may be.
        max_bytes: How much the tensors that are held at once may take.
    """

    def __init__(self, prober: Prober, reference: Reference, *, tolerance: float, max_bytes: int) -> None:
        self._prober = prober
        self._reference = reference
        self._tolerance = tolerance
        self._max_bytes = max_bytes
        self.boundaries = Boundaries(prober.flat, reference.calls, reference.call_of, prober.may_be_float)
        self._matched: dict[int, _Found] = {}
        self.chunks = 0

    def calls(self) -> list[CallComparison]:
        """All calls that have nodes, in the order in which they ended."""
        wanted = self.boundaries.with_nodes()
        # A tensor and its reference are held at once, and those of the runner-up.
        for chunk in self._reference.chunks(wanted, max_bytes=max(1, self._max_bytes // 3)):
            self.chunks += 1
            self._compare_chunk(chunk)
        known = self._without_effect([self._comparison(number) for number in wanted])
        return sorted([*known, *map(self._hidden, self.boundaries.hidden)], key=lambda call: call.order)

    def _without_effect(self, calls: list[CallComparison]) -> list[CallComparison]:
        """Takes back what can't be: that one of a module's outputs is far off, and that nothing is that comes after it.

        Which of several tensors is which output was then mistaken: nobody uses that one, and the exporter left it out.
        """
        results = self._results()
        last = next((call for call in calls if self._is_root(call.order)), None)
        if last is None or last.over or not results:
            return calls
        kept: list[CallComparison] = []
        for call in reversed(calls):
            far = call.errors is not None and call.errors.relative > _FAR * self._tolerance
            several = self._reference.calls[call.order].several
            if call.over and far and several and not any(each.over for each in kept):
                call = replace(call, errors=None, over=False, skipped=NO_EFFECT)
            kept.append(call)
        return kept[::-1]

    def outputs(self) -> dict[str, Errors]:
        """The outputs of the model, those that the reference has."""
        wanted = self._results()
        found = self._prober.run(wanted, self._reference.inputs)
        return {name: compare_arrays(found[name], self._reference.outputs[name]) for name in wanted}

    def isolate(self, comparison: CallComparison) -> Isolated | None:
        """Runs a call on the reference's tensors; None where they can't be put in the place of the graph's own."""
        number = comparison.order
        found = self._matched[number]
        names = [name for name in found.names if name is not None]
        stops = self._reference_tensors(number)
        nodes, needed = self._prober.flat.slice_to(names, stop=stops)
        fed = {name: stops[name] for name in needed if name in stops}
        target = number if found.compared_as is None else found.compared_as
        wanted = self._reference.returned([*dict.fromkeys([target, *(each for each, _ in fed.values())])])
        given = {name: wanted[each][index] for name, (each, index) in fed.items()}
        values = self._run(names, {name: self._as_type(name, array) for name, array in given.items()})
        if values is None:
            return None
        measured = [
            measure_in_any_layout(values[name], expected, tolerance=self._tolerance)
            for name, expected in zip(found.names, self._expected(target, wanted[target]), strict=False)
            if name is not None
        ]
        pairs = [errors for errors in measured if errors is not None]
        if not pairs:
            return None
        added = max(pairs, key=lambda errors: errors.relative)
        inside = self.boundaries.found[number].nodes
        flat = self._prober.flat
        between = {flat.nodes[at].tag.tag for at in nodes if at not in inside and self._computes(at)}  # type: ignore[union-attr]
        return Isolated(
            call=comparison,
            added=added,
            over=added.relative > self._tolerance,
            fed=tuple(fed),
            between=tuple(sorted(tag_module_path(tag) or "(root)" for tag in between)),
            not_fed=len(needed) - len(fed),
        )

    def _computes(self, at: int) -> bool:
        """Whether a node makes a floating-point tensor for a known module."""
        flat = self._prober.flat.nodes[at]
        return flat.tag is not None and any(name and self._prober.may_be_float(name) for name in flat.node.outputs)

    def _reference_tensors(self, number: int) -> dict[str, tuple[int, int]]:
        """The tensors that other calls returned, but for those that contain this one: the call, and which output.

        Those of the calls inside it are among them, so that what is left is what the module does itself.
        """
        around = set(self._around(number))
        stops: dict[str, tuple[int, int]] = {}
        for other, found in self._matched.items():
            target = other if found.compared_as is None else found.compared_as
            for index, name in enumerate(found.names) if other not in around else ():
                if name is not None and found.errors[index] is not None and index not in found.turned:
                    stops.setdefault(name, (target, index))
        return stops

    def _around(self, number: int | None) -> Iterator[int]:
        """A call and those that contain it."""
        while number is not None:
            yield number
            number = self._reference.calls[number].parent

    def _as_type(self, name: str, array: Array) -> Array:
        """A tensor of the reference in the type that the graph has there."""
        value = self._prober.types.get(name)
        return array.astype("float16") if value is not None and value.elem_type == 10 else array

    def _compare_chunk(self, chunk: Mapping[int, tuple[Array, ...]]) -> None:
        chunk = {number: self._expected(number, arrays) for number, arrays in chunk.items()}
        for number, expected in chunk.items():
            if self._is_root(number):
                self._matched[number] = _Found(list(self._results()), [None] * len(expected))
                continue
            candidates = self.boundaries.candidates(number)
            names = assign(candidates, [array.shape for array in expected], self._prober.shape)
            problem = NO_FLOATS if not expected else (NO_TENSOR if not any(names) else None)
            self._matched[number] = _Found(names, [None] * len(names), problem=problem)
        self._measure(chunk, {number: self._matched[number].names for number in chunk})
        doubtful = [number for number in chunk if self._is_doubtful(number)]
        self._look_further(chunk, doubtful)
        for number in doubtful:
            self._take_over(number)
        self._look_at_batch_norms([number for number in chunk if self._is_doubtful(number)])
        for number in chunk:
            self._forget_unfound(number)

    def _is_root(self, number: int) -> bool:
        return self._reference.calls[number].parent is None and bool(self._results())

    def _results(self) -> list[str]:
        """The graph's own floating-point outputs that the reference has too: those are known by name."""
        known = self._reference.outputs
        return [name for name in self._prober.flat.outputs if name in known and known[name].dtype.kind == "f"]

    def _expected(self, number: int, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(self._reference.outputs[name] for name in self._results()) if self._is_root(number) else arrays

    def _forget_unfound(self, number: int) -> None:
        """Leaves out the second and later outputs that no tensor agrees with: which is theirs, nothing tells.

        A fault in one of them shows in the modules that read it.
        """
        found = self._matched[number]
        for index in range(1, len(found.names)) if not self._is_root(number) else ():
            errors = found.errors[index]
            if errors is None or errors.relative > self._tolerance:
                found.names[index], found.errors[index] = None, None

    def _is_doubtful(self, number: int) -> bool:
        if self._is_root(number):
            return False
        found = self._matched[number]
        off = any(
            errors is None or errors.relative > self._tolerance
            for name, errors in zip(found.names, found.errors, strict=True)
            if name is not None
        )
        return bool(found.names) and (off or None in found.names)

    def _measure(self, chunk: Mapping[int, tuple[Array, ...]], wanted: Mapping[int, Sequence[str | None]]) -> None:
        """Compares the tensors that were chosen."""
        names = [name for listed in wanted.values() for name in listed if name is not None]
        values = self._run(names, {})
        for number, listed in wanted.items():
            found = self._matched[number]
            shown = values if values is not None else self._run([name for name in listed if name is not None], {})
            if shown is None:
                found.problem = NOT_RUN
                continue
            for index, (name, expected) in enumerate(zip(listed, chunk[number], strict=True)):
                if name is not None and shown[name].shape == expected.shape and shown[name].dtype.kind == "f":
                    found.errors[index] = measure_errors(shown[name], expected)

    def _look_further(self, chunk: Mapping[int, tuple[Array, ...]], doubtful: Sequence[int]) -> None:
        """Looks among the other tensors of calls that are off for one that the module may have returned instead."""
        others: dict[int, list[str]] = {}
        for number in doubtful:
            shapes = {array.shape for array in chunk[number]}
            names = self.boundaries.candidates(number)[: 4 * MAX_CANDIDATES]
            fitting = [
                name for name in names if any(fits_in_some_order(self._prober.shape(name), shape) for shape in shapes)
            ]
            others[number] = fitting[:MAX_CANDIDATES]
        for numbers in self._affordable(chunk, others):
            names = [name for number in numbers for name in others[number]]
            values = self._run(names, {}) if names else None
            for number in numbers if values is not None else ():
                self._improve(number, chunk[number], {name: values[name] for name in others[number]})  # type: ignore[index]

    def _affordable(
        self, chunk: Mapping[int, tuple[Array, ...]], others: Mapping[int, Sequence[str]]
    ) -> Iterator[list[int]]:
        """Calls whose other tensors fit into memory together."""
        group: list[int] = []
        total = 0
        for number, names in others.items():
            size = len(names) * max((array.nbytes for array in chunk[number]), default=0)
            if group and total + size > self._max_bytes // 3:
                yield group
                group, total = [], 0
            group.append(number)
            total += size
        if group:
            yield group

    def _improve(self, number: int, expected: Sequence[Array], values: Mapping[str, Array]) -> None:
        """Takes a tensor that agrees with an output, where the one that was chosen does not."""
        found = self._matched[number]
        for index, array in enumerate(expected):
            known = found.errors[index]
            if known is not None and known.relative <= self._tolerance:
                continue
            for name, value in values.items():
                if value.dtype.kind != "f" or (name in found.names and name != found.names[index]):
                    continue
                errors = measure_in_any_layout(value, array, tolerance=self._tolerance)
                if errors is not None and (errors.relative <= self._tolerance or known is None):
                    known = errors
                    found.names[index], found.errors[index] = name, errors
                    found.problem = None
                    if value.shape != array.shape or measure_errors(value, array).relative > self._tolerance:
                        found.turned.add(index)
                if errors is not None and errors.relative <= self._tolerance:
                    break

    def _take_over(self, number: int) -> None:
        """Takes the tensors of the calls inside that returned what the module returns, where its own choice is off."""
        found = self._matched[number]
        for index, source in enumerate(self._reference.calls[number].passed_on):
            inner = self._matched.get(source[0]) if source is not None else None
            known = found.errors[index]
            if source is None or inner is None or (known is not None and known.relative <= self._tolerance):
                continue
            errors = inner.errors[source[1]]
            if errors is not None and inner.compared_as is None:
                found.names[index], found.errors[index] = inner.names[source[1]], errors

    def _look_at_batch_norms(self, doubtful: Sequence[int]) -> None:
        """Compares convolutions with the output of the BatchNorm that was folded into them."""
        calls, found = self._reference.calls, self.boundaries.found
        norms = {number: folded_batch_norm(number, calls, found) for number in doubtful}
        wanted = {number: norm for number, norm in norms.items() if norm is not None}
        if not wanted:
            return
        returned = self._reference.returned(list(wanted.values()))
        for number, norm in wanted.items():
            self._matched[number].compared_as = norm
            self._matched[number].errors = [None] * len(self._matched[number].errors)
        chunk = {number: returned[norm] for number, norm in wanted.items()}
        self._measure(chunk, {number: self._matched[number].names for number in wanted})

    def _run(self, names: Sequence[str], given: Mapping[str, Array]) -> dict[str, Array] | None:
        try:
            return self._prober.run(names, self._reference.inputs, given=given)
        except HtpError as error:
            logger.debug("%s", error)
            return None

    def _hidden(self, number: int) -> CallComparison:
        call = self._reference.calls[number]
        which = call.call if call.repeated else None
        return CallComparison(number, call.tag, call.path, call.class_name, which, 0, (), 0, None, False, HIDDEN)

    def _comparison(self, number: int) -> CallComparison:
        call, found = self._reference.calls[number], self._matched[number]
        errors = found.worst
        over = errors is not None and errors.relative > self._tolerance
        fused = self.boundaries.fused_with(number)
        problem = found.problem if errors is None else None
        if errors is None and problem is None:
            problem = NO_TENSOR
        if fused and (over or errors is None):
            errors, over, problem = None, False, FUSED
        compared_as = self._reference.calls[found.compared_as].path if found.compared_as is not None else None
        return CallComparison(
            order=number,
            tag=call.tag,
            path=call.path,
            class_name=call.class_name,
            call=call.call if call.repeated else None,
            nodes=len(self.boundaries.found[number].nodes),
            tensors=tuple(name for name, each in zip(found.names, found.errors, strict=True) if name and each),
            outputs=len(found.names),
            errors=errors,
            over=over,
            skipped=problem,
            compared_as=compared_as,
        )
