"""What is written on the nodes and on the model of an ONNX file, and which of it is ours to remove again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
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
from optimum_htp.onnxfile import OnnxModel, read_model, rewrite_metadata, rewritten_content
from optimum_htp.package.archive import is_pack_key
from optimum_htp.package.limits import MAX_MODULE_DEPTH
from optimum_htp.tagging import TaggedGraph


PREFIX = "pkg.optimum_htp."
TAG = PREFIX + "tag"
CALL = PREFIX + "call"
SOURCE = PREFIX + "source"
ORIGINS = PREFIX + "origins"
KEYS = PREFIX + "keys"
"""On the model: the JSON list of the keys without our prefix that we wrote on nodes."""
RENAMED = PREFIX + "renamed"
"""On the model: the old names of stored tensors that we renamed, by their new ones, as JSON."""

NAMESPACE = "namespace"
NAME_SCOPES = "pkg.torch.onnx.name_scopes"
CLASS_HIERARCHY = "pkg.torch.onnx.class_hierarchy"
LAYER_ANNOTATION = "layer_ann"
"""ONNX Runtime's: which layer a node is of, for the session option `session.layer_assignment_settings`."""

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


def owned_keys(model: OnnxModel) -> Callable[[str], bool]:
    """A test for the metadata keys of a file that we wrote: those with our prefix, and those that the model lists.

    What a file says of itself is not believed: only keys that we ever write can be ours. The files in a packed file
    are not metadata of its nodes: whoever writes tags leaves them where they are.
    """
    borrowed = _borrowed_keys(model)
    return lambda key: (key.startswith(PREFIX) and not is_pack_key(key)) or key in borrowed


def _borrowed_keys(model: OnnxModel) -> list[str]:
    """The keys without our prefix that are ours: those that the model lists.

    Where a tool dropped the list, `namespace` is ours if it names, on each node that has it, just the modules of the
    node's tag. Torch's own two keys and ONNX Runtime's are never taken for ours then.
    """
    if KEYS not in model.metadata:
        nodes = (node.metadata for _, graph in model.graphs() for node in graph.nodes)
        having = [metadata for metadata in nodes if NAMESPACE in metadata]
        return [NAMESPACE] if having and all(map(_names_the_tag, having)) else []
    try:
        listed = json.loads(model.metadata[KEYS])
    except (ValueError, RecursionError):
        return []
    return [key for key in _BORROWED if isinstance(listed, list) and key in listed]


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
    """The metadata that a file is to have of us.

    Attributes:
        nodes: For each node that has any, in the order in which it is written.
        model: For the model.
        owned: Which keys are ours to replace.
    """

    nodes: Mapping[NodeKey, Mapping[str, str]]
    model: Mapping[str, str]
    owned: Callable[[str], bool]

    @classmethod
    def of(
        cls, graph: TaggedGraph, *, options: HtpOptions, model_metadata: Mapping[str, str] | None = None
    ) -> Annotations:
        """What says the tags of a graph. Keys that were on any node before us are left alone everywhere in the file.

        Args:
            graph: The graph, as it was read from its file.
            options: What to write in addition to the tags.
            model_metadata: What to write on the model.
        """
        model = graph.model
        owned = owned_keys(model)
        wanted = [NAMESPACE] * options.namespace + [NAME_SCOPES, CLASS_HIERARCHY] * options.torch_metadata
        foreign = {key for _, node in model.nodes() for key in node.metadata if key in wanted and not owned(key)}
        borrowed = [key for key in wanted if key not in foreign]
        chains = _Chains(graph.roots)
        nodes = {}
        for place, node in model.nodes():
            tag = graph.tags.get(place)
            if tag is None:
                continue
            nodes[place] = entries = _tag_entries(tag)
            for key in borrowed:
                entries[key] = chains.value(key, tag.tag, node.name, f"{node.domain}::{node.op_type}")
        kept = {RENAMED: model.metadata[RENAMED]} if RENAMED in model.metadata else {}
        return cls(nodes, {KEYS: json.dumps(borrowed), **kept, **(model_metadata or {})}, owned)

    def matches(self, model: OnnxModel) -> bool:
        """Whether a file, as it was read, already has exactly these entries."""

        def ours(metadata: Mapping[str, str]) -> dict[str, str]:
            return {key: value for key, value in metadata.items() if self.owned(key)}

        return ours(model.metadata) == self.model and all(
            ours(node.metadata) == self.nodes.get(key, {}) for key, node in model.nodes()
        )

    def write(self, path: Path, destination: Path | None = None) -> None:
        """Writes them into a file, atomically, in the place of what we wrote before.

        Args:
            path: The file.
            destination: Another file to write, which leaves the first as it is.

        Raises:
            ModelTooLargeError: The file would pass protobuf's 2 GB; it stays as it is.
            HtpError: The file could not be written; it stays as it is.
        """
        rewrite_metadata(path, nodes=self.nodes, owned=self.owned, model=self.model, destination=destination)

    def within(self, content: bytes, *, path: Path) -> Iterator[bytes | memoryview]:
        """A file that is still in memory with them in it, in pieces.

        Raises:
            ModelTooLargeError: The file would pass protobuf's 2 GB.
            HtpError: It is not an ONNX model.
        """
        return rewritten_content(content, path=path, nodes=self.nodes, owned=self.owned, model=self.model)


def write_tags(graph: TaggedGraph, *, options: HtpOptions, model_metadata: Mapping[str, str] | None = None) -> None:
    """Writes tags into the file that a graph was read from, in place and atomically, replacing what we wrote before.

    The arguments are those of `Annotations.of`.

    Raises:
        ModelTooLargeError: The file would pass protobuf's 2 GB; it stays as it is.
        HtpError: The file could not be written; it stays as it is.
    """
    Annotations.of(graph, options=options, model_metadata=model_metadata).write(graph.model.path)


def write_layer_values(model: OnnxModel, values: Mapping[NodeKey, str]) -> None:
    """Writes ONNX Runtime's `layer_ann` on nodes, in place and atomically, replacing what we wrote there before.

    `strip_tags` takes it away again, and so does `write_tags`.

    Raises:
        PackageError: A node has one that we did not write; the file stays as it is.
        ModelTooLargeError: The file would pass protobuf's 2 GB; it stays as it is.
        HtpError: The file could not be written; it stays as it is.
    """
    check_layer_annotations(model)
    keys = [key for key in _borrowed_keys(model) if key != LAYER_ANNOTATION]
    rewrite_metadata(
        model.path,
        nodes={key: {LAYER_ANNOTATION: value} for key, value in values.items()},
        owned=lambda key: key in (LAYER_ANNOTATION, KEYS),
        model={KEYS: json.dumps([*keys, LAYER_ANNOTATION])},
    )


def check_layer_annotations(model: OnnxModel) -> None:
    """Checks that no node has a `layer_ann` that we did not write.

    Raises:
        PackageError: One has.
    """
    if owned_keys(model)(LAYER_ANNOTATION):
        return
    nodes = (node for _, graph in model.graphs() for node in graph.nodes if LAYER_ANNOTATION in node.metadata)
    foreign = list(nodes)
    if foreign:
        first = f"{foreign[0].name or foreign[0].op_type!r} has {foreign[0].metadata[LAYER_ANNOTATION]!r}"
        raise PackageError(
            f"{model.path}: {len(foreign)} of its nodes have a {LAYER_ANNOTATION} that something else wrote ({first}), "
            f"which stays as it is: use that, or remove it first"
        )


def strip_tags(path: Path) -> bool:
    """Removes all that we wrote into a file, in place and atomically; says whether there was anything.

    Raises:
        OnnxFileError: The file is not an ONNX model.
        HtpError: The file could not be written; it stays as it is.
    """
    model = read_model(path)
    owned = owned_keys(model)
    if not any(map(owned, model.metadata)) and not any(
        owned(key) for _, graph in model.graphs() for node in graph.nodes for key in node.metadata
    ):
        return False
    rewrite_metadata(path, nodes={}, owned=owned, model={})
    return True


def renamed_tensors(model: OnnxModel) -> dict[str, str]:
    """The old names of stored tensors that we renamed, by their new ones, as the file has them."""
    try:
        names = json.loads(model.metadata.get(RENAMED, "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(names, dict):
        return {}
    return {new: old for new, old in names.items() if isinstance(old, str)}


def read_tags(model: OnnxModel) -> dict[NodeKey, NodeTag]:
    """The tags that stand on the nodes of a graph; nodes without a well-formed one are left out."""
    tags = {}
    for key, node in model.nodes():
        metadata = node.metadata
        tag, source = metadata.get(TAG), metadata.get(SOURCE)
        if tag is None or source not in SOURCES or not _well_formed(tag):
            continue
        text = metadata.get(CALL, "")
        call = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
        tags[key] = NodeTag(tag, source, call, _origins(metadata.get(ORIGINS)))
    return tags


def trees_of_nodes(model: OnnxModel, tags: NodeTags) -> Iterator[ModuleTree]:
    """Module trees as far as the nodes tell: their tags, and the qualified classes in their namespaces."""
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
    if not text:
        return ()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(value, list):
        return ()
    return tuple(item for item in value if isinstance(item, str) and _well_formed(item))


def _well_formed(tag: str) -> bool:
    """Whether a tag can be one: of a root and named modules below it, encodable, and not deeper than any model is."""
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


class _Chains:
    """The values in torch's formats for each tag, made once per module."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._made: dict[str, tuple[str, list[str], list[str]]] = {}

    def value(self, key: str, tag: str, node_name: str, operator: str) -> str:
        namespace, scopes, classes = self._made.get(tag) or self._make(tag)
        if key == NAMESPACE:
            return namespace
        return repr([*scopes, node_name]) if key == NAME_SCOPES else repr([*classes, operator])

    def _make(self, tag: str) -> tuple[str, list[str], list[str]]:
        found = self._roots.find(tag)
        if found is None:
            raise KeyError(tag)
        root, path = found
        chain = root.tree.chain(path)
        scopes = [".".join(map(escape_name, part)) for part, _ in chain]
        made = root.tree.namespace(path), scopes, [module.qualified_class for _, module in chain]
        self._made[tag] = made
        return made
