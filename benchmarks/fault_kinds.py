"""The kinds of fault: each changes one thing in a sound graph and says which module is wrong by it.

A kind takes the graph and a die, picks one of the places where it can be, and plants itself there. What it returns is the
truth. Where an operation of a block between its children is changed, the block is the culprit.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import numpy_helper
from planting import Attention, Fault, Linear, Net, NotHereError, attribute, layer_of, set_attribute

Plant = Callable[[Net, random.Random], Fault]
T = TypeVar("T")
FLOATS = ("float", "int8-dynamic", "static-qdq", "fp16", "O2")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: Its name.
        plant: What plants it into the float file.
        variants: The forms of a model that can have it.
        quantized: Plants it into a quantized file instead; that has to be told which weight is whose by the float one.
    """

    name: str
    plant: Plant | None
    variants: Sequence[str] = FLOATS
    quantized: Callable[[onnx.ModelProto, Net, random.Random], Fault] | None = None


KINDS: dict[str, Kind] = {}


def kind(name: str, *, variants: Sequence[str] = FLOATS) -> Callable[[Plant], Plant]:
    def add(plant: Plant) -> Plant:
        KINDS[name] = Kind(name, plant, variants)
        return plant

    return add


def one_of(places: Sequence[T], die: random.Random, what: str) -> T:
    if not places:
        raise NotHereError(f"no {what}")
    return die.choice(places)


# --- Weights ------------------------------------------------------------------------------------------------------


@kind("transposed-weight")
def transposed_weight(net: Net, die: random.Random) -> Fault:
    square = [each for each in net.linears if each.weight.shape[0] == each.weight.shape[1]]
    linear = one_of(square, die, "square weight")
    net.put(linear.node, 1, linear.weight.T)
    return of_linear(net, linear, "its weight is transposed")


@kind("permuted-rows")
def permuted_rows(net: Net, die: random.Random) -> Fault:
    linear = one_of(net.linears, die, "Linear")
    axis = outputs_axis(linear)
    net.put(linear.node, 1, np.roll(linear.weight, 1, axis))
    return of_linear(net, linear, "its outputs are computed in another order")


@kind("doubled-scale")
def doubled_scale(net: Net, die: random.Random) -> Fault:
    linear = one_of(net.linears, die, "Linear")
    net.put(linear.node, 1, 2 * linear.weight)
    return of_linear(net, linear, "its weight is twice what it should be")


@kind("dropped-bias")
def dropped_bias(net: Net, die: random.Random) -> Fault:
    biased = [each for each in net.linears if each.bias is not None]
    linear = one_of(biased, die, "Linear with a bias")
    assert linear.bias is not None
    node, index = linear.bias
    if node is linear.node:
        del node.input[index]
    else:
        net.bypass(node, 1 - index)
    return of_linear(net, linear, "its bias is missing")


@kind("swapped-q-and-k")
def swapped_q_and_k(net: Net, die: random.Random) -> Fault:
    names = (("query", "key"), ("q_proj", "k_proj"), ("q_lin", "k_lin"), ("q", "k"), ("query_proj", "key_proj"))
    by_path = {each.path: each for each in net.linears}
    pairs = [
        (each, by_path[path[: -len(q)] + k])
        for path, each in by_path.items()
        for q, k in names
        if path.rpartition(".")[2] == q and path[: -len(q)] + k in by_path
    ]
    fitting = [pair for pair in pairs if pair[0].weight.shape == pair[1].weight.shape]
    q, k = one_of(fitting, die, "queries and keys in two Linears of one shape")
    return swapped(net, q, k, "the weights of both are each other's")


@kind("swapped-layers")
def swapped_layers(net: Net, die: random.Random) -> Fault:
    pairs = [
        (one, two)
        for one in net.linears
        for two in net.linears
        if (a := layer_of(one.path)) and (b := layer_of(two.path))
        if (a[0], a[2]) == (b[0], b[2]) and a[1] < b[1] and one.weight.shape == two.weight.shape
    ]
    return swapped(net, *one_of(pairs, die, "two layers of one shape"), "the weights of both are each other's")


def swapped(net: Net, one: Linear, two: Linear, what: str) -> Fault:
    changes = []
    for linear, other in ((one, two), (two, one)):
        changes.append((linear.node, 1, other.weight))
        if linear.bias is not None and other.bias is not None:
            changes.append((*linear.bias, net.value(other.bias[0].input[other.bias[1]])))
    for node, index, array in changes:
        net.put(node, index, array)
    return Fault(f"{one.path}, {two.path}: {what}", (one.path, two.path))


def outputs_axis(linear: Linear) -> int:
    return 0 if attribute(linear.node, "transB", 0) else 1


def of_linear(net: Net, linear: Linear, what: str) -> Fault:
    return Fault(f"{linear.path}: {what}", (linear.path,), net.call(linear.node))


def of_node(net: Net, node: onnx.NodeProto, what: str) -> Fault:
    path = net.path(node)
    return Fault(f"{path or '(root)'}: {what}", (path,), net.call(node))


# --- Tables -------------------------------------------------------------------------------------------------------


def tables(net: Net, positions: bool) -> list[onnx.NodeProto]:
    """Lookups in tables of embeddings: of positions, or of everything else."""
    found = []
    for node in net.each("Gather"):
        table = net.constant(node.input[0])
        if table is None or table.ndim != 2 or table.dtype != np.float32 or not net.is_leaf(node):
            continue
        if bool(re.search(r"pos|wpe", net.path(node))) == positions and net.value(node.input[1]).ndim == 2:
            found.append(node)
    return found


@kind("truncated-vocabulary")
def truncated_vocabulary(net: Net, die: random.Random) -> Fault:
    """The rows of the later tokens are zero."""
    words = [node for node in tables(net, positions=False) if net.value(node.input[1]).max() > 3]
    node = one_of(words, die, "table of words")
    table, ids = net.value(node.input[0]).copy(), net.value(node.input[1])
    table[int(np.quantile(ids, 0.7)) :] = 0
    net.put(node, 0, table)
    return of_node(net, node, "the last rows of the table are zero")


@kind("truncated-head")
def truncated_head(net: Net, die: random.Random) -> Fault:
    """A language model's head that knows the first half of the words."""
    heads = [each for each in net.linears if max(each.weight.shape) >= 90 and "head" in each.path]
    linear = one_of(heads, die, "head over a vocabulary")
    weight, axis = linear.weight.copy(), outputs_axis(linear)
    weight[(slice(None),) * axis + (slice(weight.shape[axis] // 2, None),)] = 0
    net.put(linear.node, 1, weight)
    return of_linear(net, linear, "the words of the second half have no weights")


@kind("shifted-position-table")
def shifted_position_table(net: Net, die: random.Random) -> Fault:
    added = [
        (node, index)
        for node in net.each("Add")
        for index in (0, 1)
        if "embed" in net.path(node).lower()
        and (table := net.constant(node.input[index])) is not None
        and table.ndim == 3
        and table.shape[:1] == (1,)
    ]
    node, index = one_of([*((node, 0) for node in tables(net, positions=True)), *added], die, "table of positions")
    table = net.value(node.input[index])
    net.put(node, index, np.roll(table, 1, table.ndim - 2))
    return of_node(net, node, "each position has the row of the one before")


@kind("position-ids-off-by-one")
def position_ids_off_by_one(net: Net, die: random.Random) -> Fault:
    """In the module that computes them, or that is given them and looks them up."""
    fitting = [
        node
        for node in tables(net, positions=True)
        if net.value(node.input[1]).max() + 1 < len(net.value(node.input[0]))
    ]
    node = one_of(fitting, die, "table of positions with a row to spare")
    ids = node.input[1]
    one = net.new_constant(np.asarray(1, net.value(ids).dtype))
    what = "the ids of positions are one too large"
    if ids not in net.made:
        hosts = [each for each in net.nodes if net.path(each) == net.above(net.path(node))]
        host = one_of(hosts, die, "module that hands on ids of positions")
        node.input[1] = net.insert(host, "Add", [ids, one], first=True)
        return of_node(net, host, what)
    maker = net.made[ids]
    net.after(maker, "Add", one)
    return of_node(net, maker, what)


# --- Norms --------------------------------------------------------------------------------------------------------

_NORMS = {"LayerNormalization": (1, 2), "InstanceNormalization": (1, 2), "BatchNormalization": (1, 2)}


def norm_parts(net: Net, part: str) -> list[tuple[onnx.NodeProto, int]]:
    """The nodes that have a norm's gain or bias, and which input it is."""
    place = ("gain", "bias").index(part)
    found = []
    for node in net.each("Mul", "Add", *_NORMS):
        if node.op_type in _NORMS:
            found += [(node, _NORMS[node.op_type][place])] if len(node.input) > _NORMS[node.op_type][place] else []
        elif net.is_leaf(node) and "norm" in net.class_name(node).lower() and node.op_type == ("Mul", "Add")[place]:
            known = [net.constant(name) for name in node.input]
            found += [(node, i) for i, each in enumerate(known) if each is not None and each.size > 1]
    return [(node, i) for node, i in found if net.constant(node.input[i]) is not None]


@kind("dropped-norm-weight")
def dropped_norm_weight(net: Net, die: random.Random) -> Fault:
    node, index = one_of(norm_parts(net, "gain"), die, "norm with a gain")
    net.put(node, index, np.ones_like(net.value(node.input[index])))
    return of_node(net, node, "the norm's gain is missing")


@kind("dropped-norm-bias")
def dropped_norm_bias(net: Net, die: random.Random) -> Fault:
    node, index = one_of(norm_parts(net, "bias"), die, "norm with a bias")
    net.put(node, index, np.zeros_like(net.value(node.input[index])))
    return of_node(net, node, "the norm's bias is missing")


@kind("norm-epsilon")
def norm_epsilon(net: Net, die: random.Random) -> Fault:
    """A hundredth of the mean variance, as some frameworks' defaults are for small activations."""
    fused = [(node, -1) for node in net.each(*_NORMS)]
    spelled = [
        (node, index)
        for node in net.each("Add")
        for index in (0, 1)
        if "norm" in net.class_name(node).lower() and 0 < (net.scalar(node.input[index]) or 1) < 1e-3
    ]
    node, index = one_of([*fused, *spelled], die, "norm")
    if index >= 0:
        net.put(node, index, np.float32(0.01 * net.value(node.input[1 - index]).mean()).reshape(()))
    elif node.op_type == "BatchNormalization":
        set_attribute(node, "epsilon", float(0.02 * net.value(node.input[4]).mean()))
    else:
        set_attribute(node, "epsilon", float(0.01 * net.value(node.input[0]).var(-1).mean()))
    return of_node(net, node, "epsilon is a hundredth of the variance")


@kind("batch-norm-statistic")
def batch_norm_statistic(net: Net, die: random.Random) -> Fault:
    node = one_of(list(net.each("BatchNormalization")), die, "batch norm that is not folded into its convolution")
    index = die.choice((3, 4))
    net.put(node, index, np.roll(net.value(node.input[index]), 1))
    return of_node(net, node, f"the {'mean' if index == 3 else 'variance'} of each channel is its neighbour's")


# --- Activations --------------------------------------------------------------------------------------------------


@kind("gelu-variant")
def gelu_variant(net: Net, die: random.Random) -> Fault:
    """The one with erf where the one with tanh is meant, and the other way round."""
    cubes = {net.owner(node): node.input[0] for node in net.each("Pow") if net.scalar(node.input[1]) == 3}
    tanhs = [node for node in net.each("Tanh") if net.owner(node) in cubes]
    node = one_of([*net.each("Erf"), *tanhs], die, "gelu")
    if node.op_type == "Tanh":
        scaled = net.insert(node, "Mul", [cubes[net.owner(node)], net.new_constant(np.float32(math.sqrt(0.5)))])
        node.op_type, node.input[0] = "Erf", scaled
        return of_node(net, node, "gelu with erf for the one with tanh")
    x = net.insert(node, "Mul", [node.input[0], net.new_constant(np.float32(math.sqrt(2)))])
    square = net.insert(node, "Mul", [x, x])
    small = net.insert(node, "Mul", [square, net.new_constant(np.float32(0.044715))])
    factor = net.insert(node, "Add", [small, net.new_constant(np.float32(1))])
    bent = net.insert(node, "Mul", [x, factor])
    node.op_type = "Tanh"
    node.input[0] = net.insert(node, "Mul", [bent, net.new_constant(np.float32(math.sqrt(2 / math.pi)))])
    return of_node(net, node, "gelu with tanh for the one with erf")


@kind("other-activation")
def other_activation(net: Net, die: random.Random) -> Fault:
    """Relu for what it is not, a leaky one for relu."""
    places = []
    operators = ("Erf", "Tanh", "Sigmoid", "Relu", "HardSwish", "Clip")
    for owner in dict.fromkeys(net.owner(node) for node in net.each(*operators)):
        own = [node for node in net.nodes if net.owner(node) == owner and node.op_type != "Constant"]
        names = {name for node in own for name in node.output}
        given = {name for node in own for name in node.input} - names
        given = {name for name in given if net.constant(name) is None and net.is_float(name)}
        read = [name for name in names if any(net.owner(reader) != owner for reader, _ in net.readers[name])]
        if all(map(net.is_leaf, own)) and len(given) == len(read) == 1:
            places.append((net.made[read[0]], given.pop()))
    node, given_name = one_of(places, die, "activation")
    leaky = {each.op_type for each in net.nodes if net.owner(each) == net.owner(node)} & {"Relu", "Clip"}
    del node.input[:], node.attribute[:]
    node.input.append(given_name)
    node.op_type, node.domain = ("LeakyRelu" if leaky else "Relu"), ""
    if leaky:
        set_attribute(node, "alpha", 0.3)
    return of_node(net, node, "leaky relu in place of relu" if leaky else "relu in place of the activation")


# --- Residuals, layers, constants ---------------------------------------------------------------------------------


@kind("missing-residual")
def missing_residual(net: Net, die: random.Random) -> Fault:
    node, index = one_of(net.residuals, die, "residual addition")
    fault = of_node(net, node, "the residual is not added")
    net.bypass(node, 1 - index)
    return fault


@kind("wrong-residual")
def wrong_residual(net: Net, die: random.Random) -> Fault:
    """What an earlier, or another, block gave.

    Where a module adds what it is handed from outside, the file is the same whether that module adds, or the one around it
    hands, another tensor: either is right.
    """
    node, index = one_of(net.residuals, die, "residual addition")
    name, path = node.input[index], net.path(node)
    right = net.value(name)
    is_handed = not any(name in each.output and f"{net.path(each)}.".startswith(f"{path}.") for each in net.nodes)
    sums = {each.output[0] for each, _ in net.residuals} | {each.input[at] for each, at in net.residuals}
    others = [
        name
        for name in sorted(sums)
        if net.order.get(name, -1) < net.order[node.output[0]]
        and name not in node.input
        and net.value(name).shape == right.shape
        and np.abs(net.value(name) - right).max() > 0.1 * np.abs(right).max()
    ]
    node.input[index] = one_of(others, die, "other tensor that a residual could be")
    fault = of_node(net, node, "another tensor than the residual is added")
    return replace(fault, paths=(path, net.above(path))) if is_handed and path and fault.call is None else fault


@kind("skipped-layer")
def skipped_layer(net: Net, die: random.Random) -> Fault:
    """Either the layer is named, with what is around it and does nothing else, or what runs one layer after the other."""
    layers: dict[str, None] = {}
    for node in net.nodes:
        parts = net.path(node).split(".")
        layers.update(dict.fromkeys(".".join(parts[: i + 1]) for i, part in enumerate(parts) if part.isdecimal()))
    places = []
    for path in layers:
        try:
            given, result = net.boundary(path)
        except NotHereError:
            continue
        if len({net.path(node) for node in net.nodes if net.path(node).startswith(f"{path}.")}) > 2:
            places.append((path, given, result))
    path, given, result = one_of(places, die, "layer whose result has the shape of what it is given")
    around = [path]
    while around[-1] and len(net.inside(around[-1])) == len(net.inside(path)):
        around.append(net.above(around[-1]))
    net.redirect(result, given)
    return Fault(f"{path}: the layer is skipped", tuple(around))


@kind("missing-scale")
def missing_scale(net: Net, die: random.Random) -> Fault:
    """A factor, or a factor for each channel, that is not a norm's, an activation's or that of attention's scores."""
    of_scores = {id(node) for each in net.attentions for node, _ in each.scales}
    places = []
    for node in net.each("Mul", "Div"):
        for index in (0, 1) if node.op_type == "Mul" else (1,):
            name, other = node.input[index], node.input[1 - index]
            factor = net.constant(name)
            if factor is None or factor.dtype != np.float32 or factor.ndim > 1 or np.all(factor == 1):
                continue
            scaled = net.is_leaf(node) and "scale" in net.class_name(node).lower()
            if id(node) in of_scores or not net.is_float(other) or net.value(other).ndim < 3:
                continue
            if scaled or not net.is_leaf(node):
                places.append((node, 1 - index))
    node, index = one_of(places, die, "scale")
    fault = of_node(net, node, "a scale is missing")
    net.bypass(node, index)
    return fault


@kind("wrong-constant")
def wrong_constant(net: Net, die: random.Random) -> Fault:
    places = [
        (node, index)
        for node in net.each("Mul", "Div", "Add", "Sub")
        for index, name in enumerate(node.input)
        if 1e-3 < abs(net.scalar(name) or 0.0) < 1e4 and net.constant(name) is not None
        if net.is_float(node.input[1 - index]) and net.value(node.input[1 - index]).ndim > 2
    ]
    node, index = one_of(places, die, "constant")
    net.put(node, index, np.asarray(1.5 * net.value(node.input[index]), np.float32))
    return of_node(net, node, f"a constant of its {node.op_type} is 1.5 times what it should be")


@kind("wrong-pooling")
def wrong_pooling(net: Net, die: random.Random) -> Fault:
    """The second token for the first, or the largest for the mean."""
    places = [
        node
        for node in net.each("Gather", "GlobalAveragePool", "ReduceMean")
        if net.is_float(node.input[0])
        and net.value(node.input[0]).ndim > 2
        and "norm" not in net.class_name(node).lower()
        and (node.op_type != "Gather" or (net.value(node.input[1]).ndim == 0 and attribute(node, "axis", 0) == 1))
    ]
    node = one_of(places, die, "pooling")
    if node.op_type == "Gather":
        net.put(node, 1, net.value(node.input[1]) + 1)
        return of_node(net, node, "it pools another token")
    node.op_type = {"GlobalAveragePool": "GlobalMaxPool", "ReduceMean": "ReduceMax"}[node.op_type]
    return of_node(net, node, "it pools the largest in place of the mean")


# --- Attention ----------------------------------------------------------------------------------------------------


def attention(net: Net, die: random.Random, what: str, has: Callable[[Attention], Any] = bool) -> Attention:
    return one_of([each for each in net.attentions if has(each)], die, what)


@kind("mask-sign")
def mask_sign(net: Net, die: random.Random) -> Fault:
    """What should be left out is all that is looked at."""
    node, index = attention(net, die, "mask on scores", lambda each: each.mask).mask or (None, 0)
    assert node is not None
    if node.op_type == "Where":
        node.input[0] = net.insert(node, "Not", [node.input[0]])
    else:
        mask = net.insert(node, "Neg", [node.input[1 - index]])
        node.input[1 - index] = mask
    return of_node(net, node, "the mask has the other sign")


@kind("mask-ignored")
def mask_ignored(net: Net, die: random.Random) -> Fault:
    node, index = attention(net, die, "mask on scores", lambda each: each.mask).mask or (None, 0)
    assert node is not None
    fault = of_node(net, node, "the mask is ignored")
    net.bypass(node, index)
    return fault


@kind("softmax-axis")
def softmax_axis(net: Net, die: random.Random) -> Fault:
    softmax = attention(net, die, "attention").softmax
    set_attribute(softmax, "axis", -2)
    return of_node(net, softmax, "softmax over the queries in place of the keys")


@kind("softmax-temperature")
def softmax_temperature(net: Net, die: random.Random) -> Fault:
    """Of scales on both sides of the product, both are missing."""
    scales = attention(net, die, "scale of scores", lambda each: each.scales).scales
    fault = of_node(net, scales[0][0], "scores are not scaled")
    for node, index in scales:
        net.bypass(node, index)
    return fault


def head_splits(net: Net) -> list[tuple[onnx.NodeProto, int, int]]:
    """Where channels become heads, how many and how wide."""
    found = []
    paths = {net.path(each.softmax) for each in net.attentions}
    for node in net.each("Reshape"):
        given, result = (net.values.get(name) for name in (node.input[0], node.output[0]))
        if given is None or result is None or given.ndim != 3 or result.ndim != 4 or net.path(node) not in paths:
            continue
        heads, width = result.shape[2:]
        transposed = any(reader.op_type == "Transpose" for reader, _ in net.readers[node.output[0]])
        if given.shape[:2] == result.shape[:2] and heads > 1 and width > 1 and transposed:
            found.append((node, heads, width))
    return found


@kind("wrong-head-split")
def wrong_head_split(net: Net, die: random.Random) -> Fault:
    """The channels of a head are taken to lie apart, not side by side."""
    node, heads, width = one_of(head_splits(net), die, "split into heads")
    # What is put in last comes first.
    net.after(node, "Transpose", perm=[0, 1, 3, 2])
    net.after(node, "Reshape", net.new_constant(np.asarray([0, 0, width, heads], np.int64)))
    return of_node(net, node, "channels are split into heads in the wrong order")


@kind("heads-merged-in-place")
def heads_merged_in_place(net: Net, die: random.Random) -> Fault:
    """Without transposing them back."""
    places = []
    for each in net.attentions:
        readers = net.readers[each.mixed.output[0]] if each.mixed is not None else []
        for transpose, _ in readers:
            after = net.readers[transpose.output[0]] if transpose.op_type == "Transpose" else []
            shape = net.values.get(transpose.input[0], np.zeros(0)).shape
            if len(shape) == 4 and shape[1] > 1 and any(reader.op_type == "Reshape" for reader, _ in after):
                places.append(transpose)
    node = one_of(places, die, "merge of heads")
    fault = of_node(net, node, "heads are merged without being transposed back")
    for reader, index in net.readers[node.output[0]]:
        if reader.op_type != "Shape":
            reader.input[index] = node.input[0]
    return fault


@kind("rotary-base")
def rotary_base(net: Net, die: random.Random) -> Fault:
    """500 where it is 10,000."""
    places = []
    for node in net.each("MatMul", "Expand", "Mul", "Unsqueeze", "Cast"):
        for index, name in enumerate(node.input):
            known = net.constant(name)
            flat = known.reshape(-1) if known is not None and known.dtype == np.float32 else np.zeros(0)
            if (
                len(flat) > 1
                and flat[0] == 1
                and np.all(np.diff(flat) < 0)
                and "rotary" in net.class_name(node).lower()
            ):
                places.append((node, index))
    node, index = one_of(places, die, "rotary embedding")
    frequencies = net.value(node.input[index])
    net.put(node, index, frequencies ** np.float32(math.log(500) / math.log(10_000)))
    return of_node(net, node, "the rotary base is 500")


@kind("rotary-sign")
def rotary_sign(net: Net, die: random.Random) -> Fault:
    negated = [node for node in net.each("Neg") if net.is_float(node.output[0]) and not net.is_leaf(node)]
    node = one_of(negated, die, "rotation")
    fault = of_node(net, node, "it rotates without the sign")
    net.bypass(node, 0)
    return fault


# --- Caches -------------------------------------------------------------------------------------------------------


def caches(net: Net) -> list[tuple[onnx.NodeProto, int]]:
    return [
        (node, index)
        for node in net.each("Concat")
        for index, name in enumerate(node.input)
        if name.startswith("past_key_values") and net.values[name].ndim == 4
    ]


@kind("stale-cache")
def stale_cache(net: Net, die: random.Random) -> Fault:
    """Off by one: each step's keys are at the next one's place."""
    node, index = one_of(caches(net), die, "past that new keys are put behind")
    name = node.input[index]
    axis = net.new_constant(np.asarray([2], np.int64))

    def part(start: int, end: int) -> str:
        ends = [net.new_constant(np.asarray([each], np.int64)) for each in (start, end)]
        return net.insert(node, "Slice", [name, *ends, axis])

    node.input[index] = net.insert(node, "Concat", [part(-1, 2**31), part(0, -1)], axis=2)
    return of_node(net, node, "the past is one step off")


@kind("past-ignored")
def past_ignored(net: Net, die: random.Random) -> Fault:
    node, index = one_of(caches(net), die, "past that new keys are put behind")
    net.before(node, index, "Mul", net.new_constant(np.float32(0)))
    return of_node(net, node, "the past is zero")


# --- Convolutions -------------------------------------------------------------------------------------------------


@kind("flipped-kernel")
def flipped_kernel(net: Net, die: random.Random) -> Fault:
    wide = [
        node
        for node in net.each("Conv")
        if (weight := net.constant(node.input[1])) is not None and max(weight.shape[2:]) > 1
    ]
    node = one_of(wide, die, "convolution")
    weight = net.value(node.input[1])
    net.put(node, 1, np.flip(weight, tuple(range(2, weight.ndim))))
    return of_node(net, node, "the kernel is flipped")


@kind("shifted-padding")
def shifted_padding(net: Net, die: random.Random) -> Fault:
    padded = [node for node in net.each("Conv") if any(attribute(node, "pads", ()))]
    node = one_of(padded, die, "convolution with padding of its own")
    pads = list(attribute(node, "pads"))
    half = len(pads) // 2
    for axis in range(half):
        moved = min(1, pads[axis + half])
        pads[axis], pads[axis + half] = pads[axis] + moved, pads[axis + half] - moved
    set_attribute(node, "pads", pads)
    return of_node(net, node, "the padding is one to the left")


# --- float16 ------------------------------------------------------------------------------------------------------


@kind("float16-overflow", variants=("fp16",))
def float16_overflow(net: Net, die: random.Random) -> Fault:
    """A layer that computes with large numbers inside, as float32 can: its sums are beyond 65,504."""
    fitting = [each for each in net.linears if np.abs(net.values[each.node.output[0]]).max() > 1]
    linear = one_of(fitting, die, "Linear with outputs of some size")
    largest = float(np.abs(linear.weight).max())
    factor = 2.0 ** math.floor(math.log2(60_000 / largest))
    net.put(linear.node, 1, linear.weight * np.float32(factor))
    if linear.bias is not None and linear.bias[0] is linear.node:
        net.put(linear.node, 2, net.value(linear.node.input[2]) * np.float32(factor))
    for each in (2.0**-8, 2.0**8 / factor):
        net.after(linear.node, "Mul", net.new_constant(np.float32(each)))
    return of_linear(net, linear, "its sums overflow in float16")


# --- Quantized weights --------------------------------------------------------------------------------------------

QuantizedPlant = Callable[["dict[str, onnx.TensorProto]", str], str]


def quantized_kind(name: str) -> Callable[[QuantizedPlant], QuantizedPlant]:
    def add(change: QuantizedPlant) -> QuantizedPlant:
        def plant(model: onnx.ModelProto, net: Net, die: random.Random) -> Fault:
            stored = {tensor.name: tensor for tensor in model.graph.initializer}
            owners = {
                node.input[1]: node
                for node in net.each("MatMul", "Gemm", "Conv")
                if net.is_leaf(node) and f"{node.input[1]}_quantized" in stored
                if len(net.readers[node.input[1]]) == 1
            }
            weight = one_of(sorted(owners), die, "quantized weight of one layer")
            return of_node(net, owners[weight], change(stored, weight))

        KINDS[name] = Kind(name, None, ("int8-dynamic", "static-qdq"), plant)
        return change

    return add


def edit(tensor: onnx.TensorProto, change: Callable[[Any], Any]) -> None:
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(value), value.dtype), tensor.name))


@quantized_kind("int8-scale-doubled")
def int8_scale_doubled(stored: dict[str, onnx.TensorProto], weight: str) -> str:
    edit(stored[f"{weight}_scale"], lambda scale: 2 * scale)
    return "the scale of its weight is doubled"


@quantized_kind("int8-zero-point-shifted")
def int8_zero_point_shifted(stored: dict[str, onnx.TensorProto], weight: str) -> str:
    edit(
        stored[f"{weight}_zero_point"],
        lambda zero: np.clip(zero.astype(np.int32) + 24, -128 if zero.dtype == np.int8 else 0, 127),
    )
    return "the zero point of its weight is shifted by 24"


@quantized_kind("int8-range-clipped")
def int8_range_clipped(stored: dict[str, onnx.TensorProto], weight: str) -> str:
    zero = numpy_helper.to_array(stored[f"{weight}_zero_point"]).astype(np.int32)
    edit(stored[f"{weight}_quantized"], lambda values: np.clip(values, np.min(zero) - 32, np.max(zero) + 32))
    return "its weight is clipped to a quarter of its range"
