"""What `explain` reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from optimum_htp.onnxfile import Value, element_type
from optimum_htp.reports import Report


@dataclass(frozen=True, slots=True)
class Advice:
    """What is known of an error.

    Attributes:
        problem: What it means.
        advice: What to try next.
    """

    problem: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A name of the text, and the module that it belongs to.

    Attributes:
        text: What stands in the text.
        name: The name in the file that it is, or was made from.
        kind: `"node"`, `"tensor"`, `"initializer"`, `"input"`, `"output"` or `"module"`.
        evidence: How the name was found: `"name"` (it is in the file), `"part"` (something follows it: what a tool added, a parameter of a module) or
            `"projection"` (ONNX Runtime's optimizer made the node; the module is that of the nodes it was made from).
        file: The file, by its path in the package.
        graph: The path of the graph; `""` is the main graph.
        tag: The tag of the module that the node belongs to, or the node that makes the tensor, or, of an initializer
            and an input, those that read it: their common ancestor; None where that is not known.
        path: The module's dotted path; None as `tag`.
        class_name: Its class.
        call: The index of its call; None where it ran once or that is not known.
        origins: The tags of all modules, where a node was fused from several.
        node: The name of the node; None where none is meant.
        operator: What the node does.
        inputs: What the node takes, with types and shapes as far as they are known.
        outputs: What it gives.
        parameters: The weights that the node reads, by their PyTorch names where these are known.
    """

    text: str
    name: str
    kind: str
    evidence: str
    file: str
    graph: str = ""
    tag: str | None = None
    path: str | None = None
    class_name: str | None = None
    call: int | None = None
    origins: tuple[str, ...] = ()
    node: str | None = None
    operator: str | None = None
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExplainReport(Report):
    """What a text is about.

    Attributes:
        package: The package.
        names: The names in the text that are those of the package, in the order of the text.
        advice: What is known of the error, where the text has one that people meet often.
    """

    package: str
    names: tuple[Explained, ...]
    advice: tuple[Advice, ...]

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "package": self.package,
            "names": [
                asdict(each) | {"inputs": _documents(each.inputs), "outputs": _documents(each.outputs)}
                for each in self.names
            ],
            "advice": [asdict(each) for each in self.advice],
        }


def _documents(values: tuple[Value, ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": value.name,
            "type": element_type(value.elem_type).name,
            "shape": None if value.shape is None else list(value.shape),
        }
        for value in values
    ]
