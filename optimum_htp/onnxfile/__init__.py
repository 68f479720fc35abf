"""ONNX files without their weights: read, rewritten, renamed and cut, field by field.

- What a file says: `model`, `types`, `digest`; the numbers of all fields are in `schema`, how much is accepted in `limits`.
- Reading: `opening`, `reading`, `attributes`, on the wire format in `wire`.
- Whether protobuf parses what is not read here, too: `soundness`; what ONNX Runtime may take: `running`.
- Looking around: `edges` (what names mean, producers), `scopes` (visible names), `shapes` (the types of all tensors, from
  `runtime_types`, `tried_sizes` and `symbolic_sizes`, which are asked by `submodels`).
- What is written out in it: `attribute_values`, `stored_values`; a few numbers of each weight, to know it again: `probes`.
- Writing: `splice` (pieces of old files and new bytes), `atomic` (whole or not at all), `stamp` (still what was written?).
- Changing, on one `walk` (`headers` keeps lengths as wide as they were): `rewriting` (metadata, nodes),
  `renaming`, `tensors` (weights moved); nodes that move into functions are `drafts`.
- Cutting and putting together: `spans` (where things are in a file), `source_files`, `assembly`.
"""

from optimum_htp.onnxfile.assembly import encode_entry, encode_node, graph_pieces, model_pieces
from optimum_htp.onnxfile.atomic import creating, replacing, sync_directory, sync_file
from optimum_htp.onnxfile.attribute_values import (
    attribute_value,
    function_declaration,
    named_attribute,
    node_attributes,
    node_overload,
    other_types,
    sparse_content,
)
from optimum_htp.onnxfile.digest import graph_digest
from optimum_htp.onnxfile.drafts import DraftEncoder, DraftFunction, DraftGraph, DraftNode, draft_graphs, drafted_graph
from optimum_htp.onnxfile.edges import Edges, reads, topological_order
from optimum_htp.onnxfile.headers import LENGTHS
from optimum_htp.onnxfile.limits import MAX_DIMENSIONS, MAX_MODEL_BYTES
from optimum_htp.onnxfile.model import (
    Function,
    Graph,
    Initializer,
    Node,
    OnnxModel,
    Value,
    body_path,
    external_data_files,
    function_path,
    node_id,
    split_body_path,
)
from optimum_htp.onnxfile.opening import wire_errors
from optimum_htp.onnxfile.probes import PROBE_NUMBERS, StoredNumbers, with_probes
from optimum_htp.onnxfile.reading import read_content, read_model
from optimum_htp.onnxfile.renaming import renamable_initializers, rename_initializers, tensor_names, undo_renames
from optimum_htp.onnxfile.rewriting import Functions, Graft, rewrite_metadata, rewritten_content
from optimum_htp.onnxfile.running import (
    DEFAULT_TIMEOUT_S,
    is_abandoned,
    limit_process_memory,
    limited,
    out_of_memory,
    run_limits,
)
from optimum_htp.onnxfile.scopes import RANDOM_OPERATORS, Scope, scopes_of
from optimum_htp.onnxfile.shapes import TensorTypes, named_axes
from optimum_htp.onnxfile.soundness import check_sound
from optimum_htp.onnxfile.source_files import SourceFiles
from optimum_htp.onnxfile.spans import (
    GraphPlaces,
    GraphSpans,
    ModelSpans,
    Span,
    initializer_span,
    model_spans,
    scope_spans,
)
from optimum_htp.onnxfile.splice import Splice, write_all
from optimum_htp.onnxfile.stamp import FileStamp
from optimum_htp.onnxfile.stored_values import Content, element_count, tensor_content, tensor_type_text
from optimum_htp.onnxfile.tensors import OddFields, TensorField, rewrite_tensors
from optimum_htp.onnxfile.types import NUMBERS, bounded_product, element_type
from optimum_htp.onnxfile.wire import Piece, pieces_length, release_pages
