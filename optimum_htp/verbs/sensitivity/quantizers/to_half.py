"""ONNX Runtime's converter to float16: `convert_float_to_float16` of `OnnxModel`, in `onnxruntime.transformers`.

What a converted node reads and gives is in float16, and what goes from one node in float32 to another is not; nor are the
model's inputs and outputs. Weights keep their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from optimum_htp.models import Array
from optimum_htp.onnxfile import (
    NUMBERS,
    OnnxModel,
    SourceFiles,
    TensorTypes,
    model_spans,
    scope_spans,
    scopes_of,
)
from optimum_htp.verbs.sensitivity.protos import Proto, constants_in, stored_in
from optimum_htp.verbs.sensitivity.quantizers.quantizer import Changes, NodeChange, Quantizer, Rounding

_HALF = Rounding("half")


class HalfConverter(Quantizer):
    """ONNX Runtime's conversion to float16, with its own defaults."""

    mode = "fp16"
    into = "float16"
    form = "ort-fp16"
    needs = "onnxruntime sympy"
    rounds_results = True

    def run(
        self,
        source: Path,
        target: Path,
        *,
        left_out: Sequence[str],
        samples: Sequence[Mapping[str, Array]],
        external: bool,
        bodies: bool,
    ) -> None:
        """Converts a file all but some nodes."""
        import onnx
        from onnxruntime.transformers.onnx_model import OnnxModel as Converted

        model = Converted(onnx.load(source))
        model.convert_float_to_float16(node_block_list=list(left_out))
        model.topological_sort()
        Converted.save(model.model, str(target), save_as_external_data=external)

    def changes(self, model: OnnxModel, source: Proto, quantized: Proto) -> Changes:
        """What became of each node."""
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

        floats = _floats(model)
        stored = {
            name: tensor
            for name, tensor in (constants_in(quantized.graph) | stored_in(quantized.graph)).items()
            if tensor.data_type == NUMBERS["float16"]
        }
        fixed = stored_in(source.graph) | constants_in(source.graph)
        found = {}
        for index, node in enumerate(source.graph.node):
            if node.op_type in (*DEFAULT_OP_BLOCK_LIST, "Constant") or node.name == "":
                continue
            change = NodeChange()
            for place, name in enumerate(node.input):
                if name in fixed:
                    if name in stored:
                        change.weights[place] = _value(stored[name])
                elif name in floats:
                    change.reads[place] = _HALF
            change.tensors.update((name, _HALF) for name in node.output if name in floats)
            if change:
                found["", index] = change
        return found


def _floats(model: OnnxModel) -> set[str]:
    """The tensors of the main graph that are in float32."""
    with SourceFiles(model.path) as files:
        whole = model_spans(files.data)
        types = TensorTypes(files.data, whole, scopes_of(model, ""), scope_spans(files.data, whole.graph, "")).known
    return {name for name, value in types.items() if value.elem_type == NUMBERS["float32"]}


def _value(tensor: Proto) -> Callable[[], Array]:
    return partial(_single, tensor)


def _single(tensor: Proto) -> Array:
    import numpy as np
    from onnx import numpy_helper

    array: Array = numpy_helper.to_array(tensor).astype(np.float32)
    return array
