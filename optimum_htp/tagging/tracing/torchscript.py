"""All that is private to torch: the scopes of a trace, two passes of the TorchScript exporter, and its writer.

If a torch lacks one of these, exports still work, and what can't be recorded is decided by weaker evidence.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


logger = logging.getLogger(__name__)

# The mark that carries a call's number in the class part of a scope.
_CALL_MARK = "optimum_htp.call."
_NAMING_PASS = "_jit_pass_onnx_assign_scoped_names_for_node_and_value"
_INLINING_PASS = "_jit_pass_inline"
# A mark is a node without inputs and outputs, of a kind that no pass takes for dead code.
_MARK_KIND = "prim::Print"
_MARK_ATTRIBUTE = "optimum_htp_mark"

# What calls of a private interface raise if it has changed.
_CHANGED = (AttributeError, TypeError, ValueError, RuntimeError)

Write = Callable[[bytes, Path], bool]


class NumberedScopes:
    """The numbers of module calls on the scopes of a trace: put there while it runs, read when the nodes get names."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}  # the call that produced a value, by the value's name in the exported graph
        self.scripted = False  # whether values created in scripted functions are among them
        self._passes = ExitStack()

    def __enter__(self) -> NumberedScopes:
        with ExitStack() as passes:
            # Without that pass nothing would remove the marks again.
            self.scripted = passes.enter_context(_pass_extended(_INLINING_PASS, before=_scope_what_was_inlined))
            passes.enter_context(_pass_extended(_NAMING_PASS, after=self._read))
            self._passes = passes.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._passes.close()

    def begin(self, module: torch.nn.Module, number: int, _: object = None) -> None:
        """Puts a number on the scope that torch is about to push for a call of a module."""
        import torch

        scopes = getattr(getattr(torch.jit, "_trace", None), "_trace_module_map", None) or {}
        scope = scopes.get(module)
        if isinstance(scope, str) and "::" in scope:
            scopes[module] = f"{_CALL_MARK}{number}::{scope.split('::', 1)[1]}"

    def forget(self, first: int) -> None:
        """The calls from a number on don't count: the exporter starts over, with a graph that has new numbers."""

    def end(self, number: int) -> None:
        """Puts each scripted function that was called in a call that just ended between two marks with its number."""
        import torch

        if not self.scripted:
            return
        try:
            state = torch._C._get_tracing_state()
            if state is not None:
                _mark_scripted_calls(state, number)
        except _CHANGED as error:
            self.scripted = False
            logger.warning("This torch's traces can't be marked: scripted functions stay untagged: %s", error)

    def _read(self, graph: Any) -> None:
        self.numbers.clear()
        try:
            for node in _graph_nodes(graph):
                _, mark, rest = node.scopeName().rpartition(_CALL_MARK)
                if mark:
                    number = int(rest.split("::", 1)[0])
                    for value in node.outputs():
                        self.numbers[value.debugName()] = number
        except _CHANGED as error:
            self.numbers.clear()
            logger.warning("This torch's graphs can't be read, tags are decided by weaker evidence: %s", error)


def _mark_scripted_calls(state: Any, number: int) -> None:
    # The call's scope was popped: what was traced in it is in the node before the one that comes next.
    node = state.graph().insertPoint().prev()
    scope = f"{_CALL_MARK}{number}"
    if node.kind() != "prim::TracedModuleForward" or not node.s("scope").startswith(f"{scope}::"):
        return
    calls = [inner for block in node.blocks() for inner in block.nodes() if inner.kind() == "prim::CallFunction"]
    if not calls:
        return
    state.push_scope(scope)
    try:
        for call in calls:
            for insert in ("insertBefore", "insertAfter"):
                mark = state.graph().create(_MARK_KIND, [], 0)
                mark.i_(_MARK_ATTRIBUTE, 1)
                getattr(mark, insert)(call)
    finally:
        state.pop_scope()


def _scope_what_was_inlined(graph: Any) -> None:
    """Gives what is between two marks, and has no scope of its own, the marks' scope; removes the marks."""
    mark = None
    marks = []
    for node in list(graph.nodes()):
        if node.kind() == _MARK_KIND and node.hasAttribute(_MARK_ATTRIBUTE):
            marks.append(node)
            mark = node if mark is None else None
        elif mark is not None:
            with suppress(*_CHANGED):  # what keeps no scope is decided by the data flow, but no mark may stay
                for inlined in (node, *(inner for block in node.blocks() for inner in _graph_nodes(block))):
                    if not inlined.scopeName():
                        inlined.copyMetadata(mark)
    for mark in marks:
        mark.destroy()


def _graph_nodes(block: Any) -> Iterator[Any]:
    """The nodes of a TorchScript graph and of every block inside it."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _graph_nodes(inner)


@contextmanager
def _pass_extended(
    name: str, *, before: Callable[[Any], None] | None = None, after: Callable[[Any], None] | None = None
) -> Iterator[bool]:
    """Calls functions with the graph right before and after an exporter's pass; yields whether this torch has it."""
    import torch

    original = getattr(torch._C, name, None)
    if original is None:
        logger.warning("This torch has no %s: tags are decided by weaker evidence, or stay open.", name)
        yield False
        return

    thread = threading.get_ident()

    def extended(graph: Any, *args: Any) -> Any:
        if threading.get_ident() != thread:
            return original(graph, *args)
        if before is not None:
            before(graph)
        result = original(graph, *args)
        if after is not None:
            after(graph)
        return result

    try:
        setattr(torch._C, name, extended)
        yield True
    finally:
        setattr(torch._C, name, original)


@contextmanager
def writing_replaced(write: Write | None) -> Iterator[None]:
    """Lets a function write the file of the TorchScript exporter, so that no tags have to be put into it later.

    If this torch has no such writer, or `write` returns False, the exporter writes the file.
    """
    try:
        from torch.onnx._internal.torchscript_exporter import onnx_proto_utils as writer
    except ImportError:
        writer = None  # type: ignore[assignment]
    original = getattr(writer, "_export_file", None)
    if write is None or original is None:
        yield
        return
    thread = threading.get_ident()

    def export_file(*args: Any, **kwargs: Any) -> None:
        given: list[Any] = [*args, *kwargs.values()]
        file_name = given[1] if len(given) == 3 else None
        ours = (
            threading.get_ident() == thread
            and isinstance(file_name, str)
            and isinstance(given[0], bytes)
            and not given[2]
            and write(given[0], Path(file_name))
        )
        if not ours:
            original(*args, **kwargs)

    try:
        writer._export_file = export_file
        yield
    finally:
        writer._export_file = original
