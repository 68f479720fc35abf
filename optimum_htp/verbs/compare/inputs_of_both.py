"""The same inputs for two files: what one of them does not take has, in the other, the model's own default.

Each takes them in its own types. What one rounds is rounded for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optimum_htp.errors import HtpError
from optimum_htp.models import Array, InputSizes, as_declared, check_inputs, graph_inputs, make_inputs, phases
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package import ValuePairs, cache_leaf

_BRANCH = "use_cache_branch"  # what a merged decoder is told with which of its branches is to run
_STEPS = {"forward": "runs without cached states", "prefill": "runs the first step", "decode": "runs the later steps"}

# Inputs that models have a default for, which `make_inputs` makes where it does not vary them: ones, zeros, 0 1 2 ...
_WITH_DEFAULT = ("attention_mask", "token_type_ids", "position_ids")


def shared_phases(model: OnnxModel, reference: OnnxModel) -> tuple[str, ...]:
    """The phases that a file and its reference are both run for, by the name that the file has for each.

    A merged decoder does what each of its halves does; a model without cached states does the first step. Raises
    HtpError if there is none.
    """
    ours, theirs = phases(model), phases(reference)
    both = tuple(phase for phase in ours if phase in theirs or ("forward" in (phase, theirs[0]) and phase != "decode"))
    if not both:
        raise HtpError(
            f"{model.path} {_STEPS[ours[0]]} of a generation, and {reference.path} {_STEPS[theirs[0]]}: they have nothing "
            "to compare; give a reference that does the same"
        )
    return both


def shared_inputs(
    model: OnnxModel,
    reference: OnnxModel,
    pairs: ValuePairs,
    config: Mapping[str, Any] | None,
    sizes: InputSizes,
    phase: str,
    *,
    given: Mapping[str, Array] | None = None,
    seed: int = 0,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The inputs of a file, and those of its reference. Raises HtpError if one has an input that is not known."""
    made = given is None
    values = (
        make_inputs(model, config, sizes=sizes, phase=phase, varied=True, seed=seed) if made else dict(given or {})
    )
    both = as_declared(pairs.theirs(values), reference)
    values = {**values, **as_declared(pairs.ours(both), model)}
    missing = [value.name for value in graph_inputs(reference) if value.name not in both]
    known = _made_for(reference, phase)
    unknown = [name for name in missing if name not in _WITH_DEFAULT and not known(name)]
    if unknown:
        names = ", ".join(unknown)
        raise HtpError(
            f"{reference.path} takes {names}, and {model.path} does not; say what it is there with --map NEW=OLD"
        )
    if missing:
        both |= _defaults(reference, config, both, missing, phase)
    check_inputs(both, reference, where=str(model.path))
    return values, both


def _made_for(reference: OnnxModel, phase: str) -> Callable[[str], bool]:
    """Whether an input follows from the phase: a past that is empty, the branch of a merged decoder, what that doesn't read."""
    is_merged = any(value.name == _BRANCH for value in graph_inputs(reference))

    def known(name: str) -> bool:
        if phase != "decode":
            return name == _BRANCH or cache_leaf(name) is not None
        return is_merged and name in (_BRANCH, "encoder_hidden_states")

    return known


def _defaults(
    reference: OnnxModel, config: Mapping[str, Any] | None, known: Mapping[str, Array], missing: list[str], phase: str
) -> dict[str, Array]:
    dims: dict[str, int] = {}
    for value in graph_inputs(reference):
        array = known.get(value.name)
        if array is not None and value.shape is not None:
            pairs = zip(value.shape, array.shape, strict=False)
            dims.update((size, actual) for size, actual in pairs if isinstance(size, str))
    own = phases(reference)
    made = make_inputs(reference, config, sizes=InputSizes(dims=dims), phase=phase if phase in own else own[0])
    return {name: made[name] for name in missing}
