"""From the kernels of each run to the time of each module, call and operator, and from those of the first to their work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from optimum_htp.hierarchy import NodeKey, NodeTag, NodeTags, split_tag, tag_ancestors, tag_class, tag_module_path
from optimum_htp.package import lines_by_output
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.profile.compiled import Compiled
from optimum_htp.verbs.profile.joiner import Event
from optimum_htp.verbs.profile.runs import Run
from optimum_htp.verbs.profile.runtimes.ran import Nodes, Ran
from optimum_htp.verbs.profile.times import (
    CallTime,
    FusedTime,
    Kernel,
    Microseconds,
    ModuleTime,
    NodeTime,
    OpTime,
    PhaseProfile,
    in_tree_order,
)
from optimum_htp.verbs.profile.work import Work, WorkSum


class _Sum:
    """Times that add up, for each operator and run, and the work of the first run."""

    __slots__ = ("_counts", "_times", "_work", "_zero")

    def __init__(self, runs: int) -> None:
        self._work = WorkSum()
        self._zero = Microseconds((0,) * runs)
        self._times: defaultdict[str, list[float]] = defaultdict(lambda: [0] * runs)
        self._counts: defaultdict[str, list[int]] = defaultdict(lambda: [0] * runs)

    def add(self, run: int, event: Event) -> None:
        self._times[event.op_type][run] += event.time_us
        self._counts[event.op_type][run] += 1

    def add_work(self, work: Work) -> None:
        self._work.add(work)

    @property
    def work(self) -> Work:
        return self._work.work

    @property
    def time(self) -> Microseconds:
        return sum(map(Microseconds, self._times.values()), start=self._zero)

    @property
    def kernels(self) -> int:
        """Kernels in one run; of runs that differ, as loops may, the most."""
        return sum(map(max, self._counts.values()))

    def ops(self) -> dict[str, OpTime]:
        """The operators, those that take longest first."""
        ops = {name: OpTime(max(self._counts[name]), Microseconds(time)) for name, time in self._times.items()}
        return dict(sorted(ops.items(), key=lambda item: -item[1].time.median))


def phase_profile(tagged: TaggedGraph, ran: Ran) -> PhaseProfile:
    """The report of what ran in one phase of a file."""
    sums = PhaseSums(tagged, ran.nodes, ran.tags, ran.runs, ran.compiled)
    sums.add_ran(ran)
    return sums.report(tagged.name, ran.phase, ran.inputs)


class PhaseSums:
    """Adds up the runs of one phase of one file; `tags` are those of the nodes that the joiner finds."""

    def __init__(
        self,
        tagged: TaggedGraph,
        joiner: Nodes,
        tags: NodeTags,
        runs: Sequence[Run],
        compiled: Mapping[str, Compiled] | None = None,
    ) -> None:
        new = partial(_Sum, len(runs))
        self._call_above = tagged.roots.call_above
        self._calls = tagged.roots.calls
        self._own: defaultdict[str, _Sum] = defaultdict(new)
        self._total: defaultdict[str, _Sum] = defaultdict(new)
        self._fused: defaultdict[tuple[str, tuple[str, ...]], _Sum] = defaultdict(new)
        self._own_calls: defaultdict[tuple[str, int | None], _Sum] = defaultdict(new)
        self._total_calls: defaultdict[tuple[str, int | None], _Sum] = defaultdict(new)
        self._nodes: defaultdict[NodeKey, _Sum] = defaultdict(new)
        self._by_op: defaultdict[str, _Sum] = defaultdict(new)
        self._by_provider: defaultdict[str, _Sum] = defaultdict(new)
        self._unattributed = new()
        self._all = new()
        self._known_sums: dict[tuple[NodeKey | None, str, str, str], tuple[_Sum, ...]] = {}
        self._held: int | None = None
        self._works: list[tuple[str, Work]] = []
        self._reasons: Mapping[str, str] = {}
        self._joiner, self._tags, self._compiled = joiner, tags, compiled or {}
        self._lines = lines_by_output(tagged.model)
        self._timelines = [
            tuple(self._add(index, run, event, key) for event, key in joiner.join(run.events))
            for index, run in enumerate(runs)
        ]
        self._run_time = Microseconds(run.time_us for run in runs)

    def add_ran(self, ran: Ran) -> None:
        """Adds what is known beside the times, whose work is that of the first run on the inputs."""
        if ran.works:
            for (event, key), work in zip(self._joiner.join(ran.first.events), ran.works, strict=True):
                for each in self._sums(event, key):
                    each.add_work(work)
                self._works.append((event.name, work))
        self._run_time = Microseconds(ran.run_us)
        self._held, self._reasons = ran.held_bytes, ran.not_known

    def report(self, file: str, phase: str, inputs: Mapping[str, tuple[int, ...]]) -> PhaseProfile:
        """The report of the phase."""
        kernel_time = self._all.time
        middle = median(kernel_time)
        nearest = min(range(len(kernel_time)), key=lambda run: abs(kernel_time[run] - middle))
        return PhaseProfile(
            file=file,
            phase=phase,
            inputs=inputs,
            modules=tuple(self._modules()),
            fused=tuple(
                FusedTime(tag, origins, total.kernels, total.time, total.ops(), total.work)
                for (tag, origins), total in self._fused.items()
            ),
            calls=tuple(self._call_times()),
            unattributed=self._unattributed.time,
            unattributed_ops=self._unattributed.ops(),
            kernel_time=kernel_time,
            run_time=self._run_time,
            timeline=self._with_work(self._timelines[nearest]),
            nodes=tuple(self._node_times()),
            work=self._all.work,
            unattributed_work=self._unattributed.work,
            op_work={name: total.work for name, total in self._by_op.items()},
            providers={name: OpTime(total.kernels, total.time) for name, total in self._by_provider.items()},
            held_bytes=self._held,
            not_known=self._reasons,
        )

    def _with_work(self, timeline: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
        """The kernels of a run with the work of those of the first, if they are the same."""
        if [kernel.node for kernel in timeline] != [name for name, _ in self._works]:
            return timeline
        return tuple(replace(kernel, work=work) for kernel, (_, work) in zip(timeline, self._works, strict=True))

    def _add(self, index: int, run: Run, event: Event, key: NodeKey | None) -> Kernel:
        for each in self._sums(event, key):
            each.add(index, event)
        tag = self._tag(key, event)
        return Kernel(
            node=event.name,
            op_type=event.op_type,
            start_us=event.start_us - run.start_us,
            time_us=event.time_us,
            tag=None if tag is None else tag.tag,
            call=None if tag is None else tag.call,
            origins=() if tag is None else tag.origins,
            provider=event.provider,
        )

    def _sums(self, event: Event, key: NodeKey | None) -> tuple[_Sum, ...]:
        """What a kernel counts in: the same in each run."""
        kind = (key, event.name, event.op_type, event.provider)
        if kind not in self._known_sums:
            self._known_sums[kind] = tuple(self._new_sums(event, key))
        return self._known_sums[kind]

    def _new_sums(self, event: Event, key: NodeKey | None) -> Iterator[_Sum]:
        yield self._all
        yield self._by_op[event.op_type]
        if event.provider:
            yield self._by_provider[event.provider]
        if key is not None:
            yield self._nodes[key]
        tag = self._tag(key, event)
        if tag is None:
            yield self._unattributed
            return
        fused = len(tag.origins) > 1
        yield self._fused[tag.tag, tag.origins] if fused else self._own[tag.tag]
        for above in tag_ancestors(tag.tag):
            yield self._total[above]
            if (self._calls(above) or 1) > 1 or (above == tag.tag and tag.call is not None):
                call = self._call_above(tag, above)
                yield self._total_calls[above, call]
                if above == tag.tag and not fused:
                    yield self._own_calls[above, call]

    def _tag(self, key: NodeKey | None, event: Event | None = None) -> NodeTag | None:
        """The tag of a node, or of what was compiled from nodes; None if its module is not known."""
        if key is None and event is not None and event.name in self._compiled:
            return self._compiled[event.name].tag
        tag = self._tags.get(key) if key is not None else None
        return None if tag is None or tag.source == "unresolved" else tag

    def _node_times(self) -> Iterator[NodeTime]:
        for key, total in self._nodes.items():
            node, tag = self._joiner.nodes[key], self._tag(key)
            yield NodeTime(
                node=node.name,
                op_type=node.op_type,
                graph=key[0],
                outputs=tuple(filter(None, node.outputs)),
                tag=tag.tag if tag is not None else None,
                call=tag.call if tag is not None else None,
                kernels=total.kernels,
                time=total.time,
                python=next((self._lines[name] for name in node.outputs if name in self._lines), None),
                work=total.work,
            )

    def _modules(self) -> Iterator[ModuleTime]:
        layers: list[str] = []
        for tag in in_tree_order(self._total):
            is_layer = _is_listed(tag) and not any(tag.startswith(layer + "/") for layer in layers)
            layers += [tag] if is_layer else []
            yield ModuleTime(
                depth=len(split_tag(tag)) - 1,
                calls=self._calls(tag),
                is_layer=is_layer,
                ops=self._total[tag].ops(),
                **_times(tag, self._own[tag], self._total[tag]),
            )

    def _call_times(self) -> Iterator[CallTime]:
        order = {tag: index for index, tag in enumerate(in_tree_order(self._total))}
        for tag, call in sorted(self._total_calls, key=lambda key: (order[key[0]], key[1] is None, key[1] or 0)):
            yield CallTime(call=call, **_times(tag, self._own_calls[tag, call], self._total_calls[tag, call]))


def _is_listed(tag: str) -> bool:
    """Whether a module is one of a list: the last of its names is a number, below a container."""
    names = split_tag(tag)[-1].split(".")[1:]
    return len(names) > 1 and names[-1].isdecimal()


def _times(tag: str, own: _Sum, total: _Sum) -> dict[str, Any]:
    """What the times of modules and of calls have in common."""
    return {
        "path": tag_module_path(tag),
        "class_name": tag_class(tag),
        "tag": tag,
        "kernels": total.kernels,
        "self_time": own.time,
        "total_time": total.time,
        "self_work": own.work,
        "total_work": total.work,
    }
