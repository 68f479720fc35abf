"""`--load` for packages of components: each runs, and what a step leaves in the cache is what the next one takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError, reason
from optimum_htp.models import Array, InputSizes, graph_inputs, make_inputs, phases
from optimum_htp.onnxfile import OnnxModel, Value, out_of_memory
from optimum_htp.package import cache_leaf
from optimum_htp.verbs.validate.report import FAILED, OK, SKIPPED

if TYPE_CHECKING:
    from optimum_htp.verbs.validate.contents import Contents

_TOKENS = 5  # of the prompt
_STEPS = 2  # the second takes what the first leaves
_FIXED = "it was exported with inputs that hid an axis: export it again with a longer prompt, and dynamic=True"

_Result = tuple[str, str, str]


class _UnfitError(Exception):
    """What does not fit, and what to do."""


def run_components(package: Contents, sessions: Mapping[str, Any]) -> _Result:
    """Runs each file of a package, by its session: the first stage, then two steps of decoding on the caches it leaves."""
    done: list[str] = []
    left: dict[str, Array] = {}  # by the leaf of the cache, and by their own names
    models = {name: file.model for name, file in package.readable_files.items()}
    try:
        for name, model in models.items():
            if phases(model) != ("decode",):
                outputs = _run(_Step(package, name, model, sessions[name], tokens=_TOKENS), {})
                left |= outputs
                done.append(f"{name} gave {_described(outputs)}")
        for name, model in models.items():
            if phases(model) != ("decode",):
                continue
            given = dict(left)
            for step in range(_STEPS if left else 1):
                outputs = _run(_Step(package, name, model, sessions[name], tokens=_TOKENS + step), given)
                given |= outputs
            caches = sum(cache_leaf(value.name) is not None for value in graph_inputs(model))
            done.append(f"{_STEPS} steps of {name} on its {caches} caches" if left else f"{name} runs")
    except _UnfitError as unfit:
        return FAILED, str(unfit.args[0]), str(unfit.args[1])
    except HtpError as error:
        return SKIPPED, f"no inputs to run it on: {error}", ""
    return OK, "; ".join(done), ""


@dataclass(frozen=True, slots=True)
class _Step:
    package: Contents
    name: str
    model: OnnxModel
    session: Any
    tokens: int  # that were there before the step, or are in the prompt

    def inputs(self, left: Mapping[str, Array]) -> dict[str, Array]:
        """What it is run on: what earlier ones left, made up where they left nothing. Raises _UnfitError."""
        (phase,) = phases(self.model)[:1]
        sizes = InputSizes(batch_size=2, sequence_length=self.tokens)
        made = make_inputs(self.model, self.package.main_config, sizes=sizes, phase=phase)
        for value in graph_inputs(self.model):
            leaf = cache_leaf(value.name)
            if leaf is None or not left:
                continue
            if leaf not in left:
                raise _UnfitError(
                    f"{self.name} takes {value.name}, and no stage before it leaves that in the cache",
                    "export them together",
                )
            problem = _misfit(value, left[leaf], made[value.name])
            if problem is not None:
                raise _UnfitError(f"{self.name} takes {value.name} {problem}", _FIXED)
            made[value.name] = left[leaf]
        return made


def _run(step: _Step, left: Mapping[str, Array]) -> dict[str, Array]:
    """What a step returns, caches by their leaf. Raises _UnfitError if it can't be run."""
    given = step.inputs(left)
    names = [value.name for value in step.model.graph.outputs]
    try:
        answers = step.session.run(names, given)
    except Exception as error:  # ONNX Runtime raises exceptions of its own C++ module
        raise _UnfitError(
            f"{step.name} loads, but can't be run: {out_of_memory(error) or reason(error)}", ""
        ) from error
    return {cache_leaf(name) or name: answer for name, answer in zip(names, answers, strict=True)}


def _misfit(value: Value, array: Array, made: Array) -> str | None:
    """How what was left in a cache differs from what a step takes."""
    if array.dtype != made.dtype:
        return f"in {made.dtype}, and {array.dtype} was left there"
    shape = [int(str(size)) if str(size).isdecimal() else None for size in value.shape or ()]
    fits = len(shape) == array.ndim and all(
        size in (None, actual) for size, actual in zip(shape, array.shape, strict=True)
    )
    return None if fits else f"of the shape {list(value.shape or ())}, and {list(array.shape)} was left there"


def _described(outputs: Mapping[str, Array]) -> str:
    shown = [f"{name} {list(array.shape)}" for name, array in outputs.items() if cache_leaf(name) is None]
    caches = len(outputs) - len(shown)
    return ", ".join([*shown[:4], *([f"{caches} caches"] if caches else [])])
