"""The call of a module with example inputs, as an exporter takes it: what goes in, what comes out, and their names."""

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


# What the classes of Optimum call the one output that they read for a task.
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
        """Reads what the user gave as example inputs.

        Raises:
            HtpError: It holds no tensor, or the module's forward can't be called like that.
        """
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
        """The names of the graph's inputs, in the order in which the exporter takes the tensors.

        Raises:
            HtpError: There are more names than tensors, or one is there twice.
        """
        known: list[str] = []
        for name, value in self._named():
            count = len(tensors_in(value))
            known += [name] if count == 1 else [f"{name}_{index}" for index in range(count)]
        return _names(given, known, "inputs")

    @contextmanager
    def tensors_only(self) -> Iterator[tuple[Any, ...]]:
        """Lets the module be called with nothing but what holds tensors, in the order of the forward's parameters.

        The TorchScript exporter makes an input of every number, also of those that are defaults. Optimum changes the
        forward of a model for its exports in the same way.

        Yields:
            The arguments to call it with.
        """
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
            # The exporter takes a dict that stands last for keyword arguments.
            yield (*args, {}) if isinstance(args[-1], Mapping) else args
        finally:
            del model.__dict__["forward"]
            if replaced is not None:
                model.__dict__["forward"] = replaced

    def _places(self) -> Iterator[tuple[int | str, Any]]:
        """Where in the call each value with tensors stands, by its position or its keyword."""
        left = list(self.args)
        bound = self._bound()
        for name, value in bound.arguments.items():
            kind = bound.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                places: list[tuple[int | str, Any]] = list(value.items())
            else:
                start = len(self.args) - len(left)
                count = len(value) if kind is inspect.Parameter.VAR_POSITIONAL else int(name not in self.kwargs)
                places = list(enumerate(left[:count], start)) if count else [(name, value)]
                del left[:count]
            yield from ((place, each) for place, each in places if tensors_in(each))

    def _named(self) -> Iterator[tuple[str, Any]]:
        bound = self._bound()
        for name, value in bound.arguments.items():
            if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                yield from value.items()
            else:
                yield name, value

    def _bound(self) -> inspect.BoundArguments:
        return inspect.signature(self.model.forward).bind(*self.args, **self.kwargs)

    def results(self) -> Any:
        """What the module returns."""
        import torch

        with torch.no_grad():
            return self.model(*copied(self.args), **copied(self.kwargs))


def copied(value: Any) -> Any:
    """A copy, for a module that changes what it is given; the value itself where a tensor has a history."""
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
    if given is None:
        return known
    names = [given] if isinstance(given, str) else list(given)
    if len(names) > len(known) or len(set(names)) < len(names) or not all(names):
        advice = f"give at most {len(known)} different ones"
        raise HtpError(f"{len(names)} names for {len(known)} {kind}, {', '.join(map(repr, names))}: {advice}")
    return names + known[len(names) :]


def output_names_of(results: Any, given: Sequence[str] | None, task: str | None) -> list[str]:
    """The names of the graph's outputs, for what the module returned.

    Raises:
        HtpError: It returned no tensor, or there are more names than tensors, or one is there twice.
    """
    if isinstance(results, Mapping):
        known = []
        for name, value in results.items():
            count = len(tensors_in(value))
            known += [str(name)] if count == 1 else [f"{name}.{index}" for index in range(count)]
        return _names(given, known, "outputs")
    count = len(tensors_in(results))
    if not count:
        raise HtpError(f"the module returns no tensor but a {type(results).__name__}: nothing to export")
    known = [_only_output(task)] if count == 1 else [f"output_{index}" for index in range(count)]
    return _names(given, known, "outputs")


def _only_output(task: str | None) -> str:
    task = task or ""
    return "logits" if task.endswith("classification") else _OUTPUT_OF_TASK.get(task, "output")


def plain(results: Any) -> Any:
    """What a module returns, as a dict where it is an object of a data class, which no exporter takes."""
    if is_dataclass(results) and not isinstance(results, (type, Mapping)):
        return {each.name: getattr(results, each.name) for each in fields(results)}
    return results
