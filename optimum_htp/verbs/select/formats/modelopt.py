"""NVIDIA's Model Optimizer: `nodes_to_exclude`, regular expressions for `re.match`."""

from __future__ import annotations

import re

from optimum_htp.verbs.select.file_selection import FileSelection
from optimum_htp.verbs.select.formats.base import NameFormat


class ModelOpt(NameFormat):
    """Regular expressions of which each matches one name."""

    def names(self, file: FileSelection) -> list[str]:
        """With their end, because `re.match` also takes what only begins like a name."""
        return [f"{re.escape(name)}$" for name in file.names]
