"""What is written on the nodes of an ONNX file, and which of its metadata is ours to remove again.

What is written on the model itself is in `marks`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import (
    SOURCES,
    ModuleInfo,
    ModuleTree,
    NodeKey,
    NodeTag,
    NodeTags,
    Roots,
    escape_name,
    split_tag,
    tag_ancestors,
    tag_module_path,
    tree_of_tags,
)
from optimum_htp.onnxfile import LENGTHS, Node, OnnxModel, read_model, reads, rewrite_metadata, rewritten_content
from optimum_htp.package.archive import is_pack_key
from optimum_htp.package.exposed import exposed_outputs
from optimum_htp.package.json_files import json_or_none
from optimum_htp.package.limits import MAX_MODULE_DEPTH
from optimum_htp.package.marks import CUT_FROM, EXPOSED, PREFIX, Mark, entries_of, is_mark, marks_of
from optimum_htp.package.namespaces import Namespaces, qualified_classes, says_the_tag
from optimum_htp.package.skeleton import pack_skeleton
from optimum_htp.tagging import CLASS_HIERARCHY, NAME_SCOPES, TaggedGraph, listed_in

TAG = PREFIX + "tag"
CALL = PREFIX + "call"
SOURCE = PREFIX + "source"
ORIGINS = PREFIX + "origins"

NAMESPACE = "namespace"
LAYER_ANNOTATION = "layer_ann"
"""ONNX Runtime's: the layer of a node, for the session option `session.layer_assignment_settings`."""

_BORROWED = (NAMESPACE, NAME_SCOPES, CLASS_HIERARCHY, LAYER_ANNOTATION)


@dataclass(frozen=True, slots=True)
class HtpOptions:
    """What the HTP pass writes in addition to the tags.

    Attributes:
        namespace: Write `namespace`, which Model Explorer groups nodes by: `encoder: Encoder/layer.0: Block@1`.
        torch_metadata: Write `pkg.torch.onnx.name_scopes` and `pkg.torch.onnx.class_hierarchy`, as torch's exporter does:
            cumulative paths and qualified classes.
        skeleton: Write the skeleton of the tagged graph into the model's metadata, so that the file can be tagged
            again after a tool that drops the metadata of nodes.
        config_metadata: Write an `htp_metadata` block into config.json.
    """

    namespace: bool = True
    torch_metadata: bool = False
    skeleton: bool = True
    config_metadata: bool = False


def options_of(models: Iterable[OnnxModel]) -> HtpOptions:
    """The options that files were tagged with, by the first of them that has our keys; else the defaults."""
    marks = [mark for model in models for mark in marks_of(model)]
    keys = next((mark.keys for mark in marks if mark.keys is not None), None)
    if keys is None:
        return HtpOptions()
    return HtpOptions(
        namespace=NAMESPACE in keys,
        torch_metadata=NAME_SCOPES in keys and CLASS_HIERARCHY in keys,
        skeleton=any(mark.skeleton is not None for mark in marks),
    )


@dataclass(frozen=True, slots=True)
class Ownership:
    """Which metadata in a file is ours: to replace, and to remove again.

    Attributes:
        borrowed: The keys without our prefix that are ours.
        foreign: The nodes on which nothing is ours, as they came from a file that we did not tag.
    """

    borrowed: Sequence[str]
    foreign: Set[NodeKey]

    @classmethod
    def of(cls, model: OnnxModel) -> Ownership:
        """What is ours in a file."""
        with_tags, foreign = [], set()
        for place, node in model.nodes():
            if node.metadata and not any(key.startswith(PREFIX) for key in node.metadata):
                foreign.add(place)
            else:
                with_tags.append(node.metadata)
        listed = [mark.keys for mark in marks_of(model) if mark.keys is not None]
        if listed and all(keys == listed[0] for keys in listed):
            return cls([key for key in _BORROWED if key in listed[0]], foreign)
        # A tool dropped the list, or merged files that differ in theirs: a key is ours if it says, on each node, what
        # the node's tag says.
        keys = (NAMESPACE,) if not listed else [key for key in _BORROWED if any(key in keys for keys in listed)]
        return cls([key for key in keys if _says_the_tags(key, with_tags)], foreign)

    def has(self, key: str) -> bool:
        """Whether a key, on the model or on a node that is not foreign, is ours: what packing writes is not."""
        return (
            key.startswith(PREFIX) and not is_pack_key(key) and not key.startswith(LENGTHS)
        ) or key in self.borrowed

    def without_ours(self, place: NodeKey, metadata: Mapping[str, str]) -> dict[str, str]:
        """The metadata of a node that is not ours."""
        if place in self.foreign:
            return dict(metadata)
        return {key: value for key, value in metadata.items() if not self.has(key)}


def _says_the_tags(key: str, metadata: Iterable[Mapping[str, str]]) -> bool:
    """Whether each of the nodes that have an entry, and one at least, names in it just the module of its tag."""
    values = [
        (entries[key], (entries.get(TAG, "/"), *_origins(entries.get(ORIGINS))))
        for entries in metadata
        if key in entries
    ]
    return bool(values) and all(any(_says_the_tag(key, value, tag) for tag in tags) for value, tags in values)


def _says_the_tag(key: str, value: str, tag: str) -> bool:
    path = tag_module_path(tag)
    classes = [unquote(segment.partition(".")[0]) for segment in split_tag(tag)]
    if key == LAYER_ANNOTATION:
        return unquote(value).replace("/", ".") == (path or ".")
    if key == NAMESPACE:
        return says_the_tag(value, tag)
    *names, _ = listed_in(value) or [""]  # the last is the node itself
    return list(map(_short, names)) == classes if key == CLASS_HIERARCHY else unquote("".join(names[-1:])) == path


def _short(qualified_class: str) -> str:
    return qualified_class.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Annotations:
    """The metadata of ours that a file is to have."""

    nodes: Mapping[NodeKey, Mapping[str, str]]  # the entries of each node that has any, in the order to write
    model: Mapping[str, str]
    ours: Ownership  # what is to be replaced

    @classmethod
    def of(cls, graph: TaggedGraph, options: HtpOptions) -> Annotations:
        """The tags of a graph and what the options ask for; keys that were on any node before us are left alone."""
        model = graph.model
        ours = Ownership.of(model)
        wanted = [NAMESPACE] * options.namespace + [NAME_SCOPES, CLASS_HIERARCHY] * options.torch_metadata
        others = {key for place, node in model.nodes() for key in ours.without_ours(place, node.metadata)}
        borrowed = [key for key in wanted if key not in others]
        namespaces = Namespaces(graph)
        chain = functools.cache(functools.partial(_torch_chain, graph.roots))
        nodes = {}
        for place, node in model.nodes():
            if (tag := graph.tags.get(place)) is not None:
                nodes[place] = _tag_entries(tag)
                for key in borrowed:
                    is_torchs = key != NAMESPACE
                    nodes[place][key] = chain(tag.tag).value(key, node) if is_torchs else namespaces.value(place, tag)
        skeleton = (graph.skeleton or pack_skeleton(graph)) if options.skeleton else None
        mark = Mark.of(graph, keys=borrowed, skeleton=skeleton, renamed=renamed_tensors(model))
        kept = {key: value for key, value in model.metadata.items() if key.startswith((CUT_FROM, EXPOSED))}
        return cls(nodes, {**mark.entries(), **kept}, ours)

    def matches(self, model: OnnxModel) -> bool:
        """Whether a file, as it was read, already has exactly these entries."""

        def differ(place: NodeKey, metadata: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
            left = self.ours.without_ours(place, metadata)
            return {key: value for key, value in metadata.items() if key not in left} != wanted

        on_model = {key: value for key, value in model.metadata.items() if self.ours.has(key)}
        return on_model == self.model and not any(
            differ(place, node.metadata, self.nodes.get(place, {})) for place, node in model.nodes()
        )

    def write(self, path: Path, destination: Path | None = None) -> None:
        """Writes them into a file, or a copy of it at `destination`, atomically and in place of what we wrote before.

        Raises ModelTooLargeError if the file would pass protobuf's 2 GB, else HtpError; the file stays as it is then.
        """
        rewrite_metadata(
            path,
            nodes=self.nodes,
            model=self.model,
            owned=self.ours.has,
            foreign=self.ours.foreign,
            destination=destination,
        )

    def within(self, content: bytes, *, path: Path) -> Iterator[bytes | memoryview]:
        """The pieces of a file that is still in memory, with them in it; raises what `write` does."""
        ours = self.ours
        return rewritten_content(
            content, path=path, nodes=self.nodes, model=self.model, owned=ours.has, foreign=ours.foreign
        )


def write_tags(graph: TaggedGraph, *, options: HtpOptions) -> None:
    """Writes tags into the file that a graph was read from, in place, as `Annotations.write` does."""
    Annotations.of(graph, options).write(graph.model.path)


def write_layer_values(model: OnnxModel, values: Mapping[NodeKey, str], *, destination: Path | None = None) -> None:
    """Writes ONNX Runtime's `layer_ann` on nodes, as `Annotations.write` does; `strip_tags` and `write_tags` remove it.

    Raises HtpError as `Annotations.write` does, and if a node has one that we did not write.
    """
    check_layer_annotations(model)
    ours = Ownership.of(model)
    marks = marks_of(model) or [Mark.of(TaggedGraph(model, {}), keys=(), skeleton=None, renamed={})]
    keys = (*(key for key in ours.borrowed if key != LAYER_ANNOTATION), LAYER_ANNOTATION)
    rewrite_metadata(
        model.path,
        nodes={key: {LAYER_ANNOTATION: value} for key, value in values.items()},
        owned=lambda key: key == LAYER_ANNOTATION or is_mark(key),
        model=entries_of(replace(mark, keys=keys) for mark in marks),
        destination=destination,
    )


def check_layer_annotations(model: OnnxModel) -> None:
    """Raises a PackageError if a node has a `layer_ann` that we did not write."""
    ours = Ownership.of(model)
    nodes = (node for key, node in model.nodes() if LAYER_ANNOTATION in ours.without_ours(key, node.metadata))
    foreign = list(nodes)
    if foreign:
        first = f"{foreign[0].name or foreign[0].op_type!r} has {foreign[0].metadata[LAYER_ANNOTATION]!r}"
        raise PackageError(
            f"{model.path}: {len(foreign)} of its nodes have a {LAYER_ANNOTATION} that something else wrote ({first}), "
            f"which stays as it is: use that, or remove it first"
        )


def strip_tags(path: Path, *, model: OnnxModel | None = None, destination: Path | None = None) -> bool:
    """Removes all that we wrote into a file, in place or in a copy; says whether there was anything, else writes nothing.

    `model` is what the file says, where that is known. Raises as `Annotations.write` does.
    """
    model = read_model(path) if model is None else model
    ours = Ownership.of(model)
    has_ours = any(map(ours.has, model.metadata)) or any(
        len(ours.without_ours(key, node.metadata)) < len(node.metadata) for key, node in model.nodes()
    )
    if has_ours:
        rewrite_metadata(
            path,
            nodes={},
            owned=ours.has,
            foreign=ours.foreign,
            model={},
            dropped=_added_outputs(model),
            destination=destination,
        )
    return has_ours


def _added_outputs(model: OnnxModel) -> dict[str, bool]:
    """The outputs that were added to a file, and whether nothing in it reads them by now."""
    names = exposed_outputs(model)
    read = {name for _, node in model.nodes() for name in reads(node)} if names else set()
    return {name: name not in read for name in names}


def write_renames(graph: TaggedGraph, renamed: Mapping[str, str]) -> None:
    """Writes the old names of initializers, by their new ones, into a file, and its skeleton anew if it has one."""
    marks = marks_of(graph.model)
    skeleton = pack_skeleton(graph) if any(mark.skeleton is not None for mark in marks) else None
    keys = Ownership.of(graph.model).borrowed if marks else None
    mark = Mark.of(graph, keys=keys, skeleton=skeleton, renamed=renamed)
    rewrite_metadata(graph.model.path, nodes={}, owned=is_mark, model=mark.entries())


def renamed_tensors(model: OnnxModel) -> dict[str, str]:
    """The old names of initializers that we renamed, by their new ones, as the file has them."""
    return {new: old for mark in marks_of(model) for new, old in mark.renamed.items()}


def read_tags(model: OnnxModel) -> dict[NodeKey, NodeTag]:
    """The tags in the metadata of a graph's nodes; nodes without a well-formed one are left out."""
    tags = {}
    for key, node in model.nodes():
        tag, source = node.metadata.get(TAG), node.metadata.get(SOURCE)
        if tag is not None and source in SOURCES and _well_formed(tag):
            text = node.metadata.get(CALL, "")
            call = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
            tags[key] = NodeTag(tag, source, call, _origins(node.metadata.get(ORIGINS)))
    return tags


def trees_of_nodes(model: OnnxModel, tags: NodeTags) -> Iterator[ModuleTree]:
    """Module trees as far as the nodes say: by their tags, and the qualified classes where torch's formats are."""
    classes: dict[str, str] = {}
    for key, node in model.nodes():
        tag = tags.get(key)
        for names in _qualified_classes(node):
            above = list(tag_ancestors(tag.tag)) if tag is not None else []
            if len(names) == len(above):
                classes.update(zip(above, names, strict=True))
    for tree in tree_of_tags(tags):
        yield ModuleTree(_with_class(tree, info, classes) for info in tree) if classes else tree


def _with_class(tree: ModuleTree, info: ModuleInfo, classes: Mapping[str, str]) -> ModuleInfo:
    qualified = classes.get(tree.tag(info.path), "") if not info.container else ""
    return replace(info, qualified_class=qualified) if qualified.endswith(info.class_name) else info


def _qualified_classes(node: Node) -> Iterator[list[str]]:
    """The classes around a node, root first, as torch's formats have them, where it has any."""
    if node.metadata.get(NAMESPACE, "").startswith(": "):  # the root's path is empty
        yield qualified_classes(node.metadata[NAMESPACE])
    if CLASS_HIERARCHY in node.metadata:
        yield listed_in(node.metadata[CLASS_HIERARCHY])[:-1]  # the last is the node itself


def _origins(text: str | None) -> tuple[str, ...]:
    value = json_or_none(text) if text else ()
    items = value if isinstance(value, list) else ()
    return tuple(item for item in items if isinstance(item, str) and _well_formed(item))


def _well_formed(tag: str) -> bool:
    """Whether a text can be a tag: of a root and named modules below it, encodable, and not deeper than any model is."""
    if not tag.startswith("/") or max(tag.count("/"), tag.count(".")) > MAX_MODULE_DEPTH:
        return False
    try:
        tag.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return all("." in segment for segment in split_tag(tag)[1:])


def _tag_entries(tag: NodeTag) -> dict[str, str]:
    entries = {TAG: tag.tag}
    if tag.call is not None:
        entries[CALL] = str(tag.call)
    entries[SOURCE] = tag.source
    if tag.origins:
        entries[ORIGINS] = json.dumps(list(tag.origins))
    return entries


class _TorchChain(NamedTuple):
    """The modules of a tag, in torch's formats."""

    scopes: list[str]
    classes: list[str]

    def value(self, key: str, node: Node) -> str:
        """What a node has under one of torch's keys."""
        if key == NAME_SCOPES:
            return repr([*self.scopes, node.name])
        return repr([*self.classes, f"{node.domain}::{node.op_type}"])


def _torch_chain(roots: Roots, tag: str) -> _TorchChain:
    place = roots.find(tag)
    if place is None:
        raise KeyError(tag)
    tree, path = place[0].tree, place[1]
    chain = tree.chain(path)
    scopes = [".".join(map(escape_name, part)) for part, _ in chain]
    return _TorchChain(scopes, [module.qualified_class for _, module in chain])
