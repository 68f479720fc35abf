"""Which tensor of a graph each module call returned, and how far it is from the reference.

The reference knows what a call returned, but not which tensor of the ONNX graph that is. It is matched step by step;
each step takes the matches of the step before, and gives better ones for the calls that these leave in doubt: an output
without a tensor, or with one that is off.

1. by place: the last tensor that is made in the call and used outside, of the right shape (`boundaries`);
2. by value: another tensor of the call that agrees, its axes permuted if need be;
3. passed on: the tensor of the call inside that returned what the module returns;
4. folded: for a convolution, the BatchNorm after it is the reference;
5. dropped: second and later outputs that still agree with nothing, for whose they are can't be known;
6. by name: of a call that an optimizer fused in part, what is left of it: a tensor that both graphs have.

When all calls are matched, those that the calls after them contradict are taken back (`_consistent`).

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
from typing import TYPE_CHECKING, Any, TypeAlias

from optimum_htp.errors import HtpError
from optimum_htp.models import Errors, compare_arrays, measure_errors, measure_in_any_layout
from optimum_htp.verbs.compare.boundaries import MAX_CANDIDATES, Boundaries, assign, fits_in_some_order
from optimum_htp.verbs.compare.prober import Prober
from optimum_htp.verbs.compare.reference import Reference
from optimum_htp.verbs.compare.report import CallComparison


if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, Any]
    Arrays: TypeAlias = Mapping[int, Sequence[Array]]
    Matches: TypeAlias = Mapping[int, "CallMatch"]

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
    """One output of a call.

    Attributes:
        tensor: The tensor of the graph; None if none was found.
        errors: How far off it is; None if it was not compared.
        permuted: Whether its axes are in another order than the reference's.
    """

    tensor: str | None = None
    errors: Errors | None = None
    permuted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CallMatch:
    """What a call was matched with.

    Attributes:
        outputs: Its floating-point outputs.
        problem: Why none of them could be compared, where more is known than that there is no tensor.
        compared_as: The call whose outputs they are compared with, where that is another: a BatchNorm's.
        by_name: Whether it was fused in part, and what is compared is a tensor that the reference's graph has as well.
        fallback: A tensor that only the module itself uses and that agrees with its one output, where the tensor that is
            used outside does not.
    """

    outputs: tuple[MatchedOutput, ...] = ()
    problem: str | None = None
    compared_as: int | None = None
    by_name: bool = False
    fallback: MatchedOutput | None = None

    @property
    def tensors(self) -> list[str]:
        """The tensors of the graph."""
        return [output.tensor for output in self.outputs if output.tensor is not None]

    @property
    def worst(self) -> Errors | None:
        """The errors of the output that is farthest off."""
        known = [output.errors for output in self.outputs if output.errors is not None]
        return max(known, key=lambda errors: errors.relative) if known else None


class Matcher:
    """Compares the module calls of one graph with their reference.

    Args:
        prober: The graph.
        reference: What it is compared with.
        tolerance: What the relative error may be.
        max_bytes: How much the tensors that are held at once may take.

    Attributes:
        boundaries: The tensors around the calls.
        matches: The match of each call with nodes, once `calls` has run.
        chunks: In how many runs the tensors were exposed.
    """

    def __init__(self, prober: Prober, reference: Reference, *, tolerance: float, max_bytes: int) -> None:
        self._prober = prober
        self._reference = reference
        self._tolerance = tolerance
        # A tensor and its reference are held at once, and those of the runner-up.
        self._chunk_bytes = max_bytes // 3
        self.boundaries = Boundaries(prober.flat, reference.calls, reference.call_of, prober.may_be_float)
        self.matches: dict[int, CallMatch] = {}
        self.chunks = 0

    def calls(self) -> list[CallComparison]:
        """All calls that have nodes, in the order in which they ended."""
        wanted = self.boundaries.with_nodes()
        for chunk in self._reference.chunks(wanted, max_bytes=max(1, self._chunk_bytes)):
            self.chunks += 1
            self.matches |= self._matched(chunk)
        for number in reversed(wanted):  # what comes after a call is settled before it
            self.matches[number] = self._consistent(number, wanted)
        calls = [*map(self._comparison, wanted), *map(self._hidden, self.boundaries.hidden)]
        return sorted(calls, key=lambda call: call.order)

    def outputs(self) -> dict[str, Errors]:
        """The outputs of the model, those that the reference has, of whatever type."""
        known = self._reference.outputs
        wanted = [name for name in self._prober.flat.outputs if name in known]
        values = self._prober.run(wanted, self._reference.inputs)
        return {name: compare_arrays(values[name], known[name]) for name in wanted}

    def run(self, names: Sequence[str], given: Mapping[str, Array] | None = None) -> dict[str, Array] | None:
        """The values of some tensors where others are given; None if ONNX Runtime can't show them."""
        try:
            return self._prober.run(names, self._reference.inputs, given=given)
        except HtpError as error:
            logger.debug("%s", error)
            return None

    def expected(self, number: int) -> Sequence[Array]:
        """What a call is compared with: what it returned, or what the call did that it is compared as."""
        match = self.matches[number]
        if match.by_name:
            return tuple(self._reference.named(match.tensors).values())
        target = number if match.compared_as is None else match.compared_as
        return self._expected(number, self._reference.returned([target])[target])

    def is_fused(self, number: int) -> bool:
        """Whether an optimizer fused a part of a call with other modules, and its tensor does not agree."""
        return self._is_fused(number, self.matches[number])

    # --- The steps ------------------------------------------------------------------------------------------------

    def _matched(self, chunk: Arrays) -> dict[int, CallMatch]:
        expected = {number: self._expected(number, arrays) for number, arrays in chunk.items()}
        by_place = self._measured(
            {number: self._by_place(number, arrays) for number, arrays in expected.items()}, expected
        )
        doubtful = self._doubtful(by_place, by_place)
        by_value = by_place | self._by_value(by_place, doubtful, expected)
        passed_on = self._passed_on(by_value, doubtful)
        folded = passed_on | self._folded(passed_on, self._doubtful(passed_on, doubtful))
        certain = {number: self._without_uncertain(number, match) for number, match in folded.items()}
        return certain | self._by_name([number for number, match in certain.items() if self._is_fused(number, match)])

    def _by_place(self, number: int, expected: Sequence[Array]) -> CallMatch:
        """The likeliest tensor of the right shape for each output; the root's are known by their names."""
        if self._is_root(number):
            return CallMatch(outputs=tuple(MatchedOutput(tensor=name) for name in self._results()))
        shapes = [array.shape for array in expected]
        names = assign(self.boundaries.candidates(number), shapes, self._prober.shape)
        outputs = tuple(MatchedOutput(tensor=name) for name in names)
        return CallMatch(outputs=outputs, problem=None if expected else NO_FLOATS)

    def _by_value(self, matches: Matches, doubtful: Sequence[int], expected: Arrays) -> dict[int, CallMatch]:
        """Another tensor of the call that agrees, or any tensor for an output that has none."""
        improved = {}
        others = {number: self._other_tensors(number, expected[number]) for number in doubtful}
        for numbers in self._affordable(others, expected):
            values = self.run([name for number in numbers for name in others[number]])
            if values is None:
                continue
            for number in numbers:
                own = {name: values[name] for name in others[number]}
                improved[number] = self._improved(number, matches[number], expected[number], own)
        return improved

    def _other_tensors(self, number: int, expected: Sequence[Array]) -> list[str]:
        shapes = {array.shape for array in expected}
        return [
            name
            for name in self.boundaries.candidates(number)[: 4 * MAX_CANDIDATES]
            if any(fits_in_some_order(self._prober.shape(name), shape) for shape in shapes)
        ][:MAX_CANDIDATES]

    def _affordable(self, others: Mapping[int, Sequence[str]], expected: Arrays) -> Iterator[list[int]]:
        """Calls whose other tensors fit into memory together."""
        group: list[int] = []
        total = 0
        for number, names in others.items():
            size = len(names) * max((array.nbytes for array in expected[number]), default=0)
            if group and total + size > self._chunk_bytes:
                yield group
                group, total = [], 0
            group.append(number)
            total += size
        if group:
            yield group

    def _improved(
        self, number: int, match: CallMatch, expected: Sequence[Array], values: Mapping[str, Array]
    ) -> CallMatch:
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
            errors = None
            if value.dtype.kind == "f":
                errors = measure_in_any_layout(value, expected, tolerance=self._tolerance)
            if errors is not None:
                permuted = value.shape != expected.shape or (
                    errors.relative <= self._tolerance < measure_errors(value, expected).relative
                )
                yield MatchedOutput(tensor=name, errors=errors, permuted=permuted)

    def _passed_on(self, matches: Matches, doubtful: Sequence[int]) -> dict[int, CallMatch]:
        """The tensors of the calls inside that returned what the module returns; inner calls come first."""
        improved = dict(matches)
        for number in doubtful:
            outputs = list(improved[number].outputs)
            for index, source in enumerate(self._reference.calls[number].passed_on):
                inner = None
                if source is not None and not self._agrees(outputs[index]):
                    inner = improved.get(source[0]) or self.matches.get(source[0])
                if source is not None and inner is not None and inner.compared_as is None:
                    output = inner.outputs[source[1]]
                    outputs[index] = output if output.errors is not None else outputs[index]
            improved[number] = replace(improved[number], outputs=tuple(outputs))
        return improved

    def _folded(self, matches: Matches, doubtful: Iterable[int]) -> dict[int, CallMatch]:
        """Convolutions, compared with what the BatchNorm returned that was folded into them."""
        norms = {number: self.boundaries.folded_batch_norm(number) for number in doubtful}
        wanted = {number: norm for number, norm in norms.items() if norm is not None}
        if not wanted:
            return {}
        returned = self._reference.returned(list(wanted.values()))
        return self._measured(
            {number: replace(matches[number], compared_as=norm) for number, norm in wanted.items()},
            {number: returned[norm] for number, norm in wanted.items()},
        )

    def _without_uncertain(self, number: int, match: CallMatch) -> CallMatch:
        """Leaves out the second and later outputs that no tensor agrees with: which tensor is theirs can't be known.

        A fault in one of them shows in the modules that read it.
        """
        if self._is_root(number):
            return match
        outputs = [
            output if not index or self._agrees(output) else MatchedOutput()
            for index, output in enumerate(match.outputs)
        ]
        return replace(match, outputs=tuple(outputs))

    def _by_name(self, fused: Sequence[int]) -> dict[int, CallMatch]:
        """What is left of calls that are fused in part: tensors that the reference's graph has too."""
        candidates = {number: self.boundaries.candidates(number) for number in fused}
        known = self._reference.named([name for names in candidates.values() for name in names[:MAX_CANDIDATES]])
        chosen = {
            number: name
            for number, names in candidates.items()
            if (name := next((name for name in names if name in known), None)) is not None
        }
        values = self.run(list(chosen.values()))
        if values is None:
            return {}
        measured = {number: (name, _measure(values[name], known[name])) for number, name in chosen.items()}
        return {
            number: CallMatch(outputs=(MatchedOutput(tensor=name, errors=errors),), by_name=True)
            for number, (name, errors) in measured.items()
            if errors is not None
        }

    # --- When all calls are matched -------------------------------------------------------------------------------

    def _consistent(self, number: int, calls: Sequence[int]) -> CallMatch:
        """Rejects a match that is far off while nothing downstream is: the module returned another tensor.

        That may be one that only the module itself uses.
        """
        match = self.matches[number]
        errors = match.worst
        several = self._reference.calls[number].several
        far = errors is not None and errors.relative > _FAR * self._tolerance
        if not far or self._is_root(number) or not (match.fallback or several) or self._has_effect(number, calls):
            return match
        if match.fallback is not None:
            return replace(match, outputs=(match.fallback, *match.outputs[1:]))
        return replace(
            match,
            outputs=tuple(MatchedOutput(tensor=output.tensor) for output in match.outputs),
            problem=INCONSISTENT,
        )

    def _has_effect(self, number: int, calls: Sequence[int]) -> bool:
        """Whether the first of the calls that depend on what one returned is off as well."""
        around = set(self.boundaries.around(number))
        own = set(self.matches[number].tensors)
        downstream = {tensor for name in own for tensor in self._prober.flat.downstream(name)} - own
        for other in calls:
            if other <= number or (other in around and not self._is_root(other)) or self.is_fused(other):
                continue
            outputs = self.matches[other].outputs
            errors = [output.errors for output in outputs if output.tensor in downstream and output.errors is not None]
            if errors:
                return max(error.relative for error in errors) > self._tolerance
        return False

    # --- Parts of the above ---------------------------------------------------------------------------------------

    def _measured(self, matches: Matches, expected: Arrays) -> dict[int, CallMatch]:
        """Matches, with how far off their tensors are from what is expected."""
        values = self.run([name for match in matches.values() for name in match.tensors])
        return {
            number: self._with_errors(
                match, values if values is not None else self.run(match.tensors), expected[number]
            )
            for number, match in matches.items()
        }

    def _with_errors(
        self, match: CallMatch, values: Mapping[str, Array] | None, expected: Sequence[Array]
    ) -> CallMatch:
        outputs = [MatchedOutput(tensor=output.tensor) for output in match.outputs]
        if values is None:
            return replace(match, outputs=tuple(outputs), problem=NOT_RUN)
        measured = (
            replace(output, errors=_measure(values[output.tensor], array)) if output.tensor is not None else output
            for output, array in zip(outputs, expected, strict=True)
        )
        return replace(match, outputs=tuple(measured))

    def _doubtful(self, matches: Matches, numbers: Iterable[int]) -> list[int]:
        """The calls that have an output without a tensor, or with one that is off."""
        return [
            number
            for number in numbers
            if not self._is_root(number) and not all(map(self._agrees, matches[number].outputs))
        ]

    def _agrees(self, output: MatchedOutput) -> bool:
        return output.errors is not None and output.errors.relative <= self._tolerance

    def _is_used(self, number: int, output: MatchedOutput) -> bool:
        return output.tensor is not None and self.boundaries.is_used(number, output.tensor)

    def _is_fused(self, number: int, match: CallMatch) -> bool:
        if match.by_name or (match.worst is not None and match.worst.relative <= self._tolerance):
            return False
        return self._reference.calls[number].fused or number in self.boundaries.fused

    def _is_root(self, number: int) -> bool:
        return self._reference.calls[number].parent is None and bool(self._results())

    def _results(self) -> list[str]:
        """The graph's own floating-point outputs that the reference has too: those are known by name."""
        known = self._reference.outputs
        return [name for name in self._prober.flat.outputs if name in known and known[name].dtype.kind == "f"]

    def _expected(self, number: int, arrays: Sequence[Array]) -> Sequence[Array]:
        return [self._reference.outputs[name] for name in self._results()] if self._is_root(number) else arrays

    def _hidden(self, number: int) -> CallComparison:
        return self._described(number, skipped=HIDDEN)

    def _comparison(self, number: int) -> CallComparison:
        match = self.matches[number]
        errors = match.worst
        is_fused = self.is_fused(number)
        skipped = FUSED if is_fused else None if errors is not None else match.problem or NO_TENSOR
        return self._described(
            number,
            nodes=len(self.boundaries.nodes[number]),
            tensors=tuple(output.tensor for output in match.outputs if output.tensor and output.errors),
            outputs=len(match.outputs),
            errors=None if is_fused else errors,
            over=not is_fused and errors is not None and errors.relative > self._tolerance,
            skipped=skipped,
            compared_as=None if match.compared_as is None else self._reference.calls[match.compared_as].path,
        )

    def _described(self, number: int, **known: Any) -> CallComparison:
        call = self._reference.calls[number]
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
