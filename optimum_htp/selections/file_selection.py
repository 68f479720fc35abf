"""What is selected in one file."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from optimum_htp.hierarchy import NodeKey, NodeTag, NodeTags
from optimum_htp.onnxfile import OnnxModel, node_id
from optimum_htp.reports import Brief
from optimum_htp.selections.layer_annotations import check_device, layer_rules, layer_value
from optimum_htp.tagging import TaggedGraph


@dataclass(frozen=True, slots=True)
class SelectedNode:
    """A node that is selected.

    Attributes:
        graph: The path of its graph; `""` is the main graph.
        position: Its index in that graph.
        id: Its identity in that graph (`onnxfile.node_id`).
        name: Its name, which other nodes may have too; empty where it has none.
        operator: Its operator, with the domain in front where that is not ONNX's.
        tag: The tag of the module that owns it.
        call: The 0-based index of the owner's call, where the owner ran more than once and one call owns the node.
        fused: Whether it is selected only because it was fused from modules of which one is selected.
    """

    graph: str
    position: int
    id: str
    name: str
    operator: str
    tag: str
    call: int | None
    fused: bool


@dataclass(frozen=True, slots=True, repr=False)
class FileSelection(Brief):
    """What is selected in one ONNX file.

    Attributes:
        name: The file's path in the package.
        modules: The tags of the modules that the patterns match, in the tree's order, without those below them.
        nodes: The nodes, in the graph's order.
        unknown_call: How many nodes were left out because it is unknown which call of a selected module they are of.
        unresolved: How many others of the file have no known module; `select` selects none of those.
        other_names: The names of the nodes that are not selected.
        tags: The tags of all nodes of the file.
        model: The file's graph.
    """

    name: str
    modules: tuple[str, ...]
    nodes: tuple[SelectedNode, ...]
    unknown_call: int
    unresolved: int
    other_names: frozenset[str] = field(repr=False)
    tags: NodeTags = field(repr=False)
    model: OnnxModel = field(repr=False)

    @property
    def names(self) -> list[str]:
        """The names of the nodes, each once; nodes without a name are left out."""
        return list(dict.fromkeys(node.name for node in self.nodes if node.name))

    @property
    def unnamed(self) -> int:
        """How many of the nodes have no name."""
        return sum(not node.name for node in self.nodes)

    @property
    def fused(self) -> int:
        """How many of the nodes are selected only because they were fused from several modules."""
        return sum(node.fused for node in self.nodes)

    def ambiguous_names(self) -> list[str]:
        """The names that nodes have, too, that are not selected; a tool that goes by names takes these as well."""
        return [name for name in self.names if name in self.other_names]

    def notes(self) -> Iterator[str]:
        """What to know before the nodes are handed to a tool, a line for each thing."""
        if self.unresolved:
            yield f"{counted(self.unresolved)} whose module is not known can't be selected"
        if self.unknown_call:
            yield f"left out {counted(self.unknown_call)} whose call is not known"
        if self.fused:
            yield (
                f"{counted(self.fused)} fused from a selected module and others are among them; --no-fused leaves "
                "them out"
            )

    def to_dict(self) -> dict[str, Any]:
        """The file as JSON."""
        return {
            "modules": list(self.modules),
            "names": self.names,
            "unnamed": self.unnamed,
            "fused": self.fused,
            "unknown_call": self.unknown_call,
            "unresolved": self.unresolved,
            "ambiguous_names": self.ambiguous_names(),
            "nodes": [asdict(node) for node in self.nodes],
        }

    def layer_values(self) -> dict[NodeKey, str]:
        """The `layer_ann` of every node of the file whose module is known."""
        return {key: layer_value(tag.tag) for key, tag in self.tags.items() if tag.source != "unresolved"}

    def layer_setting(self, device: str = "gpu") -> str:
        """The value of ONNX Runtime's session option `session.layer_assignment_settings` for the nodes.

        Args:
            device: ONNX Runtime's name for a kind of device: `cpu`, `gpu`, `cuda`, `npu`, `gpu:1`, ...

        Raises:
            PackageError: Layer annotations can't express the selection, or the device is not a name.
        """
        check_device(device)
        selected = {(node.graph, node.position) for node in self.nodes}
        return f"{device}({', '.join(layer_rules(self.layer_values(), selected, where=self.name))})"


def selection_of(
    file: TaggedGraph,
    nodes: Mapping[NodeKey, bool],
    modules: Container[str],
    *,
    unknown_call: int = 0,
) -> FileSelection:
    """Some nodes of a file, as tools are given them.

    Args:
        file: The file.
        nodes: The nodes, and of each whether it is there only because it was fused from several modules.
        modules: The tags of the modules whose they are.
        unknown_call: How many nodes were left out because it is unknown which call they are of.
    """
    chosen: list[SelectedNode] = []
    others: set[str] = set()
    unresolved = 0
    for key, node in file.model.nodes():
        tag = file.tags.get(key) or NodeTag("/", "unresolved")
        if key not in nodes:
            unresolved += tag.source == "unresolved"
            others.add(node.name)
            continue
        graph, index = key
        chosen.append(
            SelectedNode(
                graph=graph,
                position=index,
                id=node_id(node, index),
                name=node.name,
                operator=node.operator,
                tag=tag.tag,
                call=tag.call,
                fused=nodes[key],
            )
        )
    in_order = (tree.tag(info.path) for tree in file.trees for info in tree)
    return FileSelection(
        name=file.name,
        modules=tuple(tag for tag in in_order if tag in modules),
        nodes=tuple(chosen),
        unknown_call=unknown_call,
        unresolved=unresolved,
        other_names=frozenset(others),
        tags=file.tags,
        model=file.model,
    )


def counted(nodes: int) -> str:
    """A number of nodes in words.

    >>> counted(1), counted(2000)
    ('1 node', '2,000 nodes')
    """
    return f"{nodes:,} {'node' if nodes == 1 else 'nodes'}"
