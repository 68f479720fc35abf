"""What a profile and a comparison say of the modules of a view: read from their reports, or from the JSON of these.

A document may come from anywhere. It is read field by field, and has to be of the package that is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from optimum_htp.verbs.view.given import (
    FileOf,
    Given,
    OfAnother,
    number as _number,
    number_or_none as _infinite,
    read_given,
    text as _text,
)
from optimum_htp.verbs.view.graph_content import FileContent

Part: TypeAlias = dict[str, Any]
"""A part of the document that the page shows; modules and files are numbers in it."""


def profile_part(given: Given, files: Sequence[FileContent]) -> Part:
    """The times, of the phases of the files that are shown. Raises HtpError if they are not of these files."""
    return _read("profile", given, files, _profile)


def compare_part(given: Given, files: Sequence[FileContent]) -> Part:
    """The errors, of the files that are shown. Raises HtpError if they are not of these files."""
    return _read("compare", given, files, _comparison)


def _read(
    verb: str,
    given: Given,
    files: Sequence[FileContent],
    read: Callable[[Mapping[str, Any], _Numbers], Part],
) -> Part:
    own = {file.name: file.fingerprint for file in files}
    return read_given(verb, given, own, lambda document, file_of: read(document, _Numbers(files, file_of)))


class _Numbers:
    """The numbers of files and modules, by what reports call them."""

    def __init__(self, files: Sequence[FileContent], file_of: FileOf) -> None:
        self._file_of = file_of
        self._files = {file.name: number for number, file in enumerate(files)}
        self._modules = [{module.row.tag: index for index, module in enumerate(file.modules)} for file in files]

    def file(self, name: str) -> int | None:
        known = self._file_of(name)
        return None if known is None else self._files[known]

    def module(self, file: int, tag: str) -> int:
        number = self._modules[file].get(tag)
        if number is None:
            raise OfAnother(f"it has figures of {tag!r:.200}, which the package has not, or not any more")
        return number


def _profile(document: Mapping[str, Any], numbers: _Numbers) -> Part:
    return {
        "package": _text(document["package"]),
        "runtime": _runtime(document),
        "provider": _text(document["provider"]),
        "threads": _infinite(document["threads"]),
        "runs": _number(document["runs"]),
        "average": _text(document.get("average", "median")),
        "warmup": _infinite(document["warmup"]),
        "notes": _texts(document["notes"]),
        "parts": [_phase(phase, number, numbers) for phase, number in _of_files(document["phases"], "file", numbers)],
    }


_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}


def _runtime(document: Mapping[str, Any]) -> str:
    """What ran it, and its version; an older version of this program knew ONNX Runtime alone."""
    if "onnxruntime" in document:
        return f"{_RUNTIMES['onnxruntime']} {_text(document['onnxruntime'])}"
    name = _text(document["runtime"])
    return " ".join(filter(None, (_RUNTIMES.get(name, name), _text(document["version"]))))


def _of_files(parts: Any, key: str, numbers: _Numbers) -> Iterator[tuple[Mapping[str, Any], int]]:
    for part in parts:
        number = numbers.file(_text(part[key]))
        if number is not None:
            yield part, number


def _phase(phase: Mapping[str, Any], file: int, numbers: _Numbers) -> Part:
    return {
        "file": file,
        "phase": _text(phase["phase"]),
        "inputs": _shapes(phase["inputs"]),
        "kernel": _time(phase["kernel_time"]),
        "run": _time(phase["run_time"]),
        "attributed": _number(phase["attributed"]),
        "unattributed": _time(phase["unattributed"]["time"]),
        "memory": [_work(phase.get("work"), "peak_bytes"), _infinite(phase.get("held_bytes"))],
        "flops": _work(phase.get("work"), "flops"),
        "providers": [[_text(name), _number(each["kernels"])] for name, each in phase.get("providers", {}).items()],
        "not_known": [f"{_text(what)}: {_text(why)}" for what, why in phase.get("not_known", {}).items()],
        "modules": [
            [
                numbers.module(file, _text(module["tag"])),
                *_time(module["total_time"]),
                *_time(module["self_time"]),
                _number(module["kernels"]),
                _operators(module["ops"]),
                _work(module.get("total_work"), "peak_bytes"),
                _work(module.get("total_work"), "allocated_bytes"),
                _work(module.get("self_work"), "allocated_bytes"),
                _work(module.get("total_work"), "flops"),
            ]
            for module in phase["modules"]
        ],
        "fused": [
            [
                numbers.module(file, _text(fused["tag"])),
                _texts(fused["origins"]),
                *_time(fused["time"]),
                _number(fused["kernels"]),
                _operators(fused["ops"]),
                _work(fused.get("work"), "allocated_bytes"),
            ]
            for fused in phase["fused"]
        ],
        "calls": [
            [
                numbers.module(file, _text(call["tag"])),
                None if call["call"] is None else _number(call["call"]),
                *_time(call["total_time"]),
                *_time(call["self_time"]),
                _number(call["kernels"]),
            ]
            for call in phase["calls"]
        ],
        "operators": _operators(_all_operators(phase)),
    }


def _work(work: Mapping[str, Any] | None, figure: str) -> Any:
    """A figure of some work; None where it is not known, as in what an older version printed."""
    return None if work is None else _infinite(work[figure])


def _all_operators(phase: Mapping[str, Any]) -> dict[str, Any]:
    """The operators of all kernels: those of the roots, and of what belongs to no module."""
    found: dict[str, Any] = {}
    for operators in [phase["unattributed"]["ops"], *(each["ops"] for each in phase["modules"] if not each["depth"])]:
        for name, given in operators.items():
            known = found.setdefault(name, {"kernels": 0, "time": {"median_us": 0.0, "spread_us": 0.0}})
            known["kernels"] += given["kernels"]
            known["time"]["median_us"] += given["time"]["median_us"]
    return found


def _operators(given: Mapping[str, Any]) -> list[list[Any]]:
    """Each operator, its kernels and its time, those that take longest first."""
    rows = [[_text(name), _number(op["kernels"]), _number(op["time"]["median_us"])] for name, op in given.items()]
    return sorted(rows, key=lambda row: -row[2])


def _comparison(document: Mapping[str, Any], numbers: _Numbers) -> Part:
    return {
        "package": _text(document["package"]),
        "reference": _text(document["reference"]),
        "provider": _text(document["provider"]),
        "ok": bool(document["ok"]),
        "not_compared": {_text(name): _text(why) for name, why in document["not_compared"].items()},
        "parts": [_compared(part, number, numbers) for part, number in _of_files(document["files"], "name", numbers)],
    }


def _compared(part: Mapping[str, Any], file: int, numbers: _Numbers) -> Part:
    return {
        "file": file,
        "branch": _text(part["branch"]),
        "reference": _text(part["reference"]),
        "verdict": _text(part["verdict"]),
        "reason": None if part["reason"] is None else _text(part["reason"]),
        "ok": bool(part["ok"]),
        "precision": _text(part["precision"]),
        "tolerance": _number(part["tolerance"]),
        "output_error": _infinite(part["output_error"]),
        "output_sqnr": _infinite(part["output_sqnr_db"]),
        "without_all": _infinite(part["output_error_without_all"]),
        "culprits": [_culprit(each, file, numbers) for each in part["culprits"]],
        "carriers": [_culprit(each, file, numbers) for each in part["carriers"]],
        "compared": _number(part["compared"]),
        "calls_with_nodes": _number(part["calls_with_nodes"]),
        "not_compared": [[_text(why), _number(count)] for why, count in part["not_compared"].items()],
        "random": _texts(part["random"]),
        "notes": _texts(part["notes"]),
        "inputs": _shapes(part["inputs"]),
        "samples": _number(part["samples"]),
        "outputs": [[_text(name), _errors(errors)] for name, errors in part["outputs"].items()],
        "calls": [
            [
                numbers.module(file, _text(call["tag"])),
                None if call["call"] is None else _number(call["call"]),
                int(bool(call["operations"])),
                _errors(call["own"]),
                _errors(call["errors"]),
                None if call["not_compared"] is None else _text(call["not_compared"]),
                int(bool(call["over"])),
            ]
            for call in part["calls"]
        ],
    }


def _culprit(each: Mapping[str, Any], file: int, numbers: _Numbers) -> list[Any]:
    return [
        numbers.module(file, _text(each["tag"])),
        None if each["call"] is None else _number(each["call"]),
        int(bool(each["operations"])),
        _infinite(each["own_sqnr_db"]),
        _infinite(each["expected_sqnr_db"]),
        _infinite(each["output_error_without"]),
        _infinite(each["output_sqnr_db_without"]),
    ]


def _errors(errors: Mapping[str, Any] | None) -> list[float | None] | None:
    """SQNR in dB, relative, largest and mean difference, cosine; None stands for what is infinite."""
    if errors is None:
        return None
    return [_infinite(errors[name]) for name in ("sqnr_db", "relative", "max_abs", "mean_abs", "cosine")]


def _time(time: Mapping[str, Any]) -> list[float | None]:
    return [_infinite(time["median_us"]), _infinite(time["spread_us"])]


def _shapes(shapes: Mapping[str, Any]) -> list[list[Any]]:
    return [[_text(name), [_number(size) for size in shape]] for name, shape in shapes.items()]


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.80} is not a list")
    return [_text(each) for each in value]
