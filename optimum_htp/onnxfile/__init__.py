"""Read and rewrite ONNX files without touching their weights.

The file is mapped and walked field by field in protobuf's wire format; tensors' contents are skipped, whatever their
size, and external data is never opened. Neither `onnx` nor `torch` nor `numpy` is needed.
"""

from __future__ import annotations

from optimum_htp.onnxfile.digest import graph_digest
from optimum_htp.onnxfile.model import MAX_BODY_DEPTH as MAX_BODY_DEPTH
from optimum_htp.onnxfile.model import MAX_BODY_NAME_BYTES as MAX_BODY_NAME_BYTES
from optimum_htp.onnxfile.model import MAX_FUNCTION_NAME_BYTES as MAX_FUNCTION_NAME_BYTES
from optimum_htp.onnxfile.model import MAX_ITEMS as MAX_ITEMS
from optimum_htp.onnxfile.model import MAX_MODEL_BYTES as MAX_MODEL_BYTES
from optimum_htp.onnxfile.model import (
    Function,
    Graph,
    Initializer,
    Node,
    OnnxModel,
    Value,
    external_data_files,
    node_id,
)
from optimum_htp.onnxfile.reading import read_content, read_model
from optimum_htp.onnxfile.rewriting import rewrite_metadata, rewritten_content


__all__ = [
    "Function",
    "Graph",
    "Initializer",
    "Node",
    "OnnxModel",
    "Value",
    "external_data_files",
    "graph_digest",
    "node_id",
    "read_content",
    "read_model",
    "rewrite_metadata",
    "rewritten_content",
]
