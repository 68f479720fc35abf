"""`tree`: which module owns how many nodes of each ONNX file of a package."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import ModuleInfo, ModulePath, ModuleTree, NodeTag
from optimum_htp.onnxfile import node_id
from optimum_htp.package import SIDECAR, HtpFile, HtpPackage, TagCounts, as_package


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node.

    Attributes:
        graph: The path of its graph; `""` is the main graph.
        id: What identifies it in its graph (`onnxfile.node_id`).
        name: Its name, as profilers and quantizers call it; `""` where it has none.
        operator: Its operator, with the domain in front where that is not ONNX's.
        source: The evidence that decided its owner.
        call: The 0-based index of the owner's call, where the owner ran more than once and one call owns the node.
    """

    graph: str
    id: str
    name: str
    operator: str
    source: str
    call: int | None


@dataclass(frozen=True, slots=True)
class ModuleRow:
    """One module, or one more name of a module, where nodes are tagged with that name.

    Attributes:
        depth: Modules above it; containers don't count.
        path: Its dotted path below the root; `""` is the root.
        attribute: The end of the path that its parent knows it by, containers in front: `layer.0`.
        class_name: Its class.
        tag: Its tag.
        calls: How often it ran in the trace; None where that is not known.
        parameters: Elements of the parameters at and below it; None where that is not known.
        own_nodes: Nodes that are tagged with it.
        all_nodes: Those, and the nodes of all modules below it.
        modules_below: Rows below it.
        aliases: The other paths that it is registered under.
        alias_of: The path of the row that stands for the module, where this row is one more name of it.
        in_model: For a root, where it sits in the whole model; None where it is all of it, or that is not known.
        nodes: The nodes that are tagged with it.
    """

    depth: int
    path: str
    attribute: str
    class_name: str
    tag: str
    calls: int | None
    parameters: int | None
    own_nodes: int
    all_nodes: int
    modules_below: int
    aliases: tuple[str, ...]
    alias_of: str | None
    in_model: str | None
    nodes: tuple[NodeRow, ...]

    def to_dict(self, *, nodes: bool) -> dict[str, Any]:
        """The module as JSON has it, with its nodes or without."""
        document: dict[str, Any] = {
            "path": self.path,
            "class": self.class_name,
            "tag": self.tag,
            "depth": self.depth,
            "calls": self.calls,
            "parameters": self.parameters,
            "own_nodes": self.own_nodes,
            "all_nodes": self.all_nodes,
            "aliases": list(self.aliases),
            "alias_of": self.alias_of,
        }
        if self.in_model is not None:
            document["in_model"] = self.in_model
        if nodes:
            document["nodes"] = [asdict(node) for node in self.nodes]
        return document


@dataclass(frozen=True, slots=True)
class FileTree:
    """The module tree of one ONNX file.

    Attributes:
        name: The file's path in the package.
        counts: How its nodes were tagged.
        evidence: Where the tags are from, the `"sidecar"` or the `"metadata"` of the nodes.
        rows: The modules, each before those below it.
        unresolved: The nodes that no module is known for.
    """

    name: str
    counts: TagCounts
    evidence: str
    rows: tuple[ModuleRow, ...]
    unresolved: tuple[NodeRow, ...]

    def to_dict(self, *, nodes: bool) -> dict[str, Any]:
        """The file as JSON has it, with the nodes of each module or without."""
        document: dict[str, Any] = {
            "evidence_from": self.evidence,
            "counts": asdict(self.counts),
            "modules": [row.to_dict(nodes=nodes) for row in self.rows],
        }
        if nodes:
            document["unresolved"] = [asdict(node) for node in self.unresolved]
        return document


@dataclass(frozen=True, slots=True)
class TreeReport:
    """The module trees of a package.

    Attributes:
        package: Its path.
        files: A tree for each ONNX file.
        nodes: Whether its document, and what is printed of it, list the nodes of each module.
    """

    package: str
    files: tuple[FileTree, ...]
    nodes: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {"package": self.package, "files": {tree.name: tree.to_dict(nodes=self.nodes) for tree in self.files}}


def tree(
    package: str | Path | HtpPackage,
    *,
    file: str | None = None,
    module: str | None = None,
    depth: int | None = None,
    nodes: bool = False,
) -> TreeReport:
    """Reports which module owns how many nodes of each ONNX file.

    Args:
        package: The package's directory, or an ONNX file.
        file: The files to report: a name, or a glob over their paths in the package; None means all.
        module: The modules to report, each with all below it: a glob over dotted paths, or a class; None means all.
        depth: How many levels of modules below the first to report; None means all.
        nodes: Whether the report's document lists the nodes of each module.

    Raises:
        PackageError: A file is not tagged, or no file or module is called that.
        OnnxFileError: A file is not an ONNX model.

    Example:
        >>> rows = tree("bert_onnx", module="BertLayer").files[0].rows   # doctest: +SKIP
        >>> rows[0].path, rows[0].all_nodes                              # doctest: +SKIP
        ('bert.encoder.layer.0', 47)
    """
    package = as_package(package)
    trees = []
    for chosen in package.matching(file).values():
        _check_tagged(chosen, package)
        file_tree = _file_tree(chosen)
        if module is not None:
            file_tree = replace(file_tree, rows=_below(file_tree.rows, chosen, module), unresolved=())
        if depth is not None:
            file_tree = replace(file_tree, rows=tuple(row for row in file_tree.rows if row.depth <= depth))
        if module is None or file_tree.rows:
            trees.append(file_tree)
    if not trees:
        advice = "give a glob over dotted paths, such as '*.attention', or a class"
        raise PackageError(f"{package.path}: no module is called {module!r}; {advice}")
    return TreeReport(str(package.path), tuple(trees), nodes)


def _check_tagged(file: HtpFile, package: HtpPackage) -> None:
    if file.evidence == "none":
        lost = f"; {SIDECAR} describes another graph than this" if file.record is not None else ""
        advice = f"tag it: optimum-cli htp tag {package.path}"
        raise PackageError(f"{file.path}: its nodes are not tagged{lost}; {advice}")


def _file_tree(file: HtpFile) -> FileTree:
    owned: dict[tuple[int, ModulePath], list[NodeRow]] = {}
    unresolved: list[NodeRow] = []
    owners = _Owners(file.hierarchy.trees)
    tags = []
    for graph_path, graph in file.model.graphs():
        for position, node in enumerate(graph.nodes):
            tag = file.tags.get((graph_path, position)) or NodeTag("/", "unresolved")
            tags.append(tag)
            operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            row = NodeRow(graph_path, node_id(node, position), node.name, operator, tag.source, tag.call)
            if tag.source == "unresolved":
                unresolved.append(row)
            else:
                owned.setdefault(owners.find(tag.tag, file), []).append(row)
    record = file.record
    # Trees that are made from tags alone know of no calls and no parameters.
    known = record is not None and file.tagged.roots is record.roots
    rows: list[ModuleRow] = []
    for index, root in enumerate(file.tagged.roots):
        nodes = {path: found for (at, path), found in owned.items() if at == index}
        in_model = root.in_model if known else None
        rows += _TreeRows(root.tree, nodes, known=known, in_model=in_model or None).rows()
    return FileTree(file.name, TagCounts.of(tags), file.evidence, tuple(rows), tuple(unresolved))


class _Owners:
    """Which module a tag names: the position of its tree, and the path in it."""

    def __init__(self, trees: Collection[ModuleTree]) -> None:
        self._trees = trees
        self._found: dict[str, tuple[int, ModulePath]] = {}

    def find(self, tag: str, file: HtpFile) -> tuple[int, ModulePath]:
        owner = self._found.get(tag)
        if owner is not None:
            return owner
        for index, tree in enumerate(self._trees):
            path = tree.path_of_tag(tag)
            if path is not None:
                self._found[tag] = index, path
                return index, path
        raise PackageError(f"{file.path}: {tag!r}, the tag of a node, names no module; export the model again")


class _TreeRows:
    """The rows of one module tree: every module but containers, and every other name that owns nodes."""

    def __init__(
        self, tree: ModuleTree, nodes: dict[ModulePath, list[NodeRow]], *, known: bool, in_model: str | None
    ) -> None:
        self._tree = tree
        self._nodes = nodes
        self._known = known
        self._in_model = in_model
        self._children: dict[ModulePath, list[ModulePath]] = {(): []}
        for info in tree:
            if info.path and not info.container:
                self._add(info.path)
        for path in nodes:
            for step, _ in tree.chain(path)[1:]:
                self._add(step)

    def rows(self) -> Iterator[ModuleRow]:
        """Each module before those below it."""
        order: list[tuple[ModulePath, int]] = []
        stack: list[tuple[ModulePath, int]] = [((), 0)]
        while stack:
            path, depth = stack.pop()
            order.append((path, depth))
            stack.extend((child, depth + 1) for child in reversed(self._children[path]))
        nodes = dict.fromkeys(self._children, 0)
        below = dict.fromkeys(self._children, 0)
        for path, _ in reversed(order):
            nodes[path] += len(self._nodes.get(path, ()))
            if path:
                above = self._parent(path)
                nodes[above] += nodes[path]
                below[above] += below[path] + 1
        for path, depth in order:
            yield self._row(path, depth, all_nodes=nodes[path], modules_below=below[path])

    def _add(self, path: ModulePath) -> None:
        if path not in self._children:
            self._children[path] = []
            self._children[self._parent(path)].append(path)

    def _parent(self, path: ModulePath) -> ModulePath:
        return self._tree.chain(path)[-2][0]

    def _row(self, path: ModulePath, depth: int, *, all_nodes: int, modules_below: int) -> ModuleRow:
        info = self._tree.module(path)
        own = tuple(self._nodes.get(path, ()))
        first = path == info.path
        others = (alias for alias in (info.path, *info.aliases) if alias != path)
        return ModuleRow(
            depth=depth,
            path=".".join(path),
            attribute=".".join(path[len(self._parent(path)) :]) if path else "",
            class_name=info.class_name,
            tag=self._tree.tag(path),
            calls=info.calls if self._known else None,
            parameters=info.parameters if self._known else None,
            own_nodes=len(own),
            all_nodes=all_nodes,
            modules_below=modules_below,
            aliases=tuple(map(".".join, others)),
            alias_of=None if first else ".".join(info.path),
            in_model=None if path else self._in_model,
            nodes=own,
        )


def _below(rows: tuple[ModuleRow, ...], file: HtpFile, pattern: str) -> tuple[ModuleRow, ...]:
    """The rows of the modules that a pattern selects, each with all below it, as trees of their own."""
    hierarchy = file.hierarchy
    selected = set(hierarchy.select(pattern))
    kept: list[ModuleRow] = []
    top: int | None = None
    for row in rows:
        if top is not None and row.depth <= top:
            top = None
        if top is None and _selects(selected, row, hierarchy.trees):
            top = row.depth
            row = replace(row, attribute=row.path)
        if top is not None:
            kept.append(replace(row, depth=row.depth - top))
    return tuple(kept)


def _selects(selected: set[ModuleInfo], row: ModuleRow, trees: Collection[ModuleTree]) -> bool:
    """Whether a row's module, or a container between it and its parent's row, is among the selected."""
    for tree in trees:
        path = tree.path_of_tag(row.tag)
        if path is not None:
            above = len(tree.chain(path)[-2][0]) if path else 0
            return any(
                tree.module(path[:length]) in selected for length in range(min(above + 1, len(path)), len(path) + 1)
            )
    return False
