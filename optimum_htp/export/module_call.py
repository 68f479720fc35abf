"""The call of a module with example inputs, as an exporter takes it: inputs, results, and their names."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError
from optimum_htp.models import tensors_in

if TYPE_CHECKING:
    import torch


# The name of the one output that Optimum's class for a task reads.
_OUTPUT_OF_TASK = {
    "feature-extraction": "last_hidden_state",
    "fill-mask": "logits",
    "text-generation": "logits",
    "semantic-segmentation": "logits",
    "image-to-image": "reconstruction",
}


@dataclass(frozen=True, slots=True)
class ExampleCall:
    """A call of a module with example inputs."""

    model: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, model: torch.nn.Module, example_inputs: Any) -> ExampleCall:
        """Reads what the user gave as example inputs; an HtpError if the module's forward can't be called like that."""
        args, kwargs = _arguments(example_inputs)
        if not tensors_in((args, kwargs)):
            advice = "give a tensor, a tuple of arguments, a dict of keyword arguments, or a tuple of both"
            raise HtpError(f"the example inputs hold no tensor ({type(example_inputs).__name__}): {advice}")
        try:
            inspect.signature(model.forward).bind(*args, **kwargs)
        except TypeError as error:
            where = f"{type(model).__name__}.forward"
            message = f"the example inputs don't fit {where}{inspect.signature(model.forward)}: {error}"
            raise HtpError(f"{' '.join(message.split())}; give those that it takes") from error
        return cls(model, args, kwargs)

    def input_names(self, given: Sequence[str] | None) -> list[str]:
        """The names of the graph's inputs, in the order in which the exporter takes the tensors."""
        bound = inspect.signature(self.model.forward).bind(*self.args, **self.kwargs)
        values: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            is_kwargs = bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            values |= value if is_kwargs else {name: value}
        return _names(given, _numbered(values, "_"), "inputs")

    @contextmanager
    def tensors_only(self) -> Iterator[tuple[Any, ...]]:
        """Lets the module be called with what holds tensors alone; yields those, in the order of the parameters."""
        # The TorchScript exporter makes an input of every number. Optimum changes a model's forward in the same way.
        model, forward, replaced = self.model, self.model.forward, self.model.__dict__.get("forward")
        places = list(self._places())

        def call(*values: Any) -> Any:
            args, kwargs = list(self.args), dict(self.kwargs)
            for (place, _), value in zip(places, values, strict=True):
                if isinstance(place, int):
                    args[place] = value
                else:
                    kwargs[place] = value
            return plain(forward(*args, **kwargs))

        model.__dict__["forward"] = call
        try:
            args = tuple(copied(value) for _, value in places)
            # The exporter takes a dict that comes last for keyword arguments.
            yield (*args, {}) if isinstance(args[-1], Mapping) else args
        finally:
            del model.__dict__["forward"]
            if replaced is not None:
                model.__dict__["forward"] = replaced

    def _places(self) -> Iterator[tuple[int | str, Any]]:
        """The index or the keyword in the call of each value with tensors, and the value."""
        left = list(self.args)
        bound = inspect.signature(self.model.forward).bind(*self.args, **self.kwargs)
        for name, value in bound.arguments.items():
            kind = bound.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                places: list[tuple[int | str, Any]] = list(value.items())
            else:
                start = len(self.args) - len(left)
                count = len(value) if kind is inspect.Parameter.VAR_POSITIONAL else int(name not in self.kwargs)
                places = list(enumerate(left[:count], start)) if count else [(name, value)]
                del left[:count]
            yield from ((place, held) for place, held in places if tensors_in(held))

    def results(self) -> Any:
        """What the module returns."""
        import torch

        with torch.no_grad():
            return self.model(*copied(self.args), **copied(self.kwargs))


def copied(value: Any) -> Any:
    """A copy, for a module that changes its inputs; the value itself if a tensor has a history."""
    try:
        return copy.deepcopy(value)
    except RuntimeError:
        return value


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if not isinstance(example_inputs, (tuple, list)):
        return (example_inputs,), {}
    both = len(example_inputs) == 2 and isinstance(example_inputs[0], tuple) and isinstance(example_inputs[1], Mapping)
    if both and all(isinstance(key, str) for key in example_inputs[1]):
        return tuple(example_inputs[0]), dict(example_inputs[1])
    return tuple(example_inputs), {}


def _names(given: Sequence[str] | None, known: list[str], kind: str) -> list[str]:
    """The names that are given, and for the rest the known ones; an HtpError if they are too many, or not distinct."""
    if given is None:
        return known
    names = [given] if isinstance(given, str) else list(given)
    if len(names) > len(known) or len(set(names)) < len(names) or not all(names):
        advice = f"give at most {len(known)} different ones"
        raise HtpError(f"{len(names)} names for {len(known)} {kind}, {', '.join(map(repr, names))}: {advice}")
    return names + known[len(names) :]


def _numbered(values: Mapping[Any, Any], separator: str) -> list[str]:
    """A name for each tensor: that of the value that holds it, with an index if it holds several."""
    names = []
    for name, value in values.items():
        count = len(tensors_in(value))
        names += [str(name)] if count == 1 else [f"{name}{separator}{index}" for index in range(count)]
    return names


def output_names_of(results: Any, given: Sequence[str] | None, task: str | None) -> list[str]:
    """The names of the graph's outputs, for what the module returned."""
    if isinstance(results, Mapping):
        return _names(given, _numbered(results, "."), "outputs")
    if not tensors_in(results):
        raise HtpError(f"the module returns no tensor but a {type(results).__name__}: nothing to export")
    task = task or ""
    only = "logits" if task.endswith("classification") else _OUTPUT_OF_TASK.get(task, "output")
    known = [only] if len(tensors_in(results)) == 1 else _numbered({"output": results}, "_")
    return _names(given, known, "outputs")


def plain(results: Any) -> Any:
    """What a module returns; an object of a data class, which no exporter takes, as a dict."""
    if is_dataclass(results) and not isinstance(results, (type, Mapping)):
        return {item.name: getattr(results, item.name) for item in fields(results)}
    return results
