"""What a trace says, as data that holds on to no module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from optimum_htp.hierarchy import ModulePath, ModuleTree, NodeKey, NodeTag
from optimum_htp.onnxfile import OnnxModel


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module during the trace.

    Attributes:
        path: Where the module is registered; of several names the one below its caller, else the first.
        index: 0-based, counted per module object over the whole trace, all aliases together.
        parent: The number of the call that it was made from, None for the root's.
    """

    path: ModulePath
    index: int
    parent: int | None


@dataclass(frozen=True, slots=True)
class ModuleTrace:
    """What one export showed of the model.

    Attributes:
        tree: The static module tree below the exported root.
        calls: Every call, in the order in which they began; a call's number is its position here.
        scopes: The number of the call that made a value, by the value's name in the exported graph.
        scripted: Whether the scopes tell of values that scripted functions made, too.
        tensors: The module that holds a parameter or buffer, by the name in the root's state dict.
        holders: For a tensor that several modules hold, all of them, by each of its names.
    """

    tree: ModuleTree
    calls: tuple[ModuleCall, ...] = ()
    scopes: dict[str, int] = field(default_factory=dict)
    scripted: bool = True
    tensors: dict[str, ModulePath] = field(default_factory=dict)
    holders: dict[str, tuple[ModulePath, ...]] = field(default_factory=dict)

    def ancestors(self, call: int) -> Iterator[int]:
        """The call itself and those that it was made from, innermost first."""
        number: int | None = call
        while number is not None:
            yield number
            number = self.calls[number].parent


@dataclass(slots=True)
class ExportTrace:
    """One `torch.onnx.export` call: what it wrote where, and what was seen meanwhile.

    Attributes:
        file: The ONNX file that the exporter wrote.
        model: Its graph as it was just after the export, before anything else touched it.
        trace: The module trace.
        root_in_model: The dotted path of the root in the whole model, `""` for the model itself, None where it is no
            submodule of it or there is no telling.
        tags: The tags of the graph, once somebody has decided them.
    """

    file: Path
    model: OnnxModel
    trace: ModuleTrace
    root_in_model: str | None = None
    tags: dict[NodeKey, NodeTag] = field(default_factory=dict)
