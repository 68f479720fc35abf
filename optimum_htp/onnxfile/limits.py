"""How much of a file we accept: what no real model reaches, and what keeps a hostile file from filling the memory."""

from __future__ import annotations

MAX_MODEL_BYTES = 2_147_483_647
"""The longest message that protobuf reads or writes."""

MAX_BODY_DEPTH = 100
"""How deep bodies may be nested; protobuf itself stops at 33."""

MAX_MESSAGE_DEPTH = 4 * MAX_BODY_DEPTH
"""How deep messages may be nested: a body is three below the graph around it, by way of a node and an attribute."""

MAX_ITEMS = 4_000_000
"""How many nodes, tensors and values, and how many different strings, one file may have: far more than any model,
few enough that no file of a few bytes per item fills the memory."""

MAX_BODY_NAME_BYTES = 128
"""How long the name of an attribute with a graph may be: the path of each graph inside repeats it."""

MAX_FUNCTION_NAME_BYTES = 1024
"""How long each part of a function's identity may be: the path of each graph inside repeats it."""

MAX_LENGTH_BYTES = 5
"""How many bytes the length of a field may take; protobuf reads no more."""


def max_items(size_bytes: int) -> int:
    """How many nodes, tensors, values or graphs a message of this size can have: few of them fit in 8 bytes."""
    return min(MAX_ITEMS, 1000 + size_bytes // 8)
