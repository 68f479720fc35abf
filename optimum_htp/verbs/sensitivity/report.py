"""What `sensitivity` reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import tag_module_path
from optimum_htp.reports import Brief, Report
from optimum_htp.selections import FileSelection, Selection
from optimum_htp.verbs.sensitivity.budget import Budget
from optimum_htp.verbs.sensitivity.judging import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSensitivity:
    """What quantizing one module costs.

    Attributes:
        module: The module's tag; of nodes whose module is not known, the root's.
        path: Its dotted path; `""` is the root.
        class_name: Its class.
        nodes: How many nodes of its own are quantized.
        weight_bytes: How much the weights of these take in float32.
        alone: What the model is like if only this module is quantized.
        weights: The same, if only its weights are; None where there are none, or nothing else.
        activations: The same, if only its activations are; None where they are not.
        left: What the model is like if all is quantized but this module and those above it in the list.
    """

    module: str
    path: str
    class_name: str
    nodes: int
    weight_bytes: int
    alone: Figures
    weights: Figures | None
    activations: Figures | None
    left: Figures

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "module": self.module,
            "path": self.path,
            "class": self.class_name,
            "nodes": self.nodes,
            "weight_bytes": self.weight_bytes,
            "alone": self.alone.to_dict(),
            "weights": self.weights.to_dict() if self.weights is not None else None,
            "activations": self.activations.to_dict() if self.activations is not None else None,
            "left": self.left.to_dict(),
        }


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FileSensitivity(Brief):
    """What quantizing the modules of one file costs.

    Attributes:
        file: The file's path in the package.
        into: What they are quantized into: `"int8"`, `"int4"` or `"float16"`.
        quantized: What the model is like if all of them are.
        modules: The modules, the worst first.
        left_out: How many of these, from the first on, are left in float32 for the budget; None without one, or where it
            can't be met.
        figures: What the model is like then: of the file that was written, else predicted. Where the budget can't be met,
            what it is like with as much left in float32 as can be.
        problem: Why the budget can't be met; None if it can.
        samples: The shape of each input, for each sample.
        seeded: Whether the inputs are random numbers that were made for want of others.
        selection: The nodes that are left in float32.
    """

    file: str
    into: str
    quantized: Figures
    modules: tuple[ModuleSensitivity, ...]
    left_out: int | None
    figures: Figures | None
    problem: str | None
    samples: tuple[Mapping[str, tuple[int, ...]], ...]
    seeded: bool
    selection: FileSelection | None = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "into": self.into,
            "quantized": self.quantized.to_dict(),
            "left_out": None if self.left_out is None else [each.path for each in self.modules[: self.left_out]],
            "figures": self.figures.to_dict() if self.figures is not None else None,
            "problem": self.problem,
            "samples": [{name: list(shape) for name, shape in sample.items()} for sample in self.samples],
            "seeded": self.seeded,
            "modules": [each.to_dict() for each in self.modules],
        }


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SensitivityReport(Report):
    """Which modules of a package quantization hurts, and which to leave in float32.

    Attributes:
        package: The package that was read.
        output: The directory or file that was written; None if nothing was.
        mode: How it is quantized: `"dynamic"`, `"static"`, `"int4"` or `"fp16"`.
        metric: The metric that the modules are sorted by.
        budget: The figure that was asked for; None if there was none.
        files: What it costs, for each file that can be quantized.
        skipped: Why others are left as they are, by their path in the package.
    """

    package: str
    output: str | None
    mode: str
    metric: str
    budget: Budget | None
    files: tuple[FileSensitivity, ...]
    skipped: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether the budget is met in all files, or there is none."""
        return all(file.problem is None for file in self.files)

    @property
    def selection(self) -> Selection:
        """The nodes that are left in float32, as `select` gives them, in the files that have any."""
        files = tuple(file.selection for file in self.files if file.selection is not None and file.selection.nodes)
        patterns = dict.fromkeys(tag_module_path(tag) for file in files for tag in file.modules)
        return Selection(self.package, tuple(patterns), files)

    def names_for(self, tool: str) -> list[str]:
        """The names of the nodes that are left in float32, as a tool takes them: `Selection.names_for`.

        Raises:
            PackageError: There are such nodes in several files, the budget can't be met, or the tool can't take the nodes.
            HtpError: There is no such format.
        """
        problems = "; ".join(file.problem for file in self.files if file.problem is not None)
        if problems:
            raise PackageError(f"{self.package}: the budget can't be met: {problems}")
        selection = self.selection
        return selection.names_for(tool) if selection.files else []

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "package": self.package,
            "output": self.output,
            "mode": self.mode,
            "metric": self.metric,
            "budget": self.budget.to_dict() if self.budget is not None else None,
            "ok": self.ok,
            "files": {file.file: file.to_dict() for file in self.files},
            "skipped": dict(self.skipped),
        }
