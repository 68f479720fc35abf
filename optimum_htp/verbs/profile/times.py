"""Times: of modules, calls, operators and kernels of one file in one phase.

All times are microseconds, one value for each run, so that sums are exact in every run: the times of all modules alone,
of all nodes fused across modules, and of what is not attributed add up to the runtime's kernel time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from statistics import median, quantiles
from typing import Any, NamedTuple

from optimum_htp.package import PythonLine
from optimum_htp.reports import Brief, called
from optimum_htp.verbs.profile.work import NO_WORK, Work, joined


class Microseconds(tuple[float, ...]):
    """A time in microseconds, measured once for each run; or once for all, where a runtime gives nothing but an average.

    >>> time = Microseconds((10, 12, 11, 30))
    >>> time.median, time.spread
    (11.5, 5.75)
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
        """The time as JSON: the median, the spread, null of a single value, and each run."""
        return {
            "median_us": round(self.median, 3) if self else None,
            "spread_us": round(self.spread, 3) if len(self) > 1 else None,
            "runs_us": [round(time, 3) for time in self],
        }


class OpTime(NamedTuple):
    """How many `kernels` of an operator ran in one run, and the `time` that they took in each."""

    kernels: int
    time: Microseconds

    def to_dict(self) -> dict[str, Any]:
        """The operator's part as JSON."""
        return {"kernels": self.kernels, "time": self.time.to_dict()}


@dataclass(frozen=True, slots=True, repr=False)
class ModuleTime(Brief):
    """One module.

    Attributes:
        path: Its dotted path; `""` is the root.
        class_name: Its class.
        tag: Its tag.
        depth: Modules above it.
        calls: How often it ran in the trace; None where that is not known.
        is_layer: Whether it is one of a list of modules that lies in no other such list.
        kernels: Kernels that ran for it and the modules below it in one run.
        self_time: The time of its own nodes.
        total_time: That, and the time of all modules below it, and of nodes fused from several of those.
        ops: What of the total each operator took.
        self_work: What its own nodes do beside that: memory, bytes, operations, provider.
        total_work: The same of all nodes of the total.
    """

    path: str
    class_name: str
    tag: str
    depth: int
    calls: int | None
    is_layer: bool
    kernels: int
    self_time: Microseconds
    total_time: Microseconds
    ops: Mapping[str, OpTime]
    self_work: Work = NO_WORK
    total_work: Work = NO_WORK

    @property
    def gflops(self) -> float | None:
        """Billions of operations in a second, in the total's median time; None if it does none that are counted."""
        return self.total_work.gflops(self.total_time.median)


@dataclass(frozen=True, slots=True, repr=False)
class FusedTime(Brief):
    """Nodes that each do work of the same several modules, so that their time is no single module's own.

    Attributes:
        tag: The lowest module that contains them all.
        origins: The tags of the modules.
        kernels: Kernels in one run.
        time: Their time.
        ops: What of it each operator took.
        work: What they do beside that.
    """

    tag: str
    origins: tuple[str, ...]
    kernels: int
    time: Microseconds
    ops: Mapping[str, OpTime]
    work: Work = NO_WORK


@dataclass(frozen=True, slots=True)
class CallTime:
    """One call of a module that ran more than once.

    Attributes:
        path: The module's dotted path.
        class_name: Its class.
        tag: Its tag.
        call: The 0-based index of the call; None for nodes whose call is unknown.
        kernels: Kernels in one run.
        self_time: The time of the module's own nodes.
        total_time: That, and the time of all below it that belongs to the same call.
        self_work: What the module's own nodes do beside that.
        total_work: The same of all nodes of the total.
    """

    path: str
    class_name: str
    tag: str
    call: int | None
    kernels: int
    self_time: Microseconds
    total_time: Microseconds
    self_work: Work = NO_WORK
    total_work: Work = NO_WORK

    @property
    def gflops(self) -> float | None:
        """Billions of operations in a second, in the total's median time; None if it does none that are counted."""
        return self.total_work.gflops(self.total_time.median)


@dataclass(frozen=True, slots=True)
class GroupTime:
    """Modules of one class, or the kernels of one operator, taken together.

    Attributes:
        name: The class or the operator.
        members: How many modules or kernels.
        self_time: The time of their own nodes.
        total_time: That and what is below them; what lies in two of them counts once.
        self_work: What their own nodes do beside that.
        total_work: The same of all nodes of the total.
    """

    name: str
    members: int
    self_time: Microseconds
    total_time: Microseconds
    self_work: Work = NO_WORK
    total_work: Work = NO_WORK


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One node of the graph that the runtime made of the file.

    Attributes:
        node: Its name there.
        op_type: Its operator.
        graph: The path of the graph there that it is in; `""` is the main graph.
        outputs: The tensors that it makes; they keep their names, whatever became of the nodes that made them.
        tag: Its module; None where that is not known.
        call: The module's call, where it ran more than once.
        kernels: How often it ran in one run.
        time: Its time.
        python: The line of the model's code that it comes from, where the file says it.
        work: What it does beside that.
    """

    node: str
    op_type: str
    graph: str
    outputs: tuple[str, ...]
    tag: str | None
    call: int | None
    kernels: int
    time: Microseconds
    python: PythonLine | None = None
    work: Work = NO_WORK


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of a run.

    Attributes:
        node: The node's name in the graph that the runtime made.
        op_type: The operator.
        start_us: When it began, from the beginning of the run; where the runtime gives durations only, one comes after the other.
        time_us: How long it took.
        tag: Its module; None where that is not known.
        call: The module's call, where it ran more than once.
        origins: The modules that it does the work of, where there are several.
        provider: The execution provider or device that ran it; `""` where the runtime doesn't say.
        work: What it does beside taking time, in the first run.
    """

    node: str
    op_type: str
    start_us: float
    time_us: float
    tag: str | None
    call: int | None
    origins: tuple[str, ...]
    provider: str = ""
    work: Work = NO_WORK


@dataclass(frozen=True, slots=True, repr=False)
class PhaseProfile(Brief):
    """One ONNX file in one phase.

    Attributes:
        file: The file's path in the package.
        phase: `forward`, or for a model that generates `prefill` or `decode`.
        inputs: The shape of each input; empty where the runtime doesn't say.
        modules: The modules that ran, each before those below it.
        fused: Nodes that do the work of several modules.
        calls: Calls of the modules that ran more than once.
        unattributed: The time of nodes without a known module.
        unattributed_ops: What of it each operator took.
        kernel_time: The time of all kernels, without control flow, whose time contains its bodies'.
        run_time: The time of the whole run; empty where the runtime doesn't say.
        timeline: The kernels of the run that took the median time.
        nodes: The nodes that ran; what ran and is no node of the graph is not among them.
        work: What all kernels do beside taking time.
        unattributed_work: What those without a known module do.
        op_work: What those of each operator do.
        providers: The kernels that each execution provider ran, and their time.
        held_bytes: What the runtime's arena holds before the first kernel: weights that it laid out anew, mostly.
        not_known: Why figures are not there, or not of all kernels, by what they are of: `memory`, `activations`,
            `parameters`, `flops`, `providers`.
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
    nodes: tuple[NodeTime, ...] = ()
    work: Work = NO_WORK
    unattributed_work: Work = NO_WORK
    op_work: Mapping[str, Work] = field(default_factory=dict)
    providers: Mapping[str, OpTime] = field(default_factory=dict)
    held_bytes: int | None = None
    not_known: Mapping[str, str] = field(default_factory=dict)

    @property
    def attributed(self) -> float:
        """The share of kernel time that has a known module."""
        total = sum(self.kernel_time)
        return 1.0 - sum(self.unattributed) / total if total else 1.0

    def share(self, time: Microseconds) -> float:
        """The share of kernel time that a time is, by the medians: one slow run moves it little."""
        whole = self.kernel_time.median
        return time.median / whole if whole else 0.0

    def __getitem__(self, name: str) -> ModuleTime:
        """The module with a dotted path (`""` is the root) or a tag.

        Raises:
            UnknownNameError: There is none.
        """
        return called(name, (((module.path, module.tag), self.file, module) for module in self.modules), what="module")

    def by_layer(self) -> tuple[ModuleTime, ...]:
        """The layers: modules of a list that lies in no other; `outside_layers` is the rest."""
        return tuple(module for module in self.modules if module.is_layer)

    @property
    def outside_layers(self) -> Microseconds:
        """The time that no layer has, of what has a module."""
        inside = sum((layer.total_time for layer in self.by_layer()), start=Microseconds((0,) * len(self.kernel_time)))
        times = zip(self.kernel_time, inside, self.unattributed, strict=True)
        return Microseconds(whole - layered - unknown for whole, layered, unknown in times)

    @property
    def outside_layers_work(self) -> Work:
        """The work that no layer has, of what has a module."""
        layers = tuple(layer.tag for layer in self.by_layer())
        below = tuple(f"{layer}/" for layer in layers)
        own = [(module.tag, module.self_work) for module in self.modules]
        fused = [(nodes.tag, nodes.work) for nodes in self.fused]
        return joined(work for tag, work in (*own, *fused) if tag not in layers and not tag.startswith(below))

    def by_class(self) -> tuple[GroupTime, ...]:
        """Modules of the same class together."""
        zero = Microseconds((0,) * len(self.kernel_time))
        members: dict[str, list[tuple[ModuleTime, bool]]] = {}
        chain: list[ModuleTime] = []  # the modules around
        for module in self.modules:
            while chain and not module.tag.startswith(chain[-1].tag + "/"):
                chain.pop()
            is_inside = any(above.class_name == module.class_name for above in chain)
            members.setdefault(module.class_name, []).append((module, is_inside))
            chain.append(module)
        return tuple(
            GroupTime(
                name,
                len(modules),
                sum((module.self_time for module, _ in modules), start=zero),
                sum((module.total_time for module, is_inside in modules if not is_inside), start=zero),
                joined(module.self_work for module, _ in modules),
                joined(module.total_work for module, is_inside in modules if not is_inside),
            )
            for name, modules in members.items()
        )

    def by_op(self) -> tuple[GroupTime, ...]:
        """Kernels of the same operator together."""
        groups: dict[str, GroupTime] = {}
        roots = [module.ops for module in self.modules if not module.depth]
        for ops in (*roots, self.unattributed_ops):
            for name, op in ops.items():
                group = groups.get(name)
                time = group.total_time + op.time if group else op.time
                work = self.op_work.get(name, NO_WORK)
                groups[name] = GroupTime(name, op.kernels + (group.members if group else 0), time, time, work, work)
        return tuple(groups.values())

    def to_dict(self) -> dict[str, Any]:
        """The phase as JSON; the timeline is not in it."""
        return {
            "file": self.file,
            "phase": self.phase,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "kernel_time": self.kernel_time.to_dict(),
            "run_time": self.run_time.to_dict(),
            "attributed": self.attributed,
            "unattributed": {
                "time": self.unattributed.to_dict(),
                "ops": _json(self.unattributed_ops),
                "work": self.unattributed_work.to_dict(),
            },
            "work": self.work.to_dict(),
            "held_bytes": self.held_bytes,
            "not_known": dict(self.not_known),
            "providers": _json(self.providers),
            "op_work": _json(self.op_work),
            "modules": [_document(module, share=self.share) for module in self.modules],
            "fused": [_document(fused, share=self.share) for fused in self.fused],
            "calls": [_document(call) for call in self.calls],
            "nodes": [_document(node) for node in self.nodes],
        }


def _document(
    row: ModuleTime | FusedTime | CallTime | NodeTime, share: Callable[[Microseconds], float] | None = None
) -> dict[str, Any]:
    """The fields as JSON, in their order; with `share`, each time is followed by its share."""
    document: dict[str, Any] = {}
    for name in (each.name for each in fields(row)):
        value = getattr(row, name)
        document["class" if name == "class_name" else name] = _json(value)
        if share is not None and isinstance(value, Microseconds):
            document[name.replace("time", "share")] = share(value)
    if isinstance(row, (ModuleTime, CallTime)):
        document["gflops"] = row.gflops
    return document


def _json(value: Any) -> Any:
    if isinstance(value, (Microseconds, OpTime, PythonLine, Work)):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {name: _json(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def in_tree_order(tags: Iterable[str]) -> list[str]:
    """Tags, each before those below it, and siblings in the order in which they first come.

    >>> in_tree_order(["/Net", "/Net/B.b", "/Net/A.a", "/Net/B.b/C.c"])
    ['/Net', '/Net/B.b', '/Net/B.b/C.c', '/Net/A.a']
    """
    children: dict[str, list[str]] = {}
    for tag in tags:
        children.setdefault(tag.rpartition("/")[0], []).append(tag)
    ordered: list[str] = []
    stack = children.get("", [])[::-1]
    while stack:
        tag = stack.pop()
        ordered.append(tag)
        stack.extend(reversed(children.get(tag, [])))
    return ordered
