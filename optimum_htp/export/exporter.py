"""The export: Optimum's `main_export`, watched, with the tags put into what it writes."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.constants import HUGGINGFACE_HUB_CACHE

from optimum_htp.errors import HtpError, TaggingError, reason
from optimum_htp.models import local_task_inference, model_facts
from optimum_htp.onnxfile import OnnxModel, graph_digest, read_model
from optimum_htp.package import (
    SIDECAR,
    FileRecord,
    HtpOptions,
    Sidecar,
    StagedDirectory,
    TagCounts,
    add_config_metadata,
    annotations_of,
    complete_package,
    library_versions,
    preprocessors_of,
    remove_config_metadata,
    strip_tags,
    tagging_error,
    write_files,
)
from optimum_htp.tagging import ExportTrace, ModuleTap, TaggedGraph, Tagger, place_in_model, project, tag_export


if TYPE_CHECKING:
    from optimum.exporters.onnx.base import OnnxConfig


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did.

    Attributes:
        output: The package's directory.
        files: For each ONNX file, by its path in the package, how its nodes were tagged.
        optimum_seconds: Wall-clock seconds spent in Optimum.
        htp_seconds: Wall-clock seconds spent in the HTP pass.
        late: For each file whose tags could not be written while the exporter wrote it, why. They were written when the
            export was done, which takes another pass over the file; please report it.
    """

    output: Path
    files: dict[str, TagCounts]
    optimum_seconds: float
    htp_seconds: float
    late: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {**asdict(self), "output": str(self.output)}


class HtpExporter:
    """Exports models with Optimum and tags every node with its module: the class face of `main_export`.

    Args:
        options: What to write in addition to the tags; None means the defaults.

    Example:
        >>> HtpExporter(HtpOptions(namespace=False)).export("gpt2", "gpt2_onnx")    # doctest: +SKIP
    """

    def __init__(self, options: HtpOptions | None = None) -> None:
        if options is not None and not isinstance(options, HtpOptions):
            raise TypeError(f"the options are a {type(options).__name__}; give HtpOptions(...)")
        self.options = options or HtpOptions()

    def export(
        self,
        model_name_or_path: str,
        output: str | Path,
        task: str = "auto",
        opset: int | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        optimize: str | None = None,
        monolith: bool = False,
        no_post_process: bool = False,
        framework: str | None = "pt",
        atol: float | None = None,
        pad_token_id: int | None = None,
        subfolder: str = "",
        revision: str = "main",
        force_download: bool = False,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        cache_dir: str = HUGGINGFACE_HUB_CACHE,
        token: bool | str | None = None,
        do_validation: bool = True,
        model_kwargs: dict[str, Any] | None = None,
        custom_onnx_configs: dict[str, OnnxConfig] | None = None,
        fn_get_submodels: Callable[..., Any] | None = None,
        use_subprocess: bool = False,
        _variant: str = "default",
        library_name: str | None = None,
        no_dynamic_axes: bool = False,
        do_constant_folding: bool = True,
        slim: bool = False,
        **kwargs_shapes: Any,
    ) -> ExportReport:
        """Exports a model; the arguments are those of `main_export`, without the options.

        Raises:
            HtpError: The output can't be written, or the HTP pass failed for a file; then the package that Optimum
                wrote stands, untouched.
            Exception: Whatever Optimum raises. Then nothing that this run wrote is left.
        """
        given = {**locals()}
        del given["self"], given["kwargs_shapes"]
        # What was left at its default is not handed on: a newer Optimum's own default holds then.
        defaults = {name: parameter.default for name, parameter in inspect.signature(self.export).parameters.items()}
        chosen = {name: value for name, value in given.items() if value is not defaults[name]} | kwargs_shapes
        return self.write_package(Path(output), functools.partial(self._run_optimum, chosen))

    def _run_optimum(self, arguments: dict[str, Any], staging: StagedDirectory) -> tuple[ModuleTap, dict[str, Any]]:
        """Lets Optimum export into a staged directory; gives what was seen, and what the sidecar says of the source."""
        from optimum.exporters.onnx import __main__ as optimum_main

        bound = inspect.signature(optimum_main.main_export).bind(**arguments)
        bound.arguments["output"] = type(arguments["output"])(staging.path)
        if isinstance(arguments["model_name_or_path"], Path):
            bound.arguments["model_name_or_path"] = str(arguments["model_name_or_path"])
        with _watched(staging, self.tag_content) as watch:
            optimum_main.main_export(*bound.args, **bound.kwargs)
        return watch.tap, {**_described(bound.arguments), **watch.facts}

    def write_package(
        self, output: Path, export: Callable[[StagedDirectory], tuple[ModuleTap, dict[str, Any]]]
    ) -> ExportReport:
        """Exports into a staged directory, tags what is there, and puts it in its place: the whole of it or nothing.

        Args:
            output: The package's directory.
            export: What writes the package into the staged directory; it returns the closed tap that watched it, and
                what the sidecar says of the source.

        Raises:
            HtpError: As `export` does.
            Exception: Whatever `export` raises; then nothing that this run wrote is left. Or a bug in the HTP pass; then
                the package that Optimum wrote stands, without tags.
        """
        with StagedDirectory(output) as staging:
            started = time.perf_counter()
            tap, source = export(staging)
            optimum_seconds = time.perf_counter() - started - tap.seconds
            started = time.perf_counter()
            try:
                records = self._tag_package(staging.path, tap)
                _complete(staging.path, source)
                if self.options.config_metadata:
                    add_config_metadata(staging.path, records)
                source = {**source, **preprocessors_of(staging.path)}
                htp_seconds = time.perf_counter() - started + tap.seconds
                timings = {"optimum_seconds": round(optimum_seconds, 3), "htp_seconds": round(htp_seconds, 3)}
                Sidecar(records, source, timings, library_versions()).write(staging.path)
            except Exception:
                _untag(staging.path)
                staging.commit(remove=(SIDECAR,))
                raise
            staging.commit(remove=(SIDECAR,), last=SIDECAR)
        counts = {name: record.counts for name, record in records.items()}
        late = {file.relative_to(staging.path).as_posix(): reason(error) for file, error in tap.late.items()}
        return ExportReport(output, counts, optimum_seconds, htp_seconds, late)

    def tag_content(
        self, content: bytes, export: ExportTrace
    ) -> tuple[Iterable[bytes | memoryview], TaggedGraph] | None:
        """What the exporter writes into a file: its bytes with the tags in them, and those tags.

        Where Optimum leaves the file as it is, that is all there is to do; else it is tagged again when all is done.
        """
        graph = tag_export(export)
        return annotations_of(graph, self.options).within(content, path=export.file), graph

    def tag_file(self, model: OnnxModel, sources: Sequence[TaggedGraph]) -> TaggedGraph:
        """Tags an ONNX file of the package that was not tagged while it was written, or has been changed since.

        Args:
            model: The file as Optimum left it.
            sources: The exports that it may descend from: its own, where it was not made from several.
        """
        if len(sources) == 1 and graph_digest(sources[0].model) == graph_digest(model):
            return replace(sources[0], model=model)
        return project(sources, model)

    def _tag_package(self, directory: Path, tap: ModuleTap) -> dict[str, FileRecord]:
        """Tags every ONNX file of a package that is not tagged yet."""
        exports: dict[Path, TaggedGraph] = {}
        graphs: dict[str, TaggedGraph] = {}
        changed: dict[str, TaggedGraph] = {}
        for file in sorted(directory.rglob("*.onnx")):
            name = file.relative_to(directory).as_posix()
            if tap.is_unchanged(file):
                graphs[name] = tap.tagged[file]
                continue
            try:
                for export in _exports_of(file, tap):
                    if export.file not in exports:
                        exports[export.file] = tap.tagged.get(export.file) or tag_export(export)
                sources = [exports[export.file] for export in _exports_of(file, tap)]
                graphs[name] = changed[name] = self.tag_file(read_model(file), sources)
            except (HtpError, OSError) as error:
                raise tagging_error(name, error) from error
        write_files(changed, directory, options=self.options)
        return {name: FileRecord.of(graph) for name, graph in graphs.items()}


def _complete(directory: Path, source: Mapping[str, Any]) -> None:
    """Adds to a package what Optimum left behind."""
    if "model" in source:
        model = Path(source["model"], source.get("subfolder", ""))
        complete_package(directory, model, trust_remote_code=bool(source.get("trust_remote_code")))


def _untag(directory: Path) -> None:
    """Leaves what Optimum wrote, as far as that can be: what can't be stripped is left as it is."""
    (directory / SIDECAR).unlink(missing_ok=True)
    with suppress(HtpError):
        remove_config_metadata(directory)
    for file in directory.rglob("*.onnx"):
        with suppress(HtpError):
            strip_tags(file)


def _exports_of(file: Path, tap: ModuleTap) -> list[ExportTrace]:
    """The exports that a file of the package may descend from: its own; all, where it was made from several."""
    if file in tap.failures:
        raise tap.failures[file]
    own = [export for export in tap.exports if export.file == file]
    if not tap.exports:
        raise TaggingError("no export of a torch.nn.Module was seen that it could have come from")
    return own[-1:] or tap.exports


@dataclass(slots=True)
class _Watch:
    """What is seen of an export while Optimum runs it.

    Attributes:
        tap: What records the calls of `torch.onnx.export`.
        model: The model that is exported, while that goes on.
        facts: What the sidecar says of the source.
    """

    tap: ModuleTap
    model: object = None
    facts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def _watched(staging: StagedDirectory, tagger: Tagger) -> Iterator[_Watch]:
    """Runs Optimum's export with the tap, which also sees the task that Optimum resolves; logs name the real output."""
    from optimum.exporters.onnx import __main__ as optimum_main

    watch = _Watch(ModuleTap(tagger, place=lambda module: place_in_model(module, watch.model)))
    with ExitStack() as stack:
        stack.enter_context(watch.tap)  # first: its lock is what makes exports take turns
        stack.enter_context(local_task_inference())
        original = getattr(optimum_main, "onnx_export_from_model", None)
        if original is not None:

            @functools.wraps(original)
            def observed(*args: Any, **kwargs: Any) -> Any:
                bound = inspect.signature(original).bind(*args, **kwargs).arguments
                watch.model = bound.get("model")
                told = {"task": bound.get("task"), "opset": bound.get("opset"), **model_facts(watch.model)}
                watch.facts.update(_known(told))
                try:
                    return original(*args, **kwargs)
                finally:
                    watch.model = None

            stack.callback(setattr, optimum_main, "onnx_export_from_model", original)
            optimum_main.onnx_export_from_model = observed
        stack.enter_context(_paths_in_logs(str(staging.path), str(staging.output)))
        yield watch
        opsets = {export.model.opset_imports.get("", 0) for export in watch.tap.exports}
        if len(opsets) == 1:
            watch.facts["opset"] = opsets.pop()


@contextmanager
def _paths_in_logs(staged: str, output: str) -> Iterator[None]:
    """Optimum's log lines name the directory that the user gave, not the one that is staged."""
    handlers = [handler for name in (None, "optimum", "transformers") for handler in logging.getLogger(name).handlers]

    def rename(record: logging.LogRecord) -> bool:
        if isinstance(record.msg, str) and staged in record.msg:
            record.msg = record.msg.replace(staged, output)
        return True

    for handler in handlers:
        handler.addFilter(rename)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(rename)


def _described(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the arguments of `main_export` say of the export, for the sidecar."""
    names = {"model": "model_name_or_path", "library": "library_name"}
    keys = (
        "model",
        "subfolder",
        "revision",
        "task",
        "library",
        "opset",
        "dtype",
        "optimize",
        "slim",
        "trust_remote_code",
    )
    return _known({key: arguments.get(names.get(key, key)) for key in keys})


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if isinstance(value, (str, int, bool)) and value != ""}


def main_export(
    model_name_or_path: str,
    output: str | Path,
    task: str = "auto",
    opset: int | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    optimize: str | None = None,
    monolith: bool = False,
    no_post_process: bool = False,
    framework: str | None = "pt",
    atol: float | None = None,
    pad_token_id: int | None = None,
    subfolder: str = "",
    revision: str = "main",
    force_download: bool = False,
    local_files_only: bool = False,
    trust_remote_code: bool = False,
    cache_dir: str = HUGGINGFACE_HUB_CACHE,
    token: bool | str | None = None,
    do_validation: bool = True,
    model_kwargs: dict[str, Any] | None = None,
    custom_onnx_configs: dict[str, OnnxConfig] | None = None,
    fn_get_submodels: Callable[..., Any] | None = None,
    use_subprocess: bool = False,
    _variant: str = "default",
    library_name: str | None = None,
    no_dynamic_axes: bool = False,
    do_constant_folding: bool = True,
    slim: bool = False,
    *,
    htp_options: HtpOptions | None = None,
    **kwargs_shapes: Any,
) -> ExportReport:
    """Exports a model to ONNX as `optimum.exporters.onnx.main_export` does, and tags every node with its module.

    The arguments are those of Optimum's `main_export`, where they are documented; arguments that only a newer Optimum
    knows are handed on. `task="auto"` works for local directories too.

    Args:
        model_name_or_path: A model's id on the Hub, or the path of a local model directory.
        output: The directory to write the package into.
        task: The task to export for; `"auto"` infers it, and exports generating models with past key values.
        opset: The ONNX opset; None means the default of the architecture.
        device: Where to export, `"cpu"` or `"cuda"`.
        dtype: `"fp32"`, `"fp16"` or `"bf16"`.
        optimize: ONNX Runtime optimizations to run, `"O1"` to `"O4"`.
        monolith: Export into a single ONNX file.
        no_post_process: Leave out Optimum's post-processing, such as merging decoders.
        framework: `"pt"`.
        atol: The absolute tolerance of Optimum's validation.
        pad_token_id: Needed by some models for some tasks.
        subfolder: Where in the repository the model is.
        revision: The revision of the repository.
        force_download: Download again what is cached.
        local_files_only: Do not download.
        trust_remote_code: Run code that comes with the model.
        cache_dir: Where downloads are cached.
        token: The token for the Hub.
        do_validation: Let Optimum validate what it exported.
        model_kwargs: Keyword arguments for the model during the export.
        custom_onnx_configs: ONNX configs instead of the default ones, by submodel.
        fn_get_submodels: What gives the submodels to export.
        use_subprocess: Let Optimum validate in a subprocess.
        _variant: The variant of the export.
        library_name: `"transformers"`, `"diffusers"`, `"timm"` or `"sentence_transformers"`.
        no_dynamic_axes: Export with static shapes.
        do_constant_folding: Let the exporter fold constants.
        slim: Run onnxslim.
        htp_options: What to write in addition to the tags; None means the defaults.
        **kwargs_shapes: Shapes of the dummy inputs, by name, and whatever else the installed Optimum takes.

    Returns:
        Where the package is, how its nodes were tagged, and the seconds spent.

    Raises:
        HtpError: The output can't be written, or the HTP pass failed for a file (the message says which and why); in
            that case the package that Optimum wrote stands, untouched.
        Exception: Whatever Optimum raises. Then nothing that this run wrote is left.

    Example:
        >>> from optimum_htp import main_export
        >>> main_export("gpt2", output="gpt2_onnx")    # doctest: +SKIP
    """
    given = {**locals()}
    exporter, shapes = HtpExporter(given.pop("htp_options")), given.pop("kwargs_shapes")
    return exporter.export(**given, **shapes)
