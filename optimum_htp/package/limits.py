"""How much is read of untrusted files.

Each limit is far above what real models have and far below what would exhaust a machine. Those for the ONNX file itself
are in `onnxfile`.
"""

from __future__ import annotations

# --- How deep ---

MAX_JSON_DEPTH = 64
"""Values in values, in a config: real ones have five levels or so."""

MAX_MODULE_DEPTH = 500
"""Modules above a module: the deepest nets have some thirty. Python's recursion limit is 1,000."""

MAX_DIRECTORY_DEPTH = 100
"""Directories in directories of a package: real ones have three."""

MAX_PATH_DEPTH = 32
"""Directories above a file of a packed package."""

# --- How long ---

MAX_CONFIG_BYTES = 50_000_000
"""A config: one of a few megabytes is already unheard of."""

MAX_SMALL_BYTES = 500_000_000
"""A file of a tokenizer, the largest next to the ONNX files; and all that is packed into one file."""

MAX_PACKED_FILE_BYTES = 200_000_000
"""One file in a packed file: the largest tokenizers have some 30 MB."""

MAX_SIDECAR_BYTES = 1_000_000_000
"""`export_metadata.json`: the largest exports have some 10 MB."""

MAX_SKELETON_BYTES = 16_777_216
"""A skeleton, unpacked: ten times that of a graph of 20,000 nodes."""

MAX_MANIFEST_CHARACTERS = 100_000_000
"""Where the external weights of a packed file were."""

MAX_EXTERNAL_BYTES = 1 << 32
"""A file of external weights, unpacked: what a packed file holds is under 2 GiB, so this leaves room for gaps."""

MAX_EXTERNAL_RATIO, MAX_GAP_BYTES = 16, 1 << 16
"""All files of external weights, unpacked: by the bytes of the packed file, and what may be empty in front of a tensor."""

MAX_CODE_BYTES = 10_000_000
"""A Python file of a model's own code."""

MAX_NAME_CHARACTERS = 1_000
"""The name of a module or its class."""

MAX_GRAPH_PATH_CHARACTERS = 4_000
"""The path of a graph: bodies within bodies."""

MAX_TAG_CHARACTERS = 1 << 25
"""All tags of a file together: a deep tree with long names would fill the memory with them."""

MAX_PATH_BYTES, MAX_PATH_PART_BYTES = 1024, 255
"""The path of a file in a packed package, and each part of it: what every file system takes."""

# --- How many ---

FREE_JSON_VALUES, BYTES_EACH_JSON_VALUE = 500_000, 12
"""Commas, colons and brackets in JSON: so many, and one more for each so many bytes. Those of `[[],[],...]` take 1.5."""

SKELETON_RATIO, FREE_SKELETON_BYTES = 40, 1 << 20
"""How many bytes of a skeleton one that is packed may become: so many for each, and so many for free; real ones,
4 to 15, the more the deeper the net."""

FREE_MODULES, BYTES_EACH_MODULE = 10_000, 250
"""Modules in a sidecar: so many, and one more for each so many bytes of it and of the ONNX files. Real packages have
thousands of bytes for each, without the weights."""

MAX_TREE_NAMES = 3_000_000
"""Names in the paths of all modules of a tree: the largest have 50,000 modules, some ten deep."""

MAX_PACKED_FILES = 10_000
"""Files in a packed file."""

MAX_COMPONENTS = 1_000
"""Components of a package that transformers exported: the largest have a dozen."""

MAX_CODE_FILES = 200
"""Python files of a model's own code."""

MAX_ALIAS_NAMES = 200_000
"""Names in the aliases of all modules of a skeleton."""

MAX_CALLS = 1 << 31
"""Calls of a module."""

MAX_NUMBER = 1 << 62
"""Parameters of a module, and other counts."""
