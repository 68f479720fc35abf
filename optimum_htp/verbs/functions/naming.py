"""What things are called in a function: what they are called in the module, without where that is in the model.

`/encoder/layer.0/attention/self/query/MatMul` of `encoder.layer.0` is `attention/self/query/MatMul`, its bias
`attention.self.query.bias`. A weight whose name says nothing is called after the module that reads it, and what a module is
given `input`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from urllib.parse import unquote

from optimum_htp.hierarchy import NodeTag, split_tag, tag_module_path
from optimum_htp.onnxfile import DraftGraph, DraftNode

LOCAL = "local"
"""The domain of functions whose class is of no known Python module."""

# The input that is the weight, by the operator.
_WEIGHTS = {"Conv": 1, "ConvTranspose": 1, "Gather": 0, "Gemm": 1, "MatMul": 1}


def domain_of(qualified_class: str, class_name: str) -> str:
    """The domain of a function for a class: the Python module that it is in.

    >>> domain_of("transformers.models.bert.modeling_bert.BertLayer", "BertLayer"), domain_of("Net", "Net")
    ('transformers.models.bert.modeling_bert', 'local')
    """
    return qualified_class.removesuffix(class_name).rstrip(".") or LOCAL


def distinct(name: str, taken: Collection[str]) -> str:
    """The name, with a number behind it where that is taken.

    >>> distinct("a", {"a", "a_2"}), distinct("b", {"a"})
    ('a_3', 'b')
    """
    number = 2
    wanted = name
    while wanted in taken:
        wanted, number = f"{name}_{number}", number + 1
    return wanted


class NamesInside:
    """The names that nodes and tensors have in a function.

    Attributes:
        tensors: The new names, by those that the nodes have for them.
        nodes: The new names of the nodes, in their order.
    """

    def __init__(self, tag: str, nodes: Sequence[DraftNode], tags: Mapping[DraftNode, NodeTag]) -> None:
        self.tensors: dict[str, str] = {}
        names = [unquote(segment.partition(".")[2]) for segment in split_tag(tag)[1:]]
        self._scope = "".join(f"/{name}" for name in names) + "/"
        self._path = tag_module_path(tag)
        self._tags = tags
        self._taken = set(_defined_inside(nodes))  # names in bodies stay
        taken: set[str] = set()
        self.nodes = []
        for draft in nodes:
            name = distinct(self._inside(draft.node.name), taken) if draft.node.name else ""
            taken.add(name)
            self.nodes.append(name)

    def add_inputs(self, given: Iterable[tuple[str, DraftNode, int]], stored: Collection[str]) -> None:
        """Names what comes in, by the first node that reads it and the place of the input there; what is `stored` is a weight."""
        for name, reader, place in given:
            inside = self._inside(name)
            if inside != name:
                self._name(name, inside)
            elif name in stored:
                self._name(name, self._weight(reader, place))
            else:
                self._name(name, "input")

    def add_made(self, nodes: Iterable[DraftNode]) -> None:
        """Names what nodes make."""
        for name in (name for draft in nodes for name in draft.node.outputs if name):
            self._name(name, self._inside(name))

    def _name(self, name: str, wanted: str) -> None:
        self.tensors[name] = distinct(wanted, self._taken)
        self._taken.add(self.tensors[name])

    def _inside(self, name: str) -> str:
        if self._path:
            for above in (self._scope, f"{self._path}."):
                if name.startswith(above) and len(name) > len(above):
                    return name[len(above) :]
        return name

    def _weight(self, reader: DraftNode, place: int) -> str:
        tag = self._tags.get(reader)
        path = tag_module_path(tag.tag).removeprefix(self._path).strip(".") if tag is not None else ""
        operator = reader.node.op_type
        name = "weight" if _WEIGHTS.get(operator) == place else f"{operator}_{place}"
        return f"{path}.{name}" if path else name


def _defined_inside(nodes: Iterable[DraftNode]) -> Iterable[str]:
    stack: list[DraftGraph] = [body for draft in nodes for _, body in draft.bodies]
    while stack:
        body = stack.pop()
        yield from body.defined
        stack += [inner for draft in body.nodes for _, inner in draft.bodies]
