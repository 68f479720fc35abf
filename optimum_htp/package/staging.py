"""Writing a package as a whole: everything into a staging directory, then into place, or nothing.

Whatever goes wrong, the user's own files are as they were, and none of ours are left. If the process is killed halfway,
the next one that writes to the same directory puts back what was there and removes the rest.

The staging directory is hidden in the output directory and holds

| name | what |
|---|---|
| `new/` | the files to be put into place |
| `old/` | during a commit, the files of the output that they replace |
| `moves` | during a commit, the names of the new files, as JSON |
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from optimum_htp.errors import writing

_PREFIX = ".optimum-htp-"
_NEW, _OLD, _MOVES = "new", "old", "moves"
_STAGED = re.compile(rf"/?{re.escape(_PREFIX)}\w+(/{_NEW}\b)?")


class StagedDirectory:
    """A directory to write a package into, and the moves that put it in its place. A context manager.

    It lies inside the output directory: every move is a rename. Leaving without `commit` removes all that was written,
    and the directories that this made. Raises HtpError if the output can't be created or written to.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._root = output / f"{_PREFIX}{secrets.token_hex(4)}"
        self._made: list[Path] = []
        self._lock = -1

    @property
    def path(self) -> Path:
        """Where to write."""
        return self._root / _NEW

    def __enter__(self) -> StagedDirectory:
        with contextlib.ExitStack() as on_failure, writing(self.output):
            on_failure.callback(self._remove)
            with uninterrupted():
                self._make(self.output)
                if not self.output.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                _clear_up(self.output)
                self._root.mkdir(mode=0o700)
                self._lock = _locked(self._root)
                self.path.mkdir()
            on_failure.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def commit(self, *, remove: tuple[str, ...] = (), last: str = "") -> None:
        """Moves every staged file to its place, `last` after all others, once the output's files in `remove` are gone.

        If a move fails (HtpError), or an interrupt comes in meanwhile, what was there before is put back.
        """
        files = (path.relative_to(self.path) for path in self.path.rglob("*") if not path.is_dir())
        staged = sorted(files, key=lambda path: (path == Path(last), path))
        moves = self._root / _MOVES
        with uninterrupted() as signals, writing(self.output), contextlib.ExitStack() as on_failure:
            on_failure.callback(_put_back, self._root, self.output)
            moves.write_text(json.dumps([path.as_posix() for path in staged]))
            for relative in dict.fromkeys((*map(Path, remove), *staged)):
                self._move_away(relative)
            for relative in staged:
                self._make((self.output / relative).parent)
                (self.path / relative).replace(self.output / relative)
            if signals:
                raise KeyboardInterrupt
            moves.unlink()
            on_failure.pop_all()
            self._made.clear()

    def _move_away(self, relative: Path) -> None:
        target = self.output / relative
        if target.is_dir() and not target.is_symlink():
            raise IsADirectoryError(errno.EISDIR, f"{relative} is a directory there")
        if target.is_symlink() or target.exists():
            old = self._root / _OLD / relative
            old.parent.mkdir(parents=True, exist_ok=True)
            target.replace(old)

    def _make(self, directory: Path) -> None:
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir()
            self._made.append(path)

    def _remove(self) -> None:
        with uninterrupted():
            shutil.rmtree(self._root, ignore_errors=True)
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1
            with contextlib.suppress(OSError):  # somebody else put something there: it stays
                for path in reversed(self._made):
                    path.rmdir()


def without_staging(text: str) -> str:
    """Replaces staging paths in a message by the final ones.

    >>> without_staging("cannot read out/.optimum-htp-01ab/new/model.onnx")
    'cannot read out/model.onnx'
    """
    return _STAGED.sub("", text)


@contextlib.contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Delays Ctrl-C and `kill` until the block has ended; yields the signals so far, for a block that would undo."""
    received: list[int] = []
    handlers: dict[signal.Signals, Any] = {}

    def receive(number: int, _: FrameType | None) -> None:
        received.append(number)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not the main thread, which alone is interrupted
                handler = signal.getsignal(number)
                if handler not in (None, signal.SIG_IGN):  # None: what is not Python's can't be put back
                    signal.signal(number, receive)
                    handlers[number] = handler
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def _put_back(root: Path, output: Path) -> None:
    """Undoes the moves of a commit that did not finish."""
    for name in _moves(root):
        new, placed = root / _NEW / name, output / name
        if _is_inside(placed, output) and not os.path.lexists(new) and os.path.lexists(placed):
            placed.replace(new)
    for old in sorted((root / _OLD).rglob("*")):
        placed = output / old.relative_to(root / _OLD)
        if _is_inside(placed, output) and (old.is_symlink() or not old.is_dir()):
            old.replace(placed)


def _is_inside(file: Path, directory: Path) -> bool:
    """Whether a file is really in a directory: somebody else's package may come with a staging directory in it."""
    return file.name not in ("", "..") and file.parent.resolve().is_relative_to(directory.resolve())


def _moves(root: Path) -> list[str]:
    """The names of the files that a commit is moving; none if no commit is under way."""
    try:
        names = json.loads((root / _MOVES).read_text())
    except (OSError, ValueError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _clear_up(output: Path) -> None:
    """Puts back and removes what processes that were killed left in a directory."""
    for root in output.glob(f"{_PREFIX}*"):
        lock = _locked(root) if root.is_dir() and not root.is_symlink() else -1
        if lock < 0:  # a process may be at work there
            continue
        try:
            if (root / _MOVES).is_file():
                _put_back(root, output)
            shutil.rmtree(root, ignore_errors=True)
        finally:
            os.close(lock)


def _locked(directory: Path) -> int:
    """A descriptor that locks a directory until it is closed, by whatever end; -1 if it is locked, or can't be."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return -1
    descriptor = -1
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    if descriptor >= 0:
        os.close(descriptor)
    return -1
