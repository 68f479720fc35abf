"""Field numbers and wire types of the ONNX messages that we look into.

They are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

# Field number << 3 | wire type, by message. Names are those of onnx.proto.
MODEL_IR_VERSION, MODEL_PRODUCER_NAME, MODEL_PRODUCER_VERSION = 8, 18, 26
MODEL_GRAPH, MODEL_OPSET_IMPORT, MODEL_METADATA, MODEL_TRAINING, MODEL_FUNCTION = 58, 66, 114, 162, 202
TRAINING_INITIALIZATION, TRAINING_ALGORITHM = 10, 18
GRAPH_NODE, GRAPH_NAME, GRAPH_INITIALIZER = 10, 18, 42
GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE_INFO, GRAPH_QUANTIZATION, GRAPH_SPARSE_INITIALIZER = 90, 98, 106, 114, 122
FUNCTION_NAME, FUNCTION_INPUT, FUNCTION_OUTPUT, FUNCTION_NODE = 10, 34, 42, 58
FUNCTION_DOMAIN, FUNCTION_OVERLOAD, FUNCTION_DESCRIPTION = 82, 106, 66
FUNCTION_ATTRIBUTE, FUNCTION_ATTRIBUTE_DEFAULT, FUNCTION_OPSET_IMPORT = 50, 90, 74
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP_TYPE = 10, 18, 26, 34
NODE_ATTRIBUTE, NODE_DOMAIN, NODE_OVERLOAD, NODE_METADATA = 42, 58, 66, 74
ATTRIBUTE_NAME, ATTRIBUTE_T, ATTRIBUTE_G, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = 10, 42, 50, 82, 90
ATTRIBUTE_SPARSE_TENSOR, ATTRIBUTE_SPARSE_TENSORS = 178, 186
ATTRIBUTE_F, ATTRIBUTE_I, ATTRIBUTE_S, ATTRIBUTE_TP, ATTRIBUTE_TYPE, ATTRIBUTE_REFERENCE = 21, 24, 34, 114, 160, 170
ATTRIBUTE_FLOATS, ATTRIBUTE_INTS, ATTRIBUTE_STRINGS, ATTRIBUTE_TYPES = 58, 66, 74, 122  # numbers may stand singly too
TENSOR_DIM, TENSOR_PACKED_DIMS, TENSOR_DATA_TYPE, TENSOR_NAME = 8, 10, 16, 66
TENSOR_RAW_DATA, TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION = 74, 106, 112
TENSOR_FLOATS, TENSOR_INT32S, TENSOR_STRINGS, TENSOR_INT64S, TENSOR_DOUBLES, TENSOR_UINT64S = 34, 42, 50, 58, 82, 90
DIMENSION, DIMENSION_SIZE, DIMENSION_SYMBOL, ENTRY_KEY, ENTRY_VALUE = 10, 8, 18, 10, 18
TYPE_SEQUENCE, TYPE_MAP, TYPE_SPARSE, TYPE_OPTIONAL, MAP_KEY, MAP_VALUE = 34, 42, 66, 74, 8, 18
VALUE_NAME, VALUE_TYPE, TENSOR_TYPE, TYPE_ELEM_TYPE, TYPE_SHAPE = 10, 18, 10, 8, 18
OTHER_TYPES = (34, 42, 58, 66, 74)  # of values that are no tensors: sequences, maps, opaque, sparse, optional
QUANTIZATION_TENSOR_NAME, OPSET_DOMAIN, OPSET_VERSION = 10, 10, 16
SPARSE_VALUES, SPARSE_INDICES, SPARSE_DIM, SPARSE_PACKED_DIMS = 10, 18, 24, 26

EXTERNAL = 1
"""The value of `TENSOR_DATA_LOCATION` for a tensor whose content is in another file."""


def location(value: int, before: bool) -> bool:
    """Whether a tensor's content is in another file, by `TENSOR_DATA_LOCATION`; an unknown value leaves what was `before`."""
    number = value & 0xFFFF_FFFF
    return number == EXTERNAL if number <= EXTERNAL else before


def _schema(*tags: int) -> dict[int, int]:
    return {tag >> 3: tag & 7 for tag in tags}


GRAPH_TAGS = (GRAPH_NODE, GRAPH_NAME, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_SPARSE_INITIALIZER)
FUNCTION_IDENTITY = _schema(FUNCTION_NAME, FUNCTION_DOMAIN, FUNCTION_OVERLOAD)
TENSOR_NUMBERS = frozenset((TENSOR_RAW_DATA, TENSOR_FLOATS, TENSOR_DOUBLES))  # fixed-width, little-endian, in a row
ATTRIBUTE_GRAPH_TAGS = frozenset((ATTRIBUTE_G, ATTRIBUTE_GRAPHS))
ATTRIBUTE_TENSOR_TAGS = frozenset((ATTRIBUTE_T, ATTRIBUTE_TENSORS, ATTRIBUTE_SPARSE_TENSOR, ATTRIBUTE_SPARSE_TENSORS))
DOMAIN_AND_VERSION = _schema(OPSET_DOMAIN, OPSET_VERSION)  # OperatorSetIdProto
KEY_AND_VALUE = _schema(ENTRY_KEY, ENTRY_VALUE)  # StringStringEntryProto

_BODIES = dict.fromkeys(ATTRIBUTE_GRAPH_TAGS, "graph")

LEADS = {
    "model": {MODEL_GRAPH: "graph", MODEL_TRAINING: "training", MODEL_FUNCTION: "function"},
    "training": {TRAINING_INITIALIZATION: "graph", TRAINING_ALGORITHM: "graph"},
    "graph": {GRAPH_NODE: "node", GRAPH_INITIALIZER: "tensor", GRAPH_SPARSE_INITIALIZER: "sparse"},
    "function": {FUNCTION_NODE: "node"},
    "node": {NODE_ATTRIBUTE: "attribute"},
    "attribute": {
        **_BODIES,
        **dict.fromkeys((ATTRIBUTE_T, ATTRIBUTE_TENSORS), "tensor"),
        **dict.fromkeys((ATTRIBUTE_SPARSE_TENSOR, ATTRIBUTE_SPARSE_TENSORS), "sparse"),
    },
    "sparse": {SPARSE_VALUES: "tensor", SPARSE_INDICES: "tensor"},
}
"""By message, the fields that lead to tensors, and the message in them."""

INITIALIZER_NAMES = {
    "model": {MODEL_GRAPH: "graph"},  # a function's graph has no initializers and sees none
    "graph": {**LEADS["graph"], GRAPH_VALUE_INFO: "value", GRAPH_QUANTIZATION: "quantization"},
    "node": {NODE_INPUT: "name", NODE_ATTRIBUTE: "attribute"},
    "attribute": _BODIES,
    "sparse": {SPARSE_VALUES: "tensor"},
    "tensor": {TENSOR_NAME: "name"},
    "value": {VALUE_NAME: "name"},
    "quantization": {QUANTIZATION_TENSOR_NAME: "name"},
}
"""By message, the fields that lead to the names of initializers."""
