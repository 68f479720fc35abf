"""Writing a package as a whole: everything into a staging directory, then into place, or nothing.

Whatever goes wrong, the user's own files are as they were, and none of ours are left.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from optimum_htp.errors import PackageError


class StagedDirectory:
    """A directory to write a package into, and the moves that put it in its place.

    A context manager. `path` lies inside the output directory, so that every move is a rename within one file system.
    Leaving without `commit`, by an exception or an interrupt, removes all that was written, the output directory and
    its parents too where this made them.

    Raises:
        PackageError: The output directory can't be made or written to.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._made: list[Path] = []
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """Where to write."""
        assert self._path is not None  # used inside `with` only
        return self._path

    def __enter__(self) -> StagedDirectory:
        try:
            self._make_output()
            self._path = Path(tempfile.mkdtemp(prefix=".optimum-htp-", dir=self.output))
        except BaseException as error:
            self._remove_made()
            if isinstance(error, OSError):
                raise PackageError(_unusable(self.output, error)) from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._remove_made()

    def commit(self, *, remove: tuple[str, ...] = (), last: str = "") -> None:
        """Moves every staged file to its place, after the output's files named in `remove` are gone.

        If a move fails or is interrupted, what was there before is put back.

        Args:
            remove: Files of the output that the package replaces or outdates.
            last: The file to move last: where it is, all others are.

        Raises:
            PackageError: A file could not be moved.
        """
        backup = Path(tempfile.mkdtemp(prefix=".optimum-htp-", dir=self.output))
        undo: list[tuple[Path, Path]] = []
        found = (path.relative_to(self.path) for path in self.path.rglob("*") if not path.is_dir())
        staged = sorted(found, key=lambda path: (path == Path(last), path))
        try:
            for position, relative in enumerate((*map(Path, remove), *staged)):
                target = self.output / relative
                if target.is_dir() and not target.is_symlink():
                    raise IsADirectoryError(errno.EISDIR, f"{relative} is a directory there")
                if target.is_symlink() or target.exists():
                    _move(target, backup / str(position), undo)
            for relative in staged:
                self._make((self.output / relative).parent)
                _move(self.path / relative, self.output / relative, undo)
        except BaseException as error:
            for source, target in reversed(undo):
                target.replace(source)
            if isinstance(error, OSError):
                raise PackageError(_unusable(self.output, error)) from error
            raise
        finally:
            shutil.rmtree(backup, ignore_errors=True)
        self._made.clear()

    def _make_output(self) -> None:
        self._make(self.output)
        if not self.output.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))

    def _make(self, directory: Path) -> None:
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir()
            self._made.append(path)

    def _remove_made(self) -> None:
        for path in reversed(self._made):
            try:
                path.rmdir()
            except OSError:  # somebody else put something there: it stays
                return


def _move(source: Path, target: Path, undo: list[tuple[Path, Path]]) -> None:
    undo.append((source, target))
    try:
        source.replace(target)
    except BaseException:
        if source.exists() or source.is_symlink():
            undo.pop()
        raise


def _unusable(output: Path, error: OSError) -> str:
    advice = {
        errno.ENOTDIR: "it, or a directory above it, is a file: give another path",
        errno.EEXIST: "it, or a directory above it, is a file: give another path",
        errno.EACCES: "no permission to write there: give another path or mend its permissions",
        errno.EPERM: "no permission to write there: give another path or mend its permissions",
        errno.EROFS: "the file system is read-only: give another path",
        errno.ENOSPC: "no space is left: free some or give a path on another disk",
    }
    reason = advice.get(error.errno or 0) or f"{error.strerror or error}: give another path"
    return f"cannot write the package to {output}: {reason}"
