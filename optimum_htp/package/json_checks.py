"""What was parsed from JSON that nobody vouches for, checked piece by piece: each function gives its value back, or raises.

All raise TypeError or ValueError, which whoever reads a document turns into an error that names the file.
"""

from __future__ import annotations

from typing import Any

from optimum_htp.package.limits import MAX_NAME_CHARACTERS


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
    """An integer from 0 on and below the limit; with a length as the limit, an index.

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
