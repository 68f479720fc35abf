"""Which modules the kernels are of that a provider compiled from many nodes.

Such a kernel has a name of the provider's making. ONNX Runtime says which nodes it gave to a provider together, in the order
in which it made kernels of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optimum_htp.hierarchy import NodeKey, NodeTag, common_ancestor
from optimum_htp.models import DEFAULT_PROVIDER
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.profile.joiner import Event
from optimum_htp.verbs.profile.runs import Assigned


@dataclass(frozen=True, slots=True)
class Compiled:
    """A kernel that stands for many nodes: how many, and whose they are; None if that is not known."""

    nodes: int
    tag: NodeTag | None


def compiled_kernels(
    events: Iterable[tuple[Event, NodeKey | None]], assigned: Sequence[Assigned], tagged: TaggedGraph
) -> dict[str, Compiled]:
    """The kernels of a run that were compiled, by their names; none where it is not clear which nodes they stand for."""
    kernels: dict[str, dict[int, str]] = {}
    for event, key in events:
        if event.provider not in ("", DEFAULT_PROVIDER):
            names = kernels.setdefault(event.provider, {})
            if key is None:
                names[event.index] = event.name
    found: dict[str, Compiled] = {}
    tags = _tags_by_name(tagged)
    for provider, by_index in kernels.items():
        parts = [part for part in assigned if part.provider == provider]
        if len(parts) == len(by_index):
            for (_, name), part in zip(sorted(by_index.items()), parts, strict=True):
                found[name] = Compiled(
                    len(part.nodes), _tag([tag for each in part.nodes for tag in tags.get(each, ())])
                )
    return found


def _tags_by_name(tagged: TaggedGraph) -> Mapping[str, list[str]]:
    """The modules of nodes with a name, in all graphs."""
    tags: dict[str, list[str]] = {}
    for key, node in tagged.model.nodes():
        tag = tagged.tags.get(key)
        if node.name and tag is not None and tag.source != "unresolved":
            tags.setdefault(node.name, []).extend(tag.origins or (tag.tag,))
    return tags


def _tag(modules: Sequence[str]) -> NodeTag | None:
    """The lowest module that contains all of some, which are its origins."""
    origins = tuple(dict.fromkeys(modules))
    try:
        return NodeTag(common_ancestor(origins), "fused", None, origins if len(origins) > 1 else ())
    except ValueError:  # none, or of several models
        return None
