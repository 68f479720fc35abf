"""Which module of a model a graph is an export of: the one with the weights and scopes that the graph names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import ModuleTree
from optimum_htp.models.torch_source import tensor_shapes
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.tagging import ModuleTrace, ScopeFit, Statements, fit_scopes, parameter_name, statements, static_trace

if TYPE_CHECKING:
    import torch


_MIN_EXPLAINED = 0.9  # the share of the weights that a graph names which a model must have to be its source


@dataclass(frozen=True, slots=True)
class ExportedRoot:
    """A module that a file may be an export of."""

    trace: ModuleTrace  # what it shows without running
    in_model: str  # its dotted path in the whole model
    explained: int  # how many of the weights that the graph names are its own, by name and shape, or by value
    contradicted: int  # how many are its own by name, but of another shape
    coverage: float  # the share of its own weights that the graph names
    fit: ScopeFit  # how well it explains the scopes in the nodes' names
    spoken_for: int  # the nodes whose metadata, torch's own, names a module of it
    strangers: int  # the nodes whose metadata names another

    @property
    def rank(self) -> tuple[int, int, int]:
        """The more of it there is in the graph, the likelier it is."""
        return self.spoken_for, self.explained, -self.fit.unread


def choose_root(
    model: OnnxModel, candidates: Iterable[torch.nn.Module], *, distinct: Mapping[tuple[str, str], str] | None = None
) -> tuple[ExportedRoot | None, torch.nn.Module]:
    """The module that a graph is an export of, None if there is none or it is ambiguous; and the likeliest whole model.

    It is the first candidate with all weights that the graph names and a module for every scope, else the one with most.
    `distinct` says, for the one candidate that it is about, what the values of weights are (`distinct_parameters`).
    """
    distinct = distinct or {}
    named, held = _known_weights(model, distinct)
    said = statements(model)
    best: ExportedRoot | None = None
    whole: torch.nn.Module | None = None
    for candidate in candidates:
        whole = candidate if whole is None else whole
        root = _best_part(model, candidate, named, held, said)
        if root is None:
            continue
        if best is None or root.rank > best.rank:
            best = root
        is_all_its_own = best.explained == len(named) + len(held) and not best.fit.unread
        if (is_all_its_own or best.spoken_for) and not best.strangers:
            break
    if whole is None:
        raise PackageError(f"{model.path}: its config describes no model that can be made; give --model MODEL")
    return best if best is not None and _is_export_of(model, best, len(named) + len(held)) else None, whole


def _is_export_of(model: OnnxModel, root: ExportedRoot, named: int) -> bool:
    """Whether a module has the weights that a graph names, and can explain the scopes where a tool renamed them."""
    if root.explained < _MIN_EXPLAINED * (root.explained + root.contradicted):
        return False
    if (
        root.spoken_for or root.strangers
    ):  # each by all classes on the way, so the others name none of the model's code
        return root.spoken_for > root.strangers
    if named and root.explained >= _MIN_EXPLAINED * named:
        return True
    if root.fit.scopes:
        return not root.fit.unread and (root.explained > 0 or not named)
    return not named


def _known_weights(
    model: OnnxModel, distinct: Mapping[tuple[str, str], str]
) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """The names in a graph that may be those of parameters and buffers, with their shapes; and what values alone tell.

    A name that goes with the value says more than that: of which module's state dict it is.
    """
    named: dict[str, tuple[int, ...]] = {}
    held: set[str] = set()
    for path, graph in model.graphs():
        for tensor in graph.initializers:
            name, known = parameter_name(tensor.name), distinct.get((path, tensor.name))
            if known is not None and not f".{known}".endswith(f".{name}"):
                held.add(known)
            elif "::" not in name and "/" not in name and not name.isdecimal():
                named[name] = tensor.dims
    return named, held


def _best_part(
    model: OnnxModel,
    whole: torch.nn.Module,
    named: Mapping[str, tuple[int, ...]],
    held: Collection[str],
    said: Statements,
) -> ExportedRoot | None:
    """The part of a model, or all of it, that explains most of a graph; None if it is ambiguous.

    The graph has weights with the names `named`, and such as have the values of the whole model's tensors `held`.
    """
    shapes = tensor_shapes(whole)
    explained: Counter[str] = Counter()
    for name, shape in shapes.items():
        parts = name.split(".")
        for length in range(len(parts)):
            if named.get(".".join(parts[length:])) == shape:
                explained[".".join(parts[:length])] += 1
    for parts in (name.split(".") for name in held):
        explained.update(".".join(parts[:length]) for length in range(len(parts)))
    most = max(explained.values(), default=0)
    places = [place for place, count in explained.items() if count == most] or [""]
    roots = [_root(model, whole, place, named, held, said, shapes) for place in places]
    roots.sort(key=lambda root: (root.fit.unread, bool(root.in_model), -root.coverage))
    first = roots[0]
    rank = (first.fit.unread, first.coverage)
    rivals = [root for root in roots[1:] if first.in_model and (root.fit.unread, root.coverage) == rank]
    same = all(_spelled(root.trace.tree) == _spelled(first.trace.tree) for root in rivals)
    return first if same else None


def _root(
    model: OnnxModel,
    whole: torch.nn.Module,
    place: str,
    named: Mapping[str, tuple[int, ...]],
    held: Collection[str],
    said: Statements,
    shapes: Mapping[str, tuple[int, ...]],
) -> ExportedRoot:
    own = {name: shapes.get(f"{place}.{name}" if place else name) for name in named}
    explained = sum(own[name] == shape for name, shape in named.items())
    explained += sum(not place or name.startswith(f"{place}.") for name in held)
    contradicted = sum(own[name] not in (None, shape) for name, shape in named.items())
    trace = static_trace(whole.get_submodule(place))
    coverage = explained / max(len(trace.tensors), 1)
    doubts = [one.path(trace.tree) is None for one in said.made.values()]
    fit = fit_scopes(model, trace)
    return ExportedRoot(trace, place, explained, contradicted, coverage, fit, doubts.count(False), doubts.count(True))


def _spelled(tree: ModuleTree) -> list[str]:
    return [tree.tag(module.path) for module in tree]
