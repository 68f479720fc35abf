"""Small files that are read whole, never from a pipe or a device, which may never end; and written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optimum_htp.errors import PackageError, writing
from optimum_htp.onnxfile import replacing
from optimum_htp.package.limits import MAX_CONFIG_BYTES, MAX_JSON_DEPTH


def parse_config(content: bytes, *, where: str) -> dict[str, Any]:
    """What a JSON file that should hold an object says.

    Args:
        content: The file.
        where: Its name, for messages.

    Raises:
        PackageError: It is too long, nested too deep, not JSON, or not an object.

    >>> parse_config(b'{"model_type": "bert"}', where="config.json")
    {'model_type': 'bert'}
    """
    if len(content) > MAX_CONFIG_BYTES:
        raise PackageError(f"{where}: larger than {MAX_CONFIG_BYTES:,} bytes, which no config is")
    too_deep = PackageError(f"{where}: nested deeper than {MAX_JSON_DEPTH} levels, which no config is")
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise too_deep from error
    except ValueError as error:
        raise PackageError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise PackageError(f"{where}: not a JSON object")
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [item for each in level for item in _items(each) if isinstance(item, (dict, list))]
        if not level:
            return value
    raise too_deep


def read_config(path: Path) -> dict[str, Any] | None:
    """Reads a JSON file as `parse_config` does; None where there is none.

    Raises:
        PackageError: It is not a regular file, can't be read, or is not as `parse_config` wants it.
    """
    content = read_small(path, MAX_CONFIG_BYTES)
    return None if content is None else parse_config(content, where=str(path))


def read_small(path: Path, limit_bytes: int) -> bytes | None:
    """The content of a regular file of at most so many bytes; None where there is none.

    Raises:
        PackageError: It is something else, longer, or can't be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for its other end
            raise PackageError(f"{path}: not a regular file")
        if status.st_size > limit_bytes:
            raise PackageError(f"{path}: {status.st_size:,} bytes, and {limit_bytes:,} is more than such a file needs")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise PackageError(f"{path}: cannot be read: {error.strerror or error}; fix its permissions") from error


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a text file so that the path holds the old content or the new, whatever happens.

    Raises:
        HtpError: It could not be written; what was there is unchanged.
    """
    mask = os.umask(0)
    os.umask(mask)
    with (
        writing(path),
        replacing(path, mode=0o666 & ~mask) as descriptor,
        os.fdopen(descriptor, "wb", closefd=False) as stream,
    ):
        stream.write(text.encode())


def _items(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
