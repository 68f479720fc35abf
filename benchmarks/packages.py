"""What completing and checking a package costs, and how large what we add is."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from measuring import Row, beside_yardstick, make_base_model, minilm, run_step, serve


def rows(scratch: Path, repeats: int) -> Iterator[Row]:
    """What is done beside tagging in an export of BERT-base, what `validate` takes, and sizes for MiniLM."""
    model, package = scratch / "model", scratch / "package"
    run_step(make_package, model, package)
    runs: list[dict[str, float]] = []

    def beside() -> float:
        runs.append(run_step(beside_tagging, package, model, scratch / "copy"))
        return runs[-1]["configs"] + runs[-1]["sidecar"]

    both, yardsticks = beside_yardstick(repeats, beside)
    for key, what in (
        ("configs", "BERT-base: config and tokenizer completed, CPU"),
        ("sidecar", "`export_metadata.json` made and written, CPU"),
    ):
        yield replace(Row.of(what, [run[key] for run in runs], form="{:.0f} ms"), figures=())  # in the next
    yield Row.of(
        "both together, which is all beside tagging, CPU", both, "100 ms", form="{:.0f} ms", against=yardsticks
    )
    checked, yardsticks = beside_yardstick(repeats, lambda: run_step(structure, package)["ms"])
    what = "`validate()` of it without loading weights, CPU"
    yield Row.of(what, checked, "50 ms", form="{:.0f} ms", against=yardsticks)

    sizes = run_step(minilm_sizes, scratch / "minilm")
    share = f"{sizes['sidecar'] / sizes['package']:.2%} of the package"
    for what, measured, limit, size in (
        ("MiniLM: `export_metadata.json`", f"{sizes['sidecar'] / 1000:.0f} KB, {share}", "1%", sizes["sidecar"]),
        (
            "MiniLM: the skeleton in the ONNX file", f"{sizes['skeleton'] / 1000:.1f} KB", "10 KB", sizes["skeleton"],
        ),
    ):  # fmt: skip
        yield Row(what, measured, limit, figures=(size,), band=1.1)


def make_package(model: Path, package: Path) -> None:
    from optimum_htp import main_export

    make_base_model(model)
    main_export(str(model), package, task="text-classification", do_validation=False)


def beside_tagging(package: Path, model: Path, scratch: Path) -> dict[str, float]:
    """Milliseconds of CPU for what an export adds beside its ONNX files; it has the graphs, and the imports, already."""
    import importlib.metadata  # noqa: F401

    from optimum_htp.package.configs import add_config_metadata, complete_package
    from optimum_htp.package.package import HtpPackage
    from optimum_htp.package.sidecar.record import FileRecord
    from optimum_htp.package.sidecar.sidecar import Sidecar, library_versions

    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    shutil.copyfile(package / "config.json", scratch / "config.json")
    file = HtpPackage(package).files["model.onnx"]
    assert file.record is not None
    graph = file.tagged
    started = time.process_time()
    added = complete_package(scratch, model)
    add_config_metadata(scratch, {file.name: file.record})
    configs = time.process_time() - started
    assert "tokenizer.json" in added
    started = time.process_time()
    Sidecar({file.name: FileRecord.of(graph)}, versions=library_versions()).write(scratch)
    return {"configs": configs * 1000, "sidecar": (time.process_time() - started) * 1000}


def structure(package: Path) -> dict[str, float]:
    """Milliseconds of CPU inside `validate()`, as the first thing that a process does."""
    from optimum_htp import validate

    started = time.process_time()
    report = validate(package)
    spent = time.process_time() - started
    assert report.ok, report.failed
    assert not {"torch", "onnx", "onnxruntime", "numpy"} & set(sys.modules)
    return {"ms": spent * 1000}


def minilm_sizes(package: Path) -> dict[str, float]:
    """Bytes of the package, of its sidecar and of the skeleton."""
    from optimum_htp import main_export
    from optimum_htp.package.marks import marks_of
    from optimum_htp.package.package import HtpPackage

    main_export(str(minilm()), package, task="feature-extraction", library_name="transformers", do_validation=False)
    (mark,) = marks_of(HtpPackage(package).files["model.onnx"].model)
    return {
        "package": sum(file.stat().st_size for file in package.rglob("*") if file.is_file()),
        "sidecar": (package / "export_metadata.json").stat().st_size,
        "skeleton": len(mark.skeleton or ""),
    }


if __name__ == "__main__":
    serve(make_package, beside_tagging, structure, minilm_sizes)
