"""The source model in PyTorch as the reference: what each call of a module took and returned, by hooks."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError, PackageError, reason
from optimum_htp.hierarchy import (
    ModulePath,
    ModuleTree,
    NodeTag,
    Roots,
    name_for_caller,
    tag_ancestors,
    tag_module_path,
)
from optimum_htp.models import (
    Array,
    Example,
    Part,
    SourceModel,
    TorchNames,
    as_array,
    run_for_file,
    tensors_in,
)
from optimum_htp.onnxfile import Node, OnnxModel
from optimum_htp.verbs.compare.reference import CallValues, PortValue, ReferenceCall

if TYPE_CHECKING:
    import torch


class TorchReference:
    """A part of the source model; `run` runs it, and again for calls whose tensors take more than `max_bytes`.

    `roots` are those of the ONNX file, which say which calls its nodes were made in.
    """

    def __init__(
        self,
        part: Part,
        source: SourceModel,
        tree: ModuleTree,
        roots: Roots,
        run: Callable[[], Example],
        *,
        max_bytes: int,
    ) -> None:
        self.name = f"{source.name} in PyTorch"
        self.precision = {"fp16": "float16", "bf16": "bfloat16"}.get(source.float_dtype, "float32")
        self._root = part.module
        self._tree = tree
        self._roots = roots
        self._run = run
        self._modules = {name: id(module) for name, module in self._root.named_modules(remove_duplicate=False)}
        recorder, example = self._record(max_bytes=max_bytes)
        self.calls: Sequence[ReferenceCall] = recorder.calls()
        self.inputs: Mapping[str, Array] = example.inputs
        self.outputs: Mapping[str, Array] = part.comparable(example.outputs)
        self.guessed = example.guessed
        self.named_calls = [call.number for call in self.calls if call.parent is None][-1:]
        self._numbers = recorder.numbers
        self._kept = recorder.kept if recorder.has_room else None

    def _record(self, **options: Any) -> tuple[_Recorder, Example]:
        with _Recorder(self._root, self._tree, **options) as recorder:
            return recorder, self._run()

    def call_of(self, tag: NodeTag) -> int | None:
        """The number of the call that a node belongs to, or of the innermost around it that is known."""
        for above in reversed(list(tag_ancestors(tag.tag))):
            module = self._modules.get(tag_module_path(above))
            if module is None:
                continue
            call = self._roots.call_above(tag, above)
            if call is None and above == tag.tag:
                call = tag.call
            if call is None and (module, 1) not in self._numbers:
                call = 0
            if call is not None and (module, call) in self._numbers:
                return self._numbers[module, call]
        return None

    def values(self, wanted: Sequence[int]) -> dict[int, CallValues]:
        """What some calls were given and returned; the model runs again if it was too much to keep."""
        kept = self._kept if self._kept is not None else self._record(only=frozenset(wanted))[0].kept
        return {number: self._with_names(number, kept.get(number, CallValues())) for number in wanted}

    def _with_names(self, number: int, values: CallValues) -> CallValues:
        """The root's outputs have names in the ONNX file."""
        if number not in self.named_calls:
            return values
        outputs = [(name, array) for name, array in self.outputs.items() if array.dtype.kind == "f"]
        return (
            replace(values, returned=tuple(PortValue(array, name) for name, array in outputs)) if outputs else values
        )

    def same_node(self, _: Node) -> None:
        """Unknown: PyTorch has no nodes."""

    def owner_of(self, _: str) -> None:
        """Unknown: tensors of PyTorch have no names."""

    def sources_of(self, *_: object) -> None:
        """Unknown, the same."""

    def tensors(self, _: object) -> dict[str, Array]:
        """None: it has no graph."""
        return {}

    def weights_of(self, _: int, *, after: str = "") -> list[Array]:
        """Unknown: which of them a graph folds is not said."""
        return []


@dataclass(slots=True)
class _Call:
    """A call of a module; what is known once it has ended follows after `number`, its place in that order."""

    module: int
    path: ModulePath
    index: int
    parent: _Call | None
    given: list[tuple[torch.Tensor, PortValue | None]]
    number: int | None = None
    bytes: int = 0


class _Recorder(ExitStack):
    """Hooks on every module that keep what it is given and returns. A context manager."""

    def __init__(
        self,
        root: torch.nn.Module,
        tree: ModuleTree,
        *,
        only: frozenset[int] | None = None,  # the calls whose tensors are kept; None means all, up to `max_bytes`
        max_bytes: int = 2**62,
    ) -> None:
        super().__init__()
        self._root = root
        self._tree = tree
        self._only = only
        self._left = max_bytes
        self._paths: dict[int, list[ModulePath]] = {}
        self._counts: Counter[int] = Counter()
        self._stack: list[_Call] = []
        self._copies: dict[int, tuple[weakref.ref[torch.Tensor], PortValue]] = {}
        self.ended: list[_Call] = []
        self.numbers: dict[tuple[int, int], int] = {}
        self.kept: dict[int, CallValues] = {}
        for name, module in root.named_modules(remove_duplicate=False):
            path = tuple(name.split(".")) if name else ()
            if id(module) not in self._paths:
                self.callback(module.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
                self.callback(module.register_forward_hook(self._leave).remove)
            self._paths.setdefault(id(module), []).append(path)

    @property
    def has_room(self) -> bool:
        """Whether everything could be kept."""
        return self._left >= 0

    def calls(self) -> list[ReferenceCall]:
        """The calls, in the order in which they ended."""
        calls = []
        for number, call in enumerate(self.ended):
            info = self._tree.module(call.path) if call.path in self._tree else None
            calls.append(
                ReferenceCall(
                    number=number,
                    tag=self._tree.tag(call.path) if info is not None else "",
                    path=".".join(call.path),
                    class_name=info.class_name if info is not None else "",
                    call=call.index,
                    repeated=self._counts[call.module] > 1,
                    parent=call.parent.number if call.parent is not None else None,
                    bytes=call.bytes,
                )
            )
        return calls

    def _enter(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if not self._stack and module is self._root:  # the model is run again
            self._counts.clear()
        parent = self._stack[-1] if self._stack else None
        # Now, for a dictionary of them may be added to, and a tensor changed in place.
        given = [(tensor, self._kept(tensor)) for tensor in tensors_in((args, kwargs))]
        paths = self._paths[id(module)]  # of the names that it goes by, that below its caller
        path = paths[0] if parent is None else name_for_caller(paths, parent.path, self._is_container)
        self._stack.append(_Call(id(module), path, self._counts[id(module)], parent, given))
        self._counts[id(module)] += 1

    def _leave(self, module: torch.nn.Module, _: object, output: Any) -> None:
        while self._stack and self._stack[-1].module != id(module):  # of calls that raised
            self._stack.pop()
        if not self._stack:
            return
        call = self._stack.pop()
        number = call.number = len(self.ended)
        self.ended.append(call)
        self.numbers[id(module), call.index] = number
        received = {id(tensor) for tensor, _ in call.given}
        own = [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
        if len(own) > 1:  # what is only passed through is not an output; a single one may be changed in place
            own = [tensor for tensor in own if id(tensor) not in received]
        tensors = [*(tensor for tensor, _ in call.given), *own]
        call.bytes = sum(tensor.numel() * max(4, tensor.element_size()) for tensor in tensors)
        if self._only is None or number in self._only:
            given = tuple(value for _, value in call.given if value is not None)
            returned = tuple(value for tensor in own if (value := self._kept(tensor)) is not None)
            if self.has_room:
                self.kept[number] = CallValues(given, returned)
        call.given = []
        if not self.has_room:
            self.kept.clear()
            self._copies.clear()

    def _kept(self, tensor: torch.Tensor) -> PortValue | None:
        """A copy of a tensor, the same one as long as its values are; None where nothing is kept.

        With `only` what is given is copied for all calls, for it is not known yet how they are numbered, and let go again.
        """
        if not self.has_room:
            return None
        known = self._copies.get(id(tensor))
        if known is not None and known[0]() is tensor:
            array = as_array(tensor)
            if array.shape == known[1].array.shape and _same(array, known[1].array):
                return known[1]
        value = PortValue(_copied(tensor))
        key = id(tensor)
        self._copies[key] = weakref.ref(tensor, lambda _: self._copies.pop(key, None)), value
        if self._only is None:
            self._left -= value.array.nbytes
        return value

    def _is_container(self, path: ModulePath) -> bool:
        return path in self._tree and self._tree.module(path).container


def _same(one: Array, other: Array) -> bool:
    return one is other or one.tobytes() == other.tobytes()


def _copied(tensor: torch.Tensor) -> Array:
    """A copy, for what comes after may change the tensor in place."""
    return as_array(tensor.detach().clone())


def run_part(
    part: Part,
    model: OnnxModel,
    shapes: Mapping[str, int],
    given: Mapping[str, Array] | None,
    names: TorchNames | None,
    seed: int,
) -> Example:
    """Runs a module on inputs of these sizes, or on those that are given. Raises HtpError if PyTorch can't."""
    try:
        return run_for_file(part, model, names, shapes=shapes, given=given, seed=seed)
    except HtpError:
        raise
    except Exception as error:  # whatever the model raises for inputs that it does not take
        raise HtpError(
            f"{part.file}: PyTorch can't run it on these inputs: {reason(error)}; give other sizes"
        ) from error


def check_source(part: Part, source: SourceModel, tree: ModuleTree, *, file: str) -> None:
    """Raises PackageError, which says why, if a module is not what an ONNX file was exported from."""
    problem = _difference(part.module, tree)
    if problem is not None:
        raise PackageError(f"{source.name} is not what {file} was exported from: {problem}; give its own source model")


def _difference(root: torch.nn.Module, tree: ModuleTree) -> str | None:
    """The first difference between a module and a file's module tree."""
    if tree.root.class_name != type(root).__name__:
        return f"the file's root is a {tree.root.class_name}, and the model is a {type(root).__name__}"
    modules = dict(root.named_modules(remove_duplicate=False))
    for info in tree:
        name = ".".join(info.path)
        module = modules.get(name)
        if module is None:
            return f"it has no module {name!r} ({info.class_name})"
        if info.class_name and type(module).__name__ != info.class_name:
            return f"its {name!r} is a {type(module).__name__}, and a {info.class_name} in the file"
        count = sum(parameter.numel() for parameter in module.parameters())
        if info.parameters not in (0, count):
            return f"its {name or 'root'!r} has {count:,} parameters, and {info.parameters:,} in the file"
    known = {".".join(path) for info in tree for path in (info.path, *info.aliases)}
    more = next((name for name in modules if name not in known), None)
    if more is not None and any(info.calls for info in tree):
        return f"it has a module {more!r}, which the file's model has not"
    return None
