"""What a trace says, as data that holds on to no module."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from optimum_htp.hierarchy import CallTree, ModulePath, ModuleTree, Root
from optimum_htp.onnxfile import OnnxModel


@dataclass(frozen=True, slots=True)
class ModuleTrace:
    """What one export showed of the model.

    Attributes:
        calls: Every call, in the order in which they began; none where the model did not run.
        scopes: The number of the call that made a value, by the value's name in the exported graph.
        scripted: Whether `scopes` covers values created in scripted functions.
        tensors: The module that holds a parameter or buffer, by the name in the root's state dict.
        holders: The modules that hold a tensor which several do, by each of its names.
    """

    calls: CallTree
    scopes: dict[str, int] = field(default_factory=dict)
    scripted: bool = True
    tensors: dict[str, ModulePath] = field(default_factory=dict)
    holders: dict[str, tuple[ModulePath, ...]] = field(default_factory=dict)

    @property
    def tree(self) -> ModuleTree:
        """The static module tree below the exported root."""
        return self.calls.tree


@dataclass(frozen=True, slots=True)
class ExportTrace:
    """One `torch.onnx.export` call: what it wrote where, and what was seen meanwhile.

    Attributes:
        file: The ONNX file that the exporter wrote.
        model: Its graph as it was just after the export, before anything else touched it.
        trace: The module trace.
        in_model: The dotted path of the root in the whole model, `""` for the model itself, None where it is not a
            submodule of it, or that is not known.
    """

    file: Path
    model: OnnxModel
    trace: ModuleTrace
    in_model: str | None = None

    @property
    def root(self) -> Root:
        """The exported module, with the calls of this export."""
        calls = self.trace.calls
        return Root(calls.tree, self.in_model, (calls,) if calls else ())
