"""Projection of weights that tools packed: what reads them is the work of all the modules that they are of.

Each test writes a graph with weights of its own, as a tool would make it, and shows in the comments whose node each is
before, and what projection has to answer after.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_graphs import SmallGraph, carried, read, short, tags_of

from optimum_htp.onnxfile import read_model
from optimum_htp.package.skeleton import pack_skeleton, unpack_skeleton
from optimum_htp.tagging.graph import TaggedGraph

Weights = Mapping[str, "np.ndarray | onnx.TensorProto"]
Tensors = Mapping[str, onnx.TensorProto]

_random = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    """Numbers as a model learns them."""
    return _random.standard_normal(shape).astype(np.float32)


Q, K, V = weight(8, 8), weight(8, 4), weight(8, 4)
BEFORE = """
    a = MatMul(x, wq)                      # at.q
    b = MatMul(x, wk)                      # at.k
    c = MatMul(x, wv)                      # at.v
    y = com.microsoft.Attend(a, b, c)      # at
"""
AFTER = """
    t = MatMul(x, wp)                      # fused at (at.q, at.k, at.v)
    d, e, f = Split(t)                     # fused at (at.q, at.k, at.v)
    y = com.microsoft.Attend(d, e, f)      # at
"""
QKV = {"wq": Q, "wk": K, "wv": V}


class Tool:
    """Carries tags from a graph to another, both of which are files with weights in them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def check(self, before: str, weights: Weights, after: str, packed: Weights, *, by: str = "file") -> None:
        """Holds what is carried over against the comments; `by` says what the tagged graph is known from."""
        source = self._file("before.onnx", before, stored(weights))
        tags = tags_of(source)
        model = source.model
        if by == "skeleton":
            text = pack_skeleton(TaggedGraph(model, tags))
            assert text is not None
            model = unpack_skeleton(text).model
        target = self._file("after.onnx", after, stored(packed))
        found = carried([(model, tags)], target.model)
        assert {key: short(tag) for key, tag in found.items()} == target.notes

    def _file(self, name: str, text: str, weights: Tensors) -> SmallGraph:
        small = read(text, weights=weights)
        path = self._directory / name
        path.write_bytes(small.content)
        return replace(small, model=read_model(path))


def stored(weights: Weights) -> dict[str, onnx.TensorProto]:
    return {
        name: each if isinstance(each, onnx.TensorProto) else numpy_helper.from_array(each, name)
        for name, each in weights.items()
    }


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    """A function that makes a graph of another, and looks at what is carried over."""
    return Tool(tmp_path)


# --- What is stored -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["file", "skeleton"])
def test_weights_side_by_side(tool: Tool, by: str) -> None:
    """The numbers of all three stand in the one weight, and the Split only takes its result apart."""
    tool.check(BEFORE, QKV, AFTER, {"wp": np.concatenate([Q, K, V], 1)}, by=by)


def test_order_is_that_in_the_weight(tool: Tool) -> None:
    """The list of origins follows what is stored."""
    after = AFTER.replace("at.q, at.k, at.v", "at.v, at.q, at.k").replace("d, e, f =", "f, d, e =")
    tool.check(BEFORE, QKV, after, {"wp": np.concatenate([V, Q, K], 1)})


def test_weights_of_rows(tool: Tool) -> None:
    """As Gemm has them with transB: packed along the other axis."""
    before = BEFORE.replace("MatMul(", "Gemm(")
    weights = {name: np.ascontiguousarray(array.T) for name, array in QKV.items()}
    tool.check(before, weights, AFTER.replace("MatMul(", "Gemm("), {"wp": np.concatenate([Q, K, V], 1).T.copy()})


def test_transposed_weights(tool: Tool) -> None:
    """A tool that packs often turns them round."""
    tool.check(BEFORE.replace("MatMul(", "Gemm("), QKV, AFTER, {"wp": np.concatenate([Q, K, V], 1).T.copy()})


def test_square_weight_that_was_transposed(tool: Tool) -> None:
    """Its sizes don't say which way it lies; its numbers do."""
    square = {"wq": weight(8, 8), "wk": weight(8, 8), "wv": weight(8, 8)}
    tool.check(BEFORE, square, AFTER, {"wp": np.concatenate([each.T for each in square.values()], 0)})


def test_weights_that_lie_in_pieces(tool: Tool) -> None:
    """Packed head by head: two columns of each in turn."""
    square = {"wq": weight(8, 8), "wk": weight(8, 8), "wv": weight(8, 8)}
    heads = np.stack([each.reshape(8, 4, 2) for each in square.values()], 2).reshape(8, 24)
    tool.check(BEFORE, square, AFTER, {"wp": heads})


def test_stacked_weights(tool: Tool) -> None:
    """Experts, each of which read an input of its own, in one weight with an axis more."""
    experts = {f"w{index}": weight(8, 4) for index in range(3)}
    tool.check(
        """
        a = MatMul(x, w0)                      # moe.a
        b = MatMul(y, w1)                      # moe.b
        c = MatMul(z, w2)                      # moe.c
        r = com.microsoft.Choose(a, b, c)      # moe
        """,
        experts,
        """
        p = Concat(x, y, z)                    # inserted moe
        t = MatMul(p, wp)                      # fused moe (moe.a, moe.b, moe.c)
        d, e, f = Split(t)                     # fused moe (moe.a, moe.b, moe.c)
        r = com.microsoft.Choose(d, e, f)      # moe
        """,
        {"wp": np.stack(list(experts.values()))},
    )


def test_concatenated_embeddings(tool: Tool) -> None:
    """Two tables in one, whose rows are looked up together."""
    words, places = weight(16, 4), weight(9, 4)
    tool.check(
        """
        a = Gather(words, i)                   # emb.word
        b = Gather(places, j)                  # emb.place
        y = Add(a, b)                          # emb
        """.replace("words", "w1").replace("places", "w2"),
        {"w1": words, "w2": places},
        """
        n = Add(j, woffset)                    # fused emb
        k = Concat(i, n)                       # inserted emb
        t = Gather(wp, k)                      # fused emb (emb.word, emb.place)
        a2, b2 = Split(t)                      # fused emb (emb.word, emb.place)
        y = Add(a2, b2)                        # emb
        """,
        {"wp": np.concatenate([words, places])},
    )


def test_biases_too(tool: Tool) -> None:
    """The sum behind the product has a weight of its own that was packed."""
    biases = {"wbq": weight(8), "wbk": weight(8)}
    tool.check(
        """
        a = MatMul(x, wq)                      # at.q
        a1 = Add(a, wbq)                       # at.q
        b = MatMul(x, wk)                      # at.k
        b1 = Add(b, wbk)                       # at.k
        y = com.microsoft.Attend(a1, b1)       # at
        """,
        {"wq": Q, "wk": weight(8, 8), **biases},
        """
        t = MatMul(x, wp)                      # fused at (at.q, at.k)
        u = Add(t, wb)                         # fused at (at.q, at.k)
        d, e = Split(u)                        # fused at (at.q, at.k)
        y = com.microsoft.Attend(d, e)         # at
        """,
        {"wp": weight(8, 16), "wb": np.concatenate(list(biases.values()))},
    )


def test_taken_apart_in_several_steps(tool: Tool) -> None:
    """All that only moves the packed result on its way to who reads a part of it."""
    tool.check(
        BEFORE,
        QKV,
        """
        t = MatMul(x, wp)                      # fused at (at.q, at.k, at.v)
        r = Reshape(t, wshape)                 # fused at (at.q, at.k, at.v)
        s = Transpose(r)                       # fused at (at.q, at.k, at.v)
        d = Slice(s, wa, wb)                   # fused at (at.q, at.k, at.v)
        e = Gather(s, wone)                    # fused at (at.q, at.k, at.v)
        f = Squeeze(e)                         # fused at (at.q, at.k, at.v)
        y = com.microsoft.Attend(d, f, s)      # at
        """,
        {"wp": np.concatenate([Q, K, V], 1)},
    )


def test_parts_are_known_again_behind_the_split(tool: Tool) -> None:
    """Each output of the Split is the result of one of them, so what reads it is found though all names are new."""
    tool.check(
        """
        a = MatMul(x, wq)                      # at.q
        b = MatMul(x, wk)                      # at.k
        c = Relu(a)                            # at.f
        d = Relu(b)                            # at.g
        y = com.microsoft.Attend(c, d)         # at
        """,
        {"wq": Q, "wk": weight(8, 8)} | {"wk": K},
        """
        t = MatMul(x, wp)                      # fused at (at.k, at.q)
        e, f = Split(t)                        # fused at (at.k, at.q)
        g = Relu(e)                            # at.g
        h = Relu(f)                            # at.f
        y = com.microsoft.Attend(h, g)         # at
        """,
        {"wp": np.concatenate([K, Q], 1)},
    )


def test_names_of_the_first_prove_nothing(tool: Tool) -> None:
    """A tool may give the packed node and its result and weight the names that the first had."""
    tool.check(
        BEFORE.replace("    a =", "    [q] a ="),
        QKV,
        """
        [q] a = MatMul(x, wq)                  # fused at (at.q, at.k, at.v)
        d, e, f = Split(a)                     # fused at (at.q, at.k, at.v)
        y = com.microsoft.Attend(d, e, f)      # at
        """,
        {"wq": np.concatenate([Q, K, V], 1)},
    )


def test_operator_that_does_more(tool: Tool) -> None:
    """Attention with packed weights does the work of all up to its result."""
    tool.check(
        """
        a = MatMul(x, wq)                      # at.q
        b = MatMul(x, wk)                      # at.k
        s = MatMul(a, b)                       # at
        y = Softmax(s)                         # at
        z = Exp(y)                             # out
        """,
        {"wq": weight(8, 4), "wk": K},
        """
        y = com.microsoft.Attention(x, wp)     # fused at (at.q, at.k, at)
        z = Exp(y)                             # out
        """,
        {"wp": weight(8, 8)},
    )


def test_operator_that_does_more_under_a_new_name(tool: Tool) -> None:
    """Nothing but its weights says what it does first; what leads from there to what is known is its work too."""
    tool.check(
        """
        a = MatMul(x, wq)                      # at.q
        b = MatMul(x, wk)                      # at.k
        s = MatMul(a, b)                       # at
        y = Softmax(s)                         # at
        z = Exp(y)                             # out
        """,
        {"wq": weight(8, 4), "wk": K},
        """
        t = com.microsoft.Attention(x, wp)     # fused at (at.q, at.k, at)
        z = Exp(t)                             # out
        """,
        {"wp": weight(8, 8)},
    )


def test_put_together_by_a_node(tool: Tool) -> None:
    """The weights are still there, and a node packs them each time."""
    tool.check(
        BEFORE,
        QKV,
        """
        w = Concat(wq, wk, wv)                 # fused at (at.q, at.k, at.v)
        t = MatMul(x, w)                       # fused at (at.q, at.k, at.v)
        d, e, f = Split(t)                     # fused at (at.q, at.k, at.v)
        y = com.microsoft.Attend(d, e, f)      # at
        """,
        QKV,
    )


def test_call_that_read_them(tool: Tool) -> None:
    """A shared layer packed for each of its calls: each node is that call's work."""
    tool.check(
        """
        a = MatMul(x, wq)                      # l.q@0
        b = MatMul(x, wk)                      # l.k@0
        r = com.microsoft.Attend(a, b)         # l@0
        c = MatMul(r, wq)                      # l.q@1
        d = MatMul(r, wk)                      # l.k@1
        y = com.microsoft.Attend(c, d)         # l@1
        """,
        {"wq": Q, "wk": K},
        """
        t = MatMul(x, wp)                      # fused l (l.q, l.k)
        e, f = Split(t)                        # fused l (l.q, l.k)
        r = com.microsoft.Attend(e, f)         # l@0
        u = MatMul(r, wp)                      # fused l (l.q, l.k)
        g, h = Split(u)                        # fused l (l.q, l.k)
        y = com.microsoft.Attend(g, h)         # l@1
        """,
        {"wp": np.concatenate([Q, K], 1)},
    )


# --- Where weights are ----------------------------------------------------------------------------------------------


def outside(location: str) -> dict[str, onnx.TensorProto]:
    """The packed weight, in another file."""
    tensor = onnx.TensorProto(name="wp", data_type=onnx.TensorProto.FLOAT, dims=(8, 16), data_location=1)
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="8")
    return {"wp": tensor}


_VKQ = np.concatenate([V, K, Q], 1)
_IN_ORDER = AFTER.replace("at.q, at.k, at.v", "at.v, at.k, at.q").replace("d, e, f =", "f, e, d =")


def test_external_data(tool: Tool, tmp_path: Path) -> None:
    """They are looked at in the file beside the model."""
    (tmp_path / "weights.bin").write_bytes(bytes(8) + _VKQ.tobytes())
    tool.check(BEFORE, QKV, _IN_ORDER, outside("weights.bin"))


@pytest.mark.parametrize("location", ["../weights.bin", "link.bin", "none.bin", "short.bin", "directory"])
def test_external_data_that_is_not_looked_at(tool: Tool, tmp_path: Path, location: str) -> None:
    """What lies elsewhere is not opened, whatever it is; what is left is how long the weight is."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "weights.bin").write_bytes(bytes(8) + _VKQ.tobytes())
    inside = tmp_path / "inside"
    (inside / "directory").mkdir(parents=True)
    (inside / "link.bin").symlink_to(place / "weights.bin")
    (tmp_path / "weights.bin").symlink_to(place / "weights.bin")
    (inside / "short.bin").write_bytes(_VKQ.tobytes()[:99])
    Tool(inside).check(BEFORE, QKV, AFTER, outside(location))


def test_skeleton_without_weights(tmp_path: Path) -> None:
    """An older version wrote none: it is read, and what it does not know is left as it was."""
    small = read(BEFORE, weights=stored(QKV))
    text = pack_skeleton(TaggedGraph(small.model, tags_of(small)))
    assert text is not None
    document = json.loads(zlib.decompress(base64.b85decode(text)))
    del document["weights"]
    packed = base64.b85encode(zlib.compress(json.dumps(document).encode())).decode()
    assert [tensor.name for tensor in unpack_skeleton(packed).model.graph.initializers] == list(QKV)


# --- What is as long as all together ------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["file", "skeleton"])
def test_quantized_weights(tool: Tool, by: str) -> None:
    """Their numbers are others now; the packed one is as long as the three that the node's input was multiplied with."""
    tool.check(
        BEFORE,
        QKV,
        """
        q, s, z = DynamicQuantizeLinear(x)     # inserted at
        t = MatMulInteger(q, wp, z, wz)        # fused at (at.q, at.k, at.v)
        u = Cast(t)                            # inserted at
        v = Mul(u, s)                          # inserted at
        d, e, f = Split(v)                     # fused at (at.q, at.k, at.v)
        y = com.microsoft.Attend(d, e, f)      # at
        """,
        {"wp": np.zeros((8, 16), np.int8)},
        by=by,
    )


def test_weights_of_four_bits(tool: Tool) -> None:
    """Two numbers to a byte."""
    after = AFTER.replace("MatMul(x, wp)  ", "com.microsoft.MatMulNBits(x, wp, wscales)")
    tool.check(BEFORE, QKV, after, {"wp": np.zeros((16, 1, 4), np.uint8), "wscales": weight(16)})


def test_half_precision_is_the_same_weight(tool: Tool) -> None:
    """Rounded numbers are known again, in whatever order they were packed."""
    after = AFTER.replace("at.q, at.k, at.v", "at.k, at.q, at.v").replace("d, e, f =", "e, d, f =")
    tool.check(BEFORE, QKV, after, {"wp": np.concatenate([K, Q, V], 1).astype(np.float16)})


def test_one_that_was_scaled(tool: Tool) -> None:
    """Two stand in it as they were; the third fills it, so it is what is left."""
    after = AFTER.replace("at.q, at.k, at.v", "at.k, at.v, at.q").replace("d, e, f =", "e, f, d =")
    tool.check(BEFORE, QKV, after, {"wp": np.concatenate([Q * np.float32(0.5), K, V], 1)})


def test_weights_that_tell_nothing(tool: Tool) -> None:
    """Zeros are in any weight of zeros: it is as long as the three."""
    zeros = {name: np.zeros_like(array) for name, array in QKV.items()}
    tool.check(BEFORE, zeros, AFTER, {"wp": np.zeros((8, 16), np.float32)})


def test_only_those_that_lead_there(tool: Tool) -> None:
    """Four are as long together; the results of two of them lead to what reads the packed one's."""
    tool.check(
        """
        a = MatMul(x, wa)                      # at.a
        b = MatMul(x, wb)                      # at.b
        c = MatMul(x, wc)                      # at.c
        d = MatMul(x, wd)                      # at.d
        y = com.microsoft.Attend(a, b)         # at
        z = com.microsoft.Attend(c, d)         # at
        """,
        {name: weight(8, 4) for name in ("wa", "wb", "wc", "wd")},
        """
        t = MatMul(x, w1)                      # fused at (at.a, at.b)
        e, f = Split(t)                        # fused at (at.a, at.b)
        u = MatMul(x, w2)                      # fused at (at.c, at.d)
        g, h = Split(u)                        # fused at (at.c, at.d)
        y = com.microsoft.Attend(e, f)         # at
        z = com.microsoft.Attend(g, h)         # at
        """,
        {"w1": np.zeros((8, 8), np.int8), "w2": np.zeros((8, 8), np.int8)},
    )


# --- What was folded into a weight --------------------------------------------------------------------------------

CONV = """
    c = Conv(x, w)                                # b.conv
    n = BatchNormalization(c, ws, wb, wm, wv)     # b.norm
    y = Relu(n)                                   # b.act
"""
_NORM = {name: weight(8) for name in ("ws", "wb", "wm", "wv")}


def test_normalization_folded_into_a_convolution(tool: Tool) -> None:
    """The convolution kept its name and that of its result, and what read the normalized value reads it now."""
    tool.check(
        CONV,
        {"w": weight(8, 4, 1, 1), **_NORM},
        """
        c = Conv(x, w_bn, w_bias)                     # fused b (b.conv, b.norm)
        y = Relu(c)                                   # b.act
        """,
        {"w_bn": weight(8, 4, 1, 1), "w_bias": weight(8)},
    )


def test_adapter_merged_into_a_weight(tool: Tool) -> None:
    """Of two products beside it only their sum with the weight is left."""
    tool.check(
        """
        y = MatMul(x, w)                              # l.base
        a = MatMul(x, wa)                             # l.down
        b = MatMul(a, wb)                             # l.up
        s = Mul(b, wscale)                            # l
        z = Add(y, s)                                 # l
        r = Relu(z)                                   # act
        """,
        {"w": weight(8, 8), "wa": weight(8, 2), "wb": weight(2, 8)},
        """
        y = MatMul(x, wm)                             # fused l (l.base, l.down, l.up, l)
        r = Relu(y)                                   # act
        """,
        {"wm": weight(8, 8)},
    )


def test_normalization_that_was_left_out(tool: Tool) -> None:
    """The convolution has the weights that it had, under another name: it does nothing for the normalization."""
    kernel = weight(8, 4, 1, 1)
    tool.check(
        CONV,
        {"w": kernel, **_NORM},
        """
        c = Conv(x, w2)                               # b.conv
        y = Relu(c)                                   # b.act
        """,
        {"w2": kernel},
    )


# --- What was not packed ------------------------------------------------------------------------------------------


def test_one_weight_alone(tool: Tool) -> None:
    """What was only quantized is the node that it was."""
    tool.check(
        """
        a = MatMul(x, wq)                      # at.q
        b = MatMul(x, wk)                      # at.k
        y = com.microsoft.Attend(a, b)         # at
        """,
        {"wq": Q, "wk": weight(8, 8)},
        """
        a = MatMulInteger(x, w1)               # fused at.q
        b = MatMulInteger(x, w2)               # fused at.k
        y = com.microsoft.Attend(a, b)         # at
        """,
        {"w1": np.zeros((8, 8), np.int8), "w2": np.zeros((8, 8), np.int8)},
    )


def test_weight_that_grew(tool: Tool) -> None:
    """A table that was padded holds one weight and nothing of another."""
    table = weight(6, 4)
    tool.check(
        "y = Gather(w, i)      # emb",
        {"w": table},
        "y = Gather(wp, i)     # emb",
        {"wp": np.concatenate([table, np.zeros((2, 4), np.float32)])},
    )
