"""What the sidecar says of one ONNX file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from optimum_htp.hierarchy import NodeKey, NodeTag, NodeTags, Roots, split_tag
from optimum_htp.onnxfile import OnnxModel, graph_digest, node_id
from optimum_htp.tagging import TaggedGraph


@dataclass(frozen=True, slots=True)
class TagCounts:
    """How the nodes of a graph were tagged.

    Attributes:
        nodes: All nodes, those of bodies and functions included.
        tagged: Nodes whose owner is known.
        unresolved: Nodes of which nothing is known; they carry the root's tag.
        root_by_dataflow: Of the tagged ones, those that only data flow leaves at the root.
        by_source: Nodes by the kind of evidence that decided them, unresolved ones included.
    """

    nodes: int
    tagged: int
    unresolved: int
    root_by_dataflow: int
    by_source: dict[str, int]

    @classmethod
    def of(cls, tags: Iterable[NodeTag]) -> TagCounts:
        """Counts tags."""
        tags = list(tags)
        by_source = Counter(tag.source for tag in tags)
        at_root = sum(tag.source == "dataflow" and len(split_tag(tag.tag)) == 1 for tag in tags)
        unresolved = by_source["unresolved"]
        return cls(len(tags), len(tags) - unresolved, unresolved, at_root, dict(sorted(by_source.items())))


@dataclass(frozen=True, slots=True)
class Derivation:
    """What an initializer was made of, and how; `ParameterRow` says what each word means.

    Attributes:
        parameters: The parameters and buffers that it was made of; the one that it is named after comes first.
        changes: What was done to them, in order.
        duplicates: Other parameters that it stands for, because they have the same values.
        scale: The initializers whose product is the scale of a quantized one.
        zero_point: The initializer with its zero point; None if there is none.
    """

    parameters: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    scale: tuple[str, ...] = ()
    zero_point: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredParameter(Derivation):
    """An initializer and what it was made of, as the sidecar has it.

    Attributes:
        graph: The path of the graph that it belongs to.
        name: Its name.
        kind: `"parameter"`, `"constant"` or `"unknown"`.
    """

    graph: str
    name: str
    kind: str = "parameter"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What the sidecar says of one ONNX file: a tagged graph, serialized.

    Attributes:
        digest: `onnxfile.graph_digest` of the graph that was tagged.
        roots: The root modules; one, unless a file was merged from exports of different modules.
        tags: A tag for each node.
        node_ids: What identifies each node within its graph (`onnxfile.node_id`).
        parameters: The parameters that its initializers were made of, if that was asked for.
        renamed: The old names of initializers that were renamed, by their new ones.
    """

    digest: str
    roots: Roots
    tags: NodeTags
    node_ids: Mapping[NodeKey, str]
    parameters: tuple[StoredParameter, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: TaggedGraph) -> FileRecord:
        """Records a tagged graph."""
        ids = {key: node_id(node, key[1]) for key, node in graph.model.nodes()}
        return cls(graph_digest(graph.model), graph.roots, graph.tags, ids)

    def tagged(self, model: OnnxModel) -> TaggedGraph:
        """The tagged graph again, for the graph that it is of."""
        return TaggedGraph(model, self.tags, self.roots)

    def describes(self, model: OnnxModel) -> bool:
        """Whether it is of just this graph."""
        return self.tags.keys() == {key for key, _ in model.nodes()} and self.digest == graph_digest(model)

    def keeping(self, earlier: FileRecord | None) -> FileRecord:
        """The record, with what an earlier one says of the file's initializers.

        Of a graph that was changed since, only the old names of what was renamed: its initializers may be others now.
        """
        if earlier is None:
            return self
        parameters = earlier.parameters if earlier.digest == self.digest else ()
        return replace(self, parameters=parameters, renamed=earlier.renamed)

    @property
    def counts(self) -> TagCounts:
        """How the nodes were tagged."""
        return TagCounts.of(self.tags.values())
