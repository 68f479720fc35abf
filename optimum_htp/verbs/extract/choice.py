"""Resolve a module reference to a file, modules, a call, a graph, and nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import ModulePath, ModuleTree, NodeKey, common_ancestor, tag_module_path
from optimum_htp.onnxfile import node_id, split_body_path
from optimum_htp.package import HtpPackage, tagged_file
from optimum_htp.tagging import TaggedGraph

_MAIN = "main"
"""What to call the main graph, whose path is empty."""

_CALL = re.compile(r"(?P<module>.*)@(?P<call>\d{1,9})")
_RANGE = re.compile(r"(?P<head>.*?)(?P<first>\d{1,9})-(?P<last>\d{1,9})")


@dataclass(frozen=True, slots=True)
class Choice:
    """The nodes of the modules that were asked for."""

    file: TaggedGraph
    tree: ModuleTree
    paths: tuple[ModulePath, ...]  # the modules: one, or those of a range or a container
    call: int | None  # the index of the modules' call; None where they ran once
    tags: tuple[str, ...]  # every tag of the modules: a module that goes by several names has several
    graph: str  # the path of the graph that the nodes are in
    positions: frozenset[int]  # their indices in that graph

    @property
    def name(self) -> str:
        """What to call the modules: `layer.0@1`, `layer.0 to layer.3`."""
        first, last = ".".join(self.paths[0]), ".".join(self.paths[-1])
        text = first if len(self.paths) == 1 else f"{first} to {last}"
        return (text or "the whole model") + (f"@{self.call}" if self.call is not None else "")

    def owns(self, tag: str) -> bool:
        """Whether a tag is that of one of the modules, or of a module below."""
        return any(_below(tag, above) for above in self.tags)


def choose(
    package: HtpPackage, module: str, *, file: str | None = None, graph: str | None = None, call: int | None = None
) -> Choice:
    """Finds the nodes of a module by its path or tag, `layer@1` (its second call) or `layer.2-5` (both ends included).

    `file` may be a glob and `graph` the end of a path; None means the one with the module's nodes. Raises PackageError
    if there is no such module, it has no nodes, or several files, graphs or calls have some.
    """
    files = _tagged_files(package, file)
    candidates = _candidates(files, module, graph)
    named = _CALL.fullmatch(module)
    if named is not None and not candidates:
        if call is not None and call != int(named["call"]):
            raise PackageError(f"{module!r} and call {call} are two different calls; give one of them")
        module, call = named["module"], int(named["call"])
        candidates = _candidates(files, module, graph)
    if not candidates:
        raise PackageError(f"{package.path}: no module is called {module!r}; {_near(files, module)}")
    with_nodes = [candidate for candidate in candidates if candidate.keys]
    if not with_nodes:
        raise PackageError(_no_nodes(candidates[0], module))
    if len(with_nodes) > 1:
        names = ", ".join(dict.fromkeys(candidate.file.name for candidate in with_nodes))
        message = f"{package.path}: {module!r} has nodes in several files; name one with --file: {names}"
        raise PackageError("; ".join([message, *_problems(with_nodes, module, call)]))
    return with_nodes[0].choice(module, call)


def _problems(candidates: Iterable[_Candidate], module: str, call: int | None) -> Iterator[str]:
    """What else would have to be chosen in each of several files."""
    for candidate in candidates:
        try:
            candidate.choice(module, call)
        except PackageError as error:
            yield str(error)


def _candidates(files: Iterable[TaggedGraph], module: str, graph: str | None) -> list[_Candidate]:
    return [_Candidate(file, tree, paths, graph) for file in files for tree, paths in _locate(file, module)]


def _tagged_files(package: HtpPackage, pattern: str | None) -> list[TaggedGraph]:
    tagged: list[TaggedGraph] = []
    refused: list[PackageError] = []
    for file in package.matching(pattern).values():
        try:
            tagged.append(tagged_file(file, package=package))
        except PackageError as error:
            refused.append(error)
    if not tagged:
        raise refused[0]
    return tagged


def _locate(file: TaggedGraph, module: str) -> Iterator[tuple[ModuleTree, tuple[ModulePath, ...]]]:
    """The module trees of a file that know a name, and the modules that it stands for there."""
    for root in file.roots:
        tree, in_model = root.tree, root.in_model
        paths = _paths(tree, module)
        if not paths and in_model and (module == in_model or module.startswith(in_model + ".")):
            paths = _paths(tree, module[len(in_model) + 1 :])
        if paths:
            yield tree, paths


def _paths(tree: ModuleTree, module: str) -> tuple[ModulePath, ...]:
    path = tree.path_of_tag(module) if module.startswith("/") else tree.find(module)
    if path is None:
        return _range(tree, module)
    if tree.module(path).container and path:
        return tuple(_inside(tree, path)) or (path,)  # an empty one has no nodes, and is told of as such
    return (path,)


def _inside(tree: ModuleTree, container: ModulePath) -> Iterator[ModulePath]:
    """The modules right below a container that are not containers themselves."""
    for info in tree:
        for path in (info.path, *info.aliases):
            if path[:-1] == container and len(path) > len(container):
                yield from _inside(tree, path) if info.container else (path,)


def _range(tree: ModuleTree, module: str) -> tuple[ModulePath, ...]:
    """The modules of a range such as `encoder.layer.2-5`, if all of them are there."""
    match = _RANGE.fullmatch(module)
    if match is None or int(match["first"]) > int(match["last"]) or int(match["last"]) > len(tree):
        return ()
    indices = range(int(match["first"]), int(match["last"]) + 1)
    paths = [path for index in indices if (path := tree.find(f"{match['head']}{index}")) is not None]
    return tuple(paths) if len(paths) == len(indices) else ()


def _near(files: Iterable[TaggedGraph], module: str) -> str:
    """Names like that of a module that is not there."""
    known = list(dict.fromkeys(".".join(info.path) for file in files for tree in file.trees for info in tree))
    ends = [name for name in known if name.endswith("." + module)][:4]
    near = ends or get_close_matches(module, known, n=4, cutoff=0.5)
    if near:
        return f"near it are: {', '.join(near)}"
    return "`optimum-cli htp tree` lists those that there are"


class _Candidate:
    """The nodes of the named modules in one file, before a call is chosen."""

    def __init__(self, file: TaggedGraph, tree: ModuleTree, paths: tuple[ModulePath, ...], graph: str | None) -> None:
        self.file = file
        self.tree = tree
        self.paths = paths
        self.by_module = [self._tags_of(path) for path in paths]
        self.tags = tuple(dict.fromkeys(tag for tags in self.by_module for tag in tags))
        self.wanted_graph = graph
        self.keys = [
            key
            for key, tag in file.tags.items()
            if tag.source != "unresolved" and any(_below(tag.tag, above) for above in self.tags)
        ]

    def _tags_of(self, path: ModulePath) -> tuple[str, ...]:
        """The tag by which a module was named, if there are nodes with it, else every tag that it has."""
        exact = self.tree.tag(path)
        if any(_below(tag.tag, exact) for tag in self.file.tags.values()):
            return (exact,)
        info = self.tree.module(path)
        return tuple(self.tree.tag(alias) for alias in (info.path, *info.aliases))

    def choice(self, module: str, call: int | None) -> Choice:
        """The nodes of one call in one graph; raises PackageError, which names all that has to be chosen."""
        by_call = self._by_call(module)
        if None in by_call and not call:
            call = None
        elif call is None and len(by_call) == 1:
            (call,) = by_call
        problems = [] if call in by_call else [self._call_problem(module, call, by_call)]
        graphs: dict[str, list[int]] = {}
        for keys in [by_call[call]] if call in by_call else by_call.values():
            among = self._by_graph(keys)
            chosen = self._graph_of(among)
            if chosen is None:
                graphs |= among
            elif self.file.model.function_of(chosen) is not None:
                graphs[chosen] = among[chosen]
        if graphs:
            problems.append(self._graph_problem(module, graphs))
        if problems or chosen is None:
            raise PackageError(f"{self.file.model.path}: {'; '.join(problems)}")
        return Choice(self.file, self.tree, self.paths, call, self.tags, chosen, frozenset(among[chosen]))

    def _by_call(self, module: str) -> dict[int | None, list[NodeKey]]:
        """The nodes of each call, and those that it shares with others and needs; where the modules ran once, all."""
        count = 1
        owners: dict[NodeKey, frozenset[int] | None] = {}
        for path, tags in zip(self.paths, self.by_module, strict=True):
            above = self.tree.tag(path)
            count = max(count, self.file.calls(above) or 1)
            inside = [key for key in self.keys if any(_below(self.file.tags[key].tag, tag) for tag in tags)]
            owners.update({key: self.file.roots.calls_above(self.file.tags[key], above) for key in inside})
        if count == 1:
            return {None: self.keys}
        exact = {key: next(iter(calls)) for key, calls in owners.items() if calls is not None and len(calls) == 1}
        if not exact:
            raise PackageError(
                f"{module!r} ran {count} times in the export, and which call its {len(self.keys)} nodes belong to is "
                "unknown; export the model again: optimum-cli export htp"
            )
        by_call: dict[int | None, list[NodeKey]] = {}
        for call in sorted({*exact.values()}):
            own = {key for key, index in exact.items() if index == call}
            shared = [key for key, calls in owners.items() if key not in exact and (calls is None or call in calls)]
            own |= self._needed(own, shared)
            by_call[call] = [key for key in self.keys if key in own]
        return by_call

    def _call_problem(self, module: str, call: int | None, by_call: Mapping[int | None, object]) -> str:
        if None in by_call:
            return f"{module!r} ran once in the export, so there is no call {call} of it; leave it out"
        known = [*by_call]
        if call is not None:
            return f"{module!r} has no nodes of a call {call}; there are those of the calls {known}"
        count = max(self.file.calls(self.tree.tag(path)) or 1 for path in self.paths)
        listed = ", ".join(f"{module}@{index}" for index in known[:8]) + (", ..." if len(known) > 8 else "")
        return f"{module!r} ran {count} times in the export; name one call: {listed}"

    def _needed(self, keys: Iterable[NodeKey], shared: Sequence[NodeKey]) -> set[NodeKey]:
        """Of nodes that several calls share, those whose results some nodes consume, also through one another."""
        nodes = dict(self.file.model.nodes())
        consumed = {name for key in keys for name in nodes[key].inputs}
        needed: set[NodeKey] = set()
        for key in reversed(shared):  # consumers before producers, as the file has them
            if not consumed.isdisjoint(nodes[key].outputs):
                needed.add(key)
                consumed.update(nodes[key].inputs)
        return needed

    def in_function(self) -> str | None:
        """Why there are no nodes to cut out, where they are in a function that stands for several modules; else None."""
        model = self.file.model
        for (path, _), tag in self.file.tags.items():
            function = model.function_of(path) if "::" in path and tag.origins else None
            if function is not None and any(_below(origin, above) for origin in tag.origins for above in self.tags):
                around = (
                    self.file.tags[key].tag
                    for key, node in model.nodes()
                    if node.operator == function.operator and key in self.file.tags
                )
                callers = dict.fromkeys(
                    tag_module_path(each) for each in around if any(_below(above, each) for above in self.tags)
                )
                instead = f"extract what calls it ({', '.join(callers)}), or " if callers else ""
                name = ".".join(self.paths[0])
                return (
                    f"{model.path}: {name!r} has its nodes in the function {function.path!r}, which stands for several "
                    f"modules; {instead}inline functions first: onnx.inliner.inline_local_functions"
                )
        return None

    def _by_graph(self, keys: Sequence[NodeKey]) -> dict[str, list[int]]:
        """The indices of nodes by graph; those in bodies and functions come with the nodes that have or call them."""
        return self._without_called(self._without_bodies(keys))

    def _graph_of(self, graphs: Mapping[str, Sequence[int]]) -> str | None:
        """The graph that was asked for, or the only one; None if that is none or several."""
        wanted = self.wanted_graph
        if wanted is not None:
            matching = [path for path in graphs if wanted in (path, path or _MAIN) or path.endswith(f".{wanted}")]
        else:
            matching = list(graphs)
            if len(matching) > 1:  # constants may be in another graph than their consumers
                matching = [path for path in graphs if not self._only_constants(path, graphs[path])]
        return matching[0] if len(matching) == 1 else None

    def _graph_problem(self, module: str, graphs: Mapping[str, Sequence[int]]) -> str:
        """Why it is not clear which of some graphs to cut from, or why none of them can be."""
        model = self.file.model
        functions = [function for path in graphs if (function := model.function_of(path)) is not None]
        if len(functions) == len(graphs):
            operators = {function.operator for function in functions}
            tags = [
                self.file.tags[key]
                for key, node in model.nodes()
                if node.operator in operators and key in self.file.tags
            ]
            around = dict.fromkeys(tag_module_path(tag.tag) or "the whole model" for tag in tags)
            instead = f"extract what calls it ({', '.join(around)}), or " if around else ""
            return (
                f"{module!r} has its nodes in the function {', '.join(map(repr, graphs))}, which says nothing of the tensors "
                f"that it is called with; {instead}inline functions first: onnx.inliner.inline_local_functions"
            )
        counts = ", ".join(f"{path or _MAIN!r} ({len(indices)} nodes)" for path, indices in graphs.items())
        named = f"; --graph {self.wanted_graph} is not among them" if self.wanted_graph is not None else ""
        if len(graphs) > 1:
            many = "several graphs, which don't run together"
            return f"{module!r} has nodes in {many}: {counts}{named}; choose one with --graph"
        return f"{module!r} has its nodes in the graph {counts}{named}; leave --graph out"

    def _without_bodies(self, keys: Sequence[NodeKey]) -> dict[str, list[int]]:
        """The indices of nodes by graph, without the nodes in bodies of others of them."""
        chosen = set(keys)
        graphs: dict[str, list[int]] = {}
        for key in keys:
            body = split_body_path(key[0])
            while body is not None and body[:2] not in chosen:
                body = split_body_path(body[0])
            if body is None:
                graphs.setdefault(key[0], []).append(key[1])
        return graphs

    def _without_called(self, graphs: dict[str, list[int]]) -> dict[str, list[int]]:
        """The same without the nodes in functions that others of the nodes call."""
        model = self.file.model
        nodes = {path: graph.nodes for path, graph in model.graphs()}
        called = {
            path: {each.path for each in model.called_functions(nodes[path][index] for index in indices)}
            for path, indices in graphs.items()
        }
        kept = {}
        for path, indices in graphs.items():
            function = model.function_of(path)
            if function is None or not any(function.path in called[other] for other in graphs if other != path):
                kept[path] = indices
        return kept

    def _only_constants(self, path: str, positions: Iterable[int]) -> bool:
        graphs = dict(self.file.model.graphs())
        known = {"", *(tensor.name for graph in graphs.values() for tensor in graph.initializers)}
        return all(known.issuperset(graphs[path].nodes[position].inputs) for position in positions)


def _no_nodes(candidate: _Candidate, module: str) -> str:
    """Why a module has no nodes, and what to take instead."""
    file, tree = candidate.file, candidate.tree
    infos = [tree.module(path) for path in candidate.paths]
    inside = candidate.in_function()
    if inside is not None:
        return inside
    fused = {
        tag.tag: node_id(node, key[1])
        for key, node in file.model.nodes()
        if (tag := file.tags.get(key)) is not None
        and any(_below(origin, above) for origin in tag.origins for above in candidate.tags)
    }
    if fused:
        holder, node = next(iter(fused.items()))
        where = ".".join(tree.path_of_tag(holder) or ()) or "the whole model"
        return f"{module!r} has no nodes of its own: an optimizer fused its work with others' into {node!r}; extract {where}"
    if all(info.calls == 0 for info in infos) and tree.root.calls:
        reason = "it did not run in the export"
    else:
        reason = "what it does leaves no operation in the graph (as dropout does, or a norm that is folded into a convolution)"
    tags = {tag.tag for tag in file.tags.values() if tag.source != "unresolved"}
    path = candidate.paths[0]
    while path:
        path = path[:-1]
        if not tree.module(path).container and any(_below(tag, tree.tag(path)) for tag in tags):
            break
    above = f"; the module around it that has some is {'.'.join(path) or 'the root'}"
    return f"{file.model.path}: {module!r} has no nodes: {reason}{above}"


def _below(tag: str, above: str) -> bool:
    return tag == above or tag.startswith(above + "/")


def ancestor_name(choice: Choice, tags: Iterable[str]) -> str:
    """The dotted path of the lowest module around the chosen ones and others; `""` is the root."""
    own = [choice.tree.tag(path) for path in choice.paths]
    try:
        shared = common_ancestor([*own, *tags])
    except ValueError:  # of another root, in a file that was merged from several
        return ""
    path = choice.tree.path_of_tag(shared)
    return ".".join(path) if path else ""
