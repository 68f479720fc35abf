"""The tags of a file as they are best known, for whoever runs it: complete, also where a tool dropped them.

In this order: what the sidecar says of just this graph, what stands on every node, what the skeleton in the file's own
metadata tells, what stands on some nodes, what another tagged package tells. Nothing is written.
"""

from __future__ import annotations

from dataclasses import dataclass

from optimum_htp.annotations import read_tags
from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy import ModuleInfo, ModuleTree, NodeTags, tree_of_tags
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package import HtpFile, HtpPackage
from optimum_htp.projection import TaggedModel, project
from optimum_htp.skeleton import SKELETON, unpack_skeleton


@dataclass(frozen=True, slots=True)
class TaggedFile:
    """A file's graph with a tag for each node.

    Attributes:
        name: The file's path in its package.
        model: The graph.
        tags: A tag for each node.
        trees: The module tree of each root, as far as it is known.
        sources: The tagged graphs that the tags are from: the file's own, unless they were projected.
    """

    name: str
    model: OnnxModel
    tags: NodeTags
    trees: tuple[ModuleTree, ...]
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
        return TaggedFile(file.name, file.model, file.tags, file.hierarchy.trees, (_own(file),))
    text = file.model.metadata.get(SKELETON)
    if text:
        tagged, roots = unpack_skeleton(text)
        return _projected(file, (tagged,), tuple(tree for tree, _ in roots.values()))
    if file.evidence == "metadata":
        return _projected(file, (_own(file),), file.hierarchy.trees)
    if origin is not None:
        others = [each for each in origin.files.values() if each.evidence != "none"]
        others.sort(key=lambda each: each.name != file.name)
        if others:
            models = tuple(_own(each) for each in others)
            return _projected(file, models, tuple(tree for each in others for tree in each.hierarchy.trees))
    raise PackageError(
        f"{file.path}: its nodes are not tagged; tag them first: optimum-cli htp tag {package.path} (or, where a tool "
        f"made it from a tagged package: optimum-cli htp project {package.path} --from TAGGED)"
    )


def _own(file: HtpFile) -> TaggedModel:
    tags = file.tags if file.evidence == "sidecar" else read_tags(file.model)
    return TaggedModel(file.model, tags)


def _projected(file: HtpFile, sources: tuple[TaggedModel, ...], trees: tuple[ModuleTree, ...]) -> TaggedFile:
    try:
        tags = project(sources, file.model, trees=trees, require_descent=True)
    except HtpError as error:
        raise PackageError(f"{file.path}: its tags can't be told: {error}") from error
    return TaggedFile(file.name, file.model, tags, trees or tuple(tree_of_tags(tags)), sources)
