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
from optimum_htp.onnxfile import shapes
from optimum_htp.onnxfile.edges import Edges, reads, topological_order
from optimum_htp.onnxfile.model import OnnxModel, Value, body_path, split_body_path
from optimum_htp.onnxfile.reading import read_content
from optimum_htp.onnxfile.scopes import scopes_of
from optimum_htp.onnxfile.shapes import TensorTypes
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


HEAD = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1, "com.microsoft.nchwc": 1, "mine": 1]>\n'


def types(text: str, *, path: str = "", symbols: bool = True) -> dict[str, Value]:
    """What is known of the tensors of a model in ONNX's own text."""
    return types_of(onnx.parser.parse_model(HEAD + text).SerializeToString(), path=path, symbols=symbols)


def types_of(content: bytes, *, path: str = "", symbols: bool = True) -> dict[str, Value]:
    model = read_content(content, path=Path("model.onnx"))
    spans = model_spans(content)
    scopes = scopes_of(model, path)
    known = TensorTypes(content, spans, scopes, scope_spans(content, spans.graph, path))
    return known.sized() if symbols else known.known


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


def test_symbols_go_on_behind_what_is_not_known() -> None:
    """A size that depends on values, an `If` whose branches give different ones, an operator that nobody knows."""
    known = types(
        """
        g (float[batch, length, 6] x, int64[2] to, float[1, 1] o, bool c) => (float[] y)
        <int64[4] split = {0, -1, 2, 3}, float[batch, 6] said> {
          e = Expand(o, to)
          either = If(c) <then_branch = yes () => (float[3, 2] t) {
            t = Expand(o, to)
          }, else_branch = no () => (float[2] e) {
            e = Squeeze(o)
          }>
          lost = mine.Unknown(either)
          said = mine.Unknown(lost)
          z = Relu(said)
          a = Reshape(x, split)
          y = Transpose <perm = [0, 2, 1, 3]> (a)
        }
        """
    )
    assert known["y"].shape == ("batch", 2, "length", 3)
    assert known["z"].shape == ("batch", 6)
    assert known["either"].shape is None
    assert len(set(known["e"].shape or ())) == 2


def test_sum_of_two_symbols() -> None:
    """As long as both together."""
    known = types("g (float[batch, past] x, float[batch, length] z) => (float[] y) { y = Concat <axis = 1> (x, z) }")
    assert known["y"].shape == ("batch", "length + past")


def tried(text: str, *, path: str = "") -> dict[str, Value]:
    """What trials tell of the tensors of a model, without the symbolic inference."""
    proto = onnx.parser.parse_model(HEAD + text)
    for tensor in proto.graph.initializer:  # as exporters write them
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    content = proto.SerializeToString()
    model, spans = read_content(content, path=Path("model.onnx")), model_spans(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "with_sizes", lambda _, known: known)
        return TensorTypes(content, spans, scopes_of(model, path), scope_spans(content, spans.graph, path)).sized()


@pytest.mark.parametrize("operator", ["com.microsoft.Gelu", "Relu"])
def test_trials_tell_symbols_sums_products_and_numbers(operator: str) -> None:
    """The symbolic inference is not asked, as it says no more; ONNX Runtime's own operators are no hurdle."""
    known = tried(
        """
        g (float[batch, length, 6] x, float[batch, past, 6] z) => (float[] y)
        <int64[4] to = {0, -1, 2, 3}, int64[2] flat = {-1, 6}, int64[1] one = {1}> {
          a = com.microsoft.Gelu(x)
          split = Reshape(a, to)
          y = Transpose <perm = [0, 2, 1, 3]> (split)
          both = Concat <axis = 1> (z, a)
          rows = Reshape(a, flat)
          shape = Shape(x)
          batch = Gather(shape, one)
          wide = Concat <axis = 0> (batch, one, one)
          mask = ConstantOfShape(wide)
        }
        """.replace("com.microsoft.Gelu", operator)
    )
    assert known["y"] == Value("y", NUMBERS["float32"], ("batch", 2, "length", 3))
    assert known["both"].shape == ("batch", "length + past", 6)
    assert known["rows"].shape == ("batch*length", 6)
    assert known["mask"].shape == ("length", 1, 1)


def test_trials_take_the_sums_that_a_file_names() -> None:
    """Optimum names the axis of a mask so: two numbers of its own would not fit to the others."""
    pytest.importorskip("onnx", minversion="1.23", reason="the parser of an older one takes no sums of axes")
    known = tried(
        """
        g (float[n, new] x, float[n, old] z, float[n, old + new] m, float[n, old + 1] o) => (float[] y) {
          xz = Concat <axis = 1> (x, z)
          y = Mul(xz, m)
          two = Concat <axis = 1> (z, o)
        }
        """.replace("old + new", '"old + new"').replace("old + 1", '"old + 1"')
    )
    assert (known["xz"].shape, known["y"].shape) == (("n", "old + new"), ("n", "old + new"))


@pytest.mark.parametrize(
    ("divisor", "blocks", "every"),
    [(1, ("length", 1), "length"), (3, (None, 1), None), (8, (None, None), None), (64, (None, None), None)],
)
def test_trials_tell_nothing_behind_a_division(divisor: int, blocks: tuple[str | int, ...], every: str | None) -> None:
    """Of `floor((length + 63)/64)` both would say 1, as of a slice with that step; thirds differ in them."""
    known = tried(
        f"""
        g (float[batch, length] x) => (float[] y)
        <int64[1] d = {{{divisor}}}, int64[1] more = {{{divisor - 1}}}, int64[1] zero = {{0}}, int64[1] one = {{1}},
         int64[1] end = {{999}}> {{
          shape = Shape(x)
          length = Gather(shape, one)
          longer = Add(length, more)
          part = Div(longer, d)
          sizes = Concat <axis = 0> (part, one)
          y = ConstantOfShape(sizes)
          s = Slice(x, zero, end, one, d)
        }}
        """
    )
    assert known["y"].shape == blocks
    assert known["s"].shape == ("batch", every)


def test_trials_tell_nothing_behind_a_window() -> None:
    """A stride rounds, and its 1 may be a factor of any other size."""
    known = tried(
        """
        g (float[batch, 2, length] x) => (float[] y) <int64[2] flat = {-1, 2}> {
          p = MaxPool <kernel_shape = [100], strides = [100], pads = [50, 50]> (x)
          y = Reshape(p, flat)
        }
        """
    )
    assert known["p"].shape == ("batch", 2, None)
    assert known["y"].shape == (None, 2)


def test_trials_in_a_branch() -> None:
    """What it takes from around it has the symbols that it has there."""
    known = tried(
        """
        g (float[batch, length, 6] x, bool c) => (float[] y) <int64[4] to = {0, -1, 2, 3}, int64[3] back = {0, -1, 6}> {
          split = Reshape(x, to)
          y = If(c) <then_branch = yes () => (float[] t) {
            t = Reshape(split, back)
          }, else_branch = no () => (float[] e) {
            e = Identity(x)
          }>
        }
        """,
        path="1.then_branch",
    )
    assert known["t"].shape == ("batch", "length", 6)


def test_only_what_is_asked_for_has_sizes() -> None:
    """Of the others the trials, and the symbolic inference, need not know anything."""
    content = onnx.parser.parse_model(
        HEAD
        + """
        g (float[batch, length, 6] x) => (float[] y) <int64[4] to = {0, -1, 2, 3}> {
          a = Reshape(x, to)
          b = NonZero(x)
          y = Neg(b)
        }
        """
    ).SerializeToString()
    model, spans = read_content(content, path=Path("model.onnx")), model_spans(content)
    types = TensorTypes(content, spans, scopes_of(model, ""), scope_spans(content, spans.graph, ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(shapes, "with_sizes")
        assert types.sized(["a"])["a"].shape == ("batch", "length", 2, 3)
    assert types.known["a"].shape == ("batch", None, 2, 3)


def test_size_that_depends_on_values_has_a_symbol_of_its_own() -> None:
    """It is told from the file's own by its prefix; axes that share it are equal."""
    known = types("g (bool[n] x) => (float[] y) { i = NonZero(x)\n a = Transpose(i)\n y = Cast <to = 1> (a) }")
    (rows, columns) = known["y"].shape or ()
    assert columns == 1
    assert isinstance(rows, str)
    assert rows.startswith("unk__")
    assert known["a"].shape == (rows, 1)


ZEROS = {size: ", ".join("0" * size) for size in (2, 8, 16, 32)}
RUNTIME_OPERATORS = {
    # The first input is integers, or a scale: types are those of the operator, not of what it is given.
    "EmbedLayerNormalization": (
        """
        g (int32[batch, length] ids) => (float[] y) <float[4, 8] w = {%(32)s}, float[8] b = {%(8)s}> {
          y, mask, sum = com.microsoft.EmbedLayerNormalization(ids, , w, w, , b, b)
        }
        """,
        {"y": ("float32", ("batch", "length", 8)), "mask": ("int32", ("batch",))},
    ),
    "GatherBlockQuantized": (
        """
        g (int64[batch, length] ids) => (float16[] y) <uint8[4, 8] w = {%(32)s}, float16[4, 1] s = {1, 1, 1, 1}> {
          y = com.microsoft.GatherBlockQuantized <block_size = 16, bits = 4, quantize_axis = 1> (w, ids, s)
        }
        """,
        {"y": ("float16", ("batch", "length", 16))},
    ),
    "MatMulNBits": (
        """
        g (float16[batch, length, 16] x) => (float16[] y) <uint8[2, 1, 8] w = {%(16)s}, float16[2] s = {1, 1}> {
          y = com.microsoft.MatMulNBits <K = 16, N = 2, bits = 4, block_size = 16> (x, w, s)
        }
        """,
        {"y": ("float16", ("batch", "length", 2))},
    ),
    "DynamicQuantizeMatMul": (
        """
        g (float[batch, 8] x) => (float[] y) <uint8[8, 4] w = {%(32)s}, float s = {1}> {
          y = com.microsoft.DynamicQuantizeMatMul(x, w, s)
        }
        """,
        {"y": ("float32", ("batch", 4))},
    ),
    "MatMulIntegerToFloat": (
        """
        g (float[batch, length, 8] x) => (float[] y) <uint8[8, 4] w = {%(32)s}, float s = {1}, int64[4] to = {0, -1, 2, 2}> {
          q, qs, qz = DynamicQuantizeLinear(x)
          z = com.microsoft.MatMulIntegerToFloat(q, w, qs, s, qz)
          y = Reshape(z, to)
        }
        """,
        {"q": ("uint8", ("batch", "length", 8)), "qs": ("float32", ()), "z": ("float32", ("batch", "length", 4)),
         "y": ("float32", ("batch", "length", 2, 2))},  # the symbols go on behind it
    ),
    "QLinear": (
        """
        g (uint8[n, 4] x, uint8[n, 4] z) => (uint8[] y)
        <float s = {0.5}, uint8 p = {0}, uint8[8] bias = {1, 1, 1, 1, 1, 1, 1, 1}> {
          a = com.microsoft.QLinearConcat <axis = 1> (s, p, x, s, p, z, s, p)
          y = com.microsoft.QLinearAdd(bias, s, p, a, s, p, s, p)
          f = DequantizeLinear(y, s, p)
        }
        """,
        {"a": ("uint8", ("n", 8)), "y": ("uint8", ("n", 8)), "f": ("float32", ("n", 8))},
    ),
    "fused": (
        """
        g (float[batch, 8] x) => (float[] y) <float[8] b = {%(8)s}, float[8, 4] w = {%(32)s}> {
          a = com.microsoft.BiasGelu(x, b)
          f = com.microsoft.FusedGemm(a, w)
          y = Relu(f)
        }
        """,
        {"a": ("float32", ("batch", 8)), "f": ("float32", ("batch", 4)), "y": ("float32", ("batch", 4))},
    ),
    "blocked layout": (
        """
        g (float[batch, 16, 4, 4] x) => (float[] y) {
          r = com.microsoft.nchwc.ReorderInput(x)
          y = com.microsoft.nchwc.MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
        }
        """,
        {"y": ("float32", ("batch", 16, 2, 2))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNTIME_OPERATORS)
def test_operators_of_onnx_runtime(name: str) -> None:
    """Their types and shapes are those that ONNX Runtime gives them; without `symbols` the types are the same."""
    text, expected = RUNTIME_OPERATORS[name]
    text = text % {str(size): zeros for size, zeros in ZEROS.items()}
    known, quick = types(text), types(text, symbols=False)
    for tensor, (type_name, shape) in expected.items():
        assert (known[tensor].elem_type, quick[tensor].elem_type) == (NUMBERS[type_name],) * 2
        assert known[tensor].shape == shape


def test_operators_that_nobody_knows() -> None:
    """Nothing is guessed: what they give is known as far as the file declares it, and what follows from that."""
    known = types(
        """
        g (float[batch, 8] x, uint8[2, 4] q) => (float[] y)
        <float[8] b = {0, 0, 0, 0, 0, 0, 0, 0}, float[2] s = {1, 1}, float16[batch, 3] said> {
          lost = mine.Unknown(x)
          other = Relu(lost)
          said = mine.Unknown(x)
          half = Neg(said)
          a = com.microsoft.BiasGelu(x, b)
          y = Relu(a)
        }
        """
    )
    assert known.keys() & {"lost", "other"} == set()
    assert known["half"] == Value("half", NUMBERS["float16"], ("batch", 3))
    assert known["y"] == Value("y", NUMBERS["float32"], ("batch", 8))


def test_functions_of_the_model() -> None:
    """What they give is known; not where something in them is an operator that ONNX Runtime doesn't have."""
    functions = """
        <domain: "mine", opset_import: ["": 17]> Half (a) => (b) { b = Cast <to = 10> (a) }
        <domain: "mine", opset_import: ["": 17, "mine": 1]> Twice (a) => (b) { c = mine.Half(a)
          b = Add(c, c) }
        <domain: "mine", opset_import: ["": 17, "mine": 1]> Lost (a) => (b) { b = mine.Unknown(a) }
        <domain: "mine", opset_import: ["": 17, "mine": 1]> Around (a) => (b) { b = mine.Lost(a) }
    """
    good = "g (float[n, 2] x) => (float16[] y) { y = mine.Twice(x) }"
    assert types(good + functions)["y"] == Value("y", NUMBERS["float16"], ("n", 2))
    known = types("g (float[n, 2] x) => (float16[] y) { y = mine.Twice(x)\n z = mine.Around(x) }" + functions)
    assert known["y"] == Value("y", NUMBERS["float16"], ("n", 2))
    assert "z" not in known


@pytest.mark.parametrize("version", [3, 14])
def test_versions_of_the_format_are_no_matter(version: int) -> None:
    """That it is too new for ONNX Runtime, or so old that initializers are listed among the inputs."""
    text, expected = RUNTIME_OPERATORS["fused"]
    model = onnx.parser.parse_model(HEAD + text % {str(size): zeros for size, zeros in ZEROS.items()})
    model.ir_version = version
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    known = types_of(model.SerializeToString())
    assert {name: known[name].shape for name in expected} == {name: shape for name, (_, shape) in expected.items()}


def test_number_of_axes_that_depends_on_values_is_not_known() -> None:
    """And is told from none, that of a scalar."""
    known = types("g (float[n] x, int64[r] to) => (float[] y) { y = Reshape(x, to)\n scalar = Size(x) }")
    assert (known["y"].shape, known["scalar"].shape) == (None, ())


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
    known = TensorTypes(content, spans, scopes_of(model, ""), scope_spans(content, spans.graph, "")).sized()
    assert known["y"].shape == ("n", 32)
