"""The rules of projection, one by one, on graphs small enough to see.

Each test shows a graph before a tool, where the comments say whose node each is, and the graph after, where they say
what projection has to answer: `a` is the tag of the node that it still is, `fused a (a.b, a.c)` a node that does the
work of several, `inserted a` one that the tool put in.
"""

from __future__ import annotations

import pytest
from small_graphs import Tagged, carried, read, short, spelled, tagged

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy.calls import CallTree
from optimum_htp.hierarchy.root import Root
from optimum_htp.hierarchy.tags import NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree


def check(before: str | Tagged, after: str, **options: object) -> None:
    """Carries the tags of one graph to another and holds them against its comments."""
    source = tagged(before) if isinstance(before, str) else before
    check_all([source], after, **options)


def check_all(sources: list[Tagged], after: str, **options: object) -> None:
    target = read(after)
    assert {key: short(tag) for key, tag in carried(sources, target.model, **options).items()} == target.notes


CONV_AND_RELU = """
    [conv] c = Conv(x, w)    # b.conv
    [relu] y = Relu(c)       # b.act
"""

# --- Nodes that kept a name ---------------------------------------------------------------------------------------


def test_name_of_a_result_is_kept() -> None:
    """Whoever makes a tensor of the same name with the same operator is the node that made it, in whatever order."""
    check(
        """
        [one] a = Sin(x)       # a
        [two] b = Cos(x)       # b
        [three] y = Add(a, b)  # root
        """,
        """
        b = Cos(x)             # b
        a = Sin(x)             # a
        y = Add(a, b)          # root
        """,
    )


def test_call_of_a_node_is_kept() -> None:
    """The tag says which call, and so does the tag that is carried over."""
    check(
        """
        a = Sin(x)   # layer@0
        y = Sin(a)   # layer@1
        """,
        """
        a = Sin(x)   # layer@0
        y = Sin(a)   # layer@1
        """,
    )


def test_fused_node_keeps_the_last_name() -> None:
    """It does all the work back to the next tensor that is still there, and keeps a node's name that proves nothing."""
    check(CONV_AND_RELU, "[conv] y = com.microsoft.FusedConv(x, w)   # fused b (b.conv, b.act)")


def test_fusion_of_one_module_lists_no_origins() -> None:
    """Where all the work was one module's, the tag says all."""
    check(
        """
        s = Sigmoid(x)     # act
        y = Mul(x, s)      # act
        """,
        "y = com.microsoft.QuickGelu(x)   # fused act",
    )


def test_computation_between_two_kept_tensors_belongs_to_the_later_one() -> None:
    """`a` and `y` are still there; the three nodes in between are what makes `y` now."""
    check(
        """
        a = Conv(x, w)         # one
        b = Sub(a, w_mean)     # norm
        c = Div(b, w_std)      # norm
        d = Relu(c)            # act
        y = Exp(d)             # out
        """,
        """
        a = Conv(x, w)                # one
        d = com.microsoft.FusedNorm(a)  # fused root (norm, act)
        y = Exp(d)                    # out
        """,
    )


def test_renamed_result_with_the_old_node_name() -> None:
    """A node's name and operator together tell it when its result has a new name: here nothing else could."""
    check(
        """
        [left] a = Sin(x)      # a
        [right] b = Sin(x)     # b
        y = Sub(a, b)          # c
        """,
        """
        [right] t1 = Sin(x)    # b
        [left] t2 = Sin(x)     # a
        y = Sub(t2, t1)        # c
        """,
    )


def test_node_names_that_changed_places_tell_nothing() -> None:
    """Where the results of both are still there, the results tell."""
    check(
        """
        [one] a = Relu(x)     # a
        [two] y = Relu(a)     # b
        """,
        """
        [two] a = Relu(x)     # a
        [one] y = Relu(a)     # b
        """,
    )


def test_node_name_that_a_tool_gave_again_tells_nothing() -> None:
    """The Add of that name never led to `y`: the new one does what made `y`."""
    check(
        """
        [add_1] s = Add(x, z)   # a
        [mul_1] y = Mul(p, q)   # b
        """,
        "[add_1] y = Add(p, q)   # fused b",
    )


def test_node_names_that_stand_twice_tell_nothing() -> None:
    """Of three nodes of one name each is known by its result."""
    check(
        """
        [n] a = Relu(x)   # a
        [n] b = Relu(a)   # b
        [n] y = Relu(b)   # c
        """,
        """
        [n] a = Relu(x)   # a
        [n] b = Relu(a)   # b
        [n] y = Relu(b)   # c
        """,
    )


def test_node_name_with_another_operator_tells_nothing() -> None:
    """A tool's own node may have any name: that of a node which is still there, too."""
    check(
        CONV_AND_RELU,
        """
        [relu] c = Conv(x, w)   # b.conv
        [conv] y = Relu(c)      # b.act
        """,
    )


# --- No-ops and adapters ------------------------------------------------------------------------------------------


def test_removed_no_op_hands_its_name_back() -> None:
    """The node that makes `y` now is the one that made `c`, by name and operator."""
    check(
        """
        [conv] c = Conv(x, w)  # a
        y = Identity(c)        # b
        z = Relu(c)            # c
        """,
        """
        [conv] y = Conv(x, w)  # a
        z = Relu(y)            # c
        """,
    )


def test_removed_no_op_behind_an_unnamed_node() -> None:
    """Without a name, the work is seen through the no-op."""
    check(
        """
        c = Conv(x, w)   # a
        y = Identity(c)  # b
        z = Relu(c)      # c
        """,
        """
        y = Conv(x, w)   # a
        z = Relu(y)      # c
        """,
    )


def test_removed_no_op_of_another_module() -> None:
    """A Dropout did nothing: who makes its result now is told by name and operator, and is not the work of both."""
    check(
        """
        [act] s = Sin(x)       # act
        y = Dropout(s)         # drop
        """,
        "[act] y = Sin(x)       # act",
    )


def test_adapter_took_the_name() -> None:
    """A Cast that now makes `c` was put behind the node that did."""
    check(
        CONV_AND_RELU,
        """
        [conv] c16 = Conv(x, w)   # b.conv
        c = Cast(c16)             # inserted b.conv
        y = Relu(c)               # b.act
        """,
    )


def test_adapter_took_the_name_of_an_unnamed_node() -> None:
    """The node in front of the adapter, which nothing else is known of, does the work."""
    check(
        """
        c = Conv(x, w)          # b.conv
        y = Relu(c)             # b.act
        """,
        """
        blocked = Conv(x, w)        # b.conv
        c = ReorderOutput(blocked)  # inserted b.conv
        y = Relu(c)                 # b.act
        """,
    )


def test_casts_are_looked_through() -> None:
    """A node with a new name behind a new Cast still reads what it read."""
    check(
        """
        a = Conv(x, w)       # one
        b = Exp(a)           # two
        y = Neg(b)           # three
        """,
        """
        a = Conv(x, w)       # one
        a16 = Cast(a)        # inserted two
        b16 = Exp(a16)       # two
        y = Neg(b16)         # three
        """,
    )


# --- Names made from old ones -------------------------------------------------------------------------------------


def test_quantizer_puts_nodes_around_others() -> None:
    """The DequantizeLinear of a weight belongs to its reader, that of a result to whoever makes it."""
    check(
        CONV_AND_RELU,
        """
        w_DequantizeLinear_Output = DequantizeLinear(w_quantized, w_scale)     # inserted b.conv
        [conv] c = Conv(x, w_DequantizeLinear_Output)                          # b.conv
        c_QuantizeLinear_Output = QuantizeLinear(c, w_s)                       # inserted b.conv
        c_DequantizeLinear_Output = DequantizeLinear(c_QuantizeLinear_Output, w_s)  # inserted b.conv
        [relu] y = Relu(c_DequantizeLinear_Output)                             # b.act
        """,
    )


def test_dequantized_weight_of_a_node_that_took_on_more() -> None:
    """It belongs to the module that read the weight, not to all that the node does now."""
    check(
        CONV_AND_RELU,
        """
        w_DequantizeLinear_Output = DequantizeLinear(w_quantized, w_scale)  # inserted b.conv
        [conv] y = Conv(x, w_DequantizeLinear_Output)                       # fused b (b.conv, b.act)
        """,
    )


def test_quantized_input_belongs_to_its_reader() -> None:
    """Nobody makes an input of the graph: the nodes around it are its reader's."""
    check(
        CONV_AND_RELU,
        """
        x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear(x)   # inserted b.conv
        c_quantized = ConvInteger(x_quantized, w_quantized)             # fused b.conv
        c_cast = Cast(c_quantized)                                      # inserted b.conv
        c = Mul(c_cast, x_scale)                                        # fused b.conv
        [relu] y = Relu(c)                                              # b.act
        """,
    )


def test_longest_prefix_wins() -> None:
    """`a_b_quantized` was made from `a_b`, though `a` is a name as well."""
    check(
        """
        a = Conv(x, w)     # one
        a_b = Relu(a)      # two
        y = Exp(a_b)       # three
        """,
        """
        a = Conv(x, w)                    # one
        a_b = Relu(a)                     # two
        a_b_quantized = QuantizeLinear(a_b, w_s)   # inserted two
        y = Exp(a_b_quantized)            # three
        """,
    )


def test_prefix_ends_where_a_word_ends() -> None:
    """`conv10` was not made from `conv1`: it is unknown, and belongs to who reads it."""
    check(
        """
        conv1 = Conv(x, w)      # one
        y = Exp(conv1)          # two
        """,
        """
        conv1 = Conv(x, w)                        # one
        conv10 = QuantizeLinear(conv1, w_s)       # inserted two
        y = Exp(conv10)                           # two
        """,
    )


def test_runtime_renames_a_node_after_a_tensor() -> None:
    """`<tensor>_nchwc` is the node that made the tensor, with what it took on behind it."""
    check(
        """
        [conv] c = Conv(x, w)                # b.conv
        [add] s = Add(c, x)                  # b
        [relu] r = Relu(s)                   # b.act
        [pool] y = GlobalAveragePool(r)      # p
        """,
        """
        [c_nchwc] r_1 = Conv(x, w_r, "", x)  # fused b (b.conv, b, b.act)
        [pool] y = GlobalAveragePool(r_1)    # p
        """,
    )


def test_addition_taken_on_in_front_of_several_readers() -> None:
    """It is the work of the convolution that reads both of its sides, whichever side comes first."""
    check(
        """
        [conv1] c1 = Conv(x, w1)             # a
        [conv2] c2 = Conv(c1, w2)            # b.conv
        [add] s = Add(c1, c2)                # b
        [relu] r = Relu(s)                   # b.act
        [conv3] c3 = Conv(r, w3)             # c
        [last] y = Add(r, c3)                # d
        """,
        """
        [c1_nchwc] t1 = Conv(x, w_1)         # a
        [c2_nchwc] t2 = Conv(t1, w_2, "", t1)  # fused b (b.conv, b, b.act)
        [c3_nchwc] t3 = Conv(t2, w_3)        # c
        [last] y = Add(t2, t3)               # d
        """,
    )


def test_no_convolution_takes_on_another() -> None:
    """What lies between two of them in the tagged graph, and has weights of its own, is in the target nowhere."""
    check(
        """
        [conv1] c1 = Conv(x, w1)             # a
        [conv2] c2 = Conv(c1, w2)            # b
        [conv3] c3 = Conv(c2, w3)            # c
        [add] y = Add(c2, c3)                # d
        """,
        """
        [c1_nchwc] t1 = Conv(x, w_1)         # a
        [c3_nchwc] t3 = Conv(t1, w_3)        # c
        [add] y = Add(t1, t3)                # d
        """,
    )


# --- All names new ------------------------------------------------------------------------------------------------


def test_new_names_all_the_way() -> None:
    """Nodes are known by the weights that they read, and by what lies between them."""
    check(
        """
        [mm1] m1 = MatMul(x, w1)              # one
        [add] s = Add(m1, x)                  # b
        [ln] n = LayerNormalization(s, w_g)   # b.norm
        [mm2] m2 = MatMul(n, w2)              # two
        [sigmoid] g1 = Sigmoid(m2)            # act
        [mul] g2 = Mul(m2, g1)                # act
        [mm3] y = MatMul(g2, w3)              # three
        """,
        """
        t1 = com.microsoft.FusedMatMul(x, w1)                    # fused one
        t2 = com.microsoft.SkipLayerNormalization(t1, x, w_g)    # fused b (b, b.norm)
        t3 = com.microsoft.FusedMatMul(t2, w2)                   # fused two
        t4 = com.microsoft.QuickGelu(t3)                         # fused act
        y = MatMul(t4, w3)                                       # three
        """,
    )


def test_same_operator_on_the_same_values() -> None:
    """Without weights, the operator and what it reads tell: each node that is found makes the next findable."""
    check(
        """
        a = Sin(x)        # a
        b = Cos(a)        # b
        c = Tanh(b)       # c
        y = Neg(c)        # d
        """,
        """
        t1 = Sin(x)       # a
        t2 = Cos(t1)      # b
        t3 = Tanh(t2)     # c
        y = Neg(t3)       # d
        """,
    )


def test_node_with_two_new_results() -> None:
    """Each of them leads to one node with a known name, and what vanished on both ways is its work."""
    check(
        """
        a = Sin(x)         # one
        y = Neg(a)         # out
        b = Cos(x)         # two
        z = Add(b, x)      # end
        """,
        """
        t1, t2 = com.microsoft.SinCos(x)    # fused root (one, two)
        y = Neg(t1)                         # out
        z = Add(t2, x)                      # end
        """,
    )


def test_same_operator_behind_a_node_that_is_gone() -> None:
    """Of two nodes of one operator behind a Dropout, the first new one is the nearer."""
    check(
        """
        d = Dropout(x)     # drop
        a = Cos(d)         # a
        b = Cos(a)         # b
        y = Neg(b)         # c
        """,
        """
        t1 = Cos(x)        # a
        t2 = Cos(t1)       # b
        y = Neg(t2)        # c
        """,
    )


def test_weight_that_two_nodes_read_tells_neither() -> None:
    """Tied weights: the inputs tell which of the two it is."""
    check(
        """
        a = MatMul(x, w)       # first
        b = Exp(a)             # act
        c = MatMul(b, w)       # second
        y = Neg(c)             # out
        """,
        """
        t1 = MatMul(x, w)      # first
        b = Exp(t1)            # act
        t2 = MatMul(b, w)      # second
        y = Neg(t2)            # out
        """,
    )


def test_bias_that_went_to_the_next_node() -> None:
    """An activation that took on the bias of the product in front of it is the work of both, whatever their names."""
    check(
        """
        [gemm] g = Gemm(x, w, w_b)                 # a.fc
        [erf] e = Erf(g)                           # a.act
        [mul] m = Mul(g, e)                        # a.act
        [mm] u = MatMul(m, w2)                     # a.proj
        [sub] y = Sub(u, m)                        # a
        """,
        """
        t1 = MatMul(x, w)                          # fused a.fc
        t2 = com.microsoft.FusedBiasGelu(t1, w_b)  # fused a (a.act, a.fc)
        [mm] u = MatMul(t2, w2)                    # a.proj
        [sub] y = Sub(u, t2)                       # a
        """,
    )


# --- Work that moved ----------------------------------------------------------------------------------------------


def test_folded_weights_join_their_reader() -> None:
    """A transposed weight that became an initializer leaves no trace in what reads it."""
    check(
        """
        w_t = Transpose(w)         # head
        [mm] y = MatMul(x, w_t)    # a
        """,
        "[mm] y = MatMul(x, w_t)   # a",
    )


def test_convolution_takes_on_a_normalization_in_its_weights() -> None:
    """The operator is the same, and the weights are new: what vanished behind it is in them."""
    check(
        """
        c = Conv(x, w)                             # b.conv
        y = BatchNormalization(c, w1, w2, w3, w4)  # b.norm
        """,
        "y = Conv(x, w_new, w_bias)   # fused b (b.conv, b.norm)",
    )


def test_what_vanished_before_an_addition_had_no_effect() -> None:
    """An Add of two computed values can't have taken on anything: the Dropout in front of it did nothing."""
    check(
        """
        a = Sin(x)            # a
        d = Dropout(a)        # drop
        y = Add(d, x)         # b
        """,
        """
        a = Sin(x)            # a
        y = Add(a, x)         # b
        """,
    )


@pytest.mark.parametrize(
    "layer",
    [
        "b = Gemm(a, wb) # layers.1.fc",
        "b0 = MatMul(a, wb0) # layers.1.fc \n b = Add(b0, wb1) # layers.1.fc",
        "b = Relu(a) # layers.1.act",
        "b = LayerNormalization(a, wb0, wb1) # layers.1.norm",
        "b0 = Gemm(a, wb0) # layers.1.fc \n b1 = Relu(b0) # layers.1.act \n b = Gemm(b1, wb1) # layers.1.out",
    ],
)
@pytest.mark.parametrize("reader", ["Gemm({0}, w2)", "LayerNormalization({0}, w2, w3)", "Conv({0}, w2)"])
def test_layer_that_is_gone(layer: str, reader: str) -> None:
    """A tool took it out, and the next node reads what it read: with the weights that it had, it does nobody's work."""
    check(
        f"""
        a = Gemm(x, w1)              # layers.0.fc
        {layer}
        y = {reader.format("b")}     # layers.2.fc
        """,
        f"""
        a = Gemm(x, w1)              # layers.0.fc
        y = {reader.format("a")}     # layers.2.fc
        """,
    )


def test_scale_that_may_be_in_weights_of_the_same_name() -> None:
    """Their numbers can be others: a tool that folds may write them over the old ones."""
    check(
        """
        c = BatchNormalization(x, w1, w2, w3, w4)  # b.norm
        y = Conv(c, w)                             # b.conv
        """,
        "y = Conv(x, w)   # fused b (b.norm, b.conv)",
    )


def test_work_in_front_of_a_node_that_is_what_it_was() -> None:
    """A convolution with a new name took on the sum and the activation behind it; the next one did not change."""
    check(
        """
        [conv] c = Conv(x, w)                  # b.conv
        [add] s = Add(c, z)                    # b
        [act] r = Relu(s)                      # b.act
        [next] y = Conv(r, w2)                 # next
        """,
        """
        [conv] c_new = com.microsoft.FusedConv(x, w, "", z)    # fused b (b.conv, b, b.act)
        [next] y = Conv(c_new, w2)                             # next
        """,
    )


def test_shared_work_is_left_out() -> None:
    """A mask that every layer fuses again pulls none of them up to the root."""
    layers = "\n".join(
        f"""
        a{i} = Add(h{i}, mask)   # l{i}
        h{i + 1} = Softmax(a{i}) # l{i}.soft
        """
        for i in range(3)
    )
    before = f"""
        u = Unsqueeze(m)         # root
        mask = Mul(u, w_k)       # root
        {layers}
        """
    fused = "\n".join(
        f"h{i + 1} = com.microsoft.FusedSoftmax(h{i}, m)   # fused l{i} (l{i}, l{i}.soft)" for i in range(3)
    )
    check(before, fused)


def test_shapes_do_not_pull_to_the_root() -> None:
    """What is known once the shapes are is left out of what counts, though its module is far away."""
    check(
        """
        s = Shape(x)                 # root
        b = Slice(s, w_0, w_1)       # root
        m = MatMul(x, w)             # l.self.query
        r = Reshape(m, b)            # l.self
        y = Softmax(r)               # l.self
        """,
        "y = com.microsoft.Attention(x, w)   # fused l.self (l.self.query, l.self)",
    )


def test_looking_up_is_a_modules_work() -> None:
    """Positions are known once the shapes are; the row of a table that they stand for is its module's work."""
    check(
        """
        s = Shape(x)                          # root
        i = Slice(s, w_0, w_1)                # root
        p = Gather(w_positions, i)            # emb.position
        a = Add(x, p)                         # emb
        y = LayerNormalization(a, w_g)        # emb.norm
        """,
        "y = com.microsoft.EmbedLayerNormalization(x, w_positions, w_g)  # fused emb (emb.position, emb, emb.norm)",
    )


def test_folding_of_sizes_adds_no_module() -> None:
    """A Mul of sizes took on the Div in front of it by another constant: it is what it was."""
    check(
        """
        s = Shape(x)         # a
        d = Div(s, w_2)      # b
        m = Mul(d, w_6)      # c
        y = Expand(x, m)     # d
        """,
        """
        s = Shape(x)         # a
        m = Mul(s, w_3)      # c
        y = Expand(x, m)     # d
        """,
    )


def test_moving_values_does_not_pull_upwards() -> None:
    """A Transpose of the parent in the middle of what a child does is not listed: any module might have moved them."""
    check(
        """
        q = MatMul(x, w)             # l.query
        t = Transpose(q)             # l
        y = Softmax(t)               # l.query
        """,
        "y = com.microsoft.Attention(x, w)   # fused l.query",
    )


def test_movement_counts_where_there_is_nothing_else() -> None:
    """A node that only moves values is the work of those that moved them."""
    check(
        """
        t = Transpose(x)             # a
        y = Reshape(t, w_s)          # b
        """,
        "y = com.microsoft.TransposeReshape(x)   # fused root (a, b)",
    )


def test_node_that_only_picks_out_does_no_work() -> None:
    """Attention that also returns its values has a node behind it that picks them out; the work is the attention's."""
    check(
        """
        q = MatMul(x, w_q)              # att.query
        s = Softmax(q)                  # att
        y = Neg(s)                      # out
        v = MatMul(x, w_v)              # att.value
        present = Reshape(v, w_s)       # att
        """,
        """
        t, both = com.microsoft.Attention(x, w_qv)   # fused att (att.query, att, att.value)
        y = Neg(t)                                   # out
        present = Slice(both, w_0, w_1)              # fused att
        """,
    )


# --- Several modules ----------------------------------------------------------------------------------------------


def test_fusion_across_modules_keeps_the_list() -> None:
    """The residual of one layer and the norm of the next have no single right answer: both are listed."""
    check(
        """
        a = Sin(x)                          # layer.0
        s = Add(a, x)                       # layer.0
        y = LayerNormalization(s, w)        # layer.1.norm
        """,
        """
        a = Sin(x)                                             # layer.0
        y = com.microsoft.SkipLayerNormalization(a, x, w)      # fused layer (layer.0, layer.1.norm)
        """,
    )


def test_common_module_is_no_container() -> None:
    """With the tree of modules: what contains two items of a list is the module that holds the list."""
    names = {(): "Net", ("e",): "E", ("e", "layer"): "L", ("e", "layer", "0"): "A", ("e", "layer", "1"): "B"}
    tree = ModuleTree([ModuleInfo(path, name, name, container=name == "L") for path, name in names.items()])
    model, _ = tagged(
        """
        s = Add(a, x)                   # a
        y = LayerNormalization(s, w)    # b
        """
    )
    tags = {
        ("", 0): NodeTag(tree.tag(("e", "layer", "0")), "scope"),
        ("", 1): NodeTag(tree.tag(("e", "layer", "1")), "scope"),
    }
    target = read("y = com.microsoft.SkipLayerNormalization(a, x, w)   #").model
    (found,) = carried([(model, tags)], target, roots=[Root(tree)]).values()
    assert (found.tag, found.origins) == ("/Net/E.e", ("/Net/E.e/A.layer.0", "/Net/E.e/B.layer.1"))


def test_aliases_are_one_module() -> None:
    """A module under two names has no common ancestor but itself."""
    tree = ModuleTree(
        [ModuleInfo((), "Net", "Net"), ModuleInfo(("a",), "A", "A"), ModuleInfo(("b",), "A", "A", aliases=(("c",),))]
    )
    model, _ = tagged(CONV_AND_RELU)
    tags = {("", 0): NodeTag("/Net/A.b", "scope"), ("", 1): NodeTag("/Net/A.c", "scope")}
    target = read("y = com.microsoft.FusedConv(x, w)   #").model
    assert carried([(model, tags)], target, roots=[Root(tree)])["", 0].tag == "/Net/A.b"


def test_fusion_inside_one_call_knows_it() -> None:
    """Which call of `l` each call of `l.dense` was made in says the call tree, and nothing else."""
    tree = ModuleTree(
        ModuleInfo(path, path[-1].upper() if path else "Net", "", calls=calls)
        for path, calls in (((), 1), (("l",), 2), (("l", "dense"), 2))
    )
    calls = CallTree.of_rows(tree, [(0, -1), (1, 0), (2, 1), (1, 0), (2, 3)])
    before = "\n".join(
        f"""
        m{i} = MatMul(h{i}, w)      # l.dense@{i}
        h{i + 1} = Relu(m{i})       # l@{i}
        """
        for i in range(2)
    )
    check(
        before,
        """
        h1 = com.microsoft.FusedGemm(h0, w)    # fused l@0 (l.dense, l)
        h2 = com.microsoft.FusedGemm(h1, w)    # fused l@1 (l.dense, l)
        """,
        roots=[Root(tree, "", (calls,))],
    )
    check(
        before,
        """
        h1 = com.microsoft.FusedGemm(h0, w)    # fused l (l.dense, l)
        h2 = com.microsoft.FusedGemm(h1, w)    # fused l (l.dense, l)
        """,
        roots=[Root(tree)],
    )


def test_fusion_across_calls_knows_none() -> None:
    """The end of one call and the beginning of the next are both."""
    check(
        """
        a = Sin(x)              # l@0
        b = Exp(a)              # l@0
        c = Sin(b)              # l@1
        y = Exp(c)              # l@1
        """,
        """
        a = Sin(x)                          # l@0
        c = com.microsoft.ExpSin(a)         # fused l
        y = Exp(c)                          # l@1
        """,
    )


def test_origins_of_a_fused_node_are_kept_when_it_is_fused_again() -> None:
    """What it stood for before stands in the list, not its own tag."""
    source = tagged(
        """
        a = com.microsoft.FusedConv(x, w)     # b
        y = Exp(a)                            # c
        """
    )
    source[1]["", 0] = NodeTag(spelled("b"), "fused", None, (spelled("b.conv"), spelled("b.act")))
    check(source, "y = com.microsoft.ConvExp(x, w)   # fused root (b.conv, b.act, c)")


# --- Inserted nodes -----------------------------------------------------------------------------------------------


def test_inserted_node_belongs_to_its_readers() -> None:
    """A node that only passes values on was put in for who reads them."""
    check(
        """
        a = Sin(x)            # a
        y = Exp(a)            # b
        """,
        """
        a = Sin(x)            # a
        fresh = Reshape(a, w) # inserted b
        y = Exp(fresh)        # b
        """,
    )


def test_new_work_in_front_of_one_node_is_a_part_of_it() -> None:
    """A node that computes what no tagged node did: the only known node that it leads to does its work differently."""
    check(
        """
        a = Sin(x)            # a
        y = Gelu(a)           # act
        """,
        """
        a = Sin(x)            # a
        fresh = Erf(a)        # fused act
        y = Mul(fresh, a)     # fused act
        """,
    )


def test_inserted_node_inside_the_module_that_it_reads() -> None:
    """Where the maker's module lies inside the reader's, it says more."""
    check(
        """
        a = Sin(x)            # l.act
        y = Exp(a)            # l
        """,
        """
        a = Sin(x)            # l.act
        fresh = Cast(a)       # inserted l.act
        y = Exp(fresh)        # l
        """,
    )


def test_inserted_node_that_nothing_reads() -> None:
    """It belongs to the maker of what it reads."""
    check(
        "y = Sin(x)            # a",
        """
        y = Sin(x)            # a
        report = Round(y)     # inserted a
        """,
    )


def test_another_model_behind_the_tagged_one() -> None:
    """A head that was merged with it is of no module of it; a result on the way there that nothing else reads is."""
    check(
        """
        a = Sin(x)            # a
        y = Exp(a)            # b
        """,
        """
        a = Sin(x)            # a
        y = Exp(a)            # b
        report = Round(y)     # inserted b
        h = MatMul(y, w0)     # unresolved
        t = Tanh(h)           # unresolved
        z = Cast(t)           # unresolved
        """,
    )


def test_another_model_in_front_of_the_tagged_one() -> None:
    """An encoder that was merged with it; a cast of an input that it had itself is its own."""
    check(
        """
        a = MatMul(x, w0)     # a
        y = Add(a, m)         # b
        """,
        """
        h = MatMul(t, w9)     # unresolved
        e = Tanh(h)           # unresolved
        a = MatMul(e, w0)     # a
        c = Cast(m)           # inserted b
        y = Add(a, c)         # b
        """,
    )


def test_new_work_inside_the_model_is_its_own() -> None:
    """An adapter brings weights, and stands between nodes of the model."""
    check(
        """
        a = MatMul(x, w0)     # a
        y = Tanh(a)           # b
        """,
        """
        a = MatMul(x, w0)     # a
        d = MatMul(a, w1)     # fused b
        u = MatMul(d, w2)     # fused b
        y = Tanh(u)           # b
        """,
    )


def test_nodes_without_tags_are_no_evidence() -> None:
    """What a file's own metadata leaves open is decided by what is around it."""
    check(
        """
        c = Conv(x, w)    # a
        y = Relu(c)       # -
        """,
        """
        c = Conv(x, w)    # a
        y = Relu(c)       # inserted a
        """,
    )


def test_nothing_known_is_unresolved() -> None:
    """With no source of any use, the answer is that there is none."""
    check(CONV_AND_RELU, "q = Exp(p)   # unresolved")


# --- Bodies and functions -----------------------------------------------------------------------------------------


def test_equal_names_in_two_branches() -> None:
    """Names mean what the graph around them defines, also when the If stands elsewhere now."""
    check(
        """
        [if] out = If (c) <                                  # a
          then_branch = g () => (float[N] y) {
            [op] y = Relu(x)                                 # b
          }, else_branch = g () => (float[N] y) {
            [op] y = Relu(x)                                 # c
          }>
        """,
        """
        c2 = Identity(c)                                     # inserted a
        [if] out = If (c2) <                                 # a
          then_branch = g () => (float[N] y) {
            [op] y = Relu(x)                                 # b
          }, else_branch = g () => (float[N] y) {
            [op] y = Relu(x)                                 # c
          }>
        """,
    )


def test_bodies_whose_names_stand_everywhere() -> None:
    """A body with the names of a hundred others is known by the node that holds it."""
    nodes = [
        f"""
        y{i} = If (c) <then_branch = g () => (float[N] t) {{     # a
            t = Relu(x)                                          # m{i}
        }}>"""
        for i in range(100)
    ]
    check("\n".join(nodes), "\n".join(reversed(nodes)))


def test_merged_decoder() -> None:
    """The new If has none of the work that its branches do, and each branch has the tags of its own source.

    A constant that stands in for a result which one branch doesn't compute belongs to who computes it in the other.
    """
    first = tagged(
        """
        [r] r = Relu(x)    # a
        [e] y = Exp(r)     # a.e
        [k] k = Neg(r)     # a.k
        """
    )
    second = tagged(
        """
        [r] r = Relu(x)    # a
        [l] l = Log(r)     # a.l
        [s] y = Sin(l)     # a.s
        """
    )
    check_all(
        [first, second],
        """
        ["optimum::if"] y, k = If (c) <                         # inserted a
          then_branch = g () => (float[N] y, float[N] k) {
            [r] r = Relu(x)                                     # a
            [l] l = Log(r)                                      # a.l
            [s] y = Sin(l)                                      # a.s
            k = Constant()                                      # inserted a.k
          }, else_branch = g () => (float[N] y, float[N] k) {
            [r] r = Relu(x)                                     # a
            [e] y = Exp(r)                                      # a.e
            [k] k = Neg(r)                                      # a.k
          }>
        """,
    )


def test_body_of_the_same_source() -> None:
    """Of equal bodies in two tagged files, the one in the file that the graph around it was made from."""
    body = """
        out = If (c) <then_branch = g () => (float[N] t) {    # %s.choice
            t = Relu(x)                                       # %s.act
        }>"""
    first = "a = Sin(x)     # one" + body % ("one", "one")
    second = "a = Sin(x)     # two\n b = Cos(a)     # two.cos" + body % ("two", "two")
    check_all([tagged(first), tagged(second)], second)


def test_inlined_branch() -> None:
    """The nodes of a branch that took the place of its If are known by the names they had inside."""
    check(
        """
        [if] t = If (c) <                          # a
          then_branch = g () => (float[N] b) {
            r = Relu(x)                            # p
            s = Relu(x)                            # q
            b = Sub(r, s)                          # o
          }>
        y = Neg(t)                                 # n
        """,
        """
        s = Relu(x)                                # q
        r = Relu(x)                                # p
        t = Sub(r, s)                              # o
        y = Neg(t)                                 # n
        """,
    )


SOFT = """
    <domain: "local", opset_import: ["": 17]>
    Soft (a) => (c) {
        b = Exp(a)      # act
        c = Neg(b)      # act.neg
    }
    """


def test_function_that_stays() -> None:
    """The nodes inside of a function are known by their names there."""
    source = tagged(
        """
        s = local.Soft(x)   # act
        y = Relu(s)         # out
        """,
        SOFT,
    )
    model, tags = source
    assert carried([source], model) == tags


def test_inlined_function() -> None:
    """What a call became is the work of the module that called."""
    source = tagged(
        """
        s = local.Soft(x)   # act
        y = Relu(s)         # out
        """,
        SOFT,
    )
    target = read(
        """
        s_b = Exp(x)        # act
        s = Neg(s_b)        # act
        y = Relu(s)         # out
        """
    )
    found = carried([source], target.model)
    assert {key: short(tag).rpartition(" ")[2] for key, tag in found.items()} == target.notes


# --- Descent ------------------------------------------------------------------------------------------------------


def test_one_equal_name_is_no_descent() -> None:
    """A node that makes a tensor of that name from something else was not made from ours."""
    with pytest.raises(HtpError, match="0 of 0 nodes that can be compared fit, 1 of 1 produce a tensor"):
        carried([tagged(CONV_AND_RELU)], read("y = Relu(z)   #").model, require_descent=True)


def test_other_inputs_contradict() -> None:
    """Of five nodes that have a name of ours, those that read something else count against it."""
    source = tagged("\n".join(f"t{i + 1} = Relu(t{i})   # l{i}" for i in range(5)))
    shuffled = read("\n".join(f"t{i + 1} = Relu(t{(i * 3) % 5})   #" for i in range(5))).model
    with pytest.raises(HtpError, match=r"not made from the tagged graph: \d of 5 nodes that can be compared fit"):
        carried([source], shuffled, require_descent=True)


def test_sister_architectures_are_refused() -> None:
    """Where all that has a known name fits, names that an exporter gave to other nodes tell; a tool's own don't."""
    layers = "\n".join(
        f'["/{i + 1}/Relu"] "/{i + 1}/Relu_output_0" = Relu("/{i}/Relu_output_0")   # a' for i in range(50)
    )
    source = tagged(layers)

    def longer(*names: str) -> object:
        return read("\n".join([layers, *(f'"{name}" = Relu("/50/Relu_output_0")   #' for name in names)])).model

    assert len(carried([source], longer("cast0", "cast1", "cast2"), require_descent=True)) == 53
    message = r"50 of 50 nodes that can be compared fit, .*, 3 of 54 names are another export's"
    with pytest.raises(HtpError, match=message):
        carried([source], longer("/51/Relu_output_0", "/51/Relu_1_output_0", "onnx::MatMul_7"), require_descent=True)


def test_empty_graph_names_the_tool() -> None:
    """A graph with outputs and no nodes is no model; who writes such, and what to do, is in the message."""
    empty = read("y = Relu(x)   #").model
    empty.graph.nodes.clear()
    with pytest.raises(HtpError, match="ORTOptimizer"):
        carried([tagged(CONV_AND_RELU)], empty)


# --- Size ---------------------------------------------------------------------------------------------------------


def test_ten_thousand_nodes_in_a_row() -> None:
    """Neither recursion nor quadratic time; the exact figures are in the benchmark."""
    length = 10_000
    source = tagged("\n".join(f"t{i + 1} = Relu(t{i})   # l{i // 2}" for i in range(length)))
    check(
        source,
        "\n".join(f"t{i + 2} = com.microsoft.FusedRelu(t{i})   # fused l{i // 2}" for i in range(0, length, 2)),
    )
