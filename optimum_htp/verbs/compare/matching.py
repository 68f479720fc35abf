"""Which tensor of a graph each module call returned, and how far it is from the reference.

The reference knows what a call returned, but not which tensor of the ONNX graph that is. It is matched step by step;
each step improves the matches of the calls that the step before left in doubt: an output without a tensor, or with one
that is off.

1. by place: the last tensor that is produced in the call and used outside, of the right shape (`boundaries`);
2. by value: another tensor of the call that agrees, its axes permuted if need be;
3. passed on: the tensor of the call inside that returned what the module returns;
4. folded: for a convolution, the BatchNorm after it is the reference;
5. dropped: second and later outputs that still agree with nothing, for whose they are can't be known;
6. by name: of a call that an optimizer fused in part, what is left of it: a tensor that both graphs have.

When all calls are matched, those that the calls after them contradict are rejected (`_consistent`).

For example, a layer `y = norm(x + dense(x))[0]`, exported in five nodes (module: operator -> tensor)

    layer.dense: MatMul -> a            dense  by place: b, used by Add
    layer.dense: Add    -> b            norm   by place: d, used by Slice
    layer:       Add    -> c            layer  by place: e, of the right shape, if nobody outside uses d;
    layer.norm:  LayerNormalization -> d        if e is off, by value: the one of d, c, b, a that agrees
    layer:       Slice  -> e
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from optimum_htp.errors import HtpError
from optimum_htp.models import Array, Errors, compare_arrays, measure_errors, measure_in_any_layout, worst_errors
from optimum_htp.verbs.compare.boundaries import MAX_CANDIDATES, Boundaries, assign, fits
from optimum_htp.verbs.compare.prober import Prober
from optimum_htp.verbs.compare.reference import Reference
from optimum_htp.verbs.compare.report import CallComparison

Arrays: TypeAlias = "Mapping[int, Sequence[Array]]"

logger = logging.getLogger(__name__)

_FAR = 100  # times the tolerance: no fault of that size is lost on the way to the outputs

NO_FLOATS = "it returns no floating-point tensor of its own"
NO_TENSOR = "no tensor of the graph has the shape of its output"
FUSED = "an optimizer fused a part of it with other modules"
INCONSISTENT = (
    "the tensor that seemed its output is far off and nothing after it is: it is not what the module returned"
)
HIDDEN = "its nodes are in the body of a control-flow node"
NOT_RUN = "ONNX Runtime can't show its tensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedOutput:
    """One output of a call."""

    tensor: str | None = None  # the tensor of the graph
    errors: Errors | None = None  # None if it was not compared
    permuted: bool = False  # its axes are in another order than the reference's


@dataclass(frozen=True, slots=True, kw_only=True)
class CallMatch:
    """What a call was matched with."""

    outputs: tuple[MatchedOutput, ...] = ()  # the floating-point ones
    problem: str | None = None  # why none could be compared, where more is known than that there is no tensor
    compared_as: int | None = None  # the call that they are compared with, where that is another: a BatchNorm's
    by_name: bool = False  # fused in part: what is compared is a tensor that the reference's graph has as well
    # What only the module itself uses and agrees with its one output, where the tensor that is used outside does not.
    fallback: MatchedOutput | None = None

    @property
    def tensors(self) -> list[str]:
        """The tensors of the graph."""
        return [output.tensor for output in self.outputs if output.tensor is not None]

    @property
    def worst(self) -> Errors | None:
        """The errors of the output that is farthest off."""
        return worst_errors(output.errors for output in self.outputs)


class Matcher:
    """Compares the module calls of one graph with their reference; `max_bytes` is for the tensors held at once."""

    def __init__(self, prober: Prober, reference: Reference, *, tolerance: float, max_bytes: int) -> None:
        self.prober = prober
        self.reference = reference
        self.tolerance = tolerance
        # A tensor and its reference are held at once, and those of the runner-up.
        self._chunk_bytes = max_bytes // 3
        self.boundaries = Boundaries(prober.flat, reference.calls, reference.call_of, prober.may_be_float)
        self.matches: dict[int, CallMatch] = {}  # of each call with nodes, once `calls` has run
        self.chunks = 0  # in how many runs the tensors were exposed
        # The graph's own floating-point outputs that the reference has too: what the root returns is known by name.
        known = reference.outputs
        self._results = [name for name in prober.flat.outputs if name in known and known[name].dtype.kind == "f"]

    def calls(self) -> list[CallComparison]:
        """All calls that have nodes, in the order in which they ended."""
        numbers = sorted(self.boundaries.nodes)
        for chunk in _groups({number: self.reference.calls[number].bytes for number in numbers}, self._chunk_bytes):
            self.chunks += 1
            self._match(self.reference.returned(chunk))
        for number in reversed(numbers):  # what comes after a call is settled before it
            self.matches[number] = self._consistent(number)
        hidden = [self._described(number, skipped=HIDDEN) for number in self.boundaries.hidden]
        return sorted([*map(self._comparison, numbers), *hidden], key=lambda call: call.order)

    def outputs(self) -> dict[str, Errors]:
        """The outputs of the model, those that the reference has, of whatever type."""
        known = self.reference.outputs
        wanted = [name for name in self.prober.flat.outputs if name in known]
        values = self.prober.run(wanted, self.reference.inputs)
        return {name: compare_arrays(values[name], known[name]) for name in wanted}

    def run(self, names: Sequence[str], given: Mapping[str, Array] | None = None) -> dict[str, Array] | None:
        """The values of some tensors where others are given; None if ONNX Runtime can't show them."""
        try:
            return self.prober.run(names, self.reference.inputs, given=given)
        except HtpError as error:
            logger.debug("%s", error)
            return None

    def expected(self, number: int) -> Sequence[Array]:
        """What a call is compared with: what it returned, or what the call did that it is compared as."""
        match = self.matches[number]
        if match.by_name:
            return tuple(self.reference.named(match.tensors).values())
        target = number if match.compared_as is None else match.compared_as
        return self._expected(number, self.reference.returned([target])[target])

    def is_fused(self, number: int) -> bool:
        """Whether an optimizer fused a part of a call with other modules, and its tensor does not agree."""
        match = self.matches[number]
        if match.by_name or (match.worst is not None and match.worst.relative <= self.tolerance):
            return False
        return self.reference.calls[number].fused or number in self.boundaries.fused

    # --- The steps ------------------------------------------------------------------------------------------------

    def _match(self, returned: Arrays) -> None:
        """Takes some calls through all steps; calls inside others come before these."""
        expected = {number: self._expected(number, arrays) for number, arrays in returned.items()}
        by_place = {number: self._by_place(number, arrays) for number, arrays in expected.items()}
        self.matches |= self._measured(by_place, expected)
        doubtful = self._doubtful(expected)
        self.matches |= self._by_value(doubtful, expected)
        for number in doubtful:
            self.matches[number] = self._passed_on(number)
        self.matches |= self._folded(self._doubtful(doubtful))
        for number in expected:
            self.matches[number] = self._without_uncertain(number)
        self.matches |= self._by_name([number for number in expected if self.is_fused(number)])

    def _by_place(self, number: int, expected: Sequence[Array]) -> CallMatch:
        """The likeliest tensor of the right shape for each output; the root's are known by their names."""
        if self._is_root(number):
            return CallMatch(outputs=tuple(MatchedOutput(tensor=name) for name in self._results))
        shapes = [array.shape for array in expected]
        names = assign(self.boundaries.candidates(number), shapes, self.prober.shape)
        outputs = tuple(MatchedOutput(tensor=name) for name in names)
        return CallMatch(outputs=outputs, problem=None if expected else NO_FLOATS)

    def _by_value(self, doubtful: Sequence[int], expected: Arrays) -> dict[int, CallMatch]:
        """Another tensor of the call that agrees, or any tensor for an output that has none."""
        others = {number: self._other_tensors(number, expected[number]) for number in doubtful}
        sizes = {
            number: len(names) * max((array.nbytes for array in expected[number]), default=0)
            for number, names in others.items()
        }
        improved = {}
        for numbers in _groups(sizes, self._chunk_bytes):
            values = self.run([name for number in numbers for name in others[number]])
            if values is None:
                continue
            for number in numbers:
                own = {name: values[name] for name in others[number]}
                improved[number] = self._improved(number, expected[number], own)
        return improved

    def _other_tensors(self, number: int, expected: Sequence[Array]) -> list[str]:
        shapes = {array.shape for array in expected}
        return [
            name
            for name in self.boundaries.candidates(number)[: 4 * MAX_CANDIDATES]
            if any(fits(self.prober.shape(name), shape, in_any_order=True) for shape in shapes)
        ][:MAX_CANDIDATES]

    def _improved(self, number: int, expected: Sequence[Array], values: Mapping[str, Array]) -> CallMatch:
        match = self.matches[number]
        outputs, fallback = list(match.outputs), match.fallback
        for index, array in enumerate(expected):
            chosen = outputs[index]
            if self._agrees(chosen):
                continue
            taken = {output.tensor for output in outputs} - {chosen.tensor}
            must_be_used = len(expected) == 1 and chosen.errors is not None and self._is_used(number, chosen)
            for candidate in self._candidates(values, array):
                if candidate.tensor in taken:
                    continue
                if must_be_used and not self._is_used(number, candidate):
                    fallback = fallback or (candidate if self._agrees(candidate) else None)
                elif self._agrees(candidate):
                    outputs[index] = candidate
                    break
                elif outputs[index].errors is None:
                    outputs[index] = candidate
        return replace(match, outputs=tuple(outputs), fallback=fallback)

    def _candidates(self, values: Mapping[str, Array], expected: Array) -> Iterator[MatchedOutput]:
        for name, value in values.items():
            is_float = value.dtype.kind == "f"
            errors = measure_in_any_layout(value, expected, tolerance=self.tolerance) if is_float else None
            if errors is not None:
                permuted = value.shape != expected.shape or (
                    errors.relative <= self.tolerance < measure_errors(value, expected).relative
                )
                yield MatchedOutput(tensor=name, errors=errors, permuted=permuted)

    def _passed_on(self, number: int) -> CallMatch:
        """The tensors of the calls inside that returned what the module returns."""
        match = self.matches[number]
        outputs = list(match.outputs)
        for index, source in enumerate(self.reference.calls[number].passed_on):
            if source is None or self._agrees(outputs[index]):
                continue
            inner = self.matches.get(source[0])
            if inner is not None and inner.compared_as is None and inner.outputs[source[1]].errors is not None:
                outputs[index] = inner.outputs[source[1]]
        return replace(match, outputs=tuple(outputs))

    def _folded(self, doubtful: Iterable[int]) -> dict[int, CallMatch]:
        """Convolutions, compared with what the BatchNorm returned that was folded into them."""
        norms = {
            number: norm for number in doubtful if (norm := self.boundaries.folded_batch_norm(number)) is not None
        }
        if not norms:
            return {}
        returned = self.reference.returned(list(norms.values()))
        folded = {
            number: replace(self.matches[number], compared_as=norm)
            for number, norm in norms.items()
            if len(returned[norm]) == len(self.matches[number].outputs)
        }
        return self._measured(folded, {number: returned[norms[number]] for number in folded})

    def _without_uncertain(self, number: int) -> CallMatch:
        """Leaves out the second and later outputs that no tensor agrees with: which tensor is theirs can't be known.

        A fault in one of them shows in the modules that consume it.
        """
        match = self.matches[number]
        if self._is_root(number):
            return match
        first, later = match.outputs[:1], match.outputs[1:]
        certain = (output if self._agrees(output) else MatchedOutput() for output in later)
        return replace(match, outputs=(*first, *certain))

    def _by_name(self, fused: Sequence[int]) -> dict[int, CallMatch]:
        """What is left of calls that are fused in part: tensors that the reference's graph has too."""
        candidates = {number: self.boundaries.candidates(number) for number in fused}
        known = self.reference.named([name for names in candidates.values() for name in names[:MAX_CANDIDATES]])
        shared = {number: next((name for name in names if name in known), "") for number, names in candidates.items()}
        values = self.run([name for name in shared.values() if name]) or {}
        matches = {}
        for number, name in shared.items():
            errors = _measure(values[name], known[name]) if name in values else None
            if errors is not None:
                matches[number] = CallMatch(outputs=(MatchedOutput(tensor=name, errors=errors),), by_name=True)
        return matches

    # --- When all calls are matched -------------------------------------------------------------------------------

    def _consistent(self, number: int) -> CallMatch:
        """Rejects a match that is far off while nothing downstream is: the module returned another tensor.

        That may be one that only the module itself uses.
        """
        match = self.matches[number]
        several = self.reference.calls[number].several
        far = match.worst is not None and match.worst.relative > _FAR * self.tolerance
        if not far or self._is_root(number) or not (match.fallback or several) or self._has_effect(number):
            return match
        if match.fallback is not None:
            return replace(match, outputs=(match.fallback, *match.outputs[1:]))
        outputs = tuple(MatchedOutput(tensor=output.tensor) for output in match.outputs)
        return replace(match, outputs=outputs, problem=INCONSISTENT)

    def _has_effect(self, number: int) -> bool:
        """Whether the first of the calls that depend on what one returned is off as well."""
        around = set(self.boundaries.around(number))
        own = set(self.matches[number].tensors)
        downstream = {tensor for name in own for tensor in self.prober.flat.downstream(name)} - own
        for other, match in self.matches.items():
            if other <= number or (other in around and not self._is_root(other)) or self.is_fused(other):
                continue
            errors = worst_errors(output.errors for output in match.outputs if output.tensor in downstream)
            if errors is not None:
                return errors.relative > self.tolerance
        return False

    # --- Parts of the above ---------------------------------------------------------------------------------------

    def _measured(self, matches: Mapping[int, CallMatch], expected: Arrays) -> dict[int, CallMatch]:
        """Matches, with how far off their tensors are from what is expected."""
        together = self.run([name for match in matches.values() for name in match.tensors])
        measured = {}
        for number, match in matches.items():
            values = together if together is not None else self.run(match.tensors)
            outputs = [
                MatchedOutput(tensor=name, errors=_measure(values[name], array) if values and name else None)
                for name, array in zip((output.tensor for output in match.outputs), expected[number], strict=True)
            ]
            problem = match.problem if values is not None else NOT_RUN
            measured[number] = replace(match, outputs=tuple(outputs), problem=problem)
        return measured

    def _doubtful(self, numbers: Iterable[int]) -> list[int]:
        """The calls that have an output without a tensor, or with one that is off."""
        return [
            number
            for number in numbers
            if not self._is_root(number) and not all(map(self._agrees, self.matches[number].outputs))
        ]

    def _agrees(self, output: MatchedOutput) -> bool:
        return output.errors is not None and output.errors.relative <= self.tolerance

    def _is_used(self, number: int, output: MatchedOutput) -> bool:
        return output.tensor is not None and self.boundaries.is_used(number, output.tensor)

    def _is_root(self, number: int) -> bool:
        return self.reference.calls[number].parent is None and bool(self._results)

    def _expected(self, number: int, arrays: Sequence[Array]) -> Sequence[Array]:
        return [self.reference.outputs[name] for name in self._results] if self._is_root(number) else arrays

    def _comparison(self, number: int) -> CallComparison:
        match, is_fused = self.matches[number], self.is_fused(number)
        errors = None if is_fused else match.worst
        return self._described(
            number,
            nodes=len(self.boundaries.nodes[number]),
            tensors=tuple(output.tensor for output in match.outputs if output.tensor and output.errors),
            outputs=len(match.outputs),
            errors=errors,
            over=errors is not None and errors.relative > self.tolerance,
            skipped=None if errors is not None else FUSED if is_fused else match.problem or NO_TENSOR,
            compared_as=None if match.compared_as is None else self.reference.calls[match.compared_as].path,
        )

    def _described(self, number: int, **known: Any) -> CallComparison:
        call = self.reference.calls[number]
        return CallComparison(
            order=number,
            tag=call.tag,
            path=call.path,
            class_name=call.class_name,
            call=call.call if call.repeated else None,
            **known,
        )


def _measure(actual: Array, expected: Array) -> Errors | None:
    """How far off a tensor is; None where it is of another shape, or not of a floating-point type."""
    if actual.shape != expected.shape or actual.dtype.kind != "f" or expected.dtype.kind != "f":
        return None
    return measure_errors(actual, expected)


def _groups(sizes: Mapping[int, int], max_bytes: int) -> Iterator[list[int]]:
    """Calls in groups whose tensors take at most so many bytes together, each of one call at least.

    >>> list(_groups({0: 5, 1: 5, 2: 90, 3: 1}, max_bytes=10))
    [[0, 1], [2], [3]]
    """
    group: list[int] = []
    total = 0
    for number, size in sizes.items():
        if group and total + size > max_bytes:
            yield group
            group, total = [], 0
        group.append(number)
        total += size
    if group:
        yield group
