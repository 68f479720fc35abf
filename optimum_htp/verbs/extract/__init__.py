"""`extract`: a module of a package as an ONNX file of its own."""

from optimum_htp.verbs.extract.report import ExtractReport
from optimum_htp.verbs.extract.verb import extract
