"""The names, one on a line: for people and for shells."""

from __future__ import annotations

from optimum_htp.verbs.select.file_selection import FileSelection
from optimum_htp.verbs.select.formats.base import NameFormat


class Names(NameFormat):
    """The names of the nodes."""

    one_file = False

    def names(self, file: FileSelection) -> list[str]:
        """As they are."""
        return file.names

    def lines(self, file: FileSelection, *, device: str) -> list[str]:
        """A name on each."""
        return file.names
