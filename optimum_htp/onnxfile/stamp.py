"""A cheap proof that nobody has written to a file since."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file's device and inode, its size, and the time of its last change when it was stamped.

    Clocks of file systems are coarse: a file that is written twice within some milliseconds may have the same time and
    size. So a stamp sets the time back by a nanosecond: whoever writes later, however soon, sets it to another.
    """

    file: tuple[int, int]
    size_bytes: int
    modified_ns: int

    @classmethod
    def put(cls, path: Path) -> FileStamp | None:
        """Stamps a file that was just written; None where its file system does not keep the stamp. Raises OSError."""
        written = path.stat()
        os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns - 1))
        stamp = cls._of(path)
        return stamp if stamp.modified_ns != written.st_mtime_ns else None

    def holds(self, path: Path) -> bool:
        """Whether it is the same file, and nobody has written to it since."""
        try:
            return self._of(path) == self
        except OSError:
            return False

    @classmethod
    def _of(cls, path: Path) -> FileStamp:
        status = path.stat()
        return cls((status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns)
