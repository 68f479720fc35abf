"""Intel's NNCF: `nncf.IgnoredScope(names=[...])`, the `ignored_scope` of `nncf.quantize` for ONNX models.

A name that its graph does not have is an error there, and the graph has the nodes of the main graph alone, without Casts
that change nothing. No Cast is quantized, so none is listed.
"""

from __future__ import annotations

from optimum_htp.selections.formats.main_graph import MainGraphFormat

FORMAT = MainGraphFormat(
    use="a JSON list for names= of nncf.IgnoredScope, the ignored_scope of nncf.quantize",
    checked="nncf 3.4.0",
    without=frozenset(("Cast",)),
)
