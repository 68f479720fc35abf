"""Selections: some nodes of a package, in the formats that other tools take them in.

What verbs that name modules for another tool have in common: `file_selection` has the nodes of one file, `selection` those
of a package, and `formats` a file for each tool.
"""

from optimum_htp.selections.file_selection import FileSelection, SelectedNode, selection_of
from optimum_htp.selections.formats.table import FORMATS
from optimum_htp.selections.selection import Selection
