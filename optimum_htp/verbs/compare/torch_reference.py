"""The source model in PyTorch as the reference: what each call of a module returned, by forward hooks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError, PackageError, reason
from optimum_htp.hierarchy import ModulePath, ModuleTree, NodeTag, name_for_caller, tag_module_path
from optimum_htp.models import (
    Example,
    Part,
    SourceModel,
    as_array,
    run_reference,
    same_random_numbers,
    tensors_in,
)
from optimum_htp.verbs.compare.reference import ReferenceCall, packed_calls


if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]


class TorchReference:
    """A module of the source model, run as Optimum's export ran it.

    Args:
        part: The module.
        source: The model that it is a part of.
        tree: The module tree of the ONNX file.
        run: Runs the module and returns inputs and outputs.
        max_bytes: How much of what the calls return may be kept; where there is more, the model runs again for it.
    """

    def __init__(
        self, part: Part, source: SourceModel, tree: ModuleTree, run: Callable[[], Example], *, max_bytes: int
    ) -> None:
        self.name = f"{source.name} in PyTorch"
        self._part = part
        self._tree = tree
        self._run = run
        self._modules: dict[str, int | None] = {}
        recorder = _Recorder(part.module, tree, max_bytes=max_bytes)
        with recorder:
            example = run()
        self.calls: Sequence[ReferenceCall] = recorder.ended()
        self._began = recorder.order
        self.inputs: Mapping[str, Array] = example.inputs
        self.outputs: Mapping[str, Array] = part.comparable(example.outputs)
        self._numbers = recorder.numbers
        self._kept = recorder.kept if recorder.complete else None

    def call_of(self, tag: NodeTag) -> int | None:
        """The number of the call that a node belongs to; None where that is not known."""
        module = self._module(tag.tag)
        if module is None:
            return None
        if tag.call is not None:
            return self._numbers.get((module, tag.call))
        return None if (module, 1) in self._numbers else self._numbers.get((module, 0))

    def chunks(self, wanted: Sequence[int], *, max_bytes: int) -> Iterator[dict[int, tuple[Array, ...]]]:
        """What some calls returned, so many at once as fit."""
        for numbers in packed_calls(self.calls, wanted, max_bytes):
            yield self.returned(numbers)

    def returned(self, wanted: Sequence[int]) -> dict[int, tuple[Array, ...]]:
        """What some calls returned; the model runs again where it was too much to keep."""
        if self._kept is not None:
            return {number: self._kept[number] for number in wanted}
        recorder = _Recorder(self._part.module, self._tree, only=frozenset(wanted))
        with recorder:
            self._run()
        return {number: recorder.kept[number] for number in wanted}

    def named(self, _: Sequence[str]) -> dict[str, Array]:
        """No tensors: those of PyTorch have no names."""
        return {}

    def received(self, number: int) -> tuple[Array, ...]:
        """The tensors that a call was given; the model runs again for them."""
        recorder = _Recorder(self._part.module, self._tree, only=frozenset(), given_to=self._began[number])
        with recorder:
            self._run()
        return recorder.given

    def _module(self, tag: str) -> int | None:
        if tag not in self._modules:
            try:
                self._modules[tag] = id(self._part.module.get_submodule(tag_module_path(tag)))
            except AttributeError:
                self._modules[tag] = None
        return self._modules[tag]


class _Recorder:
    """Hooks on every module that keep what it returns. A context manager.

    Args:
        root: The module.
        tree: Its module tree, which knows the tags.
        only: The numbers of the calls whose outputs are kept; None keeps all, up to `max_bytes`.
        given_to: The place of the call whose inputs are kept, in the order in which calls began.
        max_bytes: How much is kept at most.
    """

    def __init__(
        self,
        root: torch.nn.Module,
        tree: ModuleTree,
        *,
        only: frozenset[int] | None = None,
        given_to: int | None = None,
        max_bytes: int = 2**62,
    ) -> None:
        self._root = root
        self._tree = tree
        self._only = only
        self._given_to = given_to
        self._left = max_bytes
        self._hooks = ExitStack()
        self._counts: dict[int, int] = {}
        self._stack: list[tuple[int, int, tuple[torch.Tensor, ...]]] = []  # module, beginning, what it was given
        self._began: list[tuple[ModulePath, int, int, int | None]] = []  # path, module, index, parent by its beginning
        self._sizes: list[int] = []
        self._several: list[bool] = []
        self._passed_on: list[tuple[tuple[int, int] | None, ...]] = []
        self._returned: dict[int, tuple[weakref.ref[torch.Tensor], tuple[int, int]]] = {}
        self._paths: dict[int, list[ModulePath]] = {}
        self.complete = True
        self.order: list[int] = []
        self.given: tuple[Array, ...] = ()
        self.kept: dict[int, tuple[Array, ...]] = {}
        self.numbers: dict[tuple[int, int], int] = {}

    def __enter__(self) -> _Recorder:
        for name, module in self._root.named_modules(remove_duplicate=False):
            path = tuple(name.split(".")) if name else ()
            if id(module) not in self._paths:
                self._hooks.callback(module.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
                self._hooks.callback(module.register_forward_hook(self._leave).remove)
            self._paths.setdefault(id(module), []).append(path)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def ended(self) -> list[ReferenceCall]:
        """The calls, in the order in which they ended."""
        numbers = {began: number for number, began in enumerate(self.order)}
        calls = []
        for number, began in enumerate(self.order):
            path, module, index, parent = self._began[began]
            info = self._tree.module(path) if path in self._tree else None
            calls.append(
                ReferenceCall(
                    number=number,
                    tag=self._tree.tag(path) if info is not None else "",
                    path=".".join(path),
                    class_name=info.class_name if info is not None else "",
                    call=index,
                    repeated=self._counts[module] > 1,
                    parent=numbers.get(parent) if parent is not None else None,
                    bytes=self._sizes[number],
                    passed_on=self._passed_on[number],
                    several=self._several[number],
                )
            )
        return calls

    def _enter(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if not self._stack and module is self._root:  # the model is run again
            self._counts.clear()
        index = self._counts.get(id(module), 0)
        self._counts[id(module)] = index + 1
        parent = self._stack[-1][1] if self._stack else None
        given = tuple(tensors_in((args, kwargs)))  # now: a dictionary of them may be added to
        if len(self._began) == self._given_to:
            self.given = tuple(map(_copied, given))
        self._stack.append((id(module), len(self._began), given))
        self._began.append((self._called_as(module, parent), id(module), index, parent))

    def _leave(self, module: torch.nn.Module, _: object, output: Any) -> None:
        while self._stack and self._stack[-1][0] != id(module):  # of calls that raised
            self._stack.pop()
        if not self._stack:
            return
        _, began, received = self._stack.pop()
        number = len(self.order)
        self.order.append(began)
        self.numbers[id(module), self._began[began][2]] = number
        returned = tensors_in(output)
        self._several.append(len(returned) > 1)
        made = [tensor for tensor in returned if tensor.is_floating_point()]
        if len(made) > 1:  # what is only handed through is no output; a single one may be changed in place
            given = {id(tensor) for tensor in received}
            made = [tensor for tensor in made if id(tensor) not in given]
        self._passed_on.append(tuple(self._first_return(tensor, number, index) for index, tensor in enumerate(made)))
        size = sum(tensor.numel() * max(4, tensor.element_size()) for tensor in made)
        self._sizes.append(size)
        if self._only is None:
            self._left -= size
            if self._left < 0:
                self.complete = False
                self.kept.clear()
        if self.complete if self._only is None else number in self._only:
            self.kept[number] = tuple(map(_copied, made))

    def _first_return(self, tensor: torch.Tensor, number: int, index: int) -> tuple[int, int] | None:
        """The call that returned a tensor before, and which of its outputs it was."""
        known = self._returned.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return known[1]
        self._returned[id(tensor)] = weakref.ref(tensor), (number, index)
        return None

    def _called_as(self, module: torch.nn.Module, parent: int | None) -> ModulePath:
        """The name below the caller, of those that a module goes by; else the first."""
        paths = self._paths[id(module)]
        return paths[0] if parent is None else name_for_caller(paths, self._began[parent][0], self._is_container)

    def _is_container(self, path: ModulePath) -> bool:
        return path in self._tree and self._tree.module(path).container


def _copied(tensor: torch.Tensor) -> Array:
    """A copy, for what comes after may change the tensor in place."""
    return as_array(tensor.detach().clone())


def run_part(
    part: Part, input_names: list[str], shapes: Mapping[str, int], given: Mapping[str, Array] | None
) -> Example:
    """Runs a module on Optimum's dummy inputs of these sizes, or on the inputs that are given.

    Raises:
        HtpError: PyTorch can't run it on them.
    """
    try:
        if given is None:
            return run_reference(part, input_names, shapes=shapes)
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
            f"{part.file}: takes past key values, which PyTorch does not take from a file; give sizes instead of --inputs"
        )
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    with part.onnx_config.patch_model_for_export(part.module), torch.inference_mode():
        answer = part.module(**tensors)
    outputs = {name: _copied(value) for name, value in answer.items() if isinstance(value, torch.Tensor)}
    names = part.onnx_config.torch_to_onnx_output_map
    return Example(dict(given), {names.get(name, name): value for name, value in outputs.items()})


def check_source(part: Part, source: SourceModel, tree: ModuleTree, *, file: str) -> None:
    """Checks that a module is what an ONNX file was exported from.

    Raises:
        PackageError: It is not; the message says what shows it.
    """
    root = type(part.module).__name__
    problem = None
    if tree.root.class_name != root:
        problem = f"the file's root is a {tree.root.class_name}, and the model is a {root}"
    modules = dict(part.module.named_modules(remove_duplicate=False))
    for info in tree:
        if problem is not None:
            break
        name = ".".join(info.path)
        module = modules.get(name)
        if module is None:
            problem = f"it has no module {name!r} ({info.class_name})"
        elif info.class_name and type(module).__name__ != info.class_name:
            problem = f"its {name!r} is a {type(module).__name__}, and a {info.class_name} in the file"
        elif info.parameters and (count := _parameters(module)) != info.parameters:
            problem = f"its {name or 'root'!r} has {count:,} parameters, and {info.parameters:,} in the file"
    known = {".".join(path) for info in tree for path in (info.path, *info.aliases)}
    more = next((name for name in modules if name not in known), None)
    if problem is None and more is not None and any(info.calls for info in tree):
        problem = f"it has a module {more!r}, which the file's model has not"
    if problem is not None:
        raise PackageError(f"{source.name} is not what {file} was exported from: {problem}; give its own source model")


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
