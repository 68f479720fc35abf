"""`view`: a package to look at."""

from optimum_htp.verbs.view.explorer.figures import Figure
from optimum_htp.verbs.view.explorer.report import ExplorerFile, ExplorerReport
from optimum_htp.verbs.view.explorer.server import check_installed, serve
from optimum_htp.verbs.view.explorer.verb import gather, model_explorer
