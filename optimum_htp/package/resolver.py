"""Whose tags a file has: its own, those of its package, or those of another package that it may have been made from.

Looked for in this order: the sidecar, if it describes just this graph; the skeleton in the file's own metadata; what its
nodes still carry; the other files of its package; the sidecar's list of nodes; another package. If a tool has changed the
graph since, the tags are projected. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy import Root, Roots, tree_of_tags
from optimum_htp.onnxfile import Graph, Node, OnnxModel, split_body_path
from optimum_htp.package.copies import graph_of_skeletons
from optimum_htp.package.inlining import projected_inside
from optimum_htp.package.package import HtpFile, HtpPackage
from optimum_htp.package.sidecar.record import FileRecord
from optimum_htp.package.sidecar.sidecar import SIDECAR
from optimum_htp.tagging import TaggedGraph, project

Evidence = Sequence[TaggedGraph]
"""Tagged graphs that a file may have been made from, the likeliest first."""


def tagged_file(file: HtpFile, *, package: HtpPackage, reference: HtpPackage | None = None) -> TaggedGraph:
    """The graph of a file of a package with a tag for each node; raises PackageError if nothing says whose they are.

    `reference` is a tagged package that it may have been made from, to try if nothing else fits.
    """
    if file.evidence != "none" and file.tagged.complete:
        return file.tagged
    given = reference_evidence(reference, file) if reference is not None else ()
    graph, refused = projected(file, evidence_of(file, package), given)
    if graph is not None:
        return graph
    if refused:
        raise PackageError(f"{file.path}: whose tags it has is unknown: {refused[0]}") from refused[0]
    raise PackageError(
        f"{file.path}: its nodes are not tagged; tag them first: optimum-cli htp tag {package.path} (or, if a tool made "
        f"it from a tagged package: optimum-cli htp project {package.path} --reference TAGGED)"
    )


def projected(file: HtpFile, *evidence: Iterable[Evidence]) -> tuple[TaggedGraph | None, list[HtpError]]:
    """Projects the tags of the first evidence that a file can have been made from, the surest given first.

    Gives the tagged graph, None if nothing fits, and the errors of what came before: damage, then what does not fit.
    """
    refused: list[HtpError] = []
    damaged: list[HtpError] = []
    for group in evidence:
        try:
            for sources in group:
                try:
                    graph = _projected(sources, file.model)
                except HtpError as error:
                    refused.append(error)
                    continue
                roots = graph.roots or Roots(map(Root, tree_of_tags(graph.tags)))
                return replace(graph, roots=roots, name=file.name), [*damaged, *refused]
        except HtpError as error:
            damaged.append(error)
    return None, [*damaged, *refused]


def _projected(sources: Evidence, model: OnnxModel) -> TaggedGraph:
    try:
        return project(sources, model, require_descent=True)
    except HtpError:
        if not model.functions:
            raise
    return projected_inside(sources, model)


def evidence_of(file: HtpFile, package: HtpPackage) -> Iterator[Evidence]:
    """What a file and its package say of its origin, the surest first; at last HtpError if its skeleton is damaged."""
    skeleton = damage = None
    try:
        skeleton = skeleton_of(file)
    except HtpError as error:
        damage = error
    if file.evidence == "sidecar":
        yield (replace(file.tagged, skeleton=skeleton.skeleton if skeleton is not None else None),)
    if skeleton is not None:
        yield (skeleton,)
    if file.evidence == "metadata":
        yield (file.tagged,)
    others = _own_graphs(other for name, other in package.files.items() if name != file.name)
    if others:
        yield [replace(graph, origin=f"the other files of {package.path}") for graph in others]
    if file.record is not None:
        yield (_listed(file.record),)
    if damage is not None:
        raise damage


def reference_evidence(reference: HtpPackage, file: HtpFile) -> Iterator[Evidence]:
    """What another package says, its file of the same name first. Raises HtpError if a skeleton in it is damaged."""
    graphs = _own_graphs(sorted(reference.files.values(), key=lambda other: other.name != file.name))
    if graphs:
        origin = f"the tagged {'file' if reference.path.is_file() else 'package'} {reference.path}"
        yield [replace(graph, origin=origin, skeleton=None) for graph in graphs]


def skeleton_of(file: HtpFile) -> TaggedGraph | None:
    """The graph that a file was made from, as the skeletons in it say; None if it has none.

    Raises HtpError if one is damaged.
    """
    try:
        graph = graph_of_skeletons(file.model)
    except HtpError as error:
        raise HtpError(f"{file.path}: {error}") from error
    return replace(graph, origin="the skeleton in its own metadata") if graph is not None else None


def _own_graphs(files: Iterable[HtpFile]) -> list[TaggedGraph]:
    """What files say of themselves: their tags if each node has one, else the skeleton, else the tags that are left."""
    graphs = []
    for file in files:
        own = file.tagged if file.evidence != "none" else None
        graphs.append(own if own is not None and own.complete else skeleton_of(file) or own)
    return [replace(graph, skeleton=None) for graph in graphs if graph is not None]


def _listed(record: FileRecord) -> TaggedGraph:
    """The sidecar's nodes as a graph without edges: enough to recognize those whose first output kept its name."""
    graphs = {"": Graph()}
    for (path, _), name in record.node_ids.items():
        graph = graphs.setdefault(path, Graph())
        graph.nodes.append(Node(outputs=() if name.startswith("#") else (name,)))
    for path, graph in graphs.items():
        above, index, element = split_body_path(path) or ("", -1, "")
        if above in graphs and 0 <= index < len(graphs[above].nodes):
            holder = graphs[above].nodes[index]
            holder.bodies = (*holder.bodies, (element, graph))
    return replace(record.tagged(OnnxModel(graph=graphs[""])), origin=f"the list of nodes in {SIDECAR}")
