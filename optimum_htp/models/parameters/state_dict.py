"""The tensors of the PyTorch model: parameters, buffers, and what its parametrizations and batch norms make of them.

And their names: those in the whole model, and those that an exporter gives to initializers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeAlias

from optimum_htp.hierarchy import split_tag, tag_module_path

if TYPE_CHECKING:
    import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

_MERGED = re.compile(r"_merged_\d+$")
_QUANTIZED = re.compile(r"(_quantized)?(_scale|_zero_point)?$")


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """A batch norm in evaluation: it multiplies each channel by `scale` and then adds `shift`."""

    name: str
    scale: Array
    shift: Array


@dataclass(slots=True)
class SourceTensors:
    """The tensors of a model by name, every alias included, and its batch norms.

    `places` says where in the model each root of the file is, by the root's name in tags: names are relative to it.
    """

    tensors: dict[str, Array]
    norms: list[BatchNorm]
    places: Mapping[str, str]
    by_size: dict[int, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_size = {}
        for name, array in self.tensors.items():
            self.by_size.setdefault(array.size, []).append(name)

    @classmethod
    def of(cls, module: Any, *, places: Mapping[str, str] | None = None) -> SourceTensors:
        """Collects the tensors of a `torch.nn.Module`; their memory is shared where numpy has the type."""
        return cls(dict(_named_tensors(module)), list(_batch_norms(module)), places or {})

    def path(self, tag: str) -> str:
        """The dotted path, in the whole model, of the module with a tag."""
        place, path = self.places.get(split_tag(tag)[0], ""), tag_module_path(tag)
        return f"{place}.{path}" if place and path else place or path

    def named(self, name: str) -> str | None:
        """The parameter that an initializer has the name of; Optimum adds `_merged_0` to those of a merged decoder."""
        plain = _MERGED.sub("", name)
        names = (plain, *(f"{place}.{plain}" for place in self.places.values() if place))
        return next(filter(self.tensors.__contains__, names), None)

    def is_anonymous(self, name: str) -> bool:
        """Whether an initializer has no parameter's name, not even one with a quantizer's suffix."""
        return self.named(name) is None and self.named(_QUANTIZED.sub("", name, count=1)) is None

    def near(self, paths: Iterable[str], names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Splits names into those of modules, modules below and modules around them, and the others; nearest first."""
        wanted = list(paths)
        ranks = {name: min((distance(name, path) for path in wanted), default=3) for name in names}
        ranked = sorted(ranks, key=lambda name: ranks[name])
        return [name for name in ranked if ranks[name] < 3], [name for name in ranked if ranks[name] >= 3]


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


def shared_segments(names: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The segments that dotted names start with, what each has of its own in between, and those that they end with.

    >>> shared_segments(["layer.query.weight", "layer.key.weight"])
    (['layer'], ['query', 'key'], ['weight'])
    """
    parts = [name.split(".") for name in names]
    head = shared_start([segments[:-1] for segments in parts])
    rest = [segments[len(head) :] for segments in parts]
    tail = shared_start([segments[:0:-1] for segments in rest])[::-1]
    return head, [".".join(segments[: len(segments) - len(tail)]) for segments in rest], tail


def shared_start(lists: Sequence[Sequence[str]]) -> list[str]:
    """What all the lists start with."""
    columns = zip(*lists, strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]


def _named_tensors(module: Any) -> Iterator[tuple[str, Array]]:
    for named in (module.named_parameters, module.named_buffers):
        yield from ((name, _array(value)) for name, value in named(remove_duplicate=False))
    for path, part in module.named_modules():
        for name in getattr(part, "parametrizations", None) or ():
            yield f"{path}.{name}" if path else name, _array(getattr(part, name))


def _array(tensor: Any) -> Array:
    import torch

    detached = tensor.detach().cpu()
    if detached.dtype == torch.bfloat16:
        detached = detached.float()
    array: Array = detached.resolve_conj().numpy()
    return array


def _batch_norms(module: Any) -> Iterator[BatchNorm]:
    import numpy as np

    for name, norm in module.named_modules():
        mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
        if mean is None or variance is None:
            continue
        scale = 1.0 / np.sqrt(_array(variance).astype(np.float64) + float(getattr(norm, "eps", 1e-5)))
        if getattr(norm, "weight", None) is not None:
            scale = scale * _array(norm.weight)
        shift = -_array(mean) * scale
        if getattr(norm, "bias", None) is not None:
            shift = shift + _array(norm.bias)
        yield BatchNorm(name, scale, shift)
