"""A model card in Markdown: what one pastes into a pull request or a README.

Texts of the package are escaped: they make no markup, no link and no picture, whatever they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import log10
from pathlib import PurePath
from typing import Any

from optimum_htp.verbs.view.graph_content import FileContent

_DEPTH = 3
_ROWS = 60  # of a table of modules: a card is read, not searched
_WORST = 5
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|<>&~$@])")
_UNSEEN = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


class _Markup(str):
    """A text that is Markdown already."""

    __slots__ = ()


def card(document: Mapping[str, Any], files: Sequence[FileContent]) -> str:
    """The card of a package, from the document that the page shows."""
    return "\n".join(_lines(document, files)) + "\n"


def escaped(text: object) -> str:
    r"""A text that Markdown and HTML show as it is.

    >>> escaped("a|b <img> [x](y)")
    'a\\|b &lt;img&gt; \\[x\\]\\(y\\)'
    """
    shown = _UNSEEN.sub(lambda sign: f"\\u{ord(sign[0]):04x}", str(text))
    shown = _MARKUP.sub(lambda sign: {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(sign[1], f"\\{sign[1]}"), shown)
    # What would become a link by itself.
    return shown.replace("://", ":&#8203;//").replace("www.", "www&#8203;.")


def _lines(document: Mapping[str, Any], files: Sequence[FileContent]) -> Iterator[str]:
    summary = document["summary"]
    yield f"# {escaped(document['package'])}"
    yield ""
    modules, nodes = sum(len(file.modules) for file in files), sum(len(file.nodes) for file in files)
    roots = dict.fromkeys(module.row.class_name for file in files for module in file.modules if module.parent is None)
    what = f" for {escaped(summary['task'])}" if summary["task"] else ""
    yield (
        f"An ONNX export of {', '.join(map(escaped, roots))}{what}, in which every node knows the PyTorch module that it comes "
        f"from: {nodes:,} nodes, {modules:,} modules. Made with optimum-htp."
    )
    yield from _table(("", ""), [(key, _short(value)) for key, value in summary["source"].items() if key != "task"])
    yield from _files(summary)
    yield from _coverage(summary)
    yield from _validation(summary["validation"])
    for number, file in enumerate(files):
        yield from _hierarchy(number, file, document, several=len(files) > 1)
    if document["profile"] is not None:
        yield from _profile(document["profile"], files)
    if document["compare"] is not None:
        yield from _comparison(document["compare"], files)
    if document["diff"] is not None:
        yield from _diff(document["diff"])
    if summary["versions"]:
        yield from ("", "## Versions", "")
        yield ", ".join(f"{escaped(library)} {escaped(version)}" for library, version in summary["versions"].items())


def _files(summary: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## Files")
    rows = []
    for file in summary["files"]:
        opsets = ", ".join(f"{domain} {version}" for domain, version in file["opsets"])
        parameters = "unknown" if file["parameters"] is None else f"{file['parameters']:,}"
        rows.append((file["name"], _bytes(file["size"]), f"{file['nodes']:,}", parameters, opsets))
        rows += [(name, _bytes(size), "", "", "") for name, size in file["external"]]
    rows += [(name, _bytes(size), "", "", "") for name, size in summary["others"]]
    yield from _table(("File", "Size", "Nodes", "Parameters", "Opset"), rows, numbers=(1, 2, 3))


def _coverage(summary: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## How the nodes know their modules")
    several = len(summary["files"]) > 1
    rows = [
        (*((file["name"],) if several else ()), kind, f"{count:,}", _share(count, file["nodes"]), what)
        for file in summary["files"]
        for kind, count, what in file["evidence"]
    ]
    first = ("File",) if several else ()
    yield from _table(
        (*first, "Evidence", "Nodes", "Share", "What it is"), rows, numbers=(len(first) + 1, len(first) + 2)
    )


def _validation(validation: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## Validation", "")
    checks = validation["checks"]
    worse = [check for check in checks if check[1] in ("failed", "warning")]
    yield f"{len(checks)} checks: {'nothing failed' if validation['ok'] else 'some failed'}."
    yield from _table(
        ("Check", "Status", "What is so"),
        [(name, status, f"{why}; {advice}" if advice else why) for name, status, why, advice in worse],
    )


def _hierarchy(number: int, file: FileContent, document: Mapping[str, Any], *, several: bool) -> Iterator[str]:
    yield from ("", f"## Modules{f' of {escaped(file.name)}' if several else ''}")
    phase = next((part for part in (document["profile"] or {"parts": []})["parts"] if part["file"] == number), None)
    compared = next((part for part in (document["compare"] or {"parts": []})["parts"] if part["file"] == number), None)
    times = {row[0]: row[1] for row in phase["modules"]} if phase is not None else {}
    memory = {row[0]: row[8] for row in phase["modules"] if row[8] is not None} if phase is not None else {}
    errors = {row[0]: row[3] for row in compared["calls"] if not row[2]} if compared is not None else {}
    heading = ["Module", "Class", "Calls", "Parameters", "Nodes", "Weights"]
    heading += ["Time"] if phase is not None else []
    heading += ["Memory taken"] if memory else []
    heading += ["Adds to the error"] if compared is not None else []
    weights = file.weight_bytes
    rows = []
    shown = [index for index, module in enumerate(file.modules) if module.row.depth <= _DEPTH]
    for index in shown[:_ROWS]:
        row = file.modules[index].row
        cells = [
            _Markup("&emsp;" * row.depth + escaped(row.attribute or "(root)")),
            row.class_name,
            "unknown" if row.calls is None else f"{row.calls:,}",
            "unknown" if row.parameters is None else f"{row.parameters:,}",
            f"{row.all_nodes:,}",
            _bytes(weights[index]),
        ]
        cells += [f"{times[index] / 1000:.3f} ms" if index in times else ""] if phase is not None else []
        cells += [_bytes(memory[index]) if index in memory else ""] if memory else []
        cells += [_decibel(errors.get(index))] if compared is not None else []
        rows.append(tuple(cells))
    yield from _table(heading, rows, numbers=range(2, len(heading)))
    if len(shown) > _ROWS:
        yield from ("", f"and {len(shown) - _ROWS:,} more to depth {_DEPTH}")


def _profile(profile: Mapping[str, Any], files: Sequence[FileContent]) -> Iterator[str]:
    yield from ("", "## Where the time goes", "")
    threads = "" if profile["threads"] is None else f", {profile['threads']} threads"
    yield (
        f"{escaped(profile['runtime'])}, {escaped(profile['provider'])}{threads}; {escaped(profile['average'])}s of "
        f"{profile['runs']} runs."
    )
    for part in profile["parts"]:
        kernel = part["kernel"][0]
        inputs = ", ".join(f"{escaped(name)} {'×'.join(map(str, shape))}" for name, shape in part["inputs"])
        name = escaped(files[part["file"]].name)
        given = f" ({inputs})" if inputs else ""
        yield from ("", f"{name}, {escaped(part['phase'])}: {kernel / 1000:.3f} ms in kernels{given}")
        if part["memory"][0] is not None:
            yield f"Memory held: at most {_bytes(part['memory'][0])}{_held(part['memory'][1])}."
        slowest = sorted(part["modules"], key=lambda row: -row[3])[:_WORST]
        modules = files[part["file"]].modules
        rows = [
            (
                modules[row[0]].row.path or "(root)",
                modules[row[0]].row.class_name,
                f"{row[3] / 1000:.3f} ms",
                _share(row[3], kernel),
                *(() if part["memory"][0] is None else ("" if row[7] is None else _bytes(row[7]),)),
            )
            for row in slowest
            if row[3]
        ]
        memory = () if part["memory"][0] is None else ("Memory held, at most",)
        yield from _table(("Module", "Class", "Own time", "Share", *memory), rows, numbers=(2, 3, 4))


def _held(size: int | None) -> str:
    return "" if size is None else f", {_bytes(size)} of it before the first kernel"


def _comparison(compare: Mapping[str, Any], files: Sequence[FileContent]) -> Iterator[str]:
    yield from ("", f"## Against {escaped(compare['reference'])}")
    for part in compare["parts"]:
        modules = files[part["file"]].modules

        def named(row: Sequence[Any], modules: Sequence[Any] = modules) -> str:
            what = ", its own operations" if row[2] else ""
            return f"{escaped(modules[row[0]].row.path or '(root)')} ({escaped(modules[row[0]].row.class_name)}{what})"

        culprits = ", ".join(map(named, part["culprits"]))
        verdict = {
            "one": f"{culprits} is wrong",
            "several": f"{culprits} are wrong",
            "spread": f"every module adds a little, as {escaped(part['precision'])} does; none stands out",
            "agrees": "agrees in every module that was compared",
        }.get(part["verdict"], f"whose error it is can't be told: {escaped(part['reason'] or '')}")
        branch = f" ({escaped(part['branch'])})" if part["branch"] else ""
        yield from ("", f"**{escaped(files[part['file']].name)}{branch}: {verdict}.**")
        sqnr = "exact" if part["output_sqnr"] is None else f"{part['output_sqnr']:.1f} dB"
        error = "no number" if part["output_error"] is None else f"{part['output_error']:.1e}"
        yield f"Outputs are off by {error} ({sqnr}); tolerance {part['tolerance']:g}; {part['compared']} of "
        yield f"{part['calls_with_nodes']} module calls compared."
        worst = sorted(
            (row for row in part["calls"] if row[3] is not None), key=lambda row: _noise(row[3]), reverse=True
        )
        rows = [
            (
                modules[row[0]].row.path or "(root)",
                "its own operations" if row[2] else modules[row[0]].row.class_name,
                _decibel(row[3]),
            )
            for row in worst[:_WORST]
            if _noise(row[3])
        ]
        yield from _table(("Module", "What", "Adds itself (SQNR)"), rows, numbers=(2,))


def _diff(diff: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"## From {escaped(diff['before'])} to {escaped(diff['after'])}")
    for part in diff["parts"]:
        before, after = part["nodes"]
        fused, inserted = sum(len(row[0]) for row in part["replaced"]), len(part["inserted"])
        yield from (
            "",
            f"{before:,} nodes before, {after:,} after; {fused:,} do the work of others, {inserted:,} were put in.",
        )
        rows = [(name, f"{old:,}", f"{new:,}", f"{new - old:+,}") for name, old, new in part["operators"]]
        yield from _table(("Operator", "Before", "After", "Change"), rows, numbers=(1, 2, 3))


def _table(heading: Sequence[str], rows: Iterable[Sequence[object]], numbers: Iterable[int] = ()) -> Iterator[str]:
    listed = list(rows)
    if not listed:
        return
    right = set(numbers)
    yield ""
    yield f"| {' | '.join(heading)} |"
    yield f"|{'|'.join('---:' if index in right else '---' for index in range(len(heading)))}|"
    for row in listed:
        yield f"| {' | '.join(cell if isinstance(cell, _Markup) else escaped(cell) for cell in row)} |"


def _short(value: str) -> str:
    """A path of this machine without what is nobody's business."""
    path = PurePath(value)
    return str(PurePath("…", *path.parts[-2:])) if path.is_absolute() else value


def _bytes(size: int | None) -> str:
    if size is None:
        return "missing"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}" if size < 999.5 * factor else f"{size / factor:,.0f} {unit}"
    return f"{size} bytes"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _noise(errors: Sequence[float | None]) -> float:
    """The power of the noise over that of the signal."""
    if errors[0] is not None:
        return float(10 ** (-errors[0] / 10))
    return 1.0 if errors[1] is None else 0.0


def _decibel(errors: Sequence[float | None] | None) -> str:
    if errors is None:
        return ""
    noise = _noise(errors)
    return f"{-10 * log10(noise):.1f} dB" if noise else "exact"
