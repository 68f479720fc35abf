"""What `functions` reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from optimum_htp.reports import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCall:
    """A node that calls a function, in the place of the nodes of one call of a module.

    Attributes:
        module: The tag of the module.
        path: Its dotted path.
        call: The index of the module's call; None where it ran once.
        graph: The path of the graph that the node is in; `""` is the main graph. As the file had it before.
        node: The name of the node.
    """

    module: str
    path: str
    call: int | None
    graph: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFunction:
    """A function that was made of modules that do the same.

    Attributes:
        file: The file, by its path in the package.
        domain: The domain of its identity: the Python module of the class.
        name: The name of its identity: the class.
        nodes: How many nodes it has, those of bodies included.
        inputs: How many tensors it is given, weights included.
        outputs: How many it returns.
        constants: How many of its inputs are constants that are not the same in all calls.
        calls: The nodes that call it.
    """

    file: str
    domain: str
    name: str
    nodes: int
    inputs: int
    outputs: int
    constants: int
    calls: tuple[FunctionCall, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoFunction:
    """A call of a module whose nodes stay as they are.

    Attributes:
        file: The file, by its path in the package.
        module: The tag of the module.
        path: Its dotted path.
        call: The index of the module's call; None where it ran once.
        graph: The path of the graph that its nodes are in.
        reason: Why.
    """

    file: str
    module: str
    path: str
    call: int | None
    graph: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FunctionsReport(Report):
    """What was written.

    Attributes:
        package: The package that was read.
        output: The directory or file that was written.
        nodes_before: How many nodes its files had, those of bodies and functions included.
        nodes: How many they have.
        functions: The functions, in the order of the files.
        left_out: The calls of modules whose nodes stay as they are.
    """

    package: str
    output: str
    nodes_before: int
    nodes: int
    functions: tuple[ModuleFunction, ...]
    left_out: tuple[NoFunction, ...]

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "package": self.package,
            "output": self.output,
            "nodes_before": self.nodes_before,
            "nodes": self.nodes,
            "functions": [{**asdict(each), "calls": [asdict(call) for call in each.calls]} for each in self.functions],
            "left_out": [asdict(each) for each in self.left_out],
        }
