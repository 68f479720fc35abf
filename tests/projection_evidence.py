"""Evidence that projected tags are right which doesn't come from the projection itself.

What nodes kept of their own metadata; whose weights they read; whether tensors of one name hold one value.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rewriters import sample_inputs, session_options

from optimum_htp.hierarchy.tags import NodeTag, NodeTags, tag_module_path
from optimum_htp.onnxfile.model import Node, OnnxModel
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.node_metadata import read_tags
from optimum_htp.package.package import HtpFile
from optimum_htp.tagging.projection.steps import project


def projected(file: HtpFile, target: Path) -> tuple[OnnxModel, NodeTags]:
    """A file that a tool made from a tagged one, and the tags that projection finds; its node metadata isn't used."""
    model = read_model(target)
    return model, project([file.tagged], model).tags


class Disagreement(NamedTuple):
    """A node that kept a tag of ours which is not the projected one."""

    node: Node
    kept: NodeTag
    projected: NodeTag


def disagreements(model: OnnxModel, tags: NodeTags) -> list[Disagreement]:
    """Nodes whose own metadata names another module or call than projection."""
    graphs = dict(model.graphs())
    pairs = ((key, kept, tags[key]) for key, kept in read_tags(model).items())
    return [
        Disagreement(graphs[path].nodes[position], kept, tag)
        for (path, position), kept, tag in pairs
        if (kept.tag, kept.call) != (tag.tag, tag.call)
    ]


# --- Weights ---


Owners = Mapping[Any, frozenset[str]]


def weight_owners(directory: Path) -> Owners:
    """The modules that hold each weight of a model, by its content, as it is and transposed, in fp32 and fp16.

    Tied weights belong to all their holders; weights that are one number all over tell nothing and are left out.
    """
    import json

    import transformers

    config = json.loads((directory / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0]).from_pretrained(directory)
    owners: dict[Any, set[str]] = defaultdict(set)
    for name, tensor in model.state_dict().items():
        array = tensor.float().numpy()
        for form in (array, array.T) if array.ndim == 2 else (array,):
            for kind in (np.float32, np.float16):
                if _tells(form):
                    owners[_fingerprint(form.astype(kind))].add(name.rpartition(".")[0])
    return {key: frozenset(names) for key, names in owners.items()}


def weight_mismatches(file: HtpFile, model: OnnxModel, tags: NodeTags, owners: Owners) -> tuple[int, list[str]]:
    """How many weights could be traced to a module, and those read by a node that came from another one.

    A quantized weight is known by the name of the weight that it was made from.
    """
    by_name = {name: owners[key] for name, key in _stored(file.path) if key in owners}
    here = {name: owners[key] for name, key in _stored(model.path) if key in owners}
    root = (file.record.roots_in_model[0] if file.record is not None else None) or ""
    traced, wrong = 0, []
    for path, graph in model.graphs():
        for position, node in enumerate(graph.nodes):
            tag = tags[path, position]
            modules = [".".join(filter(None, (root, tag_module_path(each)))) for each in (tag.origins or (tag.tag,))]
            for name in node.inputs:
                holders = here.get(name) or by_name.get(name.removesuffix("_quantized"))
                if holders is None:
                    continue
                traced += 1
                if not any(_holds(module, holder) for module in modules for holder in holders):
                    wrong.append(f"{node.op_type} {node.name}, of {modules}, reads {name} of {sorted(holders)}")
    return traced, wrong


def _holds(module: str, holder: str) -> bool:
    return module in ("", holder) or holder.startswith(f"{module}.")


def _tells(array: Any) -> bool:
    return array.size >= 8 and bool((array != array.flat[0]).any())


def _fingerprint(array: Any) -> Any:
    return array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _stored(path: Path) -> Iterator[tuple[str, Any]]:
    import onnx
    from onnx import numpy_helper

    graphs = [onnx.load(path).graph]
    while graphs:
        graph = graphs.pop()
        graphs += [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
        for tensor in graph.initializer:
            array = numpy_helper.to_array(tensor)
            if _tells(array):
                yield tensor.name, _fingerprint(array)


# --- Values ---


def different_values(source: Path, target: Path, *, tolerance: float = 1e-3) -> tuple[int, list[str]]:
    """How many tensors of the main graphs share a name, and those of them that hold different values on a sample."""
    names = _made(source) & _made(target)
    feed = sample_inputs(source)
    expected, actual = _values(source, feed, names), _values(target, feed, names)
    common = sorted(expected.keys() & actual.keys())
    wrong = []
    for name in common:
        left, right = np.asarray(expected[name]), np.asarray(actual[name])
        if left.shape != right.shape:
            wrong.append(f"{name}: shape {left.shape}, then {right.shape}")
        elif left.size and left.dtype.kind == "f":
            finite = np.isfinite(left) & np.isfinite(right)
            scale = max(1.0, float(np.abs(left[finite]).max(initial=0)))
            difference = float(np.abs(left[finite] - right[finite]).max(initial=0))
            # A mask's -infinity may have become the lowest number.
            if difference > tolerance * scale and not _masks(left, right):
                wrong.append(f"{name}: {difference:.3g} apart, of {scale:.3g}")
        elif not (left == right).all():
            wrong.append(f"{name}: not equal")
    return len(common), wrong


def _masks(left: Any, right: Any) -> bool:
    return bool(np.abs(left).max() > 1e30 and ((left < -1e30) == (right < -1e30)).all())


def _made(path: Path) -> set[str]:
    return {name for node in read_model(path).graph.nodes for name in node.outputs if name}


def _values(path: Path, feed: dict[str, Any], names: set[str]) -> dict[str, Any]:
    import onnx
    import onnxruntime

    model = onnx.load(path)
    returned = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names - returned))
    options = session_options(graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {value.name for value in session.get_inputs()}
    wanted = [value.name for value in session.get_outputs() if value.name in names]
    return dict(zip(wanted, session.run(wanted, {k: v for k, v in feed.items() if k in given}), strict=True))
