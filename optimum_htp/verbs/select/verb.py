"""Which nodes belong to the modules that patterns select.

`hierarchy/patterns.py` says what a pattern may be; what one with `!` before it selects is left out. A node belongs to a
module that owns it or contains its owner; one that a tool fused from several modules belongs to each of them
(`chooser`). `selections/formats` has what other tools take.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimum_htp.collecting import no_collecting
from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy import ModulePatterns
from optimum_htp.package import HtpPackage, as_package, changing, tagged_file, write_layer_values
from optimum_htp.selections import FileSelection, Selection
from optimum_htp.verbs.select.chooser import Chooser


@no_collecting()
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
            out. A pattern is a dotted path, a class, a glob of either, a range of layers, a call or a regular
            expression: `encoder.layer.0-2`, `LayerNorm`, `*.attention@1`, `re:layer.[02]$`.
        file: The files to select in, globs allowed; None means all.
        own: Leave out what modules below the selected ones own.
        fused: Select nodes that were fused from modules of which some are selected and some are not.

    Returns:
        The nodes of each file that has any.

    Raises:
        PackageError: A file is not tagged, a pattern matches no module, or none of the modules has nodes.
        HtpError: A pattern is invalid, or a file is not an ONNX model.

    Example:
        >>> select("bert_onnx", ["*.layer.0-2", "!LayerNorm"]).names_for("ort-quantize")   # doctest: +SKIP
    """
    package = as_package(package)
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not patterns:
        raise HtpError("no pattern says which modules to select; '*' selects all")
    wanted = ModulePatterns(patterns)
    tagged = [tagged_file(match, package=package) for match in package.matching(file).values()]
    unmatched = wanted.unmatched([graph.roots for graph in tagged])
    if unmatched:
        raise PackageError(f"{package.path}: {unmatched}")
    selected = [Chooser(graph, wanted, own=own, fused=fused).choose() for graph in tagged]
    files = tuple(selection for selection in selected if selection.nodes)
    if not files:
        raise PackageError(f"{package.path}: {_no_nodes(patterns, selected, own=own)}")
    return Selection(str(package.path), patterns, files)


def write_layer_annotations(package: str | Path | HtpPackage, selection: Selection) -> list[str]:
    """Writes ONNX Runtime's `layer_ann` on all nodes with a known module, in the files of a selection.

    The value is the path of the module: `encoder/layer.0/attention`, and `.` for the root. `strip` removes it.

    Args:
        package: The package that was selected in.
        selection: What `select` gave. `FileSelection.layer_setting` is the session option that selects its nodes by
            their `layer_ann`.

    Returns:
        The files that were written, by their path in the package.

    Raises:
        PackageError: A node has a `layer_ann` that something else wrote, layer annotations can't express the
            selection, or the package is not the one that was selected in; nothing was written.
        HtpError: A file could not be written; the package is as it was.
    """
    with changing(package) as (opened, staging):
        for selected in selection.files:
            selected.layer_setting()
            file = opened.files.get(selected.name)
            if file is None or tagged_file(file, package=opened).tags != selected.tags:
                raise PackageError(
                    f"{opened.path}: {selected.name} is not the file that was selected in; select again"
                )
            target = staging.path / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_layer_values(file.model, selected.layer_values(), destination=target)
        staging.commit()
    return [file.name for file in selection.files]


def _no_nodes(patterns: Sequence[str], files: Sequence[FileSelection], *, own: bool) -> str:
    """Why there are no nodes, where there are modules."""
    unknown = sum(file.unknown_call for file in files)
    modules = sum(len(file.modules) for file in files)
    what = " ".join(map(repr, patterns))
    if unknown:
        return f"it is not known which nodes are of the calls that {what} selects ({unknown} may be)"
    if any(pattern.startswith("!") for pattern in patterns):
        return f"{what} leaves no node" + (" that a module owns itself; leave --own out" if own else "")
    if own:
        return f"no module that {what} selects owns nodes itself; leave --own out"
    count = "a module" if modules == 1 else f"{modules} modules"
    return f"{what} selects {count} that no node comes from; a Dropout, for one, leaves none"
