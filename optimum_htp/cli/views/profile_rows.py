"""The rows of a profile's table, which `views/profile.py` prints: which (`--by`), and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from optimum_htp.hierarchy import split_tag, tag_module_path
from optimum_htp.verbs.profile import FusedTime, GroupTime, Microseconds, ModuleTime, OpTime, PhaseProfile

VIEWS = ("module", "class", "layer", "call", "op")
"""What times can be added up by."""

ORDERS = ("tree", "total", "self", "kernels")
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
    if sort is None:
        in_tree = by in ("module", "layer", "call") and top is None
        sort = "tree" if in_tree else "self" if by == "module" else "total"
    if sort != "tree":
        rows = [replace(row, label=row.whole or row.label, depth=0) for row in rows]
        rows.sort(key=lambda row: -measure(row, sort))
    return tuple(rows[:top])


def measure(row: TimeRow | ModuleTime, order: str) -> float:
    """What rows are sorted by."""
    if order == "kernels":
        return row.kernels
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
        yield replace(_module(module), label=attribute(module.tag), depth=module.depth)
        yield from (_fused(nodes, above=module) for nodes in phase.fused if nodes.tag == module.tag)


def _layers(phase: PhaseProfile) -> Iterator[TimeRow]:
    layers = [module for module in phase.modules if module.is_layer]
    yield from map(_module, layers)
    inside = sum((layer.total_time for layer in layers), start=Microseconds((0,) * len(phase.kernel_time)))
    times = zip(phase.kernel_time, inside, phase.unattributed, strict=True)
    rest = Microseconds(whole - layered - unknown for whole, layered, unknown in times)
    kernels = sum(module.kernels for module in phase.modules if not module.depth)
    yield _flat("module", "(outside layers)", kernels - sum(layer.kernels for layer in layers), rest, {})


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
        )


def _classes(phase: PhaseProfile) -> Iterator[TimeRow]:
    yield from (_group(group, "class") for group in phase.by_class())
    if phase.fused:
        time = sum((nodes.time for nodes in phase.fused), start=Microseconds((0,) * len(phase.kernel_time)))
        yield _flat("fused", "(fused across modules)", sum(nodes.kernels for nodes in phase.fused), time, {})


def _ops(phase: PhaseProfile) -> Iterator[TimeRow]:
    return (_group(group, "op") for group in phase.by_op())


def _unattributed(phase: PhaseProfile) -> Iterator[TimeRow]:
    if any(phase.unattributed):
        kernels = sum(op.kernels for op in phase.unattributed_ops.values())
        yield _flat("unattributed", "(unattributed)", kernels, phase.unattributed, phase.unattributed_ops)


def _flat(kind: str, label: str, kernels: int, time: Microseconds, ops: Mapping[str, OpTime]) -> TimeRow:
    """A row with nothing below it."""
    return TimeRow(kind=kind, label=label, kernels=kernels, self_time=time, total_time=time, ops=ops)


def _module(module: ModuleTime) -> TimeRow:
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
    )


def _fused(nodes: FusedTime, *, above: ModuleTime) -> TimeRow:
    label = fused_label(nodes.tag, nodes.origins)
    return replace(
        _flat("fused", label, nodes.kernels, nodes.time, nodes.ops),
        whole=f"{above.path}: {label}" if above.path else label,
        class_name="(fused)",
        depth=above.depth + 1,
    )


def _group(group: GroupTime, kind: str) -> TimeRow:
    return TimeRow(
        kind=kind, label=group.name, kernels=group.members, self_time=group.self_time, total_time=group.total_time
    )
