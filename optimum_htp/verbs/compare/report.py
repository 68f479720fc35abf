"""The result of a comparison: what each module call adds itself, what its output shows, and who is to blame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from optimum_htp.models import Errors, finite, off_by
from optimum_htp.package import PythonLine
from optimum_htp.reports import Brief, Report, called, numbered

FOREIGN = "most modules differ, as if the weights were another model's: is the reference what this was made from?"
"""Why nobody is named where most modules are wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallComparison:
    """One call of a module, or the operations of one between the calls in it.

    Attributes:
        order: Its place in the order in which the calls ended.
        tag: The module's tag.
        path: Its dotted path.
        class_name: Its class.
        call: The 0-based index of the call; None if the module ran once.
        operations: Whether it is what the module does between the calls in it: residual additions, masks, reshapes.
        nodes: Nodes of the call, those of the calls in it included; of operations just these.
        tensors: The tensors of the graph that were compared.
        own: What it adds itself, with the reference's values at its inputs; None if unknown.
        errors: Those of what it returns in the running model, of the output that is farthest off; None for operations,
            and if it was not compared.
        over: Whether that is over the tolerance.
        evidence: How the tensors were found: by their `name`, by their `value`, or by their `shape` only; None if none was.
        skipped: Why it was not compared; None if it was.
        compared_as: The path of the module whose output this one's tensor was compared with, if that was folded into
            it: a BatchNorm after a convolution.
        python: The line of the model's code that the tensor comes from, where the file says it.
    """

    order: int
    tag: str
    path: str
    class_name: str
    call: int | None = None
    operations: bool = False
    nodes: int = 0
    tensors: tuple[str, ...] = ()
    own: Errors | None = None
    errors: Errors | None = None
    over: bool = False
    evidence: str | None = None
    skipped: str | None = None
    compared_as: str | None = None
    python: PythonLine | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called: its path and its tag, with the call behind it where the module ran more than once."""
        call = "" if self.call is None else f"@{self.call}"
        return f"{self.path}{call}", f"{self.tag}{call}"

    def identity(self) -> dict[str, Any]:
        """The part of its document that says which call it is."""
        return {
            "path": self.path,
            "class": self.class_name,
            "tag": self.tag,
            "call": self.call,
            "operations": self.operations,
            "order": self.order,
        }

    def to_dict(self) -> dict[str, Any]:
        """The document of it in that of the report."""
        return {
            **self.identity(),
            "nodes": self.nodes,
            "tensors": list(self.tensors),
            "own": self.own.to_dict() if self.own else None,
            "errors": self.errors.to_dict() if self.errors else None,
            "over": self.over,
            "evidence": self.evidence,
            "not_compared": self.skipped,
            "compared_as": self.compared_as,
            "python": self.python.to_dict() if self.python is not None else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprit:
    """A module whose work is wrong, or one of those that add most.

    Attributes:
        row: Its work: of several calls the one that adds most.
        expected_sqnr_db: The SQNR that its work has at least if it is sound, by what it computes with.
        output_error_without: How far off the worst output is, as the tolerance counts it, when its work is put right, in all its calls, and all else
            is as it is; None if that can't be run.
        output_sqnr_db_without: The same in dB, of all outputs together.
    """

    row: CallComparison
    expected_sqnr_db: float
    output_error_without: float | None
    output_sqnr_db_without: float | None

    @property
    def path(self) -> str:
        """The module's dotted path; "" for the root."""
        return self.row.path

    @property
    def own(self) -> Errors:
        """What it adds itself."""
        assert self.row.own is not None  # that is what it is named for
        return self.row.own

    def to_dict(self) -> dict[str, Any]:
        """The document of it in that of the report."""
        return {
            "path": self.row.path,
            "call": self.row.call,
            "operations": self.row.operations,
            "own_sqnr_db": finite(self.own.sqnr_db),
            "own_relative": finite(self.own.relative),
            "expected_sqnr_db": finite(self.expected_sqnr_db),
            "output_error_without": finite(self.output_error_without),
            "output_sqnr_db_without": finite(self.output_sqnr_db_without),
            "class": self.row.class_name,
            "tag": self.row.tag,
        }


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PartComparison(Brief):
    """One ONNX file, or one branch of a merged decoder.

    Attributes:
        file: The file's path in the package.
        branch: The branch of a merged decoder, `with past` or `without past`, or the phase that ran; else "".
        reference: What it was compared with.
        inputs: The shape of each input, of the first sample.
        samples: On how many inputs; 0 if it could not be run, for the `reason`.
        precision: What it or its reference computes with, the coarser: `float32`, `float16`, `bfloat16` or `int8`.
        tolerance: How far off outputs may be: by the largest difference over the largest value; of a quantized model by
            the noise over the signal.
        verdict: `agrees` (all is within the tolerance), `one` (one module is wrong), `several`, `spread` (each adds a
            little, as what it computes with does) or `unknown`.
        reason: Why it is unknown, or was not compared.
        culprits: The modules that are wrong, the one that explains most first.
        carriers: Of `spread`, those that add most.
        output_error_without_all: What is left of the error with the work of all culprits put right.
        calls: The module calls that have nodes, in the order in which they ended, each followed by its operations.
        outputs: The model's outputs.
        outputs_sqnr_db: The SQNR of all together.
        without_nodes: Module calls that have no nodes, such as dropout's.
        unknown_calls: Nodes of modules that ran more than once, of which nothing says which call they belong to.
        chunks: In how many runs the tensors were exposed.
        random: The operators of the graph that draw random numbers: tensors after them differ from run to run.
        notes: What else has to be known to read the result.
    """

    file: str
    branch: str = ""
    reference: str
    inputs: Mapping[str, tuple[int, ...]]
    samples: int = 1
    precision: str = "float32"
    tolerance: float
    verdict: str
    reason: str | None = None
    culprits: tuple[Culprit, ...] = ()
    carriers: tuple[Culprit, ...] = ()
    output_error_without_all: float | None = None
    calls: tuple[CallComparison, ...]
    outputs: Mapping[str, Errors]
    outputs_sqnr_db: float = float("inf")
    without_nodes: int = 0
    unknown_calls: int = 0
    chunks: int = 1
    random: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of_none(cls, file: str, reference: str, reason: str, *, branch: str = "") -> PartComparison:
        """That of a file that can't be compared."""
        return cls(
            file=file,
            branch=branch,
            reference=reference,
            inputs={},
            samples=0,
            precision="unknown",
            tolerance=0.0,
            verdict="unknown",
            reason=reason,
            calls=(),
            outputs={},
            outputs_sqnr_db=-inf,
        )

    def __getitem__(self, name: str) -> CallComparison:
        """The call of the module with a dotted path (`""` is the root) or a tag; where it ran more than once, `PATH@1`.

        Raises:
            UnknownNameError: There is none.
        """
        return called(name, ((call.names, self.label, call) for call in self.modules), what="module")

    @property
    def label(self) -> str:
        """The file, and its branch."""
        return f"{self.file} ({self.branch})" if self.branch else self.file

    @property
    def modules(self) -> tuple[CallComparison, ...]:
        """The calls without the rows of their operations."""
        return tuple(call for call in self.calls if not call.operations)

    @property
    def compared(self) -> int:
        """How many module calls were compared."""
        return sum(call.errors is not None for call in self.modules)

    @property
    def over(self) -> tuple[CallComparison, ...]:
        """The calls whose output is over the tolerance in the running model, whoever makes the error."""
        return tuple(call for call in self.calls if call.over)

    @property
    def culprit(self) -> CallComparison | None:
        """The work that explains most of the error; None if nobody is to blame, or it can't be told."""
        return self.culprits[0].row if self.culprits else None

    @property
    def output_error(self) -> float:
        """How far off the worst output is, as the tolerance counts it; 0 if there is none, infinite if the file was not run."""
        if not self.samples:
            return inf
        return max((off_by(errors, self.precision) for errors in self.outputs.values()), default=0.0)

    @property
    def skipped(self) -> dict[str, int]:
        """How many calls with nodes were not compared, by reason."""
        return dict(Counter(call.skipped for call in self.modules if call.skipped is not None).most_common())

    @property
    def looks_foreign(self) -> bool:
        """Whether most modules are wrong, as if the weights were another model's: nobody is named then."""
        return self.reason == FOREIGN

    @property
    def wrong(self) -> bool:
        """Whether it is known to be wrong: modules of it are, or what all add to the outputs is over the tolerance."""
        return self.verdict in ("one", "several") or (self.verdict == "spread" and self.output_error > self.tolerance)

    @property
    def ok(self) -> bool:
        """Whether nobody is to blame and the outputs are within the tolerance."""
        return self.verdict not in ("one", "several") and self.output_error <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """The document of it in that of the report."""
        return {
            "name": self.file,
            "branch": self.branch,
            "reference": self.reference,
            "verdict": self.verdict,
            "reason": self.reason,
            "ok": self.ok,
            "precision": self.precision,
            "tolerance": self.tolerance,
            "output_error": finite(self.output_error),
            "output_sqnr_db": finite(self.outputs_sqnr_db),
            "output_error_without_all": finite(self.output_error_without_all),
            "culprits": [culprit.to_dict() for culprit in self.culprits],
            "carriers": [culprit.to_dict() for culprit in self.carriers],
            "compared": self.compared,
            "not_compared": self.skipped,
            "calls_with_nodes": len(self.modules),
            "calls_without_nodes": self.without_nodes,
            "nodes_of_unknown_calls": self.unknown_calls,
            "looks_foreign": self.looks_foreign,
            "random": list(self.random),
            "notes": list(self.notes),
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "samples": self.samples,
            "outputs": {name: errors.to_dict() for name, errors in self.outputs.items()},
            "calls": [call.to_dict() for call in self.calls],
        }


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CompareReport(Report):
    """How far a package is from its reference, module by module.

    Attributes:
        package: The package.
        reference: The source model, or the package, that it was compared with.
        provider: ONNX Runtime's execution provider.
        parts: The files; a merged decoder and a model that generates twice, for each branch or phase.
        not_compared: The files that were not compared, and why.
        fingerprints: What each file that was compared is recognized by, whatever its name and its tags.
    """

    package: str
    reference: str
    provider: str
    parts: tuple[PartComparison, ...]
    not_compared: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """The files that were compared, by their path in the package."""
        return tuple(dict.fromkeys(part.file for part in self.parts if part.samples))

    @property
    def wrong(self) -> bool:
        """Whether a file is known to be wrong; where that can't be told, it is neither wrong nor ok."""
        return any(part.wrong for part in self.parts)

    @property
    def ok(self) -> bool:
        """Whether nobody is to blame and everything that was compared is within the tolerance."""
        return all(part.ok for part in self.parts)

    def __getitem__(self, name: str) -> CallComparison:
        """What `PartComparison` has of that name, of the one file that has it.

        Raises:
            UnknownNameError: There is none, or several parts have it.
        """
        return called(
            name,
            ((call.names, where, call) for where, part in numbered("parts", self.parts) for call in part.modules),
            what="module",
        )

    @property
    def coverage(self) -> float:
        """The share of module calls with nodes that were compared."""
        calls = sum(len(part.modules) for part in self.parts)
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
            "fingerprints": dict(self.fingerprints),
            "files": [part.to_dict() for part in self.parts],
        }
