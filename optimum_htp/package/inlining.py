"""Files without their functions: what these do stands in the place of each call, as ONNX Runtime runs it.

What has to see every node (to run parts of a graph, to know a kernel again) takes such a copy in a temporary directory, with
the tags that the nodes have in each call. And a file whose nodes have lost theirs is known by what its functions were made of. Functions that declare attributes, or other opsets than the model, stay, and those of which there are several of one name.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from optimum_htp.hierarchy import NodeKey, NodeTag
from optimum_htp.onnxfile import (
    DraftEncoder,
    DraftGraph,
    DraftNode,
    Function,
    Functions,
    Graft,
    GraphPlaces,
    OnnxModel,
    SourceFiles,
    draft_graphs,
    drafted_graph,
    external_data_files,
    function_declaration,
    read_model,
    rewrite_metadata,
    tensor_names,
)
from optimum_htp.package.links import external_file
from optimum_htp.tagging import TaggedGraph, project


@contextmanager
def inlined(graph: TaggedGraph, *, package: Path) -> Iterator[TaggedGraph]:
    """Gives the graph of a file without functions, in a file that is there until then; itself if it calls none.

    `package` is the directory that external data may be in. Raises HtpError.
    """
    if not graph.model.functions:
        yield graph
        return
    with tempfile.TemporaryDirectory(prefix="optimum-htp-") as directory, SourceFiles(graph.model.path) as files:
        inliner = _Inliner(graph, GraphPlaces(files.data, graph.model), files)
        if not inliner.called:
            yield graph
            return
        target = Path(directory, graph.model.path.name)
        grafts = inliner.grafts(DraftEncoder(files.data, entries=lambda _: {}))
        rewrite_metadata(
            graph.model.path,
            nodes={},
            owned=lambda _: False,
            model={},
            grafts=grafts,
            functions=Functions(graph.model.ir_version, dropped=inliner.called),
            destination=target,
        )
        for location in external_data_files(graph.model):
            _link(external_file(graph.model.path, location, package=package), target.parent / location)
        model = read_model(target)
        tags = dict(inliner.tags(model))
        yield replace(graph, model=model, tags={key: tags[key] for key, _ in model.nodes() if key in tags}, sources=())


def projected_inside(sources: Sequence[TaggedGraph], target: OnnxModel) -> TaggedGraph:
    """Tags a graph with functions that was made from tagged ones without, as `project` does; raises what that does.

    A node of a function stands for all nodes that it is in the calls, and a node that calls one for those that it makes.
    """
    with SourceFiles(target.path) as files:
        inliner = _Inliner(TaggedGraph(target, {}), GraphPlaces(files.data, target), files)
        whole, origins = inliner.whole()
    graph = project(sources, whole, require_descent=True)
    tags: dict[NodeKey, list[NodeTag]] = {}
    for key, tag in graph.tags.items():
        for origin in origins.get(key, (key,)):
            tags.setdefault(origin, []).append(tag)
    calls = {origin for each in origins.values() for origin in each[1:]}
    found = {key: graph.roots.together(tags[key]) for key, _ in target.nodes() if key in tags}
    for key in calls & found.keys():
        module = found[key].tag
        several = graph.roots.calls(module) != 1
        indices = {graph.roots.call_above(inner, module) for inner in tags[key]} if several else set()
        found[key] = NodeTag(module, "fused", indices.pop() if len(indices) == 1 else None)
    return replace(graph, model=target, tags=found)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # on another file system
        shutil.copyfile(source, target)


@dataclass(frozen=True, slots=True)
class _Called:
    """A function that can be inlined."""

    function: Function
    nodes: DraftGraph


class _Inliner:
    """Puts the nodes of functions into the place of the nodes that call them.

    Attributes:
        called: The paths of the functions that are gone then.
    """

    def __init__(self, graph: TaggedGraph, places: GraphPlaces, files: SourceFiles) -> None:
        self._graph = graph
        model = graph.model
        names = Counter(function.operator for function in model.functions)
        self._functions = {
            function.operator: _Called(function, draft_graphs(function.path, function.graph, places.node))
            for function in model.functions
            if names[function.operator] == 1 and _is_plain(function, places, files, model)
        }
        self._taken = tensor_names(model)
        self._names = {node.name for _, node in model.nodes()}
        self._main = draft_graphs("", model.graph, places.node)
        self._keys = {
            draft: key
            for drafts in (self._main, *(each.nodes for each in self._functions.values()))
            for key, draft in drafts.walk()
        }
        self._tags: dict[DraftNode, NodeTag] = {}
        self._calls: dict[DraftNode, tuple[NodeKey, ...]] = {}  # of nodes of functions, what calls those
        self.called: set[str] = set()
        self._inline(self._main, None)
        staying = [function for function in model.functions if function.operator not in self._functions]
        nodes = [node for function in staying for node in function.graph.nodes]
        self.called -= {function.path for function in model.called_functions(nodes)}

    def _inline(self, graph: DraftGraph, caller: NodeTag | None) -> None:
        """Inlines what the nodes of a graph call, in their bodies too; `caller` is the tag of what calls the function."""
        nodes: list[DraftNode] = []
        for draft in graph.nodes:
            tag = self._graph.tags.get(self._keys[draft])
            if tag is not None and caller is not None:
                tag = self._graph.roots.inside(tag, caller)
            called = self._functions.get(draft.node.operator)
            if called is None:
                if tag is not None:
                    self._tags[draft] = tag
                for _, body in draft.bodies:
                    self._inline(body, caller)
                nodes.append(draft)
            else:
                self.called.add(called.function.path)
                copy = self._copy(called, draft)
                calls = (*self._calls.get(draft, ()), self._keys[draft])
                self._calls.update((inner, calls) for _, inner in copy.walk())
                self._inline(copy, tag)
                nodes += copy.nodes
        graph.nodes = nodes

    def _copy(self, called: _Called, call: DraftNode) -> DraftGraph:
        """The nodes of a function with the names that tensors have where it is called."""
        names: dict[str, str] = {}
        for values, given in (
            (called.function.graph.inputs, call.node.inputs),
            (called.function.graph.outputs, call.node.outputs),
        ):
            names.update(zip((value.name for value in values), given, strict=False))
        prefix = call.node.name or next(filter(None, call.node.outputs), call.node.op_type)
        for name in (name for draft in called.nodes.nodes for name in draft.node.outputs if name):
            if not names.get(name):
                names[name] = self._fresh(f"{prefix}/{name}", self._taken)
        for value in called.function.graph.inputs:
            names.setdefault(value.name, "")
        return replace(called.nodes, nodes=[self._renamed(draft, names, prefix) for draft in called.nodes.nodes])

    def _renamed(self, draft: DraftNode, names: Mapping[str, str], prefix: str) -> DraftNode:
        node = draft.node
        copy = DraftNode(
            replace(
                node,
                name=self._fresh(f"{prefix}/{node.name or node.op_type}", self._names),
                inputs=tuple(names.get(name, name) for name in node.inputs),
                outputs=tuple(names.get(name, name) for name in node.outputs),
            ),
            draft.span,
            tuple((element, self._twin(body)) for element, body in draft.bodies),
            renamed=names,
        )
        self._keys[copy] = self._keys[draft]
        return copy

    def _twin(self, graph: DraftGraph) -> DraftGraph:
        twin = DraftGraph(graph.path, graph.graph)
        for draft in graph.nodes:
            copy = replace(draft, bodies=tuple((element, self._twin(body)) for element, body in draft.bodies))
            self._keys[copy] = self._keys[draft]
            twin.nodes.append(copy)
        return twin

    def _fresh(self, name: str, taken: set[str]) -> str:
        wanted, number = name, 2
        while wanted in taken:
            wanted, number = f"{name}_{number}", number + 1
        taken.add(wanted)
        return wanted

    def grafts(self, encoder: DraftEncoder) -> dict[str, Graft]:
        """How the graphs of the file change."""
        grafts: dict[str, Graft] = {}
        graphs = [self._main]
        while graphs:
            graph = graphs.pop()
            own = {draft: key[1] for draft in graph.nodes if (key := self._keys[draft])[0] == graph.path}
            grafts[graph.path], stay = encoder.graft(graph, own)
            graphs += [body for draft in stay for _, body in draft.bodies]
        return grafts

    def whole(self) -> tuple[OnnxModel, dict[NodeKey, tuple[NodeKey, ...]]]:
        """The graph without functions, and of each of its nodes those of the file that it is made by: itself, and calls."""
        model = self._graph.model
        functions = tuple(function for function in model.functions if function.path not in self.called)
        keys = {key: (self._keys[draft], *self._calls.get(draft, ())) for key, draft in self._main.walk()}
        return replace(model, graph=drafted_graph(self._main, {}), functions=functions), keys

    def tags(self, model: OnnxModel) -> Iterator[tuple[NodeKey, NodeTag]]:
        """The tags of the nodes of the file that was made, those of functions that stayed included."""
        for key, draft in self._main.walk():
            if draft in self._tags:
                yield key, self._tags[draft]
        left = {function.path for function in model.functions}
        for key, tag in self._graph.tags.items():
            if "::" in key[0] and (function := model.function_of(key[0])) is not None and function.path in left:
                yield key, tag


def _is_plain(function: Function, places: GraphPlaces, files: SourceFiles, model: OnnxModel) -> bool:
    """Whether the nodes of a function do the same in the place of a node that calls it."""
    given = {value.name for value in function.graph.inputs}
    if any(value.name in given for value in function.graph.outputs):
        return False
    opsets = {f"opset {domain or 'ai.onnx'}": str(version) for domain, version in model.opset_imports.items()}
    declared = function_declaration(files.data, places.functions[function.path], lambda *_: ())
    return all(
        opsets.get(fact, value) == value for fact, value in declared.items() if fact.startswith("opset ")
    ) and all(fact.startswith("opset ") for fact in declared)
