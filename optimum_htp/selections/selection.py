"""The nodes that are selected in a package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.reports import Report
from optimum_htp.selections.file_selection import FileSelection
from optimum_htp.selections.formats.base import NameFormat
from optimum_htp.selections.formats.table import FORMATS


@dataclass(frozen=True, slots=True, repr=False)
class Selection(Report):
    """What patterns select in a package, whose path is `package`; `files` are those that have selected nodes."""

    package: str
    patterns: tuple[str, ...]
    files: tuple[FileSelection, ...]

    def only_file(self, form: str) -> FileSelection:
        """The one file that has selected nodes, for a format that is for one file.

        Raises:
            PackageError: There are several.
        """
        if len(self.files) > 1:
            names = ", ".join(file.name for file in self.files)
            raise PackageError(
                f"{self.package}: there are such nodes in {names}: --format {form} is for one file, choose it with "
                "--file NAME"
            )
        return self.files[0]

    def names_for(self, tool: str) -> list[str]:
        """The names of the nodes as a tool takes them.

        Args:
            tool: A format of `select` that is a list: `"names"`, `"ort-quantize"`, `"ort-fp16"`,
                `"onnxconverter-fp16"`, `"olive"`, `"modelopt"`, `"trtexec"`, `"polygraphy"`, `"nncf"`, `"genai-int4"`,
                `"quark"`, `"aimet"`.

        Raises:
            PackageError: There are nodes in several files, or the tool can't take any of them.
            HtpError: There is no such format.

        Example:
            >>> selection = select("bert_onnx", "*.attention")                                # doctest: +SKIP
            >>> AutoQuantizationConfig.avx2(                                                  # doctest: +SKIP
            ...     is_static=False, nodes_to_exclude=selection.names_for("ort-quantize")
            ... )
        """
        lists = {name: form for name, form in FORMATS.items() if isinstance(form, NameFormat)}
        if tool not in lists:
            raise HtpError(f"{tool!r} is not a format with a list of names: give one of {', '.join(lists)}")
        return lists[tool].entries(self.only_file(tool))

    def to_dict(self) -> dict[str, Any]:
        """What `select --json` prints."""
        return {
            "package": self.package,
            "patterns": list(self.patterns),
            "files": {file.name: file.to_dict() for file in self.files},
        }
