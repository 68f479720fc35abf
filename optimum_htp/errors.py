"""The exceptions that optimum_htp raises for the user's or the file's fault.

Everything here is a leaf: no other module of the package is imported. A bug of ours is an ordinary exception,
never an `HtpError`, so that whoever catches `HtpError` catches only what a person can mend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
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


class TaggingError(HtpError):
    """The HTP pass failed for one ONNX file; the package that Optimum wrote stands untouched."""
