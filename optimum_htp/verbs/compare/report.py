"""The result of a comparison: how far each module call is from its reference, and which makes the first error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optimum_htp.models import Errors

# So many modules that are off by themselves, by more than this, look like weights of another model.
_MANY, _FAR = 3, 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class CallComparison:
    """One call of a module.

    Attributes:
        order: Its place in the order in which the calls ended.
        tag: The module's tag.
        path: Its dotted path.
        class_name: Its class.
        call: The 0-based index of the call; None if the module ran once.
        nodes: Nodes of the call, those of the calls in it included.
        tensors: The tensors of the graph that were compared, in the order of the module's outputs.
        outputs: How many floating-point tensors the module returned.
        errors: Those of the output that is farthest off; None if it was not compared.
        over: Whether that is over the tolerance.
        skipped: Why it was not compared; None if it was.
        compared_as: The path of the module whose output this one's tensor was compared with, if that was folded into
            it: a BatchNorm after a convolution.
    """

    order: int
    tag: str
    path: str
    class_name: str
    call: int | None = None
    nodes: int = 0
    tensors: tuple[str, ...] = ()
    outputs: int = 0
    errors: Errors | None = None
    over: bool = False
    skipped: str | None = None
    compared_as: str | None = None

    def identity(self) -> dict[str, Any]:
        """The part of its document that says which call it is."""
        return {"path": self.path, "class": self.class_name, "tag": self.tag, "call": self.call, "order": self.order}

    def to_dict(self) -> dict[str, Any]:
        """The document of it in that of the report."""
        return {
            **self.identity(),
            "nodes": self.nodes,
            "tensors": list(self.tensors),
            "outputs": self.outputs,
            "errors": self.errors.to_dict() if self.errors else None,
            "over": self.over,
            "not_compared": self.skipped,
            "compared_as": self.compared_as,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolated:
    """The error that a module adds itself, apart from what it inherits: it was run on the reference's tensors.

    These replace what the modules before it and the modules in it returned, so that of a module that contains others
    only what it does itself is left.

    Attributes:
        call: The module call.
        added: The error on the reference's tensors, that of the operations `between` included.
        alone: The error on just what the reference's module was given, so without these; None if there are none
            between, or if what it was given is unknown.
        source: The call whose own operations make the error: this one, or the one that those before it belong to; None
            if nothing is over the tolerance, or if it is unknown.
        fed: The tensors that were replaced by the reference's.
        between: Modules around or before it whose operations lie between those tensors and the module, and so are part
            of the error: a residual connection's, say.
        not_fed: How many tensors that it depends on no module returned: they are computed from the model's inputs.
    """

    call: CallComparison
    added: Errors
    alone: Errors | None = None
    source: CallComparison | None = None
    fed: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    not_fed: int = 0

    @property
    def over(self) -> bool:
        """Whether the module itself adds more than the tolerance."""
        return self.source is self.call

    def to_dict(self) -> dict[str, Any]:
        """The document of it in that of the report."""
        return {
            **self.call.identity(),
            "added": self.added.to_dict(),
            "alone": self.alone.to_dict() if self.alone else None,
            "over": self.over,
            "source": self.source.identity() if self.source else None,
            "fed": list(self.fed),
            "between": list(self.between),
            "not_fed": self.not_fed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PartComparison:
    """One ONNX file, or one branch of a merged decoder.

    Attributes:
        file: The file's path in the package.
        branch: The branch of a merged decoder, `with past` or `without past`, or the phase that ran; else "".
        reference: What it was compared with.
        inputs: The shape of each input.
        tolerance: What the relative error may be.
        calls: The module calls that have nodes, in the order in which they ended.
        outputs: The model's outputs.
        isolated: The first calls over the tolerance, run on the reference's tensors.
        without_nodes: Module calls that have no nodes, such as dropout's.
        unknown_calls: Nodes of modules that ran more than once, of which nothing says which call they belong to.
        chunks: In how many runs the tensors were exposed.
        random: The operators of the graph that draw random numbers: tensors after them differ from run to run.
    """

    file: str
    branch: str = ""
    reference: str
    inputs: Mapping[str, tuple[int, ...]]
    tolerance: float
    calls: tuple[CallComparison, ...]
    outputs: Mapping[str, Errors]
    isolated: tuple[Isolated, ...] = ()
    without_nodes: int = 0
    unknown_calls: int = 0
    chunks: int = 1
    random: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The file, and its branch."""
        return f"{self.file} ({self.branch})" if self.branch else self.file

    @property
    def compared(self) -> int:
        """How many module calls were compared."""
        return sum(call.errors is not None for call in self.calls)

    @property
    def over(self) -> tuple[CallComparison, ...]:
        """The calls over the tolerance."""
        return tuple(call for call in self.calls if call.over)

    @property
    def first_over(self) -> CallComparison | None:
        """The first call over the tolerance."""
        return next(iter(self.over), None)

    @property
    def culprit(self) -> CallComparison | None:
        """The call that makes the first error: the first over the tolerance, or that of the operations before it."""
        first = self.first_over
        isolated = self.isolated_call(first)
        return first if isolated is None or isolated.source is None else isolated.source

    def isolated_call(self, call: CallComparison | None) -> Isolated | None:
        """A call, run on the reference's tensors; None if it was not."""
        return next((isolated for isolated in self.isolated if isolated.call is call), None)

    @property
    def skipped(self) -> dict[str, int]:
        """How many calls with nodes were not compared, by reason."""
        return dict(Counter(call.skipped for call in self.calls if call.skipped is not None).most_common())

    @property
    def looks_foreign(self) -> bool:
        """Whether so many of the first modules are far off by themselves that the weights may be another model's."""
        own = [isolated for isolated in self.isolated if isolated.over]
        far = {isolated.call.path for isolated in own if (isolated.alone or isolated.added).relative > _FAR}
        return len(far) >= _MANY

    @property
    def ok(self) -> bool:
        """Whether all modules and outputs are within the tolerance."""
        return not self.over and all(errors.relative <= self.tolerance for errors in self.outputs.values())

    def to_dict(self) -> dict[str, Any]:
        """The document of it in that of the report."""
        return {
            "file": self.file,
            "branch": self.branch,
            "reference": self.reference,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "tolerance": self.tolerance,
            "ok": self.ok,
            "compared": self.compared,
            "calls_with_nodes": len(self.calls),
            "calls_without_nodes": self.without_nodes,
            "nodes_of_unknown_calls": self.unknown_calls,
            "not_compared": self.skipped,
            "looks_foreign": self.looks_foreign,
            "random": list(self.random),
            "first_over": self.first_over.identity() if self.first_over else None,
            "culprit": self.culprit.identity() if self.culprit else None,
            "isolated": [isolated.to_dict() for isolated in self.isolated],
            "outputs": {name: errors.to_dict() for name, errors in self.outputs.items()},
            "calls": [call.to_dict() for call in self.calls],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareReport:
    """How far a package is from its reference, module by module.

    Attributes:
        package: The package.
        reference: The source model, or the package, that it was compared with.
        provider: ONNX Runtime's execution provider.
        parts: The files; a merged decoder and a model that generates twice, for each branch or phase.
        not_compared: The files that were not compared, and why.
    """

    package: str
    reference: str
    provider: str
    parts: tuple[PartComparison, ...]
    not_compared: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """The files that were compared, by their path in the package."""
        return tuple(dict.fromkeys(part.file for part in self.parts))

    @property
    def ok(self) -> bool:
        """Whether everything that was compared is within the tolerance."""
        return all(part.ok for part in self.parts)

    @property
    def coverage(self) -> float:
        """The share of module calls with nodes that were compared."""
        calls = sum(len(part.calls) for part in self.parts)
        return sum(part.compared for part in self.parts) / calls if calls else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints; what is infinite is null."""
        return {
            "package": self.package,
            "reference": self.reference,
            "provider": self.provider,
            "ok": self.ok,
            "coverage": self.coverage,
            "not_compared": dict(self.not_compared),
            "parts": [part.to_dict() for part in self.parts],
        }
