"""Module paths and tags: how a module of a PyTorch model is named in an ONNX file.

A *tag* spells the path from the root module to one module, a segment for each module on the way:
`/Net/Encoder.encoder/Block.layer.0/Linear.query`. The root's segment is its class; every other segment is
`Class.attribute`. Containers without a forward of their own (`nn.ModuleList`, `nn.ModuleDict`) have no segment above
others: their name goes in front of their child's (`Block.layer.0`). Joining the attributes with dots gives the path
that `torch.nn.Module.get_submodule` takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from urllib.parse import unquote

ModulePath = tuple[str, ...]
"""The registered names from the root down to a module; `()` is the root itself."""

# The separators of segments and of names, the escape itself, and control characters: a tag is one line.
_RESERVED = re.compile(r"[%/.\x00-\x1f\x7f]")


def escape_name(name: str) -> str:
    """Percent-encodes what a tag would take for structure in a registered name or the name of a class.

    >>> escape_name("a/b.c"), escape_name("layer")
    ('a%2Fb%2Ec', 'layer')
    """
    return _RESERVED.sub(lambda match: f"%{ord(match.group()):02X}", name)


def split_tag(tag: str) -> list[str]:
    """The segments of a tag, root first.

    >>> split_tag("/Net/Block.layer.0")
    ['Net', 'Block.layer.0']
    """
    return tag[1:].split("/")


def tag_module_path(tag: str) -> str:
    """The dotted module path that a tag names, as `torch.nn.Module.get_submodule` takes it; `""` is the root.

    >>> tag_module_path("/Net/Encoder.encoder/Block.layer.0")
    'encoder.layer.0'
    """
    attributes = (segment.split(".", 1)[1] for segment in split_tag(tag)[1:])
    return unquote(".".join(attributes))


def tag_class(tag: str) -> str:
    """The class name of the module that a tag names.

    >>> tag_class("/Net/Block.layer.0")
    'Block'
    """
    return unquote(tag.rsplit("/", 1)[1].split(".", 1)[0])


def tag_ancestors(tag: str) -> Iterator[str]:
    """The tags of every module on the way from the root down to the tag itself.

    >>> list(tag_ancestors("/Net/Block.layer.0"))
    ['/Net', '/Net/Block.layer.0']
    """
    position = tag.find("/", 1)
    while position > 0:
        yield tag[:position]
        position = tag.find("/", position + 1)
    yield tag


def common_ancestor(tags: Iterable[str]) -> str:
    """The tag of the lowest module that contains all the given ones; raises ValueError if there is none.

    >>> common_ancestor(["/Net/A.a/B.x", "/Net/A.a/B.y"])
    '/Net/A.a'
    """
    columns = zip(*map(split_tag, tags), strict=False)
    shared = [segments[0] for segments in takewhile(lambda segments: len(set(segments)) == 1, columns)]
    if not shared:
        raise ValueError("no tags, or tags of different models, have no common ancestor")
    return "/" + "/".join(shared)


@dataclass(frozen=True, slots=True)
class NodeTag:
    """What is known of one node of an ONNX graph.

    Attributes:
        tag: The module that the node came from.
        source: The evidence that decided it, one of `SOURCES`.
        call: The 0-based index of the owning module's call, where the module ran more than once and one call owns
            the node; else None.
        origins: The tags of every module that the node came from, where there are several.
    """

    tag: str
    source: str
    call: int | None = None
    origins: tuple[str, ...] = ()


def module_tags(tags: Iterable[NodeTag]) -> dict[str, None]:
    """The tags of the modules that nodes came from, their origins included, each once and in order."""
    return dict.fromkeys(name for tag in tags for name in (tag.tag, *tag.origins))


def root_tags(tags: Iterable[NodeTag]) -> set[str]:
    """The tags of the root modules that nodes came from, their origins included."""
    return {next(tag_ancestors(name)) for name in module_tags(tags)}


SOURCES = ("metadata", "scope", "parameter", "dataflow", "fused", "inserted", "unresolved")
"""The kinds of evidence, in the order in which they are tried; `unresolved` is the absence of any."""

NodeKey = tuple[str, int]
"""A node of an ONNX model: the path of its graph (`""` is the main graph) and its index there."""

NodeTags = Mapping[NodeKey, NodeTag]
