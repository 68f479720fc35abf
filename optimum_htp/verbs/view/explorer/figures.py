"""What is known of each node, as Model Explorer's node data: one document for each figure.

A document maps the id of each graph to the values of its nodes and to how they are coloured (`GraphNodeData` in
`model_explorer.node_data_builder`). A box shows the sum or the mean of what is in it, and the colours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from re import fullmatch, sub
from typing import Any

from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.view.explorer.drawn import Drawn, Place
from optimum_htp.verbs.view.given import FileOf, number, number_or_none, text

EXACT = "exact"
"""In place of an SQNR that is infinite."""

_EVIDENCE = {
    "metadata": "#1b5e20",
    "scope": "#a5d6a7",
    "parameter": "#90caf9",
    "dataflow": "#ffe082",
    "fused": "#ce93d8",
    "inserted": "#80deea",
    "unresolved": "#ef5350",
}
_HEAT = ((0.0, "#fff8e1"), (0.25, "#ffcc80"), (1.0, "#d84315"))
_DECIBELS = ((10, "#b71c1c"), (20, "#ef5350"), (40, "#ffb74d"), (60, "#fff176"), (90, "#c5e1a5"), (1e9, "#66bb6a"))


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of the nodes of one file.

    Attributes:
        kind: What it is, which names its file: `time`, or of one phase `time-decode`.
        name: What it is called in Model Explorer.
        values: The value of each node that has one.
        colours: How they are coloured, and what is shown of a box.
        of_values: The colours of values that are no numbers.
        measured: Whether it comes from a report, and not from the file.
    """

    kind: str
    name: str
    values: Mapping[Place, float | str]
    colours: Mapping[str, Any]
    of_values: Mapping[str, str] = field(default_factory=dict)
    measured: bool = True

    def document(self) -> dict[str, Any]:
        """The node data."""
        graphs: dict[str, dict[str, Any]] = {}
        for (graph, node), value in self.values.items():
            colour = self.of_values.get(value) if isinstance(value, str) else None
            result = {"value": value} if colour is None else {"value": value, "bgColor": colour}
            graphs.setdefault(graph, {})[node] = result
        return {graph: {"name": self.name, "results": results, **self.colours} for graph, results in graphs.items()}


def known_figures(graph: TaggedGraph, drawn: Drawn) -> Iterator[Figure]:
    """What a file itself says: the evidence of each node's tag, and the elements of each initializer."""
    sources = ((key, graph.tags[key].source if key in graph.tags else "unresolved") for key, _ in graph.model.nodes())
    yield Figure(
        "evidence",
        "evidence",
        {drawn.nodes[key]: source for key, source in sources if key in drawn.nodes},
        {
            "hideInAggregatedStatsTable": True,
            "showExpandedSummaryOnGroupNode": True,
            "showLabelCountColumnsInChildrenStatsTable": True,
        },
        _EVIDENCE,
        measured=False,
    )
    elements = {
        drawn.initializers[path, tensor.name]: prod(tensor.dims)
        for path, inner in graph.model.graphs()
        for tensor in inner.initializers
        if (path, tensor.name) in drawn.initializers
    }
    yield Figure("parameters", "parameters", elements, _heat(elements), measured=False)


def profile_figures(
    document: Mapping[str, Any], file_of: FileOf, *, graphs: Mapping[str, TaggedGraph], drawn: Mapping[str, Drawn]
) -> list[tuple[str, Figure]]:
    """The times and the memory in the document of a profile, each with the file that it is of."""
    figures = []
    for phase in document["phases"]:
        file = file_of(text(phase["file"]))
        if file is not None:
            ids, kind = drawn[file].nodes, text(phase["phase"])
            for figure, name, of in (("time", "time (µs)", _time), ("memory", "memory taken (bytes)", _allocated)):
                known = _of_kernels(phase["nodes"], graphs[file].model, of)
                values = {ids[key]: value for key, value in known.items() if key in ids}
                named = _named(figure, name, "" if kind == "forward" else kind)
                if values or figure == "time":
                    figures.append((file, Figure(*named, values, _heat(values))))
    return figures


def _time(row: Mapping[str, Any]) -> Any:
    return number(row["time"]["median_us"])


def _allocated(row: Mapping[str, Any]) -> Any:
    """What a kernel takes of the memory; None where it is not known, as in what an older version printed."""
    work = row.get("work")
    return None if work is None else number_or_none(work["allocated_bytes"])


def _of_kernels(
    nodes: Iterable[Mapping[str, Any]], model: OnnxModel, of: Callable[[Mapping[str, Any]], float | None]
) -> dict[NodeKey, float]:
    """A figure of the kernel that makes a node's output, of each node whose output is made.

    What ONNX Runtime fuses makes what the last of the nodes made that went into it, under the same name. What it puts in
    makes nothing that the file has.
    """
    makers: dict[str, list[NodeKey]] = {}
    for key, node in model.nodes():
        for name in filter(None, node.outputs):
            makers.setdefault(name, []).append(key)
    values: dict[NodeKey, float] = {}
    for row in nodes:
        value = of(row)
        if value is None:
            continue
        candidates = dict.fromkeys(key for name in row["outputs"] for key in makers.get(text(name), ()))
        branch = _branch(text(row["graph"]))
        keys = [key for key in candidates if _branch(key[0]) == branch] or list(candidates)
        for key in keys:
            values[key] = values.get(key, 0.0) + value / len(keys)
    return {key: round(value, 2) for key, value in values.items()}


def _branch(path: str) -> str:
    """The names of the bodies around a graph, without the nodes that hold them, which an optimizer moves."""
    return sub(r"(^|/)\d+\.", r"\1", path)


def compare_figures(
    document: Mapping[str, Any], file_of: FileOf, *, graphs: Mapping[str, TaggedGraph], drawn: Mapping[str, Drawn]
) -> list[tuple[str, Figure]]:
    """The errors in the document of a comparison, each with the file that it is of."""
    figures = []
    for part in document["files"]:
        file = file_of(text(part["name"]))
        if file is None:
            continue
        branch = text(part["branch"])
        tags = graphs[file].tags
        calls = {
            drawn[file].nodes[key]: (tags[key].tag, tags[key].call)
            for key in _that_ran(graphs[file].model, branch)
            if key in tags and tags[key].source != "unresolved" and key in drawn[file].nodes
        }
        for kind, name, errors in (
            ("own-sqnr", "own SQNR (dB)", _own_errors(part["calls"])),
            ("sqnr", "SQNR in the running model (dB)", _running_errors(part["calls"])),
        ):
            values = {place: errors[call] for place, call in calls.items() if call in errors}
            figures.append((file, Figure(*_named(kind, name, branch), values, _SQNR, {EXACT: _DECIBELS[-1][1]})))
    return figures


_Errors = dict[tuple[str, "int | None"], "float | str"]  # by the module's tag and its call


def _own_errors(calls: Iterable[Mapping[str, Any]]) -> _Errors:
    """What each call adds itself: the operations between the calls in it where there are any, else all of it."""
    errors: _Errors = {}
    for call in sorted(calls, key=lambda call: bool(call["operations"])):
        if call["own"] is not None:
            errors[_call(call)] = _decibels(call["own"])
    return errors


def _running_errors(calls: Iterable[Mapping[str, Any]]) -> _Errors:
    """How far what each call returns is off in the running model."""
    return {_call(call): _decibels(call["errors"]) for call in calls if call["errors"] is not None}


def _call(call: Mapping[str, Any]) -> tuple[str, int | None]:
    return text(call["tag"]), number_or_none(call["call"])


def _decibels(errors: Mapping[str, Any]) -> float | str:
    sqnr = number_or_none(errors["sqnr_db"])
    if sqnr is not None:
        return round(float(sqnr), 2)
    relative = number_or_none(errors["relative"])
    return EXACT if relative == 0 else -999.0  # of another shape or kind: infinitely off


def _that_ran(model: OnnxModel, branch: str) -> Iterator[NodeKey]:
    """The nodes that a part of a comparison is of: of a merged decoder, those of one of its branches."""
    others: tuple[str, ...] = ()
    if any(value.name == "use_cache_branch" for value in model.graph.inputs):
        other = "else_branch" if branch in ("with past", "decode") else "then_branch"
        others = tuple(f"{index}.{other}" for index, node in enumerate(model.graph.nodes) if node.op_type == "If")
    for key, _ in model.nodes():
        if not any(key[0] == path or key[0].startswith(f"{path}/") for path in others):
            yield key


def _named(kind: str, name: str, part: str) -> tuple[str, str]:
    """The kind and the name of a figure, of a phase or a branch if there are several: it is in the name of a file.

    Raises ValueError if that is none.
    """
    if not fullmatch(r"[a-z ]{0,40}", part):
        raise ValueError(f"{part!r:.80} is neither a phase nor a branch")
    return (f"{kind}-{part.replace(' ', '-')}", f"{name}, {part}") if part else (kind, name)


def _heat(values: Mapping[Place, float]) -> dict[str, Any]:
    """From pale to hot; a gradient from the least to the most needs two values."""
    if len(set(values.values())) < 2:
        return {"thresholds": [{"value": max(values.values(), default=0), "bgColor": _HEAT[1][1]}]}
    return {"gradient": [{"stop": stop, "bgColor": colour} for stop, colour in _HEAT]}


_SQNR = {
    "thresholds": [{"value": value, "bgColor": colour} for value, colour in _DECIBELS],
    "hideAggregatedStats": ["sum", "avg"],
}
