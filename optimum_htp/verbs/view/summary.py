"""What a view says of the package as a whole: its files, how its nodes were tagged, whether it is sound, and its origin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optimum_htp
from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import SOURCES
from optimum_htp.onnxfile import external_data_files
from optimum_htp.package import HtpPackage, TagCounts, package_files
from optimum_htp.verbs.validate import validate
from optimum_htp.verbs.view.graph_content import FileContent

EVIDENCE = {
    "metadata": "what the exporter wrote on the node",
    "scope": "the name that the exporter gave the node, and the calls that were recorded",
    "parameter": "the weight that it stands for, or computes with",
    "dataflow": "the nodes that use what it makes",
    "fused": "a tool put it in the place of several nodes: it has their modules as origins",
    "inserted": "a tool put it in, for the module that it stands with",
    "unresolved": "nothing says whose it is",
}
"""What decided a node's module, in words."""
assert tuple(EVIDENCE) == SOURCES


def summary_part(package: HtpPackage, files: Sequence[FileContent]) -> dict[str, Any]:
    """The summary, as the page and the card show it."""
    sidecar = package.sidecar
    report = validate(package)
    source = sidecar.source if sidecar is not None else {}
    return {
        "files": [_file(package, file) for file in files],
        "others": _other_files(package, files),
        "task": report.task or _task(package),
        "source": {key: str(value) for key, value in source.items() if value is not None and value != ""},
        "versions": dict(sidecar.versions) if sidecar is not None else {},
        "validation": {
            "ok": report.ok,
            "checks": [[check.name, check.status, check.reason, check.advice] for check in report.checks],
        },
        "by": f"optimum-htp {optimum_htp.__version__}",
    }


def evidence_rows(counts: TagCounts) -> list[list[Any]]:
    """The kinds of evidence that decided nodes, how many each, and what it is."""
    return [[kind, counts.by_source[kind], EVIDENCE[kind]] for kind in SOURCES if counts.by_source.get(kind)]


def _task(package: HtpPackage) -> str | None:
    try:
        return package.task
    except PackageError:  # a config that is no JSON, which the validation names
        return None


def _file(package: HtpPackage, file: FileContent) -> dict[str, Any]:
    model = file.graph.model
    return {
        "name": file.name,
        "size": model.path.stat().st_size,
        "external": [[name, _size(model.path.parent / name)] for name in sorted(external_data_files(model))],
        "nodes": file.counts.nodes,
        "tagged": file.counts.tagged,
        "unresolved": file.counts.unresolved,
        "root_by_dataflow": file.counts.root_by_dataflow,
        "evidence": evidence_rows(file.counts),
        "modules": len(file.modules),
        "parameters": _parameters(file),
        "weights": sum(weight.size_bytes or 0 for weight in file.weights),
        "unnamed": sum(not weight.names and weight.kind == "" and weight.elements > 1 for weight in file.weights),
        "tags_from": file.graph.origin,
        "projected": bool(file.graph.sources),
        "ir_version": model.ir_version,
        "opsets": [[domain or "ai.onnx", version] for domain, version in model.opset_imports.items()],
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "untyped": file.untyped,
    }


def _parameters(file: FileContent) -> int | None:
    """Elements of the parameters of all roots; None where they are not known."""
    known = [module.row.parameters for module in file.modules if module.parent is None]
    return None if None in known else sum(count or 0 for count in known)


def _other_files(package: HtpPackage, files: Sequence[FileContent]) -> list[list[Any]]:
    """The other files of the package and their sizes."""
    if package.packed is not None:
        return sorted([name, len(text) * 3 // 4] for name, text in package.packed.encoded.items())
    if not package.path.is_dir():
        return []
    shown = {file.graph.model.path for file in files}
    shown |= {file.graph.model.path.parent / name for file in files for name in external_data_files(file.graph.model)}
    try:
        listed = [(name, path) for name, path in package_files(package.directory) if path not in shown]
    except PackageError:  # a link that leads out of it, which the validation names
        return []
    return [[name, _size(path)] for name, path in listed]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
