"""Which module a message is about: messages as runtimes write them, rewritten after what people report."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from layered_toy import layered_package

from optimum_htp import HtpError, PackageError, explain
from optimum_htp.cli.main import main
from optimum_htp.verbs.explain.known_errors import known_errors
from optimum_htp.verbs.explain.mentions import mentions

Exported = Callable[..., Path]

_L0, _L1 = "/bert/encoder/layer.0", "/bert/encoder/layer.1"
_FAILED = "[ONNXRuntimeError] : {} : Non-zero status code returned while running {} node. Name:'{}' Status Message: {}"

# Of a BERT: the message, the module, whether there is advice, and how the name was found.
BERT = [
    (_FAILED.format("1 : FAIL", "Reshape", f"{_L0}/attention/self/Reshape_3",
        "The input tensor cannot be reshaped to the requested shape. Input shape:{2,2,9,8}, requested shape:{1,9,16}"),
     "bert.encoder.layer.0.attention.self", True, "name"),
    (_FAILED.format("2 : INVALID_ARGUMENT", "Gather", "/bert/embeddings/word_embeddings/Gather",
        "indices element out of data bounds, idx=30999 must be within the inclusive range [-96,95]"),
     "bert.embeddings.word_embeddings", True, "name"),
    (_FAILED.format("2 : INVALID_ARGUMENT", "Gather", "/bert/embeddings/position_embeddings/Gather",
        "indices element out of data bounds, idx=512 must be within the inclusive range [-512,511]"),
     "bert.embeddings.position_embeddings", True, "name"),
    (_FAILED.format("6 : RUNTIME_EXCEPTION", "Add", f"{_L1}/attention/self/Add",
        "broadcast.h:149 Attempting to broadcast an axis by a dimension other than 1. 7 by 9"),
     "bert.encoder.layer.1.attention.self", True, "name"),
    (_FAILED.format("6 : RUNTIME_EXCEPTION", "MatMul", f"{_L0}/intermediate/dense/MatMul",
        "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 50331648000"),
     "bert.encoder.layer.0.intermediate.dense", True, "name"),
    (f"[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Erf(13) node with name "
     f"'{_L1}/intermediate/intermediate_act_fn/Erf'", "bert.encoder.layer.1.intermediate.intermediate_act_fn", True, "name"),
    (f"Fatal error: Type Error: Type parameter (T) of Optype (Add) bound to different types (tensor(float16) and "
     f"tensor(float) in node ({_L0}/attention/self/query/Add).", "bert.encoder.layer.0.attention.self.query", True, "name"),
    (f"Load model failed: Node ({_L1}/attention/self/MatMul) Op (MatMul) [ShapeInferenceError] Incompatible dimensions",
     "bert.encoder.layer.1.attention.self", True, "name"),
    (f"Invalid model. Node input '{_L1}/output/dense/Add_output_0' is not a graph input, initializer, or output of a "
     "previous node.", "bert.encoder.layer.1.output.dense", True, "name"),
    ("onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument: Got invalid dimensions for input: attention_mask for the "
     "following indices\n index: 1 Got: 9 Expected: 7\n Please fix either the inputs/outputs or the model.",
     "bert", True, "name"),
    ("Deserialize tensor bert.encoder.layer.0.output.dense.bias failed. External data path does not exist: weights.data",
     "bert.encoder.layer.0.output.dense", True, "name"),
    ("[TRT] [E] 10: Could not find any implementation for node {ForeignNode[bert.encoder.layer.1.attention.self.value.bias..."
     f"{_L1}/attention/output/dense/Add]}}", "bert.encoder.layer.1.attention.self.value", True, "name"),
    (f"[TRT] 4: [shapeMachine.cpp] IShuffleLayer {_L0}/attention/self/Reshape: reshaping failed for tensor: "
     f"{_L0}/attention/self/query/Add_output_0", "bert.encoder.layer.0.attention.self", True, "name"),
    (f"[ONNX Layer: {_L0}/intermediate/dense/MatMul]\x1f[ONNX Layer: {_L0}/intermediate/dense/Add]",
     "bert.encoder.layer.0.intermediate.dense", False, "name"),
    (f"PWN(PWN(PWN({_L1}/intermediate/intermediate_act_fn/Div), {_L1}/intermediate/intermediate_act_fn/Erf))",
     "bert.encoder.layer.1.intermediate.intermediate_act_fn", False, "name"),
    (f"Reformatting CopyNode for Input Tensor 0 to {_L1}/attention/self/MatMul_1", "bert.encoder.layer.1.attention.self",
     False, "name"),
    (f"Check 'is_transposed' failed at src/frontends/onnx. While validating ONNX node '<Node(Transpose): "
     f"{_L0}/attention/self/Transpose_output_0>'", "bert.encoder.layer.0.attention.self", True, "name"),
    (f"FullyConnected_2137 originalLayersNames={_L0}/output/dense/MatMul,{_L0}/output/dense/Add execTimeMcs=212",
     "bert.encoder.layer.0.output.dense", False, "name"),
    (f"{_L1}/attention/self/key/MatMul_kernel_time", "bert.encoder.layer.1.attention.self.key", False, "part"),
    (f"{_L0}/attention/self/Softmax_fence_before", "bert.encoder.layer.0.attention.self", False, "part"),
    (f"tensor {_L0}/output/dense/Add_output_0_QuantizeLinear has a scale of 0", "bert.encoder.layer.0.output.dense", False,
     "part"),
    (f"{_L0}/attention/self/value/MatMul_quant: U8S8 saturates", "bert.encoder.layer.0.attention.self.value", False, "part"),
    (f"WARNING: NaN in output '{_L1}/output/LayerNorm/LayerNormalization_output_0' of the float16 model",
     "bert.encoder.layer.1.output.LayerNorm", True, "name"),
    ("bert.encoder.layer.1.output.dense.weight is not initialized", "bert.encoder.layer.1.output.dense", False, "part"),
    ("bert.encoder.layer.0.attention.self", "bert.encoder.layer.0.attention.self", False, "name"),
    ("BiasGelu_token_", None, False, "projection"),
    (f"core ml: cannot convert {_L1}/attention/self/Softmax, it stays on the CPU",
     "bert.encoder.layer.1.attention.self", False, "name"),
]  # fmt: skip

_T5 = "/decoder/block.1"

# Of a merged decoder: the same name is in both branches.
T5 = [
    (_FAILED.format("1 : FAIL", "Concat", f"{_T5}/layer.0/SelfAttention/Concat_4",
        "concat.cc:159 PrepareForCompute Non concat axis dimensions must match: Axis 0 has mismatched dimensions of 2 and 1"),
     "decoder.block.1.layer.0.SelfAttention", True),
    (_FAILED.format("6 : RUNTIME_EXCEPTION", "If", "optimum::if", "subgraph failed: see the message before"), "", False),
    (f"Exception during run: MatMul dimension mismatch in {_T5}/layer.1/EncDecAttention/q/MatMul",
     "decoder.block.1.layer.1.EncDecAttention.q", True),
]  # fmt: skip

WITHOUT_NAMES = {
    "Unsupported model IR version: 14, max supported IR version: 13": "newer than the runtime",
    "ValueError: Required inputs (['token_type_ids']) are missing from input feed (['input_ids'])": "inputs are not those",
    "Fatal error: ai.onnx.contrib:BertTokenizer(-1) is not a registered function/op": "does not know",
}


@pytest.mark.parametrize(("text", "path", "advice", "evidence"), BERT)
def test_the_module_of_a_message(text: str, path: str | None, advice: bool, evidence: str, exported: Exported) -> None:
    if path is None:  # ONNX Runtime numbers what it makes
        text, path = _made_by_the_optimizer(exported("bert"), text)
    report = explain(exported("bert"), text)
    assert (report.names[0].path, report.names[0].evidence) == (path, evidence)
    assert bool(report.advice) == advice
    if report.names[0].node is not None:
        assert report.names[0].operator


def _made_by_the_optimizer(package: Path, beginning: str) -> tuple[str, str]:
    from optimum_htp import load_package
    from optimum_htp.models import optimized_graph

    made = optimized_graph(load_package(package).files["model.onnx"].model)
    name, output = next(
        (node.name, node.outputs[0])
        for _, node in made.nodes()
        if node.name.startswith(beginning) and "layer.1" in node.outputs[0]
    )
    assert output.startswith("/bert/encoder/layer.1/intermediate/")
    return name, "bert.encoder.layer.1.intermediate"


@pytest.mark.parametrize(("text", "path", "advice"), T5)
def test_both_branches_are_named(text: str, path: str, advice: bool, exported: Exported) -> None:
    report = explain(exported("t5"), text, file="*merged*")
    assert {found.path for found in report.names} == {path} and bool(report.advice) == advice
    if "If" not in text:
        assert {found.graph for found in report.names} <= {"0.then_branch", "0.else_branch"}


@pytest.mark.parametrize("text", WITHOUT_NAMES)
def test_advice_without_a_name(text: str, tmp_path: Path) -> None:
    report = explain(layered_package(tmp_path), text)
    assert not report.names and WITHOUT_NAMES[text] in report.advice[0].problem


def test_what_a_node_does_is_told(exported: Exported) -> None:
    (found,) = explain(exported("bert"), f"{_L0}/intermediate/dense/Add").names
    assert (found.operator, found.class_name, found.kind) == ("Add", "Linear", "node")
    assert found.parameters == ("bert.encoder.layer.0.intermediate.dense.bias",)
    assert (found.outputs[0].shape or ())[:2] == ("batch_size", "sequence_length")


def test_names_that_are_parts_of_others() -> None:
    names = {"x", "/a", "/a/MatMul", "/a/MatMul_1", "onnx::MatMul_30", "onnx::MatMul_302"}
    cases = {
        "at /a/MatMul_1!": ["/a/MatMul_1"], "onnx::MatMul_302": ["onnx::MatMul_302"], "x": ["x"], "box x": [],
        "the input 'x'": ["x"], "/a/MatMul, /a/MatMul_1": ["/a/MatMul", "/a/MatMul_1"], "b/a/MatMul": [],
        "/a/MatMul_quant": ["/a/MatMul"], "/a/MatMul_1_quant": ["/a/MatMul_1"], "onnx::MatMul_3021": [],
    }  # fmt: skip
    assert {text: [each.name for each in mentions(text, names)] for text in cases} == cases
    assert known_errors("all is well") == ()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    package = str(layered_package(tmp_path / "toy"))
    monkeypatch.setattr(
        sys, "stdin", SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(b"at /layers.1/act/Relu\n"))
    )
    assert main(["explain", package]) == 0
    assert capsys.readouterr().out.startswith("layers.1.act (ReLU)")
    assert main(["explain", package, "/layers.1/act/Relu", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["names"]
    assert (found["path"], found["outputs"][0]["shape"]) == ("layers.1.act", ["batch", 4])
    for text, said in (("nothing that is in it", "nothing in this text is the name"), (" ", "nothing to explain")):
        assert main(["explain", package, text]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(HtpError, match="characters"):
        explain(package, "a" * 1_000_001)
    with pytest.raises(PackageError):
        explain(package, "\x1b[2J")
