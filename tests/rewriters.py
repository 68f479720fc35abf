"""What other people's tools do to an ONNX file: each rewriter reads one file and writes another.

`REWRITERS` holds them by name; those in `LOSSLESS` keep every value that they keep the name of, within rounding.
`optimum-O1` to `optimum-O3` want the package directory around the file, for its config.
"""

from __future__ import annotations

import ast
import fnmatch
import operator
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Rewriter = Callable[[Path, Path], None]
REWRITERS: dict[str, Rewriter] = {}
LOSSLESS = {
    "ort-basic", "ort-extended", "ort-all", "optimum-O1", "optimum-O2", "onnxslim", "version-converter",
    "shape-inference", "onnxscript", "inliner", "extract", "packed",
}  # fmt: skip

CHAINS: dict[str, tuple[str, ...]] = {
    "slim+O2+dynamic+all": ("onnxslim", "optimum-O2", "dynamic", "ort-all"),
    "O1+fp16+slim": ("optimum-O1", "fp16", "onnxslim"),
    "basic+dynamic+extended": ("ort-basic", "dynamic", "ort-extended"),
    "packed+dynamic": ("packed", "dynamic"),
}


def _rewriter(name: str) -> Callable[[Rewriter], Rewriter]:
    def add(function: Rewriter) -> Rewriter:
        REWRITERS[name] = function
        return function

    return add


def rewrite(name: str, source: Path, target: Path) -> Path:
    """Runs one rewriter, or a chain of them, and returns the file it made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    steps = CHAINS.get(name, (name,))
    own = target.parent / f".{target.stem}-source"  # quantizers put files beside the one that they read
    own.mkdir(exist_ok=True)
    for path in source.parent.iterdir():
        if path.suffix == ".json" or path.name.startswith(source.name):
            shutil.copy(path, own)
    source = own / source.name
    for number, step in enumerate(steps):
        directory = target.parent / f".{target.stem}-{number}"
        directory.mkdir(exist_ok=True)
        for config in source.parent.glob("*.json"):
            shutil.copy(config, directory)
        REWRITERS[step](source, directory / target.name)
        source = directory / target.name
    shutil.copy(source, target)
    return target


_MERGED = "decoder_model_merged.onnx"
_UNKNOWN = "Invalid model with unknown initializers"
_UNLISTED = ("convnext", "donut", "mobilenet_v2", "opt", "phi", "qwen3_moe", "resnet", "swin", "wav2vec2")

FAILURES: tuple[tuple[str, str, str, str], ...] = (
    # What tools can't do: the tool, the model, the file, each a glob, and what it says. The first that fits counts.
    # Optimum optimizes only architectures that it lists,
    *(("*O[123]*", model, "*", "doesn't support the graph optimization|is not available yet") for model in _UNLISTED),
    # and its optimizer is made for graphs without branches.
    ("optimum-O[23]", "bart", _MERGED, r"len\(\) of unsized object"),
    ("optimum-O[23]", "t5", _MERGED, "it left no nodes"),
    ("optimum-O[23]", "whisper", _MERGED, "it left no nodes"),
    ("slim+O2+dynamic+all", "*", _MERGED, _UNKNOWN),
    ("O1+fp16+slim", "*", _MERGED, "AssertionError"),
    ("extract", "*", _MERGED, "the main graph has nothing but an If"),
    ("slim+O2+dynamic+all", "gpt2", "*", "Graph is not a DAG"),
    # ORT's quantizers want a bias in every convolution, and its weight stored.
    *(("static-qoperator", model, "*", "no attribute 'data_type'")
      for model in ("convnext", "mobilenet_v2", "resnet", "segformer")),
    ("static-qoperator", "whisper", "encoder_model.onnx", "no attribute 'data_type'"),
    ("static-qoperator", "deberta-v2", "*", _UNKNOWN),
    ("static-qoperator", "opt", "*", _UNKNOWN),
    ("dynamic", "wav2vec2", "*", "to be an initializer"),
    ("packed+dynamic", "wav2vec2", "*", "to be an initializer"),
)  # fmt: skip


class EmptyGraphError(Exception):
    """A tool left no nodes."""


def attempt(name: str, model: str, source: Path, target: Path) -> Path | None:
    """Runs a rewriter on a file of a model, and returns what it made; None if it fails as `FAILURES` says.

    It is an error if it fails where that is not expected, in another way, or not at all where it is.
    """
    from optimum_htp.onnxfile.reading import read_model

    asked = (name, model, source.name)
    known = next((why for *globs, why in FAILURES if all(map(fnmatch.fnmatchcase, asked, globs))), None)
    try:
        made = rewrite(name, source, target)
        if not read_model(made).graph.nodes:
            raise EmptyGraphError("it left no nodes")
    except Exception as error:  # whatever a tool raises
        if known is None or not re.search(known, f"{type(error).__name__}: {error}"):
            raise
        return None
    assert known is None, f"{name} can do {model}/{source.name} by now: take it out of FAILURES"
    return made


def session_options(**settings: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    for key, value in settings.items():
        setattr(options, key, value)
    return options


def _ort(level: str) -> Rewriter:
    def run(source: Path, target: Path) -> None:
        import onnxruntime

        options = session_options(
            graph_optimization_level=getattr(onnxruntime.GraphOptimizationLevel, level),
            optimized_model_filepath=str(target),
        )
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])

    return run


for _name, _level in (("basic", "BASIC"), ("extended", "EXTENDED"), ("all", "ALL")):
    REWRITERS[f"ort-{_name}"] = _ort(f"ORT_ENABLE_{_level}")


def _optimum(level: str) -> Rewriter:
    def run(source: Path, target: Path) -> None:
        from optimum.onnxruntime import ORTOptimizer
        from optimum.onnxruntime.configuration import AutoOptimizationConfig
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(source.parent)
        optimizer = ORTOptimizer([source], config=config)
        optimizer.optimize(
            getattr(AutoOptimizationConfig, level)(),
            save_dir=target.parent,
            file_suffix="",
        )
        made = target.parent / source.name
        if made != target:
            made.replace(target)

    return run


for _level in ("O1", "O2", "O3"):
    REWRITERS[f"optimum-{_level}"] = _optimum(_level)


@_rewriter("dynamic")
def _dynamic(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QInt8, extra_options={"EnableSubgraph": True})


class Calibration:
    """Two random batches."""

    def __init__(self, source: Path) -> None:
        self.left = [sample_inputs(source, seed=seed) for seed in (0, 1)]

    def get_next(self) -> dict[str, Any] | None:
        return self.left.pop() if self.left else None

    def __iter__(self) -> Calibration:
        return self

    def __next__(self) -> dict[str, Any]:
        feed = self.get_next()
        if feed is None:
            raise StopIteration
        return feed


def _static(format_name: str) -> Rewriter:
    def run(source: Path, target: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

        CalibrationDataReader.register(Calibration)
        quantize_static(source, target, Calibration(source), quant_format=getattr(QuantFormat, format_name))

    return run


REWRITERS["static-qdq"] = _static("QDQ")
REWRITERS["static-qoperator"] = _static("QOperator")


@_rewriter("onnxslim")
def _slim(source: Path, target: Path) -> None:
    import onnxslim

    onnxslim.slim(str(source), str(target))


@_rewriter("fp16")
def _fp16(source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True, disable_shape_infer=True), target)


@_rewriter("version-converter")
def _version(source: Path, target: Path) -> None:
    import onnx
    from onnx import version_converter

    model = onnx.load(source)
    now = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    onnx.save(version_converter.convert_version(model, max(now + 1, 18)), target)


@_rewriter("shape-inference")
def _shapes(source: Path, target: Path) -> None:
    import onnx

    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(source), data_prop=True), target)


@_rewriter("onnxscript")
def _onnxscript(source: Path, target: Path) -> None:
    import onnx
    import onnxscript.optimizer

    onnx.save(onnxscript.optimizer.optimize(onnx.load(source)), target)


@_rewriter("inliner")
def _inliner(source: Path, target: Path) -> None:
    import onnx
    import onnx.inliner

    onnx.save(onnx.inliner.inline_local_functions(onnx.load(source)), target)


@_rewriter("extract")
def _extract(source: Path, target: Path) -> None:
    """What the main graph computes up to two thirds of its nodes."""
    import onnx
    from onnx.utils import Extractor

    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    known = {value.name for value in model.graph.value_info}
    made = [name for node in model.graph.node for name in node.output if name in known]
    if not made:
        raise NotImplementedError("the main graph has nothing but an If")
    output = made[2 * len(made) // 3]
    onnx.save(Extractor(model).extract_model([value.name for value in model.graph.input], [output]), target)


@_rewriter("packed")
def _packed(source: Path, target: Path) -> None:
    """One product and a Split for all products of one value, as the exporter of transformers 5 packs q, k and v."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
    readers = Counter(name for node in graph.node for name in node.input)
    groups: dict[str, list[Any]] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored and readers[node.input[1]] == 1:
            groups.setdefault(node.input[0], []).append(node)
    renamed: dict[str, str] = {}
    for number, (value, nodes) in enumerate(groups.items()):
        if len(nodes) == 1:
            continue
        weight, result, sizes = (f"packed_{kind}_{number}" for kind in ("matmul", "result", "sizes"))
        arrays = [numpy_helper.to_array(stored[node.input[1]]) for node in nodes]
        graph.initializer.append(numpy_helper.from_array(np.concatenate(arrays, 1), weight))
        graph.initializer.append(numpy_helper.from_array(np.array([array.shape[1] for array in arrays]), sizes))
        parts = [f"packed_part_{number}_{index}" for index in range(len(nodes))]
        renamed |= {node.output[0]: part for node, part in zip(nodes, parts, strict=True)}
        place = list(graph.node).index(nodes[0])
        graph.node.insert(place, helper.make_node("Split", [result, sizes], parts, f"node_Split_{number}", axis=-1))
        graph.node.insert(place, helper.make_node("MatMul", [value, weight], [result], f"node_MatMul_{number}"))
        for node in nodes:
            graph.node.remove(node)
            graph.initializer.remove(stored[node.input[1]])
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    onnx.save(model, target)


# --- Inputs -------------------------------------------------------------------------------------------------------

_SIZES = {"batch_size": 2, "sequence_length": 6, "past_sequence_length": 4, "decoder_sequence_length": 3,
          "past_decoder_sequence_length": 4, "encoder_sequence_length": 6, "encoder_sequence_length_out": 6}  # fmt: skip
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}


def _dimension(text: str) -> int:
    """The size of a dimension such as `past_sequence_length + 1`; symbols that are not known are 2."""

    def value(node: Any) -> int:
        if isinstance(node, ast.BinOp):
            return int(_OPERATORS[type(node.op)](value(node.left), value(node.right)))
        return int(node.value) if isinstance(node, ast.Constant) else _SIZES.get(node.id, 2)

    return value(ast.parse(re.sub(r"[^\w+*/ -]", "_", text), mode="eval").body)


_IMAGE = {"num_channels": 3, "height": 32, "width": 32}
_SOUND = 1_600  # samples: a convolutional encoder needs some hundreds


def _size(name: str, size: int | str | None) -> int:
    """The size of one dimension of an input."""
    if isinstance(size, int):
        return size
    if name == "input_values" and size == "sequence_length":
        return _SOUND
    return _IMAGE.get(size) or _dimension(size) if size else 2


def sample_inputs(file: Path, *, seed: int = 0) -> dict[str, Any]:
    """Random inputs that fit the file: ids below 30, masks of ones, normal floats."""
    from optimum_htp.onnxfile.reading import read_model

    random = np.random.default_rng(seed)
    graph = read_model(file).graph
    stored = {tensor.name for tensor in graph.initializers}
    feed: dict[str, Any] = {}
    for value in graph.inputs:
        if value.name in stored:
            continue
        shape = [_size(value.name, size) for size in value.shape or ()]
        if value.elem_type in (6, 7):
            kind = np.int32 if value.elem_type == 6 else np.int64
            ones = "mask" in value.name
            feed[value.name] = (
                np.ones(shape, kind)
                if ones
                else random.integers(1, 2 if "type" in value.name else 30, shape).astype(kind)
            )
        elif value.elem_type == 9:
            feed[value.name] = np.ones(shape, bool)
        else:
            feed[value.name] = random.standard_normal(shape).astype(
                np.float16 if value.elem_type == 10 else np.float32
            )
    return feed
