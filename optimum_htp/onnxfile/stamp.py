"""A cheap proof that nobody has written to a file since."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What a file's metadata was when it was stamped.

    Clocks of file systems are coarse: a file that is written twice within some milliseconds may have the same time and
    size. So a stamp sets the time of the file's last change back by a nanosecond: whoever writes to it, however soon,
    sets it to the clock's time, which is another.

    Attributes:
        file: The file's identity: device and inode.
        size_bytes: Its size.
        modified_ns: The time of its last change, in nanoseconds since 1970.
    """

    file: tuple[int, int]
    size_bytes: int
    modified_ns: int

    @classmethod
    def put(cls, path: Path) -> FileStamp | None:
        """Stamps a file that was just written; None where its file system does not keep the stamp.

        Raises:
            OSError: There is no such file.
        """
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
