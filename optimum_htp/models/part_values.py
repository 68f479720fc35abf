"""What an extracted part is given in the package that it was cut from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimum_htp.errors import HtpError
from optimum_htp.models.inputs import InputSizes, as_declared, graph_inputs, make_inputs, phases
from optimum_htp.models.measures import Array
from optimum_htp.models.tensor_values import tensor_values
from optimum_htp.onnxfile import OnnxModel, split_body_path
from optimum_htp.package import CutFrom


def part_phases(record: CutFrom, source: OnnxModel) -> tuple[str, ...]:
    """The `phases` of a file in which a part of it runs: of a branch of a merged decoder, one."""
    holder = split_body_path(record.graph.partition("/")[0])
    if holder is not None:
        _, index, element = holder
        if source.graph.nodes[index].inputs[:1] == ("use_cache_branch",):
            return ("decode",) if element == "then_branch" else ("prefill",)
    return phases(source)


def part_inputs(
    part: OnnxModel,
    record: CutFrom,
    source: OnnxModel,
    config: Mapping[str, Any] | None,
    *,
    phase: str,
    sizes: InputSizes | None = None,
    given: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """The inputs of a part in one of its phases: what they are in the file that it was cut from, on that file's inputs.

    Those are `given`, or made as `make_inputs` does. The part may have been changed since: converted to another precision,
    or its inputs renamed. Raises HtpError if it has inputs of which nothing is known, or the file can't be run.
    """
    values = given if given is not None else make_inputs(source, config, sizes=sizes, phase=phase)
    wanted = graph_inputs(part)
    names = {value.name: value.name for value in wanted}
    if not names.keys() <= set(record.inputs) and len(names) == len(record.inputs):
        names = dict(zip(names, record.inputs, strict=True))  # all of them, or in part: their order is the same
    unknown = [name for name, old in names.items() if old not in record.inputs]
    if unknown:
        raise HtpError(
            f"{part.path}: {', '.join(unknown)} are no tensors of {source.path}, which it was cut from; give --inputs FILE.npz"
        )
    tensors = tensor_values(source, list(names.values()), values, graph=record.graph)
    return as_declared({name: tensors[old] for name, old in names.items()}, part)
