"""What tells the tags of a file: its own metadata, its package, or another package that it may have been made from.

Looked for in this order: the tagged files that are given; what the sidecar says, where it describes just this graph; the
skeleton in the file's own metadata; what its nodes still carry; the other files of its package; the sidecar's list of
nodes. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy import ModuleInfo, ModuleTree, NodeTags, tag_ancestors, tree_of_tags
from optimum_htp.onnxfile import Graph, Node, OnnxModel
from optimum_htp.package.node_metadata import NAMESPACE, read_tags
from optimum_htp.package.package import HtpFile, HtpPackage
from optimum_htp.package.sidecar.record import FileRecord
from optimum_htp.package.sidecar.sidecar import SIDECAR
from optimum_htp.package.skeleton import SKELETON, Roots, unpack_skeleton
from optimum_htp.tagging import TaggedModel, project


@dataclass(frozen=True, slots=True)
class TaggedFile:
    """A file's graph with a tag for each node.

    Attributes:
        name: The file's path in its package.
        model: The graph.
        tags: A tag for each node.
        trees: The module tree of each root, as far as it is known.
        places: Where each root sits in the whole model: a dotted path, None for no submodule of it; `""` for the model
            itself, and where that is not known.
        sources: The tagged graphs that the tags are from: the file's own, unless they were projected.
    """

    name: str
    model: OnnxModel
    tags: NodeTags
    trees: tuple[ModuleTree, ...]
    places: tuple[str | None, ...]
    sources: tuple[TaggedModel, ...]

    def module(self, tag: str) -> ModuleInfo | None:
        """What is known of the module with a tag."""
        for tree in self.trees:
            path = tree.path_of_tag(tag)
            if path is not None:
                return tree.module(path)
        return None


def tagged_file(file: HtpFile, *, package: HtpPackage, origin: HtpPackage | None = None) -> TaggedFile:
    """The tags of a file, none of its nodes left out.

    Args:
        file: The file.
        package: The package that it is in.
        origin: A tagged package that it may have been made from, where it tells nothing itself.

    Raises:
        PackageError: Nothing tells which modules its nodes came from.
    """
    nodes = sum(len(graph.nodes) for _, graph in file.model.graphs())
    if file.evidence == "sidecar" or (file.evidence == "metadata" and len(file.tags) == nodes):
        own = TaggedModel(file.model, dict(file.tags))
        trees = file.hierarchy.trees
        return TaggedFile(file.name, file.model, file.tags, trees, _places(trees, {}, file.record), (own,))
    refused: list[HtpError] = []
    for given in (None, origin) if origin is not None else (None,):
        for evidence in _whatever_there_is(file, package, given):
            trees = tuple(tree for tree, _ in evidence.roots.values())
            try:
                tags = project(evidence.models, file.model, trees=trees, require_descent=True)
            except HtpError as error:
                refused.append(error)
                continue
            trees = trees or tuple(tree_of_tags(tags))
            places = _places(trees, evidence.roots, file.record)
            return TaggedFile(file.name, file.model, tags, trees, places, evidence.models)
    if refused:
        raise PackageError(f"{file.path}: its tags can't be told: {refused[0]}") from refused[0]
    raise PackageError(
        f"{file.path}: its nodes are not tagged; tag them first: optimum-cli htp tag {package.path} (or, where a tool "
        f"made it from a tagged package: optimum-cli htp project {package.path} --from TAGGED)"
    )


def _places(trees: Sequence[ModuleTree], roots: Roots, record: FileRecord | None) -> tuple[str | None, ...]:
    known = {root: place for root, (_, place) in (_recorded_roots(record) if record is not None else {}).items()}
    known |= {root: place for root, (_, place) in roots.items()}
    return tuple(known.get(tree.tag(()), "") for tree in trees)


def _whatever_there_is(file: HtpFile, package: HtpPackage, given: HtpPackage | None) -> Iterator[Evidence]:
    try:
        yield from evidence_for(file, package, given)
    except PackageError:  # what is given is not tagged either
        return


@dataclass(frozen=True, slots=True)
class Evidence:
    """Tagged graphs, their module trees, and where they are from.

    Attributes:
        models: The tagged graphs, the likeliest first.
        roots: For each root module its tree and its place in the whole model.
        origin: Where they are from, in words.
        skeleton: The packed skeleton that they are from.
    """

    models: tuple[TaggedModel, ...]
    roots: Roots
    origin: str
    skeleton: str | None = None


def evidence_for(file: HtpFile, package: HtpPackage, given: HtpPackage | None) -> Iterator[Evidence]:
    """The tagged graphs that a file may have been made from, the surest first; of those that are given, only these.

    Raises:
        PackageError: What is given is not tagged.
        HtpError: A skeleton is broken, in what is given, or in the file itself when all else has been tried.
    """
    if given is not None:
        yield _of_package(given, file.name)
        return
    skeleton, damage = None, None
    try:
        skeleton = _of_skeleton(file)
    except HtpError as error:
        damage = error
    if file.record is not None and file.evidence == "sidecar":
        tagged = TaggedModel(file.model, file.record.tags)
        yield Evidence((tagged,), _recorded_roots(file.record), SIDECAR, skeleton.skeleton if skeleton else None)
    yield from (each for each in (skeleton, _of_nodes(file)) if each is not None)
    others = [each for name, each in package.files.items() if name != file.name]
    found = [evidence for each in others if (evidence := _of_file(each)) is not None]
    if found:
        yield _joined(found, f"the other files of {package.path}")
    if file.record is not None:
        yield Evidence((_listed(file.record),), _recorded_roots(file.record), f"the list of nodes in {SIDECAR}")
    if damage is not None:
        raise damage


def _of_package(given: HtpPackage, name: str) -> Evidence:
    """The tagged files that are given: that of the same name first, for content decides and then the order."""
    files = sorted(given.files.values(), key=lambda file: file.name != name)
    found = [evidence for file in files if (evidence := _of_file(file)) is not None]
    if not found:
        raise PackageError(f"{given.path}: not tagged; export it with optimum-cli export htp, or tag it first")
    return _joined(found, f"the tagged {'file' if given.path.is_file() else 'package'} {given.path}")


def _of_file(file: HtpFile) -> Evidence | None:
    """What a file knows of itself, whatever it was made from."""
    if file.evidence == "sidecar" and file.record is not None:
        return Evidence((TaggedModel(file.model, file.record.tags),), _recorded_roots(file.record), SIDECAR)
    tagged = len(read_tags(file.model))
    complete = tagged == sum(len(graph.nodes) for _, graph in file.model.graphs())
    return (_of_nodes(file) if complete else None) or _of_skeleton(file) or _of_nodes(file)


def _of_skeleton(file: HtpFile) -> Evidence | None:
    text = file.model.metadata.get(SKELETON)
    if not text:
        return None
    try:
        tagged, roots = unpack_skeleton(text)
    except HtpError as error:
        raise HtpError(f"{file.path}: {error}") from error
    return Evidence((tagged,), roots, "the skeleton in its own metadata", text)


def _of_nodes(file: HtpFile) -> Evidence | None:
    tags = read_tags(file.model)
    if not tags:
        return None
    roots = _recorded_roots(file.record) if file.record is not None else {}
    known = {tree.tag(path) for tree, _ in roots.values() for info in tree for path in (info.path, *info.aliases)}
    if not all(name in known for tag in tags.values() for name in (tag.tag, *tag.origins)):
        roots = {tree.tag(()): (tree, None) for tree in _trees_of_nodes(file.model, tags)}
    return Evidence((TaggedModel(file.model, tags),), roots, "the metadata that its nodes kept")


def _joined(found: Sequence[Evidence], origin: str) -> Evidence:
    roots: dict[str, tuple[ModuleTree, str | None]] = {}
    for evidence in found:
        for root, place in evidence.roots.items():
            roots.setdefault(root, place)
    return Evidence(tuple(model for evidence in found for model in evidence.models), roots, origin)


def _recorded_roots(record: FileRecord) -> dict[str, tuple[ModuleTree, str | None]]:
    return {tree.tag(()): (tree, at) for tree, at in zip(record.trees, record.roots_in_model, strict=True)}


def _listed(record: FileRecord) -> TaggedModel:
    """The sidecar's nodes as a graph without edges: enough to know those again whose first output kept its name."""
    nodes: dict[str, list[Node]] = {}
    for (path, _), name in record.node_ids.items():
        outputs = () if name.startswith("#") else (name,)
        nodes.setdefault(path, []).append(Node("", "", "", (), outputs, {}, ()))
    graphs = {path: Graph("", listed, (), (), ()) for path, listed in nodes.items()}
    graphs.setdefault("", Graph("", [], (), (), ()))
    for path, graph in graphs.items():
        parent, _, last = path.rpartition("/")
        place, _, element = last.partition(".")
        if path and place.isdecimal() and parent in graphs and int(place) < len(graphs[parent].nodes):
            holder = graphs[parent].nodes[int(place)]
            holder.bodies = (*holder.bodies, (element, graph))
    return TaggedModel(OnnxModel(Path(), 0, {}, "", "", {}, graphs[""], ()), record.tags)


def _trees_of_nodes(model: OnnxModel, tags: NodeTags) -> Iterator[ModuleTree]:
    """Module trees as far as the nodes tell: their tags, and the qualified classes in their namespaces."""
    classes: dict[str, str] = {}
    for path, graph in model.graphs():
        for position, node in enumerate(graph.nodes):
            tag = tags.get((path, position))
            parts = node.metadata.get(NAMESPACE, "").split("/")
            above = list(tag_ancestors(tag.tag)) if tag is not None else []
            if len(parts) == len(above):
                classes.update(zip(above, (part.rpartition(": ")[2] for part in parts), strict=True))
    for tree in tree_of_tags(tags):
        yield ModuleTree(_with_class(tree, info, classes) for info in tree)


def _with_class(tree: ModuleTree, info: ModuleInfo, classes: Mapping[str, str]) -> ModuleInfo:
    qualified = classes.get(tree.tag(info.path), "") if not info.container else ""
    return replace(info, qualified_class=qualified) if qualified.endswith(info.class_name) else info
