"""Evidence in the node's own metadata: the module scopes that torch's dynamo exporter writes."""

from __future__ import annotations

import ast

from optimum_htp.hierarchy import NodeKey
from optimum_htp.tagging.evidence import Evidence, Owner


NAME_SCOPES = "pkg.torch.onnx.name_scopes"
# A list of dotted names; a longer one was not written by torch.
_LONGEST = 100_000


def decide(key: NodeKey, evidence: Evidence) -> Owner | None:
    """The module that `pkg.torch.onnx.name_scopes` names: the last item but one; the last is the node itself.

    The call is known where the module ran just once: torch does not write which call it was.
    """
    scopes = parse_name_scopes(evidence.nodes[key].metadata.get(NAME_SCOPES, ""))
    if len(scopes) < 2:
        return None
    path = evidence.trace.tree.find(scopes[-2])
    return Owner(path) if path is not None else None


def parse_name_scopes(text: str) -> list[str]:
    """The list that torch wrote with `repr`; empty for anything that is no flat list of strings.

    >>> parse_name_scopes("['', 'layers.0', 'linear']")
    ['', 'layers.0', 'linear']
    >>> parse_name_scopes("[[1]]")
    []
    """
    if not text.startswith("[") or len(text) > _LONGEST:
        return []
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else []
