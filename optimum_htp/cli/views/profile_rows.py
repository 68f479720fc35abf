"""The rows of a profile's table: which (`--by`), in which order, and which layers are one row."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from optimum_htp.cli.views.folding import Folded, fold, fold_tree
from optimum_htp.hierarchy import split_tag, tag_module_path
from optimum_htp.verbs.profile import (
    NO_WORK,
    FusedTime,
    GroupTime,
    Microseconds,
    ModuleTime,
    OpTime,
    PhaseProfile,
    Work,
    joined,
)

VIEWS = ("module", "class", "layer", "call", "op")
"""What times can be added up by."""

_NEAR_SHARE, _NEAR_OF_WHOLE = 0.25, 0.005  # how far modules may be apart that are shown as one

ORDERS = ("tree", "total", "self", "kernels", "memory", "flops")
"""What rows can be sorted by; `tree` is the order of the modules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeRow:
    """One line of a profile."""

    kind: str  # module, fused, unattributed, class, call or op
    label: str  # its name, as short as its place in the tree allows
    whole: str = ""  # its name out of the tree; "": the label
    class_name: str = ""
    depth: int = 0
    calls: str = ""  # how often the module ran in the trace, or which call of it this is
    kernels: int  # in one run; of a class, its modules
    self_time: Microseconds
    total_time: Microseconds
    ops: Mapping[str, OpTime] = field(default_factory=dict)  # of the total
    self_work: Work = NO_WORK
    total_work: Work = NO_WORK
    count: int = 1  # how many were folded into it


def profile_rows(
    phase: PhaseProfile,
    *,
    by: str = "module",
    depth: int | None = None,
    top: int | None = None,
    sort: str | None = None,
) -> tuple[TimeRow, ...]:
    """The rows of one phase: by one of `VIEWS`, `depth` levels of modules below the root, the first `top` of them.

    `sort` is one of `ORDERS`. None means the tree for modules, layers and calls without `top`; the self time for modules
    with `top`; else the total time.
    """
    kinds = {"module": _modules, "class": _classes, "layer": _layers, "call": _calls, "op": _ops}
    rows = [*kinds[by](phase), *(_unattributed(phase) if by in ("module", "class", "layer") else ())]
    if depth is not None:
        rows = [row for row in rows if row.depth <= depth or row.kind == "unattributed"]
    sort = sort or usual_order(by, top)
    if sort != "tree":
        rows = [replace(row, label=row.whole or row.label, depth=0) for row in rows]
        rows.sort(key=lambda row: -measure(row, sort))
    return tuple(rows[:top])


def usual_order(by: str, top: int | None) -> str:
    """What rows are sorted by where nobody says."""
    in_tree = by in ("module", "layer", "call") and top is None
    return "tree" if in_tree else "self" if by == "module" else "total"


def folded_rows(
    phase: PhaseProfile, *, by: str, depth: int | None, top: int | None, sort: str | None, expand: bool = False
) -> list[TimeRow]:
    """The rows of `profile_rows`; modules of several layers that do the same, in about the same time, are one of them.

    Its times are those of all together.
    """
    order = sort or usual_order(by, top)
    rows = profile_rows(phase, by=by, depth=depth, sort=order)
    if by != "module" or expand:
        return list(rows[:top])
    in_tree = order == "tree"
    folded = fold_rows(rows, like=likeness, near=nearness(phase, in_tree=in_tree), in_tree=in_tree)
    joined = [
        replace(joined_row(group.members), label=group.name, depth=group.depth, count=group.count) for group in folded
    ]
    return (joined if in_tree else sorted(joined, key=lambda row: -measure(row, order)))[:top]


_Labelled = TypeVar("_Labelled", bound="Labelled")


class Labelled(Protocol):
    """A row of a profile, or of two."""

    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def depth(self) -> int: ...  # noqa: D102


def fold_rows(
    rows: Sequence[_Labelled],
    *,
    like: Callable[[_Labelled], Hashable],
    near: Callable[[_Labelled, _Labelled], bool],
    in_tree: bool,
) -> list[Folded[_Labelled]]:
    """Folds rows as `folding` does, in the tree or out of it."""
    if not in_tree:
        return fold(rows, name=lambda row: row.label, like=like, near=near)
    return fold_tree(rows, depth=lambda row: row.depth, name=lambda row: row.label, like=like, near=near)


def likeness(row: TimeRow) -> tuple[object, ...] | None:
    """What modules have in common that are shown as one: the same kernels."""
    ops = frozenset((name, op.kernels) for name, op in row.ops.items())
    return (row.class_name, row.calls, row.kernels, ops) if row.kind == "module" else None


def nearness(phase: PhaseProfile, *, in_tree: bool) -> Callable[[TimeRow, TimeRow], bool]:
    """Whether two rows take about the same time: a quarter more or less, or what hardly counts in the whole.

    In their fastest runs: what else a machine does only adds to a time. In a tree by what is their own: what is below them
    is held against each other too.
    """
    least = _NEAR_OF_WHOLE * min(phase.kernel_time, default=0)

    def near(one: TimeRow, other: TimeRow) -> bool:
        times = (row.self_time if in_tree else row.total_time for row in (one, other))
        left, right = (min(time, default=0) for time in times)
        return abs(left - right) <= max(_NEAR_SHARE * max(left, right), least)

    return near


def joined_row(rows: Sequence[TimeRow]) -> TimeRow:
    """Rows together: the sums of their figures, run by run."""
    first, *others = rows
    ops = dict(first.ops)
    for name, op in ((name, op) for row in others for name, op in row.ops.items()):
        known = ops.get(name)
        ops[name] = OpTime(known.kernels + op.kernels, known.time + op.time) if known else op
    calls = [row.calls for row in rows]
    return replace(
        first,
        calls=f"{sum(int(each.replace(',', '')) for each in calls):,}" if all(calls) and others else first.calls,
        kernels=sum(row.kernels for row in rows),
        self_time=sum((row.self_time for row in others), start=first.self_time),
        total_time=sum((row.total_time for row in others), start=first.total_time),
        ops=dict(sorted(ops.items(), key=lambda item: -item[1].time.median)),
        self_work=joined(row.self_work for row in rows),
        total_work=joined(row.total_work for row in rows),
    )


def measure(row: TimeRow | ModuleTime, order: str) -> float:
    """What rows are sorted by; what is not known is last."""
    if order == "kernels":
        return row.kernels
    if order in ("memory", "flops"):
        known = row.total_work.peak_bytes if order == "memory" else row.total_work.flops
        return -1 if known is None else known
    return (row.self_time if order == "self" else row.total_time).median


def fused_label(tag: str, origins: Sequence[str]) -> str:
    """The modules that a fused node does the work of, by their paths below the lowest that contains them."""
    above = tag_module_path(tag)
    below = len(above) + 1 if above else 0
    names = [tag_module_path(origin)[below:] or "(itself)" for origin in origins]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return " + ".join(names[:3]) + more


def attribute(tag: str) -> str:
    """The end of a module's path that its parent knows it by."""
    *above, last = split_tag(tag)
    return tag_module_path(f"/{above[-1]}/{last}") if above else "(root)"


def _modules(phase: PhaseProfile) -> Iterator[TimeRow]:
    for module in phase.modules:
        yield replace(module_row(module), label=attribute(module.tag), depth=module.depth)
        yield from (_fused(nodes, above=module) for nodes in phase.fused if nodes.tag == module.tag)


def _layers(phase: PhaseProfile) -> Iterator[TimeRow]:
    layers = phase.by_layer()
    yield from map(module_row, layers)
    kernels = sum(module.kernels for module in phase.modules if not module.depth)
    outside = kernels - sum(layer.kernels for layer in layers)
    yield _flat("module", "(outside layers)", outside, phase.outside_layers, {}, phase.outside_layers_work)


def _calls(phase: PhaseProfile) -> Iterator[TimeRow]:
    for call in phase.calls:
        yield TimeRow(
            kind="call",
            label=call.path or "(root)",
            class_name=call.class_name,
            depth=len(split_tag(call.tag)) - 1,
            calls="?" if call.call is None else str(call.call),
            kernels=call.kernels,
            self_time=call.self_time,
            total_time=call.total_time,
            self_work=call.self_work,
            total_work=call.total_work,
        )


def _classes(phase: PhaseProfile) -> Iterator[TimeRow]:
    yield from (_group(group, "class") for group in phase.by_class())
    if phase.fused:
        time = sum((nodes.time for nodes in phase.fused), start=Microseconds((0,) * len(phase.kernel_time)))
        work = joined(nodes.work for nodes in phase.fused)
        yield _flat("fused", "(fused across modules)", sum(nodes.kernels for nodes in phase.fused), time, {}, work)


def _ops(phase: PhaseProfile) -> Iterator[TimeRow]:
    return (_group(group, "op") for group in phase.by_op())


def _unattributed(phase: PhaseProfile) -> Iterator[TimeRow]:
    if any(phase.unattributed):
        kernels = sum(op.kernels for op in phase.unattributed_ops.values())
        yield _flat(
            "unattributed",
            "(unattributed)",
            kernels,
            phase.unattributed,
            phase.unattributed_ops,
            phase.unattributed_work,
        )


def _flat(kind: str, label: str, kernels: int, time: Microseconds, ops: Mapping[str, OpTime], work: Work) -> TimeRow:
    """A row with nothing below it."""
    return TimeRow(
        kind=kind,
        label=label,
        kernels=kernels,
        self_time=time,
        total_time=time,
        ops=ops,
        self_work=work,
        total_work=work,
    )


def module_row(module: ModuleTime) -> TimeRow:
    """A module, out of the tree."""
    return TimeRow(
        kind="module",
        label=module.path,
        whole=module.path or "(root)",
        class_name=module.class_name,
        calls="" if module.calls is None else f"{module.calls:,}",
        kernels=module.kernels,
        self_time=module.self_time,
        total_time=module.total_time,
        ops=module.ops,
        self_work=module.self_work,
        total_work=module.total_work,
    )


def _fused(nodes: FusedTime, *, above: ModuleTime) -> TimeRow:
    label = fused_label(nodes.tag, nodes.origins)
    return replace(
        _flat("fused", label, nodes.kernels, nodes.time, nodes.ops, nodes.work),
        whole=f"{above.path}: {label}" if above.path else label,
        class_name="(fused)",
        depth=above.depth + 1,
    )


def _group(group: GroupTime, kind: str) -> TimeRow:
    return TimeRow(
        kind=kind,
        label=group.name,
        kernels=group.members,
        self_time=group.self_time,
        total_time=group.total_time,
        self_work=group.self_work,
        total_work=group.total_work,
    )
