"""The trace as data, without references to modules."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from optimum_htp.hierarchy import CallTree, ModulePath, ModuleTree, NodeKey, Root
from optimum_htp.onnxfile import OnnxModel


@dataclass(frozen=True, slots=True)
class ModuleTrace:
    """What one export showed of the model."""

    calls: CallTree  # empty if the model did not run
    scopes: dict[str, int] = field(default_factory=dict)  # the number of the call that made a value, by name
    # The numbers of the calls that made a node, from the dynamo exporter: several where its optimizer made one of many,
    # none where it can't be told.
    made: dict[NodeKey, tuple[int, ...]] = field(default_factory=dict)
    scripted: bool = True  # whether `scopes` covers values created in scripted functions
    # Who holds a parameter or buffer, by its name in the root's state dict; and, where several modules do, all of them.
    tensors: dict[str, ModulePath] = field(default_factory=dict)
    holders: dict[str, tuple[ModulePath, ...]] = field(default_factory=dict)
    # The shapes of those that are got at through registered names alone: no closure, list or hook refers to them.
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def tree(self) -> ModuleTree:
        """The static module tree below the exported root."""
        return self.calls.tree


@dataclass(frozen=True, slots=True)
class ExportTrace:
    """One `torch.onnx.export` call: what it wrote, and what was recorded."""

    file: Path
    model: OnnxModel  # just after the export, before anything else changed it
    trace: ModuleTrace
    in_model: str | None = None  # as in `Root`

    @property
    def root(self) -> Root:
        """The exported module, with the calls of this export."""
        calls = self.trace.calls
        return Root(calls.tree, self.in_model, (calls,) if calls else ())
