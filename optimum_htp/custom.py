"""Exports of any `torch.nn.Module`, transformers or not: the same tags and the same package as `main_export`."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.annotations import HtpOptions
from optimum_htp.errors import HtpError
from optimum_htp.export import ExportResult, HTPExporter
from optimum_htp.sources import dtype_of
from optimum_htp.staging import StagedDirectory
from optimum_htp.tracing import ModuleTap


if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


# What the classes of Optimum call the one output that they read for a task.
_OUTPUT_OF_TASK = {
    "feature-extraction": "last_hidden_state",
    "fill-mask": "logits",
    "text-generation": "logits",
    "semantic-segmentation": "logits",
    "image-to-image": "reconstruction",
}

# What a config says of a size: by its key, the attributes that modules of torch and of others give it.
_SIZES = {
    "hidden_size": ("hidden_size", "d_model", "embed_dim"),
    "num_attention_heads": ("num_attention_heads", "num_heads", "nhead"),
    "num_hidden_layers": ("num_hidden_layers",),
}


def export_module(
    model: torch.nn.Module,
    example_inputs: Any,
    output: str | Path,
    *,
    config: PretrainedConfig | Mapping[str, Any] | None = None,
    task: str | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: Mapping[str, Any] | None = None,
    opset: int | None = None,
    htp_options: HtpOptions | None = None,
    file_name: str = "model.onnx",
    dynamo: bool = False,
    **export_kwargs: Any,
) -> ExportResult:
    """Exports any PyTorch module to a package: an ONNX file with tagged nodes, config.json and the sidecar.

    The package loads with `optimum_htp.AutoModelForONNX`. Optimum's own `ORTModelForCustomTasks` loads it where the
    config has a `model_type` that transformers knows, as that of a transformers model has; a config that is built here
    has none, and no other model's type is borrowed to get there.

    Args:
        model: The module. It is exported in evaluation mode, and left as it was.
        example_inputs: What it is called with: a tensor, a tuple of arguments, a dict of keyword arguments, or a tuple
            of both, `((x, y), {"mask": m})`.
        output: The directory to write the package into.
        config: What config.json is to say. None means the model's own `config`, where it has one, else what can be
            known of the module: its class, and, where they are beyond doubt, the number of labels and hidden sizes.
        task: The task that it is for, as Optimum names it (`"image-classification"`); it goes into the sidecar, where
            `AutoModelForONNX` finds it.
        input_names: Names for the graph's inputs, in the order of the forward's parameters; None means the names of
            those parameters.
        output_names: Names for the graph's outputs; None means the keys of the dict that the module returns, as
            transformers' models do, or the fields of a data class, else `output`, or what Optimum's class for the task reads (`logits`).
        dynamic_axes: Which axes of which inputs and outputs have no fixed size, as for `torch.onnx.export`.
        opset: The ONNX opset; None means the exporter's default.
        htp_options: What to write beside the tags; None means the defaults.
        file_name: The name of the ONNX file.
        dynamo: Use torch's dynamo exporter, which needs onnxscript. Which call of a module that ran more than once a
            node belongs to is not known then.
        **export_kwargs: Whatever else `torch.onnx.export` takes, such as `dynamic_shapes`.

    Returns:
        Where the package is, how its nodes were tagged, and the seconds spent.

    Raises:
        HtpError: The arguments don't fit the module, or the output can't be written (nothing is left of it then), or
            the HTP pass failed (the package stands without tags).
        Exception: Whatever torch raises. Then nothing that this run wrote is left.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
        >>> result = export_module(net, torch.ones(1, 4), "net_onnx", task="feature-extraction")    # doctest: +SKIP
        >>> result.files["model.onnx"].unresolved                                                   # doctest: +SKIP
        0
    """
    _check(model, file_name, dynamo)
    call = _Call.of(model, example_inputs)
    inputs = call.input_names(input_names)
    shown: dict[str, Any] = {"dynamic_axes": None if dynamic_axes is None else dict(dynamic_axes)}
    options = {name: value for name, value in shown.items() if value is not None}
    exporter = HTPExporter(htp_options)

    def run(staging: StagedDirectory) -> tuple[ModuleTap, dict[str, Any]]:
        import torch.onnx

        with _evaluating(model), ModuleTap(exporter.annotate) as tap, ExitStack() as patched:
            tap.whole_model = model
            results = call.results() if dynamo else _plain(call.results())
            outputs = _output_names(results, output_names, task)
            document = _document(model, config, _label_count(results, task))
            args, kwargs = (
                (_copied(call.args), _copied(call.kwargs) or None)
                if dynamo
                else (patched.enter_context(call.tensors_only()), None)
            )
            torch.onnx.export(
                model,
                args,
                str(staging.path / file_name),
                kwargs=kwargs,
                input_names=inputs,
                output_names=outputs,
                opset_version=opset,
                dynamo=dynamo,
                verbose=False,
                **options,
                **export_kwargs,
            )
        _save_config(document, model, staging.path)
        opsets = {export.model.opset_imports.get("", 0) for export in tap.exports}
        return tap, _source(model, task, opsets)

    return exporter.write_package(Path(output), run)


def _check(model: object, file_name: str, dynamo: bool) -> None:
    import torch

    if not isinstance(model, torch.nn.Module) or isinstance(model, torch.jit.ScriptModule):
        advice = "give the module itself, an object of a subclass of torch.nn.Module"
        raise HtpError(f"can't export a {type(model).__name__}: {advice}")
    if isinstance(getattr(model, "_orig_mod", None), torch.nn.Module):
        raise HtpError("can't export what torch.compile made: give the module that it was made of, model._orig_mod")
    if Path(file_name).name != file_name or not file_name.endswith(".onnx") or file_name.startswith("."):
        raise HtpError(f"{file_name!r} is no name for an ONNX file: give one like model.onnx, without a directory")
    if dynamo and importlib.util.find_spec("onnxscript") is None:
        raise HtpError("dynamo=True needs onnxscript: run `pip install onnxscript`, or leave dynamo at False")


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of a module with example inputs."""

    model: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, model: torch.nn.Module, example_inputs: Any) -> _Call:
        """Reads what the user gave as example inputs.

        Raises:
            HtpError: It holds no tensor, or the module's forward can't be called like that.
        """
        args, kwargs = _arguments(example_inputs)
        if not _tensors((args, kwargs)):
            advice = "give a tensor, a tuple of arguments, a dict of keyword arguments, or a tuple of both"
            raise HtpError(f"the example inputs hold no tensor ({type(example_inputs).__name__}): {advice}")
        try:
            inspect.signature(model.forward).bind(*args, **kwargs)
        except TypeError as error:
            where = f"{type(model).__name__}.forward"
            message = f"the example inputs don't fit {where}{inspect.signature(model.forward)}: {error}"
            raise HtpError(f"{' '.join(message.split())}; give those that it takes") from error
        return cls(model, args, kwargs)

    def input_names(self, given: Sequence[str] | None) -> list[str]:
        """The names of the graph's inputs, in the order in which the exporter takes the tensors.

        Raises:
            HtpError: There are more names than tensors, or one is there twice.
        """
        known: list[str] = []
        for name, value in self._named():
            count = len(_tensors(value))
            known += [name] if count == 1 else [f"{name}_{index}" for index in range(count)]
        return _names(given, known, "inputs")

    @contextmanager
    def tensors_only(self) -> Iterator[tuple[Any, ...]]:
        """Lets the module be called with nothing but what holds tensors, in the order of the forward's parameters.

        The TorchScript exporter makes an input of every number, also of those that are defaults. Optimum changes the
        forward of a model for its exports in the same way.

        Yields:
            The arguments to call it with.
        """
        model, forward, replaced = self.model, self.model.forward, self.model.__dict__.get("forward")
        places = list(self._places())

        def call(*values: Any) -> Any:
            args, kwargs = list(self.args), dict(self.kwargs)
            for (place, _), value in zip(places, values, strict=True):
                if isinstance(place, int):
                    args[place] = value
                else:
                    kwargs[place] = value
            return _plain(forward(*args, **kwargs))

        model.__dict__["forward"] = call
        try:
            args = tuple(_copied(value) for _, value in places)
            # The exporter takes a dict that stands last for keyword arguments.
            yield (*args, {}) if isinstance(args[-1], Mapping) else args
        finally:
            del model.__dict__["forward"]
            if replaced is not None:
                model.__dict__["forward"] = replaced

    def _places(self) -> Iterator[tuple[int | str, Any]]:
        """Where in the call each value with tensors stands, by its position or its keyword."""
        left = list(self.args)
        bound = self._bound()
        for name, value in bound.arguments.items():
            kind = bound.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                places: list[tuple[int | str, Any]] = list(value.items())
            else:
                start = len(self.args) - len(left)
                count = len(value) if kind is inspect.Parameter.VAR_POSITIONAL else int(name not in self.kwargs)
                places = list(enumerate(left[:count], start)) if count else [(name, value)]
                del left[:count]
            yield from ((place, each) for place, each in places if _tensors(each))

    def _named(self) -> Iterator[tuple[str, Any]]:
        bound = self._bound()
        for name, value in bound.arguments.items():
            if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                yield from value.items()
            else:
                yield name, value

    def _bound(self) -> inspect.BoundArguments:
        return inspect.signature(self.model.forward).bind(*self.args, **self.kwargs)

    def results(self) -> Any:
        """What the module returns."""
        import torch

        with torch.no_grad():
            return self.model(*_copied(self.args), **_copied(self.kwargs))


def _copied(value: Any) -> Any:
    """A copy, for a module that changes what it is given; the value itself where a tensor has a history."""
    try:
        return copy.deepcopy(value)
    except RuntimeError:
        return value


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if not isinstance(example_inputs, (tuple, list)):
        return (example_inputs,), {}
    both = len(example_inputs) == 2 and isinstance(example_inputs[0], tuple) and isinstance(example_inputs[1], Mapping)
    if both and all(isinstance(key, str) for key in example_inputs[1]):
        return tuple(example_inputs[0]), dict(example_inputs[1])
    return tuple(example_inputs), {}


def _tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in nested tuples, lists and dicts, in order."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for each in value.values() for tensor in _tensors(each)]
    if isinstance(value, (tuple, list)):
        return [tensor for each in value for tensor in _tensors(each)]
    return []


def _names(given: Sequence[str] | None, known: list[str], kind: str) -> list[str]:
    if given is None:
        return known
    names = [given] if isinstance(given, str) else list(given)
    if len(names) > len(known) or len(set(names)) < len(names) or not all(names):
        advice = f"give at most {len(known)} different ones"
        raise HtpError(f"{len(names)} names for {len(known)} {kind}, {', '.join(map(repr, names))}: {advice}")
    return names + known[len(names) :]


def _output_names(results: Any, given: Sequence[str] | None, task: str | None) -> list[str]:
    if isinstance(results, Mapping):
        known = []
        for name, value in results.items():
            count = len(_tensors(value))
            known += [str(name)] if count == 1 else [f"{name}.{index}" for index in range(count)]
        return _names(given, known, "outputs")
    count = len(_tensors(results))
    if not count:
        raise HtpError(f"the module returns no tensor but a {type(results).__name__}: nothing to export")
    known = [_only_output(task)] if count == 1 else [f"output_{index}" for index in range(count)]
    return _names(given, known, "outputs")


def _only_output(task: str | None) -> str:
    task = task or ""
    return "logits" if task.endswith("classification") else _OUTPUT_OF_TASK.get(task, "output")


def _plain(results: Any) -> Any:
    """What a module returns, as a dict where it is an object of a data class, which no exporter takes."""
    if is_dataclass(results) and not isinstance(results, (type, Mapping)):
        return {each.name: getattr(results, each.name) for each in fields(results)}
    return results


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards the modes, the content of every buffer and the random state are as they were."""
    import torch

    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    modes = [(module, module.training, dict(module._buffers)) for module in model.modules()]
    contents = [(each, each._version, each.detach().clone()) for each in model.buffers() if not each.is_inference()]
    try:
        model.eval()
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, training, buffers in modes:
            module.training = training
            module._buffers.update(buffers)
        for buffer, version, content in contents:
            if buffer._version != version:
                buffer.detach().copy_(content)


def _document(
    model: torch.nn.Module, config: PretrainedConfig | Mapping[str, Any] | None, labels: int | None
) -> PretrainedConfig | dict[str, Any]:
    """What is saved as config.json: a copy of what was given, of the model's own, or what is known of the module.

    Raises:
        HtpError: What was given is no config.
    """
    from transformers import PretrainedConfig

    own = _own_config(model) if config is None else None
    given = own if config is None else config
    if isinstance(given, PretrainedConfig):
        copied = copy.deepcopy(given)
        copied.architectures = copied.architectures or [type(model).__name__]
        return copied
    if given is None:
        return {"architectures": [type(model).__name__], **_known_sizes(model, labels)}
    if not isinstance(given, Mapping):
        raise HtpError(f"config is a {type(config).__name__}: give a dict or a PretrainedConfig of transformers")
    document = {"architectures": [type(model).__name__], **given}
    try:
        loaded: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise HtpError(f"config can't be written as JSON ({error}): give plain values") from error
    return loaded


def _own_config(model: torch.nn.Module) -> PretrainedConfig | Mapping[str, Any] | None:
    """The config that a model carries: transformers', or a mapping or data class of plain values."""
    from transformers import PretrainedConfig

    own = getattr(model, "config", None)
    if isinstance(own, PretrainedConfig):
        return own
    if is_dataclass(own) and not isinstance(own, type):
        own = asdict(own)
    try:
        json.dumps(own, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return own if isinstance(own, Mapping) else None


def _label_count(results: Any, task: str | None) -> int | None:
    """How many classes the one output of a classifier tells apart."""
    tensors = _tensors(results)
    if not (task or "").endswith("classification") or len(tensors) != 1 or tensors[0].dim() < 2:
        return None
    return tensors[0].shape[-1]


def _known_sizes(model: torch.nn.Module, labels: int | None) -> dict[str, Any]:
    """The sizes that all modules which have them agree on, and generic names for the labels."""
    sizes: dict[str, Any] = {}
    for key, attributes in _SIZES.items():
        found = {getattr(module, name, None) for module in model.modules() for name in attributes}
        found = {size for size in found if isinstance(size, int) and not isinstance(size, bool)}
        if len(found) == 1:
            sizes[key] = found.pop()
    if labels is not None:
        sizes["num_labels"] = labels
        sizes["id2label"] = {str(index): f"LABEL_{index}" for index in range(labels)}
        sizes["label2id"] = {f"LABEL_{index}": index for index in range(labels)}
    return sizes


def _save_config(document: PretrainedConfig | dict[str, Any], model: torch.nn.Module, directory: Path) -> None:
    if isinstance(document, dict):
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        (directory / "config.json").write_text(text, encoding="utf-8")
        return
    document.save_pretrained(str(directory))
    generation = getattr(model, "generation_config", None)
    if getattr(model, "can_generate", bool)() and generation is not None:
        generation.save_pretrained(str(directory))


def _source(model: torch.nn.Module, task: str | None, opsets: set[int]) -> dict[str, Any]:
    from transformers import PreTrainedModel

    own = isinstance(model, PreTrainedModel)
    name = str(getattr(model, "name_or_path", "") or "") if own else ""
    cls = type(model)
    source: dict[str, Any] = {
        "model": name or f"{cls.__module__}.{cls.__qualname__}",
        "library": "transformers" if own else _library(cls),
    }
    if task is not None:
        source["task"] = task
    dtype = dtype_of(model)
    if dtype is not None:
        source["dtype"] = dtype
    if len(opsets) == 1:
        source["opset"] = opsets.pop()
    return source


def _library(cls: type) -> str:
    """The library that a class comes from, as Optimum names it; `torch` for any that it does not know."""
    top = cls.__module__.partition(".")[0]
    return top if top in ("transformers", "diffusers", "timm", "sentence_transformers") else "torch"
