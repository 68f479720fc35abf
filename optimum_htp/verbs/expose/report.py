"""What `expose` reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from optimum_htp.onnxfile import Value, element_type
from optimum_htp.reports import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposedTensor:
    """A tensor that is an output of a graph now.

    Attributes:
        file: The file, by its path in the package.
        module: The tag of the module whose result it is.
        path: The module's dotted path; `""` is the root.
        call: The index of the module's call; None where it ran once.
        output: The name, the type (ONNX's number) and the shape of the output.
        tensors: What it is called in each graph that makes it, by the graph's path; `""` is the main graph.
        added: Whether the output is new; false where the model returned the tensor before.
    """

    file: str
    module: str
    path: str
    call: int | None
    output: Value
    tensors: Mapping[str, str]
    added: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class NotExposed:
    """A module of which nothing is an output.

    Attributes:
        file: The file, by its path in the package.
        module: The module's tag.
        path: Its dotted path.
        call: The index of its call; None where it ran once.
        reason: Why.
    """

    file: str
    module: str
    path: str
    call: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExposeReport(Report):
    """What was written.

    Attributes:
        package: The package that was read.
        output: The directory or file that was written.
        tensors: What is an output now, in the order of the files and their modules.
        left_out: The modules of which nothing is, which happens only where a pattern selects others too.
    """

    package: str
    output: str
    tensors: tuple[ExposedTensor, ...]
    left_out: tuple[NotExposed, ...]

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "package": self.package,
            "output": self.output,
            "tensors": [
                {
                    **asdict(tensor),
                    "tensors": dict(tensor.tensors),
                    "output": {
                        "name": tensor.output.name,
                        "type": element_type(tensor.output.elem_type).name,
                        "shape": None if tensor.output.shape is None else list(tensor.output.shape),
                    },
                }
                for tensor in self.tensors
            ],
            "left_out": [asdict(each) for each in self.left_out],
        }
