"""The cut: which nodes make a module, what they need from outside, and what others need from them.

A module can be cut out of a graph if nothing that leaves it comes back to it. Integer and boolean tensors are exempt:
exporters share shape computations between modules, and copying them along changes nothing.

Example:
    The nodes of `a` are cut out; node 1 is the parent's, but it computes a shape, so it comes along. The part has the
    input `x` and the output `three`, which node 3 consumes.

        0  a       one = Relu(x)
        1  parent  shape = Shape(one)
        2  a       three = Reshape(one, shape)
        3  parent  y = Neg(three)

    If node 1 were `two = Neg(one)` of a module `b`, the cut would be refused: what leaves `a` comes back through `b`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import tag_module_path
from optimum_htp.onnxfile import NUMBERS, Edges, Graph, OnnxModel, Scope, Value, node_id, reads, scopes_of
from optimum_htp.verbs.extract.choice import Choice, ancestor_name

_QUANTIZERS = frozenset(("QuantizeLinear", "DynamicQuantizeLinear"))
_EXEMPT = (NUMBERS["int64"], NUMBERS["bool"])


@dataclass(frozen=True, slots=True)
class Cut:
    """What an extracted model consists of."""

    scopes: tuple[Scope, ...]  # from the main graph to the one that is cut
    nodes: tuple[tuple[int, int], ...]  # in order: the index of their scope, and their index there
    own: int  # how many of them are the module's
    shared: tuple[str, ...]  # what identifies those of other modules that had to come along, constants left out
    inputs: tuple[str, ...]  # the tensors that are produced outside
    outputs: tuple[str, ...]  # the tensors that are consumed outside
    initializers: tuple[str, ...]  # those that are consumed
    functions: tuple[int, ...]  # the indices of those that the nodes call, and that these call


def cut(choice: Choice, types: Mapping[str, Value]) -> Cut:
    """Cuts the chosen nodes out, given the types of the graph's tensors.

    Raises PackageError, which says what lies between and what could be cut out instead, if there is no clean cut.
    """
    scopes = scopes_of(choice.file.model, choice.graph)
    scope = scopes[-1]
    graph, constants = scope.graph, scope.constants
    core = {index for index in choice.positions if not constants.issuperset(filter(None, graph.nodes[index].outputs))}
    core = core or set(choice.positions)
    core -= _quantizers_after(graph, core)
    between = _between(scope, core)
    in_the_way = [index for index in sorted(between) if not _may_come_along(choice, graph, index, types)]
    if in_the_way:
        raise PackageError(_interleaved(choice, graph, in_the_way))
    between |= _quantizers_before(graph, core | between)
    inner = core | between
    _refuse_fused(choice, graph, inner, types)
    outputs = _outputs(graph, core, inner)
    if not outputs:
        raise PackageError(
            f"{choice.file.model.path}: nothing consumes what {choice.name!r} produces, so it has no output; extract the "
            "module around it"
        )
    last = len(scopes) - 1
    nodes, inputs, stored = _closure(choice.file.model, scopes, [(last, index) for index in sorted(inner)])
    ranks = [{index: rank for rank, index in enumerate(around.order)} for around in scopes]
    ordered = tuple(sorted(nodes, key=lambda node: (node[0], ranks[node[0]][node[1]])))
    shared = tuple(node_id(graph.nodes[index], index) for index in sorted(between))
    model = choice.file.model
    called = {
        each.path for each in model.called_functions(scopes[depth].graph.nodes[index] for depth, index in ordered)
    }
    functions = tuple(index for index, function in enumerate(model.functions) if function.path in called)
    return Cut(scopes, ordered, len(core), shared, inputs, outputs, stored, functions)


def _between(scope: Scope, core: set[int]) -> set[int]:
    """The nodes on the ways that leave a set of nodes and come back to it."""
    after: set[int] = set()
    produced: set[str] = set()
    nodes = scope.graph.nodes
    for index in scope.order:
        if index in core or any(name in produced for name in reads(nodes[index])):
            after.add(index)
            produced.update(filter(None, nodes[index].outputs))
    before: set[int] = set()
    wanted: set[str] = set()
    for index in reversed(scope.order):
        if index in core or any(name in wanted for name in nodes[index].outputs if name):
            before.add(index)
            wanted.update(reads(nodes[index]))
    return (after & before) - core


def _quantizers_after(graph: Graph, core: set[int]) -> set[int]:
    """The nodes at the end of a module that quantize what it gives, for others: without them it gives floats."""
    inside = {name for index in core for name in reads(graph.nodes[index])}
    last = {
        index
        for index in core
        if graph.nodes[index].op_type in _QUANTIZERS and inside.isdisjoint(graph.nodes[index].outputs)
    }
    return last if last != core else set()


def _quantizers_before(graph: Graph, inner: set[int]) -> set[int]:
    """The nodes outside that quantize what a module takes: with them it takes floats."""
    wanted = {name for index in inner for name in reads(graph.nodes[index])}
    return {
        index
        for index, node in enumerate(graph.nodes)
        if index not in inner and node.op_type in _QUANTIZERS and not wanted.isdisjoint(node.outputs)
    }


def _may_come_along(choice: Choice, graph: Graph, index: int, types: Mapping[str, Value]) -> bool:
    """Whether a node may be copied into the module: shape computations, and what is between layers of a range."""
    tag = choice.file.tags.get((choice.graph, index))
    if tag is not None:
        of_a_range = len(choice.paths) > 1 and tag.tag == _parent_tag(choice)
        if of_a_range or (choice.owns(tag.tag) and tag.call is None):
            return True
    known = [types.get(name) for name in graph.nodes[index].outputs if name]
    return all(value is not None and value.elem_type in _EXEMPT for value in known)


def _parent_tag(choice: Choice) -> str:
    path = choice.tree.find(ancestor_name(choice, ()))
    return choice.tree.tag(path or ())


def _interleaved(choice: Choice, graph: Graph, indices: Sequence[int]) -> str:
    """Why a module can't be cut out: these nodes are on the ways that leave it and come back."""
    tags = [choice.file.tags.get((choice.graph, index)) for index in indices]
    names = [tag.tag if tag is not None else choice.tree.tag(()) for tag in tags]
    others = list(dict.fromkeys(tag_module_path(name) or "the root" for name in names))
    listed = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    instead = ancestor_name(choice, names) or "the whole model"
    example = node_id(graph.nodes[indices[0]], indices[0])
    return (
        f"{choice.file.model.path}: no clean cut around {choice.name!r}: what leaves it comes back through {len(indices)} nodes of "
        f"{listed} (the first produces {example!r}); extract {instead}, which contains them all"
    )


def _refuse_fused(choice: Choice, graph: Graph, inner: set[int], types: Mapping[str, Value]) -> None:
    """Refuses where an optimizer fused the module's work with others', so that a part of it is in a node outside."""
    produced = {name for index in inner for name in graph.nodes[index].outputs if name}
    wanted = {name for index in inner for name in reads(graph.nodes[index])}
    for index, node in enumerate(graph.nodes):
        tag = choice.file.tags.get((choice.graph, index))
        if index in inner or tag is None or not tag.origins:
            continue
        touches = not wanted.isdisjoint(node.outputs) or not produced.isdisjoint(reads(node))
        first = types.get(node_id(node, index))
        computes = first is None or first.elem_type not in _EXEMPT
        if touches and computes and any(choice.owns(origin) for origin in tag.origins):
            foreign = (origin for origin in tag.origins if not choice.owns(origin))
            others = ", ".join(dict.fromkeys(tag_module_path(origin) or "the root" for origin in foreign))
            instead = ancestor_name(choice, tag.origins) or "the whole model"
            raise PackageError(
                f"{choice.file.model.path}: no clean cut around {choice.name!r}: an optimizer fused a part of it with {others} "
                f"into {node_id(node, index)!r} ({node.op_type}); extract {instead}, or export without optimizing"
            )


def _outputs(graph: Graph, core: set[int], inner: set[int]) -> tuple[str, ...]:
    """What the module produces and others consume, in the order of the graph."""
    outside = {name for index, node in enumerate(graph.nodes) if index not in inner for name in reads(node)}
    outside |= {value.name for value in graph.outputs}
    produced = (name for index in sorted(core) for name in graph.nodes[index].outputs)
    return tuple(name for name in produced if name and name in outside)


def _closure(
    model: OnnxModel, scopes: tuple[Scope, ...], inner: list[tuple[int, int]]
) -> tuple[tuple[tuple[int, int], ...], tuple[str, ...], tuple[str, ...]]:
    """Adds the constant nodes that nodes consume, and says what else they consume: inputs, and initializers."""
    edges = Edges(model)
    depths = {scope.path: depth for depth, scope in enumerate(scopes)}
    chosen = dict.fromkeys(inner)
    inputs: dict[str, None] = {}
    initializers: dict[str, None] = {}
    stack = list(reversed(inner))
    while stack:
        depth, index = stack.pop()
        for name in reads(scopes[depth].graph.nodes[index]):
            tensor = edges.find(scopes[depth].path, name) or ("", name)
            home = depths[tensor[0]]
            producer = edges.producer(*tensor)
            if producer is not None and (home, producer[1]) in chosen:
                continue
            if producer is not None and name in scopes[home].constants:
                chosen[home, producer[1]] = None
                stack.append((home, producer[1]))
            elif producer is None and name in scopes[home].initializers:
                initializers[name] = None
            else:
                inputs[name] = None
    return tuple(chosen), tuple(inputs), tuple(initializers)
