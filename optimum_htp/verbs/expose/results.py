"""Which tensors are what a module call returns: what its nodes make, and others consume.

Measured against PyTorch's hooks, the last tensor of floating-point numbers that leaves a call is what it returns, or the
first of that if it is a tuple. What else leaves it (a position bias, a state) is there too, under a number: which place it
has in the tuple is not in the file.

Example: of `y = norm(dense(x))`, in the graph `a = MatMul(x, w)`, `b = Add(a, bias)`, `y = LayerNormalization(b)`, the
nodes of `dense` are the first two, `b` is what leaves them, and `a` does not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from optimum_htp.hierarchy import ModuleInfo, ModulePattern, NodeKey, NodeTag, Root
from optimum_htp.onnxfile import Graph, Value, element_type, reads, scopes_of, split_body_path, topological_order
from optimum_htp.tagging import TaggedGraph

Types = Mapping[str, Mapping[str, Value]]
"""The types of the tensors of each graph, by its path."""


@dataclass(slots=True)
class ModuleResult:
    """What one call of a module returns, or the results of one operator in it.

    Attributes:
        tag: The module's tag.
        path: Its dotted path.
        call: The index of the call; None where the module ran once.
        name: What to call it as an output.
        tensors: What it is in each graph, by the graph's path.
        problem: Why it can't be an output; None if it can.
    """

    tag: str
    path: str
    call: int | None
    name: str
    tensors: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


class ModuleResults:
    """Finds the results of modules in one file."""

    def __init__(self, file: TaggedGraph, types: Types) -> None:
        self._file = file
        self._types = types
        self._graphs = dict(file.model.graphs())
        self._readers = {path: _readers(graph) for path, graph in self._graphs.items()}
        self._places = {
            path: {node: place for place, node in enumerate(topological_order(graph.nodes))}
            for path, graph in self._graphs.items()
        }
        bodies = (path for path in self._graphs if file.model.function_of(path) is None)
        self._constants = {path: scopes_of(file.model, path)[-1].constants for path in bodies}  # no one returns these
        self._owned: dict[str, list[tuple[NodeKey, NodeTag]]] = {}  # by the tag of a module around a node
        self._shared: dict[str, list[NodeKey]] = {}  # nodes that a tool fused of a module and what is outside of it
        self._inside: dict[str, str] = {}  # modules with nodes in functions, and one of those
        for key, tags in file.tags_in_calls().items():
            function = file.model.function_of(key[0]) if "::" in key[0] else None
            for tag in tags:
                if function is None:
                    self._add(key, tag)
                else:
                    self._inside.update(dict.fromkeys(self._around(tag.tag), function.path))

    def _add(self, key: NodeKey, tag: NodeTag) -> None:
        if tag.source == "unresolved":
            return
        around = list(self._around(tag.tag))
        for module in around:
            self._owned.setdefault(module, []).append((key, tag))
        for module in dict.fromkeys(module for origin in tag.origins for module in self._around(origin)):
            if module not in around:
                self._shared.setdefault(module, []).append(key)

    def _around(self, tag: str) -> Iterator[str]:
        """The tags of a module and of those around it, each by the first of its names."""
        found = self._file.roots.find(tag)
        if found is not None:
            root, path = found
            for length in range(len(path) + 1):
                yield root.tree.tag(root.tree.module(path[:length]).path)

    def of(
        self, root: Root, info: ModuleInfo, patterns: Collection[ModulePattern], *, operator: str | None
    ) -> Iterator[ModuleResult]:
        """What the calls of a module return, those that one of the patterns selects; with an operator what it makes there."""
        if root.tree.root.calls and not info.calls:
            return  # only the modules in it ran
        tag = root.tree.tag(info.path)
        by_call: dict[int, set[NodeKey]] = {}
        for key, node in self._owned.get(tag, ()):
            calls = self._file.roots.calls_above(node, tag) if info.calls > 1 else frozenset((0,))
            for call in calls or ():
                by_call.setdefault(call, set()).add(key)
        if not by_call and tag in self._inside:
            path = ".".join(info.path)
            function = self._inside[tag]
            problem = f"{path} is in the function {function}; inline functions first (onnx.inliner)"
            yield ModuleResult(tag, path, None, path, problem=problem)
        elif not by_call and operator is None and any(pattern.literal for pattern in patterns):
            path = ".".join(info.path)
            yield ModuleResult(tag, path, None, path, problem=f"no node comes from {path}, as from a Dropout")
        norm = self._folded_norm(root, info)
        for call in sorted(by_call):
            if patterns and not any(_selects(pattern, call) for pattern in patterns):
                continue
            for result in self._of_call(tag, info, call, by_call[call], operator):
                if norm is not None and result.problem is None:
                    result.problem = (
                        f"{norm} is folded into {result.name}: the graph has what the two give together only"
                    )
                yield result

    def _folded_norm(self, root: Root, info: ModuleInfo) -> str | None:
        """The batch norm that was folded into a module, a convolution: it ran right behind it, and no node comes from it."""
        for trace in root.traces:
            for number in trace.numbers(info.path):
                following = trace[number + 1] if number + 1 < len(trace) else None
                if following is None or following.parent != trace[number].parent:
                    continue
                norm = root.tree.module(following.path)
                if "BatchNorm" in norm.class_name and root.tree.tag(norm.path) not in self._owned:
                    return ".".join(norm.path)
        return None

    def _of_call(
        self, tag: str, info: ModuleInfo, call: int, keys: set[NodeKey], operator: str | None
    ) -> Iterator[ModuleResult]:
        path = ".".join(info.path)
        name = (path or info.class_name) + (f"@{call}" if info.calls > 1 else "")
        known = partial(ModuleResult, tag, path, call if info.calls > 1 else None)
        graphs: dict[str, set[int]] = {}
        for graph, index in keys:
            body = split_body_path(graph)
            if body is None or body[:2] not in keys or operator is not None:
                graphs.setdefault(graph, set()).add(index)
        found = {graph: self._tensors(graph, own, operator) for graph, own in graphs.items()}
        count = max(map(len, found.values()), default=0)
        shared = sorted({self._graphs[graph].nodes[index].operator for graph, index in self._shared.get(tag, ())})
        if operator is None and shared:
            yield known(
                name, problem=f"a part of {name} is inside {', '.join(shared)}, which was fused with others' work"
            )
        elif operator is None and not count:
            yield known(name, problem=f"nothing of floating point that {name} makes is used outside of it")
        else:
            named = name if operator is None else f"{name}.{operator}"
            for number in range(count):
                tensors = {graph: names[number] for graph, names in found.items() if number < len(names)}
                yield known(f"{named}[{number}]" if number else named, tensors=tensors)

    def _tensors(self, path: str, own: set[int], operator: str | None) -> list[str]:
        """What some nodes of a graph give to others, the likeliest to be the result first; or all that an operator makes."""
        graph, readers, places = self._graphs[path], self._readers[path], self._places[path]
        returned = {value.name for value in graph.outputs}
        made = [
            name
            for index in sorted(own, key=places.__getitem__)
            if operator is None or operator in (graph.nodes[index].op_type, graph.nodes[index].operator)
            for name in graph.nodes[index].outputs
            if self._is_float(path, name) and name not in self._constants[path]
        ]
        if operator is not None:
            return made
        read = [name for name in made if not readers.get(name, set()) <= own]
        return [*reversed(read), *(name for name in reversed(made) if name in returned and name not in read)]

    def _is_float(self, path: str, name: str) -> bool:
        value = self._types.get(path, {}).get(name)
        return value is not None and element_type(value.elem_type).is_float


def _selects(pattern: ModulePattern, call: int) -> bool:
    return pattern.calls is None or pattern.calls[0] <= call <= pattern.calls[1]


def _readers(graph: Graph) -> Mapping[str, set[int]]:
    readers: dict[str, set[int]] = {}
    for index, node in enumerate(graph.nodes):
        for name in reads(node):
            readers.setdefault(name, set()).add(index)
    return readers
