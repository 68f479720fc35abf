"""Profiles as rows to show: which modules, classes, layers, calls or operators, in which order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from optimum_htp.hierarchy import split_tag, tag_module_path
from optimum_htp.verbs.profile import (
    FusedTime,
    GroupTime,
    Microseconds,
    ModuleTime,
    OpTime,
    PhaseProfile,
    by_class,
    by_op,
)


VIEWS = ("module", "class", "layer", "call", "op")
"""What times can be added up by."""

ORDERS = ("tree", "total", "self", "kernels")
"""What rows can be sorted by; `tree` is the order of the modules."""


@dataclass(frozen=True, slots=True)
class TimeRow:
    """One line of a profile.

    Attributes:
        kind: `module`, `fused`, `unattributed`, `class`, `call` or `op`.
        label: What it is, as short as its place allows.
        class_name: The class of the module, where it is one.
        depth: How far to indent it.
        calls: How often the module ran in the trace, or which call of it this is; "" where that says nothing.
        kernels: Kernels in one run; of a class, its modules.
        self_time: The time of its own nodes.
        total_time: That and what is below it.
        ops: The operators of the total.
    """

    kind: str
    label: str
    class_name: str
    depth: int
    calls: str
    kernels: int
    self_time: Microseconds
    total_time: Microseconds
    ops: Mapping[str, OpTime]


def profile_rows(
    phase: PhaseProfile,
    *,
    by: str = "module",
    depth: int | None = None,
    top: int | None = None,
    sort: str | None = None,
) -> tuple[TimeRow, ...]:
    """The rows of one phase.

    Args:
        phase: The phase.
        by: One of `VIEWS`.
        depth: How many levels of modules below the root; None means all.
        top: How many rows; None means all.
        sort: One of `ORDERS`; None means the tree for modules that are all shown, else the total time.
    """
    makers = {"module": _modules, "class": _classes, "layer": _layers, "call": _calls, "op": _ops}
    rows = list(makers[by](phase))
    if depth is not None:
        rows = [row for row in rows if row.depth <= depth or row.kind == "unattributed"]
    order = sort or (
        "tree" if by in ("module", "layer", "call") and top is None else "total" if by != "module" else "self"
    )
    if order != "tree":
        rows = [replace(row, depth=0) for row in _flat(phase, rows)]
        rows.sort(key=lambda row: -_measure(row, order))
    return tuple(rows if top is None else islice(rows, top))


def fused_label(fused: FusedTime) -> str:
    """The modules that a fused node does the work of, by their paths below the lowest that contains them."""
    above = tag_module_path(fused.tag)
    below = len(above) + 1 if above else 0
    names = [tag_module_path(origin)[below:] or "(itself)" for origin in fused.origins]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return " + ".join(names[:3]) + more


def _measure(row: TimeRow, order: str) -> float:
    if order == "kernels":
        return row.kernels
    return (row.self_time if order == "self" else row.total_time).median


def _modules(phase: PhaseProfile) -> Iterator[TimeRow]:
    fused: dict[str, list[FusedTime]] = {}
    for each in phase.fused:
        fused.setdefault(each.tag, []).append(each)
    for module in phase.modules:
        yield _module(module, label=attribute(module.tag))
        yield from (_fused(each, fused_label(each), module.depth + 1) for each in fused.get(module.tag, ()))
    yield from _unattributed(phase)


def _flat(phase: PhaseProfile, rows: Iterable[TimeRow]) -> Iterator[TimeRow]:
    """Rows out of their tree, by their whole paths."""
    paths = {id(module.total_time): module.path or "(root)" for module in phase.modules}
    whole = {id(each.time): tag_module_path(each.tag) for each in phase.fused}
    for row in rows:
        label = paths.get(id(row.total_time)) if row.kind == "module" else None
        if row.kind == "fused" and whole.get(id(row.total_time)):
            label = f"{whole[id(row.total_time)]}: {row.label}"
        yield replace(row, label=label or row.label)


def _layers(phase: PhaseProfile) -> Iterator[TimeRow]:
    runs = len(phase.kernel_time)
    covered = Microseconds.zero(runs)
    kernels = 0
    for module in phase.modules:
        if module.is_layer:
            covered += module.total_time
            kernels += module.kernels
            yield replace(_module(module, label=module.path), depth=0)
    rest = Microseconds(
        whole - inside - unknown
        for whole, inside, unknown in zip(phase.kernel_time, covered, phase.unattributed, strict=True)
    )
    counted = sum(module.kernels for module in phase.modules if not module.depth)
    yield TimeRow("module", "(outside layers)", "", 0, "", counted - kernels, rest, rest, {})
    yield from _unattributed(phase)


def _calls(phase: PhaseProfile) -> Iterator[TimeRow]:
    for call in phase.calls:
        which = "?" if call.call is None else str(call.call)
        depth = len(split_tag(call.tag)) - 1
        yield TimeRow(
            "call", call.path or "(root)", call.class_name, depth, which, call.kernels, call.self_time,
            call.total_time, {},
        )  # fmt: skip


def _classes(phase: PhaseProfile) -> Iterator[TimeRow]:
    yield from (_group(group, "class") for group in by_class(phase))
    yield from _rest(phase)


def _ops(phase: PhaseProfile) -> Iterator[TimeRow]:
    yield from (_group(group, "op") for group in by_op(phase))


def _rest(phase: PhaseProfile) -> Iterator[TimeRow]:
    if phase.fused:
        time = Microseconds.zero(len(phase.kernel_time))
        for each in phase.fused:
            time += each.time
        kernels = sum(each.kernels for each in phase.fused)
        yield TimeRow("fused", "(fused across modules)", "", 0, "", kernels, time, time, {})
    yield from _unattributed(phase)


def _unattributed(phase: PhaseProfile) -> Iterator[TimeRow]:
    if any(phase.unattributed):
        kernels = sum(op.kernels for op in phase.unattributed_ops.values())
        time = phase.unattributed
        yield TimeRow("unattributed", "(unattributed)", "", 0, "", kernels, time, time, phase.unattributed_ops)


def _module(module: ModuleTime, *, label: str) -> TimeRow:
    calls = "" if module.calls is None else f"{module.calls:,}"
    return TimeRow(
        "module", label, module.class_name, module.depth, calls, module.kernels, module.self_time, module.total_time,
        module.ops,
    )  # fmt: skip


def _fused(fused: FusedTime, label: str, depth: int) -> TimeRow:
    return TimeRow("fused", label, "(fused)", depth, "", fused.kernels, fused.time, fused.time, fused.ops)


def _group(group: GroupTime, kind: str) -> TimeRow:
    return TimeRow(kind, group.name, "", 0, "", group.members, group.self_time, group.total_time, {})


def attribute(tag: str) -> str:
    """The end of a module's path that its parent knows it by."""
    *above, last = split_tag(tag)
    return tag_module_path(f"/{above[-1]}/{last}") if above else "(root)"
