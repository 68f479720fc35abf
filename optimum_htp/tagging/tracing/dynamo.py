"""All that is private to torch's dynamo exporter: which module call made each node of a program.

While `torch.export` runs the model, its tracer keeps a stack of the modules that are running, and copies it to each
operation: `{"L__self__block": ..., "L__self__block.fc@1": ...}`. A forward pre-hook, which runs right after the push,
looks at the top of the stack and notes which call that is. Nothing is read from the names in it. The stacks survive
torch's decompositions; the operations they are on are known of each node of the ONNX graph, and of the nodes that its
optimizer puts in place of others.

Where `torch.compile`'s tracer runs Python by itself (the bodies of `torch.cond` and `torch.while_loop`; the whole model
if torch can't run it otherwise), hooks are traced and not run. Then the same is noted while the hook is traced, by
`comptime`, which leaves nothing in the graph.

If a torch lacks one of these, exports still work, and what can't be recorded is decided by weaker evidence.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import body_path, function_path

if TYPE_CHECKING:
    import torch


logger = logging.getLogger(__name__)

_StackKey = tuple[str, str]  # what a tracer calls a running module: its key, which ends in the count, and its name

# What an operation of the program is called on a node of the ONNX graph, and those in whose place a node was put.
_OPERATION, _OPERATIONS = "node", "optimum_htp.operations"

# The number of a call where several look alike: torch took modules without a name for the one around them.
_AMBIGUOUS = -1

# A line of code that torch made of a graph, as it stands in the stack trace of what ran there: its file, and what is
# assigned, which is the name of a node of that graph.
_MADE_LINE = re.compile(r'File "(<eval_with_key>[^"]*)", line \d+, in forward\n\s*(\w+)(?::[^=\n]*)? = ')

# What access to a private interface raises if it has changed.
_CHANGED = (AttributeError, TypeError, ValueError, LookupError)


class NumberedStacks:
    """The numbers of module calls, by the stacks of running modules that torch puts on operations."""

    def __init__(self) -> None:
        self._numbers: dict[
            tuple[bool, _StackKey], list[int]
        ] = {}  # by whether it was in a body, and the top of the stack
        self._lines: dict[tuple[str, str], int | None] = {}  # by a line of code that torch made of a compiled body
        self._tracers: dict[
            object, dict[_StackKey, int]
        ] = {}  # what each has had on top; the first is of the main graph
        self._compiled: dict[_StackKey, int] = {}  # what was on top in what was compiled last
        self._compilation: tuple[object, object, int] = (
            None,
            None,
            0,
        )  # which that is, its attempt, the calls before it
        self._patches = ExitStack()

    def __enter__(self) -> NumberedStacks:
        with ExitStack() as patches:
            patches.enter_context(_bodies_noticed(self._read_body))
            self._patches = patches.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()
        self._tracers.clear()
        self._compilation = (None, None, 0)

    def begin(self, _: torch.nn.Module, number: int, context: Any = None) -> None:
        """Notes what is on top of the stack, where a call has just begun; `context` is given by what compiles it."""
        if context is not None:
            top, seen = _top(getattr(_translator(context), "nn_module_stack", None)), self._compiled
            in_body = False
        else:
            module = sys.modules.get("torch.fx.experimental.proxy_tensor")
            mode = module.get_proxy_mode() if module is not None else None
            tracer = getattr(mode, "tracer", None)
            top, seen = _top(getattr(tracer, "module_stack", None)), self._tracers.setdefault(tracer, {})
            in_body = tracer is not next(iter(self._tracers))
        if top is None or top in seen:  # then this call is not on the stack: it is its caller that is on top
            return
        seen[top] = number
        self._numbers.setdefault((in_body, _plain(*top)), []).append(number)

    def end(self, number: int) -> None:
        """A call ends; its number stays."""

    def forget(self, first: int) -> None:
        """Forgets the calls from a number on: a tracer starts over."""
        for numbers in self._numbers.values():
            numbers[:] = [number for number in numbers if number < first]
        self._compiled = {key: number for key, number in self._compiled.items() if number < first}
        if not first:
            self._tracers.clear()

    def compiled_since(self, context: Any, number: int) -> tuple[bool, int]:
        """Whether something new is being compiled now, and how many of the calls so far remain.

        A compiler that can't go on starts over, and what it has called since it began does not count.
        """
        translator = _translator(context)
        what, attempt = getattr(translator, "speculation_log", None), getattr(translator, "output", None)
        last, last_attempt, first = self._compilation
        if what is None or what is not last:
            self._compiled.clear()
            self._compilation = (what, attempt, number)
            return True, number
        self._compilation = (what, attempt, first)
        return False, number if attempt is last_attempt else first

    def made(self, program: Any) -> dict[NodeKey, tuple[int, ...]]:
        """The calls that each node of an exported program was made in: several where the optimizer made one of many.

        What was made in no call that was noted is left out; if it can't be told in which, there is none.
        """
        made = {}
        try:
            main = program.exported_program.graph
            named: dict[str, set[int | None]] = {}
            for operation in _operations(program.exported_program.graph_module):
                named.setdefault(operation.name, set()).add(self._number(operation, main))
            for key, node in _nodes(program.model):
                numbers = set[int | None]()
                for origin in _origins_of(node):
                    if isinstance(origin, _Names):
                        numbers |= next((named[name] for name in origin if len(named.get(name, ())) == 1), set())
                    else:
                        numbers.add(self._number(origin, main))
                known = tuple(sorted(number for number in numbers if number not in (None, _AMBIGUOUS)))
                if known or _AMBIGUOUS in numbers:
                    made[key] = () if _AMBIGUOUS in numbers else known
        except _CHANGED as error:
            logger.warning("This torch's programs can't be read, tags are decided by weaker evidence: %s", error)
            return {}
        return made

    def _number(self, operation: Any, main: Any) -> int | None:
        """The call in which an operation was traced."""
        in_body = operation.graph is not main
        for top, (name, _) in reversed((operation.meta.get("nn_module_stack") or {}).items()):
            key = _plain(top, name)
            found = self._numbers.get((True, key), ()) if in_body else ()
            found = found or self._numbers.get((False, key), ())
            if found:
                return found[0] if len(found) == 1 else _AMBIGUOUS
        lines = _MADE_LINE.findall(operation.meta.get("stack_trace") or "") if in_body else ()
        return self._lines.get(lines[-1]) if lines else None

    def _read_body(self, body: Any) -> None:
        """Notes the calls in a body that was compiled: what is traced next is the code that torch made of it."""
        file = type(body).forward.__code__.co_filename
        for node in body.graph.nodes:
            stack = node.meta.get("nn_module_stack") or {}
            keys = ((key, name) for key, (name, _) in reversed(stack.items()))
            self._lines[file, node.name] = next((self._compiled[key] for key in keys if key in self._compiled), None)


def traceable_hooks(
    module: torch.nn.Module,
    enter: Callable[[torch.nn.Module, object, Any], None],
    leave: Callable[[], None],
) -> tuple[Callable[..., None], Callable[..., None]]:
    """A pre-hook and a hook of a module that call `enter` and `leave`, also where a compiler traces them.

    Then `enter` is given the compiler's context.
    """
    import torch

    is_compiled = torch.compiler.is_dynamo_compiling
    try:
        from torch._dynamo.comptime import comptime
    except ImportError:
        comptime = None  # type: ignore[assignment]

    def entered(context: Any) -> None:
        enter(module, None, context)

    def left(_: Any) -> None:
        leave()

    def before(called: torch.nn.Module, _: Any) -> None:
        if not is_compiled():
            enter(called, None, None)
        elif comptime is not None:
            comptime(entered)

    def after(*_: Any) -> None:
        if not is_compiled():
            leave()
        elif comptime is not None:
            comptime(left)

    return before, after


def _translator(context: Any) -> Any:
    return context._i_will_not_complain_if_bc_breaks_InstructionTranslator()


def _top(stack: dict[str, Any] | None) -> _StackKey | None:
    item = next(reversed(stack.items()), None) if stack else None
    return (item[0], item[1][0]) if item is not None else None


def _plain(key: str, name: str) -> _StackKey:
    """What a stack has of a module, in the form that is the same while the model is traced and afterwards."""
    path = _without_root(name)
    return (_without_root(key), path) if path else ("", "")


def _without_root(text: str) -> str:
    if text.startswith("L['self']"):  # what compiles a model calls it that; what it makes of it does not
        text = text.removeprefix("L['self']").removeprefix(".")
    text = text.removeprefix("L__self__")
    return text.removeprefix("_export_root").removeprefix(".") if text.startswith("_export_root") else text


def _operations(graph_module: Any) -> Iterator[Any]:
    """The operations of a traced program, bodies included."""
    for module in graph_module.modules():
        yield from getattr(getattr(module, "graph", None), "nodes", ())


class _Names(tuple[str, ...]):
    """What the operation of a node may be called, where only names are left: a converter made the graph anew."""

    __slots__ = ()


def _origins_of(node: Any) -> tuple[Any, ...]:
    """The operations that a node of an ONNX graph stands for, or what they may be called."""
    carried: tuple[Any, ...] | None = node.meta.get(_OPERATIONS)
    own = node.meta.get(_OPERATION)
    return carried if carried is not None else (own if own is not None else _Names(_names_of(node)),)


def _names_of(node: Any) -> Iterator[str]:
    """The last of the scopes that torch wrote, and the results, which are numbered if they are several."""
    yield from re.findall(r"['\"]([^'\"]*)['\"]\]$", node.metadata_props.get("pkg.torch.onnx.name_scopes", ""))
    for output in node.outputs:
        name = output.metadata_props.get("pkg.torch.onnx.original_node_name", output.name) or ""
        yield from (name, re.sub(r"__\d+$", "", name))


def _nodes(model: Any) -> Iterator[tuple[NodeKey, Any]]:
    """The nodes of an ONNX model in memory, by where they will be in the file."""

    def walk(path: str, graph: Any) -> Iterator[tuple[NodeKey, Any]]:
        for index, node in enumerate(graph):
            yield (path, index), node
            for name, attribute in node.attributes.items():
                kind = attribute.type.name
                if kind == "GRAPH":
                    yield from walk(body_path(path, index, name), attribute.value)
                elif kind == "GRAPHS":
                    for number, body in enumerate(attribute.value):
                        yield from walk(body_path(path, index, f"{name}[{number}]"), body)

    yield from walk("", model.graph)
    for function in model.functions.values():
        yield from walk(function_path(function.domain, function.name, function.overload), function)


@contextmanager
def operations_carried() -> Iterator[None]:
    """Lets nodes that are put in place of others know the operations of those: inlined, folded, fused or converted."""
    try:
        import onnx_ir.convenience as convenience

        replace = convenience.replace_nodes_and_values
    except (ImportError, AttributeError):
        logger.warning(
            "This onnx_ir does not say what it puts in place of nodes: tags are decided by weaker evidence."
        )
        yield
        return
    with ExitStack() as patches:
        patches.callback(setattr, convenience, "replace_nodes_and_values", replace)
        convenience.replace_nodes_and_values = _carrying(replace, "old_nodes", "new_nodes", "insertion_point")
        # A pattern's nodes may stay where others read them. Then only what merges their metadata is given all of them.
        with suppress(ImportError, AttributeError):
            from onnxscript.utils.metadata_merger import MetadataMerger

            merge = MetadataMerger.copy_merged_metadata
            patches.callback(setattr, MetadataMerger, "copy_merged_metadata", merge)
            setattr(MetadataMerger, "copy_merged_metadata", _carrying(merge, "from_nodes", "to"))  # noqa: B010  # for mypy
        yield


def _carrying(original: Callable[..., Any], old: str, new: str, instead: str = "") -> Callable[..., Any]:
    """A function of a graph that tells new nodes the operations of old ones first; both are arguments of it."""
    thread = threading.get_ident()
    signature = inspect.signature(original)

    @wraps(original)
    def carrying(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread:
            given = signature.bind(*args, **kwargs).arguments
            nodes = given.get(old) or [given[instead]] if instead else given[old]
            origins = tuple(dict.fromkeys(origin for node in nodes for origin in _origins_of(node)))
            made = given[new]
            for node in (made,) if hasattr(made, "op_type") else made:
                if _OPERATION not in node.meta:
                    node.meta[_OPERATIONS] = origins
        return original(*args, **kwargs)

    return carrying


@contextmanager
def _bodies_noticed(notice: Callable[[Any], None]) -> Iterator[None]:
    """Calls a function with each compiled body that torch is about to trace again."""
    from torch.fx import GraphModule
    from torch.fx.experimental import proxy_tensor

    tracer: Any = getattr(proxy_tensor, "_MakefxTracer", None)
    original = getattr(tracer, "trace_subgraph", None)
    if original is None:
        logger.warning("This torch does not say which bodies it traces: their tags are decided by weaker evidence.")
        yield
        return
    thread = threading.get_ident()

    def trace_subgraph(self: Any, function: Any, *args: Any) -> Any:
        if threading.get_ident() == thread:
            cells = (cell.cell_contents for cell in getattr(function, "__closure__", None) or ())
            for body in (function, *cells):
                if isinstance(body, GraphModule):
                    try:
                        notice(body)
                    except _CHANGED as error:
                        logger.warning("A body can't be read, its tags are decided by weaker evidence: %s", error)
        return original(self, function, *args)

    try:
        tracer.trace_subgraph = trace_subgraph
        yield
    finally:
        tracer.trace_subgraph = original


@contextmanager
def saving_noticed(notice: Callable[[Any, Path], None]) -> Iterator[None]:
    """Calls a function with each program of the dynamo exporter that was written, and its file."""
    import torch.onnx

    program: Any = getattr(torch.onnx, "ONNXProgram", None)
    original = getattr(program, "save", None)
    if original is None:
        yield
        return

    @wraps(original)
    def save(self: Any, destination: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, destination, *args, **kwargs)
        if isinstance(destination, (str, os.PathLike)):
            notice(self, Path(destination))
        return result

    try:
        program.save = save
        yield
    finally:
        program.save = original
