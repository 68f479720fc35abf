"""Holds the tags of a package against the oracle, which exported the same model a second time to learn the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import oracle

from optimum_htp.export.exporter import main_export
from optimum_htp.hierarchy.tags import tag_module_path
from optimum_htp.package.package import HtpPackage


@dataclass(slots=True)
class Verdict:
    """What the comparison of one package found.

    Attributes:
        scoped: Nodes whose true module call the oracle knows.
        wrong: A line for each of them whose tag differs.
        unresolved: Nodes that were left without an owner, over all files of the package.
        at_root_by_dataflow: Nodes that data flow alone left at the root.
        nodes: Nodes over all files of the package.
    """

    scoped: int = 0
    wrong: list[str] = field(default_factory=list)
    unresolved: int = 0
    at_root_by_dataflow: int = 0
    nodes: int = 0


def check_package(package: HtpPackage, truth: dict[str, list[oracle.OracleNode]]) -> Verdict:
    """Compares the tags of the files that Optimum kept as it exported them; merged files are checked by their parts."""
    verdict = Verdict()
    for name, file in package.files.items():
        verdict.unresolved += file.counts.unresolved
        verdict.at_root_by_dataflow += file.counts.root_by_dataflow
        verdict.nodes += file.counts.nodes
        if name in truth:
            _check_file(verdict, file, truth[name])
    return verdict


def check_export(
    export_plain: Callable[[Path], Any], model: Path, output: Path, **kwargs: Any
) -> tuple[Verdict, HtpPackage]:
    """Exports with `optimum_htp.main_export` and compares with the oracle's reading of Optimum's own export."""
    truth = oracle.collect_oracle(export_plain)
    oracle.seed_everything()
    main_export(str(model), output, do_validation=False, **kwargs)
    package = HtpPackage(output)
    return check_package(package, truth), package


def _check_file(verdict: Verdict, file: Any, nodes: Iterable[oracle.OracleNode]) -> None:
    ids = {(key[0], node_id): tag for key, tag in file.tags.items() for node_id in (file.record.node_ids[key],)}
    for node in nodes:
        if node.call is None:
            continue
        verdict.scoped += 1
        tag = ids.get((node.graph, node.output))
        if tag is None:
            verdict.wrong.append(f"{file.name}: {node.name} is not in the package")
            continue
        expected_call = node.index if node.calls > 1 else None
        if (tag_module_path(tag.tag), tag.call, tag.source) != (node.alias, expected_call, "scope"):
            verdict.wrong.append(f"{file.name}: {node.name}: {tag}, truly {node.alias!r} call {expected_call}")
