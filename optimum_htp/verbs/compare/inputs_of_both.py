"""The same inputs for two files: what one of them does not take has, in the other, the model's own default.

Each takes them in its own types. What one rounds is rounded for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimum_htp.errors import HtpError
from optimum_htp.models import Array, InputSizes, as_declared, check_inputs, graph_inputs, make_inputs
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package import ValuePairs

# Inputs that models have a default for, which `make_inputs` makes where it does not vary them: ones, zeros, 0 1 2 ...
_WITH_DEFAULT = ("attention_mask", "token_type_ids", "position_ids")


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
    unknown = [name for name in missing if name not in _WITH_DEFAULT]
    if unknown:
        names = ", ".join(unknown)
        raise HtpError(
            f"{reference.path} takes {names}, and {model.path} does not; say what it is there with --map NEW=OLD"
        )
    if missing:
        both |= _defaults(reference, config, both, missing, phase)
    check_inputs(both, reference, where=str(model.path))
    return values, both


def _defaults(
    reference: OnnxModel, config: Mapping[str, Any] | None, known: Mapping[str, Array], missing: list[str], phase: str
) -> dict[str, Array]:
    dims: dict[str, int] = {}
    for value in graph_inputs(reference):
        array = known.get(value.name)
        if array is not None and value.shape is not None:
            pairs = zip(value.shape, array.shape, strict=False)
            dims.update((size, actual) for size, actual in pairs if isinstance(size, str))
    made = make_inputs(reference, config, sizes=InputSizes(dims=dims), phase=phase)
    return {name: made[name] for name in missing}
