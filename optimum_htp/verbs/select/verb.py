"""Which nodes belong to the modules that patterns select, in the form that the next tool wants.

The patterns are those of `optimum_htp.patterns`; one that starts with `!` takes away. A node belongs to a module if the
module or one below owns it. A node that a tool fused from several modules belongs to each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy import ModulePattern, near_names
from optimum_htp.package import HtpPackage, check_layer_annotations, tagged_file, write_layer_annotations
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.select.chooser import Chooser
from optimum_htp.verbs.select.report import NODE_NAME_FORMATS, FileSelection, SelectedNode, Selection


__all__ = [
    "NODE_NAME_FORMATS",
    "FileSelection",
    "SelectedNode",
    "Selection",
    "annotate_layers",
    "select",
]


def select(
    package: str | Path | HtpPackage,
    patterns: str | Sequence[str],
    *,
    file: str | None = None,
    own: bool = False,
    fused: bool = True,
) -> Selection:
    """Selects the nodes of modules.

    Args:
        package: A package, or the path of one or of an ONNX file.
        patterns: One pattern or several, whose nodes come together; the nodes of one that starts with `!` are left
            out. `optimum_htp.patterns` says what a pattern is.
        file: The files to select in, by a glob over their path in the package; None means all.
        own: Select only what the modules own themselves, not what modules below them own.
        fused: Select nodes that were fused from modules of which some are selected and some are not.

    Returns:
        The nodes of each file that has any.

    Raises:
        PackageError: A file is not tagged, a pattern selects no module, or none of the modules has nodes.
        HtpError: A pattern is none, or a file is no ONNX model.

    Example:
        >>> select("bert_onnx", ["*.layer.0-2", "!LayerNorm"]).files[0].names   # doctest: +SKIP
    """
    opened = package if isinstance(package, HtpPackage) else HtpPackage(package)
    written = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not written:
        raise HtpError("no pattern says which modules to select; '*' selects all")
    chosen = [Chooser(each, written) for each in _files(opened, file)]
    for position, pattern in enumerate(written):
        if not any(each.modules[position] for each in chosen):
            raise PackageError(f"{opened.path}: no module matches {pattern!r}; {_advice(pattern, chosen)}")
    selected = [each.choose(own=own, fused=fused) for each in chosen]
    found = tuple(each for each in selected if each.nodes)
    if not found:
        raise PackageError(f"{opened.path}: {_nothing(written, selected, own=own)}")
    return Selection(str(opened.path), written, found)


def annotate_layers(selection: Selection) -> list[str]:
    """Writes ONNX Runtime's `layer_ann` on every node, of the selected files, whose module is known.

    The value is the path of the module: `encoder/layer.0/attention`, and `.` for the root. `strip` takes it away again.

    Returns:
        The files that were written, by their path in the package.

    Raises:
        PackageError: A node has a `layer_ann` that something else wrote, or layer annotations can't express the
            selection; nothing was written.
        HtpError: A file could not be written; it stays as it is.
    """
    for file in selection.files:
        file.layer_rules()
        check_layer_annotations(file.tagged.model)
    for file in selection.files:
        write_layer_annotations(file.tagged.model, file.layer_values())
    return [file.name for file in selection.files]


def _files(package: HtpPackage, pattern: str | None) -> list[TaggedGraph]:
    names = [name for name in package.files if pattern is None or name == pattern or fnmatchcase(name, pattern)]
    if not names:
        raise PackageError(f"{package.path}: no ONNX file is called {pattern!r}; there is {', '.join(package.files)}")
    return [tagged_file(package.files[name], package=package) for name in names]


def _advice(text: str, chosen: Sequence[Chooser]) -> str:
    trees = [tree for each in chosen for tree in each.file.trees]
    pattern = replace(ModulePattern.parse(text.removeprefix("!")), text=text)
    if pattern.calls is not None:
        most = max((info.calls for tree in trees for info in tree.select(replace(pattern, calls=None))), default=0)
        if most:
            ran = "once, which is call 0" if most == 1 else f"{most} times, which are the calls 0 to {most - 1}"
            return f"without the call it does; such a module ran {ran}"
    near = near_names(
        pattern,
        paths=dict.fromkeys(".".join(path) for tree in trees for info in tree for path in (info.path, *info.aliases)),
        classes=dict.fromkeys(info.class_name for tree in trees for info in tree if info.class_name),
        tags=dict.fromkeys(tree.tag(info.path) for tree in trees for info in tree),
    )
    listing = "`optimum-cli htp tree` lists the modules"
    return f"did you mean {' or '.join(map(repr, near))}? {listing}" if near else listing


def _nothing(patterns: Sequence[str], files: Sequence[FileSelection], *, own: bool) -> str:
    """Why there is no node, where there are modules."""
    unknown = sum(file.unknown_call for file in files)
    what = " ".join(map(repr, patterns))
    if unknown:
        return f"it is not known which nodes are of the calls that {what} selects ({unknown} may be)"
    if any(pattern.startswith("!") for pattern in patterns):
        return f"{what} leaves no node"
    if own:
        return f"no module that {what} selects owns nodes itself; leave --own out"
    modules = sum(len(file.modules) for file in files)
    if modules == 1:
        return f"{what} selects a module that no node comes from, as from a Dropout"
    return f"{what} selects {modules} modules that no node comes from, as from a Dropout"
