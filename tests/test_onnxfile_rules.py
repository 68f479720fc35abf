"""The rules of the index of edges, of constants and of types, each on a graph of a few nodes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import small_graphs

from optimum_htp import PackageError
from optimum_htp.onnxfile.edges import Edges, reads, topological_order
from optimum_htp.onnxfile.model import OnnxModel, Value, body_path, split_body_path
from optimum_htp.onnxfile.reading import read_content
from optimum_htp.onnxfile.scopes import scopes_of
from optimum_htp.onnxfile.shapes import tensor_types
from optimum_htp.onnxfile.spans import model_spans, scope_spans
from optimum_htp.onnxfile.types import NUMBERS

BRANCHES = """
    a = Relu(x)
    y = If(c) <then_branch = yes () => (float[N] t) {
      b = Neg(a)
      t = Add(b, w)
    }, else_branch = no () => (float[N] a) {
    }>
"""


def read(text: str, *functions: str) -> OnnxModel:
    """A graph in the text of `small_graphs`, whose nodes need no comments here."""
    parts = (re.sub(r"^\s*[\w, ]+ = .*", r"\g<0>  #", part, flags=re.MULTILINE) for part in (text, *functions))
    return small_graphs.read(*parts).model


# --- Edges --------------------------------------------------------------------------------------------------------


def test_name_in_a_body() -> None:
    """It means its own tensor, or one of the graph around it, which has a producer unless it is an initializer."""
    edges = Edges(read(BRANCHES))
    assert edges.producer("1.then_branch", "b") == ("1.then_branch", 0)
    assert edges.producer("1.then_branch", "a") == edges.producer("1.else_branch", "a") == ("", 0)
    assert edges.find("1.then_branch", "w") == ("", "w")
    assert edges.producer("1.then_branch", "w") is None
    assert edges.producer("", "b") is None


def test_name_means_the_innermost_tensor() -> None:
    """Two branches may use one name, and one of the main graph."""
    edges = Edges(
        read(
            """
            a = Relu(x)
            y = If(c) <then_branch = yes () => (float[N] t) {
              a = Neg(x)
              t = Abs(a)
            }, else_branch = no () => (float[N] e) {
              e = Abs(a)
            }>
            """
        )
    )
    assert edges.find("1.then_branch", "a") == ("1.then_branch", "a")
    assert edges.find("1.else_branch", "a") == ("", "a")
    assert edges.find("", "t") is None
    assert edges.producer("1.then_branch", "a") == ("1.then_branch", 0)
    assert edges.producer("1.else_branch", "a") == ("", 0)


def test_function_sees_nothing_around_it() -> None:
    """Its `x` is its own input."""
    edges = Edges(
        read(
            "y = local.F(x)",
            """<domain: "local", opset_import: ["": 17]>
            F (x) => (y) {
              y = Relu(x)
            }""",
        )
    )
    assert edges.find("", "x") == ("", "x")
    assert edges.find("local::F", "x") == ("local::F", "x")
    assert edges.find("local::F", "c") is None
    assert edges.producer("local::F", "x") is None


def test_what_a_node_reads() -> None:
    """Its inputs, and what its bodies take from around it, in the order of the file."""
    _, branch = read(BRANCHES).graph.nodes
    assert list(reads(branch)) == ["c", "a", "w", "a"]


@pytest.mark.parametrize("path", [("", 3, "then_branch"), ("3.then_branch", 0, "body[1]"), ("local::F", 2, "body")])
def test_path_of_a_body_and_back(path: tuple[str, int, str]) -> None:
    assert split_body_path(body_path(*path)) == path


def test_path_that_is_not_that_of_a_body() -> None:
    """The main graph, and functions, whatever they are called."""
    assert [split_body_path(path) for path in ("", "local::F", "3.x::F", "a.b::F:overload")] == [None] * 4


def test_order_of_data_flow() -> None:
    """Producers first, those that a body consumes too; otherwise the order of the file."""
    model = read(
        """
        y = If(c) <then_branch = yes () => (float[N] t) {
          t = Neg(b)
        }, else_branch = no () => (float[N] e) {
          e = Neg(a)
        }>
        z = Abs(x)
        b = Relu(a)
        a = Sin(x)
        """
    )
    assert topological_order(model.graph.nodes) == (1, 3, 2, 0)


def test_cycle_is_put_last() -> None:
    """It is not ONNX, and no reason to hang."""
    model = read("a = Add(x, b)\nb = Neg(a)\ny = Abs(x)")
    assert topological_order(model.graph.nodes) == (2, 0, 1)


# --- Scopes -------------------------------------------------------------------------------------------------------


def test_constants_depend_on_initializers_only() -> None:
    """Also those of a body on those of the graph around it, but not on random numbers."""
    model = read(
        """
        k = Neg(w)
        a = Add(x, w)
        r = RandomNormalLike(w)
        s = Abs(r)
        d = Dropout(w)
        y = If(c) <then_branch = yes () => (float[N] t) {
          b = Abs(k)
          t = Add(a, b)
        }, else_branch = no () => (float[N] e) {
          e = Neg(a)
        }>
        """
    )
    main, branch = scopes_of(model, "5.then_branch")
    assert (main.path, main.constants, main.initializers) == ("", {"k"}, {"w"})
    assert (branch.path, branch.constants, branch.initializers) == ("5.then_branch", {"b"}, frozenset())


def test_inside_of_a_function_has_no_scopes() -> None:
    model = read("y = local.F(x)", '<domain: "local", opset_import: ["": 17]>\nF (x) => (y) {\n y = Relu(x)\n}')
    with pytest.raises(PackageError, match="inline functions first"):
        scopes_of(model, "local::F")


# --- Types --------------------------------------------------------------------------------------------------------


def types(text: str, *, path: str = "") -> dict[str, Value]:
    """What is known of the tensors of a model in ONNX's own text."""
    head = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1, "com.microsoft.nchwc": 1, "mine": 1]>\n'
    content = onnx.parser.parse_model(head + text).SerializeToString()
    model = read_content(content, path=Path("model.onnx"))
    spans = model_spans(content)
    return tensor_types(content, spans, scopes_of(model, path), scope_spans(content, spans.graph, path))


def test_symbol_goes_through_a_reshape() -> None:
    """ONNX's own inference loses it at the `-1`, and the second axis at the arithmetic."""
    known = types(
        """
        g (float[batch, length, 6] x) => (float[] y) <int64[4] to = {0, -1, 2, 3}> {
          split = Reshape(x, to)
          y = Transpose <perm = [0, 2, 1, 3]> (split)
        }
        """
    )
    assert known["y"] == Value("y", NUMBERS["float32"], ("batch", 2, "length", 3))


def test_sum_of_two_symbols() -> None:
    """As long as both together."""
    known = types("g (float[batch, past] x, float[batch, length] z) => (float[] y) { y = Concat <axis = 1> (x, z) }")
    assert known["y"].shape == ("batch", "length + past")


def test_size_that_depends_on_values_has_a_symbol_of_its_own() -> None:
    """It is told from the file's own by its prefix; axes that share it are equal."""
    known = types("g (bool[n] x) => (float[] y) { i = NonZero(x)\n a = Transpose(i)\n y = Cast <to = 1> (a) }")
    (rows, columns) = known["y"].shape or ()
    assert columns == 1
    assert isinstance(rows, str)
    assert rows.startswith("unk__")
    assert known["a"].shape == (rows, 1)


def test_operators_of_onnx_runtime() -> None:
    """Known ones have their shape; of others the first output has the type of the first float, and the axes if certain."""
    known = types(
        """
        g (float[batch, 8] x) => (float[] y) <float[8] b = {0, 0, 0, 0, 0, 0, 0, 0}, float[8, 4] w> {
          a = com.microsoft.BiasGelu(x, b)
          f = com.microsoft.FusedGemm(a, w)
          y = Relu(f)
          m = mine.Unknown(y)
        }
        """.replace("float[8, 4] w", "float[8, 4] w = {" + ", ".join("0" * 32) + "}")
    )
    assert known["a"].shape == ("batch", 8)
    assert (known["f"].elem_type, len(known["f"].shape or ())) == (NUMBERS["float32"], 2)
    assert (known["y"].elem_type, len(known["y"].shape or ())) == (NUMBERS["float32"], 2)
    assert known["m"] == Value("m", NUMBERS["float32"], None)


def test_quantized_operators_have_the_axes_of_their_largest_input() -> None:
    """Their first input may be a scale, or a bias: `QLinearConcat`, and `QLinearAdd` after it."""
    known = types(
        """
        g (uint8[n, 4] x, uint8[n, 4] z) => (uint8[] y)
        <float s = {0.5}, uint8 p = {0}, uint8[8] bias = {1, 1, 1, 1, 1, 1, 1, 1}> {
          a = com.microsoft.QLinearConcat <axis = 1> (s, p, x, s, p, z, s, p)
          y = com.microsoft.QLinearAdd(bias, s, p, a, s, p, s, p)
        }
        """
    )
    assert [(known[name].elem_type, len(known[name].shape or ())) for name in "ay"] == [(NUMBERS["uint8"], 2)] * 2


def test_name_in_a_branch_hides_the_one_of_the_main_graph() -> None:
    """The type of the outer one is nothing that the branch says."""
    known = types(
        """
        g (float[n] x, bool c) => (int64[] y) {
          y = If(c) <then_branch = yes () => (int64[] y) {
            y = Shape(x)
          }, else_branch = no () => (int64[] e) {
            a = Shape(x)
            e = Identity(a)
          }>
        }
        """,
        path="0.then_branch",
    )
    assert known["y"].shape == (1,)


def test_large_weights_are_left_out() -> None:
    """Only their types and shapes are needed; small ones may be the numbers of a Reshape."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 64])],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(np.zeros((64, 32), np.float32), "w")],
    )
    content = onnx.helper.make_model(
        graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)]
    ).SerializeToString()
    model, spans = read_content(content, path=Path("model.onnx")), model_spans(content)
    known = tensor_types(content, spans, scopes_of(model, ""), scope_spans(content, spans.graph, ""))
    assert known["y"].shape == ("n", 32)
