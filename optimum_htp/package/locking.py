"""One writer at a time in a directory: whoever comes second waits, and says so.

The lock is a file in `.optimum-htp`, the hidden directory where its holder stages what it writes. Both are there for as
long as it is held; a process that is killed leaves them, and the lock is free all the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_htp.errors import HtpError

if TYPE_CHECKING:
    from filelock import BaseFileLock


logger = logging.getLogger(__name__)

STAGING = ".optimum-htp"
_STAGING = re.compile(re.escape(STAGING) + r"(-\d+)?")
_LOCK = "lock"
_PATIENCE_SECONDS = 0.3  # a reader that clears up holds the lock for less, and is not worth a word


class WriterLock:
    """The lock of a directory, for one thread of one process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._held: BaseFileLock | None = None

    @property
    def root(self) -> Path:
        """The hidden directory."""
        return staging_root(self.directory)

    @property
    def is_held(self) -> bool:
        """Whether this object holds it."""
        return self._held is not None

    def make_root(self) -> None:
        """Makes the hidden directory, if it is not there. Raises HtpError if there is something else of its name."""
        with contextlib.suppress(FileExistsError):
            self.root.mkdir(mode=0o700)
        if (
            not is_ours(self.root) and os.path.lexists(self.root) and not is_ours(self.root)
        ):  # or it just came and went
            raise HtpError(f"{self.root}: not a directory of ours, but a link, a file or another user's: remove it")

    def acquire(self, *, wait: bool = True) -> bool:
        """Takes the lock; False if another has it and `wait` is not set.

        Raises FileNotFoundError if the holder took the hidden directory away, and OSError if it can't be locked.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / _LOCK)
        try:
            lock.acquire(timeout=_PATIENCE_SECONDS if wait else 0)
        except Timeout:
            if not wait:
                return False
            logger.warning("%s: another command is writing there; waiting until it is done.", self.directory)
            lock.acquire()
        self._held = lock
        return True

    def release(self) -> None:
        """Gives the lock back, if it is held, and takes the hidden directory away if nothing is in it."""
        if self._held is not None:
            # Under the lock, so that it is not another's: a lock on a file without a name counts for nobody (filelock
            # 3.21). Windows deletes no open file; there filelock deletes it when it is closed.
            with contextlib.suppress(OSError):
                (self.root / _LOCK).unlink()
            self._held.release()
            self._held = None
        with contextlib.suppress(OSError):  # whoever waited is there already
            self.root.rmdir()


def staging_root(directory: Path) -> Path:
    """The hidden directory of a directory: in one like `/tmp`, in which nobody removes what is another's, each has one."""
    with contextlib.suppress(OSError):
        if directory.stat().st_mode & stat.S_ISVTX and hasattr(os, "geteuid"):
            return directory / f"{STAGING}-{os.geteuid()}"
    return directory / STAGING


def is_staging(name: str) -> bool:
    """Whether a name is that of a hidden directory.

    >>> is_staging(".optimum-htp"), is_staging(".optimum-htp-1000"), is_staging(".optimum-htp-notes")
    (True, True, False)
    """
    return _STAGING.fullmatch(name) is not None


def is_ours(root: Path) -> bool:
    """Whether there is a hidden directory that we may have made: no link, nor what another user put into `/tmp`."""
    try:
        status, around = root.lstat(), root.parent.stat()
    except OSError:
        return False
    owners = (os.geteuid(), around.st_uid) if hasattr(os, "geteuid") else (status.st_uid,)
    return stat.S_ISDIR(status.st_mode) and status.st_uid in owners
