"""ONNX files without their weights: read, rewritten, renamed and cut, field by field."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimum_htp.onnxfile.atomic import replacing
from optimum_htp.onnxfile.digest import graph_digest
from optimum_htp.onnxfile.model import (
    MAX_MODEL_BYTES,
    Function,
    Graph,
    Initializer,
    Node,
    OnnxModel,
    Value,
    body_path,
    external_data_files,
    node_id,
)
from optimum_htp.onnxfile.opening import wire_errors
from optimum_htp.onnxfile.reading import read_content, read_model
from optimum_htp.onnxfile.renaming import rename_initializers, tensor_names, undo_renames
from optimum_htp.onnxfile.rewriting import rewrite_metadata, rewritten_content
from optimum_htp.onnxfile.schema import (
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NAME,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    GRAPH_SPARSE_INITIALIZER,
    MODEL_FUNCTION,
    MODEL_GRAPH,
    MODEL_METADATA,
    NODE_INPUT,
    NODE_OP_TYPE,
    NODE_OUTPUT,
)
from optimum_htp.onnxfile.scopes import RANDOM_OPERATORS, Scope, reads, scopes_of
from optimum_htp.onnxfile.shapes import tensor_types, value_info
from optimum_htp.onnxfile.spans import GraphSpans, ModelSpans, Span, model_spans, scope_spans
from optimum_htp.onnxfile.splice import Splice
from optimum_htp.onnxfile.stamp import FileStamp
from optimum_htp.onnxfile.tensors import SourceFiles, TensorField, rewrite_part, rewrite_tensors
from optimum_htp.onnxfile.types import NUMBERS, ElementType, element_type
from optimum_htp.onnxfile.wire import (
    WireError,
    encode_message,
    encode_varint,
    message_pieces,
    pieces_length,
    release_pages,
)


if TYPE_CHECKING:
    from optimum_htp.onnxfile.wire import Data, Piece


__all__ = [
    "GRAPH_INITIALIZER",
    "GRAPH_INPUT",
    "GRAPH_NAME",
    "GRAPH_NODE",
    "GRAPH_OUTPUT",
    "GRAPH_SPARSE_INITIALIZER",
    "MAX_MODEL_BYTES",
    "MODEL_FUNCTION",
    "MODEL_GRAPH",
    "MODEL_METADATA",
    "NODE_INPUT",
    "NODE_OP_TYPE",
    "NODE_OUTPUT",
    "NUMBERS",
    "RANDOM_OPERATORS",
    "Data",
    "ElementType",
    "FileStamp",
    "Function",
    "Graph",
    "GraphSpans",
    "Initializer",
    "ModelSpans",
    "Node",
    "OnnxModel",
    "Piece",
    "Scope",
    "SourceFiles",
    "Span",
    "Splice",
    "TensorField",
    "Value",
    "WireError",
    "body_path",
    "element_type",
    "encode_message",
    "encode_varint",
    "external_data_files",
    "graph_digest",
    "message_pieces",
    "model_spans",
    "node_id",
    "pieces_length",
    "read_content",
    "read_model",
    "reads",
    "release_pages",
    "rename_initializers",
    "replacing",
    "rewrite_metadata",
    "rewrite_part",
    "rewrite_tensors",
    "rewritten_content",
    "scope_spans",
    "scopes_of",
    "tensor_names",
    "tensor_types",
    "undo_renames",
    "value_info",
    "wire_errors",
]
