"""What was written for Model Explorer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_htp.reports import Report


@dataclass(frozen=True, slots=True)
class ExplorerFile:
    """One ONNX file, and what Model Explorer shows of it.

    Attributes:
        name: Its path in the package.
        model: Where it is.
        nodes: How many nodes it has, those of bodies and functions included.
        drawn: How many of them Model Explorer draws; it leaves out bodies inside bodies.
        node_data: The files with a figure of each node, by what the figure is.
        figures: How many nodes and initializers have each of these figures.
        navigation: The file that says which nodes go with those of another package; None without one.
        left: With that, the ONNX file that is on the left, which is what the tool was given; None without one.
        right: And the one on the right, which is what it made.
    """

    name: str
    model: Path
    nodes: int
    drawn: int
    node_data: Mapping[str, Path]
    figures: Mapping[str, int]
    navigation: Path | None = None
    left: Path | None = None
    right: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """The file as JSON."""

        def path(value: Path | None) -> str | None:
            return None if value is None else str(value)

        return {
            "name": self.name,
            "model": str(self.model),
            "nodes": self.nodes,
            "drawn": self.drawn,
            "node_data": {kind: str(written) for kind, written in self.node_data.items()},
            "figures": dict(self.figures),
            "navigation": path(self.navigation),
            "left": path(self.left),
            "right": path(self.right),
        }


@dataclass(frozen=True, slots=True, repr=False)
class ExplorerReport(Report):
    """What was written for Model Explorer.

    Attributes:
        package: The package.
        directory: Where.
        files: The ONNX files.
        not_paired: The files that go with none of the other package, and why; empty without one.
    """

    package: str
    directory: Path
    files: tuple[ExplorerFile, ...]
    not_paired: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "package": self.package,
            "directory": str(self.directory),
            "files": [file.to_dict() for file in self.files],
            "not_paired": dict(self.not_paired),
        }
