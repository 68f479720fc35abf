"""Files that are created or replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from optimum_htp.onnxfile.splice import copy_range

_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def creating(target: Path, *, mode: int = 0o666) -> Iterator[int]:
    """Gives a descriptor to write to a new file, which is on the disk when the block ends well, else gone.

    Other processes see the file while it is written. Its directory is created; `mode` is before the process's umask.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_CREAT | os.O_EXCL | _FLAGS, mode)
    try:
        yield descriptor
        os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()
        raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(target: Path, *, mode: int) -> Iterator[int]:
    """Gives a descriptor to write to, and puts what was written in `target`'s place when the block ends well.

    `target` is not a symbolic link. The content reaches the disk before the name does; whatever goes wrong, `target`
    stays what it was. On Linux the new file has no name until it is complete, so `kill -9` leaves nothing either.
    """
    temporary = target.parent / f".optimum-htp-{secrets.token_hex(8)}.tmp"
    descriptor, named = -1, False
    try:
        descriptor, named = _open_new(temporary)
        yield descriptor
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, mode)
        os.fsync(descriptor)
        if not named:
            _give_name(descriptor, temporary)
        os.close(descriptor)
        descriptor = -1
        os.replace(temporary, target)  # noqa: PTH105 (tests make os.replace fail)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    _sync_directory(target.parent)


def _open_new(temporary: Path) -> tuple[int, bool]:
    """Returns the descriptor of a new file next to `temporary`, and whether it already has that name."""
    if hasattr(os, "O_TMPFILE"):
        # File systems without O_TMPFILE (NFS, some overlays) refuse it; what else may be wrong shows right below.
        with contextlib.suppress(OSError):
            return os.open(temporary.parent, _FLAGS | os.O_TMPFILE, 0o600), False
    return os.open(temporary, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600), True


def _give_name(descriptor: int, name: Path) -> None:
    """Makes a file without a name appear as `name`, by a copy where the system can't link it (no /proc, gVisor)."""
    directory = os.open(name.parent, os.O_RDONLY)
    try:
        # Only linkat follows the link in /proc, and Python calls linkat only if a directory descriptor is given.
        os.link(f"/proc/self/fd/{descriptor}", name.name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        status = os.fstat(descriptor)
        named = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            copy_range(descriptor, named, 0, status.st_size)
            os.fchmod(named, status.st_mode & 0o7777)
            os.fsync(named)
        finally:
            os.close(named)
    finally:
        os.close(directory)


def _sync_directory(directory: Path) -> None:
    # The new file is in place; a system that can't sync a directory has nothing more to offer.
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
