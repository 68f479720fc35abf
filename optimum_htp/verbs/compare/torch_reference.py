"""The source model in PyTorch as the reference: what each call of a module returned, by forward hooks."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError, PackageError, reason
from optimum_htp.hierarchy import ModulePath, ModuleTree, NodeTag, name_for_caller, tag_module_path
from optimum_htp.models import (
    Array,
    Example,
    Part,
    SourceModel,
    TorchNames,
    as_array,
    run_for_file,
    same_random_numbers,
    tensors_in,
)
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.verbs.compare.reference import ReferenceCall

if TYPE_CHECKING:
    import torch


class TorchReference:
    """A part of the source model; `run` runs it, and again for outputs of calls that take more than `max_bytes`."""

    def __init__(
        self, part: Part, source: SourceModel, tree: ModuleTree, run: Callable[[], Example], *, max_bytes: int
    ) -> None:
        self.name = f"{source.name} in PyTorch"
        self._root = part.module
        self._tree = tree
        self._run = run
        self._modules = {name: id(module) for name, module in self._root.named_modules(remove_duplicate=False)}
        recorder, example = self._record(max_bytes=max_bytes)
        self.calls: Sequence[ReferenceCall] = recorder.calls()
        self.inputs: Mapping[str, Array] = example.inputs
        self.outputs: Mapping[str, Array] = part.comparable(example.outputs)
        self._began = [call.began for call in recorder.ended]
        self._numbers = recorder.numbers
        self._kept = recorder.kept if recorder.has_room else None

    def _record(self, **options: Any) -> tuple[_Recorder, Example]:
        with _Recorder(self._root, self._tree, **options) as recorder:
            return recorder, self._run()

    def call_of(self, tag: NodeTag) -> int | None:
        """The number of the call that a node belongs to; None if unknown."""
        module = self._modules.get(tag_module_path(tag.tag))
        if module is None:
            return None
        if tag.call is not None:
            return self._numbers.get((module, tag.call))
        return None if (module, 1) in self._numbers else self._numbers.get((module, 0))

    def returned(self, wanted: Sequence[int]) -> dict[int, tuple[Array, ...]]:
        """What some calls returned; the model runs again if it was too much to keep."""
        kept = self._kept if self._kept is not None else self._record(only=frozenset(wanted))[0].kept
        return {number: kept[number] for number in wanted}

    def named(self, _: Sequence[str]) -> dict[str, Array]:
        """No tensors: those of PyTorch have no names."""
        return {}

    def received(self, number: int) -> tuple[Array, ...]:
        """The tensors that a call was given; the model runs again for them."""
        return self._record(only=frozenset(), given_to=self._began[number])[0].given


@dataclass(slots=True)
class _Call:
    """A call of a module; what is known once it has ended follows after `number`, its place in that order."""

    module: int
    path: ModulePath
    index: int
    began: int
    parent: _Call | None
    given: tuple[torch.Tensor, ...]
    number: int | None = None
    bytes: int = 0
    several: bool = False
    passed_on: tuple[tuple[int, int] | None, ...] = ()


class _Recorder(ExitStack):
    """Hooks on every module that keep what it returns. A context manager."""

    def __init__(
        self,
        root: torch.nn.Module,
        tree: ModuleTree,
        *,
        only: frozenset[int] | None = None,  # the calls whose outputs are kept; None means all, up to `max_bytes`
        given_to: int | None = None,  # the call whose inputs are kept, by the order in which calls began
        max_bytes: int = 2**62,
    ) -> None:
        super().__init__()
        self._root = root
        self._tree = tree
        self._only = only
        self._given_to = given_to
        self._left = max_bytes
        self._paths: dict[int, list[ModulePath]] = {}
        self._counts: Counter[int] = Counter()
        self._begun = 0
        self._stack: list[_Call] = []
        self._returned: dict[int, tuple[weakref.ref[torch.Tensor], tuple[int, int]]] = {}
        self.ended: list[_Call] = []
        self.numbers: dict[tuple[int, int], int] = {}
        self.given: tuple[Array, ...] = ()
        self.kept: dict[int, tuple[Array, ...]] = {}
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
                    passed_on=call.passed_on,
                    several=call.several,
                )
            )
        return calls

    def _enter(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if not self._stack and module is self._root:  # the model is run again
            self._counts.clear()
        parent = self._stack[-1] if self._stack else None
        given = tuple(tensors_in((args, kwargs)))  # now: a dictionary of them may be added to
        if self._begun == self._given_to:
            self.given = tuple(map(_copied, given))
        paths = self._paths[id(module)]  # of the names that it goes by, that below its caller
        path = paths[0] if parent is None else name_for_caller(paths, parent.path, self._is_container)
        self._stack.append(_Call(id(module), path, self._counts[id(module)], self._begun, parent, given))
        self._counts[id(module)] += 1
        self._begun += 1

    def _leave(self, module: torch.nn.Module, _: object, output: Any) -> None:
        while self._stack and self._stack[-1].module != id(module):  # of calls that raised
            self._stack.pop()
        if not self._stack:
            return
        call = self._stack.pop()
        received, call.given = {id(tensor) for tensor in call.given}, ()
        number = call.number = len(self.ended)
        self.ended.append(call)
        self.numbers[id(module), call.index] = number
        returned = tensors_in(output)
        own = [tensor for tensor in returned if tensor.is_floating_point()]
        if len(own) > 1:  # what is only passed through is not an output; a single one may be changed in place
            own = [tensor for tensor in own if id(tensor) not in received]
        call.several = len(returned) > 1
        call.passed_on = tuple(self._first_return(tensor, number, index) for index, tensor in enumerate(own))
        call.bytes = sum(tensor.numel() * max(4, tensor.element_size()) for tensor in own)
        if self._only is None:
            self._left -= call.bytes
        if not self.has_room:
            self.kept.clear()
        elif self._only is None or number in self._only:
            self.kept[number] = tuple(map(_copied, own))

    def _first_return(self, tensor: torch.Tensor, number: int, index: int) -> tuple[int, int] | None:
        """The call that returned a tensor before, and which of its outputs it was."""
        known = self._returned.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return known[1]
        self._returned[id(tensor)] = weakref.ref(tensor), (number, index)
        return None

    def _is_container(self, path: ModulePath) -> bool:
        return path in self._tree and self._tree.module(path).container


def _copied(tensor: torch.Tensor) -> Array:
    """A copy, for what comes after may change the tensor in place."""
    return as_array(tensor.detach().clone())


def run_part(
    part: Part,
    model: OnnxModel,
    shapes: Mapping[str, int],
    given: Mapping[str, Array] | None,
    names: TorchNames | None,
) -> Example:
    """Runs a module on inputs of these sizes, or on those that are given. Raises HtpError if PyTorch can't."""
    try:
        if given is None:
            return run_for_file(part, model, names, shapes=shapes)
        return _run_given(part, given)
    except HtpError:
        raise
    except Exception as error:  # whatever the model raises for inputs that it does not take
        raise HtpError(
            f"{part.file}: PyTorch can't run it on these inputs: {reason(error)}; give other sizes"
        ) from error


@same_random_numbers()
def _run_given(part: Part, given: Mapping[str, Array]) -> Example:
    import torch

    if any(name.startswith("past_key_values") for name in given):
        raise HtpError(
            f"{part.file}: past key values can't be given to PyTorch from a file; give sizes instead of --inputs"
        )
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    with part.onnx_config.patch_model_for_export(part.module), torch.inference_mode():
        answer = part.module(**tensors)
    outputs = {name: _copied(value) for name, value in answer.items() if isinstance(value, torch.Tensor)}
    names = part.onnx_config.torch_to_onnx_output_map
    return Example(dict(given), {names.get(name, name): value for name, value in outputs.items()})


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
