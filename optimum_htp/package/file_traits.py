"""What an ONNX file is known by, whatever it is called: the export that it was made from, its module, its weights."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy import root_tags
from optimum_htp.onnxfile import (
    NUMBERS,
    Initializer,
    OnnxModel,
    SourceFiles,
    TensorField,
    Value,
    element_type,
    rewrite_tensors,
)
from optimum_htp.package.package import HtpFile
from optimum_htp.package.resolver import skeleton_of

_MAX_BYTES = 1 << 16  # of a weight whose values are read
_MAX_VALUES = 256
_FLOATS = {NUMBERS["float16"]: ("e", 2), NUMBERS["float32"]: ("f", 4), NUMBERS["float64"]: ("d", 8)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTraits:
    """What a file is known by; what is not known is empty.

    Attributes:
        name: Its path in the package.
        place: Where it is, links resolved.
        skeleton: The skeleton that it carries: that of the export that it was made from.
        roots: The tags of its root modules.
        inputs: Its inputs, without initializers.
        outputs: Its outputs.
        weights: Its initializers, by their names.
        tensors: The names of all that its nodes produce.
        is_export: Whether its nodes are just those that were exported, as far as is known.
        is_full: Whether its weights are of full precision.
    """

    name: str
    place: Path | None = None
    skeleton: str | None = None
    roots: frozenset[str] = frozenset()
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()
    weights: Mapping[str, Initializer] = field(default_factory=dict, repr=False)
    tensors: frozenset[str] = field(default=frozenset(), repr=False)
    is_export: bool = False
    is_full: bool = False

    @classmethod
    def of(cls, file: HtpFile) -> FileTraits:
        """Those of a file of a package. Raises OnnxFileError if it is not an ONNX model."""
        model = file.model
        try:
            skeleton = skeleton_of(file)
        except HtpError:  # it is damaged, which whoever needs its tags will say
            skeleton = None
        tags = [file.tags.values(), skeleton.tags.values() if skeleton is not None else ()]
        weights = {tensor.name: tensor for _, graph in model.graphs() for tensor in graph.initializers}
        types = [element_type(tensor.data_type) for tensor in weights.values()]
        return cls(
            name=file.name,
            place=file.path.resolve(),
            skeleton=skeleton.skeleton if skeleton is not None else None,
            roots=frozenset(root for known in tags for root in root_tags(known)),
            inputs=tuple(value for value in model.graph.inputs if value.name not in weights),
            outputs=model.graph.outputs,
            weights=weights,
            tensors=frozenset(name for _, node in model.nodes() for name in node.outputs if name),
            is_export=_as_exported(file) if skeleton is None else _outputs(model) == _outputs(skeleton.model),
            is_full=all((each.bits or 0) >= 32 for each in types if each.kind == "float"),
        )

    @property
    def is_known(self) -> bool:
        """Whether anything is known but its name."""
        return bool(self.inputs or self.outputs)

    @property
    def named_weights(self) -> dict[str, Initializer]:
        """The weights that a person or a model has named, not an exporter: those it numbers are others each time."""
        return {
            name: tensor
            for name, tensor in self.weights.items()
            if tensor.dims and "::" not in name and "/" not in name and not name.isdecimal()
        }


def traits_of(files: Iterable[HtpFile]) -> tuple[FileTraits, ...]:
    """The traits of files. Raises OnnxFileError for one that is not an ONNX model."""
    return tuple(map(FileTraits.of, files))


def _outputs(model: OnnxModel) -> list[tuple[str, ...]]:
    return [node.outputs for _, node in model.nodes()]


def _as_exported(file: HtpFile) -> bool:
    """Whether its tags show no tool that changed it."""
    if file.evidence == "none" or not file.tagged.complete:
        return False
    return all(tag.source not in ("fused", "inserted") for tag in file.tags.values())


def same_shapes(one: FileTraits, other: FileTraits) -> bool:
    """Whether the weights that both have, by their names, have the same shapes in most cases."""
    left, right = one.named_weights, other.named_weights
    agree = [left[name].dims == right[name].dims for name in left.keys() & right.keys()]
    return not agree or sum(agree) * 2 > len(agree)


def in_common(one: FileTraits, other: FileTraits) -> float:
    """The share of the names of tensors and weights of two files that both have."""
    left, right = (side.tensors | side.weights.keys() for side in (one, other))
    return len(left & right) / max(len(left | right), 1)


def same_values(one: FileTraits, other: FileTraits) -> bool | None:
    """Whether the small weights that both have are the same, in whatever precision; None if that tells nothing."""
    left, right = one.named_weights, other.named_weights
    common = {name for name in left.keys() & right.keys() if left[name].dims == right[name].dims}
    mine, theirs = (_small_weights(side, common) for side in (one, other))
    agree = [_are_close(mine[name], theirs[name]) for name in mine.keys() & theirs.keys()]
    return sum(agree) * 2 > len(agree) if agree else None


def _are_close(left: Sequence[float], right: Sequence[float]) -> bool:
    # What half precision rounds away: a part of each number, and what lies between 0 and the smallest it has.
    return all(abs(one - other) <= 2.0**-10 * abs(one) + 1.3e-7 for one, other in zip(left, right, strict=True))


def _small_weights(file: FileTraits, names: Collection[str]) -> dict[str, tuple[float, ...]]:
    """The first values of small weights, without weights whose values are all the same, as of a fresh LayerNorm."""
    found: dict[str, tuple[float, ...]] = {}
    if file.place is None or not names:
        return found

    def keep(tensor: TensorField) -> None:
        weight = file.weights[tensor.name] if tensor.name in names else Initializer()
        letter, size = _FLOATS.get(weight.data_type, ("", 0))
        start, stop = tensor.content or (0, 0)
        if not size or stop - start != prod(weight.dims) * size or stop - start > _MAX_BYTES:
            return
        count = min((stop - start) // size, _MAX_VALUES)
        values = struct.unpack(f"<{count}{letter}", files.data[start : start + count * size])
        if any(value != values[0] for value in values):
            found[tensor.name] = values

    try:
        with SourceFiles(file.place) as files:
            rewrite_tensors(files.data, keep)
    except HtpError:  # it is gone, or was changed since
        return {}
    return found
