"""The types that ONNX Runtime gives to the tensors of a graph.

It infers them, those of its own operators too, when it loads a model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

from optimum_htp.errors import HtpError
from optimum_htp.onnxfile.assembly import encode_node
from optimum_htp.onnxfile.edges import reads
from optimum_htp.onnxfile.model import Function, Node, Value, operator_name
from optimum_htp.onnxfile.running import limited
from optimum_htp.onnxfile.submodels import Submodels
from optimum_htp.onnxfile.types import NUMBERS

_RANK = "/optimum_htp_rank"
_TENSOR = re.compile(r"tensor\((\w+)\)")
_OTHER_NAMES = {"float": "float32", "double": "float64"}  # of the types that ONNX Runtime calls otherwise


def runtime_types(graph: Submodels) -> dict[str, Value] | None:
    """What ONNX Runtime says of the tensors of a graph, by name; None if it can't load it.

    Where it has no such operator, what the file declares is known, and what follows from that.
    """
    known = _types(graph, range(len(graph.nodes)), graph.given)
    return known if known is not None else _types(graph, *_loadable(graph))


def _types(graph: Submodels, chosen: Collection[int], inputs: Mapping[str, Value]) -> dict[str, Value] | None:
    names = (name for index in chosen for name in graph.nodes[index].outputs if name)
    known = loaded_types(graph.model(chosen, inputs, map(Value, names)))
    if known is None:
        return None
    # These are scalars, or have an unknown number of axes. Of younger types not all versions of Shape take the tensors.
    flat = [name for name, value in known.items() if value.shape == () and value.elem_type < NUMBERS["bfloat16"]]
    shapes = [encode_node("Shape", [name], [name + _RANK]) for name in flat]
    ranks = loaded_types(graph.model(chosen, inputs, [Value(name + _RANK) for name in flat], more=shapes)) or {}
    scalars = {name.removesuffix(_RANK) for name, value in ranks.items() if value.shape == (0,)}
    unknown = {name for name, value in known.items() if value.shape == ()} - scalars
    return {**inputs, **known, **{name: replace(known[name], shape=None) for name in unknown}}


def _loadable(graph: Submodels) -> tuple[list[int], dict[str, Value]]:
    """The nodes that ONNX Runtime has operators for, as far as the types of their inputs are known, and the inputs."""
    declared = graph.declared()
    functions = _loadable_functions(graph.functions())
    inputs = dict(graph.given)
    available = {*inputs, *graph.initializers}
    chosen = []
    for index, node in enumerate(graph.nodes):
        if available.issuperset(reads(node)) and _are_loadable([node], functions):
            chosen.append(index)
            available.update(node.outputs)
        else:
            inputs |= {name: declared[name] for name in node.outputs if name in declared}
            available.update(inputs)
    return chosen, inputs


def _loadable_functions(functions: Iterable[Function]) -> set[str]:
    """The operators that a model's functions are, of those that call none that ONNX Runtime doesn't have."""
    known = {function.operator: function for function in functions}
    while lacking := {name for name in known if not _are_loadable(known[name].graph.nodes, known.keys())}:
        known = {name: function for name, function in known.items() if name not in lacking}
    return set(known)


def _are_loadable(nodes: Iterable[Node], functions: Collection[str]) -> bool:
    """Whether ONNX Runtime, or the model in its functions, has the operators of nodes and of those in their bodies."""
    return all(
        (node.operator in _operators() or node.operator in functions)
        and all(_are_loadable(body.nodes, functions) for _, body in node.bodies)
        for node in nodes
    )


@cache
def _operators() -> frozenset[str]:
    """The operators that ONNX Runtime has, as `Node.operator` spells them."""
    from onnxruntime.capi import _pybind_state as runtime

    return frozenset(operator_name(each.domain, each.name) for each in runtime.get_all_operator_schema())


def loaded_types(model: bytes, *, started: bool = False) -> dict[str, Value] | None:
    """The types of a model's outputs that are tensors, by name; None if ONNX Runtime can't load it.

    The shape `()` is that of a scalar, or not known. If the session is `started`, which takes kernels for all operators,
    shapes are those that are left when constants have been computed.
    """
    from onnxruntime.capi import _pybind_state as runtime  # onnxruntime.InferenceSession always starts the session

    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC

    def load() -> Any:
        session = runtime.InferenceSession(options, model, False, False)
        if started:
            session.initialize_session(["CPUExecutionProvider"], [{}], set())
        return session

    try:
        session = limited(load, partial(options.set_load_cancellation_flag, True), name="types of tensors")
    except HtpError:
        raise
    except Exception:  # of ONNX Runtime's C++ module
        return None
    known = {}
    for output in session.outputs_meta:
        match = _TENSOR.fullmatch(output.type)
        number = NUMBERS.get(_OTHER_NAMES.get(match[1], match[1])) if match is not None else None
        if number is not None:
            known[output.name] = Value(output.name, number, tuple(output.shape))
    return known
