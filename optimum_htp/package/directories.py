"""What is in a directory, however deep: Python's own ways down call themselves for each directory, until they can't."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from optimum_htp.errors import PackageError
from optimum_htp.package.limits import MAX_DIRECTORY_DEPTH


def visible_files(directory: Path) -> Iterator[Path]:
    """Every file below a directory, in no order; no hidden ones, none in hidden directories or behind links to such.

    Raises PackageError for directories that are nested deeper than in any package. What can't be read is left out.
    """
    stack = [(directory, 0)]
    while stack:
        path, depth = stack.pop()
        if depth > MAX_DIRECTORY_DEPTH:
            raise PackageError(
                f"{directory}: directories nested deeper than {MAX_DIRECTORY_DEPTH}; is this a package?"
            )
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        stack.append((path / entry.name, depth + 1))
                    else:
                        yield path / entry.name
        except OSError:
            continue
