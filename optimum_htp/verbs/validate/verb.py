"""Validation: does a package hold all that it takes to load it, and is it what it says it is.

The structure is checked from the files alone: no weight is read, nothing is executed, and neither torch nor onnx nor
onnxruntime is imported. Loading it (`load=True`) and comparing it with the source model (`model=`) come on top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from optimum_htp.errors import HtpError
from optimum_htp.models import InputSizes
from optimum_htp.package import HtpPackage, path_of
from optimum_htp.verbs.validate.config_checks import (
    check_code,
    check_config,
    check_generation,
    check_labels,
    check_preprocessors,
)
from optimum_htp.verbs.validate.contents import Contents
from optimum_htp.verbs.validate.file_checks import (
    check_external_data,
    check_files,
    check_onnx,
    check_paths,
    check_versions,
)
from optimum_htp.verbs.validate.report import Check, Finding, ValidationReport, combine
from optimum_htp.verbs.validate.shape_checks import check_dimensions
from optimum_htp.verbs.validate.tag_checks import check_keys, check_sidecar, check_tags


# Name: what looks, and what to say where it finds nothing to say. Those of the first table are what Optimum needs.
_OPTIMUM_CHECKS: dict[str, tuple[Callable[[Contents], Iterator[Finding]], str]] = {
    "config": (check_config, "says what kind of model this is"),
    "labels": (check_labels, "consistent"),
    "generation": (check_generation, "there, and can be read"),
    "preprocessors": (check_preprocessors, "there"),
    "code": (check_code, "none"),
    "files": (check_files, "complete"),
    "onnx": (check_onnx, "can be read"),
    "versions": (check_versions, "supported"),
    "external-data": (check_external_data, "complete"),
    "paths": (check_paths, "nothing leads out of the package"),
    "dimensions": (check_dimensions, "as in the graph"),
}
_HTP_CHECKS: dict[str, tuple[Callable[[Contents], Iterator[Finding]], str]] = {
    "tags": (check_tags, "every node is tagged"),
    "keys": (check_keys, "each key once per node"),
    "sidecar": (check_sidecar, "describes just these graphs"),
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
    task: str | None = None,
    trust_remote_code: bool = False,
) -> ValidationReport:
    """Checks a package.

    Args:
        package: The package: its directory, an ONNX file of it (packed or not), or one that is open.
        load: Also run the ONNX checker, load the package with the ORTModel class of its task, and run it on dummy
            inputs, in another process that has no network.
        model: Also compare the outputs with this source model: its directory, or its id on the Hub. This is done once
            more with other sizes of batch and sequence.
        batch_size: Examples at once that outputs are compared for; None means Optimum's default, as for the next ones.
        sequence_length: Tokens of each.
        height: Pixels.
        width: Pixels.
        dims: Other sizes of the inputs, by Optimum's names.
        shapes: The same as `dims`.
        tolerance: How far outputs may be from PyTorch's, relative to the largest value of the output; None means by
            the type that a file computes with: 1e-4 for float32, 2e-2 for float16, 1e-1 for bfloat16, 5e-1 if
            quantized, as for `compare`.
        task: The task to load and compare for; None means the one that the package says.
        trust_remote_code: Let the code of the model run, where loading needs it.

    Returns:
        The checks; `report.ok` says whether none failed.

    Raises:
        PackageError: There is no such path, it has no ONNX file, or `model` can't be loaded.
        HtpError: An argument is given that is for `load` or `model`, and that is not.

    Example:
        >>> report = validate("bert_onnx")                            # doctest: +SKIP
        >>> report.ok, [check.name for check in report.failed]        # doctest: +SKIP
        (True, [])
    """
    if task is not None and not load and model is None:
        raise HtpError(
            f"the task {task!r} is to load or compare for: give --load or --model MODEL (load=, model=) too"
        )
    sizes = InputSizes(batch_size, sequence_length, height, width, {**(dims or {}), **(shapes or {})}).by_name()
    if (sizes or tolerance is not None) and model is None:
        given = "sizes of inputs" if sizes else "a tolerance"
        raise HtpError(f"{given} but no source model to compare with: give --model MODEL (model=) too")
    path = path_of(package)
    contents = Contents(path)
    checks = _structure(contents, {**_OPTIMUM_CHECKS, **_HTP_CHECKS})
    if load:
        from optimum_htp.verbs.validate.loading import check_loading

        checks += check_loading(contents, task=task, trust_remote_code=trust_remote_code)
    if model is not None:
        from optimum_htp.verbs.validate.outputs import check_outputs

        checks += check_outputs(
            contents,
            str(model),
            task=task,
            trust_remote_code=trust_remote_code,
            tolerance=tolerance,
            shapes=sizes,
        )
    return ValidationReport(
        package=str(path), task=contents.plain_task, files=tuple(contents.files), checks=tuple(checks)
    )


def validate_optimum_compatibility(package: str | Path | HtpPackage) -> bool:
    """Whether a package has all that Optimum needs to load it, as far as its files say; tags don't matter here.

    Example:
        >>> validate_optimum_compatibility("no_such_package")
        False
    """
    try:
        path = path_of(package)
        checks = _structure(Contents(path), _OPTIMUM_CHECKS)
    except HtpError:
        return False
    return all(check.status != "failed" for check in checks)


def _structure(
    contents: Contents, table: dict[str, tuple[Callable[[Contents], Iterator[Finding]], str]]
) -> list[Check]:
    return [combine(name, look(contents), ok=ok) for name, (look, ok) in table.items()]
