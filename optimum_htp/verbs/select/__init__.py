"""`select`: the nodes of some modules, in the format that a tool takes."""

from __future__ import annotations

from optimum_htp.verbs.select.layer_annotations import MAX_SETTING_CHARACTERS, SESSION_OPTION
from optimum_htp.verbs.select.report import NODE_NAME_FORMATS, FileSelection, SelectedNode, Selection
from optimum_htp.verbs.select.verb import annotate_layers, select


__all__ = [
    "MAX_SETTING_CHARACTERS",
    "NODE_NAME_FORMATS",
    "SESSION_OPTION",
    "FileSelection",
    "SelectedNode",
    "Selection",
    "annotate_layers",
    "select",
]
