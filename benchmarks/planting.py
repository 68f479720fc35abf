"""A tagged ONNX graph that is edited by hand, so that a fault lies where we say and nowhere else.

The tags serve to find places. A node that is put in gets the name and the metadata of the node that it stands at, as if the
module's own code had been wrong and had been exported so.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from optimum_htp.hierarchy import tag_class, tag_module_path
from optimum_htp.package import HtpFile

Array = np.ndarray[Any, Any]
LINEAR = ("MatMul", "Gemm")


class NotHereError(Exception):
    """A model has no place for a kind of fault; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What was planted, and so the truth.

    Attributes:
        what: It in words.
        paths: The module whose work is wrong, or the modules, where several are; naming any of them is right.
        call: Of a module that runs several times the call; None for a module that runs once, or where all are wrong.
    """

    what: str
    paths: tuple[str, ...]
    call: int | None = None


@dataclass(frozen=True, slots=True)
class Linear:
    """A layer with a matrix, and the node that adds its bias."""

    node: onnx.NodeProto
    path: str
    weight: Array
    bias: tuple[onnx.NodeProto, int] | None


@dataclass(frozen=True, slots=True)
class Attention:
    """The nodes around a softmax over scores.

    Attributes:
        softmax: The softmax.
        scores: The product of queries and keys.
        mask: The Add or Where of a mask, and which of its inputs the scores are.
        scales: What scales scores, queries or keys, and which input of it goes through.
        mixed: The product with the values.
    """

    softmax: onnx.NodeProto
    scores: onnx.NodeProto
    mask: tuple[onnx.NodeProto, int] | None
    scales: tuple[tuple[onnx.NodeProto, int], ...]
    mixed: onnx.NodeProto | None


class Net:
    """One ONNX file, open for planting.

    Args:
        file: The tagged file.
        values: Its tensors on the benchmark's inputs, those inputs included.
    """

    def __init__(self, file: HtpFile, values: Mapping[str, Array]) -> None:
        self.model = onnx.load(file.path)
        self.graph = self.model.graph
        self.values = values
        self.nodes = list(self.graph.node)
        self._tags = {id(node): file.tags.get(("", index)) for index, node in enumerate(self.nodes)}
        self._tree = file.hierarchy
        self.stored = {tensor.name: tensor for tensor in self.graph.initializer}
        self._planted = 0

    # --- Looking ---

    @cached_property
    def made(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def readers(self) -> dict[str, list[tuple[onnx.NodeProto, int]]]:
        found = defaultdict(list)
        for node in self.nodes:
            for index, name in enumerate(node.input):
                found[name].append((node, index))
        return found

    @cached_property
    def order(self) -> dict[str, int]:
        """When each tensor is there; inputs and initializers from the start."""
        return {name: index for index, node in enumerate(self.nodes) for name in node.output}

    def path(self, node: onnx.NodeProto) -> str:
        tag = self._tags[id(node)]
        return "" if tag is None else tag_module_path(tag.tag)

    def class_name(self, node: onnx.NodeProto) -> str:
        tag = self._tags[id(node)]
        return "" if tag is None else tag_class(tag.tag)

    def call(self, node: onnx.NodeProto) -> int | None:
        tag = self._tags[id(node)]
        return None if tag is None else tag.call

    def owner(self, node: onnx.NodeProto) -> tuple[str, int | None]:
        """The call of a module that a node belongs to."""
        return self.path(node), self.call(node)

    def above(self, path: str) -> str:
        """The path of the module that calls one."""
        return tag_module_path(self._tree.tag(path).rpartition("/")[0])

    def is_leaf(self, node: onnx.NodeProto) -> bool:
        tag = self._tags[id(node)]
        return tag is not None and not self._tree.children(tag.tag)

    def each(self, *operators: str) -> Iterator[onnx.NodeProto]:
        return (node for node in self.nodes if node.op_type in operators and self._tags[id(node)] is not None)

    def constant(self, name: str) -> Array | None:
        """The value of an initializer or a constant; None for what is computed from inputs."""
        tensor = self.stored.get(name)
        if tensor is not None:
            return numpy_helper.to_array(tensor)
        node = self.made.get(name)
        if node is None:
            return None
        if node.op_type == "Constant":
            return self.values.get(name)
        return self.constant(node.input[0]) if node.op_type == "Identity" else None

    def value(self, name: str) -> Array:
        stored = self.constant(name)
        return stored if stored is not None else self.values[name]

    def is_float(self, name: str) -> bool:
        return name in self.values and self.values[name].dtype == np.float32

    def scalar(self, name: str) -> float | None:
        """A floating-point number that is the same for all inputs, as far as sizes are."""
        known = self.constant(name)
        if known is None and name in self.values and self.values[name].ndim < 2:
            known = self.values[name]
        return float(known.reshape(())) if known is not None and known.size == 1 and known.dtype.kind == "f" else None

    # --- Patterns ---

    @cached_property
    def linears(self) -> list[Linear]:
        """Those with a module, and a weight, of their own."""
        found = []
        for node in self.each(*LINEAR):
            weight = self.constant(node.input[1])
            if weight is None or weight.ndim != 2 or not self.is_leaf(node):
                continue
            bias = (node, 2) if len(node.input) > 2 else None
            for reader, index in self.readers[node.output[0]]:
                other = reader.input[1 - index] if reader.op_type == "Add" else ""
                known = self.constant(other) if other else None
                if known is not None and known.ndim == 1 and self.path(reader) == self.path(node):
                    bias = (reader, 1 - index)
            found.append(Linear(node, self.path(node), weight, bias))
        return found

    @cached_property
    def residuals(self) -> list[tuple[onnx.NodeProto, int]]:
        """Additions of a tensor to what was made of it, and which input that tensor is."""
        found = []
        for node in self.each("Add"):
            if self.is_leaf(node) or not all(map(self.is_float, node.input)):
                continue
            a, b = (self.value(name) for name in node.input)
            if a.shape != b.shape or a.ndim < 3 or any(self.constant(name) is not None for name in node.input):
                continue
            if self._leads_to(node.output[0], "Softmax"):  # a bias of positions on scores
                continue
            kept = [index for index in (0, 1) if self._depends(node.input[1 - index], node.input[index])]
            if kept:
                found.append((node, kept[0]))
        return found

    def _leads_to(self, name: str, operator: str) -> bool:
        """Whether an operator reads a tensor, as it is or in another shape."""
        for node, _ in self.readers[name]:
            if node.op_type == operator:
                return True
            if node.op_type in ("Cast", "Reshape", "Unsqueeze", "Squeeze") and self._leads_to(
                node.output[0], operator
            ):
                return True
        return False

    def _depends(self, name: str, on: str) -> bool:
        limit = self.order.get(on, -1)
        stack, seen = [name], set()
        while stack:
            current = stack.pop()
            if current == on:
                return True
            if current in self.made and current not in seen and self.order[current] > limit:
                seen.add(current)
                stack.extend(self.made[current].input)
        return False

    @cached_property
    def attentions(self) -> list[Attention]:
        found = []
        for softmax in self.each("Softmax"):
            if self.values[softmax.output[0]].ndim < 3:
                continue
            mask, scales, name = None, [], softmax.input[0]
            while name in self.made and self.made[name].op_type not in LINEAR:
                node = self.made[name]
                inside = self._through(node)
                if inside is None:
                    break
                if node.op_type in ("Add", "Where") and mask is None and self._masks(node, inside):
                    mask = node, inside
                scales += [(node, inside)] if self._scales(node, inside) else []
                name = node.input[inside]
            scores = self.made.get(name)
            if scores is None or scores.op_type != "MatMul" or self.constant(scores.input[1]) is not None:
                continue
            for side in scores.input:
                scales += self._scales_before(side)
            found.append(Attention(softmax, scores, mask, tuple(scales), self._mixed(softmax)))
        return found

    def _through(self, node: onnx.NodeProto) -> int | None:
        """Which input of a node the scores come by: of two the one that is a product or leads to one."""
        if node.op_type in ("Cast", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Identity"):
            return 0
        if node.op_type == "Where":
            return next((index for index in (2, 1) if self.constant(node.input[index]) is None), None)
        if node.op_type not in ("Add", "Mul", "Div", "Sub"):
            return None
        made = [index for index in (0, 1) if self._leads_to_product(node.input[index])]
        return made[0] if made else None

    def _leads_to_product(self, name: str, depth: int = 8) -> bool:
        node = self.made.get(name)
        if node is None or not depth:
            return False
        if node.op_type == "MatMul":
            return self.constant(node.input[1]) is None
        if node.op_type not in ("Add", "Mul", "Div", "Reshape", "Cast", "Transpose", "Where"):
            return False
        return any(self._leads_to_product(each, depth - 1) for each in node.input)

    def _masks(self, node: onnx.NodeProto, inside: int) -> bool:
        """Whether it leaves something out, by a very negative number."""
        values = self.values[node.output[0]]
        before = self.values.get(node.input[inside])
        return before is not None and values.shape == before.shape and values.min() < -1e4 < before.min()

    def _scales(self, node: onnx.NodeProto, inside: int) -> bool:
        factor = self.scalar(node.input[1 - inside]) if node.op_type in ("Mul", "Div") else None
        return factor is not None and factor != 1

    def _scales_before(self, name: str) -> list[tuple[onnx.NodeProto, int]]:
        found: list[tuple[onnx.NodeProto, int]] = []
        while name in self.made:
            node = self.made[name]
            inside: int | None = None
            if node.op_type in ("Reshape", "Transpose", "Cast", "Unsqueeze", "Expand", "Squeeze"):
                inside = 0
            elif node.op_type in ("Mul", "Div"):  # by 1 too, where queries were scaled before
                inside = next((index for index in (0, 1) if self.scalar(node.input[1 - index]) is not None), None)
            if inside is None:
                break
            found += [(node, inside)] if self._scales(node, inside) else []
            name = node.input[inside]
        return found

    def _mixed(self, softmax: onnx.NodeProto) -> onnx.NodeProto | None:
        name = softmax.output[0]
        for _ in range(6):
            readers = [node for node, _ in self.readers[name] if node.op_type not in ("IsNaN", "Shape")]
            if not readers:
                return None
            if readers[0].op_type == "MatMul":
                return readers[0]
            name = readers[0].output[0]
        return None

    def inside(self, path: str) -> set[int]:
        """The nodes of a module, those of the modules in it included."""
        return {id(node) for node in self.nodes if not path or f"{self.path(node)}.".startswith(f"{path}.")}

    def boundary(self, path: str) -> tuple[str, str]:
        """The one tensor of a module's shape that it reads from outside, and the one that others read of it.

        Raises:
            NotHereError: There is not just one of each.
        """
        inside = self.inside(path)
        results = {
            name
            for node in self.nodes
            if id(node) in inside
            for name in node.output
            if self.is_float(name) and any(id(reader) not in inside for reader, _ in self.readers[name])
        }
        if len(results) != 1:
            raise NotHereError("no layer has just one result")
        (result,) = results
        given = {
            name
            for node in self.nodes
            if id(node) in inside
            for name in node.input
            if self.is_float(name) and id(self.made.get(name)) not in inside and self.constant(name) is None
            if self.value(name).shape == self.value(result).shape
        }
        if len(given) != 1:
            raise NotHereError("no layer is given just one tensor of the shape that it returns")
        return given.pop(), result

    # --- Changing ---

    def put(self, node: onnx.NodeProto, index: int, array: Array) -> None:
        """Gives one node another constant; what else reads the old one keeps it."""
        node.input[index] = self.new_constant(array)

    def new_constant(self, array: Array) -> str:
        name = self._fresh("constant")
        self.graph.initializer.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def bypass(self, node: onnx.NodeProto, index: int) -> None:
        """Takes a node out: one of its inputs is read in place of its output."""
        self.redirect(node.output[0], node.input[index])

    def redirect(self, old: str, new: str) -> None:
        """Lets all that read one tensor read another."""
        for reader, index in self.readers[old]:
            reader.input[index] = new
        self.readers[new] += self.readers.pop(old, [])
        if any(value.name == old for value in self.graph.output):
            self.nodes.remove(self.made[old])
            self._add(self.made.get(new), self.made[old], "Identity", [new], old)

    def after(self, node: onnx.NodeProto, operator: str, *others: str, **attributes: Any) -> None:
        """Puts an operator behind a node; the result has the old name."""
        name = node.output[0]
        node.output[0] = self._fresh("sound")
        self._add(node, node, operator, [node.output[0], *others], name, **attributes)

    def before(self, node: onnx.NodeProto, index: int, operator: str, *others: str, **attributes: Any) -> None:
        """Puts an operator between a node and one of its inputs, in the node's own module."""
        name = self._fresh("input")
        place = self.nodes[self.nodes.index(node) - 1] if self.nodes.index(node) else None
        self._add(place, node, operator, [node.input[index], *others], name, **attributes)
        node.input[index] = name

    def insert(
        self, host: onnx.NodeProto, operator: str, inputs: list[str], *, first: bool = False, **attributes: Any
    ) -> str:
        """Puts an operator in front of a node, or of all, in that node's module, and gives the name of what it makes."""
        position = 0 if first else self.nodes.index(host)
        name = self._fresh("tensor")
        self._add(self.nodes[position - 1] if position else None, host, operator, inputs, name, **attributes)
        return name

    def _add(
        self,
        place: onnx.NodeProto | None,
        host: onnx.NodeProto,
        operator: str,
        inputs: list[str],
        output: str,
        **attributes: Any,
    ) -> None:
        scope = host.name.rpartition("/")[0]
        node = helper.make_node(operator, inputs, [output], name=self._fresh(f"{scope}/{operator}"), **attributes)
        node.metadata_props.extend(host.metadata_props)
        position = next((index for index, each in enumerate(self.nodes) if each is place), -1)
        self.nodes.insert(position + 1, node)

    def _fresh(self, what: str) -> str:
        self._planted += 1
        return f"{what}_planted_{self._planted}"

    def save(self, path: Path) -> None:
        """Writes the model without what nothing reads any more, as an export of the faulty code would be."""
        needed = {value.name for value in self.graph.output}
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(node.input)
                needed.update(outer_names(node))
        initializers = [tensor for tensor in self.graph.initializer if tensor.name in needed]
        known = [value for value in self.graph.value_info if value.name in needed]
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(reversed(kept))
        self.graph.initializer.extend(initializers)
        self.graph.value_info.extend(known)
        onnx.save(self.model, path)


def outer_names(node: onnx.NodeProto) -> Iterator[str]:
    """What the bodies of a node read, of the graph around it too."""
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from inner.input
                yield from outer_names(inner)
            yield from (value.name for value in body.output)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def layer_of(path: str) -> tuple[str, int, str] | None:
    """A path taken apart at the number of its layer: the layers' path, the number, and what lies below."""
    match = re.match(r"(.*?\.)?(\d+)(?=\.|$)(.*)", path)
    return (match[1] or "", int(match[2]), match[3]) if match else None
