"""Every module call of a graph against its reference."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError
from optimum_htp.models import Errors, compare_arrays, measure_errors, measure_in_any_layout
from optimum_htp.verbs.compare.boundaries import (
    MAX_CANDIDATES,
    Boundaries,
    assign,
    fits_in_some_order,
    folded_batch_norm,
)
from optimum_htp.verbs.compare.prober import Prober
from optimum_htp.verbs.compare.reference import Reference
from optimum_htp.verbs.compare.report import CallComparison


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
class Found:
    """What is known so far of one call.

    Attributes:
        names: For each output the tensor of the graph.
        errors: For each output how far off that is.
        compared_as: The call whose outputs these are, where it is another's: a BatchNorm's.
        problem: Why there is no tensor.
        by_name: Whether it was fused in part, and a tensor is compared that the reference's graph has as well.
        turned: The outputs whose tensors have their axes in another order.
        spare: A tensor that only the module itself uses and that agrees with its one output, where the tensor that is
            used outside does not: its name, how far off it is, and whether its axes are in another order.
    """

    names: list[str | None]
    errors: list[Errors | None]
    compared_as: int | None = None
    problem: str | None = None
    by_name: bool = False
    turned: set[int] = field(default_factory=set)
    spare: tuple[str, Errors, bool] | None = None

    @property
    def worst(self) -> Errors | None:
        """The errors of the output that is farthest off."""
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
        self.matched: dict[int, Found] = {}
        self.chunks = 0

    def calls(self) -> list[CallComparison]:
        """All calls that have nodes, in the order in which they ended."""
        wanted = self.boundaries.with_nodes()
        # A tensor and its reference are held at once, and those of the runner-up.
        for chunk in self._reference.chunks(wanted, max_bytes=max(1, self._max_bytes // 3)):
            self.chunks += 1
            self._compare_chunk(chunk)
        for number in reversed(wanted):
            self._settle(number, wanted)
        known = [self._comparison(number) for number in wanted]
        return sorted([*known, *map(self._hidden, self.boundaries.hidden)], key=lambda call: call.order)

    def _settle(self, number: int, calls: Sequence[int]) -> None:
        """Takes back what can't be: that what a module returned is far off, and that nothing is that depends on it.

        Which of several tensors it returned was then mistaken: nobody uses that one.
        """
        found = self.matched[number]
        errors = found.worst
        several = self._reference.calls[number].several
        far = errors is not None and errors.relative > _FAR * self._tolerance
        if not far or self._is_root(number) or not (found.spare or several) or self._has_effect(number, calls):
            return
        if found.spare is None:
            found.errors, found.problem = [None] * len(found.names), NO_EFFECT
            return
        found.names[0], found.errors[0], turned = found.spare
        if turned:
            found.turned.add(0)

    def _has_effect(self, number: int, calls: Sequence[int]) -> bool:
        """Whether the first of the calls that depend on what one returned is off as well."""
        around = set(self.boundaries.around(number))
        own = {name for name in self.matched[number].names if name is not None}
        after = {each for name in own for each in self._prober.flat.after(name)} - own
        for other in calls:
            found = self.matched[other]
            if other > number and (other not in around or self._is_root(other)):
                off = [
                    errors for name, errors in zip(found.names, found.errors, strict=True) if name in after and errors
                ]
                if off and not self.is_fused(other):
                    return any(errors.relative > self._tolerance for errors in off)
        return False

    def outputs(self) -> dict[str, Errors]:
        """The outputs of the model, those that the reference has, of whatever type."""
        known = self._reference.outputs
        wanted = [name for name in self._prober.flat.outputs if name in known]
        found = self._prober.run(wanted, self._reference.inputs)
        return {name: compare_arrays(found[name], known[name]) for name in wanted}

    def _compare_chunk(self, chunk: Mapping[int, tuple[Array, ...]]) -> None:
        chunk = {number: self._expected(number, arrays) for number, arrays in chunk.items()}
        for number, expected in chunk.items():
            if self._is_root(number):
                self.matched[number] = Found(list(self._results()), [None] * len(expected))
                continue
            candidates = self.boundaries.candidates(number)
            names = assign(candidates, [array.shape for array in expected], self._prober.shape)
            problem = NO_FLOATS if not expected else (NO_TENSOR if not any(names) else None)
            self.matched[number] = Found(names, [None] * len(names), problem=problem)
        self._measure(chunk, {number: self.matched[number].names for number in chunk})
        doubtful = [number for number in chunk if self._is_doubtful(number)]
        self._look_further(chunk, doubtful)
        for number in doubtful:
            self._take_over(number)
        self._look_at_batch_norms([number for number in chunk if self._is_doubtful(number)])
        for number in chunk:
            self._forget_unfound(number)
        self._look_by_name([number for number in chunk if self.is_fused(number)])

    def _is_root(self, number: int) -> bool:
        return self._reference.calls[number].parent is None and bool(self._results())

    def _results(self) -> list[str]:
        """The graph's own floating-point outputs that the reference has too: those are known by name."""
        known = self._reference.outputs
        return [name for name in self._prober.flat.outputs if name in known and known[name].dtype.kind == "f"]

    def expected(self, number: int) -> tuple[Array, ...]:
        """What the reference has for a call: of one with a BatchNorm folded into it, what that returned."""
        found = self.matched[number]
        if found.by_name:
            return tuple(self._reference.named([name for name in found.names if name is not None]).values())
        compared_as = found.compared_as
        target = number if compared_as is None else compared_as
        return self._expected(number, self._reference.returned([target])[target])

    def _expected(self, number: int, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(self._reference.outputs[name] for name in self._results()) if self._is_root(number) else arrays

    def _forget_unfound(self, number: int) -> None:
        """Leaves out the second and later outputs that no tensor agrees with: which is theirs, nothing tells.

        A fault in one of them shows in the modules that read it.
        """
        found = self.matched[number]
        for index in range(1, len(found.names)) if not self._is_root(number) else ():
            errors = found.errors[index]
            if errors is None or errors.relative > self._tolerance:
                found.names[index], found.errors[index] = None, None

    def _is_doubtful(self, number: int) -> bool:
        if self._is_root(number):
            return False
        found = self.matched[number]
        off = any(
            errors is None or errors.relative > self._tolerance
            for name, errors in zip(found.names, found.errors, strict=True)
            if name is not None
        )
        return bool(found.names) and (off or None in found.names)

    def _measure(self, chunk: Mapping[int, tuple[Array, ...]], wanted: Mapping[int, Sequence[str | None]]) -> None:
        """Compares the tensors that were chosen."""
        names = [name for listed in wanted.values() for name in listed if name is not None]
        values = self.run(names, {})
        for number, listed in wanted.items():
            found = self.matched[number]
            shown = values if values is not None else self.run([name for name in listed if name is not None], {})
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
            values = self.run(names, {}) if names else None
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
        found = self.matched[number]
        for index, array in enumerate(expected):
            known = found.errors[index]
            if known is not None and known.relative <= self._tolerance:
                continue
            is_used = len(expected) == 1 and known is not None and self._is_used(number, found.names[index])
            for name, value in values.items():
                if value.dtype.kind != "f" or (name in found.names and name != found.names[index]):
                    continue
                errors = measure_in_any_layout(value, array, tolerance=self._tolerance)
                if errors is None or not (errors.relative <= self._tolerance or known is None):
                    continue
                turned = value.shape != array.shape or measure_errors(value, array).relative > self._tolerance
                if is_used and not self._is_used(number, name):
                    found.spare = found.spare or (name, errors, turned)
                    continue
                known = errors
                found.names[index], found.errors[index] = name, errors
                found.problem = None
                if turned:
                    found.turned.add(index)
                if errors.relative <= self._tolerance:
                    break

    def _is_used(self, number: int, name: str | None) -> bool:
        return name is not None and self.boundaries.is_used(number, name)

    def _take_over(self, number: int) -> None:
        """Takes the tensors of the calls inside that returned what the module returns, where its own choice is off."""
        found = self.matched[number]
        for index, source in enumerate(self._reference.calls[number].passed_on):
            inner = self.matched.get(source[0]) if source is not None else None
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
            self.matched[number].compared_as = norm
            self.matched[number].errors = [None] * len(self.matched[number].errors)
        chunk = {number: returned[norm] for number, norm in wanted.items()}
        self._measure(chunk, {number: self.matched[number].names for number in wanted})

    def run(self, names: Sequence[str], given: Mapping[str, Array]) -> dict[str, Array] | None:
        """The values of some tensors where others are given; None where ONNX Runtime can't show them."""
        try:
            return self._prober.run(names, self._reference.inputs, given=given)
        except HtpError as error:
            logger.debug("%s", error)
            return None

    def _look_by_name(self, fused: Sequence[int]) -> None:
        """Of calls that are fused in part compares what is left of them: tensors that the reference's graph has too."""
        candidates = {number: self.boundaries.candidates(number) for number in fused}
        known = self._reference.named([name for names in candidates.values() for name in names[:MAX_CANDIDATES]])
        chosen = {
            number: name
            for number, names in candidates.items()
            if (name := next((name for name in names if name in known), None)) is not None
        }
        values = self.run(list(chosen.values()), {}) if chosen else None
        for number, name in chosen.items() if values is not None else ():
            value, array = values[name], known[name]  # type: ignore[index]
            if value.shape == array.shape and value.dtype.kind == array.dtype.kind == "f":
                self.matched[number] = Found([name], [measure_errors(value, array)], by_name=True)

    def is_fused(self, number: int) -> bool:
        """Whether an optimizer fused a part of a call with other modules, and its tensor does not agree."""
        found = self.matched[number]
        if found.by_name or (found.worst is not None and found.worst.relative <= self._tolerance):
            return False
        return self._reference.calls[number].fused or bool(self.boundaries.fused_with(number))

    def _hidden(self, number: int) -> CallComparison:
        call = self._reference.calls[number]
        which = call.call if call.repeated else None
        return CallComparison(number, call.tag, call.path, call.class_name, which, 0, (), 0, None, False, HIDDEN)

    def _comparison(self, number: int) -> CallComparison:
        call, found = self._reference.calls[number], self.matched[number]
        errors = found.worst
        over = errors is not None and errors.relative > self._tolerance
        problem = found.problem if errors is None else None
        if errors is None and problem is None:
            problem = NO_TENSOR
        if self.is_fused(number):
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
