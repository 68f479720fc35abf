"""The trace: which module call made which value of the graph, recorded while the exporter itself runs the model.

`ModuleTap` wraps `torch.onnx.export` for as long as it is open. Each export that runs inside leaves an `ExportTrace`:
the static module tree, the tree of module calls, and for every value of the exported graph the call that made it.

How a value's call is known. The TorchScript exporter pushes a scope `class::name` for every module call and later
names the nodes by the `name` parts alone. The `class` part is free, so a forward pre-hook, which runs just before the
push, writes the number of the call there. When the exporter assigns the names (`_jit_pass_onnx_assign_scoped_names_…`)
the scope of every node is still on it: its number is read off, exactly, with nothing to parse and no extra forward
pass.

A scripted function (`torch.jit.script`) is traced as one call, which does have a scope, and inlined later, when what is
inlined has none. Its call is put between two marks, and what stands between them after the inlining gets the marks'
scope: one whose name has no `::`, which the exporter passes over when it names the nodes.

But for the tags themselves, the file that comes out is byte for byte the one that comes out without us.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.hierarchy import ModuleInfo, ModulePath, ModuleTree, NodeKey, NodeTag
from optimum_htp.onnxfile import OnnxModel, read_content, read_model


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
_MAX_ALIASES = 100_000
_tap_lock = threading.RLock()


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module during the trace.

    Attributes:
        path: Where the module is registered; of several names the one below its caller, else the first.
        index: 0-based, counted per module object over the whole trace, all aliases together.
        parent: The number of the call that it was made from, None for the root's.
    """

    path: ModulePath
    index: int
    parent: int | None


@dataclass(frozen=True, slots=True)
class ModuleTrace:
    """What one export showed of the model.

    Attributes:
        tree: The static module tree below the exported root.
        calls: Every call, in the order in which they began; a call's number is its position here.
        scopes: The number of the call that made a value, by the value's name in the exported graph.
        tensors: The module that holds a parameter or buffer, by the name in the root's state dict.
        holders: For a tensor that several modules hold, all of them, by each of its names.
    """

    tree: ModuleTree
    calls: tuple[ModuleCall, ...] = ()
    scopes: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, ModulePath] = field(default_factory=dict)
    holders: dict[str, tuple[ModulePath, ...]] = field(default_factory=dict)

    def ancestors(self, call: int) -> Iterator[int]:
        """The call itself and those that it was made from, innermost first."""
        number: int | None = call
        while number is not None:
            yield number
            number = self.calls[number].parent


@dataclass(slots=True)
class ExportTrace:
    """One `torch.onnx.export` call: what it wrote where, and what was seen meanwhile.

    Attributes:
        file: The ONNX file that the exporter wrote.
        model: Its graph as it was just after the export, before anything else touched it.
        trace: The module trace.
        root_in_model: The dotted path of the root in the whole model, `""` for the model itself, None where it is no
            submodule of it or there is no telling.
        tags: The tags of the graph, once somebody has decided them.
    """

    file: Path
    model: OnnxModel
    trace: ModuleTrace
    root_in_model: str | None = None
    tags: dict[NodeKey, NodeTag] = field(default_factory=dict)


def static_trace(model: torch.nn.Module) -> ModuleTrace:
    """What a model shows of itself without running: its tree of modules, and who holds which tensor."""
    modules = _registered_paths(model)
    tree = ModuleTree(_module_info(module, paths, 0) for module, paths in modules.values())
    return ModuleTrace(tree, tensors=_tensor_owners(modules.values()), holders=_shared_tensors(modules.values()))


Annotate = Callable[[bytes, ExportTrace], "Iterable[bytes | memoryview] | None"]
_Annotated = Callable[[bytes, Path], "Iterable[bytes | memoryview] | None"]


class ModuleTap:
    """Records every `torch.onnx.export` call of this thread while it is open.

    A context manager. It holds a lock, so that exports of several threads take turns; calls of other threads pass
    through unrecorded. What it replaces is put back when it closes, whatever was raised.

    Attributes:
        exports: What was recorded, in the order of the calls.
        failures: For each file whose export could not be recorded, why.
        seconds: Wall-clock seconds spent on reading and annotating what was exported.
        whole_model: The model that exported modules are looked up in, set by whoever knows it.

    Args:
        annotate: What to write instead of the bytes of an exported file, given those and the trace; None for the
            bytes themselves.

    Example:
        >>> with ModuleTap() as tap:                          # doctest: +SKIP
        ...     torch.onnx.export(model, args, "model.onnx", dynamo=False)
        >>> tap.exports[0].trace.tree.root.class_name         # doctest: +SKIP
        'Net'
    """

    def __init__(self, annotate: Annotate | None = None) -> None:
        self.exports: list[ExportTrace] = []
        self.failures: dict[Path, Exception] = {}
        self.seconds: float = 0.0
        self.whole_model: object = None
        self._annotate = annotate
        self._original: Callable[..., Any] | None = None
        self._thread = 0

    def __enter__(self) -> ModuleTap:
        import torch.onnx

        _tap_lock.acquire()
        try:
            self._thread = threading.get_ident()
            self._original = torch.onnx.export
            torch.onnx.export = self._export
        except BaseException:
            if self._original is not None:
                torch.onnx.export = self._original
            _tap_lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        import torch.onnx

        try:
            torch.onnx.export = self._original  # type: ignore[assignment]
            self.whole_model = None
        finally:
            _tap_lock.release()

    def _export(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        original = self._original
        assert original is not None  # set for as long as this method stands in for torch.onnx.export
        model: Any = args[0] if args else kwargs.get("model")
        target = args[2] if len(args) > 2 else kwargs.get("f")
        traceable = isinstance(model, torch.nn.Module) and not isinstance(model, torch.jit.ScriptModule)
        if threading.get_ident() != self._thread or not traceable or not isinstance(target, (str, os.PathLike)):
            return original(*args, **kwargs)
        try:
            recorder = _CallRecorder(model)
        except Exception as error:  # a model that can't be looked at can be exported all the same
            self.failures[Path(target)] = error
            return original(*args, **kwargs)
        written: list[ExportTrace] = []

        def annotated(content: bytes, file: Path) -> Iterable[bytes | memoryview] | None:
            export = self._traced(recorder, model, file, content)
            pieces = self._annotate(content, export) if self._annotate is not None else None
            written.append(export)
            return pieces

        with recorder, _writing_replaced(self._timed(annotated) if self._annotate is not None else None):
            result = original(*args, **kwargs)
        file = Path(target)
        started = time.perf_counter()
        try:
            if written or file.is_file():
                self.exports.append(written[-1] if written else self._traced(recorder, model, file))
        except Exception as error:  # Optimum's export goes on; whoever tags the file tells
            self.failures[file] = error
        self.seconds += time.perf_counter() - started
        return result

    def _traced(
        self, recorder: _CallRecorder, model: torch.nn.Module, file: Path, content: bytes | None = None
    ) -> ExportTrace:
        graph = read_model(file) if content is None else read_content(content, path=file)
        return ExportTrace(file, graph, recorder.trace(), _place(model, self.whole_model))

    def _timed(self, annotated: _Annotated) -> _Annotated:
        """Counts the time of it, and lets the exporter write what it has where it fails: the pass comes back later."""

        def timed(content: bytes, file: Path) -> Iterable[bytes | memoryview] | None:
            started = time.perf_counter()
            try:
                return annotated(content, file)
            except Exception as error:
                logger.debug("%s was not tagged while it was written: %s", file, error)
                return None
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def _place(module: torch.nn.Module, whole: object) -> str | None:
    """The dotted path of a module in a whole model: a module, or a diffusers pipeline; None where it is not in it."""
    components = getattr(whole, "components", None) if not hasattr(whole, "named_modules") else None
    for name, part in (components if isinstance(components, dict) else {"": whole}).items():
        for path, inner in part.named_modules() if hasattr(part, "named_modules") else ():
            if inner is module:
                return ".".join(filter(None, (name, path)))
    return None


@contextmanager
def _writing_replaced(annotated: _Annotated | None) -> Iterator[None]:
    """Lets a function say what the TorchScript exporter writes into its file, while that is still in memory.

    So nothing has to be copied later to make room for the tags. The writer is private to torch; where it is gone, the
    file is written as it is.
    """
    try:
        from torch.onnx._internal.torchscript_exporter import onnx_proto_utils as writer
    except ImportError:
        writer = None  # type: ignore[assignment]
    original = getattr(writer, "_export_file", None)
    if annotated is None or original is None:
        yield
        return
    thread = threading.get_ident()

    def export_file(*args: Any, **kwargs: Any) -> None:
        given: list[Any] = [*args, *kwargs.values()]
        file_name = given[1] if len(given) == 3 else None
        pieces = None
        if (
            threading.get_ident() == thread
            and isinstance(file_name, str)
            and isinstance(given[0], bytes)
            and not given[2]
        ):
            pieces = annotated(given[0], Path(file_name))
        if file_name is None or pieces is None:
            original(*args, **kwargs)
            return
        with Path(file_name).open("wb") as file:
            for piece in pieces:
                file.write(piece)

    try:
        writer._export_file = export_file
        yield
    finally:
        writer._export_file = original


class _CallRecorder:
    """Hooks on every module of a model, and on the exporter's naming pass, for one export."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._modules = _registered_paths(model)
        # torch.export calls modules with several names through stand-ins that share the attributes of the module.
        self._by_attributes = {id(vars(module)): identity for identity, (module, _) in self._modules.items()}
        self._model = model
        self._calls: list[ModuleCall] = []
        self._counts: dict[int, int] = {}
        self._stack: list[int] = []
        self._scopes: dict[str, int] = {}
        self._hooks = ExitStack()
        self._thread = threading.get_ident()

    def __enter__(self) -> _CallRecorder:
        try:
            for module, _ in self._modules.values():
                self._hook(module)
            self._hooks.enter_context(_pass_extended(_INLINING_PASS, before=_scope_what_was_inlined))
            self._hooks.enter_context(_pass_extended(_NAMING_PASS, after=self._read_scopes))
        except BaseException:
            self._hooks.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def __deepcopy__(self, _: object) -> _CallRecorder:
        """A model that copies a module while it runs copies the hooks too: they are those of the one recorder."""
        return self

    def trace(self) -> ModuleTrace:
        """What was recorded, as data that holds on to no module."""
        tree = ModuleTree(
            _module_info(module, paths, self._counts.get(id(module), 0)) for module, paths in self._modules.values()
        )
        return ModuleTrace(tree, tuple(self._calls), self._scopes, _tensor_owners(self._modules.values()))

    def _hook(self, module: torch.nn.Module) -> None:
        import torch

        if isinstance(module, torch.jit.ScriptModule):  # runs as TorchScript: takes no hooks and pushes no scope
            return
        # First and first: a hook of somebody else that raises finds a call that has begun, which is what ends then.
        self._hooks.callback(module.register_forward_pre_hook(self._enter_call, prepend=True).remove)
        self._hooks.callback(module.register_forward_hook(self._leave_call, prepend=True, always_call=True).remove)

    def _enter_call(self, module: torch.nn.Module, _: object) -> None:
        import torch

        if threading.get_ident() != self._thread:  # somebody else runs the same model
            return
        self._mark_scripted_calls()
        identity = self._by_attributes.get(id(vars(module)))
        if identity is None:  # a copy that the model made while it ran: what it does is its caller's work
            self._stack += self._stack[-1:]
            return
        if not self._stack and identity == id(self._model):  # an exporter that runs the model again starts anew
            self._calls.clear()
            self._counts.clear()
        number = len(self._calls)
        index = self._counts.get(identity, 0)
        parent = self._stack[-1] if self._stack else None
        self._calls.append(ModuleCall(self._called_as(identity, parent), index, parent))
        self._counts[identity] = index + 1
        self._stack.append(number)
        scopes = torch.jit._trace._trace_module_map or {}
        scope = scopes.get(module)
        if isinstance(scope, str) and "::" in scope:
            name = scope.split("::", 1)[1]
            scopes[module] = torch._C._jit_onnx_create_full_scope_name(f"{_CALL_MARK}{number}", name)

    def _leave_call(self, *_: object) -> None:
        if threading.get_ident() != self._thread:
            return
        self._mark_scripted_calls()
        if self._stack:
            self._stack.pop()

    def _called_as(self, identity: int, parent: int | None) -> ModulePath:
        paths = self._modules[identity][1]
        if parent is None or len(paths) == 1:
            return paths[0]
        caller = self._calls[parent].path
        below = [path for path in paths if path[: len(caller)] == caller]
        children = (path for path in below if len(path) == len(caller) + 1)
        return next(children, below[0] if below else paths[0])

    def _mark_scripted_calls(self) -> None:
        """Puts each scripted function that was called since the last module call began or ended between two marks."""
        import torch

        state = torch._C._get_tracing_state()
        if state is None or not self._stack:
            return
        node = state.graph().insertPoint().prev()
        while node.kind() not in ("prim::Return", "prim::Param", "prim::TracedModuleForward", _MARK_KIND):
            before = node.prev()
            if node.kind() == "prim::CallFunction":
                state.push_scope(f"{_CALL_MARK}{self._stack[-1]}")
                for insert in ("insertBefore", "insertAfter"):
                    mark = state.graph().create(_MARK_KIND, [], 0)
                    mark.i_(_MARK_ATTRIBUTE, 1)
                    getattr(mark, insert)(node)
                state.pop_scope()
            node = before

    def _read_scopes(self, graph: Any) -> None:
        self._scopes.clear()
        for node in _graph_nodes(graph):
            _, mark, rest = node.scopeName().rpartition(_CALL_MARK)
            if mark:
                number = int(rest.split("::", 1)[0])
                for value in node.outputs():
                    self._scopes[value.debugName()] = number


def _graph_nodes(block: Any) -> Iterator[Any]:
    """The nodes of a TorchScript graph and of every block inside it."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _graph_nodes(inner)


def _scope_what_was_inlined(graph: Any) -> None:
    """Gives what stands between two marks, and has no scope of its own, the marks' scope; removes the marks."""
    mark = None
    for node in list(graph.nodes()):
        if node.kind() == _MARK_KIND and node.hasAttribute(_MARK_ATTRIBUTE):
            if mark is not None:
                mark.destroy()
                node.destroy()
            mark = node if mark is None else None
        elif mark is not None:
            for inlined in (node, *(inner for block in node.blocks() for inner in _graph_nodes(block))):
                if not inlined.scopeName():
                    inlined.copyMetadata(mark)


@contextmanager
def _pass_extended(
    name: str, *, before: Callable[[Any], None] | None = None, after: Callable[[Any], None] | None = None
) -> Iterator[None]:
    """Calls functions with the graph right before and after one of the exporter's passes runs.

    The passes are private to torch. Where one is gone, nothing is called: then tags are decided by weaker evidence.
    """
    import torch

    original = getattr(torch._C, name, None)
    if original is None:
        logger.warning("This torch has no %s: tags are decided by weaker evidence.", name)
        yield
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
        yield
    finally:
        setattr(torch._C, name, original)


_Registered = dict[int, tuple["torch.nn.Module", list[ModulePath]]]


def _registered_paths(model: torch.nn.Module) -> _Registered:
    """Every module below a model with all the paths that it is registered under, in the order of `named_modules`.

    A module that contains itself is not followed into itself.
    """
    found: _Registered = {}
    count = 0

    def visit(module: torch.nn.Module, path: ModulePath, above: frozenset[int]) -> None:
        nonlocal count
        count += 1
        found.setdefault(id(module), (module, []))[1].append(path)
        inside = above | {id(module)}
        for name, child in module._modules.items():
            # Shared subtrees in shared subtrees multiply: past the limit only modules not seen before are followed.
            if child is not None and id(child) not in inside and (count < _MAX_ALIASES or id(child) not in found):
                visit(child, (*path, name), inside)

    visit(model, (), frozenset())
    return found


def _module_info(module: torch.nn.Module, paths: list[ModulePath], calls: int) -> ModuleInfo:
    import torch

    cls = type(module)
    return ModuleInfo(
        path=paths[0],
        class_name=cls.__name__,
        qualified_class=f"{cls.__module__}.{cls.__qualname__}",
        container=cls.forward is torch.nn.Module.forward,
        calls=calls,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        aliases=tuple(paths[1:]),
    )


def _tensor_owners(modules: Any) -> dict[str, ModulePath]:
    owners: dict[str, ModulePath] = {}
    for module, paths in modules:
        for path in paths:
            for name in (*module._parameters, *module._buffers):
                owners.setdefault(".".join((*path, name)), path)
    return owners


def _shared_tensors(modules: Any) -> dict[str, tuple[ModulePath, ...]]:
    """The modules that hold a tensor, for each name of one that several hold."""
    names: dict[int, list[str]] = {}
    holders: dict[int, list[ModulePath]] = {}
    for module, paths in modules:
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                names.setdefault(id(tensor), []).extend(".".join((*path, name)) for path in paths)
                holders.setdefault(id(tensor), []).append(paths[0])
    return {name: tuple(holders[tensor]) for tensor in names if len(holders[tensor]) > 1 for name in names[tensor]}
