"""What we write into a model's own metadata: a mark for each tagged graph, under keys that no other graph has.

| key of the model's `metadata_props` | value |
|---|---|
| `pkg.optimum_htp.tagged.<mark>` | JSON: `graph`, the digest of the graph; `keys`, those without our prefix that we wrote on nodes; `nodes`, how many were tagged; `roots`, the tags of the root modules |
| `pkg.optimum_htp.skeleton.<mark>` | the skeleton of the tagged graph, where it was not left out |
| `pkg.optimum_htp.cut_from.<digest>` | JSON: what an extracted part was cut from (`extracted`) |
| `pkg.optimum_htp.exposed.<digest>` | JSON: the names of outputs that were added (`exposed`) |
| `pkg.optimum_htp.renamed.<mark>` | JSON: the old names of initializers that we renamed, by their new ones |
| `pkg.optimum_htp.lengths.<digest>` | how wide lengths were that no serializer writes so (`onnxfile/headers.py`) |

The mark in the keys is a digest of their values. What puts two models together takes the metadata of both, and refuses a
key that has another value in each (`onnx.compose.merge_models`). Here equal keys have equal values: tagged files can be
merged, and a file tells by its marks what it was merged from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optimum_htp.hierarchy import root_tags
from optimum_htp.onnxfile import LENGTHS, OnnxModel, graph_digest
from optimum_htp.package.json_files import json_or_none
from optimum_htp.tagging import TaggedGraph

PREFIX = "pkg.optimum_htp."
"""What all our keys begin with, on nodes and on models."""

_TAGGED, _SKELETON, _RENAMED = (f"{PREFIX}{kind}." for kind in ("tagged", "skeleton", "renamed"))
CUT_FROM = f"{PREFIX}cut_from."
"""What an extracted part was cut from; what follows is a digest of the value."""

EXPOSED = f"{PREFIX}exposed."
"""The names of outputs that were added; what follows is a digest of the value."""

_MARK_CHARACTERS = 12  # of a digest; two marks that are the same by chance would only keep two files from being merged
_GRAPH_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Mark:
    """What a model's metadata says of one tagged graph in it.

    Attributes:
        graph: What tells the graph from others, a part of its digest; empty if that is not known any more.
        keys: The keys without our prefix that we wrote on its nodes; None if that is not known.
        nodes: How many nodes were tagged.
        roots: The tags of its root modules.
        skeleton: The packed skeleton, as `unpack_skeleton` takes it; None if there is none.
        renamed: The old names of initializers that we renamed, by their new ones.
    """

    graph: str
    keys: tuple[str, ...] | None
    nodes: int
    roots: tuple[str, ...]
    skeleton: str | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, graph: TaggedGraph, *, keys: Iterable[str] | None, skeleton: str | None, renamed: Mapping[str, str]
    ) -> Mark:
        """The mark of a tagged graph."""
        digest = graph_digest(graph.model)[:_GRAPH_CHARACTERS]
        roots = tuple(sorted(root_tags(graph.tags.values())))
        return cls(digest, None if keys is None else tuple(keys), len(graph.tags), roots, skeleton, renamed)

    def entries(self) -> dict[str, str]:
        """The metadata of a model that has this mark."""
        tagged = {"graph": self.graph, "keys": self.keys, "nodes": self.nodes, "roots": self.roots}
        values = {_TAGGED: _text(tagged)}
        if self.skeleton is not None:
            values[_SKELETON] = self.skeleton
        if self.renamed:
            values[_RENAMED] = _text(dict(self.renamed))
        mark = hashlib.sha256("\n".join(values.values()).encode("utf-8", "surrogateescape")).hexdigest()[
            :_MARK_CHARACTERS
        ]
        return {key + mark: value for key, value in values.items()}


def marks_of(model: OnnxModel) -> list[Mark]:
    """The marks in a model's metadata: one for each tagged graph that it was made of, in the order of the file."""
    found: dict[str, dict[str, str]] = {}
    for key, value in model.metadata.items():
        for kind in (_TAGGED, _SKELETON, _RENAMED):
            if key.startswith(kind):
                found.setdefault(key[len(kind) :], {})[kind] = value
    return list(map(_mark, found.values()))


def kept_skeleton(model: OnnxModel) -> str | None:
    """The packed skeleton in a model's metadata; None if there is none, or there are several."""
    marks = marks_of(model)
    return marks[0].skeleton if len(marks) == 1 else None


def _mark(values: Mapping[str, str]) -> Mark:
    tagged, renamed = (json_or_none(values.get(kind)) for kind in (_TAGGED, _RENAMED))
    tagged = tagged if isinstance(tagged, dict) else {}
    graph, keys, nodes = (tagged.get(name) for name in ("graph", "keys", "nodes"))
    return Mark(
        graph if isinstance(graph, str) else "",
        _texts(keys) if isinstance(keys, list) else None,
        nodes if type(nodes) is int else 0,
        _texts(tagged.get("roots")),
        values.get(_SKELETON) or None,
        {new: old for new, old in renamed.items() if isinstance(old, str)} if isinstance(renamed, dict) else {},
    )


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def entries_of(marks: Iterable[Mark]) -> dict[str, str]:
    """The metadata of a model that has these marks."""
    return {key: value for mark in marks for key, value in mark.entries().items()}


def is_mark(key: str) -> bool:
    """Whether a key of a model's metadata is part of a mark."""
    return key.startswith((_TAGGED, _SKELETON, _RENAMED))


def is_of_whole_file(key: str) -> bool:
    """Whether a key of a model's metadata says what is not true of a part of its graph."""
    return key.startswith((_SKELETON, CUT_FROM, EXPOSED, LENGTHS))
