"""Writing a package as a whole: everything into a hidden directory, then into place, or nothing.

Whatever goes wrong, the user's own files are as they were, and none of ours are left. If the process is killed halfway,
the next one that reads or writes there puts back what was there and removes the rest (`recovery`). Two processes that
write to the same directory take turns (`locking`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path, PurePosixPath

from optimum_htp.errors import writing
from optimum_htp.onnxfile import sync_directory, sync_file
from optimum_htp.package.interrupts import uninterrupted
from optimum_htp.package.links import refuse_ways
from optimum_htp.package.locking import STAGING, WriterLock
from optimum_htp.package.recovery import MOVES, NEW, Moves, clear_up, remove_staged, settle

_STAGED = re.compile(rf"[/\\]?{re.escape(STAGING)}(-\d+)?([/\\]{NEW}\b)?")


class StagedDirectory:
    """A directory to write a package into, and the moves that put it in its place. A context manager.

    It lies inside the output directory, so that every move is a rename, and nobody else writes there until it is left:
    what is to be changed is read inside the block. Leaving without `commit` removes all that was written, and the
    directories that this made. Raises HtpError if the output can't be created or written to.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._lock = WriterLock(output)
        self._made: list[Path] = []

    @property
    def path(self) -> Path:
        """Where to write."""
        return self._lock.root / NEW

    def __enter__(self) -> StagedDirectory:
        with contextlib.ExitStack() as on_failure, writing(self.output):
            on_failure.callback(self._remove)
            while not self._lock.is_held:
                with uninterrupted():
                    self._make(self.output)
                    # Whoever made it and failed may have taken it away again: then once more.
                    if not self.output.is_dir() and os.path.lexists(self.output) and not self.output.is_dir():
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                with contextlib.suppress(FileNotFoundError):  # whoever was at work is done: once more
                    self._lock.make_root()
                    self._lock.acquire()
            with uninterrupted():
                clear_up(self._lock.root, self.output)
                self.path.mkdir()
            on_failure.pop_all()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._remove()
        if error is not None:
            name_output(error)

    def commit(self, *, remove: tuple[str, ...] = (), last: str = "") -> None:
        """Moves every staged file to its place, `last` after all others, and then removes those in `remove`.

        Each place has the old file or the new one at any time; a link is replaced by a file. If a move fails (HtpError),
        or an interrupt comes in meanwhile, what was there before is put back.
        """
        staged = self._staged(last)
        gone = [name for name in dict.fromkeys(remove) if name not in staged and os.path.lexists(self.output / name)]
        with uninterrupted() as signals, writing(self.output), contextlib.ExitStack() as on_failure:
            moves = self._moves(staged, gone)
            on_failure.callback(clear_up, self._lock.root, self.output)
            moves.keep(self._lock.root, self.output)
            if moves.replaced:  # the content of the new ones reaches the disk before their names do
                for name in staged:
                    sync_file(self.path / name)
            moves.write(self._lock.root)
            sync_directory(self._lock.root)
            for name in moves.made:
                (self.output / name).mkdir()
            for name in staged:
                (self.path / name).replace(self.output / name)
            for name in gone:
                (self.output / name).unlink()
            for directory in {(self.output / name).parent for name in (*staged, *gone)}:
                sync_directory(directory)
            if signals:
                raise KeyboardInterrupt
            (self._lock.root / MOVES).unlink()
            on_failure.pop_all()
            self._made.clear()

    def _staged(self, last: str) -> list[str]:
        files = (path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if not path.is_dir())
        return sorted(files, key=lambda name: (name == last, name))

    def _moves(self, staged: list[str], gone: list[str]) -> Moves:
        """What a commit will do, if nothing is in its way."""
        refuse_ways(self.output, staged)
        made: dict[str, None] = {}
        for name in staged:
            for parent in reversed(PurePosixPath(name).parents[:-1]):
                if not (self.output / parent).exists():
                    made[parent.as_posix()] = None
            if (self.output / name).is_dir() and not (self.output / name).is_symlink():
                raise IsADirectoryError(errno.EISDIR, f"{name} is a directory there")
        there = [name for name in (*staged, *gone) if os.path.lexists(self.output / name)]
        return Moves(tuple(there), tuple(name for name in staged if name not in there), tuple(made))

    def _make(self, directory: Path) -> None:
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            self._made.append(path)

    def _remove(self) -> None:
        with uninterrupted():
            if not self._lock.is_held:
                settle(self.output)
            elif not os.path.lexists(self._lock.root / MOVES):
                remove_staged(self._lock.root)
            # else a commit that could be neither finished nor undone is left to whoever comes next
            self._lock.release()
            with contextlib.suppress(OSError):  # somebody else put something there: it stays
                for path in reversed(self._made):
                    path.rmdir()


def name_output(error: BaseException) -> None:
    """Makes an exception, and those that it was raised from, name the place that the user knows."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and not any(link is known for known in chain):
        chain.append(link)
        if any(isinstance(part, str) and STAGING in part for part in link.args):
            link.args = tuple(without_staging(part) if isinstance(part, str) else part for part in link.args)
        if isinstance(link, OSError) and STAGING in str(link.filename):
            link.filename = without_staging(str(link.filename))
        link = link.__cause__ or link.__context__


def without_staging(text: str) -> str:
    """Replaces staging paths in a message by the final ones.

    >>> without_staging("cannot read out/.optimum-htp/new/model.onnx")
    'cannot read out/model.onnx'
    """
    return _STAGED.sub("", text)
