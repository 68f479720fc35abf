"""Files that are created or replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def creating(target: Path, *, mode: int = 0o666) -> Iterator[int]:
    """Gives a descriptor to write to a new file, which is gone if the block does not end well.

    Other processes see the file while it is written. Its directory is created; `mode` is before the process's umask.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(target, _FLAGS, mode)
    try:
        yield descriptor
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()
        raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(target: Path, *, mode: int) -> Iterator[int]:
    """Gives a descriptor to write to, and puts what was written in `target`'s place when the block ends well.

    Whatever goes wrong, `target` stays what it was; where it is a link, the new file takes the place of the link. What
    `kill -9` leaves, and when content reaches the disk, is the business of `package/staging.py`, in which packages are
    written.
    """
    temporary = target.parent / f".optimum-htp-{secrets.token_hex(8)}.tmp"
    descriptor = os.open(temporary, _FLAGS, 0o600)
    try:
        try:
            yield descriptor
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)  # noqa: PTH105 (tests make os.replace fail)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def sync_file(path: Path) -> None:
    """Waits until a file's content is on the disk; a link's own content is its name. Raises OSError."""
    if path.is_symlink():
        return
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Waits until the names in a directory are on the disk, on systems that can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
