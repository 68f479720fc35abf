"""What `extract` reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from optimum_htp.onnxfile import Value, element_type
from optimum_htp.reports import Report


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExtractReport(Report):
    """What was cut out, and where it is.

    Attributes:
        package: The package.
        file: The file of it that the module was cut out of.
        graph: The path of the graph in that file; `""` is the main graph.
        modules: The dotted paths of the modules: one, or those of a range or a container.
        call: The index of the modules' call; None where they ran once.
        output: The ONNX file that was written.
        files: All files that were written.
        nodes: How many nodes are the module's own.
        constants: How many constant nodes were copied along.
        shared: What identifies the nodes of others that were copied along: shape computations that modules share, and
            what is between the layers of a range.
        folded: The dotted paths of batch norms next to the module's convolutions that have no nodes: exporters fold them
            into the convolution, which then gives what the batch norm gives.
        inputs: The model's inputs: names, element types (ONNX's numbers) and shapes.
        outputs: Its outputs.
        initializers: How many initializers it has.
        weight_bytes: Their size.
        external_data: Whether they are in a file of their own, as in the package.
        not_loaded: Why ONNX Runtime can't load the file, where it can't load the one that it was cut out of either (an
            operator or a provider is missing); None where it can, which is tried before the file is there.
    """

    package: str
    file: str
    graph: str
    modules: tuple[str, ...]
    call: int | None
    output: str
    files: tuple[str, ...]
    nodes: int
    constants: int
    shared: tuple[str, ...]
    folded: tuple[str, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    initializers: int
    weight_bytes: int
    external_data: bool
    not_loaded: str | None

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints, with element types by name."""
        return {**asdict(self), "inputs": _documents(self.inputs), "outputs": _documents(self.outputs)}


def _documents(values: tuple[Value, ...]) -> list[dict[str, Any]]:
    return [{"name": value.name, "type": element_type(value.elem_type).name, "shape": value.shape} for value in values]
