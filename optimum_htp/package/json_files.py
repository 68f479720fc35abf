"""Small files that are read whole, never from a pipe or a device, which may never end; and written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optimum_htp.errors import PackageError


MAX_CONFIG_BYTES = 50_000_000
"""A config of a few megabytes is already unheard of; a larger file is not read."""

MAX_JSON_DEPTH = 64
"""How deep the values of a config may be nested: real ones have five levels or so."""


def parse_config(content: bytes, *, where: str) -> dict[str, Any]:
    """What a JSON file that should hold an object says.

    Args:
        content: The file.
        where: Its name, for messages.

    Raises:
        PackageError: It is too long, nested too deep, no JSON, or no object.

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
        raise PackageError(f"{where}: holds no JSON object")
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [item for each in level for item in _items(each) if isinstance(item, (dict, list))]
        if not level:
            return value
    raise too_deep


def read_config(path: Path) -> dict[str, Any] | None:
    """Reads a JSON file as `parse_config` does; None where there is none.

    Raises:
        PackageError: It is no regular file, can't be read, or is not as `parse_config` wants it.
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
        raise PackageError(f"{path}: cannot be read: {error.strerror or error}; mend its permissions") from error


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a text file so that the path holds the old content or the new, whatever happens.

    Raises:
        PackageError: It could not be written; what was there stands.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            mask = os.umask(0)
            os.umask(mask)
            Path(temporary).chmod(0o666 & ~mask)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PackageError(f"{path}: cannot be written: {error.strerror}; free space or mend permissions") from error


def _items(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
