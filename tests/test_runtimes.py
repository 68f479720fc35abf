"""Times of other runtimes: OpenVINO's layers and TensorRT's files, joined to modules.

OpenVINO is stood in for by objects that say what its own say; one test runs it, where it is installed. TensorRT's files are
made by hand in the forms that trtexec writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimum_htp import profile
from optimum_htp.cli.main import main
from optimum_htp.errors import HtpError
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.node_metadata import SOURCE, TAG
from optimum_htp.package.package import HtpPackage
from optimum_htp.package.resolver import tagged_file
from optimum_htp.verbs.profile.runtimes import openvino as openvino_layers
from optimum_htp.verbs.profile.runtimes.layer_names import LayerNames
from optimum_htp.verbs.profile.runtimes.layers import SourceNames
from optimum_htp.verbs.profile.runtimes.openvino import AsRead, Counters, Node, nodes_of, ran_layers
from optimum_htp.verbs.profile.runtimes.ran import Ran

NET = """
<ir_version: 8, opset_import: ["" : 17]>
main (int64[1,n] ids) => (float[1,n,2] logits)
<float[4,8] table = {}, float[8] scale = {}, float[8] shift = {}, float[8,16] fc_weight = {}, float[16] fc_bias = {},
 float[16,2] head_weight = {}> {
  embedded = Gather (table, ids)
  normed = LayerNormalization (embedded, scale, shift)
  product = MatMul (normed, fc_weight)
  summed = Add (product, fc_bias)
  active = Relu (summed)
  logits = MatMul (active, head_weight)
}
"""
NAMES = {
    "/embed.0/Gather": "/Net/Embedding.embed.0",
    "/norm/LayerNormalization": "/Net/LayerNorm.norm",
    "/fc/MatMul": "/Net/Linear.fc",
    "/fc/Add": "/Net/Linear.fc",
    "/act/Relu": "/Net/ReLU.act",
    "": "/Net/Linear.head",  # without a name
}
EMBED, NORM, FC, _, ACT, HEAD = NAMES.values()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tagged file: a table, a norm, a layer with an activation, and a head."""
    from onnx import numpy_helper, parser, save

    proto = parser.parse_model(NET)
    for tensor in proto.graph.initializer:
        shape = tuple(tensor.dims)
        tensor.CopyFrom(
            numpy_helper.from_array(
                np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape), tensor.name
            )
        )
    for node, (name, tag) in zip(proto.graph.node, NAMES.items(), strict=True):
        node.name = name
        node.metadata_props.add(key=TAG, value=tag)
        node.metadata_props.add(key=SOURCE, value="scope")
    path = tmp_path_factory.mktemp("net") / "model.onnx"
    save(proto, path)
    return path


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error, which goes with the exit code 2."""
    assert main(["profile", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    (line,) = error.splitlines()
    return line


def own_times(report: Any) -> dict[str, float]:
    """The time of each module alone, where there is some."""
    (phase,) = report.phases
    return {module.tag: module.self_time.median for module in phase.modules if module.self_time.median}


# --- What names of TensorRT's layers say -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/fc/MatMul", "2"),
        ("/fc/MatMul + /fc/Add", "23"),
        ("fc_weight + (Unnamed Layer* 4) [Constant] + /fc/MatMul + /fc/Add + PWN(/act/Relu)", "234"),
        ("PWN(PWN(/fc/Add), PWN(/act/Relu))", "34"),
        ("/fc/MatMul || node_of_logits", "25"),
        ("/fc/MatMul [profile 1]", "2"),
        ("Reformatting CopyNode for Input Tensor 0 to /fc/MatMul + /fc/Add", "23"),
        ("Reformatting CopyNode for Output Tensor 0 to {ForeignNode[/norm/LayerNormalization.../fc/Add]}", "123"),
        ("product copy", "2"),
        ("/fc/MatMul_clone_1", "2"),
        ("/fc/MatMul_12", "2"),
        ("/embed_0/Gather_myl3_7", "0"),
        ("{ForeignNode[/norm/LayerNormalization.../act/Relu]}", "1234"),
        ("{ForeignNode[/fc/MatMul]}", "2"),
        ("{ForeignNode[fc_weight.../fc/Add]}", "23"),
        ("{ForeignNode[ONNXTRT_ShapeShuffle_3_output[Constant].../fc/Add]}", ""),
        ("{ForeignNode[/act/Relu.../fc/MatMul]}", ""),
        ("__myl_MulAddResTra_myl0_7", ""),
        ("(Unnamed Layer* 3) [Shuffle]", ""),
        ("[trainStation1]", ""),
        ("", ""),
    ],
)
def test_names_of_layers(net: Path, name: str, said: str) -> None:
    """The nodes by their indexes; what says nothing says nothing."""
    assert "".join(str(index) for _, index in LayerNames(SourceNames(read_model(net))).said(name)) == said


@pytest.mark.parametrize(
    ("metadata", "stated"),
    [
        ("[ONNX Layer: /fc/MatMul]", "2"),
        ("[ONNX Layer: /fc/MatMul]\x1f[ONNX Layer: /fc/Add]", "23"),
        ("[ONNX Layer: /fc/Add]\x1e[ONNX Layer: /fc/MatMul]\x1e", "23"),
        ("[ONNX Layer: /fc/MatMul][ONNX Layer: node_of_logits]", "25"),
        ("[ONNX Layer: /fc/MatMul | Local Function: Block | /outer (Layer)]", "2"),
        ("[ONNX Layer: /fc/MatMul]\x1f[ONNX Layer: /fc/A ... Layer: /act/Relu]", "2"),
        ("[ONNX Layer: elsewhere]", ""),
        ("of a plugin", ""),
        ("", ""),
    ],
)
def test_what_layers_state(net: Path, metadata: str, stated: str) -> None:
    """Separators of each version; what was cut says as much as is left."""
    assert "".join(str(index) for _, index in LayerNames(SourceNames(read_model(net))).stated(metadata)) == stated


# --- TensorRT's files ------------------------------------------------------------------------------------------------


def engine(
    directory: Path, layers: Sequence[Any], times: Sequence[tuple[str, float]], *, medians: bool = True
) -> list[str]:
    """The options with the files of an engine, as trtexec writes them; times are milliseconds."""
    info, profiled = directory / "layers.json", directory / "profile.json"
    info.write_text('{"Layers": [' + "\n,".join(map(json.dumps, layers)) + '],\n"Bindings": ["ids"\n,"logits"\n]}\n')
    rows = [{"name": name, "timeMs": time * 11, "averageMs": time + 1, "percentage": 1} for name, time in times]
    for row, (_, time) in zip(rows, times, strict=True):
        row |= {"medianMs": time} if medians else {}
    profiled.write_text(json.dumps([{"count": 11}, *rows]))
    return ["--layer-info", str(info), "--profile", str(profiled)]


def layer(
    name: str, metadata: str = "", kind: str = "kgen", inputs: Sequence[str] = (), outputs: Sequence[str] = ()
) -> Any:
    """A layer of an engine that was built with `--profilingVerbosity=detailed`."""
    tensors = [
        [{"Name": each, "Dimensions": [1, -1, 8], "Format/Datatype": "Half"} for each in side]
        for side in (inputs, outputs)
    ]
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": tensors[0],
        "Outputs": tensors[1],
        "TacticName": "",
        "Metadata": metadata,
    }


DETAILED = [
    layer("__myl_Gath_myl0_0", "[ONNX Layer: /embed.0/Gather]", inputs=["ids"], outputs=["embedded"]),
    layer("__myl_Cast_myl0_1", "", inputs=["embedded"], outputs=["__mye3"]),
    layer("gemm_myl0_2", "[ONNX Layer: /fc/MatMul]\x1f[ONNX Layer: /fc/Add]\x1f[ONNX Layer: /act/Relu]", "gemm", ["__mye4"], ["active"]),
    layer("gemm_myl0_3", "[ONNX Layer: node_of_logits]", "gemm", ["active"], ["logits"]),
]  # fmt: skip


def test_an_engine_of_tensorrt_10(net: Path, tmp_path: Path) -> None:
    """A layer of two modules is in the totals of the root and nobody's own; one of nothing by what it reads and feeds."""
    times = [
        ("__myl_Gath_myl0_0", 0.001),
        ("__myl_Cast_myl0_1", 0.002),
        ("gemm_myl0_2", 0.0145),
        ("gemm_myl0_3", 0.004),
    ]
    _, info, _, profiled = engine(tmp_path, DETAILED, times)
    report = profile(net, layer_info=info, layer_profile=profiled)
    (phase,) = report.phases
    assert (report.runtime, report.runs, report.average, report.warmup) == ("tensorrt", 11, "median", None)
    assert phase.kernel_time == (21.5,)
    (fused,) = phase.fused
    assert (fused.tag, fused.origins, fused.time, list(fused.ops)) == ("/Net", (FC, ACT), (14.5,), ["gemm"])
    assert own_times(report) | {EMBED: 0} == {EMBED: 0, HEAD: 4.0} | {
        tag: time for tag, time in own_times(report).items() if tag == NORM
    }
    assert phase.attributed == 1.0
    assert (phase.inputs, phase.run_time, phase.work.flops) == ({}, (), None)
    assert set(phase.not_known) == {"memory", "activations", "parameters", "flops"}
    assert [(each.node, each.outputs) for each in phase.nodes][-1] == ("gemm_myl0_3", ("logits",))
    document = json.loads(json.dumps(report.to_dict()))
    assert document["phases"][0]["run_time"] == {"median_us": None, "spread_us": None, "runs_us": []}


def test_an_engine_of_tensorrt_8(net: Path, tmp_path: Path) -> None:
    """Names alone: regions have what no other layer has, what is of nothing is unattributed, operators are ONNX's."""
    names = [
        "(Unnamed Layer* 0) [Constant]",
        "{ForeignNode[/embed.0/Gather.../fc/Add]}",
        "Reformatting CopyNode for Input Tensor 0 to /fc/MatMul + /fc/Add",
        "/fc/MatMul + /fc/Add",
        "node_of_logits",
    ]
    _, info, _, profiled = engine(tmp_path, names, [(name, 0.001) for name in names], medians=False)
    report = profile(net, runtime="tensorrt", layer_info=info, layer_profile=profiled)
    (phase,) = report.phases
    assert report.average == "mean"
    assert [(each.origins, list(each.ops)) for each in phase.fused] == [((EMBED, NORM), ["Gather+LayerNormalization"])]
    assert {tag: module.kernels for tag, module in ((each.tag, each) for each in phase.modules)} == {
        "/Net": 4,
        FC: 2,
        HEAD: 1,
    }
    assert {name: op.kernels for name, op in phase.unattributed_ops.items()} == {"(unknown)": 1}
    assert any(
        "4 of the 5 layers that ran name nodes of model.onnx, with 80.0% of the time" in note for note in report.notes
    )


def test_layers_of_one_name_take_turns(net: Path, tmp_path: Path) -> None:
    """As those of several optimization profiles do, and what is in the profile alone is told."""
    layers = [layer("x", "[ONNX Layer: /fc/MatMul]"), layer("x", "[ONNX Layer: /act/Relu]")]
    _, info, _, profiled = engine(tmp_path, layers, [("x", 0.003), ("x", 0.005), ("y", 0.002)])
    report = profile(net, layer_info=info, layer_profile=profiled)
    assert own_times(report) == {FC: 3.0, ACT: 5.0}
    assert report.phases[0].unattributed == (2.0,)
    assert report.notes[0].startswith("2 of the 3 layers")


def test_control_characters_as_they_are(net: Path, tmp_path: Path) -> None:
    """TensorRT writes them into its JSON."""
    options = engine(tmp_path, DETAILED, [("gemm_myl0_3", 1)])
    path = Path(options[1])
    path.write_text(path.read_text().replace("\\u001f", "\x1f"))
    assert own_times(profile(net, layer_info=path, layer_profile=options[3])) == {HEAD: 1000.0}


def test_what_is_printed_and_written(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table without a spread, traces in the order of the profile, and JSON that `view` takes."""
    options = engine(tmp_path, DETAILED, [(each["Name"], 0.25) for each in DETAILED])
    traces = ["--speedscope", str(tmp_path / "s.json"), "--chrome-trace", str(tmp_path / "c.json")]
    assert main(["profile", str(net), *options, *traces]) == 0
    shown = capsys.readouterr().out
    assert "model.onnx: 1.000 ms in kernels\nmedian of 11 runs; TensorRT\n" in shown
    assert "memory: TensorRT's files don't say it" in shown
    assert "±" not in shown
    spans = [
        each for each in json.loads((tmp_path / "c.json").read_text())["traceEvents"] if each.get("cat") == "kernel"
    ]
    assert [(each["ts"], each["dur"]) for each in spans] == [
        (0.0, 250.0),
        (250.0, 250.0),
        (500.0, 250.0),
        (750.0, 250.0),
    ]
    assert json.loads((tmp_path / "s.json").read_text())["profiles"][0]["endValue"] == 1000
    assert main(["profile", str(net), *options, "--json"]) == 0
    report = tmp_path / "report.json"
    report.write_text(capsys.readouterr().out)
    page = tmp_path / "page.html"
    assert main(["view", str(net), "--profile", str(report), "-o", str(page)]) == 0
    assert "TensorRT" in page.read_text()
    capsys.readouterr()


def test_two_runtimes_side_by_side(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of one package; options for the one that is run act on it alone."""
    options = engine(tmp_path, DETAILED, [(each["Name"], 0.25) for each in DETAILED])
    more = ["--reference-runtime", "onnxruntime", "--dim", "n=3", "--runs", "1", "--warmup", "0", "--threads", "1"]
    assert main(["profile", str(net), *options, *more]) == 0
    shown = capsys.readouterr().out
    assert f"A: {net}, model.onnx, TensorRT (median of 11 runs), 100.00% has a module\n" in shown
    assert "B: " in shown and "onnxruntime" in shown
    assert main(["profile", str(net), *options, "--reference-layer-info", options[1], "--reference-profile", options[3], "--json"]) == 0  # fmt: skip
    delta = json.loads(capsys.readouterr().out)
    assert (delta["left_runtime"], delta["right_runtime"]) == ("tensorrt", "tensorrt")
    assert {each["ratio"] for each in delta["phases"][0]["modules"]} <= {1.0, None}


HOSTILE = {
    "truncated": ('{"Layers": [', "not JSON, or not all of it"),
    "deep": ("[" * 100_000, "not JSON, or not all of it"),
    "a list": ("[]", 'it has no list "Layers"'),
    "none": ('{"Layers": []}', "no layer is in it"),
    "numbers": ('{"Layers": [1]}', "1 is no layer"),
    "no name": ('{"Layers": [{}]}', "Name"),
    "a name that is none": ('{"Layers": [{"Name": 1}]}', "1 is not a text"),
    "tensors": ('{"Layers": [{"Name": "x", "Inputs": [1]}]}', "not what trtexec writes of layers"),
    "tensors of no list": ('{"Layers": [{"Name": "x", "Inputs": 1}]}', "not what trtexec writes of layers"),
    "metadata": ('{"Layers": [{"Name": "x", "Metadata": ["a"]}]}', "is not a text"),
}
HOSTILE_TIMES = {
    "truncated": ('[{"count": 1}, {"na', "not JSON, or not all of it"),
    "an object": ("{}", "it is no list"),
    "numbers": ("[1]", "no profile of an engine"),
    "no time": ('[{"count": 1}, {"name": "x"}]', "averageMs"),
    "a text": ('[{"count": 1}, {"name": "x", "averageMs": "1"}]', "'1' is not a number"),
    "not a number": ('[{"count": 1}, {"name": "x", "averageMs": NaN}]', "nan is not a number"),
    "infinite": ('[{"count": 1}, {"name": "x", "averageMs": 1e999}]', "inf is not a number"),
    "less than nothing": ('[{"count": 1}, {"name": "x", "averageMs": -1}]', "-1 is not a number"),
    "runs": ('[{"count": [1]}, {"name": "x", "averageMs": 1}]', "[1] is not a number"),
    "no runs": ('[{"count": 0}, {"name": "x", "averageMs": 1}]', "no layer took any time, in 0 runs"),
    "nothing": ("[]", "no layer took any time"),
    "its own layers": ('{"Layers": ["x"]}', "it is no list"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_files_of_layers_that_are_none(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    options = engine(tmp_path, ["x"], [("x", 1)])
    content, told = HOSTILE[kind]
    Path(options[1]).write_text(content)
    line = refused([str(net), *options], capsys)
    assert (told in line and "layers.json" in line and "trtexec" in line) or "profilingVerbosity" in line


@pytest.mark.parametrize("kind", HOSTILE_TIMES)
def test_files_of_times_that_are_none(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    options = engine(tmp_path, ["x"], [("x", 1)])
    content, told = HOSTILE_TIMES[kind]
    Path(options[3]).write_text(content)
    line = refused([str(net), *options], capsys)
    assert told in line and "profile.json" in line and "trtexec" in line


def test_files_that_do_not_belong_together(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How much of them goes together is told, and nothing is made of next to nothing."""
    options = engine(
        tmp_path, [f"/other/Conv_{index}" for index in range(3)], [(f"/other/Conv_{index}", 1) for index in range(3)]
    )
    line = refused([str(net), *options], capsys)
    assert (
        "0 of the 3 layers that ran name nodes of model.onnx, with 0.0% of the time: the engine was built from another file"
        in line
    )
    options = engine(tmp_path, DETAILED, [("gemm_myl0_3", 0.01), ("other", 1)])
    line = refused([str(net), *options], capsys)
    assert "1 of the 2 layers of" in line and "with 1.0% of the time: they are not of one engine" in line


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--layer-info", "a.json"], "TensorRT's times are in two files: --profile too"),
        (["--profile", "a.json"], "TensorRT's times are in two files: --layer-info too"),
        (["--runtime", "tensorrt"], "--layer-info and --profile too, as this writes them: trtexec"),
        (
            ["--layer-info", "no.json", "--profile", "b.json"],
            "--layer-info no.json: no such file; this writes it: trtexec",
        ),
        (["--layer-info", "a", "--profile", "b", "--runtime", "openvino"], "--runtime openvino takes none"),
        (["--layer-info", "a", "--profile", "b", "--runs", "3"], "--runs: it does nothing for --runtime tensorrt"),
        (
            ["--layer-info", "a", "--profile", "b", "--batch-size", "3"],
            "sizes of inputs: it does nothing for --runtime",
        ),
        (["--layer-info", "a", "--profile", "b", "--provider", "cuda"], "--provider: it does nothing for --runtime"),
        (
            ["--runtime", "openvino", "--provider", "cpu"],
            "--provider: it does nothing for --runtime openvino: it is ONNX",
        ),
        (["--runtime", "openvino", "--max-memory", "1G"], "--max-memory: it does nothing for --runtime openvino"),
        (["--reference-runtime", "tensorrt"], "TensorRT's times are in two files"),
    ],
)
def test_options_that_do_not_go_together(
    net: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    assert told in refused([str(net), *options], capsys)


def test_a_package_of_several_files(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An engine is of one of them."""
    for name in ("encoder_model.onnx", "decoder_model.onnx"):
        (tmp_path / name).write_bytes(net.read_bytes())
    options = engine(tmp_path, DETAILED, [("gemm_myl0_3", 1)])
    line = refused([str(tmp_path), *options], capsys)
    assert "can be the engine of one file only; name it with --file: decoder_model.onnx, encoder_model.onnx" in line
    assert main(["profile", str(tmp_path), *options, "--file", "enc*"]) == 0


def test_a_runtime_that_there_is_not(net: Path) -> None:
    with pytest.raises(HtpError, match="the runtime 'tvm' is not one of onnxruntime, openvino, tensorrt"):
        profile(net, runtime="tvm")


# --- OpenVINO --------------------------------------------------------------------------------------------------------


def test_openvino_that_is_not_installed(
    net: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    line = refused([str(net), "--runtime", "openvino"], capsys)
    assert line.endswith("OpenVINO is not installed; install it: pip install 'optimum-htp[openvino]'")


@dataclass
class Shape:
    """A shape, as OpenVINO has it; None is one that is not known."""

    sizes: tuple[int, ...] | None

    @property
    def is_static(self) -> bool:
        return self.sizes is not None

    def to_shape(self) -> tuple[int, ...]:
        assert self.sizes is not None
        return self.sizes


@dataclass
class Port:
    """An output of a node, or the input that is connected to it."""

    node: Op
    index: int = 0
    shape: tuple[int, ...] | None = (1, 3, 8)

    def get_partial_shape(self) -> Shape:
        return Shape(self.shape)

    def get_source_output(self) -> Port:
        return self

    def get_node(self) -> Op:
        return self.node

    def get_index(self) -> int:
        return self.index


@dataclass
class Op:
    """A node of the graph that OpenVINO ran."""

    name: str
    kind: str
    made_of: str = ""
    time: str = "not_executed"
    reads: Sequence[Op] = ()
    shape: tuple[int, ...] | None = (1, 3, 8)
    order: int = field(default=0)

    def get_friendly_name(self) -> str:
        return self.name

    def get_rt_info(self) -> dict[str, str]:
        return {
            "layerType": self.kind,
            "originalLayersNames": self.made_of,
            "execTimeMcs": self.time,
            "execOrder": str(self.order),
            "outputPrecisions": "f32",
        }

    def inputs(self) -> list[Port]:
        return [Port(each) for each in self.reads]

    def outputs(self) -> list[Port]:
        return [Port(self, shape=self.shape)]


@dataclass
class RuntimeModel:
    """The graph that OpenVINO ran."""

    ops: list[Op]

    def get_ordered_ops(self) -> list[Op]:
        return self.ops


def runtime_model(**times: int) -> RuntimeModel:
    """What OpenVINO makes of the net: a norm of two layers, the activation in the product, a weight turned at load."""
    ids = Op("ids", "Input", "ids")
    cast = Op("Convert_9", "Convert", "Convert_9", reads=[ids])
    table = Op("table", "Const", "table")
    gather = Op("/embed.0/Gather", "Gather", "/embed.0/Gather", reads=[table, cast])
    norm = Op("MVN_3", "MVN", "MVN_3", reads=[gather])
    scale = Op("Constant_4", "Const", "Constant_4", shape=(8,))
    scaled = Op("Multiply_5", "Eltwise", "Multiply_5,/norm/LayerNormalization", reads=[norm, scale])
    weight = Op("fc_weight", "Const", "fc_weight", shape=(8, 16))
    turned = Op("/fc/MatMul/transpose_b", "Reorder", reads=[weight], time="700", shape=(16, 8))
    dense = Op("/fc/Add", "FullyConnected", "/fc/Add,/act/Relu", reads=[scaled, turned], shape=(1, 3, 16))
    head_weight = Op("head_weight", "Const", "head_weight", shape=(16, 2))
    head = Op("logits", "FullyConnected", "logits", reads=[dense, head_weight], shape=(1, 3, 2))
    ops = [
        table,
        ids,
        cast,
        gather,
        norm,
        scale,
        scaled,
        weight,
        turned,
        dense,
        head_weight,
        head,
        Op("r", "Output", reads=[head]),
    ]
    for order, op in enumerate(ops):
        op.order = order
        op.time = str(times[op.kind]) if op.kind in times else op.time
    return RuntimeModel(ops[::-1])  # it is sorted by what the nodes say


SHAPES = {
    "embedded": (1, 3, 8), "normed": (1, 3, 8), "product": (1, 3, 16), "summed": (1, 3, 16), "active": (1, 3, 16), "logits": (1, 3, 2)
}  # fmt: skip


def ran(net: Path, after: list[Node], before: list[Node], **options: Any) -> Ran:
    package = HtpPackage(net)
    (file,) = package.files.values()
    counters = Counters(frozenset(["/fc/MatMul/transpose_b"]), before, after, [100.0])
    as_read = AsRead(frozenset(["MVN_3", "Multiply_5"]), SHAPES)
    return ran_layers(
        tagged_file(file, package=package), "forward", {"ids": np.zeros((1, 3))}, counters, as_read, **options
    )


def test_layers_of_openvino(net: Path) -> None:
    """What was fused is of all, what OpenVINO made up is of what it feeds, and what ran at load counts nowhere."""
    before = nodes_of(runtime_model(Gather=9, FullyConnected=30))
    after = nodes_of(runtime_model(Gather=6, FullyConnected=20, MVN=2))
    found = ran(net, after, before, runs=10, warmup=2)
    times = {event.name: event.time_us for event in found.first.events}
    assert times == {
        "Convert_9": 0, "/embed.0/Gather": 5.4, "MVN_3": 2.4, "Multiply_5": 0, "/fc/Add": 18.0, "logits": 18.0
    }  # fmt: skip
    tags = {event.name: found.tags[key] for event, key in found.nodes.join(found.first.events) if key in found.tags}
    assert tags["/embed.0/Gather"].tag == tags["Convert_9"].tag == EMBED
    assert tags["MVN_3"].tag == tags["Multiply_5"].tag == NORM
    assert (tags["/fc/Add"].tag, tags["/fc/Add"].origins) == ("/Net", (FC, ACT))
    assert tags["logits"].tag == HEAD
    assert found.not_known == {"memory": "OpenVINO says nothing of it"}


def test_work_of_openvinos_layers(net: Path) -> None:
    """The product that no layer names is done by the one that reads its weight; sizes are those of the run."""
    after = nodes_of(runtime_model(FullyConnected=20))
    found = ran(net, after, [], runs=1, warmup=0)
    works = dict(zip((event.name for event in found.first.events), found.works, strict=True))
    dense, gather = works["/fc/Add"], works["/embed.0/Gather"]
    assert (dense.flops, works["logits"].flops) == (2 * 3 * 8 * 16, 2 * 3 * 16 * 2)
    assert (dense.parameter_bytes, dense.read_bytes, dense.written_bytes) == (16 * 8 * 4, 3 * 8 * 4, 3 * 16 * 4)
    assert gather.parameter_bytes == gather.written_bytes == 3 * 8 * 4  # the rows that it took
    assert works["MVN_3"].uncounted == {"MVN": 1}


def test_shapes_that_openvino_does_not_say(net: Path) -> None:
    """Then nobody knows the operations, nor the sizes, and it is said."""
    model = runtime_model(FullyConnected=20)
    for op in model.ops:
        op.shape = None if op.name == "/fc/Add" else op.shape
    package = HtpPackage(net)
    (file,) = package.files.values()
    counters = Counters(frozenset(["/fc/MatMul/transpose_b"]), [], nodes_of(model), [1.0])
    found = ran_layers(tagged_file(file, package=package), "forward", {}, counters, AsRead(), runs=1, warmup=0)
    assert set(found.not_known) == {"memory", "activations", "flops"}
    assert "those of FullyConnected (1)" in found.not_known["flops"]


def test_what_depends_on_no_input_is_nobodys_work(tmp_path: Path) -> None:
    """A product of weights was computed when the file was loaded, whichever layer reads the result."""
    from onnx import parser, save

    proto = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        main (float[2,2] x) => (float[2,2] y) <float[2,2] a = {1, 0, 0, 1}> { b = MatMul (a, a)  y = Add (x, b) }
    """)
    save(proto, tmp_path / "model.onnx")
    names = SourceNames(read_model(tmp_path / "model.onnx"))
    assert names.constant == {("", 0)}


def test_names_with_commas(net: Path) -> None:
    names = SourceNames(read_model(net))
    names._by_name["a,b"] = [("", 0)]
    split = openvino_layers._split("/fc/Add,a,b,MVN_3,/act/Relu", names, AsRead(frozenset(["MVN_3"])))
    assert list(split) == ["/fc/Add", "a,b", "/act/Relu"]


def test_a_part_of_a_node_is_of_the_node(net: Path) -> None:
    names = SourceNames(read_model(net))
    assert openvino_layers._nodes("/fc/MatMul/WithoutBiases", names) == (("", 2),)


def test_a_part_that_prepares_makes_no_result(net: Path) -> None:
    """What turns an input for a product is of the product's module; the work and the result are the product's."""
    model = runtime_model(FullyConnected=20)
    ops = {op.name: op for op in model.ops}
    head, dense = ops["logits"], ops["/fc/Add"]
    head.made_of, dense.made_of = "logits", "/fc/MatMul,/act/Relu"
    turn = Op(
        "/fc/MatMul/transpose_a",
        "Transpose",
        "/fc/MatMul/transpose_a",
        reads=[ops["Multiply_5"]],
        order=dense.order - 1,
    )
    dense.reads = [turn, *dense.reads[1:]]
    model.ops.append(turn)
    found = ran(net, nodes_of(model), [], runs=1, warmup=0)
    events = {event.name: (event, key, work) for (event, key), work in zip(
        found.nodes.join(found.first.events), found.works, strict=True)}  # fmt: skip
    _, key, work = events["/fc/MatMul/transpose_a"]
    assert (found.tags[key].tag, found.nodes.nodes[key].outputs, work.flops) == (FC, (), None)
    assert events["/fc/Add"][2].flops == 2 * 3 * 8 * 16


def test_openvino_itself(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of its time has a module, beside ONNX Runtime's; operations are the same."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'optimum-htp[openvino]'")
    report = profile(net, runtime="openvino", dims={"n": 3}, runs=2, warmup=1, threads=1)
    (phase,) = report.phases
    assert (report.runtime, report.average, len(phase.run_time), len(phase.kernel_time)) == ("openvino", "mean", 2, 1)
    assert phase.attributed == 1.0
    assert phase.work.flops == 2 * 3 * 8 * 16 + 2 * 3 * 16 * 2
    assert {HEAD, NORM, EMBED} <= {module.tag for module in phase.modules}
    assert {tag for each in phase.fused for tag in each.origins} >= {FC, ACT}
    other = profile(net, dims={"n": 3}, runs=1, warmup=0, threads=1)
    assert report.compared_with(other)["head"].right is not None
    (tmp_path / "broken").mkdir()
    unsupported = net.read_bytes().replace(b"Relu", b"Rulu")
    (tmp_path / "broken" / "model.onnx").write_bytes(unsupported)
    assert "OpenVINO can't" in refused([str(tmp_path / "broken"), "--runtime", "openvino", "--dim", "n=3"], capsys)
