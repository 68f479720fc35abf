"""The independent oracle: which module call every node of a TorchScript export comes from.

The export runs twice. The first run is left alone. In the second, a forward pre-hook gives each module *call* a scope
variable of its own just before torch pushes it, so that the node names which torch writes spell the call instead of
the attribute: ``/htporacle3x/htporacle7x/MatMul``. Both raw graphs are read back from the files that
``torch.onnx.export`` left (before Optimum merges or post-processes anything), aligned node by node, and the second
one's names say the truth about the first one's nodes.

Nothing here uses ``optimum_htp``: an oracle that shared its code would share its mistakes. The only thing it believes
is torch: that a node carries the scope that was on top when the traced operation ran (or the one that a graph pass
copied to it).

    >>> def export(directory):
    ...     main_export("bert", directory, task="text-classification", do_validation=False)
    >>> truth = collect_oracle(export)  # doctest: +SKIP
    >>> truth["model.onnx"][5].modules  # doctest: +SKIP
    ('bert.embeddings.word_embeddings',)

Of several names of a module the oracle takes the one nearest below its caller, where containers that are never called
themselves are no distance; the first one where no name is below the caller.
"""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

_UNIQUE = re.compile(r"^htporacle(\d+)x(?:_\d+)?$")


class OracleMismatchError(AssertionError):
    """The plain export and the oracle's export are not the same graph, so the oracle says nothing."""


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module during the trace.

    Attributes:
        number: position among all module calls of this export, in the order in which they began.
        modules: every dotted path under which the called module object is registered, the first one first
            (``""`` is the exported root).
        alias: the one of them that this call goes by.
        module: which module object it is (its ``id``).
        class_name: the module's class, with its Python module.
        index: 0-based count of the calls of this module object, all aliases together.
        parent: `number` of the call inside which this one began; ``None`` for the root's call.
    """

    number: int
    modules: tuple[str, ...]
    alias: str
    module: int
    class_name: str
    index: int
    parent: int | None


@dataclass(frozen=True, slots=True)
class OracleNode:
    """One node of the plain export and what the oracle's export knows about it.

    Attributes:
        graph: where the node's graph is: ``""`` for the main graph, ``<node position>.<attribute>[/...]`` for a body,
            ``domain::name`` for a function.
        position: the node's position in that graph.
        name: the plain export's name of the node.
        op_type: the operator.
        output: the first non-empty output in the plain export, ``#<position>`` if there is none.
        call: the module call on whose scope the node stands; ``None`` if its name has no scope.
        scope: the numbers of the calls on the node's scope, outermost first (empty without a scope).
        calls: how often the owning module was called in all (0 without a scope).
    """

    graph: str
    position: int
    name: str
    op_type: str
    output: str
    call: ModuleCall | None
    scope: tuple[int, ...]
    calls: int

    @property
    def modules(self) -> tuple[str, ...] | None:
        """Every path of the true owner (its aliases), or ``None`` if the node has no scope."""
        return None if self.call is None else self.call.modules

    @property
    def alias(self) -> str | None:
        """The path of the true owner that its call goes by, or ``None`` if the node has no scope."""
        return None if self.call is None else self.call.alias

    @property
    def index(self) -> int | None:
        """The call index of the true owner, or ``None`` if the node has no scope."""
        return None if self.call is None else self.call.index

    @property
    def key(self) -> tuple[str, str]:
        """The node's identity within its file: graph path and first output."""
        return self.graph, self.output


@dataclass(slots=True)
class _RawExport:
    """What one call of ``torch.onnx.export`` left."""

    label: str
    file: Path
    root_class: str
    calls: list[ModuleCall] = field(default_factory=list)


def collect_oracle(export: Callable[[Path], Any], *, seed: int = 0) -> dict[str, list[OracleNode]]:
    """Run `export` twice, plainly and with the oracle's scopes, and return the truth of every raw ONNX file.

    Args:
        export: writes one or several ONNX files below the directory it is given, by way of ``torch.onnx.export``.
            It is called twice, with an empty directory each time, and must do the same both times.
        seed: what is seeded before each run.

    Returns:
        For each ``torch.onnx.export`` call, by the file's path below the directory (``#2`` and so on is appended
        when one file is written several times), every node in depth-first order: a node, then its bodies.

    Raises:
        OracleMismatchError: the two exports differ in their files, their nodes or their order.
    """
    runs = []
    with tempfile.TemporaryDirectory(prefix="oracle-") as scratch:
        for name in ("plain", "oracle"):
            directory, raw = Path(scratch, name), Path(scratch, f"{name}-raw")
            directory.mkdir()
            raw.mkdir()
            seed_everything(seed)
            with oracle_scopes(directory, raw, spell_calls=name == "oracle") as exports:
                export(directory)
            runs.append(exports)
        plain, spelled = runs
        if [export.label for export in plain] != [export.label for export in spelled]:
            raise OracleMismatchError(f"different files: {[e.label for e in plain]} and {[e.label for e in spelled]}")
        return {one.label: _align(one, other) for one, other in zip(plain, spelled, strict=True)}


def seed_everything(seed: int = 0) -> None:
    """Seed all that dummy inputs are drawn from; what a mixture of experts exports depends on them."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextlib.contextmanager
def oracle_scopes(directory: Path, raw: Path, *, spell_calls: bool) -> Iterator[list[_RawExport]]:
    """Record every ``torch.onnx.export`` in the block; with `spell_calls`, node names spell the module calls.

    Args:
        directory: where the exports write; files are labelled by their path below it.
        raw: a directory for copies of the files as ``torch.onnx.export`` left them.
        spell_calls: whether to change the scopes.

    Yields:
        The exports, filled as they happen.
    """
    exports: list[_RawExport] = []
    original = torch.onnx.export

    def recording_export(model: Any, args: Any = (), f: Any = None, *rest: Any, **options: Any) -> Any:
        if options.get("dynamo", True) or f is None:
            return original(model, args, f, *rest, **options)
        label = _label(Path(f), directory, {export.label for export in exports})
        record = _RawExport(label, raw / f"{len(exports)}.onnx", torch.typename(type(model)))
        with _call_scopes(model, record.calls) if spell_calls else contextlib.nullcontext():
            result = original(model, args, f, *rest, **options)
        shutil.copyfile(f, record.file)
        exports.append(record)
        return result

    torch.onnx.export = recording_export
    try:
        yield exports
    finally:
        torch.onnx.export = original


def _label(file: Path, directory: Path, taken: set[str]) -> str:
    label = file.relative_to(directory).as_posix() if file.is_relative_to(directory) else file.name
    if label not in taken:
        return label
    return next(f"{label}#{number}" for number in range(2, len(taken) + 3) if f"{label}#{number}" not in taken)


ModulePath = tuple[str, ...]


def all_paths(root: torch.nn.Module) -> dict[int, tuple[torch.nn.Module, list[ModulePath]]]:
    """Every module below `root` by its ``id``, with all its paths, in registration order."""
    paths: dict[int, tuple[torch.nn.Module, list[ModulePath]]] = {}

    def walk(module: torch.nn.Module, path: ModulePath, above: tuple[torch.nn.Module, ...]) -> None:
        paths.setdefault(id(module), (module, []))[1].append(path)
        for name, child in module._modules.items():
            if child is not None and not any(child is ancestor for ancestor in above):
                walk(child, (*path, name), (*above, child))

    walk(root, (), (root,))
    return paths


def chosen_path(root: torch.nn.Module, paths: list[ModulePath], caller: ModulePath) -> ModulePath:
    """The path nearest below the caller, counted in modules that have a forward; the first where none is below it."""

    def modules_between(path: ModulePath) -> int:
        module, count = root, 0
        for depth, name in enumerate(path[:-1], start=1):
            module = module._modules[name]
            count += depth > len(caller) and type(module).forward is not torch.nn.Module.forward
        return count

    below = [path for path in paths if path[: len(caller)] == caller]
    return min(below, key=modules_between) if below else paths[0]


@contextlib.contextmanager
def _call_scopes(root: torch.nn.Module, calls: list[ModuleCall]) -> Iterator[None]:
    """Give each call of a module below `root` a scope name of its own while a TorchScript export traces it."""
    paths = all_paths(root)
    seen: Counter[int] = Counter()
    stack: list[int] = []
    chosen: list[ModulePath] = []

    def before(module: torch.nn.Module, _: Any) -> None:
        names = torch.jit._trace._trace_module_map
        if names is None or torch._C._get_tracing_state() is None:
            return
        if id(module) not in paths:  # a copy that the model makes while it runs: torch pushes no scope for it
            stack.append(stack[-1])
            return
        number = len(calls)
        class_name = torch.typename(type(module))
        names[module] = torch._C._jit_onnx_create_full_scope_name("oracle", f"htporacle{number}x")
        own = paths[id(module)][1]
        chosen.append(chosen_path(root, own, chosen[stack[-1]]) if stack else own[0])
        calls.append(
            ModuleCall(
                number=number,
                modules=tuple(map(".".join, own)),
                alias=".".join(chosen[-1]),
                module=id(module),
                class_name=class_name,
                index=seen[id(module)],
                parent=stack[-1] if stack else None,
            )
        )
        seen[id(module)] += 1
        stack.append(number)

    def after(module: torch.nn.Module, *_: Any) -> None:
        if torch.jit._trace._trace_module_map is not None and torch._C._get_tracing_state() is not None:
            stack.pop()

    handles: list[Any] = []
    try:
        for module, _ in paths.values():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # torch pushes no scope for a scripted module: its nodes are its caller's
            handles += [
                module.register_forward_pre_hook(before),
                module.register_forward_hook(after, always_call=True),
            ]
        yield
    finally:
        for handle in handles:
            handle.remove()


def walk_nodes(model: onnx.ModelProto) -> Iterator[tuple[str, int, onnx.NodeProto]]:
    def walk(nodes: Any, graph: str) -> Iterator[tuple[str, int, onnx.NodeProto]]:
        for position, node in enumerate(nodes):
            yield graph, position, node
            for attribute in node.attribute:
                step = f"{graph}/{position}.{attribute.name}" if graph else f"{position}.{attribute.name}"
                if attribute.type == onnx.AttributeProto.GRAPH:
                    yield from walk(attribute.g.node, step)
                for body in attribute.graphs:
                    yield from walk(body.node, step)

    yield from walk(model.graph.node, "")
    for function in model.functions:
        yield from walk(function.node, f"{function.domain}::{function.name}")


def _align(plain: _RawExport, spelled: _RawExport) -> list[OracleNode]:
    ours = list(walk_nodes(onnx.load(str(plain.file), load_external_data=False)))
    theirs = list(walk_nodes(onnx.load(str(spelled.file), load_external_data=False)))
    if len(ours) != len(theirs):
        raise OracleMismatchError(f"{plain.label}: {len(ours)} nodes plainly, {len(theirs)} with the oracle's scopes")
    total = Counter(call.module for call in spelled.calls)
    nodes = []
    for (graph, position, node), (other_graph, other_position, other) in zip(ours, theirs, strict=True):
        if (graph, position, node.op_type, node.domain) != (other_graph, other_position, other.op_type, other.domain):
            raise OracleMismatchError(f"{plain.label}: {graph}#{position} {node.name!r} is not {other.name!r}")
        scope = _scope(other.name)
        call = spelled.calls[scope[-1]] if scope else None
        output = next((name for name in node.output if name), f"#{position}")
        nodes.append(
            OracleNode(
                graph=graph,
                position=position,
                name=node.name,
                op_type=node.op_type,
                output=output,
                call=call,
                scope=scope,
                calls=total[call.module] if call is not None else 0,
            )
        )
    return nodes


def _scope(name: str) -> tuple[int, ...]:
    """The call numbers that an oracle node name spells; every part in front of the operator must be one."""
    *parts, _ = name.split("/")
    numbers = []
    for part in parts:
        match = _UNIQUE.match(part)
        if match is None:
            raise OracleMismatchError(f"{name!r} has the scope {part!r}, which is no call that a hook saw")
        numbers.append(int(match.group(1)))
    return tuple(numbers)
