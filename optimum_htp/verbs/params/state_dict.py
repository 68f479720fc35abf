"""The tensors of the PyTorch model: parameters, buffers, and what its parametrizations and batch norms make of them.

And their names: those in the whole model, and those that an exporter gives to initializers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optimum_htp.hierarchy import split_tag, tag_module_path


if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_MERGED = re.compile(r"_merged_\d+$")
_QUANTIZED = re.compile(r"(_quantized)?(_scale|_zero_point)?$")


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """A batch norm in evaluation: it multiplies each channel and then adds to it.

    Attributes:
        name: Its dotted path.
        scale: By what it multiplies: `weight / sqrt(running_var + eps)`.
        shift: What it adds: `bias - running_mean * scale`.
    """

    name: str
    scale: Array
    shift: Array


@dataclass(slots=True)
class SourceTensors:
    """The tensors of a model by name, every alias included.

    Attributes:
        tensors: The values.
        norms: Its batch norms.
        places: Where in the model each root of the file is, by the root's name in tags: names are relative to it.
        by_size: The names of the tensors of each number of elements.
    """

    tensors: dict[str, Array]
    norms: list[BatchNorm]
    places: Mapping[str, str] = field(default_factory=dict)
    by_size: dict[int, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, module: Any, *, places: Mapping[str, str] | None = None) -> SourceTensors:
        """Collects the tensors of a `torch.nn.Module`; their memory is shared where numpy has the type."""
        source = cls(dict(_named_tensors(module)), list(_batch_norms(module)), places or {})
        for name, array in source.tensors.items():
            source.by_size.setdefault(array.size, []).append(name)
        return source

    def path(self, tag: str) -> str:
        """The dotted path, in the whole model, of the module with a tag."""
        place, path = self.places.get(split_tag(tag)[0], ""), tag_module_path(tag)
        return f"{place}.{path}" if place and path else place or path

    def named(self, name: str) -> str | None:
        """The parameter that an initializer has the name of; Optimum adds `_merged_0` to those of a merged decoder."""
        plain = _MERGED.sub("", name)
        names = (plain, *(f"{place}.{plain}" for place in self.places.values() if place))
        return next((each for each in names if each in self.tensors), None)

    def is_anonymous(self, name: str) -> bool:
        """Whether an initializer has no parameter's name, not even one with a quantizer's suffix."""
        return all(self.named(each) is None for each in (name, _QUANTIZED.sub("", name, count=1)))

    def near(self, paths: Iterable[str], names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Splits names into those that belong to modules and the others, each list with the nearest first.

        Those are the tensors of the modules themselves, of modules below them and of modules around them.
        """
        wanted = list(paths)
        ranked = sorted(
            (min((distance(name, path) for path in wanted), default=9), at, name) for at, name in enumerate(names)
        )
        return [name for rank, _, name in ranked if rank < 3], [name for rank, _, name in ranked if rank >= 3]


def distance(name: str, path: str) -> int:
    """How far a tensor is from a module: 0 its own, 1 of a module below, 2 of one around it, 3 of another.

    >>> [distance("a.b.weight", path) for path in ("a.b", "a", "a.b.c", "x")]
    [0, 1, 2, 3]
    """
    owner = name.rpartition(".")[0]
    if owner == path:
        return 0
    if not path or owner.startswith(path + "."):
        return 1
    return 2 if not owner or path.startswith(owner + ".") else 3


def _named_tensors(module: Any) -> Iterator[tuple[str, Array]]:
    yield from ((name, _array(value)) for name, value in module.named_parameters(remove_duplicate=False))
    yield from ((name, _array(value)) for name, value in module.named_buffers(remove_duplicate=False))
    for path, each in module.named_modules():
        for name in getattr(each, "parametrizations", None) or ():
            yield f"{path}.{name}" if path else name, _array(getattr(each, name))


def _array(tensor: Any) -> Array:
    import torch

    detached = tensor.detach().cpu()
    if detached.dtype == torch.bfloat16:
        detached = detached.float()
    array: Array = detached.resolve_conj().numpy()
    return array


def _batch_norms(module: Any) -> Iterator[BatchNorm]:
    import numpy as np

    for name, each in module.named_modules():
        mean, variance = getattr(each, "running_mean", None), getattr(each, "running_var", None)
        if mean is None or variance is None:
            continue
        scale = 1.0 / np.sqrt(_array(variance).astype(np.float64) + float(getattr(each, "eps", 1e-5)))
        if getattr(each, "weight", None) is not None:
            scale = scale * _array(each.weight)
        shift = -_array(mean) * scale
        if getattr(each, "bias", None) is not None:
            shift = shift + _array(each.bias)
        yield BatchNorm(name, scale, shift)
