"""ONNX Runtime: its own profiler times the kernels of the graph that it made, which it writes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from optimum_htp.models import DEFAULT_PROVIDER, check_provider
from optimum_htp.tagging import TaggedGraph, project
from optimum_htp.verbs.profile.compiled import compiled_kernels
from optimum_htp.verbs.profile.facts import Facts, held_before, reasons
from optimum_htp.verbs.profile.joiner import Joiner
from optimum_htp.verbs.profile.runs import Inputs, Measured, measure
from optimum_htp.verbs.profile.runtimes.ran import Ran

_ON_ACCELERATORS = (
    "times are those of ONNX Runtime's profiler on the host: what an accelerator does after a kernel was launched is "
    "not in them"
)
_NOT_WRITTEN = "{}: the provider can't write the graph that it made: nodes are known by their original names only"


class OnnxRuntime:
    """Sessions of an execution provider, with ONNX Runtime's default optimizations."""

    name = "onnxruntime"
    average = "median"

    def __init__(self, *, provider: str | None, threads: int | None, warmup: int, runs: int) -> None:
        self.device = check_provider(provider or DEFAULT_PROVIDER)
        import onnxruntime

        self.version = str(onnxruntime.__version__)
        self.threads: int | None = threads
        self.warmup: int | None = warmup
        self.runs = runs
        self.notes = [] if self.device == DEFAULT_PROVIDER else [_ON_ACCELERATORS]
        self._warmup = warmup

    def run(self, graph: TaggedGraph, by_phase: Mapping[str, Inputs]) -> Iterator[Ran]:
        """What runs in each phase of a file. Raises HtpError."""
        measured = measure(
            graph.model,
            list(by_phase.values()),
            provider=self.device,
            threads=self.threads,
            warmup=self._warmup,
            runs=self.runs,
        )
        if measured.optimized is None:
            self.notes.append(_NOT_WRITTEN.format(graph.name))
        return self._phases(graph, by_phase, measured)

    def _phases(self, tagged: TaggedGraph, by_phase: Mapping[str, Inputs], measured: Measured) -> Iterator[Ran]:
        optimized, provider = measured.optimized, self.device
        tags = tagged.tags if optimized is None else project(tagged.sources or (tagged,), optimized).tags
        model = optimized or tagged.model
        joiner, facts = Joiner(model), Facts(model, measured.attributes, tagged.model)
        for (phase, inputs), runs, first in zip(by_phase.items(), measured.runs, measured.first, strict=True):
            pairs = joiner.join(first.events)
            events = [event for event, _ in pairs]
            compiled = compiled_kernels(pairs, measured.assigned, tagged) if optimized is None else {}
            works = list(facts.work(pairs, provider=provider))
            not_known = reasons(events, works, provider)
            for index, (event, key) in enumerate(pairs):
                if key is None and event.name in compiled:
                    nodes = compiled[event.name].nodes
                    works[index] = replace(works[index], providers={event.provider: nodes})
            yield Ran(
                phase=phase,
                inputs={name: tuple(array.shape) for name, array in inputs.items()},
                nodes=joiner,
                tags=tags,
                runs=runs,
                run_us=[run.time_us for run in runs],
                first=first,
                works=works,
                compiled=compiled,
                held_bytes=held_before(events, provider=provider),
                not_known=not_known,
            )
