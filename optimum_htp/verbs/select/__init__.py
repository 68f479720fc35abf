"""`select`: the nodes of some modules, in the format that a tool takes."""

from __future__ import annotations

from optimum_htp.verbs.select.file_selection import FileSelection, SelectedNode
from optimum_htp.verbs.select.formats.table import FORMATS
from optimum_htp.verbs.select.report import Selection
from optimum_htp.verbs.select.verb import select, write_layer_annotations


__all__ = [
    "FORMATS",
    "FileSelection",
    "SelectedNode",
    "Selection",
    "select",
    "write_layer_annotations",
]
