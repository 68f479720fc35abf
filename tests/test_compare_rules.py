"""The rules of `compare`, one by one, on graphs small enough to see: no torch, no export.

The comments say whose node each is. What a rule says of the structure is asked of the graph alone; what it says of values,
of two such files, the sound one and one that differs from it, as `compare` runs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast
from zlib import crc32

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from small_graphs import SmallGraph, read, save, spelled, tagged, tags_of

from optimum_htp.cli.compare import _NOTES as COMPARE_NOTES
from optimum_htp.hierarchy.tags import NodeTag, tag_class, tag_module_path
from optimum_htp.models.flat_graph import FlatGraph
from optimum_htp.models.measures import (
    EXACT,
    TOLERANCES,
    Errors,
    Measure,
    compare_arrays,
    computes_in,
    default_tolerance,
    measure_errors,
    random_operators,
)
from optimum_htp.models.prober import HALF_NOTE, PlannedNode, Prober
from optimum_htp.onnxfile.model import Node, OnnxModel
from optimum_htp.onnxfile.reading import read_content
from optimum_htp.package.package import HtpPackage
from optimum_htp.verbs.compare import CallComparison, Culprit, PartComparison, compare
from optimum_htp.verbs.compare.call_graph import CallGraph
from optimum_htp.verbs.compare.cut_graph import Cut, Port
from optimum_htp.verbs.compare.expected import MARGIN_DB, Expected, _of_integers
from optimum_htp.verbs.compare.graph_comparison import FUSED, NO_TENSOR
from optimum_htp.verbs.compare.layout import AS_IT_IS, Layout, fit
from optimum_htp.verbs.compare.own_errors import Row
from optimum_htp.verbs.compare.ports import Ports
from optimum_htp.verbs.compare.quantized_steps import noise_of_range
from optimum_htp.verbs.compare.reference import ReferenceCall
from optimum_htp.verbs.compare.verdict import Blame, Outputs, Verdict, _by_module, _is_to_blame, settled

Array = np.ndarray[Any, Any]

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


def test_nearest_tensors_that_are_known() -> None:
    graph = flat("""
        a = Sin(x)      # root
        b = Cos(a)      # root
        c = Sin(w)      # root
        y = Add(b, c)   # root
    """)
    assert graph.known_sources("y", {"a", "c"}) == ({"a"}, {1, 3})  # c is a constant
    assert graph.known_sources("y", ()) == ({"x"}, {0, 1, 3})


# --- What enters and leaves a call --------------------------------------------------------------------------------


def calls_of(paths: Sequence[str], parents: Mapping[str, str] = {}) -> list[ReferenceCall]:
    """Calls of modules, `a.b@1` the second one of `a.b`, in the order of their ends; without a parent, the root's."""
    calls = []
    for number, path in enumerate(paths):
        plain, _, index = path.partition("@")
        tag = spelled(plain)
        above = parents.get(path, "root" if plain != "root" else "")
        calls.append(
            ReferenceCall(
                number=number,
                tag=tag,
                path=tag_module_path(tag),
                class_name=tag_class(tag),
                call=int(index or 0),
                parent=paths.index(above) if above else None,
            )
        )
    return calls


def call_graph(
    text: str, *paths: str, parents: Mapping[str, str] = {}, outputs: Sequence[str] = (), **origins: Sequence[str]
) -> CallGraph:
    """A graph with the calls of these modules; `origins` has by tensor the modules that its node was made of."""
    model, tags = tagged(text, outputs=outputs)
    for key, tag in tags.items():
        names = model.graph.nodes[key[1]].outputs
        if names[0] in origins:
            tags[key] = replace(tag, source="fused", origins=tuple(map(spelled, origins[names[0]])))
    calls = calls_of(paths, parents)

    def call_of(tag: NodeTag) -> int | None:
        return next((call.number for call in calls if call.tag == tag.tag and call.call == (tag.call or 0)), None)

    return CallGraph(FlatGraph(model, tags), calls, call_of)


def test_last_tensor_that_is_used_outside_comes_first() -> None:
    """The tensors of calls inside belong to the call too."""
    graph = call_graph(
        """
        a = Mul(x, w)   # layer.dense
        b = Add(a, w)   # layer.dense
        c = Sin(b)      # layer
        y = Cos(c)      # root
        """,
        *("layer.dense", "layer", "root"),
        parents={"layer.dense": "layer"},
    )
    assert (graph.leaving(0), graph.inside(0)) == (["b"], ["b", "a"])
    assert (graph.leaving(1), graph.inside(1)) == (["c"], ["c", "b", "a"])
    assert graph.children == {None: [2], 2: [1], 1: [0]}


def test_a_shape_that_is_looked_at_is_no_use() -> None:
    """But more of one than none."""
    graph = call_graph(
        """
        a = Sin(x)      # layer
        b = Cos(a)      # layer
        e = Neg(b)      # layer
        s = Shape(e)    # root
        y = Add(a, s)   # root
        """,
        *("layer", "root"),
    )
    assert graph.leaving(0) == ["a", "e"]
    assert graph.is_used(0, "a") and not graph.is_used(0, "e")


def test_result_of_the_graph_is_used() -> None:
    graph = call_graph(
        """
        y = Sin(x)      # layer
        a = Neg(y)      # layer
        z = Cos(a)      # layer
        """,
        *("layer", "root"),
        outputs=["y"],
    )
    assert graph.leaving(0) == ["z", "y"]


def test_what_enters_a_call_varies_with_the_inputs() -> None:
    graph = call_graph(
        """
        c = Sin(w)      # root
        a = Sin(x)      # root
        b = Mul(a, c)   # layer
        y = Add(b, a)   # layer
        """,
        *("layer", "root"),
    )
    assert graph.entering(0) == ["a"]
    assert graph.readers(0, "a") == [2, 3]


QUANTIZED_BOTH_WAYS = """
    a = Sin(x)                          # act
    q = QuantizeLinear(a, ws, wz)       # act
    d = DequantizeLinear(q, ws, wz)     # act
    v = DequantizeLinear(wq, ws, wz)    # dense
    y = MatMul(d, v)                    # dense
"""


def test_quantizing_an_activation_is_the_work_of_who_reads_it() -> None:
    """Wherever a tool has put it: `a` leaves act and enters dense. A weight's dequantization is its module's."""
    graph = call_graph(QUANTIZED_BOTH_WAYS, "act", "dense", "root")
    assert graph.adapters == {1, 2}
    assert graph.owner == [0, None, None, 1, 1]
    assert graph.leaving(0) == ["a"]
    assert graph.entering(1) == ["a"]
    assert graph.source("d") == "a"


def test_output_that_is_quantized_at_the_end_leaves_before_that() -> None:
    graph = call_graph(
        """
        a = Sin(x)                          # act
        q = QuantizeLinear(a, ws, wz)       # act
        y = DequantizeLinear(q, ws, wz)     # act
        """,
        *("act", "root"),
    )
    assert graph.leaving(0) == ["a"]


def test_node_of_several_modules_marks_those_it_lies_outside_of() -> None:
    """A bias that went into the next module's node is missing from what the first one returns."""
    graph = call_graph(
        """
        a = Mul(x, w)   # layer.dense
        y = Add(a, w)   # layer
        """,
        *("layer.dense", "layer.act", "layer", "root"),
        parents={"layer.dense": "layer", "layer.act": "layer"},
        y=["layer.dense", "layer.act"],
    )
    assert graph.fused == {0: [1], 1: [1]}


def test_call_is_hidden_whose_nodes_are_all_in_bodies() -> None:
    graph = call_graph(MERGED, "layer", "root")
    assert graph.hidden == [0] and graph.nodes == {1: {0, 1}}


def test_calls_that_are_too_deep_are_one_with_those_around_them() -> None:
    graph = call_graph(
        """
        a = Mul(x, w)   # layer.dense
        y = Sin(a)      # layer
        """,
        *("layer.dense", "layer", "root"),
        parents={"layer.dense": "layer"},
    )
    assert graph.owner == [0, 1]
    shallow = graph.at_depth(1)
    assert shallow.owner == [1, 1] and not shallow.has_call(0) and shallow.has_call(1)


# --- Views: who reads the reference's values where ----------------------------------------------------------------


BLOCK = """
    d = MatMul(x, w)   # block.dense
    s = Add(x, d)      # block
    y = Sin(s)         # block.norm
"""
DENSE, NORM, AROUND, ROOT = range(4)
IN_BLOCK = {"block.dense": "block", "block.norm": "block"}


def block(text: str = BLOCK) -> CallGraph:
    return call_graph(text, "block.dense", "block.norm", "block", "root", parents=IN_BLOCK)


def into(call: int, tensor: str) -> Port:
    return Port(call, tensor, into=True)


def out(call: int, tensor: str) -> Port:
    return Port(call, tensor, into=False)


ALL_PORTS = (
    into(DENSE, "x"), out(DENSE, "d"), into(NORM, "s"), out(NORM, "y"), into(AROUND, "x"), out(AROUND, "y"),
    into(ROOT, "x"), out(ROOT, "y"),
)  # fmt: skip


def work(cut: Cut, port: Port) -> tuple[list[int], set[Port]]:
    """The nodes that make what is at a port, and the ports whose values they take."""
    name = cut.seen(port)
    plan = cut.plan({"it": name})
    assert set(plan.fed.values()) == cut.sources(name)
    return sorted(node.index for node in plan.nodes), cut.sources(name)


@pytest.mark.parametrize(
    ("port", "nodes", "given"),
    [
        (out(DENSE, "d"), [0], {into(DENSE, "x")}),
        (into(NORM, "s"), [1], {into(AROUND, "x"), out(DENSE, "d")}),
        (out(NORM, "y"), [2], {into(NORM, "s")}),
        (out(AROUND, "y"), [], {out(NORM, "y")}),  # it is handed on
        (out(ROOT, "y"), [], {out(AROUND, "y")}),
        (into(DENSE, "x"), [], {into(AROUND, "x")}),
    ],
)
def test_each_call_works_on_the_values_at_its_own_borders(port: Port, nodes: list[int], given: set[Port]) -> None:
    assert work(Cut(block(), fed=ALL_PORTS), port) == (nodes, given)


def test_without_ports_it_is_the_running_model() -> None:
    cut = Cut(block())
    assert work(cut, out(NORM, "y")) == ([0, 1, 2], set())
    assert cut.plan({"y": cut.seen(out(NORM, "y"))}).inputs == {"x"}
    assert all(not node.names for node in cut.plan({"y": "y"}).nodes)


def test_border_that_is_not_known_is_looked_through() -> None:
    """Of dense only what it returned is known: the norm is run on what the addition makes of that."""
    cut = Cut(block(), fed=[out(DENSE, "d")])
    assert work(cut, out(NORM, "y")) == ([1, 2], {out(DENSE, "d")})


def test_missing_addition_leaves_nothing_between_the_calls() -> None:
    """The norm is given what dense returned, and no node makes what it should be given."""
    faulty = block(BLOCK.replace("s = Add(x, d)      # block\n", "").replace("Sin(s)", "Sin(d)"))
    ports = (into(DENSE, "x"), out(DENSE, "d"), into(NORM, "d"), out(NORM, "y"))
    cut = Cut(faulty, fed=ports)
    assert work(cut, into(NORM, "d")) == ([], {out(DENSE, "d")})
    assert cut.segment(cut.seen(into(NORM, "d"))) == set()


def test_one_tensor_has_the_values_of_each_side() -> None:
    """A wrong one is given to the block, and a right one returned by dense: each reader has its own."""
    cut = Cut(block(), fed=[into(DENSE, "x"), into(AROUND, "x")])
    assert cut.view("x", DENSE) != cut.view("x", AROUND) != cut.view("x", ROOT) == "x"


def test_each_reader_quantizes_for_itself() -> None:
    """One node in the file, two in the run: each on what the reference gave to its own call."""
    graph = call_graph(
        """
        q, s, z = DynamicQuantizeLinear(x)   # first
        m = MatMulInteger(q, w, z)           # first
        y = MatMulInteger(q, w, z)           # second
        """,
        *("first", "second", "root"),
    )
    cut = Cut(graph, fed=[into(0, "x"), into(1, "x"), out(0, "m"), out(1, "y")])
    assert work(cut, out(0, "m")) == ([0, 1], {into(0, "x")})
    assert work(cut, out(1, "y")) == ([0, 2], {into(1, "x")})
    plan = cut.plan({"m": cut.seen(out(0, "m")), "y": cut.seen(out(1, "y"))})
    assert [node.index for node in plan.nodes] == [0, 0, 1, 2]
    quantizers = [node for node in plan.nodes if node.index == 0]
    assert len({node.names["q"] for node in quantizers}) == 2


def test_all_readers_of_a_fused_node_have_its_value() -> None:
    """A node outside dense returns what it did: the same for who reads it, wherever that is."""
    graph = call_graph(
        """
        a = Mul(x, w)   # layer.dense
        b = Add(a, w)   # layer
        y = Sin(b)      # layer.act
        z = Cos(b)      # root
        """,
        *("layer.dense", "layer.act", "layer", "root"),
        parents={"layer.dense": "layer", "layer.act": "layer"},
        b=["layer.dense", "layer.act"],
    )
    shared = Port(0, "b", into=False, shared=True)
    cut = Cut(graph, fed=[shared])
    assert work(cut, out(1, "y")) == ([2], {shared})
    assert work(cut, out(3, "z")) == ([3], {shared})
    assert work(cut, shared) == ([0, 1], set())


def test_constants_are_no_work_where_something_varies() -> None:
    graph = call_graph(
        """
        c = Sin(w)      # layer
        a = Mul(x, c)   # layer
        k = Cos(w)      # other
        y = Add(a, k)   # root
        """,
        *("layer", "other", "root"),
    )
    cut = Cut(graph)
    assert cut.segment("a") == {1}
    assert {maker.index for maker in cut.makers("a")} == {0, 1}
    assert cut.segment("k") == {2}  # all that there is


def test_correction_adds_to_what_the_model_computes() -> None:
    """Where a reader reads it: the running model, with the error of one call taken off."""
    port = out(DENSE, "d")
    cut = Cut(block(), corrected=[port])
    plan = cut.plan({"y": cut.view("y", None)})
    assert [(each.base, each.port) for each in plan.corrections] == [("d", port)]
    assert not plan.fed and plan.inputs == {"x"}
    (addition,) = (node for node in plan.nodes if node.index == 1)
    assert addition == PlannedNode(1, {"d": plan.corrections[0].name})


# --- Two files ----------------------------------------------------------------------------------------------------


SHAPE = (2, 3, 6)
_HEAD = f"main (float{list(SHAPE)} x) => (float{list(SHAPE)} y)"


def array_of(name: str) -> Array:
    """The weight with a name, the same each time: `v...` a vector, others a matrix."""
    random = np.random.default_rng(crc32(name.encode()))
    array = random.standard_normal(SHAPE[-1:] if name.startswith("v") else (SHAPE[-1], SHAPE[-1]))
    return (array / np.sqrt(array.shape[-1])).astype(np.float32)


class Compared(Protocol):
    def __call__(
        self, faulty: str, sound: str = ..., *, named: bool = ..., weights: Mapping[str, Any] = ..., **options: Any
    ) -> PartComparison: ...


@pytest.fixture
def compared(tmp_path: Path) -> Compared:
    """A function that compares two graphs.

    Weights in the text begin with `w` or `v`; `weights` has those that are not any. Unless `named`, tensors within the
    reference have other names: only their values are evidence, as those of PyTorch are.
    """

    def of(
        faulty: str, sound: str = "", *, named: bool = True, weights: Mapping[str, Any] = {}, **options: Any
    ) -> PartComparison:
        origins = options.pop("origins", {})
        head, opset = options.pop("head", _HEAD), options.pop("opset", 17)
        sound = sound or faulty
        written(tmp_path / "faulty" / "model.onnx", faulty, weights, head, opset, origins)
        if not named:
            sound, head = with_other_names(sound), head.removesuffix("y)") + "other_y)"
            options["renamed"] = {"y": "other_y"}
        written(tmp_path / "sound" / "model.onnx", sound, weights, head, opset)
        for index, sample in enumerate(samples := options.pop("samples", ())):
            np.savez(tmp_path / f"{index}.npz", x=sample)
        files = [tmp_path / f"{index}.npz" for index in range(len(samples))]
        report = compare(tmp_path / "faulty", reference=tmp_path / "sound", threads=1, inputs=files or None, **options)
        (part,) = report.parts
        return part

    return of


def written(
    path: Path,
    text: str,
    weights: Mapping[str, Any],
    head: str = _HEAD,
    opset: int = 17,
    origins: Mapping[str, Sequence[str]] = {},
) -> Path:
    code = "\n".join(line.partition("#")[0] for line in text.splitlines())
    names = dict.fromkeys(re.findall(r"[(,] *([wv]\w*)", code))
    arrays = {name: weights[name] if name in weights else array_of(name) for name in names}
    tensors = {
        name: array if isinstance(array, TensorProto) else numpy_helper.from_array(array, name)
        for name, array in arrays.items()
    }
    return save(path, f"{head} {{{text}}}", weights=tensors, opset=opset, origins=origins)


def with_other_names(text: str) -> str:
    """A graph with other names for the tensors that it computes."""
    names = [name.strip() for left in re.findall(r"^(.*?) = ", text, re.MULTILINE) for name in left.split(",")]
    pattern = rf"\b({'|'.join(names)})\b"
    lines = []
    for line in text.splitlines():
        code, mark, comment = line.partition("#")
        lines.append(re.sub(pattern, r"other_\1", code) + mark + comment + "\n")
    return "".join(lines)


def named(part: PartComparison) -> list[str]:
    """The culprits: `a.b`, `a.b@1` for a call, `a.b+` for the operations between its children."""
    return [spell(culprit.row) for culprit in part.culprits]


def spell(call: CallComparison) -> str:
    return f"{call.path or 'root'}{'+' if call.operations else ''}{'' if call.call is None else f'@{call.call}'}"


def rows(part: PartComparison) -> dict[str, CallComparison]:
    return {spell(call): call for call in part.calls}


SOUND = """
    a = MatMul(x, w)                                     # layer.dense
    b = Add(a, v)                                        # layer.dense
    c = Add(b, x)                                        # layer
    d = LayerNormalization <axis = -1> (c, vg)           # layer.norm
    y = Tanh(d)                                          # head
"""


# --- Which tensor is a module's: by name, by value, by shape ------------------------------------------------------


def test_tensors_of_the_reference_s_own_graph_are_known_by_name(compared: Compared) -> None:
    part = compared(SOUND)
    assert part.verdict == "agrees" and part.output_error == 0
    assert {spell(call): (call.tensors, call.evidence) for call in part.modules} == {
        "layer.dense": (("b",), "name"),
        "layer.norm": (("d",), "name"),
        "layer": (("d",), "name"),
        "head": (("y",), "name"),
        "root": (("y",), "name"),
    }
    assert all(call.own == EXACT for call in part.modules)


def test_output_that_is_quantized_is_known_by_the_name_of_what_comes_after(compared: Compared) -> None:
    """Its values can't tell if they are wrong."""
    sound = """
        a = Sin(x)                               # first
        y = MatMul(a, w)                         # head
    """
    text = """
        a = Sin(x)                               # first
        h = MatMul(a, wother)                    # head
        q = QuantizeLinear(h, vscale, vzero)     # head
        y = DequantizeLinear(q, vscale, vzero)   # head
    """
    weights = {"vscale": np.array(0.02, np.float32), "vzero": np.array(128, np.uint8)}
    part = compared(text, sound, weights=weights)
    assert (part.verdict, named(part)) == ("one", ["head"])
    assert (rows(part)["head"].tensors, rows(part)["head"].evidence) == (("h",), "name")


def test_without_names_the_values_tell(compared: Compared) -> None:
    part = compared(SOUND, named=False)
    assert {spell(call): (call.tensors, call.evidence) for call in part.modules if call.path != ""} == {
        "layer.dense": (("b",), "value"),
        "layer.norm": (("d",), "value"),
        "layer": (("d",), "value"),
        "head": (("y",), "value"),
    }


def test_where_nothing_agrees_the_shape_does_and_all_that_rests_on_it_is_a_guess(compared: Compared) -> None:
    part = compared(SOUND.replace("Add(a, v)", "Sub(a, v)"), SOUND, named=False)
    found = rows(part)
    assert named(part) == ["layer.dense"]
    assert (found["layer.dense"].tensors, found["layer.dense"].evidence) == (("b",), "shape")
    assert found["layer.norm"].evidence == "shape" and found["layer.norm"].own.sqnr_db > 110  # type: ignore[union-attr]


def test_tool_that_adds_a_node_to_a_module_does_not_change_what_it_returns(compared: Compared) -> None:
    """What is used outside is not what it returned; a tensor inside has those values."""
    after = SOUND.replace("c = Add(b, x)   ", "n = Neg(b)   # layer.dense\n c = Sub(x, n)  ")
    for is_named in (True, False):
        part = compared(after, SOUND, named=is_named)
        assert part.verdict == "agrees"
        assert rows(part)["layer.dense"].tensors == ("b",)


def test_value_has_to_agree_on_all_samples(compared: Compared) -> None:
    """Of positive numbers the absolute ones are the same."""
    text = """
        p = Abs(x)        # layer
        r = Mul(x, vone)  # layer
        s = Add(p, r)     # root
        y = Tanh(s)       # head
    """
    sound = """
        r = Mul(x, vone)  # layer
        p = Abs(x)        # root
        s = Add(p, r)     # root
        y = Tanh(s)       # head
    """
    one = {"vone": np.ones(6, np.float32)}
    positive = np.abs(array_of("x").reshape(1, 6, 6)[:, :3]).repeat(2, 0)
    assert rows(compared(text, sound, named=False, weights=one, samples=[positive]))["layer"].tensors == ("r", "p")
    part = compared(text, sound, named=False, weights=one, samples=[positive, -positive])
    assert rows(part)["layer"].tensors == ("r",) and part.samples == 2 and part.verdict == "agrees"


def test_all_tensors_that_agree_are_ports(compared: Compared) -> None:
    """A tool doubled one: whoever reads either reads the reference's values."""
    sound = """
        a = Sin(x)        # layer
        b = Cos(a)        # first
        c = Exp(a)        # second
        y = Add(b, c)     # root
    """
    doubled = sound.replace("b = Cos(a)", "i = Mul(a, vone)  # layer\n b = Cos(i)")
    part = compared(doubled, sound, named=False, weights={"vone": np.ones(6, np.float32)})
    assert set(rows(part)["layer"].tensors) == {"a", "i"}
    assert part.verdict == "agrees" and all(call.own.sqnr_db > 110 for call in part.modules if call.own)


@pytest.mark.parametrize(
    ("away", "back"), [("Transpose <perm = [1, 2, 0]>", "Transpose <perm = [2, 0, 1]>"), ("Flatten", "Reshape")]
)
@pytest.mark.parametrize("fault", [False, True])
def test_layout_that_a_tool_moved_out_is_fed_as_the_graph_has_it(
    away: str, back: str, fault: bool, compared: Compared
) -> None:
    """The reference's tensor has its axes in another order, or another shape: the module after it reads its own."""
    sound = """
        a = Sin(x)        # layer
        b = Cos(a)        # act
        y = Neg(b)        # root
    """
    back = f"{back}(t)" if back != "Reshape" else "Reshape(t, wshape)"
    moved = f"""
        s = Sin(x)        # layer
        t = {away}(s)     # layer
        a = {back}        # root
        b = Cos(a)        # act
        y = Neg(b)        # root
    """
    moved = moved.replace("Cos", "Exp") if fault else moved
    part = compared(moved, sound, named=False, weights={"wshape": np.array(SHAPE)})
    found = rows(part)
    assert set(found["layer"].tensors) <= {"s", "t"} and found["layer"].evidence == "value"
    assert found["layer"].own is not None and found["layer"].own.sqnr_db > 110
    assert named(part) == (["act"] if fault else [])


def test_tensor_with_the_name_and_another_shape_is_not_it(compared: Compared) -> None:
    sound = """
        a = Sin(x)             # layer
        y = Cos(a)             # act
    """
    other = """
        s = Sin(x)             # layer
        a = Flatten(s)         # layer
        b = Reshape(a, wshape) # root
        y = Cos(b)             # act
    """
    part = compared(other, sound, weights={"wshape": np.array(SHAPE)})
    assert part.verdict == "agrees"
    assert rows(part)["layer"].evidence == "value"


def test_fault_in_the_last_operation_is_not_explained_away(compared: Compared) -> None:
    """What came before it agrees, and only the module itself uses that."""
    sound = """
        a = Sin(x)        # dense
        b = Add(a, vzero) # dense
        y = Exp(b)        # act
    """
    zero = {"vzero": np.zeros(6, np.float32)}
    faulty = sound.replace("Add(a, vzero)", "Neg(a)")
    for is_named in (True, False):
        part = compared(faulty, sound, weights=zero, named=is_named)
        assert named(part) == ["dense"]
        assert part.culprits[0].output_error_without == pytest.approx(0, abs=1e-6)


def test_fault_in_the_last_operation_of_a_module_whose_caller_reads_it(compared: Compared) -> None:
    """No border of another module is between: the operations of the block read what they should not."""
    sound = """
        a = Sin(x)        # block.dense
        b = Add(a, vzero) # block.dense
        c = Exp(b)        # block
        y = Add(c, x)     # head
    """
    faulty = sound.replace("Add(a, vzero)", "Neg(a)")
    for is_named in (True, False):
        part = compared(faulty, sound, weights={"vzero": np.zeros(6, np.float32)}, named=is_named)
        assert named(part) == ["block.dense"]
        assert part.culprits[0].output_error_without == pytest.approx(0, abs=1e-6)


def test_change_that_nothing_downstream_shows_accuses_nobody(compared: Compared) -> None:
    """Cosine does not mind the sign: what dense returns is another, and nothing after it is."""
    sound = """
        a = Sin(x)        # dense
        b = Identity(a)   # dense
        y = Cos(b)        # act
    """
    for is_named in (True, False):
        part = compared(sound.replace("Identity", "Neg"), sound, named=is_named)
        assert part.verdict == "agrees" and not part.culprits and part.ok


def test_what_does_not_fit_into_memory_is_seen_in_chunks(compared: Compared) -> None:
    """Of one call each where there is no room for more."""
    for is_named in (True, False):
        whole, part = (compared(SOUND, named=is_named, max_memory_bytes=size) for size in (1 << 30, 1))
        assert part.calls == whole.calls and part.verdict == "agrees"
        assert part.chunks >= len(part.modules) and part.chunks > 2 * whole.chunks


def test_second_output_that_is_wrong_is_that_of_its_maker(compared: Compared) -> None:
    sound = """
        a = Sin(x)      # split
        b = Cos(x)      # split
        y = Add(a, b)   # root
    """
    for is_named in (True, False):
        part = compared(sound.replace("b = Cos", "b = Exp"), sound, named=is_named)
        assert named(part) == ["split"]


def test_name_of_an_output_is_no_sign_of_a_common_origin(compared: Compared) -> None:
    """Exports of one model by different tools call their outputs the same, and nothing in between."""
    sound = """
        a = Sin(x)      # split
        b = Cos(x)      # split
        y = Add(a, b)   # root
    """
    other = """
        c = Sin(x)      # split
        d = Exp(x)      # split
        y = Add(c, d)   # root
    """
    assert named(compared(other, sound)) == ["split"]


def test_convolution_is_compared_as_the_batch_norm_folded_into_it() -> None:
    """If that has nodes, or is called from elsewhere, it was not."""
    text = """
        a = Mul(x, w)   # net.conv
        y = Sin(a)      # act
    """

    def compared_as(paths: Sequence[str], parents: Mapping[str, str], class_name: str = "BatchNorm2d") -> int | None:
        graph = call_graph(text, *paths, parents=parents)
        calls = [replace(each, class_name=class_name) if "norm" in each.path else each for each in graph.calls]
        graph = CallGraph(graph.flat, calls, lambda tag: next((c.number for c in calls if c.tag == tag.tag), None))
        ports = Ports(graph, cast(Prober, None), [], precision="float32", agree_db=60.0, max_bytes=1)
        return ports.compared_as(0)

    paths = ("net.conv", "net.norm", "net", "act", "root")
    inside = {"net.conv": "net", "net.norm": "net"}
    assert compared_as(paths, inside) == 1
    assert compared_as(paths, inside, "LayerNorm") is None
    assert compared_as(("net.conv", "norm", "net", "act", "root"), {"net.conv": "net"}) is None
    assert compared_as(("net.conv", "act", "net.norm", "net", "root"), inside) is None


def test_whole_numbers_that_only_another_module_knows_are_not_guessed() -> None:
    """An exporter lets the second layer read what the first computed too: it is not what that was given, and wrong."""
    graph = call_graph(
        """
        a = Neg(x)      # first
        b = Cast(a)     # first
        d = Add(z, x)   # root
        c = Sub(a, d)   # second
        y = Sub(c, b)   # second
        """,
        "first", "second", "root",
    )  # fmt: skip
    ports = Ports(graph, cast(Prober, None), [], precision="float32", agree_db=60.0, max_bytes=1)
    whole, real = [np.arange(3)], [np.ones(3, np.float32)]
    assert not ports._may_be_given(Port(1, "a", into=True), whole)
    assert ports._may_be_given(Port(1, "a", into=True), real)
    for name in "dz":
        assert ports._may_be_given(Port(1, name, into=True), whole)


def test_module_that_is_fused_in_part_is_compared_by_name_or_said_to_be_fused(compared: Compared) -> None:
    """The bias of dense went into a node of the layer."""
    fused = """
        a = MatMul(x, w)                                   # layer.dense
        c = Sum(a, v, x)                                   # layer
        d = LayerNormalization <axis = -1> (c, vg)         # layer.norm
        y = Tanh(d)                                        # head
    """
    origins = {"c": ["layer.dense", "layer"]}
    part = compared(fused, SOUND, origins=origins)
    dense = rows(part)["layer.dense"]
    assert (dense.tensors, dense.evidence, dense.own) == (("a",), "name", EXACT)
    assert part.verdict == "agrees"
    part = compared(fused, SOUND, origins=origins, named=False)
    assert rows(part)["layer.dense"].skipped == FUSED and part.verdict == "agrees"


def test_what_is_left_of_a_fused_module_is_not_taken_for_what_it_returned(compared: Compared) -> None:
    """It has the shape, and another node does the rest: a fault elsewhere is not that module's."""
    fused = """
        a = MatMul(x, w)                                   # layer.dense
        c = Sum(a, v, x)                                   # layer
        d = LayerNormalization <axis = -1> (c, vother)     # layer.norm
        y = Tanh(d)                                        # head
    """
    part = compared(fused, SOUND, origins={"c": ["layer.dense", "layer"]}, named=False)
    assert (part.verdict, named(part)) == ("one", ["layer.norm"])
    assert rows(part)["layer.dense"].skipped == FUSED


def test_calls_of_one_module_have_tensors_of_their_own(compared: Compared) -> None:
    twice = """
        a = Sin(x)   # layer@0
        y = Exp(a)   # layer@1
    """
    part = compared(twice)
    assert {spell(call): call.tensors for call in part.modules} == {
        "layer@0": ("a",), "layer@1": ("y",), "root": ("y",),
    }  # fmt: skip
    part = compared(twice.replace("Exp", "Cos"), twice)
    assert named(part) == ["layer@1"]


def test_call_that_returns_no_tensor_of_its_shape_is_not_compared(compared: Compared) -> None:
    sound = """
        a = Flatten(x)          # odd
        b = ReduceMax(a)        # odd
        y = Add(x, b)           # root
    """
    other = sound.replace("b = ReduceMax(a)        # odd", "b = ReduceMax(a)   # root")
    part = compared(other, sound)
    assert rows(part)["odd"].skipped == NO_TENSOR and part.verdict == "agrees"


# --- Whose work an error is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize(
    ("sound", "faulty", "culprit"),
    [
        ("MatMul(x, w)", "MatMul(x, wother)", "layer.dense"),
        ("Add(a, v)", "Sub(a, v)", "layer.dense"),
        ("Add(b, x)", "Sub(b, x)", "layer+"),
        ("<axis = -1>", "<axis = -1, epsilon = 0.1>", "layer.norm"),
        ("Tanh", "Sin", "head"),
    ],
)
def test_error_is_that_of_who_adds_it(
    sound: str, faulty: str, culprit: str, is_named: bool, compared: Compared
) -> None:
    """All others are sound on the reference's values, and putting that one right puts the outputs right."""
    part = compared(SOUND.replace(sound, faulty), SOUND, named=is_named)
    assert (part.verdict, named(part)) == ("one", [culprit])
    assert part.culprits[0].output_error_without == pytest.approx(0, abs=1e-6)
    own = {
        name: call.own for name, call in rows(part).items() if call.own is not None and name not in ("layer", "root")
    }
    assert [name for name, errors in own.items() if errors.sqnr_db < 110] == [culprit]


@pytest.mark.parametrize("is_named", [True, False])
def test_missing_addition_is_the_block_s(is_named: bool, compared: Compared) -> None:
    missing = SOUND.replace("c = Add(b, x)                                        # layer\n", "").replace(
        "(c, vg)", "(b, vg)"
    )
    part = compared(missing, SOUND, named=is_named)
    assert (part.verdict, named(part)) == ("one", ["layer+"])
    assert part.culprits[0].output_error_without == pytest.approx(0, abs=1e-6)


ATTENTION = """
    q = MatMul(x, wq)                       # attn.q
    k = MatMul(x, wk)                       # attn.k
    e = Exp(k)                              # attn.score
    s = Sub(q, e)                           # attn.score
    y = Tanh(s)                             # head
"""


def test_who_reads_another_tensor_is_to_blame_where_the_right_one_is_there(compared: Compared) -> None:
    swapped = ATTENTION.replace("Exp(k)", "Exp(q)").replace("Sub(q, e)", "Sub(k, e)")
    assert named(compared(swapped, ATTENTION)) == ["attn.score"]


def test_who_should_have_made_it_is_to_blame_where_it_is_gone(compared: Compared) -> None:
    """Of modules that have no nodes left, the outermost."""
    sound = """
        a = MatMul(x, w)    # layer.dense
        b = Exp(a)          # layer.act
        c = MatMul(b, wtwo) # head.dense
        y = Tanh(c)         # head.act
    """
    no_act = sound.replace("b = Exp(a)          # layer.act\n", "").replace("(b,", "(a,")
    assert named(compared(no_act, sound)) == ["layer.act"]
    no_layer = """
        c = MatMul(x, wtwo) # head.dense
        y = Tanh(c)         # head.act
    """
    part = compared(no_layer, sound)
    assert (part.verdict, named(part)) == ("one", ["layer"])


def test_layer_that_is_left_out_before_an_operation_of_another_module(compared: Compared) -> None:
    sound = """
        a = MatMul(x, w)                                  # layer.dense
        b = Exp(a)                                        # layer.act
        c = Sin(x)                                        # mix.conv
        s = Add(b, c)                                     # mix
        y = LayerNormalization <axis = -1> (s, vg)        # mix.norm
    """
    skipped = "\n".join(line for line in sound.splitlines() if "layer." not in line).replace("Add(b,", "Add(x,")
    part = compared(skipped, sound)
    assert (part.verdict, named(part)) == ("one", ["layer"])


def test_layer_that_is_skipped_but_for_what_others_read(compared: Compared) -> None:
    """Its keys, say, are still put into a cache."""
    sound = """
        q = MatMul(x, wq)                                 # layer.q
        k = MatMul(x, wk)                                 # layer.k
        s = Mul(q, k)                                     # layer
        m = MatMul(s, wm)                                 # layer.mlp
        r = Add(m, x)                                     # layer
        n = LayerNormalization <axis = -1> (r, vg)        # norm
        y = Add(n, k)                                     # root
    """
    skipped = """
        k = MatMul(x, wk)                                 # layer.k
        n = com.microsoft.SkipLayerNormalization (x, x, vg)     # root
        y = Add(n, k)                                     # root
    """
    part = compared(skipped, sound, origins={"n": ["layer.q", "layer", "layer.mlp", "norm"]})
    assert (part.verdict, named(part)) == ("one", ["layer+"])


@pytest.mark.parametrize("is_named", [True, False])
def test_end_of_a_layer_that_is_skipped_is_not_its_last_module(is_named: bool, compared: Compared) -> None:
    """Others before it are gone as well, while its keys are still put into a cache."""
    sound = """
        k = MatMul(x, wk)                                 # layer.k
        m = MatMul(x, wm)                                 # layer.mlp
        n = LayerNormalization <axis = -1> (m, vg)        # layer.norm
        h = Tanh(n)                                       # head
        y = Add(h, k)                                     # root
    """
    skipped = """
        k = MatMul(x, wk)                                 # layer.k
        h = Tanh(x)                                       # head
        y = Add(h, k)                                     # root
    """
    part = compared(skipped, sound, named=is_named)
    assert (part.verdict, named(part)) == ("one", ["layer+"])


def test_reader_of_a_layer_that_is_skipped_is_sound(compared: Compared) -> None:
    """Though it reads another tensor than in the reference."""
    sound = """
        a = LayerNormalization <axis = -1> (x, vg)        # layers.0
        d = MatMul(a, w)                                  # layers.1.dense
        b = Add(d, a)                                     # layers.1
        c = LayerNormalization <axis = -1> (b, vh)        # layers.1.norm
        p = Sin(c)                                        # pooler
        y = MatMul(p, wp)                                 # pooler.dense
    """
    skipped = "\n".join(line for line in sound.splitlines() if "layers.1" not in line).replace("Sin(c)", "Sin(a)")
    part = compared(skipped, sound)
    assert (part.verdict, named(part)) == ("one", ["layers.1"])


def test_wrong_residual_of_a_fused_norm_is_that_of_its_layer(compared: Compared) -> None:
    """What it reads is there, made by the layer before, which has no part in the fault."""
    sound = """
        a = MatMul(x, w)                                  # layers.0.dense
        b = Add(a, x)                                     # layers.0
        c = LayerNormalization <axis = -1> (b, vg)        # layers.0.norm
        d = MatMul(c, wd)                                 # layers.1.dense
        e = Add(d, c)                                     # layers.1
        y = LayerNormalization <axis = -1> (e, vh)        # layers.1.norm
    """
    fused = sound.replace("        e = Add(d, c)                                     # layers.1\n", "").replace(
        "y = LayerNormalization <axis = -1> (e, vh)        # layers.1.norm",
        "y = com.microsoft.SkipLayerNormalization <epsilon = 0.00001> (d, c, vh)    # layers.1",
    )
    origins = {"y": ["layers.1", "layers.1.norm"]}
    assert compared(fused, sound, origins=origins).verdict == "agrees"
    part = compared(fused.replace("(d, c, vh)", "(d, b, vh)"), sound, origins=origins)
    assert (part.verdict, named(part)) == ("one", ["layers.1+"])


@pytest.mark.parametrize(("act", "culprit"), [("c", "layers.1+"), ("x", "layers.0")])
def test_sum_that_a_fused_norm_does_not_read(act: str, culprit: str, compared: Compared) -> None:
    """Where another module has made something right of it, it is there, and not read; else nobody adds it."""
    sound = """
        a = MatMul(x, w)                                  # layers.0.dense
        b = Add(a, x)                                     # layers.0
        d = Tanh({act})                                   # layers.1.act
        e = Add(d, b)                                     # layers.1
        y = LayerNormalization <axis = -1> (e, vh)        # norm
    """.format(act=act.replace("c", "b"))
    fused = """
        a = MatMul(x, w)                                  # layers.0.dense
        c = Sum(a, x)                                     # layers.0
        d = Tanh({act})                                   # layers.1.act
        y = com.microsoft.SkipLayerNormalization <epsilon = 0.00001> (d, {residual}, vh)    # root
    """
    origins = {"y": ["layers.1", "norm"]}
    assert compared(fused.format(act=act, residual="c"), sound, origins=origins).verdict == "agrees"
    faulty = fused.format(act=act, residual="x")
    if act == "x":
        faulty = "\n".join(line for line in faulty.splitlines() if "layers.0" not in line)
    part = compared(faulty, sound, origins=origins)
    assert (part.verdict, named(part)) == ("one", [culprit])
    assert part.culprits[0].output_error_without == pytest.approx(0, abs=1e-6)


def test_sum_that_is_missing_wherever_it_is_read_is_one_fault(compared: Compared) -> None:
    """In the fused norm alone it may also be that the layer around it adds another tensor."""
    sound = """
        a = MatMul(x, w)                                  # layers.0.dense
        b = Add(a, x)                                     # layers.0
        c = LayerNormalization <axis = -1> (b, vg)        # layers.1.norm
        d = MatMul(c, wd)                                 # layers.1.dense
        e = Add(d, b)                                     # layers.1
        y = LayerNormalization <axis = -1> (e, vh)        # norm
    """
    fused = """
        a = MatMul(x, w)                                  # layers.0.dense
        c = LayerNormalization <axis = -1> (a, vg)        # layers.1.norm
        d = MatMul(c, wd)                                 # layers.1.dense
        y, m, i, e = com.microsoft.SkipLayerNormalization <epsilon = 0.00001> (a, d, vh)    # root
    """
    part = compared(fused, sound, origins={"y": ["layers.1", "norm"]})
    assert (part.verdict, named(part)) == ("one", ["layers.0+"])
    assert part.culprits[0].output_error_without == pytest.approx(0, abs=1e-6)


def test_shape_of_what_a_module_returned_is_enough_before_its_last_operation(compared: Compared) -> None:
    """A tool takes out a product with 1: who reads the shape of what comes before it does not lack the product."""
    sound = """
        a = Sin(x)                # tokens
        b = Mul(a, vones)         # tokens
        s = Shape(b)              # positions
        p = ConstantOfShape(s)    # positions
        q = Add(p, v)             # positions
        y = Add(b, q)             # root
    """
    without = sound.replace("b = Mul(a, vones)         # tokens\n", "").replace("(b", "(a")
    ones = {"vones": np.ones(6, np.float32)}
    assert compared(without, sound, weights=ones).verdict == "agrees"
    assert named(compared(without.replace("Add(p, v)", "Sub(p, v)"), sound, weights=ones)) == ["positions"]


@pytest.mark.parametrize("is_named", [True, False])
def test_module_that_made_what_is_gone_is_to_blame(is_named: bool, compared: Compared) -> None:
    """And not the block, whose calls these are."""
    sound = """
        a = Sin(x)          # first
        b = Exp(a)          # second.act
        y = Tanh(b)         # head
    """
    skipped = """
        a = Sin(x)          # first
        y = Tanh(a)         # head
    """
    part = compared(skipped, sound, named=is_named)
    assert (part.verdict, named(part)) == ("one", ["second"])


def test_error_of_what_does_not_depend_on_the_inputs_is_taken_off_too(compared: Compared) -> None:
    sound = """
        a = MatMul(w, wtable)    # table
        y = MatMul(x, a)         # root
    """
    part = compared(sound.replace("wtable", "wother"), sound)
    assert (part.verdict, named(part)) == ("one", ["table"])
    assert part.culprits[0].output_error_without == pytest.approx(0, abs=1e-6)


def test_last_operation_that_is_missing_is_that_of_its_module(compared: Compared) -> None:
    """What comes before it is there, and the addition of the residual reads that."""
    missing = SOUND.replace("b = Add(a, v)                                        # layer.dense\n", "").replace(
        "(b, x)", "(a, x)"
    )
    for is_named in (True, False):
        part = compared(missing, SOUND, named=is_named)
        assert (part.verdict, named(part)) == ("one", ["layer.dense"])
        assert part.culprits[0].output_error_without == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("wrong", "culprit"), [("q", "attn.q"), ("k", "attn.k"), ("", None)])
def test_module_whose_weights_a_fused_node_has_not_is_to_blame(
    wrong: str, culprit: str | None, compared: Compared
) -> None:
    """Attention, for one, has those of its modules side by side."""
    sound = """
        q = MatMul(x, wq)                       # attn.q
        k = MatMul(x, wk)                       # attn.k
        c = Concat <axis = -1> (q, k)           # attn
        s = MatMul(c, wboth)                    # attn
        y = Tanh(s)                             # head
    """
    fused = """
        c = MatMul(x, wqk)                      # attn
        s = MatMul(c, wboth)                    # attn
        y = Tanh(s)                             # head
    """
    parts = [array_of(f"w{name}") + (0.5 if name == wrong else 0) for name in "qk"]
    weights = {"wqk": np.concatenate(parts, axis=1), "wboth": np.concatenate([array_of("wa"), array_of("wb")])}
    part = compared(fused, sound, weights=weights, origins={"c": ["attn.q", "attn.k"]})
    assert named(part) == ([culprit] if culprit else [])
    if wrong == "k":  # a projection may not know it as an origin, since it has other weights
        part = compared(fused, sound, weights=weights, origins={"c": ["attn.q", "attn"]})
        assert (part.verdict, named(part)) == ("one", ["attn.k"])


def test_whole_module_shows_what_it_adds_with_all_that_is_in_it(compared: Compared) -> None:
    found = rows(compared(SOUND.replace("Add(a, v)", "Sub(a, v)"), SOUND))
    dense, layer, head = (found[name].own for name in ("layer.dense", "layer", "head"))
    assert dense is not None and layer is not None and dense.sqnr_db < 60 and layer.sqnr_db < 60
    assert head == EXACT and found["head"].errors.sqnr_db < 60  # type: ignore[union-attr]


def test_number_that_dwarfs_the_reference_is_replaced(compared: Compared) -> None:
    """What is added to it to put it right would be rounded away."""
    faulty = SOUND.replace("b = Add(a, v)", "b = Mul(a, vhuge)")
    part = compared(faulty, SOUND, weights={"vhuge": np.full(6, 1e30, np.float32)}, named=False)
    assert (part.verdict, named(part)) == ("one", ["layer.dense"])
    assert part.culprits[0].output_error_without == pytest.approx(0, abs=1e-6)


# --- What has to be changed in the reference to get the same ------------------------------------------------------

FUSED_ACT = (
    """
    a = MatMul(x, w)                                      # mlp.fc
    b = Add(a, v)                                         # mlp.fc
    c = Tanh(b)                                           # mlp.act
    y = Mul(c, x)                                         # mlp
    """,
    """
    m = MatMul(x, w)                                      # mlp.fc
    p = Add(m, v)                                         # mlp.act
    c = Relu(p)                                           # mlp.act
    y = Mul(c, x)                                         # mlp
    """,
    {"p": ["mlp.fc", "mlp.act"], "c": ["mlp.act"]},
)
FUSED_NORM = (
    """
    a = MatMul(x, w)                                      # layer.dense
    b = Add(a, x)                                         # layer
    y = LayerNormalization <axis = -1, epsilon = 0.00001> (b, vg, vh)                   # norm
    """,
    """
    a = MatMul(x, w)                                      # layer.dense
    y = com.microsoft.SkipLayerNormalization <epsilon = 0.00001> (a, x, vg, vh)         # root
    """,
    {"y": ["layer", "norm"]},
)
FOLDED = (
    """
    k = MatMul(wtable, wk)                                # attn.key
    t = Transpose <perm = [1, 0]> (k)                     # attn
    q = MatMul(x, wq)                                     # attn.query
    s = MatMul(q, t)                                      # attn
    y = Tanh(s)                                           # head
    """,
    """
    q = MatMul(x, wq)                                     # attn.query
    s = MatMul(q, wfolded)                                # attn
    y = Tanh(s)                                           # head
    """,
    {},
)
IN_ORDER = (
    """
    t = Transpose <perm = [1, 0, 2]> (x)                  # conv
    c = MatMul(t, w)                                      # conv.dense
    d = Transpose <perm = [1, 0, 2]> (c)                  # conv
    y = Tanh(d)                                           # head
    """,
    """
    i, s, z = DynamicQuantizeLinear(x)                    # conv.dense
    j = Transpose <perm = [1, 0, 2]> (i)                  # conv
    p = MatMulInteger(j, wi, z, wz)                       # conv.dense
    f = Cast <to = 1> (p)                                 # conv.dense
    g = Mul(s, ws)                                        # conv.dense
    c = Mul(f, g)                                         # conv.dense
    d = Transpose <perm = [1, 0, 2]> (c)                  # conv
    y = Tanh(d)                                           # head
    """,
    {},
)
FUSED_CONV = (
    """
    c = Conv <kernel_shape = [3], pads = [1, 1]> (x, wc)                                       # block.conv
    r = Relu(c)                                                                                # block.act
    y = Tanh(r)                                                                                # head
    """,
    """
    r = com.microsoft.FusedConv <activation = "Relu", kernel_shape = [3], pads = [1, 1]> (x, wc)   # block
    y = Tanh(r)                                                                                # head
    """,
    {"r": ["block.conv", "block.act"]},
)
FOLDED_KEY = (array_of("wtable") @ array_of("wk")).T


@pytest.mark.parametrize(
    ("graphs", "change", "weights", "culprit"),
    [
        (FUSED_ACT, ("Relu(p)", "Tanh(p)"), {}, "mlp.act"),
        (FUSED_NORM, ("0.00001> (a", "0.5> (a"), {}, "norm"),
        (FUSED_NORM, ("(a, x, vg, vh)", "(a, x, vg, vother)"), {}, "norm"),
        (FUSED_NORM, ("(a, x, vg, vh)", "(a, a, vg, vh)"), {}, "layer+"),
        (FUSED_CONV, ("[1, 1]", "[2, 0]"), {}, "block.conv"),
        (FOLDED, None, {"wfolded": array_of("wtable").T}, "attn.key"),
        (IN_ORDER, None, {"ws": np.array(0.05, np.float32)}, "conv.dense"),
    ],
)
def test_one_change_of_the_reference_says_whose_work_is_wrong(
    graphs: tuple[str, str, dict[str, list[str]]],
    change: tuple[str, str] | None,
    weights: dict[str, Array],
    culprit: str,
    compared: Compared,
) -> None:
    """Where a tool made one node of several modules' work, or moved or folded some of it, the nodes alone don't say."""
    sound, made, origins = graphs
    numbers, scale, zero = quantized(array_of("w"))
    kernel = np.random.default_rng(0).standard_normal((3, 3, 3)).astype(np.float32)
    known = {"wfolded": FOLDED_KEY, "wc": kernel, "wi": numbers, "ws": scale, "wz": zero}
    faulty = made if change is None else made.replace(*change)
    if graphs is FUSED_ACT:
        made, faulty = faulty, made
    assert not compared(made, sound, weights=known, origins=origins).culprits
    part = compared(faulty, sound, weights={**known, **weights}, origins=origins)
    assert (part.verdict, named(part)) == ("one", [culprit])


def test_last_operation_on_constants_that_is_missing(compared: Compared) -> None:
    """A call that no input changes ends too early."""
    sound = """
        a = MatMul(wtable, wk)                            # attn.key
        k = Add(a, v)                                     # attn.key
        s = MatMul(x, k)                                  # attn
        y = Tanh(s)                                       # head
    """
    missing = sound.replace("k = Add(a, v)                                     # attn.key\n", "").replace(
        "(x, k)", "(x, a)"
    )
    part = compared(missing, sound)
    assert (part.verdict, named(part)) == ("one", ["attn.key"])


# --- What arithmetic costs ----------------------------------------------------------------------------------------


def quantized(weight: Array, bits: int = 8) -> tuple[Array, Array, Array]:
    """A weight as whole numbers without a sign around their middle, its one scale, and the zero point."""
    middle = 2 ** (bits - 1)
    scale = np.float32(np.abs(weight).max() / (middle - 1))
    numbers = (np.rint(weight / scale) + middle).astype(np.uint8)
    return numbers, np.array(scale), np.array(middle, np.uint8)


WIDE = 32
_WIDE_HEAD = f"main (float[2, 12, {WIDE}] x) => (float[2, 12, {WIDE}] y)"


def wide(name: str, outlier: float = 0.0) -> Array:
    weight = np.random.default_rng(crc32(name.encode())).standard_normal((WIDE, WIDE)).astype(np.float32) / 6
    weight[0, 0] += outlier
    return weight


FLOAT_NET = "".join(
    f"""
    m{index} = MatMul({given}, w{index})            # layers.{index}.dense
    {result} = Tanh(m{index})                       # layers.{index}.act
    """
    for index, given, result in ((0, "x", "t0"), (1, "t0", "t1"), (2, "t1", "y"))
)


def dynamic(*indices: int) -> str:
    """The net with some layers in int8, as ONNX Runtime's dynamic quantization writes them."""
    text = FLOAT_NET
    for index in indices:
        given = "x" if index == 0 else f"t{index - 1}"
        text = text.replace(
            f"m{index} = MatMul({given}, w{index})            # layers.{index}.dense",
            f"""
            q{index}, s{index}, z{index} = DynamicQuantizeLinear({given})           # layers.{index}.dense
            i{index} = MatMulInteger(q{index}, wq{index}, z{index}, wz{index})      # layers.{index}.dense
            f{index} = Cast <to = 1> (i{index})                                     # layers.{index}.dense
            g{index} = Mul(s{index}, ws{index})                                     # layers.{index}.dense
            m{index} = Mul(f{index}, g{index})                                      # layers.{index}.dense
            """,
        )
    return text


def weights_of(outlier: float = 0.0, bits: int = 8) -> dict[str, Array]:
    made: dict[str, Array] = {}
    for index in range(3):
        weight = made[f"w{index}"] = wide(f"w{index}", outlier)
        made[f"wq{index}"], made[f"ws{index}"], made[f"wz{index}"] = quantized(weight, bits)
    return made


@pytest.mark.parametrize("outlier", [0.0, 4.0])
def test_sound_int8_adds_a_little_everywhere(outlier: float, compared: Compared) -> None:
    """Coarser steps of a weight with an outlier cost more: that is known from its numbers."""
    part = compared(dynamic(0, 1, 2), FLOAT_NET, weights=weights_of(outlier), head=_WIDE_HEAD)
    assert part.verdict == "spread" and part.ok and not part.culprits and part.precision == "int8"
    assert {each.path for each in part.carriers[:3]} == {f"layers.{index}.dense" for index in range(3)}
    for each in part.carriers[:3]:
        assert each.own.sqnr_db > each.expected_sqnr_db - MARGIN_DB["quantized"]
        assert abs(each.own.sqnr_db - each.expected_sqnr_db) < 4
    assert (part.carriers[0].own.sqnr_db < 30) == (outlier > 0)


def test_float_package_is_not_accused_of_what_its_reference_lost(compared: Compared) -> None:
    """The other way round: what quantization costs is in the reference."""
    part = compared(FLOAT_NET, dynamic(0, 1, 2), weights=weights_of(), head=_WIDE_HEAD)
    assert part.verdict == "spread" and part.ok and part.precision == "int8"


def test_weights_of_another_model_accuse_no_single_module(compared: Compared) -> None:
    """That putting one of them right helps a little is by chance."""
    others = {f"w{index}": wide(f"other{index}") for index in range(3)}
    weights = {**others, **{f"wf{index}": wide(f"w{index}") for index in range(3)}}
    sound = FLOAT_NET
    for index in range(3):
        sound = sound.replace(f", w{index})", f", wf{index})")
    text = FLOAT_NET.replace("Tanh", "Sin")
    part = compared(text, sound, weights=weights, head=_WIDE_HEAD)
    assert part.verdict == "unknown" and part.looks_foreign and not part.culprits and not part.ok


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        ("scale", lambda weights: {"ws1": weights["ws1"] * 2}),
        ("zero point", lambda weights: {"wz1": weights["wz1"] - np.uint8(9)}),
        ("range", lambda weights: {"wq1": np.clip(weights["wq1"], 118, 138)}),
        ("rounding", lambda weights: {"wq1": weights["wq1"] // 16 * 16}),
    ],
)
def test_badly_quantized_layer_among_sound_ones(
    fault: str, change: Callable[[dict[str, Array]], dict[str, Array]], compared: Compared
) -> None:
    weights = weights_of()
    part = compared(dynamic(0, 1, 2), FLOAT_NET, weights={**weights, **change(weights)}, head=_WIDE_HEAD)
    assert (part.verdict, named(part)) == ("one", ["layers.1.dense"]), fault
    assert not part.ok


def test_float_module_among_quantized_ones_has_to_be_exact(compared: Compared) -> None:
    """A tenth of a dB of what int8 costs in all hides it in the outputs; by itself it is far off."""
    text = dynamic(0, 1, 2).replace("t1 = Tanh(m1)", "h1 = Mul(m1, vnear)  # layers.1.act\n t1 = Tanh(h1)")
    part = compared(
        text, FLOAT_NET, weights={**weights_of(4.0), "vnear": np.full(WIDE, 0.99, np.float32)}, head=_WIDE_HEAD
    )
    assert (part.verdict, named(part)) == ("one", ["layers.1.act"])


PEAKED = """
    q = MatMul(x, wquery)                                  # attn.query
    k = MatMul(x, wkey)                                    # attn.key
    t = Transpose <perm = [0, 2, 1]> (k)                   # attn
    s = MatMul(q, t)                                       # attn
    p = Softmax <axis = -1> (s)                            # attn
    y = MatMul(p, x)                                       # attn
"""
PEAKED_IN_ONE = PEAKED.replace("attn.query", "attn").replace("attn.key", "attn")


def product(result: str, a: str, b: str, module: str = "attn") -> str:
    """A product in int8, as ONNX Runtime's dynamic quantization writes it."""
    names = {
        name: (f"{result}q{name}", f"{result}s{name}", f"{result}z{name}") if not name.startswith("w") else
        (f"{name}q", f"{name}s", f"{name}z") for name in (a, b)
    }  # fmt: skip
    lines = [
        f"{', '.join(made)} = DynamicQuantizeLinear({name}) # {module}"
        for name, made in names.items()
        if not name.startswith("w")
    ]
    (aq, az, asc), (bq, bz, bsc) = ((q, z, scale) for q, scale, z in (names[a], names[b]))
    return "\n".join(
        (
            "", *lines,
            f"{result}i = MatMulInteger({aq}, {bq}, {az}, {bz})      # {module}",
            f"{result}f = Cast <to = 1> ({result}i)                  # {module}",
            f"{result}g = Mul({asc}, {bsc})                          # {module}",
            f"{result} = Mul({result}f, {result}g)                   # {module}",
            "",
        )
    )  # fmt: skip


def in_int8(text: str) -> str:
    pattern = re.compile(r"^ *(\w+) = MatMul\((\w+), (\w+)\) *# (\S+)$", re.MULTILINE)
    return pattern.sub(lambda match: product(*match.groups()), text)


def peaked_weights(size: float = 3.0) -> dict[str, Array]:
    made: dict[str, Array] = {}
    for name in ("wquery", "wkey"):
        made[name] = size * wide(name)
        made[f"{name}q"], made[f"{name}s"], made[f"{name}z"] = quantized(made[name])
    return made


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("text", [PEAKED, PEAKED_IN_ONE])
def test_what_rounding_costs_behind_a_softmax_of_large_numbers(text: str, is_named: bool, compared: Compared) -> None:
    """It makes much of what its numbers are rounded by: that is no fault. Wrong steps are one as ever."""
    weights, int8 = peaked_weights(), in_int8(text)
    part = compared(int8, text, weights=weights, head=_WIDE_HEAD, named=is_named)
    assert part.verdict == "spread" and not part.culprits
    assert min(row.own.sqnr_db for row in part.calls if row.path == "attn" and row.own) < 17
    wrong = int8.replace("MatMulInteger(yqp, yqx, yzp, yzx)", "MatMulInteger(yqp, yqx, yzx, yzx)")
    part = compared(wrong, text, weights=weights, head=_WIDE_HEAD, named=is_named)
    assert (part.verdict, named(part)) == ("one", ["attn" if text is PEAKED_IN_ONE else "attn+"])


def test_wrong_scale_before_a_softmax_of_large_numbers(compared: Compared) -> None:
    """The softmax makes less of it than of rounding: what is wrong without rounding too is a fault."""
    weights, int8 = peaked_weights(), in_int8(PEAKED)
    wrong = int8.replace("s = Mul(sf, sg)", "h = Add(sg, sg)  # attn\n s = Mul(sf, h)")
    assert named(compared(wrong, PEAKED, weights=weights, head=_WIDE_HEAD)) == ["attn+"]
    part = compared(int8, PEAKED, weights={**weights, "wkeys": 2 * weights["wkeys"]}, head=_WIDE_HEAD)
    assert (part.verdict, named(part)) == ("one", ["attn.key"])


STATIC = FLOAT_NET.replace(
    "m1 = MatMul(t0, w1)            # layers.1.dense",
    """
    q = QuantizeLinear(t0, vscale, vzero)                  # layers.1.dense
    d = DequantizeLinear(q, vscale, vzero)                 # layers.1.dense
    c = DequantizeLinear(wq1, ws1, wz1)                    # layers.1.dense
    m1 = MatMul(d, c)                                      # layers.1.dense
    """,
)


QUANTIZED_NETS = {
    "MatMulInteger": (dynamic(1), FLOAT_NET),
    "QuantizeLinear": (STATIC, FLOAT_NET),
    "MatMulIntegerToFloat": (
        FLOAT_NET.replace(
            "m1 = MatMul(t0, w1) ",
            """
            q, s, z = DynamicQuantizeLinear(t0)                                           # layers.1.dense
            m1 = com.microsoft.MatMulIntegerToFloat(q, wq1, s, ws1, z, wz1) """,
        ),
        FLOAT_NET,
    ),
    "DynamicQuantizeMatMul": (
        FLOAT_NET.replace("m1 = MatMul(t0, w1) ", "m1 = com.microsoft.DynamicQuantizeMatMul(t0, wq1, ws1, wz1) "),
        FLOAT_NET,
    ),
    "ConvInteger": (
        FLOAT_NET.replace(
            "m1 = MatMul(t0, w1) ",
            """
            q, s, z = DynamicQuantizeLinear(t0)                                           # layers.1.dense
            i = ConvInteger <pads = [1, 1]> (q, wcq, z, wcz)                              # layers.1.dense
            f = Cast <to = 1> (i)                                                         # layers.1.dense
            g = Mul(s, wcs)                                                               # layers.1.dense
            m1 = Mul(f, g) """,
        ),
        FLOAT_NET.replace("MatMul(t0, w1) ", "Conv <pads = [1, 1]> (t0, wc) "),
    ),
}


@pytest.mark.parametrize("operator", QUANTIZED_NETS)
def test_rounding_is_told_from_a_fault_by_running_without_it(
    operator: str, compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were nothing known of what steps cost, the sound ones would be no suspects, and the wrong ones would be."""
    monkeypatch.setattr(Expected, "_of_quantized", lambda *_: 150.0)
    text, sound = QUANTIZED_NETS[operator]
    weights: dict[str, Any] = weights_of()
    weights |= {"vscale": np.array(1 / 127, np.float32), "vzero": np.array(128, np.uint8)}
    weights["wc"] = np.random.default_rng(0).standard_normal((12, 12, 3)).astype(np.float32) / 6
    weights["wcq"], weights["wcs"], weights["wcz"] = quantized(weights["wc"])
    part = compared(text, sound, weights=weights, head=_WIDE_HEAD)
    assert part.verdict == "spread" and not part.culprits
    for name in ("ws1", "wcs"):
        weights[name] = 2 * weights[name]
    part = compared(text, sound, weights=weights, head=_WIDE_HEAD)
    assert (part.verdict, named(part)) == ("one", ["layers.1.dense"])


@pytest.mark.parametrize("top", [1.0, 0.4])
def test_static_steps_cost_what_they_round_and_cut_off(top: float, compared: Compared) -> None:
    """Those of a calibration on smaller values cut off more: that is the calibration's, and no module's."""
    weights: dict[str, Any] = {
        **weights_of(), "vscale": np.array(top / 127, np.float32), "vzero": np.array(128, np.uint8),
    }  # fmt: skip
    part = compared(STATIC, FLOAT_NET, weights=weights, head=_WIDE_HEAD)
    assert part.verdict == "spread" and not part.culprits
    worst = part.carriers[0]
    assert worst.path == "layers.1.dense" and abs(worst.own.sqnr_db - worst.expected_sqnr_db) < 4
    assert (worst.own.sqnr_db < 20) == (top < 1)


def test_range_of_an_activation_is_no_excuse_for_a_weight(compared: Compared) -> None:
    """It fits what the right weight makes: that the wrong one's is cut off is the weight's fault."""
    sound = FLOAT_NET.replace("m1 = MatMul(t0, w1) ", "p1 = MatMul(t0, w1)  # layers.1.dense\n m1 = Add(p1, v) ")
    static = sound.replace(
        "p1 = MatMul(t0, w1)  # layers.1.dense",
        """
        c = DequantizeLinear(wq1, ws1, wz1)                    # layers.1.dense
        p1 = MatMul(t0, c)                                     # layers.1.dense
        q = QuantizeLinear(p1, vscale, vzero)                  # layers.1.dense
        d = DequantizeLinear(q, vscale, vzero)                 # layers.1.dense
        """,
    ).replace("Add(p1, v)", "Add(d, v)")
    weights: dict[str, Any] = {
        **weights_of(), "vscale": np.array(2.0 / 127, np.float32), "vzero": np.array(128, np.uint8),
        "v": np.zeros(WIDE, np.float32),
    }  # fmt: skip
    part = compared(static, sound, weights=weights, head=_WIDE_HEAD)
    assert part.verdict == "spread" and not part.culprits
    part = compared(static, sound, weights={**weights, "ws1": weights["ws1"] * 4}, head=_WIDE_HEAD)
    assert (part.verdict, named(part)) == ("one", ["layers.1.dense"])
    assert part.culprits[0].expected_sqnr_db > 25


def test_weights_that_are_quantized_alone_cost_their_rounding(compared: Compared) -> None:
    """A constant that a node makes of them: its makers say what they compute with."""
    text = FLOAT_NET.replace(
        "m1 = MatMul(t0, w1) ", "c = DequantizeLinear(wq1, ws1, wz1)  # layers.1.dense\n m1 = MatMul(t0, c) "
    )
    part = compared(text, FLOAT_NET, weights=weights_of(), head=_WIDE_HEAD)
    assert part.verdict == "spread" and part.carriers[0].path == "layers.1.dense"
    assert abs(part.carriers[0].own.sqnr_db - part.carriers[0].expected_sqnr_db) < 4
    broken = {**weights_of(), "ws1": weights_of()["ws1"] * 2}
    assert named(compared(text, FLOAT_NET, weights=broken, head=_WIDE_HEAD)) == ["layers.1.dense"]


def test_channel_of_zeros_costs_nothing_in_steps_of_whatever_size(compared: Compared) -> None:
    """A tool gives it a step of 1: that its weights are missing is no rounding."""
    text = FLOAT_NET.replace(
        "m1 = MatMul(t0, w1) ",
        "c = DequantizeLinear <axis = 1> (wq1, ws1, wz1)  # layers.1.dense\n m1 = MatMul(t0, c) ",
    )
    known = weights_of()
    scales, zeros = np.full(WIDE, known["ws1"]), np.full(WIDE, known["wz1"])
    assert not compared(text, FLOAT_NET, weights={**known, "ws1": scales, "wz1": zeros}, head=_WIDE_HEAD).culprits
    numbers = known["wq1"].copy()
    numbers[:, WIDE // 2 :], scales[WIDE // 2 :] = known["wz1"], 1
    faulty = {**known, "wq1": numbers, "ws1": scales, "wz1": zeros}
    assert named(compared(text, FLOAT_NET, weights=faulty, head=_WIDE_HEAD)) == ["layers.1.dense"]


def int4(weight: Array) -> tuple[TensorProto, Array, TensorProto]:
    numbers, scale, _ = quantized(weight, 4)
    values = (numbers.astype(np.int64) - 8).ravel().tolist()
    made = helper.make_tensor("wq1", TensorProto.INT4, weight.shape, values)
    return made, scale, helper.make_tensor("wz1", TensorProto.INT4, [], [0])


def test_four_bits_cost_more(compared: Compared) -> None:
    text = FLOAT_NET.replace(
        "m1 = MatMul(t0, w1) ", "c = DequantizeLinear(wq1, ws1, wz1)  # layers.1.dense\n m1 = MatMul(t0, c) "
    )
    weights: dict[str, Any] = weights_of()
    weights["wq1"], weights["ws1"], weights["wz1"] = int4(weights["w1"])
    part = compared(text, FLOAT_NET, weights=weights, head=_WIDE_HEAD, opset=21)
    assert part.verdict == "spread" and part.carriers[0].path == "layers.1.dense"
    assert 5 < part.carriers[0].own.sqnr_db < 20
    assert abs(part.carriers[0].own.sqnr_db - part.carriers[0].expected_sqnr_db) < 4
    part = compared(text, FLOAT_NET, weights={**weights, "ws1": 2 * weights["ws1"]}, head=_WIDE_HEAD, opset=21)
    assert named(part) == ["layers.1.dense"]


@pytest.mark.parametrize(("bits", "outlier"), [(4, 0.0), (8, 0.0), (8, 5.0)])
def test_cost_of_a_weight_is_known_from_its_whole_numbers(bits: int, outlier: float) -> None:
    """Against the rounding itself, whose scale is not looked at: within a decibel and a half."""
    weight = wide("w", outlier)
    numbers, scale, zero = quantized(weight, bits)
    rounded = (numbers.astype(np.float32) - zero) * scale
    true = float(np.mean((rounded - weight) ** 2) / np.mean(weight**2))
    if bits == 4:
        node = Node(op_type="MatMulNBits")
        numbers = numbers.ravel()[::2] | numbers.ravel()[1::2] << 4
    else:
        node = Node(op_type="MatMulInteger")
    known = _of_integers(numbers, node)
    assert known is not None and abs(10 * np.log10(known / true)) < 1.5
    assert (
        _of_integers(np.full((4, 4), 128 + 8, np.uint8), Node(op_type="MatMulInteger")) is None
    )  # all are the zero point


def test_cost_of_a_range_is_that_of_its_steps() -> None:
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    step = (values.max() - values.min()) / 255
    true = float(np.mean((np.rint(values / step) * step - values) ** 2) / np.mean(values**2))
    assert noise_of_range(values) == pytest.approx(true, rel=0.05)
    assert noise_of_range(np.zeros(3, np.float32)) == 0


def halved(text: str) -> str:
    """A net that computes in float16 between casts."""
    return text.replace("MatMul(x,", "MatMul(h,").replace("m0 =", "h = Cast <to = 10> (x)  # root\n m0 =").replace(
        "y = Tanh(m2)", "p = Tanh(m2)  # layers.2.act\n y = Cast <to = 1> (p)"
    )  # fmt: skip


def test_float16_costs_its_rounding(compared: Compared) -> None:
    weights = {f"w{index}": wide(f"w{index}").astype(np.float16) for index in range(3)}
    exact = {name: array.astype(np.float32) for name, array in weights.items()}
    part = half_against_float(compared, weights, exact)
    assert part.precision == "float16" and part.verdict == "agrees" and HALF_NOTE in part.notes
    own = [call.own.sqnr_db for call in part.modules if call.own is not None]
    assert 62 < min(own) < 80
    wrong = {**weights, "w1": (weights["w1"] * np.float16(1.01)).astype(np.float16)}
    assert named(half_against_float(compared, wrong, exact)) == ["layers.1.dense"]


def half_against_float(compared: Compared, weights: dict[str, Array], exact: dict[str, Array]) -> PartComparison:
    names = {f"w{index}": f"wf{index}" for index in range(3)}
    sound = FLOAT_NET
    for name, other in names.items():
        sound = sound.replace(f", {name})", f", {other})")
    both = {**weights, **{other: exact[name] for name, other in names.items()}}
    return compared(halved(FLOAT_NET), sound, weights=both, head=_WIDE_HEAD)


RMS = """
    h = Cast <to = 10> (x)                       # norm
    s = Mul(h, h)                                # norm
    m = ReduceMean <axes = [-1]> (s)             # norm
    r = Sqrt(m)                                  # norm
    n = Div(h, r)                                # norm
    y = Cast <to = 1> (n)                        # norm
"""


def test_what_float16_costs_behind_a_softmax_of_large_numbers(compared: Compared) -> None:
    """A bias of all keys makes scores large, and changes nothing else: what float16 loses of them is no module's fault."""
    biased = PEAKED.replace("k = MatMul(x, wkey) ", "kk = MatMul(x, wkey)  # attn.key\n k = Add(kk, vbias) ")
    half = biased.replace("(x, ", "(h, ").replace(", x)", ", h)").replace("y = ", "o = ")
    half = half.replace("wquery", "wquery_half").replace("wkey", "wkey_half").replace("vbias", "vbias_half")
    half = f"h = Cast <to = 10> (x)  # attn\n{half}\n y = Cast <to = 1> (o)  # attn\n"
    weights = {"wquery": wide("wquery"), "wkey": wide("wkey"), "vbias": np.full(WIDE, 40, np.float32)}
    weights |= {f"{name}_half": array.astype(np.float16) for name, array in weights.items()}
    part = compared(half, biased, weights=weights, head=_WIDE_HEAD)
    assert part.precision == "float16" and not part.culprits
    assert rows(part)["attn+"].own.sqnr_db < 35  # type: ignore[union-attr]
    part = compared(half.replace("axis = -1", "axis = 1"), biased, weights=weights, head=_WIDE_HEAD)
    assert (part.verdict, named(part)) == ("one", ["attn+"])


def test_float16_overflows_as_on_a_gpu(tmp_path: Path) -> None:
    """Squares of large numbers: ONNX's reference evaluator says 0, and ONNX Runtime's CPU provider alone says 1."""
    path = written(tmp_path / "model.onnx", RMS, {})
    x = 1000 * array_of("x").reshape(1, 6, 6)[:, :3].repeat(2, 0)
    inputs = {"x": x}
    file = HtpPackage(path).files["model.onnx"]
    graph = FlatGraph(file.model, file.tags)
    tensors = ["s", "m", "r", "n", "y"]
    with np.errstate(all="ignore"):
        model = onnx.load(path)
        model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors[:-1])
        values = ReferenceEvaluator(model).run(None, inputs)
    expected = dict(zip(["y", *tensors[:-1]], values, strict=True))
    with Prober(file.model, graph, provider="CPUExecutionProvider", threads=1) as prober:
        assert prober.rounds_half
        found = prober.run(tensors, inputs)
        prober.rounds_half = False
        plain = prober.run(["y"], inputs)["y"]
    assert not expected["y"].any() and np.abs(plain).max() > 1
    for name in tensors:
        assert np.array_equal(found[name], expected[name]), name


def test_float16_in_a_quantized_file_is_rounded_too(compared: Compared) -> None:
    """Of weights in 4 or 8 bits, with activations in float16."""
    half = """
        c = DequantizeLinear(wq, ws, wz)             # dense
        d = MatMul(x, c)                             # dense
    """ + RMS.replace("(x)", "(d)")
    sound = """
        d = MatMul(x, w)                             # dense
        s = Mul(d, d)                                # norm
        m = ReduceMean <axes = [-1]> (s)             # norm
        r = Sqrt(m)                                  # norm
        y = Div(d, r)                                # norm
    """
    weights: dict[str, Any] = {"w": 5000 * array_of("w")}
    weights["wq"], weights["ws"], weights["wz"] = quantized(weights["w"])
    part = compared(half, sound, weights=weights)
    assert part.precision == "int8" and HALF_NOTE in part.notes
    assert (part.verdict, named(part)) == ("one", ["norm"])


def test_overflow_in_float16_is_named(compared: Compared) -> None:
    half = """
        d = MatMul(x, w)                             # dense
    """ + RMS.replace("(x)", "(d)")
    sound = """
        d = MatMul(x, w)                             # dense
        s = Mul(d, d)                                # norm
        m = ReduceMean <axes = [-1]> (s)             # norm
        r = Sqrt(m)                                  # norm
        y = Div(d, r)                                # norm
    """
    part = compared(half, sound, weights={"w": 5000 * array_of("w")})
    assert (part.verdict, named(part)) == ("one", ["norm"]) and not part.ok
    assert part.culprits[0].output_error_without == pytest.approx(0, abs=1e-6)
    assert compared(half, sound, tolerance=1e-2).verdict == "agrees"


# --- The verdict --------------------------------------------------------------------------------------------------


def test_two_that_are_wrong_are_named_in_the_order_of_what_they_explain(compared: Compared) -> None:
    sound = """
        a = Sin(x)      # first
        b = Cos(x)      # second
        y = Add(a, b)   # root
    """
    faulty = sound.replace("a = Sin(x)", "c = Sin(x)  # first\n a = Mul(c, vnear)").replace("Cos(x)", "Exp(x)")
    part = compared(faulty, sound, weights={"vnear": np.full(6, 1.5, np.float32)})
    assert part.verdict == "several" and named(part) == ["second", "first"]
    assert part.output_error_without_all == pytest.approx(0, abs=1e-6)
    assert all(each.output_error_without > 1e-3 for each in part.culprits)  # type: ignore[operator]


@pytest.mark.parametrize("is_named", [True, False])
def test_two_that_only_help_together(is_named: bool, compared: Compared) -> None:
    """Either makes the outputs no numbers: putting one of them right shows nothing."""
    sound = """
        a = Sin(x)      # first
        b = Cos(x)      # second
        y = Add(a, b)   # root
    """
    broken = sound.replace("a = Sin(x)", "c = Sub(x, vbig)  # first\n a = Log(c)")
    broken = broken.replace("b = Cos(x)", "d = Sub(x, vbig)  # second\n b = Sqrt(d)")
    part = compared(broken, sound, named=is_named, weights={"vbig": np.full(6, 100, np.float32)})
    assert part.verdict == "several" and set(named(part)) == {"first", "second"}
    assert part.output_error_without_all == pytest.approx(0, abs=1e-6)


def test_module_far_from_what_it_should_be_is_not_named_if_it_does_no_harm(compared: Compared) -> None:
    """Its output is multiplied by 0."""
    sound = """
        a = Sin(x)          # first
        z = Mul(a, vzero)   # root
        y = Add(x, z)       # root
    """
    part = compared(sound.replace("Sin", "Exp"), sound, weights={"vzero": np.zeros(6, np.float32)})
    assert part.verdict == "agrees" and not part.culprits


@pytest.mark.parametrize("int8", [False, True])
def test_factor_that_a_tool_moved_accuses_nobody(int8: bool, compared: Compared) -> None:
    """From a norm to the next layer, as tools do that make activations even: each is off alone, and both are right."""
    sound = """
        n = LayerNormalization <axis = -1> (x, vg)       # norm
        m = MatMul(n, w0)                                # dense
        y = Tanh(m)                                      # act
    """
    factor = np.exp2(np.arange(WIDE) % 5 - 2).astype(np.float32)
    gain = np.linspace(0.5, 1.5, WIDE, dtype=np.float32)
    weight = wide("w0")
    weights: dict[str, Any] = {"vg": gain, "w0": weight, "vgmoved": gain / factor, "wmoved": weight * factor[:, None]}
    weights["wq"], weights["ws"], weights["wz"] = quantized(weights["wmoved"])
    moved = sound.replace("(x, vg)", "(x, vgmoved)").replace("w0", "wmoved")
    if int8:
        moved = moved.replace(
            "MatMul(n, wmoved) ", "MatMul(n, c) "
        ).replace("m =", "c = DequantizeLinear(wq, ws, wz)   # dense\n m =")  # fmt: skip
    part = compared(moved, sound, weights=weights, head=_WIDE_HEAD)
    assert part.verdict in (("spread",) if int8 else ("agrees",)) and not part.culprits and part.ok
    norm = rows(part)["norm"].own
    assert norm is not None and norm.sqnr_db < 20


@pytest.mark.parametrize("chooser", ["ArgMax", "TopK"])
def test_who_chooses_otherwise_can_t_be_told(chooser: str, compared: Compared) -> None:
    """A difference in rounding is enough for another choice."""
    choice = {
        "ArgMax": "i = ArgMax <axis = -1> (g)      # router",
        "TopK": "t, i = TopK(g, wone)              # router",
    }[chooser]
    sound = f"""
        g = MatMul(x, w)                # router.gate
        {choice}
        f = Cast <to = 1> (i)           # router
        y = Mul(x, f)                   # experts
    """
    other = sound.replace("(g", "(n").replace("i = Arg", "n = Neg(g)  # router\n i = Arg").replace(
        "t, i", "n = Neg(g)  # router\n t, i")  # fmt: skip
    part = compared(other, sound, weights={"wone": np.array([1])})
    assert part.verdict == "unknown" and not part.culprits and not part.ok
    assert part.reason is not None and chooser in part.reason


def test_what_draws_random_numbers_can_t_be_told(compared: Compared) -> None:
    noisy = """
        r = RandomNormalLike(x)   # noise
        a = Add(x, r)             # noise
        y = Sin(a)                # act
    """
    part = compared(noisy)
    assert part.verdict == "unknown" and part.random == ("RandomNormalLike",)
    assert part.reason is not None and "random numbers" in part.reason


def test_error_in_a_body_is_that_of_its_node_s_module(compared: Compared) -> None:
    """Nothing shows what is in it."""
    body = """
        y = If(wyes) <          # root
            then_branch = then () => (float[2, 3, 6] t) { t = Sin(x)    # layer
            },
            else_branch = other () => (float[2, 3, 6] e) { e = Cos(x)   # layer
            }>
    """
    part = compared(body.replace("Sin", "Exp"), body, weights={"wyes": np.array(True)})
    assert (part.verdict, named(part)) == ("one", ["root"])


def test_whole_numbers_have_to_be_equal(compared: Compared) -> None:
    """Nothing else shows that another index was chosen, and no module returns one."""
    sound = """
        a = Mul(x, vg)               # layer
        y = Cast <to = 7> (a)        # root
    """
    head = _HEAD.replace("=> (float", "=> (int64")
    gain = {"vg": np.full(6, 3, np.float32)}
    assert compared(sound, head=head, weights=gain).verdict == "agrees"
    part = compared(sound.replace("Cast <to = 7> (a)", "Cast <to = 7> (x)"), sound, head=head, weights=gain)
    assert part.outputs["y"].relative == np.inf and not part.ok
    assert (part.verdict, part.reason) == ("unknown", "the error comes from what could not be compared")


GUESS = into(0, "a")
BEFORE = Outputs({"y": Errors(1.0, 1.0, 1.0, 0.0, 30.0)}, 30.0, "float32")


@pytest.mark.parametrize(
    ("guesses", "kind", "gain", "excess", "is_alone", "is_to_blame"),
    [
        ((), "float32", 0.5, 15.0, False, True),
        ((), "float32", 0.1, 15.0, False, False),
        ((GUESS,), "float32", 2.5, 15.0, False, False),
        ((GUESS,), "float32", 3.5, 15.0, False, True),
        ((), "float32", -0.1, 50.0, False, True),  # hidden by what the others lose
        ((), "float32", -4.0, 50.0, False, False),  # its error undoes another's
        ((), "float32", -4.0, 50.0, True, True),  # there is no other
        ((), "float32", -0.1, 15.0, True, False),
        ((), "quantized", -0.1, 50.0, False, False),
        ((), "quantized", -4.0, 50.0, True, True),
        ((GUESS,), "float32", -0.1, 50.0, True, False),
    ],
)
def test_how_much_speaks_for_a_suspect(
    guesses: tuple[Port, ...], kind: str, gain: float, excess: float, is_alone: bool, is_to_blame: bool
) -> None:
    """More where its tensors are guesses."""
    row = Row(0, "/Net", False, guesses=set(guesses))
    assert _is_to_blame(Blame((row,), excess, BEFORE, gain), BEFORE, {kind}, is_alone=is_alone) is is_to_blame


def test_one_that_stands_out_among_all_that_quantize_needs_less() -> None:
    """By chance the outputs are a few dB better without it; that it is the one that is far off is no chance."""
    blame = Blame((Row(0, "/Net", False),), 12.0, BEFORE, 4.0)
    for stands_out in (True, False):
        found = _is_to_blame(blame, BEFORE, {"quantized"}, is_alone=True, stands_out=stands_out)
        assert found is stands_out


def test_guess_is_no_evidence_for_others() -> None:
    """A row that a module has a part in comes with that module's own, if that is certain."""
    for guesses, count in ((set(), 1), ({GUESS}, 2)):
        own, other = Row(0, "/Net/A", True, guesses=guesses), Row(1, "/Net/B", True, foreign_of={GUESS: {0}})
        assert len(_by_module([own, other], {id(own): 20.0, id(other): 10.0})) == count


def test_guess_comes_with_what_the_same_nodes_make_for_certain() -> None:
    """A fused node has two outputs, one of them known by its shape only."""
    guess, certain = Row(1, "/Net/B", False, nodes={4, 5}, guesses={GUESS}), Row(0, "/Net/A", True, nodes={4, 5})
    assert _by_module([guess, certain], {id(guess): 20.0, id(certain): 10.0}) == [[certain, guess]]
    guess.nodes.add(6)
    assert len(_by_module([guess, certain], {id(guess): 20.0, id(certain): 10.0})) == 2


def test_who_is_given_what_was_only_guessed_may_not_be_who_is_wrong() -> None:
    graph = call_graph("y = Sin(x)   # act", "act", "root")
    blame = Blame((Row(0, "/Net/act", False),), 50.0, BEFORE, 5.0)
    verdict = Verdict("one", (blame,))
    assert settled(verdict, set(), set(), graph) is verdict
    assert settled(verdict, {Port(1, "x", into=True), Port(0, "y", into=False)}, set(), graph) is verdict
    told = settled(verdict, {Port(0, "x", into=True)}, set(), graph)
    assert told.verdict == "unknown" and told.reason is not None and told.reason.startswith("act is wrong, or")


# --- The report ---------------------------------------------------------------------------------------------------


FAR = Errors(1.0, 1.0, 1.0, 0.0, 0.0)


def call(order: int, path: str, errors: Errors | None = None) -> CallComparison:
    return CallComparison(
        order=order, tag="", path=path, class_name="", own=errors, errors=errors, over=errors is not None
    )


def report_of(verdict: str, *calls: CallComparison, error: float = 0.0, **options: Any) -> PartComparison:
    return PartComparison(
        file="model.onnx", reference="", inputs={}, tolerance=1e-4, verdict=verdict, calls=calls,
        outputs={"y": replace(EXACT, relative=error)}, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "error", "ok"),
    [
        ("agrees", 0.0, True),
        ("one", 0.0, False),
        ("several", 0.0, False),
        ("spread", 1e-5, True),
        ("spread", 1e-3, False),
        ("unknown", 1e-3, False),
        ("unknown", 0.0, True),
    ],
)
def test_what_is_all_right(verdict: str, error: float, ok: bool) -> None:
    assert report_of(verdict, error=error).ok is ok


def test_culprit_is_the_first_of_those_that_are_ranked() -> None:
    culprits = [
        Culprit(row=call(order, f"layer.{order}", FAR), expected_sqnr_db=110.0, output_error_without=1.0,
                output_sqnr_db_without=0.0)
        for order in range(2)
    ]  # fmt: skip
    assert report_of("several", culprits=tuple(culprits)).culprit is culprits[0].row
    assert report_of("agrees").culprit is None


# --- Measures -----------------------------------------------------------------------------------------------------


def test_measure_of_several_samples_is_that_of_all_together() -> None:
    random = np.random.default_rng(0)
    expected = [random.standard_normal(size).astype(np.float32) for size in ((2, 3), (5, 3), (1, 300_001))]
    actual = [array + 0.01 * random.standard_normal(array.shape).astype(np.float32) for array in expected]
    measure = Measure()
    for ours, theirs in zip(actual, expected, strict=True):
        measure.add(ours, theirs)
    whole = measure_errors(*(np.concatenate([each.ravel() for each in side]) for side in (actual, expected)))
    found = measure.errors()
    assert (found.max_abs, found.relative) == (whole.max_abs, whole.relative)
    assert found.sqnr_db == pytest.approx(whole.sqnr_db) and found.cosine == pytest.approx(whole.cosine)
    assert found.mean_abs == pytest.approx(whole.mean_abs)


def test_one_sample_without_a_number_is_enough() -> None:
    measure = Measure()
    measure.add(np.ones(3), np.ones(3))
    assert measure.errors() == EXACT
    measure.add(np.array([np.nan]), np.ones(1))
    measure.add(np.ones(3), np.ones(3))
    assert measure.errors().relative == np.inf and measure.errors().sqnr_db == -np.inf
    assert Measure().errors() == EXACT


def test_layouts_that_agree_on_all_samples() -> None:
    """A transposition or a reshape that a tool moved is no error; values in other places are."""
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((2, 5, 5)).astype(np.float32) for _ in range(2)]

    def found(*actual: Array) -> tuple[Layout, Errors] | None:
        return fit(actual, arrays, lambda errors: errors.sqnr_db > 100)

    assert found(*arrays) == (AS_IT_IS, EXACT)
    for order in ((2, 0, 1), (0, 2, 1)):
        turned = found(*(array.transpose(order) for array in arrays))
        assert turned is not None and turned[1] == EXACT
        back = turned[0].of_graph(arrays[0], ())
        assert np.array_equal(back, arrays[0].transpose(order))
        assert np.array_equal(turned[0].of_reference(back, arrays[0].shape), arrays[0])
    assert found(*(array.reshape(10, 5) for array in arrays)) == (Layout(flat=True), EXACT)
    one_way = found(arrays[0].transpose(0, 2, 1), arrays[1])
    assert one_way is not None and one_way[0] == AS_IT_IS and one_way[1].relative > 0.1
    other = found(*(np.flip(array, 1) for array in arrays))
    assert other is not None and other[1].relative > 0.1
    assert found(*(array[:, :4] for array in arrays)) is None
    assert found(*(array.astype(np.int64) for array in arrays)) is None


def test_order_of_axes_is_turned_back() -> None:
    """Of three axes an order is not its own inverse."""
    array = np.arange(24).reshape(2, 3, 4)
    for order in ((1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0)):
        layout = Layout(order)
        assert np.array_equal(layout.of_reference(layout.of_graph(array, ()), array.shape), array)


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
    texts = [
        COMPARE_NOTES,
        compare.__doc__ or "",
        page.read_text(encoding="utf-8").partition("may be off by the tolerance")[2],
    ]
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


def test_arrays_that_are_not_numbers_of_one_kind() -> None:
    assert compare_arrays(np.ones(3), np.ones(4)).relative == np.inf
    assert compare_arrays(np.ones(3, np.int64), np.ones(3, np.float32)).relative == np.inf
