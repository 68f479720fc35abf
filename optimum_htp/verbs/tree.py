"""`tree`: which module owns how many nodes of each ONNX file of a package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optimum_htp.collecting import no_collecting
from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy import ModuleInfo, ModulePath, ModulePatterns, ModuleTree, NodeTag, Root
from optimum_htp.onnxfile import node_id
from optimum_htp.package import SIDECAR, HtpFile, HtpPackage, PythonLine, TagCounts, as_package, python_line
from optimum_htp.reports import Brief, Report, called, numbered


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node.

    Attributes:
        graph: The path of its graph; `""` is the main graph.
        id: What identifies it in its graph (`onnxfile.node_id`).
        name: Its name, as profilers and quantizers call it; `""` if it has none.
        operator: Its operator, after its domain if that is not ONNX's.
        source: The evidence that decided its owner.
        call: The index of the owner's call, if the owner ran more than once and one call owns the node.
        python: The line of the model's code that it comes from, where the file says it.
    """

    graph: str
    id: str
    name: str
    operator: str
    source: str
    call: int | None
    python: PythonLine | None = None

    def to_dict(self) -> dict[str, Any]:
        """The node as JSON has it."""
        facts = {name: getattr(self, name) for name in ("graph", "id", "name", "operator", "source", "call")}
        return {**facts, "python": self.python.to_dict() if self.python is not None else None}


@dataclass(frozen=True, slots=True, repr=False)
class ModuleRow(Brief):
    """One module, or one more name of a module, where nodes are tagged with that name.

    Attributes:
        depth: Modules above it; containers don't count.
        path: Its dotted path below the root; `""` is the root.
        attribute: The end of the path that its parent knows it by, containers in front: `layer.0`.
        class_name: Its class.
        tag: Its tag.
        calls: How often it ran in the trace; None if unknown.
        parameters: Elements of the parameters at and below it; None if unknown.
        own_nodes: Nodes that are tagged with it; those of a function count in each module that it is called for.
        all_nodes: Those, and the nodes of all modules below it.
        modules_below: Rows below it.
        aliases: The other paths that it is registered under.
        alias_of: The path of the row that stands for the module, if this row is one more name of it.
        in_model: For a root, where it sits in the whole model; None if it is all of it, or unknown.
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
            document["nodes"] = [node.to_dict() for node in self.nodes]
        return document


@dataclass(frozen=True, slots=True, repr=False)
class FileTree(Brief):
    """The module tree of one ONNX file.

    Attributes:
        name: The file's path in the package.
        counts: How its nodes were tagged.
        evidence: Where the tags are from, the `"sidecar"` or the `"metadata"` of the nodes.
        rows: The modules, each before those below it.
        unresolved: The nodes whose module is unknown.
    """

    name: str
    counts: TagCounts
    evidence: str
    rows: tuple[ModuleRow, ...]
    unresolved: tuple[NodeRow, ...]

    def __getitem__(self, name: str) -> ModuleRow:
        """The module with a dotted path (`""` is the root) or a tag.

        Raises:
            UnknownNameError: There is none.
        """
        return called(name, (((row.path, row.tag), self.name, row) for row in self.rows), what="module")

    def to_dict(self, *, nodes: bool) -> dict[str, Any]:
        """The file as JSON has it, with the nodes of each module or without."""
        document: dict[str, Any] = {
            "evidence_from": self.evidence,
            "counts": asdict(self.counts),
            "modules": [row.to_dict(nodes=nodes) for row in self.rows],
        }
        if nodes:
            document["unresolved"] = [node.to_dict() for node in self.unresolved]
        return document


@dataclass(frozen=True, slots=True, repr=False)
class TreeReport(Report):
    """The module trees of a package.

    Attributes:
        package: Its path.
        files: A tree for each ONNX file.
        nodes: Whether its document, and what is printed of it, list the nodes of each module.
    """

    package: str
    files: tuple[FileTree, ...]
    nodes: bool = False

    def __getitem__(self, name: str) -> ModuleRow:
        """The module with a dotted path (`""` is the root) or a tag, of the one file that has it.

        Raises:
            UnknownNameError: There is none, or several files have it.
        """
        return called(
            name,
            (((row.path, row.tag), where, row) for where, tree in numbered("files", self.files) for row in tree.rows),
            what="module",
        )

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {"package": self.package, "files": {tree.name: tree.to_dict(nodes=self.nodes) for tree in self.files}}


@no_collecting()
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
        HtpError: The pattern is invalid.
        OnnxFileError: A file is not an ONNX model.

    Example:
        >>> rows = tree("bert_onnx", module="BertLayer").files[0].rows   # doctest: +SKIP
        >>> rows[0].path, rows[0].all_nodes                              # doctest: +SKIP
        ('bert.encoder.layer.0', 47)
    """
    package = as_package(package)
    if module is not None and module.startswith("!"):
        raise HtpError(
            f"{module!r} takes modules away, as for `select`; `tree` shows modules with all that is below them"
        )
    wanted = ModulePatterns(() if module is None else (module,))
    files = package.matching(file).values()
    trees = [_file_tree(chosen, package, wanted, depth) for chosen in files]
    if module is not None:
        trees = [shown for shown in trees if shown.rows]
    if not trees:
        raise PackageError(f"{package.path}: {wanted.unmatched([chosen.tagged.roots for chosen in files])}")
    return TreeReport(str(package.path), tuple(trees), nodes)


def _file_tree(file: HtpFile, package: HtpPackage, wanted: ModulePatterns, depth: int | None) -> FileTree:
    if file.evidence == "none":
        lost = f"; {SIDECAR} describes another graph than this" if file.record is not None else ""
        advice = f"tag it: optimum-cli htp tag {package.path}"
        raise PackageError(f"{file.path}: its nodes are not tagged{lost}; {advice}")
    selected = {info for _, info, _ in wanted.modules(file.tagged.roots)} if wanted.texts else None
    tagged, unresolved = _node_rows(file)
    is_recorded = file.record is not None and file.tagged.roots is file.record.roots
    rows: list[ModuleRow] = []
    for root in file.tagged.roots:
        paths = {tag: root.tree.path_of_tag(tag) for tag in tagged}
        nodes = {path: tagged.pop(tag) for tag, path in paths.items() if path is not None}
        known = is_recorded or root.tree.root.calls > 0  # trees that are made from tags alone know of no calls
        all_rows = module_rows(root, nodes, known=known, selected=selected)
        rows += (row for row in all_rows if depth is None or row.depth <= depth)
    if tagged:
        unknown = next(iter(tagged))
        raise PackageError(f"{file.path}: {unknown!r}, the tag of a node, names no module; export the model again")
    return FileTree(file.name, file.counts, file.evidence, tuple(rows), tuple(unresolved) if selected is None else ())


def _node_rows(file: HtpFile) -> tuple[dict[str, list[NodeRow]], list[NodeRow]]:
    """The nodes by their tag, and those that are unresolved; those of a function are there for each module that calls it."""
    tagged: dict[str, list[NodeRow]] = {}
    unresolved: list[NodeRow] = []
    known = file.tagged.tags_in_calls()
    for (graph, index), node in file.model.nodes():
        python = python_line(node)
        for tag in known.get((graph, index), (NodeTag("/", "unresolved"),)):
            row = NodeRow(graph, node_id(node, index), node.name, node.operator, tag.source, tag.call, python)
            (unresolved if tag.source == "unresolved" else tagged.setdefault(tag.tag, [])).append(row)
    return tagged, unresolved


def module_rows(
    root: Root, nodes: Mapping[ModulePath, Sequence[NodeRow]], *, known: bool, selected: Set[ModuleInfo] | None = None
) -> Iterator[ModuleRow]:
    """Every module but containers, and every other name that owns nodes, each before those below it.

    `known` says whether calls, parameters and the root's place are. Of the `selected`, each is a tree of its own with all
    below it; None means all.
    """
    tree = root.tree
    children: dict[ModulePath, list[ModulePath]] = {}
    parents = _parents(tree, nodes)
    all_nodes = {path: len(nodes.get(path, ())) for path in parents}
    modules_below = dict.fromkeys(parents, 0)
    for path, parent in parents.items():
        if parent is not None:
            children.setdefault(parent, []).append(path)
    for path in sorted(parents, key=len, reverse=True):  # what is below comes first
        if (parent := parents[path]) is not None:
            all_nodes[parent] += all_nodes[path]
            modules_below[parent] += modules_below[path] + 1
    stack: list[tuple[ModulePath, ModulePath | None, int | None]] = [((), None, 0 if selected is None else None)]
    while stack:
        path, parent, depth = stack.pop()
        attribute = path[len(parent or ()) :]
        if depth is None and selected is not None and _is_selected(path, parent, tree, selected):
            attribute, depth = path, 0
        stack += ((child, path, None if depth is None else depth + 1) for child in reversed(children.get(path, ())))
        if depth is None:
            continue
        info = tree.module(path)
        own = tuple(nodes.get(path, ()))
        yield ModuleRow(
            depth=depth,
            path=".".join(path),
            attribute=".".join(attribute),
            class_name=info.class_name,
            tag=tree.tag(path),
            calls=info.calls if known and tree.root.calls else None,  # the root runs in every trace
            parameters=info.parameters if known else None,
            own_nodes=len(own),
            all_nodes=all_nodes[path],
            modules_below=modules_below[path],
            aliases=tuple(".".join(alias) for alias in (info.path, *info.aliases) if alias != path),
            alias_of=None if path == info.path else ".".join(info.path),
            in_model=(root.in_model or None) if known and not path else None,
            nodes=own,
        )


def _parents(tree: ModuleTree, owners: Iterable[ModulePath]) -> dict[ModulePath, ModulePath | None]:
    """Every module but containers, and every other name on the way to one that owns nodes; each with the one above it."""
    parents: dict[ModulePath, ModulePath | None] = {(): None}
    for path in (info.path for info in tree if not info.container):
        parents.setdefault(path, tree.above(path))
    for owner in owners:
        missing: list[ModulePath] = []
        name: ModulePath | None = owner
        while name is not None and name not in parents:
            missing.append(name)
            name = tree.above(name)
        parents.update((each, tree.above(each)) for each in reversed(missing))
    return parents


def _is_selected(path: ModulePath, parent: ModulePath | None, tree: ModuleTree, selected: Set[ModuleInfo]) -> bool:
    """Whether a module, or a container between it and the row above it, is among the selected."""
    above = -1 if parent is None else len(parent)
    return any(tree.module(path[:length]) in selected for length in range(above + 1, len(path) + 1))
