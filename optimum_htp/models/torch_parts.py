"""Cuts a source model (`torch_source`) into the parts that Optimum exports to a file each, and runs them.

Optimum's export configs make the inputs, patch the model and name the outputs, which are the reference for the files.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError, needing_optimum, reason
from optimum_htp.hierarchy import escape_name
from optimum_htp.models.inputs import array_values, dtype_of_input, graph_inputs
from optimum_htp.models.measures import Array
from optimum_htp.models.torch_source import SourceModel
from optimum_htp.models.trust import only_libraries
from optimum_htp.onnxfile import OnnxModel, Value
from optimum_htp.package import FileTraits, HtpFile, ValuePairs, paired_values, partners, traits_of

if TYPE_CHECKING:
    import torch


_MERGED = "decoder_model_merged"
_BRANCHES = {"decoder_model": False, "decoder_with_past_model": True}
# Optimum's names for the axes of inputs, where a fixed size shows that the export had it.
_AXES: dict[str, tuple[str, ...]] = {
    "input_ids": ("batch_size", "sequence_length"),
    "pixel_values": ("batch_size", "num_channels", "height", "width"),
    "input_features": ("batch_size", "feature_size", "nb_max_frames"),
    "input_values": ("batch_size", "audio_sequence_length"),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One ONNX file and the PyTorch module that was exported to it."""

    name: str  # Optimum's name for the part
    file: str  # by its path in the package
    module: Any
    onnx_config: Any  # Optimum's export config of it; None where Optimum has no part in it
    branch: bool | None = None  # of a merged decoder: whether it is the one with past key values

    @property
    def branch_name(self) -> str:
        """`with past` or `without past` for a branch, else ""."""
        return "" if self.branch is None else "with past" if self.branch else "without past"

    @property
    def input_names(self) -> list[str]:
        """What Optimum calls its inputs in a file."""
        return [value.name for value in _inputs(self.onnx_config)] + ["use_cache_branch"] * (self.branch is not None)

    def run(
        self, input_names: Collection[str], *, shapes: Mapping[str, int], given: Mapping[str, Array] | None, seed: int
    ) -> Example:
        """Runs a part of which Optimum knows nothing, as `run_reference` does."""
        raise NotImplementedError(self.name)

    def comparable(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs that the ONNX file has too: with past key values a merged decoder leaves the encoder's empty."""
        left_out = {name for name in outputs if self.branch and name.startswith("present.") and ".encoder." in name}
        return {name: array for name, array in outputs.items() if name not in left_out}


class NoExportConfigError(HtpError):
    """A model of a type that Optimum can't export by itself."""


TorchNames = tuple[ValuePairs, ValuePairs]
"""The inputs and outputs of a file, with Optimum's names for them."""


@dataclass(frozen=True, slots=True)
class Example:
    """Inputs of an ONNX file and PyTorch's outputs for them, by the names that the file has.

    `guessed` has those of other names in PyTorch that only their order tells which they are there.
    """

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    guessed: Mapping[str, str] = field(default_factory=dict)


def find_exported_parts(source: SourceModel, files: Iterable[HtpFile]) -> list[Part]:
    """The ONNX files of a package with the modules that were exported to them, by the rule that pairs packages.

    A merged decoder is two parts. Files that Optimum's config does not know are left out.

    Raises NoExportConfigError if it has none.
    """
    listed = traits_of(files)
    submodels = _submodels(source, monolith=False)
    matches = _matches(source, submodels, listed)
    if len(submodels) > 1 and not matches:
        submodels = _submodels(source, monolith=True)
        matches = _matches(source, submodels, listed)
    parts = [Part(name, file, *submodels[name]) for name in submodels for file in matches.get(name, ())]
    for file in matches.get(_MERGED, ()):
        for name, (module, onnx_config) in _submodels(source, monolith=False).items():
            if name in _BRANCHES:
                _mark_merged(onnx_config, use_cache=_BRANCHES[name])
                parts.append(Part(name, file, module, onnx_config, _BRANCHES[name]))
    return parts


def _matches(
    source: SourceModel, submodels: Mapping[str, tuple[Any, Any]], files: Sequence[FileTraits]
) -> dict[str, list[str]]:
    """The files of each part: the exported one, and what tools made of it."""
    known = [_traits(name, *submodel) for name, submodel in submodels.items()]
    known += [_merged(traits) for traits in known if _BRANCHES.get(traits.name.removesuffix(".onnx"))]
    if source.library == "diffusers":  # each part has a directory of its own
        known = [replace(traits, name=traits.name.replace(".onnx", "/model.onnx")) for traits in known]
    names = {traits.name: traits.name.removesuffix("/model.onnx").removesuffix(".onnx") for traits in known}
    matches: dict[str, list[str]] = {}
    for found in partners(files, known).values():
        if found.other is not None:
            matches.setdefault(names[found.other], []).append(found.file)
    return matches


def _traits(name: str, module: Any, onnx_config: Any) -> FileTraits:
    """What a file that was exported from a module is known by."""
    renamed = onnx_config.torch_to_onnx_output_map
    return FileTraits(
        name=f"{name}.onnx",
        roots=frozenset((f"/{escape_name(type(module).__name__)}",)),
        inputs=_inputs(onnx_config),
        outputs=tuple(Value(renamed.get(value, value)) for value in onnx_config.outputs),
    )


def _inputs(onnx_config: Any) -> tuple[Value, ...]:
    renamed = onnx_config.torch_to_onnx_input_map
    return tuple(Value(renamed.get(value, value)) for value in onnx_config.inputs)


def _merged(decoder: FileTraits) -> FileTraits:
    """The traits of a merged decoder, by those of the one with past key values."""
    return replace(decoder, name=f"{_MERGED}.onnx", inputs=(*decoder.inputs, Value("use_cache_branch")))


def fixed_sizes(inputs: Iterable[Value]) -> dict[str, int]:
    """The sizes that an export has fixed in the inputs of a graph, by Optimum's names for them.

    >>> fixed_sizes([Value("input_features", 1, ("batch_size", 80, 3000)), Value("input_ids", 7, ("batch_size", 1))])
    {'feature_size': 80, 'nb_max_frames': 3000}
    """
    sizes: dict[str, int] = {}
    for value in inputs:
        axes, shape = _AXES.get(value.name, ()), value.shape or ()
        if len(axes) != len(shape) or (value.name == "input_ids" and not all(isinstance(dim, int) for dim in shape)):
            continue  # a decoder with past key values takes one token, whatever the batch
        sizes.update({axis: dim for axis, dim in zip(axes, shape, strict=True) if isinstance(dim, int) and dim > 0})
    return sizes


def _model_type(config: Any) -> str | None:
    """The model type that Optimum looks up export configs by."""
    return getattr(config, "export_model_type", None) or getattr(config, "model_type", None)


def _submodels(source: SourceModel, *, monolith: bool) -> dict[str, tuple[Any, Any]]:
    """The modules that Optimum exports to a file each, with their export configs."""
    with needing_optimum("running what Optimum exported in PyTorch"):
        import optimum.exporters.onnx.model_configs  # noqa: F401 (what it imports registers the export configs)
        from optimum.exporters.onnx.utils import _get_submodels_and_onnx_configs
        from optimum.exporters.tasks import TasksManager

    config = source.model.config
    kind = _model_type(config)
    if source.library == "transformers" and kind not in TasksManager._SUPPORTED_MODEL_TYPE:
        raise NoExportConfigError(
            f"Optimum has no export config for the model type {kind!r}, which would make the inputs"
        )
    if source.task.endswith("with-past"):
        config.use_cache = True
    try:
        _, submodels = _get_submodels_and_onnx_configs(
            model=source.model,
            task=source.task,
            monolith=monolith,
            custom_onnx_configs={},
            custom_architecture=False,
            float_dtype=source.float_dtype,
            _variant="default",
            library_name=source.library,
            preprocessors=source.preprocessors,
        )
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise HtpError(f"Optimum can't split {source.name} into parts for {source.task}: {reason(error)}") from error
    return dict(submodels)


def _mark_merged(onnx_config: Any, *, use_cache: bool) -> None:
    """What Optimum's `post_process_exported_models` does to the configs once it has merged the decoders."""
    for config in filter(None, (onnx_config, getattr(onnx_config, "_decoder_onnx_config", None))):
        config.is_merged, config.use_cache_branch = True, use_cache
        if not use_cache:
            config.use_past_in_inputs = True


@contextmanager
def same_random_numbers(seed: int = 0) -> Iterator[None]:
    """Draws the same random numbers each time, in torch, numpy and Python, and restores the caller's generators."""
    import numpy as np
    import torch

    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)


def run_reference(
    part: Part,
    input_names: Collection[str],
    *,
    shapes: Mapping[str, int],
    given: Mapping[str, Array] | None = None,
    types: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Example:
    """Runs a part in PyTorch; raises whatever the model raises.

    Args:
        part: The part.
        input_names: The inputs that the ONNX file takes. PyTorch gets no others: the model has defaults for them.
        shapes: Sizes of the inputs that are made, by Optimum's names.
        given: Inputs by the names in the file, those with past key values too, in place of made ones.
        types: The numpy types that the file takes inputs in. PyTorch gets the same numbers, in the types that it takes.
        seed: For the inputs that are made, and for what the model itself draws.
    """
    import torch

    if part.onnx_config is None:
        return part.run(input_names, shapes=shapes, given=given, seed=seed)
    onnx_config = part.onnx_config
    with same_random_numbers(seed):
        made = _within_config(_generated(onnx_config, shapes), part.module)
        inputs = _flat(onnx_config, onnx_config.generate_dummy_inputs_for_validation(dict(made), list(input_names)))
        made = {key: value for key, value in made.items() if key not in inputs or key in input_names}
        by_file = given if given is not None else _in_types(inputs, types or {})
        places = {id(value): name for name, value in inputs.items()}
        tensors = {
            name: torch.from_numpy(array).to(inputs[name].dtype) if name in inputs else torch.from_numpy(array)
            for name, array in by_file.items()
        }
        made = {key: _replaced(value, places, tensors) for key, value in made.items()}
        taken = onnx_config.rename_ambiguous_inputs(copy.deepcopy(made))
        with onnx_config.patch_model_for_export(part.module), torch.inference_mode():
            answer = part.module(**taken)
    names = {"past_key_values": "present", **onnx_config.torch_to_onnx_output_map}
    outputs = _flat(onnx_config, {names.get(key, key): value for key, value in answer.items()})
    arrays = given if given is not None else {**{name: as_array(value) for name, value in inputs.items()}, **by_file}
    return Example(
        {name: array for name, array in arrays.items() if name in input_names},
        {name: as_array(value) for name, value in outputs.items()},
    )


def _in_types(tensors: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, Array]:
    """The tensors that a file takes in other types than they have, in those."""
    arrays = {name: as_array(value) for name, value in tensors.items() if name in types}
    return {name: array.astype(types[name]) for name, array in arrays.items() if array.dtype != types[name]}


def names_in_torch(
    part: Part, model: OnnxModel, *, shapes: Mapping[str, int], renamed: Mapping[str, str] | None = None
) -> TorchNames | None:
    """What Optimum calls the inputs and outputs of a file; None if that is what the file calls them.

    The part is run to see their types and shapes. Raises whatever the model raises, and HtpError if it is open which is
    which; `renamed`, and what else is raised for it, are `paired_values`'.
    """
    taken, known = graph_inputs(model), part.input_names
    names = [value.name for value in taken]
    if not renamed and not set(names).isdisjoint(known):  # they speak one language, and what differs is another input
        return None
    example = run_reference(part, [*known, *names], shapes=shapes)
    inputs = paired_values(taken, array_values(example.inputs), renamed=renamed)
    if inputs.problem() is not None:
        raise HtpError(f"{part.file} and PyTorch: {inputs.problem()}")
    answers = array_values(part.comparable(example.outputs))
    return inputs, paired_values(model.graph.outputs, answers, renamed=renamed)


def run_for_file(
    part: Part,
    model: OnnxModel,
    names: TorchNames | None,
    *,
    shapes: Mapping[str, int],
    given: Mapping[str, Array] | None = None,
    seed: int = 0,
) -> Example:
    """As `run_reference`, by the names and in the types that a file has: `names` is what `names_in_torch` says."""
    taken = graph_inputs(model)
    types = {value.name: dtype for value in taken if (dtype := dtype_of_input(value)) is not None}
    if names is None:
        wanted = [value.name for value in taken]
        return run_reference(part, wanted, shapes=shapes, given=given, types=types, seed=seed)
    inputs, outputs = names
    theirs = inputs.theirs(given) if given is not None else None
    types = {inputs.names[name]: dtype for name, dtype in types.items() if name in inputs.names}
    wanted = list(inputs.names.values())
    example = run_reference(part, wanted, shapes=shapes, given=theirs, types=types, seed=seed)
    answers = part.comparable(example.outputs)
    return Example(inputs.ours(example.inputs), outputs.ours(answers), {**inputs.guessed, **outputs.guessed})


def _generated(onnx_config: Any, shapes: Mapping[str, int]) -> dict[str, Any]:
    from optimum.utils import DEFAULT_DUMMY_SHAPES

    return dict(onnx_config.generate_dummy_inputs(framework="pt", **{**DEFAULT_DUMMY_SHAPES, **shapes}))


def _within_config(made: dict[str, Any], module: Any) -> dict[str, Any]:
    """Optimum draws token types of 0 and 1 also for models that know but one."""
    types = getattr(getattr(module, "config", None), "type_vocab_size", None)
    if isinstance(types, int) and types > 0 and "token_type_ids" in made:
        return {**made, "token_type_ids": made["token_type_ids"] % types}
    return made


def _replaced(value: Any, places: Mapping[int, str], tensors: Mapping[str, Any]) -> Any:
    """Nested tuples, lists and dicts, with other tensors in the places that have names."""
    if isinstance(value, Mapping):
        return {key: _replaced(item, places, tensors) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_replaced(item, places, tensors) for item in value)
    return tensors.get(places.get(id(value), ""), value)


def _flat(onnx_config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors by the names that the ONNX file has, those of tuples and dicts too."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, (list, tuple)):
            flat.update(onnx_config.flatten_output_collection_property(name, value))
        elif isinstance(value, dict):
            flat.update(value)
        elif value is not None:
            flat[name] = value
    return flat


def as_array(tensor: torch.Tensor) -> Array:
    """A tensor as an array, without a copy if possible; bfloat16, which numpy lacks, as float32."""
    import torch

    tensor = tensor.detach().cpu()
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in nested tuples, lists and dicts, in order."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def dummy_inputs(
    config: Any, *, task: str, library: str, shapes: Mapping[str, int], directory: str | Path
) -> dict[str, Any]:
    """Torch tensors for a whole model; sizes by Optimum's names, the task without `-with-past`. Raises HtpError."""
    with needing_optimum("making inputs of a whole model"):
        import optimum.exporters.onnx.model_configs  # noqa: F401 (what it imports registers the export configs)
    from optimum.exporters.tasks import TasksManager
    from optimum.utils.save_utils import maybe_load_preprocessors

    kind = _model_type(config)
    try:
        make = TasksManager.get_exporter_config_constructor("onnx", model_type=kind, task=task, library_name=library)
        with only_libraries(directory, trust_remote_code=False, library=""):
            preprocessors = maybe_load_preprocessors(str(directory))
        return _generated(make(config, preprocessors=preprocessors), shapes)
    except Exception as error:  # of many kinds, for configs that lack what an export config reads
        raise HtpError(f"Optimum can't make inputs for a {kind} model and {task}: {reason(error)}") from error
