"""The rules that decide a tag from a trace, one by one, on graphs small enough to see.

The comment of a node says what is known of it, then what the rules have to answer. `in 2 -> scope a.b@1`: the trace
saw that its value was made in call number 2, and it is tagged by its scope, as the second call of `a.b`. A call is
spelled only where its module ran more than once.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping

import pytest
from small_graphs import read

from optimum_htp.hierarchy.calls import CallTree, ModuleCall
from optimum_htp.hierarchy.tags import NodeTag, tag_module_path
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.tagging.rules.metadata import CLASS_HIERARCHY, NAME_SCOPES
from optimum_htp.tagging.rules.order import tag_model
from optimum_htp.tagging.tracing.trace import ModuleTrace


def traced(
    calls: str = "root",
    *,
    modules: str = "",
    containers: str = "",
    aliases: Mapping[str, str] = {},
    tensors: Mapping[str, str] = {},
) -> ModuleTrace:
    """A trace.

    Args:
        calls: A module's dotted path in each line, in the order in which the calls began, indented below its caller.
        modules: Modules that are not called.
        containers: Modules that are containers.
        aliases: Other paths of modules.
        tensors: The module that holds each parameter.
    """
    made: list[ModuleCall] = []
    count: Counter[str] = Counter()
    around: list[tuple[int, int]] = []  # the indentation and the number of the calls that are running
    for line in filter(str.strip, calls.splitlines()):
        name, depth = line.strip(), len(line) - len(line.lstrip())
        around = [(other, number) for other, number in around if other < depth]
        made.append(ModuleCall(_path(name), count[aliases.get(name, name)], around[-1][1] if around else None))
        around.append((depth, len(made) - 1))
        count[aliases.get(name, name)] += 1
    names = sorted({"root", *count, *modules.split(), *containers.split()})
    every = {name[:end] for name in names for end in range(1, len(name) + 1) if name[end : end + 1] in ("", ".")}
    tree = ModuleTree(
        ModuleInfo(
            _path(name), name.rpartition(".")[2].upper(), name.rpartition(".")[2].upper(),
            container=name in containers.split(), calls=count[name],
            aliases=tuple(_path(alias) for alias, own in aliases.items() if own == name),
        )
        for name in sorted(every, key=lambda name: (name != "root", name))
    )  # fmt: skip
    return ModuleTrace(CallTree(tree, made), tensors={name: _path(holder) for name, holder in tensors.items()})


def _path(name: str) -> tuple[str, ...]:
    return () if name == "root" else tuple(name.split("."))


def check(trace: ModuleTrace, text: str, *functions: str, outputs: Iterable[str] = ()) -> None:
    """Tags a graph by what its comments say is known, and holds the tags against what they say is right."""
    small = read(text, *functions, outputs=tuple(outputs))
    known = {key: note.partition("->")[0].strip() for key, note in small.notes.items()}
    expected = {key: note.partition("->")[2].strip() for key, note in small.notes.items()}
    graphs = dict(small.model.graphs())
    scopes = {}
    for (path, index), what in known.items():
        kind, _, value = what.partition(" ")
        node = graphs[path].nodes[index]
        if kind == "in":
            scopes[node.outputs[0]] = int(value)
        elif kind == "named":
            scope, _, classes = value.partition(" of ")
            metadata = {NAME_SCOPES: str(["", scope, "op"])}
            if classes:
                metadata[CLASS_HIERARCHY] = str(["x.ROOT", f"x.{classes}", "op"])
            graphs[path].nodes[index] = dataclasses.replace(node, metadata=metadata)
    tags = tag_model(small.model, dataclasses.replace(trace, scopes=scopes))
    assert {key: _short(tag) for key, tag in tags.items()} == expected


def _short(tag: NodeTag) -> str:
    if tag.source == "unresolved":
        assert tag == NodeTag("/ROOT", "unresolved")
        return tag.source
    return f"{tag.source} {tag_module_path(tag.tag) or 'root'}" + (f"@{tag.call}" if tag.call is not None else "")


TWICE = """
    root
      a
        a.b
        a.c
      a
        a.b
        a.c
    """

# --- Scopes -------------------------------------------------------------------------------------------------------


def test_scope_is_the_call_that_made_the_value() -> None:
    """Module and call, by whatever the trace saw."""
    check(
        traced(TWICE),
        """
        p = Sin(x)      # in 2 -> scope a.b@0
        q = Cos(p)      # in 1 -> scope a@0
        r = Sin(q)      # in 5 -> scope a.b@1
        y = Neg(r)      # in 0 -> scope root
        """,
    )


def test_nodes_in_a_body_ran_in_their_holders_call() -> None:
    """A scripted `if` has a scope, what is inside has none."""
    check(
        traced(TWICE),
        """
        y = If (c) <                                   # in 4 -> scope a@1
          then_branch = g () => (float[N] s) {
            t = Sin(x)                                 # -> scope a@1
            s = If (c) <                               # -> scope a@1
              then_branch = h () => (float[N] u) {
                u = Exp(t)                             # -> scope a@1
              }>
          }>
        """,
    )


# --- Data flow: who reads it --------------------------------------------------------------------------------------


def test_unscoped_node_belongs_to_its_reader() -> None:
    """A chain of them to the one at its end, and to its call."""
    check(
        traced(TWICE),
        """
        s = Shape(x)        # -> dataflow a.b@1
        d = Gather(s, w)    # -> dataflow a.b@1
        y = Reshape(x, d)   # in 5 -> scope a.b@1
        """,
    )


def test_several_readers_in_one_call() -> None:
    """The lowest module that contains them all, in the call that contains their calls."""
    check(
        traced(TWICE),
        """
        s = Shape(x)        # -> dataflow a@1
        y = Reshape(x, s)   # in 5 -> scope a.b@1
        z = Expand(x, s)    # in 6 -> scope a.c@1
        """,
    )


def test_readers_in_several_calls() -> None:
    """Their module, of no call; different modules in different calls have in common what called both."""
    check(
        traced(TWICE),
        """
        s = Shape(x)        # -> dataflow a.b
        p = Reshape(x, s)   # in 2 -> scope a.b@0
        q = Expand(x, s)    # in 5 -> scope a.b@1
        """,
    )
    check(
        traced("root\n  a\n    a.b\n  d"),
        """
        s = Shape(x)        # -> dataflow root
        p = Reshape(x, s)   # in 2 -> scope a.b
        q = Expand(x, s)    # in 3 -> scope d
        """,
    )


def test_what_is_common_is_no_container() -> None:
    """Two items of a list have the module that holds the list in common."""
    check(
        traced("root\n  e\n    e.layer.0\n    e.layer.1", containers="e.layer"),
        """
        m = Cast(mask)      # -> dataflow e
        p = Add(x, m)       # in 2 -> scope e.layer.0
        y = Add(p, m)       # in 3 -> scope e.layer.1
        """,
    )


def test_readers_inside_a_body() -> None:
    """What a body reads of the graph around it is read by its nodes; what it returns, by the node that holds it."""
    check(
        traced("root\n  a\n  b"),
        """
        p = Cast(x)                                # -> dataflow b
        k = Cast(x)                                # -> dataflow a
        y = If (c) <                               # in 1 -> scope a
          then_branch = g () => (float[N] t) {
            t = Sin(p)                             # in 2 -> scope b
          }, else_branch = g () => (float[N] k) {
            u = Sin(k)                             # in 1 -> scope a
          }>
        """,
    )


def test_inner_names_hide_outer_ones() -> None:
    """A body that defines a name again reads its own."""
    check(
        traced("root\n  a\n  b"),
        """
        p = Cast(x)                                # -> dataflow b
        q = Sin(p)                                 # in 2 -> scope b
        y = If (c) <                               # in 1 -> scope a
          then_branch = g () => (float[N] t) {
            p = Cast(x)                            # -> scope a
            t = Sin(p)                             # -> scope a
          }>
        """,
    )


def test_function_belongs_to_its_callers() -> None:
    """The last node of a function has no reader: its callers have what it returns."""
    check(
        traced("root\n  a\n    a.b\n    a.c"),
        """
        p = local.Soft(x)   # in 2 -> scope a.b
        y = local.Soft(p)   # in 3 -> scope a.c
        """,
        """
        <domain: "local", opset_import: ["": 17]>
        Soft (t) => (v) {
            u = Exp(t)      # -> dataflow a
            v = Neg(u)      # -> dataflow a
        }
        """,
    )


# --- Data flow: what it reads -------------------------------------------------------------------------------------


def test_node_that_nothing_reads_belongs_to_what_it_reads() -> None:
    """The modules of the nodes before it, and those that hold the parameters that it reads."""
    check(
        traced("root\n  a\n    a.b\n  d", modules="a.e", tensors={"w_e": "a.e"}),
        """
        p = Sin(x)          # in 2 -> scope a.b
        y = Cast(p)         # -> dataflow a.b
        z = Add(p, w_e)     # -> dataflow a
        """,
    )


def test_unread_chain_in_front_of_an_output() -> None:
    """One after the other, from what is known on."""
    check(
        traced("root\n  a"),
        """
        p = Sin(x)          # in 1 -> scope a
        q = Cast(p)         # -> dataflow a
        y = Reshape(q, w)   # -> dataflow a
        """,
    )


def test_unread_node_in_a_body_belongs_to_the_holders_module() -> None:
    """Where it reads nothing known either, and the holder was decided by its own readers."""
    check(
        traced("root\n  a"),
        """
        t = If (c) <                                  # -> dataflow a
          then_branch = g () => (float[N] s) {
            s = Cast(x)                               # -> dataflow a
            u = Cast(x)                               # -> dataflow a
          }>
        y = Sin(t)                                    # in 1 -> scope a
        """,
    )


def test_input_that_is_handed_on_is_the_roots() -> None:
    """The exporter puts an Identity there that is nobody's work."""
    check(
        traced("root\n  a"),
        """
        y = Identity(x)     # -> dataflow root
        z = Sin(x)          # in 1 -> scope a
        """,
    )


def test_nothing_known_is_unresolved() -> None:
    """A node of which no output is an output of the graph, and that nothing known leads to or from."""
    check(
        traced("root\n  a"),
        """
        y = If (c) <                                  # in 1 -> scope a
          then_branch = g () => (float[N] s) {
            s = Cast(x)                               # -> scope a
          }>
        """,
        """
        <domain: "local", opset_import: ["": 17]>
        Unused (t) => (v) {
            v = Exp(t)      # -> unresolved
        }
        """,
    )


# --- Parameters ---------------------------------------------------------------------------------------------------


def test_copy_of_a_parameter_belongs_to_its_holder() -> None:
    """torch writes an Identity for a parameter that equals another: its output is the parameter's name."""
    check(
        traced("root\n  a\n  b", tensors={"b.weight": "b"}),
        """
        "b.weight" = Identity(w_a)   # -> parameter b
        y = Mul(x, "b.weight")       # in 1 -> scope a
        """,
    )


def test_copy_of_a_parameter_that_one_call_reads() -> None:
    """The owner is that call."""
    check(
        traced(TWICE, tensors={"a.b.weight": "a.b"}),
        """
        "a.b.weight" = Identity(w)     # -> parameter a.b@1
        y = Mul(x, "a.b.weight")       # in 5 -> scope a.b@1
        """,
    )


def test_copy_of_a_parameter_goes_by_the_name_it_was_called_by() -> None:
    """The holder has two names, and its reader was called by the second."""
    check(
        traced("root\n  other.b", modules="a.b other", aliases={"other.b": "a.b"}, tensors={"a.b.weight": "a.b"}),
        """
        "a.b.weight" = Identity(w)     # -> parameter other.b
        y = Mul(x, "a.b.weight")       # in 1 -> scope other.b
        """,
    )


# --- torch's own metadata -----------------------------------------------------------------------------------------


def test_metadata_names_the_module() -> None:
    """It comes before all other evidence; which call it was, it doesn't say."""
    check(
        traced(TWICE),
        """
        [Cast_1] p = Cast(x)           # named a.b -> metadata a.b
        [Shape_1] s = Shape(x)         # -> dataflow a.c
        [Reshape_1] y = Reshape(p, s)  # named a.c of C -> metadata a.c
        """,
    )


@pytest.mark.parametrize("named", ["gone", "a.b of Other"])
def test_metadata_that_names_no_module(named: str) -> None:
    """No weaker evidence may name another, neither for the node nor for what only it reads."""
    check(
        traced("root\n  a\n    a.b"),
        f"""
        [Cast_1] p = Cast(x)             # -> unresolved
        [Gather_1] q = Gather(p, i)      # named {named} -> unresolved
        [Cast_2] r = Cast(q)             # -> dataflow a
        [Reshape_1] y = Reshape(r, s)    # named a -> metadata a
        """,
    )


def test_one_reader_in_doubt_is_enough() -> None:
    """And so is one of the nodes that an unread node reads: the others alone would give too narrow an answer."""
    check(
        traced("root\n  a\n    a.b"),
        """
        [Shape_1] s = Shape(x)           # -> unresolved
        [Gather_1] q = Gather(s, i)      # named gone -> unresolved
        [Gather_2] r = Gather(s, i)      # named a -> metadata a
        [Reshape_1] y = Reshape(q, r)    # -> unresolved
        """,
    )


# --- Scripted functions -------------------------------------------------------------------------------------------


def test_scripted_work_is_not_guessed() -> None:
    """Where the trace did not see into scripted functions, their nodes have no scope though they are the caller's.

    So nothing without a scope is decided by its readers, and what they read isn't either; constants are.
    """
    text = """
        k = Constant()         # -> dataflow a
        s = Sigmoid(x)         # -> {scripted}
        c = Cast(s)            # -> {scripted}
        p = Mul(c, k)          # in 1 -> scope a
        """
    trace = traced("root\n  a")
    check(trace, text.format(scripted="dataflow a"))
    check(dataclasses.replace(trace, scripted=False), text.format(scripted="unresolved"))


def test_what_graph_passes_add_is_no_scripted_work() -> None:
    """Where all that has no scope is of the operators that graph passes write, data flow decides as ever."""
    check(
        dataclasses.replace(traced("root\n  a"), scripted=False),
        """
        s = Shape(x)           # -> dataflow a
        r = Range(s, w, w)     # -> dataflow a
        y = Add(x, r)          # in 1 -> scope a
        """,
    )


# --- Names of nodes -----------------------------------------------------------------------------------------------


def check_names(modules: str, text: str, **trace: object) -> None:
    """Checks a graph of which only names are known: `/a/b/Sin(x)` stands for a node and its output as torch names them."""
    node = re.compile(r"^\s*(/(?:\S*/)?|)([A-Z]\w*?)(_\d+)?\(", re.MULTILINE)
    check(
        traced("", modules=modules, **trace),  # type: ignore[arg-type]
        node.sub(r'["\1\2\3"] "\1\2\3_output_0" = \2(', text),
    )


def test_scope_in_a_name() -> None:
    """One part for each call below the root, with the last attribute of the module's path and the numbers after it."""
    check_names(
        "encoder.layer.0.dense",
        """
        /encoder/layer.0/dense/MatMul(x, w)      # -> scope encoder.layer.0.dense
        /encoder/Sin(x)                          # -> scope encoder
        /Exp_1(x)                                # -> scope root
        """,
        containers="encoder.layer",
    )


def test_parent_that_was_passed_by() -> None:
    """`model.decoder` called by the root shows no `model`; there is one decoder, so it is that."""
    check_names("model.decoder.act", "/decoder/act/Sin(x)   # -> scope model.decoder.act")


def test_repeated_scope() -> None:
    """The second call of a module has `_1` at its end; that it was the second is not said by the names alone."""
    check_names(
        "a.b",
        """
        /a/b/Sin(x)          # -> scope a.b
        /a/b_1/Sin(x)        # -> scope a.b
        """,
    )


def test_repetition_or_module() -> None:
    """`layer_1` is the second call of `layer`, or a module of that name: nobody knows, and what only it reads."""
    check_names(
        "layer layer_1",
        """
        /layer/Sin(x)                   # -> scope layer
        Cast_1(x)                       # -> unresolved
        /layer_1/Cos("Cast_1_output_0") # -> unresolved
        """,
    )


def test_weights_tell_repetition_from_module() -> None:
    """The `layer` of the first scope reads a weight of its own, which it would read each time."""
    check_names(
        "layer layer_1",
        """
        /layer/MatMul(x, "w.a")         # -> scope layer
        /layer_1/MatMul(x, "w.b")       # -> scope layer_1
        """,
        tensors={"w.a": "layer", "w.b": "layer_1"},
    )


def test_weights_tell_modules_of_one_name() -> None:
    """Both parents were passed by, so that both modules spell `dense`."""
    check_names(
        "left.dense right.dense",
        """
        /dense/MatMul(x, "w.r")         # -> scope right.dense
        """,
        tensors={"w.l": "left.dense", "w.r": "right.dense"},
    )
    check_names("left.dense right.dense", "/dense/MatMul(x, w)    # -> unresolved")


def test_weight_of_another_module_proves_nothing() -> None:
    """`layer_1` may have borrowed it."""
    check_names(
        "layer layer_1",
        """
        /layer/MatMul(x, "w.a")         # -> scope layer
        /layer_1/MatMul(x, "w.a")       # -> unresolved
        """,
        tensors={"w.a": "layer"},
    )


def test_name_that_a_tool_left_on_another_operator() -> None:
    """It says nothing, and in a graph with such names an edge may skip what was optimized away: nothing is guessed."""
    check_names(
        "a.b",
        """
        ["/a/b/Sin"] y = Cos(x)         # -> unresolved
        Cast_1(x)                       # -> unresolved
        /a/Exp("Cast_1_output_0")       # -> scope a
        """,
    )


def test_scope_of_no_module() -> None:
    """A name that the tree of modules can't explain is left open."""
    check_names("a", "/elsewhere/Sin(x)   # -> unresolved")


def test_node_that_optimum_puts_around_two_decoders() -> None:
    """It has no scope and is the root's, and it casts no doubt on what is inside."""
    check_names(
        "a",
        """
        ["optimum::if"] y = If (c) <                          # -> dataflow a
          then_branch = g () => (float[N] "/a/Sin_output_0") {
            /a/Sin(x)                                         # -> scope a
          }>
        """,
    )
