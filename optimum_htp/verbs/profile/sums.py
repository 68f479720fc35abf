"""From the kernels of each run to the time of each module, call and operator."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

from optimum_htp.hierarchy import NodeKey, NodeTag, split_tag, tag_ancestors, tag_class, tag_module_path
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.profile.joiner import Event, Joiner, nest
from optimum_htp.verbs.profile.runs import Run
from optimum_htp.verbs.profile.times import (
    CallTime,
    FusedTime,
    Kernel,
    Microseconds,
    ModuleTime,
    OpTime,
    PhaseProfile,
)


@dataclass(slots=True)
class _Sum:
    """Times that add up, for each run and operator."""

    runs: int
    time: list[int] = field(default_factory=list)
    ops: dict[str, list[int]] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.time = [0] * self.runs

    def add(self, run: int, event: Event) -> None:
        self.time[run] += event.time_us
        self.ops.setdefault(event.op_type, [0] * self.runs)[run] += event.time_us
        self.counts.setdefault(event.op_type, [0] * self.runs)[run] += 1

    @property
    def microseconds(self) -> Microseconds:
        return Microseconds(self.time)

    @property
    def kernels(self) -> int:
        return sum(map(max, self.counts.values()))

    def mix(self) -> dict[str, OpTime]:
        """The operators, those that take longest first."""
        mixed = {name: OpTime(max(self.counts[name]), Microseconds(time)) for name, time in self.ops.items()}
        return dict(sorted(mixed.items(), key=lambda item: -item[1].time.median))


_CallKey = tuple[str, "int | None"]
_KeyT = TypeVar("_KeyT", bound=Hashable)


class PhaseSums:
    """Adds up the runs of one phase of one file.

    Args:
        tagged: The file.
        joiner: Finds the nodes of events.
        tags: The tags of those nodes.
        runs: The runs.
    """

    def __init__(
        self, tagged: TaggedGraph, joiner: Joiner, tags: Mapping[NodeKey, NodeTag], runs: Sequence[Run]
    ) -> None:
        self._tagged = tagged
        self._count = len(runs)
        self._own: dict[str, _Sum] = {}
        self._total: dict[str, _Sum] = {}
        self._fused: dict[tuple[str, tuple[str, ...]], _Sum] = {}
        self._own_calls: dict[_CallKey, _Sum] = {}
        self._total_calls: dict[_CallKey, _Sum] = {}
        self._calls: dict[str, int | None] = {}
        self._unattributed = _Sum(self._count)
        self._all = _Sum(self._count)
        self._timelines: list[tuple[Kernel, ...]] = []
        for index, run in enumerate(runs):
            self._add_run(index, run, joiner, tags)
        self._run_time = Microseconds(run.time_us for run in runs)

    def report(self, file: str, phase: str, inputs: Mapping[str, tuple[int, ...]]) -> PhaseProfile:
        """The report of the phase."""
        kernel_time = self._all.microseconds
        middle = median(kernel_time)
        nearest = min(range(self._count), key=lambda run: abs(kernel_time[run] - middle))
        return PhaseProfile(
            file=file,
            phase=phase,
            inputs=inputs,
            modules=tuple(self._modules()),
            fused=tuple(
                FusedTime(tag, origins, total.kernels, total.microseconds, total.mix())
                for (tag, origins), total in self._fused.items()
            ),
            calls=tuple(self._call_times()),
            unattributed=self._unattributed.microseconds,
            unattributed_ops=self._unattributed.mix(),
            kernel_time=kernel_time,
            run_time=self._run_time,
            timeline=self._timelines[nearest],
        )

    def _add_run(self, index: int, run: Run, joiner: Joiner, tags: Mapping[NodeKey, NodeTag]) -> None:
        timeline = []
        for event, key in joiner.join(nest(run.events)):
            tag = tags.get(key) if key is not None else None
            if tag is not None and tag.source == "unresolved":
                tag = None
            self._all.add(index, event)
            if tag is None:
                self._unattributed.add(index, event)
            else:
                self._add(index, event, tag)
            timeline.append(_kernel(event, run, tag))
        self._timelines.append(tuple(timeline))

    def _add(self, run: int, event: Event, tag: NodeTag) -> None:
        fused = len(tag.origins) > 1
        if fused:
            self._sum(self._fused, (tag.tag, tag.origins)).add(run, event)
        else:
            self._sum(self._own, tag.tag).add(run, event)
        for above in tag_ancestors(tag.tag):
            self._sum(self._total, above).add(run, event)
            if (self._times_called(above) or 1) > 1 or (above == tag.tag and tag.call is not None):
                call = self._tagged.roots.call_above(tag, above)
                self._sum(self._total_calls, (above, call)).add(run, event)
                if above == tag.tag and not fused:
                    self._sum(self._own_calls, (above, call)).add(run, event)

    def _times_called(self, tag: str) -> int | None:
        if tag not in self._calls:
            self._calls[tag] = self._tagged.roots.calls(tag)
        return self._calls[tag]

    def _sum(self, sums: dict[_KeyT, _Sum], key: _KeyT) -> _Sum:
        if key not in sums:
            sums[key] = _Sum(self._count)
        return sums[key]

    def _modules(self) -> Iterator[ModuleTime]:
        zero = Microseconds.zero(self._count)
        layers: list[str] = []
        for tag in _in_tree_order(self._total):
            total = self._total[tag]
            own = self._own.get(tag)
            is_layer = self._is_listed(tag) and not any(tag.startswith(layer + "/") for layer in layers)
            layers += [tag] if is_layer else []
            yield ModuleTime(
                tag=tag,
                path=tag_module_path(tag),
                class_name=tag_class(tag),
                depth=len(split_tag(tag)) - 1,
                calls=self._times_called(tag),
                kernels=total.kernels,
                self_time=own.microseconds if own else zero,
                total_time=total.microseconds,
                ops=total.mix(),
                is_layer=is_layer,
            )

    def _is_listed(self, tag: str) -> bool:
        """Whether a module is one of a list: the last of its names is a number, below a container."""
        names = split_tag(tag)[-1].split(".")[1:]
        return len(names) > 1 and names[-1].isdecimal()

    def _call_times(self) -> Iterator[CallTime]:
        zero = Microseconds.zero(self._count)
        order = {tag: place for place, tag in enumerate(_in_tree_order(self._total))}
        keys = sorted(
            self._total_calls, key=lambda key: (order[key[0]], key[1] is None, key[1] if key[1] is not None else 0)
        )
        for tag, call in keys:
            total, own = self._total_calls[tag, call], self._own_calls.get((tag, call))
            yield CallTime(
                tag=tag,
                path=tag_module_path(tag),
                class_name=tag_class(tag),
                call=call,
                kernels=total.kernels,
                self_time=own.microseconds if own else zero,
                total_time=total.microseconds,
            )


def _kernel(event: Event, run: Run, tag: NodeTag | None) -> Kernel:
    start = event.start_us - run.start_us
    if tag is None:
        return Kernel(event.name, event.op_type, start, event.time_us, None, None, ())
    return Kernel(event.name, event.op_type, start, event.time_us, tag.tag, tag.call, tag.origins)


def _in_tree_order(tags: Iterable[str]) -> list[str]:
    """Tags, each before those below it, and siblings in the order in which they first come."""
    children: dict[str, list[str]] = {}
    roots: list[str] = []
    for tag in tags:
        above = tag.rpartition("/")[0]
        (children.setdefault(above, []) if above else roots).append(tag)
    ordered: list[str] = []
    stack = roots[::-1]
    while stack:
        tag = stack.pop()
        ordered.append(tag)
        stack.extend(reversed(children.get(tag, [])))
    return ordered
