"""What `view` wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from optimum_htp.reports import Report


@dataclass(frozen=True, slots=True, repr=False)
class ViewReport(Report):
    """What `view` wrote.

    Attributes:
        package: The package.
        format: `html` or `markdown`.
        output: The file that was written; None for a card that was not written to one.
        size_bytes: Of what was written.
        data_bytes: What of it is the package's data; the rest is the page.
        files: The ONNX files that are shown, by their path in the package.
        modules: How many modules are shown.
        nodes: How many nodes.
        tabs: What can be seen: `modules` and `summary`, and `profile`, `compare` and `diff` if they were given.
        text: The card, if it was not written to a file; else None.
    """

    package: str
    format: str
    output: str | None
    size_bytes: int
    data_bytes: int
    files: tuple[str, ...]
    modules: int
    nodes: int
    tabs: tuple[str, ...]
    text: str | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "package": self.package,
            "format": self.format,
            "output": self.output,
            "size_bytes": self.size_bytes,
            "data_bytes": self.data_bytes,
            "files": list(self.files),
            "modules": self.modules,
            "nodes": self.nodes,
            "tabs": list(self.tabs),
            "text": self.text,
        }
