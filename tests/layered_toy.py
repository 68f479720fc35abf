"""A package that runs, made in milliseconds: `Net` with a list of blocks, each a linear layer and its activation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.node_metadata import HtpOptions
from optimum_htp.package.sidecar.record import FileRecord
from optimum_htp.package.sidecar.sidecar import Sidecar
from optimum_htp.package.write import write_files
from optimum_htp.tagging.graph import TaggedGraph

WIDTH = 4


def layered_package(
    directory: Path,
    *,
    layers: int = 3,
    name: Callable[[str], str] = str,
    tagged: bool = True,
    seed: int = 0,
    file: str = "model.onnx",
) -> Path:
    """Writes the package; `name` is what each module, class, node and tensor is called instead."""
    random = np.random.default_rng(seed)
    linear, act = name("linear"), name("act")
    modules = [
        ModuleInfo((), name("Net"), "toy.Net", calls=1, parameters=layers * (WIDTH * WIDTH + WIDTH)),
        ModuleInfo(("layers",), "ModuleList", "torch.nn.ModuleList", container=True),
    ]
    nodes, weights, tags = [], [], []
    last = "x"
    for layer in range(layers):
        block = ("layers", str(layer))
        modules += [
            ModuleInfo(block, name("Block"), "toy.Block", calls=1, parameters=WIDTH * WIDTH + WIDTH),
            ModuleInfo((*block, linear), name("Linear"), "toy.Linear", calls=1, parameters=WIDTH * WIDTH + WIDTH),
            ModuleInfo((*block, act), name("ReLU"), "toy.ReLU", calls=1),
        ]
        matrix, bias = f"onnx::MatMul_{layer}", f"layers.{layer}.{linear}.bias"
        weights.append(numpy_helper.from_array(random.standard_normal((WIDTH, WIDTH), np.float32), matrix))
        weights.append(numpy_helper.from_array(random.standard_normal(WIDTH, np.float32), bias))
        last_name = "y" if layer == layers - 1 else f"/{layer}/{act}_output"
        for operator, inputs, output, owner in (
            ("MatMul", (last, matrix), f"/{layer}/{linear}/MatMul_output", linear),
            ("Add", (f"/{layer}/{linear}/MatMul_output", bias), f"/{layer}/{linear}/Add_output", linear),
            ("Relu", (f"/{layer}/{linear}/Add_output",), last_name, act),
        ):
            nodes.append(helper.make_node(operator, inputs, (output,), name=f"/layers.{layer}/{owner}/{operator}"))
            tags.append((*block, owner))
        last = last_name
    shape = [helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, ["batch", WIDTH]) for each in ("x", "y")]
    graph = helper.make_graph(nodes, "toy", shape[:1], shape[1:], weights)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / file
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    (directory / "config.json").write_text('{"model_type": "toy", "architectures": ["Net"]}', encoding="utf-8")
    if tagged:
        tree = ModuleTree(modules)
        known = {("", index): NodeTag(tree.tag(owner), "scope") for index, owner in enumerate(tags)}
        graph_of = TaggedGraph(read_model(path), known, Roots((Root(tree),)))
        write_files({file: graph_of}, directory, options=HtpOptions())
        record = FileRecord.of(replace(graph_of, model=read_model(path)))
        Sidecar({file: record}, source={"model": name("toy"), "task": "feature-extraction"}).write(directory)
    return directory


def fused_package(directory: Path, *, origin: Path) -> Path:
    """What an optimizer could make of the package: each product and sum becomes one node, each activation stays."""
    model = onnx.load(origin / "model.onnx")
    nodes, kept = list(model.graph.node), []
    for product, total, act in zip(nodes[::3], nodes[1::3], nodes[2::3], strict=True):
        fused = helper.make_node("Gemm", [*product.input, total.input[1]], total.output, name=f"fused {product.name}")
        kept += [fused, act]
    for node in kept:
        del node.metadata_props[:]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(model, directory / "model.onnx")
    return directory
