"""One graph against its reference: ports, errors and verdict, put together as the part of a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from optimum_htp.models import Errors, FlatGraph, Prober, computes_in, off_by, random_operators, worst_errors
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package import PythonLine, lines_by_output
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.compare.call_graph import CallGraph
from optimum_htp.verbs.compare.cut_graph import Cut, Port
from optimum_htp.verbs.compare.expected import Expected
from optimum_htp.verbs.compare.own_errors import Row, own_rows, running_errors, whole_errors
from optimum_htp.verbs.compare.ports import Ports
from optimum_htp.verbs.compare.reference import Reference
from optimum_htp.verbs.compare.replay import explained
from optimum_htp.verbs.compare.report import CallComparison, Culprit, PartComparison
from optimum_htp.verbs.compare.verdict import UNKNOWN, Blame, Verdict, judge, measured_outputs, settled

NO_TENSOR = "no tensor of the graph is what it returns"
FUSED = "an optimizer fused a part of it with other modules"
HIDDEN = "its nodes are in the body of a control-flow node"

_ATTEMPTS = 5  # each takes back guesses that nothing speaks for

# From this SQNR on, in dB, a tensor has the reference's values, by what a model computes with.
_AGREE_DB = {"float32": 60.0, "float16": 30.0, "bfloat16": 20.0, "int8": 15.0}


def compare_graph(
    tagged: TaggedGraph,
    flat: FlatGraph,
    prober: Prober,
    samples: Sequence[Reference],
    *,
    branch: str,
    tolerance: float,
    max_bytes: int,
    guessed: Mapping[str, str] | None = None,
    notes: Iterable[str] = (),
) -> PartComparison:
    """Compares a graph with its reference on some samples.

    `guessed` are inputs and outputs that only their order tells which they are in the reference: if that is wrong, so is what
    comes of it, and nobody is accused.

    Raises:
        HtpError: ONNX Runtime can't run it.
    """
    reference = samples[0]
    graph = CallGraph(flat, reference.calls, reference.call_of, same_node=reference.same_node)
    precision = min(computes_in(tagged.model), reference.precision, key=_AGREE_DB.__getitem__)
    ports = Ports(graph, prober, samples, precision=precision, agree_db=_AGREE_DB[precision], max_bytes=max_bytes)
    names = {name: name for name in flat.outputs if name in reference.outputs}
    shown = ports.run_or_raise(Cut(graph).plan(names))
    outputs = measured_outputs(ports, shown)
    ports.match()
    random = random_operators(tagged.model)
    forgotten: set[Port] = set()
    for attempt in range(_ATTEMPTS):
        found = own_rows(ports)
        expected = Expected(ports, found)
        rows, certain, refuted = explained(ports, found, expected)
        if refuted and attempt + 1 < _ATTEMPTS:
            ports.forget(refuted)
            forgotten |= refuted
            continue
        verdict = judge(ports, rows, expected, outputs, tolerance=tolerance, random=bool(random))
        if guessed and verdict.culprits:
            listed = ", ".join(f"{ours} for {theirs}" for ours, theirs in guessed.items())
            verdict = Verdict(
                UNKNOWN, reason=f"only their order says which inputs are which ({listed}); use --map NEW=OLD"
            )
        if not verdict.unconfirmed or attempt + 1 == _ATTEMPTS:
            break
        ports.forget(verdict.unconfirmed)
        forgotten |= verdict.unconfirmed
    verdict = settled(verdict, forgotten, certain, graph)
    running = running_errors(ports)
    whole = whole_errors(ports)
    calls = _Calls(ports, running, rows, whole, tolerance, tagged.model)

    def culprit(blame: Blame) -> Culprit:
        row = blame.rows[0]
        return Culprit(
            row=calls.of_row(row),
            expected_sqnr_db=expected.sqnr_db(row),
            output_error_without=blame.without.worst if blame.without else None,
            output_sqnr_db_without=blame.without.sqnr_db if blame.without else None,
        )

    return PartComparison(
        file=tagged.name,
        branch=branch,
        reference=reference.name,
        inputs={name: tuple(array.shape) for name, array in reference.inputs.items()},
        samples=len(samples),
        precision=precision,
        tolerance=tolerance,
        verdict=verdict.verdict,
        reason=verdict.reason,
        culprits=tuple(map(culprit, verdict.culprits)),
        carriers=tuple(map(culprit, verdict.carriers)),
        output_error_without_all=verdict.together.worst if verdict.together else None,
        calls=calls.all(),
        outputs=outputs.errors,
        outputs_sqnr_db=outputs.sqnr_db,
        without_nodes=len(reference.calls) - len(graph.nodes) - len(graph.hidden),
        unknown_calls=sum(
            node.tag is not None and tagged.roots.calls_above(node.tag, node.tag.tag) is None for node in flat.nodes
        ),
        chunks=ports.chunks,
        random=random,
        notes=tuple(notes),
    )


class _Calls:
    """The calls of a graph for the report."""

    def __init__(
        self,
        ports: Ports,
        running: Mapping[int, Mapping[Port, Errors]],
        rows: Sequence[Row],
        whole: Mapping[int, Errors],
        tolerance: float,
        model: OnnxModel,
    ) -> None:
        self._ports = ports
        self._graph = ports.graph
        self._running = running
        self._rows = {(row.call, row.operations): row for row in rows}
        self._whole = whole
        self._tolerance = tolerance
        self._lines = lines_by_output(model)

    def all(self) -> tuple[CallComparison, ...]:
        """All calls that have nodes or a tensor, each followed by its operations."""
        numbers = sorted({*self._graph.nodes, *self._running, *self._graph.hidden})
        calls = []
        for number in numbers:
            calls.append(self._call(number))
            row = self._rows.get((number, True))
            if row is not None:
                calls.append(self.of_row(row))
        return tuple(calls)

    def of_row(self, row: Row) -> CallComparison:
        """The work of one call."""
        if not row.operations:
            return self._call(row.call)
        return CallComparison(
            **self._identity(row.call),
            operations=True,
            nodes=len(row.nodes),
            tensors=tuple(dict.fromkeys(port.tensor for port in row.errors)),
            python=self._line(row.errors),
            own=row.worst,
            evidence=self._evidence(row.errors),
        )

    @cached_property
    def _cut_off(self) -> frozenset[int]:
        """The innermost calls that have nodes, and in them calls whose nodes the reference has and this graph lacks."""
        graph = self._graph
        here = {*graph.nodes, *graph.fused, *graph.hidden, *(port.call for port in self._ports.matches)}
        missing = [call for call in graph.calls if call.nodes and call.number not in here]
        if graph.has_fusions:
            return frozenset()
        around = (next((number for number in graph.around(call.parent) if number in here), None) for call in missing)
        return frozenset(number for number in around if number is not None)

    def _call(self, number: int) -> CallComparison:
        running = self._running.get(number, {})
        errors = worst_errors(running.values())
        row = self._rows.get((number, False))
        own = self._whole.get(number) if self._graph.children.get(number) else row.worst if row is not None else None
        compared_as = self._ports.compared_as(number)
        return CallComparison(
            **self._identity(number),
            nodes=len(self._graph.nodes.get(number, ())),
            tensors=tuple(dict.fromkeys(port.tensor for port in running)),
            python=self._line(running),
            own=own,
            errors=errors,
            over=errors is not None and off_by(errors, self._ports.precision) > self._tolerance,
            evidence=self._evidence(running),
            skipped=None if errors is not None else self._why_not(number),
            compared_as=None if compared_as is None else self._graph.calls[compared_as].path,
        )

    def _line(self, ports: Iterable[Port]) -> PythonLine | None:
        """The line that the first of some tensors comes from, of which one is known."""
        return next((self._lines[port.tensor] for port in ports if port.tensor in self._lines), None)

    def _why_not(self, number: int) -> str:
        if number in self._graph.hidden:
            return HIDDEN
        if number in self._cut_off:
            return f"nodes of {self._graph.calls[number].path or 'the root'} are missing in the file"
        return self._ports.problems.get(number) or (FUSED if number in self._graph.fused else NO_TENSOR)

    def _evidence(self, ports: Iterable[Port]) -> str | None:
        kinds = {self._ports.matches[port].evidence for port in ports}
        return next((kind for kind in ("shape", "value", "name") if kind in kinds), None)

    def _identity(self, number: int) -> dict[str, Any]:
        call = self._graph.calls[number]
        return {
            "order": number,
            "tag": call.tag,
            "path": call.path,
            "class_name": call.class_name,
            "call": call.call if call.repeated else None,
        }
