"""`expose`: what modules return as outputs of the graph."""

from optimum_htp.verbs.expose.report import ExposedTensor, ExposeReport, NotExposed
from optimum_htp.verbs.expose.verb import expose
