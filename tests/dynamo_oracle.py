"""The oracle of the dynamo exporter: which module call every node of a program comes from.

The model is exported twice. In the second export every *call* of a module is one of a module object of its own: each
module is replaced, for as long as the export runs, by a dispatcher that hands its first call to a first twin, its second
call to a second, and so on. The twins share the module's parameters and children, and are registered, each under a name
that says which call it is, in a list beside the model. So what torch writes on a node (`pkg.torch.onnx.name_scopes`)
names the twin, and with it the call: `['', 'model', ..., 'calls.7', 'linear_3']`. The two graphs are aligned node by
node.

Nothing here uses `optimum_htp`, nor the counts that torch appends to names. What it believes is that a node carries the
path of the module that ran when its operation was traced.

    >>> truth = collect(model, export, counts, Path("first.onnx"), Path("second.onnx"))  # doctest: +SKIP
    >>> [(call.alias, call.index) for call in truth.nodes[5].calls]  # doctest: +SKIP
    [('encoder.layer', 3)]
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from oracle import ModuleCall, OracleMismatchError, all_paths, chosen_path, walk_nodes
from torch import nn

Export = Callable[[nn.Module, Path], Any]

_SCOPES = "pkg.torch.onnx.name_scopes"
_TWIN = re.compile(r"calls\.(\d+)")
_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrueNode:
    """One node of the first export, and what the second says of it.

    Attributes:
        graph: Where the node's graph is: `""` for the main graph, `<position>.<attribute>[/...]` for a body.
        position: Its position there.
        op_type: Its operator.
        calls: The module calls that it was traced in: none where no call of a module is named, several where torch's
            optimizer made one node of many.
    """

    graph: str
    position: int
    op_type: str
    calls: tuple[ModuleCall, ...]


@dataclass(frozen=True, slots=True)
class Truth:
    """What the second export says of the first: each node, and each call by its number."""

    nodes: list[TrueNode]
    calls: dict[int, ModuleCall]


@contextlib.contextmanager
def counted_calls(model: nn.Module) -> Iterator[Counter[int]]:
    """Counts how often each module runs while torch traces the model, by its identity."""
    counts: Counter[int] = Counter()
    handles = []

    def counted(identity: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if not torch.compiler.is_dynamo_compiling():
                if identity == id(model):  # torch runs the model again
                    counts.clear()
                counts[identity] += 1

        return hook

    for identity, (module, _) in all_paths(model).items():
        handles.append(module.register_forward_pre_hook(counted(identity)))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def collect(model: nn.Module, export: Export, counts: Mapping[int, int], first: Path, second: Path) -> Truth:
    """The truth about each node of a file that was exported.

    Args:
        model: The exported module.
        export: Exports a module in its place, with the same inputs and options, into a file.
        counts: What `counted_calls` counted in the first export.
        first: What that wrote.
        second: A file to write the second export to.

    Raises:
        OracleMismatchError: The two exports are not the same graph.
    """
    with _twins(model, counts) as (stand_in, calls), _scopes_merged():
        export(stand_in, second)
    return Truth(_align(first, second, calls), calls)


class _StandIn(nn.Module):
    """The model, with the twins beside it."""

    def __init__(self, model: nn.Module, twins: list[nn.Module], signature: inspect.Signature) -> None:
        super().__init__()
        self.model = model
        self.calls = nn.ModuleList(twins)

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self.model(*args, **kwargs)

        forward.__signature__ = signature
        self.forward = forward
        self.eval()


@contextlib.contextmanager
def _twins(model: nn.Module, counts: Mapping[int, int]) -> Iterator[tuple[nn.Module, dict[int, ModuleCall]]]:
    """Gives each call a module object of its own; yields what to export, and the calls by the number of their twin."""
    paths = all_paths(model)
    signature = inspect.signature(model.forward)
    twins: list[nn.Module] = []
    numbers: dict[int, list[int]] = {}
    for identity, (module, _) in paths.items():
        for _ in range(counts.get(identity, 0)):
            twin = object.__new__(type(module))
            twin.__dict__ = dict(vars(module))
            numbers.setdefault(identity, []).append(len(twins))
            twins.append(twin)
    calls: dict[int, ModuleCall] = {}
    seen: Counter[int] = Counter()
    called: Counter[int] = Counter()  # through `__call__`, and not yet begun
    stack: list[int] = []
    chosen: dict[int, tuple[str, ...]] = {}

    def replace(identity: int) -> None:
        module, own = paths[identity]
        before = vars(module).get("forward")
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not called[identity]:  # `module.forward(...)` is the caller's own work
                return original(*args, **kwargs)
            called[identity] -= 1
            if identity == id(model):
                seen.clear()
                calls.clear()
            number = numbers[identity][seen[identity]]
            chosen[number] = chosen_path(model, own, chosen[stack[-1]]) if stack else own[0]
            calls[number] = ModuleCall(
                number=number,
                modules=tuple(map(".".join, own)),
                alias=".".join(chosen[number]),
                module=identity,
                class_name=torch.typename(type(module)),
                index=seen[identity],
                parent=stack[-1] if stack else None,
            )
            seen[identity] += 1
            stack.append(number)
            try:
                return twins[number](*args, **kwargs)
            finally:
                stack.pop()

        def count(*_: Any) -> None:
            called[identity] += 1

        for name in _HOOKS:  # they are the twins'
            if vars(module).get(name):
                undo.callback(vars(module).__setitem__, name, vars(module)[name])
                vars(module)[name] = OrderedDict()
        vars(module)["forward"] = forward
        undo.callback(
            vars(module).__delitem__ if before is None else vars(module).update,
            *(["forward"] if before is None else [{"forward": before}]),
        )
        undo.callback(module.register_forward_pre_hook(count).remove)

    with contextlib.ExitStack() as undo:
        for identity in numbers:
            replace(identity)
        yield _StandIn(model, twins, signature), calls


@contextlib.contextmanager
def _scopes_merged() -> Iterator[None]:
    """A node that the optimizer puts in the place of several names all of their scopes, a line for each."""
    from onnxscript.rewriter import _rewrite_rule

    mergers = _rewrite_rule._default_metadata_merger.mergers
    mergers[_SCOPES] = lambda first, second: f"{first}\n{second}"
    try:
        yield
    finally:
        del mergers[_SCOPES]


def _align(first: Path, second: Path, calls: Mapping[int, ModuleCall]) -> list[TrueNode]:
    ours = list(walk_nodes(onnx.load(str(first), load_external_data=False)))
    theirs = list(walk_nodes(onnx.load(str(second), load_external_data=False)))
    if len(ours) != len(theirs):
        raise OracleMismatchError(f"{len(ours)} nodes in the first export, {len(theirs)} in the second")
    nodes = []
    for (graph, position, node), (other_graph, other_position, other) in zip(ours, theirs, strict=True):
        if (graph, position, node.op_type, node.domain) != (other_graph, other_position, other.op_type, other.domain):
            raise OracleMismatchError(f"{graph}#{position} {node.name!r} is not {other.name!r}")
        scopes = "".join(entry.value for entry in other.metadata_props if entry.key == _SCOPES)
        nodes.append(TrueNode(graph, position, node.op_type, tuple(_calls_in(scopes, calls))))
    return nodes


def _calls_in(scopes: str, calls: Mapping[int, ModuleCall]) -> Iterator[ModuleCall]:
    """The innermost call of each of the lists of scopes that are merged in one, each once."""
    seen = set()
    for line in scopes.splitlines():
        numbers = [int(match[1]) for scope in ast.literal_eval(line)[:-1] if (match := _TWIN.fullmatch(scope))]
        if numbers and numbers[-1] not in seen:
            seen.add(numbers[-1])
            yield calls[numbers[-1]]
