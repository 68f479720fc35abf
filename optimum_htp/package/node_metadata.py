"""What is written on the nodes and on the model of an ONNX file, and which of it is ours to remove again."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
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
from optimum_htp.onnxfile import Node, OnnxModel, read_model, rewrite_metadata, rewritten_content
from optimum_htp.package.archive import is_pack_key
from optimum_htp.package.limits import MAX_MODULE_DEPTH
from optimum_htp.package.skeleton import SKELETON, pack_skeleton
from optimum_htp.tagging import CLASS_HIERARCHY, NAME_SCOPES, TaggedGraph

PREFIX = "pkg.optimum_htp."
TAG = PREFIX + "tag"
CALL = PREFIX + "call"
SOURCE = PREFIX + "source"
ORIGINS = PREFIX + "origins"
KEYS = PREFIX + "keys"
"""On the model: the JSON list of the keys without our prefix that we wrote on nodes."""
RENAMED = PREFIX + "renamed"
"""On the model: the old names of initializers that we renamed, by their new ones, as JSON."""

NAMESPACE = "namespace"
LAYER_ANNOTATION = "layer_ann"
"""ONNX Runtime's: the layer of a node, for the session option `session.layer_assignment_settings`."""

_BORROWED = (NAMESPACE, NAME_SCOPES, CLASS_HIERARCHY, LAYER_ANNOTATION)


@dataclass(frozen=True, slots=True)
class HtpOptions:
    """What the HTP pass writes in addition to the tags.

    Attributes:
        namespace: Write `namespace`, torch's format, which Model Explorer groups nodes by.
        torch_metadata: Write `pkg.torch.onnx.name_scopes` and `pkg.torch.onnx.class_hierarchy`, torch's own formats.
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
    tagged = [
        (keys, SKELETON in model.metadata)
        for model in models
        if isinstance(keys := _parsed(model.metadata.get(KEYS)), list)
    ]
    if not tagged:
        return HtpOptions()
    keys = tagged[0][0]
    return HtpOptions(
        namespace=NAMESPACE in keys,
        torch_metadata=NAME_SCOPES in keys and CLASS_HIERARCHY in keys,
        skeleton=any(has_skeleton for _, has_skeleton in tagged),
    )


def owned_keys(model: OnnxModel) -> Callable[[str], bool]:
    """A test for the metadata keys that are ours: our prefix, without packed files, and what a file lists as ours."""
    borrowed = _borrowed_keys(model)
    return lambda key: (key.startswith(PREFIX) and not is_pack_key(key)) or key in borrowed


def _borrowed_keys(model: OnnxModel) -> list[str]:
    """The keys without our prefix that are ours: those that the model lists."""
    # If a tool dropped the list, `namespace` is ours if it names, on each node, just the modules of the tag.
    if KEYS not in model.metadata:
        named = [node.metadata for _, node in model.nodes() if NAMESPACE in node.metadata]
        return [NAMESPACE] if named and all(map(_names_the_tag, named)) else []
    listed = _parsed(model.metadata[KEYS])
    return [key for key in _BORROWED if isinstance(listed, list) and key in listed]


def _parsed(text: str | None) -> Any:
    """A value in a file's metadata; None if it is not there or not JSON."""
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None


def _names_the_tag(metadata: Mapping[str, str]) -> bool:
    """Whether a node's `namespace` has the paths and the classes of its tag."""
    tag = metadata.get(TAG, "")
    named = [part.rpartition(": ") for part in metadata[NAMESPACE].split("/")]
    classes = [segment.partition(".")[0] for segment in split_tag(tag)]
    path = tag_module_path(tag) if tag.startswith("/") else None
    same = [cls.rpartition(".")[2] for _, _, cls in named] == [unquote(name) for name in classes]
    return path is not None and same and unquote(named[-1][0]) == path


@dataclass(frozen=True, slots=True)
class Annotations:
    """The metadata of ours that a file is to have."""

    nodes: Mapping[NodeKey, Mapping[str, str]]  # the entries of each node that has any, in the order to write
    model: Mapping[str, str]
    owned: Callable[[str], bool]  # which keys are ours to replace

    @classmethod
    def of(cls, graph: TaggedGraph, options: HtpOptions) -> Annotations:
        """The tags of a graph and what the options ask for; keys that were on any node before us are left alone."""
        model = graph.model
        owned = owned_keys(model)
        wanted = [NAMESPACE] * options.namespace + [NAME_SCOPES, CLASS_HIERARCHY] * options.torch_metadata
        foreign = {key for _, node in model.nodes() for key in node.metadata if key in wanted and not owned(key)}
        borrowed = [key for key in wanted if key not in foreign]
        chain = functools.cache(functools.partial(_torch_chain, graph.roots))
        nodes = {}
        for place, node in model.nodes():
            if (tag := graph.tags.get(place)) is not None:
                nodes[place] = _tag_entries(tag) | {key: chain(tag.tag).value(key, node) for key in borrowed}
        skeleton = (graph.skeleton or pack_skeleton(graph)) if options.skeleton else None
        on_model = {KEYS: json.dumps(borrowed), RENAMED: model.metadata.get(RENAMED), SKELETON: skeleton}
        return cls(nodes, {key: value for key, value in on_model.items() if value is not None}, owned)

    def matches(self, model: OnnxModel) -> bool:
        """Whether a file, as it was read, already has exactly these entries."""

        def ours(metadata: Mapping[str, str]) -> dict[str, str]:
            return {key: value for key, value in metadata.items() if self.owned(key)}

        return ours(model.metadata) == self.model and all(
            ours(node.metadata) == self.nodes.get(key, {}) for key, node in model.nodes()
        )

    def write(self, path: Path, destination: Path | None = None) -> None:
        """Writes them into a file, or a copy of it at `destination`, atomically and in place of what we wrote before.

        Raises ModelTooLargeError if the file would pass protobuf's 2 GB, else HtpError; the file stays as it is then.
        """
        rewrite_metadata(path, nodes=self.nodes, owned=self.owned, model=self.model, destination=destination)

    def within(self, content: bytes, *, path: Path) -> Iterator[bytes | memoryview]:
        """The pieces of a file that is still in memory, with them in it; raises what `write` does."""
        return rewritten_content(content, path=path, nodes=self.nodes, owned=self.owned, model=self.model)


def write_tags(graph: TaggedGraph, *, options: HtpOptions) -> None:
    """Writes tags into the file that a graph was read from, in place, as `Annotations.write` does."""
    Annotations.of(graph, options).write(graph.model.path)


def write_layer_values(model: OnnxModel, values: Mapping[NodeKey, str], *, destination: Path | None = None) -> None:
    """Writes ONNX Runtime's `layer_ann` on nodes, as `Annotations.write` does; `strip_tags` and `write_tags` remove it.

    Raises HtpError as `Annotations.write` does, and if a node has one that we did not write.
    """
    check_layer_annotations(model)
    keys = [key for key in _borrowed_keys(model) if key != LAYER_ANNOTATION]
    rewrite_metadata(
        model.path,
        nodes={key: {LAYER_ANNOTATION: value} for key, value in values.items()},
        owned=lambda key: key in (LAYER_ANNOTATION, KEYS),
        model={KEYS: json.dumps([*keys, LAYER_ANNOTATION])},
        destination=destination,
    )


def check_layer_annotations(model: OnnxModel) -> None:
    """Raises a PackageError if a node has a `layer_ann` that we did not write."""
    foreign = [node for _, node in model.nodes() if LAYER_ANNOTATION in node.metadata]
    if foreign and not owned_keys(model)(LAYER_ANNOTATION):
        first = f"{foreign[0].name or foreign[0].op_type!r} has {foreign[0].metadata[LAYER_ANNOTATION]!r}"
        raise PackageError(
            f"{model.path}: {len(foreign)} of its nodes have a {LAYER_ANNOTATION} that something else wrote ({first}), "
            f"which stays as it is: use that, or remove it first"
        )


def strip_tags(path: Path, *, destination: Path | None = None) -> bool:
    """Removes all that we wrote into a file, in place or in a copy; says whether there was anything, else writes nothing.

    Raises as `Annotations.write` does.
    """
    model = read_model(path)
    owned = owned_keys(model)
    metadata = (model.metadata, *(node.metadata for _, node in model.nodes()))
    has_ours = any(owned(key) for entries in metadata for key in entries)
    if has_ours:
        rewrite_metadata(path, nodes={}, owned=owned, model={}, destination=destination)
    return has_ours


def renamed_tensors(model: OnnxModel) -> dict[str, str]:
    """The old names of initializers that we renamed, by their new ones, as the file has them."""
    names = _parsed(model.metadata.get(RENAMED))
    return {new: old for new, old in names.items() if isinstance(old, str)} if isinstance(names, dict) else {}


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
    """Module trees as far as the nodes say: by their tags, and the qualified classes in their namespaces."""
    classes: dict[str, str] = {}
    for key, node in model.nodes():
        tag = tags.get(key)
        parts = node.metadata.get(NAMESPACE, "").split("/")
        above = list(tag_ancestors(tag.tag)) if tag is not None else []
        if len(parts) == len(above):
            classes.update(zip(above, (part.rpartition(": ")[2] for part in parts), strict=True))
    for tree in tree_of_tags(tags):
        yield ModuleTree(_with_class(tree, info, classes) for info in tree)


def _with_class(tree: ModuleTree, info: ModuleInfo, classes: Mapping[str, str]) -> ModuleInfo:
    qualified = classes.get(tree.tag(info.path), "") if not info.container else ""
    return replace(info, qualified_class=qualified) if qualified.endswith(info.class_name) else info


def _origins(text: str | None) -> tuple[str, ...]:
    value = _parsed(text)
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

    namespace: str
    scopes: list[str]
    classes: list[str]

    def value(self, key: str, node: Node) -> str:
        """What a node has under one of torch's keys."""
        if key == NAME_SCOPES:
            return repr([*self.scopes, node.name])
        return repr([*self.classes, f"{node.domain}::{node.op_type}"]) if key == CLASS_HIERARCHY else self.namespace


def _torch_chain(roots: Roots, tag: str) -> _TorchChain:
    place = roots.find(tag)
    if place is None:
        raise KeyError(tag)
    tree, path = place[0].tree, place[1]
    chain = tree.chain(path)
    scopes = [".".join(map(escape_name, part)) for part, _ in chain]
    return _TorchChain(tree.namespace(path), scopes, [module.qualified_class for _, module in chain])
