"""What a format of `select` has to have."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from optimum_htp.verbs.select.file_selection import FileSelection, counted


class SelectionFormat(ABC):
    """How a tool takes the nodes that were selected in a file.

    Attributes:
        one_file: Whether the tool takes the nodes of one file only.
    """

    one_file: ClassVar[bool] = False

    @abstractmethod
    def lines(self, file: FileSelection, *, device: str) -> list[str]:
        """What to print.

        Args:
            file: The nodes.
            device: The device to put them on, for tools that put them on one.

        Raises:
            PackageError: The tool has no way to say it.
        """

    def notes(self, file: FileSelection, *, device: str) -> Iterator[str]:
        """What to know in addition to the notes of the selection before the tool is given it, a line for each."""
        return iter(())


class NameFormat(SelectionFormat):
    """A tool that knows nodes by their names: it takes a JSON list of names, or of patterns for them."""

    one_file = True

    @abstractmethod
    def names(self, file: FileSelection) -> list[str]:
        """The names, or the patterns."""

    def known_as(self, file: FileSelection) -> list[str]:
        """The names themselves, where `names` gives patterns."""
        return file.names

    def lines(self, file: FileSelection, *, device: str) -> list[str]:
        """The list as JSON."""
        return json.dumps(self.names(file), indent=2).splitlines()

    def notes(self, file: FileSelection, *, device: str) -> Iterator[str]:
        """What the tool takes more or less than what was selected, because it goes by names."""
        if file.unnamed:
            yield (
                f"{counted(file.unnamed)} without a name left out: tools that go by names can't be told of them "
                "(--json lists them)"
            )
        named = len(file.nodes) - file.unnamed
        if named > len(file.names):
            yield f"{len(file.names):,} names stand for {named:,} nodes, as in branches"
        ambiguous = [name for name in self.known_as(file) if name in file.other_names]
        if ambiguous:
            yield (
                f"{len(ambiguous):,} of the names are also those of nodes that were not selected, such as "
                f"{ambiguous[0]!r}; a tool that goes by names takes these too"
            )
