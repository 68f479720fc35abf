"""The export: Optimum's `main_export`, watched, with the tags put into what it writes."""

from __future__ import annotations

import copy
import inspect
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from huggingface_hub.constants import HUGGINGFACE_HUB_CACHE

from optimum_htp.errors import HtpError, TaggingError, needing_optimum, reason
from optimum_htp.export.optimum_run import Exported, run_optimum
from optimum_htp.onnxfile import OnnxModel, graph_digest, read_model
from optimum_htp.package import (
    SIDECAR,
    UNCHANGED,
    Annotations,
    FileRecord,
    HtpOptions,
    Sidecar,
    StagedDirectory,
    TagCounts,
    add_config_metadata,
    add_sentence_graph,
    add_sentence_modules,
    complete_package,
    library_versions,
    remove_config_metadata,
    reset_modes,
    strip_tags,
    tagging_error,
    write_files,
)
from optimum_htp.reports import Report
from optimum_htp.tagging import ExportTrace, ModuleTap, TaggedGraph, project, tag_export

if TYPE_CHECKING:
    from optimum.exporters.onnx.base import OnnxConfig


logger = logging.getLogger(__name__)

_P = ParamSpec("_P")


@dataclass(frozen=True, slots=True, repr=False)
class ExportReport(Report):
    """What an export did.

    Attributes:
        output: The package's directory.
        files: For each ONNX file, by its path in the package, how its nodes were tagged.
        optimum_seconds: Wall-clock seconds spent in Optimum.
        htp_seconds: Wall-clock seconds spent in the HTP pass.
        late: For each file whose tags could not be written while the exporter wrote it, why. They were written when the
            export was done, which takes another pass over the file; please report it.
        doubt: What Optimum's validation says against the export, which is there nonetheless; empty if that is nothing, or
            it was not asked.
    """

    output: Path
    files: dict[str, TagCounts]
    optimum_seconds: float
    htp_seconds: float
    late: dict[str, str] = field(default_factory=dict)
    doubt: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {**asdict(self), "output": str(self.output)}


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
        HtpError: The output can't be written, or the HTP pass failed for a file (the message says which and why). Then an
            older package there is as it was; where there was none, Optimum's is left without tags.
        Exception: Whatever Optimum raises. If its validation does, the package is there, with tags, as Optimum leaves it;
            else nothing that this run wrote is left.

    Example:
        >>> from optimum_htp import main_export
        >>> main_export("gpt2", output="gpt2_onnx")    # doctest: +SKIP
    """
    given = {**locals()}
    return HtpExporter(given.pop("htp_options")).export(**given.pop("kwargs_shapes"), **given)


def _with_signature_of(
    function: Callable[_P, ExportReport],
) -> Callable[[Callable[..., ExportReport]], Callable[Concatenate[HtpExporter, _P], ExportReport]]:
    """Gives a method the parameters of a function, for type checkers and for `inspect.signature`."""

    def decorate(method: Callable[..., ExportReport]) -> Callable[Concatenate[HtpExporter, _P], ExportReport]:
        own, *_ = inspect.signature(method).parameters.values()
        signature = inspect.signature(function)
        parameters = [own, *signature.parameters.values()]
        method.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # functions have it
        return method

    return decorate


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

    @_with_signature_of(main_export)
    def export(self, *args: Any, htp_options: HtpOptions | None = None, **kwargs: Any) -> ExportReport:
        """Exports a model; the arguments and errors are those of `main_export`.

        `htp_options` are for this export; None means those of the exporter.
        """
        exporter = self
        if htp_options is not None:
            exporter = copy.copy(self)
            exporter.options = HtpExporter(htp_options).options
        report, failure = exporter.attempt(*args, **kwargs)
        if failure is not None:
            raise failure
        return report

    def attempt(self, *args: Any, **kwargs: Any) -> tuple[ExportReport, Exception | None]:
        """As `export`, but if nothing except Optimum's validation failed, gives what that raised with the report."""
        with needing_optimum("an export"):
            import optimum.exporters.onnx  # noqa: F401
        signature = inspect.signature(main_export)
        given = signature.bind(*args, **kwargs).arguments
        shapes = given.pop("kwargs_shapes", {})
        # What was left at its default is not handed on: a newer Optimum's own default holds then.
        chosen = {name: value for name, value in given.items() if value is not signature.parameters[name].default}
        report, exported = self.write_package(
            Path(given["output"]), lambda staging: run_optimum(chosen | shapes, staging, self.tag_content)
        )
        return report, exported.failure

    def write_package(
        self, output: Path, export: Callable[[StagedDirectory], Exported]
    ) -> tuple[ExportReport, Exported]:
        """Exports into a staged directory, tags what is there, and puts it in its place: the whole of it or nothing.

        What `export` raises leaves what was there. What the HTP pass raises does so too where an older package is there,
        else it leaves Optimum's package, without tags.
        """
        with StagedDirectory(output) as staging:
            started = time.perf_counter()
            exported = export(staging)
            tap = exported.tap
            optimum_seconds = time.perf_counter() - started - tap.seconds
            started = time.perf_counter()
            try:
                records = self._tag_package(staging.path, tap)
                source = _completed(staging.path, exported)
                if self.options.config_metadata and not add_config_metadata(staging.path, records):
                    logger.warning("The package has no config.json, so there is no htp_metadata in it.")
                htp_seconds = time.perf_counter() - started + tap.seconds
                timings = {"optimum_seconds": round(optimum_seconds, 3), "htp_seconds": round(htp_seconds, 3)}
                Sidecar(records, source, timings, library_versions()).write(staging.path)
            except Exception as error:
                if _would_replace(staging):
                    _say_what_is_left(error, f"{output} is as it was")
                else:
                    _untag(staging.path)
                    staging.commit()
                    _say_what_is_left(error, f"{output} has the package without tags, as Optimum wrote it")
                raise
            staging.commit(remove=(SIDECAR,), last=SIDECAR)
        counts = {name: record.counts for name, record in records.items()}
        late = {file.relative_to(staging.path).as_posix(): reason(error) for file, error in tap.late.items()}
        doubt = reason(exported.doubt) if exported.doubt is not None else ""
        return ExportReport(output, counts, optimum_seconds, htp_seconds, late, doubt), exported

    def tag_content(
        self, content: bytes, export: ExportTrace
    ) -> tuple[Iterable[bytes | memoryview], TaggedGraph] | None:
        """What the exporter writes into a file: its bytes with the tags in them, and those tags.

        If Optimum leaves the file as it is, that is all there is to do; else it is tagged again after the export.
        """
        graph = tag_export(export)
        return Annotations.of(graph, self.options).within(content, path=export.file), graph

    def tag_file(self, model: OnnxModel, sources: Sequence[TaggedGraph]) -> TaggedGraph:
        """Tags an ONNX file that was not tagged while it was written, or has been changed since, by the exports it may be of."""
        if len(sources) == 1 and graph_digest(sources[0].model) == graph_digest(model):
            return replace(sources[0], model=model)
        return project(sources, model)

    def _tag_package(self, directory: Path, tap: ModuleTap) -> dict[str, FileRecord]:
        """Tags every ONNX file of a package that is not tagged yet."""
        exports = dict(tap.tagged)
        graphs: dict[str, TaggedGraph] = {}
        changed: dict[str, TaggedGraph] = {}
        for file in sorted(directory.rglob("*.onnx")):
            name = file.relative_to(directory).as_posix()
            if tap.is_unchanged(file):
                graphs[name] = tap.tagged[file]
                continue
            try:
                traces = _exports_of(file, tap)
                for export in traces:
                    if export.file not in exports:
                        exports[export.file] = tag_export(export)
                sources = [exports[export.file] for export in traces]
                graphs[name] = changed[name] = self.tag_file(read_model(file), sources)
            except (HtpError, OSError) as error:
                raise tagging_error(name, error) from error
        write_files(changed, directory, options=self.options)
        return {name: FileRecord.of(graph) for name, graph in graphs.items()}


def _completed(directory: Path, exported: Exported) -> dict[str, Any]:
    """Adds to a package what Optimum left out; gives what the sidecar says of the source, with what its files show."""
    trust = bool(exported.source.get("trust_remote_code"))
    for place in exported.files.places if exported.files is not None else ():
        complete_package(directory, place, trust_remote_code=trust)
        if exported.source.get("library") == "transformers":
            add_sentence_modules(directory, place)
        elif exported.source.get("library") == "sentence_transformers":
            add_sentence_graph(directory, place)
    reset_modes(directory)
    opsets = {export.model.opset_imports.get("", 0) for export in exported.tap.exports}
    opset = {"opset": opsets.pop()} if len(opsets) == 1 else {}
    return exported.source | opset | (exported.files.preprocessors() if exported.files is not None else {})


def _would_replace(staging: StagedDirectory) -> bool:
    """Whether there is an older package in the place of a staged one."""
    new = (file.relative_to(staging.path).as_posix() for file in staging.path.rglob("*.onnx"))
    return any(os.path.lexists(staging.output / name) for name in (SIDECAR, *new))


def _say_what_is_left(error: Exception, what: str) -> None:
    if isinstance(error, HtpError):
        error.args = (f"{str(error).removesuffix(f'; {UNCHANGED}')}; {what}", *error.args[1:])


def _untag(directory: Path) -> None:
    """Takes back what we wrote, as far as possible: what can't be stripped is left as it is."""
    (directory / SIDECAR).unlink(missing_ok=True)
    with suppress(HtpError):
        remove_config_metadata(directory)
    for file in directory.rglob("*.onnx"):
        with suppress(HtpError):
            strip_tags(file)


def _exports_of(file: Path, tap: ModuleTap) -> list[ExportTrace]:
    """The exports that a file of the package may descend from: its own, or all if it was made from several."""
    if file in tap.failures:
        raise tap.failures[file]
    if not tap.exports:
        raise TaggingError("no export of a torch.nn.Module was seen that it could have come from")
    return [export for export in tap.exports if export.file == file][-1:] or tap.exports
