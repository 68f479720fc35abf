"""The rules of `compare`, one by one, on graphs small enough to see: no torch, no export, no ONNX Runtime.

The comments say whose node each is. numpy computes the graphs; a reference is a sound graph, and for each call the
tensors of it that the module returned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from small_graphs import SmallGraph, read, spelled, tagged, tags_of

from optimum_htp.cli.compare import _NOTES as COMPARE_NOTES
from optimum_htp.hierarchy.tags import NodeTag, tag_class, tag_module_path
from optimum_htp.models.measures import EXACT, TOLERANCES, Errors, computes_in, default_tolerance, random_operators
from optimum_htp.onnxfile.model import OnnxModel
from optimum_htp.onnxfile.reading import read_content
from optimum_htp.verbs.compare import compare
from optimum_htp.verbs.compare.boundaries import Boundaries, assign, fits
from optimum_htp.verbs.compare.flat_graph import FlatGraph
from optimum_htp.verbs.compare.isolate import Isolator
from optimum_htp.verbs.compare.matching import FUSED, HIDDEN, INCONSISTENT, NO_FLOATS, NO_TENSOR, CallMatch, Matcher
from optimum_htp.verbs.compare.prober import Prober
from optimum_htp.verbs.compare.reference import ReferenceCall
from optimum_htp.verbs.compare.report import CallComparison, Isolated, PartComparison

Array = np.ndarray[Any, Any]

TOLERANCE = 1e-4
X = np.linspace(-1.0, 2.0, 6, dtype=np.float32).reshape(2, 3)
W = np.full((2, 3), 0.5, np.float32)

OPERATORS: dict[str, Any] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Sin": np.sin,
    "Cos": np.cos,
    "Identity": np.positive,
    "Transpose": np.transpose,
    "Flip": lambda x: x[:, ::-1],
    "Shape": lambda x: np.array(x.size),
    "Cast": lambda x: x.astype(np.int64),
    "DynamicQuantizeLinear": lambda x: x,
}
NOT_FLOAT = frozenset(("Shape", "Cast"))


class Graph:
    """A graph, computed by numpy: what `Prober` is to a file. Weights are 0.5 throughout, the input `x` is `X`."""

    def __init__(self, text: str, outputs: Sequence[str] = (), **origins: Sequence[str]) -> None:
        model, tags = tagged(text, outputs=outputs)
        for key, tag in tags.items():  # of several modules: the tensor, and whose work its node does
            names = model.graph.nodes[key[1]].outputs
            if names[0] in origins:
                tags[key] = replace(tag, source="fused", origins=tuple(map(spelled, origins[names[0]])))
        self.flat = FlatGraph(model, tags)
        self.types: dict[str, Any] = {}
        self.values = self.run(list(self.flat.producer), {"x": X})

    def may_be_float(self, name: str) -> bool:
        index = self.flat.producer.get(name)
        return index is None or self.flat.nodes[index].node.op_type not in NOT_FLOAT

    def shape(self, name: str) -> tuple[int, ...]:
        return self.values[name].shape

    def run(
        self, names: Sequence[str], inputs: Mapping[str, Array], *, given: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        values = {**inputs, **(given or {})}
        for index in self.flat.slice_to(names, stop=values)[0]:
            node = self.flat.nodes[index].node
            values[node.outputs[0]] = OPERATORS[node.op_type](*(values.get(name, W) for name in node.inputs))
        return {name: values[name] for name in names}


@dataclass
class Trace:
    """A reference: what each call took and returned, by tensors of a sound graph. Calls in the order of their ends."""

    graph: Graph
    calls: Sequence[ReferenceCall]
    returns: Sequence[Sequence[str]]
    takes: Mapping[int, Sequence[str]] = field(default_factory=dict)
    shared: bool = False
    name: str = "a trace"

    def __post_init__(self) -> None:
        self.inputs: Mapping[str, Array] = {"x": X}
        self.outputs = {name: self.graph.values[name] for name in self.graph.flat.outputs}

    def call_of(self, tag: NodeTag) -> int | None:
        return next((call.number for call in self.calls if call.tag == tag.tag and call.call == (tag.call or 0)), None)

    def returned(self, wanted: Sequence[int]) -> dict[int, tuple[Array, ...]]:
        return {number: tuple(self.graph.values[name] for name in self.returns[number]) for number in wanted}

    def named(self, names: Sequence[str]) -> dict[str, Array]:
        return {name: self.graph.values[name] for name in names if self.shared and name in self.graph.values}

    def received(self, number: int) -> tuple[Array, ...]:
        return tuple({"x": X, **self.graph.values}[name] for name in self.takes.get(number, ()))


def trace(sound: str, *calls: tuple[Any, ...], takes: Mapping[str, Sequence[str]] = {}, **options: Any) -> Trace:
    """A reference from calls `(path, parent, *tensors that it returned)`, as they ended; a dict has more of a call."""
    known: list[ReferenceCall] = []
    paths = [call[0] for call in calls]
    for number, (path, parent, *rest) in enumerate(calls):
        more = rest.pop() if rest and isinstance(rest[-1], dict) else {}
        plain, _, index = path.partition("@")
        tag = spelled(plain)
        facts = {"class_name": tag_class(tag), "repeated": bool(index), **more}
        known.append(
            ReferenceCall(
                number=number,
                tag=tag,
                path=tag_module_path(tag),
                call=int(index or 0),
                parent=paths.index(parent) if parent else None,
                **facts,
            )
        )
    returns = [[name for name in call[2:] if isinstance(name, str)] for call in calls]
    by_number = {paths.index(path): names for path, names in takes.items()}
    return Trace(Graph(sound), known, returns, by_number, **options)


def matched(
    graph: Graph, reference: Trace, *, tolerance: float = TOLERANCE
) -> tuple[Matcher, dict[str, CallComparison]]:
    matcher = Matcher(cast(Prober, graph), reference, tolerance=tolerance, max_bytes=1 << 20)
    return matcher, {call.path or "root": call for call in matcher.calls()}


def tensors(text: str, reference: Trace) -> dict[str, tuple[str, ...]]:
    """The tensors that each call was compared in."""
    return {path: call.tensors for path, call in matched(Graph(text), reference)[1].items()}


def boundaries(graph: Graph, *paths: str, parents: Mapping[str, str] = {}) -> Boundaries:
    """The tensors around the calls of some modules, given as they ended."""
    reference = trace("y = Sin(x)  # root", *((path, parents.get(path, "")) for path in paths))
    return Boundaries(graph.flat, reference.calls, reference.call_of, graph.may_be_float)


# --- The nodes of a graph -----------------------------------------------------------------------------------------


MERGED = """
    c = Cast(x)                       # root
    y = If(use_cache_branch) <        # root
        then_branch = then () => (float[N] t) { a = Neg(c)  # layer
            t = Sin(a)                # root
        },
        else_branch = other () => (float[N] e) { e = Cos(c)  # layer
        }>
"""


def flat(text: str, branch: bool | None = None) -> FlatGraph:
    small = read(text)
    return FlatGraph(small.model, tags_of(small), branch=branch)


@pytest.mark.parametrize(
    ("branch", "operators", "outputs"),
    [(True, ["Cast", "Neg", "Sin"], ("t",)), (False, ["Cast", "Cos"], ("e",)), (None, ["Cast", "If"], ("y",))],
)
def test_branch_stands_in_the_place_of_its_if(branch: bool | None, operators: list[str], outputs: tuple[str]) -> None:
    graph = flat(MERGED, branch)
    assert [node.node.op_type for node in graph.nodes] == operators
    assert graph.outputs == outputs
    assert graph.consumers["c"] == [1]


def test_nodes_in_bodies_are_hidden() -> None:
    """Those of the branch that runs are not, and those of the other branch do not run."""
    assert len(flat(MERGED).hidden) == 3
    assert flat(MERGED, True).hidden == []


def test_slice_stops_at_what_is_given() -> None:
    graph = flat("""
        a = Sin(x)      # root
        b = Cos(z)      # root
        y = Add(a, b)   # root
    """)
    assert graph.slice_to(["y"]) == ([0, 1, 2], ["z", "x"])
    assert graph.slice_to(["y"], stop=["a"]) == ([1, 2], ["z", "a"])
    assert graph.downstream("a") == {"y"}


# --- Candidates for the output of a call --------------------------------------------------------------------------


def test_likeliest_is_the_last_tensor_that_is_used_outside() -> None:
    """Then what is only used inside; the tensors of calls inside belong to the call."""
    graph = Graph("""
        a = Mul(x, w)   # layer.dense
        b = Add(a, w)   # layer.dense
        c = Sin(b)      # layer
        y = Cos(c)      # root
    """)
    found = boundaries(graph, "layer.dense", "layer", "root", parents={"layer.dense": "layer", "layer": "root"})
    assert found.candidates(0) == ["b", "a"]
    assert found.candidates(1) == ["c", "b", "a"]


def test_a_shape_that_is_looked_at_is_no_use() -> None:
    """But more of one than a use inside."""
    graph = Graph("""
        a = Sin(x)      # layer
        b = Cos(a)      # layer
        c = Neg(b)      # layer
        d = Identity(x) # layer
        e = Add(c, d)   # layer
        s = Shape(e)    # root
        y = Add(a, s)   # root
    """)
    assert boundaries(graph, "layer", "root").candidates(0) == ["a", "e", "d", "c", "b"]


def test_result_of_the_graph_is_used() -> None:
    graph = Graph(
        """
        y = Sin(x)      # layer
        a = Neg(y)      # layer
        z = Cos(a)      # layer
        """,
        outputs=["y"],
    )
    assert boundaries(graph, "layer", "root").candidates(0) == ["z", "y", "a"]


def test_integers_and_scales_are_no_candidates() -> None:
    graph = Graph("""
        a = Sin(x)                     # layer
        q = DynamicQuantizeLinear(a)   # layer
        i = Cast(a)                    # layer
        y = Add(q, i)                  # root
    """)
    assert boundaries(graph, "layer", "root").candidates(0) == ["a"]


def test_what_enters_a_call_varies_with_the_inputs() -> None:
    graph = Graph("""
        c = Sin(w)      # root
        a = Sin(x)      # root
        b = Mul(a, c)   # layer
        y = Add(b, a)   # layer
    """)
    assert boundaries(graph, "layer", "root").entering(0) == ["a"]


def test_node_of_several_modules_marks_those_it_lies_outside_of() -> None:
    """A bias that went into the next module's node is missing from what the first one returns."""
    graph = Graph(
        """
        a = Mul(x, w)   # layer.dense
        y = Add(a, w)   # layer.act
        """,
        y=["layer.dense", "layer.act"],
    )
    found = boundaries(
        graph, "layer.dense", "layer.act", "layer", parents={"layer.dense": "layer", "layer.act": "layer"}
    )
    assert found.fused == {0}


def test_batch_norm_without_nodes_was_folded_into_the_call_before_it() -> None:
    """If it has nodes, or is called from elsewhere, it was not."""
    sound = """
        a = Mul(x, w)   # conv
        y = Sin(a)      # act
    """
    calls = (("conv", "root", "a"), ("norm", "root", "a", {"class_name": "BatchNorm2d"}), ("root", "", "y"))
    reference = trace(sound, *calls)
    found = Boundaries(Graph(sound).flat, reference.calls, reference.call_of, lambda _: True)
    assert found.folded_batch_norm(0) == 1
    assert found.folded_batch_norm(2) is None
    elsewhere = trace(sound, ("conv", "root", "a"), ("norm", "", "a", {"class_name": "BatchNorm2d"}), calls[2])
    assert Boundaries(Graph(sound).flat, elsewhere.calls, elsewhere.call_of, bool).folded_batch_norm(0) is None


def test_outputs_are_assigned_by_shape_and_order() -> None:
    """Of one output the likeliest that fits; of several, all that fit in their order, else each the likeliest left."""
    shapes: dict[str, tuple[int | str | None, ...]] = {"last": (2, 4), "first": (2, 4), "other": (7,)}
    assert assign(["last", "other", "first"], [(2, 4)], shapes.get) == ["last"]
    assert assign(["last", "other", "first"], [(2, 4), (2, 4)], shapes.get) == ["first", "last"]
    assert assign(["last", "other", "first"], [(2, 4), (7,), (2, 4), (2, 4)], shapes.get) == [
        "last", "other", "first", None,
    ]  # fmt: skip
    assert assign(["other"], [(2, 4)], shapes.get) == [None]
    assert fits(("batch", 4), (2, 4)) and fits(None, (1,)) and not fits((3,), (2,)) and not fits((2, 4), (4,))


# --- Matching -----------------------------------------------------------------------------------------------------


SOUND = """
    a = Mul(x, w)   # layer.dense
    b = Add(a, w)   # layer.dense
    c = Add(b, x)   # layer
    y = Sin(c)      # layer.act
"""
CALLS = (
    ("layer.dense", "layer", "b"), ("layer.act", "layer", "y"), ("layer", "root", "y"), ("root", "", "y"),
)  # fmt: skip
TAKES = {"layer.dense": ["x"], "layer.act": ["c"], "layer": ["x"], "root": ["x"]}


def test_sound_graph_is_matched_by_place() -> None:
    _, calls = matched(Graph(SOUND), trace(SOUND, *CALLS))
    assert {path: call.tensors for path, call in calls.items()} == {
        "layer.dense": ("b",), "layer.act": ("y",), "layer": ("y",), "root": ("y",),
    }  # fmt: skip
    assert not any(call.over for call in calls.values())


def test_another_tensor_that_agrees_is_the_output() -> None:
    """A tool may have appended a node to the module: what is used outside is not what it returned."""
    after = SOUND.replace("c = Add(b, x)   # layer", "n = Neg(b)  # layer.dense\n c = Sub(x, n)  # layer")
    assert tensors(after, trace(SOUND, *CALLS, takes=TAKES))["layer.dense"] == ("b",)


def test_axes_in_another_order_agree() -> None:
    """An optimizer moved a transposition out of the module; its tensor can't be put in the place of the reference's."""
    sound = """
        a = Sin(x)           # layer
        t = Transpose(a)     # layer
        y = Cos(t)           # root
    """
    moved = """
        a = Sin(x)           # layer
        t = Transpose(a)     # root
        y = Cos(t)           # root
    """
    matcher, calls = matched(Graph(moved), trace(sound, ("layer", "root", "t"), ("root", "", "y")))
    assert calls["layer"].tensors == ("a",) and not calls["layer"].over
    assert matcher.matches[0].outputs[0].permuted


def test_fault_in_the_last_operation_is_not_explained_away() -> None:
    """What came before it agrees, and only the module itself uses that: the calls after it show that it is off."""
    sound = """
        a = Sin(x)        # dense
        b = Identity(a)   # dense
        y = Cos(b)        # act
    """
    faulty = sound.replace("Identity", "Neg").replace("Cos", "Sin")
    reference = trace(sound.replace("Cos", "Sin"), ("dense", "root", "b"), ("act", "root", "y"), ("root", "", "y"))
    _, calls = matched(Graph(faulty), reference)
    assert calls["dense"].tensors == ("b",) and calls["dense"].over and calls["act"].over


def test_tensor_that_nothing_downstream_confirms_is_not_the_output() -> None:
    """Cosine does not mind the sign: what dense seemed to return is far off, and nothing after it is."""
    sound = """
        a = Sin(x)        # dense
        b = Identity(a)   # dense
        y = Cos(b)        # act
    """
    reference = trace(sound, ("dense", "root", "b"), ("act", "root", "y"), ("root", "", "y"))
    _, calls = matched(Graph(sound.replace("Identity", "Neg")), reference)
    assert calls["dense"].tensors == ("a",) and not calls["dense"].over


def test_of_several_outputs_one_that_nothing_confirms_is_not_compared() -> None:
    sound = """
        a = Sin(x)   # rotary
        y = Cos(a)   # act
    """
    calls = (("rotary", "root", "a", {"several": True}), ("act", "root", "y"), ("root", "", "y"))
    reference = trace(sound, *calls)
    reference.graph.values["a"] = reference.graph.values["a"] + 100
    _, compared = matched(Graph(sound), reference)
    assert compared["rotary"].skipped == INCONSISTENT and compared["rotary"].tensors == ()


def test_module_that_passes_on_what_one_inside_returned_has_its_tensor() -> None:
    """Where its own choice is off: here the layer computes something more after that, which is used outside too."""
    sound = """
        a = Sin(x)      # layer.dense
        n = Flip(a)     # layer
        y = Add(a, n)   # root
    """
    reference = trace(
        sound, ("layer.dense", "layer", "a"), ("layer", "root", "a", {"passed_on": ((0, 0),)}), ("root", "", "y")
    )
    assert tensors(sound, reference)["layer"] == ("a",)
    faulty = sound.replace("Sin", "Cos")
    _, calls = matched(Graph(faulty), reference)
    assert calls["layer"].tensors == ("a",) and calls["layer"].over


def test_convolution_is_compared_as_the_batch_norm_folded_into_it() -> None:
    sound = """
        a = Cos(x)        # conv
        n = Mul(x, w)     # norm
        y = Sin(n)        # act
    """
    folded = """
        n = Mul(x, w)     # conv
        y = Sin(n)        # act
    """
    calls = (("conv", "root", "a"), ("norm", "root", "n", {"class_name": "BatchNorm2d"}), ("act", "root", "y"))
    reference = trace(sound, *calls, ("root", "", "y"))
    _, compared = matched(Graph(folded), reference)
    assert (compared["conv"].compared_as, compared["conv"].over) == ("norm", False)
    assert "norm" not in compared


def test_second_output_that_agrees_with_nothing_is_left_out() -> None:
    """A fault in it shows in the modules that read it."""
    sound = """
        a = Sin(x)      # split
        b = Cos(x)      # split
        y = Add(a, b)   # root
    """
    reference = trace(sound, ("split", "root", "a", "b"), ("root", "", "y"))
    assert tensors(sound, reference)["split"] == ("a", "b")
    _, calls = matched(Graph(sound.replace("b = Cos(x)", "b = Neg(x)")), reference)
    assert calls["split"].tensors == ("a",) and calls["split"].outputs == 2 and not calls["split"].over


def test_module_that_is_fused_in_part_is_compared_by_name() -> None:
    """In a tensor that both graphs have; where there is none, it is said that it is fused."""
    fused = """
        a = Mul(x, w)   # layer.dense
        b = Add(a, w)   # layer
        c = Add(b, x)   # layer
        y = Sin(c)      # layer.act
    """
    origins = {"b": ["layer.dense", "layer"]}
    _, calls = matched(Graph(fused, **origins), trace(SOUND, *CALLS, shared=True))
    assert calls["layer.dense"].tensors == ("a",) and calls["layer.dense"].errors == EXACT
    _, calls = matched(Graph(fused, **origins), trace(SOUND, *CALLS))
    assert calls["layer.dense"].skipped == FUSED and calls["layer.dense"].errors is None


def test_why_a_call_is_not_compared() -> None:
    """It returns no floats; no tensor has its shape; its nodes are in a body."""
    sound = """
        i = Cast(x)     # index
        a = Sin(x)      # odd
        y = Add(a, i)   # root
    """
    reference = trace(sound, ("index", "root"), ("odd", "root", "a"), ("root", "", "y"))
    reference.graph.values["a"] = np.ones(7, np.float32)
    _, calls = matched(Graph(sound), reference)
    assert (calls["index"].skipped, calls["odd"].skipped) == (NO_FLOATS, NO_TENSOR)
    graph = Graph(sound)
    graph.flat.hidden.append(NodeTag(spelled("body"), "scope"))
    hidden = trace(sound, *(("body", "root"), ("odd", "root", "a"), ("root", "", "y")))
    _, calls = matched(graph, hidden)
    assert (calls["body"].skipped, calls["body"].nodes) == (HIDDEN, 0)


def test_calls_of_one_module_have_tensors_of_their_own() -> None:
    twice = """
        a = Sin(x)   # layer@0
        y = Sin(a)   # layer@1
    """
    reference = trace(twice, ("layer@0", "root", "a"), ("layer@1", "root", "y"), ("root", "", "y"))
    matcher = Matcher(cast(Prober, Graph(twice)), reference, tolerance=TOLERANCE, max_bytes=1 << 20)
    calls = [(call.path, call.call, call.tensors) for call in matcher.calls()]
    assert calls == [("layer", 0, ("a",)), ("layer", 1, ("y",)), ("", None, ("y",))]


def test_integer_outputs_have_to_be_equal() -> None:
    """Nothing else shows that another index was chosen."""
    sound = """
        a = Sin(x)    # layer
        y = Cast(a)   # root
    """
    other = sound.replace("Cast(a)", "Cast(x)")
    matcher, _ = matched(Graph(other), trace(sound, ("layer", "root", "a"), ("root", "")))
    assert matcher.outputs()["y"].relative == np.inf


def test_match_is_as_far_off_as_its_worst_output() -> None:
    assert CallMatch().worst is None
    assert CallMatch().tensors == []


# --- Own and inherited error --------------------------------------------------------------------------------------


def isolated(faulty: str, reference: Trace) -> dict[str, Isolated | None]:
    """Each call that is off, run on the reference's tensors."""
    graph = Graph(faulty)
    matcher, compared = matched(graph, reference)
    isolator = Isolator(matcher, list(compared.values()))
    return {path: isolator.isolate(call) for path, call in compared.items() if call.over}


def test_error_that_is_added_is_told_from_error_that_is_inherited() -> None:
    """dense is off by itself; on what dense should have returned, act and the layer are sound."""
    found = isolated(SOUND.replace("a = Mul(x, w)", "a = Sub(x, w)"), trace(SOUND, *CALLS, takes=TAKES))
    assert [path for path, each in found.items() if each is not None and each.over] == ["layer.dense"]
    act = found["layer.act"]
    assert act is not None and act.added.relative <= TOLERANCE and act.source is None and act.fed == ("b",)
    assert act.between == ("layer",)  # the residual's addition lies between dense and act


def test_fault_of_the_operations_before_a_module_is_that_of_the_module_around_it() -> None:
    """The residual's addition is the layer's; act shows it first, and is sound on what it should be given."""
    found = isolated(SOUND.replace("c = Add(b, x)", "c = Sub(b, x)"), trace(SOUND, *CALLS, takes=TAKES))
    act = found["layer.act"]
    assert act is not None and not act.over
    assert act.alone is not None and act.alone.relative <= TOLERANCE < act.added.relative
    assert act.source is not None and act.source.path == "layer"


def test_permuted_tensor_is_not_fed() -> None:
    """The reference's has its axes in another order."""
    sound = """
        a = Sin(x)           # layer
        t = Transpose(a)     # layer
        y = Cos(t)           # act
    """
    faulty = """
        a = Sin(x)           # layer
        t = Transpose(a)     # root
        y = Neg(t)           # act
    """
    found = isolated(faulty, trace(sound, ("layer", "root", "t"), ("act", "root", "y"), ("root", "", "y")))
    assert found["act"] is not None and found["act"].fed == () and found["act"].over


# --- The verdict --------------------------------------------------------------------------------------------------


FAR = Errors(1.0, 1.0, 1.0, 0.0, 0.0)


def call(order: int, path: str, errors: Errors | None = None) -> CallComparison:
    return CallComparison(order=order, tag="", path=path, class_name="", errors=errors, over=errors is not None)


def part(*calls: CallComparison, **options: Any) -> PartComparison:
    return PartComparison(
        file="model.onnx", reference="", inputs={}, tolerance=TOLERANCE, calls=calls, outputs={}, **options
    )


def test_culprit_is_who_makes_the_first_error() -> None:
    """The first call that is off, unless what makes its error is known to be another's."""
    sound, layer, act = call(0, "dense"), call(2, "layer", FAR), call(1, "act", FAR)
    assert part(sound, act, layer).culprit is act
    assert part(sound, act, layer, isolated=(Isolated(call=act, added=FAR),)).culprit is act
    assert part(sound, act, layer, isolated=(Isolated(call=act, added=FAR, source=layer),)).culprit is layer
    assert part(sound).culprit is None and part(sound).ok


def test_first_modules_far_off_by_themselves_look_foreign() -> None:
    calls = [call(order, f"layer.{order}", FAR) for order in range(3)]
    own = [Isolated(call=each, added=FAR, source=each) for each in calls]
    assert part(*calls, isolated=tuple(own)).looks_foreign
    assert not part(*calls, isolated=tuple(own[:2])).looks_foreign


# --- Tolerances ---------------------------------------------------------------------------------------------------


def model_of(node: str, **weights: str) -> OnnxModel:
    """A model of one node, with matrices of these types."""
    graph = onnx.parser.parse_graph(f"main (float[2, 2] x) => (float[2, 2] y) {{ {node} }}")
    for name, kind in weights.items():
        number = onnx.TensorProto.DataType.Value(kind)
        graph.initializer.append(onnx.helper.make_tensor(name, number, [2, 2], [1, 2, 3, 4]))
    content = onnx.helper.make_model(graph).SerializeToString()
    return read_content(content, path=Path("model.onnx"))


@pytest.mark.parametrize(
    ("node", "weights", "kind"),
    [
        ("y = MatMul(x, w)", {"w": "FLOAT"}, "float32"),
        ("y = MatMul(x, w)", {"w": "FLOAT16"}, "float16"),
        ("y = MatMul(x, w)", {"w": "BFLOAT16", "v": "FLOAT16"}, "bfloat16"),
        ("y = DequantizeLinear(x, w)", {"w": "FLOAT"}, "int8"),
        ("y = ConvInteger(x, w)", {"w": "INT8"}, "int8"),
        ("y = MatMulNBits(x, w)", {"w": "UINT8"}, "int8"),
        ("y = Sin(x)", {}, "float32"),
    ],
)
def test_tolerance_is_that_of_what_a_model_computes_with(node: str, weights: dict[str, str], kind: str) -> None:
    """One table for `validate` and `compare`: weights alone that are quantized are quantized for both."""
    model = model_of(node, **weights)
    assert computes_in(model) == kind
    assert default_tolerance(model) == TOLERANCES[kind]


def test_documents_spell_out_the_tolerances() -> None:
    spelled = sorted({f"{value:.0e}".replace("e-0", "e-") for value in TOLERANCES.values()})
    page = Path(__file__).parents[1] / "docs/measuring.md"
    texts = [COMPARE_NOTES, compare.__doc__ or "", page.read_text(encoding="utf-8").partition("The tolerance is ")[2]]
    for text in texts:
        assert sorted(set(re.findall(r"\b\de-\d\b", text))) == spelled


def test_of_two_models_the_coarser_has_the_tolerance() -> None:
    assert default_tolerance(model_of("y = Sin(x)"), model_of("y = Sin(x)", w="FLOAT16")) == TOLERANCES["float16"]


def test_random_operators_in_bodies_count() -> None:
    small: SmallGraph = read("""
        y = If(x) <        # root
            then_branch = then () => (float[N] t) { t = RandomNormalLike(x)  # root
            },
            else_branch = other () => (float[N] e) { e = Cos(x)  # root
            }>
    """)
    assert random_operators(small.model) == ("RandomNormalLike",)
