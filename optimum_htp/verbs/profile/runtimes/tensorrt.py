"""TensorRT: the files that trtexec writes of an engine, which is not run.

`trtexec --exportLayerInfo=layers.json` writes what the engine inspector says, as Polygraphy's `inspect model` and the Python
API have it too: `{"Layers": [...], "Bindings": [...]}`, each layer a name, or of an engine that was built with
`--profilingVerbosity=detailed` an object with `Name`, `LayerType`, `Inputs`, `Outputs` and `Metadata`. In `Metadata` are the
nodes that it was made of; without it, they are in its name (`layer_names`).

`trtexec --exportProfile=profile.json` writes `[{"count": 11}, {"name": ..., "timeMs": ..., "averageMs": ..., "medianMs": ...,
"percentage": ...}, ...]`: the layers that ran and their times over so many runs. `medianMs` is there since 8.5.
Source: https://github.com/NVIDIA/TensorRT/blob/main/samples/common/sampleReporting.cpp
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from optimum_htp.errors import HtpError, reason
from optimum_htp.models import phases
from optimum_htp.package import read_small
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.profile.joiner import Event
from optimum_htp.verbs.profile.runs import Inputs, Run
from optimum_htp.verbs.profile.runtimes.layer_names import LayerNames
from optimum_htp.verbs.profile.runtimes.layers import Layer, Layers, SourceNames
from optimum_htp.verbs.profile.runtimes.ran import Ran

_MAX_BYTES = 500_000_000
_LEAST = 0.1  # of the time: a file with less in common is of another engine, or of another model
_MOST = 0.98  # of the time: less is worth a note
_WRITE = "trtexec --onnx=model.onnx --profilingVerbosity=detailed --exportLayerInfo=layers.json --exportProfile=profile.json"
_NOT_KNOWN = {
    "memory": "TensorRT's files don't say it",
    "activations": "TensorRT's files don't say the sizes of a run",
    "parameters": "TensorRT's files don't say the sizes of a run",
    "flops": "TensorRT's files don't say the sizes of a run",
}
_OPERATORS = 3  # at most, for a layer which doesn't say what it does
_UNKNOWN = "(unknown)"


@dataclass(frozen=True, slots=True)
class _Described:
    """A layer as its file describes it."""

    name: str
    layer_type: str = ""
    metadata: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


class TensorRt:
    """What trtexec wrote of an engine."""

    name = "tensorrt"
    version = ""
    device = "TensorRT"
    threads: int | None = None
    warmup: int | None = None

    def __init__(self, *, layer_info: str | Path | None, layer_profile: str | Path | None) -> None:
        if layer_info is None or layer_profile is None:
            missing = [
                option for option, path in (("--layer-info", layer_info), ("--profile", layer_profile)) if path is None
            ]
            raise HtpError(
                f"TensorRT's times are in two files: {' and '.join(missing)} too, as this writes them: {_WRITE}"
            )
        self._layer_info, self._layer_profile = Path(layer_info), Path(layer_profile)
        self._described = _layers(self._layer_info)
        self.runs, self._times, has_medians = _times(self._layer_profile)
        self.average = "median" if has_medians else "mean"
        self.notes: list[str] = []

    def run(self, graph: TaggedGraph, by_phase: Mapping[str, Inputs]) -> Iterator[Ran]:
        """The one phase that the engine was run in. Raises HtpError if the files are of another engine, or another model."""
        del by_phase  # nothing is run
        names = SourceNames(graph.model)
        made = _made_of(self._described, names)
        events = self._events(made)
        layers = Layers(made, graph, names)
        self._check_model(graph, events, layers)
        run = Run(events, 0, sum(event.time_us for event in events))
        known = phases(graph.model)
        yield Ran(
            phase=known[0] if len(known) == 1 else "forward",
            inputs={},
            nodes=layers,
            tags=layers.tags,
            runs=[run],
            run_us=(),
            first=run,
            not_known=_NOT_KNOWN,
        )

    def _events(self, layers: Sequence[Layer]) -> list[Event]:
        """A kernel for each layer that ran, in the order of the profile, with the layer's index; of others that is -1."""
        places: dict[str, list[int]] = {}
        for index, layer in enumerate(layers):
            places.setdefault(layer.name, []).append(index)
        turns: dict[str, int] = {}
        events = []
        start = 0.0
        for name, time in self._times:
            known = places.get(name, [])
            turn = turns[name] = turns.get(name, -1) + 1
            index = known[turn % len(known)] if known else -1
            events.append(Event(name, layers[index].op_type if known else _UNKNOWN, index, start, time, self.device))
            start += time
        whole = sum(event.time_us for event in events)
        there = sum(event.time_us for event in events if event.index >= 0)
        count = sum(event.index >= 0 for event in events)
        described = f"{count:,} of the {len(events):,} layers of {self._layer_profile} are in {self._layer_info}"
        if not count or there < _LEAST * whole:
            raise HtpError(
                f"{described}, with {_share(there, whole)} of the time: they are not of one engine; write both at once: {_WRITE}"
            )
        if there < _MOST * whole:
            self.notes.append(f"{described}, with {_share(there, whole)} of the time")
        return events

    def _check_model(self, graph: TaggedGraph, events: Sequence[Event], layers: Layers) -> None:
        """Tells how much of the time has nodes of the file. Raises HtpError if it is next to nothing."""
        whole = sum(event.time_us for event in events)
        joined = [event for event in events if event.index >= 0 and layers.is_made_of_nodes(event.index)]
        there = sum(event.time_us for event in joined)
        told = f"{self._layer_info}: {len(joined):,} of the {len(events):,} layers that ran name nodes of {graph.name}"
        if not joined or there < _LEAST * whole:
            raise HtpError(
                f"{told}, with {_share(there, whole)} of the time: the engine was built from another file, or without the names "
                f"of nodes; give the package that it was built from, and build it with --profilingVerbosity=detailed"
            )
        if there < _MOST * whole:
            self.notes.append(
                f"{told}, with {_share(there, whole)} of the time; --profilingVerbosity=detailed names most"
            )


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _made_of(described: Sequence[_Described], names: SourceNames) -> list[Layer]:
    """The layers and their nodes; of a region those that no other layer was made of."""
    find = LayerNames(names)
    found = [find.stated(each.metadata) or find.said(each.name) for each in described]
    regions = [not each.metadata and find.is_region(each.name) for each in described]
    elsewhere = {key for keys, is_region in zip(found, regions, strict=True) if not is_region for key in keys}
    layers = []
    for each, keys, is_region in zip(described, found, regions, strict=True):
        own = tuple(key for key in keys if key not in elsewhere) if is_region else ()
        operators = list(dict.fromkeys(names.nodes[key].op_type for key in own or keys))
        more = "+..." if len(operators) > _OPERATORS else ""
        op_type = each.layer_type or ("+".join(operators[:_OPERATORS]) + more if operators else _UNKNOWN)
        layers.append(Layer(each.name, op_type, own or keys, each.inputs, each.outputs))
    return layers


def _layers(path: Path) -> list[_Described]:
    """The layers of a file of `--exportLayerInfo`. Raises HtpError."""
    document = _document(path, "--layer-info")
    listed = document.get("Layers") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise HtpError(f'{path}: no layers of an engine: it has no list "Layers"; give what this writes: {_WRITE}')
    try:
        layers = [_described(each) for each in listed]
    except (KeyError, TypeError) as error:
        raise HtpError(
            f"{path}: not what trtexec writes of layers ({reason(error)}); give what this writes: {_WRITE}"
        ) from error
    if not layers:
        raise HtpError(f"{path}: no layer is in it; build the engine with --profilingVerbosity=detailed, and not none")
    return layers


def _described(layer: Any) -> _Described:
    """A layer, of its name alone or of what is said of it. Raises KeyError or TypeError."""
    if isinstance(layer, str):
        return _Described(layer)
    if not isinstance(layer, dict):
        raise TypeError(f"{layer!r:.80} is no layer")
    return _Described(
        _text(layer["Name"]),
        _text(layer.get("LayerType") or ""),
        _text(layer.get("Metadata") or ""),
        tuple(_text(each["Name"]) for each in layer.get("Inputs") or ()),
        tuple(_text(each["Name"]) for each in layer.get("Outputs") or ()),
    )


def _times(path: Path) -> tuple[int, list[tuple[str, float]], bool]:
    """The runs, each layer's name and time in microseconds, and whether those are medians. Raises HtpError."""
    document = _document(path, "--profile")
    try:
        if not isinstance(document, list):
            raise TypeError("it is no list")
        counts = [each["count"] for each in document if "count" in each and "name" not in each]
        rows = [each for each in document if "name" in each]
        has_medians = all("medianMs" in each for each in rows)
        key = "medianMs" if has_medians else "averageMs"
        times = [(_text(each["name"]), round(_milliseconds(each[key]) * 1000, 3)) for each in rows]
        runs = int(_milliseconds(counts[0])) if counts else 0
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise HtpError(
            f"{path}: no profile of an engine ({reason(error)}); give what this writes: {_WRITE}"
        ) from error
    if runs < 1 or not any(time for _, time in times):
        raise HtpError(f"{path}: no layer took any time, in {runs:,} runs; give what this writes: {_WRITE}")
    return runs, times, has_medians


def _document(path: Path, option: str) -> Any:
    """What a JSON file says; TensorRT writes control characters into texts as they are. Raises HtpError."""
    content = read_small(path, _MAX_BYTES)
    if content is None:
        raise HtpError(f"{option} {path}: no such file; this writes it: {_WRITE}")
    try:
        return json.loads(content, strict=False)
    except (ValueError, RecursionError) as error:
        raise HtpError(f"{path}: not JSON, or not all of it ({reason(error)}); this writes it: {_WRITE}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is not a text")
    return value


def _milliseconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value) or value < 0:
        raise TypeError(f"{value!r:.80} is not a number, 0 or more")
    return float(value)
