"""The tagged graphs that a file was put together from, each with the names and the roots that it has there.

A file has a skeleton of each (`marks`). What puts models together may write a prefix in front of their names, to keep
them apart (`onnx.compose.add_prefix`), so a skeleton is looked for with any prefix. Graphs whose roots have the same tag,
as of two exports of a class, or of one export that is there twice, are told apart by their names, and get roots of
different names: the class with the prefix in front of it, else with a number behind it.

Example: the names of `/BertModel` are in a file with `a/` in front of them and with `b/`. On the nodes, all tags begin
with `/BertModel`; they are read as those of `/a%2FBertModel` and `/b%2FBertModel`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy import ModuleTree, NodeKey, NodeTag, NodeTags, Root, Roots, escape_name, tag_ancestors
from optimum_htp.onnxfile import Function, Graph, Node, OnnxModel, Value, node_id
from optimum_htp.package.marks import Mark, marks_of
from optimum_htp.package.node_metadata import TAG
from optimum_htp.package.skeleton import unpack_skeleton
from optimum_htp.tagging import TaggedGraph

_ANCHORS = 32  # names of a skeleton that are looked for with something in front of them
_PREFIXES = 64  # that are looked at, those of most anchors first
_ENOUGH = 0.2  # of the names of a skeleton; what optimizes a graph leaves few of them
_ALIKE = 0.9  # of the names of one copy, that another must have too
_EXPORTED = re.compile(r"/.*_output_\d+")  # a name that an exporter made, and a tool rarely


@dataclass(frozen=True, slots=True)
class _Copy:
    """A graph that is in a file with a prefix in front of its names."""

    prefix: str
    graph: TaggedGraph
    roots: Mapping[str, str] = field(default_factory=dict)  # the new tags of roots that other graphs have too, by old


_Signatures = Mapping[str, tuple[str, Sequence[str]]]
"""The operator and the inputs of each node of a graph, by the node's result."""


def graph_of_skeletons(model: OnnxModel) -> TaggedGraph | None:
    """The graph that a file was made from, as the skeletons in it say; None if there are none.

    Raises HtpError if one is damaged, or of a newer version.
    """
    marks = marks_of(model)
    packed = [mark.skeleton for mark in marks if mark.skeleton is not None]
    if not packed:
        return None
    copies, _ = _copies(model, list(map(unpack_skeleton, packed)), [mark for mark in marks if mark.skeleton is None])
    if len(copies) == 1 and not copies[0].prefix:
        return replace(copies[0].graph, skeleton=packed[0])
    return _united([_as_in_the_file(copy) for copy in copies])


def roots_of_skeletons(model: OnnxModel) -> Roots:
    """The root modules that the skeletons in a file know, with their calls; none if there is no skeleton, or no sound one."""
    try:
        graph = graph_of_skeletons(model)
    except HtpError:
        return Roots()
    return graph.roots if graph is not None else Roots()


def told_apart(model: OnnxModel, tags: NodeTags) -> tuple[NodeTags, Roots]:
    """The tags on a file's nodes, by the root of the graph that each node is of; the roots, if that changed any.

    A node is unresolved if several graphs have its root's tag, and it is not known of which it is.
    """
    marks = marks_of(model)
    if not marks or (len(marks) == 1 and len(tags) <= marks[0].nodes):
        return tags, Roots()
    skeletons, others = [], []
    for mark in marks:
        try:
            skeletons.append(unpack_skeleton(mark.skeleton or ""))
        except HtpError:
            others.append(mark)
    copies, shared = _copies(model, skeletons, others)
    if not shared:
        return tags, Roots()
    owners, nodes = _owners(copies), dict(model.nodes())

    def apart(key: NodeKey, tag: NodeTag) -> NodeTag:
        root = next(tag_ancestors(tag.tag))
        if root not in shared:
            return tag
        found = set[int]().union(*(owners.get((name, tag.tag), ()) for name in _names(nodes[key], key[1])))
        return _renamed_tag(tag, copies[found.pop()].roots) if len(found) == 1 else NodeTag(root, "unresolved")

    roots = Roots(_renamed_root(root, copy.roots) for copy in copies for root in copy.graph.roots)
    return {key: apart(key, tag) for key, tag in tags.items()}, roots


def _owners(copies: Sequence[_Copy]) -> dict[tuple[str, str], set[int]]:
    """The copies that have a node, by each of its names in the file and its tag."""
    owners: dict[tuple[str, str], set[int]] = {}
    for index, copy in enumerate(copies):
        for key, node in copy.graph.model.nodes():
            if (tag := copy.graph.tags.get(key)) is not None:
                for name in _names(node, key[1], copy.prefix):
                    owners.setdefault((name, tag.tag), set()).add(index)
    return owners


def _names(node: Node, index: int, prefix: str = "") -> Iterator[str]:
    """The names that a node is known by, its result first."""
    identity = node_id(node, index)
    if not identity.startswith("#"):
        yield prefix + identity
    if node.name:
        yield f"\n{prefix}{node.name}"


# --- Where the skeletons are in a file -----------------------------------------------------------------------------


def _copies(
    model: OnnxModel, skeletons: Sequence[TaggedGraph], others: Sequence[Mark]
) -> tuple[list[_Copy], set[str]]:
    """The graphs of skeletons in the order of the file, and the tags of roots that several graphs have, `others` too."""
    copies = _located(model, skeletons)
    roots = [{root.tag for root in copy.graph.roots} for copy in copies] + [set(mark.roots) for mark in others]
    counts = Counter(tag for tags in roots for tag in tags)
    shared = {tag for tag, count in counts.items() if count > 1}
    taken = counts.keys() - shared
    distinct = len({copy.prefix for copy in copies}) == len(copies)
    for number, copy in enumerate(copies, 1):
        renamed: dict[str, str] = {}
        for root in copy.graph.roots:
            if root.tag in shared:
                name = root.tree.root.class_name
                name = copy.prefix + name if distinct and copy.prefix else f"{name}#{number}"
                while f"/{escape_name(name)}" in taken:
                    name += "'"
                renamed[root.tag] = f"/{escape_name(name)}"
                taken |= {renamed[root.tag]}
        copies[number - 1] = replace(copy, roots=renamed)
    return copies, shared


def _located(model: OnnxModel, skeletons: Sequence[TaggedGraph]) -> list[_Copy]:
    """Each skeleton with each prefix that it is in a file with; one that is nowhere, without.

    It is looked for on tagged nodes first: others may be of a model that is not tagged. What dropped the metadata of a
    part, as a conversion to another opset before the merge does, left just others.
    """
    nodes = list(model.nodes())
    places = {node_id(node, key[1]): place for place, (key, node) in enumerate(nodes)}
    located: list[tuple[int, int, str]] = []
    for with_tags in (True, False):
        missing = sorted(set(range(len(skeletons))) - {index for _, index, _ in located})
        names = {index: _signatures(skeletons[index]) for index in missing}
        present = {node_id(node, key[1]): node for key, node in nodes if (TAG in node.metadata) is with_tags}
        found = _located_in(present, names)
        located += [(places[first], index, prefix) for index, prefix, first in found]
    missing = sorted(set(range(len(skeletons))) - {index for _, index, _ in located})
    located += [(len(nodes), index, "") for index in missing]
    return [_Copy(prefix, skeletons[index]) for _, index, prefix in sorted(located)]


def _located_in(present: Mapping[str, Node], names: Mapping[int, _Signatures]) -> Iterator[tuple[int, str, str]]:
    """The graphs, by number, that are among some nodes, with each prefix that they are there with, and their first name."""
    places = {name: place for place, name in enumerate(present)}
    possible = [
        (len(found), len(found) / len(own), -index, -min(places[prefix + name] for name in found), prefix, found)
        for index, own in names.items()
        for prefix in _prefixes(list(own), present)
        if (found := _found(own, prefix, present))
    ]
    known = list(present)
    claimed: set[str] = set()
    best: dict[int, set[str]] = {}
    for count, _, index, place, prefix, found in sorted(possible, key=lambda each: each[:4], reverse=True):
        here = {prefix + name for name in found}
        # What optimizes two equal graphs leaves of one what it leaves of the other, but for what they share then.
        first = best.setdefault(-index, found)
        if (
            len(found & first) >= _ALIKE * len(first)
            and claimed.isdisjoint(here)
            and count >= _ENOUGH * len(names[-index])
        ):
            claimed |= here
            yield -index, prefix, known[-place]


def _prefixes(names: Sequence[str], present: Mapping[str, Node]) -> list[str]:
    """What may be in front of the names of a graph among those of a file, nothing first."""
    anchors = tuple(names[:: max(1, len(names) // _ANCHORS)])
    ending = (name for name in present if name.endswith(anchors))
    pairs = ((name.removesuffix(anchor), anchor) for name in ending for anchor in anchors if name.endswith(anchor))
    votes = Counter(prefix for prefix, anchor in pairs if not (prefix[-1:].isdecimal() and anchor[:1].isdecimal()))
    return list(dict.fromkeys(("", *(prefix for prefix, _ in votes.most_common(_PREFIXES)))))


def _found(own: _Signatures, prefix: str, present: Mapping[str, Node]) -> set[str]:
    """The names of a graph that a file has with a prefix in front; none if those with it are another model's."""
    if not prefix:
        return {name for name in own if name in present}
    for name in present:
        if name.startswith(prefix) and name[len(prefix) :] not in own and _EXPORTED.fullmatch(name, len(prefix)):
            return set()
    return {name for name, was in own.items() if (node := present.get(prefix + name)) and _may_be(node, prefix, *was)}


def _may_be(node: Node, prefix: str, op_type: str, inputs: Sequence[str]) -> bool:
    """Whether a node can be what one of a graph has become: the same, or an operator that a tool made of several."""
    if node.domain not in ("", "ai.onnx"):
        return True
    return node.op_type == op_type and (not inputs or any(prefix + name in node.inputs for name in inputs))


def _signatures(graph: TaggedGraph) -> _Signatures:
    # An input may be another's output by now.
    given = {value.name for value in graph.model.graph.inputs} | {""}
    return {
        node_id(node, key[1]): (node.op_type, [name for name in node.inputs if name not in given])
        for key, node in graph.model.nodes()
    }


# --- As they are there ---------------------------------------------------------------------------------------------


def _as_in_the_file(copy: _Copy) -> TaggedGraph:
    model = _with_prefix(copy.graph.model, copy.prefix)
    keys = zip(copy.graph.model.nodes(), model.nodes(), strict=True)  # functions have other names, so other paths
    places = {old: new for (old, _), (new, _) in keys}
    tags = {places[key]: _renamed_tag(tag, copy.roots) for key, tag in copy.graph.tags.items()}
    roots = Roots(_renamed_root(root, copy.roots) for root in copy.graph.roots)
    return replace(copy.graph, model=model, tags=tags, roots=roots)


def _renamed_tag(tag: NodeTag, roots: Mapping[str, str]) -> NodeTag:
    def renamed(name: str) -> str:
        root = next(tag_ancestors(name))
        return roots.get(root, root) + name[len(root) :]

    return replace(tag, tag=renamed(tag.tag), origins=tuple(map(renamed, tag.origins))) if roots else tag


def _renamed_root(root: Root, roots: Mapping[str, str]) -> Root:
    if root.tag not in roots:
        return root
    name = unquote(roots[root.tag][1:])
    tree = ModuleTree(info if info.path else replace(info, class_name=name) for info in root.tree)
    return Root.of_rows(tree, root.in_model, (trace.rows() for trace in root.traces))


def _with_prefix(model: OnnxModel, prefix: str) -> OnnxModel:
    """A skeleton's model with a prefix in front of all its names, as `onnx.compose.add_prefix` writes it."""
    if not prefix:
        return model
    local = {(function.domain, function.name) for function in model.functions}

    def named(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(prefix + name if name else "" for name in names)

    def values(given: Sequence[Value]) -> tuple[Value, ...]:
        return tuple(replace(value, name=prefix + value.name) for value in given)

    def calling(node: Node) -> Node:
        return replace(node, op_type=prefix + node.op_type) if (node.domain, node.op_type) in local else node

    def with_prefix(graph: Graph) -> Graph:
        return replace(
            graph,
            nodes=[
                replace(
                    calling(node),
                    name=prefix + node.name if node.name else "",
                    inputs=named(node.inputs),
                    outputs=named(node.outputs),
                    bodies=tuple((name, with_prefix(body)) for name, body in node.bodies),
                )
                for node in graph.nodes
            ],
            inputs=values(graph.inputs),
            outputs=values(graph.outputs),
            initializers=tuple(replace(tensor, name=prefix + tensor.name) for tensor in graph.initializers),
        )

    functions = tuple(
        replace(each, name=prefix + each.name, graph=replace(each.graph, nodes=list(map(calling, each.graph.nodes))))
        for each in model.functions
    )
    return replace(model, graph=with_prefix(model.graph), functions=functions)


def _united(graphs: Sequence[TaggedGraph]) -> TaggedGraph:
    """Several graphs as one."""
    nodes: list[Node] = []
    functions: list[Function] = []
    tags: dict[NodeKey, NodeTag] = {}
    for graph in graphs:
        tags |= {_moved(key, len(nodes)): tag for key, tag in graph.tags.items()}
        nodes += graph.model.graph.nodes
        functions += graph.model.functions
    main = [graph.model.graph for graph in graphs]
    whole = Graph(
        nodes=nodes,
        inputs=tuple(value for graph in main for value in graph.inputs),
        outputs=tuple(value for graph in main for value in graph.outputs),
        initializers=tuple(tensor for graph in main for tensor in graph.initializers),
    )
    roots = Roots(root for graph in graphs for root in graph.roots)
    return TaggedGraph(OnnxModel(graph=whole, functions=tuple(functions)), tags, roots)


def _moved(key: NodeKey, offset: int) -> NodeKey:
    """The key of a node after others were put in front of those of the main graph.

    >>> _moved(("", 3), 10), _moved(("3.then_branch/1.body", 0), 10), _moved(("domain::f", 2), 10)
    (('', 13), ('13.then_branch/1.body', 0), ('domain::f', 2))
    """
    path, index = key
    if not path:
        return "", index + offset
    number, dot, rest = path.partition(".")
    return (path if "::" in path else f"{int(number) + offset}{dot}{rest}"), index
