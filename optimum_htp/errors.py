"""The exceptions that optimum_htp raises for the user's or the file's fault.

Everything here is a leaf: no other module of the package is imported. A bug of ours is an ordinary exception,
never an `HtpError`, so that whoever catches `HtpError` catches only what a person can fix.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class HtpError(Exception):
    """What failed, the offending value, and what to do about it, in one line."""


class OnnxFileError(HtpError):
    """A file that is not the ONNX model it should be.

    Attributes:
        path: The file.
        offset: Bytes from the start of the file to where reading failed, or None where no place can be named.
    """

    def __init__(self, message: str, *, path: str | Path, offset: int | None = None) -> None:
        where = f"{path}, byte {offset}" if offset is not None else str(path)
        super().__init__(f"{where}: {message}")
        self.path = path
        self.offset = offset


class ModelTooLargeError(OnnxFileError):
    """A change that would make an ONNX file longer than protobuf allows; nothing was written."""


class PackageError(HtpError):
    """A directory that is not the exported package it should be."""


class UnknownNameError(HtpError, KeyError):
    """A name that nothing has in a report, a hierarchy or a package; also a KeyError."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show it with quotation marks


class TaggingError(HtpError):
    """The HTP pass failed for one ONNX file; the message says what is left."""


def unknown_name(name: str, known: Iterable[str], *, what: str) -> UnknownNameError:
    """The error for a name that is not one of those that are known: it says which are like it.

    >>> print(unknown_name("encoder.layer.9", ["encoder.layer.0", "pooler"], what="module"))
    there is no module 'encoder.layer.9'; like it are: 'encoder.layer.0'
    """
    from difflib import get_close_matches

    names = list(dict.fromkeys(filter(None, known)))
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    some = f"there are {', '.join(map(repr, names[:3]))}{f' and {len(names) - 3:,} more' if len(names) > 3 else ''}"
    hint = f"like it are: {', '.join(map(repr, near))}" if near else some if names else "there is none at all"
    return UnknownNameError(f"there is no {what} {name!r}; {hint}")


_MAX_REASON_CHARACTERS = 300

_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free {room} on that disk, or write to another"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "fix its permissions and those of its directory, or write elsewhere"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file is in the way: write elsewhere"),
    errno.EROFS: "write to another disk",
}


def reason(error: BaseException) -> str:
    r"""What an exception says, for a message of ours: its type and its text, in one line of limited length.

    >>> reason(KeyError(17)), reason(ValueError("no\n  such"))
    ('KeyError: 17', 'ValueError: no such')
    """
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return text if len(text) <= _MAX_REASON_CHARACTERS else text[:_MAX_REASON_CHARACTERS].rstrip() + " [...]"


def cannot_write(target: str | Path, error: OSError, *, needed_bytes: int | None = None) -> HtpError:
    """The error for what can't be written: what the system says, and what to do; `needed_bytes` where it is known."""
    advice = _ADVICE.get(error.errno or 0, "what was there is unchanged: write elsewhere")
    room = "some space" if needed_bytes is None else f"{needed_bytes} bytes"
    return HtpError(f"cannot write {target}: {error.strerror or error}; {advice.format(room=room)}")


@contextmanager
def needing_optimum(what: str) -> Iterator[None]:
    """Raises HtpError, which says `what` needs it, if an import in the block shows that Optimum's exporter is not there."""
    try:
        yield
    except ImportError as error:
        advice = "pip install 'optimum-onnx[onnxruntime]', in an environment whose transformers it takes"
        raise HtpError(f"{what} needs Optimum, which can't be imported here ({reason(error)}): {advice}") from error


@contextmanager
def writing(target: str | Path, *, needed_bytes: int | None = None) -> Iterator[None]:
    """Turns an OSError of the block into the HtpError of `cannot_write`, which takes the same arguments."""
    try:
        yield
    except OSError as error:
        raise cannot_write(target, error, needed_bytes=needed_bytes) from error
