"""The value of `namespace` on nodes: the boxes that Model Explorer draws around each of them.

Its ONNX adapter splits the value at each `/` and draws a box for each part; where a node has none, it splits the node's
name. The value here has a part for each module around the node, and the root's none, as the adapter draws the graph itself:

    encoder: AlbertTransformer/layer: AlbertLayer@1/attention: AlbertAttention@1

`@1` is the 0-based index of the call, where the module ran more than once and one of its calls made the node. Where a file
has several roots, their classes come first.

The adapter draws what is in the bodies of an `If` inside the box of that `If`, so what is said there is where a node lies
from the module of the `If`. Bodies of other operators, and functions, are drawn as graphs of their own; in a function that
stands for modules, what is said is where a node lies from those.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from optimum_htp.hierarchy import NodeKey, NodeTag, root_tags, split_tag, tag_ancestors
from optimum_htp.onnxfile import body_path
from optimum_htp.tagging import TaggedGraph

_CALL = re.compile(r"@\d+")


class Namespaces:
    """The namespaces of the nodes of a tagged graph."""

    def __init__(self, graph: TaggedGraph) -> None:
        self._tags = graph.tags
        self._roots = graph.roots
        self._first = 0 if len(root_tags(graph.tags.values())) > 1 else 1
        # Of functions that stand for modules, what calls them first.
        self._callers = {path: tags[0] for path, tags in graph.callers().items() if tags and tags[0].source == "fused"}
        self._known: dict[tuple[str, int | None], list[str]] = {}
        self._around: dict[str, NodeKey] = {
            body_path(path, index, element): (path, index)
            for (path, index), node in graph.model.nodes()
            if node.bodies and node.operator == "If"
            for element, _ in node.bodies
        }

    def value(self, place: NodeKey, tag: NodeTag) -> str:
        """The namespace of a node with a tag. Raises KeyError if no root has the module."""
        caller = self._callers.get(place[0].partition("/")[0]) if self._callers else None
        around = self._tags.get(self._around[place[0]]) if place[0] in self._around else None
        if caller is not None:
            tag = self._roots.inside(tag, caller)
            around = caller if around is None else self._roots.inside(around, caller)
        parts = self._parts(tag)
        if around is not None:
            outer = self._parts(around)
            if parts[: len(outer)] == outer:
                parts = parts[len(outer) :]
        return "/".join(parts)

    def _parts(self, tag: NodeTag) -> list[str]:
        parts = self._known.get((tag.tag, tag.call))
        if parts is None:
            above = list(tag_ancestors(tag.tag))[self._first :]
            parts = self._known[tag.tag, tag.call] = [self._part(tag, module) for module in above]
        return parts

    def _part(self, tag: NodeTag, above: str) -> str:
        """The module `above`, which is that of the tag or one around it."""
        module = self._roots.module(above)
        if module is None:
            raise KeyError(above)
        call = tag.call if above == tag.tag else None
        if call is None and module.calls > 1:
            call = self._roots.call_above(tag, above)
        return _label(above) + (f"@{call}" if call is not None else "")


def _label(tag: str) -> str:
    """The last module of a tag, as it is called in its box.

    >>> _label("/Net/Block.layer.0"), _label("/Net")
    ('layer.0: Block', 'Net')
    """
    class_name, _, names = split_tag(tag)[-1].partition(".")
    # An escaped slash and what separates several namespaces, to those who draw it.
    label = f"{names}: {class_name}" if names else class_name
    return label.replace(";", "%3B").replace("\\", "%5C")


def says_the_tag(namespace: str, tag: str) -> bool:
    """Whether a namespace may be ours, by the tag of its node: in this form, or in the one before, which was torch's.

    >>> says_the_tag("layer.0: Block@1", "/Net/Block.layer.0"), says_the_tag("layer.1: Block", "/Net/Block.layer.0")
    (True, False)
    >>> says_the_tag(": my.Net/layer.0: my.Block", "/Net/Block.layer.0")
    True
    """
    labels = list(map(_label, tag_ancestors(tag)))
    parts = namespace.split("/") if namespace else []
    inner = labels[max(len(labels) - len(parts), 0) :]
    ours = len(inner) == len(parts) and all(map(_has_label, parts, inner))
    return ours or _is_torchs(namespace, tag)


def _has_label(part: str, label: str) -> bool:
    return part == label or (part.startswith(label) and _CALL.fullmatch(part, len(label)) is not None)


def qualified_classes(namespace: str) -> list[str]:
    """The classes in a namespace as torch writes it, root first."""
    return [part.rpartition(": ")[2] for part in namespace.split("/")]


def _is_torchs(namespace: str, tag: str) -> bool:
    """Whether a namespace has the dotted path, and the names of the classes, that a tag spells."""
    segments = split_tag(tag)
    path = ".".join(segment.partition(".")[2] for segment in segments[1:])
    classes = [name.rpartition(".")[2] for name in qualified_classes(namespace)]
    last = namespace.rpartition("/")[2].rpartition(": ")[0]
    is_torchs = namespace.startswith(": ") and unquote(last) == unquote(path)
    return is_torchs and classes == [unquote(each.partition(".")[0]) for each in segments]
