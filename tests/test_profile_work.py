"""What kernels do beside taking time: nets whose operations and bytes are known, and what a profiler says, made by hand.

`profile` of whole models is in `test_profiling.py`, where their sums are held against ONNX Runtime's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace as Made
from typing import Any

import onnxruntime
import pytest

from optimum_htp import ProfileReport, Work, profile
from optimum_htp.cli.main import main
from optimum_htp.cli.views.profile import profile_page
from optimum_htp.cli.views.terminal import print_page
from optimum_htp.errors import HtpError
from optimum_htp.hierarchy.tags import NodeKey, NodeTag
from optimum_htp.onnxfile.model import Graph, Initializer, Node, OnnxModel
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.node_metadata import SOURCE, TAG
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.verbs.profile import runs as running
from optimum_htp.verbs.profile.compiled import compiled_kernels
from optimum_htp.verbs.profile.facts import Facts, _others, held_before, reasons
from optimum_htp.verbs.profile.flops import Shape, Tensors, UnknownShapeError, flops, is_counted
from optimum_htp.verbs.profile.joiner import Event
from optimum_htp.verbs.profile.runs import Assigned
from optimum_htp.verbs.profile.runtimes import onnxruntime as onnxruntime_sessions
from optimum_htp.verbs.profile.work import NO_WORK, joined

CPU, CUDA, OPENVINO = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "OpenVINO"))

# --- What ONNX Runtime runs ---------------------------------------------------------------------------------------

NET = """
<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>
net (float[2,6,8] x, float[5,3] a, float[1,4,9,9] c, uint8[3,7] u, float[1,3,8] q, float[1,5,8] k, float[1,3,32] gq,
     float[1,3,16] gk, float[1,2,4,8] past, float[4,1,3] steps, float[2,32] wide, float[1,2,3,4] hq, float[1,2,5,4] hk,
     int64[1,3] ids)
 => (float[2,6,10] y1, float[2,8,8] y2, float[3,4] y3, float[1,6,5,5] y4, float[1,2,18,18] y5, int32[3,5] y6,
     float[1,3,8] y7, float[2,6,8] y8, float[1,3,32] y9, float[1,2,7,8] y9k, float[1,2,7,8] y9v, float[4,1,1,2] y10,
     float[2,6,6] y11, float[2,4] y12, float[1,2,3,4] y13, float[1,3,8] y14, float[2,6,8] y15)
{
  y1 = MatMul (x, w_matmul)
  turned = Transpose <perm = [0, 2, 1]> (x)
  y2 = MatMul (turned, x)
  y3 = Gemm <transA = 1> (a, w_gemm)
  y4 = Conv <group = 2, strides = [2, 2], pads = [1, 1, 1, 1]> (c, w_conv)
  y5 = ConvTranspose <strides = [2, 2]> (c, w_transposed)
  y6 = MatMulInteger (u, w_integer)
  y7 = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, k)
  y8 = com.microsoft.Attention <num_heads = 2> (x, w_attention, b_attention)
  y9, y9k, y9v = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2> (gq, gk, gk, past, past, lengths, total)
  y10 = LSTM <hidden_size = 2> (steps, w_lstm, r_lstm)
  y11 = Einsum <equation = "bij, bkj -> bik"> (x, x)
  y12 = com.microsoft.MatMulNBits <K = 32, N = 4, bits = 4, block_size = 32> (wide, w_packed, s_packed)
  y13 = Attention (hq, hk, hk)
  y14 = Gather (table, ids)
  y15 = Relu (x)
}
"""
WEIGHTS: dict[str, tuple[str, Shape]] = {
    "w_matmul": ("float32", (8, 10)), "w_gemm": ("float32", (5, 4)), "w_conv": ("float32", (6, 2, 3, 3)),
    "w_transposed": ("float32", (4, 2, 2, 2)), "w_integer": ("int8", (7, 5)), "w_attention": ("float32", (8, 24)),
    "b_attention": ("float32", (24,)), "w_lstm": ("float32", (1, 8, 3)), "r_lstm": ("float32", (1, 8, 2)),
    "w_packed": ("uint8", (4, 1, 16)), "s_packed": ("float32", (4,)), "table": ("float32", (100, 8)),
}  # fmt: skip
FLOPS = {
    "y1": 2 * (2 * 6) * 8 * 10,
    "y2": 2 * 2 * 8 * 6 * 8,
    "y3": 2 * 3 * 5 * 4,
    "y4": 2 * (6 * 5 * 5) * 2 * (3 * 3),
    "y5": 2 * (4 * 9 * 9) * 2 * (2 * 2),
    "y6": 2 * 3 * 7 * 5,
    "y7": 2 * (3 * 5 * 8) + 2 * (3 * 5 * 8),
    "y8": 2 * (2 * 6) * 8 * 24 + 2 * 2 * (2 * 6 * 6 * 8),
    "y9": 2 * 2 * (3 * 7 * 32),
    "y10": 2 * 4 * 8 * (3 + 2),
    "y11": 2 * 2 * 6 * 6 * 8,
    "y12": 2 * 2 * 32 * 4,
    "y13": 2 * 2 * (2 * 3 * 5 * 4),
    "y14": None,
    "y15": None,
}
"""Of the module that makes each output, as the definition of its operator says."""
PARAMETER_BYTES = {
    "y1": 320, "y2": 0, "y3": 80, "y4": 432, "y5": 128, "y6": 35, "y7": 0, "y8": 864, "y9": 8, "y10": 160, "y11": 0,
    "y12": 80, "y13": 0, "y14": 3 * 8 * 4, "y15": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> ProfileReport:
    """The profile of the net; each output is made by a module of its own."""
    import numpy as np
    import onnx
    from onnx import numpy_helper, parser

    model = parser.parse_model(NET)
    for name, (kind, dims) in WEIGHTS.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(dims, kind), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([6], np.int32), "lengths"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(7, np.int32), "total"))
    for node in model.graph.node:
        output = "y2" if node.output[0] == "turned" else node.output[0]
        node.name = node.output[0]
        node.metadata_props.add(key=TAG, value=f"/Net/Part.{output}")
        node.metadata_props.add(key=SOURCE, value="scope")
    path = tmp_path_factory.mktemp("net") / "model.onnx"
    onnx.save(model, path)
    return profile(path, runs=1, warmup=1, threads=1)


def test_operations_and_parameters_of_each_operator(measured: ProfileReport) -> None:
    """Also of weights that ONNX Runtime laid out anew and says nothing of, and of what it fused."""
    (phase,) = measured.phases
    works = {module.path: module.self_work for module in phase.modules if module.path}
    assert {path: work.flops for path, work in works.items()} == FLOPS
    assert {path: work.parameter_bytes for path, work in works.items()} == PARAMETER_BYTES
    ran = {node.op_type for node in phase.nodes}
    assert {"FusedMatMul", "GroupQueryAttention", "Attention", "MatMulNBits", "Einsum", "LSTM"} <= ran
    newest = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 32)
    assert set(phase.not_known) == (set() if newest else {"memory"})  # of which ONNX Runtime 1.23 says nothing
    root = measured[""].total_work
    assert root.flops == sum(count or 0 for count in FLOPS.values()) == phase.work.flops
    assert root.uncounted == {"Gather": 1, "Relu": 1}
    assert measured["y1"].gflops == pytest.approx(FLOPS["y1"] / measured["y1"].total_time.median / 1000)


def test_bytes_of_activations(measured: ProfileReport) -> None:
    """Those of the graph's inputs and outputs; a value that is read twice counts twice."""
    first, einsum = measured["y1"].total_work, measured["y11"].total_work
    assert (first.read_bytes, first.written_bytes) == (4 * 96, 4 * 120)
    assert (einsum.read_bytes, einsum.written_bytes) == (2 * 4 * 96, 4 * 72)
    assert first.bytes_per_flop == (320 + 4 * 96 + 4 * 120) / FLOPS["y1"]


def test_columns_and_orders(measured: ProfileReport, capsys: pytest.CaptureFixture[str]) -> None:
    """What is asked for is shown; what is not known is a dash; the most operations come first."""
    print_page(profile_page(measured, columns=("work", "provider"), sort="flops", top=4))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[-5] == ["module", "GFLOP", "GFLOP/s", "B/FLOP", "provider"]
    assert [line[0] for line in lines[-4:]] == ["(root)", "y8", "y4", "y5"]
    print_page(profile_page(measured, columns=("gflops",)))
    assert "y15 -" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--columns", "speed"], "'speed' is no column; there are total, self, peak"),
        (["--columns", ","], "',' is no column"),
        (["--columns", "class", "--by", "op"], "--columns class: there is no such column by op"),
        (["--columns", "time", "--json"], "--columns: for the table only"),
    ],
)
def test_columns_that_there_are_not(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Said before anything is opened."""
    try:
        code: object = main(["profile", "nowhere", *options])
    except SystemExit as stopped:  # by argparse
        code = stopped.code
    assert code == 2
    assert message in capsys.readouterr().err


# --- Operations, from shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op_type", "inputs", "outputs", "attributes", "expected"),
    [
        ("MatMul", [(4,), (4,)], [()], {}, 2 * 4),
        ("MatMul", [(3, 1, 5, 4), (2, 4, 6)], [(3, 2, 5, 6)], {}, 2 * 3 * 2 * 5 * 4 * 6),
        ("MatMul", [(0, 4), (4, 6)], [(0, 6)], {}, 0),
        ("MatMul", [None, (4, 6)], [(3, 6)], {}, 2 * 3 * 4 * 6),
        ("FusedMatMul", [(2, 7, 5), (2, 7, 3)], [(2, 5, 3)], {"transA": 1}, 2 * 2 * 5 * 7 * 3),
        ("FusedMatMul", [(5, 2, 7), (2, 7, 3)], [(2, 5, 3)], {"transBatchA": 1}, 2 * 2 * 5 * 7 * 3),
        ("FusedMatMul", [(7, 2, 5), (2, 7, 3)], [(2, 5, 3)], {"transA": 1, "transBatchA": 1}, 2 * 2 * 5 * 7 * 3),
        ("QLinearMatMul", [(3, 4), (), (), (4, 5), (), (), (), ()], [(3, 5)], {}, 2 * 3 * 4 * 5),
        ("DynamicQuantizeMatMul", [(1, 3, 4), (4, 5), (5,)], [(1, 3, 5)], {}, 2 * 3 * 4 * 5),
        ("QLinearConv", [(1, 3, 8, 8), (), (), (6, 3, 3, 3)], [(1, 6, 6, 6)], {}, 2 * 6 * 36 * 27),
        ("Conv", [(2, 3, 16), (4, 3, 5)], [(2, 4, 12)], {}, 2 * 2 * 4 * 12 * 15),
        ("QAttention", [(2, 6, 8), (8, 24), (24,)], [(2, 6, 8)], {}, 2 * 12 * 8 * 24 + 4 * 12 * 6 * 8),
        ("QAttention", [(2, 1, 8), (8, 24), *[None] * 6, (2, 2, 2, 5, 4)], [(2, 1, 8)], {},
         2 * 2 * 8 * 24 + 4 * 2 * 6 * 8),
        ("MultiHeadAttention", [(1, 3, 2, 3, 4)], [(1, 3, 8)], {}, 2 * 2 * 3 * 3 * 8),
        ("MultiHeadAttention", [(1, 3, 8), (1, 5, 2, 2, 4)], [(1, 3, 8)], {}, 2 * 2 * 3 * 5 * 8),
        ("MultiHeadAttention", [(1, 1, 8), (1, 1, 8), (1, 1, 8), None, None, None, (1, 2, 6, 4)], [(1, 1, 8)], {},
         2 * 2 * 1 * 7 * 8),
        ("Attention", [(1, 3, 8), (1, 5, 8), (1, 5, 8)], [(1, 3, 8)], {}, 2 * 2 * 3 * 5 * 8),
        ("Attention", [(1, 1, 8), (1, 1, 8), (1, 1, 8), None, (1, 2, 4, 4)], [(1, 1, 8)], {}, 2 * 2 * 5 * 8),
        ("GRU", [(4, 2, 3), (1, 15, 3), (1, 15, 5)], [(4, 1, 2, 5)], {}, 2 * 4 * 2 * 15 * (3 + 5)),
        ("Einsum", [(2, 6, 8), (8, 5)], [(2, 6, 5)], {"equation": b"...i,ij->...j"}, 2 * 2 * 6 * 8 * 5),
        ("Einsum", [(2, 6)], [(6, 2)], {"equation": b"ij->ji"}, None),
    ],
)  # fmt: skip
def test_operations_from_shapes(
    op_type: str,
    inputs: Sequence[Shape | None],
    outputs: Sequence[Shape],
    attributes: dict[str, Any],
    expected: int | None,
) -> None:
    assert flops(op_type, Tensors(tuple(inputs)), Tensors(tuple(outputs)), attributes) == expected


@pytest.mark.parametrize(
    ("op_type", "inputs", "outputs"),
    [("MatMul", [None, None], [(3, 5)]), ("FusedMatMul", [None, (4, 5)], [(3, 5)]), ("Conv", [(1, 3, 8, 8)], [(1, 6, 6, 6)]), ("MoE", [(3, 4)], [(3, 4)]),
     ("Einsum", [(3, 4), (4, 5)], [(3, 5)]), ("LSTM", [(3,), (1, 8, 3), (1, 8, 2)], [(3, 1, 1, 2)])],
)  # fmt: skip
def test_operations_that_shapes_do_not_tell(
    op_type: str, inputs: Sequence[Shape | None], outputs: Sequence[Shape]
) -> None:
    """Better none than too few."""
    with pytest.raises(UnknownShapeError):
        flops(op_type, Tensors(tuple(inputs)), Tensors(tuple(outputs)), {})


def test_operators_of_others_are_not_counted() -> None:
    """An operator of the same name may be anything."""
    assert is_counted("", "Conv") and is_counted("com.microsoft.nchwc", "Conv")
    assert not is_counted("my.own", "Conv") and not is_counted("", "Relu")


# --- Which shape is whose -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "listed", "expected"),
    [
        ({}, [(1,), (2,), (3,)], {0: (1,), 1: (2,), 2: (3,)}),
        ({1: (4, 4)}, [(1,), (3,)], {0: (1,), 2: (3,)}),  # the constant was laid out anew
        ({1: (4, 4), 2: (4,)}, [(1,), (4,)], {0: (1,)}),  # one of two constants was
        ({0: (4, 4), 2: (4,)}, [(5, 5), (4,)], {1: (5, 5)}),  # which of them is clear
        ({0: (4, 4), 2: (4,)}, [(4, 4), (4,)], {}),  # either shape may be that of the input
        ({}, [(1,)], {}),
        ({1: (9,)}, [(1,), (2,), (3,), (4,)], {}),
    ],
)
def test_shapes_of_inputs(stored: dict[int, Shape], listed: list[Shape], expected: dict[int, Shape]) -> None:
    """The profiler lists shapes without names, and leaves out constants that a kernel laid out anew."""
    assert _others(range(3), stored, listed) == expected


# --- Memory, providers and copies, from what a profiler says ------------------------------------------------------


def kernel(
    name: str, *, provider: str = CPU, in_use: int | None = None, delta: int = 0, peak: int = 0, **more: Any
) -> Event:
    """An event; its operator is the first word of its name."""
    facts: dict[str, Any] = {"activation_size": "8", "output_size": "4", **more}
    if in_use is not None:
        facts |= {"mem_bytes_in_use": str(in_use), "mem_in_use_delta": str(delta), "mem_in_use_peak": str(peak)}
    return Event(name, name.split("_")[0], 0, 0, 1, provider, facts)


def works(*events: Event, provider: str = CPU, nodes: Sequence[Node] = ()) -> list[Work]:
    """The work of kernels, which are the nodes of a net in their order, if there are any."""
    model = OnnxModel(Path(), 0, {}, "", "", {}, Graph("", list(nodes), (), (), ()), ())
    keys = [("", index) if index < len(nodes) else None for index in range(len(events))]
    return list(Facts(model, {}, model).work(list(zip(events, keys, strict=True)), provider=provider))


def test_memory_between_kernels() -> None:
    """What is given back before the next kernel counts for the one before; scratch shows where it is the highest ever."""
    events = [
        kernel("Add_1", in_use=130, delta=30, peak=130),
        kernel("Softmax_2", in_use=150, delta=40, peak=190),  # 20 were given back before it; 40 more within it
        kernel("Mul_3", in_use=120, delta=10, peak=190),
    ]
    found = works(*events)
    assert [work.peak_bytes for work in found] == [130, 190, 120]
    assert [work.allocated_bytes for work in found] == [30, 40, 10]
    assert [work.net_bytes for work in found] == [10, 0, 10]
    assert held_before(events, provider=CPU) == 100
    total = joined(found)
    assert (total.peak_bytes, total.net_bytes, total.allocated_bytes) == (190, 20, 80)


def test_memory_is_that_of_the_provider() -> None:
    """Kernels of another have another memory; why some have none is said."""
    events = [
        kernel("MatMul_1", provider=CUDA, in_use=100, delta=50, peak=100),
        kernel("NonZero_2", in_use=7, delta=7, peak=7),
        kernel("Add_3", provider=CUDA, in_use=150, delta=50, peak=150),
    ]
    found = works(*events, provider=CUDA, nodes=[Node(op_type=event.op_type) for event in events])
    assert [work.peak_bytes for work in found] == [100, None, 150]
    assert [work.net_bytes for work in found] == [50, None, 50]
    assert joined(found).providers == {CUDA: 2, CPU: 1}
    assert reasons(events, found, CUDA)["memory"] == f"without that of 1 kernel on {CPU}, which have another"


def test_an_onnxruntime_that_says_less() -> None:
    """What it leaves out is not known, and never 0."""
    events = [Event("Add_1", "Add", 0, 0, 1), Event("Mul_2", "Mul", 1, 1, 1)]
    total = joined(works(*events))
    assert total == Work(uncounted={"Add": 1, "Mul": 1})
    assert set(reasons(events, works(*events), CPU)) == {"memory", "activations", "parameters", "providers"}


def test_what_is_not_known_of_one_is_not_known_of_all() -> None:
    """A sum without one of its parts would say something else; a module without kernels is no such part."""
    known = Work(parameter_bytes=3, flops=5, uncounted={"Add": 1})
    assert joined([known, NO_WORK]) == known
    total = joined([known, Work(unknown={"MatMul": 1})])
    assert (total.parameter_bytes, total.flops, total.unknown) == (None, None, {"MatMul": 1})


def test_parameters_of_packed_tables_and_odd_types() -> None:
    """Four bits are half a byte; of a packed table the rows that are taken; a text has no size that is known."""

    def parameters(node: Node, constant: Initializer, output: Shape) -> int | None:
        model = OnnxModel(Path(), 0, {}, "", "", {}, Graph("", [node], (), (), (constant,)), ())
        facts = {"output_type_shape": [{"float": list(output)}, {"int32": [1]}][: len(node.outputs)]}
        ((work,),) = [
            list(Facts(model, {}, model).work([(Event("n", "n", 0, 0, 1, CPU, facts), ("", 0))], provider=CPU))
        ]
        return work.parameter_bytes

    packed = Node("n", "GatherBlockQuantized", "com.microsoft", ("t", "ids"), ("y",))
    assert parameters(packed, Initializer("t", 2, (100, 16)), (1, 5, 32)) == 5 * 16
    assert parameters(Node("n", "MatMul", "", ("x", "t"), ("y",)), Initializer("t", 22, (3, 3)), (1,)) == 5
    assert parameters(Node("n", "Equal", "", ("x", "t"), ("y",)), Initializer("t", 8, (3,)), (1,)) is None
    assert parameters(Node("n", "Gather", "", ("x", "t"), ("y",)), Initializer("t", 7, (3,)), (1,)) == 24
    embedding = Node("n", "EmbedLayerNormalization", "com.microsoft", ("ids", "", "t"), ("y", "mask"))
    assert parameters(embedding, Initializer("t", 1, (100, 8)), (2, 3, 8)) == 2 * 3 * 8 * 4


# --- Several providers --------------------------------------------------------------------------------------------

PARTLY = """
<ir_version: 10, opset_import: ["" : 17]>
main (float[4,4] x) => (float z) <float[4,4] w = {1,0,1,1,1,1,0,1,1,2,1,1,1,1,1,3}> {
  a = MatMul (x, w)
  b = Relu (a)
  z = Det (b)
}
"""
PARTLY_TAGS = ("/Net/Linear.fc", "/Net/Act.act", "/Net/Det.det")


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net of which OpenVINO compiles two nodes and leaves one to the CPU."""
    import onnx
    from onnx import parser

    model = parser.parse_model(PARTLY)
    for node, tag in zip(model.graph.node, PARTLY_TAGS, strict=True):
        node.name = f"n_{node.op_type}"
        node.metadata_props.add(key=TAG, value=tag)
        node.metadata_props.add(key=SOURCE, value="scope")
    path = tmp_path_factory.mktemp("partly") / "model.onnx"
    onnx.save(model, path)
    return path


class StandIn:
    """A session of the CPU that says what one with OpenVINO said of the same net (onnxruntime-openvino 1.24.1)."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_provider_graph_assignment_info(self) -> list[Any]:
        parts = ((OPENVINO, ("n_MatMul", "n_Relu")), (CPU, ("n_Det",)))
        return [
            Made(ep_name=provider, get_nodes=lambda names=names: [Made(name=name) for name in names])
            for provider, names in parts
        ]

    def end_profiling(self) -> str:
        path = Path(self._session.end_profiling())
        events = [each for each in json.loads(path.read_text()) if not each["name"].startswith("n_Relu")]
        for event in events:
            if event["name"] == "n_MatMul_kernel_time":
                event["name"] = "OpenVINOExecutionProvider_OpenVINO-EP-subgraph_1_0_kernel_time"
                event["args"] = {
                    "op_name": "OpenVINO-EP-subgraph_1", "provider": OPENVINO, "node_index": "3",
                    "activation_size": "64", "output_size": "64", "parameter_size": "64",
                    "input_type_shape": [{"float": [4, 4]}, {"float": [4, 4]}], "output_type_shape": [{"float": [4, 4]}],
                }  # fmt: skip
        path.write_text(json.dumps(events))
        return str(path)


def test_what_runs_partly_on_the_cpu(
    partly: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a provider compiled is of the modules of the nodes that it was given; the rest is named."""
    import onnxruntime

    original = running.open_session

    def open_session(path: Any, options: Any, *, provider: str, name: str) -> Any:
        if options.optimized_model_filepath:
            raise HtpError("Unable to serialize model as it contains compiled nodes")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return StandIn(original(path, options, provider=CPU, name=name))

    monkeypatch.setattr(running, "open_session", open_session)
    monkeypatch.setattr(onnxruntime_sessions, "check_provider", lambda provider: provider)
    report = profile(partly, provider=OPENVINO, runs=2, warmup=1, threads=1)
    (phase,) = report.phases
    assert phase.attributed == 1.0
    (fused,) = phase.fused
    assert (fused.tag, fused.origins) == ("/Net", PARTLY_TAGS[:2])
    assert report[""].total_work.providers == {OPENVINO: 2, CPU: 1}
    assert report["det"].total_work.providers == {CPU: 1}
    assert {name: part.kernels for name, part in phase.providers.items()} == {OPENVINO: 1, CPU: 1}
    assert (phase.work.flops, phase.work.unknown) == (None, {"OpenVINO-EP-subgraph_1": 1})
    assert set(phase.not_known) == {"memory", "parameters", "flops"}
    print_page(profile_page(report, columns=("provider",)))
    shown = capsys.readouterr().out
    assert f"runs partly on {CPU}: 1 of 3 nodes, " in shown and ", in det\n" in shown
    assert "OpenVINO 2, CPU 1" in shown
    assert "flops: not known, nor of the modules around: those of OpenVINO-EP-subgraph_1 (1 kernel)" in shown


def test_which_nodes_were_compiled_is_known_or_not(partly: Path) -> None:
    """As many kernels as parts that were given to the provider, or nothing is known; an unknown node has no module."""
    model = read_model(partly)
    tagged = TaggedGraph(model, {("", index): NodeTag(tag, "scope") for index, tag in enumerate(PARTLY_TAGS)})
    kernels: list[tuple[Event, NodeKey | None]] = [
        (Event(f"part_{index}", f"part{index}", index, 0, 1, OPENVINO), None) for index in (5, 2)
    ]
    parts = [Assigned(OPENVINO, ("n_Relu",)), Assigned(CPU, ("n_Det",)), Assigned(OPENVINO, ("n_MatMul", "gone"))]
    found = compiled_kernels(kernels, parts, tagged)
    assert {name: (each.nodes, each.tag and each.tag.tag) for name, each in found.items()} == {
        "part_2": (1, "/Net/Act.act"), "part_5": (2, "/Net/Linear.fc"),
    }  # fmt: skip
    assert compiled_kernels(kernels, parts[:1], tagged) == {}
    assert compiled_kernels(kernels[:1], [Assigned(OPENVINO, ("gone",))], tagged)["part_5"].tag is None


def test_copies_between_providers() -> None:
    """They are counted with their size, and are no operations."""
    events = [kernel("MemcpyToHost_1", provider=CUDA, output_size="400"), kernel("NonZero_2")]
    copy, other = works(*events, provider=CUDA, nodes=[Node(op_type=event.op_type) for event in events])
    assert (copy.copies, copy.copied_bytes, copy.uncounted) == (1, 400, {"MemcpyToHost": 1})
    assert (other.copies, other.copied_bytes) == (0, None)
    total = joined([copy, other])
    assert (total.copies, total.copied_bytes, total.unknown) == (1, 400, {})


def test_copies_are_of_the_modules_that_they_stand_with(partly: Path, tmp_path: Path) -> None:
    """ONNX Runtime puts them into the graph, under names of its own (`MemcpyTransformer`)."""
    import onnx
    from onnx import parser

    from optimum_htp.tagging import project

    copied = PARTLY.replace(
        "z = Det (b)", "b_CPUExecutionProvider = MemcpyToHost (b)\n  z = Det (b_CPUExecutionProvider)"
    )
    model = parser.parse_model(copied)
    for node in model.graph.node:
        node.name = "Memcpy" if node.op_type == "MemcpyToHost" else f"n_{node.op_type}"
    onnx.save(model, tmp_path / "optimized.onnx")
    source = TaggedGraph(
        read_model(partly), {("", index): NodeTag(tag, "scope") for index, tag in enumerate(PARTLY_TAGS)}
    )
    tags = project((source,), read_model(tmp_path / "optimized.onnx")).tags
    assert [tags["", index].tag for index in range(4)] == [*PARTLY_TAGS[:2], PARTLY_TAGS[1], PARTLY_TAGS[2]]
    assert tags["", 2].source == "inserted"


def test_convolutions_in_blocks() -> None:
    """As they are in the file, whatever the width of the processor's vectors: channels that fill up a block don't count.

    Named as ONNX Runtime names them: after the tensor that they make, past what was fused into them.
    """
    nodes = [
        Node("c", "Conv", "", ("x", "again"), ("conv",)),
        Node("i", "Identity", "", ("w",), ("again",)),
        Node("m", "Mul", "", ("conv", "s"), ("scaled",)),
        Node("a", "Add", "", ("scaled", "t"), ("added",)),
        Node("r", "Relu", "", ("added",), ("y",)),
    ]
    source = OnnxModel(Path(), 0, {}, "", "", {}, Graph("", nodes, (), (), (Initializer("w", 1, (8, 3, 7, 7)),)), ())

    def count(name: str, weight: Shape, *, channels: int) -> Work:
        node = Node(name, "Conv", "com.microsoft.nchwc", ("x", "reorder"), ("z",))
        graph = Graph("", [node], (), (), (Initializer("reorder", 1, weight),))
        made = OnnxModel(Path(), 0, {}, "", "", {}, graph, ())
        facts = {
            "input_type_shape": [{"float": [1, 3, 14, 14]}, {"float": list(weight)}],
            "output_type_shape": [{"float": [1, channels, 8, 8]}],
        }
        event = Event(name, "Conv", 0, 0, 1, CPU, facts)
        (work,) = Facts(made, {}, source).work([(event, ("", 0))], provider=CPU)
        return work

    for channels in (8, 16):
        assert count("y_nchwc", (channels, 3, 7, 7), channels=channels).flops == 2 * 8 * 64 * 3 * 49
    assert count("unknown_nchwc", (16, 3, 7, 7), channels=16).unknown == {"Conv": 1}
    assert count("y_nchwc", (32, 3, 5, 5), channels=32).unknown == {"Conv": 1}
    scaling = count("scaled_mul_nchwc", (16, 1, 1, 1), channels=16)  # no convolution in the file
    assert (scaling.flops, scaling.uncounted) == (None, {"Conv": 1})
