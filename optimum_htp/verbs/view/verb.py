"""`view`: look at a package instead of reading it: one page that opens from disk, or a card in Markdown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from optimum_htp.errors import PackageError, writing
from optimum_htp.package import HtpFile, HtpPackage, StagedDirectory, StoredParameter, as_package, settle, tagged_file
from optimum_htp.verbs.params import ParamsReport
from optimum_htp.verbs.view.card import card
from optimum_htp.verbs.view.changes import diff_part
from optimum_htp.verbs.view.columns import Texts, file_columns
from optimum_htp.verbs.view.graph_content import FileContent, file_content
from optimum_htp.verbs.view.measured import Given, compare_part, profile_part
from optimum_htp.verbs.view.page import page
from optimum_htp.verbs.view.report import ViewReport
from optimum_htp.verbs.view.summary import summary_part

_DOCUMENT_VERSION = 1
_OURS = (".html", ".md")  # what may be replaced in the package's own directory


def view(
    package: str | Path | HtpPackage,
    output: str | Path | None = None,
    *,
    file: str | None = None,
    profile: Given | None = None,
    compare: Given | None = None,
    diff: str | Path | HtpPackage | None = None,
    params: ParamsReport | None = None,
    markdown: bool = False,
    overwrite: bool = False,
) -> ViewReport:
    """Shows a package: its modules to scale, and of each its nodes, weights, and what is known of its time and its error.

    The page is one HTML file that opens from disk and uses no network. `report.html#/encoder.layer.3` opens a module.

    Args:
        package: The package's directory, or an ONNX file. It is only read.
        output: The file to write; None means `report.html` in the current directory, and for a card no file.
        file: The files of the package to show, globs allowed; None means all.
        profile: Where its time goes: what `profile` returns, the JSON that it prints, or a file with that.
        compare: What each module adds to the error: of `compare`, as for `profile`.
        diff: The package before a tool changed it, or after: which of the two it is, its nodes say.
        params: What `params` returns: the PyTorch names of weights that have lost theirs. None means those that the package
            knows, by an earlier `params` or by their names.
        markdown: Write a card in Markdown instead of the page: what one pastes into a pull request.
        overwrite: Replace the file that is there.

    Returns:
        What was written; the text of a card that was not written to a file.

    Raises:
        PackageError: Nothing tells which modules the nodes of a file come from, or the output is in use.
        HtpError: The profile or the comparison is of another package, or the output can't be written; what was there is
            unchanged.

    Example:
        >>> report = view("bert_onnx", "bert.html", profile=profile("bert_onnx"))    # doctest: +SKIP
        >>> report.size_bytes                                                        # doctest: +SKIP
        412345
    """
    opened = as_package(package)
    target = check_output(
        opened, output, markdown=markdown, overwrite=overwrite
    )  # first, because it is quick to refuse
    contents = [_content(chosen, opened, params) for chosen in opened.matching(file).values()]
    document: dict[str, Any] = {
        "version": _DOCUMENT_VERSION,
        "package": opened.path.name or opened.path.resolve().name,
        "summary": summary_part(opened, contents),
        "profile": None if profile is None else profile_part(profile, contents),
        "compare": None if compare is None else compare_part(compare, contents),
        "diff": None if diff is None else diff_part(opened, diff, contents),
    }
    if markdown:
        text = card(document, contents)
        written, data_bytes = text.encode("utf-8", "backslashreplace"), 0
    else:
        texts = Texts(contents)
        columns = {"texts": texts.packed(), "files": [file_columns(content, texts) for content in contents]}
        written, data_bytes = page({**document, **columns}, title=document["package"])
    if target is not None:
        _write(target, written, opened, overwrite=overwrite)
    return ViewReport(
        package=str(opened.path),
        format="markdown" if markdown else "html",
        output=None if target is None else str(target),
        size_bytes=len(written),
        data_bytes=data_bytes or len(written),
        files=tuple(content.name for content in contents),
        modules=sum(len(content.modules) for content in contents),
        nodes=sum(len(content.nodes) for content in contents),
        tabs=("modules", *(name for name in ("profile", "compare", "diff") if document[name] is not None), "summary"),
        text=written.decode() if target is None else None,
    )


def _content(file: HtpFile, package: HtpPackage, params: ParamsReport | None) -> FileContent:
    graph = tagged_file(file, package=package)
    known: tuple[StoredParameter, ...] = ()
    if params is not None:
        known = params.files.get(file.name, ())
    elif file.record is not None and file.evidence == "sidecar":
        known = file.record.parameters
    return file_content(file, graph, known)


def check_output(
    package: HtpPackage, output: str | Path | None, *, markdown: bool = False, overwrite: bool = False
) -> Path | None:
    """The file that `view` would write, None for none. Raises PackageError if it would not."""
    if output is None and markdown:
        return None
    target = Path("report.html" if output is None else output)
    _refuse(target, package, overwrite=overwrite)
    return target


def _refuse(target: Path, package: HtpPackage, *, overwrite: bool) -> None:
    """Raises PackageError if writing there would harm something."""
    if target.is_dir():
        raise PackageError(f"{target}: a directory; give the path of the file to write")
    if not target.parent.is_dir():
        raise PackageError(f"{target}: its directory does not exist; make it, or give another path")
    settle(target.parent)
    real = Path(os.path.realpath(target))
    inside = package.path.is_dir() and real.is_relative_to(package.path.resolve())
    if real == package.path.resolve() or (inside and os.path.lexists(target) and target.suffix not in _OURS):
        raise PackageError(f"{target}: a file of the package that is shown; write somewhere else")
    if os.path.lexists(target) and not overwrite and (target.is_symlink() or target.is_file()):
        raise PackageError(f"{target}: it exists already; give --overwrite to replace it, or another path")


def _write(target: Path, content: bytes, package: HtpPackage, *, overwrite: bool) -> None:
    """Writes a file whole or not at all; pipes and devices get the content."""
    with writing(target, needed_bytes=len(content)):
        if os.path.lexists(target) and not target.is_file() and not target.is_symlink():
            target.write_bytes(content)
            return
        with StagedDirectory(target.parent) as staging:
            _refuse(target, package, overwrite=overwrite)  # again, now that nobody else writes there
            (staging.path / target.name).write_bytes(content)
            staging.commit()
