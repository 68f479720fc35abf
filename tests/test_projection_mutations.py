"""Projection against experiments: a module's weights are changed, and the nodes that feel it first must say its name.

Nothing here knows how projection works, nor reads a name that a tool could have changed: where the change is felt first
is measured by running both graphs, and so is which tensors of two graphs are the same.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rewriters

from optimum_htp import project
from optimum_htp.package.node_metadata import CALL, ORIGINS, SOURCE, TAG

Owner = tuple[str, str | None]  # a tag and a call
# A model, a tool, and how many of the groups of weights are changed: every one, every third where the tool is slow.
FAST = [
    ("bert", "dynamic", 1),
    ("gpt2", "optimum-O2", 6),
    ("resnet", "ort-all", 1),
    ("albert", "ort-all", 1),
    ("bert", "packed", 5),
]
SWEEP = [
    (name, tool)
    for name in (
        "bert",
        "resnet",
        "albert",
        "gpt2",
        "llama",
        "vit",
        "distilbert",
        "mobilenet_v2",
        "whisper",
        "bart",
        "qwen3_moe",
    )
    for tool in ("ort-all", "optimum-O2", "onnxslim", "dynamic", "slim+O2+dynamic+all", "packed", "packed+dynamic")
]


@pytest.fixture(scope="session")
def package(exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a zoo name to the tagged export of that model, no two of whose weights are equal."""
    import onnx
    from onnx import numpy_helper

    root = tmp_path_factory.mktemp("mutations")

    def untied(name: str) -> Path:
        directory = root / name
        if not directory.exists():
            shutil.copytree(exported(name), directory)
            random = np.random.default_rng(0)
            for path in directory.glob("*.onnx"):
                graph = onnx.load(path)
                untie(graph.graph)
                for tensor in weights(graph.graph):
                    array = numpy_helper.to_array(tensor)
                    noise = 0.2 * random.random(array.shape)  # positive: a variance stays one
                    tensor.CopyFrom(numpy_helper.from_array((array + noise).astype(np.float32), tensor.name))
                onnx.save(graph, path)
        return directory

    return untied


def check(directory: Path, name: str, tool: str, scratch: Path, *, every: int = 1) -> None:
    for source in sorted(directory.glob("*.onnx")):
        if "merged" in source.name:  # the results inside of branches can't be asked for
            continue
        target = rewriters.attempt(tool, name, source, scratch / "target" / source.name)
        if target is None:
            continue
        project(target)
        assert list(other_values(source, target)) == []
        assert list(other_owners(source, target, tool, scratch, every)) == []


@pytest.mark.parametrize(("name", "tool", "every"), FAST)
def test_changes_are_felt_by_their_module(
    package: Callable[[str], Path], name: str, tool: str, every: int, tmp_path: Path
) -> None:
    """The first nodes that feel a changed weight came from the module and the call that read it."""
    check(package(name), name, tool, tmp_path, every=every)


def test_packed_product_feels_each_of_its_weights(package: Callable[[str], Path], tmp_path: Path) -> None:
    """The weight of k alone is changed, or that of q or v: the one product of all three feels it first, and says so."""
    import onnx
    from onnx import numpy_helper

    source = package("bert") / "model.onnx"
    target = rewriters.rewrite("packed", source, tmp_path / "target" / source.name)
    project(target)
    feed, rewritten = rewriters.sample_inputs(source), onnx.load(target)
    before = results(rewritten, feed)
    products = [node for node in onnx.load(source).graph.node if "layer.0/attention/self" in node.name]
    products = [node for node in products if node.op_type == "MatMul" and node.name.count("/") == 7]
    owners = [owner(node)[0] for node in products]
    assert [tag.rpartition(".")[2] for tag in owners] == ["query", "key", "value"]
    for product in products:
        changed = onnx.load(source)
        (tensor,) = (each for each in changed.graph.initializer if each.name == product.input[1])
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.1), tensor.name))
        onnx.save(changed, tmp_path / "changed.onnx")
        again = onnx.load(rewriters.rewrite("packed", tmp_path / "changed.onnx", tmp_path / "again.onnx"))
        (felt,) = first_changed(rewritten, before, results(again, feed))
        (behind,) = (node for node in rewritten.graph.node if felt.output[0] in node.input)
        assert (felt.op_type, behind.op_type) == ("MatMul", "Split")
        for node in (felt, behind):
            assert metadata(node)[SOURCE] == "fused"
            assert metadata(node)[TAG] == owners[0].rpartition("/")[0]
            assert json.loads(metadata(node)[ORIGINS]) == owners


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "tool"), SWEEP)
def test_changes_in_every_architecture(package: Callable[[str], Path], name: str, tool: str, tmp_path: Path) -> None:
    """The same for more of them."""
    check(package(name), name, tool, tmp_path)


def other_owners(source: Path, target: Path, tool: str, scratch: Path, every: int) -> Iterator[str]:
    """The nodes that feel a change first and came from none of the modules that felt it first before the tool."""
    import onnx
    from onnx import numpy_helper

    feed = rewriters.sample_inputs(source)
    original, rewritten = onnx.load(source), onnx.load(target)
    values = results(original, feed), results(rewritten, feed)
    random = np.random.default_rng(1)
    for names in groups(original.graph)[::every]:
        changed = onnx.load(source)
        for tensor in weights(changed.graph):
            if tensor.name in names:
                array = numpy_helper.to_array(tensor)
                noise = (0.1 * random.random(array.shape)).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(array + noise, tensor.name))
        path = scratch / "changed" / source.name
        path.parent.mkdir(exist_ok=True)
        for config in source.parent.glob("*.json"):
            shutil.copy(config, path.parent)
        onnx.save(changed, path)
        again = onnx.load(rewriters.rewrite(tool, path, scratch / "again" / source.name))
        assert [wiring(node) for node in again.graph.node] == [wiring(node) for node in rewritten.graph.node]
        truth = {owner(node) for node in first_changed(original, values[0], results(changed, feed))}
        for node in first_changed(rewritten, values[1], results(again, feed)):
            (tag, call), origins = owner(node), set(modules(node))
            felt = {each for each in truth if each[0] in origins}
            calls = {each for name, each in felt if name == tag}
            # A weight that comes through an Identity is felt there first, which belongs to no call.
            if not felt or (call is not None and calls and calls.isdisjoint((call, None))):
                yield f"{node.op_type} {node.name}: {tag} ({call}), origins {sorted(origins)}, not {sorted(truth)}"


def other_values(source: Path, target: Path, *, tolerance: float = 1e-4) -> Iterator[str]:
    """The nodes that make a tensor which only nodes of other modules made before the tool."""
    import onnx

    feed = rewriters.sample_inputs(source)
    original, rewritten = onnx.load(source), onnx.load(target)
    before, after = results(original, feed), results(rewritten, feed)
    made: dict[tuple[int, ...], list[tuple[Any, Owner]]] = defaultdict(list)
    for node in original.graph.node:
        for name in node.output:
            if name in before and tells(before[name]):
                made[before[name].shape].append((before[name], owner(node)))
    for node in rewritten.graph.node:
        for value in (after[name] for name in node.output if name in after and tells(after[name])):
            scale = float(np.abs(value).max())
            same = {who for other, who in made[value.shape] if np.abs(other - value).max() <= tolerance * scale}
            if same and not {tag for tag, _ in same} & set(modules(node)):
                yield f"{node.op_type} {node.name}: {owner(node)}, origins {modules(node)}, not {sorted(same)}"


# --- Graphs ---


def metadata(node: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in node.metadata_props}


def owner(node: Any) -> Owner:
    found = metadata(node)
    return found[TAG], found.get(CALL)


def modules(node: Any) -> list[str]:
    found = metadata(node)
    return [found[TAG], *json.loads(found.get(ORIGINS, "[]"))]


def wiring(node: Any) -> tuple[str, list[str], list[str]]:
    return node.op_type, list(node.input), list(node.output)


def weights(graph: Any) -> list[Any]:
    return [tensor for tensor in graph.initializer if tensor.data_type == 1 and len(tensor.dims)]


def groups(graph: Any) -> list[list[str]]:
    """The weights that the same modules read, by name."""
    readers = defaultdict(set)
    for node in graph.node:
        for name in node.input:
            readers[name].add(owner(node))
    found = defaultdict(list)
    for tensor in weights(graph):
        found[frozenset(readers[tensor.name])].append(tensor.name)
    return [names for owners, names in found.items() if owners]


def untie(graph: Any) -> None:
    """Gives each node weights of its own, so that the calls of one module can be told apart."""
    from onnx import TensorProto

    known = {tensor.name: tensor for tensor in weights(graph)}
    seen: set[str] = set()
    for number, node in enumerate(graph.node):
        for position, name in enumerate(node.input):
            if name in seen:
                copy = TensorProto()
                copy.CopyFrom(known[name])
                node.input[position] = copy.name = f"{name}_{number}"
                graph.initializer.append(copy)
            seen.update({name} & known.keys())


def results(model: Any, feed: dict[str, Any]) -> dict[str, Any]:
    """The value of each tensor that a node of the main graph makes."""
    import onnx
    import onnxruntime

    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.value_info[:]
    returned = {value.name for value in asked.graph.output}
    made = [name for node in asked.graph.node for name in node.output if name and name not in returned]
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    options = rewriters.session_options(
        graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, use_deterministic_compute=True
    )
    session = onnxruntime.InferenceSession(asked.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {value.name for value in session.get_inputs()}
    values = session.run(None, {name: array for name, array in feed.items() if name in given})
    found = zip((value.name for value in session.get_outputs()), values, strict=True)
    return {name: np.asarray(value) for name, value in found if not isinstance(value, list)}


def first_changed(model: Any, before: dict[str, Any], after: dict[str, Any]) -> list[Any]:
    """The nodes that make something else now though nothing that they read from other nodes has changed."""
    changed = {name for name in before if not np.array_equal(before[name], after[name], equal_nan=True)}
    return [node for node in model.graph.node if changed.intersection(node.output) and changed.isdisjoint(node.input)]


def tells(value: Any) -> bool:
    """Whether a tensor can be known again by its content."""
    return bool(value.dtype == np.float32 and np.unique(value).size > 8 and np.isfinite(value).all())
