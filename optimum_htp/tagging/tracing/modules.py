"""What is known of a model without running it: its tree of modules, and which of them holds which tensor."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import FunctionType, MethodType
from typing import TYPE_CHECKING

from optimum_htp.hierarchy import CallTree, ModuleInfo, ModulePath, ModuleTree
from optimum_htp.tagging.tracing.trace import ModuleTrace

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch

    Registered: TypeAlias = dict[int, tuple[torch.nn.Module, list[ModulePath]]]


_MAX_ALIASES = 100_000


def static_trace(model: torch.nn.Module) -> ModuleTrace:
    """The trace of a model that did not run."""
    modules = registered_paths(model)
    calls = CallTree(module_tree(modules, {}))
    hidden = _referred_to(modules)
    shapes = {
        ".".join((*path, name)): tuple(tensor.shape)
        for module, paths in modules.values()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and id(tensor) not in hidden
        for path in paths
    }
    return ModuleTrace(calls, tensors=tensor_owners(modules), holders=shared_tensors(modules), shapes=shapes)


def registered_paths(model: torch.nn.Module) -> Registered:
    """Every module of a model, once, with all its paths, in the order of `named_modules`; not followed into itself."""
    modules: Registered = {}
    count = 0

    def visit(module: torch.nn.Module, path: ModulePath, above: frozenset[int]) -> None:
        nonlocal count
        count += 1
        modules.setdefault(id(module), (module, []))[1].append(path)
        inside = above | {id(module)}
        for name, child in module._modules.items():
            # Shared subtrees in shared subtrees multiply: past the limit only new modules are followed.
            if child is not None and id(child) not in inside and (count < _MAX_ALIASES or id(child) not in modules):
                visit(child, (*path, name), inside)

    visit(model, (), frozenset())
    return modules


def module_tree(modules: Registered, calls: Mapping[int, int]) -> ModuleTree:
    """The tree of registered modules; `calls` says how often a module ran, by its identity."""
    return ModuleTree(
        ModuleInfo(
            path=paths[0],
            class_name=type(module).__name__,
            qualified_class=f"{type(module).__module__}.{type(module).__qualname__}",
            container=is_container(module),
            calls=calls.get(identity, 0),
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            aliases=tuple(paths[1:]),
        )
        for identity, (module, paths) in modules.items()
    )


def is_container(module: torch.nn.Module) -> bool:
    """Whether a module's class has no forward of its own, as `nn.ModuleList` and `nn.ModuleDict`."""
    import torch

    return type(module).forward is torch.nn.Module.forward


def tensor_owners(modules: Registered) -> dict[str, ModulePath]:
    """The module that holds each parameter and buffer, by the names that the root's state dict may have for it."""
    owners: dict[str, ModulePath] = {}
    for module, paths in modules.values():
        for path in paths:
            for name in (*module._parameters, *module._buffers):
                owners.setdefault(".".join((*path, name)), path)
    return owners


def shared_tensors(modules: Registered) -> dict[str, tuple[ModulePath, ...]]:
    """The modules that hold a tensor, by each of its names, for tensors that several modules hold."""
    names: dict[int, list[str]] = {}
    holders: dict[int, list[ModulePath]] = {}
    for module, paths in modules.values():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                names.setdefault(id(tensor), []).extend(".".join((*path, name)) for path in paths)
                holders.setdefault(id(tensor), []).append(paths[0])
    return {name: tuple(holders[tensor]) for tensor in names if len(holders[tensor]) > 1 for name in names[tensor]}


_BY_NAME = frozenset(("_parameters", "_buffers", "_modules"))


def _referred_to(modules: Registered) -> set[int]:
    """The identities of tensors that something else than the registered name refers to: what runs may read them there.

    That is what modules keep in lists, closures and hooks of their calls; and all below one whose `forward` was replaced.
    """
    import torch

    found: set[int] = set()
    for owner, _ in modules.values():
        waiting = [value for name, value in vars(owner).items() if name not in _BY_NAME and "state_dict" not in name]
        waiting += [owner] if "forward" in vars(owner) else []
        seen: set[int] = set()
        while waiting:
            value = waiting.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, torch.nn.Module):
                found.update(map(id, (*value.parameters(), *value.buffers())))
            elif isinstance(value, torch.Tensor):
                found.add(id(value))
            elif isinstance(value, Mapping):
                waiting += value.values()
            elif isinstance(value, (list, tuple, set, frozenset)):
                waiting += value
            elif isinstance(value, functools.partial):
                waiting += (value.func, *value.args, *value.keywords.values())
            elif isinstance(value, MethodType):
                waiting += (value.__func__, *([value.__self__] if value.__self__ is not owner else ()))
            elif isinstance(value, FunctionType):
                waiting += (value.__defaults__ or (), *_cells(value))
    return found


def _cells(function: FunctionType) -> Iterator[object]:
    """What a function takes from around it."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # it is empty
            yield cell.cell_contents
