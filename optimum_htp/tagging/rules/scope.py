"""Evidence in the exporter's own scopes: the module call during which a value was made."""

from __future__ import annotations

from optimum_htp.hierarchy import NodeKey
from optimum_htp.tagging.rules.evidence import Evidence, Owner, call_owner


def decide(key: NodeKey, evidence: Evidence) -> Owner | None:
    """The call that the trace recorded for a value that the node writes.

    A node in a body, of a scripted `if` for example, has no scope of its own: it ran in its holder's.
    """
    scopes = evidence.trace.scopes
    for name in evidence.nodes[key].outputs:
        if name in scopes:
            return call_owner(evidence.trace, scopes[name])
    holder = evidence.enclosing(key)
    if holder is not None and evidence.sources.get(holder) == "scope":
        return evidence.owners[holder]
    return None
