"""Inputs for an ONNX file, the same each time, from its graph and config or an .npz file; torch is not needed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

from optimum_htp.errors import HtpError, reason
from optimum_htp.onnxfile import NUMBERS, OnnxModel, Value, element_type
from optimum_htp.package import CONFIG, HtpPackage, ValuePairs, cache_leaf, makers_of, paired_values, users_of
from optimum_htp.tagging import TaggedGraph

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SAMPLES = 2
"""How many samples a model is compared on where none are given."""

_TERMS = re.compile(r" ([+*x]) ")  # of a size that is computed, and the signs between them
_POSITIONS = re.compile(r"(position_embeddings|embed_positions|wpe)\.weight$")
_FREE_UNPACKED_BYTES, _UNPACKED_RATIO = 64_000_000, 20  # of arrays in a packed file
_DEFAULT_SEQUENCE = 128
_DEFAULT_IMAGE = 224
_ONE_SECOND = 16_000  # samples of sound
# Sizes of the rarer dimensions of Optimum's exports.
_OTHER_SIZES = {
    "num_choices": 4, "nb_points_per_image": 2, "point_batch_size": 1, "num_queries": 10, "visual_seq_length": 16,
    "nb_max_frames": 3000, "audio_sequence_length": _ONE_SECOND, "step": 1, "sample_height": 64, "sample_width": 64,
    "n_spectrums": 20, "latent_height": 64, "latent_width": 64,
}  # fmt: skip

# What the axes are called that the sizes with names of their own are for.
_AXES = {"batch_size": ("batch",), "sequence_length": ("sequence", "past"), "height": ("height",), "width": ("width",)}
# How torch's dynamo exporter calls axes that nobody gave a name.
_OF_TORCH = re.compile(r"s\d+|u\d+")
_SETTINGS = {"hidden_size": ("hidden_size", "d_model", "n_embd", "dim")}
_INPUT_AXES: dict[str, tuple[str, ...]] = {
    "pixel_values": ("batch_size", "num_channels", "height", "width"),
    "input_features": ("batch_size", "feature_size", "nb_max_frames"),
    "input_values": ("batch_size", "sequence_length"),
}

# Sizes that Optimum has another name for than the graph, and the input that each is of.
_OPTIMUM_SIZES = {
    "audio_sequence_length": "input_values", "nb_max_frames": "input_features", "feature_size": "input_features",
    "num_channels": "pixel_values", "nb_points_per_image": "input_points", "point_batch_size": "input_points",
    "visual_seq_length": "visual_embeds",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class InputSizes:
    """The sizes of what a model is run on; None means a usual one that the model takes."""

    batch_size: int | None = None
    sequence_length: int | None = None  # tokens: of the text, or in decode steps of what came before
    height: int | None = None  # pixels
    width: int | None = None
    dims: Mapping[str, int] = field(default_factory=dict)  # of any others, by the graph's names for them

    def by_name(self) -> dict[str, int]:
        """Those that were given, by Optimum's names for them.

        >>> InputSizes(sequence_length=5, dims={"num_choices": 2}).by_name()
        {'sequence_length': 5, 'num_choices': 2}
        """
        names = ("batch_size", "sequence_length", "height", "width")
        return {**{name: getattr(self, name) for name in names if getattr(self, name) is not None}, **self.dims}


def phases(model: OnnxModel) -> tuple[str, ...]:
    """What an ONNX file is run for: `prefill` and then `decode` steps if its model generates, else `forward`.

    A decoder that takes past key values does both, unless it takes those of the encoder in place of the encoder's output.
    """
    names = [value.name for value in graph_inputs(model)]
    past = [name for name in names if cache_leaf(name) is not None]
    if not past:
        generates = any(cache_leaf(value.name) is not None for value in model.graph.outputs)
        return ("prefill",) if generates else ("forward",)
    # transformers exports a decoder's step by itself, and Optimum where there is an encoder.
    step = any(name.startswith("input.") or ".encoder." in name for name in past)
    return ("decode",) if step and "use_cache_branch" not in names else ("prefill", "decode")


def phase_of(given: Mapping[str, Array], possible: Sequence[str]) -> str:
    """The one of the possible phases that inputs are for: the last if there is a past in them, else the first."""
    if "use_cache_branch" in given:
        decodes = bool(given["use_cache_branch"].all())
    else:
        decodes = any(array.size for name, array in given.items() if cache_leaf(name) is not None)
    return possible[-1] if decodes else possible[0]


def graph_inputs(model: OnnxModel) -> list[Value]:
    """The inputs without initializers, which old files list among them."""
    initializers = {tensor.name for tensor in model.graph.initializers}
    return [value for value in model.graph.inputs if value.name not in initializers]


def paired_inputs(ours: TaggedGraph, theirs: TaggedGraph, *, renamed: Mapping[str, str] | None = None) -> ValuePairs:
    """Which input of one graph is which of another; `renamed` and what it raises are `paired_values`'."""
    sides = graph_inputs(ours.model), graph_inputs(theirs.model)
    return paired_values(*sides, renamed=renamed, uses=(users_of(ours), users_of(theirs)))


def paired_outputs(ours: TaggedGraph, theirs: TaggedGraph, *, renamed: Mapping[str, str] | None = None) -> ValuePairs:
    """Which output of one graph is which of another; `renamed` and what it raises are `paired_values`'."""
    sides = ours.model.graph.outputs, theirs.model.graph.outputs
    return paired_values(*sides, renamed=renamed, uses=(makers_of(ours), makers_of(theirs)))


def array_values(arrays: Mapping[str, Array]) -> list[Value]:
    """The types and shapes of arrays, as a graph declares them; unknown for types that ONNX does not have."""
    return [Value(name, NUMBERS.get(str(array.dtype), 0), tuple(array.shape)) for name, array in arrays.items()]


def component_config(package: HtpPackage, name: str) -> dict[str, Any] | None:
    """The config next to an ONNX file in a subdirectory, as for a pipeline's component; None elsewhere."""
    directory = name.rpartition("/")[0]
    return package.read_json(f"{directory}/{CONFIG}") if directory else None


def make_inputs(
    model: OnnxModel,
    config: Mapping[str, Any] | None,
    *,
    sizes: InputSizes | None = None,
    phase: str = "forward",
    varied: bool = False,
    seed: int = 0,
) -> dict[str, Array]:
    """Inputs of the given sizes for one of `phases(model)`. Raises HtpError, which names all sizes and types that are unknown.

    With `varied` some tokens are masked and some are of another type, so that errors in their use show.
    """
    import numpy as np

    maker = _Maker(model, config or {}, sizes or InputSizes(), phase, np.random.default_rng(seed), varied)
    made = {value.name: maker.make(value) for value in graph_inputs(model)}
    maker.check()
    return made


def check_axes(models: Iterable[OnnxModel], sizes: InputSizes, *, where: str, of_optimum: bool = False) -> None:
    """Raises HtpError, which says `where`, if sizes are given that no input of some models has an axis for.

    `of_optimum` is whether Optimum makes the inputs, which has names for sizes of its own.
    """
    models = list(models)
    known = {name: None for model in models for name in axis_names(model)}
    inputs = {value.name for model in models for value in model.graph.inputs}
    others = {name for name, value in _OPTIMUM_SIZES.items() if of_optimum and value in inputs}
    unknown = [name for name in sizes.dims if name not in known and name not in others and name not in _AXES]
    given = [name for name in _AXES if name in sizes.by_name()]
    unknown += [name for name in given if not any(word in axis for word in _AXES[name] for axis in known)]
    if unknown:
        listed = f"their axes are {', '.join(known)}" if known else "all sizes are fixed"
        raise HtpError(f"{where}: no axis of the inputs is called {', '.join(dict.fromkeys(unknown))}; {listed}")


def check_source_of_sizes(sizes: InputSizes, inputs: object) -> None:
    """Raises HtpError if sizes are given, and inputs, which have sizes of their own."""
    if inputs and sizes.by_name():
        raise HtpError(
            f"the sizes are those of {inputs}: leave out {', '.join(sizes.by_name())}, or --inputs (inputs=)"
        )


def axis_names(model: OnnxModel) -> dict[str, None]:
    """What the axes of a model's inputs are called whose size is not fixed; of computed sizes, what they are made of too.

    Those that torch has numbered also go by Optimum's names.
    """
    inputs = graph_inputs(model)
    axes = [
        (value, axis, size)
        for value in inputs
        for axis, size in enumerate(value.shape or ())
        if isinstance(size, str) and not size.isdecimal()
    ]
    found: dict[str, None] = {}
    for value, axis, size in axes:
        for name in (size, *_TERMS.split(size)[::2]):
            if not name.isdecimal():
                found[name] = None
            if _OF_TORCH.fullmatch(name):
                found |= dict.fromkeys(_TERMS.split(_optimum_name(model, name, value, axis))[::2])
    return found


def load_inputs(path: str | Path, model: OnnxModel) -> dict[str, Array]:
    """Reads inputs from an .npz file and checks them. Raises HtpError if it can't be read or they do not fit."""
    given = read_arrays(path)
    check_inputs(given, model, where=str(path))
    return given


def read_arrays(path: str | Path) -> dict[str, Array]:
    """Reads the arrays of an .npz file. Raises HtpError if it can't be read."""
    import numpy as np

    try:
        _check_unpacked(Path(path))
        with np.load(path, allow_pickle=False) as archive:  # what is not an array has no type, which is an error here
            return {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in archive.items()}
    except FileNotFoundError as error:
        raise HtpError(f"{path}: no such file; write one with numpy.savez") from error
    except HtpError:
        raise
    except Exception as error:  # of zipfile, zlib, tokenize and numpy, where the file is damaged or something else
        why = reason(error)
        if "allow_pickle" in why:  # numpy's advice, which is dangerous
            why = "pickled objects, or no arrays at all, are not loaded"
        raise HtpError(f"{path}: not a file of named numpy arrays ({why}); write one with numpy.savez") from error


def _check_unpacked(path: Path) -> None:
    """Raises HtpError for a file that is far larger unpacked: zeros are packed to a thousandth of what they are."""
    with ZipFile(path) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
    packed = path.stat().st_size
    limit = _FREE_UNPACKED_BYTES + _UNPACKED_RATIO * packed
    if total > limit:
        message = f"{total:,} bytes unpacked, and {limit:,} may be in a file of {packed:,}"
        raise HtpError(f"{path}: {message}; write it with numpy.savez, which does not pack")


def check_inputs(given: Mapping[str, Array], model: OnnxModel, *, where: str) -> None:
    """Raises HtpError, which says `where`, if inputs are missing, unknown, or of the wrong type or shape: of all of them."""
    wanted = {value.name: value for value in graph_inputs(model)}
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    problems = [f"it lacks {', '.join(missing)}"] * bool(missing)
    problems += [f"it has {', '.join(unknown)} in addition"] * bool(unknown)
    if problems:
        problems[-1] += f", and the inputs of {model.path.name} are {', '.join(wanted)}"
    sizes: dict[str, int] = {}
    for name, value in wanted.items():
        if name not in given:
            continue
        array = given[name]
        expected = dtype_of_input(value)
        if expected is not None and array.dtype != expected:
            problems.append(f"the input {name!r} is {array.dtype}, and {model.path.name} takes {expected}")
        if value.shape is None:
            continue
        fits = len(value.shape) == array.ndim and all(
            sizes.setdefault(size, actual) == actual if isinstance(size, str) else size in (None, actual)
            for size, actual in zip(value.shape, array.shape, strict=True)
        )
        if not fits:
            takes = ", ".join("?" if size is None else str(size) for size in value.shape)
            problems.append(f"the input {name!r} is {list(array.shape)}, and {model.path.name} takes [{takes}]")
    if problems:
        raise HtpError(f"{where}: {'; '.join(problems)}")


def dtype_of_input(value: Value) -> str | None:
    """The numpy type of an input; None for what numpy does not have, such as bfloat16 and int4."""
    element = element_type(value.elem_type)
    known = element.kind == "bool" or element.is_float or (element.kind == "integer" and (element.bits or 0) >= 8)
    return element.name if known and element.name != "bfloat16" else None


def as_declared(arrays: Mapping[str, Array], model: OnnxModel) -> dict[str, Array]:
    """The inputs that a graph takes, in the types that it declares; as they are where numpy has no such type."""
    types = {value.name: dtype_of_input(value) for value in graph_inputs(model)}
    return {name: array.astype(types.get(name) or array.dtype, copy=False) for name, array in arrays.items()}


def _axes_of(name: str, rank: int, others: Collection[str]) -> tuple[str, ...]:
    """What Optimum calls the axes of an input beside others; empty where that is not known.

    >>> _axes_of("input.cache.layers.0.keys", 4, []), _axes_of("decoder_input_ids", 2, [])
    (('batch_size', 'num_heads', 'past_sequence_length', 'head_dim'), ('batch_size', 'decoder_sequence_length'))
    """
    last = name.rpartition(".")[2]
    if cache_leaf(name) is not None:
        # What a decoder keeps of its encoder is as long as the input of that.
        length = "encoder_sequence_length" if "cross_attention" in name else "past_sequence_length"
        return ("batch_size", "num_heads", length, "head_dim")[:rank] if rank == 4 else ("batch_size",)
    if name in _INPUT_AXES:
        return _INPUT_AXES[name]
    if name == "attention_mask" and rank == 2:
        if any("decoder_input" in other for other in others):
            return "batch_size", "encoder_sequence_length"
        step = any(cache_leaf(other) is not None for other in others)
        return "batch_size", "past_sequence_length + sequence_length" if step else "sequence_length"
    side = "decoder_" if last.startswith("decoder") else "encoder_" if name.startswith("encoder") else ""
    return ("batch_size", f"{side}sequence_length", "hidden_size")[:rank] if rank < 4 else ("batch_size",)


def _optimum_name(model: OnnxModel, symbol: str, value: Value, axis: int) -> str:
    """What Optimum calls an axis that torch has numbered, by its place in the input that it is first in."""
    inputs = graph_inputs(model)
    listed = [each.name for each in inputs]
    for other in (value, *inputs):
        shape = other.shape or ()
        names = _axes_of(other.name, len(shape), listed)
        places = [place for place, size in enumerate(shape) if size == symbol and place < len(names)]
        if places:
            return names[axis if other is value and axis in places else places[0]]
    return symbol


@dataclass(frozen=True, slots=True)
class _Maker:
    model: OnnxModel
    config: Mapping[str, Any]
    sizes: InputSizes
    phase: str
    random: np.random.Generator
    varied: bool
    unnamed: list[str] = field(default_factory=list)  # what is unknown, in words
    symbols: dict[str, dict[str, None]] = field(default_factory=dict)  # axes of unknown size, and whose they are

    def check(self) -> None:
        """Raises HtpError if anything that was to be made is unknown."""
        missing = [
            f"the size of {symbol!r}, an axis of {', '.join(map(repr, names))}"
            for symbol, names in self.symbols.items()
        ]
        missing += self.unnamed
        if not missing:
            return
        dims = " ".join(f"--dim {symbol}=N" for symbol in self.symbols)
        advice = "--inputs FILE.npz" if self.unnamed else f"{dims}, or --inputs FILE.npz"
        verb = "is" if len(missing) == 1 else "are"
        raise HtpError(f"{self.model.path}: {'; '.join(missing)} {verb} unknown; give {advice}")

    def make(self, value: Value) -> Array:
        """The array of an input; of any size where something is unknown, which `check` tells."""
        import numpy as np

        dtype = dtype_of_input(value)
        if dtype is None or value.shape is None:
            self.unnamed.append(f"the {'type' if dtype is None else 'shape'} of {value.name!r}")
        dtype = dtype or "float32"
        shape = [self._size(size, value, axis) for axis, size in enumerate(value.shape or ())]
        if value.name == "use_cache_branch":
            return np.full(shape, self.phase == "decode")
        if "mask" in value.name or dtype == "bool":
            ones = np.ones(shape, dtype)
            if self.varied and value.name.endswith("attention_mask") and len(shape) == 2:
                ones[:, shape[1] - shape[1] // 4 :] = 0
            return ones
        if dtype.startswith("float"):
            return self.random.standard_normal(shape).astype(dtype)
        return self._integers(value.name, shape).astype(dtype)

    def _integers(self, name: str, shape: list[int]) -> Array:
        import numpy as np

        if "position" in name and len(shape) == 2:
            start = self._past() if self.phase == "decode" else 0
            return np.tile(np.arange(start, start + shape[1]), (shape[0], 1))
        if name == "bbox" or (name == "token_type_ids" and not self.varied):
            return np.zeros(shape, np.int64)
        return self.random.integers(0, self._bound(name), shape)

    def _bound(self, name: str) -> int:
        """How many rows the tables have that an input's values are looked up in."""
        setting, least = ("type_vocab_size", 1) if name == "token_type_ids" else ("vocab_size", 2)
        return min(_table_rows(self.model, name), default=0) or self._setting(setting) or least

    def _size(self, size: int | str | None, value: Value, axis: int) -> int:
        if isinstance(size, int):
            return size
        if size is None:
            self.unnamed.append(f"the size of axis {axis} of {value.name!r}")
            return 1
        if size in self.sizes.dims:
            return self.sizes.dims[size]
        terms = _TERMS.split(size)
        total = self._symbol(terms[0], value, axis)
        for operator, term in zip(terms[1::2], terms[2::2], strict=True):
            factor = self._symbol(term, value, axis)
            total = total + factor if operator == "+" else total * factor
        return total

    def _symbol(self, symbol: str, value: Value, axis: int) -> int:
        if symbol in self.sizes.dims:
            return self.sizes.dims[symbol]
        if symbol.isdecimal():
            return int(symbol)
        if _OF_TORCH.fullmatch(symbol):
            symbol = _optimum_name(self.model, symbol, value, axis)
            if symbol.count(" + "):
                return sum(self._symbol(term, value, axis) for term in symbol.split(" + "))
        if "batch" in symbol:
            return self.sizes.batch_size or 1
        if symbol.startswith("past"):
            return self._past()
        if value.name == "input_values" and "sequence" in symbol:
            return self.sizes.sequence_length or _ONE_SECOND
        if value.name == "input_features":
            return self._sound(symbol, axis)
        if "sequence" in symbol:
            return self._tokens(symbol)
        settings = map(self._setting, _SETTINGS.get(symbol, (symbol,)))
        known = self._picture(symbol) or next(filter(None, settings), None) or _OTHER_SIZES.get(symbol)
        if known is None:
            self.symbols.setdefault(symbol, {})[value.name] = None
        return known or 1

    def _past(self) -> int:
        return self._length() if self.phase == "decode" else 0

    def _tokens(self, symbol: str) -> int:
        """Tokens that are new in this phase; the decoder of an encoder starts with one, as generation does."""
        if symbol == "encoder_sequence_length":
            return self._length()
        encoded = any(value.name.startswith("encoder_") for value in self.model.graph.inputs)
        return 1 if self.phase == "decode" or (encoded and symbol.startswith("decoder")) else self._length()

    def _length(self) -> int:
        if self.sizes.sequence_length is not None:
            return self.sizes.sequence_length
        names = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")
        # Two positions are not for tokens where that of the padding is among them, and a decode step takes one more.
        limits = [limit for name in names if (limit := self._setting(name)) is not None]
        limits = limits or _position_rows(self.model)
        return max(1, min([_DEFAULT_SEQUENCE, *(limit - 3 for limit in limits)]))

    def _picture(self, symbol: str) -> int | None:
        if "channels" in symbol:
            return self._setting("num_channels") or 3
        if "height" not in symbol and "width" not in symbol:
            return None
        index = int("width" in symbol)
        given = self.sizes.width if index else self.sizes.height
        size = given or self._configured("image_size") or self._configured("sample_size")
        if isinstance(size, list) and len(size) == 2:
            size = size[index]
        return size if isinstance(size, int) and size > 0 else _DEFAULT_IMAGE

    def _sound(self, symbol: str, axis: int) -> int:
        if axis == 1 and "sequence" not in symbol:
            return self._setting("num_mel_bins") or 80
        positions = self._setting("max_source_positions")
        return 2 * positions if positions else _OTHER_SIZES["nb_max_frames"]

    def _setting(self, name: str) -> int | None:
        value = self._configured(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    def _configured(self, name: str) -> Any:
        """A value of the config, or of the first part of it that has one: a model of two has a config for each."""
        parts = (self.config, *(part for part in self.config.values() if isinstance(part, dict)))
        return next((part[name] for part in parts if part.get(name)), None)


def _position_rows(model: OnnxModel) -> list[int]:
    """How many rows the tables of positions have, which are known by their names: for files without a config."""
    tensors = (tensor for _, graph in model.graphs() for tensor in graph.initializers)
    return [tensor.dims[0] for tensor in tensors if len(tensor.dims) == 2 and _POSITIONS.search(tensor.name)]


def _table_rows(model: OnnxModel, name: str) -> Iterator[int]:
    """How many rows the tables have that the graph gathers rows of with the values of an input."""
    tables = {tensor.name: tensor.dims for _, graph in model.graphs() for tensor in graph.initializers}
    same = {name}
    for _, node in model.nodes():
        if node.op_type in ("Identity", "Cast", "Reshape") and node.inputs and node.inputs[0] in same:
            same.update(node.outputs)
        elif node.op_type == "Gather" and node.inputs[1] in same:
            table = tables.get(node.inputs[0], ())
            if len(table) == 2:
                yield table[0]
