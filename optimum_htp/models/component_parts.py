"""The components of a package that transformers 5 exported by itself, as parts of the source model in PyTorch.

Optimum has no part in them. The arguments of a module are known by the names of the graph's inputs, which are their paths:
`encoder_outputs.last_hidden_state`, `input.cache.layers.0.keys`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from optimum_htp.errors import HtpError, PackageError, reason
from optimum_htp.models.hub_cache import check_model_name
from optimum_htp.models.inputs import InputSizes, graph_inputs, make_inputs, phases
from optimum_htp.models.measures import Array
from optimum_htp.models.torch_parts import Example, Part, as_array, same_random_numbers
from optimum_htp.models.torch_source import SourceModel, recorded_revision, weights_dtype
from optimum_htp.models.trust import only_libraries
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package import Component, HtpFile, HtpPackage, cache_leaf

_CACHED = {"keys", "values"}  # the tensors of a layer of a cache that grows
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class ComponentPart(Part):
    """A component and the module that was exported to it."""

    config: Mapping[str, Any] = field(default_factory=dict)
    model: OnnxModel | None = None

    @property
    def input_names(self) -> list[str]:
        """The inputs of its file."""
        return [value.name for value in graph_inputs(self.model)] if self.model is not None else []

    def run(
        self, input_names: Collection[str], *, shapes: Mapping[str, int], given: Mapping[str, Array] | None, seed: int
    ) -> Example:
        """Runs the module in PyTorch on made inputs or given ones; raises whatever it raises."""
        import torch
        from transformers.exporters.utils import get_leaf_tensors  # type: ignore[import-not-found, unused-ignore]

        assert self.model is not None
        known = {name: shapes[name] for name in ("batch_size", "sequence_length", "height", "width") if name in shapes}
        sizes = InputSizes(**known, dims={name: size for name, size in shapes.items() if name not in known})
        phase = phases(self.model)[0]
        made = given or make_inputs(self.model, self.config, sizes=sizes, phase=phase, varied=False, seed=seed)
        tensors = {name: torch.from_numpy(array) for name, array in made.items()}
        with same_random_numbers(seed), torch.inference_mode():
            answer = self.module(**module_arguments(tensors))
        returned = {path: as_array(tensor) for path, tensor in get_leaf_tensors(answer).items()}
        outputs = {value.name: returned.get(value.name.removeprefix("output.")) for value in self.model.graph.outputs}
        return Example(
            {name: array for name, array in made.items() if name in input_names},
            {name: array for name, array in outputs.items() if array is not None},
        )


def load_component_model(
    package: HtpPackage,
    files: Iterable[HtpFile],
    name: str,
    *,
    task: str | None = None,
    trust_remote_code: bool = False,
) -> SourceModel:
    """Loads the source model of a package of components, in the type of some files. Raises PackageError if it can't."""
    check_model_name(name)
    import torch
    import transformers

    dtype = weights_dtype(file.model for file in files)
    revision = recorded_revision(name, package.sidecar.source if package.sidecar is not None else {})
    named = [component.architecture for component in reversed(package.components)]  # the last does the least by itself
    classes = [cls for each in named if each and isinstance(cls := getattr(transformers, each, None), type)]
    loader: Any = classes[0] if classes else transformers.AutoModel
    try:
        trusted = only_libraries(name, trust_remote_code=trust_remote_code, library="transformers", revision=revision)
        with trusted, _without_progress():
            model = loader.from_pretrained(
                name,
                revision=revision or "main",
                dtype=getattr(torch, _DTYPES.get(dtype, "float32")),
                trust_remote_code=trust_remote_code,
            )
    except PackageError:
        raise
    except Exception as error:  # transformers and the Hub's client raise errors of many kinds
        raise PackageError(f"{name}: can't be loaded in PyTorch: {reason(error)}") from error
    return SourceModel(model.eval(), task or package.task or "", "transformers", name, dtype, [])


@contextmanager
def _without_progress() -> Iterator[None]:
    """Loads weights without transformers' progress bar."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_components(
    package: HtpPackage,
    files: Mapping[str, HtpFile],
    name: str,
    *,
    task: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[SourceModel, list[Part]]:
    """Loads the source model of a package of components, and its module for each of some files.

    Raises:
        PackageError: The model can't be loaded, or has not the modules that were exported.
        HtpError: The installed transformers has no exporters.
    """
    if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("transformers.exporters") is None:
        raise HtpError(
            f"{package.path}: transformers 5 exported it, and comparing it with PyTorch takes that: pip install "
            "'transformers>=5', or give another package of the same model to compare with: --reference OTHER"
        )
    source = load_component_model(package, files.values(), name, task=task, trust_remote_code=trust_remote_code)
    parts: list[Part] = []
    for file, opened in files.items():
        component = package.components.of_file(file)
        if component is not None:
            module = _module(source.model, component, name)
            config = package.config or {}
            parts.append(ComponentPart(component.name, file, module, None, config=config, model=opened.model))
    return source, parts


def _module(model: Any, component: Component, name: str) -> Any:
    """The module that a component is an export of: the model, or the only one of that class in it."""
    wanted = component.architecture
    if wanted is None or type(model).__name__ == wanted:
        return model
    found = [module for module in model.modules() if type(module).__name__ == wanted]
    if len(found) != 1:
        raise PackageError(
            f"{name} has {len(found) or 'no'} modules of the class {wanted}, of which {component.file} is an export; give its "
            "own source model"
        )
    return found[0]


def module_arguments(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What a module takes, by the paths of tensors in it. Raises HtpError for caches of other kinds than those that grow."""
    arguments: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    caches: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        leaf = cache_leaf(name)
        first, dot, rest = (leaf or name).partition(".")
        place = caches if leaf is not None else nested
        if dot:
            place.setdefault(first, {})[rest] = tensor
        else:
            arguments[first] = tensor
    from transformers.modeling_outputs import BaseModelOutput

    arguments |= {name: BaseModelOutput(**leaves) for name, leaves in nested.items()}
    return arguments | {name: _cache(leaves) for name, leaves in caches.items()}


def _cache(leaves: Mapping[str, Any]) -> Any:
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    halves = ("self_attention_cache", "cross_attention_cache")
    if {leaf.partition(".")[0] for leaf in leaves} <= set(halves):
        inside = [
            {leaf.partition(".")[2]: tensor for leaf, tensor in leaves.items() if leaf.startswith(f"{half}.")}
            for half in halves
        ]
        return EncoderDecoderCache(*(_cache(part) for part in inside))
    layers: dict[int, dict[str, Any]] = {}
    for leaf, tensor in leaves.items():
        words = leaf.split(".")
        if len(words) != 3 or words[0] != "layers" or not words[1].isdecimal() or words[2] not in _CACHED:
            raise HtpError(
                f"the cache has {leaf!r}, and only those of keys and values are known; give --reference OTHER"
            )
        layers.setdefault(int(words[1]), {})[words[2]] = tensor
    cache = DynamicCache()
    for expected, number in enumerate(sorted(layers)):
        if number != expected or layers[number].keys() != _CACHED:
            raise HtpError(f"the cache has no keys and values for layer {expected}; give --reference OTHER")
        cache.update(layers[number]["keys"], layers[number]["values"], number)
    return cache
