"""OpenVINO: it runs a file on the CPU and says of each of its layers how long it takes and what it was made of.

`CompiledModel.get_runtime_model()` is the graph that ran; each of its nodes has texts with it:

- `originalLayersNames`: what it was made of, with commas between: nodes of the file by their names, and what OpenVINO made by
  itself (`MVN_32`). A part that it made of a node alone is called `<node>/<part>` (`/fc/Gemm/WithoutBiases`).
- `layerType`, `execOrder`, `outputPrecisions`.
- `execTimeMcs`: the mean time of all its runs so far in whole microseconds, rounded down, each of them too; `not_executed` where
  that is 0. The mean of the runs after the warm-up follows from those before and after them, to a microsecond or two.

What depends on constants alone ran once, before the first run, and never again: it counts nowhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from time import perf_counter_ns
from typing import Any, TypeVar

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import OnnxModel, limited, out_of_memory
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.profile.flops import Shape, Tensors, UnknownShapeError, flops
from optimum_htp.verbs.profile.joiner import Event
from optimum_htp.verbs.profile.runs import Inputs, Run, counted_attributes
from optimum_htp.verbs.profile.runtimes.layers import Layer, Layers, SourceNames
from optimum_htp.verbs.profile.runtimes.ran import Ran
from optimum_htp.verbs.profile.work import Work

_T = TypeVar("_T")
_DEVICE = "CPU"
_OUTSIDE = frozenset(("Input", "Const", "Output"))  # what is given to a graph, and what it returns
_MOST_COMMAS = 8  # in a name
_LONGEST = 400  # characters of a message
_TABLES = frozenset(("Gather",))  # take rows of their first input
_INSTALL = "--runtime openvino: OpenVINO is not installed; install it: pip install 'optimum-htp[openvino]'"
_PRECISION = "OpenVINO computes in {} here, its own choice for this processor; times of another runtime may be of another precision"


def installed() -> Any:
    """OpenVINO's module. Raises HtpError if there is none."""
    try:
        import openvino
    except ImportError as error:
        raise HtpError(_INSTALL) from error
    return openvino


class OpenVino:
    """OpenVINO on the CPU, with its default options."""

    name = "openvino"
    device = _DEVICE
    average = "mean"

    def __init__(self, *, threads: int | None, warmup: int, runs: int) -> None:
        self._openvino = installed()
        self.version = str(self._openvino.__version__).split("-")[0]
        self.threads: int | None = threads
        self.warmup: int | None = warmup
        self.runs = runs
        self.notes: list[str] = []
        self._warmup = warmup

    def run(self, graph: TaggedGraph, by_phase: Mapping[str, Inputs]) -> Iterator[Ran]:
        """What runs in each phase of a file. Raises HtpError."""
        path = str(graph.model.path)
        core = self._openvino.Core()
        read = _tried(partial(core.read_model, path), path, "can't read it")
        for phase, inputs in by_phase.items():
            counters = self._counted(core, read, inputs, path)
            yield ran_layers(
                graph, phase, inputs, counters, AsRead.of(read, inputs), runs=self.runs, warmup=self._warmup
            )

    def _counted(self, core: Any, read: Any, inputs: Inputs, path: str) -> Counters:
        options: dict[str, Any] = {"PERF_COUNT": True, "PERFORMANCE_HINT": "LATENCY"}
        if self.threads is not None:
            options["INFERENCE_NUM_THREADS"] = self.threads
        compiled = _tried(partial(core.compile_model, read, self.device, options), path, "can't compile it")
        precision = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        if precision not in ("f32", "dynamic", "undefined"):
            self.notes += [note for note in (_PRECISION.format(precision),) if note not in self.notes]
        request = compiled.create_infer_request()
        known = {name for port in compiled.inputs for name in port.names}
        tensors = {name: self._openvino.Tensor(array) for name, array in inputs.items() if name in known}
        for name, tensor in tensors.items():
            request.set_tensor(name, tensor)
        at_load = frozenset(node.name for node in nodes_of(compiled.get_runtime_model()) if node.time_us is not None)
        times = []
        before: list[Node] = []
        for index in range(self._warmup + self.runs):
            if index == self._warmup and index:
                before = nodes_of(compiled.get_runtime_model())
            times.append(_run(request, inputs, path))
        return Counters(at_load, before, nodes_of(compiled.get_runtime_model()), times[self._warmup :])


def _run(request: Any, inputs: Inputs, path: str) -> float:
    """Runs once; how long that took, in microseconds."""
    shapes = ", ".join(f"{key} {list(value.shape)}" for key, value in list(inputs.items())[:4])
    start = perf_counter_ns()
    what = f"can't run it on inputs of these sizes ({shapes}; others: --batch-size, --sequence-length, --dim NAME=N)"
    _tried(request.infer, path, what, stop=request.cancel)
    return (perf_counter_ns() - start) / 1000


def _tried(call: Callable[[], _T], path: str, what: str, *, stop: Callable[[], Any] = lambda: None) -> _T:
    """The result of a call of OpenVINO's. Raises HtpError if it raises, or takes too long."""
    try:
        return limited(call, stop, name=path, who="OpenVINO")
    except HtpError:
        raise
    except Exception as error:  # of any kind, mostly RuntimeError, over many lines
        raise HtpError(f"{path}: OpenVINO {what}: {out_of_memory(error) or _brief(error)}") from error


def _brief(error: Exception) -> str:
    r"""What an exception says, without the lines of C++ that raised it.

    >>> _brief(RuntimeError("Exception from src/core.cpp:84:\nCheck 'false' failed at src/a.cpp:1:\nno such thing\n\n"))
    'no such thing'
    """
    text = re.sub(r"Exception from \S+:\d+:|Check '.*?' failed at \S+:\d+:", "", str(error))
    told = " ".join(text.split())
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}..."


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph that ran, and what it says of itself.

    Attributes:
        name: Its name.
        layer_type: What it does.
        names: What it was made of, as OpenVINO writes it.
        time_us: The mean of its times so far; None if that is less than a microsecond, or it never ran.
        inputs: For each input the node that makes it, by its index, and which of its outputs it is.
        shapes: The shape of each output, as it was in the last run; None for one that is not known.
        bits: The size of an element of each output; None for one that is not known.
    """

    name: str
    layer_type: str
    names: str
    time_us: int | None
    inputs: tuple[tuple[int, int], ...] = ()
    shapes: tuple[Shape | None, ...] = ()
    bits: tuple[int | None, ...] = ()

    def size(self, port: int) -> int | None:
        """The size of an output in bytes."""
        shape, bits = self.shapes[port], self.bits[port]
        elements: int | None = None if shape is None else prod(shape)
        if not elements:
            return elements
        return None if bits is None else (elements * bits + 7) // 8


@dataclass(frozen=True, slots=True)
class Counters:
    """What ran when the file was loaded, the graph before and after the runs that count, and how long each of these took."""

    at_load: frozenset[str]
    before: Sequence[Node]  # nothing where there was no run before them
    after: Sequence[Node]
    run_us: Sequence[float]


def nodes_of(runtime_model: Any) -> list[Node]:
    """What a runtime model says, in the order in which its nodes run."""
    found = [
        (op, {key: _text(value) for key, value in op.get_rt_info().items()}) for op in runtime_model.get_ordered_ops()
    ]
    found.sort(key=lambda pair: int(pair[1].get("execOrder", "0")))
    index = {op.get_friendly_name(): number for number, (op, _) in enumerate(found)}
    nodes = []
    for op, info in found:
        outputs = op.outputs()
        sources = [port.get_source_output() for port in op.inputs()]
        time = info.get("execTimeMcs", "")
        listed = info.get("outputPrecisions", "").split(",")
        precisions = listed if len(listed) == len(outputs) else listed[:1] * len(outputs)  # one stands for all
        nodes.append(
            Node(
                name=op.get_friendly_name(),
                layer_type=info.get("layerType", ""),
                names=info.get("originalLayersNames", ""),
                time_us=int(time) if time.isdecimal() else None,
                inputs=tuple((index[each.get_node().get_friendly_name()], each.get_index()) for each in sources),
                shapes=tuple(_static(port) for port in outputs),
                bits=tuple(map(_bits, precisions)),
            )
        )
    return nodes


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


def _static(port: Any) -> Shape | None:
    shape = port.get_partial_shape()
    return tuple(int(size) for size in shape.to_shape()) if shape.is_static else None


def _bits(precision: str) -> int | None:
    """The size of an element: of `bf16`, `u8` or `boolean`."""
    digits = re.search(r"\d+", precision)
    return 8 if precision == "boolean" else int(digits[0]) if digits else None


@dataclass(frozen=True, slots=True)
class AsRead:
    """What OpenVINO read from the file, before it changed any of it.

    Attributes:
        invented: Names that it made up, for what it makes of nodes.
        shapes: The shapes of tensors on the inputs, by name, as far as they follow from the inputs' shapes.
    """

    invented: frozenset[str] = frozenset()
    shapes: Mapping[str, Shape] = field(default_factory=dict)

    @classmethod
    def of(cls, read: Any, inputs: Inputs) -> AsRead:
        """What a model is that was read, on some inputs."""
        ops = read.get_ops()
        invented = frozenset(op.get_name() for op in ops if op.get_friendly_name() == op.get_name())
        shapes: dict[str, Shape] = {}
        try:
            fixed = read.clone()
            known = {name for port in fixed.inputs for name in port.names}
            fixed.reshape({name: list(array.shape) for name, array in inputs.items() if name in known})
            for op in fixed.get_ops():
                for port in op.outputs():
                    shape = _static(port)
                    if shape is not None:
                        shapes |= dict.fromkeys(port.names, shape)
        except Exception:  # of any kind: operations are not counted then
            shapes = {}
        return cls(invented, shapes)


def ran_layers(
    tagged: TaggedGraph, phase: str, inputs: Inputs, counters: Counters, as_read: AsRead, *, runs: int, warmup: int
) -> Ran:
    """What ran in a phase, of the counters before and after."""
    nodes = counters.after
    names = SourceNames(tagged.model)
    constant = _constant(nodes)
    inside = [
        index
        for index, node in enumerate(nodes)
        if node.layer_type not in _OUTSIDE
        and not (constant[index] and (node.time_us is None or node.name in counters.at_load))  # ran once, or never
    ]
    place = {index: number for number, index in enumerate(inside)}
    layers = Layers(list(_layers(inside, nodes, constant, names, as_read)), tagged, names)
    events = list(_events(counters, place, runs=runs, warmup=warmup))
    run = Run(events, 0, sum(event.time_us for event in events))
    numbers = {event.index for event in events}
    done = layers.does(ran=numbers.__contains__)
    shapes = dict(_run_shapes([nodes[index] for index in inside], layers)) | dict(as_read.shapes)
    count = _Operations(tagged.model, names, shapes, done)
    works = [_work(nodes[inside[event.index]], nodes, constant, count.of(event.index)) for event in events]
    return Ran(
        phase=phase,
        inputs={name: tuple(array.shape) for name, array in inputs.items()},
        nodes=layers,
        tags=layers.tags,
        runs=[run],
        run_us=counters.run_us,
        first=run,
        works=works,
        not_known=_not_known(works),
    )


def _constant(nodes: Sequence[Node]) -> list[bool]:
    """For each node whether it depends on constants alone; what a node reads is made before it."""
    known: list[bool] = []
    for node in nodes:
        sources = [source < len(known) and known[source] for source, _ in node.inputs]
        known.append(all(sources) if sources else node.layer_type == "Const")
    return known


def _layers(
    inside: Sequence[int], nodes: Sequence[Node], constant: Sequence[bool], names: SourceNames, as_read: AsRead
) -> Iterator[Layer]:
    """The nodes that run, by what they were made of."""
    said = {index: list(_split(nodes[index].names, names, as_read)) for index in inside}
    whole = {key for named in said.values() for name in named for key in names.find(name)}
    for index in inside:
        node, named = nodes[index], said[index]
        made_of = names.whole(key for name in named for key in _nodes(name, names))
        yield Layer(
            node.name,
            node.layer_type,
            made_of,
            tuple(_port(source, port, nodes, constant) for source, port in node.inputs),
            tuple(f"{index}\0{port}" for port in range(len(node.shapes))),
            is_part=whole.issuperset(made_of) and not any(map(names.find, named)),
        )


def _port(index: int, port: int, nodes: Sequence[Node], constant: Sequence[bool]) -> str:
    """The name of what a node makes: of what is given to the graph that of the file, of others one that no file has.

    A weight that was turned or cast at load is still that weight.
    """
    while constant[index] and nodes[index].inputs:
        index, port = nodes[index].inputs[0]
    node = nodes[index]
    return node.name if node.layer_type in _OUTSIDE else f"{index}\0{port}"


def _split(text: str, names: SourceNames, as_read: AsRead) -> Iterator[str]:
    """Names with commas between, which may have commas in them; without those that OpenVINO made up."""
    parts = text.split(",")
    start = 0
    while start < len(parts):
        ends = range(start + 1, min(start + _MOST_COMMAS, len(parts)) + 1)
        end = next((end for end in ends if names.find(",".join(parts[start:end]))), start + 1)
        name = ",".join(parts[start:end])
        if name not in as_read.invented:
            yield name
        start = end


def _nodes(name: str, names: SourceNames) -> tuple[NodeKey, ...]:
    """The nodes of a name, or of which it is a part."""
    return names.find(name) or names.find(name.rpartition("/")[0])


def _events(counters: Counters, place: Mapping[int, int], *, runs: int, warmup: int) -> Iterator[Event]:
    """A kernel for each layer, one after the other, with the mean of its times in the runs that count."""
    known = {node.name: node.time_us for node in counters.before}
    start = 0.0
    for index, node in enumerate(counters.after):
        if index in place:
            whole = (node.time_us or 0) * (runs + warmup) - (known.get(node.name) or 0) * warmup
            time = max(0.0, round(whole / runs, 3))
            yield Event(node.name, node.layer_type, place[index], start, time, _DEVICE)
            start += time


def _run_shapes(inside: Sequence[Node], layers: Layers) -> Iterator[tuple[str, Shape]]:
    """The shapes that tensors of the file had in the run, which may depend on values: of those between layers."""
    for node, layer in zip(inside, layers.nodes.values(), strict=True):
        if len(layer.outputs) == len(node.shapes):
            yield from (
                (name, shape) for name, shape in zip(layer.outputs, node.shapes, strict=True) if shape is not None
            )


def _work(node: Node, nodes: Sequence[Node], constant: Sequence[bool], operations: int | None) -> Work:
    """The work of a layer that ran; 0 operations are none that are counted."""
    sizes = [(constant[source], nodes[source].size(port)) for source, port in dict.fromkeys(node.inputs)]
    written = _total(node.size(port) for port in range(len(node.shapes)))
    is_table = node.layer_type in _TABLES and bool(sizes) and sizes[0][0]
    parameters = [size for is_constant, size in sizes[is_table:] if is_constant]
    return Work(
        parameter_bytes=_total([*parameters, written] if is_table else parameters),
        read_bytes=_total(size for is_constant, size in sizes if not is_constant),
        written_bytes=written,
        flops=operations or None,
        uncounted={node.layer_type: 1} if operations == 0 else {},
        unknown={node.layer_type: 1} if operations is None else {},
        providers={_DEVICE: 1},
    )


def _total(sizes: Iterable[int | None]) -> int | None:
    found = list(sizes)
    return None if None in found else sum(size for size in found if size is not None)


class _Operations:
    """How many operations layers take, by the nodes whose work they do."""

    def __init__(
        self,
        model: OnnxModel,
        names: SourceNames,
        shapes: Mapping[str, Shape],
        done: Mapping[int, Sequence[NodeKey]],
    ) -> None:
        self._names, self._done = names, done
        self._attributes = counted_attributes(model)
        stored = {each.name: each.dims for _, graph in model.graphs() for each in graph.initializers}
        self._shapes = {**shapes, **stored}

    def of(self, index: int) -> int | None:
        """The operations of a layer, 0 where none of its nodes counts; None if they are not known."""
        total = 0
        for key in self._done.get(index, ()):
            node = self._names.nodes[key]
            try:
                total += (
                    flops(
                        node.op_type,
                        Tensors(tuple(map(self._shapes.get, node.inputs))),
                        Tensors(tuple(map(self._shapes.get, node.outputs))),
                        self._attributes.get(key, {}),
                    )
                    or 0
                )
            except UnknownShapeError:
                return None
        return total


def _not_known(works: Sequence[Work]) -> dict[str, str]:
    """Why figures are not there, by what they are of."""
    found = {"memory": "OpenVINO says nothing of it"}
    if any(work.read_bytes is None or work.written_bytes is None for work in works):
        found["activations"] = "not known of layers whose shapes OpenVINO doesn't say"
    if any(work.parameter_bytes is None for work in works):
        found["parameters"] = "not known of layers whose shapes OpenVINO doesn't say"
    operators = Counter(name for work in works for name in work.unknown)
    if operators:
        named = ", ".join(f"{name} ({count:,})" for name, count in operators.most_common(3))
        found["flops"] = f"not known, nor of the modules around: those of {named}, whose shapes OpenVINO doesn't say"
    return found
