"""Which nodes belong to the modules that patterns select, in the form that the next tool wants.

The patterns are those of `optimum_htp.patterns`; one that starts with `!` takes away. A node belongs to a module if the
module or one below owns it. A node that a tool fused from several modules belongs to each of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from optimum_htp.annotations import check_layer_annotations, write_layer_annotations
from optimum_htp.errors import PackageError
from optimum_htp.extraction.choosing import CallsOf
from optimum_htp.hierarchy import ModulePath, ModuleTree, NodeKey, NodeTag
from optimum_htp.layer_annotations import layer_rules, layer_value
from optimum_htp.onnxfile import node_id
from optimum_htp.package import HtpFile, HtpPackage
from optimum_htp.patterns import ModulePattern, near_names
from optimum_htp.tagged import TaggedFile, tagged_file


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
    tagged: TaggedFile = field(repr=False, compare=False)

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

    def layer_rules(self) -> list[str]:
        """What selects the nodes by their `layer_ann`, as `session.layer_assignment_settings` takes it.

        Raises:
            PackageError: Nodes that were selected have the same `layer_ann` as others that were not.
        """
        selected = {(node.graph, node.position) for node in self.nodes}
        rules, mixed = layer_rules(_layer_values(self.tagged), selected)
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


def select(
    package: str | Path | HtpPackage,
    patterns: str | Sequence[str],
    *,
    file: str | None = None,
    own: bool = False,
    fused: bool = True,
) -> Selection:
    """Selects the nodes of modules.

    Args:
        package: A package, or the path of one or of an ONNX file.
        patterns: One pattern or several, whose nodes come together; the nodes of one that starts with `!` are left
            out. `optimum_htp.patterns` says what a pattern is.
        file: The files to select in, by a glob over their path in the package; None means all.
        own: Select only what the modules own themselves, not what modules below them own.
        fused: Select nodes that were fused from modules of which some are selected and some are not.

    Returns:
        The nodes of each file that has any.

    Raises:
        PackageError: A file is not tagged, a pattern selects no module, or none of the modules has nodes.
        HtpError: A pattern is none, or a file is no ONNX model.

    Example:
        >>> select("bert_onnx", ["*.layer.0-2", "!LayerNorm"]).files[0].names   # doctest: +SKIP
    """
    opened = package if isinstance(package, HtpPackage) else HtpPackage(package)
    written = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    chosen = [_Chooser(each, written, _places(opened.files[each.name], each)) for each in _files(opened, file)]
    for position, pattern in enumerate(written):
        if not any(each.modules[position] for each in chosen):
            raise PackageError(f"{opened.path}: no module matches {pattern!r}; {_advice(pattern, chosen)}")
    selected = [each.choose(own=own, fused=fused) for each in chosen]
    found = tuple(each for each in selected if each.nodes)
    if not found:
        raise PackageError(f"{opened.path}: {_nothing(written, selected, own=own)}")
    return Selection(str(opened.path), written, found)


def annotate_layers(selection: Selection) -> list[str]:
    """Writes ONNX Runtime's `layer_ann` on every node, of the selected files, whose module is known.

    The value is the path of the module: `encoder/layer.0/attention`, and `.` for the root. `strip` takes it away again.

    Returns:
        The files that were written, by their path in the package.

    Raises:
        PackageError: A node has a `layer_ann` that something else wrote, or layer annotations can't express the
            selection; nothing was written.
        HtpError: A file could not be written; it stays as it is.
    """
    for file in selection.files:
        file.layer_rules()
        check_layer_annotations(file.tagged.model)
    for file in selection.files:
        write_layer_annotations(file.tagged.model, _layer_values(file.tagged))
    return [file.name for file in selection.files]


def _files(package: HtpPackage, pattern: str | None) -> list[TaggedFile]:
    names = [name for name in package.files if pattern is None or name == pattern or fnmatchcase(name, pattern)]
    if not names:
        raise PackageError(f"{package.path}: no ONNX file is called {pattern!r}; there is {', '.join(package.files)}")
    return [tagged_file(package.files[name], package=package) for name in names]


def _places(file: HtpFile, tagged: TaggedFile) -> list[str]:
    """Where each root sits in the whole model; `""` where it is the model, or where that is not known."""
    if file.record is None or file.record.trees != tagged.trees:
        return [""] * len(tagged.trees)
    return [place or "" for place in file.record.roots_in_model]


def _layer_values(tagged: TaggedFile) -> dict[NodeKey, str]:
    return {key: layer_value(tag.tag) for key, tag in tagged.tags.items() if tag.source != "unresolved"}


def _advice(text: str, chosen: Sequence[_Chooser]) -> str:
    trees = [tree for each in chosen for tree in each.file.trees]
    pattern = ModulePattern.parse(text.removeprefix("!"))
    if pattern.calls is not None:
        most = max((info.calls for tree in trees for info in tree.select(replace(pattern, calls=None))), default=0)
        if most:
            ran = "once, which is call 0" if most == 1 else f"{most} times, which are the calls 0 to {most - 1}"
            return f"without the call it does; such a module ran {ran}"
    near = near_names(
        pattern,
        paths=dict.fromkeys(".".join(path) for tree in trees for info in tree for path in (info.path, *info.aliases)),
        classes=dict.fromkeys(info.class_name for tree in trees for info in tree if info.class_name),
        tags=dict.fromkeys(tree.tag(info.path) for tree in trees for info in tree),
    )
    listing = "`optimum-cli htp tree` lists the modules"
    return f"did you mean {' or '.join(map(repr, near))}? {listing}" if near else listing


def _nothing(patterns: Sequence[str], files: Sequence[FileSelection], *, own: bool) -> str:
    """Why there is no node, where there are modules."""
    unknown = sum(file.unknown_call for file in files)
    what = " ".join(map(repr, patterns))
    if unknown:
        return f"it is not known which nodes are of the calls that {what} selects ({unknown} may be)"
    if any(pattern.startswith("!") for pattern in patterns):
        return f"{what} leaves no node"
    if own:
        return f"no module that {what} selects owns nodes itself; leave --own out"
    modules = sum(len(file.modules) for file in files)
    if modules == 1:
        return f"{what} selects a module that no node comes from, as from a Dropout"
    return f"{what} selects {modules} modules that no node comes from, as from a Dropout"


_Module = tuple[int, ModulePath]


class _Chooser:
    """The modules and nodes that patterns select in one file.

    Attributes:
        file: The file.
        modules: For each pattern the modules: the position of the tree, and the first of the module's paths.
    """

    def __init__(self, file: TaggedFile, patterns: Sequence[str], above: Sequence[str]) -> None:
        self.file = file
        self._patterns = [(text.startswith("!"), ModulePattern.parse(text.removeprefix("!"))) for text in patterns]
        self.modules: list[dict[_Module, None]] = []
        for _, pattern in self._patterns:
            found: dict[_Module, None] = {}
            for index, tree in enumerate(file.trees):
                found |= {(index, info.path): None for info in tree.select(pattern, above=above[index])}
            self.modules.append(found)
        self._chains: dict[str, tuple[_Module, ...]] = {}
        self._calls: dict[_Module, Mapping[NodeKey, int | None]] = {}

    def choose(self, *, own: bool, fused: bool) -> FileSelection:
        """Selects the nodes."""
        nodes: list[SelectedNode] = []
        others: set[str] = set()
        unknown = unresolved = 0
        for path, graph in self.file.model.graphs():
            for position, node in enumerate(graph.nodes):
                tag = self.file.tags.get((path, position)) or NodeTag("/", "unresolved")
                unresolved += tag.source == "unresolved"
                how = self._how((path, position), tag, own=own, fused=fused)
                unknown += how == "unknown"
                if how not in ("owned", "fused"):
                    others.add(node.name)
                    continue
                operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
                identity = node_id(node, position)
                nodes.append(
                    SelectedNode(path, position, identity, node.name, operator, tag.tag, tag.call, how == "fused")
                )
        return FileSelection(
            self.file.name, self._tags(), tuple(nodes), unknown, unresolved, frozenset(others), self.file
        )

    def _tags(self) -> tuple[str, ...]:
        added = [found for (negated, _), found in zip(self._patterns, self.modules, strict=True) if not negated]
        wanted = {module for found in added for module in found}
        ordered = ((index, info.path) for index, tree in enumerate(self.file.trees) for info in tree)
        return tuple(self.file.trees[index].tag(path) for index, path in ordered if (index, path) in wanted)

    def _how(self, key: NodeKey, tag: NodeTag, *, own: bool, fused: bool) -> str:
        """Whether a node is selected: `"owned"`, `"fused"`, `"unknown"` or `""`."""
        if tag.source == "unresolved":
            return ""
        how = "" if any(not negated for negated, _ in self._patterns) else "owned"
        for (negated, pattern), modules in zip(self._patterns, self.modules, strict=True):
            found = self._match(key, tag, pattern, modules, own=own, fused=fused)
            if negated:
                if found in ("owned", "fused"):
                    return ""
            elif found and how != "owned":
                how = max(how, found, key=("", "unknown", "fused", "owned").index)
        return how

    def _match(
        self,
        key: NodeKey,
        tag: NodeTag,
        pattern: ModulePattern,
        modules: Mapping[_Module, None],
        *,
        own: bool,
        fused: bool,
    ) -> str:
        chain = self._chain(tag.tag)
        holders = [module for module in (chain[-1:] if own else chain) if module in modules]
        if pattern.calls is not None:
            calls = [self._call(key, module) for module in holders]
            first, last = pattern.calls
            if any(call is not None and first <= call <= last for call in calls):
                return "owned"
            return "unknown" if None in calls else ""
        if holders:
            return "owned"
        origins = tag.origins if fused else ()
        chains = (self._chain(origin) for origin in origins)
        return "fused" if any(module in modules for each in chains for module in (each[-1:] if own else each)) else ""

    def _call(self, key: NodeKey, module: _Module) -> int | None:
        """Which call of a module a node at or below it is of."""
        if module not in self._calls:
            index, path = module
            tree = self.file.trees[index]
            info = tree.module(path)
            below = {each: tag for each, tag in self.file.tags.items()
                     if tag.source != "unresolved" and module in self._chain(tag.tag)}  # fmt: skip
            calls = CallsOf(info, [tree.tag(alias) for alias in (info.path, *info.aliases)], below, tree)
            self._calls[module] = dict.fromkeys(below, 0) if calls.count == 1 else calls.owners
        return self._calls[module].get(key)

    def _chain(self, tag: str) -> tuple[_Module, ...]:
        """The modules from the root down to the one with a tag, containers too."""
        chain = self._chains.get(tag)
        if chain is None:
            chain = self._chains[tag] = tuple(_chain(self.file.trees, tag))
        return chain


def _chain(trees: Iterable[ModuleTree], tag: str) -> Iterator[_Module]:
    for index, tree in enumerate(trees):
        path = tree.path_of_tag(tag)
        if path is not None:
            yield from ((index, tree.module(path[:length]).path) for length in range(len(path) + 1))
            return
