"""Times: of modules, calls, operators and kernels of one file in one phase.

All times are microseconds, one value for each run, so that sums over modules are exact in every run: the times of all
modules alone, of all nodes fused across modules, and of what is not attributed add up to ONNX Runtime's kernel time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, NamedTuple


class Microseconds(tuple[int, ...]):
    """A time in microseconds, measured once for each run.

    >>> time = Microseconds((10, 12, 11, 30))
    >>> time.median, time.spread
    (11.5, 4.75)
    """

    __slots__ = ()

    def __add__(self, other: object) -> Microseconds:
        if not isinstance(other, tuple):
            return NotImplemented
        return Microseconds(left + right for left, right in zip(self, other, strict=True))

    @property
    def median(self) -> float:
        """The median over the runs; 0 where there is none."""
        return float(median(self)) if self else 0.0

    @property
    def spread(self) -> float:
        """The distance between the first and the third quartile of the runs."""
        if len(self) < 2:
            return 0.0
        first, _, third = quantiles(self, n=4, method="inclusive")
        return third - first

    def to_dict(self) -> dict[str, Any]:
        """The time as JSON: the median, the spread and each run."""
        return {"median_us": self.median, "spread_us": self.spread, "runs_us": list(self)}

    @classmethod
    def zero(cls, runs: int) -> Microseconds:
        """No time in any run."""
        return cls((0,) * runs)


class OpTime(NamedTuple):
    """How many kernels of an operator ran in one run, and how long they took in each.

    Attributes:
        kernels: Kernels in one run.
        time: Microseconds in each run.
    """

    kernels: int
    time: Microseconds

    def to_dict(self) -> dict[str, Any]:
        """The operator's part as JSON."""
        return {"kernels": self.kernels, "time": self.time.to_dict()}


@dataclass(frozen=True, slots=True)
class ModuleTime:
    """One module.

    Attributes:
        tag: Its tag.
        path: Its dotted path; `""` is the root.
        class_name: Its class.
        depth: Modules above it.
        calls: How often it ran in the trace; None where that is not known.
        kernels: Kernels that ran for it and the modules below it in one run.
        self_time: The time of its own nodes.
        total_time: That, and the time of all modules below it, and of nodes fused of several modules of those.
        ops: By operator, what of the total that operator took.
        is_layer: Whether it is one of a list of modules that lies in no other such list.
    """

    tag: str
    path: str
    class_name: str
    depth: int
    calls: int | None
    kernels: int
    self_time: Microseconds
    total_time: Microseconds
    ops: Mapping[str, OpTime]
    is_layer: bool


@dataclass(frozen=True, slots=True)
class FusedTime:
    """Nodes that each do work of the same several modules, for which none of them alone is to blame.

    Attributes:
        tag: The lowest module that contains them all.
        origins: The tags of the modules.
        kernels: Kernels in one run.
        time: Their time.
        ops: By operator, what of it that operator took.
    """

    tag: str
    origins: tuple[str, ...]
    kernels: int
    time: Microseconds
    ops: Mapping[str, OpTime]


@dataclass(frozen=True, slots=True)
class CallTime:
    """One call of a module that ran more than once.

    Attributes:
        tag: The module's tag.
        path: Its dotted path.
        class_name: Its class.
        call: The 0-based index of the call; None for nodes of which that is not known.
        kernels: Kernels in one run.
        self_time: The time of the module's own nodes.
        total_time: That, and the time of all below it that belongs to the same call.
    """

    tag: str
    path: str
    class_name: str
    call: int | None
    kernels: int
    self_time: Microseconds
    total_time: Microseconds

    def to_dict(self) -> dict[str, Any]:
        """The call as JSON."""
        return {
            "path": self.path,
            "class": self.class_name,
            "tag": self.tag,
            "call": self.call,
            "kernels": self.kernels,
            "self_time": self.self_time.to_dict(),
            "total_time": self.total_time.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of a run.

    Attributes:
        node: The node's name in the graph that ONNX Runtime made.
        op_type: The operator.
        start_us: When it began, from the beginning of the run.
        time_us: How long it took.
        tag: Its module; None where that is not known.
        call: The module's call, where it ran more than once.
        origins: The modules that it does the work of, where there are several.
    """

    node: str
    op_type: str
    start_us: int
    time_us: int
    tag: str | None
    call: int | None
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PhaseProfile:
    """One ONNX file in one phase.

    Attributes:
        file: The file's path in the package.
        phase: `forward`, or for a model that generates `prefill` or `decode`.
        inputs: The shape of each input.
        modules: The modules that ran, each before those below it.
        fused: Nodes that do the work of several modules.
        calls: Calls of the modules that ran more than once.
        unattributed: The time of nodes of which no module is known.
        unattributed_ops: What of it each operator took.
        kernel_time: The time of all kernels, control flow left out, which contains its bodies'.
        run_time: The time of the whole run.
        timeline: The kernels of the run that took the median time.
    """

    file: str
    phase: str
    inputs: Mapping[str, tuple[int, ...]]
    modules: tuple[ModuleTime, ...]
    fused: tuple[FusedTime, ...]
    calls: tuple[CallTime, ...]
    unattributed: Microseconds
    unattributed_ops: Mapping[str, OpTime]
    kernel_time: Microseconds
    run_time: Microseconds
    timeline: tuple[Kernel, ...]

    @property
    def attributed(self) -> float:
        """The share of kernel time that a module is known for."""
        total = sum(self.kernel_time)
        return 1.0 - sum(self.unattributed) / total if total else 1.0

    def share(self, time: Microseconds) -> float:
        """The share of kernel time that a time is, by the medians: one slow run moves it little."""
        whole = self.kernel_time.median
        return time.median / whole if whole else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The phase as JSON; the timeline is not in it."""
        return {
            "file": self.file,
            "phase": self.phase,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "kernel_time": self.kernel_time.to_dict(),
            "run_time": self.run_time.to_dict(),
            "attributed": self.attributed,
            "unattributed": {"time": self.unattributed.to_dict(), "ops": _ops(self.unattributed_ops)},
            "modules": [
                {
                    "path": module.path,
                    "class": module.class_name,
                    "tag": module.tag,
                    "depth": module.depth,
                    "calls": module.calls,
                    "is_layer": module.is_layer,
                    "kernels": module.kernels,
                    "self_time": module.self_time.to_dict(),
                    "self_share": self.share(module.self_time),
                    "total_time": module.total_time.to_dict(),
                    "total_share": self.share(module.total_time),
                    "ops": _ops(module.ops),
                }
                for module in self.modules
            ],
            "fused": [
                {
                    "tag": fused.tag,
                    "origins": list(fused.origins),
                    "kernels": fused.kernels,
                    "time": fused.time.to_dict(),
                    "share": self.share(fused.time),
                    "ops": _ops(fused.ops),
                }
                for fused in self.fused
            ],
            "calls": [call.to_dict() for call in self.calls],
        }


def _ops(ops: Mapping[str, OpTime]) -> dict[str, Any]:
    return {name: op.to_dict() for name, op in ops.items()}


@dataclass(frozen=True, slots=True)
class GroupTime:
    """Modules of one class, or the nodes of one operator, taken together.

    Attributes:
        name: The class or the operator.
        members: How many modules or kernels.
        self_time: The time of their own nodes.
        total_time: That and what is below them; what lies in two of them counts once.
    """

    name: str
    members: int
    self_time: Microseconds
    total_time: Microseconds


def by_class(phase: PhaseProfile) -> tuple[GroupTime, ...]:
    """Modules of the same class together."""
    zero = Microseconds.zero(len(phase.kernel_time))
    groups: dict[str, GroupTime] = {}
    chain: list[ModuleTime] = []
    for module in phase.modules:
        while chain and not module.tag.startswith(chain[-1].tag + "/"):
            chain.pop()
        group = groups.get(module.class_name) or GroupTime(module.class_name, 0, zero, zero)
        inside = any(above.class_name == module.class_name for above in chain)
        groups[module.class_name] = GroupTime(
            module.class_name,
            group.members + 1,
            group.self_time + module.self_time,
            group.total_time + (zero if inside else module.total_time),
        )
        chain.append(module)
    return tuple(groups.values())


def by_op(phase: PhaseProfile) -> tuple[GroupTime, ...]:
    """Kernels of the same operator together."""
    groups: dict[str, GroupTime] = {}
    roots = [module.ops for module in phase.modules if not module.depth]
    for ops in (*roots, phase.unattributed_ops):
        for op_type, (kernels, time) in ops.items():
            group = groups.get(op_type)
            members = kernels + (group.members if group else 0)
            whole = time + group.total_time if group else time
            groups[op_type] = GroupTime(op_type, members, whole, whole)
    return tuple(groups.values())
