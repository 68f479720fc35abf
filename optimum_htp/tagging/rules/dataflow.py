"""Evidence in the data flow: who reads what a node writes, and, failing that, whose values it reads."""

from __future__ import annotations

from optimum_htp.hierarchy import NodeKey
from optimum_htp.tagging.rules.evidence import Evidence, Owner


def decide_by_consumers(key: NodeKey, evidence: Evidence) -> Owner | None:
    """The lowest module that contains all the nodes that read the node's outputs."""
    if key in evidence.doubtful or evidence.readers_in_doubt(key):
        evidence.doubtful.add(key)
        return None
    return evidence.common(evidence.consumer_owners(key))


def decide_by_producers(key: NodeKey, evidence: Evidence) -> Owner | None:
    """For a node that nothing reads, the lowest module that contains what it reads, else its holder's owner.

    What hands an input of the graph on as an output, and is nobody's work, is the root's: the exporter puts it there.
    """
    if key in evidence.doubtful or evidence.writers_in_doubt(key):
        evidence.doubtful.add(key)
        return None
    owner = evidence.common(evidence.producer_owners(key))
    holder = evidence.enclosing(key)
    if owner is None and holder is not None:
        owner = evidence.owners.get(holder)
    if owner is None and evidence.is_returned(key):
        owner = Owner(())
    return owner
