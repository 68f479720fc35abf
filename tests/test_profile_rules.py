"""The rules by which profiled events become the times of modules, each on a list of events made by hand.

Times are microseconds. The last section lets ONNX Runtime itself write the events of nets of a few nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimum_htp import profile
from optimum_htp.errors import HtpError
from optimum_htp.hierarchy.calls import CallTree
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeKey, NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.onnxfile.model import Graph, Node, OnnxModel
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.node_metadata import SOURCE, TAG
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.verbs.profile import runs as running
from optimum_htp.verbs.profile.joiner import Event, Joiner, nest
from optimum_htp.verbs.profile.runs import Measured, Run, measure
from optimum_htp.verbs.profile.runtimes import onnxruntime as onnxruntime_sessions
from optimum_htp.verbs.profile.sums import PhaseSums
from optimum_htp.verbs.profile.times import Microseconds, PhaseProfile


def event(name: str, start: int, time: int, op_type: str = "", index: int = 0) -> Event:
    """An event of a node; the operator is the name's first word, unless it is given."""
    return Event(name, op_type or name.split("_")[0], index, start, time)


def node(name: str, op_type: str, **bodies: Graph) -> Node:
    return Node(name, op_type, "", (), (f"{name}_out",), {}, tuple(bodies.items()))


def graph(*nodes: Node) -> Graph:
    return Graph("", list(nodes), (), (), ())


def model(*nodes: Node) -> OnnxModel:
    return OnnxModel(Path(), 0, {}, "", "", {}, graph(*nodes), ())


def joined(net: OnnxModel, events: Sequence[Event]) -> list[tuple[str, NodeKey | None]]:
    return [(each.name, key) for each, key in Joiner(net).join(events)]


def shape(events: Sequence[Event]) -> list[Any]:
    """Names, those of what ran inside an event in a list after it."""
    return [part for each in events for part in ((each.name, shape(each.inside)) if each.inside else (each.name,))]


# --- What ran inside what -----------------------------------------------------------------------------------------


def test_events_within_the_time_of_control_flow_are_inside_it() -> None:
    """They come before it, because they end before it does."""
    events = [
        event("Add_0", 0, 2),
        event("Mul_1", 3, 1),
        event("Sub_2", 4, 1),
        event("If_3", 3, 3),
        event("Neg", 6, 1),
    ]
    assert shape(nest(events)) == ["Add_0", "If_3", ["Mul_1", "Sub_2"], "Neg"]


def test_control_flow_in_control_flow() -> None:
    events = [event("Add", 1, 1), event("If", 1, 2), event("Mul", 3, 1), event("Loop", 0, 5), event("Neg", 6, 1)]
    assert shape(nest(events)) == ["Loop", ["If", ["Add"], "Mul"], "Neg"]


def test_control_flow_one_after_the_other() -> None:
    """The second has only what ran since the first."""
    events = [event("Add", 0, 1), event("If_1", 0, 2), event("Mul", 2, 1), event("If_2", 2, 2)]
    assert shape(nest(events)) == ["If_1", ["Add"], "If_2", ["Mul"]]


@pytest.mark.parametrize("op_type", ["If", "Loop", "Scan"])
def test_control_flow_itself_is_left_out(op_type: str) -> None:
    """Its time contains that of its bodies, which would count twice."""
    net = model(node("flow", op_type, body=graph(node("a", "Add"))))
    events = [event("a", 1, 1, "Add"), event("flow", 0, 3, op_type)]
    assert joined(net, events) == [("a", ("0.body", 0))]


# --- Which node an event is about ---------------------------------------------------------------------------------


def test_names_that_occur_in_both_branches() -> None:
    """Which branch ran is told by what ran in it; what ran before the If is not in it."""
    branches = {"then_branch": graph(node("a", "Add"), node("b", "Mul")),
                "else_branch": graph(node("a", "Add"), node("c", "Sub"))}  # fmt: skip
    net = model(node("a", "Add"), node("if", "If", **branches))
    events = [event("a", 0, 2, "Add"), event("a", 3, 1, "Add"), event("c", 4, 1, "Sub"), event("if", 3, 3, "If")]
    assert joined(net, events) == [("a", ("", 0)), ("a", ("1.else_branch", 0)), ("c", ("1.else_branch", 1))]


def test_nodes_without_names_are_paired_in_the_order_in_which_they_ran() -> None:
    """The profiler calls them by operator and a number that is not their index."""
    net = model(node("", "Gelu"), node("x", "Add"), node("", "Gelu"))
    events = [event("Gelu_40", 0, 1, index=40), event("x", 1, 1, "Add", 3), event("Gelu_7", 2, 1, index=7)]
    assert joined(net, events) == [("Gelu_40", ("", 0)), ("x", ("", 1)), ("Gelu_7", ("", 2))]


def test_a_name_that_reads_like_a_number_is_a_name() -> None:
    """A node that is really called so is no node without a name."""
    net = model(node("", "Gelu"), node("Gelu_7", "Gelu"))
    events = [event("Gelu_7", 0, 1, index=7), event("Gelu_3", 1, 1, index=3)]
    assert joined(net, events) == [("Gelu_7", ("", 1)), ("Gelu_3", ("", 0))]


def test_more_events_than_nodes_without_names() -> None:
    """What is over belongs to no known node: ONNX Runtime added it."""
    net = model(node("", "Cast"))
    events = [event("Cast_0", 0, 1, index=0), event("Cast_9", 1, 1, index=9)]
    assert joined(net, events) == [("Cast_0", ("", 0)), ("Cast_9", None)]


def test_nodes_of_one_name_take_turns() -> None:
    net = model(node("a", "Add"), node("b", "Mul"), node("a", "Add"))
    events = [event("a", 0, 1, "Add"), event("b", 1, 1, "Mul"), event("a", 2, 1, "Add")]
    assert joined(net, events) == [("a", ("", 0)), ("b", ("", 1)), ("a", ("", 2))]


def test_bodies_of_loops_run_repeatedly() -> None:
    """Each turn joins the same nodes, with a name or without."""
    net = model(node("loop", "Loop", body=graph(node("a", "Add"), node("", "Mul"))))
    turns = [part for t in (0, 2, 4) for part in (event("a", t, 1, "Add"), event("Mul_1", t + 1, 1, index=1))]
    keys = Counter(key for _, key in joined(net, [*turns, event("loop", 0, 7, "Loop")]))
    assert keys == {("0.body", 0): 3, ("0.body", 1): 3}


def test_a_name_of_another_graph() -> None:
    """It is found if one node alone has it: the control flow around it may have been taken apart."""
    body = graph(node("inner", "Mul"))
    assert joined(model(node("if", "If", then_branch=body)), [event("inner", 0, 1, "Mul")]) == [
        ("inner", ("0.then_branch", 0))
    ]
    twice = model(node("if", "If", then_branch=body, else_branch=body))
    assert joined(twice, [event("inner", 0, 1, "Mul")]) == [("inner", None)]


def test_unknown_nodes_have_no_key() -> None:
    """Neither has one of a known name and another operator."""
    net = model(node("x", "Add"))
    assert joined(net, [event("other", 0, 1, "Memcpy"), event("x", 1, 1, "Mul")]) == [("other", None), ("x", None)]


# --- What the times of a module are -------------------------------------------------------------------------------

ROOT, ENCODER = "/Net", "/Net/Encoder.encoder"
FIRST, SECOND = (f"{ENCODER}/Block.layer.{layer}" for layer in (0, 1))
NORM = f"{FIRST}/Norm.norm"
TREE = ModuleTree(
    [
        ModuleInfo((), "Net", "", calls=1),
        ModuleInfo(("encoder",), "Encoder", "", calls=1),
        ModuleInfo(("encoder", "layer"), "ModuleList", "", container=True),
        ModuleInfo(("encoder", "layer", "0"), "Block", "", calls=2),
        ModuleInfo(("encoder", "layer", "0", "norm"), "Norm", "", calls=3),
        ModuleInfo(("encoder", "layer", "1"), "Block", "", calls=1),
    ]
)
# The first block runs twice, and its norm in the first of these once, in the second twice.
CALLS = CallTree.of_rows(TREE, [(0, -1), (1, 0), (3, 1), (4, 2), (5, 1), (3, 1), (4, 5), (4, 5)])


def profiled(*runs: Sequence[Event], **tags: NodeTag) -> PhaseProfile:
    """The profile of a net with a node for each tag, by the node's name, which is its operator too."""
    net = model(*(node(name, name) for name in tags))
    known = {("", index): tag for index, tag in enumerate(tags.values())}
    file = TaggedGraph(net, known, Roots([Root(TREE, "", (CALLS,))]))
    measured = [Run(list(events), start_us=100, time_us=50) for events in runs]
    return PhaseSums(file, Joiner(net), known, measured).report("model.onnx", "forward", {})


def test_a_module_has_its_own_time_and_that_of_all_below_it() -> None:
    phase = profiled(
        [event("Add", 100, 3), event("Mul", 103, 5), event("Sub", 108, 7)],
        Add=NodeTag(ENCODER, "scope"),
        Mul=NodeTag(SECOND, "scope"),
        Sub=NodeTag(ROOT, "scope"),
    )
    times = {module.tag: (module.self_time, module.total_time, module.kernels) for module in phase.modules}
    assert times == {ROOT: ((7,), (15,), 3), ENCODER: ((3,), (8,), 2), SECOND: ((5,), (5,), 1)}
    assert [module.depth for module in phase.modules] == [0, 1, 2]
    assert phase.kernel_time == (15,)
    assert phase.attributed == 1.0


def test_fused_nodes_are_in_totals_and_in_no_own_time() -> None:
    phase = profiled([event("Gelu", 100, 4)], Gelu=NodeTag(ENCODER, "fused", None, (FIRST, SECOND)))
    assert [(module.tag, module.self_time, module.total_time) for module in phase.modules] == [
        (ROOT, (0,), (4,)),
        (ENCODER, (0,), (4,)),
    ]
    (fused,) = phase.fused
    assert (fused.tag, fused.origins, fused.time) == (ENCODER, (FIRST, SECOND), (4,))


def test_nodes_without_a_known_module_are_unattributed() -> None:
    """Those that have no tag, those whose tag is unresolved, and events of nodes that nobody knows."""
    phase = profiled(
        [event("Add", 100, 1), event("Mul", 101, 2), event("Memcpy", 103, 5)],
        Add=NodeTag(ROOT, "scope"),
        Mul=NodeTag(ROOT, "unresolved"),
    )
    assert (phase.unattributed, phase.kernel_time) == ((7,), (8,))
    assert {name: op.time for name, op in phase.unattributed_ops.items()} == {"Memcpy": (5,), "Mul": (2,)}
    assert phase.attributed == 1 / 8
    assert [kernel.tag for kernel in phase.timeline] == [ROOT, None, None]


def test_each_node_has_its_time_and_the_tensors_that_it_makes() -> None:
    """What ran and is no node of the graph has none; a node that ran twice has both in one."""
    phase = profiled(
        [event("Add", 100, 1), event("Mul", 101, 2), event("Add", 103, 4), event("Memcpy", 107, 5)],
        Add=NodeTag(FIRST, "scope", 1),
        Mul=NodeTag(ROOT, "unresolved"),
    )
    add, mul = phase.nodes
    assert (add.node, add.graph, add.outputs, add.tag, add.call) == ("Add", "", ("Add_out",), FIRST, 1)
    assert (add.kernels, add.time, mul.tag, mul.time) == (2, (5,), None, (2,))
    assert phase.to_dict()["nodes"][1]["time"]["runs_us"] == [2]


def test_times_are_kept_for_each_run() -> None:
    """So that sums are exact in each; the timeline is that of the run of median length, from its beginning."""
    tags = {"Add": NodeTag(ROOT, "scope"), "Mul": NodeTag(ENCODER, "scope")}
    runs = [[event("Add", 100, a), event("Mul", 150, b)] for a, b in ((1, 2), (10, 20), (3, 4))]
    phase = profiled(*runs, **tags)
    root, encoder = phase.modules
    assert (root.self_time, encoder.self_time, root.total_time) == ((1, 10, 3), (2, 20, 4), (3, 30, 7))
    assert [(kernel.start_us, kernel.time_us) for kernel in phase.timeline] == [(0, 3), (50, 4)]


def test_kernels_are_those_of_one_run() -> None:
    """Of runs that differ, as loops may, the most."""
    add = NodeTag(ROOT, "scope")
    phase = profiled([event("Add", 100, 1)], [event("Add", 100, 1), event("Add", 101, 1)], Add=add)
    assert phase.modules[0].kernels == 2
    assert phase.modules[0].ops["Add"].kernels == 2


def test_calls_share_out_the_time_of_a_module_that_ran_again() -> None:
    """What is not known to be of one call is a share of its own; a module that ran once has no calls listed."""
    phase = profiled(
        [event("Add", 100, 1), event("Mul", 101, 2), event("Sub", 103, 4), event("Neg", 107, 8)],
        Add=NodeTag(FIRST, "scope", 0),
        Mul=NodeTag(FIRST, "scope", 1),
        Sub=NodeTag(FIRST, "scope"),
        Neg=NodeTag(SECOND, "scope"),
    )
    assert [(call.tag, call.call, call.total_time) for call in phase.calls] == [
        (FIRST, 0, (1,)),
        (FIRST, 1, (2,)),
        (FIRST, None, (4,)),
    ]


def test_time_below_a_module_is_that_of_the_call_it_was_spent_in() -> None:
    """As the call tree says; what several calls share is unknown."""
    phase = profiled(
        [event("Add", 100, 1), event("Mul", 101, 2), event("Sub", 103, 4), event("Neg", 107, 8)],
        Add=NodeTag(NORM, "scope", 0),
        Mul=NodeTag(NORM, "scope", 1),
        Sub=NodeTag(NORM, "scope", 2),
        Neg=NodeTag(NORM, "dataflow"),
    )
    assert [(call.call, call.total_time) for call in phase.calls if call.tag == FIRST] == [
        (0, (1,)),
        (1, (6,)),
        (None, (8,)),
    ]


def test_layers_are_the_modules_of_the_outermost_lists() -> None:
    inner = f"{FIRST}/Expert.experts.3"
    phase = profiled(
        [event("Add", 100, 1), event("Mul", 101, 1)], Add=NodeTag(inner, "scope"), Mul=NodeTag(SECOND, "scope")
    )
    assert {module.tag for module in phase.modules if module.is_layer} == {FIRST, SECOND}


def test_modules_come_before_those_below_them() -> None:
    """Whichever ran first; siblings in the order in which they ran."""
    phase = profiled(
        [event("Add", 100, 1), event("Mul", 101, 1), event("Sub", 102, 1)],
        Add=NodeTag(SECOND, "scope"),
        Mul=NodeTag(FIRST, "scope"),
        Sub=NodeTag(ENCODER, "scope"),
    )
    assert [module.tag for module in phase.modules] == [ROOT, ENCODER, SECOND, FIRST]


def test_groups_of_a_class_and_of_an_operator() -> None:
    """What lies in two modules of a class counts once; operators have all the time, unattributed time too."""
    inner = f"{FIRST}/Block.again"
    phase = profiled(
        [event("Add", 100, 1), event("Mul", 101, 2), event("Memcpy", 103, 4)],
        Add=NodeTag(FIRST, "scope"),
        Mul=NodeTag(inner, "scope"),
    )
    blocks = next(group for group in phase.by_class() if group.name == "Block")
    assert (blocks.members, blocks.self_time, blocks.total_time) == (2, (3,), (3,))
    assert {group.name: group.total_time for group in phase.by_op()} == {"Add": (1,), "Mul": (2,), "Memcpy": (4,)}


def test_times_of_different_numbers_of_runs_do_not_add() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Microseconds((1, 2)) + Microseconds((1,))


# --- ONNX Runtime's own events ------------------------------------------------------------------------------------

ONES = np.ones(2, np.float32)

SCAN = """
<ir_version: 10, opset_import: ["" : 17]>
main (float[2] init, float[4,2] x) => (float[2] last, float[4,2] all) {
  s = Neg (init)
  last, all = Scan <num_scan_inputs = 1, body = body (float[2] carried, float[2] row) => (float[2] next, float[2] out) {
    added = Add (carried, row)
    next = Mul (added, row)
    out = Abs (next)
  }> (s, x)
}
"""

SEQUENCE_MAP = """
<ir_version: 10, opset_import: ["" : 17]>
main (float[2] a, float[2] b) => (float[4] y) {
  s = SequenceConstruct (a, b)
  t = SequenceMap <body = body (float[2] element) => (float[2] out) {
    p = Neg (element)
    out = Abs (p)
  }> (s)
  y = ConcatFromSequence <axis = 0> (t)
}
"""

CHAIN = """
<ir_version: 10, opset_import: ["" : 17]>
main (float[2] x) => (float[2] y) {
  a = Neg (x)
  b = Abs (a)
  y = Exp (b)
}
"""


def written(text: str, path: Path, tags: Sequence[str] = ()) -> OnnxModel:
    """A model from its text, its nodes named like their operators, and tagged."""
    import onnx
    from onnx import parser

    proto = parser.parse_model(text)
    for each in proto.graph.node:
        each.name = each.op_type.lower()
    for each, tag in zip(proto.graph.node, tags, strict=False):
        each.metadata_props.add(key=TAG, value=tag)
        each.metadata_props.add(key=SOURCE, value="scope")
    onnx.save(proto, path)
    return read_model(path)


def operators(measured: Measured) -> dict[str, int]:
    """How often each operator ran whose node is known, in the first run; every event's node is."""
    assert measured.optimized is not None
    nodes = dict(measured.optimized.nodes())
    (run, *_) = measured.runs[0]
    pairs = Joiner(measured.optimized).join(run.events)
    assert all(key is not None and nodes[key].op_type == each.op_type for each, key in pairs)
    return dict(Counter(each.op_type for each, _ in pairs))


def test_the_body_of_a_scan(tmp_path: Path) -> None:
    """Ran once for each row; the Scan itself is left out."""
    net = written(SCAN, tmp_path / "model.onnx")
    inputs = {"init": ONES, "x": np.ones((4, 2), np.float32)}
    measured = measure(net, [inputs], provider="CPUExecutionProvider", threads=1, warmup=0, runs=1)
    assert operators(measured) == {"Neg": 1, "Add": 4, "Mul": 4, "Abs": 4}


def test_a_sequence_map_runs_as_a_loop(tmp_path: Path) -> None:
    """ONNX Runtime has no kernel for it. When this fails, `CONTROL_FLOW` lacks it."""
    net = written(SEQUENCE_MAP, tmp_path / "model.onnx")
    inputs = {"a": ONES, "b": ONES}
    measured = measure(net, [inputs], provider="CPUExecutionProvider", threads=1, warmup=0, runs=1)
    ran = operators(measured)
    assert ran["Neg"] == ran["Abs"] == 2
    assert not {"SequenceMap", "Loop"} & set(ran)


def test_a_provider_that_cannot_write_its_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those that compile nodes: it is run all the same, nodes are known by their original names, and a note says so."""
    written(CHAIN, tmp_path / "model.onnx", tags=(ROOT, ENCODER, ENCODER))
    opened = []

    def open_session(path: Any, options: Any, *, provider: str, name: str) -> Any:
        opened.append(options.optimized_model_filepath)
        if options.optimized_model_filepath:
            raise HtpError("Unable to serialize model as it contains compiled nodes")
        return original(path, options, provider="CPUExecutionProvider", name=name)

    original = running.open_session
    monkeypatch.setattr(running, "open_session", open_session)
    monkeypatch.setattr(onnxruntime_sessions, "check_provider", lambda provider: provider)
    report = profile(tmp_path, provider="CompilingExecutionProvider", threads=1, runs=2, warmup=0)
    assert [bool(path) for path in opened] == [True, False]
    assert any("model.onnx: the provider can't write the graph that it made" in note for note in report.notes)
    (phase,) = report.files["model.onnx"]
    assert phase.attributed == 1.0
    assert {module.path: module.kernels for module in phase.modules} == {"": 3, "encoder": 2}


def test_the_cpu_can_write_its_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails there is the model, and it is not tried twice."""
    net = written(CHAIN, tmp_path / "model.onnx")
    opened = []

    def open_session(*args: Any, **options: Any) -> Any:
        opened.append(args)
        raise HtpError("ONNX Runtime can't load it")

    monkeypatch.setattr(running, "open_session", open_session)
    with pytest.raises(HtpError, match="can't load it"):
        measure(net, [{"x": ONES}], provider="CPUExecutionProvider", threads=1, warmup=0, runs=1)
    assert len(opened) == 1
