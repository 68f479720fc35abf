"""The hooks that record the module calls of one export."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from optimum_htp.hierarchy import CallTree, ModuleCall, name_for_caller
from optimum_htp.tagging.tracing.dynamo import NumberedStacks, traceable_hooks
from optimum_htp.tagging.tracing.modules import (
    is_container,
    module_tree,
    registered_paths,
    shared_tensors,
    tensor_owners,
)
from optimum_htp.tagging.tracing.torchscript import NumberedScopes
from optimum_htp.tagging.tracing.trace import ModuleTrace

if TYPE_CHECKING:
    import torch


_OWN_FRAMES = 50  # how deep functions of ours, and what they call, may nest


class CallRecorder:
    """Hooks on every module of a model, and on what an exporter makes of its trace, for one export. A context manager.

    `dynamo` says which exporter it is.
    """

    def __init__(self, model: torch.nn.Module, *, dynamo: bool = False) -> None:
        self._modules = registered_paths(model)
        # torch.export calls modules with several names through copies that share the attributes of the module.
        self._by_attributes = {id(vars(module)): identity for identity, (module, _) in self._modules.items()}
        self._containers = {path for module, paths in self._modules.values() if is_container(module) for path in paths}
        self._model = model
        self._calls: list[ModuleCall] = []
        self._called: list[int] = []  # the module of each call, by its identity
        self._counts: dict[int, int] = {}
        self._stack: list[int] = []
        self._numbering = NumberedStacks() if dynamo else NumberedScopes()
        self._hooks = ExitStack()
        self._thread = threading.get_ident()

    def __enter__(self) -> CallRecorder:
        try:
            for module, _ in self._modules.values():
                self._hook(module)
            self._make_room()
            self._hooks.enter_context(self._numbering)
        except BaseException:
            self._hooks.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def __deepcopy__(self, _: object) -> CallRecorder:
        """A model that copies a module while it runs copies the hooks too; they stay those of this recorder."""
        return self

    def trace(self, program: Any = None) -> ModuleTrace:
        """What was recorded, without references to modules; `program` is what the dynamo exporter made."""
        numbering = self._numbering
        tree = module_tree(self._modules, self._counts)
        tensors, holders = tensor_owners(self._modules), shared_tensors(self._modules)
        calls = CallTree(tree, self._calls)
        if isinstance(numbering, NumberedStacks):
            made = numbering.made(program) if program is not None else {}
            return ModuleTrace(calls, made=made, tensors=tensors, holders=holders)
        scopes, scripted = numbering.numbers, numbering.scripted
        return ModuleTrace(calls, scopes=scopes, tensors=tensors, holders=holders, scripted=scripted)

    def _make_room(self) -> None:
        """Lets modules nest as deep as without hooks, with which torch calls a module through one more function."""
        limit = sys.getrecursionlimit()
        deepest = max(len(path) for _, paths in self._modules.values() for path in paths)
        sys.setrecursionlimit(limit + deepest + _OWN_FRAMES)
        self._hooks.callback(sys.setrecursionlimit, limit)

    def _hook(self, module: torch.nn.Module) -> None:
        import torch

        if isinstance(module, torch.jit.ScriptModule):  # runs as TorchScript: takes no hooks and pushes no scope
            return
        # What ends is what has begun, also if another hook raises. Of hooks, the TorchScript exporter takes the work for
        # the caller's, and the dynamo exporter for the call's: there a call has ended when all hooks have run.
        enter, leave, first = self._enter_call, self._leave_call, True
        if isinstance(self._numbering, NumberedStacks):
            enter, leave = traceable_hooks(module, self._enter_call, self._leave_call)
            first = False
        self._hooks.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
        self._hooks.callback(module.register_forward_hook(leave, prepend=first, always_call=True).remove)

    def _enter_call(self, module: torch.nn.Module, _: object, context: Any = None) -> None:
        """A call begins; if it is traced by a compiler, `context` is the compiler's."""
        if threading.get_ident() != self._thread:  # another thread runs the same model
            return
        identity = self._by_attributes.get(id(vars(module)))
        if identity is None:  # a copy that the model made while it ran: its work is its caller's
            self._stack += self._stack[-1:]
            return
        self._keep(self._still_valid(identity == id(self._model), context))
        number = len(self._calls)
        index = self._counts.get(identity, 0)
        parent = self._stack[-1] if self._stack else None
        names = self._modules[identity][1]
        path = names[0]
        if parent is not None:
            path = name_for_caller(names, self._calls[parent].path, self._containers.__contains__)
        self._calls.append(ModuleCall(path, index, parent))
        self._called.append(identity)
        self._counts[identity] = index + 1
        self._stack.append(number)
        self._numbering.begin(module, number, context)

    def _still_valid(self, is_root: bool, context: Any) -> int:
        """How many of the calls before one that begins are of the same run of the model: exporters may start over."""
        number = len(self._calls)
        if context is not None and isinstance(self._numbering, NumberedStacks):
            is_new, kept = self._numbering.compiled_since(context, number)
            return 0 if is_root and is_new else kept
        return 0 if is_root and not self._stack else number

    def _keep(self, count: int) -> None:
        """Forgets the calls from a number on."""
        if count < len(self._calls):
            for identity in self._called[count:]:
                self._counts[identity] -= 1
            del self._calls[count:], self._called[count:]
            self._stack = [number for number in self._stack if number < count]
            self._numbering.forget(count)

    def _leave_call(self, *_: object) -> None:
        if threading.get_ident() == self._thread and self._stack:
            self._numbering.end(self._stack.pop())
