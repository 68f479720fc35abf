"""The rules by which a module is cut out of a graph, one by one, on graphs small enough to see.

The comment of each node says whose it is (`small_graphs`); a fused node's lists its origins after a colon. Tensors are
floats but for those whose name begins with `i`, which are integers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from small_graphs import SmallGraph, read, spelled

from optimum_htp import PackageError, extract
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.onnxfile.model import Value
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.onnxfile.types import NUMBERS
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
