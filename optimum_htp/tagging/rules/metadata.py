"""Evidence in the node's own metadata: the module scopes that torch's dynamo exporter writes.

A node says which modules it was made in, outermost first, and of which classes they are; the last of both lists is the
operation of torch's graph that it stands for. So a file says by itself what its modules are:

    name_scopes       ['',        'encoder',  'encoder.layer.0',  'linear_3']
    class_hierarchy   ['m.Net',   'm.Encoder', 'm.Layer',         'aten.linear.default']

A hook in place of the modules (`['_empty_nn_module_stack_from_metadata_hook', 'sym_size_int']`) says nothing. What can't be
read, or contradicts itself or most other nodes, is not evidence, and nothing weaker decides there.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from optimum_htp.hierarchy import CallTree, ModuleInfo, ModulePath, ModuleTree, NodeKey
from optimum_htp.onnxfile import Node, OnnxModel
from optimum_htp.tagging.tracing.trace import ModuleTrace

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
CLASS_HIERARCHY = "pkg.torch.onnx.class_hierarchy"
_LONGEST = 100_000  # characters; torch does not write longer lists of names
_DEEPEST = 200  # modules inside one another, as in names of nodes
_MOST_NAMES = 5_000_000  # in the paths of all modules together


@dataclass(frozen=True, slots=True)
class Statement:
    """What a node says of itself."""

    scopes: tuple[str, ...]  # the dotted paths of the modules, the root's `""` first
    classes: tuple[str, ...]  # their qualified classes; empty where the node does not say them
    operation: str  # the name of its node in torch's graph

    def path(self, tree: ModuleTree) -> ModulePath | None:
        """The path of its module in a tree; None if that, or one around it, is unknown there or of another class."""
        paths = [path for scope in self.scopes if (path := tree.find(scope)) is not None]
        if len(paths) < len(self.scopes):  # what no registered names lead to is an expression: `borrower.held[0]`
            return None
        names = [name.rpartition(".")[2] for name in self.classes]
        return paths[-1] if not names or names == [tree.module(path).class_name for path in paths] else None


@dataclass(frozen=True, slots=True)
class Statements:
    """What the nodes of a file say of themselves."""

    made: Mapping[NodeKey, Statement]
    garbled: frozenset[NodeKey]  # nodes that say something which can't be read, or contradicts what most say

    def __bool__(self) -> bool:
        return bool(self.made or self.garbled)

    @property
    def root_class(self) -> str | None:
        """The class of the exported module; None where no node says it."""
        return next((said.classes[0].rpartition(".")[2] for said in self.made.values() if said.classes), None)


def statements(model: OnnxModel) -> Statements:
    """What the nodes of a file say of themselves. Of two classes of one module, the one that more nodes say counts."""
    made: dict[NodeKey, Statement] = {}
    garbled: set[NodeKey] = set()
    for key, node in model.nodes():
        if NAME_SCOPES not in node.metadata:
            continue
        names = listed_in(node.metadata[NAME_SCOPES])
        if names[:1] != [""] and len(names) > 1:
            continue  # a hook of torch's
        said = _statement(names, node)
        if said is None:
            garbled.add(key)
        else:
            made[key] = said
    known = _classes(made.values())
    for key, said in list(made.items()):
        if any(known[scope] != name for scope, name in zip(said.scopes, said.classes, strict=False)):
            garbled.add(key)
            del made[key]
    return Statements(made, frozenset(garbled))


def _statement(names: list[str], node: Node) -> Statement | None:
    """What a node's lists say; None if they don't go together, or are not what torch writes."""
    if not 2 <= len(names) <= _DEEPEST or any(name.count(".") >= _DEEPEST for name in names[:-1]):
        return None
    if not all(part for name in names[1:-1] for part in name.split(".")):
        return None
    classes: list[str] = []
    if CLASS_HIERARCHY in node.metadata:
        classes = listed_in(node.metadata[CLASS_HIERARCHY])
        if len(classes) != len(names) or not all(name.rpartition(".")[2] for name in classes[:-1]):
            return None
    return Statement(tuple(names[:-1]), tuple(classes[:-1]), names[-1])


def _classes(made: Iterable[Statement]) -> dict[str, str | None]:
    """The class of each module, as most nodes say; None for a draw."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for said in made:
        for scope, name in zip(said.scopes, said.classes, strict=False):
            votes[scope][name] += 1
    known: dict[str, str | None] = {}
    for scope, counted in votes.items():
        (first, most), *others = counted.most_common(2)
        known[scope] = None if others and others[0][1] == most else first
    return known


def described_trace(model: OnnxModel, said: Statements) -> ModuleTrace | None:
    """The modules that the nodes of a file describe, without a model; None if they describe none, or far too many.

    Names on the way that no node says a class of are those of containers. What else a model has is not known.
    """
    modules: dict[ModulePath, ModuleInfo] = {}
    names = 0
    for scope, name in _classes(said.made.values()).items():
        path = tuple(scope.split(".")) if scope else ()
        names += len(path) * (len(path) + 1) // 2
        if name is None or names > _MOST_NAMES:
            return None
        for length in range(len(path)):
            modules.setdefault(path[:length], ModuleInfo(path[:length], "", "", container=True))
        modules[path] = ModuleInfo(path, name.rpartition(".")[2], name)
    if () not in modules or modules[()].container:
        return None
    tree = ModuleTree(modules[path] for path in sorted(modules, key=_in_order))
    holders = {
        tensor.name: holder
        for _, graph in model.graphs()
        for tensor in graph.initializers
        if (holder := tree.find(tensor.name.rpartition(".")[0])) is not None and "." in tensor.name
    }
    return ModuleTrace(CallTree(tree), tensors=holders)


def _in_order(path: ModulePath) -> list[tuple[bool, int, str]]:
    """The order of registration, as far as names show it: numbers by their size."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in path]


def listed_in(text: str) -> list[str]:
    """The list that torch wrote with `repr`; empty for anything that is not a flat list of strings.

    >>> listed_in("['', 'layers.0', 'linear']"), listed_in("[[1]]")
    (['', 'layers.0', 'linear'], [])
    """
    if not text.startswith("[") or len(text) > _LONGEST:
        return []
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else []
