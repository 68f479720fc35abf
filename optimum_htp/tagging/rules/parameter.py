"""Evidence in a parameter's name: de-duplicated initializers come as nodes that write a parameter."""

from __future__ import annotations

from optimum_htp.hierarchy import NodeKey
from optimum_htp.tagging.rules.evidence import Evidence, Owner


def decide(key: NodeKey, evidence: Evidence) -> Owner | None:
    """The module that holds the parameter or buffer that the node writes.

    Where all that read it run in one call of that very module, the owner is that call, by the name it was called by.
    """
    trace = evidence.trace
    for name in evidence.nodes[key].outputs:
        holder = trace.tensors.get(name)
        if holder is not None:
            if trace.tree.module(holder).aliases and evidence.readers_in_doubt(key):
                evidence.doubtful.add(key)  # by which of its names it was called is not known
                return None
            reader = evidence.common(evidence.consumer_owners(key))
            if reader is not None and trace.tree.module(reader.path) is trace.tree.module(holder):
                return reader
            return Owner(holder)
    return None
