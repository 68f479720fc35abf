"""The rules by which a module is cut out of a graph, one by one, on graphs small enough to see.

The comment of each node says whose it is (`small_graphs`); a fused node's lists its origins after a colon. Tensors are
floats but for those whose name begins with `i`, which are integers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from small_graphs import SmallGraph, read, save, spelled

from optimum_htp import PackageError, extract
from optimum_htp.cli.views.extract import extract_page
from optimum_htp.cli.views.terminal import print_page
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.onnxfile.model import Value
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.onnxfile.shapes import TensorTypes
from optimum_htp.onnxfile.types import NUMBERS, element_type
from optimum_htp.package.node_metadata import read_tags
from optimum_htp.package.sidecar.record import FileRecord
from optimum_htp.package.sidecar.sidecar import Sidecar
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.verbs.extract.choice import Choice
from optimum_htp.verbs.extract.cut import cut


def tagged_graph(small: SmallGraph) -> TaggedGraph:
    """A graph with the tags that its comments spell, and the modules that they name."""
    tags = {}
    for key, note in small.notes.items():
        own, _, origins = note.partition(":")
        sources = tuple(spelled(origin) for origin in origins.split())
        tags[key] = NodeTag(spelled(own.strip()), "fused" if sources else "scope", origins=sources)
    paths = {()}
    for note in small.notes.values():
        for name in note.replace(":", " ").split():
            parts = () if name == "root" else tuple(name.split("."))
            paths.update(parts[:length] for length in range(len(parts) + 1))
    tree = ModuleTree(
        ModuleInfo(path, path[-1].upper() if path else "Net", "toy.M", calls=1) for path in sorted(paths)
    )
    return TaggedGraph(small.model, tags, Roots((Root(tree),)), name="model.onnx")


def cut_out(
    text: str, *modules: str, graph: str = "", outputs: tuple[str, ...] = (), dead: str = ""
) -> SimpleNamespace:
    """What is cut out for a module, or for the modules of a range; nodes go by what they produce."""
    file = tagged_graph(read(text, outputs=outputs))
    main = file.model.graph
    main.outputs = tuple(value for value in main.outputs if value.name != dead)
    (tree,) = file.trees
    tags = tuple(map(spelled, modules))
    keys = [key for key, tag in file.tags.items() if key[0] == graph and f"{tag.tag}/".startswith(tuple(f"{tag}/" for tag in tags))]  # fmt: skip
    choice = Choice(
        file=file,
        tree=tree,
        paths=tuple(tuple(module.split(".")) for module in modules),
        call=None,
        tags=tags,
        graph=graph,
        positions=frozenset(index for _, index in keys),
    )
    names = {name for _, node in file.model.nodes() for name in (*node.inputs, *node.outputs)}
    types = {name: Value(name, NUMBERS["int64" if name.startswith("i") else "float32"]) for name in names}
    part = cut(choice, types)
    return SimpleNamespace(
        nodes=[part.scopes[scope].graph.nodes[index].outputs[0] for scope, index in part.nodes],
        own=part.own,
        shared=part.shared,
        inputs=part.inputs,
        outputs=part.outputs,
        initializers=part.initializers,
    )


# --- What belongs to a part ---------------------------------------------------------------------------------------


def test_inputs_are_produced_outside_and_outputs_consumed_outside() -> None:
    """`two` is consumed inside only, so it is not an output; the initializer comes along."""
    part = cut_out(
        """
        one = Relu(x)         # root
        two = Mul(one, w)     # a
        three = Add(two, x)   # a.b
        y = Neg(three)        # root
        """,
        "a",
    )
    assert part.nodes == ["two", "three"]
    assert (part.inputs, part.outputs, part.initializers) == (("one", "x"), ("three",), ("w",))


def test_outputs_of_the_graph_are_outputs() -> None:
    """Though no node consumes them."""
    assert cut_out("y = Neg(x)   # a", "a").outputs == ("y",)
    assert cut_out("y = Neg(x)   # a\nz = Relu(y)  # b", "a", outputs=("y",)).outputs == ("y",)


def test_constants_come_along() -> None:
    """Whosever they are, with the initializers that they are made of; the module that owns one does not give it."""
    text = """
        one = Identity(w)       # a
        two = Transpose(one)    # a
        three = Mul(x, one)     # a
        y = Add(three, two)     # b
    """
    part = cut_out(text, "b")
    assert part.nodes == ["one", "two", "y"]
    assert (part.own, part.inputs, part.initializers) == (1, ("three",), ("w",))
    assert cut_out(text, "a").outputs == ("three",)


def test_random_numbers_are_not_constant() -> None:
    """What draws them is not copied: its numbers would be others."""
    part = cut_out(
        """
        one = RandomNormalLike(w)  # a
        y = Add(x, one)            # b
        """,
        "b",
    )
    assert part.inputs == ("x", "one")


def test_nodes_are_in_the_order_of_data_flow() -> None:
    """Some tools append nodes at the end of the file."""
    part = cut_out(
        """
        y = Neg(two)      # root
        two = Add(one, x) # a
        one = Relu(x)     # a
        """,
        "a",
    )
    assert part.nodes == ["one", "two"]


# --- Quantizers ---------------------------------------------------------------------------------------------------


def test_quantizer_before_a_module_comes_along() -> None:
    """With it the part takes floats, as the module does."""
    part = cut_out(
        """
        q, s, z = DynamicQuantizeLinear(x)      # root
        i1 = MatMulInteger(q, w, z)             # a
        one = Cast <to = 1> (i1)                # a
        y = Mul(one, s)                         # a
        """,
        "a",
    )
    assert part.inputs == ("x",)
    assert part.nodes[0] == "q"


def test_quantizer_after_a_module_is_left_out() -> None:
    """Without it the part gives floats. It quantizes for the next module."""
    part = cut_out(
        """
        one = Relu(x)                           # a
        q = QuantizeLinear(one, w_s, w_z)       # a
        two = DequantizeLinear(q, w_s, w_z)     # b
        y = Neg(two)                            # b
        """,
        "a",
    )
    assert (part.nodes, part.outputs) == (["one"], ("one",))


def test_quantizer_inside_a_module_stays() -> None:
    """The module consumes what it gives."""
    part = cut_out(
        """
        one = Relu(x)                           # a
        q = QuantizeLinear(one, w_s, w_z)       # a
        two = DequantizeLinear(q, w_s, w_z)     # a
        y = Neg(two)                            # b
        """,
        "a",
    )
    assert part.nodes == ["one", "q", "two"]


# --- What may be in between ---------------------------------------------------------------------------------------


INTERLEAVED = """
    one = Relu(x)         # net.a
    two = Mul(one, w)     # net.b
    three = Add(one, two) # net.a
    y = Neg(three)        # root
"""


def test_interleaved_modules_are_refused() -> None:
    """What leaves `a` comes back through `b`: `b` is named, and the module around both."""
    with pytest.raises(PackageError, match=r"around 'net\.a': .* 1 nodes of net\.b \(.*'two'\); extract net,"):
        cut_out(INTERLEAVED, "net.a")
    assert cut_out(INTERLEAVED, "net").outputs == ("three",)
    assert cut_out(INTERLEAVED, "net.b").inputs == ("one",)


def test_shape_computations_in_between_come_along() -> None:
    """Exporters give them to whoever asked first; copied, they change nothing."""
    part = cut_out(
        """
        one = Relu(x)            # a
        i1 = Shape(one)          # root
        i2 = Add(i1, w)          # b
        two = Reshape(one, i2)   # a
        y = Neg(two)             # root
        """,
        "a",
    )
    assert (part.shared, part.inputs) == (("i1", "i2"), ("x",))


def test_nodes_of_the_parent_between_the_layers_of_a_range_come_along() -> None:
    """As the norm between two layers that their parent calls; between calls of one module they are in the way."""
    text = """
        one = Relu(x)     # net.0
        two = Neg(one)    # net
        three = Relu(two) # net.1
        y = Abs(three)    # root
    """
    assert cut_out(text, "net.0", "net.1").shared == ("two",)
    with pytest.raises(PackageError, match=r"comes back through 1 nodes of net "):
        cut_out(text.replace("net.1", "net.0"), "net.0")


# --- Fused nodes --------------------------------------------------------------------------------------------------


def test_node_fused_with_another_modules_work_is_refused() -> None:
    """A part of `a` is in a node that is not its own; the module around both is named."""
    text = """
        one = MatMul(x, w)                    # net.a
        two = com.microsoft.BiasGelu(one, w2) # net: net.a net.act
        y = Neg(two)                          # root
    """
    with pytest.raises(PackageError, match=r"fused a part of it with net\.act into 'two' \(BiasGelu\); extract net,"):
        cut_out(text, "net.a")
    assert cut_out(text, "net").nodes == ["one", "two"]


def test_node_fused_elsewhere_is_not_in_the_way() -> None:
    """It has an origin in the module, but neither gives it anything nor takes anything."""
    part = cut_out(
        """
        one = MatMul(x, w)                    # net.a
        two = com.microsoft.BiasGelu(x, w2)   # net: net.a net.act
        y = Add(one, two)                     # root
        """,
        "net.a",
    )
    assert part.nodes == ["one"]


# --- Bodies -------------------------------------------------------------------------------------------------------


def test_what_bodies_take_from_around_them_is_consumed() -> None:
    """The `If` itself reads `c2` only; its branches take `one`, the second by returning it, and the initializers."""
    text = """
        one = Relu(x)  # a
        y = If(c) <then_branch = yes () => (float[N] t) {  # b
          t1 = Mul(one, w)  # b.inner
          t = Add(t1, w2)  # b
        }, else_branch = no () => (float[N] e) {
          e = Neg(one)  # b
        }>
        z = Abs(y)  # root
    """
    part = cut_out(text, "b")
    assert part.nodes == ["y"]
    assert (part.inputs, part.outputs, part.initializers) == (("c", "one"), ("y",), ("w", "w2"))
    assert cut_out(text, "a").outputs == ("one",)


def test_cut_inside_a_branch() -> None:
    """What is around the branch is an input; constants and initializers of the main graph come along."""
    text = """
        one = Relu(x)  # a
        two = Neg(w)  # a
        y = If(c) <then_branch = yes () => (float[N] t) {  # b
          t1 = Mul(one, two)  # b.inner
          t2 = Add(t1, w2)  # b.inner
          t = Abs(t2)  # b
        }, else_branch = no () => (float[N] e) {
          e = Neg(one)  # b
        }>
    """
    part = cut_out(text, "b.inner", graph="2.then_branch")
    assert part.nodes == ["two", "t1", "t2"]
    assert (part.inputs, part.outputs, part.initializers) == (("one",), ("t2",), ("w", "w2"))


def test_module_whose_result_is_not_used_is_refused() -> None:
    """It would have no output."""
    with pytest.raises(PackageError, match=r"nothing consumes what 'a' produces"):
        cut_out("one = Relu(x)  # a\ny = Neg(x)  # b", "a", dead="one")


# --- Files --------------------------------------------------------------------------------------------------------


def test_sparse_initializers_come_along(tmp_path: Path) -> None:
    """The part gives what the graph gives."""
    make = onnx.helper
    values = make.make_tensor("w", onnx.TensorProto.FLOAT, [2], [2.0, 3.0])
    indices = make.make_tensor("w_indices", onnx.TensorProto.INT64, [2], [0, 3])
    graph = make.make_graph(
        [make.make_node("Abs", ["x"], ["one"]), make.make_node("Mul", ["one", "w"], ["y"])],
        "toy",
        [make.make_tensor_value_info("x", 1, [4])],
        [make.make_tensor_value_info("y", 1, [4])],
        sparse_initializer=[make.make_sparse_tensor(values, indices, [4])],
    )
    package = tmp_path / "package"
    package.mkdir()
    onnx.save(make.make_model(graph, ir_version=8, opset_imports=[make.make_opsetid("", 17)]), package / "model.onnx")
    model = read_model(package / "model.onnx")
    file = tagged_graph(SmallGraph(model, {("", 0): "a", ("", 1): "b"}))
    Sidecar({"model.onnx": FileRecord.of(replace(file, model=model))}, versions={"optimum_htp": "0"}).write(package)

    report = extract(package, "b", output=tmp_path / "part.onnx")
    assert report.initializers == 1
    (proto,) = onnx.load(report.output).graph.sparse_initializer
    assert list(proto.dims) == [4]
    session = onnxruntime.InferenceSession(report.output)
    (made,) = session.run(None, {"one": np.ones(4, np.float32)})
    assert list(made) == [2.0, 0.0, 0.0, 3.0]


# --- Functions ----------------------------------------------------------------------------------------------------

FUNCTIONS = """
    g (float[n, 4] x) => (float[n, 4] y) {
      one = Relu(x)          # net.a
      two = local.Outer(one) # net.b
      three = local.Inner(two) # net.c
      y = mine.Other(three)  # net.d
    }
    <domain: "local", opset_import: ["": 17, "local": 1]>
    Outer (a) => (b) {
      c = local.Inner(a)  # net.b.inner
      b = Neg(c)          # net.b
    }
    <domain: "local", opset_import: ["": 17]>
    Inner (a) => (b) {
      b = Abs(a)  # net.b.inner
    }
    <domain: "mine", opset_import: ["": 17]>
    Other (a) => (b) {
      b = Exp(a)  # net.d.inner
    }
"""


@pytest.mark.parametrize(
    ("module", "functions", "made"),
    [
        ("net.b", ["Outer", "Inner"], lambda x: -np.abs(x)),  # a function that calls another one
        ("net.c", ["Inner"], np.abs),  # called from elsewhere, too
        ("net.a", [], lambda x: np.maximum(x, 0)),
        ("net", ["Outer", "Inner", "Other"], lambda x: np.exp(np.abs(np.maximum(x, 0)))),
    ],
)
@pytest.mark.parametrize("graph", [None, "main", ""])
def test_functions_come_along(
    module: str, functions: list[str], made: Callable[[Any], Any], graph: str | None, tmp_path: Path
) -> None:
    """Those that the module's nodes call, and that these call, with their tags; no others."""
    package = save(tmp_path / "package" / "model.onnx", FUNCTIONS)
    report = extract(package, module, output=tmp_path / "part.onnx", graph=graph)
    part = read_model(report.output)
    assert [function.name for function in part.functions] == functions
    assert report.not_loaded is None
    whole, cut = (read_tags(read_model(path)) for path in (package, report.output))
    assert {key for key in cut if "::" in key[0]} == {key for key in whole if key[0].split("::")[-1] in functions}
    x = np.array([[-1, 0.5, 2, -3]], np.float32)
    session = onnxruntime.InferenceSession(report.output)
    np.testing.assert_allclose(session.run(None, {session.get_inputs()[0].name: x})[0], made(x))


def test_module_inside_a_function_is_refused(tmp_path: Path) -> None:
    """It has no tensors of its own, and runs wherever the function is called; what calls it is named, and a way."""
    package = save(tmp_path / "model.onnx", FUNCTIONS)
    for graph in (None, "local::Inner", "Inner"):
        with pytest.raises(PackageError) as error:
            extract(package, "net.b.inner", output=tmp_path / "part.onnx", graph=graph)
        assert "in the function 'local::Outer'," in str(error.value)
        assert "extract what calls it (net.b), or inline functions first: onnx.inliner.inline_" in str(error.value)
    with pytest.raises(PackageError, match=r"in the graph 'main' \(1 nodes\); --graph local::Outer is not among them"):
        extract(package, "net.b", output=tmp_path / "part.onnx", graph="local::Outer")
    assert not (tmp_path / "part.onnx").exists()


# --- ONNX Runtime -------------------------------------------------------------------------------------------------

BOUNDARIES = {
    # A module `a` of which ONNX Runtime's own operators give what `b` takes: by the first input of some, it is integers.
    "embedding": (
        """
        g (int32[n, l] x) => (float[n, l, 8] y) <float[4, 8] w = {%s}, float[8] v = {%s}> {
          one, mask, sum = com.microsoft.EmbedLayerNormalization(x, , w, w, , v, v)  # a
          y = Add(one, sum)  # b
        }
        """,
        {"one": "float32", "sum": "float32"},
    ),
    "quantized product": (
        """
        g (float[n, 4] x) => (float[n, 8] y) <uint8[4, 8] w = {%s}, float s = {0.5}, float[8] v = {%s}> {
          q, qs, qz = DynamicQuantizeLinear(x)  # a
          one = com.microsoft.MatMulIntegerToFloat(q, w, qs, s, qz, , v)  # a
          two = Relu(one)  # b
          y = com.microsoft.BiasGelu(two, v)  # c
        }
        """,
        {"one": "float32"},
    ),
    "4 bits": (
        """
        g (int64[n, l] x) => (float[n, l, 16] y) <uint8[4, 8] w = {%s}, float[4] s = {1, 1, 1, 1}, float[8] v = {%s}> {
          s2 = Constant <value_ints = [4, 1]> ()  # a
          s1 = Reshape(s, s2)  # a
          one = com.microsoft.GatherBlockQuantized <block_size = 16, bits = 4, quantize_axis = 1> (w, x, s1)  # a
          y = Neg(one)  # b
        }
        """,
        {"one": "float32"},
    ),
    "integers": (
        """
        g (float[n, 4] x) => (float[n, 8] y)
        <uint8[4, 8] w = {%s}, float s = {0.5}, uint8 z = {0}, float[8] v = {%s}> {
          q = QuantizeLinear(x, s, z)  # a
          p = com.microsoft.QLinearAdd(q, s, z, q, s, z, s, z)  # a
          t = Transpose <perm = [1, 0]> (p)  # b
          u = Transpose <perm = [1, 0]> (t)  # b
          o = QLinearMatMul(u, s, z, w, s, z, s, z)  # c
          y = DequantizeLinear(o, s, z)  # c
        }
        """,
        {"p": "uint8"},
    ),
}


@pytest.mark.parametrize("name", BOUNDARIES)
def test_types_are_those_of_onnx_runtimes_own_operators(name: str, tmp_path: Path) -> None:
    """The part has the inputs that the model gives it, and gives what it gives there."""
    text, expected = BOUNDARIES[name]
    ones = [", ".join(["1"] * count) for count in (32, 8)]
    package = save(tmp_path / "package" / "model.onnx", text % tuple(ones), opset=18)
    report = extract(package, "b", output=tmp_path / "part.onnx")
    assert {value.name: element_type(value.elem_type).name for value in report.inputs} == expected
    assert report.not_loaded is None
    model = onnx.load(package)
    names = [*expected, *(value.name for value in report.outputs)]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "y")
    whole, part = (onnxruntime.InferenceSession(each) for each in (model.SerializeToString(), report.output))
    kind = np.float32 if "float[n, 4] x" in text else np.int32 if "int32[n" in text else np.int64
    values = dict(zip(names, whole.run(names, {"x": np.ones((2, 4), kind)}), strict=True))
    made = part.run(None, {name: values[name] for name in expected})
    for value, array in zip(report.outputs, made, strict=True):
        np.testing.assert_array_equal(array, values[value.name])


UNKNOWN = """
    g (float[n, 4] x) => (float[n, 4] y) <float[n, 4] said> {
      one = mine.Unknown(x)  # a
      two = Relu(one)        # b
      said = mine.Unknown(two)  # c
      three = Neg(said)      # d
      y = mine.Unknown(three)  # e
    }
"""


def test_types_are_never_guessed(tmp_path: Path) -> None:
    """What nobody knows is named, all of it; what the file declares is known."""
    package = save(tmp_path / "package" / "model.onnx", UNKNOWN)
    with pytest.raises(PackageError, match=r"into 'b' or out of it are unknown.*: one, two; .* value_info"):
        extract(package, "b", output=tmp_path / "part.onnx")
    report = extract(package, "d", output=tmp_path / "part.onnx")
    assert [value.shape for value in (*report.inputs, *report.outputs)] == [("n", 4), ("n", 4)]
    assert report.not_loaded is None


def test_part_that_cannot_be_loaded_here_like_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It stands, and it is said why."""
    package = save(tmp_path / "package" / "model.onnx", UNKNOWN)
    report = extract(package, "e", output=tmp_path / "part.onnx")
    assert report.not_loaded is not None
    assert "Unknown" in report.not_loaded
    print_page(extract_page(report))
    assert "ONNX Runtime can't load it here, nor the file that it is from: " in capsys.readouterr().out


def test_part_that_alone_cannot_be_loaded_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose types are wrong: that is our fault, and nothing is left of it."""
    package = save(
        tmp_path / "package" / "model.onnx", "g (float[n] x) => (float[n] y) {\n a = Neg(x)  # a\n y = Exp(a)  # b\n}"
    )
    known = {"a": Value("a", NUMBERS["int64"], ("n",)), "y": Value("y", NUMBERS["float32"], ("n",))}
    monkeypatch.setattr(TensorTypes, "sized", lambda *_: known)
    with pytest.raises(PackageError, match=r"can't load what was cut out for 'b', so nothing was written .*int64"):
        extract(package, "b", output=tmp_path / "part.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


# --- What has to be chosen ----------------------------------------------------------------------------------------

CHOICES = """
    g (float[n] x, bool c) => (float[n] y) {
      y = If(c) <then_branch = yes () => (float[n] t) {  # root
        t1 = Neg(x)  # net.a@0
        t = Abs(t1)  # net.a@1
      }, else_branch = no () => (float[n] e) {
        e1 = Exp(x)  # net.a@0
        e = Abs(e1)  # net.a@1
      }>
    }
"""


def test_all_that_has_to_be_chosen_is_named_at_once(tmp_path: Path) -> None:
    """File, graph and call; and what is given is not asked for again."""
    for name in ("one", "two"):
        save(tmp_path / "package" / f"{name}.onnx", CHOICES)
    calls, graphs = (
        r"ran 2 times in the export; name one call: net\.a@0, net\.a@1",
        r"several graphs.*choose one with --graph",
    )

    def refusal(**given: Any) -> str:
        with pytest.raises(PackageError) as error:
            extract(tmp_path / "package", "net.a", output=tmp_path / "part.onnx", **given)
        return str(error.value)

    assert re.search(rf"several files; name one with --file: one\.onnx, two\.onnx; .*{calls}.*{graphs}", refusal())
    assert re.search(f"one.onnx: .*{calls}; .*{graphs}", refusal(file="one.onnx"))
    assert not re.search(calls, refusal(file="one.onnx", call=1))
    assert not re.search(graphs, refusal(file="one.onnx", graph="then_branch"))
    assert re.search(rf"no nodes of a call 7.*{graphs}", refusal(file="one.onnx", call=7))
    given = {"file": "one.onnx", "graph": "else_branch", "call": 1}
    assert [
        each.name for each in extract(tmp_path / "package", "net.a", output=tmp_path / "p.onnx", **given).inputs
    ] == ["e1"]
