"""What the code of module classes does with parameters: which it computes with, and which it reads of other modules.

A parameter belongs to the module that holds it, but need not be what that module computes with: `nn.MultiheadAttention`
never calls its `out_proj`, it reads `out_proj.weight`; and a module may hand what it holds to another. The source of the
classes shows it. What it does not show counts as handed on, or read.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

ANY = "*"

# What says nothing of the values of a tensor.
_FACTS = frozenset("device dim dtype is_cuda itemsize ndim numel requires_grad shape size".split())
_SAYS_NOTHING = frozenset("bool callable getattr hasattr id isinstance len print repr str type".split())
# What gives all tensors of a module at once.
_ALL = frozenset("buffers get_buffer get_parameter named_buffers named_parameters parameters state_dict".split())
_DICTIONARIES = frozenset(("_buffers", "_parameters", "__dict__"))
# What torch has that calls what it is given.
_CALLERS = frozenset("apply_ compile cond map_ map2_ vmap while_loop".split())
_GROUPS = (ast.Tuple, ast.List, ast.Starred, ast.keyword, ast.IfExp, ast.BoolOp)
_TESTS = (ast.If, ast.While, ast.Assert, ast.Compare, ast.FormattedValue, ast.Expr)


@dataclass(frozen=True, slots=True)
class ClassCode:
    """What a class does with parameters and buffers when it is called.

    Attributes:
        computes: Those of its own that it computes with, and does nothing else with.
        reads: Those of other modules that it reads: what it calls the module, and the name there; `*` is any.
    """

    computes: frozenset[str] = frozenset()
    reads: frozenset[tuple[str, str]] = frozenset({(ANY, ANY)})


UNKNOWN = ClassCode()
"""A class whose code can't be seen."""


@functools.lru_cache(maxsize=1024)
def code_of(qualified_class: str) -> ClassCode:
    """What a class does, by its name with its Python module, which has to be imported."""
    found = _class(qualified_class)
    if found is None:
        return UNKNOWN
    uses = _Uses(found)
    try:
        for function in _called(found):
            uses.add(function)
    except (OSError, TypeError, SyntaxError, ValueError, RecursionError):  # there is no source, or none in Python
        return UNKNOWN
    return ClassCode(frozenset(uses.computed - uses.handed_on), frozenset(uses.read))


def _class(qualified_class: str) -> type | None:
    """The class of a name, in the innermost of its Python modules that is imported."""
    parts = qualified_class.split(".")
    for length in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:length]))
        if found is not None:
            for name in parts[length:]:
                found = getattr(found, name, None)
            return found if isinstance(found, type) else None
    return None


def _called(found: type) -> Iterator[FunctionType]:
    """The functions of a class that a call of it may run: `forward`, and what those name, in all of its bases."""
    waiting, seen = ["forward"], {"forward", *_FACTS}
    while waiting:
        name = waiting.pop()
        for base in found.__mro__:
            function = _function(base.__dict__.get(name))
            if function is not None and base.__module__ != "torch.nn.modules.module":
                yield function
                names = set(_methods_named(function)) - seen
                waiting += [name for name in names if hasattr(found, name)]
                seen |= names


def _methods_named(function: FunctionType) -> Iterator[str]:
    """The attributes of itself that a method names, and of `super()`."""
    own = function.__code__.co_varnames[:1]
    for node in ast.walk(_parsed(function)):
        if isinstance(node, ast.Attribute):
            owner = node.value.func if isinstance(node.value, ast.Call) else node.value
            if isinstance(owner, ast.Name) and owner.id in (*own, "super"):
                yield node.attr


def _function(attribute: Any) -> FunctionType | None:
    """The function behind an attribute of a class: a method, a property, one that is decorated."""
    attribute = attribute.fget if isinstance(attribute, property) else getattr(attribute, "__func__", attribute)
    attribute = inspect.unwrap(attribute) if callable(attribute) else None
    return attribute if isinstance(attribute, FunctionType) else None


@functools.lru_cache(maxsize=4096)
def _parsed(function: FunctionType) -> ast.AST:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.decorator_list = []  # they ran when the class was made
    return tree


class _Uses:
    """What the functions of a class, and those that they call, do with the attributes of modules."""

    def __init__(self, found: type) -> None:
        self._class = found
        self._seen: set[FunctionType] = set()
        self.computed: set[str] = set()
        self.handed_on: set[str] = set()
        self.read: set[tuple[str, str]] = set()

    def add(self, function: FunctionType, *, method: bool = True) -> None:
        """Adds what a function does; the first parameter of a method is the module."""
        if function in self._seen:
            return
        self._seen.add(function)
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        _Reader(self, self._class, function, names[0] if method and names else "").read()

    def add_beside(self, function: FunctionType) -> None:
        """Adds the functions next to a class that take a module, to which one may be given by another name."""
        for other in function.__globals__.values():
            if isinstance(other, FunctionType) and other.__module__ == function.__module__:
                taken = other.__code__.co_varnames[: other.__code__.co_argcount]
                if taken and taken[0] in ("module", "self"):
                    self.add(inspect.unwrap(other))


class _Reader:
    """Reads one function; `module` is the name of the module in it."""

    def __init__(self, uses: _Uses, found: type, function: FunctionType, module: str) -> None:
        self._uses = uses
        self._class = found
        self._function = function
        self._module = module
        self._tree = _parsed(function)
        self._parents = {child: node for node in ast.walk(self._tree) for child in ast.iter_child_nodes(node)}

    def read(self) -> None:
        """Adds what the function does."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Attribute):
                self._attribute(node)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                self._looked_up(*node.args[:2])
            elif isinstance(node, ast.Name):
                called = self._function.__globals__.get(node.id)
                if isinstance(called, FunctionType) and not called.__module__.startswith("torch."):
                    self._uses.add(inspect.unwrap(called), method=False)
                elif node.id == self._module and isinstance(self._parents.get(node), (ast.Call, ast.keyword)):
                    self._uses.add_beside(self._function)

    def _attribute(self, node: ast.Attribute) -> None:
        owner, parent = node.value, self._parents[node]
        if isinstance(parent, ast.Attribute) and parent.attr == "data":
            parent = self._parents[parent]
        if isinstance(parent, ast.Attribute) and parent.attr in _FACTS:
            return
        if isinstance(owner, ast.Name) and owner.id == self._module:
            self._own(node)
        elif isinstance(owner, ast.Name) and self._is_python_module(owner):
            return
        elif isinstance(parent, ast.Call) and parent.func is node:
            if node.attr in _ALL:
                self._uses.read.add((_name(owner), ANY))
        elif self._computes(node) is not None:
            self._uses.read.add((_name(owner), ANY if node.attr in _DICTIONARIES else node.attr))

    def _looked_up(self, owner: ast.expr, name: ast.expr) -> None:
        """What `getattr` is asked for of another module; of its own it may be a module, of which something is read then."""
        if not (isinstance(owner, ast.Name) and owner.id == self._module):
            self._uses.read.add((_name(owner), str(name.value) if isinstance(name, ast.Constant) else ANY))

    def _own(self, node: ast.Attribute) -> None:
        """An attribute of the module itself."""
        if node.attr in _DICTIONARIES:
            self._uses.read.add((ANY, ANY))
        elif node.attr in _ALL:
            call = self._parents[self._parents[node]]  # next(self.parameters()).dtype
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "next"):
                self._uses.read.add((ANY, ANY))
        elif not hasattr(self._class, node.attr):
            computes = self._computes(node)
            if computes is not None:
                (self._uses.computed if computes else self._uses.handed_on).add(node.attr)
            if self._is_given(node):  # a module below may be, whose parameters are read there
                self._uses.read.add((node.attr, ANY))

    def _is_given(self, node: ast.AST) -> bool:
        parent = self._parents[node]
        while isinstance(parent, _GROUPS):
            node, parent = parent, self._parents[parent]
        return isinstance(parent, ast.Call) and parent.func is not node and not self._is_builtin(parent.func)

    def _computes(self, node: ast.AST) -> bool | None:
        """Whether something is computed with a value here; None if its value does not matter."""
        child, parent = node, self._parents[node]
        while isinstance(parent, _GROUPS):
            if isinstance(parent, ast.IfExp) and parent.test is child:
                return None
            child, parent = parent, self._parents[parent]
        if isinstance(parent, _TESTS):
            return None
        if isinstance(parent, ast.Call) and parent.func is not child:
            return self._computes_with_arguments(parent.func)
        if isinstance(parent, ast.Attribute):  # a method of the tensor, or of a module of that name
            return parent.attr != "data"
        return isinstance(parent, (ast.BinOp, ast.UnaryOp, ast.AugAssign, ast.Subscript))

    def _computes_with_arguments(self, called: ast.expr) -> bool | None:
        """Whether what is called is a function of tensors, and not a module, or not known."""
        if isinstance(called, ast.Name):
            if self._is_builtin(called):
                return None if called.id in _SAYS_NOTHING else True
            known = self._function.__globals__.get(called.id)
            if isinstance(known, FunctionType) and not known.__module__.startswith("torch."):
                return _calls_no_argument(known)
            return callable(known) and _is_of_tensors(called.id)
        if not isinstance(called, ast.Attribute):
            return False
        if isinstance(called.value, ast.Name) and called.value.id == self._module:
            # What a method does with it is only known of torch's own.
            return self._class.__module__.startswith("torch.nn.") and hasattr(self._class, called.attr)
        return _is_of_tensors(called.attr)

    def _is_builtin(self, called: ast.expr) -> bool:
        """Whether a function is one of Python's own, such as `enumerate`."""
        name = called.id if isinstance(called, ast.Name) else ""
        return hasattr(builtins, name) and name not in self._function.__globals__

    def _is_python_module(self, name: ast.Name) -> bool:
        return isinstance(self._function.__globals__.get(name.id), ModuleType)


def _name(owner: ast.expr) -> str:
    """The name that code has for a module, where it is a name that the module is registered by."""
    return owner.attr if isinstance(owner, ast.Attribute) else ANY


def _is_of_tensors(function: str) -> bool:
    """Whether torch, or a tensor, has a function of a name that calls nothing else."""
    import torch

    return function not in _CALLERS and any(
        hasattr(where, function) for where in (torch, torch.Tensor, torch.nn.functional, torch.special, torch.fft)
    )


def _calls_no_argument(function: FunctionType) -> bool:
    """Whether a function calls none of the things that it is given, which might be modules."""
    given = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
    calls = (node.func for node in ast.walk(_parsed(inspect.unwrap(function))) if isinstance(node, ast.Call))
    return not any(isinstance(called, ast.Name) and called.id in given for called in calls)
