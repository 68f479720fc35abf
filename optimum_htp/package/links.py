"""Links in packages: one rule for every verb, which SECURITY.md tells users.

A link in a package stands for the file that it leads to, if that lies in the package too, or among the blobs of the same
repository in the Hub's cache. The content behind any other is never copied to another place. Nothing is ever written
through a link: what is written in its place replaces it (`staging`). Paths are those that the package has for its files,
not those that links lead to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from optimum_htp.errors import PackageError
from optimum_htp.package.archive import names_problem
from optimum_htp.package.locking import is_staging


def is_inside(path: Path, root: Path) -> bool:
    """Whether a path, which need not exist, is in the directory of a package or the blobs of its snapshot, after links."""
    resolved = Path(os.path.realpath(path))
    return any(resolved.is_relative_to(home) for home in (Path(os.path.realpath(root)), *_hub_blobs(root)))


def _hub_blobs(directory: Path) -> list[Path]:
    """Where the links of a snapshot in the Hub's cache lead: `blobs/` of its repository; nothing for other directories."""
    real = Path(os.path.realpath(directory))
    return [parent.parent / "blobs" for parent in (real, *real.parents) if parent.name == "snapshots"]


def package_files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Every file of a package by its path in it, to be copied; what is hidden, and Python's caches, don't count.

    Raises PackageError for a link that leads out of the package or to a directory, and for what is not a regular file.
    """

    def failed(error: OSError) -> None:
        raise PackageError(f"{error.filename}: cannot be read: {error.strerror}; fix its permissions") from error

    for root, directories, names in os.walk(directory, onerror=failed):
        directories[:] = sorted(name for name in directories if not name.startswith(".") and name != "__pycache__")
        visible = sorted(name for name in names if not name.startswith("."))
        for path in (Path(root, name) for name in (*directories, *visible)):
            if path.is_symlink():
                refuse_link(path, directory)
            elif path.is_dir():
                continue
            if not path.is_file():
                raise PackageError(f"{path}: not a regular file; remove it from the package")
            yield path.relative_to(directory).as_posix(), path


def refuse_link(path: Path, directory: Path) -> None:
    """Raises PackageError for a link of a package that does not stand for a file of it."""
    where = f"a link to {str(path.readlink())!r}"
    advice = "put the file itself there, or remove the link"
    if not is_inside(path, directory):
        raise PackageError(f"{path}: {where}, outside the package, whose content is not copied; {advice}")
    if not path.is_file():
        kind = "which is a directory" if path.is_dir() else "which is not there"
        raise PackageError(f"{path}: {where}, {kind}; {advice}")


def refuse_ways(directory: Path, names: Iterable[str]) -> None:
    """Raises PackageError if a link lies between a directory and files to be written there: nothing goes through it."""
    for name in names:
        for parent in reversed(PurePosixPath(name).parents[:-1]):
            if (directory / parent).is_symlink():
                advice = "put a directory there, or write elsewhere"
                raise PackageError(f"{directory / parent}: a link, and nothing is written through one; {advice}")


def external_file(onnx: Path, location: str, *, package: Path) -> Path:
    """The file of an ONNX file's external data; raises PackageError if it is not there, or not in the package."""
    path = onnx.parent / location
    problem = names_problem([PurePosixPath(location).as_posix()])
    if problem is None and path.is_symlink() and not is_inside(path, package):
        problem = "a link that leads out of the package"
    if problem is None and not (is_inside(path, package) and path.is_file()):
        problem = "there is no such file in the package"
    if problem is not None:
        raise PackageError(f"{onnx}: its weights are in {location!r}: {problem}; get the whole package")
    return path


def entries(directory: Path) -> list[Path]:
    """What is in a directory, in order, except what is staged there."""
    return sorted(path for path in directory.iterdir() if not is_staging(path.name))
