"""What was selected, and how other tools take the names of nodes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import NodeKey
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.select.layer_annotations import layer_rules, layer_value


@dataclass(frozen=True, slots=True)
class SelectedNode:
    """A node that was selected.

    Attributes:
        graph: The path of its graph; `""` is the main graph.
        position: Where it stands in that graph.
        id: What identifies it in its graph (`onnxfile.node_id`).
        name: Its name; often not the only one of that name, and empty where it has none.
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


@dataclass(frozen=True, slots=True)
class FileSelection:
    """What was selected in one ONNX file.

    Attributes:
        name: The file's path in the package.
        modules: The tags of the modules that the patterns select, in the tree's order; those below are not listed.
        nodes: The nodes, in the graph's order.
        unknown_call: Nodes that were left out because it is not known which call of a selected module they are of.
        unresolved: Nodes of the file of which no module is known; they are never selected.
        other_names: The names of the nodes that were not selected.
        tagged: The file with the tags of all its nodes.
    """

    name: str
    modules: tuple[str, ...]
    nodes: tuple[SelectedNode, ...]
    unknown_call: int
    unresolved: int
    other_names: frozenset[str] = field(repr=False)
    tagged: TaggedGraph = field(repr=False, compare=False)

    @property
    def names(self) -> list[str]:
        """The names of the nodes, each once; nodes without a name are left out."""
        return list(dict.fromkeys(node.name for node in self.nodes if node.name))

    @property
    def unnamed(self) -> int:
        """How many of the nodes have no name, so that no tool that goes by names can be told of them."""
        return sum(not node.name for node in self.nodes)

    @property
    def fused(self) -> int:
        """How many of the nodes are selected only because they were fused from several modules."""
        return sum(node.fused for node in self.nodes)

    def ambiguous_names(self) -> list[str]:
        """The names that nodes bear which were not selected too; a tool that goes by names takes them as well."""
        return [name for name in self.names_for("ort-quantize") if name in self.other_names]

    def names_for(self, tool: str) -> list[str]:
        """The names of the nodes as a tool takes them.

        Args:
            tool: One of `NODE_NAME_FORMATS`.

        Raises:
            KeyError: It is none of them.

        Example:
            >>> selection = select("bert_onnx", "*.attention").files[0]                       # doctest: +SKIP
            >>> AutoQuantizationConfig.avx2(                                                  # doctest: +SKIP
            ...     is_static=False, nodes_to_exclude=selection.names_for("ort-quantize")
            ... )
        """
        return NODE_NAME_FORMATS[tool](self)

    def layer_values(self) -> dict[NodeKey, str]:
        """The `layer_ann` of every node of the file whose module is known."""
        return {key: layer_value(tag.tag) for key, tag in self.tagged.tags.items() if tag.source != "unresolved"}

    def layer_rules(self) -> list[str]:
        """What selects the nodes by their `layer_ann`, as `session.layer_assignment_settings` takes it.

        Raises:
            PackageError: Nodes that were selected have the same `layer_ann` as others that were not.
        """
        selected = {(node.graph, node.position) for node in self.nodes}
        rules, mixed = layer_rules(self.layer_values(), selected)
        if mixed:
            raise PackageError(
                f"{self.name}: some of the nodes of the layer {mixed!r} are selected and some are not, which layer "
                "annotations can't express: select whole modules, without calls or with --no-fused"
            )
        return rules

    def layer_setting(self, device: str = "gpu") -> str:
        """The value of ONNX Runtime's session option `session.layer_assignment_settings` for the nodes.

        Args:
            device: ONNX Runtime's name for a kind of device: `cpu`, `gpu`, `cuda`, `npu`, `gpu:1`, ...

        Raises:
            PackageError: Layer annotations can't express the selection, or the device is no name.
        """
        if not device.strip() or set(device) & set("();,="):
            raise PackageError(f"{device!r} is no device of ONNX Runtime: give one such as cpu, gpu, npu or gpu:1")
        return f"{device}({', '.join(self.layer_rules())})"


@dataclass(frozen=True, slots=True)
class Selection:
    """What patterns select in a package.

    Attributes:
        package: Its path.
        patterns: The patterns.
        files: The files that have selected nodes.
    """

    package: str
    patterns: tuple[str, ...]
    files: tuple[FileSelection, ...]


def _names(file: FileSelection) -> list[str]:
    return file.names


def _names_in_quantizer(file: FileSelection) -> list[str]:
    """The names that the nodes have inside ONNX Runtime's quantizer.

    For dynamic quantization it first makes every Gemm a MatMul of another name and an Add, for static it doesn't.
    https://github.com/microsoft/onnxruntime/blob/v1.23.0/onnxruntime/python/tools/quantization/onnx_model.py
    """
    names: dict[str, None] = {}
    for node in file.nodes:
        if node.name:
            names[node.name] = None
            if node.operator == "Gemm":
                names[f"{node.name}_MatMul"] = None
    return list(names)


def _fnmatch_names(file: FileSelection) -> list[str]:
    return [re.sub(r"([*?[])", r"[\1]", name) for name in file.names]


def _regular_names(file: FileSelection) -> list[str]:
    """Regular expressions of which each matches one name: `re.match` takes what begins like it, too, without the end."""
    return [f"{re.escape(name)}$" for name in file.names]


NODE_NAME_FORMATS: Mapping[str, Callable[[FileSelection], list[str]]] = {
    "names": _names,
    "ort-quantize": _names_in_quantizer,
    "ort-fp16": _names,
    "olive": _fnmatch_names,
    "modelopt": _regular_names,
}
"""How tools take the names of nodes, by the name of the format."""
