"""Small files: read whole, with limits and never from a pipe, and written atomically; and checks of untrusted JSON.

The `as_…` functions give back the value that they check. They raise TypeError or ValueError, which whoever reads a
document turns into an error that names the file.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimum_htp.errors import PackageError, writing
from optimum_htp.onnxfile import replacing
from optimum_htp.package.limits import (
    BYTES_EACH_JSON_VALUE,
    FREE_JSON_VALUES,
    MAX_CONFIG_BYTES,
    MAX_JSON_DEPTH,
    MAX_NAME_CHARACTERS,
)


def parse_config(content: bytes, *, where: str) -> dict[str, Any]:
    """Parses a JSON file that should hold an object; raises PackageError, with `where`, if it is anything else.

    >>> parse_config(b'{"model_type": "bert"}', where="config.json")
    {'model_type': 'bert'}
    """
    if len(content) > MAX_CONFIG_BYTES:
        raise PackageError(f"{where}: larger than {MAX_CONFIG_BYTES:,} bytes, which no config is")
    too_deep = PackageError(f"{where}: nested deeper than {MAX_JSON_DEPTH} levels, which no config is")
    try:
        value = parse_json(content)
    except RecursionError as error:
        raise too_deep from error
    except ValueError as error:
        raise PackageError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise PackageError(f"{where}: not a JSON object")
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        inner = (item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer))
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return value
    raise too_deep


class TooManyValuesError(ValueError):
    """JSON with more values than its length is good for."""


def parse_json(content: bytes | str, made_of: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Parses JSON that is not trusted; raises ValueError, or RecursionError where it is nested too deep.

    A value takes two bytes there and dozens in memory, so values are counted before they are made. `made_of` says what
    stands in place of each object, as soon as it is read; what it raises is raised.
    """
    signs = (",", ":", "[", "{")
    found = sum(content.count(sign) if isinstance(content, str) else content.count(sign.encode()) for sign in signs)
    limit = FREE_JSON_VALUES + len(content) // BYTES_EACH_JSON_VALUE
    if found > limit:
        raise TooManyValuesError(f"more than {limit:,} values, which no such file of this size has")
    return json.loads(content, object_hook=made_of)


def read_config(path: Path) -> dict[str, Any] | None:
    """Reads a JSON file; None if there is none. Raises PackageError as `read_small` and `parse_config` do."""
    content = read_small(path, MAX_CONFIG_BYTES)
    return None if content is None else parse_config(content, where=str(path))


def read_small(path: Path, limit_bytes: int) -> bytes | None:
    """The content of a regular file, None if there is none; raises PackageError if it is longer or can't be read."""
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
    """Writes a text file: the path holds the old content or the new, whatever happens. Raises HtpError."""
    with (
        writing(path),
        replacing(path, mode=0o666 & ~umask()) as descriptor,
        os.fdopen(descriptor, "wb", closefd=False) as stream,
    ):
        stream.write(text.encode())


def umask() -> int:
    """The permission bits that new files of this process don't get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def json_or_none(text: str | None) -> Any:
    """The value of JSON in a file's metadata; None if it is not there or not JSON."""
    try:
        return parse_json(text or "null")
    except (ValueError, RecursionError):
        return None


def as_object(value: Any) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.80} is not an object")
    return value


def as_list(value: Any) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.80} is not a list")
    return value


def as_text(value: Any) -> str:
    """A string that can be written as UTF-8."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is not a string")
    if not value.isascii():
        value.encode("utf-8")  # a ValueError for half of a surrogate pair
    return value


def as_text_or_none(value: Any) -> str | None:
    """A string, or null."""
    return None if value is None else as_text(value)


def as_texts(value: Any) -> list[str]:
    """A list of strings."""
    return list(map(as_text, as_list(value)))


def as_name(value: Any) -> str:
    """The name of a module or a class."""
    if len(as_text(value)) > MAX_NAME_CHARACTERS:
        raise ValueError(f"a name of {len(value)} characters")
    return as_text(value)


def as_count(value: Any, limit: int) -> int:
    """An integer from 0 to below the limit; with a length as the limit, an index.

    >>> as_count(3, 4)
    3
    """
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError(f"{value!r:.80} is not an integer from 0 to {limit - 1}")
    return value


def as_integers(value: Any) -> list[int]:
    """A list of integers."""
    if not all(type(item) is int for item in as_list(value)):
        raise TypeError("a list of integers has something else in it")
    return as_list(value)
