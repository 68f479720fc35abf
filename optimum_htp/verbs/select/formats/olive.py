"""Olive: patterns of `fnmatch`."""

from __future__ import annotations

import re

from optimum_htp.verbs.select.file_selection import FileSelection
from optimum_htp.verbs.select.formats.base import NameFormat


class Olive(NameFormat):
    """Patterns of which each matches one name."""

    def names(self, file: FileSelection) -> list[str]:
        """The names, with what is special in a pattern in brackets."""
        return [re.sub(r"([*?[])", r"[\1]", name) for name in file.names]
