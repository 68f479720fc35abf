"""Errors that people meet often, by what their messages say, and what to try next."""

from __future__ import annotations

import re

from optimum_htp.verbs.explain.report import Advice

_KNOWN = (
    (
        r"cannot be reshaped|can't be reshaped|reshape.*(mismatch|incompatible)|IShuffleLayer|volume mismatch",
        "a Reshape got another number of elements than its shape has: mostly a size of the example inputs that the trace "
        "kept as a constant",
        "run it with the batch size and the sequence length that it was exported with; if that works, look at the module's "
        "code for sizes that are Python numbers (`int(x.shape[0])`, `view(2, ...)`), or export with --batch-size and "
        "--sequence-length",
    ),
    (
        r"Got invalid dimensions for input|invalid dimensions for input",
        "an input has another size than the file declares",
        "give it the size that stands behind 'Expected', or export with dynamic axes; `optimum-cli htp validate PKG --load` "
        "runs it at two sizes",
    ),
    (
        r"Invalid rank for input|Unexpected input data type|tensor\(\w+\)\) *, *expected|invalid feed|"
        r"Missing Input|Required inputs .* are missing|is missing from input feed",
        "the inputs are not those that the file takes",
        "compare their names, types and ranks with the inputs below; tokenizers may give int32 or leave token_type_ids out",
    ),
    (
        r"broadcast an axis|BroadcastIterator|axis == 1 \|\| axis == largest|incompatible dimensions|can't broadcast",
        "two tensors don't fit each other: mostly a mask or a position that has another length than the hidden states",
        "look which of the two inputs has the constant size; masks and past key values must have the length of the sequence "
        "that they are for",
    ),
    (
        r"Non concat axis dimensions must match|Concat.*dimensions",
        "what is put together differs in another axis than the one it is put together along: mostly past key values of "
        "another batch size or number of heads",
        "compare the shapes of past_key_values with config.json (num_key_value_heads, head size)",
    ),
    (
        r"indices element out of data bounds|idx=-?\d+ must be within|out of bounds|index.*out of range",
        "a Gather was asked for a row that the table does not have",
        "of a word embedding: the tokenizer is of another model or has added tokens; of a position embedding: the sequence "
        "is longer than max_position_embeddings",
    ),
    (
        r"MatMul dimension mismatch|left operand cannot broadcast|Gemm.*dim|K dimension|shapes .* not aligned",
        "two matrices don't fit each other",
        "compare the shapes below with the input's; after a quantizer or a fusion, run the file from before to see which of "
        "both is wrong (`optimum-cli htp compare`)",
    ),
    (
        r"NOT_IMPLEMENTED|Could not find an implementation for|Unsupported.*[Oo]p|no importer registered|"
        r"getPluginCreator could not find|Opset import mismatch.*implement",
        "the runtime has no kernel for this operator, in this opset or for these types",
        "update the runtime, or export with another --opset; of float16 or bfloat16: leave the module in float32 "
        "(`optimum-cli htp select PKG MODULE --format ort-fp16`)",
    ),
    (
        r"No Op registered for|is not a registered function/op|No schema registered|Fatal error: .* is not a registered",
        "the file has an operator that this runtime does not know: of a newer opset, or of a domain of its own",
        "update onnxruntime, load the library of custom operators (SessionOptions.register_custom_ops_library), or export "
        "with a lower --opset",
    ),
    (
        r"Type Error|Type parameter .* bound to different types|does not match expected type|tensor\(float16\).*tensor\(float\)",
        "a node gets inputs of different types: mostly a converter to float16 that changed one of them only",
        "leave the module out of the conversion (`optimum-cli htp select PKG MODULE --format ort-fp16`), or convert with "
        "keep_io_types=True",
    ),
    (
        r"Failed to allocate memory|BFCArena|out of memory|OUT_OF_MEMORY|bad allocation|bad_alloc|insufficient memory",
        "there is not enough memory for what the node makes",
        "take a smaller batch or a shorter sequence; `optimum-cli htp profile PKG --sort memory` says which modules need most",
    ),
    (
        r"Unsupported model IR version|Max supported IR version|opset .* is under development|"
        r"only \*guarantees\* support for models stamped",
        "the file is newer than the runtime",
        "update the runtime, or export with a lower --opset",
    ),
    (
        r"is not a graph input, initializer, or output of a previous node|Graph must be in single static assignment|"
        r"not output of any previous nodes|Nodes in a graph must be topologically sorted",
        "the graph is not whole: a tool took a node away that another one reads",
        "run that tool again on the file from before; `optimum-cli htp validate PKG` says what else is wrong",
    ),
    (
        r"External initializer|external data|External data path|model_path must not be empty|file_size|Data of TensorProto",
        "weights that belong to the file are missing or cut off",
        "get the .data file that stands beside it again, under its old name; `optimum-cli htp validate PKG` names it",
    ),
    (
        r"Could not find any implementation for node|Error Code 10|internal error.*myelin|ForeignNode",
        "TensorRT found no way to run these layers, mostly together as one",
        "give it more workspace, or keep the module out of the fusion and in float32; static sizes help with shape nodes",
    ),
    (
        r"\bnan\b|\binf\b|NaN|overflow|exceeds the max(imum)? value of float16|truncated",
        "a number is too large for its type, or none at all",
        "keep the module in float32 (`optimum-cli htp select PKG MODULE --format ort-fp16`); `optimum-cli htp compare` "
        "says where it begins",
    ),
    (
        r"While validating (ONNX )?node|ShapeInferenceError|Shape inference|inferred shape.*differ|shape mismatch attempting to re-use",
        "the shapes that the file declares are not those that follow from its inputs",
        "run the shape inference anew (onnxruntime.tools.symbolic_shape_infer), or take the declared shapes out",
    ),
)
"""Regular expressions, with what each error means and what to try; the first that is found comes first."""


def known_errors(text: str) -> tuple[Advice, ...]:
    """What is known of the errors in a text, at most two.

    >>> known_errors("Unsupported model IR version: 14, max supported IR version: 13")[0].advice
    'update the runtime, or export with a lower --opset'
    """
    found = [Advice(problem, advice) for pattern, problem, advice in _KNOWN if re.search(pattern, text, re.IGNORECASE)]
    return tuple(found[:2])
