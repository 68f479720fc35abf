"""The hooks that record the module calls of one export."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from optimum_htp.hierarchy import CallTree, ModuleCall, name_for_caller
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
    """Hooks on every module of a model, and on the exporter's naming pass, for one export. A context manager."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._modules = registered_paths(model)
        # torch.export calls modules with several names through copies that share the attributes of the module.
        self._by_attributes = {id(vars(module)): identity for identity, (module, _) in self._modules.items()}
        self._containers = {path for module, paths in self._modules.values() if is_container(module) for path in paths}
        self._model = model
        self._calls: list[ModuleCall] = []
        self._counts: dict[int, int] = {}
        self._stack: list[int] = []
        self._scopes = NumberedScopes()
        self._hooks = ExitStack()
        self._thread = threading.get_ident()

    def __enter__(self) -> CallRecorder:
        try:
            for module, _ in self._modules.values():
                self._hook(module)
            self._make_room()
            self._hooks.enter_context(self._scopes)
        except BaseException:
            self._hooks.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def __deepcopy__(self, _: object) -> CallRecorder:
        """A model that copies a module while it runs copies the hooks too; they stay those of this recorder."""
        return self

    def trace(self) -> ModuleTrace:
        """What was recorded, without references to modules."""
        tree = module_tree(self._modules, self._counts)
        return ModuleTrace(
            CallTree(tree, self._calls),
            scopes=self._scopes.numbers,
            tensors=tensor_owners(self._modules),
            holders=shared_tensors(self._modules),
            scripted=self._scopes.scripted,
        )

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
        # Both come first: if another hook raises, the call that ends is the one that has begun.
        self._hooks.callback(module.register_forward_pre_hook(self._enter_call, prepend=True).remove)
        self._hooks.callback(module.register_forward_hook(self._leave_call, prepend=True, always_call=True).remove)

    def _enter_call(self, module: torch.nn.Module, _: object) -> None:
        if threading.get_ident() != self._thread:  # another thread runs the same model
            return
        identity = self._by_attributes.get(id(vars(module)))
        if identity is None:  # a copy that the model made while it ran: its work is its caller's
            self._stack += self._stack[-1:]
            return
        if not self._stack and identity == id(self._model):  # an exporter that runs the model again starts over
            self._calls.clear()
            self._counts.clear()
        number = len(self._calls)
        index = self._counts.get(identity, 0)
        parent = self._stack[-1] if self._stack else None
        names = self._modules[identity][1]
        path = names[0]
        if parent is not None:
            path = name_for_caller(names, self._calls[parent].path, self._containers.__contains__)
        self._calls.append(ModuleCall(path, index, parent))
        self._counts[identity] = index + 1
        self._stack.append(number)
        self._scopes.begin(module, number)

    def _leave_call(self, *_: object) -> None:
        if threading.get_ident() == self._thread and self._stack:
            self._scopes.end(self._stack.pop())
