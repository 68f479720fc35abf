"""A model that Optimum has no export config for, as the one part of its package: its graph says what inputs it takes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optimum_htp.hierarchy import escape_name
from optimum_htp.models.inputs import InputSizes, graph_inputs, make_inputs, phases
from optimum_htp.models.measures import Array
from optimum_htp.models.torch_parts import (
    Example,
    NoExportConfigError,
    Part,
    as_array,
    find_exported_parts,
    same_random_numbers,
    tensors_in,
)
from optimum_htp.models.torch_source import SourceModel
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package import HtpFile, traits_of


@dataclass(frozen=True, slots=True)
class WholeModel(Part):
    """The whole model, run by the names that the inputs have in the graph."""

    config: Mapping[str, Any] = field(default_factory=dict)
    model: OnnxModel = field(default_factory=OnnxModel)

    @property
    def input_names(self) -> list[str]:
        """The inputs of its file."""
        return [value.name for value in graph_inputs(self.model)]

    def run(
        self, input_names: Collection[str], *, shapes: Mapping[str, int], given: Mapping[str, Array] | None, seed: int
    ) -> Example:
        """Runs it in PyTorch on made inputs or given ones; raises whatever it raises."""
        import torch

        phase = phases(self.model)[0]
        made = given or make_inputs(self.model, self.config, sizes=InputSizes(dims=shapes), phase=phase, seed=seed)
        with same_random_numbers(seed), torch.inference_mode():
            answer = self.module(**{name: torch.from_numpy(array) for name, array in made.items()})
        names = [value.name for value in self.model.graph.outputs]
        known = answer if isinstance(answer, Mapping) else {}
        tensors = {name: known[name] for name in names if isinstance(known.get(name), torch.Tensor)}
        tensors = tensors or dict(zip(names, tensors_in(answer), strict=False))
        return Example(
            {name: array for name, array in made.items() if name in input_names},
            {name: as_array(tensor) for name, tensor in tensors.items()},
        )


def find_parts(source: SourceModel, files: Iterable[HtpFile]) -> list[Part]:
    """What `find_exported_parts` finds, or, where Optimum has no config, the files that the whole model was exported to.

    Raises HtpError as that does, also if no file is one, or takes past key values: only Optimum's config knows of these.
    """
    files = list(files)
    try:
        return find_exported_parts(source, files)
    except NoExportConfigError:
        root = f"/{escape_name(type(source.model).__name__)}"
        whole = {traits.name for traits in traits_of(files) if root in traits.roots}
        models = {file.name: file.model for file in files if file.name in whole}
        if not models or any(phases(model)[-1] == "decode" for model in models.values()):
            raise
        config = source.model.config.to_dict()
        return [WholeModel("model", name, source.model, None, None, config, model) for name, model in models.items()]
