"""What `ranges` reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optimum_htp.errors import PackageError
from optimum_htp.models import finite
from optimum_htp.reports import Report
from optimum_htp.selections import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRange:
    """The numbers of one tensor, of all samples together.

    Attributes:
        name: What it is called in the graph; of what a fused operator adds up inside, the name of its result.
        operator: The operator that makes it; of a weight, empty.
        kind: `"result"`, `"inside"` (a sum in a fused operator), `"constant"` or `"weight"`.
        type: Its element type.
        count: How many numbers it has.
        minimum: The smallest of the finite ones; None if there is none.
        maximum: The largest of those.
        mean: Their mean.
        zeros: How many are 0.
        nans: How many are NaN.
        infinite: How many are infinite.
        over: How many become infinite in float16; where that was asked about, of a tensor in float16, how many are.
        lost: How many that are not 0 become 0 in the type that was asked about.
        harmless: Whether it does no harm that they become infinite: as in a mask, which a Softmax makes 0 of in any case.
        largest_sum: The largest sum of any of the products that are added up to one number of it, in whatever order; None
            where nothing is added up, or that is not known.
        problem: Why the type can't hold it; None if it can.
    """

    name: str
    operator: str
    kind: str
    type: str
    count: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    zeros: int
    nans: int
    infinite: int
    over: int = 0
    lost: int = 0
    harmless: bool = False
    largest_sum: float | None = None
    problem: str | None = None

    @property
    def largest(self) -> float | None:
        """The largest magnitude of its finite numbers."""
        if self.minimum is None or self.maximum is None:
            return None
        return max(abs(self.minimum), abs(self.maximum))

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, which knows no infinity: null stands for that."""
        return {
            "name": self.name,
            "operator": self.operator,
            "kind": self.kind,
            "type": self.type,
            "count": self.count,
            "min": finite(self.minimum),
            "max": finite(self.maximum),
            "absmax": finite(self.largest),
            "mean": finite(self.mean),
            "zeros": self.zeros,
            "nans": self.nans,
            "infinite": self.infinite,
            "over": self.over,
            "lost": self.lost,
            "harmless": self.harmless,
            "largest_sum": finite(self.largest_sum),
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRanges:
    """What one call of a module makes itself, without the modules in it.

    Attributes:
        module: The module's tag.
        path: Its dotted path; `""` is the root.
        class_name: Its class.
        call: The index of the call, where the module ran more than once.
        known: Whether it is known that the nodes are this module's.
        result: What it hands on: the last of its tensors that others read; None where it makes no floating-point numbers.
        tensors: All that it makes, in order, and the weights and constants that it reads.
        made: The tensors that the type can't hold, and that it makes.
        read: Those that others make, and that it reads.
        nodes: How many nodes it has.
        place: The place in the graph of the first of its nodes that has to be left out; None if none has to be.
    """

    module: str
    path: str
    class_name: str
    call: int | None
    known: bool
    result: TensorRange | None
    tensors: tuple[TensorRange, ...]
    made: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    nodes: int = 0
    place: int | None = None

    @property
    def largest(self) -> TensorRange | None:
        """The tensor with the largest number, of those that it makes."""
        made = [
            tensor for tensor in self.tensors if tensor.kind in ("result", "inside") and tensor.largest is not None
        ]
        made = [tensor for tensor in made if not tensor.harmless] or made
        return max(made, key=lambda tensor: tensor.largest or 0.0, default=None)

    @property
    def problem(self) -> str | None:
        """Why the type can't hold what flows here; None if it can."""
        own = next((tensor.problem for tensor in self.tensors if tensor.problem is not None), None)
        if own is not None:
            return own
        return f"reads {self.read[0]}" if self.read else None

    @property
    def over(self) -> int:
        """How many of the numbers that it makes become infinite in float16, where that does harm."""
        return sum(tensor.over for tensor in self.tensors if not tensor.harmless and tensor.kind != "weight")

    @property
    def lost(self) -> float:
        """The largest share of a tensor that is lost."""
        return max((tensor.lost / tensor.count for tensor in self.tensors if tensor.count), default=0.0)

    @property
    def largest_sum(self) -> float | None:
        """The largest sum in it of any products, in whatever order."""
        return max((tensor.largest_sum for tensor in self.tensors if tensor.largest_sum is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "module": self.module,
            "path": self.path,
            "class": self.class_name,
            "call": self.call,
            "known": self.known,
            "problem": self.problem,
            "made": list(self.made),
            "read": list(self.read),
            "nodes": self.nodes,
            "result": None if self.result is None else self.result.name,
            "tensors": [tensor.to_dict() for tensor in self.tensors],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRanges:
    """What flows through a file in one of the phases that it is run in.

    Attributes:
        file: The file, by its path in the package.
        phase: `forward`, `prefill` or `decode`.
        samples: On how many samples it was run.
        inputs: The shapes of the inputs, of the first sample.
        calls: The module calls with nodes, in the order of the graph.
        unseen: How many nodes are in loops, branches and functions, whose tensors can't be seen.
        closed: How many nodes there are of each operator that works with numbers inside, which can't be seen.
        parts: In how many parts it was run, so that not all tensors are held at once.
        notes: What else there is to know.
    """

    file: str
    phase: str
    samples: int
    inputs: Mapping[str, tuple[int, ...]]
    calls: tuple[CallRanges, ...]
    unseen: int = 0
    closed: Mapping[str, int] = field(default_factory=dict)
    parts: int = 1
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The file, and the phase where there are several."""
        return self.file if self.phase == "forward" else f"{self.file}, {self.phase}"

    @property
    def problems(self) -> tuple[CallRanges, ...]:
        """The module calls that have to be left out of the type, the one in which it begins first."""
        calls = [call for call in self.calls if call.problem is not None]
        return tuple(sorted(calls, key=lambda call: (not call.made, call.place or 0)))

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "file": self.file,
            "phase": self.phase,
            "samples": self.samples,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "unseen": self.unseen,
            "closed": dict(self.closed),
            "parts": self.parts,
            "notes": list(self.notes),
            "calls": [call.to_dict() for call in self.calls],
        }


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RangesReport(Report):
    """The numbers that flow through the modules of a package.

    Attributes:
        package: The package.
        dtype: The type that the numbers were held against, `"fp16"` or `"int8"`; None if none.
        accumulate: What kernels are taken to add in.
        headroom: How many times larger than these numbers may be that have to fit.
        given: The .npz files that it was run on; empty for inputs that were made up.
        phases: The files, in each phase.
        not_run: The files that could not be run, and why.
        selection: The nodes that have to be left out, as `select` gives them; without files if there are none.
    """

    package: str
    dtype: str | None
    accumulate: str
    headroom: float
    given: tuple[str, ...]
    phases: tuple[PhaseRanges, ...]
    not_run: Mapping[str, str]
    selection: Selection

    @property
    def ok(self) -> bool:
        """Whether the type holds all that was seen; without a type, whether there is no NaN."""
        return not any(phase.problems for phase in self.phases)

    @property
    def modules(self) -> tuple[str, ...]:
        """The dotted paths of the modules that have to be left out."""
        return tuple(dict.fromkeys(call.path for phase in self.phases for call in phase.problems))

    def names_for(self, tool: str) -> list[str]:
        """The names of the nodes to leave out, as a tool takes them; empty if there are none.

        Args:
            tool: A format of `select` that is a list, such as `"ort-fp16"`.

        Raises:
            PackageError: There are nodes in several files, or the tool can't take any of them.
            HtpError: There is no such format, or no type was asked about.

        Example:
            >>> report = ranges("bert_onnx", dtype="fp16")                                    # doctest: +SKIP
            >>> OnnxModel(onnx.load("bert_onnx/model.onnx")).convert_float_to_float16(        # doctest: +SKIP
            ...     node_block_list=report.names_for("ort-fp16")
            ... )
        """
        if self.dtype is None:
            raise PackageError("no type was asked about, so nothing is to be left out: give dtype=")
        return self.selection.names_for(tool) if self.selection.files else []

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "package": self.package,
            "dtype": self.dtype,
            "accumulate": self.accumulate,
            "headroom": self.headroom,
            "given": list(self.given),
            "ok": self.ok,
            "modules": list(self.modules),
            "nodes": {file.name: file.names for file in self.selection.files},
            "phases": [phase.to_dict() for phase in self.phases],
            "not_run": dict(self.not_run),
        }
