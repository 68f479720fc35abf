"""`view`: a package as one page to look at, or as a card to paste.

| file | what it does |
|---|---|
| `verb` | the entry `view`; `report` is what it returns |
| `graph_content` | gathers modules, nodes, tensors and weights of a file |
| `summary` | what is true of the package as a whole |
| `measured` | reads what `profile` and `compare` report, and whether it is of this package |
| `changes` | what a tool did, of two packages |
| `columns` | packs all that for the page |
| `page` | puts the page together; its parts are in `assets/` |
| `card` | the same as Markdown |
| `given` | reports of other verbs, as they are given to a view |
| `explorer/` | the same for Google's Model Explorer |
"""

from optimum_htp.verbs.view.explorer.figures import Figure
from optimum_htp.verbs.view.explorer.report import ExplorerFile, ExplorerReport
from optimum_htp.verbs.view.explorer.server import check_installed, serve
from optimum_htp.verbs.view.explorer.verb import check_directory, gather, model_explorer, write_node_data
from optimum_htp.verbs.view.report import ViewReport
from optimum_htp.verbs.view.verb import check_output, view
