"""What things are called in a function: what they are called in the module, without where that is in the model.

`/encoder/layer.0/attention/self/query/MatMul` of `encoder.layer.0` is `attention/self/query/MatMul`, its bias
`attention.self.query.bias`. A name that does not say where it is, such as `Constant_88`, would be that of one call alone: a
node is called after its module and operator then, a weight after the module that reads it, and what a module is given
`input`. No name is one that the model has elsewhere, as tools make new names of old ones, and are understood by that.
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

    def __init__(
        self, tag: str, nodes: Sequence[DraftNode], tags: Mapping[DraftNode, NodeTag], *, known: Collection[str]
    ) -> None:
        """`known` are all names of the model."""
        self.tensors: dict[str, str] = {}
        names = [unquote(segment.partition(".")[2]) for segment in split_tag(tag)[1:]]
        self._scope = "".join(f"/{name}" for name in names) + "/"
        self._path = tag_module_path(tag)
        self._tags = tags
        self._known = known
        self._taken = set(_defined_inside(nodes))  # names in bodies stay
        self._drafts = nodes
        taken: set[str] = set()
        self.nodes: list[str] = []
        for draft in nodes:
            path = self._path_inside(draft).replace(".", "/")
            wanted = self._inside(draft.node.name) or (f"{path}/" if path else "") + draft.node.op_type
            self.nodes.append(self._distinct(wanted, taken))

    def add_inputs(self, given: Iterable[tuple[str, DraftNode, int]], stored: Collection[str]) -> None:
        """Names what comes in, by the first node that reads it and the place of the input there; what is `stored` is a weight."""
        for name, reader, place in given:
            weight = self._weight(reader, place) if name in stored else "input"
            self.tensors[name] = self._distinct(self._inside(name) or weight, self._taken)

    def add_made(self) -> None:
        """Names what the nodes make."""
        for draft, node in zip(self._drafts, self.nodes, strict=True):
            for place, name in enumerate(draft.node.outputs):
                if name:
                    wanted = self._inside(name) or f"{node}_output_{place}"
                    self.tensors[name] = self._distinct(wanted, self._taken)

    def _distinct(self, wanted: str, taken: set[str]) -> str:
        """A name that is not taken, and is taken then."""
        name = wanted if wanted not in self._known else f"inside/{wanted}"
        number = 2
        while name in taken:
            name, number = f"{wanted}_{number}", number + 1
        taken.add(name)
        return name

    def _inside(self, name: str) -> str:
        """A name without where its module is; empty where it does not say that it is in it."""
        if self._path:
            for above in (self._scope, f"{self._path}."):
                if name.startswith(above) and len(name) > len(above):
                    return name[len(above) :]
        return ""

    def _path_inside(self, draft: DraftNode) -> str:
        """The dotted path from the module to that of a node."""
        tag = self._tags.get(draft)
        path = tag_module_path(tag.tag) if tag is not None else ""
        return path[len(self._path) :].strip(".") if path.startswith(self._path) else ""

    def _weight(self, reader: DraftNode, place: int) -> str:
        path = self._path_inside(reader)
        operator = reader.node.op_type
        name = "weight" if _WEIGHTS.get(operator) == place else f"{operator}_{place}"
        return f"{path}.{name}" if path else name


def _defined_inside(nodes: Iterable[DraftNode]) -> Iterable[str]:
    stack: list[DraftGraph] = [body for draft in nodes for _, body in draft.bodies]
    while stack:
        body = stack.pop()
        yield from body.defined
        stack += [inner for draft in body.nodes for _, inner in draft.bodies]
