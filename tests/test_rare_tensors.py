"""Initializers of rare kinds through every verb that reads weights: sparse ones, and bfloat16."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimum_htp import compare, extract, parameters, project, strip
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.node_metadata import SOURCE, TAG, read_tags

WEIGHT = np.array([[0, 2, 0, 0], [0, 0, 0, -1], [3, 0, 0, 0], [0, 0, 0.5, 0]], np.float32)
X = np.arange(8, dtype=np.float32).reshape(2, 4)


def save(path: Path, nodes: list[tuple[onnx.NodeProto, str]], **weights: Any) -> Path:
    """A model whose nodes are tagged as the modules that they come with."""
    for node, module in nodes:
        path_of = "".join(f"/{name.upper()}.{name}" for name in module.split("."))
        node.metadata_props.add(key=TAG, value=f"/Net{path_of}")
        node.metadata_props.add(key=SOURCE, value="scope")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    graph = helper.make_graph([node for node, _ in nodes], "main", [x], [y], **weights)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path)
    return path


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A product with a sparse weight, and an activation."""
    flat = WEIGHT.reshape(-1)
    indices = np.flatnonzero(flat)
    tensor = helper.make_sparse_tensor(
        helper.make_tensor("w", TensorProto.FLOAT, [len(indices)], flat[indices]),
        helper.make_tensor("", TensorProto.INT64, [len(indices)], indices),
        [4, 4],
    )
    nodes = [
        (helper.make_node("MatMul", ["x", "w"], ["p"], "mm"), "a.dense"),
        (helper.make_node("Relu", ["p"], ["y"], "relu"), "a.act"),
    ]
    return save(tmp_path / "sparse" / "model.onnx", nodes, sparse_initializer=[tensor])


@pytest.fixture
def bfloat16(exported: Callable[[str], Path], tmp_path: Path) -> Path:
    """BERT as a tool leaves it that stores weights in half the space: in bfloat16, each with a Cast in front of it."""
    package = Path(shutil.copytree(exported("bert"), tmp_path / "bfloat16"))
    strip(package)
    model = onnx.load(package / "model.onnx")
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.BFLOAT16, values.shape, values.reshape(-1)))
            casts.append(helper.make_node("Cast", [tensor.name], [f"{tensor.name}_float"], to=TensorProto.FLOAT))
    renamed = {cast.input[0]: cast.output[0] for cast in casts}
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, package / "model.onnx")
    return package


def run(path: Path, x: Any) -> Any:
    (y,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    return y


def test_sparse_weight_is_cut_out(sparse: Path, tmp_path: Path) -> None:
    """The part has it as it was, sparse, and gives what the module gives."""
    report = extract(sparse, "a.dense", output=tmp_path / "part.onnx")
    assert (report.nodes, report.initializers) == (1, 1)
    part = onnx.load(tmp_path / "part.onnx")
    onnx.checker.check_model(part)
    assert [tensor.values.name for tensor in part.graph.sparse_initializer] == ["w"]
    np.testing.assert_array_equal(run(tmp_path / "part.onnx", X), X @ WEIGHT)


def test_sparse_weight_is_compared(sparse: Path, tmp_path: Path) -> None:
    """A weight that a tool changed is seen in its module, and in what reads that; alone the activation is right."""
    model = onnx.load(sparse)
    model.graph.sparse_initializer[0].values.float_data[0] = 2.5
    (tmp_path / "changed").mkdir()
    onnx.save(model, tmp_path / "changed" / "model.onnx")
    same, changed = (compare(path, reference=sparse) for path in (sparse, tmp_path / "changed" / "model.onnx"))
    errors = {call.path: call.errors for call in same.parts[0].calls}
    assert errors.keys() == {"a.dense", "a.act", "a", ""}
    assert all(error is not None and error.max_abs == 0 for error in errors.values())
    over = {call.path: call.over for call in changed.parts[0].calls}
    assert over["a.dense"]


def test_sparse_weight_is_carried_along(sparse: Path, tmp_path: Path) -> None:
    """Tags come and go without a change to it; a projection knows its reader by it."""
    before = sparse.read_bytes()
    tags = read_tags(read_model(sparse))
    untagged = tmp_path / "untagged.onnx"
    shutil.copy(sparse, untagged)
    strip(untagged)
    stripped = untagged.read_bytes()
    report = project(untagged, reference=sparse)
    assert report.unresolved == 0
    assert {key: tag.tag for key, tag in read_tags(read_model(untagged)).items()} == {
        key: tag.tag for key, tag in tags.items()
    }
    strip(untagged)
    assert untagged.read_bytes() == stripped
    assert sparse.read_bytes() == before


def test_bfloat16_is_projected_and_stripped(bfloat16: Path, exported: Callable[[str], Path]) -> None:
    """Each Cast belongs to the module that reads the weight; stripping gives the tool's own bytes back."""
    path = bfloat16 / "model.onnx"
    before = path.read_bytes()
    assert project(bfloat16, reference=exported("bert")).unresolved == 0
    model = read_model(path)
    tags = read_tags(model)
    readers = {name: tags["", i].tag for i, node in enumerate(model.graph.nodes) for name in node.inputs}
    casts = [i for i, node in enumerate(model.graph.nodes) if node.outputs[0].endswith("_float")]
    assert len(casts) > 10
    for i in casts:
        assert (tags["", i].tag, tags["", i].source) == (readers[model.graph.nodes[i].outputs[0]], "inserted")
    strip(bfloat16)
    assert path.read_bytes() == before


def test_bfloat16_is_compared_and_cut(bfloat16: Path, exported: Callable[[str], Path], tmp_path: Path) -> None:
    """Every module is as near as bfloat16 allows, and one cut out runs as it did inside."""
    project(bfloat16, reference=exported("bert"))
    report = compare(bfloat16, reference=exported("bert"))
    errors = [call.errors.relative for part in report.parts for call in part.calls if call.errors is not None]
    assert len(errors) > 30
    assert 1e-4 < max(errors) < 0.02
    assert not any(call.over for part in report.parts for call in part.calls)
    extract(bfloat16, "classifier", output=tmp_path / "part.onnx")
    part = onnx.load(tmp_path / "part.onnx")
    assert {tensor.data_type for tensor in part.graph.initializer if len(tensor.dims) > 1} == {TensorProto.BFLOAT16}
    onnxruntime.InferenceSession(tmp_path / "part.onnx", providers=["CPUExecutionProvider"])


def test_bfloat16_weights_have_their_parameters(
    bfloat16: Path, exported: Callable[[str], Path], zoo_model: Callable[[str], Path]
) -> None:
    """They are rounded, and still the only ones that near."""
    project(bfloat16, reference=exported("bert"))
    rows = parameters(bfloat16, model=zoo_model("bert"), save=False).rows
    before = parameters(exported("bert"), model=zoo_model("bert"), save=False).rows
    assert {(row.name, row.kind, row.parameters) for row in rows} == {
        (row.name, row.kind, row.parameters) for row in before
    }
