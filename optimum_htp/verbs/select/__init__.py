"""`select`: the nodes of some modules, in the format that a tool takes."""

from optimum_htp.verbs.select.file_selection import FileSelection, SelectedNode
from optimum_htp.verbs.select.formats.table import FORMATS
from optimum_htp.verbs.select.report import Selection
from optimum_htp.verbs.select.verb import select, write_layer_annotations
