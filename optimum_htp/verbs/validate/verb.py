"""`validate`: whether a package has everything that loading it takes, and is consistent.

The structure is checked from the files alone: no weight is read, nothing is executed, and neither torch nor onnx nor
onnxruntime is imported. `load=` and `model=` do more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from optimum_htp.errors import HtpError
from optimum_htp.models import InputSizes, check_axes, check_model_name, check_task, graph_limits, usual_memory
from optimum_htp.onnxfile import DEFAULT_TIMEOUT_S
from optimum_htp.package import HtpPackage, path_of
from optimum_htp.verbs.validate import config_checks, file_checks, shape_checks, tag_checks
from optimum_htp.verbs.validate.contents import Contents
from optimum_htp.verbs.validate.report import Check, Finding, ValidationReport, combine

# By its name, the function of a check and the reason that is given if it has no findings.
Checks: TypeAlias = dict[str, tuple[Callable[[Contents], Iterator[Finding]], str]]

# What Optimum needs, then what the HTP pass adds.
_OPTIMUM_CHECKS: Checks = {
    "config": (config_checks.check_config, "says what kind of model this is"),
    "labels": (config_checks.check_labels, "consistent"),
    "generation": (config_checks.check_generation, "there, and can be read"),
    "preprocessors": (config_checks.check_preprocessors, "there"),
    "code": (config_checks.check_code, "none"),
    "files": (file_checks.check_files, "complete"),
    "onnx": (file_checks.check_onnx, "can be read"),
    "versions": (file_checks.check_versions, "supported"),
    "external-data": (file_checks.check_external_data, "complete"),
    "paths": (file_checks.check_paths, "nothing leads out of the package"),
    "dimensions": (shape_checks.check_dimensions, "as in the graph"),
}
_HTP_CHECKS: Checks = {
    "tags": (tag_checks.check_tags, "every node is tagged"),
    "keys": (tag_checks.check_keys, "each key once per node"),
    "sidecar": (tag_checks.check_sidecar, "describes just these graphs"),
}


def validate(
    package: str | Path | HtpPackage,
    *,
    load: bool = False,
    model: str | Path | None = None,
    batch_size: int | None = None,
    sequence_length: int | None = None,
    height: int | None = None,
    width: int | None = None,
    dims: Mapping[str, int] | None = None,
    shapes: Mapping[str, int] | None = None,
    tolerance: float | None = None,
    renamed: Mapping[str, str] | None = None,
    task: str | None = None,
    trust_remote_code: bool = False,
    timeout: float | None = None,
    max_memory_bytes: int | None = None,
) -> ValidationReport:
    """Checks a package.

    Args:
        package: The package: its directory, an ONNX file of it (packed or not), or one that is open.
        load: Also run the ONNX checker, load the package with the ORTModel class of its task, and run it on dummy
            inputs, in another process that has no network.
        model: Also compare the outputs with this source model, a directory or an id on the Hub, at two sizes of batch
            and sequence.
        batch_size: Examples at once that outputs are compared for; None means Optimum's default, as for the next ones.
        sequence_length: Tokens of each.
        height: Pixels.
        width: Pixels.
        dims: Other sizes of the inputs, by Optimum's names.
        shapes: The same as `dims`.
        tolerance: How far outputs may be from PyTorch's, relative to the largest value of the output, or if quantized as
            noise over signal; None means by the type that a file computes with, as for `compare`.
        renamed: Inputs and outputs of the package that Optimum calls otherwise, and how it calls them, where that is not
            found by itself.
        task: The task to load and compare for; None means the one that the package says.
        trust_remote_code: Let the code of the model run, where loading needs it.
        timeout: Seconds that `load` may take; for `model`, that ONNX Runtime may take to load a file and for each run. None
            means 600.
        max_memory_bytes: Memory that ONNX Runtime may take for that, on Linux; None means 2 GiB and 8 times what the model
            has on the disk.

    Returns:
        The checks; `report.ok` says whether none failed.

    Raises:
        PackageError: There is no such path, it has no ONNX file, or `model` can't be loaded.
        HtpError: An argument can't act: it is for `load` or `model`, and that is not given; a size is of no axis of the
            inputs; the package was exported for another task.

    Example:
        >>> report = validate("bert_onnx")                            # doctest: +SKIP
        >>> report.ok, [check.name for check in report.failed]        # doctest: +SKIP
        (True, [])
    """
    if task is not None and not load and model is None:
        raise HtpError(
            f"the task {task!r} is used to load or compare: give --load or --model MODEL (load=, model=) too"
        )
    if trust_remote_code and not load and model is None:
        raise HtpError("--trust-remote-code is for loading: give --load or --model MODEL (load=, model=) too")
    sizes = InputSizes(batch_size, sequence_length, height, width, {**(dims or {}), **(shapes or {})})
    if (sizes.by_name() or tolerance is not None) and model is None:
        given = "sizes of inputs" if sizes.by_name() else "a tolerance"
        raise HtpError(f"{given} but no source model to compare with: give --model MODEL (model=) too")
    if renamed and model is None:
        raise HtpError("--map is for a source model to compare with: give --model MODEL (model=) too")
    if (timeout is not None or max_memory_bytes is not None) and not load and model is None:
        raise HtpError(
            "a time or memory limit is for running the graph: give --load or --model MODEL (load=, model=) too"
        )
    if timeout is not None and not timeout > 0:
        raise HtpError(f"a timeout of {timeout:g} s: give more than 0")
    if model is not None:
        check_model_name(model)
    path = path_of(package)
    contents = Contents(path)
    check_task(contents, task)
    if len(contents.readable) == len(contents.files):
        check_axes(contents.readable.values(), sizes, where=str(path), of_optimum=True)
    checks = _run(_OPTIMUM_CHECKS | _HTP_CHECKS, contents)
    if load:
        from optimum_htp.verbs.validate.loading import check_loading

        checks += check_loading(
            contents,
            task=task,
            trust_remote_code=trust_remote_code,
            timeout=DEFAULT_TIMEOUT_S if timeout is None else timeout,
            max_memory_bytes=usual_memory((contents,)) if max_memory_bytes is None else max_memory_bytes,
        )
    if model is not None:
        from optimum_htp.verbs.validate.outputs import check_outputs

        with graph_limits((contents,), timeout_s=timeout, max_memory_bytes=max_memory_bytes):
            checks += check_outputs(
                contents,
                str(model),
                task=task,
                trust_remote_code=trust_remote_code,
                tolerance=tolerance,
                shapes=sizes.by_name(),
                renamed=renamed,
            )
    files = tuple(contents.files)
    return ValidationReport(package=str(path), task=contents.plain_task, files=files, checks=tuple(checks))


def validate_optimum_compatibility(package: str | Path | HtpPackage) -> bool:
    """Whether a package has all that Optimum needs to load it, as far as its files say; tags don't matter here.

    Example:
        >>> validate_optimum_compatibility("no_such_package")
        False
    """
    try:
        checks = _run(_OPTIMUM_CHECKS, Contents(path_of(package)))
    except HtpError:
        return False
    return all(check.status != "failed" for check in checks)


def _run(checks: Checks, contents: Contents) -> list[Check]:
    return [combine(name, function(contents), ok=ok) for name, (function, ok) in checks.items()]
