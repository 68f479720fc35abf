"""What a tool did to a graph, for the page: what was fused into what, what was put in, and what is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy import NodeKey, NodeTag
from optimum_htp.package import HtpPackage, as_package, tagged_file
from optimum_htp.tagging import TaggedGraph, work_of
from optimum_htp.verbs.diff import FileDiff, diff
from optimum_htp.verbs.view.graph_content import FileContent

_BY_TOOLS = ("fused", "inserted")


def diff_part(package: HtpPackage, other: str | Path | HtpPackage, files: Sequence[FileContent]) -> dict[str, Any]:
    """What differs between a package and another one, of which one was made from the other.

    The one with more nodes that are fused or inserted is the later one.

    Raises:
        PackageError: There is no such package, or nothing tells whose its nodes are.
        HtpError: They have no file in common.
    """
    opened = as_package(other)
    shown = {file.name: file.graph for file in files}
    theirs = {name: tagged_file(file, package=opened, reference=package) for name, file in opened.files.items()}
    is_later = _touched(shown.values()) >= _touched(theirs.values())
    before, after = (theirs, shown) if is_later else (shown, theirs)
    report = diff(*((package, opened) if is_later else (opened, package)))
    pairs = [pair for pair in report.files if pair.before in before and pair.after in after]
    if not pairs:
        why = "; ".join(report.not_compared.values()) or "no file of one was made from a file of the other"
        raise HtpError(f"{package.path} and {opened.path}: {why}; give the package before or after the tool")
    numbers = {file.name: index for index, file in enumerate(files)}
    return {
        "before": report.before,
        "after": report.after,
        "shown": "after" if is_later else "before",
        "only_before": list(report.only_before),
        "only_after": list(report.only_after),
        "not_compared": dict(report.not_compared),
        "parts": [
            _part(
                pair, before[pair.before], after[pair.after], numbers[pair.after if is_later else pair.before], files
            )
            for pair in pairs
        ],
    }


def _touched(graphs: Iterable[TaggedGraph]) -> int:
    return sum(tag.source in _BY_TOOLS for graph in graphs for tag in graph.tags.values())


def _part(
    pair: FileDiff, before: TaggedGraph, after: TaggedGraph, file: int, files: Sequence[FileContent]
) -> dict[str, Any]:
    modules = {module.row.tag: number for number, module in enumerate(files[file].modules)}
    paths = {module.row.path: number for number, module in reversed(list(enumerate(files[file].modules)))}

    def number_of(tag: NodeTag) -> int | None:
        return modules.get(tag.tag) if tag.source != "unresolved" else None

    old, new = dict(before.model.nodes()), dict(after.model.nodes())
    work = work_of(before.model, after.model)
    inserted: list[list[Any]] = []
    groups: dict[object, list[NodeKey]] = {}  # nodes that do the same work together
    for key, node in new.items():
        tag = after.tags[key]
        done = [old[each].operator for each in work.get(key, ())]
        if tag.source == "inserted":
            inserted.append([node.operator, node.name, number_of(tag)])
        elif tag.source == "fused" or len(done) > 1 or done not in ([], [node.operator]):
            groups.setdefault(work.get(key, key), []).append(key)
    replaced = [
        [
            [[new[key].operator, new[key].name] for key in keys],
            number_of(after.tags[keys[0]]),
            [[old[each].operator, old[each].name] for each in work.get(keys[0], ())],
            sorted({modules[name] for key in keys for name in after.tags[key].origins if name in modules}),
        ]
        for keys in groups.values()
    ]
    # What is nobody's work any more: folded into a constant, or without a reader.
    done_by_any = {each for keys in work.values() for each in keys}
    gone = Counter(node.operator for key, node in old.items() if key not in done_by_any)
    return {
        "file": file,
        "before": pair.before,
        "after": pair.after,
        "nodes": list(pair.nodes),
        "changed": pair.changed,
        "operators": [[change.name, change.before or 0, change.after or 0] for change in pair.operators],
        "versions": [[change.name, change.before, change.after] for change in pair.versions],
        "values": [[change.name, change.before, change.after] for change in pair.values],
        "stored": [[change.name, change.before or 0, change.after or 0] for change in pair.stored_elements],
        "modules": [
            [
                None if each.path is None else paths.get(each.path),
                each.path,
                (each.after or each.before).class_name,  # type: ignore[union-attr] # one of them is there
                each.before.nodes if each.before else 0,
                each.after.nodes if each.after else 0,
                [[change.name, change.before or 0, change.after or 0] for change in each.operators],
            ]
            for each in pair.changed_modules
        ],
        "replaced": replaced,
        "inserted": inserted,
        "gone": sorted(map(list, gone.items()), key=lambda row: -int(row[1])),
    }
