"""The formats of selections, read as the tools read them: what each makes of the names, which are the traps."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from small_graphs import save

from optimum_htp import PackageError, Selection, load_package, select
from optimum_htp.cli.main import main
from optimum_htp.selections.formats.table import FORMATS

GRAPH = """
g (float[N, 4] x, bool p) => (float[N, 4] y, float[N, 1] best) {
    [one] k = Constant<value_ints = [1]>()                      # a
    [shape] s = Shape(x)                                        # a
    [same] c = Cast<to = 1>(x)                                  # a
    ["with:colon"] r = Reshape(c, s)                            # a
    ["with,comma"] n = Neg(r)                                   # a
    [top] best, which = TopK(n, k)                              # a
    [if] b = If(p) <
        then_branch = t () => (float[N, 4] d) {
            [inner] d = Abs(n)                                  # a
        },
        else_branch = e () => (float[N, 4] f) {
            [inner] f = Neg(n)                                  # a
        }>                                                      # a
    [end] y = Exp(b)                                            # a
    [end_1] z = Exp(b)                                          # b
}
"""


@pytest.fixture
def odd(tmp_path: Path) -> Selection:
    return select(save(tmp_path / "model.onnx", GRAPH), "a")


def lines(selection: Selection, form: str, device: str = "cpu") -> list[str]:
    return FORMATS[form].lines(selection.files[0], device=device)


def notes(selection: Selection, form: str, device: str = "cpu") -> str:
    return "\n".join(FORMATS[form].notes(selection.files[0], device=device))


def test_trtexec_splits_at_commas_and_at_the_last_colon(odd: Selection) -> None:
    """Only layers that give floating-point numbers, and their output types only where no output is of another kind."""
    arguments = dict(shlex.split(line)[0].split("=", 1) for line in lines(odd, "trtexec"))
    precisions, outputs = (
        dict(each.rsplit(":", 1) for each in arguments[name].split(","))
        for name in ("--layerPrecisions", "--layerOutputTypes")
    )
    assert arguments["--precisionConstraints"] == "obey"
    assert precisions == dict.fromkeys(["same", "with:colon", "top", "if", "end"], "fp32")
    assert outputs == dict.fromkeys(["same", "with:colon", "if", "end"], "fp32")  # TopK gives indices too
    assert odd.names_for("trtexec") == [f"{name}:fp32" for name in precisions]
    told = notes(odd, "trtexec")
    assert "left out 1 node with one of ,' in the name" in told
    assert "left out 4 nodes that are constants, give whole numbers, or are in branches" in told


def test_polygraphy_splits_at_the_last_colon(odd: Selection) -> None:
    words = [word for line in lines(odd, "polygraphy") for word in shlex.split(line)]
    assert words[:3] == ["--precision-constraints", "obey", "--layer-precisions"]
    assert dict(word.rsplit(":", 1) for word in words[3:]) == dict.fromkeys(
        ["same", "with:colon", "with,comma", "top", "if", "end"], "float32"
    )


def test_tensorrt_has_no_layer_for_a_constant(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", "g (float[N] x) => (int64[1] s) { [shape] s = Shape(x) # a\n}")
    with pytest.raises(PackageError, match="none of the nodes is a layer of TensorRT whose type can be set"):
        lines(select(path, "a"), "trtexec")


def test_nncf_refuses_names_that_its_graph_lacks(odd: Selection) -> None:
    """Those in branches, and of Casts: it takes those out that change nothing."""
    assert odd.names_for("nncf") == ["one", "shape", "with:colon", "with,comma", "top", "if", "end"]
    assert "left out 2 nodes in branches" in notes(odd, "nncf")


def test_quark_and_aimet_take_names_of_the_main_graph(tmp_path: Path) -> None:
    """Quark's dynamic quantization gives a Gemm another name first."""
    path = save(tmp_path / "model.onnx", "g (float[1, 1] x) => (float[1, 1] y) { [fc] y = Gemm(x, x) # a\n}")
    assert select(path, "a").names_for("quark") == ["fc", "fc_MatMul"]
    assert select(path, "a").names_for("aimet") == ["fc"]


@pytest.mark.parametrize(
    ("paths", "built"),
    [
        (["model.layers.3.self_attn.q_proj"], "/model/layers.3/attn/q_proj/MatMul,/model/layers.3/attn/qkv_proj/MatMul"),
        (["model.layers.3.self_attn.o_proj"], "/model/layers.3/attn/o_proj/MatMul"),
        (["model.layers.3.self_attn.dense"], "/model/layers.3/attn/o_proj/MatMul"),
        (["model.layers.12.self_attn.qkv_proj"], "/model/layers.12/attn/qkv_proj/MatMul"),
        (["model.layers.0.mlp.down_proj"], "/model/layers.0/mlp/down_proj/MatMul"),
        (["model.layers.0.mlp.fc1", "lm_head"], "/model/layers.0/mlp/fc1/MatMul,/lm_head/MatMul"),
        (["model.norm"], None),
        (["vision.tower.proj"], None),
    ],
)  # fmt: skip
def test_genai_knows_the_nodes_of_its_own_graph(paths: list[str], built: str | None, tmp_path: Path) -> None:
    """Read off the graphs that its builder made: with three products for query, key and value, and with one."""
    nodes = "\n".join(f"y{at} = MatMul(x, x) # {path}" for at, path in enumerate(paths))
    results = ", ".join(f"float[1, 1] y{at}" for at in range(len(paths)))
    selection = select(save(tmp_path / "model.onnx", f"g (float[1, 1] x) => ({results}) {{\n{nodes}\n}}"), "*")
    if built is None:
        with pytest.raises(PackageError, match="none of the nodes is a Linear that onnxruntime-genai's builder"):
            lines(selection, "genai-int4")
    else:
        assert lines(selection, "genai-int4") == [built]
        packed = "qkv_proj" in built and "k_proj/" not in built.replace("qkv_proj", "")
        assert ("all three are left out" in notes(selection, "genai-int4")) == packed


def assigned(setting: str, name: str) -> bool:
    """Whether a rule of the option matches a name; ONNX Runtime looks for the rules in names, the longest first."""
    match = re.fullmatch(r"session\.name_based_layer_assignment=[^()]+\(([^()]*)\)", setting)
    assert match is not None
    return any(rule.strip() in name for rule in match[1].split(","))


@pytest.mark.parametrize("patterns", [["*.layer.1"], ["LayerNorm"], ["*.attention.self", "!*.layer.0.*"], ["*"]])
def test_names_that_onnxruntime_assigns_by(patterns: list[str], exported: Callable[[str], Path]) -> None:
    """Just those of the selected nodes, and of others those that are told of; Constants are on no device."""
    selection = select(exported("bert"), patterns)
    (setting,) = lines(selection, "layer-name")
    nodes = [(key, node) for key, node in load_package(exported("bert")).files["model.onnx"].model.nodes()]
    wanted = {(node.graph, node.position) for node in selection.files[0].nodes}
    hit = {key for key, node in nodes if node.operator != "Constant" and assigned(setting, node.name)}
    assert hit == {key for key, node in nodes if key in wanted and node.operator != "Constant"}
    assert notes(selection, "layer-name") == ""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*setting.split("=", 1))
    onnxruntime.InferenceSession(exported("bert") / "model.onnx", options, providers=["CPUExecutionProvider"])


def test_a_name_within_another_goes_along(odd: Selection) -> None:
    assert lines(odd, "layer-name") == [
        "session.name_based_layer_assignment=cpu(shape, same, with:colon, top, if, end, inner)"
    ]
    told = notes(odd, "layer-name")
    assert "left out 1 node whose names can't be rules" in told  # the comma
    assert "1 node that were not selected go along, such as 'end_1'" in told.replace("nodes that", "node that")


def test_onnxruntime_has_no_exact_rules_and_one_way_at_a_time(exported: Callable[[str], Path]) -> None:
    """Why the names can't be told apart, and why both options are not given."""
    for entries in (
        {"session.name_based_layer_assignment": "cpu(=a)"},
        {"session.name_based_layer_assignment": "cpu(a)", "session.layer_assignment_settings": "cpu(a)"},
        {"session.name_based_layer_assignment": "cpu(a, a)"},
    ):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        for entry in entries.items():
            options.add_session_config_entry(*entry)
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            onnxruntime.InferenceSession(exported("bert") / "model.onnx", options, providers=["CPUExecutionProvider"])


def test_the_list_of_formats(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with what it was checked against; of what is installed here, with the version that is held for it."""
    for verb in ("select", "ranges"):
        with pytest.raises(SystemExit) as end:
            raise SystemExit(main([verb, "--format", "list"]))
        assert not end.value.code
        rows = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()]
        assert [row[0] for row in rows[1:]] == ["names", "json", *list(FORMATS)[1:]]
    held = (Path(__file__).parents[1] / "constraints.txt").read_text(encoding="utf-8")
    for form in FORMATS.values():
        name, _, version = form.checked.partition(" ")
        if name in ("onnxruntime", "onnxconverter-common"):
            assert re.search(rf"^{name}=={re.escape(version)}\b", held, re.MULTILINE), form
        assert form.use and (form.checked or form is FORMATS["names"])


def test_lists_are_json(odd: Selection) -> None:
    for form in ("nncf", "quark", "aimet", "modelopt"):
        assert json.loads("\n".join(lines(odd, form))) == odd.names_for(form)


# --- The tools themselves, where they are installed ---------------------------------------------------------------

DENSE = """
g (float[2, 16] x) => (float[2, 16] y) {
    [first] a = MatMul(x, w0)           # net.a
    [act] b = Relu(a)                   # net.b
    [same] c = Cast<to = 1>(b)          # net.c
    [second] d = Gemm(c, w1)            # net.c
    [act2] e = Relu(d)                  # net.b
    [third] y = MatMul(e, w2)           # net.d
}
"""


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    matrices = {f"w{at}": random.standard_normal((16, 16)).astype(np.float32) for at in range(3)}
    weights = {name: onnx.numpy_helper.from_array(matrix, name) for name, matrix in matrices.items()}
    return save(tmp_path / "model.onnx", DENSE, weights=weights)


def in_steps(model: onnx.ModelProto) -> dict[str, bool]:
    """Whether the weight of each product is quantized."""
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    products = (node for node in model.graph.node if node.op_type in ("MatMul", "Gemm"))
    return {node.name: "Dequantize" in made.get(node.input[1], "") for node in products}


ONLY_C = {"first": True, "second": False, "third": True}


def test_polygraphy_itself(odd: Selection) -> None:
    arguments = pytest.importorskip("polygraphy.tools.args.util")
    words = [word for line in lines(odd, "polygraphy") for word in shlex.split(line)][3:]
    parsed = arguments.parse_arglist_to_dict(words, allow_empty_key=False)
    assert parsed == dict.fromkeys(["same", "with:colon", "with,comma", "top", "if", "end"], "float32")


def test_nncf_itself(dense: Path) -> None:
    nncf = pytest.importorskip("nncf")
    scope = nncf.IgnoredScope(names=select(dense, "net.c").names_for("nncf"))
    data = nncf.Dataset([{"x": np.ones((2, 16), np.float32)}])
    assert in_steps(nncf.quantize(onnx.load(dense), data, ignored_scope=scope)) == ONLY_C
    with pytest.raises(nncf.ValidationError, match="same"):  # the Cast
        nncf.quantize(onnx.load(dense), data, ignored_scope=nncf.IgnoredScope(names=["same"]))


def test_quark_itself(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quark = pytest.importorskip("quark.onnx")
    monkeypatch.chdir(tmp_path)  # where it writes what it did
    from quark.onnx.quantization.config.config import QConfig  # type: ignore[import-not-found]
    from quark.onnx.quantization.config.spec import (  # type: ignore[import-not-found]
        Int8Spec,
        QLayerConfig,
        UInt8Spec,
    )

    class Reader:
        samples = iter([{"x": np.ones((2, 16), np.float32)}] * 2)

        def get_next(self) -> Any:
            return next(self.samples, None)

    every = QLayerConfig(activation=UInt8Spec(), weight=Int8Spec())
    config = QConfig(global_config=every, exclude=select(dense, "net.c").names_for("quark"))
    quark.ModelQuantizer(config).quantize_model(str(dense), str(tmp_path / "out.onnx"), Reader())
    assert in_steps(onnx.load(tmp_path / "out.onnx")) == ONLY_C


def test_aimet_itself(dense: Path) -> None:
    quantsim = pytest.importorskip("aimet_onnx.quantsim")
    sim = quantsim.QuantizationSimModel(onnx.load(dense))
    quantsim.set_blockwise_quantization_for_weights(
        sim, ["MatMul", "Gemm"], 4, True, 4, nodes_to_exclude=select(dense, "net.c").names_for("aimet")
    )
    assert [sim.qc_quantize_op_dict[name].bitwidth for name in ("w0", "w1", "w2")] == [4, 8, 4]


def test_genai_itself(exported: Callable[[str], Path], zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """What it packs is left out with the query alone."""
    builder = pytest.importorskip("onnxruntime_genai.models.builder")
    patterns = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "lm_head"]
    names = select(exported("llama"), patterns).names_for("genai-int4")
    options = {"int4_nodes_to_exclude": names, "nodes_to_exclude": names, "int4_block_size": 16}
    builder.create_model(
        "x", str(zoo_model("llama")), str(tmp_path), "int4", "cpu", str(tmp_path / "cache"), **options
    )
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    left = {node.name for node in graph.node if node.op_type == "MatMul"}
    assert left == {"/model/layers.0/attn/qkv_proj/MatMul", "/model/layers.1/mlp/down_proj/MatMul", "/lm_head/MatMul"}
