"""Exports of any `torch.nn.Module`, transformers or not: the same tags and the same package as `main_export`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError, writing
from optimum_htp.export.exporter import ExportReport, HtpExporter
from optimum_htp.export.module_call import ExampleCall, copied, output_names_of, plain
from optimum_htp.export.module_config import config_document, label_count, save_config
from optimum_htp.export.optimum_run import Exported
from optimum_htp.models import SourceFiles, dtype_of, library_of_classes, source_files
from optimum_htp.package import HtpOptions, StagedDirectory
from optimum_htp.tagging import ModuleTap, place_in_model

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


# Modules whose operators ONNX does not have.
_QUANTIZED = ("torch.ao.nn.quantized", "torch.nn.quantized")


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
) -> ExportReport:
    """Exports any PyTorch module to a package: an ONNX file with tagged nodes, config.json and the sidecar.

    The package loads with `optimum_htp.AutoModelForONNX`. Optimum's own `ORTModelForCustomTasks` loads it where the
    config has a `model_type` that transformers knows, as that of a transformers model has; a config that is built here
    has none, and no other model's type is borrowed to get there.

    Args:
        model: The module. It is exported in evaluation mode, and left as it was.
        example_inputs: What it is called with: a tensor, a tuple of arguments, a dict of keyword arguments, or a tuple
            of both, `((x, y), {"mask": m})`.
        output: The directory to write the package into.
        config: What config.json is to say. None means the model's own `config`, if it has one, else what is known of
            the module: its class and, where they are not ambiguous, the number of labels and hidden sizes.
        task: The task that it is for, as Optimum names it (`"image-classification"`); it goes into the sidecar, where
            `AutoModelForONNX` finds it.
        input_names: Names for the graph's inputs, in the order of the forward's parameters; None means the names of
            those parameters.
        output_names: Names for the graph's outputs; None means the keys of the dict that the module returns, as
            transformers' models do, or the fields of a data class, else `output`, or what Optimum's class for the task
            reads (`logits`).
        dynamic_axes: Which axes of which inputs and outputs have no fixed size, as for `torch.onnx.export`.
        opset: The ONNX opset; None means the exporter's default.
        htp_options: What to write in addition to the tags; None means the defaults.
        file_name: The name of the ONNX file.
        dynamo: Use torch's dynamo exporter, which needs onnxscript.
        **export_kwargs: Whatever else `torch.onnx.export` takes, such as `dynamic_shapes`.

    Returns:
        Where the package is, how its nodes were tagged, and the seconds spent.

    Raises:
        HtpError: The arguments don't fit the module, or the output can't be written (nothing is left of it then), or
            the HTP pass failed (an older package is left as it was; where there was none, this one without tags).
        Exception: Whatever torch raises. Then nothing that this run wrote is left.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
        >>> result = export_module(net, torch.ones(1, 4), "net_onnx", task="feature-extraction")    # doctest: +SKIP
        >>> result.files["model.onnx"].unresolved                                                   # doctest: +SKIP
        0
    """
    _check(model, file_name, dynamo)
    call = ExampleCall.of(model, example_inputs)
    inputs = call.input_names(input_names)
    if dynamic_axes is not None:
        export_kwargs["dynamic_axes"] = dict(dynamic_axes)
    exporter = HtpExporter(htp_options)

    def run(staging: StagedDirectory) -> Exported:
        import torch.onnx

        tap = ModuleTap(exporter.tag_content, place=lambda module: place_in_model(module, model))
        with _evaluating(model), tap, ExitStack() as patched:
            results = call.results() if dynamo else plain(call.results())
            outputs = output_names_of(results, output_names, task)
            document = config_document(model, config, label_count(results, task))
            if dynamo:
                args, kwargs = copied(call.args), copied(call.kwargs) or None
            else:
                args, kwargs = patched.enter_context(call.tensors_only()), None
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
                **export_kwargs,
            )
        with writing(staging.output):
            save_config(document, model, staging.path)
        return Exported(tap, _source(model, task), _files_of(model))

    report, _ = exporter.write_package(Path(output), run)
    return report


def _check(model: object, file_name: str, dynamo: bool) -> None:
    import torch

    if not isinstance(model, torch.nn.Module) or isinstance(model, torch.jit.ScriptModule):
        advice = "give the module itself, an object of a subclass of torch.nn.Module"
        raise HtpError(f"can't export a {type(model).__name__}: {advice}")
    if isinstance(getattr(model, "_orig_mod", None), torch.nn.Module):
        raise HtpError("can't export what torch.compile made: give the module that it was made of, model._orig_mod")
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise HtpError(
                f"can't export {path}, which torch.jit compiled: put the module that it was made of in its place"
            )
        if type(module).__module__.startswith(_QUANTIZED):
            advice = "export the model in floating point, and quantize the ONNX file"
            raise HtpError(f"can't export {path or 'the model'}, a quantized {type(module).__name__}: {advice}")
    if Path(file_name).name != file_name or not file_name.endswith(".onnx") or file_name.startswith("."):
        raise HtpError(f"{file_name!r} is not a name for an ONNX file: give one like model.onnx, without a directory")
    if dynamo and importlib.util.find_spec("onnxscript") is None:
        raise HtpError("dynamo=True needs onnxscript: run `pip install onnxscript`, or leave dynamo at False")


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode; modes, buffers and the random state are put back afterwards."""
    import torch

    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    contents = [(b, b._version, b.detach().clone()) for b in model.buffers() if not b.is_inference()]
    with ExitStack() as restored:  # all of it, whatever goes wrong with a part
        for module in model.modules():
            restored.callback(_put_back, module, module.training, dict(module._buffers))
        for buffer, version, content in contents:
            restored.callback(_put_back_content, buffer, version, content)
        model.eval()
        restored.enter_context(torch.random.fork_rng(devices))
        yield


def _put_back(module: torch.nn.Module, training: bool, buffers: dict[str, torch.Tensor | None]) -> None:
    module.training = training
    for name, buffer in buffers.items():
        if module._buffers.get(name) is not buffer:
            module._buffers[name] = buffer


def _put_back_content(buffer: torch.Tensor, version: int, content: torch.Tensor) -> None:
    if buffer._version != version:
        buffer.detach().copy_(content)


def _source(model: torch.nn.Module, task: str | None) -> dict[str, Any]:
    """What the sidecar says of the module: its class if it has no name, the library `torch` if no other is known."""
    from transformers import PreTrainedModel

    own = isinstance(model, PreTrainedModel)
    qualified = f"{type(model).__module__}.{type(model).__qualname__}"
    facts: dict[str, Any] = {
        "model": str(getattr(model, "name_or_path", "") or qualified) if own else qualified,
        "library": "transformers" if own else library_of_classes([qualified]) or "torch",
        "task": task,
        "dtype": dtype_of(model),
    }
    return {key: value for key, value in facts.items() if value is not None}


def _files_of(model: torch.nn.Module) -> SourceFiles | None:
    """The small files of the model that a transformers model was loaded from, which are here already; None for any other."""
    from transformers import PreTrainedModel

    name = str(getattr(model, "name_or_path", "")) if isinstance(model, PreTrainedModel) else ""
    commit = getattr(getattr(model, "config", None), "_commit_hash", None)
    if not name or (commit is None and not Path(name).is_dir()):
        return None
    return source_files(name, revision=commit, local_files_only=True)
